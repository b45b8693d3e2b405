"""Figures of a cluster on this machine: the longest stall of a copy while servers come and go, and how soon a second
mount sees a change. A command, not a test: it asserts nothing.

    python -m tests.cluster.measure [--files N] [STORY...]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from gdah_drill.cluster import Cluster, Mount
from gdah_drill.processes import begin_program, finish_program
from gdah_drill.waiting import wait_until
from tests.cluster import traced_copy
from tests.cluster.sources import SOURCE_FILES, copy_sources

COPY_STORIES: dict[str, tuple[str, str]] = {
    "nothing happens": ("", ""),
    "kill -9 of the server in use": ("kill9", "used"),
    "kill -9 of the other server": ("kill9", "other"),
    "SIGSTOP of the server in use": ("stop", "used"),
    "SIGSTOP of the other server": ("stop", "other"),
    "kill -9 of both servers": ("kill9", "used other"),
    "SIGSTOP of both servers": ("stop", "used other"),
}
"""What is done, and to whom, in the middle of the copy."""


def copy_story(folder: Path, sources: Path, act: str, to: str, swapped: bool) -> dict[str, Any]:
    """`swapped`: the mount names the servers in the other order, so that another one is likely to be in use."""
    with Cluster(folder) as cluster:
        cluster.start_servers()
        mount = cluster.mount("one", cluster.servers[::-1] if swapped else None)
        used = wait_until(lambda: next((s for s in cluster.servers if mount.uses(s)), None), "a server is in use")
        other = next(server for server in cluster.servers if server is not used)
        sequencer = min(cluster.servers, key=lambda server: str(server.status()["server"]))
        program = begin_program([sys.executable, traced_copy.__file__, sources, mount.root / "lib"])
        if act:
            hands = mount.more_hands()
            wait_until(lambda: hands.exists("lib") and hands.count("lib") > 100, "the copy is under way", 60)
            for word, server in (("used", used), ("other", other)):
                if word in to:
                    getattr(server, act)()
        figures: dict[str, Any] = json.loads(finish_program(program, timeout_s=600).stdout)
        status = mount.status()
        figures |= {"server": status["server"], "why": status["why"], "copies": status["copies"]}
        figures["sequencer in use"] = sequencer is used
        return figures


def visibility(folder: Path, rounds: int = 50) -> dict[str, Any]:
    with Cluster(folder) as cluster:
        a, b = cluster.start_servers()
        one, two = cluster.mount("one", [a, b]), cluster.mount("two", [b, a])
        one.hands.write("file", b"begin")
        wait_until(lambda: two.hands.exists("file"), "it is there")
        return {
            "content": _latency(one, two, rounds, "file"),
            "a name known as absent": _latency(one, two, rounds, None),
        }


def _latency(one: Mount, two: Mount, rounds: int, path: str | None) -> dict[str, float]:
    """From the end of close on one mount until a read on the other gives the new content; ms."""
    times = []
    watcher = two.more_hands()
    with ThreadPoolExecutor(1) as pool:
        for number in range(rounds):
            name = path or f"absent {number}"
            if path is None:
                two.hands.exists(name)
            text = f"round {number}".encode() * 100
            seen = pool.submit(watcher.call, "poll_read", name, text, 10.0)
            time.sleep(0.02)
            one.hands.write(name, text)
            closed = time.time()
            times.append(max(0.0, seen.result() - closed) * 1000)
    return {"median_ms": round(median(times), 1), "longest_ms": round(max(times), 1)}


def main() -> None:
    command = argparse.ArgumentParser(prog="python -m tests.cluster.measure", description=__doc__)
    command.add_argument("--files", type=int, default=SOURCE_FILES)
    command.add_argument("stories", nargs="*", help="words that the names of the stories contain; all without any")
    flags = command.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended

    def wanted(name: str) -> bool:
        return not flags.stories or any(word in name for word in flags.stories)

    with tempfile.TemporaryDirectory(prefix="gdah-measure-") as scratch:
        sources = Path(scratch) / "sources"
        copy_sources(sources, flags.files)
        for index, (name, (act, to)) in enumerate(COPY_STORIES.items()):
            for swapped in (False, True):
                if wanted(name):
                    figures = copy_story(Path(scratch) / f"{index}{swapped}", sources, act, to, swapped)
                    print(f"copy, {name}: longest call {figures['longest_ms']} ms", json.dumps(figures), flush=True)
        if wanted("visibility"):
            print("visibility:", json.dumps(visibility(Path(scratch) / "visibility")), flush=True)


if __name__ == "__main__":
    main()
