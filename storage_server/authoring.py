"""Operations that this server makes itself, for those who come with paths: the REST API and the original interface.

Builds an operation against the tree as it is now and submits it like a mount's, strictly: when the tree has moved on
meanwhile it is refused and built anew. Paths are bytes relative to the volume's root; the root is b"". Threading: the
event loop; trees are read in threads.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from gdah_volume.content import EMPTY, Content
from gdah_volume.errors import (
    Exists,
    FileSystemError,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    StaleHandle,
    from_code,
)
from gdah_volume.ids import ROOT, NodeId, OpId, check_name, op_id
from gdah_volume.operations import Attrs, Create, Kind, Operation, Rename, Replaced, Rmdir, Unlink, Write
from gdah_volume.stamps import ZERO
from gdah_volume.tree import LinkView, NodeView, Tree
from gdah_volume.wire import Ack, Blob, Refused
from storage_server.braking import Brakes
from storage_server.ports import Submission
from storage_server.volumes import Volume

T = TypeVar("T")
TRIES = 5
PATH_MAX_BYTES = 4096
FILE_MODE, DIR_MODE = 0o644, 0o755
REMOVE_PARALLEL = 32

Build = Callable[[Tree, OpId, int], Operation | None]


class _Request:
    """One submission of ours and who waits for it."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[Ack | Refused] = asyncio.get_running_loop().create_future()

    def answer(self, message: Ack | Refused) -> None:
        if not self.answered.done():
            self.answered.set_result(message)


def parts_of(path: bytes) -> list[bytes]:
    """The names of a relative path; b"" has none. Raises InvalidName, NameTooLong."""
    if len(path) > PATH_MAX_BYTES:
        raise FileSystemError(f"a path of {len(path)} bytes; at most {PATH_MAX_BYTES} are possible")
    return [check_name(name) for name in path.split(b"/")] if path else []


def look(tree: Tree, path: bytes) -> tuple[LinkView | None, NodeView]:
    """The link and the node at a path (the root has no link). Raises NotFound, NotADirectory."""
    node: NodeId = ROOT
    link: LinkView | None = None
    for name in parts_of(path):
        link = tree.lookup(node, name)
        if link is None:
            raise NotFound(f"there is no {path.decode(errors='replace')!r}")
        node = link.node
    return link, tree.node(node)


class Editor:
    """Invariant: operations of ours are submitted in the order of their sequences."""

    def __init__(self, volume: Volume, brakes: Brakes) -> None:
        self.volume = volume
        self.brakes = brakes
        self._sequence = 0
        self._order = asyncio.Lock()

    async def read(self, work: Callable[[Tree], T]) -> T:
        """Have a thread look at the tree."""

        def run() -> T:
            with self.volume.readers.replica() as replica, replica.database.snapshot():
                return work(replica.tree)

        return await asyncio.to_thread(run)

    async def perform(self, build: Build, blobs: Sequence[Blob] = (), *, sync: bool = False) -> Ack | None:
        """Make one operation and wait for its acknowledgement. `build` may find that nothing is to do (None)."""
        for attempt in range(TRIES):
            try:
                return await self._once(build, tuple(blobs), sync=sync)
            except (Exists, NotFound, StaleHandle, NotEmpty):
                if attempt == TRIES - 1:
                    raise
        raise AssertionError

    async def _once(self, build: Build, blobs: tuple[Blob, ...], *, sync: bool) -> Ack | None:
        request = _Request()
        async with self._order:
            name = op_id(self.volume.author, self._sequence + 1)
            op = await self.read(lambda tree: build(tree, name, time.time_ns()))
            if op is None:
                return None
            self._sequence += 1
            self.volume.submit(Submission(op=op, floor=ZERO, blobs=blobs, strict=True, sync=sync, asker=request))
        answer = await request.answered
        if isinstance(answer, Refused):
            raise from_code(answer.code, answer.message)
        return answer

    # --- what people want done

    async def make_dirs(self, path: bytes, origin: str = "") -> None:
        """A folder, with missing parents; one that is there is fine. Raises NotADirectory."""
        names = parts_of(path)
        for depth in range(1, len(names) + 1):
            above, name = b"/".join(names[: depth - 1]), names[depth - 1]

            def build(tree: Tree, op: OpId, now_ns: int, above: bytes = above, name: bytes = name) -> Operation | None:
                _, parent = look(tree, above)
                found = tree.lookup(parent.node, name)
                if found is not None:
                    if tree.kind(found.node) != "dir":
                        raise NotADirectory(f"{name.decode(errors='replace')!r} is no folder")
                    return None
                return _create(op, now_ns, parent, name, "dir", DIR_MODE, EMPTY, origin)

            await self.perform(build)

    async def write_file(
        self, path: bytes, content: Content, blobs: Sequence[Blob], *, origin: str = "", sync: bool = False
    ) -> Ack | None:
        """Create or replace a file; its larger chunks are stored already. Raises IsADirectory, NotADirectory."""
        names = parts_of(path)
        if not names:
            raise IsADirectory("the volume itself is no file")
        await self.make_dirs(b"/".join(names[:-1]), origin)

        def build(tree: Tree, op: OpId, now_ns: int) -> Operation:
            _, parent = look(tree, b"/".join(names[:-1]))
            found = tree.lookup(parent.node, names[-1])
            if found is None:
                return _create(op, now_ns, parent, names[-1], "file", FILE_MODE, content, origin)
            if tree.kind(found.node) != "file":
                raise IsADirectory(f"{path.decode(errors='replace')!r} is no file")
            return Write(
                id=op,
                time_ns=now_ns,
                origin=origin,
                node=found.node,
                base=tree.seen_version(found.node),
                content=content,
                name=names[-1],
                mtime_ns=now_ns,
            )

        return await self.perform(build, blobs, sync=sync)

    async def remove(self, path: bytes, *, recursive: bool, source: str, origin: str = "") -> None:
        """Raises NotFound, NotEmpty (a folder with entries, unless `recursive`), HeldByBrake (too many of late from
        this source; then nothing was changed)."""
        if not parts_of(path):
            raise NotPermitted("the volume itself cannot be removed")
        count = await self.read(lambda tree: _names_at(tree, path) if recursive else 1)
        entries = 0
        if self.brakes.needs_entries(source, count):
            entries = await self.read(lambda tree: sum(tree.totals()[:2]))
        self.brakes.let_through(source, count, entries)
        await self._remove(path, recursive=recursive, origin=origin)

    async def _remove(self, path: bytes, *, recursive: bool, origin: str) -> None:
        if recursive:
            await self._empty(path, origin)

        def build(tree: Tree, op: OpId, now_ns: int) -> Operation:
            link, node = look(tree, path)
            assert link is not None
            if node.kind == "dir":
                return Rmdir(
                    id=op, time_ns=now_ns, origin=origin, link=link.link, rev=link.rev, node=link.node,
                    also=tree.aliases_into(link.node),
                )  # fmt: skip
            return Unlink(
                id=op, time_ns=now_ns, origin=origin, link=link.link, rev=link.rev, node=link.node,
                version=tree.seen_version(link.node), last=tree.is_last_name(link),
                also=tree.aliases_into(link.node),
            )  # fmt: skip

        await self.perform(build)

    async def _empty(self, path: bytes, origin: str) -> None:
        def children(tree: Tree) -> list[bytes]:
            _, node = look(tree, path)
            return [name for name, _, _ in tree.entries(node.node)] if node.kind == "dir" else []

        names = await self.read(children)
        for start in range(0, len(names), REMOVE_PARALLEL):
            part = names[start : start + REMOVE_PARALLEL]
            await asyncio.gather(*(self._remove(path + b"/" + name, recursive=True, origin=origin) for name in part))

    async def move(self, path: bytes, dest: bytes, origin: str = "") -> None:
        """Rename, with missing parents; replaces a file. Raises NotFound, Exists, NotPermitted."""
        names = parts_of(dest)
        if not names or not parts_of(path):
            raise NotPermitted("the volume itself cannot be moved or replaced")
        await self.make_dirs(b"/".join(names[:-1]), origin)

        def build(tree: Tree, op: OpId, now_ns: int) -> Operation | None:
            link, node = look(tree, path)
            _, parent = look(tree, b"/".join(names[:-1]))
            assert link is not None
            target = tree.lookup(parent.node, names[-1])
            if target is not None and target.link == link.link:
                return None
            return Rename(
                id=op,
                time_ns=now_ns,
                origin=origin,
                link=link.link,
                node=link.node,
                version=tree.seen_version(link.node),
                parent=parent.node,
                name=names[-1],
                also=tree.aliases_into(link.node),
                replaces=None if target is None else _replaced(tree, target, node),
            )

        await self.perform(build)


def _names_at(tree: Tree, path: bytes) -> int:
    """How many names go with a path and all that is below it. Raises NotFound, NotADirectory."""
    _, node = look(tree, path)
    return 1 + (sum(1 for _ in tree.walk(node.node)) if node.kind == "dir" else 0)


def _replaced(tree: Tree, target: LinkView, by: NodeView) -> Replaced:
    is_dir = tree.kind(target.node) == "dir"
    if is_dir != (by.kind == "dir"):
        raise (IsADirectory if is_dir else NotADirectory)("a folder and a file do not replace each other")
    return Replaced(
        link=target.link,
        rev=target.rev,
        node=target.node,
        version=tree.seen_version(target.node),
        last=tree.is_last_name(target),
        is_dir=is_dir,
        also=tree.aliases_into(target.node),
    )


def _create(
    op: OpId, now_ns: int, parent: NodeView, name: bytes, kind: Kind, mode: int, content: Content, origin: str
) -> Create:
    """Owned like the folder that it is in; a fresh root belongs to whoever runs the server."""
    uid, gid = (parent.uid, parent.gid) if parent.node != ROOT else (os.getuid(), os.getgid())
    return Create(
        id=op,
        time_ns=now_ns,
        origin=origin,
        kind=kind,
        parent=parent.node,
        name=name,
        attrs=Attrs(mode=mode, uid=uid, gid=gid, mtime_ns=now_ns, atime_ns=now_ns),
        content=content,
    )
