"""A drill from start to end: cluster, load, faults, healing, rest, what is there in the end, what the checker says.

Only the order is decided here. Everything is put into one fresh folder.

Threading: a thread for each worker, those of the scenes, one that looks for processes that ended by themselves; `run`
belongs to the caller's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gdah_drill import history as words
from gdah_drill import worker_hands
from gdah_drill.checker import check
from gdah_drill.cluster import VOLUME, Mount
from gdah_drill.collecting import collect, tracebacks
from gdah_drill.environment import Environment
from gdah_drill.faults import start_again
from gdah_drill.final import FinalState, Finding
from gdah_drill.generator import Profile, Worker
from gdah_drill.hands import DEADLINE_S, Hands
from gdah_drill.healed import Healed
from gdah_drill.history import History, Steadiness
from gdah_drill.nemesis import Nemesis
from gdah_drill.scenes import Layout, Scene, plan
from gdah_drill.unreadable import check_readable, look
from gdah_drill.waiting import NOT_YET, wait_until

REST_S = 180.0
LOOK_EVERY_S = 0.3
SCRUB_S = 120.0
OPERATIONS_PER_S = 10
"""A drill with fewer operations in a second proves little."""


@dataclass(frozen=True)
class Settings:
    home: Path
    """A folder that is empty or not there."""
    seed: int
    seconds: float = 60.0
    servers: int = 2
    mounts: int = 2
    workers: int = 10
    """In all, spread over the mounts."""
    kinds: frozenset[str] = frozenset(words.FAULTS)
    disks: bool = True
    sabotage: str | None = None
    profile: Profile = field(default_factory=Profile)
    steps_per_s: float = 25.0
    """Of one worker at most: on a small machine the load leaves room for healing, which is what is watched."""
    scenes: tuple[Scene, ...] | None = None
    """Instead of those drawn from the seed."""


@dataclass(frozen=True)
class Result:
    settings: Settings
    history: History
    final: FinalState
    findings: list[Finding]
    scenes: list[Scene]
    took_s: float
    healed: dict[str, int]
    """As of `healed.Healed.sums`."""


class DoorHands(Hands):
    """Hands that go in by the door of a mount; where it is shut, the mount is gone (ENOTCONN), as after its death."""

    def call(self, name: str, *args: Any, deadline_s: float = DEADLINE_S) -> Any:
        try:
            return super().call(name, *args, deadline_s=deadline_s)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)) from None
            raise


class Drill:
    def __init__(self, settings: Settings, say: Callable[[str], None] = lambda _line: None) -> None:
        self.settings = settings
        self._say = say
        settings.home.mkdir(parents=True, exist_ok=True)
        self.history = History(settings.home / "history.jsonl")
        self.env = Environment(
            settings.home, settings.servers, settings.mounts, disks=self._disks(), sabotage=settings.sabotage
        )
        self.healed = Healed(self.env)
        self.scenes: list[Scene] = []
        self._load_over = threading.Event()
        self._finish = threading.Event()
        self._over = threading.Event()

    def _disks(self) -> list[str]:
        """One server and one mount of this seed get disks that fail, if a fault wants them."""
        wanted = self.settings.kinds & {words.FULL, words.IO_ERROR, words.FSYNC_ERROR, words.POWER}
        if not wanted or not self.settings.disks:
            return []
        chance = random.Random(self.settings.seed)
        names = [f"server-{chr(ord('a') + index)}" for index in range(self.settings.servers)]
        return [chance.choice(names), chance.choice(("one", "two"))]

    # --- the order

    def run(self) -> Result:
        began = time.monotonic()
        settings, env = self.settings, self.env
        steadiness = Steadiness(self.history)
        try:
            self._say(f"seed {settings.seed}: starting {settings.servers} servers and {settings.mounts} mounts")
            env.start()
            self.healed.start()
            self.scenes = list(settings.scenes) if settings.scenes is not None else self._plan()
            self.history.mark(words.STARTED, seed=settings.seed, scenes=[scene.name for scene in self.scenes])
            workers = self._start_workers()
            looking = threading.Thread(target=self._look_for_the_dead, name="looking", daemon=True)
            looking.start()
            self._say(f"{len(workers)} workers, {len(self.scenes)} scenes of faults in {settings.seconds:.0f} s")
            Nemesis(env, self.history).play(self.scenes, settings.seconds)
            self._heal()
            self._load_over.set()
            self._finish_workers(workers)
            not_quiet = self._rest()
            self.healed.look()
            self._over.set()
            looking.join()
            self._say("looking at what is there")
            final = self._collect(not_quiet)
            findings = [*check(self.history, final), *check_readable(final)]
        finally:
            self._over.set()
            self._load_over.set()
            steadiness.close()
            self.healed.close()
            self.history.close()
            env.close()
        took_s = time.monotonic() - began
        return Result(settings, self.history, final, findings, self.scenes, took_s, self.healed.sums())

    def _plan(self) -> list[Scene]:
        env, settings = self.env, self.settings
        kinds = settings.kinds
        if env.no_disks:
            self._say(f"NOT DONE: faults of disks, as none can be mounted here: {env.no_disks}")
        layout = Layout(
            servers=[server.name for server in env.servers],
            mounts=[mount.name for mount in env.mounts],
            kinds=kinds,
            disks=frozenset(env.disks),
            can_retire=env.offers("retire"),
            can_scrub=env.offers("scrub"),
        )
        return plan(settings.seed, settings.seconds, layout)

    # --- load

    def _start_workers(self) -> list[threading.Thread]:
        settings = self.settings
        locks = {mount.name: threading.Lock() for mount in self.env.mounts}
        threads = []
        for number in range(settings.workers):
            mount = self.env.mounts[number % len(self.env.mounts)]
            worker = Worker(
                f"w{number}",
                mount.name,
                lambda mount=mount: DoorHands(self.env.door(mount), worker_hands.__file__),  # type: ignore[misc]
                settings.seed * 1000 + number,
                self.history,
                serves=lambda mount=mount: self._serves(mount),  # type: ignore[misc]
                lock=locks[mount.name],
                profile=settings.profile,
            )
            thread = threading.Thread(target=self._work, args=(worker,), name=worker.name, daemon=True)
            thread.start()
            threads.append(thread)
        return threads

    def _work(self, worker: Worker) -> None:
        try:
            while not self._load_over.is_set():
                due = time.monotonic() + 1 / self.settings.steps_per_s
                worker.step()
                self._load_over.wait(max(0.0, due - time.monotonic()))
            self._finish.wait()
            worker.finish()
        except Exception as error:
            if not self._over.is_set():
                self.env.troubles.append(f"worker {worker.name} of the drill failed: {error!r}")
                raise

    def _serves(self, mount: Mount) -> bool:
        while not self._over.is_set():
            with contextlib.suppress(httpx.HTTPError):
                if mount.process.running and mount.is_mounted() and mount.get("/healthz").status_code == 200:
                    return True
            time.sleep(0.05)
        return False

    def _finish_workers(self, threads: list[threading.Thread]) -> None:
        self.history.mark(words.LOAD_ENDED)
        self._finish.set()
        until = time.monotonic() + REST_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                self.env.troubles.append(f"worker {thread.name} did not end within {REST_S:.0f} s of the load's end")

    def _look_for_the_dead(self) -> None:
        """A process that ends while no fault works on it is a finding; it is started again."""
        while not self._over.wait(LOOK_EVERY_S):
            for node in self.env.nodes:
                lock = self.env.locks[node.name]
                if node.process.running or not lock.acquire(blocking=False):
                    continue
                try:
                    if not node.process.running and node in self.env.nodes and not self._over.is_set():
                        tail = node.process.log_tail(15)
                        self.env.troubles.append(f"{node.name} ended ({node.process.returncode}) by itself: {tail}")
                        start_again(self.env, node)
                finally:
                    lock.release()

    # --- the end

    def _heal(self) -> None:
        for proxy in self.env.cluster.proxies:
            proxy.heal()
        for disk in self.env.disks.values():
            disk.heal()
        for node in self.env.nodes:
            if not node.process.running:
                start_again(self.env, node)
        self.history.mark(words.HEALED)

    def _rest(self) -> str:
        """Why it does not come to rest; empty: it did."""
        began = time.monotonic()
        try:
            wait_until(self._quiet, "nothing is pending and all servers say the same", REST_S, every_s=0.2)
        except NOT_YET as error:
            return f"{error}\n{self.env.cluster.report()}"[:20_000]
        self.history.mark(words.QUIET, took_s=round(time.monotonic() - began, 2))
        if self.env.offers("scrub"):
            for server in self.env.servers:
                self.env.cluster.http.post(f"{server.url}/v1/volumes/{VOLUME}/scrub", timeout=SCRUB_S)
        return ""

    def _quiet(self) -> bool:
        servers = self.env.servers
        copies = f"{len(servers)}/{len(servers)}"
        for mount in self.env.mounts:
            status = mount.status()
            pending = status["pending"]
            assert pending["operations"] == 0, f"{mount.name}: {pending}"
            assert status["unsaved_files"] == 0, f"{mount.name}: {status['unsaved_files']} files are not saved yet"
            assert status["copies"] == copies, f"{mount.name}: copies {status['copies']}"
        assert self.env.servers_agree()
        digests = {server.name: server.volume()["digest"] for server in servers}
        assert len(set(digests.values())) == 1, digests
        return True

    def _collect(self, not_quiet: str) -> FinalState:
        planned = Counter(step.kind for scene in self.scenes for step in scene.steps)
        planned["operations"] = int(OPERATIONS_PER_S * self.settings.seconds)
        troubles = "\n".join([*self.env.troubles, not_quiet]).strip()
        unreadable = look(self.env)
        if not_quiet:
            return FinalState(
                servers=[],
                mounts=[],
                tracebacks=tracebacks(self.env),
                planned=planned,
                unreadable=unreadable,
                not_quiet=troubles,
            )
        return collect(self.env, planned=planned, unreadable=unreadable, not_quiet=troubles)
