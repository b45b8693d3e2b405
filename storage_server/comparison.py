"""Two logs that should be equal and are not: where do they differ? Pure: asks for ranges, is told what they hold.

Ranges of clocks are halved until equal or small enough to be listed. Each side runs its own comparison and hands over
what the other lacks, so one direction is enough here.
"""

from __future__ import annotations

from collections.abc import Sequence

from gdah_volume.ids import OpId
from gdah_volume.stamps import Stamp
from gdah_volume.wire import RangeIs

ROUNDS_MAX = 10_000


class Comparison:
    def __init__(self, high: int) -> None:
        self._todo: list[tuple[int, int]] = [(0, high)]
        self._rounds = 0

    def next(self) -> tuple[int, int] | None:
        """The next range to ask for; None: done."""
        self._rounds += 1
        if not self._todo or self._rounds > ROUNDS_MAX:
            return None
        return self._todo.pop()

    def answer(
        self, theirs: RangeIs, ours: Sequence[tuple[OpId, Stamp]] | None, *, same: bool
    ) -> list[tuple[OpId, Stamp]]:
        """What we hold in this range that they lack, or hold with a larger stamp."""
        if same or (ours is not None and not ours):
            return []
        if theirs.stamped is not None and ours is not None:
            known = dict(theirs.stamped)
            return [(op, stamp) for op, stamp in ours if op not in known or stamp < known[op]]
        middle = (theirs.low + theirs.high) // 2
        if middle > theirs.low:
            self._todo += [(theirs.low, middle), (middle, theirs.high)]
        return []
