"""A mount without kernel and servers: mirror, change log, cache, file system in one folder; to be killed and started.

`Stranger` is somebody on another device: what he did reaches the mirror as a server's feed would bring it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import ChunkHash, Content, content_of
from gdah_volume.database import Database
from gdah_volume.errors import ContentUnavailable
from gdah_volume.ids import NodeId, OpId, ServerId, new_author, op_id
from gdah_volume.operations import Operation
from gdah_volume.replica import Replica
from gdah_volume.stamps import Stamp
from mountfs.cache import Cache
from mountfs.files.filesystem import Filesystem
from mountfs.files.openfile import Parts
from mountfs.files.recovery import sealed_chunks
from mountfs.journal import Journals
from mountfs.ports import Caller, StatFs, Telling
from mountfs.sync.changelog import ChangeLog
from mountfs.sync.dirty import DirtyChunks, Limits
from mountfs.sync.mirror import Mirror

ROOT_CALLER = Caller(0, 0, os.getpid())


class Shelf:
    """Chunks that 'servers' hold. Implements `Transfer`. While `reachable` is False every fetch fails at once."""

    def __init__(self) -> None:
        self.chunks: dict[ChunkHash, bytes] = {}
        self.reachable = True
        self.fetched: list[ChunkHash] = []

    def add(self, data: bytes) -> Content:
        content, blobs = content_of(data)
        self.chunks |= blobs
        return content

    def fetch(self, chunk: ChunkHash, length: int) -> bytes:
        self.fetched.append(chunk)
        if not self.reachable or chunk not in self.chunks:
            raise ContentUnavailable("no server can be reached")
        return self.chunks[chunk]

    def store(self, server_url: str, chunk: ChunkHash, data: bytes, *, sync: bool) -> int:
        self.chunks[chunk] = data
        return 1


class RecordingKernel:
    """Implements `KernelCache`; remembers what it was told."""

    def __init__(self) -> None:
        self.inodes: list[int] = []
        self.entries: list[tuple[int, bytes]] = []
        self.everything = 0
        self.slow = False
        """It is told when somebody says `tell`."""
        self.while_telling: Callable[[], object] = lambda: None
        self.waiting: list[Telling] = []

    def invalidate_inode(self, ino: int, telling: Telling | None = None) -> None:
        self.inodes.append(ino)
        if telling is not None:
            self.waiting.append(telling)
        if not self.slow:
            self.tell()

    def tell(self) -> int:
        """How often it took."""
        waiting, self.waiting, times = self.waiting, [], 0
        while waiting:
            times += 1
            for telling in waiting:
                telling.telling()
            self.while_telling()
            waiting = [telling for telling in waiting if not telling.told()]
        return times

    def wait_told(self, ino: int, timeout_s: float) -> bool:
        return True

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        self.entries.append((parent, name))

    def invalidate_everything(self) -> None:
        self.everything += 1

    def after_all(self, done: Callable[[], None]) -> None:
        done()


class Device:
    def __init__(self, folder: Path, shelf: Shelf | None = None, *, device: str = "laptop") -> None:
        self.folder = folder
        self.shelf = shelf or Shelf()
        self.kernel = RecordingKernel()
        self._device = device
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        author = new_author(f"{self._device}-000001")
        self.database = Database(self.folder / "mirror.db")
        self.mirror = Mirror(Replica(self.database))
        self.store = ChunkStore(self.folder / "dirty", self.database, lock=self.mirror.lock)
        self.dirty = DirtyChunks(self.store, Limits(), lambda: 1 << 40, self.mirror.changing)
        self.journals = Journals(self.folder / "open")
        for name in sealed_chunks(self.journals.leftovers()):
            data = self.store.get(name)
            if data is not None:
                self.dirty.store(data)
        self.log = ChangeLog(self.mirror, self.dirty, author)
        self.cache = Cache(self.folder / "cache", self.shelf, max_bytes=1 << 30)
        self.cache.dirty = self.log.dirty_chunk
        self.dirty.on_gone = self.cache.adopt
        self.parts = Parts(self.mirror, self.log, self.cache, self.journals, self.kernel, self.log_time_ns)
        self.fs = Filesystem(self.parts, self.space, lambda caller: frozenset())
        self.mirror.add_witness(self.fs.invalidation.witness)
        self.mirror.add_listener(self.fs.invalidation.on_changes)
        self.mirror.add_reload_listener(self.fs.invalidation.on_reload)
        self.recovered = self.fs.recover(
            self.mirror.replica.operation, lambda op: op.startswith(f"{self._device}-000001-")
        )

    @staticmethod
    def log_time_ns() -> int:
        return time.time_ns()

    @staticmethod
    def space() -> StatFs:
        return StatFs(4096, 1 << 20, 1 << 19, 1 << 20, 1 << 19)

    def kill(self) -> None:
        """As kill -9 leaves it: nothing is flushed, nothing handed over."""
        self.fs.close()
        self.cache.close()
        self.journals.close()
        self.database.close()

    def restart(self) -> None:
        self.kill()
        self.start()

    def unmount(self) -> None:
        self.fs.flush_all()
        self.kill()

    # --- what somebody else did

    def feed(self, *operations: Operation, server: str = "s1") -> None:
        """Operations as a server stamps and feeds them, after all that it fed before."""
        changes = None
        with self.mirror.taking(operations) as replica:
            for op in operations:
                clock = max(replica.max_clock, 1_000_000) + 1
                told = replica.accept(op, Stamp(clock, ServerId(server)))
                changes = told if changes is None else changes | told
        if changes is not None:
            self.mirror.notify(changes)

    def feed_own(self) -> None:
        """The server logs everything that is pending here, and holds the content."""
        for op in self.mirror.replica.pending():
            self.feed(op)


class Stranger:
    """Somebody on another device: makes operations from what a device's mirror shows."""

    def __init__(self, device: Device, name: str = "phone") -> None:
        self._device = device
        self._author = new_author(f"{name}-000002")
        self._sequence = 0

    def next_id(self) -> OpId:
        self._sequence += 1
        return op_id(self._author, self._sequence)

    def does(self, build: Callable[[OpId, int], Operation]) -> Operation:
        """Build, without feeding it yet."""
        with self._device.mirror.lock:
            return build(self.next_id(), self._device.log_time_ns())

    def node(self, path: bytes) -> NodeId:
        with self._device.mirror.lock:
            found = self._device.mirror.tree.at_path(path)
            assert found is not None, path
            return found.node
