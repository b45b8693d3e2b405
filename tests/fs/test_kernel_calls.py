"""Calls of Linux beyond POSIX: the same functions on the object, on a plain folder and on a mount."""

from __future__ import annotations

import errno
import os

import pytest

from tests.fs.targets import Target, read_file, write_file
from tests.fs.test_posix import raises

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


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
