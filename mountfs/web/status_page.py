"""The page's files, in the reader's language, and the login for those who come from another machine.

The files are read once, at the start, from the package; a request only ever names one of them, never a path on disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from gdah_volume.errors import MessageTooBig, NotFound, Unauthorized
from mountfs.web.status_guard import Sessions, cookie_in, headers_of

PAGE = Path(__file__).parent / "page"
LANGUAGES = ("en", "pt-BR")
LANGUAGE_COOKIE = "gdah_language"
LANGUAGES_READ_MAX = 20
LOGIN_MAX_BYTES = 4096
FAILED_LOGIN_DELAY_S = 0.3
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_REVALIDATE = {"cache-control": "no-cache", "vary": "Accept-Language, Cookie"}


@dataclass(frozen=True, slots=True)
class Asset:
    body: bytes
    media_type: str
    etag: str


def load_assets(volume: str) -> dict[str, Asset]:
    """Every file of the page by name, `{{volume}}` filled in."""
    found = {}
    for file in sorted(PAGE.iterdir()):
        if file.suffix in _TYPES:
            body = file.read_bytes().replace(b"{{volume}}", html.escape(volume).encode())
            etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
            found[file.name] = Asset(body, _TYPES[file.suffix], etag)
    return found


def choose_language(chosen: str, accepted: str) -> str:
    """The remembered choice, else the first language of Accept-Language that the page speaks, else English."""
    if chosen in LANGUAGES:
        return chosen
    wishes = []
    for place, wish in enumerate(accepted.split(",")[:LANGUAGES_READ_MAX]):
        tag, _, weight = wish.strip().partition(";q=")
        try:
            quality = float(weight or 1)
        except ValueError:
            continue
        wishes.append((-quality, place, tag.strip().lower()))
    for negative, _, tag in sorted(wishes):
        if negative < 0:
            for language in LANGUAGES:
                if tag.partition("-")[0] == language.partition("-")[0].lower():
                    return language
    return LANGUAGES[0]


def _in_language(asset: Asset, headers: dict[str, str]) -> bytes:
    language = choose_language(cookie_in(headers, LANGUAGE_COOKIE), headers.get("accept-language", ""))
    return asset.body.replace(b"{{language}}", language.encode())


def login_page(assets: dict[str, Asset], headers: dict[str, str]) -> bytes:
    return _in_language(assets["login.html"], headers)


def routes(assets: dict[str, Asset], sessions: Sessions) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index(request: Request) -> Response:
        headers = {**_REVALIDATE, "cache-control": "no-store"}
        return Response(
            _in_language(assets["index.html"], headers_of(request.scope)), 200, headers, "text/html; charset=utf-8"
        )

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        return Response(
            _in_language(assets["docs.html"], headers_of(request.scope)), 200, _REVALIDATE, "text/html; charset=utf-8"
        )

    @router.get("/page/{name}")
    async def asset(name: str, request: Request) -> Response:
        found = assets.get(name)
        if found is None or name.endswith(".html"):
            raise NotFound(f"the page has no file {name[:80]!r}")
        headers = {"cache-control": "no-cache", "etag": found.etag}
        if request.headers.get("if-none-match") == found.etag:
            return Response(b"", 304, headers)
        return Response(found.body, 200, headers, found.media_type)

    @router.get("/login")
    async def login_form(request: Request) -> Response:
        if sessions.token is None or sessions.admits(headers_of(request.scope)):
            return RedirectResponse("/", 303)
        return Response(login_page(assets, headers_of(request.scope)), 200, None, "text/html; charset=utf-8")

    @router.post("/login")
    async def login(request: Request) -> Response:
        token = await _token_in(request)
        if not sessions.shown(token):
            await asyncio.sleep(FAILED_LOGIN_DELAY_S)
            if "text/html" in request.headers.get("accept", ""):
                return RedirectResponse("/login?wrong", 303)
            raise Unauthorized("that is not the token; it is in the file given to --token-file")
        answer = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(
            sessions.cookie, sessions.open(), httponly=True, samesite="lax", secure=secure, max_age=30 * 86400
        )
        return answer

    @router.post("/logout")
    async def logout(request: Request) -> Response:
        sessions.close(headers_of(request.scope))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(sessions.cookie)
        return answer

    return router


async def _token_in(request: Request) -> str:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LOGIN_MAX_BYTES:
            raise MessageTooBig(f"a login is at most {LOGIN_MAX_BYTES} bytes")
    fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8)
    return fields.get("token", [""])[0].strip()
