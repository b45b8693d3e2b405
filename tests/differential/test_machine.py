"""A short run of the differential machine, with every kind of fault. `python -m tests.differential` makes long ones."""

from __future__ import annotations

import pytest

from tests.differential.machine import Counts, drive, lines, replay
from tests.differential.steps import Step
from tests.differential.world import Difference, World

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(300)]

STEPS = 500
WEATHER: list[Step] = [
    ("r", "open", 0, "a", "RDWR|CREAT", 0o644),
    ("r", "write", 0, 1, 5000),
    ("fault", "kill server", 0),
    ("r", "mkdir", "d", 0o755),
    ("r", "pwrite", 0, 2, 70_000, 100),
    ("fault", "forget"),
    ("look", True),
    ("fault", "kill mount"),
    ("look", True),
    ("r", "open", 0, "d/b", "RDWR|CREAT", 0o644),
    ("r", "write", 0, 3, 100),
    ("fault", "stop server", 1),
    ("r", "rename", "d", "e"),
    ("r", "open", 1, "a", "RDWR", 0),
    ("r", "pread", 1, 100_000, 0),
    ("r", "unlink", "a"),
    ("r", "write", 1, 4, 100),
    ("r", "pread", 1, 100_000, 0),
    ("fault", "remount"),
    ("look", True),
    ("fault", "restore"),
    ("b", "list", "e"),
    ("b", "truncate", "e/b", 50),
    ("look", True),
    ("r", "stat", "e/b"),
]
"""One of each, and edits around them."""


def test_two_mounts_in_turn_do_what_a_plain_folder_does(world: World) -> None:
    counts = Counts()

    def differs(program: list[Step], difference: Difference) -> None:
        pytest.fail("\n".join([str(difference), *lines(program)]))

    drive(world, counts, STEPS, seed=1, hands=world.hands, faults=False, differs=differs)
    assert counts.steps >= STEPS
    assert counts.turns > 5


def test_nothing_is_different_when_servers_and_mounts_die_and_return(world: World) -> None:
    replay(world, WEATHER)
    assert {"kill server", "stop server", "kill mount", "remount", "forget", "both away"} <= world.faults.keys()


def test_in_the_end_both_servers_hold_what_the_plain_folder_holds(world: World) -> None:
    assert not world.differences_at_the_end()
