"""Many operations of one client at one server, in a realistic mix, as fast as the server takes them.

They go through the operation lane, as a mount's do (which takes about 7 ms for each that a program waits for; here 256
are on their way). The client knows what its folder must hold at the end. Threading: one thread each.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from gdah_volume.ids import ROOT, LinkId, NodeId, OpId, Version
from gdah_volume.operations import Operation, Rename, SetAttr, Unlink
from gdah_volume.wire import Ack, Blob
from tests.server.lane_client import Identity, LaneClient

WINDOW = 256
FILES_PER_FOLDER = 100
_MIX = ("create",) * 46 + ("write",) * 22 + ("rename",) * 10 + ("unlink",) * 14 + ("setattr",) * 8


@dataclass(slots=True)
class Known:
    """A file as this client sees it."""

    node: NodeId
    rev: OpId
    version: OpId
    folder: int
    name: bytes
    data: bytes


class SideLoad:
    """Invariant: `files` is what the folder `name` holds once all that was sent is acknowledged."""

    def __init__(self, url: str, name: str, seed: int) -> None:
        self.name = name
        self.sent = 0
        self.files: list[Known] = []
        self._random = random.Random(seed)
        self._lane = LaneClient(url, Identity(name))
        self._ids: list[OpId] = []
        self._folders: list[NodeId] = []
        self._made = 0
        self._top = self._folder(name.encode(), ROOT)

    def run(self, operations: int) -> None:
        """All are acknowledged when it returns."""
        while self.sent < operations:
            if self._made >= FILES_PER_FOLDER * len(self._folders):
                self._folders.append(self._folder(b"folder-%d" % len(self._folders), self._top))
                continue
            what = self._random.choice(_MIX)
            if what == "create" or len(self.files) < 10:
                self._create()
            else:
                getattr(self, f"_{what}")(self._random.randrange(len(self.files)))
        self._wait(0)

    def expected(self) -> dict[str, bytes]:
        """Path to content."""
        return {f"{self.name}/folder-{file.folder}/{file.name.decode()}": file.data for file in self.files}

    def close(self) -> None:
        self._lane.close()

    # --- one operation each

    def _send(self, op: Operation, blobs: tuple[Blob, ...] = ()) -> OpId:
        self._ids.append(self._lane.submit(op, blobs, strict=False))
        self.sent += 1
        self._wait(WINDOW)
        return op.id

    def _wait(self, left: int) -> None:
        if len(self._ids) > left:
            oldest = self._ids[-left - 1]
            answer = self._lane.answer(oldest, 60.0)
            assert isinstance(answer, Ack), answer

    def _folder(self, name: bytes, parent: NodeId) -> NodeId:
        op, _ = self._lane.identity.create(name, parent=parent, kind="dir")
        return NodeId(self._send(op))

    def _data(self) -> bytes:
        return b"%s %d " % (self.name.encode(), self.sent) + self._random.randbytes(self._random.randrange(10, 400))

    def _create(self) -> None:
        folder, data = self._random.randrange(len(self._folders)), self._data()
        name = b"file-%d" % self._made
        self._made += 1
        op, blobs = self._lane.identity.create(name, data, parent=self._folders[folder])
        self._send(op, blobs)
        self.files.append(Known(NodeId(op.id), op.id, op.id, folder, name, data))

    def _write(self, index: int) -> None:
        file = self.files[index]
        file.data = self._data()
        op, blobs = self._lane.identity.write(file.node, Version(file.version), file.data, file.name)
        file.version = self._send(op, blobs)

    def _rename(self, index: int) -> None:
        file = self.files[index]
        file.folder, file.name = self._random.randrange(len(self._folders)), b"moved-%d" % self.sent
        file.rev = self._send(
            Rename(
                id=self._lane.identity.next_id(),
                time_ns=time.time_ns(),
                link=LinkId(file.node),
                node=file.node,
                version=Version(file.version),
                parent=self._folders[file.folder],
                name=file.name,
            )
        )

    def _unlink(self, index: int) -> None:
        file = self.files.pop(index)
        self._send(
            Unlink(
                id=self._lane.identity.next_id(),
                time_ns=time.time_ns(),
                link=LinkId(file.node),
                rev=Version(file.rev),
                node=file.node,
                version=Version(file.version),
                last=True,
            )
        )

    def _setattr(self, index: int) -> None:
        file = self.files[index]
        mode = self._random.choice((0o600, 0o640, 0o755))
        self._send(
            SetAttr(
                id=self._lane.identity.next_id(),
                time_ns=time.time_ns(),
                node=file.node,
                version=Version(file.version),
                mode=mode,
            )
        )
