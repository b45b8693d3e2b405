"""Storage servers in this process, and links to them that a test can cut, silence and make forget answers.

A fake server is a real replica with a clock; two of them merge when told to. No network, no waiting.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gdah_volume.content import ChunkHash, hash_of
from gdah_volume.database import Database
from gdah_volume.errors import FileSystemError, GdahError, NoSpace, UnknownChunk, Unreachable
from gdah_volume.ids import Epoch, OpId, ServerId
from gdah_volume.operations import Operation, chunks_in
from gdah_volume.replica import Replica
from gdah_volume.snapshot_file import SnapshotHeader
from gdah_volume.stamps import ZERO, HybridClock, Stamp
from gdah_volume.wire import PROTOCOL, Blob, Entry, Welcome
from mountfs.ports import ServerHealth
from mountfs.sync.upstream import Upstream

_clock = itertools.count(1_000_000)


class FakeServer:
    """`behave` decides about the next answers; everything that was asked is in `asked`."""

    def __init__(self, name: str, *, clock_speed: int = 1) -> None:
        """`clock_speed`: of its wall clock, which nobody must rely on."""
        self.id = ServerId(name)
        self.url = f"http://{name}"
        self.epoch = Epoch("e1")
        self.database = Database(":memory:")
        self.replica = Replica(self.database)
        self.clock = HybridClock(self.id, now_us=lambda: next(_clock) * clock_speed)
        self.chunks: dict[bytes, bytes] = {}
        self.health = ServerHealth()
        self.link: FakeLink | None = None
        self.copies = 1
        self.of = 2
        self.lose_acks = False
        """Logs operations, and answers nothing."""
        self.hold_acks = False
        """Acknowledgements wait in `held_acks` until somebody calls them."""
        self.held_acks: list[Callable[[], None]] = []
        self.deaf = False
        """Hears nothing at all."""
        self.refuse: GdahError | None = None
        self.asked: list[tuple[Any, ...]] = []
        self.locks = False
        """Knows about locks."""
        self.everywhere: int | None = None
        """What beats say; None: all of the log."""
        self.lock = threading.RLock()

    # --- links

    def connect(self, upstream: Upstream) -> FakeLink:
        link = self.link = FakeLink(self, upstream)
        self.health.connected = True
        link.start()
        link.tell(
            lambda: upstream.on_up(
                link,
                Welcome(
                    protocol=PROTOCOL,
                    server=self.id,
                    epoch=self.epoch,
                    software="fake",
                    head=self.replica.head,
                    first=self.replica.first,
                    stable=self.replica.stable,
                    members=(),
                    locks=self.locks,
                ),
            )
        )
        return link

    def beat(self, *, stable: bool = False) -> None:
        """As the server's beats: figures, and everything up to the head is held everywhere."""
        link = self.link
        assert link is not None
        with self.lock:
            health = self.health
            health.head = self.replica.head
            health.digest = self.replica.digest.hex()
            health.everywhere = self.replica.head if self.everywhere is None else self.everywhere
            health.stable = Stamp(self.clock.last, ServerId("~")) if stable else ZERO
        link.tell(lambda: link.upstream.on_beat(link))

    # --- what a server does

    def stamp(self, op: Operation, floor: Stamp, blobs: tuple[Blob, ...], *, strict: bool) -> tuple[Stamp, int]:
        """Raises the refusal."""
        with self.lock:
            known = self.replica.stamp_of(op.id)
            if known is not None:
                return known, self.replica.head
            if self.refuse is not None:
                refusal, self.refuse = self.refuse, None
                raise refusal
            brought = {blob.hash: blob.data for blob in blobs}
            for chunk in chunks_in(op):
                if chunk.hash not in brought and chunk.hash not in self.chunks:
                    raise UnknownChunk(chunk.hash.hex())
            stamp = self.clock.next(floor.clock)
            with self.database.transaction():
                if strict:
                    self.replica.offer(op, stamp)
                else:
                    self.replica.accept(op, stamp)
            self.chunks.update(brought)
            position = self.replica.head
        self.publish([Entry(position, stamp, op)])
        return stamp, position

    def publish(self, entries: list[Entry]) -> None:
        link = self.link
        if link is not None and link.subscribed and not self.deaf:
            everywhere = entries[-1].position if self.everywhere is None else self.everywhere
            link.tell(lambda: link.upstream.on_feed(link, tuple(entries), everywhere, ZERO))

    def take(self, entries: tuple[Entry, ...]) -> None:
        """Operations with stamps, handed over or from a peer."""
        with self.lock:
            for entry in entries:
                before = self.replica.head
                with self.database.transaction():
                    self.replica.accept(entry.op, entry.stamp)
                self.clock.observe(entry.stamp.clock)
                self.chunks.update({blob.hash: blob.data for blob in entry.blobs})
                if self.replica.head > before:
                    self.publish([Entry(self.replica.head, entry.stamp, entry.op)])

    def merge(self, other: FakeServer) -> None:
        """Both have all of both."""
        for one, two in ((self, other), (other, self)):
            two.take(tuple(Entry(0, s, o) for _, s, o in one.replica.entries_after(0, 1 << 30)))
            two.chunks.update(one.chunks)

    def dump(self) -> tuple[SnapshotHeader, list[tuple[str, list[tuple[Any, ...]]]]]:
        with self.lock:
            header = SnapshotHeader(self.id, self.epoch, self.replica.head, self.replica.stable, 1)
            return header, list(self.replica.dump())

    @property
    def log(self) -> list[OpId]:
        return [op.id for _, _, op in self.replica.entries_after(0, 1 << 30)]


class FakeLink:
    """Implements ports.ServerLink; one thread tells the upstream what the server says, in order."""

    def __init__(self, server: FakeServer, upstream: Upstream) -> None:
        self.peer = server
        self.upstream = upstream
        self.url = server.url
        self.server: ServerId | None = server.id
        self.epoch: Epoch | None = server.epoch
        self.health = server.health
        self.subscribed = False
        self.down = False
        self._told: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while (event := self._told.get()) is not None:
            event()

    def tell(self, event: Callable[[], None]) -> None:
        if not self.down:
            self._told.put(event)

    def _ask(self, *asked: Any) -> bool:
        if self.down:
            raise Unreachable("down")
        self.peer.asked.append(asked)
        return not self.peer.deaf

    def submit(self, op: Operation, floor: Stamp, blobs: tuple[Blob, ...], *, strict: bool, sync: bool) -> None:
        if not self._ask("submit", op.id, strict, sync):
            return
        try:
            stamp, position = self.peer.stamp(op, floor, blobs, strict=strict)
        except GdahError as refusal:
            code, text = refusal.code, str(refusal)
            self.tell(lambda: self.upstream.on_refused(self, op.id, code, text))
            return
        copies, of = self.peer.copies, self.peer.of

        def acknowledge() -> None:
            self.tell(lambda: self.upstream.on_ack(self, op.id, stamp, position, copies, of))

        if self.peer.hold_acks:
            self.peer.held_acks.append(acknowledge)
        elif not self.peer.lose_acks:
            acknowledge()

    def subscribe(self, cursor: int | None, above: Stamp | None, last: str = "") -> None:
        if not self._ask("subscribe", cursor, above, last):
            return
        replica = self.peer.replica
        if cursor is not None and cursor + 1 < replica.first:
            self.tell(lambda: self.upstream.on_snapshot_needed(self, replica.first))
            return
        self.subscribed = True
        with self.peer.lock:
            found = replica.entries_after(cursor or 0, 1 << 30)
        entries = tuple(
            Entry(position, stamp, op)
            for position, stamp, op in found
            if cursor is not None or above is None or stamp > above
        )
        if entries:
            everywhere = 0 if self.peer.everywhere is None else self.peer.everywhere
            self.tell(lambda: self.upstream.on_feed(self, entries, everywhere, ZERO))

    def offer(self, stamped: tuple[tuple[OpId, Stamp], ...]) -> None:
        if not self._ask("offer", stamped):
            return
        wanted = []
        for op, stamp in stamped:
            known = self.peer.replica.stamp_of(op)
            if known is None or stamp < known:
                wanted.append(op)
        self.tell(lambda: self.upstream.on_want(self, tuple(wanted)))

    def hand_over(self, entries: tuple[Entry, ...], *, last: bool) -> None:
        if self._ask("handover", tuple(entry.op.id for entry in entries), last):
            self.peer.take(entries)
            if last:
                head = self.peer.replica.head
                self.tell(lambda: self.upstream.on_handed_over(self, head))

    def tell_lock(self, message: Any) -> None:
        self._ask("lock", message)

    def drop(self, reason: str) -> None:
        if not self.down:
            self._told.put(lambda: self.upstream.on_down(self, reason))
            self._told.put(None)
            self.down = True
            self.peer.health.connected = False
            self.peer.link = None

    cut = drop


class FakeData:
    """The data lane to fake servers: `store` as Uploads wants it, snapshots as Feeding wants them."""

    def __init__(self, servers: list[FakeServer], folder: Path) -> None:
        self._servers = {server.url: server for server in servers}
        self._folder = folder
        self.stored: list[tuple[str, ChunkHash]] = []
        self.full: set[str] = set()
        self.hang = threading.Event()
        self.hang.set()
        self._fetched: dict[Path, FakeServer] = {}

    def replace(self, server: FakeServer) -> None:
        """Another one answers at its URL from now on."""
        self._servers[server.url] = server

    def store(self, url: str, name: ChunkHash, data: bytes) -> int:
        self.hang.wait(30)
        server = self._servers[url]
        if server.deaf:
            raise Unreachable("deaf")
        if url in self.full:
            raise NoSpace("full")
        assert hash_of(data) == name
        server.chunks[name] = data
        self.stored.append((url, name))
        return server.copies

    def fetch(self, url: str, done: Callable[[Path | GdahError], None]) -> None:
        path = self._folder / "snapshot"
        path.touch()
        self._fetched[path] = self._servers[url]
        done(path)

    def read(self, path: Path) -> tuple[SnapshotHeader, list[tuple[str, list[tuple[Any, ...]]]]]:
        return self._fetched[path].dump()


def strict_refusal(kind: type[FileSystemError]) -> FileSystemError:
    return kind("as the test wants it")
