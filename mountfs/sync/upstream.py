"""Upstream: what goes to the server in use, what comes from it, and the turn to another one.

The change log is sent in order, pipelined, over one link; the feed of that server is applied to the mirror.
When the link is lost, or an operation stays unanswered, the next server is offered what it may lack, with
stamps, and gets the unanswered operations again under their ids, as tentative ones.

Threading. One STEERING thread owns the session, the mirror's feed and all decisions: links, uploads and the
timer only post to its queue. Acknowledgements are taken in the link's thread, at once. Operations are sent by
whoever performed them: `pump` lets one thread at a time send, in order, and never waits for the lock. Lock
order: `_pump_lock`, then mirror.lock, then leaves. Who holds mirror.lock does not send (`pump` leaves it to
the steering thread).
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable

from gdah_volume.content import ChunkHash
from gdah_volume.disk_errors import database_errors
from gdah_volume.errors import GdahError, Unreachable, from_code
from gdah_volume.ids import OpId
from gdah_volume.lock_messages import ToMount
from gdah_volume.stamps import Stamp
from gdah_volume.wire import SILENCE_LIMIT_S, Entry, Welcome
from mountfs.ports import LockEvents, ServerHealth, ServerLink
from mountfs.sync.changelog import ChangeLog
from mountfs.sync.feeding import Feeding, Snapshots
from mountfs.sync.mailbox import Fed, Mailbox, Stop
from mountfs.sync.mirror import Mirror
from mountfs.sync.sending import CONTENT_BYTES_PER_S, Sending
from mountfs.sync.servers import NO_CHOICE, Choice, Figures, choose
from mountfs.sync.session import Session, hand_over, not_told, offers
from mountfs.sync.uploads import Uploads, is_large

log = logging.getLogger("mountfs.sync.upstream")

UNANSWERED_S = 0.6
"""An operation without an answer for so long, while nothing else is answered: another server is asked."""
FEWER_OPERATIONS = 1000
"""A server that has held so many fewer than another one has lost them, and may not have met its peers yet."""
TICK_S = 0.05
_CHUNK_NAME = re.compile(r"\b[0-9a-f]{64}\b")
GOING_S = 0.15
"""What a lost server had fed is taken for so long before another one is turned to; the rest it would tell again."""
REVIEW_INTERVAL_S = 0.5
HANDING_LIMIT_S = 2.0
VIEW_LIMIT_S = 60.0
"""A folder is shown after that, whether or not all has been told that it held before."""
TURN_WITHIN_S = 3.0


class Upstream:
    """Invariant: there is a session iff a server is in use; only its link's feed reaches the mirror."""

    def __init__(
        self,
        mirror: Mirror,
        changelog: ChangeLog,
        uploads: Uploads,
        snapshots: Snapshots,
        *,
        content: Callable[[ChunkHash], bytes | None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`content`: a chunk that is on this device, whoever holds it."""
        self._mirror = mirror
        self._log = changelog
        self._outbox = changelog.outbox
        self._uploads = uploads
        self._servers: list[tuple[str, ServerHealth]] = []
        self._content = content
        self._monotonic = monotonic
        self._mailbox = Mailbox()
        self._sessions = 0
        self._up: dict[str, tuple[ServerLink, Welcome]] = {}
        self._reviewed_at = float("-inf")
        self._turn_wanted_at: float | None = None
        self._members = 0
        self._ids: dict[str, str] = {}
        """Of the servers that were met, by URL."""
        self._epochs: dict[str, str] = {}
        self._going: tuple[float, ServerLink, str] | None = None
        """Until when, and what: the link in use is lost, and what it fed is still being taken."""
        self._beats = threading.Condition()
        self._beat_count = 0
        self._caught_up = False
        self._feeding = Feeding(mirror, changelog, snapshots, self._mailbox.post, lambda: self._session)
        self.sending = Sending(mirror, changelog, uploads, self._mailbox.post, monotonic)
        changelog.set_sender(self.sending)
        self._fences: list[tuple[int, Callable[[], None]]] = []
        self.locks: LockEvents | None = None
        self._thread = threading.Thread(target=self._steer, name="steering", daemon=True)
        self.choice: Choice = NO_CHOICE
        self.disconnected_since: float | None = time.time()

    def add_server(self, url: str, health: ServerHealth) -> None:
        """In order of preference, before `start`."""
        self._servers.append((url, health))

    def when_told(self, fence: Callable[[Callable[[], None]], None]) -> None:
        """`fence` calls back when the kernel was told of all that has changed so far."""
        self._feeding.when_told = fence

    # --- life

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self.locks is not None:
            self.locks.stop()
        self._mailbox.post(Stop())
        self.sending.nobody_answers()
        if self._thread.is_alive():
            self._thread.join(10.0)

    # --- figures

    @property
    def _session(self) -> Session | None:
        return self.sending.session

    @property
    def of(self) -> int:
        """How many servers there are: the members, and those we were told of that may be some."""
        return max(self._members, sum(not self._is_retired(url, health) for url, health in self._servers))

    def _is_retired(self, url: str, health: ServerHealth) -> bool:
        """It says so itself, or another one does, by its id (if it was ever met) or its URL."""
        if health.is_retired:
            return True
        gone = {word for _, other in self._servers for pair in other.retired for word in pair}
        return url in gone or self._ids.get(url) in gone

    @property
    def is_one_being_filled(self) -> bool:
        """Some server does not hold what all held once."""
        session = self._session
        return session is not None and (session.is_behind or session.has_lost)

    @property
    def url(self) -> str | None:
        """The server in use."""
        session = self._session
        return session.link.url if session is not None and session.sends else None

    def wait_caught_up(self, timeout_s: float) -> bool:
        """Wait until the mirror has all that the server in use had at the call. False: it took too long, or
        there is no server."""
        return self._wait_caught_up(self._beat_count + 2, timeout_s)  # the next one may have been under way already

    def _wait_caught_up(self, beats: int, timeout_s: float) -> bool:
        with self._beats:
            return self._beats.wait_for(lambda: self._caught_up and self._beat_count >= beats, timeout_s)

    def wait_first_view(self, timeout_s: float, *, doubt: bool = False) -> bool:
        """At the very first start: wait until there is something to show; with `doubt` whether what is known is all
        that was, until a server has told. False: no server answers, or nothing came for so long, or it takes too long;
        what is known must do."""
        if not self._mirror.empty and not doubt:
            return True
        began = self._monotonic()
        deadline = began + timeout_s
        beats, head = self._beat_count + 2, -1
        self._mirror.in_a_hurry = True
        try:
            while self._monotonic() < deadline:
                if self.url is None and all(health.errors for _, health in self._servers):
                    return False
                if self._wait_caught_up(beats, 0.1) and not (doubt and self._another_knows_more()):
                    return True
                if self._mirror.replica.head != head:  # as long as it gets on
                    head = self._mirror.replica.head
                    deadline = max(deadline, min(self._monotonic() + timeout_s, began + VIEW_LIMIT_S))
            return False
        finally:
            self._mirror.in_a_hurry = False

    def _another_knows_more(self) -> bool:
        """The server in use is being filled, and there may be one that is not."""
        figures = self._figures()
        behind = any(each.is_behind for each in figures if each.url == self.url)
        untried = any(not health.errors for url, health in self._servers if url not in self._up)
        return behind and (untried or any(each.usable and not each.is_behind for each in figures))

    def usable(self, url: str) -> bool:
        found = self._up.get(url)
        return found is not None and self._monotonic() - found[0].health.last_heard < 2 * SILENCE_LIMIT_S

    # --- what links tell (ports.LinkEvents), in their threads

    def on_up(self, link: ServerLink, welcome: Welcome) -> None:
        self._mailbox.post(lambda: self._came_up(link, welcome))

    def on_down(self, link: ServerLink, reason: str) -> None:
        # In its turn, so that what it fed before is known; but not much later.
        self._mailbox.post(lambda: self._goes_down(link, reason), first=True)
        self._mailbox.post(lambda: self._went_down(link, reason))

    def on_feed(self, link: ServerLink, entries: tuple[Entry, ...], everywhere: int, stable: Stamp) -> None:  # noqa: ARG002
        own = all(self._outbox.record(entry.op.id) is not None for entry in entries)
        self._mailbox.fed(link, entries, everywhere, lazy=own)

    def on_ack(
        self,
        link: ServerLink,
        op: OpId,
        stamp: Stamp,  # noqa: ARG002 - it came with the feed, before this
        position: int,  # noqa: ARG002
        copies: int,
        of: int,
    ) -> None:
        session = self._session
        if session is None or session.link is not link:
            return  # a server that was given up; the one in use will say it, too
        session.answered_at = self._monotonic()
        self._members = of
        self.sending.answered(self._outbox.record(op))
        self._outbox.acknowledge(op, copies, of)
        if self._outbox.first_to_send() is not None:
            self._mailbox.post(self.sending.pump_all)

    def on_refused(self, link: ServerLink, op: OpId, code: str, message: str) -> None:
        session = self._session
        if session is not None and session.link is link:
            session.answered_at = self._monotonic()
            self._mailbox.post(lambda: self._refuse(op, from_code(code, message), session.number))

    def on_want(self, link: ServerLink, ids: tuple[OpId, ...]) -> None:
        self._mailbox.post(lambda: self._wanted(link, ids))

    def on_handed_over(self, link: ServerLink, head: int) -> None:  # noqa: ARG002
        session = self._session
        if session is not None and session.link is link:
            session.answered_at = self._monotonic()

    def on_snapshot_needed(self, link: ServerLink, first: int) -> None:  # noqa: ARG002
        self._mailbox.post(lambda: self._snapshot_needed(link))

    def on_lock(self, link: ServerLink, message: ToMount) -> None:
        session = self._session
        if session is not None and session.link is link and self.locks is not None:
            self.locks.hear(message)

    def fence(self, position: int, then: Callable[[], None]) -> None:
        """Call `then` when the mirror has the log of the server in use up to there; never, if it is lost before."""
        self._mailbox.post(lambda: self._fence(position, then))

    def on_beat(self, link: ServerLink) -> None:
        health = link.health
        figures = (health.everywhere, health.head, health.stable, bytes.fromhex(health.digest))
        self._mailbox.post(lambda: self._beaten(link, *figures))

    # --- the steering thread

    def _steer(self) -> None:
        ticked_at = self._monotonic()
        while True:
            event = self._mailbox.take(TICK_S)
            if isinstance(event, Stop):
                return
            try:
                with database_errors("the mirror of this device"):
                    if isinstance(event, Fed):
                        self._feed(event)
                    elif event is not None:
                        event()
                    if self._going is not None and self._monotonic() > self._going[0]:
                        self._went_down(*self._going[1:])
                    if self._monotonic() - ticked_at > TICK_S:
                        ticked_at = self._monotonic()
                        self._tick()
            except GdahError as error:
                log.warning("this device cannot follow the server now: %s", error)
                self._give_up_session(str(error))
            except Exception as error:
                # A fault of ours must not stop the mount from ever sending again: begin anew.
                log.exception("steering failed")
                self._give_up_session(f"a fault of this mount: {error}")

    def _give_up_session(self, reason: str) -> None:
        session = self._session
        if session is not None:
            session.link.drop(reason)

    def _feed(self, fed: Fed) -> None:
        session = self._session
        try:
            if session is not None and session.link is fed.link:
                self._feeding.feed(session, fed.entries, fed.everywhere)
                self._reached(session)
        finally:
            self._mailbox.applied(fed)

    def _fence(self, position: int, then: Callable[[], None]) -> None:
        session = self._session
        if session is None:
            return
        if session.feed.read >= position:
            then()
        else:
            self._fences.append((position, then))

    def _reached(self, session: Session) -> None:
        if self._fences:
            reached = [then for position, then in self._fences if position <= session.feed.read]
            self._fences = [each for each in self._fences if each[0] > session.feed.read]
            for then in reached:
                then()

    def _beaten(self, link: ServerLink, everywhere: int, head: int, stable: Stamp, digest: bytes) -> None:
        session = self._session
        if session is None or session.link is not link or session.phase != "live":
            return
        if session.is_behind and session.probe is not None and stable >= session.probe[1]:
            log.info("the server has caught up url=%s", link.url)
            session.is_behind = False
        session.hear_everywhere(everywhere)
        self._feeding.beaten(session, everywhere=everywhere, head=head, stable=stable, digest=digest)
        self._reached(session)
        with self._beats:
            self._beat_count += 1
            self._caught_up = session.feed.read >= head
            self._beats.notify_all()

    def _came_up(self, link: ServerLink, welcome: Welcome) -> None:
        self._up[link.url] = (link, welcome)
        self._members = len(welcome.members)
        self._ids[link.url] = welcome.server
        if self._epochs.setdefault(link.url, welcome.epoch) != welcome.epoch:
            self._epochs[link.url] = welcome.epoch
            self._uploads.forget_everywhere()
        self._mirror.stamps_are_void({server for server, _ in welcome.retired})
        self._review()

    def _goes_down(self, link: ServerLink, reason: str) -> None:
        session = self._session
        if session is not None and session.link is link:
            self._going = (self._monotonic() + GOING_S, link, reason)

    def _went_down(self, link: ServerLink, reason: str) -> None:
        self._going = None
        found = self._up.get(link.url)
        if found is not None and found[0] is link:
            del self._up[link.url]
        session = self._session
        if session is not None and session.link is link:
            self._end_session()
            self._review(lost=reason)

    def _end_session(self) -> None:
        if self.locks is not None:
            self.locks.down()
        self._fences.clear()
        self.sending.use(None)
        self._caught_up = False
        self._uploads.aim(None, self.of)

    def _review(self, lost: str | None = None) -> None:
        """Choose the server to use, and turn to it if that is another one."""
        now = self._monotonic()
        self._reviewed_at = now
        before = self.choice
        self.choice = choose(self._figures(), before, now, lost)
        session = self._session
        if self.choice.url is None:
            self._unreachable()
        elif session is None:
            self._begin(*self._up[self.choice.url])
        elif session.link.url != self.choice.url:
            if self._turn_wanted_at is None:
                self._turn_wanted_at = now
            # Best between two operations, so that none is in doubt; but not never, under load.
            if self._outbox.oldest_sent(session.number) is None or now - self._turn_wanted_at > TURN_WITHIN_S:
                self._turn(session)
            else:
                self.choice = before
        else:
            self._turn_wanted_at = None

    def _figures(self) -> list[Figures]:
        most = max((health.operations for url, health in self._servers if url in self._up), default=0)
        found = []
        for url, health in self._servers:
            fewer = most - health.operations
            behind = max(health.behind, fewer if fewer > FEWER_OPERATIONS else 0)
            found.append(Figures(url, url in self._up, health.latency_ms, health.error_rate, health.trouble, behind))
        return found

    def _turn(self, session: Session) -> None:
        self._turn_wanted_at = None
        log.info("turning to %s: %s", self.choice.url, self.choice.why)
        self._end_session()
        self._up.pop(session.link.url, None)
        session.link.drop(f"turned to {self.choice.url}")
        assert self.choice.url is not None
        self._begin(*self._up[self.choice.url])

    def _unreachable(self) -> None:
        if self.disconnected_since is None:
            self.disconnected_since = time.time()
            log.warning("no server is reachable: %s", self.choice.why)
        self.sending.nobody_answers()

    # --- a session

    def _begin(self, link: ServerLink, welcome: Welcome) -> None:
        assert link.server is not None
        assert link.epoch is not None
        self._sessions += 1
        self._log.begin_session()
        feed = self._mirror.feed(link.server, link.epoch)
        stamped = not_told(self._mirror.stamped_above_stable(), feed, welcome)
        probe = self._mirror.newest_everywhere()
        session = Session(self._sessions, link, welcome, feed, self._monotonic(), probe=probe)
        session.told_everywhere = feed.everywhere
        log.info("using %s (%s): offering %d operations", link.url, self.choice.why, len(stamped))
        self.sending.use(session)
        try:
            for part in offers([probe, *stamped] if probe else stamped):
                session.offers_out += 1
                link.offer(part)
            if session.offers_out == 0:
                self._go_live(session)
        except Unreachable:
            return  # `on_down` follows

    def _wanted(self, link: ServerLink, ids: tuple[OpId, ...]) -> None:
        session = self._session
        if session is None or session.link is not link or session.phase != "handing":
            return
        session.answered_at = self._monotonic()
        try:
            if hand_over(session, ids, self._mirror, self._content):
                self._go_live(session)
        except Unreachable:
            return  # `on_down` follows

    def _snapshot_needed(self, link: ServerLink) -> None:
        session = self._session
        if session is not None and session.link is link:
            self._feeding.load(session)

    def _go_live(self, session: Session) -> None:
        """What it lacked is on its way: read its feed, send."""
        session.phase = "loading"
        session.feed.run = session.welcome.run
        session.answered_at = self._monotonic()
        self._uploads.aim(session.link.url, self.of)
        self.sending.answering = True
        self.disconnected_since = None
        self._feeding.begin(session)
        if self.locks is not None and session.welcome.locks:
            self.locks.up(session.link.tell_lock)
        # Large content of operations that are not everywhere: this server may lack it, and we are the ones who have it.
        session.lending = [chunk for record in self._outbox.acked() for chunk in record.chunks if is_large(chunk)]
        self.sending.pump_all()

    # --- refusals and time

    def _refuse(self, op: OpId, error: GdahError, session: int) -> None:
        lacking = _chunk_in(str(error)) if error.code == "UnknownChunk" else None
        here = lacking is not None and self._content(lacking) is not None
        verdict = self._log.refused(op, error, session, hopeless=lacking is not None and not here)
        if verdict == "held" and lacking is not None:
            # It said that it had it, or never needed it until now: it goes there again, also a small one.
            self._uploads.forget([lacking])
            self._uploads.push([lacking])
        if verdict == "parked" and self._session is not None:
            # On this connection the server takes nothing of ours that comes after it; on a new one it does.
            self._session.link.drop(f"{op} cannot be sent now: {error}")
        self.sending.pump_all()

    def _tick(self) -> None:
        now = self._monotonic()
        session = self._session
        if session is not None:
            self._look_for_silence(session, now)
            while session.lending and self._uploads.hint(session.lending[-1]):
                session.lending.pop()
        if self._outbox.unpark():
            self.sending.pump_all()
        if now - self._reviewed_at > REVIEW_INTERVAL_S:
            self._review()

    def _look_for_silence(self, session: Session, now: float) -> None:
        """An operation without an answer: another server, if there is one."""
        if session.phase == "handing":
            if now - session.answered_at > HANDING_LIMIT_S:
                session.link.drop("it did not answer what it lacks")
            return
        oldest = self._outbox.oldest_sent(session.number)
        others = [each for each in self._figures() if each.usable and each.url != session.link.url]
        if oldest is None or all(each.is_behind or each.trouble for each in others):
            return
        limit_s = UNANSWERED_S + oldest.content_bytes / CONTENT_BYTES_PER_S
        if now - max(oldest.sent_at, session.answered_at) > limit_s:
            session.link.drop(f"an operation was not answered for {limit_s:.1f} s")


def _chunk_in(message: str) -> ChunkHash | None:
    """The chunk that an error names."""
    found = _CHUNK_NAME.search(message)
    return None if found is None else ChunkHash(bytes.fromhex(found[0]))
