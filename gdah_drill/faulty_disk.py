"""A disk that fails on command: a FUSE file system over a folder, in a process of its own, with a socket to command it.

    python -m gdah_drill.faulty_disk BACKING MOUNTPOINT SOCKET

Commands (one JSON line each, answered by one): {"set": {"full": true}}, {"figures": 1}, {"lose": seed or null}.

* `full`: no room, and ENOSPC for whatever needs some.
* `read_error`, `write_error`: EIO, for files whose path contains the given text ("" means every file).
* `fsync_error`: an fsync answers EIO, and what it should have saved stays unsaved.
* `lose`, after the processes that used it were killed: power was cut. What was not synced is taken back, newest first:
  bytes of a file since its last fsync, names since the last fsync of anything (an fsync commits the journal of names,
  as on ext4). With null everything unsynced goes, with a seed a part of it: each file keeps a random first part of its
  writes. What is older than MEMORY_BYTES of unsynced writes counts as written back, as a kernel does after a while.

There is no direct I/O, so shared memory maps (SQLite's) work. Nothing below BACKING is touched by anybody else
meanwhile.

One operation at a time: threads that hand each other Python's lock made a commit of SQLite take 27 ms here (it takes
0.4 ms on the disk below, and 4 ms now), and what was measured in a drill was this disk. Threading: libfuse's one thread
runs the operations; `_lock` guards what is remembered for `lose`, never an I/O of a program.
"""

# ruff: noqa: ARG002 - the operations have the arguments that fusepy calls them with

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fuse import FUSE, FuseOSError, Operations

MEMORY_BYTES = 256 << 20
FILES_MAX = 4096
BLOCK_BYTES = 4096


@dataclass
class Unsynced:
    """How to take back what was written to one file: newest last. `fd` keeps the file, wherever its name went."""

    fd: int
    steps: list[tuple[int, bytes, int]] = field(default_factory=list)
    """Offset, the bytes that were there, the size before."""
    size_bytes: int = 0

    def take_back(self, keep: int) -> int:
        taken = 0
        for offset, before, size in reversed(self.steps[keep:]):
            os.pwrite(self.fd, before, offset)
            os.ftruncate(self.fd, size)
            taken += 1
        return taken


class Memory:
    """What is not on the platter yet. Invariant: `steps` of all files together hold at most MEMORY_BYTES."""

    def __init__(self, shadow: str) -> None:
        self._shadow = shadow
        self._lock = threading.Lock()
        self._files: dict[tuple[int, int], Unsynced] = {}
        self._names: list[Callable[[], None]] = []
        self._bytes = 0
        self._count = 0

    def writing(self, fd: int, offset: int, size: int) -> None:
        """Before `size` bytes at `offset` change; with size 0: before the file is cut to `offset` bytes."""
        status = os.fstat(fd)
        end = status.st_size if size == 0 else offset + size
        before = os.pread(fd, end - offset, offset) if min(end, status.st_size) > offset else b""
        with self._lock:
            key = (status.st_dev, status.st_ino)
            unsynced = self._files.get(key)
            if unsynced is None:
                unsynced = self._files[key] = Unsynced(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
            unsynced.steps.append((offset, before, status.st_size))
            unsynced.size_bytes += len(before) + 64
            self._bytes += len(before) + 64
            while self._bytes > MEMORY_BYTES or len(self._files) > FILES_MAX:
                self._forget(next(iter(self._files)))

    def synced(self, fd: int) -> None:
        status = os.fstat(fd)
        with self._lock:
            self._forget((status.st_dev, status.st_ino))
            self._names.clear()
            for name in os.listdir(self._shadow):
                os.unlink(os.path.join(self._shadow, name))

    def named(self, undo: Callable[[], None]) -> None:
        with self._lock:
            self._names.append(undo)

    def kept(self, path: str) -> str:
        """Another name for a file that is about to lose its own."""
        with self._lock:
            self._count += 1
            name = os.path.join(self._shadow, str(self._count))
        os.link(path, name, follow_symlinks=False)
        return name

    def _forget(self, key: tuple[int, int]) -> None:
        unsynced = self._files.pop(key, None)
        if unsynced is not None:
            self._bytes -= unsynced.size_bytes
            os.close(unsynced.fd)

    def lose(self, seed: int | None) -> dict[str, int]:
        chance = None if seed is None else random.Random(seed)
        with self._lock:
            writes = sum(
                unsynced.take_back(0 if chance is None else chance.randint(0, len(unsynced.steps)))
                for unsynced in self._files.values()
            )
            keep = 0 if chance is None else chance.randint(0, len(self._names))
            for undo in reversed(self._names[keep:]):
                with contextlib.suppress(OSError):
                    undo()
            names = len(self._names) - keep
            self._names.clear()
            for key in list(self._files):
                self._forget(key)
        return {"lost_writes": writes, "lost_names": names}


class FaultyDisk(Operations):  # type: ignore[misc]
    use_ns = True
    flag_nullpath_ok = 1
    """A file that was removed while open has no path any more: None comes for it."""

    def __init__(self, backing: str, shadow: str) -> None:
        self._backing = backing
        self.memory = Memory(shadow)
        self.full = False
        self.read_error: str | None = None
        self.write_error: str | None = None
        self.fsync_error = False
        self.figures = {"full": 0, "read_error": 0, "write_error": 0, "fsync_error": 0, "fsyncs": 0, "writes": 0}

    def _at(self, path: str) -> str:
        return self._backing + path

    def _count(self, name: str) -> None:
        self.figures[name] += 1

    def _needs_room(self) -> None:
        if self.full:
            self._count("full")
            raise FuseOSError(errno.ENOSPC)

    def _may_fail(self, path: str | None, which: str) -> None:
        wrong = self.read_error if which == "read_error" else self.write_error
        if wrong is not None and wrong in (path or ""):
            self._count(which)
            raise FuseOSError(errno.EIO)

    # --- looking

    def getattr(self, path: str | None, fh: int | None = None) -> dict[str, Any]:
        status = os.fstat(fh) if fh is not None else os.lstat(self._at(path or ""))
        wanted = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_ino")
        found = {key: getattr(status, key) for key in wanted}
        for key in ("atime", "mtime", "ctime"):
            found[f"st_{key}"] = getattr(status, f"st_{key}_ns")
        return found

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def statfs(self, path: str) -> dict[str, Any]:
        room = os.statvfs(self._at(path))
        figures = {key: getattr(room, key) for key in dir(room) if key.startswith("f_") and key != "f_fsid"}
        if self.full:
            figures |= {"f_bavail": 0, "f_bfree": 0}
        return figures

    def getxattr(self, path: str | None, name: str, position: int = 0) -> bytes:
        raise FuseOSError(errno.ENOSYS)  # once: else each write is preceded by a question for one

    # --- names

    def mkdir(self, path: str, mode: int) -> None:
        self._needs_room()
        os.mkdir(self._at(path), mode)
        self.memory.named(lambda: os.rmdir(self._at(path)))

    def rmdir(self, path: str) -> None:
        mode = os.lstat(self._at(path)).st_mode
        os.rmdir(self._at(path))
        self.memory.named(lambda: os.mkdir(self._at(path), mode))

    def unlink(self, path: str) -> None:
        kept = self.memory.kept(self._at(path))
        os.unlink(self._at(path))
        self.memory.named(lambda: os.rename(kept, self._at(path)))

    def rename(self, old: str, new: str) -> None:
        kept = None
        if os.path.lexists(self._at(new)) and not os.path.isdir(self._at(new)):
            kept = self.memory.kept(self._at(new))
        os.rename(self._at(old), self._at(new))

        def undo() -> None:
            os.rename(self._at(new), self._at(old))
            if kept is not None:
                os.rename(kept, self._at(new))

        self.memory.named(undo)

    def symlink(self, target: str, source: str) -> None:
        self._needs_room()
        os.symlink(source, self._at(target))
        self.memory.named(lambda: os.unlink(self._at(target)))

    def link(self, target: str, source: str) -> None:
        self._needs_room()
        os.link(self._at(source), self._at(target), follow_symlinks=False)
        self.memory.named(lambda: os.unlink(self._at(target)))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self._at(path), uid, gid, follow_symlinks=False)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        now = time.time_ns()
        os.utime(self._at(path), ns=times or (now, now), follow_symlinks=False)

    # --- content

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self._needs_room()
        self._may_fail(path, "write_error")
        fd = os.open(self._at(path), os.O_RDWR | os.O_CREAT, mode)
        self.memory.named(lambda: os.unlink(self._at(path)))
        return fd

    def open(self, path: str, flags: int) -> int:
        if flags & os.O_ACCMODE == os.O_WRONLY:
            flags = flags & ~os.O_ACCMODE | os.O_RDWR  # what is overwritten is read first
        truncates = flags & os.O_TRUNC
        fd = os.open(self._at(path), flags & ~(os.O_APPEND | os.O_TRUNC | os.O_CREAT | os.O_EXCL))
        if truncates:
            self.memory.writing(fd, 0, 0)
            os.ftruncate(fd, 0)
        return fd

    def read(self, path: str | None, size: int, offset: int, fh: int) -> bytes:
        self._may_fail(path, "read_error")
        return os.pread(fh, size, offset)

    def write(self, path: str | None, data: bytes, offset: int, fh: int) -> int:
        self._may_fail(path, "write_error")
        self._needs_room()
        self._count("writes")
        self.memory.writing(fh, offset, len(data))
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str | None, length: int, fh: int | None = None) -> None:
        fd = os.open(self._at(path or ""), os.O_RDWR) if fh is None else fh
        try:
            if length > os.fstat(fd).st_size:
                self._needs_room()
            self.memory.writing(fd, length, 0)
            os.ftruncate(fd, length)
        finally:
            if fh is None:
                os.close(fd)

    def release(self, path: str | None, fh: int) -> None:
        os.close(fh)

    def fsync(self, path: str | None, datasync: int, fh: int) -> None:
        self._count("fsyncs")
        if self.fsync_error:
            self._count("fsync_error")
            raise FuseOSError(errno.EIO)
        self.memory.synced(fh)

    def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
        fd = os.open(self._at(path), os.O_RDONLY)
        try:
            self.fsync(path, datasync, fd)
        finally:
            os.close(fd)


def obey(disk: FaultyDisk, order: dict[str, Any]) -> dict[str, Any]:
    for name, value in order.get("set", {}).items():
        assert name in ("full", "read_error", "write_error", "fsync_error")
        setattr(disk, name, value)
    if "lose" in order:
        return disk.memory.lose(order["lose"])
    return dict(disk.figures)


def _listen(disk: FaultyDisk, path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener.bind(path)
    listener.listen(4)
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as stream, contextlib.suppress(OSError):
            for line in stream:
                stream.write(json.dumps(obey(disk, json.loads(line))).encode() + b"\n")
                stream.flush()


def main(backing: str, mountpoint: str, command_socket: str) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    shadow = backing + ".unsynced"
    os.makedirs(shadow, exist_ok=True)
    disk = FaultyDisk(backing, shadow)
    threading.Thread(target=_listen, args=(disk, command_socket), daemon=True).start()
    FUSE(
        disk, mountpoint, foreground=True, nothreads=True, big_writes=True, hard_remove=True, use_ino=True,
        default_permissions=True, fsname="gdah-drill-disk",
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
