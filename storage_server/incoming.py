"""What the feeds of peers bring: into our log, and back to the peer that it is held here. Decides nothing about stamps.

Threading: the event loop; the work is the writer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gdah_volume.errors import NoSpace, OutOfOrder
from gdah_volume.ids import Epoch, OpId, ServerId
from gdah_volume.wire import Entry, Feed, Held, encode
from storage_server.feeds import entry_bytes
from storage_server.peer_state import Phase
from storage_server.ports import Applied, Outlet, Published
from storage_server.replication import Replication
from storage_server.showing import Showing
from storage_server.volume_store import VolumeStore
from storage_server.wanted import WantedChunks
from storage_server.writer import Job, Writer

SMALL_ENTRIES = 2
SLICE_ENTRIES = 16
"""Stored by one job of the writer, in about 5 ms: what others wait for goes between two of them."""


class Incoming:
    def __init__(
        self,
        writer: Writer,
        replication: Replication,
        wanted: WantedChunks,
        showing: Showing,
        lanes: dict[ServerId, Outlet],
        monotonic: Callable[[], float],
    ) -> None:
        """`lanes`: those that we dialled, by server; the volume keeps them."""
        self._writer = writer
        self._replication = replication
        self._wanted = wanted
        self._showing = showing
        self._lanes = lanes
        self._monotonic = monotonic
        self._unsaid: dict[ServerId, int] = {}
        self._submitted: dict[ServerId, int] = {}
        """Up to where its log was given to the writer."""
        self.on_applied: Callable[[ServerId], None] = lambda _server: None
        self.skipped: list[OpId] = []
        """Operations that our code could not apply."""
        self.caught_up = 0
        """Entries new to us that peers gave since the start while we were not joined: what we had missed."""
        self.caught_up_bytes = 0

    def note_new(self, published: Iterable[Published]) -> None:
        """What is new in our log."""
        for news in published:
            peer = self._replication.peers.get(news.origin) if news.origin else None
            if peer is not None and peer.phase is not Phase.JOINED:
                self.caught_up += 1
                self.caught_up_bytes += entry_bytes(news.entry)

    def begin(self, server: ServerId, cursor: int) -> None:
        """A lane on which its log comes from there on."""
        self._submitted[server] = cursor

    def feed(self, server: ServerId, epoch: Epoch, message: Feed, applied: Callable[[], None]) -> None:
        """A batch of a peer's log; `applied` is called when it is in ours, and the peer told when we hold it."""
        entries = [self._with_content(entry) for entry in message.entries]
        ours = [entry for entry in entries if self._replication.passed_on(entry.op.id) is not None]
        passed = {entry.op.id for entry in ours}
        if message.shown_later:
            self._showing.comes_back(server, ours)
        position, last = (entries[-1].position, str(entries[-1].op.id)) if entries else (0, "")
        if message.up_to > position:
            position, last = message.up_to, message.last
        slices = [entries[at : at + SLICE_ENTRIES] for at in range(0, len(entries), SLICE_ENTRIES)] or [[]]
        for part in slices[:-1]:
            self._store(server, epoch, part, part[-1].position, str(part[-1].op.id), passed, None)
        self._store(server, epoch, slices[-1], position, last, passed, applied)

    def _store(
        self,
        server: ServerId,
        epoch: Epoch,
        entries: list[Entry],
        position: int,
        last: str,
        passed_on: set[OpId],
        applied: Callable[[], None] | None,
    ) -> None:
        """A slice of it, which ends at `position`; `applied` is of the last one."""
        passed = [entry.op.id for entry in entries if entry.op.id in passed_on]
        sync = any(entry.sync for entry in entries)
        before = self._submitted.get(server, 0)
        self._submitted[server] = position

        def check(store: VolumeStore) -> None:
            """A disk that was full for the part before may have room for this one; that would stay a gap."""
            if store.cursor(server, epoch)[0] < before:
                raise OutOfOrder("what came before it could not be stored")

        def all_at_once(store: VolumeStore) -> Applied:
            check(store)
            result = store.apply(entries, server)
            store.set_cursor(server, epoch, position, last)
            return result

        def one_by_one(store: VolumeStore) -> Applied:
            check(store)
            result = store.apply_each(entries, server)
            store.set_cursor(server, epoch, position, last)
            return result

        def done(result: Any) -> None:
            if isinstance(result, Applied | NoSpace | OutOfOrder):
                finish(result)
            else:
                self._writer.submit(Job(one_by_one, finish, sync, is_bulk=True))

        def finish(result: Any) -> None:
            if isinstance(result, Applied):
                if passed:
                    self._replication.came_back(server, passed, self._monotonic())
                self._applied(server, position, result, is_waited_for=len(passed) < len(entries))
                if applied is not None:
                    applied()
            else:
                self._drop_lane(server, f"its log cannot be stored here: {result}")

        # In order: all of them are bulk, of which each waits for the one before.
        is_small = len(entries) <= SMALL_ENTRIES
        self._writer.submit(Job(all_at_once, done, sync, is_small=is_small, is_bulk=True, is_backlog=applied is None))

    def _with_content(self, entry: Entry) -> Entry:
        """Of what we passed on ourselves only the stamp comes back; the content is here."""
        if entry.blobs:
            return entry
        submission = self._replication.passed_on(entry.op.id)
        if submission is None or not submission.blobs:
            return entry
        return Entry(entry.position, entry.stamp, entry.op, submission.blobs, entry.sync)

    def _applied(self, server: ServerId, position: int, result: Applied, *, is_waited_for: bool) -> None:
        self._wanted.add(result.missing)
        self.skipped.extend(result.skipped)
        self._replication.applied(server, position, self._monotonic())
        self.on_applied(server)
        if is_waited_for:
            self._unsaid.pop(server, None)
            self.say_held(server, position)
        else:
            self._unsaid[server] = position

    def say_what_is_held(self) -> None:
        """Now and then: of what we passed on ourselves nobody waits to hear that we hold it."""
        unsaid, self._unsaid = self._unsaid, {}
        for server, position in unsaid.items():
            self.say_held(server, position)

    def say_held(self, server: ServerId, position: int) -> None:
        """Tell a peer that its log is here up to `position`, as soon as the content is and our mounts show it."""
        lane = self._lanes.get(server)

        def say() -> None:
            if lane is not None and self._lanes.get(server) is lane:
                lane.send(encode(Held(position=position)))

        self._wanted.when_here(lambda: self._showing.when_shown(say))

    def _drop_lane(self, server: ServerId, reason: str) -> None:
        lane = self._lanes.get(server)
        if lane is not None:
            lane.close(reason)
