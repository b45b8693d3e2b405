"""A session: one connection to the server in use, from the handover to its end. Value and pure helpers; no
threads.

HANDING  the server is offered, with stamps, what it may lack: all that the mirror holds above the stable
point;
         what it wants is handed over
LOADING  its log does not reach back far enough: a snapshot is on its way
LIVE     its feed is read
Operations are sent from the end of HANDING on: what was handed over comes before them on the same connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gdah_volume.content import INLINE_MAX_BYTES, Chunk, ChunkHash
from gdah_volume.ids import OpId
from gdah_volume.operations import Operation, chunks_in
from gdah_volume.stamps import Stamp
from gdah_volume.wire import (
    BATCH_MAX_BYTES,
    BATCH_MAX_ENTRIES,
    OFFER_MAX_IDS,
    Blob,
    Entry,
    Welcome,
)
from mountfs.ports import ServerLink
from mountfs.sync.mirror import FeedState, Mirror

log = logging.getLogger("mountfs.sync.session")

CATCH_UP_MAX = 20_000
"""With a longer log to read than this, reading only above the stable point is cheaper."""
SNAPSHOT_WORTH = 2_000
"""An empty mirror rather loads a snapshot than a log that is so long."""
_ENTRY_BYTES = 512

Phase = Literal["handing", "loading", "live"]


@dataclass(slots=True, eq=False)
class Session:
    """`answered_at`: when the server last answered anything that it was asked (time.monotonic())."""

    number: int
    link: ServerLink
    welcome: Welcome
    feed: FeedState
    answered_at: float
    phase: Phase = "handing"
    offers_out: int = 0
    handed: int = 0
    subscribed: bool = False
    probe: tuple[OpId, Stamp] | None = None
    """Every server held it once: one that wants it has lost its data, or is new. Not handed over, so that the next
    connection finds out, too."""
    is_behind: bool = False
    """It lacks what this mount has seen, so its strict answers would be wrong: it is asked tentatively until it has it.
    (A server that had lost its folder and knew the mount before its peer refused a mkdir in a folder that it had not
    heard of yet.)"""
    told_everywhere: int = 0
    """The highest position of its log that beats have called everywhere, in this session or before."""
    has_lost: bool = False
    """Some server does not hold any more what it held: it came back empty, or from a backup, and is being filled."""
    shown: int = -1
    """Up to where the server was told, or is about to be, that programs see its log."""
    lending: list[Chunk] = field(default_factory=list)
    """Large chunks that the server may lack, to be offered to it when there is time."""

    def hear_everywhere(self, position: int) -> None:
        """Of a beat."""
        self.has_lost = position < self.told_everywhere
        self.told_everywhere = max(self.told_everywhere, position)

    @property
    def sends(self) -> bool:
        return self.phase != "handing"


@dataclass(frozen=True, slots=True)
class Subscription:
    """Where the feed is to begin; `above` also covers for a cursor that the server does not know any more."""

    cursor: int | None
    above: Stamp | None
    last: str = ""
    """The operation at `cursor`, if known: a server that has another one there has lost its log."""
    snapshot: bool = False


def subscription(feed: FeedState, welcome: Welcome, stable: Stamp, *, empty: bool) -> Subscription:
    """How to read a server's log, with what this mirror has."""
    if empty and welcome.head > SNAPSHOT_WORTH:
        return Subscription(None, None, snapshot=True)
    if feed.known and 0 <= welcome.head - feed.read <= CATCH_UP_MAX:
        return Subscription(feed.read, stable, feed.last)
    if empty:
        return Subscription(0, stable)
    return Subscription(None, stable)


def not_told(stamped: list[tuple[OpId, Stamp]], feed: FeedState, welcome: Welcome) -> list[tuple[OpId, Stamp]]:
    """What of it the server may lack: not what it told itself in this run. (After a moment's break in a long healing it
    would be offered tens of thousands of operations that it had just told.)"""
    if not welcome.run or feed.run != welcome.run:
        return stamped
    told = {stamp for position, stamp in feed.unspread if position <= welcome.head}
    return [(op, stamp) for op, stamp in stamped if stamp not in told]


def offers(stamped: list[tuple[OpId, Stamp]]) -> Iterator[tuple[tuple[OpId, Stamp], ...]]:
    for start in range(0, len(stamped), OFFER_MAX_IDS):
        yield tuple(stamped[start : start + OFFER_MAX_IDS])


def batches(
    wanted: Iterable[tuple[Stamp, Operation]],
    blobs_of: Callable[[Operation], tuple[Blob, ...]],
) -> Iterator[tuple[Entry, ...]]:
    """What a server wants, cut so that no message is too large."""
    batch: list[Entry] = []
    size = 0
    for stamp, op in wanted:
        blobs = blobs_of(op)
        cost = _ENTRY_BYTES + 48 * len(chunks_in(op)) + sum(len(blob.data) + 64 for blob in blobs)
        if batch and (len(batch) >= BATCH_MAX_ENTRIES or size + cost > BATCH_MAX_BYTES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(Entry(0, stamp, op, blobs))
        size += cost
    if batch:
        yield tuple(batch)


def hand_over(
    session: Session, ids: Sequence[OpId], mirror: Mirror, content: Callable[[ChunkHash], bytes | None]
) -> bool:
    """Answer one Want. True: that was the last one. Raises Unreachable."""
    link = session.link
    session.offers_out -= 1
    if session.probe is not None and session.probe[0] in ids:
        session.is_behind = True
        log.warning("the server lacks what every server had; it is asked tentatively until it has it url=%s", link.url)
        ids = [name for name in ids if name != session.probe[0]]
    for start in range(0, len(ids), BATCH_MAX_ENTRIES):
        with mirror.lock:
            wanted = list(_known(mirror, ids[start : start + BATCH_MAX_ENTRIES]))
        for batch in batches(wanted, lambda op: small_content(op, content)):
            link.hand_over(batch, last=False)
            session.handed += len(batch)
    if session.offers_out > 0:
        return False
    if session.handed:
        link.hand_over((), last=True)
        log.info("handed over operations=%d to=%s", session.handed, link.url)
    return True


def _known(mirror: Mirror, ids: Sequence[OpId]) -> Iterator[tuple[Stamp, Operation]]:
    for name in ids:
        op, stamp = mirror.replica.operation(name), mirror.replica.stamp_of(name)
        if op is not None and stamp is not None and not stamp.is_pending:
            yield stamp, op


def small_content(op: Operation, content: Callable[[ChunkHash], bytes | None]) -> tuple[Blob, ...]:
    """The chunks of an operation that may ride in a message, as far as they are on this device."""
    found: list[Blob] = []
    for chunk in chunks_in(op):
        if chunk.length <= INLINE_MAX_BYTES:
            data = content(chunk.hash)
            if data is not None:
                found.append(Blob(chunk.hash, data))
    return tuple(found)
