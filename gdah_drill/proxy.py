"""A TCP proxy that breaks a link the ways a network does: silence, one-way silence, delay, reset, a cut mid message.

A cut link loses no byte, as TCP does not: what was sent meanwhile waits and arrives after `heal`. New connections
over a cut link are taken and stay silent. `refuse` is the other way to be away: nobody listens.

Threading: an event loop in a thread of its own per proxy; the methods may be called from any thread and return when
the loop has done it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal

Way = Literal["out", "in"]
"""`out`: from the one who dials to the one who listens. `in`: the answers."""

PIECE_BYTES = 64 << 10
QUEUE_PIECES = 64


class FaultProxy:
    def __init__(self, port: int, target_port: int, host: str = "127.0.0.1") -> None:
        self.port = port
        self.url = f"http://{host}:{port}"
        self._host = host
        self._target_port = target_port
        self._delay_s = 0.0
        self._allowed: dict[Way, int | None] = {"out": None, "in": None}
        self._open: dict[Way, asyncio.Event] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{port}", daemon=True)
        self._thread.start()
        self._do(self._prepare)
        self._do(self._listen)

    # --- what a test asks for ------------------------------------------------------------------------

    def cut(self, *ways: Way) -> None:
        """Silence in the given directions; both without an argument."""

        def clear() -> None:
            for way in ways or self._open:
                self._open[way].clear()

        self._call(clear)

    def heal(self) -> None:
        """Everything flows again, without delay, and somebody listens."""
        self._do(self._heal)

    def refuse(self) -> None:
        """Close the port and reset every connection."""
        self._do(self._unlisten)
        self.reset()

    def reset(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._do(self._drop_all)

    def delay(self, seconds: float) -> None:
        """Each piece arrives this much later, in both directions; bandwidth stays."""
        self._call(lambda: setattr(self, "_delay_s", seconds))

    def stop_after(self, size_bytes: int, way: Way = "out") -> None:
        """Let so many more bytes pass in that direction, then cut it: in the middle of a message."""
        self._call(lambda: self._allowed.__setitem__(way, size_bytes))

    def close(self) -> None:
        if self._thread.is_alive():
            self._do(self._unlisten)
            self._do(self._drop_all)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
            self._loop.close()

    # --- the loop's side -----------------------------------------------------------------------------

    def _do(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(action(), self._loop).result(10)

    def _call(self, action: Callable[[], Any]) -> None:
        async def act() -> None:
            action()

        self._do(act)

    async def _prepare(self) -> None:
        for way in self._allowed:
            self._open[way] = asyncio.Event()
            self._open[way].set()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, self._host, self.port, limit=PIECE_BYTES)

    async def _unlisten(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _heal(self) -> None:
        self._delay_s = 0.0
        for way in self._allowed:
            self._allowed[way] = None
            self._open[way].set()
        await self._listen()

    async def _drop_all(self) -> None:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            await self._open["out"].wait()
            back, upstream = await asyncio.open_connection(self._host, self._target_port, limit=PIECE_BYTES)
            await self._both_ways(reader, writer, back, upstream)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for end in (writer, upstream):
                if end is not None:
                    _reset(end)

    async def _both_ways(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
    ) -> None:
        flows = [
            asyncio.create_task(self._flow(reader, upstream, "out")),
            asyncio.create_task(self._flow(back, writer, "in")),
        ]
        try:
            await asyncio.wait(flows, return_when=asyncio.FIRST_EXCEPTION)
            for end in (writer, upstream):
                with contextlib.suppress(OSError):
                    end.close()
        finally:
            for flow in flows:
                flow.cancel()
            await asyncio.gather(*flows, return_exceptions=True)

    async def _flow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """Pieces through a queue with the time when each is due, so that delay does not limit bandwidth."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_PIECES)

        async def fill() -> None:
            piece = b"more"
            while piece:
                try:
                    piece = await reader.read(PIECE_BYTES)
                except OSError:
                    piece = b""
                await queue.put((self._loop.time() + self._delay_s, piece))

        filling = asyncio.create_task(fill())
        try:
            while True:
                due, piece = await queue.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                await self._pass_on(piece, writer, way)
                if not piece:
                    break
        finally:
            filling.cancel()

    async def _pass_on(self, piece: bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        await self._open[way].wait()
        allowed = self._allowed[way]
        if allowed is not None:
            head, piece = piece[:allowed], piece[allowed:]
            self._allowed[way] = allowed - len(head)
            writer.write(head)
            await writer.drain()
            if not piece:
                return
            self._open[way].clear()
            await self._open[way].wait()
        if piece:
            writer.write(piece)
            await writer.drain()
        elif writer.can_write_eof():
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()
