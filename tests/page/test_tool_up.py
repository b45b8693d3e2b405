"""`gdah up` with stand-ins for the servers and the mount: the order, the messages, and that nothing stays behind."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gdah_volume.errors import Unavailable
from mountfs.fuse import mountpoint
from mountfs.tools import tool_up
from mountfs.tools.tool_up import Terminal, Up, Wanted

STAND_IN = """
import http.server, json, os, signal, sys
words = sys.argv[1:]
def after(flag):
    return words[words.index(flag) + 1]
port = int(after("--status-addr").rpartition(":")[2]) if "--status-addr" in words else int(after("--port"))
role = "mount" if "--status-addr" in words else "server"
if os.environ.get("BREAK") == role:
    sys.exit("no room in the inn")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"connected": True, "server": "S", "copies": "2/2", "pending": {}}).encode())
    def log_message(self, *_):
        pass
def end(*_):
    with open(os.environ["ENDED"], "a") as stream:
        stream.write(role + "\\n")
    print("said at the end", flush=True)
    os._exit(int(os.environ.get("EXIT", "0")) if role == "mount" else 0)
signal.signal(signal.SIGTERM, end)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Up, io.StringIO]]:
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    monkeypatch.setenv("ENDED", str(tmp_path / "ended"))
    monkeypatch.setattr(tool_up, "_program", lambda _script, _module: [sys.executable, str(program)])
    monkeypatch.setattr(mountpoint, "is_mounted", lambda _path: True)
    monkeypatch.setattr(mountpoint, "unmount", lambda _path, **_options: None)

    def make() -> tuple[Up, io.StringIO]:
        said = io.StringIO()
        wanted = Wanted(tmp_path / "test_chamber", tmp_path / "data", f"127.0.0.1:{_free()}", (_free(), _free()))
        return Up(wanted, Terminal(said)), said

    return make


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _when(condition: Callable[[], bool], act: Callable[[], None]) -> None:
    """Acts from a thread as soon as the condition holds; the test itself runs in the main thread, as signals need."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        act()

    threading.Thread(target=wait, daemon=True).start()


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _nothing_runs(made: Up) -> bool:
    return not any(child.running for child in [*made.servers, *([made.mount] if made.mount else [])])


def test_up_and_ctrl_c(up: Callable[..., tuple[Up, io.StringIO]], tmp_path: Path) -> None:
    made, said = up()
    _when(lambda: "copies 2/2" in said.getvalue(), _interrupt)
    assert made.run() == 0
    assert (tmp_path / "ended").read_text().split() == ["mount", "server", "server"]
    assert _nothing_runs(made)
    text = said.getvalue()
    assert str(tmp_path / "test_chamber") in text
    assert "Page" in text
    assert "S · copies 2/2 · nothing pending" in text
    assert "nothing is running or mounted" in text


def test_ports_that_are_taken(up: Callable[..., tuple[Up, io.StringIO]]) -> None:
    made, said = up()
    with socket.create_server(("127.0.0.1", made.wanted.ports[0])):
        _when(lambda: "copies 2/2" in said.getvalue(), _interrupt)
        assert made.run() == 0
    assert f"Port {made.wanted.ports[0]} is taken" in said.getvalue()
    assert made.servers[0].url not in made.servers[0].command
    assert made.servers[0].url in made.servers[1].command


def test_only_one_at_a_time(up: Callable[..., tuple[Up, io.StringIO]]) -> None:
    made, said = up()
    second, _ = up()
    refused: list[str] = []

    def try_second() -> None:
        try:
            second._take_lock()
        except Unavailable as error:
            refused.append(str(error))
        _interrupt()

    _when(lambda: "copies 2/2" in said.getvalue(), try_second)
    assert made.run() == 0
    assert f"pid {os.getpid()}" in refused[0]


@pytest.mark.parametrize("role", ["server", "mount"])
def test_a_part_that_does_not_start(
    up: Callable[..., tuple[Up, io.StringIO]], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setenv("BREAK", role)
    made, _ = up()
    with pytest.raises(Unavailable, match="no room in the inn"):
        made.run()
    assert _nothing_runs(made)


def test_a_server_that_dies_is_told_with_the_way_back(up: Callable[..., tuple[Up, io.StringIO]]) -> None:
    made, said = up()

    def kill() -> None:
        made.servers[1].process.kill()

    _when(lambda: "copies 2/2" in said.getvalue(), kill)
    _when(lambda: "SIGKILL" in said.getvalue(), _interrupt)
    assert made.run() == 0
    assert "start it again with" in said.getvalue()
    assert f"--peer {made.servers[0].url}" in said.getvalue()


def test_a_mount_that_dies_ends_it_all(up: Callable[..., tuple[Up, io.StringIO]]) -> None:
    made, said = up()

    def kill() -> None:
        assert made.mount is not None
        made.mount.process.kill()

    _when(lambda: "copies 2/2" in said.getvalue(), kill)
    assert made.run() == 1
    assert "The mount was killed by SIGKILL" in said.getvalue()
    assert _nothing_runs(made)


def test_what_is_only_here_is_said(up: Callable[..., tuple[Up, io.StringIO]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXIT", "3")
    made, said = up()
    _when(lambda: "copies 2/2" in said.getvalue(), _interrupt)
    assert made.run() == 3
    assert "said at the end" in said.getvalue()


@pytest.mark.parametrize("code", [0, 3])
def test_an_unmount_from_outside_ends_it_all(
    up: Callable[..., tuple[Up, io.StringIO]], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setenv("EXIT", str(code))
    made, said = up()

    def unmount() -> None:
        assert made.mount is not None
        made.mount.process.terminate()

    _when(lambda: "copies 2/2" in said.getvalue(), unmount)
    assert made.run() == code
    assert "The folder was unmounted." in said.getvalue()
    assert ("said at the end" in said.getvalue()) is bool(code)
    assert _nothing_runs(made)
