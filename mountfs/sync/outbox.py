"""The records of the change log in memory: which are still to be sent, unanswered, in doubt, held by whom.

Pure bookkeeping: no disk, no network, no waiting. Each method is one step under one small lock.

Threading: any thread. `_lock` is a leaf: nothing is called while it is held, so it may be taken under any
other.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Literal

from gdah_volume.content import Chunk
from gdah_volume.errors import FileSystemError, GdahError, NoSpace, OutOfOrder, Unavailable
from gdah_volume.ids import NodeId, OpId
from gdah_volume.operations import Operation, Write
from mountfs.sync.pending import Record, Ticket, named_in

FLYING_MAX = 1024
FLYING_MAX_BYTES = 16 << 20
"""Sent and unanswered; more wait here, so that a sender never has to wait for the server to read."""
ASIDE_MAX = 64
"""Writes that others may pass while their content travels."""
HOLD_S = 0.5
"""After a refusal that time may mend (no room, content that is still missing) nothing is sent for so long."""
VAIN_MAX = 20
"""After so many, a record is PARKED: it must not be lost, but those behind it shall not wait for ever."""
PARK_S = 5.0
PARK_MAX_S = 300.0

Verdict = Literal["take back", "send again", "held", "parked", "not ours"]


class Outbox:
    """Invariants: every record is unanswered, or acknowledged, or gone; the queue holds, in order of issue,
    what the present session has still to send (and after it what was parked)."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._records: dict[OpId, Record] = {}
        self._unacked: dict[OpId, Record] = {}
        self._unacked_bytes = 0
        self._queue: list[Record] = []
        """A heap by order of issue: what was refused comes back before what was issued after it."""
        self._held_until = 0.0
        self._aside: dict[OpId, Record] = {}
        """Writes whose large content is still on its way; in order of issue."""
        self._flying: dict[OpId, int] = {}
        """Sent in this session and unanswered -> bytes."""
        self._flying_bytes = 0
        self._strict_out: set[str] = set()
        self._in_doubt = 0
        self._nodes: dict[NodeId, int] = {}
        self._fed: dict[str, deque[tuple[int, Record]]] = {}
        self._gone: list[Record] = []

    # --- looking

    def __len__(self) -> int:
        return len(self._records)

    @property
    def unanswered(self) -> int:
        return len(self._unacked)

    @property
    def unanswered_bytes(self) -> int:
        return self._unacked_bytes

    def settled(self, number: int, but_bytes: int) -> bool:
        """Whether all up to that number are acknowledged, but for what nobody takes now, and content so large that its
        way takes long."""
        with self._lock:
            return not any(
                record.number <= number and not record.parked_until and record.content_bytes <= but_bytes
                for record in self._unacked.values()
            )

    def is_pending(self, node: NodeId) -> bool:
        return node in self._nodes

    def unacked(self) -> list[Record]:
        with self._lock:
            return list(self._unacked.values())

    def acked(self) -> list[Record]:
        with self._lock:
            return [record for record in self._records.values() if record.acked]

    def record(self, op: OpId) -> Record | None:
        return self._records.get(op)

    def oldest(self) -> Record | None:
        with self._lock:
            return next(iter(self._unacked.values()), None)

    def oldest_sent(self, session: int) -> Record | None:
        """The first record that this session sent and got no answer to."""
        with self._lock:
            op = next(iter(self._flying), None)
            record = self._unacked.get(op) if op is not None else None
            return record if record is not None and record.session == session else None

    def least_copies(self) -> int | None:
        """How many servers hold what programs were told is done, at least; None: all servers hold all."""
        # On copies, without the lock: there may be very many, and nobody shall wait for a figure.
        if any(record.told for record in list(self._unacked.values())):
            return 0
        return min((record.copies for record in list(self._records.values()) if record.acked), default=None)

    def wait_until_answered(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._unacked, timeout_s)

    # --- a record's way

    def add(self, record: Record) -> None:
        """A new one, or one of an earlier run; in order of issue."""
        with self._lock:
            self._records[record.id] = record
            if not record.acked:
                in_doubt, record.in_doubt = record.in_doubt, False
                self._set_doubt(record, in_doubt)
                self._count(record, 1)
                self._queued(record)

    def admit(self, records: Iterable[Record]) -> None:
        """Those that were held until now, older than others that are here."""
        for record in records:
            self.add(record)
        with self._lock:
            self._records = dict(sorted(self._records.items(), key=lambda item: item[1].number))
            self._unacked = dict(sorted(self._unacked.items(), key=lambda item: item[1].number))

    def first_to_send(self) -> Record | None:
        with self._lock:
            return self._first()

    def aside(self) -> list[Record]:
        with self._lock:
            return list(self._aside.values())

    def put_aside(self, record: Record) -> bool:
        """Let others pass it while its content travels. False: they may not, and nothing is sent now.

        Only a Write is passed, which is never strict, and only by operations on other nodes (`_first` sees to
        that): they are the same whether they come before it or after it.
        """
        with self._lock:
            if self._first() is not record or not isinstance(record.op, Write) or len(self._aside) >= ASIDE_MAX:
                return False
            heappop(self._queue)
            self._aside[record.id] = record
            return True

    def take(self, record: Record, session: int, *, strict: bool = True) -> Operation | None:
        """The first in the queue is sent now, strictly if it can be and `strict` allows it. None: it is not the first
        any more, or must wait, because it names something whose strict operation is unanswered: refused, that would
        leave this one meaning something else."""
        with self._lock:
            op = record.op
            if op is None or (record.id not in self._aside and self._first() is not record):
                return None
            if self._strict_out and not self._strict_out.isdisjoint(named_in(op)):
                return None
            size = min(FLYING_MAX_BYTES, record.content_bytes)
            if self._flying and (len(self._flying) >= FLYING_MAX or self._flying_bytes + size > FLYING_MAX_BYTES):
                return None
            self._flying[record.id] = size
            self._flying_bytes += size
            if self._aside.pop(record.id, None) is None:
                heappop(self._queue)
            # Never strict when it may be logged elsewhere, nor while something before it is in doubt: refused here and
            # found there would be a contradiction.
            sure = not record.told and not record.in_doubt and self._in_doubt == 0
            record.sent_strict = strict and record.wants_strict and sure
            if record.sent_strict:
                self._strict_out.add(record.id)
            record.session = session
            record.tries += 1
            record.sent_at = self._monotonic()
            return op

    def begin_session(self, stamped: Iterable[OpId]) -> None:
        """Another server, or the same one anew, is told everything: `stamped` are those that some server is
        known to have logged, so they count as acknowledged; the others are queued, in doubt if they were ever
        sent."""
        for op in stamped:
            self.acknowledge(op, 1, 2)
        with self._lock:
            self._strict_out.clear()
            self._flying.clear()
            self._flying_bytes = 0
            self._queue.clear()
            self._aside.clear()
            self._held_until = 0.0
            for record in self._unacked.values():
                self._set_doubt(record, record.in_doubt or record.tries > 0)
                if record.parked_until == 0:
                    self._queued(record)

    def doubt(self, operations: Iterable[Operation]) -> None:
        """Before a session begins: those that a server acknowledged and whose stamp has not come are unanswered
        again, since nobody but that server can be asked for them."""
        with self._lock:
            for op in operations:
                record = self._records.get(op.id)
                if record is not None and record.acked and not record.gone:
                    record.acked, record.op, record.told, record.wants_strict = False, op, True, False
                    self._set_doubt(record, in_doubt=True)
                    self._count(record, 1)
            self._unacked = dict(sorted(self._unacked.items(), key=lambda item: item[1].number))

    def acknowledge(self, op: OpId, copies: int, of: int) -> None:
        with self._lock:
            record = self._records.get(op)
            if record is None:
                return
            record.copies, record.of = max(copies, record.copies), of
            ticket = self._answered(record)
        if ticket is not None:
            ticket.poke()

    def judge(self, op: OpId, error: GdahError, session: int, *, hopeless: bool = False) -> Verdict:
        """A server did not log it. A strict one for which somebody still waits is taken back (the caller does
        it, then `taken_back`); any other is sent again, unless it was in vain too often: then those behind it
        go on."""
        with self._lock:
            record = self._unacked.get(op)
            if record is None or record.session != session or record.parked_until:
                return "not ours"
            self._landed(record)
            expected = isinstance(error, FileSystemError) and not isinstance(error, NoSpace)
            if record.sent_strict and expected and not record.told and not isinstance(record.op, Write):
                record.refusal = error  # from here on nobody is told that it succeeded
                return "take back"
            record.wants_strict = False
            record.session = 0
            if record.sent_strict and expected:
                self._queued(record)
                return "send again"
            record.last_error = f"{error.code}: {error}"
            now = self._monotonic()
            record.vain += not isinstance(error, OutOfOrder | NoSpace | Unavailable)
            if hopeless:
                record.vain = max(record.vain, VAIN_MAX)
            if record.vain >= VAIN_MAX:
                record.parked_until = now + min(PARK_S * 2 ** (record.vain - VAIN_MAX), PARK_MAX_S)
                return "parked"
            self._held_until = max(self._held_until, now + HOLD_S)
            self._queued(record)
            return "held"

    def taken_back(self, op: OpId) -> Record | None:
        with self._lock:
            record = self._records.pop(op, None)
            if record is None:
                return None
            record.gone = True
            self._set_doubt(record, in_doubt=False)
            self._count(record, -1)
        if record.ticket is not None:
            record.ticket.poke()
        return record

    def tell(self, record: Record) -> GdahError | None:
        """The program is told now: nothing can refuse it after this."""
        with self._lock:
            if record.refusal is None:
                record.told = True
            return record.refusal

    def park(self, record: Record, reason: str) -> None:
        """It cannot be sent as it is; those behind it go on."""
        with self._lock:
            if self._aside.pop(record.id, None) is None and self._first() is record:
                heappop(self._queue)
            record.last_error = reason
            record.vain += 1
            record.parked_until = self._monotonic() + PARK_S

    def unpark(self) -> bool:
        """What was held or parked until now is to be sent again; True if there was anything."""
        now = self._monotonic()
        with self._lock:
            due = [record for record in self._unacked.values() if 0 < record.parked_until <= now]
            for record in due:
                record.parked_until = 0.0
                self._queued(record)
            held, self._held_until = self._held_until, 0.0 if self._held_until <= now else self._held_until
            return bool(due) or 0 < held <= now

    @property
    def next_try_at(self) -> float:
        """When what was refused is sent again (time.monotonic()); 0: nothing was."""
        with self._lock:
            times = [r.parked_until for r in self._unacked.values() if r.parked_until]
            return min([*times, self._held_until] if self._held_until else times, default=0.0)

    # --- held everywhere

    def fed(self, feed: str, position: int, op: OpId) -> None:
        """An own operation stands at this position of a server's log."""
        with self._lock:
            record = self._records.get(op)
            if record is not None:
                self._fed.setdefault(feed, deque()).append((position, record))

    def spread(self, feed: str, everywhere: int) -> None:
        """Every server holds that log up to there: what stands below leaves."""
        left: list[Ticket] = []
        with self._lock:
            fed = self._fed.get(feed)
            while fed and fed[0][0] <= everywhere:
                ticket = self._leave(fed.popleft()[1])
                if ticket is not None:
                    left.append(ticket)
        for ticket in left:
            ticket.poke()

    def forget_feed(self, feed: str) -> None:
        """That log is read anew, from an earlier position."""
        with self._lock:
            self._fed.pop(feed, None)

    def keep_only(self, wanted: Callable[[OpId], bool]) -> None:
        """All others leave: every server holds them."""
        with self._lock:
            records = [r for r in self._records.values() if not wanted(r.id)]
            tickets = [self._leave(record) for record in records]
        for ticket in tickets:
            if ticket is not None:
                ticket.poke()

    def take_gone(self) -> list[Record]:
        """Those that left since the last call, for the one who cleans up after them."""
        with self._lock:
            gone, self._gone = self._gone, []
            return gone

    def strip(self, record: Record) -> tuple[Chunk, ...]:
        """Take the content away from an acknowledged record."""
        with self._lock:
            chunks, record.chunks = record.chunks, ()
            return chunks

    # --- inside, with the lock held

    def _queued(self, record: Record) -> None:
        heappush(self._queue, record)

    def _first(self) -> Record | None:
        queue = self._queue
        while queue and (queue[0].acked or queue[0].gone):
            heappop(queue)
        if not queue or self._held_until > self._monotonic():
            return None
        first = queue[0]
        if self._aside and first.op is not None:
            nodes = {record.node for record in self._aside.values()}
            if not nodes.isdisjoint(named_in(first.op)):
                return None
        return first

    def _answered(self, record: Record) -> Ticket | None:
        if record.acked:
            return None
        record.acked = True
        record.last_error = None
        record.parked_until = 0.0
        self._landed(record)
        self._set_doubt(record, in_doubt=False)
        self._count(record, -1)
        record.op = record.blobs = None
        ticket, record.ticket = record.ticket, None
        return ticket

    def _landed(self, record: Record) -> None:
        self._aside.pop(record.id, None)
        self._strict_out.discard(record.id)
        self._flying_bytes -= self._flying.pop(record.id, 0)

    def _leave(self, record: Record) -> Ticket | None:
        if record.gone:
            return None
        record.gone = True
        record.copies = record.of = max(record.of, 1)
        ticket = self._answered(record)
        self._records.pop(record.id, None)
        self._gone.append(record)
        return ticket

    def _count(self, record: Record, by: int) -> None:
        if by > 0:
            self._unacked[record.id] = record
        else:
            self._unacked.pop(record.id, None)
            if not self._unacked:
                self._changed.notify_all()
        self._unacked_bytes += by * record.content_bytes
        count = self._nodes.get(record.node, 0) + by
        if count > 0:
            self._nodes[record.node] = count
        else:
            self._nodes.pop(record.node, None)

    def _set_doubt(self, record: Record, in_doubt: bool) -> None:  # noqa: FBT001
        if record.in_doubt != in_doubt:
            record.in_doubt = in_doubt
            self._in_doubt += 1 if in_doubt else -1
