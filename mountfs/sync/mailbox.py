"""The steering thread's mailbox: events in order, and what servers feed, put together into larger pieces.

What only brings back own operations with their stamps may wait a moment: the mirror shows them already, and
one transaction for many costs a tenth of one for each. Everything else is handed on at once, and what waited
before it comes first: the order of arrival is kept. But for what cannot wait for a long feed, which is taken in
pieces: that a server is lost.

Threading: `take` and `applied` belong to the steering thread, the rest to any.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from gdah_volume.wire import Entry
from mountfs.ports import ServerLink

QUEUED_ENTRIES_MAX = 4096
"""Fed and not yet applied; with more the link is not read, for a while."""
BACKPRESSURE_S = 2.0
LAZY_ENTRIES_MAX = 256
PIECE_ENTRIES = 64
"""Taken at once: some 20 ms. (As one piece, thousands of entries kept a mount for ten seconds from seeing that the
server that had sent them was gone.)"""


@dataclass(slots=True)
class Fed:
    """Entries of a server's log in order; every server holds it up to `everywhere`."""

    link: ServerLink
    entries: list[Entry]
    everywhere: int

    def extend(self, later: Fed) -> None:
        self.entries.extend(later.entries)
        self.everywhere = later.everywhere

    def cut(self, size: int) -> Fed | None:
        """Keep the first `size` entries; the others, if there are any."""
        rest = self.entries[size:]
        del self.entries[size:]
        return Fed(self.link, rest, self.everywhere) if rest else None


class Stop:
    """The last event."""


Event = Callable[[], None] | Fed | Stop


class Mailbox:
    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        """None: there is something in `_first`."""
        self._first: deque[Event] = deque()
        self._ahead: Event | None = None
        self._room = threading.Condition()
        self._queued_entries = 0
        self._lazy: Fed | None = None

    def post(self, event: Callable[[], None] | Stop, *, first: bool = False) -> None:
        """`first`: before all that is not."""
        with self._room:
            if first:
                self._first.append(event)
                self._queue.put(None)
                return
            self._wake_lazy()
            self._queue.put(event)

    def fed(self, link: ServerLink, entries: tuple[Entry, ...], everywhere: int, *, lazy: bool) -> None:
        """`lazy`: nobody waits for it. Waits for a moment while too much is queued, so that a link is not
        read faster than the mirror takes it."""
        with self._room:
            self._room.wait_for(lambda: self._queued_entries <= QUEUED_ENTRIES_MAX, BACKPRESSURE_S)
            self._queued_entries += len(entries)
            news = Fed(link, list(entries), everywhere)
            if self._lazy is not None and self._lazy.link is link:
                self._lazy.extend(news)
            else:
                self._wake_lazy()
                self._lazy = news
            if not lazy or len(self._lazy.entries) >= LAZY_ENTRIES_MAX:
                self._wake_lazy()

    def _wake_lazy(self) -> None:
        if self._lazy is not None:
            self._queue.put(self._lazy)
            self._lazy = None

    def take(self, timeout_s: float) -> Event | None:
        """The next event; None when there is none in time. Small feeds that follow each other come as one, a large one
        in pieces."""
        if self._first:
            return self._first.popleft()
        event, self._ahead = self._ahead, None
        if event is None:
            try:
                event = self._queue.get(timeout=timeout_s)
            except queue.Empty:
                with self._room:
                    self._wake_lazy()
                event = self._next_now()
            if event is None:
                return self._first.popleft() if self._first else None
        if isinstance(event, Fed):
            while self._ahead is None and len(event.entries) < PIECE_ENTRIES:
                following = self._next_now()
                if isinstance(following, Fed) and following.link is event.link:
                    event.extend(following)
                else:
                    self._ahead = following
                    break
            rest = event.cut(PIECE_ENTRIES)
            if rest is not None:
                self._ahead = rest
        return event

    def _next_now(self) -> Event | None:
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return None

    def applied(self, fed: Fed) -> None:
        """Done with it, one way or the other."""
        with self._room:
            self._queued_entries -= len(fed.entries)
            self._room.notify_all()
