"""Is a log what it says it is? Row by row, in the order of the fold, so that the fold can be made anew in the same
pass. Reads nothing itself; knows no tree.

Threading: one thread.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gdah_volume.content import Chunk
from gdah_volume.errors import GdahError
from gdah_volume.findings import Report
from gdah_volume.ids import Author, author_of, check_op_id, check_server_id, sequence_of
from gdah_volume.log import DIGEST_BYTES, digest_of, time_for_people
from gdah_volume.operations import Operation, check_operation, chunks_in, from_json
from gdah_volume.stamps import PENDING_CLOCK, PENDING_SERVER, Stamp

LOG_COLUMNS = "position, id, clock, server, author, type, at, operation"
ROWS_SQL = f"SELECT {LOG_COLUMNS} FROM operations ORDER BY clock, server, id"
NO_OPERATION = (GdahError, msgspec.MsgspecError, ValueError, TypeError, AttributeError, KeyError)
"""What a text that is no operation raises, wherever it is looked at."""


class LogCheck:
    """`take` each row, then `finish`. `whole`: the log is all that was ever held, and every row was good so far."""

    def __init__(self, report: Report, counters: dict[str, Any], authors: dict[Author, tuple[int, int]]) -> None:
        """`authors`: (highest sequence that was held, highest that was pruned)."""
        self._report = report
        self._counters = counters
        self._authors = authors
        self._highest: dict[Author, int] = {}
        self.rows = 0
        self.pending = 0
        self.digest = 0
        self.max_clock = 0
        self.max_position = 0
        self.bad_rows = 0
        self.chunks: dict[bytes, int] = {}
        """Every chunk that an operation names, with its length."""

    @property
    def pruned(self) -> bool:
        return bool(self._counters["pruned_to"])

    @property
    def whole(self) -> bool:
        return not self.bad_rows and not self.pruned and self.rows - self.pending == self._counters["operations"]

    def take(self, row: tuple[Any, ...]) -> Operation | None:
        """The operation of a row; None for one that is damaged, which is told."""
        position, name, clock, server, author, kind, at, text = row
        self.rows += 1
        try:
            op = check_operation(from_json(text))
            check_op_id(name)
            if clock < PENDING_CLOCK:
                check_server_id(server)
            assert op.id == name, f"it is that of {op.id}"
            assert clock > 0, f"its clock is {clock}"
            assert clock < PENDING_CLOCK or server == PENDING_SERVER, f"its stamp is of {server}"
            tag = str(type(op).__struct_config__.tag)
            expected = (author_of(op.id), tag, time_for_people(op.time_ns))
            assert (author, kind, at) == expected, f"author, type and time should be {expected}"
        except (*NO_OPERATION, AssertionError, OverflowError) as error:
            self.bad_rows += 1
            self._report.damage("log.row", f"operation {name!r} at position {position} is damaged: {error}", "log")
            return None
        self._count(op, position, clock, server)
        return op

    def _count(self, op: Operation, position: int, clock: int, server: Any) -> None:
        self.max_position = max(self.max_position, position)
        author, sequence = author_of(op.id), sequence_of(op.id)
        self._highest[author] = max(self._highest.get(author, 0), sequence)
        if clock >= PENDING_CLOCK:
            self.pending += 1
        else:
            self.digest ^= digest_of(op.id, Stamp(clock, server))
            self.max_clock = max(self.max_clock, clock)
        chunk: Chunk
        for chunk in chunks_in(op):
            self.chunks[chunk.hash] = chunk.length

    def finish(self) -> None:
        counters, report = self._counters, self._report
        if self.max_position > counters["head"]:
            report.damage(
                "log.head", f"the log ends at {self.max_position}, its counter says {counters['head']}", "log"
            )
        if self.max_clock > counters["max_clock"]:
            report.damage("log.clock", f"a stamp {self.max_clock} is above the counter {counters['max_clock']}", "log")
        self._check_authors()
        stamped = self.rows - self.pending
        if self.pruned:
            if stamped > counters["operations"]:
                report.damage("log.count", f"{stamped} operations, the counter says {counters['operations']}", "log")
            return
        if stamped != counters["operations"]:
            lost = counters["operations"] - stamped
            words = f"{lost} operations are gone" if lost > 0 else f"{-lost} operations too many"
            report.damage(
                "log.count", f"{words}: {stamped} are there, the counter says {counters['operations']}", "log"
            )
        digest = f"{self.digest:0{DIGEST_BYTES * 2}x}"
        if not self.bad_rows and digest != f"{int(counters['digest'] or '0', 16):032x}":
            report.damage("log.digest", f"the operations give digest {digest}, kept is {counters['digest']}", "log")

    def _check_authors(self) -> None:
        for author, highest in sorted(self._highest.items()):
            known = self._authors.get(author)
            if known is None or known[0] < highest:
                said = "nothing" if known is None else str(known[0])
                self._report.damage(
                    "log.author", f"{author} has made {highest} operations, the table of authors says {said}", "log"
                )
        for author, (sequence, pruned) in sorted(self._authors.items()):
            if pruned > sequence:
                self._report.damage("log.author", f"{author}: {pruned} pruned of {sequence} that were held", "log")
