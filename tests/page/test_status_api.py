"""The JSON interface: what it answers, what it refuses, and that nobody's name breaks it."""

from __future__ import annotations

import re
import socket
import sqlite3
import threading
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from gdah_volume.errors import NoSpace
from mountfs.web.status import StatusServer
from tests.page.fake_view import FakeView

ODD_NAMES = [
    "plain.txt",
    "with space & plus+.txt",
    'quo"te\\back.txt',
    "<img src=x onerror=alert(1)>.html",
    "açaí 日本.txt",
    "new\nline\r\nX-Evil: 1.txt",
    "percent%2F%00.txt",
    "semi;colon='q'.txt",
    "\udcff\udc80raw.bin",
    "\u202egnp.exe",
    "#hash?query",
]


def at(path: str) -> str:
    return "path=" + quote(path.encode("utf-8", "surrogateescape"), safe="")


def test_files_lists_a_folder(http: httpx.Client, view: FakeView) -> None:
    view.add("a", None)
    view.add("a/b.txt", b"hello")
    view.add("c.txt", b"")
    root = http.get("/api/files").json()
    assert [item["name"] for item in root["items"]] == ["a", "c.txt"]
    assert root["total"] == 2
    (item,) = http.get("/api/files?path=a").json()["items"]
    assert item["path"] == "a/b.txt"
    assert item["size"] == 5
    assert item["state"] == "synced"
    assert item["is_dir"] is False
    assert len(http.get("/api/files?recursive=true").json()["items"]) == 3
    assert len(http.get("/api/files?recursive=true&limit=1").json()["items"]) == 1


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_goes_up_and_comes_down(http: httpx.Client, view: FakeView, name: str) -> None:
    answer = http.put(f"/api/file?{at(name)}", content=b"data of it")
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == name
    assert view.contents[name] == b"data of it"
    assert http.get("/api/files").json()["items"][0]["name"] == name
    down = http.get(f"/api/file?{at(name)}")
    assert down.content == b"data of it"
    disposition = down.headers["content-disposition"]
    assert re.fullmatch(r"attachment; filename=\"[ -~]*\"; filename\*=UTF-8''[A-Za-z0-9%._~-]+", disposition)
    assert "X-Evil" not in down.headers
    assert http.delete(f"/api/file?{at(name)}").status_code == 200
    assert not view.items


def test_a_download_is_never_a_page(http: httpx.Client, view: FakeView) -> None:
    view.add("evil.html", b"<script>alert(1)</script>")
    down = http.get("/api/file?path=evil.html")
    assert down.headers["content-type"] == "application/octet-stream"
    assert down.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in down.headers["content-security-policy"]
    assert down.headers["content-length"] == "25"


def test_a_large_upload_passes_in_pieces(http: httpx.Client, view: FakeView) -> None:
    size = 24 << 20

    def body() -> Any:
        for _ in range(size >> 20):
            yield b"p" * (1 << 20)

    assert http.put("/api/file?path=big", content=body()).json()["size"] == size
    assert view.largest_piece <= 1 << 20
    with http.stream("GET", "/api/file?path=big") as down:
        assert sum(len(piece) for piece in down.iter_bytes()) == size


def test_a_form_brings_several_files(http: httpx.Client, view: FakeView) -> None:
    view.add("in", None)
    files = [
        ("file", ("one.txt", b"1" * 300_000)),
        ("file", ('t"wo ç.txt', b"")),
        ("ignored", (None, b"a field")),
    ]
    answer = http.post("/api/upload?path=in", files=files)
    assert answer.status_code == 201, answer.text
    assert [item["path"] for item in answer.json()["items"]] == ["in/one.txt", 'in/t"wo ç.txt']
    assert view.contents["in/one.txt"] == b"1" * 300_000


FORM = {"content-type": "multipart/form-data; boundary=XX"}


def form(name: str, *, end: bytes = b"\r\n--XX--\r\n") -> bytes:
    head = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n'
    return head % name.encode() + b"content" + end


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (form("cut.txt", end=b""), FORM),
        (form("a/b.txt"), FORM),
        (form(".."), FORM),
        (form(""), FORM),
        (form("n" * 256), FORM),
        (b"--XX\r\n\r\nno file\r\n--XX--\r\n", FORM),
        (b"rubbish", FORM),
        (b"", FORM),
        (b"--XX\r\nX: " + b"h" * 20_000, FORM),
        (form("x.txt"), {"content-type": "multipart/form-data"}),
        (form("x.txt"), {"content-type": "text/plain"}),
        (form("x.txt"), {**FORM, "content-encoding": "gzip"}),
    ],
)
def test_a_bad_form_stores_nothing(http: httpx.Client, view: FakeView, body: bytes, headers: dict[str, str]) -> None:
    answer = http.post("/api/upload", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["message"]
    assert not view.items


def test_a_cut_upload_stores_nothing(server: StatusServer, view: FakeView) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"PUT /api/file?path=cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"200" in raw.recv(4096)
    assert "cut" not in view.items


BAD_PATHS = ["..", "a/../b", "./a", "a//b", "a%00b", "n" * 256, "/".join(["d" * 200] * 30)]


@pytest.mark.parametrize("path", BAD_PATHS)
@pytest.mark.parametrize(
    ("method", "route"),
    [("GET", "file"), ("PUT", "file"), ("POST", "mkdir"), ("DELETE", "file"), ("GET", "files")],
)
def test_a_bad_path_is_refused(http: httpx.Client, view: FakeView, method: str, route: str, path: str) -> None:
    answer = http.request(method, f"/api/{route}?path={path}")
    assert answer.status_code == 400, answer.text
    assert answer.json()["message"]
    assert not view.items


@pytest.mark.parametrize(
    ("method", "url", "http_status"),
    [
        ("GET", "/api/file", 400),
        ("GET", "/api/file?path=", 400),
        ("GET", "/api/file?path=a&path=b", 400),
        ("GET", "/api/file?path=none", 404),
        ("GET", "/api/file?path=folder", 409),
        ("GET", "/api/files?path=none", 404),
        ("GET", "/api/files?path=file", 409),
        ("GET", "/api/files?limit=0", 400),
        ("GET", "/api/files?recursive=perhaps", 400),
        ("PUT", "/api/file?path=folder", 409),
        ("POST", "/api/mkdir?path=folder", 409),
        ("DELETE", "/api/file?path=none", 404),
        ("DELETE", "/api/file?path=/", 400),
        ("POST", "/api/move?path=file", 400),
        ("POST", "/api/move?path=none&to=x", 404),
        ("POST", "/api/move?path=file&to=folder", 409),
        ("POST", "/api/move?path=file&to=../x", 400),
        ("POST", "/api/flush?timeout_s=-1", 400),
        ("POST", "/api/flush?timeout_s=nan", 400),
        ("GET", "/api/nothing", 404),
        ("GET", "/page/../status.py", 404),
        ("GET", "/page/%2e%2e%2fstatus.py", 404),
        ("DELETE", "/api/files", 405),
        ("GET", "/api/pull", 405),
    ],
)
def test_bad_requests_have_reasons(http: httpx.Client, view: FakeView, method: str, url: str, http_status: int) -> None:
    view.add("folder", None)
    view.add("file", b"1")
    answer = http.request(method, url)
    assert answer.status_code == http_status, answer.text
    assert answer.json()["message"]
    assert set(view.items) == {"folder", "file"}


def test_mkdir_move_delete(http: httpx.Client, view: FakeView) -> None:
    assert http.post("/api/mkdir?path=d").status_code == 201
    http.put("/api/file?path=d/x", content=b"1")
    assert http.post("/api/move?path=d&to=e").json() == {"status": "ok"}
    assert set(view.items) == {"e", "e/x"}
    assert http.delete("/api/file?path=e").status_code == 200
    assert not view.items


def test_content_in_no_copy_is_an_error_before_the_download(http: httpx.Client, view: FakeView) -> None:
    view.add("gone", b"1234")
    view.lost.add("gone")
    answer = http.get("/api/file?path=gone")
    assert answer.status_code == 503
    assert answer.json()["error"] == "ContentUnavailable"


def test_an_upload_without_room_says_so(http: httpx.Client, view: FakeView, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, pieces: Any) -> Any:
        next(pieces)
        raise NoSpace("the change log has reached its limit: wait for a server or make room")

    monkeypatch.setattr(view, "write_file", full)
    answer = http.put("/api/file?path=big", content=b"p" * (4 << 20))
    assert answer.status_code == 507
    assert "make room" in answer.json()["message"]
    assert http.get("/healthz").status_code == 200


def test_pending_and_conflicts(http: httpx.Client, view: FakeView) -> None:
    view.add("a (conflict pc 1).txt", b"2", state="conflict")
    view.connect(False)
    http.put("/api/file?path=new.txt", content=b"12345")
    http.post("/api/move?path=new.txt&to=newer.txt")
    pending = http.get("/api/pending").json()
    assert pending["total"] == 2
    assert pending["items"][0]["type"] == "created"
    assert pending["items"][0]["bytes"] == 5
    assert pending["items"][0]["last_error"] == "connection refused"
    assert pending["items"][1]["dest"] == "newer.txt"
    assert http.get("/api/pending?limit=1").json()["total"] == 2
    assert http.get("/api/conflicts").json()["items"][0]["state"] == "conflict"


def test_flush(http: httpx.Client, view: FakeView) -> None:
    assert http.post("/api/flush").json()["status"] == "ok"
    view.connect(False)
    http.put("/api/file?path=x", content=b"1")
    answer = http.post("/api/flush?timeout_s=1")
    assert answer.status_code == 502
    assert answer.json()["pending"] == 1


def test_what_the_brake_holds_is_decided(http: httpx.Client, view: FakeView) -> None:
    for path in ("a/1", "a/2", "b"):
        view.add(path, b"x")
        view.hold(path)
    held = http.get("/status").json()["held"]
    assert (held["operations"], held["folders"][0]) == (3, {"path": "a", "deletions": 2})
    assert "gdah_mount_held_operations 3.0" in http.get("/metrics").text
    assert http.post("/api/flush").json()["held"] == 3
    assert http.post("/api/brake").status_code == 400
    assert http.post("/api/brake?do=nothing").status_code == 400
    assert http.post("/api/brake?do=discard", headers={"origin": "http://evil.example"}).status_code == 403
    assert len(view.held) == 3
    assert http.post("/api/brake?do=discard").json() == {"status": "ok", "operations": 3}
    assert set(view.items) == {"a/1", "a/2", "b"}
    view.hold("b")
    assert http.post("/api/brake?do=confirm").json()["operations"] == 1
    assert "b" not in view.items


def test_unmount_says_what_is_only_here(http: httpx.Client, view: FakeView) -> None:
    view.connect(False)
    http.put("/api/file?path=x", content=b"1")
    assert http.post("/api/unmount").json()["pending"] == 1
    assert view.unmounted.is_set()


def test_monitors(http: httpx.Client, view: FakeView) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").status_code == 200
    view.connect(False)
    assert http.get("/readyz").json() == {"ready": True, "connected": False}
    http.put("/api/file?path=x", content=b"123")
    status = http.get("/status").json()
    assert status["pending"]["operations"] == 1
    http.get("/api/nothing")
    metrics = http.get("/metrics").text
    for line in (
        "gdah_mount_connected 0.0",
        "gdah_mount_pending_operations 1.0",
        "gdah_mount_pending_bytes 3.0",
        "gdah_mount_copies_held 0.0",
        "gdah_mount_copies_wanted 2.0",
        'gdah_mount_server_healthy{url="http://127.0.0.1:7001"} 0.0',
        'gdah_mount_http_answers_total{class="4xx"} ',
    ):
        assert line in metrics


def test_a_bug_is_a_plain_500(http: httpx.Client, view: FakeView, caplog: pytest.LogCaptureFixture) -> None:
    view.status_error = RuntimeError("secret detail")
    answer = http.get("/status")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "request failed" in caplog.text


def test_openapi_and_docs_need_no_foreign_asset(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/api/files", "/api/file", "/status", "/api/pull", "/change_log.json"} <= set(paths)
    docs = http.get("/docs").text
    assert "http://" not in docs
    assert "https://" not in docs


def test_many_at_once(http: httpx.Client, view: FakeView) -> None:
    view.add("x", b"d" * 200_000)
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            if http.get("/api/file?path=x").content != view.contents["x"]:
                wrong.append(number)
            http.put(f"/api/file?path=n{number}", content=b"w" * 100_000).raise_for_status()
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(view.items) == 25


def test_a_disk_that_cannot_be_read_is_said_in_words(http: httpx.Client, view: FakeView, caplog: Any) -> None:
    """Found by the fire drill (seed 10000): the status was a 500, and the log a traceback."""
    view.status_error = sqlite3.DatabaseError("database disk image is malformed")
    answer = http.get("/status")
    assert answer.status_code == 503
    assert answer.json()["error"] == "StorageFailed"
    assert "see its disk" in answer.json()["message"]
    assert "Traceback" not in caplog.text
