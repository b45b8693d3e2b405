"""The file side of a mount as one object: journals, cache and file system, constructed from settings.

The counterpart of the sync side; together they are a mount without its kernel. The steps, in this order::

    files = FileSide(settings)
    sync = SyncSide(settings, files.kept_chunks())   must not forget what only journals of the last run name
    files.open(sync, kernel_cache)
    files.recover()                                  how many files had unsaved edits
    ... serve ...
    files.close()

Threading: one thread starts and ends it; the parts say for themselves.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from gdah_volume.content import ChunkHash
from gdah_volume.ids import NodeId, OpId, VolumeName, client_of
from gdah_volume.operations import Operation
from mountfs.cache import Cache
from mountfs.files.attributes import AS_STORED, Shown
from mountfs.files.filesystem import Filesystem
from mountfs.files.openfile import Parts
from mountfs.files.recovery import sealed_chunks
from mountfs.journal import Journals
from mountfs.locks.locking import Locking
from mountfs.ports import Caller, KernelCache, ServerHealth, StatFs
from mountfs.syncside import SyncSide

BLOCK_BYTES = 4096
TOTALS_FRESH_S = 2.0
"""The volume is counted at most so often."""
FILES_MAX = 1 << 32
"""There is no limit on the number of files; statfs wants one."""


class Settings(Protocol):
    """What of a mount's settings matters here."""

    @property
    def cache_dir(self) -> Path: ...
    @property
    def volume(self) -> VolumeName: ...
    @property
    def cache_size_bytes(self) -> int: ...
    @property
    def min_free_bytes(self) -> int: ...
    @property
    def uid(self) -> int | None: ...
    @property
    def gid(self) -> int | None: ...
    @property
    def umask(self) -> int: ...


class FileSide:
    cache: Cache
    filesystem: Filesystem

    def __init__(self, settings: Settings) -> None:
        """Touches nothing but the folder: whether another mount uses it is not known yet."""
        self._settings = settings
        self._folder = settings.cache_dir / settings.volume
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.journals = Journals(self._folder / "open", min_free_bytes=settings.min_free_bytes)
        self._opened = False

    def kept_chunks(self) -> Iterator[ChunkHash]:
        """Chunks of the dirty store that only the journals of an earlier run name; read when it is iterated,
        by one who holds the folder's lock."""
        yield from sealed_chunks(self.journals.leftovers())

    def open(self, sync: SyncSide, kernel: KernelCache) -> None:
        """Nothing is recovered yet, and nothing called: listeners come first."""
        settings = self._settings
        self.cache = Cache(
            self._folder / "cache",
            sync.transfer,
            max_bytes=settings.cache_size_bytes,
            min_free_bytes=settings.min_free_bytes,
        )
        self.cache.dirty = sync.changelog.dirty_chunk
        sync.use_cache(self.cache.adopt, self.cache.peek)
        parts = Parts(sync.mirror, sync.changelog, self.cache, self.journals, kernel, time.time_ns)
        owner = os.geteuid(), os.getegid()
        shown = AS_STORED
        if settings.uid is not None or settings.gid is not None or settings.umask:
            shown = Shown(settings.uid, settings.gid, settings.umask)
        space = Space(sync, self._folder).figures
        locking = Locking(sync.author, LockSurroundings(self, sync, kernel))
        sync.upstream.locks = locking
        self.filesystem = Filesystem(parts, space, supplementary_groups, owner, shown=shown, locking=locking)
        self._mirror = sync.mirror
        self._client = sync.author.rpartition("-")[0]
        sync.mirror.add_witness(self.filesystem.invalidation.witness)
        sync.mirror.add_listener(self.filesystem.invalidation.on_changes)
        sync.mirror.add_reload_listener(self.filesystem.invalidation.on_reload)
        self._opened = True

    def recover(self) -> int:
        """Files that were open when the last run ended; their edits are operations now, or are tried again."""
        return self.filesystem.recover(self._logged, lambda op: client_of(op) == self._client)

    def _logged(self, op: OpId) -> Operation | None:
        with self._mirror.lock:
            return self._mirror.replica.operation(op)

    def close(self) -> None:
        """What is not saved stays in the journals."""
        if self._opened:
            self.filesystem.close()
            self.cache.close()
        self.journals.close()


class LockSurroundings:
    """Implements `locking.Surroundings`."""

    def __init__(self, files: FileSide, sync: SyncSide, kernel: KernelCache) -> None:
        self._files = files
        self._sync = sync
        self._kernel = kernel
        self.mark = sync.changelog.mark
        self.settled = sync.changelog.settled

    def save(self, node: NodeId, pids: set[int]) -> None:
        self._files.filesystem.locks.save(node, pids)

    def fence(self, position: int, then: Callable[[], None]) -> None:
        self._sync.upstream.fence(position, lambda: self._kernel.after_all(then))


class Space:
    """Free and used space as programs see it: of the server that has least room, of the cache's disk without
    servers."""

    def __init__(self, sync: SyncSide, folder: Path) -> None:
        self._sync = sync
        self._folder = folder
        self._lock = threading.Lock()
        self._counted_at = float("-inf")
        self._totals = (0, 0, 0)

    def figures(self) -> StatFs:
        files, folders, used = self._count()
        free = least_free(self._sync.healths)
        if free is None:
            disk = os.statvfs(self._folder)
            free = disk.f_bavail * disk.f_frsize
        free_blocks = free // BLOCK_BYTES
        return StatFs(
            block_size=BLOCK_BYTES,
            blocks=free_blocks - -used // BLOCK_BYTES,
            blocks_free=free_blocks,
            files=FILES_MAX,
            files_free=max(0, FILES_MAX - files - folders - 1),
        )

    def _count(self) -> tuple[int, int, int]:
        now = time.monotonic()
        with self._lock:
            if now - self._counted_at < TOTALS_FRESH_S:
                return self._totals
        mirror = self._sync.mirror
        with mirror.lock:
            totals = mirror.tree.totals()
        with self._lock:
            self._totals, self._counted_at = totals, now
        return totals


def least_free(healths: Sequence[tuple[str, ServerHealth]]) -> int | None:
    """Of the servers that are connected and have said it; None: none has."""
    return min((health.free_bytes for _, health in healths if health.connected and health.free_bytes), default=None)


def supplementary_groups(caller: Caller) -> frozenset[int]:
    """From the kernel's table of the calling process; none when it is gone."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{caller.pid}/status").read_text("ascii", "replace").splitlines():
            if line.startswith("Groups:"):
                return frozenset(int(group) for group in line.split()[1:])
    return frozenset()
