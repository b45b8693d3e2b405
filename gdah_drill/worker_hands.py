"""The hands of a drill's worker: besides the calls of `Hands`, those of `gdah_drill/folder.py`, timed one by one.

Both sides, as in `gdah_drill/hands.py`: the helper runs this file as a script.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from gdah_drill.hands import Calls, Hands, serve


def hands_of_a_worker(root: Path | str) -> Hands:
    return Hands(root, __file__)


HOW = {
    "r": os.O_RDONLY,
    "+": os.O_RDWR,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "x": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}
"""How the calls of a drill open files."""
WHOLE_BYTES = 4 << 20
"""More than a file of the shared folder has."""


class DrillCalls(Calls):
    """The calls of a drill's worker (`gdah_drill/folder.py` has their words): timed one by one, with descriptors that
    have names."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._fds: dict[str, int] = {}

    def timed(self, calls: list[tuple[Any, ...]]) -> dict[str, Any]:
        """Make the calls up to the first that fails. The answers; the longest [word, began, ended]; the errno; whether
        the mount was there then."""
        answers: list[Any] = []
        longest: list[Any] = ["", 0.0, 0.0]
        failed = 0
        for name, *args in calls:
            began = time.monotonic()
            try:
                answers.append((getattr(self, f"t_{name}", None) or getattr(self, name))(*args))
            except OSError as error:
                failed = error.errno or -1
            ended = time.monotonic()
            if ended - began >= longest[2] - longest[1]:
                longest = [name, began, ended]
            if failed:
                break
        return {"answers": answers, "longest": longest, "errno": failed, "mounted": not failed or self._mounted()}

    def _mounted(self) -> bool:
        with contextlib.suppress(OSError):
            return os.stat(self._root).st_dev != os.stat(os.path.dirname(self._root)).st_dev
        return False

    def forget(self) -> None:
        """Close every descriptor, whatever that says."""
        for fd in self._fds.values():
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()

    def forget_one(self, handle: str) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fds.pop(handle, -1))

    def survey(self, path: str) -> tuple[dict[str, list[Any]], list[Any]]:
        """Everything under a folder: path to [kind, size, digest or target, mode, mtime_ns, inode]; and the longest
        call. Errors are raised: what cannot be listed or read is not absent."""
        found: dict[str, list[Any]] = {}
        longest: list[Any] = ["", 0.0, 0.0]

        def call(name: str, at: str) -> Any:
            nonlocal longest
            began = time.monotonic()
            answer = _LOOKING[name](at)
            ended = time.monotonic()
            if ended - began >= longest[2] - longest[1]:
                longest = [name, began, ended]
            return answer

        def look(folder: str, inside: str) -> None:
            for name in sorted(call("list", folder)):
                at, key = os.path.join(folder, name), f"{inside}{name}"
                state = call("stat", at)
                told = [state.st_size, "", state.st_mode & 0o7777, state.st_mtime_ns, state.st_ino]
                if stat.S_ISLNK(state.st_mode):
                    found[key] = ["symlink", told[0], call("readlink", at), *told[2:]]
                elif stat.S_ISDIR(state.st_mode):
                    found[key] = ["dir", *told]
                    look(at, f"{key}/")
                else:
                    data = call("read", at)
                    found[key] = ["file", len(data), _digest(data), *told[2:]]

        look(self._at(path), "")
        return found, longest

    def t_open(self, handle: str, path: str, how: str) -> None:
        self._fds[handle] = os.open(self._at(path), HOW[how], 0o666)

    def t_put(self, handle: str, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fds[handle], view, offset)
            view, offset = view[count:], offset + count

    def t_add(self, handle: str, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fds[handle], view) :]

    def t_get(self, handle: str) -> bytes:
        """What a descriptor reads in one call."""
        return os.pread(self._fds[handle], WHOLE_BYTES, 0)

    def t_cut(self, handle: str, size: int) -> None:
        os.ftruncate(self._fds[handle], size)

    def t_sync(self, handle: str) -> None:
        os.fsync(self._fds[handle])

    def t_close(self, handle: str) -> None:
        os.close(self._fds.pop(handle))

    def t_dup(self, handle: str, new: str) -> None:
        self._fds[new] = os.dup(self._fds[handle])

    def t_links(self, handle: str) -> int:
        """How many names the open file has."""
        return os.fstat(self._fds[handle]).st_nlink

    def t_read(self, path: str) -> str:
        return _digest(self.read(path))

    def t_bytes(self, path: str) -> bytes:
        """In one call: who reads to the end in several may read two contents, on any file system."""
        fd = os.open(self._at(path), os.O_RDONLY)
        try:
            return os.pread(fd, WHOLE_BYTES, 0)
        finally:
            os.close(fd)

    def t_list(self, path: str) -> list[str]:
        return self.listdir(path)

    def t_exchange(self, path: str, new: str) -> None:
        self.renameat2(path, new, 2)

    def t_utime(self, path: str, time_ns: int) -> None:
        self.utime(path, (time_ns, time_ns))

    def t_copy(self, path: str, new: str) -> None:
        self.copy_range(path, new)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


_LOOKING: dict[str, Callable[[str], Any]] = {
    "list": os.listdir,
    "stat": os.lstat,
    "readlink": os.readlink,
    "read": lambda at: Path(at).read_bytes(),
}


if __name__ == "__main__":
    serve(DrillCalls(sys.argv[1]))
