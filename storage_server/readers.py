"""Connections that only read a volume, for the threads that answer requests and catch readers up.

Each sees committed states, blocks nobody and is used by one thread at a time. Threading: any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import INLINE_MAX_BYTES
from gdah_volume.database import Database
from gdah_volume.disk_errors import database_errors
from gdah_volume.errors import HashMismatch
from gdah_volume.ids import OpId
from gdah_volume.operations import Operation, chunks_in
from gdah_volume.replica import Replica
from gdah_volume.stamps import Stamp
from gdah_volume.wire import BATCH_MAX_BYTES, BATCH_MAX_ENTRIES, OFFER_MAX_IDS, Blob, Entry
from storage_server.feeds import Reading, entry_bytes

KEPT_OPEN = 4
"""Connections that wait for the next use; more are made when needed and closed again."""


class Readers:
    def __init__(self, database: Database, chunks: ChunkStore) -> None:
        self._database = database
        self._chunks = chunks
        self._lock = threading.Lock()
        self._free: list[Replica] = []
        self._closed = False

    @contextmanager
    def replica(self) -> Iterator[Replica]:
        """A replica to read from; its counters (head, digest) are those of when it was made. Raises StorageFailed, from
        whatever the caller reads, when the disk gives nothing."""
        with self._lock:
            replica = self._free.pop() if self._free else None
        if replica is None:
            replica = Replica(self._database.reader())
        try:
            with database_errors(self._database.path):
                yield replica
        finally:
            with self._lock:
                keep = len(self._free) < KEPT_OPEN and not self._closed
                if keep:
                    self._free.append(replica)
            if not keep:
                replica.database.close()

    @contextmanager
    def fresh(self) -> Iterator[Replica]:
        """A replica of its own, with counters of now, inside one state of the database. Raises as `replica`."""
        database = self._database.reader()
        try:
            with database_errors(self._database.path), database.snapshot():
                database.row("SELECT 1 FROM meta LIMIT 1")  # the state is fixed by the first read
                yield Replica(database)
        finally:
            database.close()

    def read_log(self, after: int, above: Stamp | None, with_blobs: bool) -> Reading:  # noqa: FBT001
        """The next batch of the log for a reader that is behind."""
        entries: list[Entry] = []
        size = 0
        with self.replica() as replica:
            rows = replica.entries_after(after, BATCH_MAX_ENTRIES)
            up_to = after
            for position, stamp, op in rows:
                if above is None or stamp > above:
                    entry = Entry(position, stamp, op, self._blobs(op) if with_blobs else ())
                    size += entry_bytes(entry)
                    if entries and size > BATCH_MAX_BYTES:
                        break
                    entries.append(entry)
                up_to = position
        return Reading(entries, up_to)

    def _blobs(self, op: Operation) -> tuple[Blob, ...]:
        """Its small content, as far as it fits; what is missing is fetched by the reader."""
        blobs: list[Blob] = []
        size = 0
        for chunk in chunks_in(op):
            if chunk.length <= INLINE_MAX_BYTES and size < BATCH_MAX_BYTES:
                try:
                    data = self._chunks.get(chunk.hash)
                except HashMismatch:
                    continue
                if data is not None and len(data) == chunk.length:
                    blobs.append(Blob(chunk.hash, data))
                    size += len(data)
        return tuple(blobs)

    def has_at(self, position: int, last: str) -> bool:
        """Whether our log is the one in which somebody read `last` at `position`."""
        with self.replica() as replica:
            found = replica.entries_after(position - 1, 1)
            if found and found[0][0] == position:
                return found[0][2].id == last
            return replica.stamp_of(OpId(last)) is not None  # stamped anew since, or pruned

    def lacking(self, offered: Sequence[tuple[OpId, Stamp]]) -> tuple[OpId, ...]:
        """Of those, the ones that are unknown here or known with a larger stamp."""
        with self.replica() as replica:
            known = ((op, stamp, replica.stamp_of(op)) for op, stamp in offered)
            return tuple(op for op, stamp, here in known if here is None or stamp < here)

    def range_is(self, low: int, high: int) -> tuple[int, bytes, tuple[tuple[OpId, Stamp], ...] | None]:
        """(count, digest, ids if they are few) of the log between two clocks."""
        with self.replica() as replica:
            stamped = replica.range_ids(low, high)
            count, digest = replica.range_digest(low, high)
        return count, digest, tuple(stamped) if len(stamped) <= OFFER_MAX_IDS else None

    def stamped_up_to(self, stable: Stamp) -> list[tuple[OpId, Stamp]]:
        """What our log holds at or below a stamp."""
        with self.replica() as replica:
            return [(op, stamp) for op, stamp in replica.range_ids(0, stable.clock + 1) if stamp <= stable]

    def entries_of(self, stamped: Sequence[tuple[OpId, Stamp]], *, with_blobs: bool = False) -> list[Entry]:
        """Operations of our log to hand over."""
        with self.replica() as replica:
            found = ((stamp, replica.operation(op)) for op, stamp in stamped)
            return [Entry(0, stamp, op, self._blobs(op) if with_blobs else ()) for stamp, op in found if op is not None]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for replica in free:
            replica.database.close()
