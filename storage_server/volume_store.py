"""The log of one volume as its writer changes it: stamps, what peers and mounts hand over, epochs, promises.

Runs in the writer's thread, inside its transaction; decides what a stamp may be and what is checked before anything
is stored. Knows no network: which peer, which connection is told to it as a name.

Invariants: a stamp of this server is above every stamp in the log and every promise it made, also over restarts. A
chunk that an operation here names is here, or among the wanted.

Threading: the writer's thread only, but for `new` before that starts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import Chunk, ChunkHash, hash_of
from gdah_volume.database import Database
from gdah_volume.errors import (
    BadMessage,
    FileSystemError,
    GdahError,
    HashMismatch,
    NoSpace,
    OutOfOrder,
    Retired,
    StorageFailed,
    UnknownChunk,
)
from gdah_volume.ids import Epoch, OpId, ServerId, author_of, new_epoch, new_server_id, sequence_of
from gdah_volume.needed import needed
from gdah_volume.operations import Operation, Write, chunks_in
from gdah_volume.replica import Replica
from gdah_volume.stamps import MAX_LEAD_US, HybridClock, Stamp, wall_clock_us
from gdah_volume.wire import Blob, Entry
from storage_server.ports import Applied, Figures, Published, StaleLease, Stamped, Submission
from storage_server.streams import Streams

log = logging.getLogger("storage_server")

RESERVED_AHEAD_US = 10_000_000
"""Promises are kept over a restart although only every so often one is written down."""

STABILISE_AT_ONCE = 1_000
"""Operations: about 10 ms, in which nothing else is written."""

Rows = Iterable[tuple[str, list[tuple[Any, ...]]]]


class VolumeStore:
    def __init__(
        self,
        database: Database,
        chunks: ChunkStore,
        *,
        monotonic: Callable[[], float],
        now_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        self.database = database
        self.chunks = chunks
        self.replica = Replica(database)
        self.replica.prepare()
        self._monotonic = monotonic
        with database.transaction():
            self.server = ServerId(self._meta_or("server", new_server_id()))
            self.epoch = Epoch(self._meta_or("epoch", new_epoch()))
        reserved = int(database.meta("promised") or 0)
        self.clock = HybridClock(self.server, max(self.replica.max_clock, reserved), now_us)
        self._reserved = reserved
        self._promise = reserved
        self.retired: dict[ServerId, str] = json.loads(database.meta("retired_members") or "{}")
        self.refuse = ""
        """Why nothing new is taken now (set by the event loop): the disk is full."""
        self.published: list[Published] = []
        self.streams = Streams()
        self._stale_turn: int | None = None
        self._wanted: dict[str, None] = dict.fromkeys(json.loads(database.meta("wanted") or "[]"))

    def _meta_or(self, key: str, value: str) -> str:
        found = self.database.meta(key)
        if found is None:
            self.database.set_meta(key, value)
            return value
        return found

    def figures(self) -> Figures:
        replica = self.replica
        return Figures(
            head=replica.head,
            first=replica.first,
            operations=replica.operations,
            digest=replica.digest,
            max_clock=replica.max_clock,
            stable=replica.stable,
            promise=self._promise,
        )

    # --- new operations

    def stamp(self, submission: Submission, *, strict: bool, valid_until: float, turn: int | None = None) -> Stamped:
        """Into the log, with the next stamp of this server; a known one keeps its own. Raises the refusal."""
        op = submission.op
        self.streams.check(submission)
        try:
            if self._monotonic() >= valid_until or (turn is not None and turn == self._stale_turn):
                self._stale_turn = turn
                raise StaleLease
            result = self._stamp_new(submission, strict=strict)
        except (GdahError, StaleLease) as error:
            # Whatever stands against it counts only if it is new.
            known = self.replica.stamp_of(op.id)
            if known is not None:
                return self._known(submission, known)
            if isinstance(error, GdahError) and (not isinstance(error, FileSystemError) or isinstance(error, NoSpace)):
                self.streams.refused(submission)
            raise
        self.streams.goes_on(submission)
        return result

    def _known(self, submission: Submission, known: Stamp) -> Stamped:
        """It is in the log: the same answer again. Raises BadMessage if its id names another operation."""
        self._check_same(submission.op)
        check_blobs(submission.op, submission.blobs)
        missing = self._store_content(submission.op, submission.blobs, known=True)
        return Stamped(known, self.replica.head, missing)

    def _stamp_new(self, submission: Submission, *, strict: bool) -> Stamped:
        op = submission.op
        if self.server in self.retired:
            raise Retired(retired_words(self.server))
        if self.refuse:
            raise NoSpace(self.refuse)
        if strict and sequence_of(op.id) < self.replica.author_sequence(author_of(op.id)):
            raise OutOfOrder(f"{op.id} comes after a later operation of its author")
        check_blobs(op, submission.blobs)
        if submission.giver is None:
            self.check_content(op, submission.blobs)
        stamp = self.clock.next(self._floor(submission.floor))
        before = self.replica.head
        if strict:
            self.replica.offer(op, stamp)
        else:
            self.replica.accept(op, stamp)
        head = self.replica.head
        if head == before:
            known = self.replica.stamp_of(op.id)
            assert known is not None, "neither taken, nor refused, nor known"
            return self._known(submission, known)
        missing = self._store_content(op, submission.blobs)
        entry = Entry(head, stamp, op, submission.blobs, submission.sync)
        self.published.append(Published(entry, giver=submission.giver))
        return Stamped(stamp, head, missing, is_new=True)

    def _floor(self, floor: Stamp) -> int:
        """What a client says it has seen counts if it can be: a clock is never trusted far ahead of our own."""
        bound = max(self.clock.last, self.clock.now_us() + MAX_LEAD_US)
        return floor.clock if floor.clock <= bound else 0

    def _check_same(self, op: Operation) -> None:
        held = self.replica.operation(op.id)
        if held is not None and held != op:
            raise BadMessage(f"{op.id} names another operation here: an id is used once")

    def check_content(self, op: Operation, blobs: Sequence[Blob]) -> None:
        """Every chunk of it is here or comes with it, and is as long as it says. Raises UnknownChunk, BadMessage."""
        chunks = chunks_in(op)
        if not chunks:
            return
        brought = {blob.hash for blob in blobs}
        new = [chunk for chunk in self._new_chunks(op, chunks) if chunk.hash not in brought]
        for chunk in new:
            size = self.chunks.size(chunk.hash)
            if size is None and self.chunks.bring_back(chunk.hash):
                size = self.chunks.size(chunk.hash)
            if size is None:
                raise UnknownChunk(f"chunk {chunk.hash.hex()} is not here: store it first, then send {op.id} again")
            if size != chunk.length:
                raise BadMessage(f"chunk {chunk.hash.hex()} has {size} bytes, not {chunk.length}")

    def _new_chunks(self, op: Operation, chunks: tuple[Chunk, ...]) -> Iterable[Chunk]:
        if len(chunks) < 64 or not isinstance(op, Write) or op.base is None:
            return chunks
        try:
            base = self.replica.tree.node(op.node).content
        except GdahError:
            return chunks
        return set(chunks).difference(base.chunks)

    def _store_content(self, op: Operation, blobs: Sequence[Blob], *, known: bool = False) -> tuple[ChunkHash, ...]:
        """Store what came with it, checked; returns the chunks that are not here, which are wanted from now on."""
        chunks = chunks_in(op)
        if not chunks:
            return ()
        new = [(blob.hash, blob.data) for blob in blobs if not (known and self.chunks.has(blob.hash))]
        if new:
            self.chunks.put_checked(new)
        brought = {blob.hash for blob in blobs}
        others = [chunk.hash for chunk in chunks if chunk.hash not in brought]
        if not others:
            return ()
        missing = self._lacking(others)
        self.want_chunks(missing)
        return tuple(missing)

    def _lacking(self, names: Iterable[ChunkHash]) -> list[ChunkHash]:
        """Those that are not here, nor out of the way by the collector (then they are back from now on)."""
        return [name for name in self.chunks.missing(names) if not self.chunks.bring_back(name)]

    # --- operations that others stamped

    def apply(self, entries: Sequence[Entry], origin: ServerId | None, *, by_member: bool = False) -> Applied:
        """A batch of a peer's feed, or what is handed over (no origin). Idempotent; never refuses one."""
        again: set[OpId] = set()
        by_member = by_member or (origin is not None and origin not in self.retired)
        pairs = [(entry.op, self._stamp_for(entry, again, by_member=by_member)) for entry in entries]
        before = self.replica.head
        if len(pairs) == 1:
            self.replica.accept(*pairs[0])
            if self.replica.head > before:
                self._publish(self.replica.head, pairs[0][1], entries[0], origin, again)
        else:
            self.replica.accept_all(pairs)
            by_id = {entry.op.id: entry for entry in entries}
            for position, stamp, op in self.replica.entries_after(before, self.replica.head - before):
                self._publish(position, stamp, by_id[op.id], origin, again)
        return Applied(self._content_of_all(entries), ())

    def _stamp_for(self, entry: Entry, again: set[OpId], *, by_member: bool) -> Stamp:
        """Its own stamp; or a new one of ours where nothing can be inserted any more, below the stable point: its
        server stamped before it knew us. What a retired server stamped counts only if a member had it: else it would
        be inserted here and not there, where the stable point went on without that server. What is offered `again` is
        news to everybody."""
        is_void = entry.stamp.server in self.retired and not by_member
        if is_void or entry.stamp <= self.replica.stable:
            known = self.replica.stamp_of(entry.op.id)
            if known is not None:
                return known
            again.add(entry.op.id)
            return self.clock.next()
        self.clock.observe(entry.stamp.clock)
        return entry.stamp

    def _publish(self, position: int, stamp: Stamp, entry: Entry, origin: ServerId | None, again: set[OpId]) -> None:
        news = Entry(position, stamp, entry.op, _good(entry.blobs), entry.sync)
        self.published.append(Published(news, origin=None if entry.op.id in again else origin))

    def _content_of_all(self, entries: Sequence[Entry]) -> tuple[ChunkHash, ...]:
        """Store what came with them, or before; the chunks that are still missing."""
        missing: list[ChunkHash] = []
        for entry in entries:
            missing += self._store_content(entry.op, _good(entry.blobs))
        return tuple(missing)

    def apply_each(self, entries: Sequence[Entry], origin: ServerId | None) -> Applied:
        """After `apply` failed by a fault of ours: one by one, so that one bad entry harms no other."""
        missing: list[ChunkHash] = []
        skipped: list[OpId] = []
        for entry in entries:
            published = len(self.published)
            try:
                with self.database.transaction():
                    missing += self.apply([entry], origin).missing
            except (NoSpace, StorageFailed):
                raise
            except Exception:
                del self.published[published:]
                log.exception("could not apply operation %s of the feed; the rest goes on", entry.op.id)
                skipped.append(entry.op.id)
        return Applied(tuple(missing), tuple(skipped))

    def check_handed(self, entries: Sequence[Entry]) -> None:
        """A mount may know stamps that we do not, but none from the future. Raises BadMessage, nothing stored."""
        limit = max(self.clock.last, self.clock.now_us() + MAX_LEAD_US)
        for entry in entries:
            if entry.stamp.clock > limit or entry.stamp.clock <= 0:
                raise BadMessage(f"{entry.op.id}: its stamp {entry.stamp.clock} cannot be one of a server's")
            check_blobs(entry.op, entry.blobs)

    def found(self, op: OpId) -> Stamped | None:
        stamp = self.replica.stamp_of(op)
        if stamp is None:
            return None
        logged = self.replica.operation(op)
        chunks = chunks_in(logged) if logged is not None else ()  # what was pruned is everywhere
        return Stamped(stamp, self.replica.head, tuple(self._lacking(chunk.hash for chunk in chunks)))

    # --- cursors, epochs, members

    def cursor(self, server: ServerId, epoch: Epoch) -> tuple[int, str]:
        """How far we have read the log of a peer, and the operation there; (0, "") in an epoch that we do not know."""
        kept = (self.database.meta(f"cursor:{server}") or "").split(":")
        return (int(kept[1]), kept[2]) if kept[0] == epoch else (0, "")

    def set_cursor(self, server: ServerId, epoch: Epoch, position: int, last: str) -> None:
        self.database.set_meta(f"cursor:{server}", f"{epoch}:{position}:{last}")

    def forget_cursor(self, server: ServerId) -> None:
        self.database.execute("DELETE FROM meta WHERE key = ?", (f"cursor:{server}",))

    def begin_epoch(self) -> Epoch:
        """Positions told before mean nothing any more, and everything is read again from every peer."""
        self.epoch = new_epoch()
        self.database.set_meta("epoch", self.epoch)
        self.database.execute("DELETE FROM meta WHERE key LIKE 'cursor:%'")
        return self.epoch

    def members(self) -> tuple[dict[ServerId, str], set[str]]:
        """(URLs of the members by id, ids that others took the place of)."""
        urls: dict[ServerId, str] = json.loads(self.database.meta("members") or "{}")
        return urls, set(json.loads(self.database.meta("retired") or "[]"))

    def set_members(self, urls: dict[ServerId, str], replaced: set[str]) -> None:
        self.database.set_meta("members", json.dumps(urls))
        self.database.set_meta("retired", json.dumps(sorted(replaced)))

    def retire(self, servers: dict[ServerId, str]) -> None:
        """From now on what they stamped, and nobody had, is void. Idempotent."""
        self.retired |= servers
        self.database.set_meta("retired_members", json.dumps(self.retired))
        for server in servers:
            self.forget_cursor(server)

    # --- the stable point

    def promise(self) -> int:
        """Stamp nothing at or below now any more; written down ahead, so that a restart keeps it."""
        if self.replica.max_clock < self._promise <= self.clock.last and self.replica.max_clock <= self.stable_clock:
            return self._promise  # all is stable: an idle server writes nothing
        now = max(self.clock.now_us(), self.clock.last)
        if now > self._reserved:
            self._reserved = now + RESERVED_AHEAD_US
            self.database.set_meta("promised", str(self._reserved))
        self.clock.observe(now)
        self._promise = now
        return now

    @property
    def stable_clock(self) -> int:
        return self.replica.stable.clock

    def stabilise(self, stamp: Stamp) -> None:
        if stamp > self.replica.stable and self.replica.max_clock > self.replica.stable.clock:
            self.replica.stabilise(stamp, at_most=STABILISE_AT_ONCE)

    def prune(self, *, before_time_ns: int, up_to_position: int) -> int:
        """Old operations that everybody has leave the log. From then on one who knows less needs a snapshot."""
        pruned = self.replica.prune(before_time_ns=before_time_ns, up_to_position=up_to_position)
        if pruned:
            self.database.set_meta("pruned_below", str(self.replica.stable.clock))
        return pruned

    @property
    def pruned_below(self) -> int:
        return int(self.database.meta("pruned_below") or 0)

    # --- snapshots

    def load(self, rows: Rows, server: ServerId, epoch: Epoch, head: int) -> int:
        """Become what a peer's snapshot says, and put back on top what only we have. Returns how many that were."""
        own = [entry for batch in self._all_entries() for entry in batch]
        self.replica.load(iter(rows))
        again = 0
        for _, stamp, op in own:
            if self.replica.stamp_of(op.id) is not None:
                continue
            if stamp <= self.replica.stable or stamp.server in self.retired:
                stamp = self.clock.next()  # noqa: PLW2901 - the void stamp is of no use any more
            self.replica.accept(op, stamp)
            again += 1
        self.clock.observe(self.replica.max_clock)
        self.begin_epoch()
        self.set_cursor(server, epoch, head, "")
        self.database.set_meta("pruned_below", str(self.replica.stable.clock))
        self.want_chunks(self._lacking(needed(self.database)))
        return again

    def _all_entries(self) -> Iterator[list[tuple[int, Stamp, Operation]]]:
        position = 0
        while batch := self.replica.entries_after(position, 512):
            yield batch
            position = batch[-1][0]

    # --- wanted chunks

    def wanted(self) -> list[ChunkHash]:
        """Those of earlier runs that are still missing."""
        names = [ChunkHash(bytes.fromhex(name)) for name in self._wanted]
        return self.chunks.missing(names)

    def is_wanted(self, name: ChunkHash) -> bool:
        return name.hex() in self._wanted

    def want_chunks(self, missing: Iterable[ChunkHash]) -> None:
        new = [name.hex() for name in missing if name.hex() not in self._wanted]
        if new:
            self._wanted.update(dict.fromkeys(new))
            self._save_wanted()

    def got(self, names: Iterable[ChunkHash]) -> None:
        """They are here now, or given up."""
        for name in names:
            self._wanted.pop(name.hex(), None)
        self._save_wanted()

    def _save_wanted(self) -> None:
        self.database.set_meta("wanted", json.dumps(list(self._wanted)))


def retired_words(server: ServerId) -> str:
    return (
        f"server {server} was retired from this volume: use the others, "
        "or start it with an empty --data folder and --peer to make it a new member"
    )


def check_blobs(op: Operation, blobs: Sequence[Blob]) -> None:
    """Inline content is of this operation, as long as it says, and what its name says."""
    if not blobs:
        return
    lengths = {chunk.hash: chunk.length for chunk in chunks_in(op)}
    for blob in blobs:
        length = lengths.get(blob.hash)
        if length is None:
            raise BadMessage(f"{op.id} brings content that it does not name")
        if length != len(blob.data):
            raise BadMessage(f"{op.id}: a chunk has {len(blob.data)} bytes, not {length}")
        if hash_of(blob.data) != blob.hash:
            raise HashMismatch(f"{op.id}: the bytes of chunk {blob.hash.hex()[:16]} do not match its name")


def _good(blobs: tuple[Blob, ...]) -> tuple[Blob, ...]:
    """From a peer: what does not match its name is fetched again instead."""
    if all(hash_of(blob.data) == blob.hash for blob in blobs):
        return blobs
    return tuple(blob for blob in blobs if hash_of(blob.data) == blob.hash)
