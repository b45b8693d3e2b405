"""What the machine does not show well: several processes at once, sizes past 4 GiB, what lasts after fsync."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.differential.machine import replay
from tests.differential.steps import Step
from tests.differential.world import World

pytestmark = [pytest.mark.mount, pytest.mark.cluster]

CHUNK = 1 << 20
APPENDING = """
import os, sys
fd = os.open("lines", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
for number in range(150):
    os.write(fd, (sys.argv[1] + ":%04d:" % number + sys.argv[1] * int(sys.argv[2]) + "\\n").encode())
"""


def test_lines_that_several_processes_append_are_all_there_and_whole(world: World) -> None:
    mount = world.mounts["A"]
    sizes = {"a": 10, "b": 500, "c": 5000, "d": 70}
    programs = [mount.begin(sys.executable, "-c", APPENDING, who, str(size)) for who, size in sizes.items()]
    for program in programs:
        mount.finish(program)
    lines = mount.hands.read("lines").decode().splitlines()
    expected = [f"{who}:{number:04}:{who * size}" for who, size in sizes.items() for number in range(150)]
    assert sorted(lines) == sorted(expected)
    for who in sizes:
        assert [line for line in lines if line.startswith(who)] == [line for line in expected if line.startswith(who)]


def _bytes_below(folder: Path) -> int:
    told = subprocess.run(["du", "-s", "-B1", folder], capture_output=True, text=True, check=True, timeout=60)
    return int(told.stdout.split()[0])


def test_a_sparse_file_past_4_gib_takes_what_is_in_it(world: World) -> None:
    hands, other = world.mounts["A"].hands, world.mounts["B"].hands
    before = [_bytes_below(server.data) for server in world.cluster.servers]
    fd = hands.open("sparse", os.O_RDWR | os.O_CREAT)
    for place in (0, (4 << 30) - 3, (4 << 30) + 5 * CHUNK, 40 << 30):
        assert hands.pwrite(fd, b"some data", place) == 9
    hands.ftruncate(fd, 50 << 30)
    assert hands.fstat(fd).st_blocks * 512 <= 16 * CHUNK
    hands.fsync(fd)
    seen = hands.stat("sparse")
    assert seen.st_size == 50 << 30
    assert 0 < seen.st_blocks * 512 <= 16 * CHUNK
    hands.close_fd(fd)
    world.fence("A", "B")
    fd = other.open("sparse", os.O_RDWR)
    assert other.pread(fd, 15, (4 << 30) - 6) == b"\0\0\0some data\0\0\0"
    assert other.pread(fd, 100, 30 << 30) == bytes(100)
    assert other.pread(fd, 9, 40 << 30) == b"some data"
    other.ftruncate(fd, 4 << 30)
    other.close_fd(fd)
    world.fence("B", "A")
    assert hands.stat("sparse").st_size == 4 << 30
    for server, had in zip(world.cluster.servers, before, strict=True):
        assert _bytes_below(server.data) - had <= 24 * CHUNK, server.name


SIZES = (0, 1, 100, 4096, 5000, 70_000, CHUNK, CHUNK + 7, 3 * CHUNK)
OPENED: list[Step] = [("r", "open", 0, "a", "RDWR|CREAT", 0o644), ("r", "write", 0, 7, 100_000)]
STATES: dict[str, list[Step]] = {
    "closed": [*OPENED, ("r", "close", 0)],
    "open and unsaved": OPENED,
    "open and saved": [*OPENED, ("r", "fsync", 0)],
    "open twice": [*OPENED, ("s", "open", 1, "a", "RDWR", 0), ("s", "pwrite", 1, 3, 500, 200_000)],
    "open to append": [*OPENED, ("s", "open", 1, "a", "WRONLY|APPEND", 0)],
    "mapped": [
        *OPENED,
        ("r", "mmap", 0, True),
        ("r", "mstore", 0, 9, 5000, 300),
        ("r", "msync", 0),
        ("r", "munmap", 0),
    ],
    "written by the other mount": [*OPENED, ("b", "open", 0, "a", "RDWR", 0), ("b", "pwrite", 0, 5, 1000, 50_000)],
    "without a server": [*OPENED, ("fault", "kill server", 0), ("fault", "kill server", 1)],
    "found after a kill": [*OPENED, ("fault", "kill mount"), ("r", "open", 0, "a", "RDWR", 0)],
}


@pytest.mark.parametrize("state", STATES)
def test_truncate_in_every_state(world: World, state: str) -> None:
    steps: list[Step] = [*STATES[state], ("look", True)]
    by_path = state in ("closed", "written by the other mount")
    for number, size in enumerate((*SIZES, *reversed(SIZES))):
        steps.append(("r", "truncate", "a", size) if by_path or number % 3 == 0 else ("r", "ftruncate", 0, size))
        if number % 4 == 1:
            steps += [("r", "open", 2, "a", "WRONLY|APPEND", 0), ("r", "write", 2, number + 1, 333), ("r", "close", 2)]
        steps.append(("look", True))
    replay(world, steps)


@pytest.mark.parametrize("how", ["unlinked", "replaced"])
def test_truncate_without_a_name(world: World, how: str) -> None:
    gone: list[Step] = [("r", "unlink", "a")]
    if how == "replaced":
        gone = [("r", "open", 3, "b", "RDWR|CREAT", 0o644), ("r", "rename", "b", "a")]
    steps: list[Step] = [*OPENED, *gone]
    for number, size in enumerate((*SIZES, *reversed(SIZES))):
        steps += [
            ("r", "ftruncate", 0, size),
            ("r", "pread", 0, 4 * CHUNK, 0),
            ("r", "pwrite", 0, number + 1, 40, size),
        ]
        steps += [("r", "fstat", 0), ("r", "pread", 0, 4 * CHUNK, 0)]
    replay(world, steps)


def test_truncate_of_what_may_not_be_cut(world: World) -> None:
    refused: list[Step] = [("r", "truncate", path, 5) for path in ("d", "no", "a/b", "", "loop", "a/")]
    refused += [("r", "ftruncate", slot, 5) for slot in (0, 1)] + [("r", "ftruncate", 2, -1), ("u", "truncate", "a", 5)]
    replay(
        world,
        [
            *OPENED,
            ("r", "mkdir", "d", 0o755),
            ("r", "symlink", "loop", "loop"),
            ("r", "open", 0, "a", "RDONLY", 0),
            ("r", "open", 1, "d", "RDONLY|DIRECTORY", 0),
            ("r", "open", 2, "a", "RDWR", 0),
            *refused,
        ],
    )


def test_names_survive_once_their_folder_was_synced(world: World) -> None:
    """With both servers, and with none; the mount is killed with -9 right after."""
    work: list[Step] = [
        ("r", "mkdir", "d", 0o755),
        ("r", "open", 0, "d", "RDONLY|DIRECTORY", 0),
        ("r", "open", 1, "d/a", "RDWR|CREAT", 0o644),
        ("r", "symlink", "a", "d/b"),
        ("r", "rename", "d/a", "d/c"),
        ("r", "fsync", 0),
        ("r", "fdatasync", 0),
    ]
    down: list[Step] = [("fault", "kill server", 0), ("fault", "kill server", 1)]
    replay(world, [*work, *down, ("fault", "kill mount"), ("look", True), ("fault", "restore"), ("look", True)])
    replay(world, [*down, *work, ("fault", "kill mount"), ("look", True), ("fault", "restore"), ("look", True)])


def test_names_that_stay_are_listed_once_while_others_come_and_go(world: World) -> None:
    replay(world, [("r", "mkdir", "d", 0o755), ("r", "churn", "d", 60, 12)])
