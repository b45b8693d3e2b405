"""Scenarios: folders in which everybody may write but only owners may remove (the sticky bit)."""

from __future__ import annotations

import itertools

from tests.posix.bench import KINDS, NO_FOLDERS, USER, Bench

OWNERS = (65534, 0, 65533)
"""The caller, root, another user."""


def removing(bench: Bench) -> None:
    """unlink and rmdir: the owner of the folder and the owner of the thing may, nobody else"""
    bench.make("dir", "s", 0o1777)
    for kind, folder, thing in itertools.product(KINDS, OWNERS, OWNERS):
        bench.ok("chown", "s", folder, folder)
        bench.make(kind, "s/x", None, (thing, thing))
        bench.shows("s/x", type=kind, uid=thing, gid=thing)
        call = "rmdir" if kind == "dir" else "unlink"
        if USER.uid in (folder, thing):
            bench.ok(call, "s/x", by=USER)
            bench.gone("s/x")
        else:
            bench.fails("EPERM", call, "s/x", by=USER)
            bench.shows("s/x", type=kind, uid=thing, gid=thing)
            bench.remove("s/x", kind)


def moving_out(bench: Bench) -> None:
    """rename from a sticky folder, over nothing and over each type"""
    bench.make("dir", "s", 0o1777)
    bench.make("dir", "free", 0o755, (65534, 65534))
    for kind, folder, thing in itertools.product(NO_FOLDERS, OWNERS, OWNERS):
        allowed = USER.uid in (folder, thing)
        bench.ok("chown", "s", folder, folder)
        bench.make(kind, "s/x", None, (thing, thing))
        ino = bench.shows("s/x", type=kind).ino
        for over in bench.some(("none", *NO_FOLDERS)):
            bench.make(over, "free/y", None, (65534, 65534))
            if allowed:
                bench.ok("rename", "s/x", "free/y", by=USER)
                bench.gone("s/x")
                bench.shows("free/y", type=kind, ino=ino, uid=thing, gid=thing)
                bench.ok("rename", "free/y", "s/x", by=USER)
                bench.shows("s/x", ino=ino)
                bench.gone("free/y")
            else:
                bench.fails("EPERM", "rename", "s/x", "free/y", by=USER)
                bench.shows("s/x", type=kind, ino=ino, uid=thing, gid=thing)
                if over != "none":
                    bench.shows("free/y", type=over, uid=65534, gid=65534)
                    bench.remove("free/y", over)
        bench.remove("s/x")


def moving_over(bench: Bench) -> None:
    """rename into a sticky folder, over each type"""
    bench.make("dir", "s", 0o1777)
    bench.make("dir", "free", 0o755, (65534, 65534))
    for kind, folder, thing in itertools.product(NO_FOLDERS, OWNERS, OWNERS):
        bench.ok("chown", "s", folder, folder)
        bench.make(kind, "free/x", None, (65534, 65534))
        ino = bench.shows("free/x", type=kind).ino
        for over in bench.some(NO_FOLDERS):
            bench.make(over, "s/y", None, (thing, thing))
            if USER.uid in (folder, thing):
                bench.ok("rename", "free/x", "s/y", by=USER)
                bench.gone("free/x")
                bench.shows("s/y", type=kind, ino=ino)
                bench.ok("rename", "s/y", "free/x", by=USER)
            else:
                bench.fails("EPERM", "rename", "free/x", "s/y", by=USER)
                bench.shows("free/x", type=kind, ino=ino)
                bench.shows("s/y", type=over, uid=thing, gid=thing)
                bench.remove("s/y", over)
        bench.remove("free/x")


def moving_folders(bench: Bench) -> None:
    """A folder of another may be renamed by the owner of the sticky one, but not given another parent"""
    bench.make("dir", "s", 0o1777)
    bench.make("dir", "free", 0o755, (65534, 65534))
    for folder, thing, over in itertools.product(OWNERS, OWNERS, ("none", "dir")):
        bench.ok("chown", "s", folder, folder)
        bench.make("dir", "s/x", None, (thing, thing))
        ino = bench.shows("s/x", type="dir").ino
        if over == "dir":
            bench.ok("mkdir", "free/y", 0o755, by=USER)
            bench.ok("mkdir", "s/z", 0o755, by=USER)
        if USER.uid not in (folder, thing):
            bench.fails("EPERM", "rename", "s/x", "free/y", by=USER)
            bench.fails("EPERM", "rename", "s/x", "s/z", by=USER)
        elif USER.uid != thing:
            bench.fails("EACCES", "rename", "s/x", "free/y", by=USER)
            bench.ok("rename", "s/x", "s/z", by=USER)
            bench.ok("rename", "s/z", "s/x")
        else:
            bench.ok("rename", "s/x", "free/y", by=USER)
            bench.shows("free/y", type="dir", ino=ino, uid=thing)
            bench.ok("rename", "free/y", "s/x")
        bench.shows("s/x", ino=ino, uid=thing)
        for path in (b"s/x", b"s/z", b"free/y"):
            bench.raw("rmdir", path)
    for folder, thing in itertools.product(OWNERS, OWNERS):
        bench.ok("chown", "s", folder, folder)
        bench.make("dir", "free/x", None, (65534, 65534))
        bench.make("dir", "s/y", None, (thing, thing))
        if USER.uid in (folder, thing):
            bench.ok("rename", "free/x", "s/y", by=USER)
            bench.gone("free/x")
        else:
            bench.fails("EPERM", "rename", "free/x", "s/y", by=USER)
            bench.shows("s/y", type="dir", uid=thing, gid=thing)
            bench.remove("free/x", "dir")
        bench.remove("s/y", "dir")


ALL = [removing, moving_out, moving_over, moving_folders]
