"""Attributes of nodes as programs see them, and POSIX's rules about modes, owners and groups. Pure."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gdah_volume.errors import InvalidArgument, NotPermitted
from gdah_volume.ids import NodeId
from gdah_volume.operations import Kind
from mountfs.ports import AttrChange, Caller, Stat

TYPE_BITS: dict[Kind, int] = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "chardev": stat.S_IFCHR,
    "blockdev": stat.S_IFBLK,
}
_KINDS: dict[int, Kind] = {bits: kind for kind, bits in TYPE_BITS.items()}
_BLOCK_BYTES = 512
_PAGE_BYTES = 4096

GroupsOf = Callable[[Caller], frozenset[int]]
"""The supplementary groups of a caller."""


class Described(Protocol):
    """What is known of a node: the tree's view of it, or the last that was known of one without a name."""

    @property
    def node(self) -> NodeId: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def atime_ns(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...
    @property
    def nlink(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def rdev(self) -> int: ...
    @property
    def target(self) -> bytes: ...
    @property
    def xattrs(self) -> Mapping[bytes, bytes]: ...


@dataclass(frozen=True, slots=True)
class Nameless:
    """The attributes of a node whose last name is gone; what programs change now stays here."""

    node: NodeId
    kind: Kind
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    size: int
    rdev: int
    target: bytes
    xattrs: Mapping[bytes, bytes]
    nlink: int = 0

    def changed(self, fields: Mapping[str, Any], now_ns: int) -> Nameless:
        """`fields` as of a SetAttr."""
        plain = {name: value for name, value in fields.items() if not name.startswith("xattrs")}
        xattrs = {name: kept for name, kept in self.xattrs.items() if name not in fields.get("xattrs_gone", ())}
        return replace(self, ctime_ns=now_ns, xattrs=xattrs | fields.get("xattrs", {}), **plain)


def nameless(view: Described) -> Nameless:
    return Nameless(
        node=view.node,
        kind=view.kind,
        mode=view.mode,
        uid=view.uid,
        gid=view.gid,
        atime_ns=view.atime_ns,
        mtime_ns=view.mtime_ns,
        ctime_ns=view.ctime_ns,
        size=view.size,
        rdev=view.rdev,
        target=view.target,
        xattrs=view.xattrs,
    )


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What an open file shows instead of its node's attributes, while it has unsaved edits or no name any more."""

    size: int
    stored_bytes: int
    mtime_ns: int
    ctime_ns: int


def kind_of(mode: int) -> Kind:
    """Of mknod's mode (no type bits: a file). Raises InvalidArgument."""
    kind = _KINDS.get(stat.S_IFMT(mode) or stat.S_IFREG)
    if kind is None:
        raise InvalidArgument("mknod makes files, pipes, sockets and devices")
    return kind


def stat_of(ino: int, view: Described, unsaved: Unsaved | None = None, stored: int = 0, subfolders: int = 0) -> Stat:
    """`stored`: bytes that the content of a file takes. A folder's links are its name, its "." and its
    subfolders' ".."."""
    mode, size, nlink = view.mode, view.size, view.nlink
    mtime_ns, ctime_ns = view.mtime_ns, view.ctime_ns
    if unsaved is not None:
        size, stored, mtime_ns = unsaved.size, unsaved.stored_bytes, unsaved.mtime_ns
        ctime_ns = max(ctime_ns, unsaved.ctime_ns)
    elif view.kind == "dir":
        size = stored = _PAGE_BYTES
        nlink = 2 + subfolders if nlink else 0
    elif view.kind == "symlink":
        size = len(view.target)
    return Stat(
        ino=ino,
        mode=TYPE_BITS[view.kind] | mode,
        nlink=nlink,
        uid=view.uid,
        gid=view.gid,
        size=size,
        blocks=-(-stored // _PAGE_BYTES) * (_PAGE_BYTES // _BLOCK_BYTES),
        atime_ns=view.atime_ns,
        mtime_ns=mtime_ns,
        ctime_ns=ctime_ns,
        rdev=view.rdev,
    )


def stat_of_root(found: Stat, owner: tuple[int, int], since_ns: int) -> Stat:
    """The root of a volume was made by no operation: until somebody says otherwise it belongs to (uid, gid)
    of who mounts it, or nobody but the superuser could use the folder, and its times begin with the mount."""
    if found.uid == 0 and found.gid == 0:
        found = replace(found, uid=owner[0], gid=owner[1])
    return replace(
        found,
        atime_ns=found.atime_ns or since_ns,
        mtime_ns=found.mtime_ns or since_ns,
        ctime_ns=found.ctime_ns or since_ns,
    )


@dataclass(frozen=True, slots=True)
class Shown:
    """What a mount shows in place of stored owners and rights: the options uid, gid and umask. A view: nothing that is
    stored becomes another by it, new nodes belong to who makes them as ever."""

    uid: int | None = None
    gid: int | None = None
    umask: int = 0

    def stat(self, found: Stat) -> Stat:
        if self is AS_STORED:
            return found
        return replace(
            found,
            uid=found.uid if self.uid is None else self.uid,
            gid=found.gid if self.gid is None else self.gid,
            mode=found.mode if stat.S_ISLNK(found.mode) else found.mode & ~self.umask,
        )

    def change(self, wanted: AttrChange) -> AttrChange:
        """What is asked for of what is shown, as a change of what is stored. Raises NotPermitted: an owner that is
        shown in place of all others cannot be given away."""
        if wanted.uid not in (None, self.uid) and self.uid is not None:
            raise NotPermitted(f"this mount shows everything as owned by {self.uid} (--uid)")
        if wanted.gid not in (None, self.gid) and self.gid is not None:
            raise NotPermitted(f"this mount shows everything as of group {self.gid} (--gid)")
        return replace(
            wanted,
            uid=wanted.uid if self.uid is None else None,
            gid=wanted.gid if self.gid is None else None,
        )

    def mode(self, wanted: int, stored: int) -> int:
        """What the mask hides stays as it is."""
        return wanted & ~self.umask | stored & self.umask


AS_STORED = Shown()


def without_suid(view: Described, caller: Caller, groups_of: GroupsOf) -> int:
    """The mode as a write or a change of owner by `caller` leaves it. Set-group-id without group execute is no
    privilege of the program; who is in the group may leave it (as Linux has it since 6.2)."""
    mode = view.mode & ~stat.S_ISUID
    if not mode & stat.S_ISGID:
        return mode
    keeps = not mode & stat.S_IXGRP and (caller.uid == 0 or view.gid == caller.gid or view.gid in groups_of(caller))
    return mode if keeps else mode & ~stat.S_ISGID


def new_owner(parent: Described, kind: Kind, mode: int, caller: Caller) -> tuple[int, int, int]:
    """(mode, uid, gid) of a new node in `parent`: a set-group-id folder hands on its group, and to folders the bit."""
    mode &= 0o7777
    if not parent.mode & stat.S_ISGID:
        return mode, caller.uid, caller.gid
    return (mode | stat.S_ISGID if kind == "dir" else mode), caller.uid, parent.gid


def allowed_mode(mode: int, gid: int, kind: Kind, caller: Caller, groups_of: GroupsOf) -> int:
    """Who is not in the file's group may not give it the set-group-id bit; it is dropped, as POSIX says."""
    mode &= 0o7777
    if kind == "dir" or not mode & stat.S_ISGID or caller.uid == 0 or gid == caller.gid:
        return mode
    return mode if gid in groups_of(caller) else mode & ~stat.S_ISGID


def permits(shown: Stat, caller: Caller, wanted: int, groups_of: GroupsOf) -> bool:
    """The mode bits' answer to `wanted` (4 read, 2 write), for a file that the kernel had taken for a new one."""
    if caller.uid == 0:
        return True
    if shown.uid == caller.uid:
        bits = shown.mode >> 6
    elif shown.gid == caller.gid or shown.gid in groups_of(caller):
        bits = shown.mode >> 3
    else:
        bits = shown.mode
    return bits & wanted == wanted
