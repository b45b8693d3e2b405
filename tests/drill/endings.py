"""What servers would hold after a history on a plain folder: every content logged once, replaced by who saw it or
current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from gdah_drill.final import FinalState, Mount, Server
from gdah_drill.history import LOAD_ENDED, QUIET, STARTED, History
from gdah_drill.log_check import CHUNK_BYTES, Key, acknowledged, key_of
from gdah_drill.replay import replay
from tests.drill.plain import PlainHands, Strict, make_worker

AUTHOR = "one-abcdef-01234567"


def content_json(key: Key) -> dict[str, Any]:
    size, names = key
    return {"size": size, "chunks": [[at, name, 0] for at, name in enumerate(names)]}


def packed(key: Key) -> bytes:
    return msgspec.msgpack.encode([key[0], [[at, bytes.fromhex(name), 0] for at, name in enumerate(key[1])]])


class Rows:
    """The rows of one server, made operation by operation."""

    def __init__(self) -> None:
        self.operations: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.nodes: list[dict[str, Any]] = []
        self.links: list[dict[str, Any]] = []

    def log(self, kind: str, **what: Any) -> str:
        name = f"{AUTHOR}-{len(self.operations) + 1}"
        self.operations.append({"id": name, "type": kind, "operation": json.dumps({"type": kind, "id": name, **what})})
        return name

    def write(self, key: Key, base: str | None = None) -> str:
        version = self.log("write", content=content_json(key), base=base)
        self.versions.append({"version": version, "node": "n", "content": packed(key)})
        return version

    def name(self, version: str, path: str, *, live: bool = True) -> None:
        self.nodes.append({"id": f"n-{version}", "kind": "file", "version": version})
        self.links.append({"id": version, "node": f"n-{version}", "name": path.encode(), "live": int(live)})


def run_history(root: Path, steps: int = 200) -> History:
    history = History()
    history.mark(STARTED)
    worker = make_worker(root, history)
    for _ in range(steps):
        worker.step()
    history.mark(LOAD_ENDED)
    worker.finish()
    history.mark(QUIET, took_s=0.5)
    return history


def rows_of(history: History, tree: dict[str, Any]) -> Rows:
    rows = Rows()
    files = {key_of(data): path for path, data in tree.items() if isinstance(data, bytes) and data}
    done = set()
    for content in acknowledged(history.operations, [replay("w1", history.operations, Strict())]):
        if content.key not in done:
            done.add(content.key)
            version = rows.write(content.key)
            if content.key in files:
                rows.name(version, files[content.key])
            else:
                rows.write(key_of(b""), base=version)
    return rows


def chunks_of(history: History, tree: dict[str, Any]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    told = replay("w1", history.operations, Strict())
    data = [saved.data for saved in told.saved] + [value for value in tree.values() if isinstance(value, bytes)]
    for whole in data:
        for start in range(0, len(whole), CHUNK_BYTES):
            piece = whole[start : start + CHUNK_BYTES]
            found[blake3(piece).hexdigest()] = piece
    for content in acknowledged(history.operations, [told]):
        for name in content.key[1]:
            found.setdefault(name, b"")
    return found


def final_of(root: Path, history: History, rows: Rows | None = None) -> FinalState:
    tree = PlainHands(root).tree()
    rows = rows or rows_of(history, tree)
    status = {"volumes": {"test_chamber": {"digest": "abc"}}}
    servers = [
        Server(
            name=name,
            tree=dict(tree),
            status=status,
            operations=rows.operations,
            versions=rows.versions,
            nodes=rows.nodes,
            links=rows.links,
            chunks=chunks_of(history, tree),
        )
        for name in ("server-a", "server-b")
    ]
    return FinalState(servers=servers, mounts=[Mount(name="one", tree=dict(tree), status={})])
