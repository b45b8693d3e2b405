"""A pair of hands on a mount: a helper process that makes the file system calls of a test, under a deadline.

A test never touches a mount itself: if the mount hangs, only the helper does. This file is both sides; the helper runs
it as a script with nothing but the standard library.

    hands = Hands(root)
    hands.write("a/b.txt", b"text")        one call in the helper; OSErrors come back as they were
    fd = hands.open("a/b.txt", os.O_RDWR)  descriptors stay open in the helper between calls
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import pickle
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Waitable(Protocol):
    """A child, however it was started."""

    pid: int

    def wait(self, timeout: float | None = None) -> int: ...


DEADLINE_S = 60.0
_UNREAPED: list[Waitable] = []
"""Helpers that were killed while stuck in the kernel; reaped once their mount is gone."""


class Stuck(AssertionError):
    """A file system call did not return within the deadline."""


class Hands:
    """Threading: one call at a time; make one per thread."""

    def __init__(self, root: Path | str, script: str = __file__) -> None:
        """`script`: the helper, if it has to know more calls than `Calls`."""
        self._helper = subprocess.Popen(
            [sys.executable, "-I", "-S", script, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **named: self.call(name, *args, **named)

    def call(self, name: str, *args: Any, deadline_s: float = DEADLINE_S) -> Any:
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        _send(self._helper.stdin.fileno(), (name, args))
        try:
            answer = _receive(self._helper.stdout.fileno(), time.monotonic() + deadline_s)
        except TimeoutError:
            self.close()
            raise Stuck(f"{name}{args!r:.200} did not return within {deadline_s:.0f} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        for pipe in (self._helper.stdin, self._helper.stdout):
            if pipe is not None:
                pipe.close()
        abandon(self._helper)


def abandon(process: Waitable) -> None:
    """Kill a process that may be stuck in the kernel, and do not wait for it longer than a moment."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        _UNREAPED.append(process)


def reap() -> None:
    """Collect what `abandon` had to leave; called when the mounts are gone."""
    for process in list(_UNREAPED):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            _UNREAPED.remove(process)


def _send(fd: int, value: Any) -> None:
    data = pickle.dumps(value)
    view = memoryview(struct.pack(">I", len(data)) + data)
    while view:
        view = view[os.write(fd, view) :]


def _receive(fd: int, deadline: float | None = None) -> Any:
    (size,) = struct.unpack(">I", _exactly(fd, 4, deadline))
    return pickle.loads(_exactly(fd, size, deadline))


def _exactly(fd: int, size: int, deadline: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        if deadline is not None:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
        piece = os.read(fd, size - len(parts))
        if not piece:
            raise EOFError("the helper process is gone")
        parts += piece
    return bytes(parts)


# --- the helper's side: paths are relative to the root ---------------------------------------------------


class Calls:
    def __init__(self, root: str) -> None:
        self._root = root

    def _at(self, path: str) -> str:
        return os.path.join(self._root, path) if path else self._root

    def read(self, path: str) -> bytes:
        with open(self._at(path), "rb") as file:
            return file.read()

    def write(self, path: str, data: bytes, fsync: bool = False) -> None:
        with open(self._at(path), "wb") as file:
            file.write(data)
            if fsync:
                file.flush()
                os.fsync(file.fileno())

    def append(self, path: str, data: bytes) -> None:
        with open(self._at(path), "ab") as file:
            file.write(data)

    def create_exclusive(self, path: str, data: bytes) -> None:
        with open(self._at(path), "xb") as file:
            file.write(data)

    def exists(self, path: str) -> bool:
        return os.path.lexists(self._at(path))

    def listdir(self, path: str = "") -> list[str]:
        return sorted(os.listdir(self._at(path)))

    def stat(self, path: str) -> os.stat_result:
        return os.stat(self._at(path), follow_symlinks=False)

    def statvfs(self) -> os.statvfs_result:
        return os.statvfs(self._root)

    def mkdir(self, path: str) -> None:
        os.mkdir(self._at(path))

    def makedirs(self, path: str) -> None:
        os.makedirs(self._at(path), exist_ok=True)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def rmtree(self, path: str) -> None:
        shutil.rmtree(self._at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rename(self, path: str, new: str) -> None:
        os.rename(self._at(path), self._at(new))

    def renameat2(self, path: str, new: str, flags: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        old, there = os.fsencode(self._at(path)), os.fsencode(self._at(new))
        if libc.renameat2(-100, old, -100, there, ctypes.c_uint(flags)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def copy_range(self, path: str, new: str) -> None:
        with open(self._at(path), "rb") as source, open(self._at(new), "wb") as to:
            while os.copy_file_range(source.fileno(), to.fileno(), 1 << 30):
                pass

    def fallocate(self, path: str, mode: int, offset: int, length: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(self._at(path), "r+b") as file:
            if libc.fallocate(file.fileno(), mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def map_and_sync(self, path: str, offset: int, data: bytes) -> None:
        with open(self._at(path), "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[offset : offset + len(data)] = data
            memory.flush()

    def link(self, path: str, new: str) -> None:
        os.link(self._at(path), self._at(new))

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._at(path))

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def utime(self, path: str, ns: tuple[int, int]) -> None:
        os.utime(self._at(path), ns=ns)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self._at(path), size)

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(self._at(path), name, value)

    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self._at(path), name)

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        return os.open(self._at(path), flags, mode)

    def pread(self, fd: int, size: int, offset: int = 0) -> bytes:
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int = 0) -> int:
        return os.pwrite(fd, data, offset)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def close_fd(self, fd: int) -> None:
        os.close(fd)

    def count(self, path: str = "") -> int:
        """Files under a folder, of any depth."""
        return sum(len(files) for _, _, files in os.walk(self._at(path)))

    def tree(self, path: str = "") -> dict[str, bytes | str | None]:
        """Everything under a folder: bytes of a file, the target of a symlink as text, None for a folder."""
        top = self._at(path)
        found: dict[str, bytes | str | None] = {}
        for folder, folders, files in os.walk(top):
            for name in folders + files:
                at = os.path.join(folder, name)
                key = os.path.relpath(at, top)
                if os.path.islink(at):
                    found[key] = os.readlink(at)
                elif os.path.isdir(at):
                    found[key] = None
                else:
                    with open(at, "rb") as file:
                        found[key] = file.read()
        return found

    def unreadable(self, path: str = "", most: int = 3, limit_s: float = 30.0) -> dict[str, int]:
        """What cannot be read or listed under a folder, with its errno. Each may take seconds to say so: the first
        ones, as far as one comes in the time."""
        until = time.monotonic() + limit_s
        top = self._at(path)
        failed: dict[str, int] = {}

        def note(at: str, error: OSError) -> None:
            if error.errno != errno.ENOENT:  # removed meanwhile
                failed[os.path.relpath(at, top)] = error.errno or -1

        for folder, _, files in os.walk(top, onerror=lambda error: note(error.filename, error)):
            for name in files:
                if len(failed) >= most or time.monotonic() > until:
                    return failed
                at = os.path.join(folder, name)
                try:
                    if not os.path.islink(at):
                        with open(at, "rb") as file:
                            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # not from the kernel's pages
                            while file.read(1 << 20):
                                pass
                except OSError as error:
                    note(at, error)
        return failed

    def poll_read(self, path: str, wanted: bytes, limit_s: float) -> float:
        """Read until the content is `wanted`; when that was, by time.time(). EOFError at the limit."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError):
                if self.read(path) == wanted:
                    return time.time()
            time.sleep(0.002)
        raise EOFError(f"{path} did not become {wanted!r:.80}; it is {self.read(path)!r:.80}")


def serve(calls: Calls) -> None:
    while True:
        try:
            name, args = _receive(0)
        except EOFError:
            return
        try:
            answer = getattr(calls, name)(*args)
        except Exception as error:
            answer = error
        _send(1, answer)


if __name__ == "__main__":
    serve(Calls(sys.argv[1]))
