"""Where an operation is stamped, when it is acknowledged, and what the servers of a volume owe each other.

The deciding core of the server: no network, no disk, no clock of its own. Events come in with the time; what is to be
done goes out through `Deeds`; answers go to the `Asker`.

The SEQUENCER is the smallest server id among the joined. Others pass operations on to it. Invariants:

* A server passes on only to a peer that has read all of its log that did not come from that peer, and while it stamps
  nothing itself. So what the sequencer decides, it decides knowing everything.
* A sequencer stamps only while it can be sure that the larger joined servers still pass on to it (a lease of the
  silence limit, renewed by beats that echo its own clock), or after having waited in vain for WAIT_LIMIT_S.
* An operation that was passed on and not answered is in doubt: it is stamped here without being refused.
* Operations are routed in the order in which they came; one that waits makes later ones wait, and one whose lease ran
  out on its way to the log holds back those behind it.

Threading: the event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gdah_volume.errors import GdahError, NoSpace, StorageFailed, Unavailable
from gdah_volume.ids import OpId, ServerId
from gdah_volume.stamps import PENDING_SERVER, Stamp
from gdah_volume.wire import Ack, Beat, Refused, Welcome
from storage_server.copies import Copies, Waiting
from storage_server.passing import Passed, Passing
from storage_server.peer_state import RETRY_JOIN_S, WAIT_LIMIT_S, Peer, Phase
from storage_server.ports import Deeds, Published, StaleLease, Stamped, Submission

FOREVER = float("inf")
_OWN_TROUBLE = tuple(kind.__name__ for kind in (NoSpace, StorageFailed, Unavailable))
"""Refusals that say something about the peer, not about the operation."""


@dataclass(frozen=True, slots=True)
class PassOn:
    server: ServerId


@dataclass(frozen=True, slots=True)
class StampHere:
    valid_until: float


@dataclass(frozen=True, slots=True)
class Wait:
    """For the peer of that name."""

    peer: str


Route = PassOn | StampHere | Wait


class Replication:
    def __init__(self, own: ServerId, deeds: Deeds) -> None:
        self.own = own
        self.head = 0
        self.here = 0
        """Up to where our own log is here with all content."""
        self.peers: dict[ServerId, Peer] = {}
        self.unmet: dict[str, float] = {}
        """URLs of servers that have not said who they are -> until when they are waited for."""
        self.retired: set[ServerId] = set()
        """Of whom every peer has to know before its promises count."""
        self.is_full = False
        """Our own disk: the writer refuses what is new, so nobody is asked to take it in our place."""
        self._deeds = deeds
        self._held: deque[Submission] = deque()
        self._passing = Passing()
        self._copies = Copies(self.peers.values)
        self._stamping = 0
        self._turn = 0
        self._is_stale = False
        """Some of this turn have to come again: nothing is stamped until all that was on its way has come back."""
        self._serial = 0
        self._sequencer = own

    # --- members

    def expect(self, url: str, now: float) -> None:
        """A server should be there; nothing is known of it yet."""
        self.unmet.setdefault(url, now + WAIT_LIMIT_S)

    def forget(self, url: str, now: float) -> None:
        """Who is there is known now, or it was ourselves."""
        if self.unmet.pop(url, None) is not None:
            self.pump(now)

    def unreachable(self, url: str, now: float) -> None:
        if url in self.unmet:
            self.unmet[url] = 0.0
        self.pump(now)

    def member(self, server: ServerId, url: str, now: float) -> Peer:
        """The record of a server of the volume, made if it is new."""
        peer = self.peers.get(server)
        if peer is None:
            peer = self.peers[server] = Peer(server, url, wait_until=now + WAIT_LIMIT_S, needed=self.head)
        if url:
            peer.url = url
            self.unmet.pop(url, None)
        return peer

    def retire(self, server: ServerId, now: float) -> None:
        """It is no member any more: retired, or another server answers in its place."""
        gone = self.peers.pop(server, None)
        if gone is not None:
            for peer in self.peers.values():
                # It may know what the gone one stamped below its own promise, and we do not yet.
                peer.hold_back(gone.confirmed)
            self._recover_passed(server)
            self._settle()
            self.pump(now)

    @property
    def of(self) -> int:
        """How many copies there should be."""
        return 1 + len(self.peers) + len(self.unmet)

    @property
    def everywhere(self) -> int:
        """Every member holds our log up to here, with its content; we are one of them."""
        if self.unmet:
            return 0
        return min([min(self.here, self.head), *(peer.held for peer in self.peers.values())])

    @property
    def lag(self) -> int:
        return self.head - self.everywhere

    @property
    def behind(self) -> int:
        """Entries that others have and we do not, as far as we know."""
        return sum(peer.head - peer.cursor for peer in self.peers.values() if peer.is_ahead)

    def stable(self, own_promise: int) -> Stamp:
        """No smaller stamp can arrive from anybody (`PENDING_SERVER` sorts above every server)."""
        clock = 0 if self.unmet else min([own_promise, *(peer.confirmed for peer in self.peers.values())])
        return Stamp(clock, PENDING_SERVER)

    @property
    def sequencer(self) -> ServerId:
        """To whom we pass on now; ourselves: we stamp."""
        joined = [peer.server for peer in self.peers.values() if peer.phase is Phase.JOINED and not peer.trouble]
        return min([self.own, *joined])

    def joined(self) -> list[Peer]:
        return [peer for peer in self.peers.values() if peer.phase is Phase.JOINED]

    # --- lanes of peers come and go

    def link_up(self, server: ServerId, welcome: Welcome, cursor: int, now: float) -> None:
        self.peers[server].link_up(welcome.head, cursor)
        self._connect(self.peers[server], now)

    def link_down(self, server: ServerId, reason: str, now: float, *, gone: bool) -> None:
        """The lane that we dialled is lost. `gone`: nobody is there, or it was silent; else it may soon be back."""
        peer = self.peers.get(server)
        if peer is not None:
            peer.out_up = False
            self._lose(peer, reason, now, gone=gone)

    def feed_open(self, server: ServerId, read: int, now: float) -> None:
        self.peers[server].feed_open(read)
        self._connect(self.peers[server], now)

    def feed_closed(self, server: ServerId, reason: str, now: float, *, gone: bool) -> None:
        peer = self.peers.get(server)
        if peer is not None:
            peer.in_up = False
            self._lose(peer, reason, now, gone=gone)

    def _connect(self, peer: Peer, now: float) -> None:
        if peer.connected:
            peer.phase = Phase.CATCHING_UP
            peer.wait_until = None
            peer.retry_at = 0.0
            peer.retry_held = 0
            peer.nearly_since = None
            peer.held_at = peer.asked_at = now
        self.review(peer, now)

    def _lose(self, peer: Peer, reason: str, now: float, *, gone: bool) -> None:
        was = peer.phase
        if gone:
            peer.lost(Phase.DOWN, reason)
        elif was not in (Phase.AWAITED, Phase.DOWN):
            peer.lost(Phase.AWAITED, reason)
        else:
            peer.last_error = reason
        self._left(peer, now)

    def _demote(self, peer: Peer, reason: str, now: float) -> None:
        """It is there but too slow, or in trouble: go on without it, try to join again after a while."""
        peer.phase = Phase.CATCHING_UP
        peer.last_error = reason
        peer.wait_until = None
        peer.retry_at = now + RETRY_JOIN_S
        self._left(peer, now)

    def _left(self, peer: Peer, now: float) -> None:
        self._recover_passed(peer.server)
        self._tell_sequencer()
        self._settle()
        self.pump(now)

    def _recover_passed(self, server: ServerId) -> None:
        """What was passed on there and not answered is stamped elsewhere, without being refused any more."""
        self._requeue(self._passing.take_back(server))

    def _requeue(self, submissions: Iterable[Submission]) -> None:
        self._held.extend(submissions)
        self._held = deque(sorted(self._held, key=lambda submission: submission.serial))

    # --- what peers tell

    def beat(self, server: ServerId, beat: Beat, lane: str, now: float) -> None:
        peer = self.peers.get(server)
        if peer is None:
            return
        peer.told(beat, lane, now, agrees=self.retired <= {gone for gone, _ in beat.retired})
        if peer.trouble and peer.phase in (Phase.JOINED, Phase.COMING):
            self._demote(peer, peer.trouble, now)
        self.review(peer, now)

    def held(self, server: ServerId, position: int, now: float) -> None:
        """It has our log up to `position`, with content."""
        peer = self.peers.get(server)
        if peer is None:
            return
        peer.held = max(peer.held, min(position, self.head))
        peer.read = max(peer.read, peer.held)
        peer.held_at = now
        self._settle()
        if self._held or peer.phase is not Phase.JOINED:
            self.review(peer, now)

    def applied(self, server: ServerId, position: int, now: float) -> None:
        """Its log is in ours up to `position`."""
        peer = self.peers.get(server)
        if peer is not None:
            peer.applied_up_to(position)
            if peer.phase is not Phase.JOINED:
                self.review(peer, now)

    def published(self, items: Sequence[Published], now: float) -> None:
        """New positions in our own log."""
        for item in items:
            position, stamp = item.entry.position, item.entry.stamp
            self.head = position
            for peer in self.peers.values():
                if peer.server not in (item.origin, stamp.server):
                    peer.needed = position
            passed = self._passing.get(item.entry.op.id)
            if passed is None:
                continue
            if passed.is_content_in_doubt:
                self._deeds.look_up(passed.submissions[0])
            else:
                passed.stamped = Stamped(stamp, position)
                self._finish_passed(item.entry.op.id, passed, now)

    def passed_on(self, op: OpId) -> Submission | None:
        """What we passed on under this id, for its content."""
        passed = self._passing.get(op)
        return passed.submissions[0] if passed else None

    def came_back(self, server: ServerId, ops: Iterable[OpId], now: float) -> None:
        """The feed of a peer brought them, so they are in its log; with their content if they came whole."""
        for op in ops:
            passed = self._passing.get(op)
            if passed is not None and passed.submissions[0].is_whole:
                self.peer_acked(server, op, 1, now)

    def peer_acked(self, server: ServerId, op: OpId, copies: int, now: float) -> None:
        passed = self._passing.get(op)
        if passed is not None and passed.server == server:
            self.peers[server].asked_at = now
            passed.copies = copies
            self._finish_passed(op, passed, now)

    def peer_refused(self, server: ServerId, op: OpId, code: str, message: str, now: float) -> None:
        passed = self._passing.get(op)
        if passed is None or passed.server != server:
            return
        peer = self.peers[server]
        peer.asked_at = now
        self._passing.remove(op)
        if code in _OWN_TROUBLE:
            peer.trouble = message or code
            self._requeue(passed.submissions)
            self._demote(peer, peer.trouble, now)
            return
        for submission in passed.submissions:
            submission.asker.answer(Refused(id=op, code=code, message=message))
        self.pump(now)

    def _finish_passed(self, op: OpId, passed: Passed, now: float) -> None:
        if passed.stamped is None or passed.copies is None:
            return
        self._passing.remove(op)
        exempt = passed.server if passed.copies else None
        for submission in passed.submissions:
            self._await_copies(submission, passed.stamped, exempt, now)

    def found(self, submission: Submission, stamped: Stamped | None, now: float) -> None:
        """The answer to `look_up`."""
        passed = self._passing.get(submission.op.id)
        if passed is not None and stamped is not None and passed.stamped is None:
            passed.stamped = stamped
            self._finish_passed(submission.op.id, passed, now)

    def content_here(self, position: int) -> None:
        """All that our log names up to there is here."""
        self.here = max(self.here, position)

    def lost_data(self) -> None:
        """An older copy of our log has taken its place: the others have more of it than we."""
        for peer in self.peers.values():
            peer.lacking = True

    # --- operations

    def submit(self, submission: Submission, now: float) -> None:
        self._serial += 1
        submission.serial = self._serial
        self._held.append(submission)
        self.pump(now)

    def pump(self, now: float) -> None:
        """Route what waits, in order, as far as it goes."""
        while self._held and not self._is_stale:
            route = self.route(now)
            if isinstance(route, Wait):
                return
            submission = self._held.popleft()
            strict = submission.strict and not submission.doubt
            if isinstance(route, PassOn):
                self._pass_on(submission, route.server, now, strict=strict)
            else:
                self._stamping += 1
                # To refuse what we do not know would be wrong while there is so much that we do not know.
                strict = strict and not any(peer.lacking for peer in self.peers.values())
                self._deeds.stamp(submission, strict=strict, valid_until=route.valid_until, turn=self._turn)

    def route(self, now: float) -> Route:
        if self.is_full:
            return StampHere(FOREVER)
        for url, until in self.unmet.items():
            if now < until:
                return Wait(url)
        valid_until = FOREVER
        for peer in sorted(self.peers.values(), key=lambda each: each.server):
            if peer.trouble or peer.phase in (Phase.DOWN, Phase.CATCHING_UP):
                continue
            if peer.phase is not Phase.JOINED:
                if peer.may_wait(now):
                    return Wait(peer.server)
                continue
            if peer.server < self.own:
                if peer.past_barrier(self.own, stamping=self._stamping > 0):
                    peer.wait_until = None
                    return PassOn(peer.server)
                if peer.may_wait(now):
                    return Wait(peer.server)
                self._give_up(peer, "it did not read our log in time", now)
            elif peer.sequencer == self.own and now < peer.lease_until():
                peer.wait_until = None
                valid_until = min(valid_until, peer.lease_until())
            elif peer.may_wait(now):
                return Wait(peer.server)
        return StampHere(valid_until)

    def _give_up(self, peer: Peer, reason: str, now: float) -> None:
        """As `_demote`, from within routing: what was passed on waits behind, the rest follows at the next tick."""
        peer.phase = Phase.CATCHING_UP
        peer.last_error = reason
        peer.wait_until = None
        peer.retry_at = now + RETRY_JOIN_S
        self._recover_passed(peer.server)
        self._tell_sequencer()

    def _pass_on(self, submission: Submission, server: ServerId, now: float, *, strict: bool) -> None:
        if not self._passing.is_asked(server):
            self.peers[server].asked_at = now
        if self._passing.add(submission, server, now):
            self._deeds.pass_on(server, submission, strict=strict)

    def stamped(self, results: Sequence[tuple[Submission, Stamped | Exception]], now: float) -> None:
        """What the writer made of a batch, in its order."""
        self._stamping -= len(results)
        again: list[Submission] = []
        for submission, result in results:
            if isinstance(result, StaleLease):
                again.append(submission)
            elif isinstance(result, Stamped):
                self._await_copies(submission, result, submission.giver, now)
            else:
                error = result if isinstance(result, GdahError) else GdahError("internal error; see the server's log")
                submission.asker.answer(Refused(id=submission.op.id, code=error.code, message=str(error)))
        if again:
            self._requeue(again)
            self._is_stale = True
        if self._is_stale and self._stamping == 0:
            self._is_stale = False
            self._turn += 1
        if self._stamping == 0 and (self._held or any(peer.phase is Phase.COMING for peer in self.peers.values())):
            for peer in self.peers.values():
                self.review(peer, now)
            self.pump(now)

    def _await_copies(self, submission: Submission, stamped: Stamped, exempt: ServerId | None, now: float) -> None:
        lacks = bool(stamped.missing)
        waiting = Waiting(stamped.position, submission.serial, submission, stamped.stamp, exempt, now, lacks)
        if submission.giver is not None:
            # A peer counts the copies itself: it only asks whether ours is here, with its content.
            if not (stamped.is_new and submission.is_whole):
                self._acknowledge(waiting, 0 if lacks else 1)
        elif self._copies.is_complete(waiting):
            self._acknowledge(waiting, self._copies.count(waiting))
        else:
            self._copies.wait(waiting)

    def _settle(self) -> None:
        for waiting in self._copies.pop_complete():
            self._acknowledge(waiting, self._copies.count(waiting))

    def _acknowledge(self, waiting: Waiting, copies: int) -> None:
        op = waiting.submission.op.id
        ack = Ack(id=op, stamp=waiting.stamp, position=waiting.position, copies=copies, of=self.of)
        self._deeds.acknowledge(waiting.submission, ack)

    # --- time

    def review(self, peer: Peer, now: float) -> None:
        """See whether a peer comes nearer."""
        if peer.connected and not peer.trouble:
            ready = now >= peer.retry_at and peer.held >= peer.retry_held
            if peer.phase is Phase.CATCHING_UP and ready and peer.nearly_same(self.head, now):
                peer.phase = Phase.COMING
                peer.wait_until = None
            if peer.phase is Phase.COMING:
                if peer.past_barrier(self.own, stamping=self._stamping > 0):
                    peer.phase = Phase.JOINED
                    peer.wait_until = None
                elif self._held and not peer.may_wait(now):
                    self._demote(peer, "the barrier took too long", now)
            self._tell_sequencer()
        self.pump(now)

    def _tell_sequencer(self) -> None:
        if self.sequencer != self._sequencer:
            self._sequencer = self.sequencer
            self._deeds.sequencer_changed()

    def tick(self, now: float) -> None:
        """Several times a second: what has waited too long goes on without whom it waited for."""
        for peer in list(self.peers.values()):
            if peer.phase is Phase.JOINED:
                self._watch(peer, now)
            if peer.phase is Phase.AWAITED and not peer.may_wait(now):
                peer.lost(Phase.DOWN, peer.last_error or "it did not come back")
                self._left(peer, now)
            self.review(peer, now)
        for submission in self._passing.unheard(now):
            self._deeds.look_up(submission)
        self.pump(now)

    def _watch(self, peer: Peer, now: float) -> None:
        """A joined peer owes answers; without any progress for WAIT_LIMIT_S nobody waits for it any more."""
        if self._passing.is_asked(peer.server) and now - peer.asked_at > WAIT_LIMIT_S:
            self._demote(peer, "it did not answer in time what was passed on to it", now)
            return
        oldest = self._copies.oldest
        if oldest is not None and peer.held < oldest.position and now - max(peer.held_at, oldest.at) > WAIT_LIMIT_S:
            peer.retry_held = oldest.position
            self._demote(peer, "it did not store our log in time", now)

    def forget_reads(self) -> None:
        """Our log begins anew for everybody: what they said of it means nothing. `content_here` is told again."""
        self.here = 0
        for peer in self.peers.values():
            peer.read = peer.held = 0
            peer.needed = self.head

    def shift(self, seconds: float) -> None:
        """This process did not run for so long: nobody else is late for that."""
        for peer in self.peers.values():
            peer.asked_at += seconds
            peer.held_at += seconds
            if peer.wait_until is not None:
                peer.wait_until += seconds

    @property
    def waiting(self) -> int:
        """Operations that are on their way, for the status."""
        return len(self._held) + len(self._passing) + len(self._copies) + self._stamping
