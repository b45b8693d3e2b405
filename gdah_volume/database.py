"""One SQLite file: connection, pragmas, transactions, durability. Knows no table but `meta`; the schema is in
`schema`.

Threading: a Database is one connection. One thread at a time writes (its owner sees to that); other threads read
through a `reader()` of their own, which sees committed states only and blocks nobody.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlite_utils

from gdah_volume.errors import GdahError, NoSpace, StorageFailed, Unavailable
from gdah_volume.schema import migrate

BUSY_TIMEOUT_S = 10.0
"""Another process (a person with sqlite-utils) may hold the file for so long before a write fails."""
CHECKPOINT_PAGES = 4000
"""The write-ahead log is folded back into the file after about 16 MiB: fewer, larger pauses than SQLite's 4 MiB."""
WAL_LIMIT_BYTES = 64 << 20
CACHE_KIB = 32 << 10
_MEMORY = ":memory:"
_blank: list[bytes] = []
"""An empty database, once one was made in memory: the next ones are copies, in a fiftieth of the time."""


class Database:
    """Invariant: outside of `transaction` nothing is uncommitted."""

    def __init__(self, path: Path | str, *, create: bool = True, read_only: bool = False) -> None:
        self.path = str(path)
        self.read_only = read_only
        self.before_commit: list[Callable[[], None]] = []
        """Called before each commit and each savepoint: what is kept in memory is written now."""
        self.after_rollback: list[Callable[[], None]] = []
        """Called after a roll back: what is kept in memory may be wrong."""
        self._depth = 0
        self._changes_at: list[int] = []
        self._sync_wanted = False
        self._wal: int | None = None
        if self.path != _MEMORY and not create and not Path(self.path).exists():
            raise StorageFailed(f"there is no database at {self.path}")
        try:
            self.connection = self._connect()
            if not read_only:
                self._prepare()
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error

    def _connect(self) -> sqlite3.Connection:
        target = self.path
        if self.read_only:
            target = Path(self.path).absolute().as_uri() + "?mode=ro"
        connection = sqlite3.connect(
            target,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,  # transactions begin and end where this module says
            check_same_thread=False,  # the owner changes threads, under its lock
            cached_statements=256,
            uri=self.read_only,
        )
        run = connection.execute
        run(f"PRAGMA cache_size = -{CACHE_KIB}")
        run("PRAGMA temp_store = MEMORY")
        if self.read_only:
            run("PRAGMA query_only = ON")
            return connection
        # Readers beside the writer; a commit is one append.
        run("PRAGMA journal_mode = WAL")
        # A commit survives kill -9 without an fsync; `transaction(sync=True)` adds the fsync where one was promised.
        run("PRAGMA synchronous = NORMAL")
        run(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        run(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        # One byte string is as good as another: no automatic recovery hooks of extensions, no foreign keys used.
        run("PRAGMA trusted_schema = OFF")
        return connection

    def _prepare(self) -> None:
        if self.path == _MEMORY and _blank:
            self.connection.deserialize(_blank[0])
            return
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            migrate(self.utils())
        except BaseException:
            self.connection.rollback()
            raise
        if self.connection.in_transaction:
            self.connection.execute("COMMIT")
        if self.path == _MEMORY:
            _blank.append(self.connection.serialize())

    def utils(self) -> sqlite_utils.Database:
        """The same connection for whatever is not hot."""
        return sqlite_utils.Database(self.connection)

    # --- statements

    def execute(self, sql: str, values: Iterable[Any] = ()) -> sqlite3.Cursor:
        return self.connection.execute(sql, values)  # type: ignore[arg-type]

    def executemany(self, sql: str, rows: Iterable[Iterable[Any]]) -> sqlite3.Cursor:
        return self.connection.executemany(sql, rows)  # type: ignore[arg-type]

    def rows(self, sql: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql, values).fetchall()  # type: ignore[arg-type]

    def row(self, sql: str, values: Iterable[Any] = ()) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self.connection.execute(sql, values).fetchone()  # type: ignore[arg-type]
        return found

    # --- transactions

    @property
    def in_transaction(self) -> bool:
        return self._depth > 0

    @contextmanager
    def transaction(self, *, sync: bool = False) -> Iterator[None]:
        """All or nothing; inside another one a savepoint. `sync`: on the disk, with all before it, when it ends.

        Raises NoSpace when the disk is full and StorageFailed when it fails; then nothing was written.
        """
        self._sync_wanted |= sync
        name = f"depth_{self._depth}"
        try:
            if self._depth:
                self._call(self.before_commit)
                self.connection.execute(f"SAVEPOINT {name}")
            else:
                self.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error
        self._depth += 1
        self._changes_at.append(self.connection.total_changes)
        try:
            yield
            self._call(self.before_commit)
            self.connection.execute(f"RELEASE {name}" if self._depth > 1 else "COMMIT")
            self._depth -= 1
            self._changes_at.pop()
        except BaseException as error:
            self._depth -= 1
            self._roll_back(name, self._changes_at.pop())
            if isinstance(error, sqlite3.Error):
                raise _translated(error, self.path) from error
            raise
        if self._depth == 0 and self._sync_wanted:
            self._sync_wanted = False
            self._sync()

    def _roll_back(self, name: str, changes_at: int) -> None:
        unchanged = self.connection.total_changes == changes_at
        try:
            if self._depth:
                self.connection.execute(f"ROLLBACK TO {name}")
                self.connection.execute(f"RELEASE {name}")
            else:
                self._sync_wanted = False
                self.connection.rollback()
        except sqlite3.Error:
            self.connection.rollback()  # the disk failed so badly that SQLite ended the transaction itself
        if not unchanged:  # a refusal that wrote nothing costs nobody his cache
            self._call(self.after_rollback)

    @staticmethod
    def _call(hooks: list[Callable[[], None]]) -> None:
        for hook in hooks:
            hook()

    def _sync(self) -> None:
        """What is committed is in the write-ahead log (or already in the file, synced by SQLite): fsync that log."""
        if self.path == _MEMORY:
            return
        try:
            if self._wal is None:
                if not Path(self.path + "-wal").exists():
                    return  # nothing was ever written through this log
                self._wal = os.open(self.path + "-wal", os.O_RDONLY)
                folder = os.open(Path(self.path).absolute().parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            os.fsync(self._wal)
        except OSError as error:
            raise StorageFailed(f"fsync of {self.path} failed: {error}; this disk is not to be trusted") from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads inside see one state. Inside a transaction or another snapshot: its own."""
        if self._depth or self.connection.in_transaction:
            yield
            return
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.rollback()

    # --- small things

    def meta(self, key: str) -> str | None:
        found = self.row("SELECT value FROM meta WHERE key = ?", (key,))
        return None if found is None else str(found[0])

    def set_meta(self, key: str, value: str) -> None:
        self.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def reader(self) -> Database:
        """A second connection that only reads, for one other thread. Raises StorageFailed for a database in memory."""
        if self.path == _MEMORY:
            raise StorageFailed("a database in memory has no second connection")
        return Database(self.path, create=False, read_only=True)

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the file as far as readers allow. Raises NoSpace, StorageFailed."""
        try:
            self.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error

    def integrity_check(self) -> list[str]:
        """What SQLite finds wrong; empty when nothing is."""
        found = [str(line) for (line,) in self.rows("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """Idempotent."""
        if self._wal is not None:
            os.close(self._wal)
            self._wal = None
        self.connection.close()


def _translated(error: sqlite3.Error, path: str) -> GdahError:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return NoSpace(f"the disk of {path} is full")
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        # Whoever still works while the process ends; no failure of the disk, which would end it as one.
        return Unavailable(f"{path} is closed already")
    return StorageFailed(f"{path}: {error} ({name or type(error).__name__})")
