"""The link against a WebSocket server that a test writes: greetings, refusals, garbage, silence, TLS, many senders."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.server import Server, ServerConnection, serve

from gdah_volume.errors import Unreachable
from gdah_volume.ids import DEFAULT_VOLUME, ROOT, Author, Epoch, OpId, ServerId
from gdah_volume.operations import Attrs, Create
from gdah_volume.stamps import ZERO
from gdah_volume.wire import (
    PROTOCOL,
    Beat,
    Failed,
    Feed,
    Hello,
    Offer,
    Submit,
    Want,
    Welcome,
    decode,
    encode,
)
from mountfs.lanes.connection import Connection
from mountfs.lanes.link import Dialler, LinkSettings
from tests.sync.live import eventually, free_port

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

AUTHOR = Author("laptop-a1b2c3-00000001")
WELCOME = Welcome(
    protocol=PROTOCOL,
    server=ServerId("s1"),
    epoch=Epoch("e1"),
    software="test",
    head=0,
    first=1,
    stable=ZERO,
    members=(),
)


class Heard:
    """LinkEvents that only note."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.link: Connection | None = None

    def on_up(self, link: Connection, welcome: Welcome) -> None:
        self.link = link
        self.events.append(("up", welcome))

    def on_down(self, link: Connection, reason: str) -> None:
        self.link = None
        self.events.append(("down", reason))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.events.append((name, *arguments[1:]))

    def kinds(self) -> list[str]:
        return [event[0] for event in self.events]


@contextlib.contextmanager
def serving(talk: Callable[[ServerConnection], None], port: int = 0, **more: Any) -> Iterator[int]:
    server: Server = serve(talk, "127.0.0.1", port, compression=None, **more)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        thread.join(10)


@contextlib.contextmanager
def dialling(
    port: int, *, scheme: str = "http", token: str | None = None, tls: ssl.SSLContext | None = None, ticks: bool = True
) -> Iterator[tuple[Dialler, Heard]]:
    heard = Heard()
    settings = LinkSettings(DEFAULT_VOLUME, AUTHOR, "laptop", "test", token, tls)
    dialler = Dialler(f"{scheme}://127.0.0.1:{port}", settings, heard)  # type: ignore[arg-type]
    dialler.start()
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.05):
            dialler.tick(time.monotonic(), beat=True, forgive=False)

    ticker = threading.Thread(target=tick, daemon=True)
    if ticks:
        ticker.start()
    try:
        yield dialler, heard
    finally:
        stop.set()
        dialler.stop()


def greet(connection: ServerConnection) -> Hello:
    hello = decode(connection.recv())
    assert isinstance(hello, Hello)
    connection.send(encode(WELCOME))
    return hello


def polite(connection: ServerConnection) -> None:
    """Greets, and echoes beats until the end."""
    greet(connection)
    for frame in connection:
        message = decode(frame)
        if isinstance(message, Beat):
            connection.send(encode(Beat(sent_us=0, echo_us=message.sent_us, head=7, digest=b"\1" * 16)))
        elif isinstance(message, Offer):
            connection.send(encode(Want(ids=())))


def test_hello_welcome_beats() -> None:
    hellos: list[Hello] = []

    def talk(connection: ServerConnection) -> None:
        hellos.append(decode(connection.recv()))  # type: ignore[arg-type]
        connection.send(encode(WELCOME))
        for frame in connection:
            beat = decode(frame)
            assert isinstance(beat, Beat)
            connection.send(encode(Beat(sent_us=0, echo_us=beat.sent_us, head=7, lag=2, trouble="disk full")))

    with serving(talk) as port, dialling(port) as (dialler, heard):
        eventually(lambda: "on_beat" in heard.kinds())
        eventually(lambda: dialler.health.latency_ms > 0)
        health = dialler.health
        assert (health.connected, health.head, health.lag_operations, health.trouble) == (True, 7, 2, "disk full")
        assert (hellos[0].role, hellos[0].author, hellos[0].volume) == ("mount", AUTHOR, DEFAULT_VOLUME)
        assert heard.link is not None
        assert heard.link.server == "s1"


def test_it_dials_until_somebody_is_there_and_again_after_a_loss() -> None:
    port = free_port()
    with dialling(port) as (dialler, heard):
        eventually(lambda: dialler.health.errors > 1)
        assert not dialler.health.connected
        with serving(polite, port):
            eventually(lambda: heard.link is not None)
            first = heard.link
            assert first is not None
            first.drop("the test wants it")
            eventually(lambda: heard.kinds().count("up") == 2)
            assert ("down", "the test wants it") in heard.events
            with pytest.raises(Unreachable):
                first.offer(())
        eventually(lambda: heard.link is None)
        assert dialler.health.error_rate > 0


def test_silence_is_the_end_whatever_tcp_says() -> None:
    over = threading.Event()

    def talk(connection: ServerConnection) -> None:
        greet(connection)
        over.wait(60)

    with serving(talk) as port, dialling(port) as (_, heard):
        eventually(lambda: "down" in heard.kinds())
        over.set()
        assert "nothing heard" in next(event[1] for event in heard.events if event[0] == "down")


def test_a_pause_of_this_process_is_not_silence_of_the_server() -> None:
    with serving(polite) as port, dialling(port, ticks=False) as (dialler, heard):
        eventually(lambda: heard.link is not None)
        assert heard.link is not None
        heard.link._heard -= 100
        dialler.tick(time.monotonic(), beat=True, forgive=True)
        eventually(lambda: "on_beat" in heard.kinds())
        assert "down" not in heard.kinds()


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (encode(Failed(code="UnknownVolume", message="no such volume")), "no such volume"),
        (encode(Welcome(**{**{f: getattr(WELCOME, f) for f in WELCOME.__struct_fields__}, "protocol": 99})), "99"),
        (encode(Feed(entries=(), everywhere=0, stable=ZERO)), "welcome"),
        (b"garbage", "not a message"),
        ("text", "not a message"),
    ],
)
def test_a_wrong_greeting_is_named_and_tried_again(first: bytes | str, said: str) -> None:
    def talk(connection: ServerConnection) -> None:
        connection.recv()
        connection.send(first)
        connection.recv()

    with serving(talk) as port, dialling(port) as (dialler, heard):
        eventually(lambda: dialler.health.errors > 1)
        assert said in (dialler.health.last_error or "")
        assert heard.events == []


@pytest.mark.parametrize(
    "later", [b"garbage", encode(Failed(code="StorageFailed", message="the disk is gone")), encode(WELCOME)]
)
def test_what_breaks_the_conversation_ends_it(later: bytes) -> None:
    def talk(connection: ServerConnection) -> None:
        greet(connection)
        connection.send(later)
        with contextlib.suppress(Exception):
            connection.recv()
            connection.recv()

    with serving(talk) as port, dialling(port) as (_, heard):
        eventually(lambda: heard.kinds().count("up") > 1)
        assert heard.kinds()[:2] == ["up", "down"]


def test_a_wrong_token_says_so() -> None:
    def check(connection: ServerConnection, request: Any) -> Any:
        if request.headers.get("Authorization") != "Bearer right":
            return connection.respond(HTTPStatus.UNAUTHORIZED, "no\n")
        return None

    with serving(polite, process_request=check) as port:
        with dialling(port, token="wrong") as (dialler, heard):
            eventually(lambda: dialler.health.last_error)
            assert "token" in (dialler.health.last_error or "")
            assert heard.events == []
        with dialling(port, token="right") as (_, heard):
            eventually(lambda: heard.link is not None)


def test_something_else_than_a_server() -> None:
    def answer(connection: ServerConnection, _request: Any) -> Any:
        return connection.respond(HTTPStatus.OK, "<html>a web page</html>\n")

    with serving(polite, process_request=answer) as port, dialling(port) as (dialler, heard):
        eventually(lambda: dialler.health.errors > 1)
        assert "200" in (dialler.health.last_error or "")
        assert heard.events == []


def test_pieces_of_a_message_are_put_together() -> None:
    def talk(connection: ServerConnection) -> None:
        greet(connection)
        whole = encode(Want(ids=tuple(OpId(f"a-bbbbbb-cccc-{i}") for i in range(1, 1000))))
        connection.send(iter([whole[:10], whole[10:5000], whole[5000:]]))
        connection.ping()
        connection.recv()

    with serving(talk) as port, dialling(port) as (_, heard):
        eventually(lambda: "on_want" in heard.kinds())
        assert len(next(event[1] for event in heard.events if event[0] == "on_want")) == 999


def submit_many(link: Connection, count: int) -> None:
    attrs = Attrs(mode=0o644, uid=1, gid=1, mtime_ns=1, atime_ns=1)

    def send(number: int) -> None:
        op = Create(
            id=OpId(f"{AUTHOR}-{number}"),
            time_ns=1,
            kind="file",
            parent=ROOT,
            name=b"n" * (number % 200 + 1),
            attrs=attrs,
        )
        link.submit(op, ZERO, (), strict=True, sync=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(1, count + 1)))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    what = ["-subj", "/CN=gdah", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *what]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


@pytest.mark.parametrize("secure", [False, True])
def test_many_threads_send_whole_messages(
    secure: bool, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mountfs.lanes.link.SILENCE_LIMIT_S", 30.0
    )  # a busy machine may stand still for longer than 0.4 s
    got: set[str] = set()

    def talk(connection: ServerConnection) -> None:
        greet(connection)
        for frame in connection:
            message = decode(frame)
            if isinstance(message, Submit):
                got.add(message.op.id)
                connection.send(encode(Want(ids=(message.op.id,))))
            elif isinstance(message, Beat):
                connection.send(encode(message))

    key, cert = certificate
    server_tls = client_tls = None
    if secure:
        server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_tls.load_cert_chain(cert, key)
        client_tls = ssl.create_default_context(cafile=str(cert))
    scheme = "https" if secure else "http"
    with serving(talk, ssl=server_tls) as port, dialling(port, scheme=scheme, tls=client_tls) as (_, heard):
        link: Connection = eventually(lambda: heard.link)
        submit_many(link, 2000)
        eventually(lambda: len(got) == 2000)
        eventually(lambda: heard.kinds().count("on_want") == 2000)


def test_a_certificate_of_somebody_else_is_refused(certificate: tuple[Path, Path]) -> None:
    key, cert = certificate
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(cert, key)
    with serving(polite, ssl=server_tls) as port, dialling(port, scheme="https") as (dialler, heard):
        eventually(lambda: dialler.health.errors > 0)
        assert "certificate" in (dialler.health.last_error or "").lower()
        assert heard.events == []
