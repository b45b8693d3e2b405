"""A SITE is one replica on its database, with the GHOST beside it: what the checks believe that it holds.

The ghost is a plain dictionary of the smallest stamp told for each operation. It is filled beside the replica and never
read by the simulated protocol, so that the checks need not trust the code that they judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from gdah_volume.database import Database
from gdah_volume.ids import OpId
from gdah_volume.operations import Operation
from gdah_volume.replica import Changes, Replica
from gdah_volume.stamps import Stamp
from tests.model.watch import watched

IN_MEMORY = ":memory:"


@cache
def _empty_volume() -> bytes:
    database = Database(IN_MEMORY)
    try:
        return database.connection.serialize()
    finally:
        database.close()


class MemoryDatabase(Database):
    """A Database that starts as a copy of an empty one: making the tables takes longer than a whole program."""

    def __init__(self) -> None:
        super().__init__(IN_MEMORY)

    def _prepare(self) -> None:
        self.connection.deserialize(_empty_volume())


class Site:
    """Invariant: `ghost` names every operation that the replica ever held with a real stamp, pruned ones included."""

    def __init__(self, name: str, folder: Path | None) -> None:
        self.name = name
        self.folder = folder
        self.generation = 0
        self.batched = False
        """Take what arrives together in one call."""
        self.watched = False
        """Compare what every change reports with what it did."""
        self.ghost: dict[OpId, Stamp] = {}
        self._open()

    def _open(self) -> None:
        if self.folder is None:
            self.database: Database = MemoryDatabase()
        else:
            self.database = Database(self.folder / f"{self.name}-{self.generation}.db")
        self.replica = Replica(self.database)

    def reopen(self) -> None:
        """The process dies and comes back: only what is in the database is known. (A database in memory lives on; the
        replica over it is new.)"""
        if self.folder is None:
            self.database.before_commit.clear()
            self.database.after_rollback.clear()
            self.replica = Replica(self.database)
            return
        self.database.close()
        self._open()

    def wipe(self) -> None:
        """The disk is lost."""
        self.database.close()
        self.generation += 1
        self.ghost = {}
        self._open()

    def close(self) -> None:
        self.database.close()

    def note(self, op: OpId, stamp: Stamp) -> None:
        known = self.ghost.get(op)
        if known is None or stamp < known:
            self.ghost[op] = stamp

    def change(self, how: Callable[[], Changes]) -> Changes:
        return watched(self.database, how) if self.watched else how()

    def take(self, entries: Sequence[tuple[Operation, Stamp]]) -> None:
        """What arrived, in the order of its arrival."""
        if self.batched:
            self.change(lambda: self.replica.accept_all(entries))
        for op, stamp in entries:
            if not self.batched:
                self.change(partial(self.replica.accept, op, stamp))
            self.note(op.id, stamp)

    def order(self) -> list[OpId]:
        """The stamped operations in the order of the fold."""
        return sorted(self.ghost, key=lambda op: (self.ghost[op], op))

    def meta_int(self, key: str) -> int:
        return int(self.database.meta(key) or 0)
