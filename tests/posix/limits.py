"""Scenarios: large files, odd names, deep trees."""

from __future__ import annotations

import os

from tests.posix.bench import Bench, Failed

ODD_NAMES = (
    b" ", b"-", b"--", b"...", b".hidden", b"..x", b"\n", b"\t\r", b"\\", b"\"'`$(x)", b"*?[a]", b"\xff", b"\xfe\xfd",
    b"\x01", b"\x7f", b"\xc3", b"\xc3\xa9", b"e\xcc\x81", b"\xe2\x82", b"\xed\xa0\x80", b"CON", b"a:b", b"x" * 255,
    b"\xff" * 255, "ü".encode() * 127 + b"x", b"name (conflict one a1b2c3-9f3c-42).txt", b"a" * 230 + b".txt",
    b"(conflict)", b" (conflict ) ", b".lost", b".fuse_hidden0001", b".Trash-0",
)  # fmt: skip


def odd_names(bench: Bench) -> None:
    """Any bytes but slash and NUL; what differs in one byte is another name"""
    for name in ODD_NAMES:
        bench.ok("put", name, name)
    bench.gives(sorted(ODD_NAMES), "listdir", b".")
    for name in ODD_NAMES:
        bench.gives(name, "get", name)
        bench.ok("symlink", name, b"link")
        bench.gives(name, "readlink", b"link")
        bench.ok("unlink", b"link")
        bench.ok("rename", name, b"elsewhere")
        bench.ok("mkdir", name)
        bench.ok("rename", b"elsewhere", name + b"/" + name)
        bench.gives([name], "listdir", name)
        bench.ok("unlink", name + b"/" + name)
        bench.ok("rmdir", name)
    bench.gives([], "listdir", b".")
    bench.ok("create", b"case")
    bench.ok("create", b"CASE")
    for code in range(1, 256, 1 if bench.thorough else 6):
        if code != ord("/"):
            bench.ok("create", b"byte%c" % code)
    found = bench.ok("listdir", b".")
    bench.true(
        not isinstance(found, Failed) and len(found) == (256 if bench.thorough else 45), "one entry for each byte"
    )


def large_files(bench: Bench) -> None:
    """Holes, sizes beyond 2 and 4 GiB, and what is too large"""
    at = 2 * 1024**3 + 1
    bench.ok("open", "f", os.O_CREAT | os.O_WRONLY, 0o755, ("pwrite", b"a", at))
    bench.shows("f", size=at + 1)
    bench.gives(b"a", "open", "f", os.O_RDONLY, 0, ("pread", 10, at))
    bench.gives(b"\0" * 10, "open", "f", os.O_RDONLY, 0, ("pread", 10, 1024**3))
    bench.ok("open", "f", os.O_RDWR, 0, ("pwrite", b"bcd", 5 * 1024**3))
    bench.shows("f", size=5 * 1024**3 + 3)
    found = bench.raw("lstat", b"f")
    bench.true(found.blocks * 512 < 16 * 1024**2, f"holes take no room: {found.blocks} blocks")
    for size in (12_345, 4 * 1024**3, 0, 1):
        bench.ok("truncate", "f", size)
        bench.shows("f", size=size)
    bench.gives(b"\0", "get", "f")
    bench.fails("EFBIG", "truncate", "f", 2**63 - 1)
    bench.fails("EFBIG", "open", "f", os.O_RDWR, 0, ("ftruncate", 2**62))
    bench.fails("EINVAL", "truncate", "f", -1)
    bench.fails("EINVAL", "truncate", "f", -999_999)
    bench.fails("EINVAL", "open", "f", os.O_RDWR, 0, ("ftruncate", -1))
    bench.fails("EINVAL", "open", "f", os.O_RDONLY, 0, ("ftruncate", 0))
    bench.fails("EBADF", "open", "f", os.O_RDONLY, 0, ("write", b"x"))
    bench.fails("EBADF", "open", "f", os.O_WRONLY, 0, ("read", 1))
    bench.fails("EINVAL", "open", "f", os.O_RDWR, 0, ("pread", 1, -1))
    bench.fails("EFBIG", "open", "f", os.O_RDWR, 0, ("pwrite", b"x", 2**63 - 2))
    bench.shows("f", size=1)


def deep_trees(bench: Bench) -> None:
    """Deeper than a path can say, by folders made from within"""
    for name, depth in ((b"d" * 20, 1_000), (b"d", 500)) if bench.thorough else ((b"d" * 40, 110),):
        bench.ok("deep", name, depth)
        bench.ok("create", b"/".join([name] * 90) + b"/f")
        bench.gives("", "remove_tree", name)
        bench.gives([], "listdir", b".")


def listings(bench: Bench) -> None:
    """Positions in a folder stay valid; what stays is listed once while entries come and go"""
    bench.make("dir", "d")
    bench.ok("many", "d", 1_000 if bench.thorough else 300)
    bench.gives([], "positions", "d", 97)
    bench.gives([], "churn", "d", 400 if bench.thorough else 60)
    bench.gives("", "remove_tree", "d")


def many_links(bench: Bench) -> None:
    bench.make("file", "f")
    for number in range(200 if bench.thorough else 20):
        bench.ok("link", "f", f"l{number}")
    bench.shows("l7", nlink=201 if bench.thorough else 21)
    for number in range(200 if bench.thorough else 20):
        bench.ok("unlink", f"l{number}")
    bench.shows("f", nlink=1)


ALL = [odd_names, large_files, deep_trees, listings, many_links]
