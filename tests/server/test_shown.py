"""Who waits for whom to show what; with a clock of its own."""

from __future__ import annotations

import pytest

from storage_server.ports import Watcher
from storage_server.shown import FORGIVEN_S, LIMIT_S, RETRY_S, Shown


class World:
    def __init__(self, *positions: int) -> None:
        self.it = Shown()
        self.mounts = [Watcher() for _ in positions]
        self.done: list[str] = []
        for mount, position in zip(self.mounts, positions, strict=True):
            self.it.add(mount)
            self.it.told(mount, position, position, 0.0)

    def wait(self, name: str, position: int, by: Watcher | None = None, now: float = 0.0) -> None:
        self.it.wait(self.it.lacking(position, by), lambda: self.done.append(name), now)


def test_nobody_waits_when_all_show_it() -> None:
    world = World(5, 7)
    world.wait("a", 5)
    assert world.done == ["a"]
    assert world.it.due is None


def test_an_acknowledgement_waits_for_the_last_who_shows_it() -> None:
    world = World(5, 5, 5)
    world.wait("a", 6, by=world.mounts[0])
    world.it.told(world.mounts[1], 6, 6, 0.01)
    assert world.done == []
    world.it.told(world.mounts[2], 7, 7, 0.01)
    assert world.done == ["a"]


def test_its_author_shows_it_already() -> None:
    world = World(5)
    world.wait("a", 6, by=world.mounts[0])
    assert world.done == ["a"]


def test_who_is_late_is_left_out_until_it_is_back_and_counted() -> None:
    world = World(5)
    world.wait("a", 6)
    assert world.it.due == LIMIT_S
    world.it.tick(LIMIT_S - 0.01)
    assert world.done == []
    world.it.tick(LIMIT_S)
    assert world.done == ["a"]
    assert world.it.late == world.it.passed_by == 1
    world.wait("b", 7, now=0.2)
    world.it.pass_by(7)
    assert world.done == ["a", "b"]  # not waited for again
    assert world.it.passed_by == 2
    world.it.told(world.mounts[0], 7, 7, 0.3)
    world.wait("c", 8, now=0.3)
    assert world.done == ["a", "b"]
    world.it.told(world.mounts[0], 8, 8, 0.35)
    assert world.done == ["a", "b", "c"]
    assert (world.it.late, world.it.passed_by) == (1, 2)


def be_late(world: World, now: float) -> None:
    position = world.mounts[0].position + 1
    world.wait("late", position, now=now - LIMIT_S)
    world.it.tick(now)
    world.it.told(world.mounts[0], position, position, now)


def test_who_is_late_again_and_again_is_left_out_for_longer() -> None:
    world = World(5)
    mount, now, pauses = world.mounts[0], 1.0, []
    for _ in range(7):
        be_late(world, now)
        before = now
        while not mount.prompt:
            now += 1 / 16
            world.it.told(mount, mount.position, mount.position, now)
        pauses.append(now - before)
        now += LIMIT_S
    assert pauses == pytest.approx([0, RETRY_S / 8, RETRY_S / 4, RETRY_S / 2, RETRY_S, RETRY_S, RETRY_S])
    be_late(world, now + FORGIVEN_S)
    assert mount.prompt


def test_one_that_is_far_behind_is_not_waited_for() -> None:
    world = World()
    mount = Watcher()
    world.it.add(mount)
    world.it.told(mount, 10, 1000, 0.0)
    world.wait("a", 1001)
    assert world.done == ["a"]


def test_who_goes_is_not_waited_for() -> None:
    world = World(5)
    world.wait("a", 6)
    world.it.remove(world.mounts[0])
    assert world.done == ["a"]
    assert world.it.late == 0


def test_a_call_back_may_ask_again() -> None:
    """An answer that is sent may bring the next operation at once."""
    world = World(5)
    world.it.wait(world.it.lacking(6), lambda: world.wait("next", 7), 0.0)
    world.it.told(world.mounts[0], 6, 6, 0.0)
    assert world.done == []
    world.it.told(world.mounts[0], 7, 7, 0.0)
    assert world.done == ["next"]
