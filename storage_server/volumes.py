"""One volume at work: its writer, its feeds, its peers, put in motion by what connections bring.

The room where the decisions of `replication` become jobs of the writer and messages of lanes. Knows no HTTP and no
WebSocket: lanes and conversations come as `Outlet`s, chunks of others through `ChunkSource`.

Threading: the event loop, but for what says otherwise. The writer's thread hands each batch over with one call.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import ChunkHash
from gdah_volume.errors import GdahError, NoSpace, StorageFailed, Unreachable
from gdah_volume.ids import Author, Epoch, ServerId, VolumeName, new_author, new_client_id
from gdah_volume.stamps import ZERO, Stamp
from gdah_volume.wire import PROTOCOL, SILENCE_LIMIT_S, Ack, Beat, Entry, Submit, Welcome, encode
from storage_server.braking import Deletions
from storage_server.feeds import Feeds, Subscription
from storage_server.incoming import Incoming
from storage_server.lock_lanes import LockLanes
from storage_server.membership import Membership, News
from storage_server.ports import Applied, ChunkSource, Conversation, Link, Outlet, Snapshot, Stamped, Submission
from storage_server.readers import Readers
from storage_server.replication import Replication
from storage_server.retiring import Retiring
from storage_server.showing import Showing
from storage_server.volume_chunks import VolumeChunks
from storage_server.volume_store import VolumeStore
from storage_server.writer import Job, Outcome, Writer

log = logging.getLogger("storage_server")

T = TypeVar("T")
SOFTWARE = "gdah 0.1.0"
STILL_LIMIT_S = 0.3
"""Below the silence limit: whoever gave us up for dead, we know that we may have been."""


@dataclass(frozen=True, slots=True)
class VolumeParts:
    name: VolumeName
    store: VolumeStore
    chunks: ChunkStore
    readers: Readers
    lock: Any


class Volume:
    def __init__(
        self,
        parts: VolumeParts,
        membership: Membership,
        source: ChunkSource,
        fatal: Callable[[GdahError], None],
        repaired: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = parts.name
        self.server: ServerId = parts.store.server
        self.epoch: Epoch = parts.store.epoch
        self.author: Author = new_author(new_client_id(str(self.server)))
        self.readers = parts.readers
        self.membership = membership
        self.monotonic = monotonic
        self.deletions = Deletions(monotonic)
        self.figures = parts.store.figures()
        self.trouble = ""
        self.free_bytes = 0
        self.busy = 0.0
        self.loading = False
        """A snapshot is being loaded."""
        self.care: dict[str, Callable[[], dict[str, Any]]] = {}
        """Figures of those who look after what is stored, by their key in the status."""
        self.lanes: dict[ServerId, Outlet] = {}
        self.links: dict[str, Link] = {}
        self.conversations: set[Conversation] = set()
        self.dial: Callable[[str], None] = lambda _url: None
        """Set by the edge that dials peers."""
        self.last_tick = monotonic()
        self._deaf_until = 0.0
        self._load: asyncio.Task[None] | None = None
        self._noted = 0
        """The head for which we wait until all content is here."""
        self.source = source
        self._store = parts.store
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._fatal = fatal
        self.writer = Writer(parts.name, parts.store, self._deliver, self._failed, parts.lock)
        self.replication = Replication(self.server, self)
        self.replication.head = self.figures.head
        self.showing = Showing(lambda: self.figures.head, monotonic)
        self.feeds = Feeds(
            self.readers.read_log, lambda: (self.replication.everywhere, self.stable_for_readers), self.showing
        )
        self.feeds.head = self.figures.head
        self.content = VolumeChunks(parts.name, parts.chunks, source, self, repaired)
        self.wanted = self.content.wanted
        self.incoming = Incoming(self.writer, self.replication, self.wanted, self.showing, self.lanes, monotonic)
        self.locks = LockLanes(self.replication, self.lanes, lambda: self.figures.head, monotonic)
        self.incoming.on_applied = self.locks.applied
        self.retiring = Retiring(self)

    # --- life

    def start(self) -> None:
        """From within the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        now = self.monotonic()
        self.replication.retired = set(self.membership.retired)
        for server, url in self.membership.urls.items():
            self.replication.member(server, url, now)
        met = set(self.membership.urls.values())
        for url in self.membership.configured:
            if url not in met and self.membership.is_expected(url):
                self.replication.expect(url, now)
        missing = self._store.wanted()
        self.writer.start()
        self.wanted.add(missing)
        self._note_content()

    async def stop(self) -> None:
        for conversation in list(self.conversations):
            conversation.drop(StorageFailed("the server is being stopped"))
        self.showing.stop()
        await self.content.close()
        await asyncio.to_thread(self.writer.stop)
        if self._load is not None:
            self._load.cancel()
        self.readers.close()

    def _failed(self, error: GdahError) -> None:
        """In the writer's thread: the disk failed, and nothing that was not told must be told any more."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._fatal, error)

    def disk_failed(self, error: GdahError) -> None:
        self._fatal(error)

    # --- the writer

    def _deliver(self, outcome: Outcome) -> None:
        assert self._loop is not None
        if threading.get_ident() == self._loop_thread:
            self._loop.call_soon(self._on_outcome, outcome)
        else:
            self._loop.call_soon_threadsafe(self._on_outcome, outcome)

    def _on_outcome(self, outcome: Outcome) -> None:
        now = self.monotonic()
        self.writer.delivered(outcome)
        self.figures = outcome.figures
        self.replication.head = outcome.figures.head
        if outcome.published:
            self.feeds.publish(outcome.published)
            self.incoming.note_new(outcome.published)
            self.deletions.note(published.entry.op for published in outcome.published)
            self.replication.published(outcome.published, now)
        self.feeds.head = outcome.figures.head  # a snapshot moves it, and publishes nothing
        stamped: list[tuple[Submission, Stamped | Exception]] = []
        for job, result in outcome.results:
            if isinstance(result, NoSpace):
                self.disk_full(str(result))
            if job.submission is not None:
                stamped.append((job.submission, result))
                if isinstance(result, Stamped) and result.missing:
                    self.wanted.add(result.missing)
            elif job.done is not None:
                if isinstance(result, Applied):  # before anybody is told that all is here
                    self.wanted.add(result.missing)
                job.done(result)
        if not self.loading:
            self._note_content()
        if stamped:
            self.replication.stamped(stamped, now)

    def _note_content(self) -> None:
        """What is in the log now is here as soon as all that is wanted now has come."""
        head = self.figures.head
        if self.replication.here >= head or self._noted == head:
            return
        self._noted = head
        self.wanted.when_here(lambda: self.replication.content_here(head))

    async def do(
        self,
        run: Callable[[VolumeStore], T],
        *,
        sync: bool = False,
        line: Hashable = None,
        is_small: bool = False,
        is_bulk: bool = False,
    ) -> T:
        """Have the writer do something, in its turn of that line; its result, or the error that it ended with."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: Any) -> None:
            if future.done():
                return
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.writer.submit(Job(run, done, sync, line=line, is_small=is_small, is_bulk=is_bulk))
        return await future

    def ask(self, run: Callable[[VolumeStore], Any], done: Callable[[Any], None], *, is_bulk: bool = False) -> None:
        self.writer.submit(Job(run, done, is_bulk=is_bulk))

    def later(self, run: Callable[[VolumeStore], Any]) -> None:
        """As `do`, and nobody waits."""
        self.writer.submit(Job(run))

    def disk_full(self, reason: str) -> None:
        if self.trouble:
            return
        log.error("volume %s: %s; operations are refused until there is room", self.name, reason)
        self.trouble = f"disk full: {reason}"
        self._store.refuse = self.trouble
        self.replication.is_full = True

    def disk_has_room(self) -> None:
        if self.trouble:
            log.warning("volume %s: there is room again", self.name)
        self.trouble = ""
        self._store.refuse = ""
        self.replication.is_full = False

    # --- Deeds of the replication

    def stamp(self, submission: Submission, *, strict: bool, valid_until: float, turn: int) -> None:
        self.writer.submit(
            Job(
                lambda store: store.stamp(submission, strict=strict, valid_until=valid_until, turn=turn),
                sync=submission.sync,
                submission=submission,
                is_small=self.replication.waiting <= 1,  # of many, batches in the writer's thread are worth more
            )
        )

    def pass_on(self, server: ServerId, submission: Submission, *, strict: bool) -> None:
        lane = self.lanes.get(server)
        if lane is not None:  # else it has just been lost, and the replication hears of it next
            lane.send(
                encode(
                    Submit(
                        op=submission.op,
                        floor=submission.floor,
                        blobs=submission.blobs,
                        strict=strict,
                        sync=submission.sync,
                    )
                )
            )

    def acknowledge(self, submission: Submission, ack: Ack) -> None:
        self.showing.acknowledge(submission, ack)

    def look_up(self, submission: Submission) -> None:
        op = submission.op.id

        def done(result: Any) -> None:
            found = result if isinstance(result, Stamped) else None
            self.replication.found(submission, found, self.monotonic())

        self.writer.submit(Job(lambda store: store.found(op), done))

    def sequencer_changed(self) -> None:
        self.locks.sequencer_changed()
        for link in self.links.values():
            link.beat_now()

    # --- operations from mounts, peers and ourselves

    def submit(self, submission: Submission) -> None:
        self.replication.submit(submission, self.monotonic())

    async def check_content(self, submission: Submission) -> None:
        """Before it is passed on: larger content is here, or it is refused. Raises UnknownChunk, BadMessage."""
        await self.do(
            lambda store: store.check_content(submission.op, submission.blobs), line=submission.line, is_small=True
        )

    async def hand_over(self, entries: Sequence[Entry], *, by_mount: bool, by_member: bool = False) -> int:
        """Operations with the stamps of other servers, from one who has them. Returns our head."""

        def run(store: VolumeStore) -> Applied:
            if by_mount:
                store.check_handed(entries)
            return store.apply(entries, None, by_member=by_member)

        await self.do(run, sync=any(entry.sync for entry in entries))
        return self.figures.head

    # --- chunks

    def check_room(self) -> None:
        """Raises NoSpace."""
        if self.trouble:
            raise NoSpace(self.trouble)

    def peer_urls(self) -> list[str]:
        """Where other copies may be; those that can be reached first."""
        peers = sorted(self.replication.peers.values(), key=lambda peer: not peer.out_up)
        return [peer.url for peer in peers if peer.url] + list(self.replication.unmet)

    def connected_urls(self) -> list[str]:
        """Peers that are counted on: they answer, and take what they are given."""
        return [p.url for p in self.replication.peers.values() if p.url and p.counted_on and not p.trouble]

    def want(self, names: Sequence[ChunkHash]) -> None:
        """They should be here and are not: get them again."""
        self.later(lambda store: store.want_chunks(names))
        self.wanted.add(names)

    def got(self, names: list[ChunkHash]) -> None:
        self.later(lambda store: store.got(names))

    # --- who is there

    def link_error(self, url: str) -> str | None:
        link = self.links.get(url)
        return link.last_error if link is not None else None

    def welcome(self, your_cursor: int) -> Welcome:
        figures = self.figures
        return Welcome(
            protocol=PROTOCOL,
            server=self.server,
            epoch=self.epoch,
            software=SOFTWARE,
            head=figures.head,
            first=figures.first,
            stable=figures.stable,
            members=self.membership.listed(),
            your_cursor=your_cursor,
            shows=True,
            locks=True,
            run=self.author,
            retired=tuple(self.membership.retired.items()),
            operations=figures.operations,
            behind=self.replication.behind,
        )

    def take_news(self, news: News) -> None:
        now = self.monotonic()
        for server in news.retired:
            log.warning("server %s of volume %s is gone: another one answers in its place", server, self.name)
            self.replication.retire(server, now)
            self.later(lambda store, server=server: store.forget_cursor(server))  # type: ignore[misc]
        for server in news.added:
            self.replication.member(server, self.membership.urls.get(server, ""), now)
        for url in news.dial:
            if url != self.membership.own_url:
                self.dial(url)
        if news.changed:
            self.save_members()

    def save_members(self) -> None:
        members, replaced = dict(self.membership.urls), set(self.membership.replaced)
        self.later(lambda store: store.set_members(members, replaced))

    async def meet(self, server: ServerId, epoch: Epoch) -> tuple[int, str]:
        """A peer says in which epoch it is; how far we have read its log, and the operation there."""
        peer = self.replication.peers.get(server)
        if peer is None:
            raise Unreachable(f"server {server} is no member of the volume any more")
        if peer.epoch != epoch:
            if peer.epoch:
                log.warning("server %s of volume %s has a new epoch: it gets the union of all logs", server, self.name)
            peer.epoch = epoch
            peer.needed = self.figures.head  # what it gave us once it may have lost
        return await self.do(lambda store: store.cursor(server, epoch))

    async def reaches_back(self, cursor: int | None, above: Stamp | None) -> bool:
        """Whether the log still has everything after that point."""
        if cursor is not None:
            return cursor >= self.figures.first - 1
        assert above is not None
        if self.figures.first == 1:
            return True
        return above.clock >= await self.do(lambda store: store.pruned_below)

    async def load_snapshot(self, server: ServerId, url: str) -> None:
        """Become what that peer is, with what only we have on top. A new epoch. Once begun it is ended, whatever
        becomes of the lane that asked for it: half of it would be a log that its readers count otherwise. Raises
        Unreachable while another one is being loaded."""
        if self.loading:
            raise Unreachable("another snapshot is being loaded")
        self.loading = True
        try:
            snapshot = await self.source.snapshot(self.name, url)
        except BaseException:
            self.loading = False
            self._note_content()
            raise
        self._load = asyncio.get_running_loop().create_task(self._load_snapshot(snapshot, server, url))
        await asyncio.shield(self._load)

    async def _load_snapshot(self, snapshot: Snapshot, server: ServerId, url: str) -> None:
        try:
            again, missing = await self.do(
                lambda store: (store.load(snapshot.rows(), server, snapshot.epoch, snapshot.head), store.wanted()),
                sync=True,
            )
        finally:
            self.loading = False
            snapshot.close()
        self.epoch = self._store.epoch
        self._forget_reads()
        log.warning("volume %s took a snapshot of %s; %d operations of ours came on top", self.name, url, again)
        self.wanted.add(missing)
        self._note_content()
        self.reset(f"a snapshot of {url} was loaded")

    async def begin_epoch(self, reason: str) -> None:
        """Our log is not the one that others have read: positions begin anew, and we read everything again."""
        log.warning("volume %s begins a new epoch: %s", self.name, reason)
        self._forget_reads()
        self._note_content()
        self.epoch = await self.do(lambda store: store.begin_epoch(), sync=True)
        self.replication.lost_data()
        self.reset(f"new epoch: {reason}")

    def _forget_reads(self) -> None:
        self.replication.forget_reads()
        self._noted = 0

    def reset(self, reason: str) -> None:
        """Drop every connection; all are dialled again."""
        for conversation in list(self.conversations):
            conversation.drop(GdahError(reason))
        self.reset_links(reason)

    def reset_links(self, reason: str) -> None:
        for link in list(self.links.values()):
            link.drop(reason)

    def stood_still(self, now: float) -> bool:
        """Whether this process did not run for a while: then silence says nothing about others."""
        return now - self.last_tick > STILL_LIMIT_S

    def has_stood_still(self, now: float) -> None:
        """Everybody gets time to be heard again."""
        self._deaf_until = now + SILENCE_LIMIT_S
        self.replication.shift(now - self.last_tick)
        self.locks.has_stood_still(now - self.last_tick)

    def hears(self, now: float) -> bool:
        """Whether silence means something."""
        return now >= self._deaf_until and not self.stood_still(now)

    # --- signs of life

    @property
    def stable_for_readers(self) -> Stamp:
        return self.figures.stable

    def beat(self, *, sent_us: int, echo_us: int, read: int = 0, live: bool = True) -> Beat:
        figures = self.figures
        return Beat(
            sent_us=sent_us,
            echo_us=echo_us,
            head=figures.head,
            operations=figures.operations,
            digest=figures.digest,
            everywhere=self.replication.everywhere,
            stable=figures.stable if live else ZERO,
            promise=figures.promise,
            read=read,
            free_bytes=self.free_bytes,
            lag=self.replication.lag,
            busy=self.busy,
            sequencer=self.replication.sequencer,
            trouble=self.trouble,
            retired=tuple(self.membership.retired.items()),
            behind=self.replication.behind,
        )

    def now_us(self) -> int:
        """For `sent_us`: the clock that leases are counted on."""
        return int(self.monotonic() * 1e6)

    def subscribe(self, subscription: Subscription) -> None:
        self.feeds.add(subscription)
