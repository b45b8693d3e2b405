"""Python's collector of reference cycles, kept out of the way of those who wait.

A full collection looks at every object while all threads stand still: with 8,000 operations above the stable point it
took up to 1.6 s on a busy machine, and it came most often when there was most to do. Nearly all memory here is freed by
counting references; the cycles that errors and tasks leave are found while they are young. So the full collection waits
for a few quiet seconds, or for FORCED_S.

Threading: one thread of its own, which sleeps.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from typing import Protocol

YOUNG = (700, 10)
"""New objects before the youngest are looked at; how often that before the older ones are. As Python has it."""
NEVER = 2**31 - 1
LOOK_EVERY_S = 1.0
QUIET_LOOKS = 3
"""Looks in a row between which there were not even enough new objects to look at the youngest."""
WORTH = 10
"""So many times the middle generation was looked at, and what it left was never looked at since."""
PAUSE_S = 60.0
"""Between two full collections, also of a quiet process."""
FORCED_S = 900.0


class Collector(Protocol):
    """What is used of the module `gc`."""

    def collect(self) -> int: ...
    def freeze(self) -> None: ...
    def set_threshold(self, young: int, middle: int, old: int, /) -> None: ...
    def get_count(self) -> tuple[int, int, int]: ...


class Cycles:
    """Invariant: after `begin` a full collection happens in `look` alone."""

    def __init__(self, collector: Collector = gc, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._collector = collector
        self._monotonic = monotonic
        self._collected_at = monotonic()
        self._seen = (0, 0)
        self._quiet = 0

    def begin(self) -> None:
        """What is there at the start stays: it is never looked at again."""
        self._collector.collect()
        self._collector.freeze()
        self._collector.set_threshold(*YOUNG, NEVER)

    def look(self) -> None:
        """Once in LOOK_EVERY_S."""
        _, middle, old = self._collector.get_count()
        self._quiet = self._quiet + 1 if (middle, old) == self._seen else 0
        self._seen = (middle, old)
        waited_s = self._monotonic() - self._collected_at
        if old >= WORTH and waited_s > (PAUSE_S if self._quiet >= QUIET_LOOKS else FORCED_S):
            self._collector.collect()
            self._collected_at = self._monotonic()
            self._quiet = 0


def keep_out_of_the_way() -> None:
    """From now on, in this process."""
    cycles = Cycles()
    cycles.begin()

    def look_again() -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            cycles.look()

    threading.Thread(target=look_again, name="cycles", daemon=True).start()
