"""What the mount tells the page by itself, as Server-Sent Events.

The core tells each change; a copied tree makes thousands. So events are gathered for a moment and sent as one of each
kind, followed by one `status`. A `status` also goes out every few seconds, because latencies and ages move without an
event. A client that reads too slowly loses its backlog and gets `resync`: it asks again for everything that it shows.

Threading: `_from_core` comes from any thread and only leaves something under `_lock`; all else is in the event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio.to_thread

from gdah_volume.errors import Unavailable
from mountfs.ports import Event, MountView

log = logging.getLogger("mountfs.web.status")

GATHER_S = 0.1
STATUS_EVERY_S = 2.0
CLIENTS_MAX = 64
BACKLOG_MAX = 64
"""Messages that wait for one slow client."""
PATHS_MAX = 256
"""Paths named in one `change`; with more of them `truncated` is true and the page asks again."""


def message(kind: str, data: dict[str, Any]) -> bytes:
    """One event on the wire. JSON is ASCII, so a name can neither end the line nor break the encoding."""
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class _Gathered:
    """Events of one moment, merged by kind."""

    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, Any]] = {}
        self.paths: dict[str, None] = {}
        self.truncated = False

    def add(self, event: Event) -> None:
        self.kinds.setdefault(event.kind, {}).update(event.data)
        for path in event.data.get("paths", ()):
            if len(self.paths) < PATHS_MAX:
                self.paths[path] = None
            else:
                self.truncated = True
        if event.kind == "change" and not event.data.get("paths"):
            self.truncated = True

    def messages(self) -> list[bytes]:
        out = []
        for kind, data in self.kinds.items():
            named = {"paths": list(self.paths), "truncated": self.truncated} if kind == "change" else {}
            out.append(message(kind, {**data, **named}))
        return out


class EventHub:
    """One subscription to the view, any number (at most CLIENTS_MAX) of listening pages."""

    def __init__(self, view: MountView) -> None:
        self._view = view
        self._lock = threading.Lock()
        self._gathered = _Gathered()
        self._clients: set[asyncio.Queue[bytes | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._closed = False

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pump = asyncio.create_task(self._run())
        self._unsubscribe = self._view.subscribe(self._from_core)

    def close_clients(self) -> None:
        """End every stream; in the event loop. Without it the server would wait for the pages to go."""
        self._closed = True
        for queue in self._clients:
            self._put(queue, None)

    async def stop(self) -> None:
        self.close_clients()
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    async def listen(self) -> AsyncIterator[bytes]:
        """The stream of one page; begins with the state as it is. Raises Unavailable at once if there are too many."""
        if len(self._clients) >= CLIENTS_MAX or self._closed:
            raise Unavailable(f"{CLIENTS_MAX} pages listen already: close some")
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(BACKLOG_MAX)
        self._clients.add(queue)
        return self._stream(queue)

    async def _stream(self, queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
        try:
            yield b"retry: 1000\n\n"
            first = await self._status()
            if first is not None:
                yield first
            while (data := await queue.get()) is not None:
                yield data
        finally:
            self._clients.discard(queue)

    def _from_core(self, event: Event) -> None:
        with self._lock:
            first = not self._gathered.kinds
            self._gathered.add(event)
        if first and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:
                log.debug("an event after the end of the web app")

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), STATUS_EVERY_S)
                await asyncio.sleep(GATHER_S)
            except TimeoutError:
                pass
            self._wake.clear()
            with self._lock:
                gathered, self._gathered = self._gathered, _Gathered()
            if not self._clients:
                continue
            messages = gathered.messages()
            status = await self._status()
            self._broadcast([*messages, status] if status is not None else messages)

    async def _status(self) -> bytes | None:
        try:
            return message("status", await anyio.to_thread.run_sync(self._view.status))
        except Exception:
            log.exception("the state of the mount cannot be told")
            return None

    def _broadcast(self, messages: list[bytes]) -> None:
        for queue in self._clients:
            for data in messages:
                self._put(queue, data)

    @staticmethod
    def _put(queue: asyncio.Queue[bytes | None], data: bytes | None) -> None:
        if queue.full():
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(message("resync", {}))
        queue.put_nowait(data)
