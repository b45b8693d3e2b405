"""Scenarios: extended attributes, their names, sizes and errors, and who may see them."""

from __future__ import annotations

import os

from tests.posix.bench import KINDS, OTHER, USER, Bench, Failed

WORDS = b"user.words"


def user_attributes(bench: Bench) -> None:
    """Of files and folders, by those who may read and write them"""
    for kind in ("file", "dir"):
        bench.make(kind, "x", 0o640, (65534, 65534))
        bench.gives([], "listxattr", "x")
        bench.fails("ENODATA", "getxattr", "x", WORDS)
        bench.fails("ENODATA", "removexattr", "x", WORDS)
        for value in (b"", b"value", b"\0\xff any bytes \n", b"x" * 1000, b"short again"):
            bench.ok("setxattr", "x", WORDS, value, by=USER)
            bench.gives(value, "getxattr", "x", WORDS, by=USER)
        bench.fails("EEXIST", "setxattr", "x", WORDS, b"", os.XATTR_CREATE)
        bench.fails("ENODATA", "setxattr", "x", b"user.none", b"", os.XATTR_REPLACE)
        bench.ok("setxattr", "x", WORDS, b"replaced", os.XATTR_REPLACE)
        bench.ok("setxattr", "x", b"user.more", b"1", os.XATTR_CREATE)
        bench.fails("EINVAL", "setxattr", "x", b"user.both", b"", 4)
        bench.gives(["user.more", "user.words"], "listxattr", "x")
        bench.fails("EACCES", "getxattr", "x", WORDS, by=OTHER)
        bench.fails("EACCES", "setxattr", "x", WORDS, b"", by=OTHER)
        bench.fails("EACCES", "removexattr", "x", WORDS, by=OTHER)
        bench.ok("listxattr", "x", by=OTHER)
        bench.ok("chmod", "x", 0o400)
        bench.fails("EACCES", "setxattr", "x", WORDS, b"", by=USER)
        bench.gives(b"replaced", "getxattr", "x", WORDS, by=USER)
        bench.ok("chmod", "x", 0o640)
        bench.ok("rename", "x", "y")
        bench.ok("removexattr", "y", WORDS, by=USER)
        bench.gives(["user.more"], "listxattr", "y")
        bench.remove("y", kind)
    for kind in KINDS:
        if kind in ("file", "dir"):
            continue
        bench.make(kind, "x", 0o666 if kind != "symlink" else None)
        bench.fails("EPERM", "setxattr", "x", WORDS, b"")
        bench.fails("ENODATA", "getxattr", "x", WORDS)
        bench.gives([], "listxattr", "x")
        bench.ok("setxattr", "x", b"trusted.t", b"root's")
        bench.gives(b"root's", "getxattr", "x", b"trusted.t")
        bench.remove("x", kind)
    bench.make("dir", "s", 0o1777)
    bench.fails("EPERM", "setxattr", "s", WORDS, b"", by=USER)


def names_of_attributes(bench: Bench) -> None:
    bench.make("file", "f")
    longest = b"user." + b"n" * 250
    bench.ok("setxattr", "f", longest, b"v")
    bench.gives(b"v", "getxattr", "f", longest)
    for call, args in (("setxattr", (b"v",)), ("getxattr", ()), ("removexattr", ())):
        bench.fails("ERANGE", call, "f", longest + b"n", *args)
        bench.fails("ERANGE", call, "f", b"", *args)
        bench.fails("ENOTSUP", call, "f", b"nonsense", *args)
        bench.fails("ENOTSUP", call, "f", b"other.space", *args)
        bench.fails("EINVAL", call, "f", b"user.", *args)
    bench.fails("E2BIG", "setxattr", "f", WORDS, b"x" * (64 * 1024 + 1))
    bench.ok("setxattr", "f", b"user.\xff\xfe any bytes", b"v")
    bench.gives(b"v", "getxattr", "f", b"user.\xff\xfe any bytes")
    bench.ok("listxattr", "f")
    bench.shows("f", type="file", size=0)


def attributes_of_root(bench: Bench) -> None:
    """trusted.* is root's alone; others do not even see its names"""
    bench.make("file", "f", 0o666, (65534, 65534))
    bench.ok("setxattr", "f", b"trusted.secret", b"1")
    bench.ok("setxattr", "f", WORDS, b"2")
    bench.gives(["trusted.secret", "user.words"], "listxattr", "f")
    bench.gives(["user.words"], "listxattr", "f", by=USER)
    bench.fails("EPERM", "setxattr", "f", b"trusted.secret", b"2", by=USER)
    bench.fails("ENODATA", "getxattr", "f", b"trusted.secret", by=USER)
    bench.fails("EPERM", "removexattr", "f", b"trusted.secret", by=USER)
    bench.gives(b"1", "getxattr", "f", b"trusted.secret")
    bench.fails("ENODATA", "getxattr", "f", b"security.capability")
    bench.fails("EPERM", "setxattr", "f", b"security.anything", b"x", by=USER)
    bench.ok("setxattr", "f", b"security.anything", b"root's")
    bench.gives(["security.anything", "user.words"], "listxattr", "f", by=USER)
    bench.gives(b"root's", "getxattr", "f", b"security.anything", by=USER)
    bench.fails("EPERM", "removexattr", "f", b"security.anything", by=USER)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    for name, args in (
        ("open", (os.O_WRONLY, 0, ("write", b"x"))),
        ("truncate", (5,)),
        ("chown", (65534, 65533)),
        ("chown", (-1, -1)),
    ):
        bench.ok("setxattr", "f", b"security.capability", capability)
        bench.gives(capability, "getxattr", "f", b"security.capability")
        bench.ok(name, "f", *args)
        bench.fails("ENODATA", "getxattr", "f", b"security.capability")
    bench.ok("removexattr", "f", b"security.anything")


def many_attributes(bench: Bench) -> None:
    bench.make("file", "f")
    for number in range(30):
        bench.ok("setxattr", "f", b"user.%d" % number, b"v" * number)
    found = bench.ok("listxattr", "f")
    bench.true(not isinstance(found, Failed) and len(found) == 30, "thirty attributes")
    for number in range(0, 30, 2):
        bench.ok("removexattr", "f", b"user.%d" % number)
    bench.ok("listxattr", "f")
    for number in range(30):
        bench.call("getxattr", "f", b"user.%d" % number)
    bench.ok("link", "f", "g")
    bench.gives(b"v" * 7, "getxattr", "g", b"user.7")
    bench.ok("put", "f", b"content")
    bench.gives(b"v" * 7, "getxattr", "f", b"user.7")
    bench.ok("open", "f", os.O_RDWR, 0, ("unlink", b"f"), ("unlink", b"g"), ("fsync",))


ALL = [user_attributes, names_of_attributes, attributes_of_root, many_attributes]
