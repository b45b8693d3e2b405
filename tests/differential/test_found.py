"""Programs on which a mount and a plain folder once differed, as the machine found and shortened them. Each is replayed
on both; `look` compares everything."""

from __future__ import annotations

import pytest

from tests.differential.machine import replay
from tests.differential.steps import Step
from tests.differential.world import World

pytestmark = [pytest.mark.mount, pytest.mark.cluster]

PROGRAMS: dict[str, list[Step]] = {
    "saving at fsync and close moved the ctime that a program had seen after its write": [
        ("r", "open", 0, "a", "RDWR|CREAT", 0o644),
        ("r", "write", 0, 46, 123),
        ("look", False),
        ("r", "fsync", 0),
        ("look", False),
        ("r", "pwrite", 0, 47, 10, 0),
        ("look", False),
        ("r", "close", 0),
        ("look", False),
    ],
    "a truncate refused with EFBIG left an edit that moved mtime": [
        ("r", "open", 0, "a", "RDWR|CREAT", 0o644),
        ("r", "close", 0),
        ("look", True),
        ("r", "truncate", "a", (1 << 63) - 1),
        ("look", True),
    ],
    "the attributes of an open folder that was removed could not be changed": [
        ("r", "mkdir", "d", 0o777),
        ("r", "open", 1, "d", "RDONLY|DIRECTORY", 0),
        ("r", "rmdir", "d"),
        ("r", "fchmod", 1, 0o700),
        ("r", "fchown", 1, 1000, 2000),
        ("r", "futime", 1, 10**9, 5),
        ("r", "fsetxattr", 1, "user.a", b"value"),
        ("r", "fgetxattr", 1, "user.a"),
        ("r", "fstat", 1),
        ("r", "list_open", 1),
        ("r", "close", 1),
    ],
    "nor those of one that another folder was renamed over": [
        ("r", "mkdir", "d", 0o777),
        ("r", "open", 3, "d", "RDONLY|DIRECTORY", 0),
        ("r", "mkdir", "b", 0o755),
        ("r", "rename", "b", "d"),
        ("r", "fchmod", 3, 0o700),
        ("r", "fstat", 3),
    ],
    "a file cut to nothing and grown again took blocks for what it had held": [
        ("r", "open", 1, "b", "RDWR|CREAT", 0o644),
        ("r", "pwrite", 1, 242, 70_000, 8 << 20),
        ("look", True),
        ("r", "open", 3, "b", "RDONLY|TRUNC", 0),
        ("r", "ftruncate", 1, 9 << 20),
        ("look", True),
    ],
    "a file that another mount cut and then removed showed its old content to those who had it open": [
        ("r", "open", 0, "a", "RDWR|CREAT", 0o644),
        ("r", "write", 0, 1, 5000),
        ("b", "open", 3, "a", "RDWR", 0),
        ("s", "truncate", "a", 10),
        ("s", "unlink", "a"),
        ("b", "fstat", 3),
        ("b", "pread", 3, 6000, 0),
        ("b", "pwrite", 3, 208, 172, 1),
        ("b", "pread", 3, 6000, 0),
        ("b", "mmap", 3, False),
    ],
    "a file with unsaved writes that was removed came back when the mount was killed right after": [
        ("s", "open", 2, "c", "RDWR|CREAT", 0o644),
        ("s", "write", 2, 86, 95),
        ("u", "unlink", "c"),
        ("fault", "kill mount"),
        ("look", True),
        ("s", "open", 2, "c", "RDWR|CREAT", 0o644),
        ("s", "write", 2, 86, 95),
        ("s", "open", 1, "d", "RDWR|CREAT", 0o644),
        ("u", "rename", "d", "c"),
        ("fault", "kill mount"),
        ("look", True),
    ],
    "times of a file with unsaved writes moved when its mount was killed": [
        ("r", "open", 0, "a", "RDWR|CREAT", 0o644),
        ("r", "write", 0, 1, 5000),
        ("look", False),
        ("fault", "kill mount"),
        ("look", True),
        ("r", "open", 0, "a", "RDWR", 0),
        ("r", "write", 0, 1, 5000),
        ("r", "futime", 0, 5, 10**9),
        ("look", False),
        ("fault", "kill mount"),
        ("look", True),
    ],
    "a write after utimens was dated back to it when its mount was killed": [
        ("r", "open", 0, "a", "RDWR|CREAT", 0o644),
        ("r", "write", 0, 1, 5000),
        ("r", "futime", 0, 5, 10**9),
        ("r", "pwrite", 0, 2, 50, 10),
        ("look", False),
        ("fault", "kill mount"),
        ("look", True),
    ],
    "a write of one who had read the other mount's from the kernel's pages made a conflict copy": [
        ("r", "open", 1, "b", "RDWR|CREAT", 0o644),
        ("s", "open", 1, "b", "RDWR", 0),
        ("b", "open", 2, "b", "RDWR", 0),
        ("b", "write", 2, 100, 1048581),
        ("s", "pwrite", 1, 60, 266, 65536),
        ("look", True),
    ],
    "lines that two mounts append in turn, and never read, ended in conflict copies": [
        ("r", "open", 1, "b", "WRONLY|CREAT|APPEND", 0o644),
        ("r", "write", 1, 1, 100),
        ("b", "open", 2, "b", "WRONLY|APPEND", 0),
        *[(hand, "write", slot, seed, 10 * seed) for seed in range(1, 5) for hand, slot in (("b", 2), ("r", 1))],
        ("look", True),
    ],
    "the names of trusted attributes were shown to everybody": [
        ("r", "setxattr", "", "trusted.t", b"value", 0),
        ("r", "setxattr", "", "user.a", b"value", 0),
        ("u", "listxattr", ""),
        ("u", "getxattr", "", "trusted.t"),
        ("r", "listxattr", ""),
    ],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_does_what_the_plain_folder_does(world: World, name: str) -> None:
    replay(world, PROGRAMS[name])
