"""The log folded anew into an empty database: what the tables should say. The tree is a function of the log.

Shares the rules and the rows with the engine, and not what the engine does about late operations: here they come
sorted. Threading: one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from gdah_volume.database import Database
from gdah_volume.evaluation import Evaluation
from gdah_volume.operations import Operation
from gdah_volume.rows import Order
from gdah_volume.rules import fold
from gdah_volume.stamps import Stamp
from gdah_volume.store import Store
from gdah_volume.times import note_times
from gdah_volume.undo import pack_undo, unpack_undo

COMMIT_EVERY = 2_000
FOLDED = {
    "nodes": "id, kind, target, rdev, forked, mode, uid, gid, mtime_ns, atime_ns, ctime_ns, xattrs, version, size",
    "aliases": "node, into_node",
    "links": "id, node, parent, name, want, rev, live, via, merged, conflict",
    "versions": "version, node, content",
    "last": "node, link",
}
"""The tables that are a function of the log, by their key (the first column)."""


@contextmanager
def scratch() -> Iterator[Database]:
    """An empty database that is gone afterwards."""
    with TemporaryDirectory(prefix="gdah-refold-") as folder:
        database = Database(f"{folder}/refold.db")
        database.execute("PRAGMA synchronous = OFF")
        try:
            yield database
        finally:
            database.close()


class Refold:
    """Invariant: the tables of `database` are the fold of what `take` was given so far. `stable`: above it undo records
    are made, as the engine would."""

    def __init__(self, database: Database, stable: Stamp) -> None:
        self.database = database
        self._store = Store(database)
        self._stable = stable
        self._open = 0

    def take(self, op: Operation, order: Order) -> None:
        """The next one in the order of the fold."""
        if not self._open:
            self.database.connection.execute("BEGIN")
        evaluation = Evaluation(self._store)
        fold(op, evaluation)
        before = evaluation.before()
        self._store.write(evaluation.new)
        note_times(self._store, op, order, before, evaluation.new)
        if (order[0], order[1]) > (self._stable.clock, self._stable.server):
            self.database.execute(
                "INSERT INTO undo (clock, server, id, before) VALUES (?, ?, ?, ?)",
                (*order, pack_undo(before, evaluation.touched)),
            )
        self._open += 1
        if self._open >= COMMIT_EVERY:
            self.finish()

    def finish(self) -> None:
        if self._open:
            self._open = 0
            self.database.connection.execute("COMMIT")
            self._store.times_before.clear()

    def start_from(self, source: Database) -> None:
        """Begin with the tables of another replica as they were at its stable point: all above it is undone."""
        with self.database.transaction():
            for table, columns in FOLDED.items():
                self.database.execute(f"DELETE FROM {table}")
                marks = ", ".join("?" * (columns.count(",") + 1))
                self.database.executemany(
                    f"INSERT INTO {table} ({columns}) VALUES ({marks})",
                    source.execute(f"SELECT {columns} FROM {table}"),
                )
            self._store.forget()
            for (record,) in source.execute("SELECT before FROM undo ORDER BY clock DESC, server DESC, id DESC"):
                self._store.write(unpack_undo(record).before)


def differences(found: Database, expected: Database, table: str) -> Iterator[tuple[Any, str]]:
    """(key, what is different) of every row that is not as it should be. Raises sqlite3.Error for a table that cannot
    be read."""
    columns = FOLDED[table]
    names = columns.split(", ")
    sql = f"SELECT {columns} FROM {table} ORDER BY {names[0]}"
    left, right = iter(found.execute(sql)), iter(expected.execute(sql))
    here, there = next(left, None), next(right, None)
    while here is not None or there is not None:
        if there is None or (here is not None and here[0] < there[0]):
            assert here is not None
            yield here[0], "is in no operation"
            here = next(left, None)
        elif here is None or there[0] < here[0]:
            yield there[0], "is missing"
            there = next(right, None)
        else:
            if here != there:
                yield here[0], "; ".join(_words(names, here, there))
            here, there = next(left, None), next(right, None)


def _words(names: list[str], here: tuple[Any, ...], there: tuple[Any, ...]) -> Iterator[str]:
    for name, is_now, should_be in zip(names, here, there, strict=True):
        if is_now != should_be:
            yield f"{name} is {_short(is_now)}, should be {_short(should_be)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
