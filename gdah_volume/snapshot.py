"""A replica as a stream of table rows, and back. Plain values only (numbers, text, bytes, None), so any encoding
carries it.

What goes: the rows of the fold, the log, the undo records above the stable point, counters, and the highest sequence
of each author (so that what is left out of the log is still known to have been held). Of the log only that is left
out which is stable and which every member of the volume holds: who gets the copy and turns to a member that lags must
hand over what that one lacks. What stays: `meta`, which belongs to the machine. Threading: `dump` reads one state from
begin to end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gdah_volume.errors import BadMessage
from gdah_volume.stamps import PENDING_CLOCK

if TYPE_CHECKING:
    from gdah_volume.database import Database

BATCH_ROWS = 500
BATCH_BYTES = 1 << 20
"""A batch ends at either; a single row (the content of a 64 GiB file) can be larger."""

_COLUMNS = {
    "nodes": "id, kind, target, rdev, forked, mode, uid, gid, mtime_ns, atime_ns, ctime_ns, xattrs, version, size",
    "aliases": "node, into_node",
    "links": "id, node, parent, name, want, rev, live, via, merged, conflict",
    "last": "node, link",
    "versions": "version, node, content",
    "touched_at": "node, pending, clock, server, mtime_ns, ctime_ns",
    "undo": "clock, server, id, before",
    "operations": "position, id, clock, server, author, type, at, path, operation",
    "authors": "author, sequence, pruned",
    "counters": "id, head, operations, digest, max_clock, pruned_to, stable_clock, stable_server",
}
_NO_ROW = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError, OverflowError)
TABLES = frozenset(_COLUMNS)
"""All that a replica consists of, but for `meta`."""
_LEFT_OUT = "position <= {} AND (clock, server) <= (SELECT stable_clock, stable_server FROM counters)"


def dump(database: Database, everywhere: int = 0) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """`everywhere`: the position up to which every member of the volume holds the log (0: unknown, all of it goes)."""
    left_out = _LEFT_OUT.format(int(everywhere))
    with database.snapshot():
        if database.row("SELECT 1 FROM operations WHERE clock >= ? LIMIT 1", (PENDING_CLOCK,)):
            raise ValueError("a replica with pending operations is no source of snapshots")
        for table, columns in _COLUMNS.items():
            yield from _batches(table, database.execute(_select(table, columns, left_out)))


def _select(table: str, columns: str, left_out: str) -> str:
    if table == "operations":
        return f"SELECT {columns} FROM operations WHERE NOT ({left_out})"
    if table == "authors":
        # What the receiver does not get of an author's operations counts as pruned there.
        held = (
            "SELECT author, max(CAST(substr(id, length(author) + 2) AS INTEGER)) AS sequence"
            f" FROM operations WHERE {left_out} GROUP BY author"
        )
        return (
            "SELECT a.author, a.sequence, max(a.pruned, coalesce(h.sequence, 0))"
            f" FROM authors a LEFT JOIN ({held}) h ON h.author = a.author"
        )
    if table == "counters":
        last = f"SELECT max(position) FROM operations WHERE {left_out}"
        return f"SELECT {columns.replace('pruned_to', f'max(pruned_to, coalesce(({last}), 0))')} FROM counters"
    return f"SELECT {columns} FROM {table}"


def _batches(table: str, rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    batch: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(value) for value in row if isinstance(value, bytes | str))
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield table, batch
            batch, size = [], 0
    if batch:
        yield table, batch


def load(database: Database, batches: Iterable[tuple[str, Sequence[Sequence[Any]]]]) -> None:
    """Replace the tables, inside the caller's transaction. Raises BadMessage for what is no dump."""
    for table in _COLUMNS:
        database.execute(f"DELETE FROM {table}")
    for table, rows in batches:
        columns = _COLUMNS.get(table)
        if columns is None:
            raise BadMessage(f"a snapshot has no table {table!r}")
        width = columns.count(",") + 1
        if any(len(row) != width for row in rows):
            raise BadMessage(f"a row of {table} needs {width} values")
        try:
            database.executemany(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * width)})", rows)
        except _NO_ROW as error:  # else it would be taken for a failed disk, which ends a server
            raise BadMessage(f"no row of {table}: {error}") from error
