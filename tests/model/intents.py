"""What programs on a client want, as functions that build one operation from the view, the way a mount does.

Each takes small numbers and picks with them among what the view shows, so that a random program is always possible and
shrinks well. Nothing here decides what is allowed: the replica refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from gdah_volume.content import EMPTY, Content, content_of
from gdah_volume.errors import InvalidArgument, IsADirectory, NotADirectory, NotFound
from gdah_volume.ids import LOST, ROOT, NodeId, OpId, Version
from gdah_volume.operations import (
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
from gdah_volume.tree import LinkView, Tree

T = TypeVar("T")

NAMES = (b"a.x", b"b", b"c")
SPARE = b"t"
"""The name under which an editor saves before it renames."""
SHARED_CONTENTS = 3
HANDLES = 2


@dataclass(frozen=True)
class Handle:
    """An open file: the version that its bytes build on."""

    node: NodeId
    version: Version | None
    name: bytes


@dataclass
class Desk:
    """What the programs of a client have open. It does not survive the client."""

    files: dict[int, Handle] = field(default_factory=dict)
    folders: dict[int, NodeId] = field(default_factory=dict)

    def close_all(self) -> None:
        self.files.clear()
        self.folders.clear()


Builder = Callable[[Tree, Desk, OpId, int], Operation | None]


def pick(items: Sequence[T], number: int) -> T | None:
    return items[number % len(items)] if items else None


def bytes_of(choice: int, op: OpId) -> bytes:
    """Content 0 is empty, a few are shared by everybody, the others are unique."""
    if choice == 0:
        return b""
    return b"shared %d" % choice if choice <= SHARED_CONTENTS else op.encode()


def content(choice: int, op: OpId) -> Content:
    data = bytes_of(choice, op)
    return content_of(data)[0] if data else EMPTY


# --- what the view shows -----------------------------------------------------------------------------------


def folders(tree: Tree) -> list[NodeId]:
    found = [ROOT]
    found += [view.node for _, view in tree.walk() if view.kind == "dir" and view.node not in (ROOT, LOST)]
    return found


def links(tree: Tree, *, folder: bool | None = None) -> list[LinkView]:
    """Every entry of the view, those of `.lost` last."""
    found = []
    for parent in (*folders(tree), LOST):
        for name, _node, kind in tree.entries(parent):
            if parent == ROOT and name == LOST.encode():
                continue
            if folder is None or (kind == "dir") == folder:
                link = tree.lookup(parent, name)
                assert link is not None
                found.append(link)
    return found


def folder_named(tree: Tree, desk: Desk, number: int) -> NodeId:
    """Negative numbers are folders that a program holds open, under the id that they had then."""
    if number < 0 and -number in desk.folders:
        return desk.folders[-number]
    found = pick(folders(tree), number)
    assert found is not None
    return found


# --- operations ----------------------------------------------------------------------------------------------


def create(where: int, name: bytes, kind: Kind, choice: int) -> Builder:
    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> Operation:
        attrs = Attrs(0o644, 1000, 1000, time_ns, time_ns)
        body = content(choice, op) if kind == "file" else EMPTY
        target = b"target %d" % (choice % 2) if kind == "symlink" else b""
        parent = folder_named(tree, desk, where)
        return Create(
            id=op, time_ns=time_ns, kind=kind, parent=parent, name=name, attrs=attrs, content=body, target=target
        )

    return build


def write(which: int, choice: int) -> Builder:
    """Open, read, write and close at once."""

    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> Operation | None:
        link = pick([found for found in links(tree, folder=False) if tree.kind(found.node) == "file"], which)
        if link is None:
            return None
        base = tree.seen_version(link.node)
        return Write(
            id=op,
            time_ns=time_ns,
            node=link.node,
            base=base,
            content=content(choice, op),
            name=link.name,
            mtime_ns=time_ns,
        )

    return build


def open_file(slot: int, which: int) -> Builder:
    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> None:
        link = pick([found for found in links(tree, folder=False) if tree.kind(found.node) == "file"], which)
        if link is not None:
            desk.files[slot] = Handle(link.node, tree.seen_version(link.node), link.name)

    return build


def open_folder(slot: int, which: int) -> Builder:
    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> None:
        desk.folders[slot] = folder_named(tree, desk, which)

    return build


def write_handle(slot: int, choice: int) -> Builder:
    """Write through an open file: on the version that was opened. A file without a name lives on here alone."""

    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> Operation | None:
        handle = desk.files.get(slot)
        if handle is None or not tree.links(tree.resolve(handle.node)):
            return None
        desk.files[slot] = Handle(handle.node, Version(op), handle.name)
        return Write(
            id=op,
            time_ns=time_ns,
            node=handle.node,
            base=handle.version,
            content=content(choice, op),
            name=handle.name,
            mtime_ns=time_ns,
        )

    return build


def set_mode(which: int, mode: int) -> Builder:
    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> Operation | None:
        link = pick(links(tree), which)
        if link is None:
            return None
        return SetAttr(id=op, time_ns=time_ns, node=link.node, version=tree.seen_version(link.node), mode=mode)

    return build


def hard_link(which: int, where: int, name: bytes) -> Builder:
    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> Operation | None:
        link = pick(links(tree, folder=False), which)
        if link is None:
            return None
        parent = folder_named(tree, desk, where)
        return Link(
            id=op, time_ns=time_ns, node=link.node, version=tree.seen_version(link.node), parent=parent, name=name
        )

    return build


def unlink_of(tree: Tree, link: LinkView, op: OpId, time_ns: int) -> Unlink:
    return Unlink(
        id=op,
        time_ns=time_ns,
        link=link.link,
        rev=link.rev,
        node=link.node,
        version=tree.seen_version(link.node),
        last=tree.is_last_name(link),
        also=tree.aliases_into(link.node),
    )


def rmdir_of(tree: Tree, link: LinkView, op: OpId, time_ns: int) -> Rmdir:
    also = tree.aliases_into(link.node)
    return Rmdir(id=op, time_ns=time_ns, link=link.link, rev=link.rev, node=link.node, also=also)


def rename_of(tree: Tree, link: LinkView, parent: NodeId, name: bytes, op: OpId, time_ns: int) -> Rename | None:
    """As POSIX has it: onto another name of the same file nothing happens."""
    there = tree.lookup(parent, name)
    if there is not None and there.node == link.node:
        return None
    return Rename(
        id=op,
        time_ns=time_ns,
        link=link.link,
        node=link.node,
        version=tree.seen_version(link.node),
        parent=parent,
        name=name,
        also=tree.aliases_into(link.node),
        replaces=None if there is None else _replaced(tree, link, there),
    )


def _replaced(tree: Tree, link: LinkView, there: LinkView) -> Replaced:
    is_dir = tree.kind(there.node) == "dir"
    if is_dir and tree.kind(link.node) != "dir":
        raise IsADirectory("a folder is in the way")
    if not is_dir and tree.kind(link.node) == "dir":
        raise NotADirectory("a file is in the way")
    return Replaced(
        link=there.link,
        rev=there.rev,
        node=there.node,
        version=tree.seen_version(there.node),
        last=not is_dir and tree.is_last_name(there),
        is_dir=is_dir,
        also=tree.aliases_into(there.node),
    )


def unlink(which: int) -> Builder:
    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> Operation | None:
        link = pick(links(tree, folder=False), which)
        return None if link is None else unlink_of(tree, link, op, time_ns)

    return build


def rmdir(which: int) -> Builder:
    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> Operation | None:
        link = pick(links(tree, folder=True), which)
        return None if link is None else rmdir_of(tree, link, op, time_ns)

    return build


def rename(which: int, where: int, name: bytes) -> Builder:
    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> Operation | None:
        link = pick(links(tree), which)
        if link is None:
            return None
        return rename_of(tree, link, folder_named(tree, desk, where), name, op, time_ns)

    return build


def exchange(which: int, other: int) -> Builder:
    """Of two names of one file nothing happens."""

    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> Operation | None:
        found = links(tree)
        one, two = pick(found, which), pick(found, other)
        if one is None or two is None or one.node == two.node:
            return None
        return exchange_of(tree, one, two, op, time_ns)

    return build


def exchange_of(tree: Tree, one: LinkView, two: LinkView, op: OpId, time_ns: int) -> Exchange:
    return Exchange(
        id=op,
        time_ns=time_ns,
        link=one.link,
        rev=one.rev,
        node=one.node,
        version=tree.seen_version(one.node),
        other=SeenLink(two.link, two.rev, two.node, tree.seen_version(two.node)),
    )


def exchange_named(where: int, old: bytes, name: bytes) -> Builder:
    """Inside one folder, by name: how a careful editor puts a new version in the place of the old one."""

    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> Operation | None:
        parent = folder_named(tree, desk, where)
        one, two = tree.lookup(parent, old), tree.lookup(parent, name)
        if one is None or two is None:
            raise NotFound("nothing to exchange")
        return None if one.node == two.node else exchange_of(tree, one, two, op, time_ns)

    return build


def unlink_named(where: int, name: bytes) -> Builder:
    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> Operation | None:
        link = tree.lookup(folder_named(tree, desk, where), name)
        return None if link is None or tree.kind(link.node) == "dir" else unlink_of(tree, link, op, time_ns)

    return build


def rename_named(where: int, old: bytes, name: bytes) -> Builder:
    """Inside one folder, by name: the second half of an editor's save."""

    def build(tree: Tree, desk: Desk, op: OpId, time_ns: int) -> Operation | None:
        parent = folder_named(tree, desk, where)
        link = tree.lookup(parent, old)
        if link is None:
            raise NotFound("nothing to rename")
        if link.node == parent:
            raise InvalidArgument("into itself")
        return rename_of(tree, link, parent, name, op, time_ns)

    return build


def builders(intent: Sequence[int | str]) -> list[Builder]:
    """The operations of one intent, a flat tuple of a word and numbers; each is built after the one before."""
    word, *rest = intent
    a, b, c = (*(int(number) for number in rest), 0, 0, 0)[:3]
    name_b, name_c = NAMES[b % len(NAMES)], NAMES[c % len(NAMES)]
    match word:
        case "create":
            return [create(a, name_b, "file", c)]
        case "mkdir":
            return [create(a, name_b, "dir", 0)]
        case "symlink":
            return [create(a, name_b, "symlink", c)]
        case "write":
            return [write(a, b)]
        case "open":
            return [open_file(a, b)]
        case "opendir":
            return [open_folder(a, b)]
        case "write_handle":
            return [write_handle(a, b)]
        case "chmod":
            return [set_mode(a, 0o600 + b % 8)]
        case "link":
            return [hard_link(a, b, name_c)]
        case "unlink":
            return [unlink(a)]
        case "rmdir":
            return [rmdir(a)]
        case "rename":
            return [rename(a, b, name_c)]
        case "exchange":
            return [exchange(a, b)]
        case "swap_save":
            made = create(a, SPARE, "file", c)
            return [made, exchange_named(a, SPARE, name_b), unlink_named(a, SPARE)]
        case "save":
            return [create(a, SPARE, "file", c), rename_named(a, SPARE, name_b)]
        case _:
            raise AssertionError(f"no such intent: {intent!r}")
