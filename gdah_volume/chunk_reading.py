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
        for folder in self._folders:
            try:
                with (folder / text[:2] / text).open("rb", buffering=0) as file:
                    data = file.read(CHUNK_SIZE + 1)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                trouble = f"its file cannot be read ({error.strerror})"
                continue
            if hash_of(data) == name:
                return data, ""
            trouble = f"its file in {folder} has other bytes"
        row = None
        if self._database is not None:
            try:
                row = self._database.row("SELECT data FROM chunks WHERE hash = ?", (name,))
            except sqlite3.Error as error:
                trouble = trouble or f"its row cannot be read ({error})"
        if row is not None:
            if isinstance(row[0], bytes) and hash_of(row[0]) == name:
                return row[0], ""
            trouble = "its row has other bytes"
        return None, trouble
