"""`gdah`, against processes that answer like a mount."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mountfs import registry, tool
from mountfs.tools import tool_flush

HERE = Path(__file__).parent


class MountProcess:
    """A process like a mount on `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.page.fake_view", self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parent.parent,
        )
        self.url = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def connect(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        assert self._line() == "done"

    def write(self, path: str, data: bytes) -> None:
        httpx.put(f"{self.url}/api/file", params={"path": path}, content=data).raise_for_status()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No mount of the user who runs the tests is seen or touched."""
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "_system_runtime", lambda: run)
    monkeypatch.delenv("GDAH_STATUS_ADDR", raising=False)
    monkeypatch.delenv("GDAH_TOKEN_FILE", raising=False)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], MountProcess]]:
    started: list[MountProcess] = []

    def begin(name: str = "test_chamber") -> MountProcess:
        started.append(MountProcess(tmp_path / name))
        return started[-1]

    yield begin
    for process in started:
        process.close()


def test_status_finds_the_one_mount(start: Callable[..., MountProcess], capsys: pytest.CaptureFixture[str]) -> None:
    mount = start()
    assert tool.main(["status"]) == 0
    said = capsys.readouterr().out
    assert "http://127.0.0.1:7001 (answers in 0.4 ms)" in said
    assert "copies     2/2" in said
    assert "pending    nothing" in said
    assert mount.url in said
    assert tool.main(["status", "--json", mount.directory]) == 0
    assert json.loads(capsys.readouterr().out)["copies"] == "2/2"
    assert tool.main(["status", "--status-addr", mount.url.removeprefix("http://")]) == 0


def test_status_without_servers(start: Callable[..., MountProcess], capsys: pytest.CaptureFixture[str]) -> None:
    mount = start()
    mount.connect("down")
    mount.write("a\x1b[31mred.txt", b"1234")
    mount.write("plain.txt", b"")
    assert tool.main(["status"]) == 0
    said = capsys.readouterr().out
    assert "no server answers" in said
    assert "2 changes, 4 B" in said
    assert "connection refused" in said
    assert "DOWN" in said
    assert tool.main(["pending"]) == 0
    said = capsys.readouterr().out
    assert "a\\x1b[31mred.txt" in said
    assert "\x1b" not in said
    assert tool.main(["pending", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == 2


def test_conflicts(start: Callable[..., MountProcess], capsys: pytest.CaptureFixture[str]) -> None:
    start()
    assert tool.main(["conflicts"]) == 0
    assert "no conflicts" in capsys.readouterr().out


def test_several_mounts_must_be_named(start: Callable[..., MountProcess], capsys: pytest.CaptureFixture[str]) -> None:
    one, two = start("one"), start("two")
    assert tool.main(["status"]) == 2
    said = capsys.readouterr().err
    assert one.directory in said
    assert two.directory in said
    assert tool.main(["status", one.directory]) == 0
    assert one.url in capsys.readouterr().out


def test_flush(start: Callable[..., MountProcess], capsys: pytest.CaptureFixture[str]) -> None:
    mount = start()
    assert tool.main(["flush"]) == 0
    mount.connect("down")
    mount.write("a", b"12")
    assert tool.main(["flush"]) == 3
    assert "still only here: 1 changes, 2 B" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pending", "servers", "words"),
    [
        ({"operations": 0, "not_everywhere_operations": 0}, (), None),
        ({}, (), None),
        (
            {"operations": 3, "not_everywhere_operations": 5, "last_error": "refused"},
            ({"url": "http://a", "healthy": True},),
            "3 changes are only on this device (refused)",
        ),
        (
            {"operations": 0, "not_everywhere_operations": 5},
            ({"url": "http://a", "healthy": True}, {"url": "http://b", "healthy": False}),
            "5 changes are on a server, and not on every one; no answer from http://b",
        ),
    ],
)
def test_what_a_flush_waits_for(pending: dict[str, Any], servers: Any, words: str | None) -> None:
    assert tool_flush.waits_for({"pending": pending, "servers": servers}) == words


def test_flush_waits_for_a_server(start: Callable[..., MountProcess]) -> None:
    mount = start()
    mount.connect("down")
    mount.write("a", b"12")
    code = "import sys; from mountfs import tool; sys.exit(tool.main(['flush', '--wait', sys.argv[1]]))"
    waiting = subprocess.Popen([sys.executable, "-c", code, mount.directory], cwd=HERE.parent.parent)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1.5)
    mount.connect("up")
    assert waiting.wait(30) == 0


def test_brake(start: Callable[..., MountProcess], capsys: pytest.CaptureFixture[str]) -> None:
    mount = start()
    assert tool.main(["brake"]) == 0
    assert capsys.readouterr().out == "nothing is held; the limit is 5000 deletions in 60 s, or 50 % of all\n"
    assert tool.main(["brake", "--discard"]) == 0
    assert capsys.readouterr().out == "nothing is held\n"
    mount.connect("hold")
    assert tool.main(["status"]) == 0
    assert "HELD       1 deletions, held for 90 s (more than 5000 deletions within 60 s); see: gdah brake" in (
        capsys.readouterr().out
    )
    assert tool.main(["flush", "--wait"]) == 0
    assert "but for 1 that the brake holds; see: gdah brake" in capsys.readouterr().out
    assert tool.main(["brake"]) == 0
    said = capsys.readouterr().out
    for words in ("Fotos", "gdah brake --confirm", "gdah brake --discard", "this device only"):
        assert words in said
    assert tool.main(["brake", "--discard"]) == 0
    assert "1 deletions were taken back" in capsys.readouterr().out
    mount.connect("hold")
    assert tool.main(["brake", "--json", mount.directory]) == 0
    assert json.loads(capsys.readouterr().out)["operations"] == 1
    assert tool.main(["brake", "--confirm"]) == 0
    assert "confirmed: 1 changes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        tool.main(["brake", "--confirm", "--discard"])


def test_unmount_says_what_is_held(start: Callable[..., MountProcess], capsys: pytest.CaptureFixture[str]) -> None:
    mount = start()
    mount.connect("hold")
    assert tool.main(["unmount", mount.directory]) == 3
    said = capsys.readouterr().err
    assert "1 changes are held by the brake" in said
    assert "/where/the/cache/is" in said
    assert "gdah brake --confirm" in said


def test_unmount(start: Callable[..., MountProcess], capsys: pytest.CaptureFixture[str]) -> None:
    mount = start()
    assert tool.main(["unmount", mount.directory]) == 0
    assert "is unmounted" in capsys.readouterr().out
    assert mount.process.wait(20) == 0
    assert registry.mounts() == []


def test_unmount_says_what_is_only_here(start: Callable[..., MountProcess], capsys: pytest.CaptureFixture[str]) -> None:
    mount = start()
    mount.connect("down")
    mount.write("a", b"12")
    assert tool.main(["unmount", mount.directory]) == 3
    said = capsys.readouterr().err
    assert "1 changes" in said
    assert "/where/the/cache/is" in said


def test_a_mount_that_was_killed(start: Callable[..., MountProcess], capsys: pytest.CaptureFixture[str]) -> None:
    mount = start()
    mount.process.send_signal(signal.SIGKILL)
    mount.process.wait()
    assert tool.main(["status", mount.directory]) == 1
    assert "has died" in capsys.readouterr().err
    assert tool.main(["unmount", mount.directory]) == 0
    assert registry.mounts() == []


def test_a_stopped_mount_is_ended_by_force(
    start: Callable[..., MountProcess], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "UNMOUNT_LIMIT_S", 1.0)
    mount = start()
    mount.process.send_signal(signal.SIGSTOP)
    assert tool.main(["unmount", mount.directory]) == 1
    assert "--force" in capsys.readouterr().err
    assert tool.main(["unmount", "--force", mount.directory]) == 0
    assert mount.process.wait(20) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["status"], 1, "gdah-mount DIR --server URL"),
        (["status", "/no/such/folder"], 1, "no mount on /no/such/folder"),
        (["unmount", "/no/such/folder"], 1, "nothing is mounted"),
        (["unmount", "/proc"], 2, "another kind"),
        (["status", "--status-addr", "nonsense"], 2, "HOST:PORT"),
        (["status", "--status-addr", "127.0.0.1:99999"], 2, "HOST:PORT"),
        (["status", "--token-file", "/no/such/file", "--status-addr", "127.0.0.1:1"], 2, "/no/such/file"),
        (["up", "--ports", "7001,x"], 2, "7001,7002"),
        (["up", "--ports", "7001,7001"], 2, "7001,7002"),
        (["up", "--status-addr", "nonsense", "--data", "{tmp}/d"], 2, "HOST:PORT"),
    ],
)
def test_errors_say_the_next_step(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = [word.format(tmp=tmp_path) for word in arguments]
    assert tool.main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("gdah: ")
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [[], ["resolve"], ["history"], ["status", "--no-such"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main(arguments)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_help_promises_only_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for later in ("resolve", "history", "restore", "pin"):
        assert later not in said


def test_words() -> None:
    assert tool.size_words(0) == "0 B"
    assert tool.size_words(999) == "999 B"
    assert tool.size_words(1500) == "1.5 kB"
    assert tool.size_words(3_200_000_000_000) == "3.2 TB"
    assert tool.age_words(90) == "90 s"
    assert tool.age_words(600) == "10 min"
    assert tool.age_words(7200) == "2 h"
    assert tool.age_words(400_000) == "5 days"
    assert tool.printable("a\nb\udcff\u202e") == "a\\x0ab\\xff\\u202e"
    assert tool.printable("açaí 日本") == "açaí 日本"


def test_records(tmp_path: Path) -> None:
    record = registry.record_here(tmp_path / "m", "http://127.0.0.1:7000/", servers=("http://a", "http://b"))
    path = registry.register(record)
    assert path.stat().st_mode & 0o777 == 0o600
    assert registry.find(tmp_path / "m") == record
    assert record.alive
    assert registry.mounts() == [record]
    path.write_text("rubbish")
    assert registry.find(tmp_path / "m") is None
    assert registry.mounts() == []
    registry.register(record)
    registry.unregister(tmp_path / "m")
    assert registry.find(tmp_path / "m") is None


def test_another_mounts_record_is_left_alone(tmp_path: Path, start: Callable[..., MountProcess]) -> None:
    mount = start()
    registry.unregister(mount.directory)
    assert registry.find(mount.directory) is not None
