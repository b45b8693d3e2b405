"""What a program asks for, as an operation built from what this mount sees. Reads the tree, changes nothing.

Each function returns a BUILDER for `ChangeLog.perform`, which calls it under the mirror's lock with the id
and the time of the operation. A builder says in the operation all that its author saw (version, rev, last,
also), so that the fold can merge it; it raises the FileSystemError that a local file system would answer, and
then nothing was logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gdah_volume.content import EMPTY, Content
from gdah_volume.errors import (
    Exists,
    FileSystemError,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    TooManyLinks,
)
from gdah_volume.ids import ROOT, NodeId, OpId, Version, check_name
from gdah_volume.operations import (
    SYMLINK_MAX_BYTES,
    Attrs,
    Create,
    Exchange,
    Kind,
    Link,
    Operation,
    Rename,
    Replaced,
    Rmdir,
    SeenLink,
    SetAttr,
    Unlink,
    Write,
)
from gdah_volume.tree import LinkView, NodeView, Tree
from mountfs.files.attributes import new_owner
from mountfs.ports import Caller

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
LINKS_MAX = 65_000
"""As ext4."""

Builder = Callable[[OpId, int], Operation]


class NothingToDo(FileSystemError):
    """The call succeeds without an operation. Never leaves the file system."""


def must(tree: Tree, parent: NodeId, name: bytes) -> LinkView:
    """Raises NotFound, NotADirectory, NameTooLong."""
    if name in (b".", b".."):
        raise InvalidArgument("'.' and '..' are not entries")
    check_name(name)
    link = tree.lookup(parent, name)
    if link is None:
        raise NotFound("no such file or directory")
    return link


def create(
    tree: Tree,
    parent: NodeId,
    name: bytes,
    kind: Kind,
    mode: int,
    caller: Caller,
    *,
    target: bytes = b"",
    rdev: int = 0,
    content: Content = EMPTY,
) -> Builder:
    check_name(name)
    if kind == "symlink" and not target:
        raise NotFound("a symlink needs a target")
    if len(target) > SYMLINK_MAX_BYTES:
        raise NameTooLong(f"the target of a symlink may have {SYMLINK_MAX_BYTES} bytes")

    def build(op: OpId, time_ns: int) -> Create:
        folder = tree.resolve(parent)
        if tree.lookup(folder, name) is not None:
            raise Exists("the name is taken")
        bits, uid, gid = new_owner(tree.node(folder), kind, mode, caller)
        if kind == "symlink":
            bits = 0o777
        attrs = Attrs(bits, uid, gid, time_ns, time_ns, rdev)
        return Create(
            id=op, time_ns=time_ns, kind=kind, parent=folder, name=name, attrs=attrs, target=target, content=content
        )

    return build


def write(
    node: NodeId, base: Version | None, content: Content, name: bytes, mtime_ns: int, *, clear_suid: bool
) -> Builder:
    def build(op: OpId, time_ns: int) -> Write:
        return Write(
            id=op,
            time_ns=time_ns,
            node=node,
            base=base,
            content=content,
            name=name,
            mtime_ns=mtime_ns,
            clear_suid=clear_suid,
        )

    return build


def set_attributes(tree: Tree, node: NodeId, change: Callable[[NodeView, int], Mapping[str, object]]) -> Builder:
    """`change(view, time_ns)` gives the fields to set, from what the node has now; none: NothingToDo."""

    def build(op: OpId, time_ns: int) -> SetAttr:
        view = tree.node(node)
        fields = change(view, time_ns)
        if not fields:
            raise NothingToDo
        return SetAttr(id=op, time_ns=time_ns, node=view.node, version=view.version, **fields)  # type: ignore[arg-type]

    return build


def touch_nothing(op: OpId, view: NodeView) -> SetAttr:
    """An operation that leaves everything as it is, the time of the last change too; it carries a wish to sync."""
    return SetAttr(id=op, time_ns=view.ctime_ns, node=view.node, version=view.version)


def link(tree: Tree, node: NodeId, parent: NodeId, name: bytes) -> Builder:
    check_name(name)

    def build(op: OpId, time_ns: int) -> Link:
        folder = tree.resolve(parent)
        view = tree.node(node)
        if tree.lookup(folder, name) is not None:
            raise Exists("the name is taken")
        if view.kind == "dir":
            raise NotPermitted("a folder has one name")
        if view.nlink == 0:
            raise NotFound("the file has been removed")
        if view.nlink >= LINKS_MAX:
            raise TooManyLinks(f"a file may have {LINKS_MAX} names")
        return Link(id=op, time_ns=time_ns, node=view.node, version=view.version, parent=folder, name=name)

    return build


def unlink(tree: Tree, parent: NodeId, name: bytes) -> Builder:
    def build(op: OpId, time_ns: int) -> Unlink:
        found = must(tree, parent, name)
        if tree.kind(found.node) == "dir":
            raise IsADirectory("a folder is removed with rmdir")
        return Unlink(
            id=op,
            time_ns=time_ns,
            link=found.link,
            rev=found.rev,
            node=found.node,
            version=tree.seen_version(found.node),
            last=tree.is_last_name(found),
            also=tree.aliases_into(found.node),
        )

    return build


def rmdir(tree: Tree, parent: NodeId, name: bytes) -> Builder:
    def build(op: OpId, time_ns: int) -> Rmdir:
        found = must(tree, parent, name)
        if tree.kind(found.node) != "dir":
            raise NotADirectory("not a folder")
        if tree.entries(found.node, limit=1):
            raise NotEmpty("the folder is not empty")
        return Rmdir(
            id=op,
            time_ns=time_ns,
            link=found.link,
            rev=found.rev,
            node=found.node,
            also=tree.aliases_into(found.node),
        )

    return build


def rename(tree: Tree, parent: NodeId, name: bytes, new_parent: NodeId, new_name: bytes, flags: int) -> Builder:
    if flags & ~RENAME_NOREPLACE:
        raise InvalidArgument("no such kind of rename, or RENAME_WHITEOUT")
    if new_name in (b".", b".."):
        raise InvalidArgument("'.' and '..' are not entries")
    check_name(new_name)

    def build(op: OpId, time_ns: int) -> Rename:
        moving = must(tree, parent, name)
        folder = tree.resolve(new_parent)
        there = tree.lookup(folder, new_name)
        if there is not None and flags & RENAME_NOREPLACE:
            raise Exists("the name is taken")
        if there is not None and there.node == moving.node:
            raise NothingToDo
        if tree.kind(moving.node) == "dir" and _inside(tree, folder, moving.node):
            raise InvalidArgument("a folder cannot go into itself")
        if there is not None and tree.kind(there.node) == "dir" and _inside(tree, moving.parent, there.node):
            raise NotEmpty("the folder in the way holds what is to be moved")
        return Rename(
            id=op,
            time_ns=time_ns,
            link=moving.link,
            node=moving.node,
            version=tree.seen_version(moving.node),
            parent=folder,
            name=new_name,
            also=tree.aliases_into(moving.node),
            replaces=None if there is None else _replaced(tree, moving, there),
        )

    return build


def exchange(tree: Tree, parent: NodeId, name: bytes, new_parent: NodeId, new_name: bytes) -> Builder:
    def build(op: OpId, time_ns: int) -> Exchange:
        one, two = must(tree, parent, name), must(tree, new_parent, new_name)
        if one.node == two.node:
            raise NothingToDo
        for moving, other in ((one, two), (two, one)):
            if tree.kind(moving.node) == "dir" and _inside(tree, other.parent, moving.node):
                raise InvalidArgument("a folder cannot go into itself")
        return Exchange(
            id=op,
            time_ns=time_ns,
            link=one.link,
            rev=one.rev,
            node=one.node,
            version=tree.seen_version(one.node),
            other=SeenLink(two.link, two.rev, two.node, tree.seen_version(two.node)),
        )

    return build


def _replaced(tree: Tree, moving: LinkView, there: LinkView) -> Replaced:
    is_dir = tree.kind(there.node) == "dir"
    if is_dir != (tree.kind(moving.node) == "dir"):
        raise IsADirectory("a folder is in the way") if is_dir else NotADirectory("a file is in the way")
    if is_dir and tree.entries(there.node, limit=1):
        raise NotEmpty("the folder in the way is not empty")
    return Replaced(
        link=there.link,
        rev=there.rev,
        node=there.node,
        version=tree.seen_version(there.node),
        last=is_dir or tree.is_last_name(there),
        is_dir=is_dir,
        also=tree.aliases_into(there.node),
    )


def parent_of(tree: Tree, node: NodeId) -> NodeId:
    """Of a folder; the root's is itself, a removed one's is the root."""
    if node == ROOT:
        return ROOT
    found = tree.links(node)
    return found[0].parent if found else ROOT


def _inside(tree: Tree, folder: NodeId, node: NodeId) -> bool:
    while True:
        if folder == node:
            return True
        if folder == ROOT or not tree.links(folder):
            return False
        folder = parent_of(tree, folder)
