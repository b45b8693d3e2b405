"""Messages of the operation lane about locks, with their limits. See `wire` for the lane and docs/PROTOCOL.md.

mount                                server (the sequencer, or one that passes on to it)
LockClaim(session, holds)        ->                                 before anything else, and after LockAgain
LockAsk(ask, "wait", ...)        ->
                                 <- LockTold(ask, "waiting")
                                 <- LockTold(ask, "granted", position)
LockBeat(sent)                   <->                                while it holds anything
                                 <- LockRecall(node)                of a leased file
LockGiven(node, locks)           ->
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gdah_volume.errors import BadMessage
from gdah_volume.ids import Author, NodeId, check_author, check_node_id
from gdah_volume.locks import EOF, FILE_LOCKS_MAX, Space

Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""Of messages: databases keep 64 bits with a sign."""


class FileLock(msgspec.Struct, frozen=True, array_like=True):
    """One range that a process of a mount holds; `owner` and `pid` mean something there."""

    space: Space
    owner: int
    write: bool
    start: int = 0
    end: int = EOF
    pid: int = 0


class LockHold(msgspec.Struct, frozen=True, array_like=True):
    """All that one mount holds of one file. `leased`: it manages the locks of this file alone."""

    node: NodeId
    locks: tuple[FileLock, ...] = ()
    leased: bool = False


class LockClaim(msgspec.Struct, frozen=True, array_like=True, tag="lock_claim", kw_only=True):
    """A mount: this is all that I hold; what you thought of me before is void. In parts; the one with `last` counts.

    `session` grows with each claim: what carries a smaller one is late and means nothing. `leave`: I end.
    """

    client: Author
    session: Number
    holds: tuple[LockHold, ...] = ()
    last: bool = True
    leave: bool = False


class LockAsk(msgspec.Struct, frozen=True, array_like=True, tag="lock_ask", kw_only=True):
    """`set` and `wait` want the lock (now, or when it is free), `test` asks who stands in the way, `unset` gives a
    range back, `cancel` ends the wait of the same name. Each is answered by LockTold."""

    client: Author
    session: Number
    ask: Number
    node: NodeId
    act: Literal["set", "wait", "test", "unset", "cancel"]
    space: Space = "posix"
    owner: int = 0
    write: bool = False
    start: int = 0
    end: int = EOF
    pid: int = 0


class LockGiven(msgspec.Struct, frozen=True, array_like=True, tag="lock_given", kw_only=True):
    """The answer to a recall, or unasked: I do not manage the locks of this file any more, and hold these."""

    client: Author
    session: Number
    hold: LockHold


class LockBeat(msgspec.Struct, frozen=True, array_like=True, tag="lock_beat", kw_only=True):
    """A mount that holds locks is alive. Comes back, with the position of the log and how many locks contradict each
    other, if what was claimed in this session still stands; a lease counts from `sent_us`."""

    client: Author
    session: Number
    sent_us: Number
    position: Number = 0
    conflicts: Number = 0


class LockTold(msgspec.Struct, frozen=True, array_like=True, tag="lock_told", kw_only=True):
    """`granted`, `leased`: with the position of the log that has to be seen before the lock means anything. `conflict`
    names one that stands in the way. `local`: nobody here can judge it; judge it yourself."""

    client: Author
    session: Number
    ask: Number
    result: Literal["granted", "leased", "conflict", "clear", "waiting", "done", "cancelled", "full", "local"]
    position: Number = 0
    lock: FileLock | None = None


class LockRecall(msgspec.Struct, frozen=True, array_like=True, tag="lock_recall", kw_only=True):
    """Somebody else wants locks of this file: save it, and give back its lease."""

    client: Author
    node: NodeId


class LockAgain(msgspec.Struct, frozen=True, array_like=True, tag="lock_again", kw_only=True):
    """Claim what you hold: it is not known here. `session`: the one that it was asked in (-1: whatever it is).
    `client`: nobody in particular if empty."""

    client: str = ""
    session: Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)] = -1


class LockClients(msgspec.Struct, frozen=True, array_like=True, tag="lock_clients", kw_only=True):
    """The sequencer to its peers: who holds locks, so that its successor knows for whom to wait."""

    clients: tuple[Author, ...]


LOCK_HOLDS_MAX = 4096
"""Ranges in one part of a claim."""
LOCK_CLIENTS_MAX = 4096
OfMount = LockClaim | LockAsk | LockGiven | LockBeat
ToMount = LockTold | LockRecall | LockAgain | LockBeat


def check_lock_message(message: OfMount | ToMount | LockClients) -> None:
    match message:
        case LockClaim():
            if sum(1 + len(hold.locks) for hold in message.holds) > LOCK_HOLDS_MAX + FILE_LOCKS_MAX:
                raise BadMessage(f"too much in one part of a claim; about {LOCK_HOLDS_MAX} locks are possible")
            for hold in message.holds:
                _check_hold(hold)
        case LockAsk():
            check_node_id(message.node)
            _check_range(message.owner, message.start, message.end, message.pid)
        case LockGiven():
            _check_hold(message.hold)
        case LockRecall():
            check_node_id(message.node)
        case LockClients():
            if len(message.clients) > LOCK_CLIENTS_MAX:
                raise BadMessage(f"{len(message.clients)} clients; at most {LOCK_CLIENTS_MAX}")
            for client in message.clients:
                check_author(client)
            return
        case LockTold() if message.lock is not None:
            _check_range(message.lock.owner, message.lock.start, message.lock.end, message.lock.pid)
        case _:
            pass
    check_author(message.client)
    if not isinstance(message, LockRecall) and message.session < 0:
        raise BadMessage("a session below zero")


def _check_hold(hold: LockHold) -> None:
    check_node_id(hold.node)
    if len(hold.locks) > 2 * FILE_LOCKS_MAX:
        raise BadMessage(f"{len(hold.locks)} locks of one file; at most {FILE_LOCKS_MAX} are possible")
    for lock in hold.locks:
        _check_range(lock.owner, lock.start, lock.end, lock.pid)


def _check_range(owner: int, start: int, end: int, pid: int) -> None:
    if not (0 <= owner < 1 << 64 and 0 <= start <= end <= EOF and 0 <= pid < 1 << 32):
        raise BadMessage(f"not a lock: owner {owner}, bytes {start} to {end}, process {pid}")
