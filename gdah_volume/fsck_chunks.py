"""Is every chunk here that is needed, and are its bytes those that its name says? Reads all of them; moves nothing.

Threading: one thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from gdah_volume.content import CHUNK_SIZE, HASH_BYTES, INLINE_MAX_BYTES, ChunkHash, hash_of
from gdah_volume.database import Database
from gdah_volume.findings import Mending, Report

_FOLDER = re.compile("[0-9a-f]{2}")
_FILE = re.compile("[0-9a-f]{64}")
OWN_NAMES = frozenset({"new", "quarantine", "synced"})
COLLECTED = "collected"
"""A folder and a table: out of the way, and back as soon as somebody asks."""


class ChunkCheck:
    """Invariant: `good` has what was read here and matched its name."""

    def __init__(self, report: Report, progress: Callable[[str], None]) -> None:
        self._report = report
        self._progress = progress
        self.good: dict[bytes, int] = {}
        """name -> bytes"""
        self.bad_files: dict[Path, ChunkHash] = {}
        self.bad_rows: set[bytes] = set()
        self.strangers: list[Path] = []
        self.partial: list[Path] = []
        self.bytes = 0

    def files(self, folder: Path, mending: Mending) -> None:
        """All below a folder of chunks."""
        for count, path in enumerate(self._chunk_files(folder)):
            if count % 64 == 0:
                self._progress(f"chunks: {self.bytes >> 20} MiB")
            name = ChunkHash(bytes.fromhex(path.name))
            try:
                with path.open("rb", buffering=0) as file:
                    data = file.read(CHUNK_SIZE + 1)
            except FileNotFoundError:
                continue  # a server that runs has moved it meanwhile
            except OSError as error:
                self.bad_files[path] = name
                self._report.damage("chunk.damaged", f"{path} cannot be read: {error.strerror}", mending)
                continue
            self.bytes += len(data)
            if hash_of(data) == name:
                self.good[name] = len(data)
            else:
                self.bad_files[path] = name
                words = "is empty" if not data else f"has {len(data)} bytes that are not those of its name"
                self._report.damage("chunk.damaged", f"{path} {words}", mending)

    def _chunk_files(self, folder: Path) -> Iterator[Path]:
        if not folder.is_dir():
            return
        for entry in sorted(os.scandir(folder), key=lambda found: found.name):
            if entry.name == COLLECTED:
                yield from sorted(Path(one.path) for one in os.scandir(entry.path) if _FILE.fullmatch(one.name))
            elif entry.name in OWN_NAMES:
                self._own(Path(entry.path))
            elif entry.is_dir(follow_symlinks=False) and _FOLDER.fullmatch(entry.name):
                for file in sorted(os.scandir(entry.path), key=lambda found: found.name):
                    if (
                        _FILE.fullmatch(file.name)
                        and file.name[:2] == entry.name
                        and file.is_file(follow_symlinks=False)
                    ):
                        yield Path(file.path)
                    else:
                        self._stranger(Path(file.path))
            else:
                self._stranger(Path(entry.path))

    def _stranger(self, path: Path) -> None:
        self.strangers.append(path)
        self._report.note("chunk.stranger", f"{path} is no chunk", "look what it is; --repair moves it to quarantine")

    def _own(self, path: Path) -> None:
        if path.name == "new":
            self.partial += sorted(Path(entry.path) for entry in os.scandir(path))
        elif path.name == "quarantine":
            held = sum(1 for _ in os.scandir(path))
            if held:
                self._report.note(
                    "chunk.quarantine", f"{held} files are set aside in {path}", "delete them when all is well"
                )

    def rows(self, database: Database, mending: Mending) -> None:
        """Small ones. Raises sqlite3.Error."""
        for table in ("chunks", COLLECTED):
            if database.row("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)) is not None:
                self._rows_of(database, table, mending)

    def _rows_of(self, database: Database, table: str, mending: Mending) -> None:
        for name, data in database.execute(f"SELECT hash, data FROM {table}"):
            is_name = isinstance(name, bytes) and len(name) == HASH_BYTES
            if is_name and isinstance(data, bytes) and 0 < len(data) <= INLINE_MAX_BYTES and hash_of(data) == name:
                self.good[name] = len(data)
                self.bytes += len(data)
            else:
                self.bad_rows.add(name)
                called = name.hex() if isinstance(name, bytes) else repr(name)
                self._report.damage(
                    "chunk.damaged", f"the small chunk {called} has bytes that are not its own", mending
                )

    def needed(self, named: Mapping[bytes, int], wanted: Iterable[str], mending: Mending) -> list[ChunkHash]:
        """Those that are not here in good health."""
        on_the_way = set(wanted)
        bad = {bytes(name) for name in self.bad_files.values()} | self.bad_rows
        missing: list[ChunkHash] = []
        waiting = 0
        for name, length in sorted(named.items()):
            size = self.good.get(name)
            if size is not None:
                if size != length:
                    self._report.damage("chunk.length", f"chunk {name.hex()} has {size} bytes, not {length}", "tree")
                continue
            missing.append(ChunkHash(name))
            if name.hex() in on_the_way:
                waiting += 1
            elif name not in bad:
                self._report.damage("chunk.missing", f"chunk {name.hex()} is named and not here", mending)
        if waiting:
            self._report.note("chunk.wanted", f"{waiting} chunks are still to be fetched from other servers")
        return missing
