"""Calls of Linux beyond POSIX: the same functions on the object, on a plain folder and on a mount."""

from __future__ import annotations

import errno
import os

import pytest

from tests.fs.targets import Target, read_file, write_file
from tests.fs.test_posix import raises

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
RW = os.O_RDWR
MIB = 1 << 20


# --- rename with flags


def test_a_rename_that_may_not_replace(target: Target) -> None:
    """A rename with `RENAME_NOREPLACE` never replaces."""
    write_file(target, b"a", b"a")
    write_file(target, b"b", b"b")
    target.mkdir(b"d")
    target.link(b"a", b"same")
    for there in (b"b", b"d", b"same"):
        with raises(errno.EEXIST):
            target.rename(b"a", there, NOREPLACE)
    target.rename(b"a", b"d/a", NOREPLACE)
    assert read_file(target, b"d/a") == b"a"
    assert target.listdir(b"") == [b"b", b"d", b"same"]
    with raises(errno.ENOENT):
        target.rename(b"a", b"c", NOREPLACE)


def test_two_names_change_places(target: Target) -> None:
    write_file(target, b"a", b"of a", 0o600)
    target.mkdir(b"d")
    write_file(target, b"d/b", b"of b")
    inos = target.stat(b"a").ino, target.stat(b"d/b").ino
    fd = target.open(b"a", os.O_RDWR)
    target.rename(b"a", b"d/b", EXCHANGE)
    target.pwrite(fd, b"OF", 0)  # whoever has it open goes on with it
    target.close(fd)
    assert (target.stat(b"d/b").ino, target.stat(b"a").ino) == inos
    assert (read_file(target, b"a"), read_file(target, b"d/b")) == (b"of b", b"OF a")
    assert target.stat(b"d/b").mode == 0o600
    target.rename(b"a", b"a", EXCHANGE)
    assert target.listdir(b"") == [b"a", b"d"]


def test_a_folder_and_a_file_change_places(target: Target) -> None:
    target.mkdir(b"d")
    target.mkdir(b"d/inner")
    target.mkdir(b"other")
    write_file(target, b"other/f", b"f")
    links = target.stat(b"").nlink
    target.rename(b"d", b"other/f", EXCHANGE)
    assert target.listdir(b"other/f") == [b"inner"]
    assert read_file(target, b"d") == b"f"
    assert target.stat(b"other").nlink == 3
    assert target.stat(b"").nlink == links - 1
    target.rmdir(b"other/f/inner")
    target.rmdir(b"other/f")


def test_what_can_not_change_places(target: Target) -> None:
    target.mkdir(b"d")
    target.mkdir(b"d/e")
    write_file(target, b"d/e/f", b"f")
    for old, new in ((b"d", b"d/e"), (b"d/e/f", b"d")):
        with raises(errno.EINVAL):
            target.rename(old, new, EXCHANGE)
    for old, new in ((b"d", b"no"), (b"no", b"d"), (b"no", b"neither")):
        with raises(errno.ENOENT):
            target.rename(old, new, EXCHANGE)
    with raises(errno.ENOTDIR):
        target.rename(b"d", b"d/e/f/g", EXCHANGE)
    with raises(errno.EINVAL):
        target.rename(b"d", b"x", EXCHANGE | NOREPLACE)


@pytest.mark.parametrize("flags", [WHITEOUT, 8, EXCHANGE | WHITEOUT])
def test_other_kinds_of_rename_are_refused(target: Target, flags: int) -> None:
    if target.name == "folder" and flags == WHITEOUT:
        return  # ext4 knows it, for overlays; a volume has no use for whiteouts
    write_file(target, b"a", b"a")
    with raises(errno.EINVAL):
        target.rename(b"a", b"b", flags)
    assert target.listdir(b"") == [b"a"]


# --- holes


def data_of(target: Target, fd: int) -> list[tuple[int, int]]:
    """Where data lies, as lseek says."""
    found, at = [], 0
    while True:
        try:
            start = target.seek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return found
        at = target.seek(fd, start, os.SEEK_HOLE)
        found.append((start, at))


@pytest.mark.parametrize("saved", [False, True])
def test_holes_are_found_before_and_after_saving(target: Target, saved: bool) -> None:
    fd = target.open(b"a", RW | os.O_CREAT)
    target.ftruncate(fd, 10 << 30)
    for at in (0, 5 * MIB, 6 * MIB, 8 << 30):
        target.pwrite(fd, b"x" * 8192, at)
    if saved:
        target.close(fd)
        fd = target.open(b"a", RW)
    assert data_of(target, fd) == [(at, at + 8192) for at in (0, 5 * MIB, 6 * MIB, 8 << 30)]
    assert target.seek(fd, 4096, os.SEEK_DATA) == 4096
    assert target.seek(fd, 8192, os.SEEK_HOLE) == 8192
    assert target.seek(fd, (10 << 30) - 1, os.SEEK_HOLE) == (10 << 30) - 1
    for at, whence in ((9 << 30, os.SEEK_DATA), (10 << 30, os.SEEK_HOLE), (10 << 30, os.SEEK_DATA)):
        with raises(errno.ENXIO):
            target.seek(fd, at, whence)
    target.close(fd)
    assert target.stat(b"a").blocks * 512 < 64 << 10


def test_a_file_without_holes_has_one_at_its_end(target: Target) -> None:
    write_file(target, b"a", b"x" * (2 * MIB + 4096))
    fd = target.open(b"a", RW)
    for _ in range(2):
        assert data_of(target, fd) == [(0, 2 * MIB + 4096)]
        target.pwrite(fd, b"y", MIB)
    target.close(fd)
    write_file(target, b"empty", b"")
    fd = target.open(b"empty", RW)
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        with raises(errno.ENXIO):
            target.seek(fd, 0, whence)
    target.close(fd)


# --- fallocate


KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT = 1, 2, 8, 16, 32


def test_allocated_room_reads_as_zeros(target: Target) -> None:
    write_file(target, b"a", b"abc")
    fd = target.open(b"a", RW)
    target.fallocate(fd, 0, 1, 4096)
    assert target.fstat(fd).size == 4097
    target.fallocate(fd, KEEP_SIZE, 4096, 1 << 20)
    assert target.fstat(fd).size == 4097
    target.fallocate(fd, 0, 0, 10)
    assert target.fstat(fd).size == 4097
    target.close(fd)
    assert read_file(target, b"a") == b"abc" + bytes(4094)


@pytest.mark.parametrize(
    ("mode", "saved"), [(PUNCH_HOLE | KEEP_SIZE, False), (PUNCH_HOLE | KEEP_SIZE, True), (ZERO_RANGE | KEEP_SIZE, True)]
)
def test_a_range_becomes_zeros(target: Target, mode: int, saved: bool) -> None:
    data = os.urandom(5 * MIB + 777)
    fd = target.open(b"a", RW | os.O_CREAT)
    for at in range(0, len(data), MIB):
        target.pwrite(fd, data[at : at + MIB], at)
    if saved:
        target.close(fd)
        fd = target.open(b"a", RW)
    expected = bytearray(data)
    for start, length in ((100, 50), (MIB - 10, 2 * MIB + 20), (4 * MIB, MIB), (5 * MIB + 700, 4096)):
        target.fallocate(fd, mode, start, length)
        end = min(start + length, len(data))
        expected[start:end] = bytes(end - start)
        assert target.pread(fd, 200, max(0, start - 100)) == expected[max(0, start - 100) :][:200]
    assert target.fstat(fd).size == len(data)
    target.close(fd)
    assert read_file(target, b"a") == expected
    if mode & PUNCH_HOLE:
        assert target.stat(b"a").blocks * 512 <= 3 * MIB, "whole chunks take no space any more"


def test_a_range_of_zeros_beyond_the_end(target: Target) -> None:
    write_file(target, b"a", b"abcdef")
    fd = target.open(b"a", RW)
    target.fallocate(fd, ZERO_RANGE | KEEP_SIZE, 4, 100)
    assert target.fstat(fd).size == 6
    target.fallocate(fd, ZERO_RANGE, 5, 3 * MIB)
    assert target.fstat(fd).size == 3 * MIB + 5
    target.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 4 * MIB, MIB)
    target.close(fd)
    assert read_file(target, b"a") == b"abcd" + bytes(3 * MIB + 1)


def test_a_hole_takes_no_space_and_data_may_come_back(target: Target) -> None:
    """Holes take no space."""
    write_file(target, b"a", b"x" * (4 * MIB))
    fd = target.open(b"a", RW)
    target.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 3 * MIB)
    assert data_of(target, fd) == [(3 * MIB, 4 * MIB)]
    target.pwrite(fd, b"y" * 4096, MIB)
    target.close(fd)
    fd = target.open(b"a", os.O_RDONLY)
    assert data_of(target, fd) == [(MIB, MIB + 4096), (3 * MIB, 4 * MIB)]
    target.close(fd)
    assert target.stat(b"a").blocks * 512 < 2 * MIB
    assert read_file(target, b"a") == bytes(MIB) + b"y" * 4096 + bytes(2 * MIB - 4096) + b"x" * MIB


def test_what_can_not_be_allocated(target: Target) -> None:
    write_file(target, b"a", b"a")
    fd = target.open(b"a", RW)
    if target.name != "folder":  # ext4 shifts data about, we never
        for mode in (COLLAPSE, INSERT, PUNCH_HOLE, ZERO_RANGE | PUNCH_HOLE | KEEP_SIZE):
            with raises(errno.EOPNOTSUPP):
                target.fallocate(fd, mode, 0, 4096)
    for offset, length in ((-1, 10), (0, 0), (0, -1)):
        with raises(errno.EINVAL):
            target.fallocate(fd, 0, offset, length)
    if target.name != "folder":  # ext4 would take all the room that this machine has
        for mode in (0, KEEP_SIZE):
            with raises(errno.EFBIG):
                target.fallocate(fd, mode, 0, 1 << 43)
    if target.name == "object":  # its disk has 2 GiB
        with raises(errno.ENOSPC):
            target.fallocate(fd, 0, 0, 3 << 30)
    assert target.fstat(fd).size == 1
    target.close(fd)
    fd = target.open(b"a", os.O_RDONLY)
    with raises(errno.EBADF):
        target.fallocate(fd, 0, 0, 10)
    target.close(fd)


# --- copy_file_range


def copy_all(target: Target, source: int, to: int, length: int, offset: int = 0, to_offset: int = 0) -> int:
    done = 0
    while done < length and (count := target.copy_range(source, offset + done, to, to_offset + done, length - done)):
        done += count
    return done


@pytest.mark.parametrize(
    ("shift", "edited"), [(0, "neither"), (2 * MIB, "source"), (0, "target"), (2 * MIB, "both"), (1, "both")]
)
def test_a_range_is_copied(target: Target, shift: int, edited: str) -> None:
    """Wherever the chunks come to lie, and whatever is not saved yet on either side."""
    data, old = os.urandom(3 * MIB + 500), os.urandom(2 * MIB + 77)
    write_file(target, b"a", data)
    write_file(target, b"b", old)
    source, to = target.open(b"a", RW), target.open(b"b", RW)
    if edited in ("source", "both"):
        target.pwrite(source, b"edited", MIB - 3)
        data = data[: MIB - 3] + b"edited" + data[MIB + 3 :]
    if edited in ("target", "both"):
        target.pwrite(to, b"edited", 10)
        old = old[:10] + b"edited" + old[16:]
    assert copy_all(target, source, to, len(data) + 1000, 0, shift) == len(data)
    expected = old[:shift] + bytes(max(0, shift - len(old))) + data + old[shift + len(data) :]
    assert target.pread(to, 1000, shift) == data[:1000]
    target.pwrite(to, b"!", shift)
    target.close(source)
    target.close(to)
    assert read_file(target, b"b") == expected[:shift] + b"!" + expected[shift + 1 :]
    assert read_file(target, b"a") == data


def test_a_part_is_copied_over_the_middle(target: Target) -> None:
    data, old = os.urandom(3 * MIB), os.urandom(4 * MIB)
    write_file(target, b"a", data)
    write_file(target, b"b", old)
    source, to = target.open(b"a", os.O_RDONLY), target.open(b"b", os.O_WRONLY)
    assert copy_all(target, source, to, MIB + 5000, MIB, 2 * MIB) == MIB + 5000
    target.close(source)
    target.close(to)
    end = 3 * MIB + 5000
    assert read_file(target, b"b") == old[: 2 * MIB] + data[MIB : 2 * MIB + 5000] + old[end:]


def test_copying_inside_one_file(target: Target) -> None:
    data = os.urandom(2 * MIB)
    write_file(target, b"a", data)
    fd, other = target.open(b"a", RW), target.open(b"a", RW)
    assert copy_all(target, fd, other, 2 * MIB, 0, 2 * MIB) == 2 * MIB
    if target.name != "object":  # the kernel decides
        with raises(errno.EINVAL):
            target.copy_range(fd, 0, other, 100, 4096)
    target.close(fd)
    target.close(other)
    assert read_file(target, b"a") == data + data


def test_holes_are_copied_as_holes(target: Target) -> None:
    fd = target.open(b"a", RW | os.O_CREAT)
    target.ftruncate(fd, 64 * MIB)
    target.pwrite(fd, b"x" * MIB, 32 * MIB)
    to = target.open(b"b", RW | os.O_CREAT)
    target.pwrite(to, b"y" * (2 * MIB), 0)
    assert copy_all(target, fd, to, 64 * MIB) == 64 * MIB
    target.close(fd)
    target.close(to)
    assert target.stat(b"b").size == 64 * MIB
    if target.name != "folder":  # ext4 copies the zeros
        assert target.stat(b"b").blocks * 512 <= MIB + 4096
    fd = target.open(b"b", os.O_RDONLY)
    assert target.pread(fd, 8, 32 * MIB - 4) == b"\0\0\0\0xxxx"
    assert target.pread(fd, 8, 0) == bytes(8)
    target.close(fd)


def test_nothing_beyond_the_end_is_copied(target: Target) -> None:
    write_file(target, b"a", b"abc")
    fd, to = target.open(b"a", RW), target.open(b"b", RW | os.O_CREAT)
    assert target.copy_range(fd, 3, to, 0, 10) == 0
    assert target.copy_range(fd, 1, to, 2, 10) == 2
    with raises(errno.EBADF):
        target.copy_range(to, 0, target.open(b"a", os.O_RDONLY), 0, 1)
    target.close(fd)
    target.close(to)
    assert read_file(target, b"b") == b"\0\0bc"


@pytest.mark.parametrize("how", ["room", "room beyond", "hole", "zeros", "copy"])
def test_a_file_that_was_reshaped_has_new_times(target: Target, how: str) -> None:
    write_file(target, b"a", b"x" * 10_000)
    write_file(target, b"b", b"y" * 10_000)
    target.utime(b"a", 10**18, 10**18)
    before = target.stat(b"a")
    fd, other = target.open(b"a", RW), target.open(b"b", RW)
    match how:
        case "room":
            target.fallocate(fd, 0, 0, 100)
        case "room beyond":
            target.fallocate(fd, KEEP_SIZE, 0, 20_000)
        case "hole":
            target.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 4096)
        case "zeros":
            target.fallocate(fd, ZERO_RANGE, 0, 20_000)
        case "copy":
            assert target.copy_range(other, 0, fd, 0, 4096) == 4096
    for seen in (target.fstat(fd), target.stat(b"a")):
        assert seen.mtime_ns > before.mtime_ns
        assert seen.ctime_ns >= before.ctime_ns
    target.close(fd)
    target.close(other)
    assert target.stat(b"a").mtime_ns > before.mtime_ns
