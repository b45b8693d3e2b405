"""The interface of the system that gdah replaces, as its programs knew it."""

from __future__ import annotations

import base64
import re
import socket
from dataclasses import replace

import httpx

from mountfs.web.status_original import changes_of, local_time
from tests.page.fake_view import FakeView


def test_status(http: httpx.Client, view: FakeView) -> None:
    view.add("sub", None)
    view.add("sub/a.txt", b"1", mtime_ns=1_748_697_027_500_000_000)
    assert http.get("/api/status").json() == {
        "pending": [],
        "files": [
            {"path": "test_chamber/sub", "is_directory": True, "status": "synced"},
            {
                "path": "test_chamber/sub/a.txt",
                "is_directory": False,
                "status": "synced",
                "mtime": 1748697027.5,
            },
        ],
        "peer_connected": True,
    }


def test_change_log(http: httpx.Client, view: FakeView) -> None:
    view.connect(False)
    http.post("/api/mkdir?path=d")
    content = bytes(range(256)) * 1500
    http.put("/api/file?path=d/a.bin", content=content)
    http.put("/api/file?path=empty", content=b"")
    http.post("/api/move?path=empty&to=moved")
    http.put("/api/file?path=gone", content=b"1")
    http.delete("/api/file?path=gone")
    log = http.get("/change_log.json").json()
    assert [(change["type"], change["src"]) for change in log] == [
        ("created", "test_chamber/d"),
        ("created", "test_chamber/d/a.bin"),
        ("created", "test_chamber/empty"),
        ("moved", "test_chamber/empty"),
        ("created", "test_chamber/gone"),
        ("deleted", "test_chamber/gone"),
    ]
    for change in log:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", change["timestamp"])
        assert change["origin"] == f"user-{socket.gethostname()}"
    assert log[0]["is_directory"] is True
    assert "content" not in log[0]
    assert base64.b64decode(log[1]["content"]) == content
    assert log[3]["dest"] == "test_chamber/moved"
    assert "content" not in log[4]
    status = http.get("/api/status").json()
    assert status["peer_connected"] is False
    assert [change["src"] for change in status["pending"]] == [change["src"] for change in log]


def test_equal_events_within_half_a_second_count_once(view: FakeView) -> None:
    view.connect(False)
    view.write_file("a", iter([b"1"]))
    (first,) = view.pending()
    times_ms = (0, 100, 400, 800, 1400)
    pending = [replace(first, time_ns=first.time_ns + ms * 1_000_000) for ms in times_ms]
    other = replace(first, path="b")
    kept = changes_of([*pending[:3], other, *pending[3:]], "f", "user-x")
    assert [(change.fields["src"], change.item.time_ns - first.time_ns) for change in kept] == [
        ("f/a", 0),
        ("f/b", 0),
        ("f/a", 1_400_000_000),
    ]


def test_times_always_have_microseconds() -> None:
    assert local_time(1_748_697_027_000_000_000).endswith(".000000")
    assert local_time(1_748_697_027_999_999_999).endswith(".999999")


def test_pull_and_push(http: httpx.Client, view: FakeView) -> None:
    for action in ("pull", "push"):
        answer = http.post(f"/api/{action}")
        assert answer.status_code == 200
        assert answer.json()["status"] == "ok"
        assert answer.json()["message"]
    view.connect(False)
    for action in ("pull", "push"):
        answer = http.post(f"/api/{action}")
        assert answer.status_code == 502
        assert answer.json()["status"] == "error"
        assert "no server" in answer.json()["message"]
