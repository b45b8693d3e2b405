"""A device with a brake and one server, without any network: programs as the file system builds their operations.

The server takes strictly whatever is sent: what flows past the brake must be right without what is held.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from gdah_volume.brake import BrakeLimits
from gdah_volume.content import Chunk, Content, content_of
from gdah_volume.database import Database
from gdah_volume.ids import ROOT, Author, NodeId, OpId, ServerId
from gdah_volume.names import is_conflict
from gdah_volume.operations import Operation, Write
from gdah_volume.replica import Replica
from gdah_volume.stamps import Stamp
from gdah_volume.tree import Tree
from mountfs.files import intents
from mountfs.ports import Caller
from tests.sync.worlds import World

ME = Caller(1, 1, 1)
Shape = dict[str, str | bytes]
"""Path -> "dir", or the content of a file."""


def shape_of(tree: Tree) -> Shape:
    found: Shape = {}
    for path, node in tree.walk():
        found[path.decode()] = "dir" if node.kind == "dir" else b"".join(c.hash for c in node.content.chunks)
    return found


def conflicts_in(shape: Shape) -> list[str]:
    return [path for path in shape if is_conflict(path.rpartition("/")[2].encode())]


class Server:
    def __init__(self) -> None:
        self.replica = Replica(Database(":memory:"))
        self._clock = itertools.count(1)
        self.log: list[OpId] = []

    def stamp(self) -> Stamp:
        return Stamp(next(self._clock), ServerId("s1"))

    def accept(self, op: Operation, stamp: Stamp) -> None:
        with self.replica.database.transaction():
            self.replica.accept(op, stamp)

    def take(self, op: Operation, *, strict: bool) -> Stamp:
        stamp = self.stamp()
        if strict and not isinstance(op, Write):
            with self.replica.database.transaction():
                self.replica.offer(op, stamp)
        else:
            self.accept(op, stamp)
        self.log.append(op.id)
        return stamp

    @property
    def shape(self) -> Shape:
        return shape_of(self.replica.tree)


class Device:
    """Programs by path; `now` is this device's clock."""

    def __init__(self, folder: Path, server: Server, limits: BrakeLimits, client: str = "laptop-a1b2c3") -> None:
        self.now = 1000.0
        self.server = server
        self.world = World(folder, brake=limits, client=client, monotonic=lambda: self.now)

    @property
    def log(self):  # type: ignore[no-untyped-def]
        return self.world.log

    @property
    def holding(self):  # type: ignore[no-untyped-def]
        return self.world.log.holding

    @property
    def tree(self) -> Tree:
        return self.world.mirror.tree

    @property
    def shape(self) -> Shape:
        return shape_of(self.tree)

    def at(self, path: str) -> tuple[NodeId, bytes]:
        above, _, name = path.rpartition("/")
        folder = ROOT if not above else intents.must(self.tree, *self.at(above)).node
        return folder, name.encode()

    def node(self, path: str) -> NodeId:
        return intents.must(self.tree, *self.at(path)).node

    def do(self, build: intents.Builder) -> OpId:
        return self.log.perform(build).op

    def create(self, path: str) -> OpId:
        return self.do(intents.create(self.tree, *self.at(path), "file", 0o644, ME))

    def mkdir(self, path: str) -> OpId:
        return self.do(intents.create(self.tree, *self.at(path), "dir", 0o755, ME))

    def write(self, path: str, data: bytes) -> OpId:
        node = self.node(path)
        content = Content(len(data), (Chunk(0, self.log.store_chunk(data), len(data)),)) if data else content_of(b"")
        name = path.rpartition("/")[2].encode()
        return self.do(intents.write(node, self.tree.seen_version(node), content, name, 1, clear_suid=False))

    def save(self, path: str, data: bytes) -> None:
        self.create(path)
        self.write(path, data)

    def unlink(self, path: str) -> OpId:
        return self.do(intents.unlink(self.tree, *self.at(path)))

    def rmdir(self, path: str) -> OpId:
        return self.do(intents.rmdir(self.tree, *self.at(path)))

    def rename(self, path: str, to: str) -> OpId:
        return self.do(intents.rename(self.tree, *self.at(path), *self.at(to), 0))

    def exchange(self, path: str, to: str) -> OpId:
        return self.do(intents.exchange(self.tree, *self.at(path), *self.at(to)))

    def link(self, path: str, to: str) -> OpId:
        return self.do(intents.link(self.tree, self.node(path), *self.at(to)))

    def chmod(self, path: str, mode: int) -> OpId:
        return self.do(intents.set_attributes(self.tree, self.node(path), lambda _view, _now: {"mode": mode}))

    # --- what happens to it

    def send(self, *, strict: bool = True) -> None:
        """Everything that may be sent, in order; acknowledged, and back by the feed."""
        outbox = self.log.outbox
        while (record := outbox.first_to_send()) is not None:
            op = outbox.take(record, 1)
            assert op is not None
            self.heard(op, self.server.take(op, strict=strict))
            outbox.acknowledge(op.id, 1, 1)

    def heard(self, op: Operation, stamp: Stamp) -> None:
        with self.world.mirror.changing() as replica:
            changes = replica.accept(op, stamp)
        self.world.mirror.notify(changes)

    def catch_up(self) -> None:
        """The server's whole log; what is known is no news."""
        for _, stamp, op in self.server.replica.entries_after(0, 100_000):
            self.heard(op, stamp)
            self.log.outbox.acknowledge(op.id, 1, 1)

    def crash(self) -> None:
        self.world = self.world.again()

    def is_held(self, op: OpId) -> bool:
        return bool(self.holding.holds(op))


def other(server: Server, device: Device, author: str = "desk-d4e5f6-00000001"):  # type: ignore[no-untyped-def]
    """Somebody else's operation, given to the server and heard by the device."""
    sequence = itertools.count(1)

    def performs(build: intents.Builder) -> OpId:
        op = build(OpId(f"{Author(author)}-{next(sequence)}"), 1)
        device.heard(op, server.take(op, strict=False))
        return op.id

    return performs
