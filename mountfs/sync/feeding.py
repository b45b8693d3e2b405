"""Feeding: the log of the server in use goes into the mirror, from a cursor, above a stamp, or by a snapshot.

Also tells the change log which of its operations stand where in that log, and what every server holds.

Threading: the steering thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from gdah_volume.errors import GdahError, OutOfOrder, Unreachable
from gdah_volume.stamps import Stamp
from gdah_volume.wire import Entry
from mountfs.ports import ServerLink
from mountfs.sync.changelog import ChangeLog
from mountfs.sync.mirror import Mirror
from mountfs.sync.session import Session, subscription

log = logging.getLogger("mountfs.sync.feeding")

SNAPSHOT_PAUSE_S = 1.0
SNAPSHOT_PAUSE_MAX_S = 60.0


class Snapshots(Protocol):
    """Fetches a snapshot in a thread of its own; `done` gets the file, or the error."""

    def fetch(self, url: str, done: Callable[[Path | GdahError], None]) -> None: ...
    def read(self, path: Path) -> Any:
        """(header, batches) of a fetched one."""
        ...


class Feeding:
    def __init__(
        self,
        mirror: Mirror,
        changelog: ChangeLog,
        snapshots: Snapshots,
        later: Callable[[Callable[[], None]], None],
        current: Callable[[], Session | None],
        after: Callable[[float, Callable[[], None]], None] | None = None,
    ) -> None:
        """`later` lets the steering thread call something soon, `after` any thread in so many seconds; `current` is the
        session that counts."""
        self._mirror = mirror
        self._log = changelog
        self._outbox = changelog.outbox
        self._snapshots = snapshots
        self._later = later
        self._current = current
        self._after = after or _in_a_while
        self._pause_s = 0.0
        """Before the next snapshot is fetched: each one that does not load is another 20 MB for nothing."""
        self.when_told: Callable[[Callable[[], None]], None] = lambda done: done()
        """Calls back when the kernel was told of all that has changed so far; set once there is a kernel."""

    def begin(self, session: Session) -> None:
        """Read the server's log from where it makes sense. Raises Unreachable."""
        with self._mirror.lock:
            stable = self._mirror.replica.stable
        plan = subscription(session.feed, session.welcome, stable, empty=self._mirror.empty)
        if plan.snapshot:
            self.load(session)
            return
        if plan.cursor is None:
            session.feed.begin(0)
        if plan.cursor in (None, 0):
            self._outbox.forget_feed(session.feed.key)
        session.link.subscribe(plan.cursor, plan.above, plan.last)
        session.subscribed = True
        session.phase = "live"

    def feed(self, session: Session, entries: list[Entry], everywhere: int) -> None:
        """Entries of the log of the server in use, in order; every member holds it up to `everywhere`."""
        if not session.subscribed:
            return
        feed = session.feed
        for entry in entries:
            self._outbox.fed(feed.key, entry.position, entry.op.id)
        try:
            self._mirror.apply(feed, entries)
        except OutOfOrder as error:
            log.warning("the mirror does not fit the feed, it is loaded anew: %s", error)
            self.load(session)
            return
        feed.spread(everywhere)
        self._outbox.spread(feed.key, min(feed.everywhere, feed.read))
        if entries:
            self._show(session, entries[-1].position)

    def _show(self, session: Session, position: int) -> None:
        """Tell the server when programs see its log up to there."""
        if session.welcome.shows:
            session.shown = position
            self.when_told(lambda: _say_shown(session.link, position))

    def beaten(self, session: Session, *, everywhere: int, head: int, stable: Stamp, digest: bytes) -> None:
        """What the server's beat said of its log."""
        feed = session.feed
        with self._mirror.lock:
            if self._mirror.settle(feed, everywhere=everywhere, head=head, stable=stable, digest=digest):
                # Also what that log will not tell again: it was read past it, and then something was killed or lost.
                self._log.stamped_are_everywhere()
        self._outbox.spread(feed.key, min(feed.everywhere, feed.read))
        if session.subscribed and session.shown < head <= feed.read:
            self._show(session, head)  # nothing was left to read: else the server would not wait for us before there is
        self._log.sweep()

    def load(self, session: Session) -> None:
        """The log does not lead to where the mirror is: take the whole tree instead."""
        session.phase = "loading"
        session.subscribed = False

        def done(result: Path | GdahError) -> None:
            self._later(lambda: self._loaded(session, result))

        def fetch() -> None:
            if self._current() is session:
                self._snapshots.fetch(session.link.url, done)

        if self._pause_s:
            self._after(self._pause_s, fetch)
        else:
            fetch()

    def _loaded(self, session: Session, result: Path | GdahError) -> None:
        if self._current() is not session:
            return
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s or SNAPSHOT_PAUSE_S, SNAPSHOT_PAUSE_MAX_S)
        if isinstance(result, GdahError):
            session.link.drop(f"no snapshot: {result}")
            return
        try:
            header, rows = self._snapshots.read(result)
            if (header.server, header.epoch) != (session.link.server, session.link.epoch):
                raise OutOfOrder("the snapshot is of another epoch")
            self._mirror.load(session.feed, rows)
            self._log.keep_only_known()
            self._outbox.forget_feed(session.feed.key)
            with self._mirror.lock:
                stable = self._mirror.replica.stable
            session.link.subscribe(None, stable)
        except Unreachable:
            self._pause_s = pause_s
            return  # `on_down` follows
        except GdahError as error:
            session.link.drop(f"the snapshot does not load: {error}")
            return
        finally:
            result.unlink(missing_ok=True)
        self._pause_s = 0.0
        session.subscribed = True
        session.phase = "live"


def _in_a_while(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


def _say_shown(link: ServerLink, position: int) -> None:
    with suppress(Unreachable):  # `on_down` follows
        link.shown(position)
