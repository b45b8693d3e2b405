"""Scenarios: what is wrong with a path. Every call that takes one says the same of it."""

from __future__ import annotations

import os

from tests.posix.bench import (
    COLLEAGUE,
    KINDS,
    MEMBER,
    NAME_MAX,
    OTHER,
    PATH_MAX,
    PLAIN,
    USER,
    Bench,
    Identity,
)

O_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY

LOOKING = {
    "stat": (),
    "lstat": (),
    "open": (os.O_RDONLY,),
    "readlink": (),
    "chmod": (0o640,),
    "chown": (65534, 65534),
    "lchown": (65534, 65534),
    "truncate": (12,),
    "utimens": (None,),
    "getxattr": (b"user.none",),
    "listxattr": (),
    "statvfs": (),
}
"""Calls on what is there: name and arguments after the path."""

MAKING = {
    "create": (0o644,),
    "open": (os.O_CREAT | os.O_RDWR, 0o644),
    "mkdir": (0o755,),
    "mkfifo": (0o644,),
    "mknod": ("fifo",),
}

REMOVING: dict[str, tuple[object, ...]] = {"unlink": (), "rmdir": ()}


def every_call_fails(bench: Bench, errno: str, path: bytes, source: bytes, by: Identity | None = None) -> None:
    """`source`: a file that is there, for calls with two paths."""
    who = {} if by is None else {"by": by}
    for name, args in [*LOOKING.items(), *MAKING.items(), *REMOVING.items()]:
        bench.fails(errno, name, path, *args, **who)
    bench.fails(errno, "symlink", b"test", path, **who)
    bench.fails(errno, "link", source, path, **who)
    bench.fails(errno, "link", path, b"never", **who)
    bench.fails(errno, "rename", source, path, **who)
    bench.fails(errno, "rename", path, b"never", **who)
    bench.gone(b"never")


def a_file_in_the_way(bench: Bench) -> None:
    """ENOTDIR"""
    bench.make("file", "source")
    for kind in PLAIN:
        bench.make(kind, kind)
        every_call_fails(bench, "ENOTDIR", kind.encode() + b"/test", b"source")
        bench.fails("ENOTDIR", "bind", kind + "/test")
        bench.fails("ENOTDIR", "rmdir", kind)
        bench.fails("ENOTDIR", "open", kind, os.O_RDONLY | os.O_DIRECTORY)
        bench.fails("ENOTDIR", "stat", kind + "/")
        bench.fails("ENOTDIR", "lstat", kind + "/.")
        bench.shows(kind, type=kind, nlink=1)
        bench.remove(kind)
    bench.shows("source", type="file", nlink=1)


def nothing_there(bench: Bench) -> None:
    """ENOENT"""
    bench.make("file", "source")
    every_call_fails(bench, "ENOENT", b"absent/test", b"source")
    every_call_fails(bench, "ENOENT", b"", b"source")
    for name, args in [*LOOKING.items(), *REMOVING.items()]:
        bench.fails("ENOENT", name, "absent", *args)
    bench.ok("symlink", b"absent", "dangling")
    for name in ("stat", "open", "chmod", "chown", "truncate", "utimens", "statvfs"):
        bench.fails("ENOENT", name, "dangling", *LOOKING[name])
    bench.fails("ENOENT", "symlink", b"", "empty")
    for name in ("link", "rename"):
        bench.fails("ENOENT", name, "absent", "new")
    bench.make("dir", "d")
    bench.fails("ENOTDIR", "rename", "source", "absent/")
    bench.fails("ENOENT", "link", "absent/x", "absent/y")
    bench.fails("ENOENT", "connect", "absent")
    bench.ok("mkdir", "slashes///")
    bench.ok("rename", "slashes/", "moved/")
    bench.ok("rmdir", "moved//")


def long_names(bench: Bench) -> None:
    """255 bytes are taken by every call, 256 are ENAMETOOLONG"""
    longest, too_long = b"x" * NAME_MAX, b"x" * (NAME_MAX + 1)
    for kind in KINDS:
        bench.make(kind, longest)
        bench.shows(longest, type=kind)
        bench.ok("rename", longest, "short")
        bench.ok("rename", "short", longest)
        if kind != "dir":
            bench.ok("link", longest, "short")
            bench.ok("unlink", longest)
            bench.ok("link", "short", longest)
            bench.ok("unlink", "short")
        bench.fails("ENAMETOOLONG", "rename", longest, too_long)
        if kind != "symlink":
            bench.ok("chmod", longest, 0o620)
            bench.ok("chown", longest, 65534, 65533)
            bench.shows(longest, type=kind, mode=0o620, uid=65534, gid=65533)
        bench.ok("lchown", longest, 1, 2)
        bench.ok("utimens", longest, (5, 6), (7, 8), follow=False)
        bench.shows(longest, type=kind, uid=1, gid=2, mtime=7_000_000_008)
        if kind == "dir":
            bench.ok("create", longest + b"/" + longest)
            bench.fails("ENAMETOOLONG", "create", longest + b"/" + too_long)
            bench.ok("unlink", longest + b"/" + longest)
        if kind == "file":
            bench.ok("truncate", longest, 99)
            bench.shows(longest, size=99)
        bench.remove(longest, kind)
    bench.make("file", "source")
    bench.make("dir", "d")
    for path in (too_long, b"d/" + too_long, too_long + b"/test", b"d/" + too_long + b"/test"):
        every_call_fails(bench, "ENAMETOOLONG", path, b"source")
    bench.gives(NAME_MAX, "pathconf", ".", "PC_NAME_MAX")
    bench.gives(NAME_MAX, "statvfs", ".")


def long_paths(bench: Bench) -> None:
    """A path of 4,095 bytes is taken by every call, one of 4,096 is ENAMETOOLONG"""
    bench.gives(PATH_MAX, "pathconf", ".", "PC_PATH_MAX")
    part = b"p" * 127
    folder = b"/".join([part] * 31)
    folder += b"/" + b"q" * (PATH_MAX - 1 - len(folder) - 1 - 2)
    longest = folder + b"/r"
    assert len(longest) == PATH_MAX - 1
    bench.ok("makedirs", folder)
    for kind in ("file", "dir", "fifo", "char", "symlink"):
        bench.make(kind, longest)
        bench.shows(longest, type=kind)
        bench.ok("rename", longest, "short")
        bench.ok("rename", "short", longest)
        if kind not in ("dir", "symlink"):
            bench.ok("link", longest, "short")
            bench.ok("unlink", longest)
            bench.ok("link", "short", longest)
            bench.ok("unlink", "short")
            bench.ok("chmod", longest, 0o611)
            bench.ok("chown", longest, 4, 5)
            bench.shows(longest, mode=0o611, uid=4, gid=5)
        if kind == "file":
            bench.ok("truncate", longest, 3)
            bench.gives(b"\0\0\0", "get", longest)
        bench.remove(longest, kind)
    bench.make("file", "source")
    every_call_fails(bench, "ENAMETOOLONG", longest + b"s", b"source")
    bench.ok("symlink", longest, "link")
    bench.gives(longest, "readlink", "link")
    bench.fails("ENAMETOOLONG", "symlink", longest + b"s", "link2")
    bench.ok("symlink", b"link3 of any bytes \xff\xfe\n/../.", "link3")
    bench.gives(b"link3 of any bytes \xff\xfe\n/../.", "readlink", "link3")


def loops(bench: Bench) -> None:
    """ELOOP: links that lead to each other, and more than 40 of them"""
    bench.make("file", "source")
    bench.ok("symlink", b"b", "a")
    bench.ok("symlink", b"a", "b")
    every_call_fails(bench, "ELOOP", b"a/test", b"source")
    for name in ("stat", "open", "chmod", "chown", "truncate", "utimens", "statvfs"):
        bench.fails("ELOOP", name, "a", *LOOKING[name])
    bench.fails("ELOOP", "open", "a", os.O_CREAT | os.O_RDWR)
    bench.fails("EEXIST", "create", "a")
    bench.fails("EEXIST", "mkdir", "a")
    bench.ok("link", "a", "c")
    bench.shows("c", type="symlink", nlink=2)
    bench.ok("rename", "a", "d")
    bench.ok("unlink", "d")
    bench.make("file", "l0")
    for number in range(41):
        bench.ok("symlink", b"l%d" % number, f"l{number + 1}")
    bench.shows("l40", type="file", follow=True)
    bench.fails("ELOOP", "stat", "l41")
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        bench.fails("ELOOP", "open", "l1", flags | os.O_NOFOLLOW)
        bench.ok("open", "l0", flags | os.O_NOFOLLOW)
    bench.fails("ENOTDIR", "open", "l1", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def bad_addresses(bench: Bench) -> None:
    """EFAULT"""
    bench.make("file", "f")
    for bad in ("NULL", "BAD"):
        for name, args in {
            "open": (os.O_RDONLY,), "unlink": (), "mkdir": (0o755,), "rmdir": (), "mkfifo": (0o644,),
            "mknod": (0o010644, 0), "chmod": (0o644,), "chown": (0, 0), "lchown": (0, 0), "truncate": (1,),
        }.items():  # fmt: skip
            bench.fails("EFAULT", "bad_pointer", name, bad, *args)
        for name in ("link", "rename", "symlink"):
            bench.fails("EFAULT", "bad_pointer", name, b"f", bad)
            bench.fails("EFAULT", "bad_pointer", name, bad, b"g")
            for other in ("NULL", "BAD"):
                bench.fails("EFAULT", "bad_pointer", name, bad, other)
    bench.gone("g")
    bench.shows("f", nlink=1)


CLASSES: list[tuple[Identity, int]] = [(USER, 6), (COLLEAGUE, 3), (MEMBER, 3), (OTHER, 0)]
"""Who asks for a node of user 65534 and group 65534, and the place of his bits in the mode. The bits of others are the
opposite in the tests, so that a file system that looks at the wrong ones is caught."""


def mode_for(bits: int, place: int) -> int:
    others = ~bits & 7
    return sum((bits if at == place else others) << at for at in (6, 3, 0))


def search_permission(bench: Bench) -> None:
    """EACCES without x on a folder of the path, for each class of caller"""
    bench.make("dir", "d", 0o755, (65534, 65534))
    bench.make("file", "d/f", 0o666, (65534, 65534))
    bench.make("file", "source", 0o666, (65534, 65534))
    for who, place in CLASSES:
        for bits in range(8):
            bench.ok("chmod", "d", mode_for(bits, place))
            if bits & 1:
                bench.shows("d/f", by=who, type="file")
                bench.ok("open", "d/f", os.O_RDWR, by=who)
                bench.fails("ENOENT", "stat", "d/absent", by=who)
            else:
                for name, args in [*LOOKING.items(), ("unlink", ()), ("rmdir", ())]:
                    bench.fails("EACCES", name, "d/f", *args, by=who)
                bench.fails("EACCES", "link", "d/f", "d/g", by=who)
                bench.fails("EACCES", "rename", "d/f", "d/g", by=who)
                bench.fails("EACCES", "rename", "source", "d/g", by=who)
                bench.fails("EACCES", "stat", "d/absent", by=who)
            if bits & 4:
                bench.ok("listdir", "d", by=who)
            else:
                bench.fails("EACCES", "listdir", "d", by=who)
            bench.ok("lstat", "d/f")


def write_permission(bench: Bench) -> None:
    """EACCES without w and x on the folder that is changed, for each class of caller"""
    bench.ok("chmod", ".", 0o777)
    bench.make("dir", "d", 0o755, (65534, 65534))
    for who, place in CLASSES:
        for bits in bench.some(range(8), 5):
            allowed = bits & 3 == 3
            bench.make("file", "d/f", 0o644, (who.uid, who.gid))
            bench.make("dir", "d/e", 0o755, (who.uid, who.gid))
            bench.make("file", "out", 0o644, (who.uid, who.gid))
            bench.ok("chmod", "d", mode_for(bits, place))
            for name, args in MAKING.items():
                _both(bench, allowed, who, name, "d/n", *args)
                if allowed:
                    found = bench.shows("d/n", uid=who.uid, gid=who.gid)
                    bench.remove("d/n", found.type)
            _both(bench, allowed, who, "symlink", b"test", "d/s")
            _both(bench, allowed, who, "bind", "d/socket")
            _both(bench, allowed, who, "link", "out", "d/l")
            _both(bench, allowed, who, "rename", "out", "d/o")
            _both(bench, allowed, who, "rename", "d/f", "d/g")
            _both(bench, allowed, who, "rename", "d/g" if allowed else "d/f", "in")
            _both(bench, allowed, who, "rmdir", "d/e")
            bench.ok("chmod", "d", 0o755)
            left = bench.raw("listdir", b"d")
            for name in left:
                bench.ok("chmod", "d", mode_for(bits, place))
                _both(bench, allowed, who, "rmdir" if name == b"e" else "unlink", b"d/" + name)
                bench.ok("chmod", "d", 0o755)
                if not allowed:
                    bench.remove(b"d/" + name, "dir" if name == b"e" else "file")
            for name in (b"in", b"out"):
                bench.raw("unlink", name)


def _both(bench: Bench, allowed: bool, who: Identity, name: str, *args: object) -> None:
    if allowed:
        bench.ok(name, *args, by=who)
    else:
        bench.fails("EACCES", name, *args, by=who)


ALL = [
    a_file_in_the_way, nothing_there, long_names, long_paths, loops, bad_addresses, search_permission,
    write_permission,
]  # fmt: skip
