"""Locks between programs on two mounts, with servers and mounts that are killed and stopped."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gdah_drill.cluster import Cluster, Mount, Server
from gdah_drill.waiting import wait_until

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(180)]

SOON_S = 30.0


class Program:
    """One of tests/cluster/locking.py on a mount."""

    def __init__(self, mount: Mount, what: str, *args: object) -> None:
        script = Path(__file__).with_name("locking.py")
        argv = [sys.executable, "-I", "-S", str(script), what, str(mount.root), *map(str, args)]
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.said.extend(line.strip() for line in iter(self.process.stdout.readline, ""))

    def says(self, word: str) -> None:
        wait_until(lambda: word in self.said, f"the program says {word!r}", SOON_S, 0.01)

    def ends(self, within_s: float = 120) -> None:
        assert self.process.wait(within_s) == 0, self.process.stderr and self.process.stderr.read()
        self._reader.join(SOON_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SOON_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(SOON_S)
        self._reader.join(SOON_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


class World:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.a, self.b = cluster.start_servers()
        self.one = cluster.mount("one", [self.a, self.b])
        self.two = cluster.mount("two", [self.b, self.a])
        self._programs: list[Program] = []

    def run(self, mount: Mount, what: str, *args: object) -> Program:
        self._programs.append(Program(mount, what, *args))
        return self._programs[-1]

    def answer(self, mount: Mount, kind: str, name: str) -> str:
        program = self.run(mount, "try", kind, name)
        program.ends()
        return program.said[0]

    def end_programs(self) -> None:
        for program in self._programs:
            program.close()
        self._programs.clear()

    def sequencer(self) -> Server:
        name = self.a.volume()["sequencer"]
        return next(server for server in (self.a, self.b) if server.status()["server"] == name)

    def settle(self) -> None:
        """Servers joined, and seen by all mounts."""

        def settled() -> bool:
            peers = [peer["state"] for server in (self.a, self.b) for peer in server.volume()["peers"]]
            mounts = [mount for mount in (self.one, self.two) if mount.process.running]
            seen = [server["healthy"] for mount in mounts for server in mount.status()["servers"]]
            return all(state == "joined" for state in peers) and all(seen)

        wait_until(settled, "everybody sees everybody", 60)


@pytest.fixture(scope="module")
def module_world(tmp_path_factory: pytest.TempPathFactory, fuse: None) -> Iterator[World]:
    with Cluster(tmp_path_factory.mktemp("locks")) as cluster:
        yield World(cluster)


@pytest.fixture
def world(module_world: World) -> Iterator[World]:
    module_world.settle()
    yield module_world
    module_world.end_programs()


def one_after_the_other(waiters: list[Program]) -> None:
    """Each of them gets the lock, and holds it alone until it is killed."""
    while waiters:
        wait_until(lambda: any("got it" in each.said for each in waiters), "one gets it", SOON_S)
        time.sleep(0.1)
        got = [each for each in waiters if "got it" in each.said]
        assert len(got) == 1
        waiters.remove(got[0])
        got[0].kill()


def no_conflict_copies(world: World) -> None:
    assert [name for name in world.one.hands.listdir() if "(conflict" in name] == []


@pytest.mark.parametrize("kind", ["posix", "flock"])
def test_a_lock_excludes_programs_on_every_mount(world: World, kind: str) -> None:
    """flock and fcntl locks hold on every mount while the servers are connected."""
    name = f"exclusive-{kind}"
    holder = world.run(world.one, "hold", kind, name)
    holder.says("held")
    assert world.answer(world.two, kind, name) == "taken"
    assert world.answer(world.one, kind, name) == "taken"
    waiters = [world.run(mount, "wait", kind, name) for mount in (world.one, world.two, world.two)]
    for waiter in waiters:
        waiter.says("waits")
    holder.kill()
    one_after_the_other(waiters)
    assert world.answer(world.two, kind, name) == "free"


def test_a_waiting_program_can_be_interrupted_and_killed(world: World) -> None:
    holder = world.run(world.one, "hold", "flock", "patience")
    holder.says("held")
    for number in (signal.SIGINT, signal.SIGKILL):
        waiter = world.run(world.two, "wait", "flock", "patience")
        waiter.says("waits")
        time.sleep(0.3)
        waiter.process.send_signal(number)
        waiter.process.wait(SOON_S)
        assert waiter.said == ["waits"]
    holder.kill()
    assert world.answer(world.two, "flock", "patience") == "free"


def test_counting_and_appending_under_locks_loses_nothing(world: World) -> None:
    """What was written under a lock is seen by the next one who gets the lock, on any mount."""
    programs = [world.run(mount, "counter", 12, "posix") for mount in (world.one, world.two, world.two)]
    programs += [world.run(mount, "append", 12, mount.name) for mount in (world.one, world.two)]
    for program in programs:
        program.ends()
    wait_until(lambda: world.one.hands.read("count") == b"36" == world.two.hands.read("count"), "36 were counted", 15)
    lines = world.two.hands.read("lines").decode().splitlines()
    assert sorted(lines) == sorted(f"{name} {number}" for name in ("one", "two") for number in range(12))
    no_conflict_copies(world)


def test_a_database_on_two_mounts(world: World) -> None:
    """An SQLite database in rollback-journal mode can be used on several mounts at once."""
    base = sqlite3.connect(world.one.root / "base.db")
    base.executescript(
        "CREATE TABLE counter (number); INSERT INTO counter VALUES (0); CREATE TABLE made (name, number)"
    )
    base.close()
    wait_until(lambda: world.two.hands.exists("base.db"), "it is seen", 15)
    programs = [world.run(mount, "sqlite", 5, mount.name) for mount in (world.one, world.two)]
    for program in programs:
        program.ends()
    for mount in (world.one, world.two):
        base = sqlite3.connect(mount.root / "base.db")
        assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert base.execute("SELECT number FROM counter").fetchall() == [(10,)]
        assert base.execute("SELECT count(DISTINCT name || number) FROM made").fetchall() == [(10,)]
        base.close()
    no_conflict_copies(world)


@pytest.mark.parametrize("how", ["kill9", "stop"])
def test_locks_survive_the_sequencer(world: World, how: str) -> None:
    """A lock is not given away because a server is killed or stopped: who waits for it goes on waiting, and gets it."""
    name = f"survives-{how}"
    holder = world.run(world.one, "hold", "posix", name)
    holder.says("held")
    waiters = [world.run(world.two, "wait", "posix", name), world.run(world.one, "wait", "posix", name)]
    for waiter in waiters:
        waiter.says("waits")
    time.sleep(0.3)
    sequencer = world.sequencer()
    getattr(sequencer, how)()
    for mount in (world.one, world.two, world.two):
        assert world.answer(mount, "posix", name) == "taken"
    holder.kill()
    one_after_the_other(waiters)
    if how == "stop":
        sequencer.cont()
    else:
        sequencer.start()
    world.settle()
    assert world.answer(world.two, "posix", name) == "free"


def test_a_mount_that_is_killed_loses_its_locks(world: World) -> None:
    """The locks of a mount that dies are gone about 2 s later."""
    holder = world.run(world.one, "hold", "flock", "orphaned")
    holder.says("held")
    waiter = world.run(world.two, "wait", "flock", "orphaned")
    waiter.says("waits")
    time.sleep(0.3)
    assert waiter.said == ["waits"]
    world.one.kill9()
    waiter.says("got it")
    holder.kill()
    world.one.unmount_lazily()
    world.one.start()
    assert world.answer(world.one, "flock", "orphaned") == "taken"
    figures = world.two.status()["locks"]
    assert (figures["held"], figures["conflicts"]) == (1, 0)


def test_without_servers_locks_go_on_and_are_claimed_when_they_return(world: World) -> None:
    """Without servers locks work between the programs of one mount. Locks that two sides of a cut took are both kept
    when they meet, and counted as `locks.conflicts` in the status.
    """
    names = ("cut-held", "cut-free")
    for name in names:
        world.one.hands.write(name, b"")
        wait_until(lambda name=name: world.two.hands.exists(name), "it is seen", 15)  # type: ignore[misc]
    for server in (world.a, world.b):
        server.stop()
    held = [world.run(mount, "hold", "flock", "cut-held") for mount in (world.one, world.two)]
    for each in held:
        each.says("held")
    assert world.answer(world.one, "flock", "cut-held") == "taken"
    assert world.answer(world.one, "flock", "cut-free") == "free"
    for server in (world.a, world.b):
        server.cont()
    world.settle()
    wait_until(lambda: world.sequencer().volume()["locks"]["conflicts"] == 1, "both are known", SOON_S)
    wait_until(lambda: world.one.status()["locks"]["conflicts"] == 1, "the mounts say so", SOON_S)
    held[0].kill()
    assert world.answer(world.one, "flock", "cut-held") == "taken"
    held[1].kill()
    assert world.answer(world.one, "flock", "cut-held") == "free"
    wait_until(lambda: world.sequencer().volume()["locks"]["conflicts"] == 0, "no conflict is left", SOON_S)
