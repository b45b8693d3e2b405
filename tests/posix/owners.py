"""Scenarios: chmod and chown that succeed, set-id bits, groups handed on by folders, large ids."""

from __future__ import annotations

import itertools
import os

from tests.posix.bench import KINDS, MEMBER, NO_LINKS, PLAIN, ROOT, USER, USER_OF_ROOTS_GROUP, Bench, Identity

OWNER_IN_TWO_GROUPS = Identity(65534, 65532, (65532, 65531))
STRANGER = Identity(65532, 65532, (65532,))


def modes(bench: Bench) -> None:
    """All twelve bits are kept, of every type, through symlinks too"""
    for kind in NO_LINKS:
        bench.make(kind, "x")
        bench.ok("symlink", b"x", "to")
        link = bench.shows("to", type="symlink", mode=0o777)
        for mode in (0o111, 0o222, 0o4000, 0o2000, 0o1000, 0o7777, 0o1621, 0, 0o6755):
            bench.ok("chmod", "x", mode)
            bench.shows("x", type=kind, mode=mode, nlink=2 if kind == "dir" else 1)
            bench.ok("chmod", "to", mode ^ 0o777)
            bench.shows("to", follow=True, type=kind, mode=mode ^ 0o777)
        bench.shows("to", type="symlink", mode=0o777, ino=link.ino)
        bench.remove("to")
        bench.remove("x", kind)
    bench.make("file", "f")
    bench.ok("open", "f", os.O_RDWR, 0, ("fchmod", 0o4321))
    bench.shows("f", mode=0o4321)


def set_group_id_by_chmod(bench: Bench) -> None:
    """It is dropped when the owner is not in the file's group and not root; the sticky bit is kept"""
    bench.ok("chmod", ".", 0o777)
    for kind in dict.fromkeys(("file", *bench.some(NO_LINKS))):
        for gid, who in itertools.product((65534, 65533, 0), (USER, OWNER_IN_TWO_GROUPS, USER_OF_ROOTS_GROUP, ROOT)):
            bench.make(kind, "x", 0o755, (65534, gid))
            bench.ok("chmod", "x", 0o7755, by=who)
            member = gid in (who.gid, *who.groups) or who.uid == 0
            bench.shows("x", mode=0o7755 if member else 0o5755, uid=65534, gid=gid)
            bench.ok("chmod", "x", 0o755, by=who)
            bench.shows("x", mode=0o755)
            bench.ok("chmod", "x", 0o2644, by=who)
            bench.shows("x", mode=0o2644 if member else 0o644)
            bench.remove("x", kind)
    bench.make("file", "f", 0o755, (65534, 65534))
    bench.ok("chmod", "f", 0o2755, by=MEMBER._replace(uid=65534))
    bench.shows("f", mode=0o2755)


def owners(bench: Bench) -> None:
    """By root: any; by the owner: to his groups; -1 leaves one as it is"""
    bench.ok("chmod", ".", 0o777)
    for kind in KINDS:
        bench.make(kind, "x")
        path = "x"
        if kind != "symlink":
            bench.ok("symlink", b"x", "to")
            path = "to"
        for call, where in (("lchown", "x"), ("chown", path)):
            follow = where == "to"
            if kind == "symlink" and call == "chown":
                continue
            for uid, gid in ((123, 456), (0, 0), (65534, 65533), (2**32 - 2, 2**32 - 3), (70_000, 2**31)):
                bench.ok(call, where, uid, gid)
                bench.shows(where, follow=follow, uid=uid, gid=gid)
            bench.ok(call, where, 65534, 65533)
            for gid in (65532, 65531):
                bench.ok(call, where, -1, gid, by=OWNER_IN_TWO_GROUPS)
                bench.shows(where, follow=follow, uid=65534, gid=gid)
            bench.ok(call, where, 65534, 65532, by=OWNER_IN_TWO_GROUPS)
            bench.shows(where, follow=follow, uid=65534, gid=65532)
            bench.fails("EPERM", call, where, 65534, 65533, by=OWNER_IN_TWO_GROUPS)
            bench.fails("EPERM", call, where, -1, 0, by=OWNER_IN_TWO_GROUPS)
            bench.ok(call, where, 65534, -1, by=OWNER_IN_TWO_GROUPS)
            bench.ok(call, where, 65534, -1, by=USER)
            for who in (USER, STRANGER, OWNER_IN_TWO_GROUPS, ROOT):
                bench.ok(call, where, -1, -1, by=who)
            bench.shows(where, follow=follow, uid=65534, gid=65532)
            bench.ok(call, where, 0, -1)
            bench.ok(call, where, -1, 0)
            for owner in ((65534, -1), (-1, 65534), (65534, 65534), (0, 65534)):
                bench.fails("EPERM", call, where, *owner, by=USER)
            bench.shows(where, follow=follow, uid=0, gid=0)
        if path == "to":
            bench.shows("to", type="symlink", uid=0, gid=0)
            bench.remove("to")
        bench.remove("x", kind)
    bench.make("file", "f", 0o600, (65534, 65534))
    bench.ok("open", "f", os.O_RDONLY, 0, ("fchown", 7, 8))
    bench.shows("f", uid=7, gid=8)


def set_ids_and_chown(bench: Bench) -> None:
    """chown takes set-user-id and set-group-id away from what can be executed, whoever calls; not from folders"""
    bench.ok("chmod", ".", 0o777)
    changer = Identity(65534, 65533, (65533, 65532))
    for kind in NO_LINKS:
        for mode in bench.some((0o6555, 0o4755, 0o2755, 0o6644, 0o2644, 0o2745, 0o6000, 0o7777), 3):
            bench.make(kind, "x", mode, (65534, 65533))
            for who, uid, gid in ((ROOT, 65532, 65531), (ROOT, 0, 0), (changer, 65534, 65532), (changer, -1, 65532),
                                  (changer, -1, -1), (ROOT, -1, -1), (ROOT, 65534, 65533)):  # fmt: skip
                bench.ok("lchown", "x", 65534, 65533)
                bench.ok("chmod", "x", mode)
                bench.ok("chown", "x", uid, gid, by=who)
                bench.call("lstat", "x")
            bench.remove("x", kind)
    for kind in PLAIN:
        bench.make(kind, "x", 0o6555, (65534, 65533))
        bench.ok("chown", "x", 65534, 65532, by=changer)
        bench.shows("x", mode=0o555, uid=65534, gid=65532)
        bench.remove("x", kind)
    bench.make("dir", "x", 0o6555, (65534, 65533))
    bench.ok("chown", "x", 65534, 65532, by=changer)
    bench.shows("x", mode=0o6555, uid=65534, gid=65532)


def set_ids_and_writing(bench: Bench) -> None:
    """Writing and truncating by anybody but root takes them away, at once and for good"""
    for mode, who in itertools.product((0o4777, 0o2777, 0o6777, 0o6767, 0o2767, 0o7777, 0o4666), (USER, ROOT, MEMBER)):
        for then in ((("write", b"x"), ("fstat",)), (("ftruncate", 3), ("fstat",)), (("pwrite", b"y", 9), ("fstat",))):
            bench.make("file", "f", mode)
            bench.call("open", "f", os.O_RDWR, 0, *then, by=who)
            bench.call("lstat", "f")
            bench.ok("unlink", "f")
        for name, args in (("truncate", (5,)), ("open", (os.O_WRONLY | os.O_TRUNC,)), ("open", (os.O_RDWR,))):
            bench.make("file", "f", mode)
            bench.ok(name, "f", *args, by=who)
            bench.call("lstat", "f")
            bench.ok("unlink", "f")
    for mode in (0o4777, 0o2777, 0o6777):
        bench.make("file", "f", mode)
        found = bench.ok("open", "f", os.O_RDWR, 0, ("write", b"x"), ("fstat",), by=USER)
        bench.true(found.mode == 0o777, f"{mode:o} became {found.mode:o} by a write of another")
        bench.shows("f", mode=0o777, size=1)
        bench.ok("unlink", "f")


def groups_of_new_nodes(bench: Bench) -> None:
    """Of who makes them, or of a set-group-id folder, which hands the bit on to folders"""
    bench.make("dir", "d", 0o777, (65535, 65535))
    bench.make("dir", "g", 0o2777, (65535, 65530))
    for folder, who in itertools.product("dg", (ROOT, USER, MEMBER, OWNER_IN_TWO_GROUPS)):
        gid = 65530 if folder == "g" else who.gid
        for name, args, kind in (
            ("create", (0o644,), "file"), ("mkdir", (0o755,), "dir"), ("mkfifo", (0o644,), "fifo"),
            ("mknod", ("fifo", 0o644), "fifo"), ("mknod", ("socket", 0o644), "socket"), ("bind", (), "socket"),
        ):  # fmt: skip
            bench.ok(name, f"{folder}/x", *args, by=who)
            found = bench.shows(f"{folder}/x", type=kind, uid=who.uid, gid=gid)
            if kind == "dir":
                bench.true(found.mode == (0o2755 if folder == "g" else 0o755), f"a folder in {folder}: {found.mode:o}")
            bench.remove(f"{folder}/x", kind)
        bench.ok("symlink", b"to", f"{folder}/x", by=who)
        bench.shows(f"{folder}/x", type="symlink", uid=who.uid, gid=gid)
        bench.remove(f"{folder}/x")
        for mode in (0o2755, 0o2745, 0o6711, 0o2644, 0o4755):
            bench.ok("open", f"{folder}/x", os.O_CREAT | os.O_WRONLY, mode, by=who)
            bench.call("lstat", f"{folder}/x")
            bench.remove(f"{folder}/x")
            bench.ok("mkdir", f"{folder}/x", mode, by=who)
            bench.call("lstat", f"{folder}/x")
            bench.remove(f"{folder}/x", "dir")


ALL = [modes, set_group_id_by_chmod, owners, set_ids_and_chown, set_ids_and_writing, groups_of_new_nodes]
