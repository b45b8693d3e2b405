"""Which nodes were changed since the last operation that reached the disks. Pure bookkeeping.

An operation that is synced takes everything before it along. So fsync of a file that has no unsaved edits has
to do something only if its node was changed since.

Threading: any thread; the lock is a leaf.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gdah_volume.ids import NodeId

NODES_MAX = 10_000
"""Above it every node counts as changed, until the next sync."""


class SyncLedger:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed: set[NodeId] = set()
        self._overflowed = False

    def note(self, *nodes: NodeId) -> None:
        """These were changed by an operation that need not be on a disk yet."""
        with self._lock:
            if len(self._changed) >= NODES_MAX:
                self._overflowed = True
            else:
                self._changed.update(nodes)

    def is_synced(self, node: NodeId) -> bool:
        with self._lock:
            return not self._overflowed and node not in self._changed

    @contextmanager
    def syncing(self, *, sync: bool) -> Iterator[None]:
        """Around an operation: if it was to be synced and was, what was noted before it began is on the disks."""
        if not sync:
            yield
            return
        with self._lock:
            taken, self._changed = self._changed, set()
            overflowed, self._overflowed = self._overflowed, False
        try:
            yield
        except BaseException:
            with self._lock:
                self._changed |= taken
                self._overflowed |= overflowed
            raise
