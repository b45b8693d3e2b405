"""Chunks of a replica that is only looked at: nothing is written, moved or set aside, whatever is found.

Beside `chunk_store`, whose layout it knows, because that one prepares its folder and puts damaged bytes aside.
Threading: one thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from gdah_volume.content import CHUNK_SIZE, ChunkHash, hash_of
from gdah_volume.database import Database


class ChunkReader:
    def __init__(self, folders: Iterable[Path], database: Database | None) -> None:
        self._folders = tuple(folders)
        self._database = database

    def read(self, name: ChunkHash) -> tuple[bytes | None, str]:
        """(the verified bytes or None, what is wrong with the copy that is here or "" when there is none)."""
        trouble = ""
        text = name.hex()
        for path in (folder / sub / text for folder in self._folders for sub in (text[:2], "collected")):
            try:
                with path.open("rb", buffering=0) as file:
                    data = file.read(CHUNK_SIZE + 1)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                trouble = f"its file cannot be read ({error.strerror})"
                continue
            if hash_of(data) == name:
                return data, ""
            trouble = f"its file in {path.parent} has other bytes"
        for table in ("chunks", "collected") if self._database is not None else ():
            data, row_trouble = self._row(table, name)
            if data is not None:
                return data, ""
            trouble = row_trouble or trouble
        return None, trouble

    def _row(self, table: str, name: ChunkHash) -> tuple[bytes | None, str]:
        assert self._database is not None
        try:
            row = self._database.row(f"SELECT data FROM {table} WHERE hash = ?", (name,))
        except sqlite3.Error as error:
            return None, "" if "no such table" in str(error) else f"its row cannot be read ({error})"
        if row is None:
            return None, ""
        if isinstance(row[0], bytes) and hash_of(row[0]) == name:
            return row[0], ""
        return None, "its row has other bytes"
