"""The sending side of a connection: a bounded queue and one task that empties it. Knows no WebSocket.

Whoever sends never waits. A reader that takes nothing for STUCK_S, or lets QUEUE_MAX_BYTES pile up, is cut off: it
comes back and reads on from where it was. Threading: the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

QUEUE_MAX_BYTES = 64 << 20
DRAINED_BYTES = 1 << 20
STUCK_S = 5.0


class QueuedOutlet:
    def __init__(
        self,
        write: Callable[[bytes], Awaitable[None]],
        broken: Callable[[str], None],
        monotonic: Callable[[], float],
    ) -> None:
        """`broken(reason)` ends the connection; called at most once."""
        self._write = write
        self._broken = broken
        self._monotonic = monotonic
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._writing_since: float | None = None
        self._closed = False

    @property
    def queued_bytes(self) -> int:
        return self._bytes

    @property
    def closed(self) -> bool:
        return self._closed

    def send(self, frame: bytes) -> None:
        if self._closed:
            return
        self._queue.append(frame)
        self._bytes += len(frame)
        self._wake.set()
        if self._bytes > DRAINED_BYTES:
            self._drained.clear()
            if self._bytes > QUEUE_MAX_BYTES:
                self.close("it reads too slowly")

    def is_stuck(self) -> bool:
        return self._writing_since is not None and self._monotonic() - self._writing_since > STUCK_S

    async def drain(self) -> None:
        await self._drained.wait()

    def close(self, reason: str) -> None:
        if not self._closed:
            self.end()
            self._broken(reason)

    def end(self) -> None:
        """The connection is gone already."""
        self._closed = True
        self._drained.set()
        self._wake.set()

    async def run(self) -> None:
        """Send what is queued until closed; ends with the exception of a failed write."""
        while not self._closed:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            frame = self._queue.popleft()
            self._writing_since = self._monotonic()
            await self._write(frame)
            self._writing_since = None
            self._bytes -= len(frame)
            if self._bytes <= DRAINED_BYTES:
                self._drained.set()

    async def flush(self) -> None:
        """What is still queued, before a deliberate end."""
        while self._queue:
            await self._write(self._queue.popleft())
