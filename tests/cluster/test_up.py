"""`gdah up` (what `./dev up` runs): everything on this machine, and nothing left of it after Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster.hands import Hands
from tests.cluster.processes import Process, command_line, free_port, run_program
from tests.cluster.waiting import wait_until

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(180)]


def mounted(folder: Path) -> bool:
    return any(line.split()[1] == str(folder) for line in Path("/proc/self/mounts").read_text().splitlines())


def processes_of(data: Path) -> list[str]:
    """Command lines of everything that runs on that data folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(data) in words:
            found.append(words)
    return found


@pytest.fixture
def up(tmp_path: Path, fuse: None) -> Iterator[Process]:
    (tmp_path / "logs").mkdir()
    process = Process("up", tmp_path / "logs")
    yield process
    if process.running:
        process.kill9()
    folder = tmp_path / "test_chamber"
    if mounted(folder):
        run_program(["fusermount", "-u", "-z", folder])
    wait_until(lambda: not processes_of(tmp_path / "data"), "what was started is gone", 30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_a_folder_and_ends_without_a_trace(up: Process, tmp_path: Path, number: int) -> None:
    folder, data, port = tmp_path / "test_chamber", tmp_path / "data", free_port()
    command = [*command_line("gdah", "mountfs.tool"), "up", "--dir", str(folder), "--data", str(data)]
    command += ["--status-addr", f"127.0.0.1:{port}"]
    for round_number in range(2):
        up.start(command, tmp_path)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:

            def serves(http: httpx.Client = http) -> bool:
                up.must_run()
                return mounted(folder) and bool(http.get("/status").json()["connected"])

            wait_until(serves, "the mount serves", 60)
            hands = Hands(folder)
            hands.write(f"round {round_number}", b"text")
            assert hands.listdir() == [f"round {n}" for n in range(round_number + 1)]
            hands.close()
            wait_until(lambda http=http: http.get("/status").json()["copies"] == "2/2", "2/2")  # type: ignore[misc]
        wait_until(lambda: str(folder) in up.log_text(), "it says where everything is")
        assert up.terminate(number, 60) == 0, up.log_tail()
        assert not mounted(folder)
        assert processes_of(data) == []
    assert "Traceback" not in up.log_text()
