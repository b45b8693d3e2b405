"""`gdah up` for real: it starts all, Ctrl-C or a kill of itself ends all, and what was written is there next time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gdah_drill.hands import Hands
from gdah_drill.processes import free_port
from gdah_drill.waiting import wait_until
from mountfs.fuse import mountpoint

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(240)]

ROOT = Path(__file__).parent.parent.parent


class RunningUp:
    def __init__(self, folder: Path) -> None:
        self.directory = folder / "test_chamber"
        self.data = folder / "data"
        self._log = folder / "up.log"
        words = ["--dir", self.directory, "--data", self.data, "--status-addr", f"127.0.0.1:{free_port()}"]
        words += ["--ports", f"{free_port()},{free_port()}"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mountfs.tool", "up", *map(str, words)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                start_new_session=True,
            )
        self._hands: Hands | None = None

    def wait(self) -> RunningUp:
        wait_until(lambda: self.ended() or "Ctrl-C" in self.said(), "it is up", 90)
        assert not self.ended(), self.said()
        return self

    @property
    def hands(self) -> Hands:
        self._hands = self._hands or Hands(self.directory)
        return self._hands

    def let_go(self) -> None:
        if self._hands is not None:
            self._hands.close()
            self._hands = None

    def said(self) -> str:
        return self._log.read_text()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def parts(self) -> list[int]:
        """Pids of all processes that work for it."""
        found = []
        for place in Path("/proc").iterdir():
            if place.name.isdigit() and int(place.name) != self.process.pid:
                try:
                    command = (place / "cmdline").read_bytes()
                except OSError:
                    continue
                if os.fsencode(self.data) in command:
                    found.append(int(place.name))
        return found

    def close(self) -> None:
        self.let_go()
        if not self.ended():
            self.process.terminate()
            try:
                self.process.wait(90)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for pid in self.parts():
            os.kill(pid, signal.SIGKILL)
        mountpoint.unmount(self.directory, lazy=True)


@pytest.fixture
def start(tmp_path: Path, fuse: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], RunningUp]]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    started: list[RunningUp] = []

    def begin() -> RunningUp:
        started.append(RunningUp(tmp_path))
        return started[-1].wait()

    yield begin
    for up in started:
        up.close()


def test_up_write_ctrl_c_and_again(start: Callable[[], RunningUp]) -> None:
    up = start()
    assert len(up.parts()) == 3
    up.hands.write("a.txt", b"written the first time")
    up.let_go()
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(90) == 0, up.said()
    assert not up.parts()
    assert not mountpoint.is_mounted(up.directory)
    assert "nothing is running or mounted" in up.said()
    again = start()
    assert again.hands.read("a.txt") == b"written the first time"


def test_a_killed_server_is_told_and_the_folder_goes_on(start: Callable[[], RunningUp]) -> None:
    up = start()
    server = next(pid for pid in up.parts() if b"server-1" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(server, signal.SIGKILL)
    up.hands.write("b.txt", b"with one server")
    wait_until(lambda: "start it again with" in up.said(), "it is told")
    assert up.hands.read("b.txt") == b"with one server"
    up.let_go()
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(90) in (0, 3), up.said()
    assert not up.parts()


def test_nothing_survives_a_kill_of_up_itself(start: Callable[[], RunningUp]) -> None:
    up = start()
    up.hands.write("c.txt", b"before the kill")
    up.let_go()
    up.process.kill()
    up.process.wait()
    wait_until(lambda: not up.parts(), "all parts end", 90)
    assert not mountpoint.is_mounted(up.directory)
    assert start().hands.read("c.txt") == b"before the kill"
