"""Clean content on this device: verified chunks on disk and a few in memory, read by range, read ahead in parallel.

Holds only what every server has (fetched from one, or handed over by the change log when a record left it).
Unsaved and unsent bytes are never here, so eviction can never reach the only copy; they are asked of `dirty`
first.

Layout of the folder: `ab/<hex>` one file per chunk, written without rename or fsync: each is verified against
its name when it is read into memory, and a damaged one is removed and fetched again.

Limits: `max_bytes` and `CHUNKS_MAX` on disk, `min_free_bytes` of the disk left alone, `memory_bytes` in
memory; at a limit the least recently used goes. When nothing may be stored, reading still works.

Threading: any thread. `_lock` guards the index and the memory; no file, network or other lock is touched
under it.
"""

# Paths are built for every chunk; os calls on strings cost a tenth of pathlib here.
# ruff: noqa: PTH103, PTH108

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gdah_volume.content import CHUNK_SIZE, Chunk, ChunkHash, Content, hash_of
from gdah_volume.errors import ContentUnavailable, GdahError
from mountfs.files.extents import chunk_at, split_at_chunks
from mountfs.ports import Transfer

log = logging.getLogger(__name__)

CHUNKS_MAX = 500_000
"""Entries of the index, about 150 bytes of memory each."""
MEMORY_BYTES = 64 << 20
FETCH_THREADS = 4
AHEAD_MAX_CHUNKS = 16
"""The window of reading ahead doubles from 1 up to this."""
RANGE_MAX_BYTES = 128 << 10
"""A read up to this size, of a chunk that was verified in this run, takes only its bytes from the disk."""
SPACE_CHECK_BYTES = 16 << 20

Dirty = Callable[[ChunkHash], bytes | None]


def _nothing_dirty(_name: ChunkHash) -> bytes | None:
    return None


@dataclass(frozen=True, slots=True)
class CacheFigures:
    bytes: int
    max_bytes: int
    chunks: int
    hits: int
    misses: int
    fetched_bytes: int
    repaired: int
    """Chunks that were found damaged on this disk and dropped."""


class ReadAhead:
    """What one open handle reads next. Threading: of one handle; a race only costs a prefetch."""

    __slots__ = ("_expected", "_until", "window")

    def __init__(self) -> None:
        self._expected = 0
        self._until = 0
        self.window = 0

    def advance(self, offset: int, size: int) -> range:
        """Note a read; the indexes of the chunks that are worth fetching now, before they are asked for."""
        last = (offset + size - 1) // CHUNK_SIZE
        # The kernel's own read-ahead comes out of order within a window, so "near" is sequential too.
        if not 0 <= offset - self._expected + CHUNK_SIZE <= 2 * CHUNK_SIZE:
            self.window = 0
            self._until = 0
            self._expected = offset + size
            return range(0)
        self._expected = max(self._expected, offset + size)
        if self.window and self._until - last - 1 >= max(1, self.window // 2):
            return range(0)
        self.window = min(max(1, self.window * 2), AHEAD_MAX_CHUNKS)
        start = max(self._until, last + 1)
        self._until = max(start, last + 1 + self.window)
        return range(start, self._until)


class Cache:
    """Invariant: what `chunk` and `read` return matched its hash in this run, or reads as zeros by the content."""

    def __init__(
        self,
        folder: Path,
        transfer: Transfer,
        *,
        max_bytes: int,
        min_free_bytes: int = 0,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._folder = os.fspath(folder)
        self._transfer = transfer
        self.dirty: Dirty = _nothing_dirty
        """Asked first; set once by who puts the parts together."""
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._memory_max = memory_bytes
        self._lock = threading.Lock()
        self._index: OrderedDict[ChunkHash, int] = OrderedDict()
        self._bytes = 0
        self._memory: OrderedDict[ChunkHash, bytes] = OrderedDict()
        self._memory_bytes = 0
        self._verified: set[ChunkHash] = set()
        self._loading: dict[ChunkHash, Future[bytes]] = {}
        self._folders: set[str] = set()
        self._unchecked = SPACE_CHECK_BYTES
        self._hits = self._misses = self._fetched_bytes = self._repaired = 0
        self._fetchers = ThreadPoolExecutor(FETCH_THREADS, "fetch")
        self._ahead = ThreadPoolExecutor(FETCH_THREADS, "read-ahead")
        os.makedirs(self._folder, exist_ok=True)
        self._scanner = threading.Thread(target=self._scan, name="cache-scan", daemon=True)
        self._scanner.start()

    # --- reading

    def read(self, content: Content, offset: int, size: int, ahead: ReadAhead | None = None) -> bytes:
        """Bytes of a file, at most up to its size. Raises ContentUnavailable (EIO) at once when no copy is in reach."""
        end = min(offset + size, content.size)
        if offset >= end:
            return b""
        if ahead is not None:
            for index in ahead.advance(offset, end - offset):
                wanted = chunk_at(content, index)
                if wanted is not None:
                    self.prefetch(wanted)
        parts = list(split_at_chunks(offset, end))
        if len(parts) == 1:
            index, start, stop = parts[0]
            return self._range(chunk_at(content, index), start, stop, ahead)
        self._fetch_together([chunk_at(content, index) for index, _, _ in parts[1:]])
        return b"".join(self._range(chunk_at(content, index), start, stop, ahead) for index, start, stop in parts)

    def chunk(self, chunk: Chunk) -> bytes:
        """All bytes of one chunk. Raises ContentUnavailable."""
        with self._lock:
            data = self._memory.get(chunk.hash)
            if data is not None:
                self._memory.move_to_end(chunk.hash)
                return data
            loading = self._loading.get(chunk.hash)
            if loading is None:
                mine: Future[bytes] = Future()
                self._loading[chunk.hash] = mine
        if loading is not None:
            return loading.result()
        return self._load(chunk, mine)

    def _range(self, chunk: Chunk | None, start: int, stop: int, ahead: ReadAhead | None) -> bytes:
        """Bytes [start, stop) of the file, which lie in this chunk's place."""
        if chunk is None:
            return bytes(stop - start)
        low = start - chunk.index * CHUNK_SIZE
        high = stop - chunk.index * CHUNK_SIZE
        data = None
        if high - low <= RANGE_MAX_BYTES and ahead is not None and not ahead.window and high <= chunk.length:
            data = self._range_on_disk(chunk.hash, low, high)
        if data is None:
            data = self.chunk(chunk)[low:high]
        return data if len(data) == high - low else data + bytes(high - low - len(data))

    def _range_on_disk(self, name: ChunkHash, low: int, high: int) -> bytes | None:
        with self._lock:
            if name in self._memory or name not in self._verified:
                return None
        try:
            fd = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            data = os.pread(fd, high - low, low)
        except OSError:
            return None
        finally:
            os.close(fd)
        return data if len(data) == high - low else None

    def _fetch_together(self, chunks: list[Chunk | None]) -> None:
        for chunk in chunks:
            if chunk is not None and not self._in_memory(chunk.hash):
                with suppress(RuntimeError):  # closed meanwhile
                    self._fetchers.submit(self._quietly, chunk)

    def prefetch(self, chunk: Chunk) -> None:
        """Have it in memory soon; returns at once."""
        if not self._in_memory(chunk.hash):
            with suppress(RuntimeError):  # closed meanwhile
                self._ahead.submit(self._quietly, chunk)

    def _quietly(self, chunk: Chunk) -> None:
        """Who asks for the chunk in earnest meets the error himself."""
        try:
            self.chunk(chunk)
        except GdahError as error:
            log.debug("could not read ahead: %s", error)

    def _in_memory(self, name: ChunkHash) -> bool:
        with self._lock:
            return name in self._memory or name in self._loading

    def _load(self, chunk: Chunk, mine: Future[bytes]) -> bytes:
        try:
            data = self._find(chunk)
        except BaseException as error:
            with self._lock:
                self._loading.pop(chunk.hash, None)
            mine.set_exception(error)
            raise
        with self._lock:
            self._loading.pop(chunk.hash, None)
            self._remember(chunk.hash, data)
        mine.set_result(data)
        return data

    def _find(self, chunk: Chunk) -> bytes:
        data = self.dirty(chunk.hash)
        if data is not None:
            return data
        data = self._from_disk(chunk.hash)
        if data is not None:
            self._hits += 1
            return data
        self._misses += 1
        # An operation may lose its record between the two questions above: its bytes are in the cache then.
        data = self._transfer.fetch(chunk.hash, chunk.length)
        if len(data) != chunk.length:
            raise ContentUnavailable(f"chunk {chunk.hash.hex()[:16]} came with a wrong length")
        self._fetched_bytes += len(data)
        self.adopt(chunk.hash, data)
        return data

    def _remember(self, name: ChunkHash, data: bytes) -> None:
        """Under the lock."""
        if name not in self._memory:
            self._memory[name] = data
            self._memory_bytes += len(data)
        while self._memory_bytes > self._memory_max and len(self._memory) > 1:
            _, old = self._memory.popitem(last=False)
            self._memory_bytes -= len(old)

    # --- the disk

    def _path(self, name: ChunkHash) -> str:
        text = name.hex()
        return f"{self._folder}/{text[:2]}/{text}"

    def _from_disk(self, name: ChunkHash) -> bytes | None:
        try:
            with open(self._path(name), "rb", buffering=0) as file:
                data = file.read(CHUNK_SIZE + 1)
        except OSError:
            return None
        if hash_of(data) != name:
            self._repaired += 1
            log.warning("cached chunk %s is damaged; it is fetched again", name.hex()[:16])
            self._drop(name)
            return None
        with self._lock:
            if len(self._verified) > CHUNKS_MAX:
                self._verified.clear()
            self._verified.add(name)
            if name in self._index:
                self._index.move_to_end(name)
        return data

    def has(self, name: ChunkHash) -> bool:
        """Whether a read of this chunk needs no server (unless it is found damaged)."""
        with self._lock:
            if name in self._memory:
                return True
        return os.path.exists(self._path(name))  # noqa: PTH110

    def peek(self, name: ChunkHash) -> bytes | None:
        """The bytes if they are here, without asking anybody."""
        with self._lock:
            data = self._memory.get(name)
        return self._from_disk(name) if data is None else data

    def adopt(self, name: ChunkHash, data: bytes) -> None:
        """Take a chunk that every server has. Its bytes match its name. Never raises: the cache may be full."""
        if not self._make_room(len(data)):
            return
        path = self._path(name)
        parent = path[: -len(name) * 2 - 1]
        try:
            if parent not in self._folders:
                os.makedirs(parent, exist_ok=True)
                self._folders.add(parent)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                whole = os.write(fd, data) == len(data)
            finally:
                os.close(fd)
        except OSError as error:
            log.info("the cache could not keep a chunk: %s", error.strerror)
            whole = False
        if not whole:
            self._drop(name)
            return
        with self._lock:
            self._bytes += len(data) - self._index.pop(name, 0)
            self._index[name] = len(data)

    def _drop(self, name: ChunkHash) -> None:
        with self._lock:
            self._bytes -= self._index.pop(name, 0)
            self._verified.discard(name)
        with suppress(OSError):
            os.unlink(self._path(name))

    def _make_room(self, size: int) -> bool:
        """Evict until `size` more bytes fit; False: they may not be stored."""
        if size > self._max_bytes:
            return False
        self._unchecked += size
        short = 0
        if self._unchecked >= SPACE_CHECK_BYTES:
            self._unchecked = 0
            short = max(0, self._min_free_bytes + size - self._free_bytes())
        while True:
            with self._lock:
                full = self._bytes + size > self._max_bytes or len(self._index) >= CHUNKS_MAX or short > 0
                if not full:
                    return True
                if not self._index:
                    self._unchecked = SPACE_CHECK_BYTES
                    return False
                oldest, length = next(iter(self._index.items()))
            short -= length
            self._drop(oldest)

    def _free_bytes(self) -> int:
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize

    def _scan(self) -> None:
        """What earlier runs left, oldest first, joins the index; until then it is found by name."""
        found = sorted(self._on_disk())
        with self._lock:
            fresh = self._index
            self._index = OrderedDict((name, size) for _, name, size in found if name not in fresh)
            self._index.update(fresh)
            self._bytes = sum(self._index.values())
        self._make_room(0)

    def _on_disk(self) -> Iterator[tuple[float, ChunkHash, int]]:
        for folder in os.scandir(self._folder):
            if len(folder.name) != 2 or not folder.is_dir():
                continue
            for entry in os.scandir(folder.path):
                with suppress(OSError, ValueError):
                    stat = entry.stat()
                    yield max(stat.st_atime, stat.st_mtime), ChunkHash(bytes.fromhex(entry.name)), stat.st_size

    # --- for people, and the end

    def wait_scanned(self, timeout_s: float = 10.0) -> None:
        self._scanner.join(timeout_s)

    def figures(self) -> CacheFigures:
        with self._lock:
            return CacheFigures(
                bytes=self._bytes,
                max_bytes=self._max_bytes,
                chunks=len(self._index),
                hits=self._hits,
                misses=self._misses,
                fetched_bytes=self._fetched_bytes,
                repaired=self._repaired,
            )

    def close(self) -> None:
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._ahead.shutdown(wait=False, cancel_futures=True)
        self._scanner.join(5)
