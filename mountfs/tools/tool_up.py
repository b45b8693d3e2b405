"""`gdah up`: two storage servers and a mount on this machine, in the foreground, and all of it gone at the end.

The order matters. Up: servers, then the mount. Down: the mount first, which hands over what it holds while the servers
still listen, then the servers. The children are in sessions of their own, so that Ctrl-C in the terminal reaches only
this process; they get SIGTERM from the kernel if this process is killed.

Threading: one thread; signal handlers only count.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any

import httpx

from gdah_volume.errors import GdahError, InvalidArgument, Unavailable
from mountfs import registry
from mountfs.fuse import mountpoint

SERVER_PORTS = (7001, 7002)
START_LIMIT_S = 60.0
HAND_OVER_LIMIT_S = 60.0
SERVER_STOP_LIMIT_S = 15.0
STATUS_EVERY_S = 1.0
LOG_TAIL_LINES = 8
LOG_TAIL_BYTES = 8 << 10
UNMOUNTED = (0, 3)
"""Exit codes of gdah-mount that are no failure; 3: something is only on this device."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """`directory` absolute, its parent resolved; `data` absolute."""

    directory: Path
    data: Path
    status_addr: str = registry.DEFAULT_STATUS_ADDR
    ports: tuple[int, ...] = SERVER_PORTS


class Terminal:
    """Lines, and below them one that is rewritten. Where no person looks, only changes of it are written."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._last = ""

    def say(self, text: str) -> None:
        self._write(("\r\x1b[K" if self._live and self._last else "") + text + "\n")
        self._last = ""

    def show(self, line: str) -> None:
        if line == self._last:
            return
        self._write(f"\r\x1b[K{line}" if self._live else line + "\n")
        self._last = line

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            pass  # nobody reads any more; what is running must still be stopped in order


@dataclass(slots=True)
class Child:
    """A process that was started here. `url` answers /healthz."""

    name: str
    url: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes]
    told: bool = False

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def how_it_ended(self) -> str:
        code = self.process.returncode
        return f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"

    @property
    def title(self) -> str:
        return f"{self.name[0].upper()}{self.name[1:]}"

    def tail(self) -> str:
        try:
            with self.log.open("rb") as stream:
                stream.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
                lines = stream.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return "".join(f"\n  {line}" for line in lines[-LOG_TAIL_LINES:])


@dataclass(slots=True)
class Up:
    wanted: Wanted
    terminal: Terminal
    servers: list[Child] = field(default_factory=list)
    mount: Child | None = None
    signals: int = 0
    _lock: IO[str] | None = None

    def run(self) -> int:
        """Until Ctrl-C, SIGTERM or `gdah unmount`: 0, or 3 if something is only on this device. 1: the mount failed."""
        before = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            self._take_lock()
            self._start()
            if not self.signals:
                self._watch()
            return self._stop()
        finally:
            self._end_all()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.signals += 1

    # --- up

    def _take_lock(self) -> None:
        self.wanted.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (self.wanted.data / "up.lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            pid = self._lock.read().strip()
            self._lock.close()
            self._lock = None
            raise Unavailable(
                f"'gdah up' runs already on {self.wanted.data} (pid {pid}); stop that one, or give --data"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def _start(self) -> None:
        data = self.wanted.data
        taken: set[int] = set()
        ports = [self._port(wished, "server", taken) for wished in self.wanted.ports]
        host, page_port = _address(self.wanted.status_addr)
        page_port = self._port(page_port, "page", taken, host)
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        for number, (port, url) in enumerate(zip(ports, urls, strict=True), 1):
            peers = [word for other in urls if other != url for word in ("--peer", other)]
            command = [*_program("storage-server", "storage_server.cli"), "--data", str(data / f"server-{number}")]
            self.servers.append(self._begin(f"server {number}", url, [*command, "--port", str(port), *peers]))
        for server in self.servers:
            self._wait(server, partial(_answers, server.url))
        if self.signals:
            return
        command = [
            *_program("gdah-mount", "mountfs.cli"),
            str(self.wanted.directory),
            "--cache-dir",
            str(data / "cache"),
        ]
        command += [word for url in urls for word in ("--server", url)]
        page = f"http://{host}:{page_port}"
        self.mount = self._begin("the mount", page, [*command, "--status-addr", f"{host}:{page_port}"])
        self._wait(self.mount, lambda: mountpoint.is_mounted(self.wanted.directory) and _answers(page))
        if not self.signals:
            self._greet()

    def _port(self, wished: int, what: str, taken: set[int], host: str = "127.0.0.1") -> int:
        found = wished if wished not in taken and _is_free(host, wished) else _free_port(host, taken)
        taken.add(found)
        if found != wished:
            self.terminal.say(f"Port {wished} is taken by another program; the {what} gets {found}.")
        return found

    def _begin(self, name: str, url: str, command: list[str]) -> Child:
        log = self.wanted.data / f"{name.removeprefix('the ').replace(' ', '-')}.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  one thread here, and prctl allocates nothing
            )
        return Child(name, url, command, log, process)

    def _wait(self, child: Child, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not self.signals:
            if not child.running:
                raise Unavailable(f"{child.name} {child.how_it_ended()}; its log {child.log} says:{child.tail()}")
            if ready():
                return
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{child.name} does not serve after {START_LIMIT_S:.0f} s; {child.log} says:{child.tail()}"
                )
            time.sleep(0.05)

    def _greet(self) -> None:
        assert self.mount is not None
        lines = [f"Folder    {self.wanted.directory}", f"Page      {self.mount.url}"]
        for number, server in enumerate(self.servers, 1):
            lines.append(
                f"Server {number}  {server.url}  (pid {server.process.pid}, {self.wanted.data}/server-{number})"
            )
        lines += [f"Logs      {self.wanted.data}/*.log", "Ctrl-C stops it all; what you wrote stays.", ""]
        self.terminal.say("\n".join(lines))

    # --- while it runs

    def _watch(self) -> None:
        assert self.mount is not None
        with httpx.Client(base_url=self.mount.url, timeout=STATUS_EVERY_S, trust_env=False) as client:
            while not self.signals and self.mount.running:
                for server in self.servers:
                    self._tell_if_gone(server)
                self.terminal.show(_status_line(client))
                self._sleep(STATUS_EVERY_S)

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.signals and time.monotonic() < deadline:
            time.sleep(0.05)

    def _tell_if_gone(self, server: Child) -> None:
        if server.running or server.told:
            return
        server.told = True
        self.terminal.say(
            f"{server.title} {server.how_it_ended()}. The folder goes on without it; start it again with:\n"
            f"  {shlex.join(server.command)}"
        )

    # --- down

    def _stop(self) -> int:
        code = 0 if self.signals else 1
        if self.mount is None:
            pass
        elif not self.signals and self.mount.process.returncode in UNMOUNTED:
            code = self.mount.process.returncode
            self.terminal.say(f"The folder was unmounted.{self.mount.tail() if code else ''}")
        elif not self.signals:
            self.terminal.say(
                f"The mount {self.mount.how_it_ended()}; its log {self.mount.log} says:{self.mount.tail()}"
            )
        elif self._end_mount(self.mount):
            code = 3
        for server in self.servers:
            _end(server.process, SERVER_STOP_LIMIT_S)
        self.terminal.say("Stopped: nothing is running or mounted any more.")
        return code

    def _end_mount(self, mount: Child) -> bool:
        """True if something is only on this device. Ctrl-C again: do not wait for servers; once more: kill."""
        self.terminal.show("Handing over and unmounting ...")
        heard = self.signals
        mount.process.terminate()
        deadline = time.monotonic() + HAND_OVER_LIMIT_S
        while mount.running and time.monotonic() < deadline and self.signals < heard + 2:
            if self.signals == heard + 1 and not mount.told:
                mount.told = True
                self.terminal.show("Unmounting without handing over ...")
                mount.process.terminate()
            time.sleep(0.05)
        if mount.running:
            self.terminal.say(
                "The mount did not end and is killed; what it had not handed over is kept for the next start."
            )
            _end(mount.process, 0)
        self._leave()
        if mount.process.returncode == 0:
            return False
        self.terminal.say(f"The mount {mount.how_it_ended()}:{mount.tail()}")
        return True

    def _leave(self) -> None:
        try:
            mountpoint.unmount(self.wanted.directory, lazy=True)
        except GdahError as error:
            self.terminal.say(str(error))

    def _end_all(self) -> None:
        """Whatever went wrong: nothing stays behind."""
        if self.mount is not None and self.mount.running:
            _end(self.mount.process, HAND_OVER_LIMIT_S)
            self._leave()
        for server in self.servers:
            _end(server.process, SERVER_STOP_LIMIT_S)
        if self._lock is not None:
            self._lock.close()


def _status_line(client: httpx.Client) -> str:
    try:
        status: dict[str, Any] = client.get("/status").json()
    except (httpx.HTTPError, ValueError):
        return "the mount gives no answer"
    pending = status.get("pending", {}).get("operations", 0)
    where = status.get("server") if status.get("connected") else "NO SERVER ANSWERS, working on this device"
    conflicts = status.get("conflicts", 0)
    parts = [str(where), f"copies {status.get('copies', '?')}", f"{pending} pending" if pending else "nothing pending"]
    if conflicts:
        parts.append(f"{conflicts} conflicts")
    return " · ".join(parts)


def _program(script: str, module: str) -> list[str]:
    """The installed command beside this Python, so that `ps` shows its name; from a source folder the module."""
    beside = Path(sys.executable).parent / script
    return [sys.executable, str(beside)] if beside.is_file() else [sys.executable, "-m", module]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes], limit_s: float) -> None:
    if process.poll() is None and limit_s:
        process.terminate()
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
    if process.poll() is None:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"--status-addr {text!r}: give HOST:PORT, as in {registry.DEFAULT_STATUS_ADDR}")
    return host or "127.0.0.1", int(port)


def parse_ports(text: str) -> tuple[int, ...]:
    """`7001,7002`: one server for each. Raises InvalidArgument."""
    words = text.split(",")
    if not all(word.strip().isdigit() and 0 < int(word) < 65536 for word in words) or len(set(words)) < len(words):
        raise InvalidArgument(f"--ports {text!r}: give different ports with commas, as in 7001,7002")
    return tuple(int(word) for word in words)


def _is_free(host: str, port: int) -> bool:
    try:
        socket.create_server((host, port)).close()
    except OSError:
        return False
    return True


def _free_port(host: str, taken: set[int]) -> int:
    while True:
        with socket.create_server((host, 0)) as probe:
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port
