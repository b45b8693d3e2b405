"""The same calls on the file system as an object and on any folder (a mount, or a plain one to compare with).

Paths are bytes relative to the root of the target. Errors are OSErrors with an errno, whatever is below.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import stat
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from gdah_volume.errors import GdahError
from mountfs.ports import AttrChange, Caller, Stat
from tests.fs.device import ROOT_CALLER, Device

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_CWD = -100


@dataclass(frozen=True)
class Seen:
    """What a test may compare of a stat."""

    kind: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    ino: int
    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    rdev: int
    blocks: int

    @property
    def plain(self) -> tuple[int, ...]:
        """The part that is the same on every file system."""
        size = self.size if stat.S_ISREG(self.kind) or stat.S_ISLNK(self.kind) else 0
        return self.kind, self.mode, self.nlink, self.uid, self.gid, size, self.rdev


class Target(Protocol):
    name: str

    def open(self, path: bytes, flags: int, mode: int = 0o644) -> int: ...
    def close(self, fd: int) -> None: ...
    def pread(self, fd: int, size: int, offset: int) -> bytes: ...
    def pwrite(self, fd: int, data: bytes, offset: int) -> int: ...
    def append(self, fd: int, data: bytes) -> int: ...
    def fsync(self, fd: int) -> None: ...
    def seek(self, fd: int, offset: int, whence: int) -> int: ...
    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None: ...
    def copy_range(self, fd: int, offset: int, to: int, to_offset: int, length: int) -> int: ...
    def ftruncate(self, fd: int, size: int) -> None: ...
    def truncate(self, path: bytes, size: int) -> None: ...
    def stat(self, path: bytes) -> Seen: ...
    def fstat(self, fd: int) -> Seen: ...
    def fchmod(self, fd: int, mode: int) -> None: ...
    def futime(self, fd: int, atime_ns: int, mtime_ns: int) -> None: ...
    def chmod(self, path: bytes, mode: int) -> None: ...
    def chown(self, path: bytes, uid: int, gid: int) -> None: ...
    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None: ...
    def mkdir(self, path: bytes, mode: int = 0o755) -> None: ...
    def rmdir(self, path: bytes) -> None: ...
    def unlink(self, path: bytes) -> None: ...
    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None: ...
    def link(self, old: bytes, new: bytes) -> None: ...
    def symlink(self, target: bytes, path: bytes) -> None: ...
    def readlink(self, path: bytes) -> bytes: ...
    def mknod(self, path: bytes, mode: int, rdev: int = 0) -> None: ...
    def listdir(self, path: bytes) -> list[bytes]: ...
    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int = 0) -> None: ...
    def getxattr(self, path: bytes, name: bytes) -> bytes: ...
    def listxattr(self, path: bytes) -> list[bytes]: ...
    def removexattr(self, path: bytes, name: bytes) -> None: ...


def write_file(target: Target, path: bytes, data: bytes, mode: int = 0o644) -> None:
    fd = target.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    if data:
        target.pwrite(fd, data, 0)
    target.close(fd)


def read_file(target: Target, path: bytes) -> bytes:
    fd = target.open(path, os.O_RDONLY)
    try:
        parts = []
        offset = 0
        while part := target.pread(fd, 131072, offset):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)
    finally:
        target.close(fd)


class FolderTarget:
    """Any folder, through the system calls of this process."""

    def __init__(self, root: Path, name: str = "folder") -> None:
        self.name = name
        self._root = os.fsencode(root)

    def _at(self, path: bytes) -> bytes:
        return self._root + b"/" + path if path else self._root

    def open(self, path: bytes, flags: int, mode: int = 0o644) -> int:
        return os.open(self._at(path), flags, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def append(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def seek(self, fd: int, offset: int, whence: int) -> int:
        return os.lseek(fd, offset, whence)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        if _LIBC.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def copy_range(self, fd: int, offset: int, to: int, to_offset: int, length: int) -> int:
        return os.copy_file_range(fd, to, length, offset, to_offset)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def truncate(self, path: bytes, size: int) -> None:
        os.truncate(self._at(path), size)

    def stat(self, path: bytes) -> Seen:
        return _seen_os(os.lstat(self._at(path)))

    def fstat(self, fd: int) -> Seen:
        return _seen_os(os.fstat(fd))

    def fchmod(self, fd: int, mode: int) -> None:
        os.fchmod(fd, mode)

    def futime(self, fd: int, atime_ns: int, mtime_ns: int) -> None:
        os.utime(fd, ns=(atime_ns, mtime_ns))

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        os.lchown(self._at(path), uid, gid)

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        os.utime(self._at(path), ns=(atime_ns, mtime_ns), follow_symlinks=False)

    def mkdir(self, path: bytes, mode: int = 0o755) -> None:
        os.mkdir(self._at(path), mode)

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self._at(path))

    def unlink(self, path: bytes) -> None:
        os.unlink(self._at(path))

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        if not flags:
            os.rename(self._at(old), self._at(new))
            return
        if _LIBC.renameat2(_AT_CWD, self._at(old), _AT_CWD, self._at(new), ctypes.c_uint(flags)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def link(self, old: bytes, new: bytes) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, self._at(path))

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(self._at(path))

    def mknod(self, path: bytes, mode: int, rdev: int = 0) -> None:
        os.mknod(self._at(path), mode, rdev)

    def listdir(self, path: bytes) -> list[bytes]:
        return sorted(os.listdir(self._at(path)))

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int = 0) -> None:
        os.setxattr(self._at(path), name, value, flags, follow_symlinks=False)

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        return os.getxattr(self._at(path), name, follow_symlinks=False)

    def listxattr(self, path: bytes) -> list[bytes]:
        return sorted(os.fsencode(name) for name in os.listxattr(self._at(path), follow_symlinks=False))

    def removexattr(self, path: bytes, name: bytes) -> None:
        os.removexattr(self._at(path), name, follow_symlinks=False)


def _seen_os(found: os.stat_result) -> Seen:
    return Seen(
        kind=stat.S_IFMT(found.st_mode),
        mode=stat.S_IMODE(found.st_mode),
        nlink=found.st_nlink,
        uid=found.st_uid,
        gid=found.st_gid,
        size=found.st_size,
        ino=found.st_ino,
        mtime_ns=found.st_mtime_ns,
        atime_ns=found.st_atime_ns,
        ctime_ns=found.st_ctime_ns,
        rdev=found.st_rdev,
        blocks=found.st_blocks,
    )


DEADLINE_S = 60.0


class MountTarget(FolderTarget):
    """A folder of a mount. The calls of FolderTarget are made by a helper process, so that a mount that hangs does not
    take the test along; errors come back with their errno."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "mount")
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._helper = context.Process(target=_serve, args=(root, theirs), daemon=True)
        self._helper.start()
        theirs.close()

    def shut(self) -> None:
        self._helper.kill()
        self._helper.join(5)
        self._pipe.close()

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in ("name", "shut"):
            return object.__getattribute__(self, name)
        return lambda *args: self._call(name, args)

    def _call(self, name: str, args: tuple[Any, ...]) -> Any:
        self._pipe.send((name, args))
        assert self._pipe.poll(DEADLINE_S), f"{name}{args!r:.200} did not return within {DEADLINE_S:.0f} s"
        answer = self._pipe.recv()
        if isinstance(answer, OSError):
            raise answer
        return answer


def _serve(root: Path, pipe: Connection) -> None:
    target = FolderTarget(root)
    os.umask(0o022)
    while True:
        try:
            name, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(getattr(target, name)(*args))
        except OSError as error:
            pipe.send(error)


class ObjectTarget:
    """The Filesystem object of a Device, called the way the kernel does: inode by inode, handles counted."""

    def __init__(self, device: Device, caller: Caller = ROOT_CALLER) -> None:
        self.name = "object"
        self.device = device
        self.caller = caller
        self._open: dict[int, tuple[int, int]] = {}

    def calls(self) -> _Errors:
        return _Errors(self.device)

    def _walk(self, path: bytes) -> tuple[int, list[int]]:
        """The inode of a path and those that were looked up on the way."""
        fs = self.calls()
        ino, held = 1, []
        parts = [part for part in path.split(b"/") if part]
        for part in parts:
            found: Stat = fs.lookup(ino, part)
            held.append(found.ino)
            ino = found.ino
        return ino, held

    def _parent(self, path: bytes) -> tuple[int, bytes, list[int]]:
        above, _, name = path.rpartition(b"/")
        ino, held = self._walk(above)
        if not stat.S_ISDIR(self.calls().getattr(ino).mode):
            self._done(held)
            raise NotADirectoryError(20, "the kernel looks for a name in folders only")
        return ino, name, held

    def _done(self, held: list[int]) -> None:
        for ino in held:
            self.device.fs.forget(ino, 1)

    def open(self, path: bytes, flags: int, mode: int = 0o644) -> int:
        fs = self.calls()
        parent, name, held = self._parent(path)
        try:
            try:
                found = fs.lookup(parent, name)
            except FileNotFoundError:
                if not flags & os.O_CREAT:
                    raise
                found, opened = fs.create(parent, name, mode & ~0o022, flags, self.caller)
            else:
                if flags & os.O_CREAT and flags & os.O_EXCL:
                    self._done([found.ino])
                    raise FileExistsError(17, "exists")
                try:
                    opened = fs.open(found.ino, flags & ~(os.O_CREAT | os.O_EXCL), self.caller)
                except OSError:
                    self._done([found.ino])
                    raise
        finally:
            self._done(held)
        fd = 1000 + opened.handle
        self._open[fd] = (found.ino, opened.handle)
        return fd

    def close(self, fd: int) -> None:
        ino, handle = self._open.pop(fd)
        fs = self.calls()
        try:
            fs.flush(ino, handle)
        finally:
            fs.release(ino, handle)
            fs.forget(ino, 1)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        data: bytes = self.calls().read(*self._open[fd], offset, size)
        return data

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        size: int = self.calls().write(*self._open[fd], offset, data)
        return size

    def append(self, fd: int, data: bytes) -> int:
        return self.pwrite(fd, data, self.fstat(fd).size)

    def fsync(self, fd: int) -> None:
        self.calls().fsync(*self._open[fd], data_only=False)

    def seek(self, fd: int, offset: int, whence: int) -> int:
        found: int = self.calls().seek(*self._open[fd], offset, whence)
        return found

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self.calls().allocate(*self._open[fd], mode, offset, length, self.caller)

    def copy_range(self, fd: int, offset: int, to: int, to_offset: int, length: int) -> int:
        handle, to_handle = self._open[fd][1], self._open[to][1]
        copied: int = self.calls().copy_range(handle, offset, to_handle, to_offset, length, self.caller)
        return copied

    def ftruncate(self, fd: int, size: int) -> None:
        ino, handle = self._open[fd]
        self.calls().setattr(ino, AttrChange(size=size), handle, self.caller)

    def _set(self, path: bytes, change: AttrChange) -> None:
        ino, held = self._walk(path)
        try:
            self.calls().setattr(ino, change, None, self.caller)
        finally:
            self._done(held)

    def truncate(self, path: bytes, size: int) -> None:
        self._set(path, AttrChange(size=size))

    def stat(self, path: bytes) -> Seen:
        ino, held = self._walk(path)
        try:
            return _seen(self.calls().getattr(ino))
        finally:
            self._done(held)

    def fstat(self, fd: int) -> Seen:
        return _seen(self.calls().getattr(*self._open[fd]))

    def fchmod(self, fd: int, mode: int) -> None:
        ino, handle = self._open[fd]
        self.calls().setattr(ino, AttrChange(mode=mode), handle, self.caller)

    def futime(self, fd: int, atime_ns: int, mtime_ns: int) -> None:
        ino, handle = self._open[fd]
        self.calls().setattr(ino, AttrChange(atime_ns=atime_ns, mtime_ns=mtime_ns), handle, self.caller)

    def chmod(self, path: bytes, mode: int) -> None:
        self._set(path, AttrChange(mode=mode))

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        self._set(path, AttrChange(uid=None if uid == -1 else uid, gid=None if gid == -1 else gid))

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        self._set(path, AttrChange(atime_ns=atime_ns, mtime_ns=mtime_ns))

    def mkdir(self, path: bytes, mode: int = 0o755) -> None:
        parent, name, held = self._parent(path)
        try:
            held.append(self.calls().mkdir(parent, name, mode & ~0o022, self.caller).ino)
        finally:
            self._done(held)

    def mknod(self, path: bytes, mode: int, rdev: int = 0) -> None:
        parent, name, held = self._parent(path)
        try:
            held.append(self.calls().mknod(parent, name, mode & ~0o022, rdev, self.caller).ino)
        finally:
            self._done(held)

    def symlink(self, target: bytes, path: bytes) -> None:
        parent, name, held = self._parent(path)
        try:
            held.append(self.calls().symlink(parent, name, target, self.caller).ino)
        finally:
            self._done(held)

    def rmdir(self, path: bytes) -> None:
        parent, name, held = self._parent(path)
        try:
            self.calls().rmdir(parent, name)
        finally:
            self._done(held)

    def unlink(self, path: bytes) -> None:
        parent, name, held = self._parent(path)
        try:
            self.calls().unlink(parent, name)
        finally:
            self._done(held)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        parent, name, held = self._parent(old)
        new_parent, new_name, more = self._parent(new)
        try:
            self.calls().rename(parent, name, new_parent, new_name, flags)
        finally:
            self._done(held + more)

    def link(self, old: bytes, new: bytes) -> None:
        ino, held = self._walk(old)
        parent, name, more = self._parent(new)
        try:
            held.append(self.calls().link(ino, parent, name).ino)
        finally:
            self._done(held + more)

    def readlink(self, path: bytes) -> bytes:
        ino, held = self._walk(path)
        try:
            target: bytes = self.calls().readlink(ino)
            return target
        finally:
            self._done(held)

    def listdir(self, path: bytes) -> list[bytes]:
        ino, held = self._walk(path)
        fs = self.calls()
        try:
            handle = fs.opendir(ino)
            names = [entry.name for entry in fs.readdir(ino, handle, 0)]
            fs.releasedir(ino, handle)
        finally:
            self._done(held)
        return sorted(name for name in names if name not in (b".", b".."))

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int = 0) -> None:
        ino, held = self._walk(path)
        try:
            self.calls().setxattr(ino, name, value, flags)
        finally:
            self._done(held)

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        ino, held = self._walk(path)
        try:
            value: bytes = self.calls().getxattr(ino, name)
            return value
        finally:
            self._done(held)

    def listxattr(self, path: bytes) -> list[bytes]:
        ino, held = self._walk(path)
        try:
            return list(self.calls().listxattr(ino, self.caller))
        finally:
            self._done(held)

    def removexattr(self, path: bytes, name: bytes) -> None:
        ino, held = self._walk(path)
        try:
            self.calls().removexattr(ino, name)
        finally:
            self._done(held)


class _Errors:
    """The calls of a Filesystem with OSErrors, as the kernel passes them on."""

    def __init__(self, device: Device) -> None:
        self._fs = device.fs

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        call = getattr(self._fs, name)

        def translated(*args, **named):  # type: ignore[no-untyped-def]
            try:
                return call(*args, **named)
            except GdahError as error:
                raise OSError(error.errno, str(error)) from error

        return translated


def _seen(found: Stat) -> Seen:
    return Seen(
        kind=stat.S_IFMT(found.mode),
        mode=stat.S_IMODE(found.mode),
        nlink=found.nlink,
        uid=found.uid,
        gid=found.gid,
        size=found.size,
        ino=found.ino,
        mtime_ns=found.mtime_ns,
        atime_ns=found.atime_ns,
        ctime_ns=found.ctime_ns,
        rdev=found.rdev,
        blocks=found.blocks,
    )
