"""Real storage servers in processes of their own, for tests of the sync side; stopped, killed and continued by pid."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gdah_drill import nursery
from gdah_volume.ids import DEFAULT_VOLUME
from mountfs.syncside import SyncSettings, SyncSide

START_LIMIT_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(check: Callable[[], Any], limit_s: float = 30.0, what: str = "") -> Any:
    """Poll until `check` gives something true; the last answer is told otherwise."""
    end = time.monotonic() + limit_s
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < end, f"not within {limit_s:.0f} s: {what or check}"
        time.sleep(0.02)


class Server:
    def __init__(self, folder: Path, port: int, peers: tuple[int, ...]) -> None:
        self.folder = folder
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._peers = peers
        self._process: nursery.Child | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["storage-server", "--data", str(self.folder), "--port", str(self.port)]
        for peer in self._peers:
            command += ["--peer", f"http://127.0.0.1:{peer}"]
        self._process = nursery.start(command, log=self.folder / "out.log", cwd=Path.cwd(), env=os.environ)
        eventually(self.answers, START_LIMIT_S, f"{self.url} answers; see {self.folder}/out.log")

    def answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "out.log").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """kill -9, from which it does not come back by itself."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/status", timeout=10) as answer:
            return json.load(answer)["volumes"][DEFAULT_VOLUME]  # type: ignore[no-any-return]


@contextlib.contextmanager
def servers(folder: Path, count: int = 2) -> Iterator[list[Server]]:
    """Started, and stopped at the end whatever happens."""
    ports = [free_port() for _ in range(count)]
    found = [Server(folder / f"server{i}", port, tuple(p for p in ports if p != port)) for i, port in enumerate(ports)]
    try:
        for one in found:
            one.start()
        yield found
    finally:
        for one in found:
            with contextlib.suppress(ProcessLookupError, AssertionError):
                one.signal(signal.SIGCONT)
            one.kill()


@contextlib.contextmanager
def side(cache: Path, urls: list[str], **more: Any) -> Iterator[SyncSide]:
    """A running sync side; `more` are settings."""
    found = SyncSide(SyncSettings(cache, DEFAULT_VOLUME, tuple(urls), **more))
    found.start()
    try:
        yield found
    finally:
        found.close()
