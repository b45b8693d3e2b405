"""The plan of a drill: the same for the same seed, every fault in it, and never more destroyed than is promised."""

from __future__ import annotations

import itertools

import pytest

from gdah_drill import history as words
from gdah_drill.nemesis import KINDS
from gdah_drill.scenes import Layout, plan

LAYOUT = Layout(
    servers=["server-a", "server-b"],
    mounts=["one", "two", "three"],
    disks=frozenset({"server-b", "two"}),
    can_retire=True,
    can_scrub=True,
)
LOSSES = {words.POWER, words.OLD_COPY, words.LOST_FOLDER, words.ROT, words.FULL, words.IO_ERROR, words.FSYNC_ERROR}


def test_the_same_seed_is_the_same_drill() -> None:
    assert plan(7, 100, LAYOUT) == plan(7, 100, LAYOUT)
    assert plan(7, 100, LAYOUT) != plan(8, 100, LAYOUT)


def test_every_fault_that_there_is_a_word_for_comes() -> None:
    steps = [step for scene in plan(1, 400, LAYOUT) for step in scene.steps]
    assert {step.kind for step in steps} == set(words.FAULTS) == set(KINDS)


@pytest.mark.parametrize("seed", range(20))
def test_one_server_and_one_mount_of_a_drill_may_lose_data(seed: int) -> None:
    steps = [step for scene in plan(seed, 300, LAYOUT) for step in scene.steps if step.kind in LOSSES]
    assert {step.target for step in steps if step.target in LAYOUT.servers} <= {"server-b"}
    assert {step.target for step in steps if step.kind == words.POWER} <= {"server-b", "two"}


def test_only_what_is_wanted_and_possible_comes() -> None:
    plain = Layout(servers=["server-a", "server-b"], mounts=["one"], kinds=frozenset({words.KILL, words.FULL}))
    kinds = {step.kind for scene in plan(3, 60, plain) for step in scene.steps}
    assert kinds == {words.KILL}
    nothing = Layout(servers=["server-a", "server-b"], mounts=["one"], kinds=frozenset({words.FULL}))
    assert plan(3, 60, nothing) == []


def test_scenes_come_in_order_and_some_of_them_meet() -> None:
    scenes = plan(5, 200, LAYOUT)
    starts = [scene.at_s for scene in scenes]
    assert starts == sorted(starts)
    assert starts[-1] < 200
    assert any(one.at_s + one.lasts_s > two.at_s for one, two in itertools.pairwise(scenes))
