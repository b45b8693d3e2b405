"""The feed of a log to its readers: mounts and peers.

A reader that has all so far is LIVE: new positions are sent to it as they are published. One that is behind reads
from the database in batches, as fast as its connection takes them, until it is live. A live one that does not take
what it is sent goes back to reading; nobody waits for it.

Threading: the event loop; `read` runs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

import msgspec

from gdah_volume.errors import GdahError
from gdah_volume.ids import ServerId
from gdah_volume.stamps import ZERO, Stamp
from gdah_volume.wire import BATCH_MAX_BYTES, BATCH_MAX_ENTRIES, Ack, Entry, Feed, encode
from storage_server.ports import Outlet, Published
from storage_server.showing import Showing

log = logging.getLogger("storage_server")

LIVE_QUEUE_MAX_BYTES = 8 << 20
"""A live reader with so much unsent is read to from the database instead."""
CATCH_UP_ENTRIES = 64
"""In one message to a reader that is behind: a few milliseconds to pack or unpack, in which an event loop does nothing
else. (With 512, of which several could be there at once, it stood still for 0.2 s.)"""
_ENTRY_BYTES = 512
"""Of an entry without its content, for the size of a batch."""


class Reading:
    """One batch from the database: entries, and the position up to which the log was looked through."""

    __slots__ = ("entries", "up_to")

    def __init__(self, entries: Sequence[Entry], up_to: int) -> None:
        self.entries = entries
        self.up_to = up_to


class Subscription:
    """Invariant: all up to `position` was sent, or came from this reader itself."""

    def __init__(
        self,
        outlet: Outlet,
        *,
        position: int,
        above: Stamp | None = None,
        blobs: bool = False,
        server: ServerId | None = None,
    ) -> None:
        self.outlet = outlet
        self.position = position
        self.above = above
        self.blobs = blobs
        self.server = server
        self.live = False
        self.last = ""
        """The operation at `position`, while live."""
        self.told = position if above is None else -1
        """Up to where a peer knows our positions: what it was fed, and that what it gave us itself is here."""
        self._acks: list[tuple[int, bytes]] = []

    def acknowledge(self, ack: Ack) -> None:
        """The feed of an operation always precedes its acknowledgement."""
        frame = encode(ack)
        if ack.position <= self.position:
            self.outlet.send(frame)
        else:
            self._acks.append((ack.position, frame))

    def moved(self, position: int) -> None:
        self.position = max(self.position, position)
        if self._acks:
            self._acks.sort(key=lambda each: each[0])
            while self._acks and self._acks[0][0] <= self.position:
                self.outlet.send(self._acks.pop(0)[1])


class Feeds:
    def __init__(
        self,
        read: Callable[[int, Stamp | None, bool], Reading],
        state: Callable[[], tuple[int, Stamp]],
        showing: Showing,
    ) -> None:
        """`read(after, above, blobs)` in a thread; `state` tells (everywhere, stable)."""
        self._read = read
        self._showing = showing
        self._state = state
        self._subscriptions: set[Subscription] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.head = 0

    def add(self, subscription: Subscription) -> None:
        self._subscriptions.add(subscription)
        self._catch_up(subscription)

    def remove(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    @property
    def readers(self) -> int:
        return len(self._subscriptions)

    def publish(self, items: Sequence[Published]) -> None:
        """New positions, in order."""
        if not items:
            return
        self.head = items[-1].entry.position
        plain: list[bytes] | None = None
        shown_later = self._showing.lacks(self.head)
        # Peers first: acknowledgements wait for them.
        for subscription in sorted(self._subscriptions, key=lambda each: each.server is None):
            if not subscription.live:
                continue
            if subscription.outlet.queued_bytes > LIVE_QUEUE_MAX_BYTES:
                subscription.live = False
                self._catch_up(subscription)
                continue
            if items[0].entry.position <= subscription.position:
                news = [item for item in items if item.entry.position > subscription.position]
                frames = self._frames(_for_peer(news, subscription))
            elif subscription.server is None and not subscription.blobs:
                if plain is None:
                    plain = self._frames([_without_blobs(item.entry) for item in items])
                frames = plain
            else:
                subscription.last = items[-1].entry.op.id
                later = shown_later and any(item.giver == subscription.server for item in items)
                frames = self._frames(_for_peer(items, subscription), self.head, subscription.last, later)
                if frames:
                    subscription.told = self.head
                    if later:
                        self._showing.tell(subscription.outlet, self.head)
            for frame in frames:
                subscription.outlet.send(frame)
            subscription.moved(self.head)

    def tell_peers(self) -> None:
        """Now and then: what a peer gave us is here, although it is not sent back to it."""
        for subscription in self._subscriptions:
            if subscription.live and subscription.server is not None and subscription.told < subscription.position:
                subscription.told = subscription.position
                everywhere, stable = self._state()
                subscription.outlet.send(
                    encode(
                        Feed(
                            entries=(),
                            everywhere=everywhere,
                            stable=stable,
                            up_to=subscription.position,
                            last=subscription.last,
                        )
                    )
                )

    def _frames(
        self,
        entries: Iterable[Entry],
        up_to: int = 0,
        last: str = "",
        shown_later: bool = False,  # noqa: FBT001, FBT002
    ) -> list[bytes]:
        everywhere, stable = self._state()
        feeds = [
            Feed(entries=part, everywhere=everywhere, stable=stable, shown_later=shown_later)
            for part in in_batches(entries)
        ]
        if feeds and up_to:
            feeds[-1] = msgspec.structs.replace(feeds[-1], up_to=up_to, last=last)
        return [encode(feed) for feed in feeds]

    def _catch_up(self, subscription: Subscription) -> None:
        task = asyncio.get_running_loop().create_task(self._run(subscription))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, subscription: Subscription) -> None:
        outlet = subscription.outlet
        try:
            while subscription in self._subscriptions and not outlet.closed:
                if subscription.position >= self.head:
                    subscription.above = None
                    subscription.live = True
                    subscription.moved(self.head)
                    return
                reading = await asyncio.to_thread(
                    self._read, subscription.position, subscription.above, subscription.blobs
                )
                for part in in_batches(reading.entries, CATCH_UP_ENTRIES):
                    everywhere = min(self._state()[0], part[-1].position)
                    outlet.send(encode(Feed(entries=part, everywhere=everywhere, stable=ZERO)))
                    await asyncio.sleep(0)
                subscription.moved(reading.up_to)
                await outlet.drain()
        except GdahError as error:
            outlet.close(str(error))
        except Exception:
            log.exception("a feed could not be read; its reader is cut off and comes back")
            outlet.close("internal error; see the server's log")


def in_batches(entries: Iterable[Entry], at_most: int = BATCH_MAX_ENTRIES) -> Iterable[tuple[Entry, ...]]:
    """Cut so that no message is too long, or too many entries."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        cost = entry_bytes(entry)
        if batch and (len(batch) >= at_most or size + cost > BATCH_MAX_BYTES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(entry)
        size += cost
    if batch:
        yield tuple(batch)


def entry_bytes(entry: Entry) -> int:
    """About how long it is on the wire."""
    content = getattr(entry.op, "content", None)
    chunks = len(content.chunks) if content is not None else 0
    return _ENTRY_BYTES + 48 * chunks + sum(len(blob.data) + 64 for blob in entry.blobs)


def _without_blobs(entry: Entry) -> Entry:
    if not entry.blobs:
        return entry
    return Entry(entry.position, entry.stamp, entry.op, (), entry.sync)


def _for_peer(items: Sequence[Published], subscription: Subscription) -> list[Entry]:
    """What it gave us is not sent back; of what it passed on, only the stamp is new to it."""
    server = subscription.server
    if server is None:
        return [item.entry if subscription.blobs else _without_blobs(item.entry) for item in items]
    return [
        _without_blobs(item.entry) if item.giver == server else item.entry for item in items if item.origin != server
    ]
