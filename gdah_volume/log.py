"""The log of a replica: every operation it holds with its stamp, in order of arrival, readable by people; and its
counters.

A POSITION is the order of arrival here; an operation that was re-stamped gets a new one, so a reader that follows
positions sees the new stamp. Knows nothing of the tree. Threading: as its Database.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from gdah_volume.caching import Cache, Missing
from gdah_volume.ids import Author, OpId, ServerId, author_of, sequence_of
from gdah_volume.operations import Operation, chunks_in, from_json, to_json
from gdah_volume.rows import Order
from gdah_volume.stamps import PENDING_CLOCK, PENDING_SERVER, ZERO, Stamp

if TYPE_CHECKING:
    from gdah_volume.database import Database

CACHED_OPERATIONS = 2_000
CACHED_CHUNKS = 256
"""Operations that name more are read anew each time: a thousand of them would fill the memory."""
DIGEST_BYTES = 16

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COUNTERS = "head, operations, digest, max_clock, pruned_to, stable_clock, stable_server"
_SEQUENCE = "CAST(substr(id, length(author) + 2) AS INTEGER)"


def order_of(op: OpId, stamp: Stamp) -> Order:
    return (stamp.clock, stamp.server, op)


def digest_of(op: OpId, stamp: Stamp) -> int:
    text = f"{op} {stamp.clock} {stamp.server}".encode()
    return int.from_bytes(blake3(text).digest(length=DIGEST_BYTES), "big")


def time_for_people(time_ns: int) -> str:
    """ISO 8601 in UTC; sorts as the time does."""
    return (_EPOCH + timedelta(microseconds=time_ns // 1000)).isoformat(timespec="microseconds")


class Log:
    """Invariants: ids are unique; `head` never falls; counters count stamped operations only, pruned ones included."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._operations: Cache[OpId, Operation] = Cache(CACHED_OPERATIONS)
        self._authors: dict[Author, int] = {}
        self._changed_authors: set[Author] = set()
        self._dirty = False
        self.load_counters()
        database.before_commit.append(self.save_counters)
        database.after_rollback.append(self.load_counters)

    # --- counters

    def load_counters(self) -> None:
        row = self._db.row(f"SELECT {_COUNTERS} FROM counters")
        assert row is not None
        self.head: int = row[0]
        self.operations: int = row[1]
        self.digest = int(row[2] or "0", 16)
        self.max_clock: int = row[3]
        self.pruned_to: int = row[4]
        self.stable = Stamp(row[5], ServerId(row[6]))
        self._top: Order | None = None
        self._next_pending: int | None = None
        self._dirty = False
        self._changed_authors.clear()
        self._authors.clear()
        self._operations.clear()

    def save_counters(self) -> None:
        if not self._dirty:
            return
        self._dirty = False
        stable = self.stable
        self._db.execute(
            f"UPDATE counters SET ({_COUNTERS}) = (?, ?, ?, ?, ?, ?, ?)",
            (
                self.head,
                self.operations,
                f"{self.digest:032x}",
                self.max_clock,
                self.pruned_to,
                stable.clock,
                stable.server,
            ),
        )
        if self._changed_authors:
            self._db.executemany(
                "INSERT INTO authors (author, sequence) VALUES (?, ?)"
                " ON CONFLICT (author) DO UPDATE SET sequence = max(sequence, excluded.sequence)",
                [(author, self._authors[author]) for author in self._changed_authors],
            )
            self._changed_authors.clear()
            if len(self._authors) > CACHED_OPERATIONS:
                self._authors.clear()

    def author_sequence(self, author: Author) -> int:
        found = self._authors.get(author)
        if found is None:
            row = self._db.row("SELECT sequence FROM authors WHERE author = ?", (author,))
            found = 0 if row is None else int(row[0])
            self._authors[author] = found
        return found

    def was_pruned(self, op: OpId) -> bool:
        """Whether an operation that is not in the log any more was held once (authors' operations come without
        gaps)."""
        author, sequence = author_of(op), sequence_of(op)
        if self.author_sequence(author) < sequence:
            return False
        row = self._db.row("SELECT pruned FROM authors WHERE author = ?", (author,))
        return row is not None and int(row[0]) >= sequence

    # --- writing

    def append(self, op: Operation, stamp: Stamp, path: str | None) -> None:
        author = author_of(op.id)
        self.head += 1
        self._db.execute(
            "INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.head,
                op.id,
                stamp.clock,
                stamp.server,
                author,
                type(op).__struct_config__.tag,
                time_for_people(op.time_ns),
                path,
                to_json(op),
            ),
        )
        self._keep(op)
        sequence = sequence_of(op.id)
        if sequence > self.author_sequence(author):
            self._authors[author] = sequence
            self._changed_authors.add(author)
        self._stamped(op.id, stamp)

    def _stamped(self, op: OpId, stamp: Stamp) -> None:
        self._dirty = True
        if self._top is not None:
            self._top = max(self._top, order_of(op, stamp))
        if stamp.is_pending:
            self._next_pending = None if self._next_pending is None else max(self._next_pending, stamp.clock + 1)
        else:
            self.operations += 1
            self.digest ^= digest_of(op, stamp)
            self.max_clock = max(self.max_clock, stamp.clock)

    def restamp(self, op: OpId, old: Stamp, new: Stamp) -> None:
        self.head += 1
        self._db.execute(
            "UPDATE operations SET position = ?, clock = ?, server = ? WHERE id = ?",
            (self.head, new.clock, new.server, op),
        )
        self._forget_stamp(op, old)
        self._stamped(op, new)

    def remove(self, op: OpId, stamp: Stamp) -> None:
        self._db.execute("DELETE FROM operations WHERE id = ?", (op,))
        self._operations.drop(op)
        self._forget_stamp(op, stamp)

    def _forget_stamp(self, op: OpId, stamp: Stamp) -> None:
        self._dirty = True
        self._top = None
        self._next_pending = None
        if not stamp.is_pending:
            self.operations -= 1
            self.digest ^= digest_of(op, stamp)

    def set_stable(self, stamp: Stamp, *, save: bool) -> None:
        """`save` False: need not outlive a crash by itself, the next commit that has something to say takes it
        along."""
        self.stable = stamp
        self._dirty |= save

    def prune(self, before_time_ns: int, up_to_position: int) -> int:
        """Forget stable operations that are old and were read by everyone; that they were held stays known. Old by the
        author's clock and by that of the server that stamped it: history and trash of a device that believes to live in
        1970 would have no retention otherwise."""
        where = "position <= ? AND at < ? AND clock < ? AND (clock, server) <= (?, ?)"
        before_us = before_time_ns // 1000
        values = (up_to_position, time_for_people(before_time_ns), before_us, self.stable.clock, self.stable.server)
        count, last = self._db.row(f"SELECT count(*), max(position) FROM operations WHERE {where}", values) or (0, 0)
        if not count:
            return 0
        self._db.executemany(
            "UPDATE authors SET pruned = max(pruned, ?) WHERE author = ?",
            self._db.rows(f"SELECT max({_SEQUENCE}), author FROM operations WHERE {where} GROUP BY author", values),
        )
        self._db.execute(f"DELETE FROM operations WHERE {where}", values)
        self.pruned_to = max(self.pruned_to, last)
        self._dirty = True
        self._operations.clear()
        return int(count)

    # --- reading

    def top(self) -> Order:
        """The largest in the order of the fold."""
        if self._top is None:
            row = self._db.row(
                "SELECT clock, server, id FROM operations ORDER BY clock DESC, server DESC, id DESC LIMIT 1"
            )
            self._top = (0, "", OpId("")) if row is None else (row[0], row[1], OpId(row[2]))
        return self._top

    def next_pending(self) -> Stamp:
        if self._next_pending is None:
            self._next_pending = max(PENDING_CLOCK, self.top()[0] + 1)
        return Stamp(self._next_pending, PENDING_SERVER)

    def stamp_of(self, op: OpId) -> Stamp | None:
        row = self._db.row("SELECT clock, server FROM operations WHERE id = ?", (op,))
        if row is not None:
            return Stamp(row[0], row[1])
        return ZERO if self.was_pruned(op) else None

    def operation(self, op: OpId) -> Operation | None:
        found = self._operations.get(op)
        if not isinstance(found, Missing):
            return found
        row = self._db.row("SELECT operation FROM operations WHERE id = ?", (op,))
        return None if row is None else self._parsed(op, row[0])

    def _parsed(self, op: OpId, text: str) -> Operation:
        found = self._operations.get(op)
        if isinstance(found, Missing):
            found = from_json(text)
            self._keep(found)
        return found

    def _keep(self, op: Operation) -> None:
        if len(chunks_in(op)) <= CACHED_CHUNKS:
            self._operations.put(op.id, op)

    def _entries(self, where: str, values: tuple[Any, ...]) -> list[tuple[int, Stamp, Operation]]:
        rows = self._db.rows(f"SELECT position, id, clock, server, operation FROM operations WHERE {where}", values)
        return [(position, Stamp(clock, server), self._parsed(op, text)) for position, op, clock, server, text in rows]

    def entries_after(self, position: int, limit: int) -> list[tuple[int, Stamp, Operation]]:
        return self._entries("position > ? AND clock < ? ORDER BY position LIMIT ?", (position, PENDING_CLOCK, limit))

    def entries_above(self, stamp: Stamp) -> list[tuple[int, Stamp, Operation]]:
        return self._entries(
            "(clock, server) > (?, ?) AND clock < ? ORDER BY position", (stamp.clock, stamp.server, PENDING_CLOCK)
        )

    def stamped_above(self, stamp: Stamp) -> list[tuple[OpId, Stamp]]:
        return self._stamps("(clock, server) > (?, ?) AND clock < ?", (stamp.clock, stamp.server, PENDING_CLOCK))

    def last_up_to(self, stamp: Stamp) -> tuple[OpId, Stamp] | None:
        """The one with the largest stamp that is not above that."""
        row = self._db.row(
            "SELECT id, clock, server FROM operations WHERE (clock, server) <= (?, ?)"
            " ORDER BY clock DESC, server DESC, id DESC LIMIT 1",
            (stamp.clock, stamp.server),
        )
        return None if row is None else (OpId(row[0]), Stamp(row[1], ServerId(row[2])))

    def range_ids(self, low: int, high: int) -> list[tuple[OpId, Stamp]]:
        return self._stamps("clock >= ? AND clock < ?", (low, min(high, PENDING_CLOCK)))

    def range_digest(self, low: int, high: int) -> tuple[int, bytes]:
        digest, count = 0, 0
        for op, stamp in self.range_ids(low, high):
            digest ^= digest_of(op, stamp)
            count += 1
        return count, digest.to_bytes(DIGEST_BYTES, "big")

    def _stamps(self, where: str, values: tuple[Any, ...]) -> list[tuple[OpId, Stamp]]:
        rows = self._db.rows(
            f"SELECT id, clock, server FROM operations WHERE {where} ORDER BY clock, server, id", values
        )
        return [(op, Stamp(clock, server)) for op, clock, server in rows]

    def pending(self) -> list[tuple[Stamp, Operation]]:
        rows = self._db.rows(
            "SELECT id, clock, server, operation FROM operations WHERE clock >= ? ORDER BY clock, server, id",
            (PENDING_CLOCK,),
        )
        return [(Stamp(clock, server), self._parsed(op, text)) for op, clock, server, text in rows]
