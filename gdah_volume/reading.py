"""Databases that may be damaged, or lie on a disk that cannot be written, opened to be read and nothing else.

Knows no table. What SQLite says of a bad page ends a query in the middle: `salvaged` then goes on from the other end,
so that what lies on one bad page is all that is missed.

Threading: one thread.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from gdah_volume.database import Database
from gdah_volume.errors import StorageFailed

_NOT_HERE = ("SQLITE_CANTOPEN", "SQLITE_READONLY")
"""SQLite wants to write beside the file (its index of the write-ahead log) and must not."""

Row = tuple[Any, ...]


@contextmanager
def reading(path: Path) -> Iterator[Database]:
    """One state of a database, from begin to end, whether somebody writes it or not. Raises StorageFailed when SQLite
    cannot read it at all, or it is not there."""
    with ExitStack() as stack:
        try:
            database = _open(path)
        except sqlite3.Error as error:
            if not getattr(error, "sqlite_errorname", "").startswith(_NOT_HERE):
                raise StorageFailed(f"SQLite cannot read {path}: {error}") from error
            database = _copied(path, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gdah-read-"))))
        stack.callback(database.close)
        with database.snapshot():
            yield database


def _open(path: Path) -> Database:
    """Raises StorageFailed for one that is not there, sqlite3.Error for one that cannot be read."""
    try:
        database = Database(path, create=False, read_only=True)
    except StorageFailed as error:
        if isinstance(error.__cause__, sqlite3.Error):
            raise error.__cause__ from None
        raise
    # Text that is no UTF-8 is damage to be told, not an exception in the middle of a listing.
    database.connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        database.row("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _copied(path: Path, folder: Path) -> Database:
    try:
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{suffix}", folder / f"{path.name}{suffix}")
        return _open(folder / path.name)
    except (OSError, sqlite3.Error) as error:
        raise StorageFailed(f"{path} cannot be read, nor a copy of it in {folder.parent}: {error}") from error


def salvaged(database: Database, table: str, columns: str, key: str) -> tuple[list[Row], str]:
    """The rows of a table by its key (one column, the first of `columns`), and what SQLite said when some cannot be
    read ("" when all are there)."""
    rows: list[Row] = []
    trouble = _take(database, f"SELECT {columns} FROM {table} ORDER BY {key}", rows, None)
    if trouble:
        back: list[Row] = []
        _take(database, f"SELECT {columns} FROM {table} ORDER BY {key} DESC", back, rows[-1][0] if rows else None)
        rows += reversed(back)
    return rows, trouble


def _take(database: Database, sql: str, rows: list[Row], until: Any) -> str:
    try:
        for row in database.execute(sql):
            if until is not None and row[0] <= until:
                break
            rows.append(row)
    except sqlite3.Error as error:
        return str(error)
    return ""
