"""A toy file system on a real mount, in a process of its own, that is gone after the test whatever happened."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

ANSWER_S = 30.0
WATCHDOG_S = 90.0


class ToyMount:
    """`control(name, *args)` calls a method of toy_mount.Control in the mount's process. A watchdog kills that process,
    so that a test which hangs in the kernel gets ENOTCONN and fails."""

    def __init__(self, path: Path, environment: dict[str, str] | None = None, **options: Any) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuse.toy_mount", str(path), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            text=True,
        )
        self._errors: list[str] = []
        self._drain = threading.Thread(target=self._collect, daemon=True)
        self._drain.start()
        self._watchdog = threading.Timer(WATCHDOG_S, self.process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        self.greeting = self._answer()

    def control(self, name: str, *args: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *args]) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        assert "error" not in answer, answer
        return answer["result"]

    def ask(self, name: str, *args: Any) -> dict[str, Any]:
        """As `control`, but an error is the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *args]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def calls_of(self, operation: str) -> int:
        return int(self.control("calls").get(operation, 0))

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_S)
        line = self.process.stdout.readline() if ready else ""
        assert line, f"the mount's process does not answer:\n{self.errors()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _collect(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    def errors(self) -> str:
        self._drain.join(1.0 if self.process.poll() is not None else 0.0)
        return "".join(self._errors)

    def wait(self) -> int:
        return self.process.wait(ANSWER_S)

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True, timeout=ANSWER_S, check=False)
        self._watchdog.cancel()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(ANSWER_S)
        self._drain.join(ANSWER_S)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def in_mounts(path: Path) -> bool:
    with open("/proc/mounts") as mounts:
        return any(line.split(" ")[1] == str(path) for line in mounts)


@pytest.fixture
def new_toy(tmp_path: Path, fuse: None) -> Iterator[Callable[..., ToyMount]]:
    """Make mounts: `new_toy(name="m", **MountOptions, times=[entry, attributes, absent], keep_cache=True)`."""
    with ExitStack() as stack:

        def make(name: str = "m", **options: Any) -> ToyMount:
            mount = ToyMount(tmp_path / name, **options)
            stack.callback(mount.close)
            return mount

        yield make


@pytest.fixture
def toy(new_toy: Callable[..., ToyMount]) -> ToyMount:
    mount = new_toy()
    assert mount.greeting == {"result": "serving"}
    return mount


@pytest.fixture(params=["toy", "device"])
def folder(request: pytest.FixtureRequest, new_toy: Callable[..., ToyMount], tmp_path: Path) -> Path:
    """A mounted folder: of the toy, which shows that the binding is right, and of the real file system."""
    if request.param == "toy":
        return new_toy().path
    mount = new_toy(device=str(tmp_path / "device"))
    assert mount.greeting == {"result": "serving"}
    return mount.path
