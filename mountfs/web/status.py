"""The mount's web app: the page, its API, and what monitors read, on `--status-addr`.

Puts the routes together and runs them with uvicorn in a thread of the mount process. Knows the mount only as a
`MountView`. Threading: `start` and `stop` belong to one thread, never to one that serves a request (`stop` waits for
those); the routes run in the web app's own event loop and worker threads.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from gdah_volume.errors import GdahError, InvalidArgument, StorageFailed, Unavailable
from mountfs.ports import MountView
from mountfs.web import status_api, status_original, status_page
from mountfs.web.status_events import EventHub
from mountfs.web.status_guard import Guard, Sessions, bug, is_loopback
from mountfs.web.status_metrics import exposition
from mountfs.web.status_words import Json

log = logging.getLogger("mountfs.web.status")

START_LIMIT_S = 10.0
STOP_LIMIT_S = 5.0
CONNECTIONS_MAX = 256


@dataclass(frozen=True, slots=True)
class StatusSettings:
    """`token` counts only off loopback, and there it is required. `unmount` asks the mount to end, at once."""

    host: str = "127.0.0.1"
    port: int = 7000
    token: str | None = None
    volume: str = "test_chamber"
    unmount: Callable[[], None] | None = None


class StatusServer:
    """`url` is where people find the page; with port 0 it is known after `start`."""

    def __init__(self, view: MountView, settings: StatusSettings) -> None:
        self._settings = settings
        self._hub = EventHub(view)
        self._view = view
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.port = settings.port

    @property
    def url(self) -> str:
        host = self._settings.host
        if host in ("0.0.0.0", "::", ""):  # noqa: S104  compared, not bound to
            host = socket.gethostname()
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def start(self) -> None:
        """Raises InvalidArgument or Unavailable, with the next step, if the address cannot be used."""
        settings = self._settings
        if not is_loopback(settings.host) and not settings.token:
            raise InvalidArgument(
                f"{settings.host} can be reached from other machines: give --token-file FILE, "
                "or keep the page on this machine with --status-addr 127.0.0.1:7000"
            )
        listener = _listen(settings.host, settings.port)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app(),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="status", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + START_LIMIT_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                listener.close()
                raise Unavailable("the status page did not start; the mount's log says why")
            time.sleep(0.01)

    def stop(self) -> None:
        """End the web app; open event streams end at once, downloads get two seconds."""
        if self._server is None or self._thread is None:
            return
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._hub.close_clients)
            except RuntimeError:
                log.debug("the web app had ended before")
        self._server.should_exit = True
        self._thread.join(STOP_LIMIT_S)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(STOP_LIMIT_S)

    def _app(self) -> ASGIApp:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            self._loop = asyncio.get_running_loop()
            await self._hub.start()
            yield
            await self._hub.stop()

        settings = self._settings
        token = None if is_loopback(settings.host) else settings.token
        sessions = Sessions(token, f"gdah_session_{self.port}")
        assets = status_page.load_assets(settings.volume)
        app = FastAPI(
            title=f"gdah mount of {settings.volume}",
            version=_version(),
            docs_url=None,
            redoc_url=None,
            lifespan=lifespan,
        )
        guard = Guard(app, sessions, lambda headers: status_page.login_page(assets, headers))
        app.include_router(status_original.routes(self._view, settings.volume))
        app.include_router(status_api.routes(self._view, self._hub, settings.unmount))
        app.include_router(_monitors(self._view, guard))
        app.include_router(status_page.routes(assets, sessions))
        app.add_exception_handler(GdahError, _refused)
        app.add_exception_handler(sqlite3.Error, _unreadable)
        app.add_exception_handler(HTTPException, _no_route)
        app.add_exception_handler(RequestValidationError, _malformed)
        app.add_exception_handler(Exception, bug)
        return guard


def _monitors(view: MountView, guard: Guard) -> APIRouter:
    router = APIRouter()

    @router.get("/status", summary="The mount's whole state")
    def status() -> Response:
        return Json(view.status())

    @router.get("/metrics", summary="The same for Prometheus")
    def metrics() -> Response:
        return Response(exposition(view, guard.answers), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/healthz", summary="The process lives; needs no token")
    async def healthz() -> Response:
        return Json({"status": "ok"})

    @router.get("/readyz", summary="The mount serves; without any server, too")
    def readyz() -> Response:
        state = view.status()
        ready = bool(state.get("ready", True))
        return Json({"ready": ready, "connected": bool(state.get("connected"))}, 200 if ready else 503)

    return router


def _version() -> str:
    try:
        return version("gdah")
    except PackageNotFoundError:
        return "0"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except socket.gaierror as error:
        raise InvalidArgument(f"--status-addr: {host!r} is no address of this machine ({error.strerror})") from error
    except OverflowError as error:
        raise InvalidArgument(f"--status-addr: port {port} is not between 0 and 65535") from error
    except OSError as error:
        raise Unavailable(_why_not(host, port, error)) from error


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use, perhaps by another mount (see 'gdah status'): "
            f"choose a free one with --status-addr {host}:{port + 1 if port < 65535 else port - 1}"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs root: choose one above 1023 with --status-addr {host}:7000"
    return f"cannot listen on {host}:{port} ({error.strerror}): choose another address with --status-addr"


def _error(http_status: int, code: str, message: str) -> Response:
    return Json({"status": "error", "error": code, "message": message}, http_status)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, GdahError)
    return _error(error.http_status, error.code, str(error))


async def _unreadable(_: Request, error: Exception) -> Response:
    failed = StorageFailed(f"what this device keeps cannot be read now ({error}): see its disk, and the mount's log")
    log.warning("a request was not answered: %s", failed)
    return await _refused(_, failed)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reasons = {404: f"nothing is at {request.url.path[:200]}; /docs lists what is", 405: "not with this method"}
    answer = _error(error.status_code, "HTTP", reasons.get(error.status_code, str(error.detail)))
    answer.headers.update(error.headers or {})
    return answer


async def _malformed(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found: list[dict[str, Any]] = list(error.errors())
    reason = "; ".join(f"{'.'.join(str(p) for p in each['loc'][1:])}: {each['msg']}" for each in found[:5])
    return _error(400, "BadMessage", reason or "malformed request")
