"""Stamps: the order of the fold. A hybrid logical clock in microseconds since the epoch, and the server.

Invariant: a server's stamps only grow, also over restarts (the clock it starts from is read from its log),
and lie above every stamp it has seen. Wall clocks are never trusted, only followed when they are ahead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import msgspec

from gdah_volume.ids import SERVER_PATTERN, ServerId

PENDING_CLOCK = 1 << 62
"""Stamps of operations that no server has stamped yet start here: above every real stamp."""
PENDING_SERVER = ServerId("~")
MAX_LEAD_US = 20 * 366 * 86400 * 1_000_000
"""What a client says that another server has stamped may lie at most this far above the server's own clock, unless it
is known. A server whose clock was wrong by days is believed, also when it is gone: else what it acknowledged could not
be handed over, and what was built on it would be stamped below it. Nothing depends on how far stamps are ahead, and
beyond this nobody can push them."""


class Stamp(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Position of an operation in the fold; ties (never from one server) are broken by operation id. What arrives from
    outside lies below PENDING_CLOCK (looked at when it is decoded, with the messages)."""

    clock: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    server: Annotated[ServerId, msgspec.Meta(pattern=rf"\A(?:{SERVER_PATTERN}|~)?\Z")]

    @property
    def is_pending(self) -> bool:
        return self.clock >= PENDING_CLOCK


ZERO = Stamp(0, ServerId(""))


def wall_clock_us() -> int:
    return time.time_ns() // 1000


class HybridClock:
    """Threading: owned by the thread that writes the log."""

    def __init__(self, server: ServerId, last: int = 0, now_us: Callable[[], int] = wall_clock_us) -> None:
        self._server = server
        self._last = last
        self._now_us = now_us

    @property
    def last(self) -> int:
        return self._last

    def now_us(self) -> int:
        return self._now_us()

    def next(self, floor: int = 0) -> Stamp:
        """A stamp above the wall clock, all that was seen, and `floor`."""
        self._last = max(self._now_us(), self._last + 1, floor + 1)
        return Stamp(self._last, self._server)

    def observe(self, clock: int) -> None:
        """Raise the clock to a stamp that arrived from elsewhere (never a pending one)."""
        if clock < PENDING_CLOCK and clock > self._last:
            self._last = clock
