"""A mount's sync side on a temporary folder, without any network; operations as the file system builds them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gdah_volume.brake import BrakeLimits
from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import Chunk, Content
from gdah_volume.database import Database
from gdah_volume.errors import NotFound
from gdah_volume.ids import ROOT, Author, NodeId, OpId
from gdah_volume.operations import Attrs, Create, Operation, Rename, Unlink, Write
from gdah_volume.replica import Replica
from mountfs.sync.changelog import ChangeLog
from mountfs.sync.dirty import DirtyChunks, Limits
from mountfs.sync.mirror import Mirror
from mountfs.sync.pending import Ticket

_boots = itertools.count(1)


class Programs:
    """What programs do, through any change log."""

    mirror: Mirror
    log: ChangeLog

    def create(
        self, name: str, *, kind: str = "file", parent: NodeId = ROOT, wait: bool = True, sync: bool = False
    ) -> Ticket:
        def build(op: OpId, time_ns: int) -> Operation:
            attrs = Attrs(mode=0o644, uid=1, gid=1, mtime_ns=time_ns, atime_ns=time_ns)
            return Create(id=op, time_ns=time_ns, kind=kind, parent=parent, name=name.encode(), attrs=attrs)  # type: ignore[arg-type]

        return self.log.perform(build, wait=wait, sync=sync)

    def write(self, name: str, data: bytes, *, wait: bool = True, sync: bool = False) -> Ticket:
        chunks = ()
        if data:
            chunk = self.log.store_chunk(data)
            chunks = (Chunk(0, chunk, len(data)),)

        def build(op: OpId, time_ns: int) -> Operation:
            link = self.mirror.tree.lookup(ROOT, name.encode())
            if link is None:
                raise NotFound(name)
            return Write(
                id=op,
                time_ns=time_ns,
                node=link.node,
                base=self.mirror.tree.seen_version(link.node),
                content=Content(len(data), chunks),
                name=name.encode(),
                mtime_ns=time_ns,
            )

        return self.log.perform(build, wait=wait, sync=sync)

    def copy(self, name: str, to: str) -> Ticket:
        """The content of one file into another, without storing it again."""

        def build(op: OpId, time_ns: int) -> Operation:
            tree = self.mirror.tree
            source, target = tree.lookup(ROOT, name.encode()), tree.lookup(ROOT, to.encode())
            assert source is not None
            assert target is not None
            return Write(
                id=op,
                time_ns=time_ns,
                node=target.node,
                base=tree.seen_version(target.node),
                content=tree.node(source.node).content,
                name=to.encode(),
                mtime_ns=time_ns,
            )

        return self.log.perform(build)

    def unlink(self, name: str, *, wait: bool = True) -> Ticket:
        def build(op: OpId, time_ns: int) -> Operation:
            tree = self.mirror.tree
            link = tree.lookup(ROOT, name.encode())
            if link is None:
                raise NotFound(name)
            return Unlink(
                id=op,
                time_ns=time_ns,
                link=link.link,
                rev=link.rev,
                node=link.node,
                version=tree.seen_version(link.node),
                last=tree.is_last_name(link),
            )

        return self.log.perform(build, wait=wait)

    def rename(self, name: str, new: str, *, wait: bool = True) -> Ticket:
        def build(op: OpId, time_ns: int) -> Operation:
            tree = self.mirror.tree
            link = tree.lookup(ROOT, name.encode())
            if link is None:
                raise NotFound(name)
            return Rename(
                id=op,
                time_ns=time_ns,
                link=link.link,
                node=link.node,
                version=tree.seen_version(link.node),
                parent=ROOT,
                name=new.encode(),
            )

        return self.log.perform(build, wait=wait)

    def names(self) -> list[str]:
        with self.mirror.lock:
            return [name.decode() for name, _, _ in self.mirror.tree.entries(ROOT)]

    def in_thread(self, work: Callable[[], object]) -> Waiter:
        return Waiter(work)


class World(Programs):
    """Everything that one run of a mount keeps on disk. `again()` is the same folder after kill -9."""

    def __init__(
        self,
        folder: Path,
        *,
        replicated: bool = True,
        limits: Limits | None = None,
        free: Callable[[], int] = lambda: 1 << 40,
        client: str = "laptop-a1b2c3",
        records_max: int = 1_000_000,
        brake: BrakeLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.database = Database(folder / "mirror.db")
        self.mirror = Mirror(Replica(self.database))
        self.store = ChunkStore(folder / "dirty", self.database, lock=self.mirror.lock)
        self.dirty = DirtyChunks(self.store, limits or Limits(), free, self.mirror.changing)
        self.adopted: dict[bytes, bytes] = {}
        self.dirty.on_gone = self.adopted.__setitem__
        self.client = client
        self._settings = {"replicated": replicated, "records_max": records_max}
        self._limits = limits
        self._free = free
        self._brake = brake
        self._monotonic = monotonic
        self.log = ChangeLog(
            self.mirror,
            self.dirty,
            Author(f"{client}-{next(_boots):08x}"),
            replicated=replicated,
            records_max=records_max,
            brake=brake,
            monotonic=monotonic,
        )

    def again(self) -> World:
        self.database.close()
        return World(
            self.folder,
            replicated=bool(self._settings["replicated"]),
            limits=self._limits,
            free=self._free,
            client=self.client,
            brake=self._brake,
            monotonic=self._monotonic,
        )


class Through(Programs):
    """Programs on a whole sync side."""

    def __init__(self, mirror: Mirror, log: ChangeLog) -> None:
        self.mirror = mirror
        self.log = log


class Waiter:
    """A program in a thread: its result, or what it raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:
            self.error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def join(self, timeout_s: float = 30.0) -> Waiter:
        self._thread.join(timeout_s)
        assert self.done, "still waiting"
        return self
