"""Data folders of a server, made without one: the log, the tree and the chunks as a server would leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import CHUNK_SIZE, Content, content_of
from gdah_volume.database import Database
from gdah_volume.ids import DEFAULT_VOLUME, NodeId, OpId
from gdah_volume.layout import of_server
from gdah_volume.operations import Attrs, Create, Operation, Write
from gdah_volume.replica import Replica
from tests.foldkit import Client, stamp

BIG = bytes(range(256)) * 1024  # 256 KiB: a file of its own


class Folder:
    """Invariant: while it is open, everything that was done is committed."""

    def __init__(self, data: Path, server: str = "s1") -> None:
        self.data = data
        self.server = server
        self.place = of_server(data, DEFAULT_VOLUME)
        self.place.folder.mkdir(parents=True, exist_ok=True)
        self.database = Database(self.place.database)
        self.chunks = ChunkStore(self.place.chunks[0], self.database)
        self.replica = Replica(self.database)
        self.client = Client("laptop", self.replica.tree)
        self.clock = 1000
        if self.replica.operations:
            return
        with self.database.transaction():
            self.database.set_meta("server", server)
            self.database.set_meta("epoch", "0" * 8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def do(self, op: Operation) -> OpId:
        self.clock += 10
        with self.database.transaction():
            self.replica.accept(op, stamp(self.clock, self.server))
        return op.id

    def put(self, data: bytes) -> Content:
        content, blobs = content_of(data)
        for name, piece in blobs.items():
            self.chunks.put_named(name, piece)
        return content

    def write(self, path: str, data: bytes = b"", **more: Any) -> OpId:
        """Make a file, or a new version of it."""
        content = self.put(data)
        if self.replica.tree.at_path(path.encode()) is not None:
            link = self.client.at(path)
            base = self.replica.tree.seen_version(link.node)
            named = self.client.next()
            return self.do(
                Write(**named, node=link.node, base=base, content=content, name=link.name, mtime_ns=99_000_000_000)
            )
        parent, name = self.client.parent(path)
        return self.create(parent, name, content=content, **more)

    def create(self, parent: NodeId, name: bytes, **more: Any) -> OpId:
        more.setdefault("attrs", Attrs(0o640, 1000, 1001, 5_000_000_001, 6_000_000_002))
        more.setdefault("kind", "file")
        return self.do(Create(**self.client.next(), parent=parent, name=name, **more))


def fill(folder: Folder) -> None:
    """Something of everything."""
    do, client = folder.do, folder.client
    do(client.mkdir("docs"))
    do(client.mkdir("docs/deep"))
    folder.write("docs/a.txt", b"one")
    folder.write("docs/a.txt", b"two")
    folder.write("docs/deep/big.bin", BIG)
    folder.write("sparse", b"")
    link = client.at("sparse")
    one = folder.put(BIG).chunks[0]
    content = Content(5 * CHUNK_SIZE, (type(one)(2, one.hash, one.length),))
    base = folder.replica.tree.seen_version(link.node)
    do(Write(**client.next(), node=link.node, base=base, content=content, name=b"sparse", mtime_ns=7_000_000_000))
    do(client.link("docs/a.txt", "docs/deep/hard"))
    do(client.create("link", kind="symlink", target=b"/etc/passwd"))
    do(client.create("pipe", kind="fifo"))
    attrs = Attrs(0o600, 0, 0, 1, 1, xattrs={b"user.colour": b"red"})
    folder.write("private", b"secret", attrs=attrs)
    folder.write("docs/gone.txt", b"was here")
    do(client.unlink("docs/gone.txt"))
    do(client.mkdir("old"))
    folder.write("old/x", b"in a removed folder")
    do(client.unlink("old/x"))
    do(client.rmdir("old"))
    folder.create(client.at("docs").node, b"odd \xff\n name")


def told_tree(folder: Folder) -> dict[bytes, Any]:
    """What the API of the volume says: path -> (kind, mode, owner, mtime, size, target, content)."""
    found: dict[bytes, Any] = {}
    for path, view in folder.replica.tree.walk():
        data = None
        if view.kind == "file":
            buffer = bytearray(view.size)
            for chunk in view.content.chunks:
                at = chunk.index * CHUNK_SIZE
                buffer[at : at + chunk.length] = folder.chunks.get(chunk.hash) or b""
            data = bytes(buffer)
        mode = None if view.kind == "symlink" else view.mode
        found[path] = (view.kind, mode, (view.uid, view.gid), view.mtime_ns, view.target, view.xattrs, data)
    return found
