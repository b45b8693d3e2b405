"""A record of the change log, and the ticket of who waits for it. Values with little behaviour; no network.

The life of a record::

    new -> sent -> acknowledged -> gone          the ordinary way
    sent -> in doubt -> sent -> ...              its server did not answer: sent again, tentative, under the
    same id sent -> refused -> gone                      it was strict, and somebody still waits: he gets the
    errno sent -> parked -> sent -> ...                no server could take it now: tried again later, shown
    with its error

IN DOUBT means: it may be in some server's log although nobody said so. Such a record is never strict again.
TOLD means: the program was told that it is done. Such a record can not be refused any more.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from gdah_volume.content import Chunk
from gdah_volume.errors import GdahError
from gdah_volume.ids import NodeId, OpId
from gdah_volume.operations import Create, Exchange, Link, Operation, Rename, Rmdir, SetAttr, Unlink, Write
from gdah_volume.wire import Blob


@dataclass(slots=True, eq=False)
class Record:
    """One operation in the change log. Fields below `op` change, under the lock of the change log only."""

    id: OpId
    number: int
    """Order of issue."""
    time_ns: int
    chunks: tuple[Chunk, ...]
    """Those of the operation that are in the dirty store, pinned by this record."""
    content_bytes: int
    sync: bool
    node: NodeId
    path: bytes | None = None
    """What was removed or moved was called so; of the others the tree knows the path."""
    op: Operation | None = None
    """None once a server has it (the mirror's log has it too)."""
    blobs: tuple[Blob, ...] | None = None
    """Small content that is still in memory."""
    issued_at: float = 0.0
    """time.monotonic()"""
    wants_strict: bool = False
    told: bool = False
    in_doubt: bool = False
    sent_strict: bool = False
    session: int = 0
    """In which session it was sent last."""
    sent_at: float = 0.0
    tries: int = 0
    last_error: str | None = None
    vain: int = 0
    """How often it was refused although it must not be."""
    parked_until: float = 0.0
    acked: bool = False
    copies: int = 0
    of: int = 0
    gone: bool = False
    refusal: GdahError | None = None
    ticket: Ticket | None = None

    def __lt__(self, other: Record) -> bool:
        return self.number < other.number


class Waiting(Protocol):
    """What a ticket asks of the change log."""

    def patience_s(self, record: Record) -> float:
        """How much longer it is worth to wait for an answer; 0 or less: not."""
        ...

    def gave_up(self, record: Record) -> None: ...
    def tell(self, record: Record) -> GdahError | None:
        """The program is told now: the refusal, or None for success."""
        ...

    def secure(self, record: Record) -> None:
        """A sync operation without an answer from all servers: on this device's disk before the program goes
        on."""
        ...


class Ticket:
    """The answer to one performed operation, for one who waits. Threading: `wait` from any thread, more than
    once."""

    __slots__ = ("_gate", "_log", "_record", "_waits")

    def __init__(self, record: Record, log: Waiting, *, waits: bool) -> None:
        self._record = record
        self._log = log
        self._waits = waits
        self._gate = threading.Lock()
        self._gate.acquire()

    @property
    def op(self) -> OpId:
        return self._record.id

    def wait(self) -> None:
        """Return when a server acknowledged the operation, or when none answers (the record stays in the
        log).

        Raises the FileSystemError with which a server refused it; then it is in no log.
        """
        record = self._record
        if self._waits:
            while not record.acked and record.refusal is None:
                left_s = self._log.patience_s(record)
                if left_s <= 0:
                    self._log.gave_up(record)
                    break
                self._gate.acquire(timeout=left_s)
        refusal = self._log.tell(record)
        if refusal is not None:
            raise refusal
        if record.sync and not (record.acked and record.copies >= record.of):
            self._log.secure(record)

    def poke(self) -> None:
        """Something changed: whoever waits looks again."""
        try:
            self._gate.release()
        except RuntimeError:
            pass  # nobody has waited since the last time


class Sender(Protocol):
    """What the change log asks of the one who sends."""

    @property
    def answering(self) -> bool:
        """Some server answers, as far as is known; else nobody waits."""
        ...

    def pump(self) -> None:
        """Send what can be sent; returns at once."""
        ...

    def patience_s(self, record: Record) -> float: ...
    def gave_up(self, record: Record) -> None: ...
    def hint(self, chunk: Chunk) -> None:
        """A large chunk was stored that an operation will name soon: it may travel already."""
        ...


class NoSender:
    """While nobody sends, nobody waits."""

    answering = False

    def pump(self) -> None:
        pass

    def patience_s(self, record: Record) -> float:  # noqa: ARG002
        return 0.0

    def gave_up(self, record: Record) -> None:
        pass

    def hint(self, chunk: Chunk) -> None:
        pass


def node_of(op: Operation) -> NodeId:
    """The node that an operation is about."""
    return NodeId(op.id) if isinstance(op, Create) else op.node


def named_in(op: Operation) -> tuple[str, ...]:
    """Ids of earlier operations without which this one is not what its author meant."""
    match op:
        case Create():
            return (op.parent,)
        case Write():
            return (op.node, op.base or "")
        case SetAttr():
            return (op.node,)
        case Link():
            return (op.node, op.parent)
        case Unlink() | Rmdir():
            return (op.link, op.node, op.rev)
        case Rename():
            replaced = op.replaces
            over = (replaced.link, replaced.rev, replaced.node) if replaced else ()
            return (op.link, op.node, op.parent, *over)
        case Exchange():
            return tuple(each for seen in (op, op.other) for each in (seen.link, seen.node, seen.rev))
