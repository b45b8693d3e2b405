"""What this mount says to the server about locks: messages in order, sessions, signs of life, and how long there is
hope that a server will answer. Decides nothing about locks.

Threading: guarded by the lock of `locking`, which is let go while a message is sent: one thread at a time sends, in
order, and the others leave it to that one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from gdah_volume.errors import Unreachable
from gdah_volume.ids import Author, NodeId
from gdah_volume.lock_messages import LOCK_HOLDS_MAX, LockAsk, LockBeat, LockClaim, LockGiven, LockHold, OfMount
from mountfs.locks.lock_files import Act, Ask

HOPE_S = 1.0
"""So long after the last server was lost a call waits for the next one; then it is judged here."""
LEASE_S = 1.25
"""A lease is worth nothing that long after the last sign that the server has answered. Less than LOCK_GRACE_S, in which
a new sequencer lets nobody in."""
BEAT_S = 0.2


class LockTalk:
    """Invariant: what is sent goes over the connection of `up`, after the claim of its session."""

    def __init__(self, client: Author, lost_at: float) -> None:
        self.client = client
        self.session = 0
        self.claimed = False
        self.used = False
        """A server has been asked in this run."""
        self.lost_at = lost_at
        self.lease_until = float("-inf")
        self._send: Callable[[OfMount], None] | None = None
        self._out: deque[OfMount] = deque()
        self._sending = threading.Lock()
        self._beaten_at = float("-inf")

    # --- a server

    @property
    def connected(self) -> bool:
        return self._send is not None

    def hopeful(self, now: float) -> bool:
        return self._send is not None or now - self.lost_at < HOPE_S

    def lost_s(self, now: float) -> float:
        return now - self.lost_at if self._send is None else 0.0

    def up(self, send: Callable[[OfMount], None]) -> None:
        self._send = send
        self.claimed = False
        self._out.clear()

    def down(self, now: float) -> None:
        if self._send is not None:
            self.lost_at = now
        self._send = None
        self.claimed = False
        self._out.clear()

    def heard(self, sent_at: float) -> None:
        """It has answered what was sent then."""
        self.lease_until = max(self.lease_until, sent_at + LEASE_S)

    # --- messages

    def claim(self, holds: Sequence[LockHold], now: float) -> None:
        self.session += 1
        self.claimed = self.used = True
        parts = list(_parts(holds))
        for at, part in enumerate(parts):
            self._queue(LockClaim(client=self.client, session=self.session, holds=part, last=at == len(parts) - 1))
        self.beat(now)

    def leave(self) -> None:
        if self.claimed:
            self._queue(LockClaim(client=self.client, session=self.session + 1, leave=True))

    def ask(self, ask: Ask, act: Act | None = None) -> None:
        """`act` None: to end its wait."""
        wanted = ask.wanted
        self._queue(
            LockAsk(
                client=self.client,
                session=self.session,
                ask=ask.name,
                node=ask.node,
                act=act or "cancel",
                space=ask.space,
                owner=ask.owner.key,
                write=wanted.write,
                start=wanted.start,
                end=wanted.end,
                pid=wanted.pid,
            )
        )

    def give(self, hold: LockHold) -> None:
        if self.claimed:
            self._queue(LockGiven(client=self.client, session=self.session, hold=hold))

    def give_nothing(self, node: NodeId) -> None:
        self.give(LockHold(node))

    def beat_if_due(self, now: float) -> None:
        if self.claimed and now - self._beaten_at >= BEAT_S * 0.9:
            self.beat(now)

    def beat(self, now: float) -> None:
        self._beaten_at = now
        self._queue(LockBeat(client=self.client, session=self.session, sent_us=int(now * 1e6)))

    def _queue(self, message: OfMount) -> None:
        self._out.append(message)

    # --- sending, without the lock

    def flush(self, lock: threading.Lock) -> None:
        while self._out and self._sending.acquire(blocking=False):
            try:
                self._send_all(lock)
            finally:
                self._sending.release()

    def _send_all(self, lock: threading.Lock) -> None:
        while True:
            with lock:
                send = self._send
                if not self._out or send is None:
                    self._out.clear()
                    return
                message = self._out.popleft()
            try:
                send(message)
            except Unreachable:
                return  # `down` follows


def _parts(holds: Sequence[LockHold]) -> Iterator[tuple[LockHold, ...]]:
    """At least one, and none too large for a message."""
    part: list[LockHold] = []
    size = 0
    for hold in holds:
        if part and size + 1 + len(hold.locks) > LOCK_HOLDS_MAX:
            yield tuple(part)
            part, size = [], 0
        part.append(hold)
        size += 1 + len(hold.locks)
    yield tuple(part)
