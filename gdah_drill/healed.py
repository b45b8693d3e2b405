"""How much was healed: what servers and mounts tell of it, added up over all their runs.

They count since their start, and a drill kills them all the time; so they are asked every LOOK_EVERY_S, and the last
answer of each run counts. What a run healed after its last answer is missing: the sums are lower bounds.

Threading: one thread looks; `look` and `sums` also from the runner's.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from typing import Any

import httpx

from gdah_drill.cluster import Mount, Server
from gdah_drill.environment import ASK_S, Environment

LOOK_EVERY_S = 1.0
KEYS = ("entries", "entry_bytes", "chunks", "chunk_bytes")


class Healed:
    def __init__(self, env: Environment) -> None:
        self._env = env
        self._lock = threading.Lock()
        self._runs: dict[tuple[str, int], dict[str, int]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="healed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        for node in list(self._env.nodes):
            if not node.process.running:
                continue
            pid = node.process.pid
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
                self.note(node.name, pid, self._ask(node))

    def _ask(self, node: Server | Mount | Any) -> dict[str, int]:
        if isinstance(node, Mount):
            return {"cached_chunks": node.get("/status", timeout=ASK_S).json()["cache"]["repaired"]}
        told = self._env.volume_status(node)["healed"]
        return {key: told[key] for key in KEYS}

    def note(self, name: str, pid: int, figures: dict[str, int]) -> None:
        with self._lock:
            self._runs[name, pid] = figures

    def sums(self) -> dict[str, int]:
        """`bytes`, and what they are of: `entries` of logs and `chunks` that servers got from each other because they
        lacked them; `cached_chunks`, that mounts found damaged and dropped."""
        told: Counter[str] = Counter(dict.fromkeys((*KEYS, "cached_chunks"), 0))
        with self._lock:
            for figures in self._runs.values():
                told.update(figures)
        return {"bytes": told["entry_bytes"] + told["chunk_bytes"], **told}

    def close(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
