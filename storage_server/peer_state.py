"""One peer as this server sees it. Pure: time comes as an argument, nothing is sent from here.

A pair of servers has two lanes, one dialled by each. `out` is the lane that we dialled: on it we read the peer's log
and pass operations on. `in` is the one that the peer dialled: on it the peer reads ours. Only with both is it a peer to
count on.

    AWAITED       not met yet, or just lost and being dialled again: worth a short wait
    DOWN          cannot be reached: nobody waits for it
    CATCHING_UP   connected, but much is to be exchanged, or it was too slow: nobody waits for it
    COMING        nearly the same log: operations wait a moment, so that the barrier can be passed
    JOINED        past the barrier: acknowledgements wait for it, the smallest id of the joined is the sequencer
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from gdah_volume.ids import Epoch, ServerId
from gdah_volume.wire import BATCH_MAX_ENTRIES, SILENCE_LIMIT_S, Beat

WAIT_LIMIT_S = 0.5
"""No operation waits longer than this for the barrier, a lease, a copy or the sequencer."""
RETRY_JOIN_S = 1.0
"""A peer that was too slow is not waited for again before this."""
LEASE_MARGIN_S = 0.02
"""Clocks of two machines do not run exactly alike, and a timer fires a little late."""
NEARLY_ENTRIES = BATCH_MAX_ENTRIES // 2
"""So few entries to exchange may be worth making operations wait for ..."""
HARDLY_ENTRIES = 32
NEARLY_S = 1.0
"""... but so few are better, and soon there are: with more they wait only after that long."""
PROMISES_KEPT = 16


class Phase(Enum):
    AWAITED = "awaited"
    DOWN = "down"
    CATCHING_UP = "catching up"
    COMING = "coming"
    JOINED = "joined"


@dataclass(slots=True)
class Peer:
    """Invariant: held <= read <= our head; cursor <= head; JOINED or COMING imply both lanes."""

    server: ServerId
    url: str = ""
    epoch: Epoch | None = None
    phase: Phase = Phase.AWAITED
    out_up: bool = False
    in_up: bool = False

    head: int = 0
    """The newest position of its log that it told."""
    barrier: int = 0
    """Its head when we met: we have to read up to there."""
    cursor: int = 0
    """How far of its log is in ours."""
    lacking: bool = False
    """We are new, or have lost what we had: until we have read what it had when we met, mounts know more than we do."""
    read: int = 0
    """How far of our log is in its."""
    held: int = 0
    """How far it has our log with all content."""
    needed: int = 0
    """The newest position of our log that it did not give us: what it may lack."""

    sequencer: ServerId | None = None
    leases: dict[str, float] = field(default_factory=dict)
    wait_until: float | None = None
    retry_at: float = 0.0
    nearly_since: float | None = None
    retry_held: int = 0
    """It was too slow to store our log; it joins again when it has stored up to here."""
    asked_at: float = 0.0
    """When it last answered something that we passed on (or the first of those was passed on)."""
    held_at: float = 0.0

    operations: int = 0
    digest: bytes = b""
    promises: list[tuple[int, int]] = field(default_factory=list)
    """(its head, its promise): counts once we have read that far."""
    confirmed: int = 0
    clock_us: int = 0
    """The highest clock that it promised or stamped: far above ours, its clock is wrong."""
    free_bytes: int = 0
    trouble: str = ""
    last_error: str | None = None

    # --- what happens to it

    def link_up(self, head: int, cursor: int) -> None:
        self.out_up = True
        self.head = self.barrier = head
        self.cursor = cursor
        self.lacking = (self.lacking or cursor == 0) and cursor < head
        self.promises.clear()
        self.last_error = None

    def feed_open(self, read: int) -> None:
        """It reads our log from `read` on; what it held before may be lost (an old backup), so it says so again."""
        self.in_up = True
        self.read = read
        self.held = 0

    def lost(self, phase: Phase, reason: str) -> None:
        self.phase = phase
        self.last_error = reason
        self.wait_until = None
        self.sequencer = None
        self.leases.clear()

    def told(self, beat: Beat, lane: str, now: float, *, agrees: bool = True) -> None:
        """A beat from it. `echo_us` is our clock when we sent what it has heard last on this lane. `agrees`: it knows
        of every server that we know to be retired; before, it may still take over what such a one stamps."""
        self.head = max(self.head, beat.head)
        self.operations, self.digest, self.free_bytes = beat.operations, beat.digest, beat.free_bytes
        self.trouble = beat.trouble
        self.sequencer = beat.sequencer
        if self.in_up:  # else it may count positions of an epoch of ours that is over
            self.read = max(self.read, beat.read)
        if beat.echo_us:
            until = beat.echo_us / 1e6 + SILENCE_LIMIT_S - LEASE_MARGIN_S
            self.leases[lane] = max(self.leases.get(lane, 0.0), min(until, now + SILENCE_LIMIT_S))
        self.clock_us = max(self.clock_us, beat.promise)
        if beat.promise and self.out_up and agrees:  # else our cursor may be one of an epoch of its that is over
            self.promises.append((beat.head, beat.promise))
            del self.promises[:-PROMISES_KEPT]
            self._confirm()

    def applied_up_to(self, position: int) -> None:
        self.cursor = max(self.cursor, position)
        if self.out_up and self.cursor >= self.barrier:
            self.lacking = False
        self.head = max(self.head, position)
        self._confirm()

    def hold_back(self, clock: int) -> None:
        """What it promised counts up to there, until it promises anew."""
        self.promises.clear()
        self.confirmed = min(self.confirmed, clock)

    def _confirm(self) -> None:
        while self.promises and self.promises[0][0] <= self.cursor:
            self.confirmed = max(self.confirmed, self.promises.pop(0)[1])

    # --- what it is good for

    @property
    def connected(self) -> bool:
        return self.out_up and self.in_up

    @property
    def counted_on(self) -> bool:
        return self.phase in (Phase.JOINED, Phase.COMING)

    @property
    def is_ahead(self) -> bool:
        """It has what we do not have, and it is not just on its way."""
        return self.head > self.cursor and (self.lacking or (self.out_up and self.phase is not Phase.JOINED))

    def lease_until(self) -> float:
        """It certainly still relies on us until then: it has heard us, on both lanes, less than a silence ago."""
        if len(self.leases) < 2:
            return 0.0
        return min(self.leases.values())

    def nearly_same(self, own_head: int, now: float) -> bool:
        """Whether the time has come to make operations wait for the rest."""
        left = max(self.head - self.cursor, own_head - self.read)
        if left > NEARLY_ENTRIES:
            self.nearly_since = None
        elif self.nearly_since is None:
            self.nearly_since = now
        return left <= HARDLY_ENTRIES or (self.nearly_since is not None and now - self.nearly_since > NEARLY_S)

    def past_barrier(self, own: ServerId, *, stamping: bool) -> bool:
        """We have what it had when we met. It has all of ours if we are to pass on to it, and we stamp nothing now."""
        if self.cursor < self.barrier or self.read < self.needed:
            return False
        return self.server > own or not stamping

    def may_wait(self, now: float) -> bool:
        """Whether operations may still wait for it; the time runs from the first that would."""
        if self.wait_until is None:
            self.wait_until = now + WAIT_LIMIT_S
        return now < self.wait_until
