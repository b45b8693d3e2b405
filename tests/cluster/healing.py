"""Two servers that were apart, with many operations on each side, meet again: how long until they agree, and how long
did a program have to wait meanwhile? A command; `test_healing.py` uses its parts.

    python -m tests.cluster.healing [--operations 20000] [--seed 1] [--profile FOLDER]

Each server has a mount of its own side of the cut. The operations go through the lane of each server (`side_load`) to
files of each side; on each mount a program makes small calls all the time (`small_calls`). With --profile, py-spy (if
it is installed) records each process during the healing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gdah_drill.cluster import Cluster, Mount, Server
from gdah_drill.waiting import wait_until
from tests.cluster import small_calls
from tests.cluster.side_load import SideLoad

AGREE_LIMIT_S = 600.0


class SmallCalls:
    """The program of `small_calls`, running on a mount."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        mount.hands.mkdir(f"calls-{mount.name}")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", small_calls.__file__, str(mount.root / f"calls-{mount.name}")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.calls: list[tuple[float, str, float]] = []
        self.errors: list[str] = []

    def finish(self) -> None:
        """Raises subprocess.TimeoutExpired if a call hangs."""
        try:
            out, _ = self._process.communicate(b"end", timeout=60)
        finally:
            self._process.kill()
        said = json.loads(out)
        self.calls = [(at, name, took) for at, name, took in said["calls"]]
        self.errors = said["errors"]

    def longest(self, since: float, until: float, count: int = 5) -> list[tuple[float, str, float]]:
        """(seconds after `since`, call, seconds) of the longest ones in a period."""
        found = [(at - since, name, took) for at, name, took in self.calls if at + took > since and at < until]
        return sorted(found, key=lambda each: -each[2])[:count]


def agree(servers: list[Server]) -> bool:
    """Equal digests, each has joined the other, and nothing is lacking."""
    volumes = [server.volume() for server in servers]
    joined = all(peer["state"] == "joined" for volume in volumes for peer in volume["peers"])
    return joined and len({volume["digest"] for volume in volumes}) == 1


def load_both(cluster: Cluster, operations: int, seed: int) -> list[SideLoad]:
    """So many operations on each side, at the same time."""
    loads = [SideLoad(server.url, server.name, seed + n) for n, server in enumerate(cluster.servers)]
    with ThreadPoolExecutor(len(loads)) as pool:
        for done in [pool.submit(load.run, operations) for load in loads]:
            done.result()
    for load in loads:
        load.close()
    return loads


@contextmanager
def profiled(cluster: Cluster, folder: Path | None) -> Iterator[None]:
    """py-spy beside each process; its files are in the folder at the end."""
    with ExitStack() as stack:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for node in (*cluster.servers, *cluster.mounts):
                argv = [str(Path(sys.executable).with_name("py-spy")), "record", "--nonblocking", "-r", "50"]
                argv += ["-d", "60", "-t", "-f", "raw"]
                argv += ["-o", str(folder / f"{node.name}.txt"), "-p", str(node.process.pid)]
                spy = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
                stack.callback(spy.send_signal, 2)
        yield


def heal_and_time(cluster: Cluster) -> tuple[float, float]:
    """(when the cables were joined, when both servers agreed), by time.monotonic()."""
    began = time.monotonic()
    cluster.heal()
    wait_until(lambda: agree(cluster.servers), "the servers agree", AGREE_LIMIT_S)
    return began, time.monotonic()


def story_of(server: Server, path: str) -> list[str]:
    """A file that should not be there, and what the log says of its name."""
    name = path.rpartition("/")[2]
    number = name.rpartition("-")[2]
    found = []
    for file in server.data.glob("volumes/*/volume.db"):
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            folder = path.rpartition("/")[0]
            rows = database.execute(
                "SELECT position, clock, server, operation FROM operations WHERE path LIKE ? ORDER BY clock",
                (f"{folder}/%-{number}%",),
            )
            found = [repr(row) for row in rows]
    return [path, *found]


def remarks(cluster: Cluster) -> dict[str, int]:
    """How often processes said that they did not run for a while, or gave up a connection."""
    words = ("stood still", "nothing heard", "silent for", "turning to", "offering")
    text = "".join(node.process.log_text() for node in (*cluster.servers, *cluster.mounts))
    return {word: text.count(word) for word in words}


def figures(folder: Path, operations: int, seed: int, profile: Path | None) -> dict[str, Any]:
    with Cluster(folder, cables=True) as cluster:
        a, b = cluster.start_servers()
        mounts = [cluster.mount("at-a", [a]), cluster.mount("at-b", [b])]
        cluster.wait_settled()
        cluster.cut(a, b)
        wait_until(lambda: not any(peer["connected"] for s in (a, b) for peer in s.volume()["peers"]), "they part")
        programs = [SmallCalls(mount) for mount in mounts]
        loading = time.monotonic()
        loads = load_both(cluster, operations, seed)
        loaded = time.monotonic()
        time.sleep(1.0)
        with profiled(cluster, profile):
            began, agreed = heal_and_time(cluster)
        time.sleep(1.0)
        for program in programs:
            program.finish()
        cluster.wait_settled(AGREE_LIMIT_S)
        trees = [server.full_state() for server in (a, b)]
        expected = {path: data for load in loads for path, data in load.expected().items()}
        held = {path: data for path, data in trees[0].items() if data is not None}
        return {
            "operations a side": operations,
            "loading, s": round(loaded - loading, 1),
            "healing, s": round(agreed - began, 1),
            "lost or wrong": sum(held.get(path) != data for path, data in expected.items()),
            "not expected": [story_of(a, path) for path in sorted(held.keys() - expected.keys())[:5]],
            "trees equal": trees[0] == trees[1],
            "errors of programs": [error for program in programs for error in program.errors[:5]],
            "rounds": [len(program.calls) // 6 for program in programs],
            "longest calls while loading": [program.longest(loading, loaded, 3) for program in programs],
            "longest calls while healing": [program.longest(began, agreed + 1.0) for program in programs],
            "what logs remark": remarks(cluster),
            "load average": os.getloadavg()[0],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", type=int, default=20_000, help="on each side")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", type=Path, default=None, metavar="FOLDER")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gdah-healing-") as folder:
        for name, value in figures(Path(folder), arguments.operations, arguments.seed, arguments.profile).items():
            if isinstance(value, list) and name != "rounds":
                print(f"{name}:", *value, sep="\n    ", flush=True)
            else:
                print(f"{name:30} {value}", flush=True)


if __name__ == "__main__":
    main()
