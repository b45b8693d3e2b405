"""What POSIX and ext4 give programs: the same functions on the object, on a plain folder and on a mount."""

from __future__ import annotations

import errno
import os
import random
import stat

from tests.fs.targets import Target, read_file, write_file

RW = os.O_RDWR
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
MIB = 1 << 20


class raises:  # noqa: N801 - reads like pytest.raises
    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert isinstance(error, OSError), f"expected {[errno.errorcode[n] for n in self._numbers]}, got {error!r}"
        assert error.errno in self._numbers, error
        return True


# --- files and names


def test_a_new_file_holds_what_was_written(target: Target) -> None:
    write_file(target, b"a.txt", b"hello")
    assert read_file(target, b"a.txt") == b"hello"
    seen = target.stat(b"a.txt")
    assert (seen.kind, seen.mode, seen.nlink, seen.size) == (stat.S_IFREG, 0o644, 1, 5)
    assert target.listdir(b"") == [b"a.txt"]


def test_exclusive_creation_refuses_what_exists(target: Target) -> None:
    write_file(target, b"a", b"1")
    with raises(errno.EEXIST):
        target.open(b"a", NEW)
    assert read_file(target, b"a") == b"1"


def test_names_of_any_bytes(target: Target) -> None:
    names = [
        b"\xff\xfe not utf-8",
        b" spaced ",
        b"new\nline",
        "ção 日本".encode(),
        b"x" * 255,
        b"-",
        b"...",
        b"\\",
        b"*",
    ]
    for name in names:
        write_file(target, name, name)
    assert target.listdir(b"") == sorted(names)
    for name in names:
        assert read_file(target, name) == name
    with raises(errno.ENAMETOOLONG):
        write_file(target, b"x" * 256, b"")


def test_what_is_not_there(target: Target) -> None:
    for call in (
        lambda: target.open(b"no", os.O_RDONLY),
        lambda: target.stat(b"no"),
        lambda: target.unlink(b"no"),
        lambda: target.rmdir(b"no"),
        lambda: target.rename(b"no", b"b"),
        lambda: target.mkdir(b"no/d"),
        lambda: target.truncate(b"no", 1),
        lambda: target.chmod(b"no", 0o600),
    ):
        with raises(errno.ENOENT):
            call()
    write_file(target, b"file", b"")
    with raises(errno.ENOTDIR):
        target.stat(b"file/below")


def test_create_truncates_an_existing_file(target: Target) -> None:
    write_file(target, b"a", b"long content")
    write_file(target, b"a", b"short")
    assert read_file(target, b"a") == b"short"


def test_o_trunc_alone_empties_the_file(target: Target) -> None:
    write_file(target, b"a", b"content")
    target.close(target.open(b"a", os.O_WRONLY | os.O_TRUNC))
    assert read_file(target, b"a") == b""
    assert target.stat(b"a").size == 0


def test_appending_goes_to_the_end_whoever_wrote_last(target: Target) -> None:
    write_file(target, b"log", b"one\n")
    first = target.open(b"log", os.O_WRONLY | os.O_APPEND)
    second = target.open(b"log", os.O_WRONLY | os.O_APPEND)
    target.append(first, b"two\n")
    target.append(second, b"three\n")
    target.append(first, b"four\n")
    target.close(second)
    target.close(first)
    assert read_file(target, b"log") == b"one\ntwo\nthree\nfour\n"


def test_a_file_open_for_reading_can_not_be_written(target: Target) -> None:
    write_file(target, b"a", b"x")
    fd = target.open(b"a", os.O_RDONLY)
    with raises(errno.EBADF):
        target.pwrite(fd, b"y", 0)
    target.close(fd)


def test_two_handles_see_each_others_writes_at_once(target: Target) -> None:
    write_file(target, b"a", b"0123456789")
    writer, reader = target.open(b"a", RW), target.open(b"a", os.O_RDONLY)
    assert target.pread(reader, 10, 0) == b"0123456789"
    target.pwrite(writer, b"ABC", 3)
    assert target.pread(reader, 10, 0) == b"012ABC6789"
    assert target.fstat(reader).size == 10
    target.pwrite(writer, b"more", 10)
    assert target.stat(b"a").size == 14
    target.close(writer)
    assert target.pread(reader, 20, 0) == b"012ABC6789more"
    target.close(reader)


def test_reading_past_the_end(target: Target) -> None:
    write_file(target, b"a", b"abc")
    fd = target.open(b"a", RW)
    assert target.pread(fd, 10, 3) == b""
    assert target.pread(fd, 10, 1000) == b""
    target.pwrite(fd, b"d", 3)
    assert target.pread(fd, 10, 2) == b"cd"
    assert target.pread(fd, 10, 4) == b""
    target.close(fd)


# --- size


def test_truncate_in_every_state(target: Target) -> None:
    data = bytes(range(256)) * 10
    write_file(target, b"a", data)
    target.truncate(b"a", 1000)
    assert read_file(target, b"a") == data[:1000]
    target.truncate(b"a", 2000)
    assert read_file(target, b"a") == data[:1000] + bytes(1000)
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"zz", 1500)
    target.ftruncate(fd, 1501)
    target.ftruncate(fd, 1503)
    assert target.pread(fd, 10, 1499) == b"\0z\0\0"
    target.truncate(b"a", 3)
    assert target.pread(fd, 10, 0) == data[:3]
    target.close(fd)
    assert read_file(target, b"a") == data[:3]
    with raises(errno.EINVAL):
        target.truncate(b"a", -1)


def test_truncate_of_a_folder(target: Target) -> None:
    target.mkdir(b"d")
    with raises(errno.EISDIR):
        target.truncate(b"d", 0)
    with raises(errno.EISDIR):
        target.open(b"d", os.O_WRONLY)


def test_a_cut_chunk_grown_again_shows_zeros(target: Target) -> None:
    data = random.Random(1).randbytes(3 * MIB)
    write_file(target, b"a", data)
    target.truncate(b"a", MIB + 10)
    target.truncate(b"a", 2 * MIB + 5)
    assert read_file(target, b"a") == data[: MIB + 10] + bytes(MIB - 5)
    fd = target.open(b"a", RW)
    target.pwrite(fd, data, 0)
    target.ftruncate(fd, 2 * MIB - 1)
    target.ftruncate(fd, 3 * MIB)
    target.pwrite(fd, b"end", 3 * MIB - 3)
    target.close(fd)
    assert read_file(target, b"a") == data[: 2 * MIB - 1] + bytes(MIB - 2) + b"end"


def test_a_sparse_file_past_4_gib(target: Target) -> None:
    fd = target.open(b"sparse", NEW)
    far = 5 << 30
    target.pwrite(fd, b"far", far)
    assert target.fstat(fd).size == far + 3
    assert target.pread(fd, 10, far - 4) == b"\0\0\0\0far"
    assert target.pread(fd, 4, 1 << 20) == bytes(4)
    target.close(fd)
    seen = target.stat(b"sparse")
    assert seen.size == far + 3
    assert seen.blocks * 512 < 2 * MIB
    fd = target.open(b"sparse", RW)
    assert target.pread(fd, 10, far) == b"far"
    target.pwrite(fd, b"near", 100)
    target.close(fd)
    fd = target.open(b"sparse", os.O_RDONLY)
    assert target.pread(fd, 4, 100) == b"near"
    assert target.pread(fd, 10, far) == b"far"
    target.close(fd)


def test_random_edits_of_a_file_of_several_chunks(target: Target) -> None:
    rng = random.Random(7)
    wanted = bytearray(rng.randbytes(4 * MIB + 333))
    write_file(target, b"a", bytes(wanted))
    for _ in range(3):
        fd = target.open(b"a", RW)
        for _ in range(60):
            at, size = rng.randrange(5 * MIB), rng.choice([1, 100, 4096, 70_000, 300_000])
            piece = rng.randbytes(size)
            if at > len(wanted):
                wanted.extend(bytes(at - len(wanted)))
            wanted[at : at + size] = piece
            target.pwrite(fd, piece, at)
            look = rng.randrange(len(wanted))
            assert target.pread(fd, 5000, look) == wanted[look : look + 5000]
        target.close(fd)
        assert read_file(target, b"a") == wanted


# --- times and attributes


def test_utimens_before_close_is_kept(target: Target) -> None:
    fd = target.open(b"a", NEW)
    target.pwrite(fd, b"data", 0)
    target.futime(fd, 111_000_000_005, 222_000_000_007)
    target.fchmod(fd, 0o600)
    target.close(fd)
    seen = target.stat(b"a")
    assert (seen.atime_ns, seen.mtime_ns, seen.mode) == (111_000_000_005, 222_000_000_007, 0o600)
    assert read_file(target, b"a") == b"data"


def test_writing_after_utimens_moves_the_time(target: Target) -> None:
    write_file(target, b"a", b"data")
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"1", 0)
    target.futime(fd, 1, 2)
    target.pwrite(fd, b"2", 0)
    target.close(fd)
    assert target.stat(b"a").mtime_ns > 1_000_000_000


def test_writing_moves_mtime_and_ctime(target: Target) -> None:
    write_file(target, b"a", b"data")
    target.utime(b"a", 5, 6)
    before = target.stat(b"a")
    assert (before.atime_ns, before.mtime_ns) == (5, 6)
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"D", 0)
    target.close(fd)
    after = target.stat(b"a")
    assert after.mtime_ns > before.mtime_ns
    assert after.ctime_ns >= before.ctime_ns


def test_times_before_1970_and_far_away(target: Target) -> None:
    write_file(target, b"a", b"")
    target.utime(b"a", -5_000_000_000, -1)
    seen = target.stat(b"a")
    assert (seen.atime_ns, seen.mtime_ns) == (-5_000_000_000, -1)
    target.utime(b"a", 4_000_000_000 * 10**9, 4_000_000_001 * 10**9)
    assert target.stat(b"a").mtime_ns == 4_000_000_001 * 10**9
    year_2200_ns = 7_258_118_400 * 10**9 + 123
    target.utime(b"a", year_2200_ns, year_2200_ns)
    assert target.stat(b"a").mtime_ns == year_2200_ns


def test_times_beyond_what_can_be_kept_become_the_nearest(target: Target) -> None:
    write_file(target, b"a", b"")
    for year_ns in (9_223_372_036 * 10**9, -9_223_372_036 * 10**9):
        target.utime(b"a", year_ns, year_ns)
        seen = target.stat(b"a")
        assert seen.mtime_ns == seen.atime_ns
        assert (seen.mtime_ns > 0) == (year_ns > 0)
        assert abs(seen.mtime_ns) > 2_000_000_000 * 10**9
    write_file(target, b"b", b"after it")
    assert read_file(target, b"b") == b"after it"


def test_chmod_and_chown(target: Target) -> None:
    write_file(target, b"a", b"", mode=0o600)
    target.chmod(b"a", 0o4751)
    assert target.stat(b"a").mode == 0o4751
    target.chown(b"a", 1234, 5678)
    seen = target.stat(b"a")
    assert (seen.uid, seen.gid) == (1234, 5678)
    assert seen.mode == 0o751, "a change of owner takes set-user-id away"
    target.chown(b"a", -1, 4321)
    seen = target.stat(b"a")
    assert (seen.uid, seen.gid) == (1234, 4321)
    target.mkdir(b"d")
    target.chmod(b"d", 0o1777)
    assert target.stat(b"d").mode == 0o1777


def test_set_group_id_folders_hand_on_their_group(target: Target) -> None:
    target.mkdir(b"team")
    target.chown(b"team", 0, 777)
    target.chmod(b"team", 0o2775)
    target.mkdir(b"team/sub")
    write_file(target, b"team/file", b"")
    sub, file = target.stat(b"team/sub"), target.stat(b"team/file")
    assert (sub.gid, sub.mode) == (777, 0o2755)
    assert file.gid == 777


def test_times_of_a_folder_follow_its_entries(target: Target) -> None:
    target.mkdir(b"d")
    target.utime(b"d", 1, 2)
    for change in (
        lambda: write_file(target, b"d/a", b""),
        lambda: target.link(b"d/a", b"d/b"),
        lambda: target.rename(b"d/b", b"d/c"),
        lambda: target.unlink(b"d/c"),
        lambda: target.mkdir(b"d/e"),
        lambda: target.rmdir(b"d/e"),
        lambda: target.symlink(b"x", b"d/s"),
    ):
        target.utime(b"d", 1, 2)
        change()
        assert target.stat(b"d").mtime_ns > 2
    target.utime(b"d", 1, 2)
    fd = target.open(b"d/a", RW)
    target.pwrite(fd, b"content", 0)
    target.close(fd)
    assert target.stat(b"d").mtime_ns == 2, "content is no entry"


# --- folders


def test_link_counts_of_folders(target: Target) -> None:
    target.mkdir(b"d")
    assert target.stat(b"d").nlink == 2
    target.mkdir(b"d/one")
    target.mkdir(b"d/two")
    write_file(target, b"d/file", b"")
    assert target.stat(b"d").nlink == 4
    target.rmdir(b"d/one")
    assert target.stat(b"d").nlink == 3
    target.mkdir(b"other")
    target.rename(b"d/two", b"other/two")
    assert (target.stat(b"d").nlink, target.stat(b"other").nlink) == (2, 3)


def test_folders_that_can_not_be_removed(target: Target) -> None:
    target.mkdir(b"d")
    write_file(target, b"d/a", b"")
    with raises(errno.ENOTEMPTY):
        target.rmdir(b"d")
    with raises(errno.EISDIR, errno.EPERM):
        target.unlink(b"d")
    with raises(errno.ENOTDIR):
        target.rmdir(b"d/a")
    with raises(errno.EEXIST):
        target.mkdir(b"d")
    target.unlink(b"d/a")
    target.rmdir(b"d")
    assert target.listdir(b"") == []


# --- links


def test_hard_links_are_one_file(target: Target) -> None:
    write_file(target, b"a", b"data")
    target.mkdir(b"d")
    target.link(b"a", b"d/b")
    one, two = target.stat(b"a"), target.stat(b"d/b")
    assert one.ino == two.ino
    assert (one.nlink, two.nlink) == (2, 2)
    fd = target.open(b"d/b", RW)
    target.pwrite(fd, b"DATA!", 0)
    target.close(fd)
    assert read_file(target, b"a") == b"DATA!"
    target.unlink(b"a")
    assert target.stat(b"d/b").nlink == 1
    assert read_file(target, b"d/b") == b"DATA!"
    with raises(errno.EEXIST):
        target.link(b"d/b", b"d/b")
    with raises(errno.EPERM):
        target.link(b"d", b"e")


def test_symlinks(target: Target) -> None:
    target.symlink(b"some/where \xff", b"s")
    seen = target.stat(b"s")
    assert (seen.kind, seen.mode, seen.size) == (stat.S_IFLNK, 0o777, 12)
    assert target.readlink(b"s") == b"some/where \xff"
    target.symlink(b"x" * 4095, b"long")
    assert target.readlink(b"long") == b"x" * 4095
    with raises(errno.EEXIST):
        target.symlink(b"y", b"s")
    write_file(target, b"a", b"")
    with raises(errno.EINVAL):
        target.readlink(b"a")
    target.rename(b"s", b"t")
    assert target.readlink(b"t") == b"some/where \xff"


def test_special_files(target: Target) -> None:
    target.mknod(b"pipe", stat.S_IFIFO | 0o640)
    target.mknod(b"socket", stat.S_IFSOCK | 0o600)
    target.mknod(b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert target.stat(b"pipe").kind == stat.S_IFIFO
    assert target.stat(b"socket").kind == stat.S_IFSOCK
    seen = target.stat(b"null")
    assert (seen.kind, seen.rdev) == (stat.S_IFCHR, os.makedev(1, 3))
    for name in (b"pipe", b"socket", b"null"):
        target.unlink(name)


# --- rename


def test_rename_over_a_file(target: Target) -> None:
    write_file(target, b"a", b"new")
    write_file(target, b"b", b"old")
    target.rename(b"a", b"b")
    assert target.listdir(b"") == [b"b"]
    assert read_file(target, b"b") == b"new"


def test_rename_onto_another_name_of_the_same_file_does_nothing(target: Target) -> None:
    write_file(target, b"a", b"x")
    target.link(b"a", b"b")
    target.rename(b"a", b"b")
    assert target.listdir(b"") == [b"a", b"b"]
    target.rename(b"a", b"a")
    assert target.stat(b"a").nlink == 2


def test_rename_of_folders(target: Target) -> None:
    target.mkdir(b"d")
    target.mkdir(b"d/sub")
    write_file(target, b"d/sub/f", b"1")
    target.mkdir(b"empty")
    target.rename(b"d", b"empty")
    assert read_file(target, b"empty/sub/f") == b"1"
    target.mkdir(b"full")
    write_file(target, b"full/x", b"")
    with raises(errno.ENOTEMPTY, errno.EEXIST):
        target.rename(b"empty", b"full")
    with raises(errno.EINVAL):
        target.rename(b"empty", b"empty/sub/inside")
    with raises(errno.ENOTEMPTY, errno.EEXIST):
        target.rename(b"empty/sub", b"empty")
    write_file(target, b"file", b"")
    with raises(errno.ENOTDIR):
        target.rename(b"empty", b"file")
    with raises(errno.EISDIR):
        target.rename(b"file", b"empty")


def test_the_save_dance_of_editors(target: Target) -> None:
    write_file(target, b"doc", b"first")
    fd = target.open(b"doc.tmp", NEW)
    target.pwrite(fd, b"second", 0)
    target.fsync(fd)
    target.close(fd)
    target.link(b"doc", b"doc~")
    target.rename(b"doc.tmp", b"doc")
    assert read_file(target, b"doc") == b"second"
    assert read_file(target, b"doc~") == b"first"
    assert target.listdir(b"") == [b"doc", b"doc~"]


# --- open files without a name


def test_an_unlinked_open_file_lives_on(target: Target) -> None:
    write_file(target, b"a", b"data")
    fd = target.open(b"a", RW)
    target.unlink(b"a")
    assert target.listdir(b"") == []
    assert target.pread(fd, 10, 0) == b"data"
    assert target.fstat(fd).nlink == 0
    target.pwrite(fd, b"more and more", 4)
    assert target.pread(fd, 30, 0) == b"datamore and more"
    target.ftruncate(fd, 6)
    target.fchmod(fd, 0o640)
    target.fsync(fd)
    seen = target.fstat(fd)
    assert (seen.size, seen.mode, seen.nlink) == (6, 0o640, 0)
    write_file(target, b"a", b"another")
    assert target.pread(fd, 30, 0) == b"datamo"
    target.close(fd)
    assert read_file(target, b"a") == b"another"
    assert target.listdir(b"") == [b"a"]


def test_an_open_file_that_is_replaced_lives_on(target: Target) -> None:
    write_file(target, b"a", b"old")
    write_file(target, b"b", b"new")
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"O", 0)
    target.rename(b"b", b"a")
    assert target.pread(fd, 10, 0) == b"Old"
    target.pwrite(fd, b"er", 3)
    assert target.fstat(fd).nlink == 0
    target.close(fd)
    assert read_file(target, b"a") == b"new"
    assert target.listdir(b"") == [b"a"]


def test_an_open_file_follows_its_rename(target: Target) -> None:
    target.mkdir(b"d")
    fd = target.open(b"a", NEW)
    target.pwrite(fd, b"one", 0)
    target.rename(b"a", b"d/b")
    target.pwrite(fd, b" two", 3)
    target.close(fd)
    assert read_file(target, b"d/b") == b"one two"
    assert target.listdir(b"") == [b"d"]


def test_a_temporary_file_as_programs_make_it(target: Target) -> None:
    fd = target.open(b"tmp", NEW, 0o600)
    target.unlink(b"tmp")
    data = random.Random(3).randbytes(2 * MIB + 77)
    for at in range(0, len(data), 100_000):
        target.pwrite(fd, data[at : at + 100_000], at)
    for at in range(0, len(data), 131_072):
        assert target.pread(fd, 131_072, at) == data[at : at + 131_072]
    target.close(fd)
    assert target.listdir(b"") == []


def test_a_file_with_another_name_is_saved_after_an_unlink(target: Target) -> None:
    write_file(target, b"a", b"1")
    target.link(b"a", b"b")
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"2", 0)
    target.unlink(b"a")
    assert target.fstat(fd).nlink == 1
    target.close(fd)
    assert read_file(target, b"b") == b"2"


# --- extended attributes


def test_extended_attributes(target: Target) -> None:
    write_file(target, b"a", b"")
    with raises(errno.ENODATA):
        target.getxattr(b"a", b"user.color")
    target.setxattr(b"a", b"user.color", b"red\0bytes")
    target.setxattr(b"a", b"user.empty", b"")
    assert target.getxattr(b"a", b"user.color") == b"red\0bytes"
    assert target.listxattr(b"a") == [b"user.color", b"user.empty"]
    with raises(errno.EEXIST):
        target.setxattr(b"a", b"user.color", b"x", os.XATTR_CREATE)
    with raises(errno.ENODATA):
        target.setxattr(b"a", b"user.other", b"x", os.XATTR_REPLACE)
    target.setxattr(b"a", b"user.color", b"blue", os.XATTR_REPLACE)
    assert target.getxattr(b"a", b"user.color") == b"blue"
    target.removexattr(b"a", b"user.color")
    with raises(errno.ENODATA):
        target.removexattr(b"a", b"user.color")
    assert target.listxattr(b"a") == [b"user.empty"]
    target.mkdir(b"d")
    target.setxattr(b"d", b"user.on folders", b"too")
    assert target.getxattr(b"d", b"user.on folders") == b"too"


def test_extended_attributes_survive_edits_and_renames(target: Target) -> None:
    write_file(target, b"a", b"1")
    target.setxattr(b"a", b"user.k", b"v")
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"2", 0)
    target.close(fd)
    target.rename(b"a", b"b")
    assert target.getxattr(b"b", b"user.k") == b"v"


def test_attributes_that_are_not_kept(target: Target) -> None:
    write_file(target, b"a", b"")
    with raises(errno.ENODATA):
        target.getxattr(b"a", b"security.capability")
    if target.name != "folder":
        with raises(errno.EOPNOTSUPP):
            target.setxattr(b"a", b"system.posix_acl_access", b"\2\0\0\0")
