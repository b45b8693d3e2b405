"""The change log: every mutation goes through here first, connected or not, and stays until every server has
it.

`perform` records an operation and applies it to the mirror in one transaction; then the sender (see
`upstream`) may send it, and the program waits for the answer as `--durability` says. There is no offline
mode: without an answer the record just stays. Knows no link and no server, only records: which are
unanswered, in doubt, refused, held everywhere.

What the brake holds (see `holding`) is in the log, and in no outbox.

The order of the log is the order of issue. What may have been sent is never changed. What is in memory of it
is the `outbox`; here are its table, its content, and what a program waits for.

Threading: any thread. Lock order: mirror.lock, then the leaf locks of the outbox and of the dirty store.
Nobody waits for an answer while holding one. `recover` and `sweep` belong to the thread that steers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gdah_volume.brake import BrakeLimits
from gdah_volume.content import INLINE_MAX_BYTES, Chunk, ChunkHash
from gdah_volume.errors import BadMessage, GdahError, InvalidArgument, NoSpace, ReadOnly
from gdah_volume.ids import Author, NodeId, OpId, op_id
from gdah_volume.operations import Exchange, Operation, Rename, Rmdir, Unlink, Write, check_operation, chunks_in
from gdah_volume.replica import HINT_DEPTH_MAX
from gdah_volume.stamps import ZERO
from gdah_volume.wire import Blob
from mountfs.sync.dirty import DirtyChunks
from mountfs.sync.holding import Holding, State
from mountfs.sync.mirror import Mirror
from mountfs.sync.outbox import Outbox, Verdict
from mountfs.sync.pending import NoSender, Record, Sender, Ticket, node_of

log = logging.getLogger("mountfs.sync.changelog")

OPERATION_BYTES = 2048
"""About what an operation without content costs on disk, for the check of room."""
RECORDS_MAX = 2_000_000
"""Records that are not everywhere; above it ENOSPC (they are in memory too)."""
SETTLED_MAX_BYTES = 64 << 20
"""Nobody who waits for a lock waits for more content of one operation than this."""
_SCHEMA = """CREATE TABLE IF NOT EXISTS change_log (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, time_ns INTEGER NOT NULL, path BLOB, bytes INTEGER NOT NULL,
    sync INTEGER NOT NULL)"""


class ChangeLog:
    """Invariant: a record exists, in the table and in the outbox, iff its operation is not known to be on
    every server; its chunks are pinned as long as it does."""

    def __init__(
        self,
        mirror: Mirror,
        dirty: DirtyChunks,
        author: Author,
        *,
        replicated: bool = True,
        records_max: int = RECORDS_MAX,
        brake: BrakeLimits | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mirror = mirror
        self._dirty = dirty
        self._author = author
        self._replicated = replicated
        self._records_max = records_max
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        self.read_only = False
        """Nothing new is logged; what an earlier run has logged is still handed over."""
        self._sender: Sender = NoSender()
        self._sequence = 0
        self._time_ns = 0
        self._next_number = 1
        self.outbox = Outbox(monotonic)
        self.holding = Holding(mirror, self.outbox, author, brake or BrakeLimits(), self._pump, monotonic=monotonic)
        self.recovered_operations = self._recover()
        self.holding.finish_discard()

    def set_sender(self, sender: Sender) -> None:
        self._sender = sender

    def _pump(self) -> None:
        self._sender.pump()

    # --- what the file system calls

    def perform(
        self,
        build: Callable[[OpId, int], Operation],
        *,
        sync: bool = False,
        wait: bool = True,
        tentative: bool = False,
        since: float | None = None,
    ) -> Ticket:
        """Record and apply one operation. `build(id, time_ns)` is called under mirror.lock, may read the
        tree, and raises the FileSystemError that the program shall see; then, or when the operation does not
        fit the own view, nothing is logged.

        Without `wait` the caller waits on the ticket later: until he did, the operation may still be refused.
        `tentative`: but not because of what others have done meanwhile, as if no server had been in reach.
        `since`: when the program began to wait for it (time.monotonic()), if that was earlier.
        """
        if self.read_only:
            raise ReadOnly("the folder is mounted read-only")
        mirror = self._mirror
        with mirror.lock:
            op, held = self._built(build)
            self._check_room()  # its content was let in by `store_chunk`
            waits = held is None and (self._replicated or sync) and self._sender.answering
            record = Record(
                id=op.id,
                number=self._next_number,
                time_ns=op.time_ns,
                chunks=(),
                content_bytes=0,
                sync=sync,
                node=node_of(op),
                path=self._path_before(op),
                op=op,
                blobs=(),
                issued_at=self._monotonic() if since is None else since,
                # A Write is never strict: what would refuse it (another version, a removed file) makes a fork instead.
                wants_strict=waits and not (tentative or isinstance(op, Write)),
                told=not waits,
            )
            try:
                with mirror.database.transaction():
                    self._log(record, op)
                    if held is not None:
                        self.holding.save(held)
            except BaseException:
                self._dirty.release(record.chunks, adopt=False)
                raise
            self._sequence += 1  # of a held one, too: it was named by this one's id before
            self._next_number += 1
            self._dirty.committed(record.chunks)
            ticket = record.ticket = Ticket(record, self, waits=waits)
            self.holding.noted(op)
            if held is None:
                self.outbox.add(record)
            else:
                self.holding.took(record, held)
        self._sender.pump()
        if wait:
            ticket.wait()
        return ticket

    def _built(self, build: Callable[[OpId, int], Operation]) -> tuple[Operation, State | None]:
        """The operation, and how it is held if it is: then it is built once more, under the held author's name."""
        time_ns = self._next_time_ns()
        op = self._checked(build(op_id(self._author, self._sequence + 1), time_ns))
        held = self.holding.wanted(op, self._sequence)
        if held is not None:
            op = self._checked(build(self.holding.next_id(held), time_ns))
        return op, held

    @staticmethod
    def _checked(op: Operation) -> Operation:
        try:
            return check_operation(op)
        except BadMessage as error:
            raise InvalidArgument(str(error)) from error

    def _path_before(self, op: Operation) -> bytes | None:
        """Of what is about to lose its path."""
        if not isinstance(op, Unlink | Rmdir | Rename | Exchange):
            return None
        return self._mirror.tree.path(op.node, HINT_DEPTH_MAX)

    def _log(self, record: Record, op: Operation) -> None:
        """Inside the transaction."""
        # Nor here: an open file whose base has moved on, or that was removed elsewhere, is saved as a fork.
        self._mirror.replica.add_pending(op, strict=not isinstance(op, Write))
        chunks = chunks_in(op)
        if chunks:
            record.chunks, record.blobs = self._dirty.pin(chunks)
            record.content_bytes = sum(chunk.length for chunk in record.chunks)
        self._mirror.database.execute(
            "INSERT INTO change_log (number, id, time_ns, path, bytes, sync) VALUES (?, ?, ?, ?, ?, ?)",
            (record.number, record.id, record.time_ns, record.path, record.content_bytes, int(record.sync)),
        )

    def store_chunk(self, data: bytes | memoryview) -> ChunkHash:
        """Keep content, pinned until the operation that names it is everywhere (`discard_chunk` if none
        will)."""
        try:
            name = self._dirty.store(data)
        except NoSpace:
            if not self._relieve():
                raise
            name = self._dirty.store(data)
        if len(data) > INLINE_MAX_BYTES:
            self._sender.hint(Chunk(0, name, len(data)))
        return name

    def keep_chunk(self, name: ChunkHash) -> bool:
        """Pin content of another file that is not on every server yet, until `discard_chunk` or an operation that
        names it. False: it is, or never was here."""
        return self._dirty.keep(name)

    def discard_chunk(self, name: ChunkHash) -> None:
        self._dirty.discard(name)

    def dirty_chunk(self, name: ChunkHash) -> bytes | None:
        return self._dirty.read(name)

    def is_pending(self, node: NodeId) -> bool:
        """Something about this node is on this device only."""
        return self.outbox.is_pending(node) or self.holding.is_held(node)

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing is only on this device; False if something still is after `timeout_s`."""
        self._sender.pump()
        return self.outbox.wait_until_answered(timeout_s)

    # --- figures

    @property
    def pending_operations(self) -> int:
        return self.outbox.unanswered

    @property
    def pending_bytes(self) -> int:
        return self.outbox.unanswered_bytes

    @property
    def oldest_age_s(self) -> float:
        first = self.outbox.oldest()
        return 0.0 if first is None else max(0.0, (self._clock_ns() - first.time_ns) / 1e9)

    # --- what a ticket asks

    def patience_s(self, record: Record) -> float:
        return self._sender.patience_s(record)

    def gave_up(self, record: Record) -> None:
        self._sender.gave_up(record)

    def tell(self, record: Record) -> GdahError | None:
        refusal = self.outbox.tell(record)
        if refusal is not None:
            with self._mirror.lock:
                pass  # who refused it holds the lock until it is out of the mirror, too
        return refusal

    def secure(self, record: Record) -> None:  # noqa: ARG002
        self._dirty.sync()
        with self._mirror.changing(sync=True):
            pass

    def mark(self) -> int:
        """Of the operations so far, for `settled`."""
        return self._next_number - 1

    def settled(self, mark: int) -> bool:
        """Whether a server has acknowledged what was performed up to a mark."""
        return not self.outbox.unanswered or self.outbox.settled(mark, SETTLED_MAX_BYTES)

    # --- what the sender calls

    def blobs_of(self, record: Record) -> tuple[Blob, ...]:
        """The small content of a record; what was damaged on this disk is missing."""
        if record.blobs is not None:
            return record.blobs
        found: list[Blob] = []
        for chunk in record.chunks:
            if chunk.length <= INLINE_MAX_BYTES:
                data = self._dirty.read(chunk.hash)
                if data is not None:
                    found.append(Blob(chunk.hash, data))
        return tuple(found)

    def begin_session(self) -> list[Record]:
        """A server will be told everything anew; the records whose operation has a stamp in the mirror, so
        which some server has logged. The others are queued."""
        with self._mirror.lock:
            self.outbox.doubt(self._mirror.replica.pending())
            stamps = [(record, self._mirror.replica.stamp_of(record.id)) for record in self.outbox.unacked()]
        self.outbox.begin_session([r.id for r, stamp in stamps if stamp is not None and not stamp.is_pending])
        return self.outbox.acked()

    def refused(self, op: OpId, error: GdahError, session: int, *, hopeless: bool = False) -> Verdict:
        """A server did not log it: what becomes of it (see Outbox.judge)."""
        with self._mirror.lock:
            verdict = self.outbox.judge(op, error, session, hopeless=hopeless)
            if verdict == "parked":
                log.warning("no server takes an operation that must not be lost: op=%s error=%s", op, error)
            if verdict != "take back":
                return verdict
            with self._mirror.database.transaction():
                changes = self._mirror.replica.drop_pending(op)
                self._mirror.database.execute("DELETE FROM change_log WHERE id = ?", (op,))
            record = self.outbox.taken_back(op)
        if record is not None:
            self._dirty.release(record.chunks, adopt=False)
        self._mirror.notify(changes)
        return verdict

    def keep_only_known(self) -> None:
        """After a snapshot: what it contained below its stable point is everywhere."""
        with self._mirror.lock:
            # ZERO: known to have been there, and gone from the log.
            self.outbox.keep_only(lambda op: self._mirror.replica.stamp_of(op) not in (None, ZERO))

    def stamped_are_everywhere(self) -> None:
        """Every server holds all that has a stamp in the mirror."""
        with self._mirror.lock:
            if self.outbox.unanswered < len(self.outbox):
                self.outbox.keep_only(self._is_unstamped)

    def _is_unstamped(self, op: OpId) -> bool:
        stamp = self._mirror.replica.stamp_of(op)
        return stamp is None or stamp.is_pending

    def sweep(self) -> None:
        """Take what has left out of the table, and unpin its chunks, handing them to the cache."""
        gone = self.outbox.take_gone()
        if not gone:
            return
        with self._mirror.changing():
            self._mirror.database.executemany(
                "DELETE FROM change_log WHERE number = ?", [(record.number,) for record in gone]
            )
        for record in gone:
            if record.chunks:
                self._dirty.release(record.chunks, adopt=True)

    # --- inside

    def _next_time_ns(self) -> int:
        self._time_ns = max(self._time_ns + 1, self._clock_ns())
        return self._time_ns

    def _check_room(self) -> None:
        waiting = len(self.outbox) + len(self.holding)
        if waiting >= self._records_max:
            raise NoSpace(f"{waiting} operations wait for servers or a decision; reconnect them, see `gdah brake`")
        self._dirty.check_room(OPERATION_BYTES, content=False)

    def _relieve(self) -> bool:
        """At the limit: content that at least one server holds may leave before the others have it, oldest
        first. The operation stays in the log."""
        freed = 0
        enough = max(self._dirty.total_bytes // 4, 1)
        for record in self.outbox.acked():
            chunks = self.outbox.strip(record)
            self._dirty.release(chunks, adopt=True)
            freed += sum(chunk.length for chunk in chunks)
            if freed >= enough:
                break
        if freed:
            log.warning("change log at its limit: content that one server holds leaves bytes=%d", freed)
        return freed > 0

    def _recover(self) -> int:
        """Read back what an earlier run left: unstamped operations are in doubt, stamped ones wait to be
        everywhere."""
        mirror = self._mirror
        with mirror.changing():
            mirror.database.execute(_SCHEMA)
            rows = mirror.database.rows("SELECT number, id, time_ns, path, bytes, sync FROM change_log ORDER BY number")
            pending = {op.id: op for op in mirror.replica.pending()}
            records: list[tuple[Record, tuple[Chunk, ...]]] = []
            for number, name, time_ns, path, size, sync in rows:
                op = pending.pop(name, None)
                logged = op or mirror.replica.operation(name)
                if logged is None:  # everywhere, and pruned since
                    mirror.database.execute("DELETE FROM change_log WHERE number = ?", (number,))
                    continue
                acked, held = op is None, self.holding.holds(name)
                record = Record(
                    id=name,
                    number=number,
                    time_ns=time_ns,
                    chunks=(),
                    content_bytes=size,
                    sync=bool(sync),
                    node=node_of(logged),
                    path=path,
                    op=op,
                    issued_at=self._monotonic(),
                    told=True,
                    in_doubt=not acked and not held,
                    acked=acked,
                    copies=int(acked),
                    of=2,
                )
                records.append((record, chunks_in(logged)))
        assert not pending, "the mirror holds unsent operations that the change log does not know"
        found = self._dirty.recover(chunks for _, chunks in records)
        for (record, _), mine in zip(records, found, strict=True):
            record.chunks = mine
            if self.holding.state is not None and self.holding.holds(record.id):
                self.holding.took(record, self.holding.state)
            else:
                self.outbox.add(record)
            self._next_number = record.number + 1
        return self.outbox.unanswered
