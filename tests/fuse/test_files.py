"""What programs do with files, on a real mount: inodes, names, open files, attributes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from tests.fuse.conftest import ToyMount

pytestmark = pytest.mark.mount


def run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_files_folders_and_symbolic_links(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("hello")
    (folder / "link").symlink_to("a/b/file")
    assert (folder / "link").read_text() == "hello"
    assert os.readlink(folder / "link") == "a/b/file"
    assert sorted(os.listdir(folder / "a")) == ["b"]
    assert stat.S_ISLNK((folder / "link").lstat().st_mode)
    with pytest.raises(OSError, match="not empty"):
        (folder / "a").rmdir()
    with pytest.raises(IsADirectoryError):
        os.unlink(folder / "a")
    with pytest.raises(NotADirectoryError):
        os.rmdir(folder / "link")
    with pytest.raises(FileExistsError):
        (folder / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        (folder / "missing").read_text()


def test_a_target_of_a_symbolic_link_may_be_long_and_of_any_bytes(folder: Path) -> None:
    target = b"x" * 4000 + b"\xff\xfe"
    os.symlink(target, os.fsencode(folder / "link"))
    assert os.readlink(os.fsencode(folder / "link")) == target


def test_dot_and_dot_dot_are_listed(folder: Path) -> None:
    (folder / "d").mkdir()
    listed = run("ls", "-ai", folder / "d").split()
    assert listed == [str((folder / "d").stat().st_ino), ".", str(folder.stat().st_ino), ".."]


def test_hard_links_share_one_inode(folder: Path) -> None:
    (folder / "one").write_text("1")
    os.link(folder / "one", folder / "two")
    one, two = (folder / "one").stat(), (folder / "two").stat()
    assert (one.st_ino, one.st_nlink) == (two.st_ino, two.st_nlink) == (two.st_ino, 2)
    (folder / "two").write_text("changed")
    assert (folder / "one").read_text() == "changed"
    assert (folder / "one").stat().st_size == len("changed")
    (folder / "one").unlink()
    assert (folder / "two").stat().st_nlink == 1


def test_an_open_file_survives_its_name(folder: Path) -> None:
    with open(folder / "file", "w+b", buffering=0) as file:
        file.write(b"before ")
        ino = os.fstat(file.fileno()).st_ino
        (folder / "file").unlink()
        assert os.listdir(folder) == []  # no .fuse_hidden
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.fstat(file.fileno()).st_ino == ino
        file.write(b"and after")
        os.ftruncate(file.fileno(), 14)
        os.fchmod(file.fileno(), 0o600)
        file.seek(0)
        assert file.read() == b"before and aft"
        assert os.fstat(file.fileno()).st_size == 14
        (folder / "file").write_text("another")
        file.seek(0)
        assert file.read() == b"before and aft"
    assert (folder / "file").read_text() == "another"


def test_rename_over_an_open_file_leaves_it_to_its_holder(folder: Path) -> None:
    (folder / "old").write_text("old content")
    (folder / "new").write_text("new content")
    with open(folder / "old", "r+b", buffering=0) as file:
        os.rename(folder / "new", folder / "old")
        assert os.listdir(folder) == ["old"]
        assert file.read() == b"old content"
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b" and more")
        file.seek(0)
        assert file.read() == b"old content and more"
    assert (folder / "old").read_text() == "new content"


def test_an_open_file_follows_a_rename(folder: Path) -> None:
    (folder / "d").mkdir()
    with open(folder / "a", "wb", buffering=0) as file:
        os.rename(folder / "a", folder / "d" / "b")
        file.write(b"written after the move")
        assert os.fstat(file.fileno()).st_nlink == 1
    assert (folder / "d" / "b").read_bytes() == b"written after the move"


def test_names_are_bytes(folder: Path) -> None:
    root = os.fsencode(folder)
    names = [b"\xff\xfe\x80", "ção".encode(), b"tab\tnew\nline", b"n" * 255, b" ", b"\\x41", b"%41", b"..."]
    for number, name in enumerate(names):
        with open(root + b"/" + name, "wb") as file:
            file.write(b"%d" % number)
    assert sorted(os.listdir(root)) == sorted(names)
    for number, name in enumerate(names):
        with open(root + b"/" + name, "rb") as file:
            assert file.read() == b"%d" % number
    with pytest.raises(OSError, match="too long") as caught:
        os.mkdir(root + b"/" + b"n" * 256)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_three_thousand_entries(folder: Path) -> None:
    wanted = {f"file-{number:04}-{'x' * (number % 200)}" for number in range(3000)}
    for name in wanted:
        os.mknod(folder / name)
    assert set(os.listdir(folder)) == wanted
    with os.scandir(folder) as entries:
        assert all(entry.is_file(follow_symlinks=False) for entry in entries)
    assert set(run("ls", "-U", folder).split()) == wanted
    for name in os.listdir(folder):
        os.unlink(folder / name)
    assert os.listdir(folder) == []


def test_extended_attributes(folder: Path) -> None:
    path = folder / "file"
    path.write_text("x")
    os.setxattr(path, "user.one", b"value\0with nul")
    os.setxattr(path, "user.empty", b"")
    assert os.getxattr(path, "user.one") == b"value\0with nul"
    assert os.getxattr(path, "user.empty") == b""
    assert sorted(os.listxattr(path)) == ["user.empty", "user.one"]
    os.setxattr(path, "user.big", b"b" * 60_000)
    assert os.getxattr(path, "user.big") == b"b" * 60_000
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.one", b"", os.XATTR_CREATE)
    with pytest.raises(OSError, match="No data") as caught:
        os.setxattr(path, "user.none", b"", os.XATTR_REPLACE)
    assert caught.value.errno == errno.ENODATA
    os.removexattr(path, "user.one")
    with pytest.raises(OSError, match="No data"):
        os.getxattr(path, "user.one")


def test_the_room_for_an_attribute_is_asked_first(folder: Path) -> None:
    path = os.fsencode(folder / "file")
    Path(os.fsdecode(path)).write_text("x")
    os.setxattr(path, "user.one", b"12345")
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.getxattr(path, b"user.one", None, ctypes.c_size_t(0)) == 5
    assert libc.getxattr(path, b"user.one", ctypes.create_string_buffer(4), ctypes.c_size_t(4)) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert libc.listxattr(path, ctypes.create_string_buffer(4), ctypes.c_size_t(4)) == -1
    assert ctypes.get_errno() == errno.ERANGE


def test_copies_keep_what_they_copy(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("copy me")
    source.chmod(0o640)
    os.utime(source, ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    run("cp", "-p", source, folder / "copy")
    copied, original = (folder / "copy").stat(), source.stat()
    for name in ("st_mode", "st_size", "st_mtime_ns", "st_uid", "st_gid"):
        assert getattr(copied, name) == getattr(original, name), name
    run("cp", "-a", folder / "copy", folder / "again")
    assert (folder / "again").stat().st_mtime_ns == original.st_mtime_ns


def test_an_editor_in_place(folder: Path) -> None:
    (folder / "file").write_text("one\ntwo\n")
    run("sed", "-i", "s/two/three/", "file", cwd=folder)
    assert (folder / "file").read_text() == "one\nthree\n"
    assert os.listdir(folder) == ["file"]


def test_times_now_omitted_and_in_nanoseconds(folder: Path) -> None:
    path = folder / "file"
    path.write_text("x")
    os.utime(path, ns=(1_111_111_111_111_111_111, 1_222_222_222_222_222_222))
    assert path.stat().st_atime_ns == 1_111_111_111_111_111_111
    assert path.stat().st_mtime_ns == 1_222_222_222_222_222_222
    run("touch", "-a", "-d", "@1000000000.5", path)  # UTIME_OMIT for mtime
    assert path.stat().st_atime_ns == 1_000_000_000_500_000_000
    assert path.stat().st_mtime_ns == 1_222_222_222_222_222_222
    run("touch", "-m", path)  # UTIME_NOW, and UTIME_OMIT for atime
    assert path.stat().st_atime_ns == 1_000_000_000_500_000_000
    assert path.stat().st_mtime_ns > 1_700_000_000_000_000_000
    os.utime(path, ns=(-1_500_000_000, -1))  # before 1970
    assert path.stat().st_mtime_ns == -1
    assert path.stat().st_atime_ns == -1_500_000_000


def test_modes_owners_and_sizes(folder: Path) -> None:
    path = folder / "file"
    path.write_text("0123456789")
    path.chmod(0o4711)
    assert stat.S_IMODE(path.stat().st_mode) == 0o4711
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
        assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)
        os.chown(path, -1, 56)
        assert (path.stat().st_uid, path.stat().st_gid) == (12, 56)
    os.truncate(path, 4)
    assert path.read_text() == "0123"
    os.truncate(path, 8)
    assert path.read_bytes() == b"0123\0\0\0\0"
    old = os.umask(0o027)
    try:
        (folder / "d").mkdir()
        os.close(os.open(folder / "f", os.O_CREAT | os.O_WRONLY, 0o666))
    finally:
        os.umask(old)
    assert stat.S_IMODE((folder / "d").stat().st_mode) == 0o750
    assert stat.S_IMODE((folder / "f").stat().st_mode) == 0o640


def test_open_truncates_without_a_second_request(toy: ToyMount) -> None:
    (toy.path / "file").write_text("long content")
    before = toy.calls_of("setattr")
    (toy.path / "file").write_text("short")
    assert (toy.path / "file").read_text() == "short"
    assert toy.calls_of("setattr") == before


def test_each_close_is_told_also_of_who_only_reads(toy: ToyMount) -> None:
    """It may hold a lock."""
    (toy.path / "file").write_text("x")
    before = toy.calls_of("flush")
    (toy.path / "file").read_text()
    assert toy.calls_of("flush") == before + 1


def test_special_files(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    assert stat.S_ISFIFO((folder / "fifo").stat().st_mode)
    if os.geteuid() == 0:
        os.mknod(folder / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        assert (folder / "device").stat().st_rdev == os.makedev(1, 3)


def test_shared_memory_maps(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"a" * 10_000)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 10_000) as memory:
        memory[5000:5003] = b"XYZ"
        memory.flush()
        assert path.read_bytes()[4999:5004] == b"aXYZa"
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        assert memory[5000:5003] == b"XYZ"


def test_appending(folder: Path) -> None:
    path = folder / "log"
    with open(path, "ab", buffering=0) as one, open(path, "ab", buffering=0) as two:
        for number in range(20):
            (one if number % 2 else two).write(b"%02d;" % number)
    assert path.read_bytes() == b"".join(b"%02d;" % number for number in range(20))


def test_large_files_in_large_pieces(toy: ToyMount) -> None:
    path, piece = toy.path / "big", os.urandom(1 << 20)
    with open(path, "wb", buffering=0) as file:
        file.writelines(piece for _ in range(8))
        os.fsync(file.fileno())
    assert path.read_bytes() == piece * 8
    assert toy.calls_of("write") <= 64 + 8  # requests of 128 KiB
    assert toy.calls_of("fsync") == 1
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"xyz", 3_333_333)
        assert os.pread(file.fileno(), 5, 3_333_332)[1:4] == b"xyz"


def test_rename_that_must_not_replace_never_does(folder: Path) -> None:
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd, no_replace = -100, 1
    result = libc.renameat2(
        at_cwd, os.fsencode(folder / "a"), at_cwd, os.fsencode(folder / "b"), ctypes.c_uint(no_replace)
    )
    assert result == -1
    assert ctypes.get_errno() == errno.EEXIST
    assert (folder / "b").read_text() == "b"
    run("mv", "-n", folder / "a", folder / "b")
    assert (folder / "b").read_text() == "b"
    run("mv", "-n", folder / "a", folder / "c")
    assert (folder / "c").read_text() == "a"


def test_exclusive_creation(folder: Path) -> None:
    os.close(os.open(folder / "lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    with pytest.raises(FileExistsError):
        os.open(folder / "lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_room_on_the_device(folder: Path) -> None:
    room = os.statvfs(folder)
    assert (room.f_bsize, room.f_frsize, room.f_namemax) == (4096, 4096, 255)
    assert room.f_blocks > room.f_bfree == room.f_bavail > 0
    assert room.f_files > room.f_ffree > 0


def test_what_is_not_supported_says_so(folder: Path) -> None:
    path = folder / "file"
    path.write_text("x")
    with open(path, "r+b") as file:
        with pytest.raises(OSError, match="ioctl") as caught:
            fcntl.ioctl(file, 0x80086601, b"\0" * 8)  # FS_IOC_GETFLAGS
        assert caught.value.errno == errno.ENOTTY
        os.posix_fallocate(file.fileno(), 0, 4096)  # the C library writes zeros instead
        assert os.fstat(file.fileno()).st_size == 4096
        assert os.access(path, os.R_OK)


def test_sixteen_threads_at_once(folder: Path) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            home = folder / f"t{number}"
            home.mkdir()
            for turn in range(25):
                path = home / f"f{turn}"
                path.write_bytes(b"%d" % turn * 100)
                assert path.read_bytes() == b"%d" % turn * 100
                os.rename(path, home / "renamed")
                assert len(os.listdir(home)) == 1
                os.unlink(home / "renamed")
            home.rmdir()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert os.listdir(folder) == []


def test_references_are_given_back(toy: ToyMount) -> None:
    for number in range(200):
        path = toy.path / f"f{number}"
        path.write_text("x")
        path.stat()
        path.unlink()
    deadline = 50
    while toy.control("nodes") > 1 and deadline:  # forgets travel behind
        os.statvfs(toy.path)
        threading.Event().wait(0.1)
        deadline -= 1
    assert toy.control("nodes") == 1
