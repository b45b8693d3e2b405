"""A TCP proxy that breaks links the ways a network does: silence, one-way silence, delay, a trickle, reset, a cut mid
message, answers that are lost after the work was done.

A cut link loses no byte, as TCP does not: what was sent meanwhile waits and arrives after `heal`, unless a reset
drops it first. New connections over a cut link are taken and stay silent. `refuse` is the other way to be away:
nobody listens.

A proxy stands before one server. It can tell its callers apart (`who`), and has a Cable for each, so that any two
processes can be parted while all others go on; without `who` there is one Cable for everybody.

Threading: an event loop in a thread of its own per proxy; the methods may be called from any thread and return when
the loop has done it. Figures are read without a lock: they only grow.
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
DRIP_EVERY_S = 0.1


class Cable:
    """What one caller's connections go through. Figures count bytes for each way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.passed: dict[Way, int] = {"out": 0, "in": 0}
        self.withheld: dict[Way, int] = {"out": 0, "in": 0}
        """Bytes that came to a closed gate; they may have passed later."""
        self.lost: dict[Way, int] = {"out": 0, "in": 0}
        """Bytes that were waiting when their connection was reset. Nobody will ever get them."""
        self.kept_waiting = 0
        """Connections that came while nothing passed."""
        self.resets = 0
        """Connections that were reset."""
        self.halved = 0
        """Pieces of which only a part passed."""
        self._loop = loop
        self._delay_s = 0.0
        self._drip_bytes_per_s = 0
        self._allowed: dict[Way, int | None] = {"out": None, "in": None}
        self._open: dict[Way, asyncio.Event] = {"out": asyncio.Event(), "in": asyncio.Event()}
        for gate in self._open.values():
            gate.set()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        return bool(self._connections)

    # --- what a test or the nemesis asks for, from any thread

    def cut(self, *ways: Way) -> None:
        """Silence in the given directions; both without an argument."""

        def clear() -> None:
            for way in ways or self._open:
                self._open[way].clear()

        self._call(clear)

    def heal(self) -> None:
        """Everything flows again, without delay."""
        self._call(self._heal)

    def reset(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._do(self._drop_all)

    def delay(self, seconds: float) -> None:
        """Each piece arrives this much later, in both directions; bandwidth stays."""
        self._call(lambda: setattr(self, "_delay_s", seconds))

    def drip(self, bytes_per_s: int) -> None:
        """So many bytes a second and connection pass in each direction; 0: as many as come."""
        self._call(lambda: setattr(self, "_drip_bytes_per_s", bytes_per_s))

    def stop_after(self, size_bytes: int, way: Way = "out") -> None:
        """Let so many more bytes pass in that direction, then cut it: in the middle of a message."""
        self._call(lambda: self._allowed.__setitem__(way, size_bytes))

    # --- the loop's side

    def _do(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(action(), self._loop).result(10)

    def _call(self, action: Callable[[], Any]) -> None:
        async def act() -> None:
            action()

        self._do(act)

    def _heal(self) -> None:
        self._delay_s, self._drip_bytes_per_s = 0.0, 0
        for way in self._allowed:
            self._allowed[way] = None
            self._open[way].set()

    async def _drop_all(self) -> None:
        tasks = list(self._connections)
        self.resets += len(tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dial: Callable[[], Coroutine[Any, Any, Any]]
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            self.kept_waiting += not self._open["out"].is_set()
            await self._open["out"].wait()
            back, upstream = await dial()
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
            while not queue.empty():
                self.lost[way] += len(queue.get_nowait()[1])

    async def _pass_on(self, piece: bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        await self._gate(piece, way)
        allowed = self._allowed[way]
        if allowed is not None:
            head, piece = piece[:allowed], piece[allowed:]
            self._allowed[way] = allowed - len(head)
            await self._send(head, writer, way)
            if not piece:
                return
            self.halved += 1
            self._open[way].clear()
            await self._gate(piece, way)
        if piece:
            await self._send(piece, writer, way)
        elif writer.can_write_eof():
            writer.write_eof()

    async def _gate(self, piece: bytes, way: Way) -> None:
        if self._open[way].is_set():
            return
        self.withheld[way] += len(piece)
        try:
            await self._open[way].wait()
        except asyncio.CancelledError:
            self.lost[way] += len(piece)
            raise

    async def _send(self, piece: bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        while piece:
            drip = self._drip_bytes_per_s
            size = max(1, round(drip * DRIP_EVERY_S)) if drip else len(piece)
            writer.write(piece[:size])
            await writer.drain()
            self.passed[way] += min(size, len(piece))
            piece = piece[size:]
            if drip:
                await asyncio.sleep(max(DRIP_EVERY_S, size / drip))


class FaultProxy:
    def __init__(
        self, port: int, target_port: int, host: str = "127.0.0.1", who: Callable[[int, int], str] | None = None
    ) -> None:
        """`who` names a caller by the port that it dials from and the proxy's own ('': a stranger)."""
        self.port = port
        self.url = f"http://{host}:{port}"
        self._host = host
        self._target_port = target_port
        self._who = who
        self._cables: dict[str, Cable] = {}
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{port}", daemon=True)
        self._thread.start()
        self.cable("")
        self._do(self._listen)

    # --- what a test asks for ------------------------------------------------------------------------

    def cable(self, caller: str) -> Cable:
        """The cable of that caller alone; it need not have called yet."""
        return self._cables.setdefault(caller, Cable(self._loop))

    def cut(self, *ways: Way) -> None:
        """Silence for all in the given directions; both without an argument."""
        for cable in list(self._cables.values()):
            cable.cut(*ways)

    def heal(self) -> None:
        """Everything flows again, without delay, and somebody listens."""
        for cable in list(self._cables.values()):
            cable.heal()
        self._do(self._listen)

    def refuse(self) -> None:
        """Close the port and reset every connection."""
        self._do(self._unlisten)
        self.reset()

    def reset(self) -> None:
        """Reset every connection; new ones are welcome."""
        for cable in list(self._cables.values()):
            cable.reset()

    def delay(self, seconds: float) -> None:
        """Each piece arrives this much later, in both directions; bandwidth stays."""
        for cable in list(self._cables.values()):
            cable.delay(seconds)

    def stop_after(self, size_bytes: int, way: Way = "out") -> None:
        """Let so many more bytes of each caller pass in that direction, then cut it: in the middle of a message."""
        for cable in list(self._cables.values()):
            cable.stop_after(size_bytes, way)

    def close(self) -> None:
        if self._thread.is_alive():
            self._do(self._unlisten)
            self.reset()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
            self._loop.close()

    # --- the loop's side -----------------------------------------------------------------------------

    def _do(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(action(), self._loop).result(10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, self._host, self.port, limit=PIECE_BYTES)

    async def _unlisten(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = ""
        if self._who is not None:
            caller = self._who(writer.get_extra_info("peername")[1], self.port)
        await self.cable(caller).serve(reader, writer, self._dial)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._target_port, limit=PIECE_BYTES)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()
