"""What a mount calls `2/2` survives the loss of either server's data folder, in the middle of work. A command;
`test_copies.py` plays some rounds.

    python -m tests.cluster.copies [--rounds 200] [--seed 1]

In each round two programs write through a new mount: small files, which travel inside their operations, and larger
ones, whose chunks travel apart. At some moment the mount says `2/2`: all calls that had returned when it was asked are
CLAIMED. At that moment, work still going on, one server and the mount are killed with -9 and the server's data folder
is deleted (the mount may not help: what it still has must not be needed). Then each claimed file must be there, byte
for byte, for a mount with an empty cache that knows one server only:

    alone      the server that is left
    replaced   an empty server in the place of the deleted one, as soon as it is said to have all; the other is stopped
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gdah_drill.cluster import Cluster, Mount, Server
from gdah_drill.hands import Stuck
from gdah_drill.waiting import NOT_YET, wait_until

Kind = Literal["alone", "replaced"]
Tree = dict[str, bytes]
KINDS: tuple[Kind, ...] = ("alone", "replaced")
CLUSTER_ROUNDS = 20
"""A new cluster after so many, so that each round takes as long as the first."""
READ_S = 20.0


@dataclass(frozen=True, slots=True)
class Step:
    """One call, and what each path holds after it (None: nothing)."""

    changes: dict[str, bytes | None]


class Program:
    """Writes in a folder of its own, one call after another, until it is told to stop or its mount is gone.

    Threading: a thread of its own. `begun` grows before a call, `done` after it has returned."""

    def __init__(self, mount: Mount, folder: str, seed: int, *, large: bool) -> None:
        self.begun: list[Step] = []
        self.done = 0
        self.fault: Exception | None = None
        self._hands = mount.more_hands()
        self._folder = folder
        self._large = large
        self._random = random.Random(seed)
        self._now: Tree = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Soon: a call that is under way goes on."""
        self._over.set()

    def finish(self) -> None:
        self.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._hands.close()
        if self.fault is not None:
            raise self.fault

    def _run(self) -> None:
        try:
            self._hands.makedirs(self._folder)
            while not self._over.is_set():
                self._step()
        except Stuck as error:
            self.fault = error
        except OSError as error:
            if not self._over.is_set():
                self.fault = error

    def _step(self) -> None:
        draw = self._random
        kind = draw.choice(
            ("new", "new", "again", "move") if self._large else ("new",) * 6 + ("again", "move", "remove")
        )
        if not self._now:
            kind = "new"
        old = draw.choice(sorted(self._now)) if self._now else ""
        new = f"{self._folder}/{len(self.begun)}"
        if kind in ("new", "again"):
            path, data = (new if kind == "new" else old), self._content()
            self._call({path: data}, "write", path, data)
        elif kind == "move":
            self._call({old: None, new: self._now[old]}, "rename", old, new)
        else:
            self._call({old: None}, "unlink", old)

    def _content(self) -> bytes:
        size = self._random.choice((70_000, 200_000, 1_200_000)) if self._large else self._random.randint(1, 3000)
        return self._random.randbytes(size)

    def _call(self, changes: dict[str, bytes | None], name: str, *args: str | bytes) -> None:
        self.begun.append(Step(changes))
        self._hands.call(name, *args)
        _apply(self._now, changes)
        self.done += 1


@dataclass(frozen=True, slots=True)
class Claim:
    """Of one program: its first `count` calls are said to be on both servers; of the others any part may be."""

    steps: list[Step]
    count: int

    def findings(self, tree: Tree) -> list[str]:
        may: dict[str, list[bytes | None]] = {}
        sure: Tree = {}
        for step in self.steps[: self.count]:
            _apply(sure, step.changes)
        for step in self.steps[self.count :]:
            for path, data in step.changes.items():
                may.setdefault(path, [sure.get(path)]).append(data)
                if data is not None:
                    may[path].append(b"")  # made, and not yet written
        wrong = []
        for path in {path for step in self.steps for path in step.changes}:
            there, good = tree.get(path), may.get(path, [sure.get(path)])
            if there not in good:
                sizes = [None if data is None else len(data) for data in good]
                wrong.append(f"{path}: {None if there is None else len(there)} bytes, expected of {sizes}")
        return wrong


@dataclass(slots=True)
class Result:
    rounds: int = 0
    calls: int = 0
    claimed: int = 0
    claimed_large: int = 0
    findings: list[str] = field(default_factory=list)

    def words(self) -> str:
        return (
            f"{self.rounds} rounds; {self.calls} calls, {self.claimed} of them claimed ({self.claimed_large} with large"
            f" content); {len(self.findings)} lost"
        )


class Rounds:
    """One cluster, and what must be in it from earlier rounds."""

    def __init__(self, cluster: Cluster, seed: int, result: Result) -> None:
        self.cluster = cluster
        self.result = result
        self._random = random.Random(seed)
        self._kept: Tree = {}
        self._count = 0

    def play(self, kind: Kind, victim: Server) -> None:
        (other,) = [server for server in self.cluster.servers if server is not victim]
        self._count += 1
        mount = self.cluster.mount(f"writer-{self._count}")
        seed = self._random.randrange(1 << 32)
        programs = [Program(mount, f"{self._count}-{size}", seed, large=size == "large") for size in ("small", "large")]
        self._wait_for_work(programs, self._random.randint(8, 60))
        counts = said_everywhere(mount, programs)
        victim.kill9()
        victim.wipe()
        self._end(mount, programs)
        claims = [Claim(program.begun, count) for program, count in zip(programs, counts, strict=True)]
        if kind == "replaced":
            victim.start()
            self.cluster.wait_equal()
            other.process.terminate()
            self._read(victim, claims)
            other.start()
        else:
            self._read(other, claims)
            victim.start()
        self.cluster.wait_peers()
        self.cluster.wait_equal()
        self.result.rounds += 1
        self.result.calls += sum(program.done for program in programs)
        self.result.claimed += sum(claim.count for claim in claims)
        self.result.claimed_large += claims[1].count

    def _wait_for_work(self, programs: list[Program], calls: int) -> None:
        def enough() -> bool:
            for program in programs:
                if program.fault is not None:
                    program.finish()
            return sum(program.done for program in programs) >= calls and all(program.done for program in programs)

        wait_until(enough, "the programs have worked", 60.0, every_s=0.01)

    def _end(self, mount: Mount, programs: list[Program]) -> None:
        for program in programs:
            program.stop()
        mount.kill9()
        for program in programs:
            program.finish()
        self._forget(mount)

    def _forget(self, mount: Mount) -> None:
        mount.unmount_lazily()
        self.cluster.mounts.remove(mount)

    def _read(self, server: Server, claims: list[Claim]) -> None:
        """From that server alone, with an empty cache, until nothing is missing, or time is over."""
        reader = self.cluster.mount(f"reader-{self._count}", [server])
        tree: Tree = {}

        def findings() -> list[str]:
            found = reader.hands.tree()
            tree.clear()
            tree.update((path, data) for path, data in found.items() if isinstance(data, bytes))
            kept = [
                f"{path}: changed after it was checked" for path, data in self._kept.items() if tree.get(path) != data
            ]
            return kept + [finding for claim in claims for finding in claim.findings(tree)]

        deadline = time.monotonic() + READ_S
        while True:
            try:
                found = findings()
            except NOT_YET as error:
                found = [f"cannot be read: {error!r}"]
            if not found or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        where = f"cluster {self.cluster.folder.name}, round {self._count}, read from {server.name}: "
        self.result.findings += [where + finding for finding in found]
        self._kept = dict(tree)
        assert reader.terminate() == 0
        self._forget(reader)


def _apply(tree: Tree, changes: dict[str, bytes | None]) -> None:
    for path, data in changes.items():
        if data is None:
            tree.pop(path, None)
        else:
            tree[path] = data


def said_everywhere(mount: Mount, programs: list[Program]) -> list[int]:
    """How many calls of each program had returned when the mount was asked and said `2/2`."""

    def said() -> list[int] | None:
        counts = [program.done for program in programs]
        return counts if mount.status()["copies"] == "2/2" else None

    return wait_until(said, "the mount says 2/2", 60.0, every_s=0.01)


def play(folder: Path, rounds: int, seed: int, result: Result, kinds: Sequence[Kind] = KINDS) -> None:
    """So many rounds on one cluster: each kind with either server."""
    with Cluster(folder) as cluster:
        cluster.start_servers()
        game = Rounds(cluster, seed, result)
        for number in range(rounds):
            game.play(kinds[number // 2 % len(kinds)], cluster.servers[number % 2])
            if result.findings:
                return


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.copies", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind of round")
    args = parser.parse_args(argv)
    result = Result()
    began = time.monotonic()
    while result.rounds < args.rounds and not result.findings:
        with tempfile.TemporaryDirectory(prefix="gdah-copies-") as folder:
            more = min(CLUSTER_ROUNDS, args.rounds - result.rounds)
            play(Path(folder), more, args.seed + result.rounds, result, args.kind or KINDS)
        print(f"{time.monotonic() - began:.0f} s: {result.words()}", flush=True)
    for finding in result.findings[:20]:
        print(f"LOST {finding}")
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(main())
