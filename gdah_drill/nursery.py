"""Starts servers and mounts as forks of one process that has imported what they import.

Each is a process of its own in a group of its own, and runs the same `main` with its own arguments, environment, folder
and log as the command would; only the 0.7 s of imports (a quarter of the whole suite, with its 200 starts) happen
once. Programs that a test starts by their command line are not started here.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gdah_drill import launch

MAINS = {"storage-server": "storage_server.cli", "gdah-mount": "mountfs.cli"}
_HEAVY = ("storage_server.app", "mountfs.mount")
_POLL_S = 0.005


class Child:
    """As a Popen, as far as tests use one."""

    def __init__(self, nursery: Nursery, pid: int, args: Sequence[str]) -> None:
        self._nursery = nursery
        self.pid = pid
        self.args = list(args)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ask({"poll": self.pid})["code"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(_POLL_S)
        return code


class Nursery:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._stream = ours.makefile("rwb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gdah_drill.nursery", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).resolve().parent.parent,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._socket = ours
        atexit.register(self.close)

    def close(self) -> None:
        """It ends when nobody asks any more, and ends what still runs."""
        self._stream.close()
        self._socket.close()
        self._process.wait(10)

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._stream.write(json.dumps(question).encode() + b"\n")
            self._stream.flush()
            answer: dict[str, Any] = json.loads(self._stream.readline())
        return answer


_nursery: Nursery | None = None
_made = threading.Lock()


def start(argv: Sequence[str], *, log: Path, cwd: Path, env: Mapping[str, str]) -> Child:
    """`argv[0]`: the console script of a server or a mount, its folder does not matter."""
    global _nursery
    with _made:
        if _nursery is None:
            _nursery = Nursery()
    script = Path(argv[0]).name
    question = {"argv": list(argv), "module": MAINS[script], "log": str(log), "cwd": str(cwd), "env": dict(env)}
    return Child(_nursery, _nursery.ask({"start": question})["pid"], argv)


# --- the process itself


def _serve(fd: int) -> None:
    for module in (*MAINS.values(), *_HEAVY):
        importlib.import_module(module)
    codes: dict[int, int] = {}
    started: dict[int, list[str]] = {}
    connection = socket.socket(fileno=fd)
    stream = connection.makefile("rwb")
    while line := stream.readline():
        question = json.loads(line)
        if "poll" in question:
            answer = {"code": _code(question["poll"], codes)}
        else:
            pid = os.fork()
            if pid == 0:
                os.close(connection.detach())
                _become(question["start"])
            started[pid] = question["start"]["argv"]
            answer = {"pid": pid}
        stream.write(json.dumps(answer).encode() + b"\n")
        stream.flush()
    for pid, argv in started.items():
        if _code(pid, codes) is None:
            _end(pid, argv)


def _end(pid: int, argv: list[str]) -> None:
    """Whoever started it is gone (killed, or it would have ended it itself): nothing of it outlives him."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if Path(argv[0]).name == "gdah-mount":
        with contextlib.suppress(OSError):
            subprocess.run(
                ["fusermount", "-u", "-z", argv[1]], stdin=subprocess.DEVNULL, capture_output=True, check=False
            )


def _code(pid: int, codes: dict[int, int]) -> int | None:
    if pid not in codes:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            codes[pid] = os.waitstatus_to_exitcode(status)
    return codes.get(pid)


def _become(what: dict[str, Any]) -> None:
    """In the fork; ends as the command would."""
    os.setsid()
    os.chdir(what["cwd"])
    log = os.open(what["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(what["env"])
    random.seed()
    sys.argv = what["argv"]
    launch.prepare(os.environ)
    sys.exit(sys.modules[what["module"]].main())


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
