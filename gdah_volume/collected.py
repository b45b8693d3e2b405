"""Chunks that nothing needed when a collector looked: out of the way, and back as soon as somebody asks for one.

Files lie in `collected/` and keep their names, rows move to the table `collected`; both know since when. The table
`unneeded` says since when a chunk that is still in its place is needed by nothing; who stores it again takes the mark
away. What is needed, and how long anything waits, is decided elsewhere.

Threading: as the chunk store, whose lock is held by every caller that reaches rows.
"""

# Paths are built for every chunk; os calls on strings cost a tenth of pathlib here.
# ruff: noqa: PTH103, PTH104, PTH108, PTH110, PTH116, PTH120

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from gdah_volume.content import HASH_BYTES, ChunkHash
from gdah_volume.errors import StorageFailed


class Statements(Protocol):
    """What is asked of a database, inside of the caller's transaction."""

    def execute(self, sql: str, values: Iterable[Any] = ..., /) -> sqlite3.Cursor: ...


@dataclass(frozen=True, slots=True)
class Aside:
    """A chunk that was taken out of the way at a time (ns)."""

    name: ChunkHash
    size: int
    at_ns: int


class Collected:
    def __init__(self, folder: str, database: Statements) -> None:
        self.folder = folder
        self._database = database

    def prepare(self) -> None:
        """Inside a transaction."""
        os.makedirs(self.folder, exist_ok=True)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS collected (hash BLOB PRIMARY KEY, data BLOB NOT NULL, at INTEGER NOT NULL)"
        )
        self._database.execute("CREATE TABLE IF NOT EXISTS unneeded (hash BLOB PRIMARY KEY, since INTEGER NOT NULL)")

    # --- marks

    def mark(self, names: Iterable[ChunkHash], now_ns: int) -> None:
        for name in names:
            self._database.execute("INSERT OR IGNORE INTO unneeded (hash, since) VALUES (?, ?)", (name, now_ns))

    def unmark(self, name: ChunkHash) -> None:
        self._database.execute("DELETE FROM unneeded WHERE hash = ?", (name,))

    def marks(self) -> dict[ChunkHash, int]:
        """Since when (ns) each is needed by nothing."""
        rows = self._database.execute("SELECT hash, since FROM unneeded").fetchall()
        return {ChunkHash(name): since for name, since in rows}

    # --- out of the way, and back

    def take(self, name: ChunkHash, path: str, *, old_ns: int, now_ns: int) -> int:
        """Move it away if it is unneeded and was not stored since `old_ns`. Bytes; 0: it stays."""
        marked = self._database.execute("SELECT 1 FROM unneeded WHERE hash = ? AND since <= ?", (name, old_ns))
        if marked.fetchone() is None:
            return 0
        self.unmark(name)
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return self._take_row(name, now_ns)
        if found.st_mtime_ns > old_ns:
            return 0
        # Its time first: killed between the two it only looks young where it is.
        os.utime(path, ns=(now_ns, now_ns))
        os.rename(path, self._path(name))
        return found.st_size

    def _take_row(self, name: ChunkHash, now_ns: int) -> int:
        run = self._database.execute
        run("INSERT OR REPLACE INTO collected SELECT hash, data, ? FROM chunks WHERE hash = ?", (now_ns, name))
        run("DELETE FROM chunks WHERE hash = ?", (name,))
        row = run("SELECT length(data) FROM collected WHERE hash = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def back(self, name: ChunkHash, path: str) -> bool:
        """Put it where it was, young again; False: it is not here. The file's folder is fsynced by the caller."""
        self.unmark(name)
        aside = self._path(name)
        try:
            os.utime(aside)
        except FileNotFoundError:
            return self._row_back(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.rename(aside, path)
        return True

    def _row_back(self, name: ChunkHash) -> bool:
        run = self._database.execute
        run("INSERT OR IGNORE INTO chunks SELECT hash, data FROM collected WHERE hash = ?", (name,))
        return run("DELETE FROM collected WHERE hash = ?", (name,)).rowcount > 0

    def has(self, name: ChunkHash) -> bool:
        if os.path.exists(self._path(name)):
            return True
        return self._database.execute("SELECT 1 FROM collected WHERE hash = ?", (name,)).fetchone() is not None

    def all(self) -> Iterator[Aside]:
        """What lies here. Raises StorageFailed for what no collector put there."""
        for name, size, at_ns in self._database.execute("SELECT hash, length(data), at FROM collected").fetchall():
            yield Aside(ChunkHash(name), size, at_ns)
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # brought back meanwhile
                    stat = entry.stat(follow_symlinks=False)
                    yield Aside(name_of_file(entry), stat.st_size, stat.st_mtime_ns)

    def delete(self, name: ChunkHash, *, old_ns: int) -> int:
        """For good, if it was taken out of the way before `old_ns`. Bytes; 0: it stays."""
        path = self._path(name)
        with contextlib.suppress(FileNotFoundError):
            stat = os.stat(path)
            if stat.st_mtime_ns > old_ns:
                return 0
            os.unlink(path)
            return stat.st_size
        where = "WHERE hash = ? AND at <= ?"
        row = self._database.execute(f"SELECT length(data) FROM collected {where}", (name, old_ns)).fetchone()
        self._database.execute(f"DELETE FROM collected {where}", (name, old_ns))
        return 0 if row is None else int(row[0])

    def _path(self, name: ChunkHash) -> str:
        return f"{self.folder}/{name.hex()}"


def name_of_file(entry: os.DirEntry[str]) -> ChunkHash:
    """Raises StorageFailed for a file that is no chunk's: who put it there, and what else is wrong?"""
    try:
        name = bytes.fromhex(entry.name)
    except ValueError:
        name = b""
    if len(name) != HASH_BYTES or name.hex() != entry.name:
        raise StorageFailed(f"{entry.path} is no chunk; move it away")
    return ChunkHash(name)
