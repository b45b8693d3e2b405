"""The mirror: the volume's whole tree on this device, fed by one server's log, with own unstamped operations
on top.

Knows nothing of links and messages: it is told what a server's log holds, up to where every member holds it,
and which stamps can not be undercut any more.

A FEED STATE remembers, per server and epoch, how far its log has been read. What is kept over a restart is
the position that every member holds: all that lies above it comes again, so that the mirror knows anew which
operations are not everywhere yet. (Repeated operations are no-ops.)

Threading: any thread. `lock` guards the replica and its one database connection; reads and writes under it
are short, and nobody waits for the network, or calls a listener, while holding it. Lock order: mirror.lock,
then the locks inside the change log and the dirty store. `feed`, `apply` and `settle` belong to one thread,
the one that steers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gdah_volume.ids import Epoch, OpId, ServerId
from gdah_volume.operations import Operation
from gdah_volume.replica import Changes, Replica
from gdah_volume.stamps import Stamp
from gdah_volume.wire import Entry

log = logging.getLogger("mountfs.sync.mirror")

SLICE_ENTRIES = 16
"""Applied in one transaction, in about 5 ms: programs wait for the lock meanwhile, then the rest waits its
turn."""
HURRIED_ENTRIES = 256
REST_MAX_S = 0.02
STABILISE_AT_ONCE = 1_000
"""Operations that become final at one beat; about 10 ms."""
PRUNE_INTERVAL_S = 60.0
KEEP_STABLE_S = 3600.0
"""How long operations that every server has stay in the mirror's own log (for people who look)."""


Witness = Callable[[Sequence[Operation]], Callable[[], None]]


@dataclass(slots=True)
class FeedState:
    """How far one server's log was read. Invariant: all its entries at or below `read` are in the mirror."""

    server: ServerId
    epoch: Epoch
    read: int = 0
    last: str = ""
    """The operation at `read`, if known."""
    run: str = ""
    """Of the server's process, once it has all that was offered to it: what it told in this run it still has."""
    known: bool = False
    """False: nothing was read yet, so `read` is no cursor to begin from."""
    everywhere: int = 0
    unspread: deque[tuple[int, Stamp]] = field(default_factory=deque)
    """Entries that were read and are above `everywhere`, by position."""

    @property
    def key(self) -> str:
        return f"feed:{self.server}:{self.epoch}"

    def begin(self, read: int) -> None:
        """The feed will come from after `read` on, perhaps once more."""
        self.read = read
        self.last = ""
        self.unspread.clear()

    def spread(self, everywhere: int) -> None:
        """Every member holds this log up to there."""
        self.everywhere = max(self.everywhere, everywhere)
        while self.unspread and self.unspread[0][0] <= self.everywhere:
            self.unspread.popleft()


class Mirror:
    """Invariant: `tree` is the fold of all operations that were fed, then the pending ones of this mount."""

    def __init__(self, replica: Replica, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.RLock()
        self.replica = replica
        replica.prepare()
        self.tree = replica.tree
        self.database = replica.database
        self._monotonic = monotonic
        self._listeners: list[Callable[[Changes], None]] = []
        self._witnesses: list[Witness] = []
        self._reload_listeners: list[Callable[[], None]] = []
        self._feeds: dict[str, FeedState] = {}
        self._saved: dict[str, int] = {}
        self._floor = Stamp(replica.max_clock, ServerId(""))
        self._pruned_at = monotonic()
        self.in_a_hurry = False
        """No program sees the folder yet: nobody else needs the lock."""

    # --- who wants to know

    def add_listener(self, listener: Callable[[Changes], None]) -> None:
        """Called after each change that is not the own operation of this mount, without the lock held."""
        self._listeners.append(listener)

    def add_witness(self, witness: Witness) -> None:
        """Called with what others did, under the lock, just before it is taken; what it returns is called under the
        same lock just after. It may look at the tree and must not wait."""
        self._witnesses.append(witness)

    @contextmanager
    def taking(self, operations: Sequence[Operation]) -> Iterator[Replica]:
        """The lock and one transaction, for what others did."""
        with self.changing() as replica:
            afterwards = [witness(operations) for witness in self._witnesses]
            yield replica
            for call in afterwards:
                call()

    def add_reload_listener(self, listener: Callable[[], None]) -> None:
        """Called after the whole tree was replaced by a snapshot: anything may have changed."""
        self._reload_listeners.append(listener)

    def notify(self, changes: Changes) -> None:
        """Tell the listeners; never call it with the lock held."""
        if changes.nodes or changes.entries:
            for listener in self._listeners:
                listener(changes)

    # --- reading

    @property
    def floor(self) -> Stamp:
        """The highest stamp that this mount has seen: its next operations must lie above it."""
        return self._floor

    @property
    def empty(self) -> bool:
        """Nothing was ever fed: a snapshot is cheaper than the log."""
        with self.lock:
            return self.replica.max_clock == 0

    def stamped_above_stable(self) -> list[tuple[OpId, Stamp]]:
        """What another server may lack: all that is not known to be everywhere (see `settle`)."""
        with self.lock:
            return [
                (op, stamp) for op, stamp in self.replica.stamped_above(self.replica.stable) if not stamp.is_pending
            ]

    def newest_everywhere(self) -> tuple[OpId, Stamp] | None:
        """The last operation that every server held, if the log still has one."""
        with self.lock:
            return self.replica.last_up_to(self.replica.stable)

    @contextmanager
    def changing(self, *, sync: bool = False) -> Iterator[Replica]:
        """The lock and one transaction."""
        with self.lock, self.database.transaction(sync=sync):
            yield self.replica

    # --- feeding

    def stamps_are_void(self, retired: set[ServerId]) -> None:
        """What those servers stamped is stamped anew by the others, where they did not have it."""
        with self.lock:
            self.replica.void |= retired

    def feed(self, server: ServerId, epoch: Epoch) -> FeedState:
        """What is known of a server's log; a new epoch of a server is a new log."""
        state = FeedState(server, epoch)
        found = self._feeds.get(state.key)
        if found is not None:
            return found
        with self.lock:
            saved = self.database.meta(state.key)
        if saved is not None:
            position, _, state.last = saved.partition(":")
            state.read = state.everywhere = int(position)
            state.known = True
        self._feeds[state.key] = state
        return state

    def apply(self, feed: FeedState, entries: Sequence[Entry]) -> None:
        """Take entries of a server's log, in order of position, in transactions of a few milliseconds
        each."""
        size = HURRIED_ENTRIES if self.in_a_hurry else SLICE_ENTRIES
        for start in range(0, len(entries), size):
            part = entries[start : start + size]
            read = max(feed.read, part[-1].position)
            began = self._monotonic()
            with self.taking([entry.op for entry in part]) as replica:
                changes = replica.accept_all((entry.op, entry.stamp) for entry in part)
                self._save(feed, read, part[-1].op.id)
            # Not before the commit: what was rolled back must be read again.
            if read > feed.read:
                feed.read, feed.last = read, part[-1].op.id
            feed.known = True
            self._floor = max(self._floor, *(entry.stamp for entry in part))
            feed.unspread.extend((e.position, e.stamp) for e in part if e.position > feed.everywhere)
            self.notify(changes)
            if start + size < len(entries) and not self.in_a_hurry:
                # Programs may have the lock, the interpreter and the processor now, for as long as this took.
                time.sleep(min(self._monotonic() - began, REST_MAX_S))

    def settle(self, feed: FeedState, *, everywhere: int, head: int, stable: Stamp, digest: bytes) -> bool:
        """Learn from a beat of the server that feeds the mirror: its log ends at `head`, every member holds
        it up to `everywhere`, nothing at or below `stable` can arrive any more.

        The mirror's own stable point stays below each operation that is not everywhere yet, so that "above
        the stable point" is all that another server may lack.

        True: every member holds all that has a stamp here.
        """
        feed.spread(everywhere)
        with self.lock:
            replica = self.replica
            same = bool(digest) and digest == replica.digest
            if feed.read < head and same:
                # The same set of operations: nothing of that log is missing here.
                feed.read, feed.last, feed.known = head, "", True
            caught_up = feed.read >= head
            target = self._stable_point(feed, stable) if caught_up and stable > replica.stable else replica.stable
            grows = target > replica.stable
            if grows or self._saved.get(feed.key, -1) < min(feed.read, feed.everywhere):
                with self.database.transaction():
                    if grows:
                        replica.stabilise(target, at_most=STABILISE_AT_ONCE)
                        self._prune(replica)
                    if feed.known:
                        self._save(feed, feed.read, feed.last)
            return same and everywhere >= head

    @staticmethod
    def _stable_point(feed: FeedState, stable: Stamp) -> Stamp:
        """Below all that is not everywhere. (Long while a server is away; but then no server's stable point
        grows.)"""
        lowest = min((stamp.clock for _, stamp in feed.unspread), default=None)
        return stable if lowest is None else min(stable, Stamp(lowest, ServerId("")))

    def _prune(self, replica: Replica) -> None:
        now = self._monotonic()
        if now - self._pruned_at > PRUNE_INTERVAL_S:
            self._pruned_at = now
            before_ns = time.time_ns() - int(KEEP_STABLE_S * 1e9)
            replica.prune(before_time_ns=before_ns, up_to_position=replica.head)

    def _save(self, feed: FeedState, read: int, last: str) -> None:
        """Remember, over a restart, how far its log need not be read again."""
        position = min(read, feed.everywhere)
        if self._saved.get(feed.key) != position:
            self.database.set_meta(feed.key, f"{position}:{last if position == read else ''}")
            self._saved[feed.key] = position

    def load(self, feed: FeedState, batches: Iterable[tuple[str, list[tuple[Any, ...]]]]) -> None:
        """Replace the tree by a server's snapshot; own pending operations, and what it lacks of the others,
        stay on top.

        Afterwards its log is to be read above the stable point, not from a position: so it is known anew what
        is not everywhere.
        """
        with self.changing() as replica:
            replica.load(iter(batches))
            feed.begin(0)
            feed.known = False
            self._feeds = {feed.key: feed}  # of other logs only what was everywhere is sure to be in the snapshot
            self._floor = max(self._floor, Stamp(replica.max_clock, ServerId("")))
        log.info("mirror loaded from a snapshot server=%s operations=%d", feed.server, self.replica.operations)
        for listener in self._reload_listeners:
            listener()
