"""Scenarios: who may open, change and look at what, and what opening with each flag does."""

from __future__ import annotations

import itertools
import os

from tests.posix.bench import KINDS, OTHER, PLAIN, ROOT, USER, USER_OF_ROOTS_GROUP, Bench
from tests.posix.caller import UTIME_NOW, UTIME_OMIT
from tests.posix.paths import CLASSES, mode_for

READ, WRITE, BOTH = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
NEEDED = {READ: 4, WRITE: 2, BOTH: 6}


def opening(bench: Bench) -> None:
    """EACCES for each class of caller, each of its bits, each way of opening"""
    bench.make("dir", "d", 0o755, (65534, 65534))
    bench.make("file", "d/f", None, (65534, 65534))
    bench.ok("open", "d/f", WRITE, 0, ("write", b"x"))
    bench.make("fifo", "d/p", None, (65534, 65534))
    bench.make("dir", "d/e", None, (65534, 65534))
    for (who, place), bits in itertools.product(CLASSES, range(8)):
        mode = mode_for(bits, place)
        for path in ("d/f", "d/p", "d/e"):
            bench.ok("chmod", path, mode)
        for way, needed in NEEDED.items():
            _opens(bench, bits & needed == needed, "d/f", way, who)
            if way != WRITE:
                _opens(bench, bits & needed == needed, "d/p", way | os.O_NONBLOCK, who)
        if not bits & 2:
            bench.fails("EACCES", "open", "d/f", READ | os.O_TRUNC, by=who)
            bench.fails("EACCES", "open", "d/f", WRITE | os.O_TRUNC, by=who)
            bench.fails("EACCES", "truncate", "d/f", 0, by=who)
            bench.fails("EACCES", "open", "d/p", WRITE | os.O_NONBLOCK, by=who)
        else:
            bench.fails("ENXIO", "open", "d/p", WRITE | os.O_NONBLOCK, by=who)
            bench.ok("truncate", "d/f", 1, by=who)
        _opens(bench, bits & 4 == 4, "d/e", READ, who)
        _opens(bench, bits & 4 == 4, "d/e", READ | os.O_DIRECTORY, who)
        for way in (WRITE, BOTH, READ | os.O_TRUNC):
            bench.fails("EISDIR", "open", "d/e", way, by=who)
        bench.shows("d/f", size=1, mode=mode)
    bench.ok("chmod", "d/f", 0)
    bench.ok("open", "d/f", BOTH | os.O_TRUNC)


def _opens(bench: Bench, allowed: bool, path: str, flags: int, who: object) -> None:
    if allowed:
        bench.ok("open", path, flags, by=who)
    else:
        bench.fails("EACCES", "open", path, flags, by=who)


def making_by_open(bench: Bench) -> None:
    """O_CREAT, O_EXCL, O_TRUNC, modes, umasks, owners"""
    for mode, umask, wanted in (
        (0o755, 0, 0o755), (0o151, 0, 0o151), (0o151, 0o077, 0o100), (0o345, 0o070, 0o305), (0o345, 0o501, 0o244),
        (0, 0, 0), (0o7777, 0, 0o7777), (0o7777, 0o22, 0o7755), (0o4711, 0, 0o4711),
    ):  # fmt: skip
        who = ROOT._replace(umask=umask)
        for flags in (WRITE, READ, BOTH):
            bench.ok("open", "f", flags | os.O_CREAT, mode, by=who)
            bench.shows("f", type="file", mode=wanted, size=0, uid=0, gid=0)
            bench.ok("unlink", "f")
        for call, kind in (("mkdir", "dir"), ("mkfifo", "fifo")):
            bench.ok(call, "f", mode, by=who)
            # mkdir(2) leaves set-user-id and set-group-id out.
            bench.shows("f", type=kind, mode=wanted & (0o1777 if kind == "dir" else 0o7777))
            bench.remove("f", kind)
        for kind in ("char", "block", "fifo", "file", "socket"):
            bench.ok("mknod", "f", kind, mode, 1, 2, by=who)
            bench.shows("f", type=kind, mode=wanted)
            bench.ok("unlink", "f")
    bench.ok("chown", ".", 65534, 65534)
    bench.ok("open", "f", WRITE | os.O_CREAT, 0o644, by=USER)
    bench.shows("f", uid=65534, gid=65534)
    bench.ok("open", "g", WRITE | os.O_CREAT, 0o644, by=USER._replace(gid=65533))
    bench.shows("g", uid=65534, gid=65533)
    bench.fails("EACCES", "open", "h", READ | os.O_CREAT, 0o644, by=OTHER)
    bench.ok("chmod", ".", 0o777)
    bench.ok("open", "h", WRITE | os.O_CREAT, 0o644, by=OTHER)
    bench.shows("h", uid=65533, gid=65533)
    # What was made may be used through its descriptor whatever its mode says.
    for flags in (BOTH, WRITE):
        for who in (USER, USER_OF_ROOTS_GROUP, ROOT):
            bench.ok("open", "z", flags | os.O_CREAT, 0, ("write", b"abc"), ("ftruncate", 2), by=who)
            bench.shows("z", mode=0, size=2)
            bench.ok("unlink", "z")
    for kind in KINDS:
        bench.make(kind, "x")
        bench.fails("EEXIST", "open", "x", WRITE | os.O_CREAT | os.O_EXCL, 0o644)
        bench.fails("EEXIST", "open", "x", READ | os.O_CREAT | os.O_EXCL, 0o644, by=OTHER)
        bench.shows("x", type=kind)
        bench.remove("x", kind)
    bench.ok("symlink", b"made", "to")
    bench.fails("EEXIST", "open", "to", WRITE | os.O_CREAT | os.O_EXCL)
    bench.gone("made")
    bench.ok("open", "to", WRITE | os.O_CREAT, 0o600)
    bench.shows("made", type="file", mode=0o600)
    bench.fails("EISDIR", "open", ".", WRITE | os.O_CREAT)
    bench.fails("EINVAL", "open", "new", WRITE | os.O_CREAT | os.O_DIRECTORY)
    bench.gone("new")
    bench.ok("put", "f", b"content")
    bench.ok("open", "f", READ | os.O_CREAT, 0o777)
    bench.shows("f", size=7, mode=0o644)
    bench.ok("open", "f", WRITE | os.O_APPEND, 0, ("write", b"!"))
    bench.ok("open", "f", READ | os.O_TRUNC)
    bench.shows("f", size=0)
    for flags in (3, READ | BOTH, WRITE | BOTH):
        bench.call("open", "f", flags)


def what_cannot_be_opened(bench: Bench) -> None:
    bench.make("socket", "s", 0o777)
    for flags in (READ, WRITE, BOTH, READ | os.O_NONBLOCK, READ | os.O_CREAT):
        bench.fails("ENXIO", "open", "s", flags)
    bench.make("fifo", "p", 0o666)
    bench.fails("ENXIO", "open", "p", WRITE | os.O_NONBLOCK)
    bench.fails("ENXIO", "open", "p", WRITE | os.O_NONBLOCK, by=USER)
    bench.make("dir", "d")
    for flags in (WRITE, BOTH, READ | os.O_TRUNC, WRITE | os.O_TRUNC, READ | os.O_CREAT):
        bench.fails("EISDIR", "open", "d", flags)
    bench.fails("EISDIR", "open", "d", READ, 0, ("read", 1))
    bench.fails("EISDIR", "truncate", "d", 0)
    for kind in ("fifo", "char", "block", "socket"):
        bench.make(kind, kind)
        bench.fails("EINVAL", "truncate", kind, 0)
    bench.ok("mknod", "nothing", "char", 0o666, 240, 17)
    bench.fails("ENXIO", "open", "nothing", READ)


def fifos_sockets_and_devices(bench: Bench) -> None:
    """They work in the mount: the kernel has what is behind the node"""
    for who in (ROOT, USER):
        bench.ok("chmod", ".", 0o777)
        bench.ok("mkfifo", "p", 0o600, by=who)
        bench.gives(b"words", "through_fifo", "p", b"words", by=who)
        bench.shows("p", type="fifo", size=0, uid=who.uid)
        bench.gives(b"x" * 4000, "through_fifo", "p", b"x" * 4000, by=who)
        bench.fails("EACCES", "open", "p", READ | os.O_NONBLOCK, by=OTHER)
        bench.ok("unlink", "p", by=who)
        bench.gives(b"through the mount", "conversation", "s", by=who)
        bench.shows("s", type="socket", uid=who.uid, nlink=1)
        bench.fails("ECONNREFUSED", "connect", "s", by=who)
        bench.fails("EADDRINUSE", "bind", "s", by=who)
        bench.ok("unlink", "s", by=who)
    bench.fails("EACCES", "connect", bench.make("socket", "mine", 0o700), by=USER)
    bench.make("file", "f", 0o777)
    bench.fails("ECONNREFUSED", "connect", "f")
    for name, minor in (("null", 3), ("zero", 5)):
        bench.ok("mknod", name, "char", 0o666, 1, minor)
        bench.shows(name, type="char", rdev=(1, minor), mode=0o666, size=0)
    for who in (ROOT, USER):
        bench.gives(b"", "open", "null", READ, 0, ("read", 10), by=who)
        bench.gives(3, "open", "null", WRITE, 0, ("write", b"abc"), by=who)
        bench.gives(b"\0" * 5, "open", "zero", READ, 0, ("read", 5), by=who)
        bench.ok("open", "null", WRITE | os.O_CREAT | os.O_TRUNC, by=who)
    for who in (USER, USER_OF_ROOTS_GROUP):
        for kind in ("char", "block"):
            bench.fails("EPERM", "mknod", "d", kind, 0o644, 1, 3, by=who)
        for kind in ("fifo", "file", "socket"):
            bench.ok("mknod", "d", kind, 0o644, by=who)
            bench.shows("d", type=kind, uid=who.uid, gid=who.gid, rdev=(0, 0))
            bench.ok("unlink", "d", by=who)
    bench.fails("EPERM", "mknod", "d", "dir")
    bench.fails("EINVAL", "mknod", "d", "symlink")


def times_of_others(bench: Bench) -> None:
    """utimensat: now needs the right to write or the owner, a given time the owner, nothing needs nothing"""
    now, omit, one, two = (0, UTIME_NOW), (0, UTIME_OMIT), (1_900_000_000, 0), (1_950_000_000, 7)
    bench.make("file", "f", 0o644)
    for mode in (0o644, 0o666):
        bench.ok("chmod", "f", mode)
        for times in ((None,), (now, now)):
            if mode == 0o644:
                bench.fails("EACCES", "utimens", "f", *times, by=USER)
            else:
                bench.ok("utimens", "f", *times, by=USER)
        for pair in ((omit, two), (one, omit), (one, two), (now, omit), (omit, now), (now, two)):
            bench.fails("EPERM", "utimens", "f", *pair, by=USER)
        bench.ok("utimens", "f", omit, omit, by=USER)
    bench.ok("chown", "f", 65534, 65534)
    bench.ok("chmod", "f", 0o444)
    for who in (USER, ROOT):
        for pair in ((None,), (now, now), (omit, two), (one, omit), (one, two), (now, omit), (omit, now), (one, now)):
            bench.ok("utimens", "f", *pair, by=who)
        bench.ok("utimens", "f", one, two, by=who)
        bench.shows("f", atime=one[0] * 10**9, mtime=two[0] * 10**9 + 7)
    bench.fails("EINVAL", "utimens", "f", (0, 10**9), one)
    bench.fails("EINVAL", "utimens", "f", one, (0, -1))


def modes_of_others(bench: Bench) -> None:
    """EPERM for who does not own it, through symlinks as well"""
    bench.make("dir", "d", 0o755, (65534, 65534))
    for kind in (*PLAIN, "dir"):
        bench.make(kind, "d/x", 0o640, (65534, 65534))
        bench.ok("symlink", b"x", "d/to", by=USER)
        for path in ("d/x", "d/to"):
            bench.ok("chmod", path, 0o642, by=USER)
            bench.fails("EPERM", "chmod", path, 0o641, by=OTHER)
            bench.shows("d/x", mode=0o642)
            for owner in ((65533, 65533), (65534, 65533), (65533, -1), (-1, 65533), (-1, 0)):
                bench.fails("EPERM", "chown", path, *owner, by=USER)
            for owner in ((65533, 65533), (65534, 65534), (65533, -1), (-1, 65533)):
                bench.fails("EPERM", "chown", path, *owner, by=OTHER)
                bench.fails("EPERM", "lchown", path, *owner, by=OTHER)
            bench.shows("d/x", uid=65534, gid=65534)
        bench.fails("EPERM", "lchown", "d/to", 65533, -1, by=USER)
        bench.ok("chown", "d/to", 0, 0)
        bench.fails("EPERM", "chmod", "d/x", 0o641, by=USER)
        bench.fails("EPERM", "chmod", "d/to", 0o641, by=USER)
        bench.shows("d/x", mode=0o642, uid=0, gid=0)
        bench.shows("d/to", type="symlink", uid=65534)
        bench.remove("d/x", kind)
        bench.remove("d/to")


ALL = [
    opening, making_by_open, what_cannot_be_opened, fifos_sockets_and_devices, times_of_others, modes_of_others,
]  # fmt: skip
