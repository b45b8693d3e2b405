"""The scratch cluster of a drill: servers, mounts, the cable between any two of them, their clocks, their disks.

Everything lies in one fresh folder and listens on ports of its own on 127.0.0.1. Names are those of the history. A link
is named by its two ends; what a fault needs of it is a list of (cable, way).

Threading: any thread; the nemesis holds the node or link that it works on (`locks`).
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from gdah_drill import launch
from gdah_drill.callers import caller
from gdah_drill.cluster import VOLUME, Cluster, Mount, Node, Server
from gdah_drill.disk import CannotMount, Disk
from gdah_drill.processes import free_port
from gdah_drill.proxy import Cable, FaultProxy, Way
from gdah_drill.waiting import NOT_YET, wait_until

MOUNT_NAMES = ("one", "two", "three", "four")
ASK_S = 0.5
SETTLE_S = 60.0
UNDER_WAY = 20
"""Operations that may be under way while everybody writes; whoever wrote them keeps them."""

Flow = tuple[Cable, Way]


class Environment:
    """Invariant: when it is closed, nothing that it started runs or is mounted."""

    def __init__(
        self,
        home: Path,
        servers: int = 2,
        mounts: int = 2,
        *,
        disks: Sequence[str] = (),
        sabotage: str | None = None,
    ) -> None:
        """`disks`: the nodes that get a disk that can fail. `sabotage`: of every process, see `launch`."""
        self.home = home
        self.cluster = Cluster(home, servers)
        self.disks: dict[str, Disk] = {}
        self.no_disks = ""
        """Why nodes that should have a disk that fails have none."""
        self.locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self.troubles: list[str] = []
        """What did not come back as it must: findings."""
        self._wanted_disks = tuple(disks)
        self._sabotage = sabotage
        self._pids: dict[str, int] = {}
        for server in self.cluster.servers:
            self._fit(server)
        self._mounts = [Mount(self.cluster, name, self.cluster.servers) for name in MOUNT_NAMES[:mounts]]

    # --- parts

    @property
    def servers(self) -> list[Server]:
        return self.cluster.servers

    @property
    def mounts(self) -> list[Mount]:
        return self._mounts

    @property
    def nodes(self) -> list[Node]:
        return [*self.servers, *self._mounts]

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def server(self, name: str) -> Server:
        return next(server for server in self.servers if server.name == name)

    def mount(self, name: str) -> Mount:
        return next(mount for mount in self._mounts if mount.name == name)

    def others(self, name: str) -> list[Server]:
        return [server for server in self.servers if server.name != name]

    # --- life

    def start(self) -> None:
        for node in self.nodes:
            if node.name in self._wanted_disks:
                self._give_disk(node)
        for node in self.nodes:
            self._prepare(node)
        self.cluster.start_servers()
        for mount in self._mounts:
            self.cluster.mounts.append(mount)
            self.start_mount(mount)

    def start_mount(self, mount: Mount) -> None:
        mount.unmount_lazily()
        if mount.root.is_dir() and any(mount.root.iterdir()):  # it ended by itself, and programs went on in its folder
            mount.root.rename(self.home / f"{mount.name}-bare-{time.monotonic_ns()}")
        mount.start()
        self._point(mount, mount.root)

    def shut(self, mount: Mount) -> None:
        """Before it is unmounted: programs of a drill get ELOOP now, they never see the empty folder under a mount."""
        self._point(mount, self.door(mount))

    def door(self, mount: Mount) -> Path:
        """The path by which programs go to a mount: a link, which leads to itself while there is none."""
        return self.home / f"{mount.name}-door"

    def _point(self, mount: Mount, to: Path) -> None:
        part = self.home / f"{mount.name}-door.part"
        part.symlink_to(to)
        part.replace(self.door(mount))

    def _fit(self, server: Server) -> None:
        server.door = FaultProxy(free_port(), server.port, who=self._who)
        self.cluster.proxies.append(server.door)

    def _who(self, port: int, to_port: int) -> str:
        pids = {node.name: node.process.pid for node in self.nodes if node.process.running}
        return caller(pids, port, to_port)

    def _give_disk(self, node: Node) -> None:
        disk = Disk(self.home, node.name)
        try:
            disk.start()
        except CannotMount as error:
            self.no_disks = str(error)
            return
        self.disks[node.name] = disk
        if isinstance(node, Mount):
            node.cache = disk.folder
            node.process.own_log = disk.folder / "mount.log"
        else:
            assert isinstance(node, Server)
            node.data = disk.folder

    def _prepare(self, node: Node) -> None:
        clock = self.clock_file(node.name)
        clock.write_text("0")
        node.environ = {launch.CLOCK: str(clock)}
        if self._sabotage:
            node.environ[launch.SABOTAGE] = self._sabotage

    def add_server(self) -> Server:
        """One more, with the next name; it starts empty (also where one was retired before) and meets the others."""
        server = Server(self.cluster, f"server-{chr(ord('a') + len(self.servers))}")
        shutil.rmtree(server.data, ignore_errors=True)
        self._fit(server)
        self._prepare(server)
        self.servers.append(server)
        server.start()
        return server

    def close(self) -> None:
        self.cluster.close()
        for disk in self.disks.values():
            disk.close()

    # --- what faults touch

    def clock_file(self, name: str) -> Path:
        return self.home / f"{name}.clock"

    def flows(self, sender: str, receiver: str) -> list[Flow]:
        """What has to be closed so that nothing gets from the one to the other."""
        found: list[Flow] = []
        for server in self.servers:
            if server.door is not None and server.name == receiver:
                found.append((server.door.cable(sender), "out"))
            if server.door is not None and server.name == sender:
                found.append((server.door.cable(receiver), "in"))
        return found

    def cables(self, one: str, other: str) -> list[Cable]:
        """Whoever of the two dials."""
        return [cable for cable, way in self.flows(one, other) + self.flows(other, one) if way == "out"]

    def links(self) -> list[tuple[str, str]]:
        """Every two nodes that speak to each other."""
        names = [server.name for server in self.servers]
        pairs = [(one, other) for index, one in enumerate(names) for other in names[index + 1 :]]
        return pairs + [(mount.name, server) for mount in self._mounts for server in names]

    def chunk_files(self, name: str) -> list[Path]:
        """Large chunks of a server, or the clean ones of a mount."""
        node = self.node(name)
        folder = node.cache / VOLUME / "cache" if isinstance(node, Mount) else self.volume_folder(name) / "chunks"
        return [path for path in folder.glob("??/*") if path.is_file()] if folder.is_dir() else []

    def volume_folder(self, name: str) -> Path:
        return volume_folder(self.server(name).data)

    def volume_status(self, server: Server) -> dict[str, Any]:
        """Raises httpx.HTTPError. Empty while the volume is not shown."""
        answer: dict[str, Any] = server.get("/status", timeout=ASK_S).json()["volumes"].get(VOLUME, {})
        return answer

    def pending(self, name: str) -> int | None:
        """Operations in the backlog of a mount; None when it does not say."""
        try:
            return int(self.node(name).get("/status", timeout=ASK_S).json()["pending"]["operations"])
        except (httpx.HTTPError, ValueError, KeyError):
            return None

    def offers(self, word: str) -> bool:
        """The servers have a POST route whose path ends with that word."""
        paths: dict[str, Any] = self.servers[0].get("/openapi.json").json()["paths"]
        return any(path.endswith(f"/{word}") and "post" in ways for path, ways in paths.items())

    # --- states to wait for

    def servers_agree(self, *, lag: int = 0) -> bool:
        """All see each other, none lags by more, no chunk is missing. Raises AssertionError with what is not so."""
        for server in self.servers:
            volume = self.volume_status(server)
            for peer in volume["peers"]:
                assert peer["connected"], f"{server.name} is not connected to {peer['url']}: {peer['last_error']}"
                behind = peer["lag_operations"] + peer["behind_operations"]
                assert behind <= lag, f"{behind} operations are not yet on both {server.name} and {peer['url']}"
            assert volume["wanted_chunks"] <= lag, f"{server.name} wants {volume['wanted_chunks']} chunks"
        return True

    def wait_agreed(self, timeout_s: float = SETTLE_S) -> str:
        """Until every server has everything, but for what is just under way. Why not, if not; empty: they have."""
        try:
            wait_until(lambda: self.servers_agree(lag=UNDER_WAY), "the servers agree", timeout_s, every_s=0.1)
        except NOT_YET as error:
            return str(error)
        return ""

    @contextlib.contextmanager
    def holding(self, *resources: str) -> Iterator[None]:
        """Nobody else works on these. Always taken in the same order."""
        with contextlib.ExitStack() as stack:
            for resource in sorted(set(resources)):
                stack.enter_context(self.locks[resource])
            yield


def volume_folder(data: Path) -> Path:
    return data / "volumes" / VOLUME


def pair(one: str, other: str) -> str:
    """The name of a link as a resource."""
    return "|".join(sorted((one, other)))
