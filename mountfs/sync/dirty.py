"""Dirty chunks: content that is not on every server yet. Nothing here can be evicted; what limits it is said,
as ENOSPC.

A chunk is PINNED by whoever needs it: LOOSE by one who stored it and will perform an operation that names it
(or discard it), then by the record of that operation until every server has it. Without a pin it goes.

Small chunks stay in memory while they are loose and are written in the transaction of the operation that
names them.

Threading: any thread. Lock order: mirror.lock (which guards the rows of small chunks), then a file lock
(writing or removing one large chunk), then `_lock`. Files are read without locks.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gdah_volume.content import INLINE_MAX_BYTES, Chunk, ChunkHash, hash_of
from gdah_volume.errors import BadMessage, HashMismatch, NoSpace
from gdah_volume.wire import Blob

log = logging.getLogger("mountfs.sync.dirty")

FREE_CHECK_INTERVAL_S = 0.1
FREE_CHECK_BYTES = 16 << 20
"""So much may be stored between two looks at the disk."""
RECENT_MAX = 16
"""Large chunks that stay in memory until others come."""
METADATA_SHARE = 4
"""Operations without content may use the disk down to this part of the minimum that content leaves free."""

Adopt = Callable[[ChunkHash, bytes], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_bytes`: content that is not on every server. `min_free_bytes`: of the cache's disk, never used."""

    max_bytes: int = 20 << 30
    min_free_bytes: int = 512 << 20


class Store(Protocol):
    """Of ChunkStore, what is needed here."""

    def put_hashed(self, name: ChunkHash, data: bytes | memoryview) -> None: ...
    def put_checked(self, chunks: Iterable[tuple[ChunkHash, bytes]]) -> None: ...
    def get(self, name: ChunkHash) -> bytes | None: ...
    def delete(self, name: ChunkHash) -> None: ...
    def delete_file(self, name: ChunkHash) -> bool: ...
    def names(self) -> Iterable[ChunkHash]: ...
    def size(self, name: ChunkHash) -> int | None: ...
    def sync(self) -> None: ...


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(slots=True)
class _Held:
    size: int
    loose: int = 0
    records: int = 0
    staged: bytes | None = None
    """The bytes of a small chunk that is not in the store yet."""


class DirtyChunks:
    """Invariant: a chunk with a pin is readable, from memory or from the store."""

    def __init__(
        self,
        store: Store,
        limits: Limits,
        free: Callable[[], int],
        changing: Callable[[], AbstractContextManager[Any]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._limits = limits
        self._free = free
        self._changing = changing
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._file_locks = [threading.Lock() for _ in range(16)]
        self._held: dict[ChunkHash, _Held] = {}
        self._recent: dict[ChunkHash, bytes] = {}
        """Large chunks of late, oldest first."""
        self._bytes = 0
        self._free_left = 0
        self._free_checked_at = float("-inf")
        self._stored_since_check = 0
        self.on_gone: Adopt | None = None
        """Takes the bytes of a chunk that every server has now (the cache)."""

    @property
    def total_bytes(self) -> int:
        return self._bytes

    # --- limits

    def check_room(self, size: int, *, content: bool) -> None:
        """Raises NoSpace, before the disk is full, when so many more bytes may not be kept here."""
        limits = self._limits
        if content and self._bytes + size > limits.max_bytes:
            raise NoSpace(
                f"{self._bytes >> 20} MiB wait for servers, more than --pending-max; reconnect one, or raise the limit"
            )
        now = self._monotonic()
        with self._lock:
            if now - self._free_checked_at > FREE_CHECK_INTERVAL_S or self._stored_since_check > FREE_CHECK_BYTES:
                self._free_left = self._free()
                self._free_checked_at = now
                self._stored_since_check = 0
            free = self._free_left - self._stored_since_check - size
            self._stored_since_check += size
        least = limits.min_free_bytes if content else limits.min_free_bytes // METADATA_SHARE
        if free < least:
            raise NoSpace(
                f"the cache's disk has {max(free, 0) >> 20} MiB free, --min-free keeps {least >> 20}: free some space"
            )

    # --- storing

    def store(self, data: bytes | memoryview) -> ChunkHash:
        """Keep a chunk, pinned loosely once. Raises NoSpace, StorageFailed."""
        size = len(data)
        if size == 0:
            raise BadMessage("an empty chunk")
        name = hash_of(data)
        with self._lock:
            held = self._held.get(name)
            if held is not None:
                held.loose += 1
                return name
        self.check_room(size, content=True)
        if size <= INLINE_MAX_BYTES:
            self._hold(name, size, bytes(data))
            return name
        with self._file_lock(name):
            self._store.put_hashed(name, data)
            self._hold(name, size, None)
        self._remember(name, data)
        return name

    def keep(self, name: ChunkHash) -> bool:
        """Another loose pin for a chunk that is here; False: it is not."""
        with self._lock:
            held = self._held.get(name)
            if held is None:
                return False
            held.loose += 1
            return True

    def _remember(self, name: ChunkHash, data: bytes | memoryview) -> None:
        """It is about to be sent: not to be read from the disk, and hashed, once more."""
        whole = bytes(data)
        with self._lock:
            self._recent[name] = whole
            while len(self._recent) > RECENT_MAX:
                del self._recent[next(iter(self._recent))]

    def _hold(self, name: ChunkHash, size: int, staged: bytes | None) -> None:
        with self._lock:
            held = self._held.get(name)
            if held is None:
                held = self._held[name] = _Held(size, staged=staged)
                self._bytes += size
            held.loose += 1

    def _file_lock(self, name: ChunkHash) -> threading.Lock:
        return self._file_locks[name[0] % len(self._file_locks)]

    def discard(self, name: ChunkHash) -> None:
        """No operation will name it after all: one loose pin less."""
        with self._lock:
            held = self._held.get(name)
            if held is None or held.loose == 0:
                return
            held.loose -= 1
        self._drop_unpinned([name], adopt=False)

    def pin(self, chunks: Iterable[Chunk]) -> tuple[tuple[Chunk, ...], tuple[Blob, ...] | None]:
        """Inside the transaction of the operation that names `chunks` (mirror.lock held): those that are
        dirty, now pinned by its record, each once; and the bytes of the small ones if all are at hand."""
        mine: dict[ChunkHash, Chunk] = {}
        blobs: list[Blob] = []
        whole = True
        with self._lock:
            for chunk in chunks:
                held = self._held.get(chunk.hash)
                if held is None or chunk.hash in mine:
                    continue
                held.records += 1
                mine[chunk.hash] = chunk
                if held.staged is not None:
                    blobs.append(Blob(chunk.hash, held.staged))
                elif held.size <= INLINE_MAX_BYTES:
                    whole = False
        self._store.put_checked((blob.hash, blob.data) for blob in blobs)
        return tuple(mine.values()), tuple(blobs) if whole else None

    def committed(self, chunks: Iterable[Chunk]) -> None:
        """The transaction of `pin` is through: a record holds now what was held loosely, in the store."""
        with self._lock:
            for chunk in chunks:
                held = self._held[chunk.hash]
                held.staged = None
                held.loose = max(0, held.loose - 1)

    def release(self, chunks: Iterable[Chunk], *, adopt: bool) -> None:
        """A record is gone (or was never committed): its chunks lose a pin. `adopt`: they are on the servers,
        the cache may keep them."""
        names: list[ChunkHash] = []
        with self._lock:
            for chunk in chunks:
                held = self._held.get(chunk.hash)
                if held is not None and held.records > 0:
                    held.records -= 1
                    names.append(chunk.hash)
        self._drop_unpinned(names, adopt=adopt)

    def _drop_unpinned(self, names: Iterable[ChunkHash], *, adopt: bool) -> None:
        rows: list[ChunkHash] = []
        for name in names:
            held = self._held.get(name)
            if held is None or held.loose > 0 or held.records > 0:
                continue
            if adopt and self.on_gone is not None:
                data = self.read(name)
                if data is not None:
                    self.on_gone(name, data)
            if held.size <= INLINE_MAX_BYTES:
                rows.append(name)
                continue
            with self._file_lock(name):  # who stores the same bytes now waits, and writes them anew
                if self._forget_unpinned(name):
                    self._store.delete_file(name)
        if rows:
            with self._changing():  # rows are written under mirror.lock only
                for name in rows:
                    if self._forget_unpinned(name):
                        self._store.delete(name)

    def _forget_unpinned(self, name: ChunkHash) -> bool:
        with self._lock:
            held = self._held.get(name)
            if held is None or held.loose > 0 or held.records > 0:
                return False  # somebody stored or named the same bytes meanwhile
            del self._held[name]
            self._recent.pop(name, None)
            self._bytes -= held.size
            return True

    # --- reading

    def read(self, name: ChunkHash) -> bytes | None:
        """The bytes, None if the chunk is not dirty or was damaged on this disk (then it was set aside)."""
        held = self._held.get(name)
        if held is None:
            return None
        known = held.staged or self._recent.get(name)
        if known is not None:
            return known
        try:
            return self._store.get(name)
        except HashMismatch as error:
            log.warning("dirty content is damaged on this disk: %s", error)
            return None

    def has(self, name: ChunkHash) -> bool:
        return name in self._held

    def sync(self) -> None:
        """All that is stored, on the disk. Raises StorageFailed."""
        self._store.sync()

    # --- after a restart

    def recover(self, wanted: Iterable[tuple[Chunk, ...]]) -> list[tuple[Chunk, ...]]:
        """Pin again what the records of an earlier run need, and forget the rest; the chunks found, record by
        record."""
        found: list[tuple[Chunk, ...]] = []
        sizes: dict[ChunkHash, int] = {}
        for name in self._store.names():
            size = self._store.size(name)
            if size is not None:
                sizes[name] = size
        for chunks in wanted:
            mine = {chunk.hash: chunk for chunk in chunks if chunk.hash in sizes}
            for name in mine:
                held = self._held.get(name)
                if held is None:
                    held = self._held[name] = _Held(sizes[name])
                    self._bytes += sizes[name]
                held.records += 1
            found.append(tuple(mine.values()))
        for name in sizes:
            if name not in self._held:
                self._store.delete(name)
        return found
