"""Who may ask the mount's web app, and with which headers every answer leaves.

A page on loopback can be reached by any web site that is open in the user's browser. So before any route runs:

* the Host must be this machine's (a name that an attacker points at 127.0.0.1 is refused: DNS rebinding), unless a
  token guards the page, which no foreign name can have;
* what changes something must come from the page itself (Origin, Sec-Fetch-Site) or from no browser at all;
* a foreign page may navigate here, but embeds and fetches nothing;
* off loopback every route but `/healthz` and the login needs the bearer token, in a header or as a login's cookie.

Knows no view and no route's meaning. Threading: the event loop of the web app alone.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import re
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("mountfs.web.status")

SESSIONS_MAX = 64
"""Logins that are remembered; the oldest goes first."""
HEADER_MAX_CHARS = 16 << 10
"""Of a Cookie or Authorization header; longer ones are not looked at."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?")
_PUBLIC = frozenset({"/healthz", "/login"})
_PUBLIC_PREFIX = "/page/"

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer the login's form would send "Origin: null"
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    http_status: int
    code: str
    message: str

    def body(self) -> bytes:
        return json.dumps({"status": "error", "error": self.code, "message": self.message}).encode()


@dataclass(slots=True)
class Sessions:
    """The bearer token and the cookies of those who showed it at the login. `token` None: nobody needs one."""

    token: str | None
    cookie: str = "gdah_session"
    _open: dict[str, None] = field(default_factory=dict)

    def shown(self, token: str) -> bool:
        """Is it the token? Compared in constant time."""
        return self.token is not None and hmac.compare_digest(
            token.encode("utf-8", "surrogatepass"), self.token.encode()
        )

    def open(self) -> str:
        while len(self._open) >= SESSIONS_MAX:
            del self._open[next(iter(self._open))]
        name = secrets.token_urlsafe(32)
        self._open[name] = None
        return name

    def close(self, headers: dict[str, str]) -> None:
        self._open.pop(self._cookie_in(headers), None)

    def admits(self, headers: dict[str, str]) -> bool:
        if self.token is None:
            return True
        kind, _, token = headers.get("authorization", "")[:HEADER_MAX_CHARS].partition(" ")
        if kind.lower() == "bearer":
            return self.shown(token.strip())
        return self._cookie_in(headers) in self._open

    def _cookie_in(self, headers: dict[str, str]) -> str:
        return cookie_in(headers, self.cookie)


def cookie_in(headers: dict[str, str], name: str) -> str:
    text = headers.get("cookie", "")
    if len(text) > HEADER_MAX_CHARS:
        return ""
    try:
        morsel = SimpleCookie(text).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def is_loopback(host: str) -> bool:
    """Of a host to bind to or a Host header's name; a name other than localhost is not taken for loopback."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def judge(method: str, path: str, headers: dict[str, str], sessions: Sessions) -> Refusal | None:
    """The decision on one request; None lets it pass. `headers` as `headers_of` gives them."""
    host = _HOST.fullmatch(headers.get("host", ""))
    if host is None:
        return Refusal(400, "BadHost", "the request names no usable Host")
    if sessions.token is None and not is_loopback(host["name"]):
        return Refusal(
            403,
            "BadHost",
            f"this page does not answer to the name {host['name']!r}: open it as http://127.0.0.1 or http://localhost",
        )
    foreign = _foreign(method, headers)
    if foreign is not None:
        return foreign
    if path in _PUBLIC or path.startswith(_PUBLIC_PREFIX) or sessions.admits(headers):
        return None
    return Refusal(401, "Unauthorized", "this page needs the token: log in at /, or send 'Authorization: Bearer TOKEN'")


def _foreign(method: str, headers: dict[str, str]) -> Refusal | None:
    site = headers.get("sec-fetch-site")
    if method in SAFE_METHODS:
        navigates = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if site in ("cross-site", "same-site") and not navigates:
            return Refusal(403, "ForeignSite", "another web site may not read this one")
        return None
    origin = headers.get("origin")
    if site in ("cross-site", "same-site") or (origin is not None and not _same(origin, headers["host"])):
        return Refusal(403, "ForeignSite", "another web site may change nothing here")
    return None


def _same(origin: str, host: str) -> bool:
    scheme, found, place = origin.partition("://")
    if not found or scheme not in ("http", "https"):
        return False
    default = ":443" if scheme == "https" else ":80"
    return place.lower().removesuffix(default) == host.lower().removesuffix(default)


LoginPage = Callable[[dict[str, str]], bytes]
"""The page for a browser that asks without a token, by the request's headers."""


class Guard:
    """The outermost ASGI layer: judges, adds headers, counts answers, and turns a bug into a plain 500."""

    def __init__(self, app: ASGIApp, sessions: Sessions, login_page: LoginPage) -> None:
        self._app = app
        self._sessions = sessions
        self._login_page = login_page
        self.answers: Counter[str] = Counter()
        """How many answers of each class: "2xx", "4xx" ..."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "no WebSocket here: GET /api/events"})
            return
        headers = headers_of(scope)
        refusal = judge(scope["method"], scope["path"], headers, self._sessions)
        answer = _Answer(send, self.answers)
        if refusal is not None:
            await self._refuse(refusal, scope, headers, answer)
            return
        try:
            await self._app(scope, receive, answer.send)
        except ClientDisconnect:
            log.debug("the client went away: %s %s", scope["method"], scope["path"])
        except Exception as error:  # noqa: BLE001  the last one who can log it
            if answer.http_status == 500:
                return  # `bug` below has said it
            log.warning("answer cut short: %s %s: %s", scope["method"], scope["path"], error)

    async def _refuse(self, refusal: Refusal, scope: Scope, headers: dict[str, str], answer: _Answer) -> None:
        log.debug("refused: %s %s: %s", scope["method"], scope["path"], refusal.message)
        wants_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        if refusal.http_status == 401 and wants_page:
            await self._send(refusal, answer, self._login_page(headers), b"text/html; charset=utf-8")
        else:
            await self._send(refusal, answer)

    @staticmethod
    async def _send(
        refusal: Refusal, answer: _Answer, body: bytes | None = None, kind: bytes = b"application/json"
    ) -> None:
        body = refusal.body() if body is None else body
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        headers.append((b"cache-control", b"no-store"))
        if refusal.http_status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await answer.send({"type": "http.response.start", "status": refusal.http_status, "headers": headers})
        await answer.send({"type": "http.response.body", "body": body})


class _Answer:
    def __init__(self, send: Send, answers: Counter[str]) -> None:
        self._send = send
        self._answers = answers
        self.http_status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.http_status = message["status"]
            self._answers[f"{message['status'] // 100}xx"] += 1
            present: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
            names = {name.lower() for name, _ in present}
            added = [header for header in _HEADERS if header[0] not in names]
            if b"cache-control" not in names:
                added.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*present, *added]}
        await self._send(message)


def bug(request: Request, error: Exception) -> Response:
    """The answer to what should not have happened: the log gets all of it, the client no traceback."""
    log.error("request failed: %s %s", request.method, request.url.path, exc_info=error)
    text = f"gdah made a mistake ({type(error).__name__}); the mount's log says more"
    return Response(Refusal(500, "Bug", text).body(), 500, media_type="application/json")


def headers_of(scope: Scope | dict[str, Any]) -> dict[str, str]:
    """By lower-case name; a repeated one is joined by commas, so that a second Host is no Host."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found
