"""Scenarios: names. Links, renames, removals of every type; what is in the way; counts and inode numbers."""

from __future__ import annotations

import itertools
import os

from tests.posix.bench import COLLEAGUE, KINDS, NO_FOLDERS, OTHER, PLAIN, USER, Bench

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4


def links(bench: Bench) -> None:
    """All names of a node show the same node"""
    for kind in NO_FOLDERS:
        bench.make(kind, "a")
        ino = bench.shows("a", type=kind, nlink=1).ino
        bench.ok("link", "a", "b")
        bench.ok("link", "b", "c")
        if kind != "symlink":
            bench.ok("chmod", "b", 0o201)
        bench.ok("lchown", "b", 65534, 65533)
        for name in "abc":
            found = bench.shows(name, type=kind, nlink=3, ino=ino, uid=65534, gid=65533)
            bench.true(kind == "symlink" or found.mode == 0o201, f"mode of {name}")
        bench.ok("unlink", "a")
        bench.gone("a")
        for name in "bc":
            bench.shows(name, type=kind, nlink=2, ino=ino)
        bench.ok("unlink", "c")
        bench.shows("b", nlink=1, ino=ino)
        bench.ok("unlink", "b")
        bench.gone("a", "b", "c")
    bench.ok("put", "f", b"one")
    bench.ok("link", "f", "g")
    bench.ok("open", "g", os.O_WRONLY | os.O_APPEND, 0, ("write", b" two"))
    bench.gives(b"one two", "get", "f")
    bench.ok("unlink", "f")
    bench.ok("put", "f", b"another")
    bench.gives(b"one two", "get", "g")
    bench.make("dir", "d")
    bench.fails("EPERM", "link", "d", "e")
    bench.fails("EPERM", "link", "d", "e", by=USER)
    bench.fails("EXDEV", "link", "/proc/self/status", "e")
    bench.fails("EXDEV", "rename", "/proc/self/status", "e")
    bench.fails("EXDEV", "rename", "g", "/proc/self/e")


def what_is_in_the_way(bench: Bench) -> None:
    """EEXIST for everything that makes, over all seven types"""
    bench.make("file", "source")
    for kind in KINDS:
        bench.make(kind, "x")
        ino = bench.shows("x", type=kind).ino
        for name, *args in (("create", 0o644), ("mkdir", 0o755), ("mkfifo", 0o644), ("mknod", "fifo"),
                            ("mknod", "char", 0o644, 3, 4), ("mknod", "block", 0o644, 3, 4), ("mknod", "file"),
                            ("mknod", "socket")):  # fmt: skip
            bench.fails("EEXIST", name, "x", *args)
        bench.fails("EADDRINUSE", "bind", "x")
        bench.fails("EEXIST", "symlink", b"test", "x")
        bench.fails("EEXIST", "link", "source", "x")
        bench.fails("EEXIST", "renameat2", "source", "x", RENAME_NOREPLACE)
        bench.shows("x", type=kind, ino=ino)
        bench.remove("x", kind)
    for path in (".", "..", "/"):
        bench.fails("EEXIST", "mkdir", path)
        bench.fails("EEXIST", "symlink", b"x", path)
        bench.fails("EEXIST", "mkfifo", path)
    bench.fails("EINVAL", "rmdir", ".")
    bench.make("dir", "d")
    bench.make("dir", "d/e")
    bench.fails("EINVAL", "rmdir", "d/e/.")
    bench.fails("ENOTEMPTY", "rmdir", "d/e/..")
    bench.fails("EISDIR", "unlink", "d/e")
    bench.fails("EACCES", "unlink", "d/e", by=USER)
    for old, new in (("d/e/.", "x"), ("d/e/..", "x"), ("source", "d/."), ("d", "d/e/..")):
        bench.fails("EBUSY", "rename", old, new)
    bench.fails("EINVAL", "rename", "d", "d/e")
    bench.fails("EINVAL", "rename", "d", "d/e/f")
    bench.fails("ENOTEMPTY", "rename", "d/e", "d")


def renames(bench: Bench) -> None:
    """Of each type over nothing and over each type"""
    for kind in KINDS:
        bench.make(kind, "x", None, (65534, 65533))
        links_then = 2 if kind == "dir" else 1
        ino = bench.shows("x", type=kind, nlink=links_then).ino
        bench.ok("rename", "x", "y")
        bench.gone("x")
        bench.shows("y", type=kind, ino=ino, nlink=links_then, uid=65534, gid=65533)
        bench.ok("rename", "y", "y")
        for over in KINDS:
            bench.make(over, "z")
            if kind == "dir" and over != "dir":
                bench.fails("ENOTDIR", "rename", "y", "z")
            elif kind != "dir" and over == "dir":
                bench.fails("EISDIR", "rename", "y", "z")
            else:
                bench.ok("rename", "y", "z")
                bench.gone("y")
                bench.shows("z", type=kind, ino=ino, nlink=links_then)
                bench.ok("rename", "z", "y")
                continue
            bench.shows("y", type=kind, ino=ino)
            bench.shows("z", type=over)
            bench.remove("z", over)
        if kind != "dir":
            bench.ok("link", "y", "z")
            bench.ok("rename", "y", "z")
            bench.shows("y", ino=ino, nlink=2)
            bench.shows("z", ino=ino, nlink=2)
            bench.ok("rename", "y", "w")
            bench.shows("w", ino=ino, nlink=2)
            bench.remove("z")
            bench.remove("w")
        else:
            bench.remove("y", "dir")
    for kind in PLAIN:
        bench.make(kind, "src")
        bench.make(kind, "dst")
        bench.ok("link", "dst", "dstlink")
        bench.ok("rename", "src", "dst")
        bench.shows("dstlink", type=kind, nlink=1)
        bench.remove("dst")
        bench.remove("dstlink")
    bench.ok("put", "f", b"content")
    bench.ok("symlink", b"f", "to")
    bench.ok("rename", "to", "to2")
    bench.gives(b"content", "get", "to2")
    bench.shows("to2", type="symlink")


def renames_of_folders(bench: Bench) -> None:
    for path in ("p", "q", "p/d", "p/d/in", "q/full", "q/full/x"):
        bench.make("dir", path)
    bench.make("file", "p/d/in/file")
    bench.shows("p", nlink=3)
    bench.shows("q", nlink=3)
    p = bench.shows("p").ino
    bench.shows("p/d/..", ino=p)
    bench.ok("rename", "p/d", "q/d")
    q = bench.shows("q", nlink=4).ino
    bench.shows("p", nlink=2, ino=p)
    bench.shows("q/d/..", ino=q)
    bench.shows("q/d/in/file", type="file")
    for kind in KINDS:
        bench.make("dir", "full")
        bench.make("dir", "empty")
        bench.make(kind, "full/x")
        bench.fails("ENOTEMPTY", "rmdir", "full")
        bench.fails("ENOTEMPTY", "rename", "empty", "full")
        bench.fails("ENOTEMPTY", "rename", "q/d", "full")
        bench.shows("full", nlink=3 if kind == "dir" else 2)
        bench.ok("rename", "full", "empty")
        bench.gone("full")
        bench.shows("empty/x", type=kind)
        bench.remove("empty/x", kind)
        bench.remove("empty", "dir")
    bench.make("dir", "shared", 0o777)
    bench.make("dir", "shared2", 0o777)
    bench.make("dir", "shared/mine", 0o700)
    bench.ok("rename", "shared/mine", "shared/still", by=USER)
    bench.fails("EACCES", "rename", "shared/still", "shared2/moved", by=USER)  # its ".." would change
    bench.make("file", "shared/f")
    bench.ok("rename", "shared/f", "shared2/f", by=USER)
    bench.ok("chmod", "shared2", 0o555)
    bench.fails("EACCES", "rename", "shared2/f", "shared2/g", by=OTHER)
    for flags in (RENAME_EXCHANGE | RENAME_NOREPLACE, RENAME_EXCHANGE | RENAME_WHITEOUT, 1 << 7):
        bench.fails("EINVAL", "renameat2", "p", "q", flags)


def removals(bench: Bench) -> None:
    for kind in KINDS:
        bench.make(kind, "x")
        bench.shows("x", type=kind)
        bench.fails("EACCES", "rmdir" if kind == "dir" else "unlink", "x", by=USER)
        bench.fails("EACCES", "rmdir" if kind == "dir" else "unlink", "x", by=COLLEAGUE)
        if kind != "dir":
            bench.fails("ENOTDIR", "rmdir", "x")
        bench.remove("x", kind)
        bench.gone("x")
    bench.make("file", "f", 0o444, (0, 0))
    bench.ok("chown", ".", 65534, 65534)
    bench.ok("unlink", "f", by=USER)  # the folder's rights count, not the file's
    bench.gives(b"Hello,_World!", "open", "open", os.O_CREAT | os.O_RDWR, 0o644, ("write", b"Hello,_World!"),
                ("unlink", b"open"), ("pread", 100, 0))  # fmt: skip
    found = bench.ok("open", "open", os.O_CREAT | os.O_RDWR, 0o644, ("unlink", b"open"), ("fstat",))
    bench.true(found.nlink == 0, "an open file without a name has no links")
    found = bench.ok("open", "o", os.O_CREAT | os.O_RDWR, 0o644, ("write", b"x"), ("mkdir", b"d"),
                     ("rename", b"o", b"d/o"), ("unlink", b"d/o"), ("write", b"yz"), ("ftruncate", 9),
                     ("fchmod", 0o600), ("fchown", 3, 4), ("fstat",))  # fmt: skip
    bench.true((found.size, found.mode, found.uid, found.gid, found.nlink) == (9, 0o600, 3, 4, 0), f"{found}")
    bench.gives([], "listdir", "d")


def link_counts_of_folders(bench: Bench) -> None:
    bench.make("dir", "d")
    for count in range(1, 6):
        bench.make("dir", f"d/{count}")
        bench.make("file", f"d/f{count}")
        bench.shows("d", nlink=2 + count)
    entries = bench.raw("entries", b"d")
    for name, ino in entries:
        bench.true(bench.raw("lstat", b"d/" + name).ino == ino, f"inode of {name!r} in the listing")
    bench.true(len({ino for _, ino in entries}) == 10, "every entry has a number of its own")
    for count in range(1, 6):
        bench.remove(f"d/{count}", "dir")
        bench.shows("d", nlink=7 - count)
    for odd, even in itertools.pairwise(range(1, 6)):
        bench.ok("rename", f"d/f{odd}", f"d/f{even}")
    bench.gives([b"f5"], "listdir", "d")


ALL = [links, what_is_in_the_way, renames, renames_of_folders, removals, link_counts_of_folders]
