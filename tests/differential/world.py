"""A mount of a real cluster and a plain folder on the local disk, side by side: hands that make the same calls on both,
and what can happen to servers and mounts meanwhile.

Two mounts show the volume. Before a hand on the other mount makes a call, the first mount's programs save what
they have written, and the machine waits until that has arrived; so two mounts in turn look like one folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from gdah_drill.cluster import Cluster, Mount, Server
from gdah_drill.hands import abandon
from gdah_drill.waiting import wait_until
from tests.differential.compare import Answer, Snapshot, mounts, trees
from tests.differential.steps import HANDS, Step, Who
from tests.differential.worker import receive, send

DEADLINE_S = 90.0
FENCE_S = 30.0
ROOT = Who("A")
ONLY_HERE = 3
"""Exit code of a mount that could not hand over everything."""


Closed = dict[str, list[int] | None]
"""By hand: the slots that were closed; None: all."""


class Difference(AssertionError):
    """The mount did not do what the folder did."""


class Worker:
    """One process that makes calls in one of the folders."""

    def __init__(self, top: Path, who: Who, inside: str) -> None:
        groups = ",".join(map(str, who.groups))
        script = Path(__file__).with_name("worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", script, top, str(who.uid), str(who.gid), groups, inside],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def ask(self, step: Step) -> None:
        assert self._process.stdin is not None
        send(self._process.stdin.fileno(), step)

    def answer(self) -> Answer:
        assert self._process.stdout is not None
        try:
            found: Answer = receive(self._process.stdout.fileno(), time.monotonic() + DEADLINE_S)
        except TimeoutError:
            return "hangs", f"no answer within {DEADLINE_S:.0f} s"
        except EOFError:
            return "died", self._process.wait(5)
        return found

    def call(self, *step: Any) -> Any:
        """A call of the machine itself, which must succeed."""
        self.ask(step)
        kind, value = self.answer()
        if kind != "ok":
            raise Difference(f"{step!r} of the machine itself: {kind} {value}")
        return value

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        abandon(self._process)


class World:
    """Threading: one thread."""

    def __init__(self, folder: Path) -> None:
        self.plain = folder / "plain"
        self.plain.mkdir(parents=True)
        self.cluster = Cluster(folder / "cluster", servers=2)
        root = os.geteuid() == 0
        self.hands = [hand for hand in HANDS if root or HANDS[hand].uid == 0]
        self.options = ["--allow-other"] if root else []
        self.down: dict[Server, str] = {}
        self.faults: Counter[str] = Counter()
        self.programs = 0
        self.inside = ""
        self.current = "A"
        self._workers: dict[tuple[str, str], Worker] = {}
        """By side ("ours", "plain") and hand; those that look at everything are called by their mount."""
        self._fence = 10**15
        try:
            self.cluster.start_servers()
            self.mounts = {name: self.cluster.mount(name.lower(), None, *self.options) for name in ("A", "B")}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
        self.cluster.close()

    # --- workers

    def worker(self, side: str, hand: str) -> Worker:
        found = self._workers.get((side, hand))
        if found is None:
            who = HANDS.get(hand, ROOT)
            mount = HANDS[hand].mount if hand in HANDS else hand
            top = self.plain if side == "plain" else self.mounts[mount].root
            found = self._workers[side, hand] = Worker(top, who, self.inside if hand in HANDS else "")
        return found

    def hands_of(self, mount: str) -> list[str]:
        return [hand for hand in HANDS if HANDS[hand].mount == mount and ("ours", hand) in self._workers]

    def both(self, hand: str, *step: Any) -> tuple[Answer, Answer]:
        """The same call on both sides, at the same time."""
        pair = self.worker("ours", hand), self.worker("plain", hand)
        for worker in pair:
            worker.ask(step)
        answers = pair[0].answer(), pair[1].answer()
        for side, (kind, _) in zip(("ours", "plain"), answers, strict=True):
            if kind in ("hangs", "died"):
                self._workers.pop((side, hand)).close()
        return answers

    def both_alike(self, hand: str, *step: Any) -> Any:
        ours, plain = self.both(hand, *step)
        if ours != plain or ours[0] != "ok":
            raise Difference(f"{hand} {step!r} of the machine: {ours} on the mount, {plain} in the folder")
        return ours[1]

    # --- one program

    def begin(self) -> None:
        """A new folder for the next program, all servers and mounts there."""
        self.restore()
        for hand in [hand for hand in HANDS if ("ours", hand) in self._workers]:
            self.both(hand, "close_all")
        self.programs += 1
        self.inside = f"p{self.programs}"
        self.current = "A"
        self.worker("ours", "A").call("make", self.inside, 0o777)
        self.worker("plain", "A").call("make", self.inside, 0o777)
        self.fence("A", "B")
        for hand in [hand for hand in HANDS if ("ours", hand) in self._workers]:
            self.both_alike(hand, "begin", self.inside)

    def turn_to(self, mount: str) -> Closed:
        """From now on calls are made on `mount`; returns what was closed for that, by hand."""
        if mount == self.current:
            return {}
        closed: Closed = {hand: self.both_alike(hand, "hand_over", True) for hand in self.hands_of(self.current)}
        self.restore()
        self.fence(self.current, mount)
        self.current = mount
        for hand in self.hands_of(mount):
            closed[hand] = self.both_alike(hand, "look") + self._close_lost(hand)
        return closed

    def _close_lost(self, hand: str) -> list[int]:
        """Files whose last writes were not saved when the other mount removed them, see `compare.NOT_COMPARED`."""
        (_, ours), (_, plain) = self.both(hand, "nameless")
        lost = sorted(slot for slot in plain if ours.get(slot) != plain[slot])
        for slot in lost:
            self.faults["files removed with unsaved writes, which others had open"] += 1
            self.both(hand, "close", slot)
        return lost

    def prepare_burst(self, hands: list[str]) -> Closed:
        """A folder of its own for each, known to both mounts; nothing is open."""
        closed: Closed = {}
        for hand in hands:
            closed |= self.turn_to(HANDS[hand].mount)
            self.both(self.current, "folder", f"{self.inside}/burst-{hand}")
            self.both_alike(hand, "close_all")
            closed[hand] = None
        for mount in {HANDS[hand].mount for hand in hands} - {self.current}:
            closed |= self.turn_to(mount)
        return closed

    def all_at_once(self, parts: dict[str, list[Step]]) -> dict[str, tuple[list[Answer], list[Answer]]]:
        pairs = {hand: (self.worker("ours", hand), self.worker("plain", hand)) for hand in parts}
        for hand, pair in pairs.items():
            for worker in pair:
                worker.ask(("many", parts[hand]))
        found = {}
        for hand, (ours, plain) in pairs.items():
            answers = ours.answer(), plain.answer()
            if answers[0][0] != "ok" or answers[1][0] != "ok":
                raise Difference(f"at once, {hand}: {answers[0]} on the mount, {answers[1][0]} in the folder")
            found[hand] = answers[0][1], answers[1][1]
        return found

    def end_burst(self, hands: list[str]) -> Closed:
        for hand in hands:
            self.both_alike(hand, "close_all")
        if {HANDS[hand].mount for hand in hands} - {self.current}:
            self.fence("A", "B")
            self.fence("B", "A")
        return dict.fromkeys(hands)

    def fence(self, here: str, there: str) -> None:
        """What was done here has arrived there."""
        self._fence += 1
        self.worker("ours", here).call("touch", f"fence-{here}", self._fence)
        if not self.worker("ours", there).call("wait_for_time", f"fence-{here}", self._fence, FENCE_S):
            raise Difference(f"what {here} did has not arrived at {there} within {FENCE_S:.0f} s")

    def look(self, mount: str, content: bool) -> tuple[Snapshot, Snapshot]:
        """Everything in the folder of the program, on a mount and in the plain folder."""
        pair = self.worker("ours", mount), self.worker("plain", mount)
        for worker in pair:
            worker.ask(("snapshot", self.inside, content))
        (kind, ours), (plain_kind, plain) = pair[0].answer(), pair[1].answer()
        if kind != "ok" or plain_kind != "ok":
            raise Difference(f"looking at everything: {kind} {ours} on the mount, {plain_kind} in the folder")
        return ours, plain

    # --- what can happen

    def happen(self, kind: str, *args: Any) -> Closed:
        """A fault; returns what was closed by it, by hand."""
        self.faults[kind] += 1
        done = getattr(self, "_" + kind.replace(" ", "_"))(*args)
        return done or {}

    def _forget(self) -> None:
        """The kernel forgets names and inodes, with their pages, on the whole machine: nothing smaller lets it forget a
        name that nobody told it to forget."""
        with contextlib.suppress(PermissionError):
            Path("/proc/sys/vm/drop_caches").write_text("2")

    def _remount(self) -> Closed:
        closed = self._lose_hands()
        mount = self.mounts[self.current]
        code = mount.terminate()
        if code != 0 and not (code == ONLY_HERE and self.down):
            raise Difference(f"the mount ended with exit code {code}")
        mount.start(*self.options)
        return closed

    def _kill_mount(self) -> Closed:
        for hand in self.hands_of(self.current):
            self.both_alike(hand, "msync_all")
        mount = self.mounts[self.current]
        mount.kill9()
        closed = self._lose_hands()
        mount.unmount_lazily()
        mount.start(*self.options)
        return closed

    def _lose_hands(self) -> Closed:
        """The programs on the mount in use end, and so do those in the folder."""
        hands = self.hands_of(self.current)
        for hand in [*hands, self.current]:
            for side in ("ours", "plain"):
                worker = self._workers.pop((side, hand), None)
                if worker is not None:
                    worker.close()
        return dict.fromkeys(hands)

    def _kill_server(self, number: int) -> None:
        self._take_away(number, "killed")

    def _stop_server(self, number: int) -> None:
        self._take_away(number, "stopped")

    def _take_away(self, number: int, how: str) -> None:
        server = self.cluster.servers[number]
        if server in self.down:
            return
        if self.down:
            self.look(self.current, True)  # without any server only what is in the cache can be read
            self.faults["both away"] += 1
        (server.kill9 if how == "killed" else server.stop)()
        self.down[server] = how

    def _restore(self) -> None:
        self.restore()

    def restore(self) -> None:
        """All servers are there, and the mounts know it."""
        if not self.down:
            return
        for server, how in self.down.items():
            if how == "killed":
                server.start(wait=False)
            else:
                server.cont()
        for server in self.down:
            server.wait_ready()
        self.down.clear()
        self.cluster.wait_peers()
        for mount in self.mounts.values():
            wait_until(lambda mount=mount: mount.status()["connected"], f"{mount.name} is connected")  # type: ignore[misc]

    # --- the end

    def differences_at_the_end(self) -> list[str]:
        """Between the plain folder and what each server holds, seen through a mount of its own that has nothing yet."""
        self.restore()
        self.cluster.wait_settled()
        plain = self.worker("plain", "A").call("snapshot", "", True)
        found, seen = [], []
        for server in self.cluster.servers:
            name = f"only-{server.name}"
            mount = self.mounts[name] = Mount(self.cluster, name, [server])
            self.cluster.mounts.append(mount)
            mount.start(*self.options)
            ours = self.worker("ours", name).call("snapshot", "", True)
            found += [f"{name}: {line}" for line in trees(_of_programs(ours), _of_programs(plain))]
            seen.append(_of_programs(ours))
        return found + mounts(*seen)


def _of_programs(snapshot: Snapshot) -> Snapshot:
    return {path: value for path, value in snapshot.items() if re.match(r"p\d+(/|$)", path)}


def filesystem_of(folder: Path) -> str:
    """By the kernel's table, "ext4" for the comparison to mean something."""
    best, kind = "", "unknown"
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            _, at, found, *_ = line.split()
            if len(at) > len(best) and os.path.commonpath([at, folder.resolve()]) == at:
                best, kind = at, found
    return kind
