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
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from gdah_volume.content import CHUNK_SIZE
from tests.fs.device import Device
from tests.fs.targets import FolderTarget, ObjectTarget, Target, write_file

SAME_ERRORS = {39: 17, 1: 21}
"""ENOTEMPTY or EEXIST, EPERM or EISDIR: POSIX allows both."""

names = st.sampled_from([b"a", b"b", b"c"])
picks = st.integers(0, 63)
"""Picks a path: mostly one that exists, of any kind or of a file; sometimes one that does not."""
places = st.tuples(st.integers(0, 15), names)
"""Picks a folder, and a name in it, which may be taken."""
offsets = st.one_of(
    st.integers(0, 20),
    st.integers(CHUNK_SIZE - 10, CHUNK_SIZE + 10),
    st.integers(0, 3 * CHUNK_SIZE),
)
lengths = st.one_of(st.integers(1, 30), st.sampled_from([4096, 70_000, CHUNK_SIZE, CHUNK_SIZE + 5]))
open_files = st.integers(0, 11)
OPEN_MAX = 4
edits = st.lists(
    st.one_of(
        st.tuples(st.just("write"), offsets, lengths),
        st.tuples(st.just("cut"), offsets, st.just(0)),
        st.tuples(st.just("read"), offsets, lengths),
    ),
    min_size=1,
    max_size=8,
)
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


Place = tuple[int, bytes]


class Comparison(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="gdah-machine-"))
        (self.folder / "plain").mkdir()
        self.plain = FolderTarget(self.folder / "plain")
        self.device = Device(self.folder / "device")
        self.ours = ObjectTarget(self.device)
        self.open: list[tuple[int, int]] = []
        """Descriptors of ours and of the plain folder."""

    @initialize()
    def some_files(self) -> None:
        for target in (self.ours, self.plain):
            target.mkdir(b"c")
            write_file(target, b"a", b"some content")
            write_file(target, b"c/b", bytes(range(256)) * 5000)

    def teardown(self) -> None:
        for _, fd in self.open:
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

    # --- choosing

    def picked(self, pick: int) -> bytes:
        found = self._paths()
        if pick >= 32:
            found = [path for path in found if self._kind(path) == stat.S_IFREG] or found
        if 28 <= pick < 32 or not found:
            return [b"a", b"b/a", b"no", b"a/b/c"][pick % 4]
        return found[pick % len(found)]

    def place(self, place: Place) -> bytes:
        number, name = place
        folders = [b"", *(path for path in self._paths() if self._kind(path) == stat.S_IFDIR), b"no"]
        folder = folders[number % len(folders)]
        return folder + b"/" + name if folder else name

    def _paths(self) -> list[bytes]:
        found = []
        for folder, folders, files in os.walk(os.fsencode(self.folder / "plain")):
            below = os.path.relpath(folder, os.fsencode(self.folder / "plain"))
            found += [name if below == b"." else below + b"/" + name for name in folders + files]
        return sorted(found)

    # --- rules: names

    @rule(place=places, mode=modes)
    def mkdir(self, place: Place, mode: int) -> None:
        path = self.place(place)
        self.same(lambda target: target.mkdir(path, mode & 0o777), path)

    @rule(pick=picks)
    def rmdir(self, pick: int) -> None:
        path = self.picked(pick)
        self.same(lambda target: target.rmdir(path), path)

    @rule(pick=picks)
    def unlink(self, pick: int) -> None:
        path = self.picked(pick)
        self.same(lambda target: target.unlink(path), path)

    @rule(pick=picks, to=places)
    def rename(self, pick: int, to: Place) -> None:
        old, new = self.picked(pick), self.place(to)
        self.same(lambda target: target.rename(old, new), old, new)

    @rule(pick=picks, to=places)
    def link(self, pick: int, to: Place) -> None:
        old, new = self.picked(pick), self.place(to)
        self.same(lambda target: target.link(old, new), old, new)

    @rule(place=places, to=names)
    def symlink(self, place: Place, to: bytes) -> None:
        path = self.place(place)
        self.same(lambda target: target.symlink(b"../nowhere/" + to, path), path)

    @rule(place=places)
    def fifo(self, place: Place) -> None:
        path = self.place(place)
        self.same(lambda target: target.mknod(path, stat.S_IFIFO | 0o600), path)

    # --- rules: files

    @rule(place=places, how=flags)
    def open_place(self, place: Place, how: int) -> None:
        self.open_file(self.place(place), how)

    @rule(pick=st.integers(32, 63), how=flags)
    def open_picked(self, pick: int, how: int) -> None:
        self.open_file(self.picked(pick), how)

    def open_file(self, path: bytes, how: int) -> None:
        if self._kind(path) not in (0, stat.S_IFREG) or len(self.open) >= OPEN_MAX:
            return
        found = self.both(lambda target: target.open(path, how), path)
        if found is not None:
            self.open.append(found)

    def _is_special(self, path: bytes) -> bool:
        """A symlink is followed by the kernel before it asks us; what it does with a pipe it does itself."""
        return self._kind(path) not in (0, stat.S_IFREG, stat.S_IFDIR)

    def each(self, handle: int, call: Callable[[Target, int], Any]) -> None:
        """On an open file of both."""
        if self.open:
            ours, plain = self.open[handle % len(self.open)]
            self.same(lambda target: call(target, ours if target is self.ours else plain))

    def plain_of(self, handle: int) -> int:
        return self.open[handle % len(self.open)][1]

    @rule(handle=open_files, offset=offsets, length=lengths, seed=st.integers(1, 255))
    def write(self, handle: int, offset: int, length: int, seed: int) -> None:
        data = bytes([seed, seed ^ 0x55]) * (length // 2 + 1)
        self.each(handle, lambda target, fd: target.pwrite(fd, data[:length], offset))

    @rule(handle=open_files, offset=offsets, length=lengths)
    def read(self, handle: int, offset: int, length: int) -> None:
        if not self.open or not self._readable(handle):
            return
        self.each(handle, lambda target, fd: target.pread(fd, length, offset))

    def _readable(self, handle: int) -> bool:
        """The kernel refuses to read what is open for writing only; it never asks."""
        try:
            os.pread(self.plain_of(handle), 1, 0)
        except OSError:
            return False
        return True

    @rule(handle=open_files, size=offsets)
    def ftruncate(self, handle: int, size: int) -> None:
        if self.open and _writable(self.plain_of(handle)):
            self.each(handle, lambda target, fd: target.ftruncate(fd, size))

    @rule(pick=picks, size=offsets)
    def truncate(self, pick: int, size: int) -> None:
        path = self.picked(pick)
        if not self._is_special(path):
            self.same(lambda target: target.truncate(path, size), path)

    @rule(handle=open_files)
    def fsync(self, handle: int) -> None:
        if self.open:
            self.ours.fsync(self.open[handle % len(self.open)][0])  # the plain folder is never lost

    @rule(handle=open_files)
    def close(self, handle: int) -> None:
        self.each(handle, lambda target, fd: target.close(fd))
        if self.open:
            self.open.pop(handle % len(self.open))

    @rule(pick=st.integers(32, 63), steps=edits, close=st.booleans(), unlink=st.integers(0, 12))
    def edit(self, pick: int, steps: list[tuple[str, int, int]], close: bool, unlink: int) -> None:
        """A program that edits one file in several places, and perhaps removes it meanwhile."""
        path = self.picked(pick)
        before = len(self.open)
        self.open_file(path, os.O_RDWR)
        if len(self.open) == before:
            return
        handle = len(self.open) - 1
        for number, (kind, offset, length) in enumerate(steps):
            if number == unlink:
                self.same(lambda target: target.unlink(path), path)
            if kind == "write":
                self.write(handle, offset, length, number + 1)
            elif kind == "cut":
                self.ftruncate(handle, offset)
            else:
                self.read(handle, offset, length)
        if close:
            self.close(handle)

    # --- rules: attributes

    @rule(pick=picks, mode=modes)
    def chmod(self, pick: int, mode: int) -> None:
        path = self.picked(pick)
        if not self._is_special(path):
            self.same(lambda target: target.chmod(path, mode), path)

    @rule(handle=open_files, mode=modes)
    def fchmod(self, handle: int, mode: int) -> None:
        self.each(handle, lambda target, fd: target.fchmod(fd, mode))

    @rule(pick=picks, uid=st.sampled_from([-1, 0, 1000]), gid=st.sampled_from([-1, 0, 2000]))
    def chown(self, pick: int, uid: int, gid: int) -> None:
        path = self.picked(pick)
        if (uid, gid) != (-1, -1):
            self.same(lambda target: target.chown(path, uid, gid), path)

    @rule(pick=picks, mtime=st.integers(0, 10**18))
    def utime(self, pick: int, mtime: int) -> None:
        path = self.picked(pick)
        self.same(lambda target: target.utime(path, mtime, mtime), path)

    @rule(handle=open_files, mtime=st.integers(0, 10**18))
    def futime(self, handle: int, mtime: int) -> None:
        self.each(handle, lambda target, fd: target.futime(fd, mtime, mtime))

    @rule(pick=picks, name=names, value=st.binary(max_size=20))
    def setxattr(self, pick: int, name: bytes, value: bytes) -> None:
        path = self.picked(pick)
        if not self._is_special(path):
            self.same(lambda target: target.setxattr(path, b"user." + name, value), path)

    @rule(pick=picks, name=names)
    def removexattr(self, pick: int, name: bytes) -> None:
        path = self.picked(pick)
        if not self._is_special(path):
            self.same(lambda target: target.removexattr(path, b"user." + name), path)

    # --- rules: life

    @rule()
    def the_server_takes_everything(self) -> None:
        self.device.feed_own()

    @rule()
    def remount(self) -> None:
        while self.open:
            self.close(0)
        self.device.unmount()
        self._start()

    @rule()
    def kill(self) -> None:
        for _, fd in self.open:
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
        for ours, plain in self.open:
            seen = self.plain.fstat(plain)
            assert self.ours.fstat(ours).plain == seen.plain
            if fcntl.fcntl(plain, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY:
                assert self.ours.pread(ours, seen.size + 1, 0) == self.plain.pread(plain, seen.size + 1, 0)


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
            max_examples=int(os.environ.get("GDAH_MACHINE_EXAMPLES", "20")),
            stateful_step_count=80,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
