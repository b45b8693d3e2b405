"""Watches whether a peer's log equals ours once each has read all of the other; where it does not, finds and mends it.

Equal digests are the rule. They differ after a disk lost what its server had told (an old backup that was written
to alone). Then ranges are compared, and each side hands over what the other lacks. What cannot be handed over,
because it lies below the stable point, makes the server with the larger id take a snapshot of the other.

Threading: the event loop.
"""

from __future__ import annotations

import asyncio
import logging

from gdah_volume.ids import ServerId
from gdah_volume.stamps import PENDING_CLOCK
from gdah_volume.wire import BATCH_MAX_ENTRIES, AskRange, Beat, Handover, RangeIs, encode
from storage_server.comparison import Comparison
from storage_server.feeds import in_batches
from storage_server.ports import Outlet
from storage_server.volumes import Volume

log = logging.getLogger("storage_server")

COMPARE_AFTER_S = 1.0
COMPARE_EVERY_S = 3.0
FRUITLESS_MAX = 3
"""After so many comparisons in a row that did not make the logs equal, the larger id takes a snapshot."""


class DigestWatch:
    """Of one link, over its connections."""

    def __init__(self, volume: Volume, url: str) -> None:
        self._volume = volume
        self._url = url
        self._comparison: Comparison | None = None
        self._unequal_since: float | None = None
        self._compared_at = float("-inf")
        self._fruitless = 0

    def begin(self) -> None:
        """A new connection."""
        self._comparison = None
        self._unequal_since = None

    def look(self, beat: Beat, server: ServerId, outlet: Outlet, now: float) -> None:
        """At each beat of the peer."""
        peer = self._volume.replication.peers.get(server)
        if peer is None or self._comparison is not None:
            return
        figures = self._volume.figures
        both_read = peer.cursor >= beat.head and beat.read >= figures.head
        if not both_read or beat.digest == figures.digest:
            self._unequal_since = None
            if both_read:
                self._fruitless = 0
            return
        if self._unequal_since is None:
            self._unequal_since = now
        if now - self._unequal_since > COMPARE_AFTER_S and now - self._compared_at > COMPARE_EVERY_S:
            self._compared_at = now
            log.warning("the log of %s differs from ours although both have read all: comparing", self._url)
            self._comparison = Comparison(PENDING_CLOCK)
            self._ask(outlet)

    def _ask(self, outlet: Outlet) -> None:
        assert self._comparison is not None
        asked = self._comparison.next()
        if asked is None:
            self._comparison = None
            self._fruitless += 1
            return
        outlet.send(encode(AskRange(low=asked[0], high=asked[1])))

    def must_give_way(self, server: ServerId) -> bool:
        """Handing over has not helped, and of the two we are the one to take a snapshot."""
        return self._fruitless >= FRUITLESS_MAX and self._volume.server > server

    async def answered(self, theirs: RangeIs, outlet: Outlet) -> None:
        """Hand over what they lack in this range; what we lack they hand over on their own lane."""
        if self._comparison is None:
            return
        readers = self._volume.readers
        count, digest, ours = await asyncio.to_thread(readers.range_is, theirs.low, theirs.high)
        same = (count, digest) == (theirs.count, theirs.digest)
        lacking = self._comparison.answer(theirs, ours, same=same)
        for start in range(0, len(lacking), BATCH_MAX_ENTRIES):
            part = lacking[start : start + BATCH_MAX_ENTRIES]
            entries = await asyncio.to_thread(readers.entries_of, part)
            log.warning("handing %d operations over to %s that it lacks", len(entries), self._url)
            for batch in in_batches(entries):
                outlet.send(encode(Handover(entries=batch)))
            await outlet.drain()
        self._ask(outlet)
