"""A file system in memory that says yes to everything: what the binding's tests mount, and a model of the calls.

One lock, one dictionary of nodes. Simpler than anything it stands for: no servers, no cache, no log.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gdah_volume.errors import (
    Exists,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NoData,
    NoMoreData,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    NotSupported,
)
from mountfs.ports import AttrChange, Caller, DirEntry, FileSystemCalls, Opened, Stat, StatFs

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
KEEP_SIZE = 1
XATTR_CREATE, XATTR_REPLACE = 1, 2


@dataclass
class Node:
    ino: int
    mode: int
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    nlink: int = 1
    parent: int = 1
    data: bytearray = field(default_factory=bytearray)
    target: bytes = b""
    entries: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    atime_ns: int = field(default_factory=time.time_ns)
    mtime_ns: int = field(default_factory=time.time_ns)
    ctime_ns: int = field(default_factory=time.time_ns)
    references: int = 0
    handles: int = 0

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)


class ToyFileSystem(FileSystemCalls):
    """`calls` counts by name; an operation in `broken` raises an exception that is no GdahError."""

    def __init__(self, *, keep_cache: bool = True) -> None:
        self.lock = threading.RLock()
        self.nodes: dict[int, Node] = {1: Node(1, stat.S_IFDIR | 0o755, nlink=2)}
        self.calls: dict[str, int] = {}
        self.broken: set[str] = set()
        self.keep_cache = keep_cache
        self.gate = threading.Event()
        self.gate.set()
        self._next = 2

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name in OPERATIONS:
            self.calls[name] = self.calls.get(name, 0) + 1
            if name == "read":
                self.gate.wait(60)
            if name in self.broken:
                raise RuntimeError(f"{name} is broken on purpose")
        return value

    # --- nodes

    def node(self, ino: int) -> Node:
        if ino not in self.nodes:
            raise NotFound(f"no inode {ino}")
        return self.nodes[ino]

    def folder(self, ino: int) -> Node:
        node = self.node(ino)
        if not node.is_dir:
            raise NotADirectory("not a folder")
        return node

    def child(self, parent: int, name: bytes) -> Node:
        entries = self.folder(parent).entries
        if len(name) > 255:
            raise NameTooLong("over 255 bytes")
        if name not in entries:
            raise NotFound(f"no {name!r}")
        return self.nodes[entries[name]]

    def stat(self, node: Node) -> Stat:
        size = len(node.target) if stat.S_ISLNK(node.mode) else len(node.data)
        return Stat(
            ino=node.ino,
            mode=node.mode,
            nlink=node.nlink,
            uid=node.uid,
            gid=node.gid,
            size=size,
            blocks=(size + 511) // 512,
            atime_ns=node.atime_ns,
            mtime_ns=node.mtime_ns,
            ctime_ns=node.ctime_ns,
            rdev=node.rdev,
        )

    def add(self, parent: int, name: bytes, mode: int, caller: Caller | None, **more: Any) -> Node:
        folder = self.folder(parent)
        if len(name) > 255:
            raise NameTooLong("over 255 bytes")
        if name in folder.entries:
            raise Exists(f"{name!r} is there")
        node = Node(self._next, mode, parent=parent, **more)
        if caller is not None:
            node.uid, node.gid = caller.uid, caller.gid
        self._next += 1
        self.nodes[node.ino] = node
        folder.entries[name] = node.ino
        folder.mtime_ns = folder.ctime_ns = time.time_ns()
        if node.is_dir:
            node.nlink = 2
            folder.nlink += 1
        return node

    def drop(self, parent: int, name: bytes) -> None:
        folder, node = self.folder(parent), self.child(parent, name)
        del folder.entries[name]
        folder.mtime_ns = folder.ctime_ns = time.time_ns()
        node.ctime_ns = time.time_ns()
        if node.is_dir:
            folder.nlink -= 1
            node.nlink = 0
        else:
            node.nlink -= 1
        self.sweep(node)

    def sweep(self, node: Node) -> None:
        if node.nlink == 0 and node.references == 0 and node.handles == 0:
            self.nodes.pop(node.ino, None)

    def known(self, node: Node) -> Stat:
        node.references += 1
        return self.stat(node)

    # --- the calls

    def lookup(self, parent: int, name: bytes) -> Stat:
        with self.lock:
            return self.known(self.child(parent, name))

    def forget(self, ino: int, count: int) -> None:
        with self.lock:
            if ino in self.nodes:
                node = self.nodes[ino]
                node.references = max(0, node.references - count)
                self.sweep(node)

    def getattr(self, ino: int, handle: int | None = None) -> Stat:
        with self.lock:
            return self.stat(self.node(ino))

    def setattr(self, ino: int, change: AttrChange, handle: int | None, caller: Caller) -> Stat:
        with self.lock:
            node, now = self.node(ino), time.time_ns()
            if change.mode is not None:
                node.mode = stat.S_IFMT(node.mode) | change.mode
            if change.uid is not None:
                node.uid = change.uid
            if change.gid is not None:
                node.gid = change.gid
            if change.size is not None:
                self.resize(node, change.size)
            if change.atime_ns is not None:
                node.atime_ns = now if change.atime_ns == "now" else change.atime_ns
            if change.mtime_ns is not None:
                node.mtime_ns = now if change.mtime_ns == "now" else change.mtime_ns
            node.ctime_ns = now
            return self.stat(node)

    def resize(self, node: Node, size: int) -> None:
        del node.data[size:]
        node.data.extend(bytes(size - len(node.data)))
        node.mtime_ns = time.time_ns()

    def readlink(self, ino: int) -> bytes:
        with self.lock:
            return self.node(ino).target

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Stat:
        with self.lock:
            return self.known(self.add(parent, name, mode, caller, rdev=rdev))

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Stat:
        with self.lock:
            return self.known(self.add(parent, name, stat.S_IFDIR | mode, caller))

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Stat:
        with self.lock:
            return self.known(self.add(parent, name, stat.S_IFLNK | 0o777, caller, target=target))

    def link(self, ino: int, new_parent: int, new_name: bytes) -> Stat:
        with self.lock:
            node, folder = self.node(ino), self.folder(new_parent)
            if node.is_dir:
                raise NotPermitted("a folder has one name")
            if new_name in folder.entries:
                raise Exists(f"{new_name!r} is there")
            folder.entries[new_name] = ino
            node.nlink += 1
            node.ctime_ns = time.time_ns()
            return self.known(node)

    def unlink(self, parent: int, name: bytes) -> None:
        with self.lock:
            if self.child(parent, name).is_dir:
                raise IsADirectory("a folder")
            self.drop(parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        with self.lock:
            node = self.child(parent, name)
            if not node.is_dir:
                raise NotADirectory("not a folder")
            if node.entries:
                raise NotEmpty("it holds files")
            self.drop(parent, name)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        with self.lock:
            node, old, new = self.child(parent, name), self.folder(parent), self.folder(new_parent)
            if flags == RENAME_EXCHANGE:
                there = self.child(new_parent, new_name)
                old.entries[name], new.entries[new_name] = there.ino, node.ino
                node.parent, there.parent = new_parent, parent
                return
            if flags & ~RENAME_NOREPLACE:
                raise InvalidArgument("this kind of rename is not supported")
            if new_name in new.entries:
                there = self.nodes[new.entries[new_name]]
                if flags & RENAME_NOREPLACE:
                    raise Exists(f"{new_name!r} is there")
                if there is node:
                    return
                if there.is_dir and not node.is_dir:
                    raise IsADirectory("a folder is there")
                if node.is_dir and not there.is_dir:
                    raise NotADirectory("a file is there")
                if there.entries:
                    raise NotEmpty("it holds files")
                self.drop(new_parent, new_name)
            del old.entries[name]
            new.entries[new_name] = node.ino
            if node.is_dir:
                old.nlink -= 1
                new.nlink += 1
                node.parent = new_parent
            now = time.time_ns()
            node.ctime_ns = old.mtime_ns = old.ctime_ns = new.mtime_ns = new.ctime_ns = now

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Stat, Opened]:
        with self.lock:
            folder = self.folder(parent)
            if name in folder.entries and not flags & os.O_EXCL:
                node = self.nodes[folder.entries[name]]
            else:
                node = self.add(parent, name, stat.S_IFREG | mode, caller)
            opened = self.open(node.ino, flags, caller)
            return self.known(node), opened

    def open(self, ino: int, flags: int, caller: Caller) -> Opened:
        with self.lock:
            node = self.node(ino)
            if flags & os.O_TRUNC:
                self.resize(node, 0)
            node.handles += 1
            return Opened(ino, keep_cache=self.keep_cache)

    def read(self, ino: int, handle: int, offset: int, size: int) -> bytes:
        with self.lock:
            return bytes(self.node(ino).data[offset : offset + size])

    def write(
        self, ino: int, handle: int, offset: int, data: bytes | memoryview, *, killer: Caller | None = None
    ) -> int:
        with self.lock:
            node = self.node(ino)
            if offset > len(node.data):
                node.data.extend(bytes(offset - len(node.data)))
            node.data[offset : offset + len(data)] = data
            node.mode &= ~(stat.S_ISUID if killer else 0)
            node.mtime_ns = node.ctime_ns = time.time_ns()
            return len(data)

    def seek(self, ino: int, handle: int, offset: int, whence: int) -> int:
        with self.lock:
            size = len(self.node(ino).data)
            if not 0 <= offset < size:
                raise NoMoreData("beyond the end")
            return offset if whence == os.SEEK_DATA else size

    def allocate(self, ino: int, handle: int, mode: int, offset: int, length: int, caller: Caller) -> None:
        with self.lock:
            node, end = self.node(ino), offset + length
            if mode & ~KEEP_SIZE:
                data = node.data[offset:end]
                node.data[offset : offset + len(data)] = bytes(len(data))
            if not mode & KEEP_SIZE and end > len(node.data):
                self.resize(node, end)

    def copy_range(self, handle: int, offset: int, to_handle: int, to_offset: int, length: int, caller: Caller) -> int:
        with self.lock:
            data = bytes(self.node(handle).data[offset : offset + length])
            return self.write(to_handle, to_handle, to_offset, data)

    def flush(self, ino: int, handle: int, owner: int = 0) -> None:
        self.node(ino)

    def fsync(self, ino: int, handle: int, *, data_only: bool) -> None:
        self.node(ino)

    def release(self, ino: int, handle: int) -> None:
        with self.lock:
            node = self.node(ino)
            node.handles -= 1
            self.sweep(node)

    def opendir(self, ino: int) -> int:
        with self.lock:
            node = self.folder(ino)
            node.handles += 1
            return ino

    def readdir(self, ino: int, handle: int, offset: int) -> Iterator[DirEntry]:
        with self.lock:
            node = self.node(ino)
            names = [(b".", ino), (b"..", node.parent), *node.entries.items()]
            listing = [(name, child, self.nodes[child].mode) for name, child in names[offset:]]
        for place, (name, child, mode) in enumerate(listing, offset + 1):
            yield DirEntry(name, child, mode, place)

    def releasedir(self, ino: int, handle: int) -> None:
        self.release(ino, handle)

    def fsyncdir(self, ino: int, handle: int) -> None:
        self.node(ino)

    def statfs(self) -> StatFs:
        return StatFs(4096, 1_000_000, 750_000, 500_000, 400_000)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int) -> None:
        with self.lock:
            if name.startswith(b"system."):  # else `cp -p` believes that an access list, and with it the mode, is kept
                raise NotSupported("no access lists")
            xattrs = self.node(ino).xattrs
            if flags & XATTR_CREATE and name in xattrs:
                raise Exists("the attribute is there")
            if flags & XATTR_REPLACE and name not in xattrs:
                raise NoData("no such attribute")
            xattrs[name] = value

    def getxattr(self, ino: int, name: bytes) -> bytes:
        with self.lock:
            xattrs = self.node(ino).xattrs
            if name not in xattrs:
                raise NoData("no such attribute")
            return xattrs[name]

    def listxattr(self, ino: int, caller: Caller) -> Sequence[bytes]:
        with self.lock:
            return list(self.node(ino).xattrs)

    def getlk(self, *_args: Any, **_how: Any) -> Any:
        raise NotSupported("the toy has no locks")

    setlk = flock = getlk

    def removexattr(self, ino: int, name: bytes) -> None:
        with self.lock:
            if self.node(ino).xattrs.pop(name, None) is None:
                raise NoData("no such attribute")


OPERATIONS = frozenset(name for name in vars(FileSystemCalls) if not name.startswith("_"))
