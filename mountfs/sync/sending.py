"""Sending: the change log's operations go to the server in use, in order, pipelined; and how long who waits
shall wait.

Large content goes before the operation that names it, small content inside it. Which server that is, and when
to turn to another one, is decided in `upstream`.

Threading: any thread may `pump`: one at a time sends, in order, the others leave it to that one. `_pump_lock`
is held while sending; the timer's silence limit bounds how long. Lock order: `_pump_lock`, mirror.lock,
leaves; who holds mirror.lock does not send.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from gdah_volume.content import Chunk
from gdah_volume.errors import Unreachable
from mountfs.sync.changelog import ChangeLog
from mountfs.sync.mirror import Mirror
from mountfs.sync.pending import Record
from mountfs.sync.session import Session
from mountfs.sync.uploads import Uploads

log = logging.getLogger("mountfs.sync.sending")

GIVE_UP_S = 0.8
"""A program waits no longer, in sum, for any server; the operation stays in the log."""
CONTENT_BYTES_PER_S = 50e6
"""Large content may take longer to reach two disks: limits grow with the size of an operation."""
SENT_AT_ONCE_MAX = 16
"""A program's thread sends its own operation and a few of others; a backlog is the steering thread's."""
SENT_IN_TURN_MAX = 256


class Sending:
    """Invariant: what is sent goes over the link of `session`, after what was handed over on it, in order of
    issue."""

    def __init__(
        self,
        mirror: Mirror,
        changelog: ChangeLog,
        uploads: Uploads,
        later: Callable[[Callable[[], None]], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`later` lets the steering thread call something soon."""
        self._mirror = mirror
        self._log = changelog
        self._outbox = changelog.outbox
        self._uploads = uploads
        self._later = later
        self._monotonic = monotonic
        self._pump_lock = threading.Lock()
        self._again = False
        self._session: Session | None = None
        self.answering = False
        """Some server answers operations, as far as we know; else nobody waits."""

    @property
    def session(self) -> Session | None:
        return self._session

    def use(self, session: Session | None) -> None:
        """From now on over this connection; returns when nobody sends over the one before."""
        with self._pump_lock:
            self._session = session

    # --- for the change log (pending.Sender)

    def pump(self) -> None:
        lock = self._mirror.lock
        if lock._is_owned() or not self._pump(SENT_AT_ONCE_MAX):  # type: ignore[attr-defined]
            self._later(self.pump_all)

    def pump_all(self) -> None:
        """In the steering thread: as `pump`, for a backlog."""
        if not self._pump(SENT_IN_TURN_MAX):
            self._later(self.pump_all)

    def _pump(self, at_most: int) -> bool:
        """Let this thread send, unless another one does; False: there is more to send."""
        self._again = True
        while self._again and self._pump_lock.acquire(blocking=False):
            try:
                self._again = False
                at_most = self._send_ready(at_most)
            finally:
                self._pump_lock.release()
            if at_most == 0:
                return False
        return True

    def patience_s(self, record: Record) -> float:
        if not self.answering:
            return 0.0
        since = record.issued_at
        if record.session == 0 and self._uploads.busy:  # not sent yet: content travels before it
            since = max(since, self._uploads.progress_at)
        return since + GIVE_UP_S + record.content_bytes / CONTENT_BYTES_PER_S - self._monotonic()

    def gave_up(self, record: Record) -> None:
        """A program waited in vain. The next ones need not, unless it was only its content that took so
        long."""
        session = self._session
        travelling = record.session == 0 and session is not None and session.sends
        if self.answering and not (travelling and self._monotonic() - session.answered_at < GIVE_UP_S):  # type: ignore[union-attr]
            log.warning("no server answers; operations stay on this device until one does, first op=%s", record.id)
            self.answering = False

    def answered(self, record: Record | None) -> None:
        """A server acknowledged it; if that was soon enough, it is worth waiting for again."""
        if not self.answering and record is not None and self._monotonic() - record.sent_at < GIVE_UP_S / 2:
            self.answering = True

    def hint(self, chunk: Chunk) -> None:
        self._uploads.hint(chunk)

    def nobody_answers(self) -> None:
        """Whoever waits need not wait any longer."""
        if self.answering:
            self.answering = False
            for record in self._outbox.unacked():
                ticket = record.ticket
                if ticket is not None:
                    ticket.poke()

    # --- with _pump_lock held

    def _send_ready(self, at_most: int) -> int:
        """Send what can be sent now; how many more this thread may.

        In order of issue, but for Writes whose content is still travelling: `pump` is called when more of it
        is there.
        """
        session = self._session
        if session is None or not session.sends:
            return at_most
        for record in self._outbox.aside():
            if at_most > 0 and not self._travelling(record) and not record.parked_until:
                if not self._send(session, record):
                    return at_most
                at_most -= 1
        while at_most > 0 and (record := self._outbox.first_to_send()) is not None:  # type: ignore[assignment]
            if self._travelling(record):
                if not self._outbox.put_aside(record):
                    return at_most
            elif not record.parked_until:
                if not self._send(session, record):
                    return at_most
                at_most -= 1
        return at_most

    def _travelling(self, record: Record) -> bool:
        """Whether large content of it is still on its way. What will never arrive is parked."""
        lacking = self._uploads.lacking(record.chunks)
        if not lacking:
            return False
        failure = self._uploads.failure(lacking)
        if failure is None:
            return True
        log.error("an operation cannot be sent op=%s reason=%s", record.id, failure)
        self._outbox.park(record, str(failure))
        return False

    def _send(self, session: Session, record: Record) -> bool:
        """False: it has to wait (`pump` is called with the next answer), or the link is down (`on_down`
        follows)."""
        blobs = self._log.blobs_of(record)
        op = self._outbox.take(record, session.number, strict=not session.is_behind)
        if op is None:
            return False
        try:
            session.link.submit(op, self._mirror.floor, blobs, strict=record.sent_strict, sync=record.sync)
        except Unreachable:
            return False
        return True
