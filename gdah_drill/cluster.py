"""Servers and mounts as processes, and the cables between them.

    with Cluster(folder, servers=2, cables=True) as cluster:
        a, b = cluster.start_servers()
        one = cluster.mount("one")
        one.hands.write("a.txt", b"text")
        cluster.cut(a, b)                  # peers cannot see each other any more
        one.cut(b)                         # nor this mount that server

With `cables` every link (server to server, mount to server) runs through a FaultProxy; without, directly, unless
somebody gives a server a `door` of his own that all who call it go through.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from gdah_drill.hands import Hands, reap
from gdah_drill.processes import (
    Process,
    begin_program,
    command_line,
    finish_program,
    free_port,
    run_program,
)
from gdah_drill.proxy import FaultProxy
from gdah_drill.waiting import wait_until

VOLUME = "test_chamber"
START_S = 40.0
KILL_ALONE_S = 5.0
SETTLE_S = 60.0
LIVE: weakref.WeakSet[Cluster] = weakref.WeakSet()
"""Open clusters, for the report of a failed test."""


class Node:
    """What servers and mounts have in common."""

    def __init__(self, cluster: Cluster, name: str, port: int) -> None:
        self.cluster = cluster
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process = Process(name, cluster.logs)
        self.environ: dict[str, str] = {}
        """Of its process, beside what every process gets."""

    def get(self, path: str, **named: Any) -> httpx.Response:
        return self.cluster.http.get(self.url + path, **named)

    def status(self) -> dict[str, Any]:
        answer = self.get("/status")
        answer.raise_for_status()
        status: dict[str, Any] = answer.json()
        return status

    def kill9(self) -> None:
        self.process.kill9()

    def stop(self) -> None:
        self.process.stop()

    def cont(self) -> None:
        self.process.cont()

    def report(self) -> str:
        state = "running" if self.process.running else f"ended ({self.process.returncode})"
        try:
            status = json.dumps(self.get("/status", timeout=1.0).json(), indent=1)
        except (httpx.HTTPError, ValueError) as error:
            status = repr(error)
        return f"=== {self.name}: {state}\n{status}\n--- log\n{self.process.log_tail()}\n"


class Server(Node):
    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(cluster, name, free_port())
        self.data = cluster.folder / f"{name}-data"
        self.door: FaultProxy | None = None
        """Where peers knock, if there are cables."""
        if cluster.cables:
            self.door = cluster.cable(self.port)

    @property
    def peer_url(self) -> str:
        return self.door.url if self.door else self.url

    def start(self, *more: str, wait: bool = True) -> Server:
        peers = [
            argument for peer in self.cluster.servers if peer is not self for argument in ("--peer", peer.peer_url)
        ]
        argv = [*command_line("storage-server", "storage_server.cli"), "--data", str(self.data)]
        argv += ["--port", str(self.port), "--url", self.peer_url, *peers, *more]
        self.process.start(argv, self.cluster.folder, self.environ)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        def ready() -> bool:
            self.process.must_run()
            return self.get("/healthz").status_code == 200

        wait_until(ready, f"{self.name} answers", START_S)

    def volume(self) -> dict[str, Any]:
        volume: dict[str, Any] = self.status()["volumes"][VOLUME]
        return volume

    def full_state(self) -> dict[str, bytes | None]:
        """The tree as this server tells it to programs of the original system: relative path to content or None."""
        return {
            item["path"].partition("/")[2]: None if item["is_directory"] else _decoded(item["content"])
            for item in self.get("/get_full_state", timeout=60.0).json()
            if "/" in item["path"]
        }

    def wipe(self) -> None:
        assert not self.process.running
        shutil.rmtree(self.data, ignore_errors=True)


class Mount(Node):
    def __init__(self, cluster: Cluster, name: str, servers: Sequence[Server]) -> None:
        super().__init__(cluster, name, free_port())
        self.root = cluster.folder / f"{name}-root"
        self.cache = cluster.folder / f"{name}-cache"
        self.process.own_log = self.cache / "mount.log"
        self.doors: dict[Server, FaultProxy] = {}
        self.servers = list(servers)
        if cluster.cables:
            self.doors = {server: cluster.cable(server.port) for server in servers}
        self._hands: Hands | None = None

    def start(self, *more: str, wait: bool = True) -> Mount:
        urls = [self.url_of(server) for server in self.servers]
        argv = [*command_line("gdah-mount", "mountfs.cli"), str(self.root)]
        argv += [argument for url in urls for argument in ("--server", url)]
        argv += [
            "--cache-dir",
            str(self.cache),
            "--status-addr",
            f"127.0.0.1:{self.port}",
            "--device",
            self.name,
            *more,
        ]
        self.process.start(argv, self.cluster.folder, self.environ)
        if wait:
            self.wait_mounted()
        return self

    def wait_mounted(self) -> None:
        def serves() -> bool:
            self.process.must_run()
            return self.is_mounted() and self.get("/healthz").status_code == 200

        wait_until(serves, f"{self.name} is mounted", START_S)

    def is_mounted(self) -> bool:
        """By the kernel's table: never touches the mount."""
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as table:
            return any(line.split()[1] == str(self.root) for line in table)

    @property
    def hands(self) -> Hands:
        if self._hands is None:
            self._hands = Hands(self.root)
        return self._hands

    def more_hands(self) -> Hands:
        """Another helper process; closed with the cluster."""
        hands = Hands(self.root)
        self.cluster.helpers.append(hands)
        return hands

    def run(self, *argv: str | Path, inside: str = "", **named: Any) -> subprocess.CompletedProcess[str]:
        """A program with a folder of the mount as its working folder."""
        return run_program(argv, cwd=self.root / inside, **named)

    def begin(self, *argv: str | Path, inside: str = "", **named: Any) -> subprocess.Popen[bytes]:
        return begin_program(argv, cwd=self.root / inside, **named)

    @staticmethod
    def finish(program: subprocess.Popen[bytes], **named: Any) -> subprocess.CompletedProcess[str]:
        return finish_program(program, **named)

    def cut(self, *servers: Server) -> None:
        for server in servers or self.servers:
            self.doors[server].cut()

    def heal(self, *servers: Server) -> None:
        for server in servers or self.servers:
            self.doors[server].heal()

    def url_of(self, server: Server) -> str:
        return self.doors[server].url if server in self.doors else server.peer_url

    def uses(self, server: Server) -> bool:
        in_use = self.status()["server"]
        return in_use is not None and in_use.rstrip("/") == self.url_of(server)

    def terminate(self) -> int:
        self.let_go()
        return self.process.terminate()

    def kill9(self) -> None:
        """A process that tells its kernel something while a program waits for it under the same lock can die only when
        the connection is broken from outside; a person would do `umount -f`."""
        self.let_go()
        try:
            self.process.kill9(KILL_ALONE_S)
        except subprocess.TimeoutExpired:
            if self.is_mounted():
                argv = ["umount", "-f", str(self.root)]
                subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
            self.process.kill9()

    def let_go(self) -> None:
        if self._hands is not None:
            self._hands.close()
            self._hands = None

    def unmount_lazily(self) -> None:
        if self.is_mounted():
            for argv in (["fusermount", "-u", "-z", str(self.root)], ["umount", "-l", str(self.root)]):
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
                if not self.is_mounted():
                    return


class Cluster:
    """Invariant: when it is closed, nothing that it started runs or is mounted."""

    def __init__(self, folder: Path, servers: int = 2, *, cables: bool = False) -> None:
        self.folder = folder
        self.cables = cables
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.http = httpx.Client(timeout=5.0, trust_env=False)
        self.proxies: list[FaultProxy] = []
        self.helpers: list[Hands] = []
        self.servers: list[Server] = []
        self.mounts: list[Mount] = []
        self.expected_in_logs: set[str] = set()
        for index in range(servers):
            self.servers.append(Server(self, f"server-{chr(ord('a') + index)}"))
        LIVE.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.report(), file=sys.stderr)
        self.close()
        if error is None:
            self.check_logs()

    def cable(self, target_port: int) -> FaultProxy:
        proxy = FaultProxy(free_port(), target_port)
        self.proxies.append(proxy)
        return proxy

    def start_servers(self) -> list[Server]:
        for server in self.servers:
            server.start(wait=False)
        for server in self.servers:
            server.wait_ready()
        self.wait_peers()
        return self.servers

    def mount(self, name: str = "one", servers: Sequence[Server] | None = None, *more: str) -> Mount:
        mount = Mount(self, name, self.servers if servers is None else servers)
        self.mounts.append(mount)
        return mount.start(*more)

    def cut(self, a: Server, b: Server) -> None:
        """These two servers (of two) cannot see each other any more."""
        for server in (a, b):
            assert server.door is not None, "this cluster has no cables"
            server.door.cut()

    def heal(self) -> None:
        for proxy in self.proxies:
            proxy.heal()

    def tool(self, script: str, *argv: str) -> str:
        """The output of a console script of this environment."""
        return run_program([Path(sys.executable).with_name(script), *argv], cwd=self.folder).stdout

    # --- waiting -------------------------------------------------------------------------------------

    def wait_peers(self, servers: Iterable[Server] | None = None) -> None:
        """The given servers (all by default) see each other."""
        for server in servers or self.servers:
            wait_until(
                lambda server=server: all(peer["connected"] for peer in server.volume()["peers"]),  # type: ignore[misc]
                f"{server.name} is connected to its peers",
                START_S,
            )

    def wait_equal(self, servers: Sequence[Server] | None = None, timeout_s: float = SETTLE_S) -> None:
        """The given servers hold the same operations."""

        def equal() -> bool:
            volumes = [server.volume() for server in servers or self.servers]
            digests = {volume["digest"] for volume in volumes}
            assert len(digests) == 1, [(volume["operations"], volume["digest"]) for volume in volumes]
            return all(peer["lag_operations"] == 0 for volume in volumes for peer in volume["peers"])

        wait_until(equal, "the servers hold the same operations", timeout_s)

    def wait_settled(self, timeout_s: float = SETTLE_S) -> None:
        """Everything that any mount accepted is on every server, and says so."""
        copies = f"{len(self.servers)}/{len(self.servers)}"
        for mount in self.mounts:
            if not mount.process.running:
                continue

            def settled(mount: Mount = mount) -> bool:
                status = mount.status()
                assert status["pending"]["operations"] == 0, status["pending"]
                assert status["copies"] == copies, status["copies"]
                return bool(status["connected"])

            wait_until(settled, f"everything of {mount.name} is on {copies} servers", timeout_s)
        self.wait_equal(timeout_s=timeout_s)

    def lost_sight(self) -> bool:
        """A busy machine kept a process from running for longer than the silence limit, so that others rightly took
        it for dead. Then promises that hold between servers that see each other were not put to the test."""
        return any(
            word in node.process.log_text()
            for node in (*self.servers, *self.mounts)
            for word in ("stood still", "nothing heard for")
        )

    # --- the end ---------------------------------------------------------------------------------------

    def report(self) -> str:
        return "\n".join(node.report() for node in (*self.servers, *self.mounts))

    def check_logs(self) -> None:
        """No traceback reaches a user, and none is written that nobody expected."""
        for node in (*self.servers, *self.mounts):
            log = node.process.log_text()
            if "Traceback (most recent call last)" in log and node.name not in self.expected_in_logs:
                raise AssertionError(f"{node.name} logged a traceback:\n{log[log.index('Traceback') :][:4000]}")

    def close(self) -> None:
        for hands in self.helpers:
            hands.close()
        for mount in self.mounts:
            mount.let_go()
            mount.unmount_lazily()
            mount.process.make_sure_it_is_gone()
            mount.unmount_lazily()
        for server in self.servers:
            server.process.make_sure_it_is_gone()
        for proxy in self.proxies:
            proxy.close()
        self.http.close()
        reap()
        LIVE.discard(self)


def _decoded(text: str | None) -> bytes:
    return base64.b64decode(text or "")
