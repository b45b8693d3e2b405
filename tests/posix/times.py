"""Scenarios: which times each call moves, and that a call that fails moves none."""

from __future__ import annotations

import itertools
import os

from tests.posix.bench import KINDS, NO_FOLDERS, NO_LINKS, PLAIN, USER, USER_OF_ROOTS_GROUP, Bench
from tests.posix.caller import UTIME_NOW, UTIME_OMIT

NOW, OMIT = (0, UTIME_NOW), (0, UTIME_OMIT)


def by_making(bench: Bench) -> None:
    """The new thing has the time of now, its folder another mtime and ctime"""
    bench.make("dir", "d")
    for kind in KINDS:
        before = bench.raw("lstat", b"d")
        with bench.moves(d="mc", DOT=""):
            bench.make(kind, "d/x")
        new = bench.shows("d/x", type=kind)
        bench.true(min(new.atime, new.mtime, new.ctime) > before.ctime, f"a new {kind} has an old time")
        after = bench.raw("lstat", b"d")
        bench.true(after.mtime >= new.mtime - 50_000_000, f"the folder of a new {kind} is older than it")
        with bench.moves(d="mc"):
            bench.remove("d/x", kind)
    bench.make("file", "d/f")
    with bench.moves(d="", d__f=""):
        bench.ok("open", "d/f", os.O_CREAT | os.O_RDONLY)
        bench.ok("open", "d/f", os.O_CREAT | os.O_WRONLY)
        bench.fails("EEXIST", "open", "d/f", os.O_CREAT | os.O_EXCL)
        bench.fails("EEXIST", "mkdir", "d/f")


def by_content(bench: Bench) -> None:
    bench.ok("put", "f", b"content")
    with bench.moves(f="mc", DOT=""):
        bench.ok("open", "f", os.O_WRONLY, 0, ("write", b"x"))
    with bench.moves(f="mc", DOT=""):
        bench.ok("open", "f", os.O_WRONLY | os.O_TRUNC)
    with bench.moves(f="mc"):
        bench.ok("open", "f", os.O_WRONLY | os.O_TRUNC)  # empty already
    for size in (123, 7, 0, 1_234_567):
        with bench.moves(f="mc", DOT=""):
            bench.ok("truncate", "f", size)
        with bench.moves(f="mc"):
            bench.ok("open", "f", os.O_RDWR, 0, ("ftruncate", size + 1))
    with bench.moves(f="mc"):
        bench.ok("open", "f", os.O_RDWR, 0, ("posix_fallocate", 0, 2_000_000))
    bench.ok("truncate", "f", 10)
    with bench.moves(f=""):
        bench.fails("EINVAL", "open", "f", os.O_RDONLY, 0, ("ftruncate", 3))
        bench.fails("EINVAL", "truncate", "f", -1)
        bench.fails("EACCES", "truncate", "f", 3, by=USER)
        bench.fails("EACCES", "open", "f", os.O_WRONLY | os.O_TRUNC, by=USER)
        bench.fails("EINVAL", "open", "f", os.O_RDWR, 0, ("posix_fallocate", 0, 0))
        bench.ok("open", "f", os.O_RDWR, 0, ("write", b""))
        bench.ok("open", "f", os.O_RDWR, 0, ("fsync",))
        bench.ok("open", "f", os.O_RDWR)
    with bench.moves(f="c"):
        bench.ok("chmod", "f", 0o611)
    with bench.moves(f="mc"):  # without a change of size
        bench.ok("open", "f", os.O_RDWR, 0, ("ftruncate", 10))


def by_attributes(bench: Bench) -> None:
    """chmod, chown and xattrs move ctime alone; nothing when they are refused"""
    user = b"user.words"
    for kind in KINDS:
        bench.make(kind, "x", None, (65534, 65534))
        if kind != "symlink":
            with bench.moves(x="c", DOT=""):
                bench.ok("chmod", "x", 0o111)
            with bench.moves(x="c"):
                bench.ok("chmod", "x", 0o111)
            with bench.moves(x=""):
                bench.fails("EPERM", "chmod", "x", 0o112, by=USER._replace(uid=65533))
        for call in ("chown", "lchown") if kind != "symlink" else ("lchown",):
            with bench.moves(x="c", DOT=""):
                bench.ok(call, "x", 65534, 65533)
            with bench.moves(x="c"):
                bench.ok(call, "x", 65534, 65532, by=USER._replace(gid=65532, groups=(65532,)))
            with bench.moves(x="c"):
                bench.ok(call, "x", 65534, 65532)
            with bench.moves(x=""):
                bench.fails("EPERM", call, "x", 65533, -1, by=USER)
                bench.fails("EPERM", call, "x", -1, 5, by=USER)
        if kind in ("file", "dir"):
            with bench.moves(x="c", DOT=""):
                bench.ok("setxattr", "x", user, b"value")
            with bench.moves(x="c"):
                bench.ok("removexattr", "x", user)
            with bench.moves(x=""):
                bench.fails("ENODATA", "removexattr", "x", user)
                bench.fails("ENODATA", "setxattr", "x", user, b"", os.XATTR_REPLACE)
                bench.ok("listxattr", "x")
        bench.remove("x", kind)


def by_names(bench: Bench) -> None:
    """link, unlink, rename: ctime of the thing, mtime and ctime of the folders"""
    bench.make("dir", "d")
    bench.make("dir", "e")
    for kind in PLAIN:
        bench.make(kind, "d/x")
        with bench.moves(d__x="c", e="mc", d="", DOT=""):
            bench.ok("link", "d/x", "e/y")
        with bench.moves(d__x="c", e="mc", d=""):
            bench.ok("unlink", "e/y")
        with bench.moves(d__x="", d="", e=""):
            bench.fails("EACCES|EPERM", "link", "d/x", "e/y", by=USER_OF_ROOTS_GROUP)  # protected_hardlinks
            bench.fails("EACCES", "unlink", "d/x", by=USER_OF_ROOTS_GROUP)
            bench.fails("EACCES", "rename", "d/x", "e/y", by=USER_OF_ROOTS_GROUP)
            bench.fails("EACCES", "rename", "d/x", "d/y", by=USER_OF_ROOTS_GROUP)
        bench.make(kind, "e/over")
        bench.ok("link", "e/over", "other")
        before = bench.raw("lstat", b"d/x")
        with bench.moves(d="mc", e="mc", other="c", DOT=""):
            bench.ok("rename", "d/x", "e/over")
        after = bench.shows("e/over", type=kind, nlink=1, ino=before.ino, mtime=before.mtime)
        bench.true(after.ctime > before.ctime, f"renaming a {kind} moved its ctime")
        bench.shows("other", type=kind, nlink=1)
        bench.remove("e/over")
        bench.remove("other")
    for kind in ("dir", "symlink"):
        bench.make(kind, "d/x")
        before = bench.raw("lstat", b"d/x")
        with bench.moves(d="mc", e="mc"):
            bench.ok("rename", "d/x", "e/y")
        after = bench.shows("e/y", mtime=before.mtime, atime=before.atime)
        bench.true(after.ctime > before.ctime, f"renaming a {kind} moved its ctime")
        with bench.moves(e="mc", d=""):
            bench.ok("rename", "e/y", "e/z")
        bench.remove("e/z", kind)
    bench.make("file", "d/one")
    bench.ok("link", "d/one", "e/one")
    with bench.moves(d="", e="", d__one=""):
        bench.ok("rename", "d/one", "e/one")  # two names of one file: nothing happens
    bench.shows("d/one", nlink=2)
    bench.make("dir", "d/sub")
    with bench.moves(d="", d__sub=""):
        bench.fails("ENOTEMPTY", "rmdir", "d")
        bench.fails("EEXIST", "mkdir", "d/sub")
        bench.fails("EINVAL", "rename", "d", "d/sub/x")
        bench.fails("EPERM", "link", "d/sub", "d/link")
        bench.fails("EISDIR", "unlink", "d/sub")
    with bench.moves(d="mc"):
        bench.ok("rmdir", "d/sub")


def given(bench: Bench) -> None:
    """Times that utimensat gives are kept to the nanosecond, of every type, from 1901 to 2258"""
    for kind in ("file", "symlink", *bench.some(KINDS[1:-1])):
        bench.make(kind, "x")
        follow = kind != "symlink"
        for atime, mtime in (
            ((1_900_000_000, 0), (1_950_000_000, 0)), ((100_000_000, 100_000_000), (200_000_000, 200_000_000)),
            ((200_000_000, 1), (100_000_000, 999_999_999)), ((0, 0), (0, 1)), ((-1, 999_999_999), (-1, 1)),
            ((-2**31, 0), (-86_400 * 365 * 40, 5)), ((2**31, 0), (2**32, 0)), ((2**32 + 77, 3), (2**33, 123_456_789)),
            ((9_100_000_000, 999_999_999), (2**31 - 1, 999_999_999)),
        ):  # fmt: skip
            with bench.moves(DOT=""):
                bench.ok("utimens", "x", atime, mtime, follow=follow)
            bench.shows("x", atime=atime[0] * 10**9 + atime[1], mtime=mtime[0] * 10**9 + mtime[1])
        bench.ok("utimens", "x", (1, 2), (3, 4), follow=False)
        with bench.moves(x="c"):
            bench.ok("utimens", "x", OMIT, (3, 4), follow=follow)
        bench.ok("utimens", "x", (5, 6), OMIT, follow=follow)
        bench.shows("x", atime=5_000_000_006, mtime=3_000_000_004)
        with bench.moves(x=""):
            bench.ok("utimens", "x", OMIT, OMIT, follow=follow)
        with bench.moves(x="amc"):
            bench.ok("utimens", "x", NOW, NOW, follow=follow)
        with bench.moves(x="amc"):
            bench.ok("utimens", "x", None, follow=follow)
        with bench.moves(x="mc"):
            bench.ok("utimens", "x", OMIT, NOW, follow=follow)
        with bench.moves(x="ac"):
            bench.ok("utimens", "x", NOW, OMIT, follow=follow)
        bench.remove("x", kind)
    for kind in NO_LINKS:
        bench.make(kind, "x")
        bench.ok("symlink", b"x", "to")
        bench.ok("utimens", "x", (1, 0), (2, 0))
        bench.ok("utimens", "to", (3, 0), (4, 0), follow=False)
        bench.shows("x", atime=1_000_000_000, mtime=2_000_000_000)
        bench.shows("to", mtime=4_000_000_000)
        bench.ok("utimens", "to", (5, 0), (6, 0))
        bench.shows("x", atime=5_000_000_000, mtime=6_000_000_000)
        bench.shows("to", mtime=4_000_000_000)
        bench.remove("to")
        bench.remove("x", kind)


def kept_by_closing(bench: Bench) -> None:
    """utimens on an open file that was written to: what it gave stays when the file is closed"""
    for flags, then in itertools.product((os.O_RDWR, os.O_WRONLY | os.O_TRUNC), ((("write", b"abc"),), ())):
        bench.ok("put", "f", b"before")
        bench.ok("open", "f", flags, 0, *then, ("utimens", b"f", (11, 12), (13, 14)))
        bench.shows("f", atime=11_000_000_012, mtime=13_000_000_014)
        bench.ok("chmod", "f", 0o640)
        bench.ok("rename", "f", "g")
        bench.shows("g", atime=11_000_000_012, mtime=13_000_000_014, mode=0o640)


def of_folders_that_lose(bench: Bench) -> None:
    """unlink of each type from a folder; rmdir"""
    for kind in (*NO_FOLDERS, "dir"):
        bench.make("dir", "d")
        bench.make(kind, "d/x")
        bench.ok("utimens", "d", (1, 0), (2, 0))
        with bench.moves(d="mc", DOT=""):
            bench.remove("d/x", kind)
        bench.remove("d", "dir")


ALL = [by_making, by_content, by_attributes, by_names, given, kept_by_closing, of_folders_that_lose]
