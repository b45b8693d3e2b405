"""Who may ask: other web sites in the user's browser, names pointed at loopback, machines without the token."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

from gdah_volume.errors import InvalidArgument, Unavailable
from mountfs.web.status import StatusServer, StatusSettings
from mountfs.web.status_guard import SESSIONS_MAX, Sessions, is_loopback, judge
from mountfs.web.status_page import choose_language
from tests.page.fake_view import FakeView

TOKEN = "correct-horse-battery-staple"
OPEN = Sessions(None)
HERE = {"host": "127.0.0.1:7000"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7000", "localhost", "LOCALHOST:7000", "[::1]:7000", "127.8.9.1", "localhost:8080"]
)
def test_own_names(host: str) -> None:
    assert judge("GET", "/", {"host": host}, OPEN) is None


@pytest.mark.parametrize(
    ("host", "http_status"),
    [
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:7000", 403),
        ("192.168.1.7:7000", 403),
        ("[2001:db8::1]", 403),
        ("", 400),
        ("127.0.0.1:7000, evil.example", 400),
        ("127.0.0.1/..", 400),
        ("user@127.0.0.1", 400),
    ],
)
def test_foreign_names_are_refused(host: str, http_status: int) -> None:
    refusal = judge("GET", "/", {"host": host}, OPEN)
    assert refusal is not None
    assert refusal.http_status == http_status


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "http://localhost:7000"},
        {"origin": "null"},
        {"origin": "file://127.0.0.1:7000"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:7000"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_another_site_changes_nothing(method: str, headers: dict[str, str]) -> None:
    refusal = judge(method, "/api/push", {**HERE, **headers}, OPEN)
    assert refusal is not None
    assert refusal.http_status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1:7000"},
        {"origin": "http://127.0.0.1:7000", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
def test_the_page_and_programs_may_change(headers: dict[str, str]) -> None:
    assert judge("POST", "/api/push", {**HERE, **headers}, OPEN) is None


def test_another_site_links_here_but_reads_nothing() -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert judge("GET", "/", {**HERE, **link}, OPEN) is None
    for mode, dest in (("no-cors", "script"), ("cors", "empty"), ("navigate", "iframe")):
        asked = {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode, "sec-fetch-dest": dest}
        assert judge("GET", "/api/files", {**HERE, **asked}, OPEN) is not None


def test_every_answer_has_the_headers(http: httpx.Client, view: FakeView) -> None:
    view.add("x", b"1")
    for url in ("/", "/docs", "/status", "/api/files", "/api/file?path=x", "/nothing", "/page/app.js", "/api/file"):
        headers = http.get(url).headers
        assert headers["x-content-type-options"] == "nosniff", url
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"]
        assert "server" not in headers


def test_refusals_over_http(http: httpx.Client, view: FakeView) -> None:
    assert http.get("/status", headers={"host": "evil.example"}).status_code == 403
    answer = http.put("/api/file?path=x", content=b"1", headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    assert answer.json()["error"] == "ForeignSite"
    assert not view.items


def test_a_request_without_host_is_refused(server: StatusServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        assert b" 400 " in raw.recv(4096).splitlines()[0]


def test_rubbish_is_refused(server: StatusServer) -> None:
    for rubbish in (b"\x16\x03\x01\x02rubbish\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(rubbish)
            assert b" 400 " in raw.recv(4096).splitlines()[0]


# --- off loopback


@pytest.fixture
def guarded(view: FakeView) -> Iterator[httpx.Client]:
    """As on 0.0.0.0, where the token counts; reached by another name than the loopback's."""
    server = StatusServer(view, StatusSettings(host="0.0.0.0", port=0, token=TOKEN))
    server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers={"host": "nas.home"}) as client:
        yield client
    server.stop()


def test_without_the_token_nothing_is_told(guarded: httpx.Client, view: FakeView) -> None:
    view.add("secret.txt", b"1")
    for method, url in (
        ("GET", "/"),
        ("GET", "/status"),
        ("GET", "/metrics"),
        ("GET", "/readyz"),
        ("GET", "/openapi.json"),
        ("GET", "/api/status"),
        ("GET", "/api/files"),
        ("GET", "/api/events"),
        ("GET", "/change_log.json"),
        ("POST", "/api/push"),
        ("DELETE", "/api/file?path=secret.txt"),
        ("GET", "/nothing"),
    ):
        answer = guarded.request(method, url)
        assert answer.status_code == 401, url
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "secret" not in answer.text
    assert "secret.txt" in view.items
    assert guarded.get("/healthz").status_code == 200
    for wrong in ("Bearer wrong", "Bearer", f"Basic {TOKEN}", "Bearer " + "x" * 20_000, TOKEN):
        assert guarded.get("/status", headers={"authorization": wrong}).status_code in (401, 400, 431)


def test_with_the_token(guarded: httpx.Client) -> None:
    assert guarded.get("/status", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert guarded.get("/status", headers={"authorization": f"bearer  {TOKEN}"}).status_code == 200


def test_login_by_the_page(guarded: httpx.Client) -> None:
    page = guarded.get("/", headers={"accept": "text/html"})
    assert page.status_code == 401
    assert 'action="/login"' in page.text
    wrong = guarded.post("/login", data={"token": "wrong"}, headers={"accept": "text/html"})
    assert wrong.headers["location"] == "/login?wrong"
    assert guarded.post("/login", data={"token": "wrong"}).status_code == 401
    assert guarded.post("/login", content=b"x" * 10_000).status_code == 413
    right = guarded.post("/login", data={"token": TOKEN})
    assert right.status_code == 303
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert TOKEN not in cookie
    session = {"cookie": cookie.partition(";")[0]}
    assert guarded.get("/status", headers=session).status_code == 200
    assert guarded.post("/login", data={"token": TOKEN}, headers={"origin": "http://evil"}).status_code == 403
    guarded.post("/logout", headers=session)
    assert guarded.get("/status", headers=session).status_code == 401


def test_sessions_have_a_limit() -> None:
    sessions = Sessions(TOKEN)
    first = sessions.open()
    for _ in range(SESSIONS_MAX):
        last = sessions.open()
    assert not sessions.admits({"cookie": f"gdah_session={first}"})
    assert sessions.admits({"cookie": f"gdah_session={last}"})
    assert not sessions.admits({"cookie": "gdah_session="})
    assert not sessions.admits({"cookie": "\x00=;;;"})


# --- the address


def test_a_port_in_use_names_the_next_step(server: StatusServer, view: FakeView) -> None:
    second = StatusServer(view, StatusSettings(port=server.port))
    with pytest.raises(Unavailable, match=r"in use.*--status-addr"):
        second.start()
    second.stop()


def test_off_loopback_needs_a_token(view: FakeView) -> None:
    with pytest.raises(InvalidArgument, match="--token-file"):
        StatusServer(view, StatusSettings(host="0.0.0.0", port=0)).start()


def test_addresses_that_are_none(view: FakeView) -> None:
    with pytest.raises((InvalidArgument, Unavailable), match="--status-addr"):
        StatusServer(view, StatusSettings(host="192.0.2.1", port=0, token=TOKEN)).start()


def test_stop_ends_open_streams_and_frees_the_port(view: FakeView) -> None:
    server = StatusServer(view, StatusSettings(port=0))
    server.start()
    with httpx.stream("GET", server.url + "/api/events", timeout=20) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.stop()
        assert all(line is not None for line in lines)
    again = StatusServer(view, StatusSettings(port=server.port))
    again.start()
    again.stop()


def test_loopback_names() -> None:
    assert is_loopback("localhost")
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.org")
    assert not is_loopback("")


@pytest.mark.parametrize(
    ("chosen", "accepted", "language"),
    [
        ("", "", "en"),
        ("", "pt-BR,pt;q=0.9,en;q=0.8", "pt-BR"),
        ("", "pt", "pt-BR"),
        ("", "de, pt;q=0.3, en;q=0.7", "en"),
        ("", "en;q=0, pt;q=0.1", "pt-BR"),
        ("pt-BR", "en", "pt-BR"),
        ("en", "pt", "en"),
        ("<script>", "pt", "pt-BR"),
        ("", "pt;q=wrong", "en"),
        ("", "," * 100_000, "en"),
    ],
)
def test_language(chosen: str, accepted: str, language: str) -> None:
    assert choose_language(chosen, accepted) == language
