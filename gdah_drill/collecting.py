"""What is there in the end: trees through each mount and from each server alone, rows and chunks of stopped servers.

Nothing here is asked of a process that could hide it: rows are read from the databases themselves, chunks are compared
with their names. Threading: the runner's.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from gdah_drill import final
from gdah_drill.cluster import Mount, Server
from gdah_drill.environment import Environment, volume_folder

TREE_S = 300.0
TABLES = ("operations", "versions", "nodes", "links")


def collect(env: Environment, **more: Any) -> final.FinalState:
    """Ends every process of the environment. `more`: what else the final state says."""
    unread: list[str] = [more.pop("not_quiet", "")]
    mounts = [_mount(mount, unread) for mount in env.mounts]
    statuses = {server.name: server.status() for server in env.servers}
    for mount in env.mounts:
        mount.terminate()
    for server in env.servers:
        server.process.terminate()
    rows = {server.name: _rows(server) for server in env.servers}
    trees = {server.name: alone(env, server, unread) for server in env.servers}
    servers = [
        final.Server(
            name=server.name,
            tree=trees[server.name],
            status=statuses[server.name],
            chunks=Chunks(volume_folder(server.data)),
            **rows[server.name],
        )
        for server in env.servers
    ]
    not_quiet = "\n".join(unread).strip()
    return final.FinalState(servers=servers, mounts=mounts, tracebacks=tracebacks(env), not_quiet=not_quiet, **more)


def _tree(mount: Mount, unread: list[str]) -> dict[str, bytes | str | None]:
    try:
        tree: dict[str, bytes | str | None] = mount.hands.call("tree", deadline_s=TREE_S)
    except OSError as error:
        unread.append(f"not everything can be read through {mount.name}: {error}")
        return {}
    return tree


def _mount(mount: Mount, unread: list[str]) -> final.Mount:
    items = mount.get("/api/conflicts", params={"limit": 100_000}).json()["items"]
    return final.Mount(
        name=mount.name,
        tree=_tree(mount, unread),
        status=mount.status(),
        conflicts=[item["path"] for item in items],
    )


def alone(env: Environment, server: Server, unread: list[str]) -> dict[str, bytes | str | None]:
    """The tree as a new mount sees it that has this server only, while no other one runs."""
    server.start()
    looking = Mount(env.cluster, f"alone-with-{server.name}", [server])
    env.cluster.mounts.append(looking)
    try:
        looking.start("--read-only")
        return _tree(looking, unread)
    finally:
        looking.terminate()
        server.process.terminate()


def _rows(server: Server) -> dict[str, list[dict[str, Any]]]:
    target = (volume_folder(server.data) / "volume.db").absolute().as_uri() + "?mode=ro"
    with contextlib.closing(sqlite3.connect(target, uri=True)) as database:
        database.row_factory = sqlite3.Row
        return {table: [dict(row) for row in database.execute(f"SELECT * FROM {table}")] for table in TABLES}


class Chunks(Mapping[str, bytes]):
    """The chunks of a stopped server whose bytes match their names, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._small: dict[str, bytes] = {}
        target = (folder / "volume.db").absolute().as_uri() + "?mode=ro"
        with contextlib.closing(sqlite3.connect(target, uri=True)) as database:
            for name, data in database.execute("SELECT hash, data FROM chunks"):
                if blake3(data).digest() == name:
                    self._small[name.hex()] = data
        self._files = {path.name: path for path in (folder / "chunks").glob("??/*")}

    def __getitem__(self, name: str) -> bytes:
        if name in self._small:
            return self._small[name]
        data = self._files[name].read_bytes()
        if blake3(data).hexdigest() != name:
            raise KeyError(name)
        return data

    def __iter__(self) -> Iterator[str]:
        for name in {**self._small, **self._files}:
            if name in self:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        try:
            self[str(name)]
        except (KeyError, OSError):
            return False
        return True


def tracebacks(env: Environment) -> dict[str, str]:
    found = {}
    for node in (*env.servers, *env.cluster.mounts):
        log = node.process.log_text()
        at = log.find("Traceback (most recent call last)")
        if at >= 0:
            found[node.name] = log[at : at + 4000]
    return found
