"""The file system as an object: what a program asks of a mounted volume, decided without FUSE and without a server.

Names and attributes come from the mirror and never wait for the network; every change is an operation that
the change log performs. This module maps inode numbers and handles to nodes and files; what an open file
shows is decided in `openfile`, when it is saved in `saving`, which operation a wish becomes in `intents`. The
kernel has checked permissions (default_permissions) where it can know them.

Threading: any thread. Lock order: OpenFile.lock, mirror.lock, then leaves (tables of handles and inodes, the
ledger). Nobody waits for a server's answer while holding one of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from gdah_volume.errors import (
    AccessDenied,
    BadHandle,
    Exists,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
)
from gdah_volume.ids import ROOT, Author, NodeId, check_name
from gdah_volume.locks import Range
from gdah_volume.operations import Kind
from gdah_volume.tree import NodeView, Tree
from mountfs.files import intents, xattrs
from mountfs.files.attributes import AS_STORED, Described, GroupsOf, Shown, kind_of, permits, stat_of, stat_of_root
from mountfs.files.changing import AttributeChanges
from mountfs.files.extents import stored_bytes
from mountfs.files.folders import FolderCalls
from mountfs.files.handles import Handles, unsaved
from mountfs.files.inodes import Inodes
from mountfs.files.invalidation import Invalidation
from mountfs.files.openfile import OpenFile, Parts
from mountfs.files.performing import TRIES, TRY_AGAIN_S, Performer
from mountfs.files.ranges import RangeCalls
from mountfs.files.recovery import IsOwn, Logged, restore
from mountfs.files.saving import Saving
from mountfs.files.until_told import LOOK_WAIT_S, OPEN_WAIT_S
from mountfs.locks.filelocks import FileLocks
from mountfs.locks.locking import Locking
from mountfs.ports import AttrChange, Caller, LockDone, Opened, Stat, StatFs

WRITE_MAX_BYTES = 16 << 20
"""Of one call; the rest is asked for again by who wrote it."""
STORED_MAX = 4096
"""Versions whose size on disk is remembered."""


class Filesystem(FolderCalls, RangeCalls):
    """Implements `ports.FileSystemCalls`."""

    def __init__(
        self,
        parts: Parts,
        space: Callable[[], StatFs],
        groups_of: GroupsOf,
        owner: tuple[int, int] = (0, 0),
        locking: Locking | None = None,
        shown: Shown = AS_STORED,
    ) -> None:
        """`owner`: (uid, gid) of who mounts. Without `locking` locks are between the callers of this object."""
        self._owner = owner
        self._shown = shown
        self._since_ns = parts.now_ns()
        self.parts = parts
        self._mirror = parts.mirror
        self._tree: Tree = parts.mirror.tree
        self._space = space
        self._groups_of = groups_of
        self.inodes = Inodes()
        self.handles = Handles(parts)
        self.performer = Performer(parts, self.handles)
        self._saving = Saving(parts, self.handles, self.inodes, self.performer.ledger)
        self._changes = AttributeChanges(parts, self.handles, self.performer, self._saving, groups_of, shown)
        self.locks = FileLocks(self.handles, self._saving, locking or Locking(Author("alone"), hope_s=0.0))
        self._stored: dict[str, int] = {}
        self.invalidation = Invalidation(parts, self.inodes, self.handles)

    # --- looking

    def lookup(self, parent: int, name: bytes) -> Stat:
        folder = self.inodes.node(parent)
        if name not in (b".", b".."):
            check_name(name)
        with self._mirror.lock:
            if name == b".":
                node = folder
            elif name == b"..":
                node = intents.parent_of(self._tree, folder)
            else:
                link = self._tree.lookup(folder, name)
                if link is None:
                    raise NotFound("no such file or directory")
                node = link.node
            view = self._tree.node(node)
            return self._stat(self.inodes.hold(view.node), view, self.handles.find(view.node))

    def forget(self, ino: int, count: int) -> None:
        node = self.inodes.release(ino, count)
        if node is not None:
            self._changes.forget(node)

    def getattr(self, ino: int, handle: int | None = None) -> Stat:
        file = None
        if handle is not None:
            with suppress(BadHandle):  # fstat of a folder brings the handle of a listing
                file = self.handles.get(handle).file
        file = file or self.handles.find(self.inodes.node(ino))
        if file is not None:
            file.until_told.arrive(LOOK_WAIT_S)
        with self._mirror.lock:
            node = self._tree.resolve(self.inodes.node(ino)) if file is None else file.node
            file = file or self.handles.find(node)
            if file is not None and file.orphan is not None:
                return self._stat(ino, file.orphan, file)
            return self._stat(ino, self._changes.described(node), file)

    def readlink(self, ino: int) -> bytes:
        view = self._look(self.inodes.node(ino))
        if view.kind != "symlink":
            raise InvalidArgument("not a symlink")
        return view.target

    def _resolved(self, ino: int) -> NodeId:
        with self._mirror.lock:
            return self._tree.resolve(self.inodes.node(ino))

    def _look(self, node: NodeId) -> NodeView:
        with self._mirror.lock:
            return self._tree.node(node)

    def _stat(self, ino: int, view: Described, file: OpenFile | None) -> Stat:
        """Under mirror.lock: what it takes on disk may be looked up."""
        return self._shown.stat(self._stored_stat(ino, view, file))

    def _stored_stat(self, ino: int, view: Described, file: OpenFile | None) -> Stat:
        if view.kind == "dir":
            found = stat_of(ino, view, subfolders=self.invalidation.subfolders.count(view.node))
            return stat_of_root(found, self._owner, self._since_ns) if view.node == ROOT else found
        shown = None if file is None else file.unsaved or file.until_told.shown()
        if shown is not None or view.kind != "file" or not view.size:
            return stat_of(ino, view, shown)
        return stat_of(ino, view, None, self._stored_bytes(view, file))

    def _stored_bytes(self, view: Described, file: OpenFile | None) -> int:
        if not isinstance(view, NodeView):
            return view.size if file is None else stored_bytes(file.content)
        key = view.version or ""
        found = self._stored.get(key)
        if found is None:
            if len(self._stored) >= STORED_MAX:
                self._stored.clear()
            found = self._stored[key] = stored_bytes(view.content)
        return found

    # --- attributes

    def setattr(self, ino: int, change: AttrChange, handle: int | None, caller: Caller) -> Stat:
        found = None
        if handle is not None:
            with suppress(BadHandle):
                found = self.handles.get(handle)
        node = self._resolved(ino) if found is None else found.file.node
        self._changes.change(node, change, found, caller)
        return self.getattr(ino, handle)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        return xattrs.value_of(name, self._xattrs_of(ino))

    def listxattr(self, ino: int, caller: Caller) -> Sequence[bytes]:
        return xattrs.names_for(caller, self._xattrs_of(ino))

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int) -> None:
        self._changes.set_xattr(self._resolved(ino), name, value, flags)

    def removexattr(self, ino: int, name: bytes) -> None:
        self._changes.remove_xattr(self._resolved(ino), name)

    def _xattrs_of(self, ino: int) -> Mapping[bytes, bytes]:
        node = self._resolved(ino)
        file = self.handles.find(node)
        if file is not None and file.orphan is not None:
            return file.orphan.xattrs
        with self._mirror.lock:
            return self._changes.described(node).xattrs

    # --- new names

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Stat:
        return self._create(parent, name, kind_of(mode), mode, caller, rdev=rdev)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Stat:
        return self._create(parent, name, "dir", mode, caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Stat:
        return self._create(parent, name, "symlink", 0o777, caller, target=target)

    def _create(
        self,
        parent: int,
        name: bytes,
        kind: Kind,
        mode: int,
        caller: Caller,
        *,
        target: bytes = b"",
        rdev: int = 0,
    ) -> Stat:
        folder = self.inodes.node(parent)
        build = intents.create(self._tree, folder, name, kind, mode, caller, target=target, rdev=rdev)
        made = self.performer.perform(build, folder)
        assert made is not None
        if kind == "dir":
            self._folders_changed((folder, name))
        return self._held(NodeId(made.id))

    def _held(self, node: NodeId) -> Stat:
        with self._mirror.lock:
            view = self._tree.node(node)
            self.performer.ledger.note(view.node)
            return self._stat(self.inodes.hold(view.node), view, self.handles.find(view.node))

    def link(self, ino: int, new_parent: int, new_name: bytes) -> Stat:
        node, folder = self._resolved(ino), self.inodes.node(new_parent)
        self.performer.perform(intents.link(self._tree, node, folder, new_name), node, folder)
        return self._held(node)

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Stat, Opened]:
        """A file that somebody else has just made is opened instead, unless O_EXCL forbids it."""
        stat, made = self._create_or_find(parent, name, mode, flags, caller)
        try:
            if made:
                return stat, self._open(stat.ino, flags & ~os.O_TRUNC, caller, is_new=True)
            self._check_access(stat.ino, flags, caller)
            return stat, self._open(stat.ino, flags, caller)
        except BaseException:
            self.forget(stat.ino, 1)
            raise

    def _create_or_find(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Stat, bool]:
        for left in range(TRIES - 1, -1, -1):
            try:
                return self._create(parent, name, "file", mode, caller), True
            except Exists:
                if flags & os.O_EXCL:
                    raise
            try:
                return self.lookup(parent, name), False
            except NotFound:  # refused by a server whose feed has not come yet, or gone again
                if left:
                    time.sleep(TRY_AGAIN_S)
        raise Exists("the name is taken")

    def _check_access(self, ino: int, flags: int, caller: Caller) -> None:
        """The kernel took the file for a new one and has checked nothing."""
        access = flags & os.O_ACCMODE
        wanted = (0 if access == os.O_WRONLY else 4) | (0 if access == os.O_RDONLY else 2)
        if not permits(self.getattr(ino), caller, wanted, self._groups_of):
            raise AccessDenied("the file that has just appeared there may not be opened so")

    # --- names that go or move

    def unlink(self, parent: int, name: bytes) -> None:
        folder = self.inodes.node(parent)
        self.performer.perform(intents.unlink(self._tree, folder, name), folder)

    def rmdir(self, parent: int, name: bytes) -> None:
        folder = self.inodes.node(parent)
        self.performer.perform(intents.rmdir(self._tree, folder, name), folder)
        self._folders_changed((folder, name))

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        folder, new_folder = self.inodes.node(parent), self.inodes.node(new_parent)
        if flags == intents.RENAME_EXCHANGE:
            build = intents.exchange(self._tree, folder, name, new_folder, new_name)
        else:
            build = intents.rename(self._tree, folder, name, new_folder, new_name, flags)
        # What somebody else has put there or taken away a moment ago is no error but another thing to replace.
        again = () if flags else (Exists, NotFound, NotEmpty, NotADirectory, IsADirectory)
        self.performer.perform(build, folder, new_folder, again=again, exactly=bool(flags))
        self._folders_changed((folder, name), (new_folder, new_name))

    def _folders_changed(self, *places: tuple[NodeId, bytes]) -> None:
        """By an own operation."""
        with self._mirror.lock:
            resolve = self._tree.resolve
            self.invalidation.subfolders.changed([(resolve(folder), name) for folder, name in places])

    # --- files

    def open(self, ino: int, flags: int, caller: Caller) -> Opened:
        opened = self._open(ino, flags, caller)
        self.parts.kernel.wait_told(ino, OPEN_WAIT_S)  # from now on its size and its pages are of one content
        return opened

    def _open(self, ino: int, flags: int, caller: Caller, *, is_new: bool = False) -> Opened:
        node = self._resolved(ino)
        self._changes.check_file(node)
        file = self.handles.acquire(node, ino)
        try:
            if flags & os.O_TRUNC:
                self._changes.drop_privileges(file, caller)
            with file.lock:
                file.refresh()
                handle = self.handles.add(file, ino, flags, caller)
                if is_new:
                    file.is_seen_as_made(handle)
                if flags & os.O_TRUNC:
                    file.truncate(0, handle)
                version = file.version
        except BaseException:
            self._saving.let_go(file)
            raise
        direct = self.handles.strayed(ino, file)
        same = self.inodes.pages_are(ino, None if direct else version)
        return Opened(handle.number, keep_cache=same and not direct, direct_io=direct)

    def read(self, ino: int, handle: int, offset: int, size: int) -> bytes:  # noqa: ARG002
        found = self.handles.get(handle)
        return found.file.read(found, offset, size)

    def write(
        self, ino: int, handle: int, offset: int, data: bytes | memoryview, *, killer: Caller | None = None
    ) -> int:
        found = self.handles.get(handle)
        if not found.writes:
            raise BadHandle("the file is open for reading only")
        if not len(data):
            return 0
        data = data[:WRITE_MAX_BYTES]
        if killer or found.caller.uid or not found.written:
            found.written = True
            self._changes.drop_privileges(found.file, killer or found.caller)
        at = found.file.write(found, None if found.appends else offset, data)
        self._saving.save_if_heavy(found.file)
        if at != offset:
            self.parts.kernel.invalidate_inode(ino)  # its page says that the bytes are elsewhere
        return len(data)

    def flush(self, ino: int, handle: int, owner: int = 0) -> None:  # noqa: ARG002
        found = self.handles.get(handle)
        try:
            self._saving.save(found.file, sync=False)
        finally:
            self.locks.closed(found, owner)

    def fsync(self, ino: int, handle: int, *, data_only: bool) -> None:  # noqa: ARG002
        file = self.handles.get(handle).file
        if not self._saving.save(file, sync=True):
            self.performer.sync(file.node)

    def release(self, ino: int, handle: int) -> None:  # noqa: ARG002
        found = self.handles.remove(handle)
        if found is not None:
            if found.locks:
                self.locks.released(found)
            self._saving.let_go(found.file)

    # --- locks

    def getlk(self, ino: int, handle: int, owner: int, wanted: Range, done: LockDone) -> Callable[[], None]:  # noqa: ARG002
        return self.locks.test(handle, owner, wanted, done)

    def setlk(self, ino: int, handle: int, owner: int, wanted: Range, **how: Any) -> Callable[[], None]:  # noqa: ARG002
        return self.locks.change(handle, "posix", owner, wanted, **how)

    def flock(self, ino: int, handle: int, owner: int, wanted: Range, **how: Any) -> Callable[[], None]:  # noqa: ARG002
        return self.locks.change(handle, "flock", owner, wanted, **how)

    def statfs(self) -> StatFs:
        return self._space()

    # --- start and end

    def recover(self, logged: Logged, is_own: IsOwn = lambda op: False) -> int:  # noqa: ARG005
        """Edits of files that were open when the last run ended become operations, or are parked; returns how
        many files. Called once, before anything else."""
        found = restore(self.parts, self.handles, logged, is_own)
        if found and self._saving.save_parked():
            self._saving.park()
        return len(found)

    def save_parked(self) -> int:
        """See `Saving`."""
        return self._saving.save_parked()

    def unsaved_files(self) -> int:
        """Files with edits that are in no operation yet: open ones, and parked ones."""
        return len(unsaved(self.handles.files()))

    def flush_all(self) -> None:
        """Save the edits of every file, open or not. Raises the first error, after all were tried."""
        self._saving.flush_all()

    def close(self) -> None:
        """Unsaved edits stay in their journals."""
        self._saving.close()
