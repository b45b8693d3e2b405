"""The data lane against HTTP servers that a test writes: verification, other servers, refusals, uploads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gdah_volume.content import INLINE_MAX_BYTES, Chunk, ChunkHash, hash_of
from gdah_volume.errors import (
    BadMessage,
    ContentUnavailable,
    GdahError,
    NoSpace,
    Unauthorized,
    UnknownChunk,
    Unreachable,
)
from gdah_volume.ids import DEFAULT_VOLUME
from mountfs.lanes import transfer
from mountfs.lanes.transfer import HttpTransfer, TransferSettings
from mountfs.sync.uploads import Uploads
from tests.sync.live import eventually, free_port

DATA = b"d" * 100_000
NAME = hash_of(DATA)

Answer = Callable[[BaseHTTPRequestHandler, bytes], tuple[int, bytes]]


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """(URL, requests as "METHOD path")."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, out = answer(self, body)
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(out)))
                self.end_headers()
                self.wfile.write(out)

        def do_PUT(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextlib.contextmanager
def lane(*urls: str, token: str | None = None) -> Iterator[HttpTransfer]:
    found = HttpTransfer(TransferSettings(DEFAULT_VOLUME, token), lambda: urls)
    try:
        yield found
    finally:
        found.close()


def good(_handler: BaseHTTPRequestHandler, _body: bytes) -> tuple[int, bytes]:
    return 200, DATA


def says(status: int, body: bytes) -> Answer:
    return lambda handler, sent: (status, body)


def test_fetch_is_verified_and_named_by_volume_and_hash() -> None:
    with serving(good) as (url, asked), lane(url) as data:
        assert data.fetch(NAME, len(DATA)) == DATA
        assert asked == [f"GET /v1/volumes/test_chamber/chunks/{NAME.hex()}"]


@pytest.mark.parametrize(
    "bad",
    [
        says(200, b"rot" * 100),
        says(200, b"e" * len(DATA)),
        says(404, b'{"code": "UnknownChunk", "message": "not here"}'),
        says(500, b"oops"),
        says(503, b""),
        says(422, b'{"code": "HashMismatch", "message": "damaged"}'),
    ],
)
def test_another_server_is_asked(bad: Answer) -> None:
    with serving(bad) as (one, _), serving(good) as (two, _), lane(one, two) as data:
        assert data.fetch(NAME, len(DATA)) == DATA


def test_a_server_that_hangs_or_is_gone_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "QUICK_TIMEOUT_S", 0.2)
    over = threading.Event()

    def hang(_handler: BaseHTTPRequestHandler, _body: bytes) -> tuple[int, bytes]:
        over.wait(60)
        return 200, DATA

    gone = f"http://127.0.0.1:{free_port()}"
    with serving(hang) as (one, _), serving(good) as (two, _), lane(gone, one, two) as data:
        assert data.fetch(NAME, len(DATA)) == DATA
        over.set()


def test_a_slow_server_is_better_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "QUICK_TIMEOUT_S", 0.1)

    def slow(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        time.sleep(0.4)
        return good(handler, body)

    with serving(slow) as (url, _), lane(url) as data:
        assert data.fetch(NAME, len(DATA)) == DATA


def test_a_server_that_has_just_come_back_may_get_it_yet() -> None:
    """The one that had it died; the one that is back learns of it from us or its peers in a moment."""
    answers = iter([says(404, b'{"code": "UnknownChunk", "message": "not here"}')] * 3)

    def later(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        return next(answers, good)(handler, body)

    with serving(later) as (url, asked), lane(url) as data:
        assert data.fetch(NAME, len(DATA)) == DATA
        assert len(asked) == 4


def test_a_moment_without_any_server_is_waited_for() -> None:
    with serving(good) as (url, _):
        there = iter([[], [], [], [], [url]])
        settings = TransferSettings(DEFAULT_VOLUME, None)
        data = HttpTransfer(settings, lambda: next(there, [url]), lambda: 0.1)
        assert data.fetch(NAME, len(DATA)) == DATA
        data.close()


def test_without_a_copy_it_is_eio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "COMES_S", 0.0)
    with lane() as data, pytest.raises(ContentUnavailable, match="no server is reachable"):
        data.fetch(NAME, len(DATA))
    with serving(says(404, b'{"code": "UnknownChunk", "message": "x"}')) as (url, asked), lane(url, url) as data:
        with pytest.raises(ContentUnavailable):
            data.fetch(NAME, len(DATA))
        assert len(asked) <= 2, "who said no is not asked again in the same round"


def test_wrong_bytes_are_counted_and_not_asked_for_again() -> None:
    with serving(says(200, b"rot")) as (url, _), lane(url) as data:
        with pytest.raises(ContentUnavailable):
            data.fetch(NAME, len(DATA))
        assert data.damaged == 1


def test_store_tells_the_copies_and_brings_the_token() -> None:
    seen: list[tuple[str | None, bytes]] = []

    def keep(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        seen.append((handler.headers.get("Authorization"), body))
        return 200, b'{"copies": 2, "of": 2}'

    with serving(keep) as (url, asked), lane(url, token="secret") as data:
        assert data.store(url, NAME, DATA, sync=False) == 2
        assert data.store(url, NAME, DATA, sync=True) == 2
        assert seen == [("Bearer secret", DATA)] * 2
        path = f"PUT /v1/volumes/test_chamber/chunks/{NAME.hex()}"
        assert asked == [path, f"{path}?sync=1"]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (507, b'{"code": "NoSpace", "message": "full"}', NoSpace),
        (507, b"", NoSpace),
        (401, b"", Unauthorized),
        (404, b'{"code": "UnknownChunk", "message": "x"}', UnknownChunk),
        (503, b"", Unreachable),
        (502, b"<html>", Unreachable),
        (400, b"[]", BadMessage),
        (200, b"[]", BadMessage),
        (200, b"copies", BadMessage),
    ],
)
def test_refusals_of_a_stored_chunk(status: int, body: bytes, kind: type[GdahError]) -> None:
    with serving(says(status, body)) as (url, _), lane(url) as data, pytest.raises(kind):
        data.store(url, NAME, DATA, sync=False)


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with serving(good) as (url, _), lane(url) as data:
        assert data.fetch(NAME, len(DATA)) == DATA


def test_a_snapshot_is_saved_to_a_file(tmp_path: Path) -> None:
    with serving(says(200, b"rows" * 1000)) as (url, asked), lane(url) as data:
        data.save_snapshot(url, tmp_path / "s")
        assert (tmp_path / "s").read_bytes() == b"rows" * 1000
        assert asked == ["GET /v1/volumes/test_chamber/snapshot"]
    with serving(says(503, b"")) as (url, _), lane(url) as data, pytest.raises(Unreachable):
        data.save_snapshot(url, tmp_path / "s")


# --- uploads


class Sink:
    """Where uploads go."""

    def __init__(self) -> None:
        self.data = {
            hash_of(bytes([i]) * (INLINE_MAX_BYTES + 1)): bytes([i]) * (INLINE_MAX_BYTES + 1) for i in range(20)
        }
        self.chunks = [Chunk(i, name, INLINE_MAX_BYTES + 1) for i, name in enumerate(self.data)]
        self.got: list[tuple[str, ChunkHash]] = []
        self.copies = 1
        self.errors: list[GdahError] = []
        self.open = threading.Event()
        self.open.set()
        self.uploads = Uploads(self.data.get, self.store, lambda: None)

    def store(self, url: str, name: ChunkHash, _data: bytes) -> int:
        self.open.wait(60)
        if self.errors:
            raise self.errors.pop()
        self.got.append((url, name))
        return self.copies


@pytest.fixture
def sink() -> Iterator[Sink]:
    found = Sink()
    yield found
    found.open.set()
    found.uploads.stop()


def test_uploads_bring_each_chunk_once(sink: Sink) -> None:
    sink.uploads.aim("u", 2)
    for chunk in sink.chunks:
        sink.uploads.hint(chunk)
        sink.uploads.hint(chunk)
    eventually(lambda: sink.uploads.lacking(sink.chunks) == [])
    assert sorted(name for _, name in sink.got) == sorted(sink.data)


def test_small_content_rides_in_its_operation(sink: Sink) -> None:
    sink.uploads.aim("u", 1)
    assert sink.uploads.lacking([Chunk(0, NAME, 10)]) == []


def test_without_an_aim_nothing_goes(sink: Sink) -> None:
    sink.uploads.hint(sink.chunks[0])
    assert not sink.uploads.busy
    assert sink.got == []


def test_another_server_gets_what_only_the_first_has(sink: Sink) -> None:
    sink.uploads.aim("u", 2)
    eventually(lambda: sink.uploads.lacking(sink.chunks[:5]) == [])
    sink.copies = 2
    eventually(lambda: sink.uploads.lacking(sink.chunks[5:10]) == [])
    sink.uploads.aim("v", 2)
    eventually(lambda: sink.uploads.lacking(sink.chunks[:10]) == [])
    assert sorted(name for url, name in sink.got if url == "v") == sorted(list(sink.data)[:5])


def test_a_server_that_hangs_does_not_keep_the_next_one_waiting(sink: Sink) -> None:
    sink.uploads.aim("u", 2)
    sink.open.clear()
    sink.uploads.lacking(sink.chunks)
    eventually(lambda: sink.uploads.busy)
    hung, sink.open = sink.open, threading.Event()
    sink.open.set()
    sink.uploads.aim("v", 2)
    eventually(lambda: sink.uploads.lacking(sink.chunks) == [])
    assert {url for url, _ in sink.got} == {"v"}
    hung.set()


def test_a_failure_that_time_may_mend_is_tried_again(sink: Sink) -> None:
    sink.errors = [Unreachable("gone"), NoSpace("full")]
    sink.uploads.aim("u", 1)
    eventually(lambda: sink.uploads.lacking(sink.chunks[:2]) == [])
    assert sink.uploads.failure(sink.data) is None


def test_a_failure_that_time_does_not_mend_is_told(sink: Sink) -> None:
    sink.errors = [BadMessage("what?")]
    sink.uploads.aim("u", 1)
    lost = Chunk(0, NAME, len(DATA))
    eventually(lambda: sink.uploads.failure(sink.uploads.lacking([sink.chunks[0]])))
    eventually(lambda: sink.uploads.failure(sink.uploads.lacking([lost])))
    assert "not readable" in str(sink.uploads.failure([NAME]))
    sink.uploads.forget([sink.chunks[0].hash])
    eventually(lambda: sink.uploads.lacking([sink.chunks[0]]) == [])
