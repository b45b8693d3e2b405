"""Chunks on disk, by their BLAKE3 name: small ones in the volume's database, larger ones as files.

Knows names and bytes only; which operation needs a chunk, and when it may go, is decided elsewhere.

Layout of `folder`: `ab/<hex>` one file per larger chunk (by the first byte of its name), `new/` files being
written, `quarantine/` bytes that did not match their name, `collected/` what nothing needed (see `collected`),
`synced` a mark whose time is that of the last sync. Small chunks (<= INLINE_MAX_BYTES) are rows of the table
`chunks`, so one commit covers them and the log.

A file is written to `new/` and renamed; its fsync waits for `sync()`. So after a loss of power a file may
hold less than its name says: the folders that changed since the mark are verified when the store is opened,
and every read verifies again.

Threading: any thread. Rows are reached under `lock`, which is the lock that the owner of the database holds
while it uses the connection (lock order: the caller's lock, then ours; we call nothing under ours). With a
`reader` (a second connection on the same database) committed rows are read without that lock.
"""

# Paths are built for every chunk; os calls on strings cost a tenth of pathlib here.
# ruff: noqa: PTH103, PTH104, PTH108, PTH116, PTH120

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from gdah_volume.collected import Collected, name_of_file
from gdah_volume.content import CHUNK_SIZE, INLINE_MAX_BYTES, ChunkHash, hash_of
from gdah_volume.disk_errors import database_errors, disk_errors, fsync
from gdah_volume.errors import BadMessage, GdahError, HashMismatch, StorageFailed

_MARK_SLACK_NS = 2_000_000_000
"""Folder times are coarse (a jiffy) and clocks are set: look back a little further than the mark."""
_ASK_AT_ONCE = 500
"""Names per query; SQLite takes at least 999 bound values."""

Bytes = bytes | bytearray | memoryview


class Rows(Protocol):
    """What the store asks of a database."""

    def execute(self, sql: str, values: Iterable[Any] = ..., /) -> sqlite3.Cursor: ...
    def transaction(self) -> AbstractContextManager[None]: ...


class ChunkStore:
    """Invariant: a name that `has` answers for was put here with bytes that matched it, and not deleted
    since."""

    def __init__(
        self,
        folder: Path,
        database: Rows,
        *,
        lock: threading.RLock | None = None,
        reader: Rows | None = None,
    ) -> None:
        self._folder = os.fspath(folder)
        self._database = database
        self._lock: Any = lock or threading.RLock()
        self._reader = reader
        self._reader_lock = threading.Lock()
        self._unsynced_lock = threading.Lock()
        self._unsynced: set[str] = set()
        self._sync_lock = threading.Lock()
        self._failed = False
        self._counter = itertools.count()
        self._known_folders: set[str] = set()
        self.collected = Collected(f"{self._folder}/collected", database)
        self._prepare()

    # --- writing

    def put(self, data: Bytes) -> ChunkHash:
        """Store bytes under their name; known ones cost nothing. Raises NoSpace, StorageFailed,
        BadMessage."""
        name = hash_of(data)
        self._store(name, data)
        return name

    def put_named(self, name: ChunkHash, data: Bytes) -> None:
        """Store bytes that came with a name. Raises HashMismatch when they are others; then nothing is
        stored."""
        if hash_of(data) != name:
            raise HashMismatch(f"the bytes of chunk {name.hex()[:16]} do not match its name")
        self._store(name, data)

    def put_checked(self, chunks: Iterable[tuple[ChunkHash, Bytes]]) -> None:
        """Store small chunks whose names were checked already. Inside a transaction of the caller, under the
        lock: no savepoint of its own, one statement for each."""
        for name, data in chunks:
            if not 0 < len(data) <= INLINE_MAX_BYTES:
                raise BadMessage(f"a small chunk has 1 to {INLINE_MAX_BYTES} bytes")
            self._database.execute("INSERT OR IGNORE INTO chunks (hash, data) VALUES (?, ?)", (name, bytes(data)))

    def put_hashed(self, name: ChunkHash, data: Bytes) -> None:
        """As `put_named`, for bytes that the caller has just hashed himself."""
        self._store(name, data)

    def _store(self, name: ChunkHash, data: Bytes) -> None:
        size = len(data)
        if not 0 < size <= CHUNK_SIZE:
            raise BadMessage(f"a chunk of {size} bytes; 1 to {CHUNK_SIZE} are possible")
        if size <= INLINE_MAX_BYTES:
            with disk_errors("a small chunk"), self._lock, self._database.transaction():
                self._database.execute("INSERT OR IGNORE INTO chunks (hash, data) VALUES (?, ?)", (name, bytes(data)))
                self.collected.unmark(name)
            return
        path = self._path(name)
        if self._file_size(path) == size:
            with contextlib.suppress(FileNotFoundError):  # collected at this moment
                os.utime(path)  # young again: the operation that names it is on its way
                return
        with disk_errors(path):
            self._write_file(path, data)

    def _write_file(self, path: str, data: Bytes) -> None:
        parent = os.path.dirname(path)
        if parent not in self._known_folders:
            os.makedirs(parent, exist_ok=True)
            self._known_folders.add(parent)
        temporary = f"{self._folder}/new/{os.getpid()}-{next(self._counter)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
            finally:
                os.close(descriptor)
            # Registered before it is visible: who finds the file and calls sync() syncs it.
            with self._unsynced_lock:
                self._unsynced.add(path)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def sync(self) -> None:
        """fsync every file written since the last sync, and their folders. Raises StorageFailed, then for
        ever: after a failed fsync nobody knows what is on the disk, and a second one would lie."""
        with self._sync_lock:
            if self._failed:
                raise StorageFailed(f"an earlier fsync in {self._folder} failed; stop and check the disk")
            with self._unsynced_lock:
                todo, self._unsynced = self._unsynced, set()
            if not todo:
                return
            try:
                for path in todo:
                    fsync(path, missing_ok=True)
                for folder in {os.path.dirname(path) for path in todo}:
                    fsync(folder)
                fsync(self._folder)
                self._touch_mark()
            except OSError as error:
                self._failed = True
                raise StorageFailed(f"fsync failed in {self._folder}: {error}") from error

    # --- reading

    def get(self, name: ChunkHash) -> bytes | None:
        """The verified bytes, None if absent. A corrupt one is moved to quarantine/ and HashMismatch
        raised."""
        data = self._read(name)
        if data is None and (self.bring_back(name) or self._back_from_quarantine(name)):
            data = self._read(name)
        if data is None:
            return None
        if hash_of(data) != name:
            self._set_aside(name, data)
            raise HashMismatch(f"chunk {name.hex()[:16]} is damaged on this disk; moved to {self._folder}/quarantine")
        return data

    def _read(self, name: ChunkHash, *, once: bool = False) -> bytes | None:
        """`once`: it will not be read again soon, so the kernel need not keep it."""
        try:
            with open(self._path(name), "rb", buffering=0) as file:
                data: bytes = file.read(CHUNK_SIZE + 1)
                if once:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return data
        except FileNotFoundError:
            row: bytes | None = self._row("SELECT data FROM chunks WHERE hash = ?", name)
            return row
        except OSError as error:
            self._set_aside(name, None)
            raise HashMismatch(f"chunk {name.hex()[:16]} cannot be read ({error}); set aside") from error

    def verify(self, name: ChunkHash) -> int:
        """Bytes of a chunk that is what its name says, 0 if absent. Raises as `get`, and StorageFailed for a row that
        the database cannot read."""
        with database_errors(f"the database beside {self._folder}"):
            data = self._read(name, once=True)
            if data is not None and hash_of(data) != name:
                self._set_aside(name, data)
                raise HashMismatch(f"chunk {name.hex()[:16]} is damaged on this disk; in {self._folder}/quarantine")
        return len(data or b"")

    def bring_back(self, name: ChunkHash) -> bool:
        """Of what was collected: somebody asks for it."""
        with self._lock:
            if not self.collected.has(name):
                return False
            with self._database.transaction():
                found = self.collected.back(name, self._path(name))
        with self._unsynced_lock:
            self._unsynced.add(self._path(name))
        return found

    def size(self, name: ChunkHash) -> int | None:
        """Bytes of a chunk, None if absent."""
        found = self._file_size(self._path(name))
        return found or self._row("SELECT length(data) FROM chunks WHERE hash = ?", name)

    def has(self, name: ChunkHash) -> bool:
        return self.size(name) is not None

    def missing(self, names: Iterable[ChunkHash]) -> list[ChunkHash]:
        """Those of `names` that are not here, each once, in their order."""
        wanted = [n for n in dict.fromkeys(names) if not self._file_size(self._path(n))]
        found: set[bytes] = set()
        for start in range(0, len(wanted), _ASK_AT_ONCE):
            part = wanted[start : start + _ASK_AT_ONCE]
            marks = ",".join("?" * len(part))
            with self._lock:
                rows = self._database.execute(f"SELECT hash FROM chunks WHERE hash IN ({marks})", part)
                found.update(row[0] for row in rows.fetchall())
        return [n for n in wanted if n not in found]

    def names(self) -> Iterator[ChunkHash]:
        """Every chunk that is here. Others may come and go meanwhile."""
        with self._lock:
            rows = self._database.execute("SELECT hash FROM chunks").fetchall()
        for row in rows:
            yield ChunkHash(row[0])
        for entry in self._files():
            yield ChunkHash(bytes.fromhex(entry.name))

    def sizes_in(self, prefix: int) -> dict[ChunkHash, int]:
        """Bytes of those whose first byte is `prefix`, by the folder and the rows; nothing is read. Raises
        StorageFailed for a file that is no chunk's, and for what cannot be listed."""
        low = bytes([prefix])
        found: dict[ChunkHash, int] = {}
        try:
            with contextlib.suppress(FileNotFoundError), os.scandir(f"{self._folder}/{low.hex()}") as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                        found[name_of_file(entry)] = entry.stat(follow_symlinks=False).st_size
        except OSError as error:
            raise StorageFailed(f"the chunks in {self._folder}/{low.hex()} cannot be listed: {error}") from error
        high = bytes([prefix + 1]) if prefix < 255 else b"\xff" * 33
        with database_errors(f"the database beside {self._folder}"):
            rows = self._select("SELECT hash, length(data) FROM chunks WHERE hash >= ? AND hash < ?", (low, high))
        found.update((ChunkHash(name), size) for name, size in rows)
        return found

    def _select(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Committed rows, without waiting for the owner of the database if there is a second connection."""
        lock, database = (self._lock, self._database) if self._reader is None else (self._reader_lock, self._reader)
        with lock:
            return database.execute(sql, values).fetchall()

    def collect(self, names: Iterable[ChunkHash], *, old_ns: int, now_ns: int) -> tuple[int, int]:
        """Out of the way, those that were not stored since `old_ns`: (chunks, bytes). The caller knows that nothing
        needs them, holds the lock and is inside a transaction."""
        taken = [self.collected.take(name, self._path(name), old_ns=old_ns, now_ns=now_ns) for name in names]
        return sum(size > 0 for size in taken), sum(taken)

    def total_bytes(self) -> int:
        """The sum over all chunks; walks the folder, so not for a hot path."""
        with self._lock:
            total = int(self._database.execute("SELECT coalesce(sum(length(data)), 0) FROM chunks").fetchone()[0])
        for entry in self._files():
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat().st_size
        return total

    def delete(self, name: ChunkHash) -> None:
        """Forget a chunk; absent is fine. The caller knows that nothing needs it."""
        if not self.delete_file(name):
            with self._lock, self._database.transaction():
                self._database.execute("DELETE FROM chunks WHERE hash = ?", (name,))

    def delete_file(self, name: ChunkHash) -> bool:
        """As `delete`, of a chunk that is known to be a large one: touches no row, so takes no lock of the
        database."""
        path = self._path(name)
        with self._unsynced_lock:
            self._unsynced.discard(path)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        return True

    def path_of(self, name: ChunkHash) -> Path | None:
        """The file of a larger chunk, for one who wants to move it away; None when there is no such file."""
        path = self._path(name)
        return Path(path) if self._file_size(path) else None

    # --- inside

    def _prepare(self) -> None:
        for sub in ("new", "quarantine"):
            os.makedirs(f"{self._folder}/{sub}", exist_ok=True)
        for left in os.scandir(f"{self._folder}/new"):
            os.unlink(left.path)
        with self._lock, self._database.transaction():
            self._database.execute("CREATE TABLE IF NOT EXISTS chunks (hash BLOB PRIMARY KEY, data BLOB NOT NULL)")
            self.collected.prepare()
        self._verify_unsynced()

    def _verify_unsynced(self) -> None:
        """Files younger than the mark may have lost bytes with the power: check them, set damaged ones
        aside."""
        try:
            mark = os.stat(f"{self._folder}/synced").st_mtime_ns - _MARK_SLACK_NS
        except FileNotFoundError:
            mark = 0
            if next(self._files(), None) is None:
                self._touch_mark()
        for entry in self._files(changed_since_ns=mark):
            stat = entry.stat()
            if max(stat.st_mtime_ns, stat.st_ctime_ns) >= mark:
                with contextlib.suppress(GdahError):
                    self.get(ChunkHash(bytes.fromhex(entry.name)))
                    self._unsynced.add(entry.path)

    def _files(self, changed_since_ns: int = 0) -> Iterator[os.DirEntry[str]]:
        for folder in sorted(os.scandir(self._folder), key=lambda found: found.name):
            if len(folder.name) == 2 and folder.is_dir() and folder.stat().st_mtime_ns >= changed_since_ns:
                yield from os.scandir(folder.path)

    def _touch_mark(self) -> None:
        mark = f"{self._folder}/synced"
        with open(mark, "ab"):
            os.utime(mark)

    def _path(self, name: ChunkHash) -> str:
        text = name.hex()
        return f"{self._folder}/{text[:2]}/{text}"

    @staticmethod
    def _file_size(path: str) -> int:
        """0 when there is none: a chunk is never empty, so an empty file is one that lost its bytes."""
        try:
            return os.stat(path).st_size
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def _row(self, sql: str, name: ChunkHash) -> Any:
        if self._reader is not None:
            with self._reader_lock:
                row = self._reader.execute(sql, (name,)).fetchone()
            if row is not None:
                return row[0]
        with self._lock:  # also sees what the caller's own transaction has put
            row = self._database.execute(sql, (name,)).fetchone()
        return None if row is None else row[0]

    def _back_from_quarantine(self, name: ChunkHash) -> bool:
        """A disk that could not read a file may read it later, and it may be the only copy: one that matches
        its name returns to its place."""
        try:
            aside = [it.path for it in os.scandir(f"{self._folder}/quarantine") if it.name.startswith(name.hex())]
        except OSError:
            return False
        for path in aside:
            with contextlib.suppress(OSError):
                with open(path, "rb") as file:
                    if hash_of(file.read(CHUNK_SIZE + 1)) != name:
                        continue
                os.makedirs(os.path.dirname(self._path(name)), exist_ok=True)
                os.rename(path, self._path(name))
                with self._unsynced_lock:
                    self._unsynced.add(self._path(name))
                return True
        return False

    def _set_aside(self, name: ChunkHash, data: bytes | None) -> None:
        aside = f"{self._folder}/quarantine/{name.hex()}-{next(self._counter)}"
        try:
            os.rename(self._path(name), aside)
        except FileNotFoundError:
            if data is None:
                return
            with open(aside, "wb") as file:
                file.write(data)
            with self._lock, self._database.transaction():
                self._database.execute("DELETE FROM chunks WHERE hash = ?", (name,))
