"""Large chunks on their way to the server in use: a few at a time, before the operation that names them is
sent.

A chunk starts to travel as soon as it is stored (`hint`), so that most of a large file is there when its
operation is performed. Knows servers by URL only, and operations not at all.

Threading: any thread; the lock is a leaf. `settled` is called from worker threads, without the lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from gdah_volume.content import INLINE_MAX_BYTES, Chunk, ChunkHash
from gdah_volume.errors import GdahError, NoSpace, Unavailable

log = logging.getLogger("mountfs.sync.uploads")

WORKERS = 4
RETRY_S = 0.2
STOP_S = 0.5
HINTS_MAX = 256
"""Chunks that travel ahead of their operations; more just travel later."""
STORED_MAX = 200_000
"""How many names are remembered as stored at the server in use."""


def is_large(chunk: Chunk) -> bool:
    return chunk.length > INLINE_MAX_BYTES


class Uploads:
    """Invariant: a name in `_stored` was acknowledged by the server at `_url`, or by all servers."""

    def __init__(
        self,
        read: Callable[[ChunkHash], bytes | None],
        store: Callable[[str, ChunkHash, bytes], int],
        settled: Callable[[], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`store(url, name, data)` PUTs a chunk and returns its copies; `settled()` is told after each that
        came or failed."""
        self._read = read
        self._store = store
        self._settled = settled
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._url: str | None = None
        self._of = 1
        self._stored: dict[ChunkHash, None] = {}
        self._everywhere: dict[ChunkHash, None] = {}
        self._queue: deque[ChunkHash] = deque()
        self._waiting: set[ChunkHash] = set()
        self._failed: dict[ChunkHash, GdahError | None] = {}
        self._threads: list[threading.Thread] = []
        self._crew = 0
        """Workers of an earlier crew may hang in a server that stopped; they end when they come back."""
        self.progress_at = float("-inf")

    def stop(self) -> None:
        """Nothing is read here any more, except by one who hangs in a server (he reads nothing after
        that)."""
        self.aim(None, 1)
        for thread in self._threads:
            thread.join(STOP_S)

    def aim(self, url: str | None, of: int) -> None:
        """From now on to this server; one of `of`. What was on its way to another is forgotten."""
        with self._lock:
            self._of = of
            self._failed.clear()
            if url == self._url:
                return
            self._url = url
            self._stored = dict(self._everywhere)
            self._queue.clear()
            self._waiting.clear()
            self._crew += 1
            self._work.notify_all()
            crew = self._crew
        if url is not None:
            self._threads = [
                threading.Thread(target=self._run, args=(crew, url), name=f"upload-{i}", daemon=True)
                for i in range(WORKERS)
            ]
            for thread in self._threads:
                thread.start()

    def hint(self, chunk: Chunk) -> bool:
        """The server may need it soon. False: there is no server, or too much under way already."""
        with self._lock:
            if self._url is None or len(self._queue) >= HINTS_MAX:
                return False
            self._enqueue(chunk.hash, first=False)
            return True

    def lacking(self, chunks: Iterable[Chunk]) -> list[ChunkHash]:
        """Large ones among `chunks` that the server does not have yet; they are on their way now."""
        return self.push([chunk.hash for chunk in chunks if is_large(chunk)])

    def failure(self, names: Iterable[ChunkHash]) -> GdahError | None:
        """Why one of these will not come, if it is not for want of a server: damaged or missing here, or
        refused."""
        with self._lock:
            for name in names:
                error = self._failed.get(name)
                if error is not None:
                    return error
        return None

    def push(self, names: Iterable[ChunkHash]) -> list[ChunkHash]:
        """As `lacking`, for chunks of any size."""
        with self._lock:
            left = [name for name in names if name not in self._stored]
            for name in reversed(left):
                self._enqueue(name, first=True)
            return left

    def forget(self, names: Iterable[ChunkHash]) -> None:
        """The server said that it does not have them after all: they travel again."""
        with self._lock:
            for name in names:
                self._stored.pop(name, None)
                self._everywhere.pop(name, None)
                self._failed.pop(name, None)

    def forget_everywhere(self) -> None:
        """A server has lost what it had: only of the one in use it is known what it has."""
        with self._lock:
            self._everywhere.clear()

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def _enqueue(self, name: ChunkHash, *, first: bool) -> None:
        if name in self._stored or name in self._waiting or name in self._failed:
            return
        self._waiting.add(name)
        if first:
            self._queue.appendleft(name)
        else:
            self._queue.append(name)
        self._work.notify()

    # --- workers

    def _run(self, crew: int, url: str) -> None:
        while True:
            with self._lock:
                while not self._queue and crew == self._crew:
                    self._work.wait()
                if crew != self._crew:
                    return
                name = self._queue.popleft()
            error = self._upload(crew, url, name)
            if error is not None:
                log.info("chunk not stored url=%s chunk=%s reason=%s", url, name.hex()[:16], error)
                time.sleep(RETRY_S)  # whoever needs it asks again when told
            self._settled()

    def _upload(self, crew: int, url: str, name: ChunkHash) -> GdahError | None:
        error: GdahError | None = None
        copies = 0
        data = self._read(name)
        if data is None:
            error = GdahError(f"chunk {name.hex()[:16]} is not readable on this device")
        else:
            try:
                copies = self._store(url, name, data)
            except GdahError as refused:
                error = refused
        with self._lock:
            if copies >= self._of > 1:
                self._remember(self._everywhere, name)
            if crew != self._crew:
                return error
            self._waiting.discard(name)
            if error is None:
                self.progress_at = self._monotonic()
                self._remember(self._stored, name)
            elif not isinstance(error, NoSpace | Unavailable):
                self._failed[name] = error
        return error

    @staticmethod
    def _remember(names: dict[ChunkHash, None], name: ChunkHash) -> None:
        names[name] = None
        if len(names) > STORED_MAX:
            del names[next(iter(names))]
