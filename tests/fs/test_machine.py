"""One machine drives the file system as an object and a plain folder with the same calls, and compares all that a
program can see: results, errors, contents, attributes. Being unmounted, killed and fed are rules of it.

The plain folder is not killed: what had been written must be there afterwards, except what only an unlinked file held.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from gdah_volume.content import CHUNK_SIZE
from tests.fs.device import Device
from tests.fs.targets import FolderTarget, ObjectTarget, Target

SAME_ERRORS = {39: 17, 1: 21}
"""ENOTEMPTY or EEXIST, EPERM or EISDIR: POSIX allows both."""

names = st.sampled_from([b"a", b"b", b"c"])
paths = st.one_of(names, st.tuples(names, names).map(b"/".join), st.tuples(names, names, names).map(b"/".join))
offsets = st.one_of(
    st.integers(0, 20),
    st.integers(CHUNK_SIZE - 10, CHUNK_SIZE + 10),
    st.integers(0, 3 * CHUNK_SIZE),
)
lengths = st.one_of(st.integers(1, 30), st.sampled_from([4096, 70_000, CHUNK_SIZE, CHUNK_SIZE + 5]))
modes = st.sampled_from([0o600, 0o644, 0o755, 0o4711, 0o2750, 0o1777])
flags = st.sampled_from(
    [
        os.O_RDWR,
        os.O_RDONLY,
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_RDWR | os.O_CREAT | os.O_TRUNC,
        os.O_WRONLY | os.O_APPEND | os.O_CREAT,
        os.O_WRONLY | os.O_TRUNC,
    ]
)


class Comparison(RuleBasedStateMachine):
    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="gdah-machine-"))
        (self.folder / "plain").mkdir()
        self.plain = FolderTarget(self.folder / "plain")
        self.device = Device(self.folder / "device")
        self.ours = ObjectTarget(self.device)
        self.open: dict[int, tuple[int, int]] = {}
        self.count = 0

    def teardown(self) -> None:
        for _, fd in self.open.values():
            os.close(fd)
        self.device.kill()
        shutil.rmtree(self.folder)

    # --- comparing

    def both(self, call: Callable[[Target], Any], *involved: bytes) -> tuple[Any, Any] | None:
        """The results of both; None when both refused, for the same reason, or a path leads through a symlink (which
        the kernel follows before it asks)."""
        if any(self._through_symlink(path) for path in involved):
            return None
        ours, our_error = _attempt(call, self.ours)
        plain, error = _attempt(call, self.plain)
        assert our_error == error, f"ours: {our_error or ours!r}, plain: {error or plain!r}"
        return None if error else (ours, plain)

    def _through_symlink(self, path: bytes) -> bool:
        parts = path.split(b"/")
        return any(self._kind(b"/".join(parts[:n])) == stat.S_IFLNK for n in range(1, len(parts)))

    def _kind(self, path: bytes) -> int:
        try:
            return self.plain.stat(path).kind
        except OSError:
            return 0

    def same(self, call: Callable[[Target], Any], *involved: bytes) -> Any:
        found = self.both(call, *involved)
        if found is None:
            return None
        assert found[0] == found[1]
        return found[0]

    # --- rules: names

    @rule(path=paths, mode=modes)
    def mkdir(self, path: bytes, mode: int) -> None:
        self.same(lambda target: target.mkdir(path, mode & 0o777), path)

    @rule(path=paths)
    def rmdir(self, path: bytes) -> None:
        self.same(lambda target: target.rmdir(path), path)

    @rule(path=paths)
    def unlink(self, path: bytes) -> None:
        self.same(lambda target: target.unlink(path), path)

    @rule(old=paths, new=paths)
    def rename(self, old: bytes, new: bytes) -> None:
        self.same(lambda target: target.rename(old, new), old, new)

    @rule(old=paths, new=paths)
    def link(self, old: bytes, new: bytes) -> None:
        self.same(lambda target: target.link(old, new), old, new)

    @rule(path=paths, to=names)
    def symlink(self, path: bytes, to: bytes) -> None:
        self.same(lambda target: target.symlink(b"../nowhere/" + to, path), path)

    @rule(path=paths)
    def fifo(self, path: bytes) -> None:
        self.same(lambda target: target.mknod(path, stat.S_IFIFO | 0o600), path)

    # --- rules: files

    @rule(target=handles, path=paths, how=flags)
    def open_file(self, path: bytes, how: int) -> int:
        if self._is_special(path):
            return 0
        found = self.both(lambda target: target.open(path, how), path)
        self.count += 1
        if found is not None:
            self.open[self.count] = found
        return self.count

    def _is_special(self, path: bytes) -> bool:
        """A pipe would block, and a symlink is followed by the kernel before it asks us."""
        return self._kind(path) not in (0, stat.S_IFREG, stat.S_IFDIR)

    def each(self, handle: int, call: Callable[[Target, int], Any]) -> None:
        if handle not in self.open:
            return
        ours, plain = self.open[handle]
        self.same(lambda target: call(target, ours if target is self.ours else plain))

    @rule(handle=handles, offset=offsets, length=lengths, seed=st.integers(1, 255))
    def write(self, handle: int, offset: int, length: int, seed: int) -> None:
        data = bytes([seed, seed ^ 0x55]) * (length // 2 + 1)
        self.each(handle, lambda target, fd: target.pwrite(fd, data[:length], offset))

    @rule(handle=handles, offset=offsets, length=lengths)
    def read(self, handle: int, offset: int, length: int) -> None:
        if handle in self.open and not self._readable(handle):
            return
        self.each(handle, lambda target, fd: target.pread(fd, length, offset))

    def _readable(self, handle: int) -> bool:
        """The kernel refuses to read what is open for writing only; it never asks."""
        try:
            os.pread(self.open[handle][1], 1, 0)
        except OSError:
            return False
        return True

    @rule(handle=handles, size=offsets)
    def ftruncate(self, handle: int, size: int) -> None:
        if handle in self.open and _writable(self.open[handle][1]):
            self.each(handle, lambda target, fd: target.ftruncate(fd, size))

    @rule(path=paths, size=offsets)
    def truncate(self, path: bytes, size: int) -> None:
        if not self._is_special(path):
            self.same(lambda target: target.truncate(path, size), path)

    @rule(handle=handles)
    def fsync(self, handle: int) -> None:
        self.each(handle, lambda target, fd: target.fsync(fd))

    @rule(handle=consumes(handles))
    def close(self, handle: int) -> None:
        self.each(handle, lambda target, fd: target.close(fd))
        self.open.pop(handle, None)

    # --- rules: attributes

    @rule(path=paths, mode=modes)
    def chmod(self, path: bytes, mode: int) -> None:
        if not self._is_special(path):
            self.same(lambda target: target.chmod(path, mode), path)

    @rule(handle=handles, mode=modes)
    def fchmod(self, handle: int, mode: int) -> None:
        self.each(handle, lambda target, fd: target.fchmod(fd, mode))

    @rule(path=paths, uid=st.sampled_from([-1, 0, 1000]), gid=st.sampled_from([-1, 0, 2000]))
    def chown(self, path: bytes, uid: int, gid: int) -> None:
        if (uid, gid) != (-1, -1):
            self.same(lambda target: target.chown(path, uid, gid), path)

    @rule(path=paths, mtime=st.integers(0, 10**18))
    def utime(self, path: bytes, mtime: int) -> None:
        self.same(lambda target: target.utime(path, mtime, mtime), path)

    @rule(handle=handles, mtime=st.integers(0, 10**18))
    def futime(self, handle: int, mtime: int) -> None:
        self.each(handle, lambda target, fd: target.futime(fd, mtime, mtime))

    @rule(path=paths, name=names, value=st.binary(max_size=20))
    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        if not self._is_special(path):
            self.same(lambda target: target.setxattr(path, b"user." + name, value), path)

    @rule(path=paths, name=names)
    def removexattr(self, path: bytes, name: bytes) -> None:
        if not self._is_special(path):
            self.same(lambda target: target.removexattr(path, b"user." + name), path)

    # --- rules: life

    @rule()
    def the_server_takes_everything(self) -> None:
        self.device.feed_own()

    @rule()
    def remount(self) -> None:
        for handle in list(self.open):
            self.each(handle, lambda target, fd: target.close(fd))
        self.open.clear()
        self.device.unmount()
        self._start()

    @rule()
    def kill(self) -> None:
        for _, fd in self.open.values():
            os.close(fd)
        self.open.clear()
        self.device.kill()
        self._start()

    def _start(self) -> None:
        self.device.start()
        self.ours = ObjectTarget(self.device)

    # --- what must be the same after each step

    @invariant()
    def trees_are_the_same(self) -> None:
        ours, plain = _tree(self.ours), _tree(self.plain)
        assert ours == plain

    @invariant()
    def open_files_are_the_same(self) -> None:
        for ours, plain in self.open.values():
            assert self.ours.fstat(ours).plain == self.plain.fstat(plain).plain


def _attempt(call: Callable[[Target], Any], target: Target) -> tuple[Any, int]:
    try:
        return call(target), 0
    except OSError as error:
        number = error.errno or 0
        return None, SAME_ERRORS.get(number, number)


def _writable(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _tree(target: Target, path: bytes = b"") -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    for name in target.listdir(path):
        below = path + b"/" + name if path else name
        seen = target.stat(below)
        told: list[Any] = [seen.plain]
        if seen.kind == stat.S_IFREG:
            told.append(_content(target, below, seen.size))
            told.append(target.listxattr(below))
        elif seen.kind == stat.S_IFLNK:
            told.append(target.readlink(below))
        # Times that programs have set are small here; others are those of two clocks.
        told.append(seen.mtime_ns if seen.mtime_ns <= 10**18 else "now")
        found[below] = told
        if seen.kind == stat.S_IFDIR:
            found |= _tree(target, below)
    return found


def _content(target: Target, path: bytes, size: int) -> bytes:
    fd = target.open(path, os.O_RDONLY)
    try:
        return target.pread(fd, size + 10, 0)
    finally:
        target.close(fd)


def test_the_object_does_what_a_plain_folder_does() -> None:
    run_state_machine_as_test(
        Comparison,
        settings=settings(
            max_examples=int(os.environ.get("GDAH_MACHINE_EXAMPLES", "25")),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
