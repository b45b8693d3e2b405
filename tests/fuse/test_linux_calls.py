"""What programs of Linux do with files beyond POSIX, on a mount of the real file system: direct I/O, memory maps,
running what lies there, flags of open, advice, room, questions that have no answer here."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import select
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fs.test_posix import raises
from tests.fuse.conftest import ToyMount

pytestmark = pytest.mark.mount
LIBC = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, fuse: None) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("linux")
    mount = ToyMount(folder / "m", device=str(folder / "device"))
    assert mount.greeting == {"result": "serving"}
    yield mount.path
    mount.close()


@pytest.fixture
def home(shared: Path, request: pytest.FixtureRequest) -> Path:
    made = shared / request.node.name
    made.mkdir()
    return made


@contextlib.contextmanager
def opened(path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def test_direct_reads_and_writes(home: Path) -> None:
    """Aligned, as ext4 wants it, and (more than ext4 gives) not; what others wrote through the page cache is there."""
    page = mmap.mmap(-1, MIB)
    page.write(os.urandom(MIB))
    with opened(home / "d", NEW | os.O_DIRECT) as direct, opened(home / "d", os.O_RDWR) as cached:
        assert os.pwritev(direct, [memoryview(page)], 0) == MIB
        assert os.pread(cached, MIB, 0) == page[:]
        os.pwrite(cached, b"cached", 4096)
        room = mmap.mmap(-1, 8192)
        assert os.preadv(direct, [room], 0) == 8192
        assert room[:] == page[:4096] + b"cached" + page[4102:8192]
        assert os.pwritev(direct, [memoryview(page)[:4096]], 4096) == 4096
        assert os.pread(cached, 4096, 4096) == page[:4096]
        assert os.pwrite(direct, b"unaligned", 7) == 9
        assert os.pread(direct, 11, 6)[1:10] == b"unaligned"
        assert os.preadv(direct, [room], MIB) == 0


def test_two_processes_map_one_file(home: Path) -> None:
    path = home / "m"
    with opened(path, NEW) as fd:
        os.ftruncate(fd, 16_384)
        with mmap.mmap(fd, 16_384) as memory:
            memory[:5] = b"first"
            script = (
                "import mmap, os; m = mmap.mmap(os.open('m', os.O_RDWR), 0)\n"
                "assert m[:5] == b'first'; m[8192:8198] = b'second'; m.flush()"
            )
            subprocess.run([sys.executable, "-c", script], cwd=home, check=True, timeout=60)
            assert memory[8192:8198] == b"second"
            memory.flush()
            assert os.pread(fd, 5, 0) == b"first"
            os.pwrite(fd, b"write", 100)
            assert memory[100:105] == b"write"
    assert path.read_bytes()[8192:8198] == b"second"


def test_stores_after_the_file_was_closed_are_kept(home: Path) -> None:
    path = home / "m"
    with opened(path, NEW) as fd:
        os.ftruncate(fd, 4096)
        memory = mmap.mmap(fd, 4096)
    memory[:4] = b"late"
    memory.close()
    assert path.read_bytes()[:4] == b"late"
    with opened(path, os.O_RDONLY) as fd, mmap.mmap(fd, 4096, flags=mmap.MAP_PRIVATE) as mine:
        mine[:4] = b"mine"
        assert os.pread(fd, 4, 0) == b"late"


def test_programs_run_and_are_not_written_meanwhile(home: Path) -> None:
    shutil.copy("/bin/sleep", home / "sleep")
    (home / "script").write_text("#!/bin/sh\necho script $1\n")
    (home / "script").chmod(0o755)
    assert subprocess.check_output([home / "script", "runs"], timeout=60) == b"script runs\n"
    with subprocess.Popen([home / "sleep", "60"]) as running:
        try:
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
                with raises(errno.ETXTBSY), opened(home / "sleep", flags):
                    pass
            with raises(errno.ETXTBSY):
                os.truncate(home / "sleep", 1)
        finally:
            running.kill()
    with opened(home / "sleep", os.O_WRONLY), raises(errno.ETXTBSY):
        subprocess.run([home / "sleep", "0"], check=True, timeout=60)
    subprocess.run([home / "sleep", "0"], check=True, timeout=60)


def test_flags_of_open(home: Path) -> None:
    (home / "f").write_text("text")
    (home / "l").symlink_to("f")
    for path, flags, error in (
        ("l", os.O_NOFOLLOW, errno.ELOOP),
        ("f", os.O_DIRECTORY, errno.ENOTDIR),
        (".", os.O_RDWR, errno.EISDIR),
        (".", os.O_TMPFILE | os.O_RDWR, errno.EOPNOTSUPP),
    ):
        with raises(error), opened(home / path, flags):
            pass
    with opened(home / "l", os.O_PATH | os.O_NOFOLLOW) as fd:
        assert stat.S_ISLNK(os.fstat(fd).st_mode)
        with raises(errno.EBADF):
            os.read(fd, 1)
    with opened(home, os.O_PATH) as folder:
        fd = os.open("f", os.O_RDONLY | os.O_NOATIME, dir_fd=folder)
        assert os.read(fd, 9) == b"text"
        os.close(fd)


def test_advice_is_taken_and_room_is_made(home: Path) -> None:
    with opened(home / "f", NEW) as fd:
        os.posix_fallocate(fd, 0, 3 * MIB)
        assert os.fstat(fd).st_size == 3 * MIB
        os.pwrite(fd, b"x" * MIB, MIB)
        assert LIBC.readahead(fd, ctypes.c_int64(0), ctypes.c_size_t(MIB)) == 0
        for advice in (os.POSIX_FADV_SEQUENTIAL, os.POSIX_FADV_RANDOM, os.POSIX_FADV_WILLNEED, os.POSIX_FADV_DONTNEED):
            os.posix_fadvise(fd, 0, 0, advice)
        assert os.pread(fd, 2, MIB - 1) == b"\0x"
        assert LIBC.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), 7) == 0
        assert LIBC.syncfs(fd) == 0


def test_questions_without_an_answer(home: Path) -> None:
    with opened(home / "f", NEW) as fd, opened(home / "g", NEW) as other:
        with raises(errno.ENOTTY):
            fcntl.ioctl(fd, 0x80086601, bytes(8))  # FS_IOC_GETFLAGS, of lsattr
        with raises(errno.EOPNOTSUPP):
            fcntl.ioctl(other, 0x40049409, fd)  # FICLONE, before cp copies
        assert not os.isatty(fd)
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLOUT)
        assert poll.poll(1000) == [(fd, select.POLLIN | select.POLLOUT)]


def test_mv_and_cp_take_the_short_way(home: Path) -> None:
    with opened(home / "sparse", NEW) as fd:
        os.ftruncate(fd, 10 << 30)
        os.pwrite(fd, b"x" * 8192, 5 << 30)
    for how in ("auto", "always"):
        subprocess.run(["cp", f"--sparse={how}", "sparse", how], cwd=home, check=True, timeout=60)
        found = (home / how).stat()
        assert (found.st_size, found.st_blocks * 512 <= MIB) == (10 << 30, True)
    subprocess.run(["tar", "-cSf", "sparse.tar", "sparse"], cwd=home, check=True, timeout=60)
    unpack = ["tar", "-xSf", "sparse.tar", "--transform", "s/sparse/again/"]
    subprocess.run(unpack, cwd=home, check=True, timeout=60)
    assert (home / "again").stat().st_blocks * 512 <= MIB
    with opened(home / "again", os.O_RDONLY) as fd:
        assert os.pread(fd, 3, (5 << 30) - 1) == b"\0xx"
    subprocess.run(["mv", "-n", "again", "auto"], cwd=home, check=False, timeout=60)
    assert (home / "again").exists()
