"""A server says that its log is everywhere only as far as the content is in its own house, too."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gdah_volume.content import hash_of
from gdah_volume.errors import ContentUnavailable, NoSpace, StorageFailed, Unreachable
from gdah_volume.ids import Epoch, ServerId
from gdah_volume.stamps import ZERO, Stamp
from gdah_volume.wire import Entry, Feed
from tests.server.rooms import LARGE, Room, run

PEER = ServerId("speer")


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with closing(Room(tmp_path)) as room:
        yield room


def test_a_log_whose_chunks_are_on_their_way_is_not_everywhere(room: Room) -> None:
    data = os.urandom(LARGE)
    op, _ = room.me.create(b"large", data)
    seen: list[int] = []
    told = room.volume.feeds.publish

    async def story() -> None:
        volume = room.volume
        await room.do(room.create(b"small", b"text"))
        assert volume.replication.everywhere == 1
        await room.do(op)
        seen.append(volume.replication.everywhere)
        await room.do(room.create(b"later", b"more"))
        seen.append(volume.replication.everywhere)
        await volume.content.store_here(hash_of(data), data)
        assert volume.replication.everywhere == 3

    room.volume.feeds.publish = lambda items: (seen.append(room.volume.replication.everywhere), told(items))[1]  # type: ignore[method-assign]
    run(room, story)
    assert max(seen) == 1, "a feed, and whoever asks, hears of no more than what is here"


def test_what_was_missing_at_the_end_is_missing_at_the_next_start(room: Room) -> None:
    data = os.urandom(LARGE)
    op, _ = room.me.create(b"large", data)

    async def before() -> None:
        await room.do(op)

    async def after() -> None:
        volume = room.volume
        assert volume.figures.head == 1
        assert volume.replication.everywhere == 0
        await volume.content.store_here(hash_of(data), data)
        assert volume.replication.everywhere == 1

    run(room, before)
    room.close()
    again = Room(room.folder)
    room.reader, room.database, room.volume = again.reader, again.database, again.volume
    run(room, after)


def test_a_known_operation_is_looked_up_together_with_its_content(room: Room) -> None:
    data = os.urandom(LARGE)
    op, _ = room.me.create(b"large", data)

    async def story() -> None:
        await room.do(op)
        found = await room.volume.do(lambda store: store.found(op.id))
        assert found is not None
        assert found.missing == (hash_of(data),)
        await room.volume.content.store_here(hash_of(data), data)
        found = await room.volume.do(lambda store: store.found(op.id))
        assert found is not None
        assert found.missing == ()

    run(room, story)


def test_a_snapshot_is_loaded_to_its_end_whatever_becomes_of_who_asked_for_it(room: Room) -> None:
    """The lane fell silent meanwhile: the log was another one, and nobody who read it was told."""
    volume, goes_on, begun = room.volume, threading.Event(), threading.Event()
    resets: list[str] = []

    class Fetched:
        epoch, head, closed = Epoch("e"), 0, False

        def rows(self) -> list[Any]:
            return []

        def close(self) -> None:
            self.closed = True

    fetched = Fetched()

    async def snapshot(*_: object) -> Fetched:
        return fetched

    def load(*_: object) -> int:
        begun.set()
        assert goes_on.wait(30)
        assert not fetched.closed
        return 0

    async def story() -> None:
        volume.source.snapshot = snapshot  # type: ignore[method-assign,assignment]
        volume._store.load = load  # type: ignore[method-assign]
        volume.reset = resets.append  # type: ignore[method-assign]
        asking = asyncio.get_running_loop().create_task(volume.load_snapshot(PEER, "http://peer"))
        await asyncio.to_thread(begun.wait, 30)
        with pytest.raises(Unreachable):
            await volume.load_snapshot(PEER, "http://another")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not resets
        goes_on.set()
        assert volume._load is not None
        await volume._load
        assert resets == ["a snapshot of http://peer was loaded"]
        assert fetched.closed
        assert not volume.loading

    run(room, story)


def test_what_follows_a_part_that_the_full_disk_did_not_take_is_not_taken(room: Room) -> None:
    """The disk had room for the smaller part that came behind it: the first one was missing until the logs were
    compared, and programs were told that their folders are not there."""
    volume, full = room.volume, [True]
    entries = [Entry(at, Stamp(at, PEER), room.create(b"f%d" % at)) for at in (1, 2, 3)]
    take = volume._store.apply

    def apply(given: list[Entry], origin: ServerId | None, **how: Any) -> Any:
        if full and any(entry.position == 1 for entry in given):
            raise NoSpace("the disk is full")
        return take(given, origin, **how)

    async def settled() -> None:
        for _ in range(500):
            if not volume.writer.queued:
                return
            await asyncio.sleep(0.01)

    async def story() -> None:
        volume._store.apply = volume._store.apply_each = apply  # type: ignore[method-assign,assignment]
        volume.incoming.begin(PEER, 0)
        for entry in entries:
            volume.incoming.feed(PEER, Epoch("e"), Feed(entries=(entry,), everywhere=0, stable=ZERO), lambda: None)
        await settled()
        assert await volume.do(lambda store: (store.cursor(PEER, Epoch("e"))[0], store.replica.head)) == (0, 0)
        full.clear()
        volume.incoming.begin(PEER, 0)
        for entry in entries:
            volume.incoming.feed(PEER, Epoch("e"), Feed(entries=(entry,), everywhere=0, stable=ZERO), lambda: None)
        await settled()
        assert await volume.do(lambda store: (store.cursor(PEER, Epoch("e"))[0], store.replica.head)) == (3, 3)

    run(room, story)


def test_a_database_that_cannot_be_read_for_a_moment_is_no_fault_of_ours(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the fire drill (seed 9012): whoever asked for a chunk then got a 500, and the log a traceback. Another
    server may have it."""
    data = b"what others have"
    name = hash_of(data)

    def malformed(*_: object) -> bytes:
        raise sqlite3.DatabaseError("database disk image is malformed")

    async def fetched(*_: object) -> bytes:
        return data

    async def story() -> None:
        with pytest.raises(ContentUnavailable, match="malformed"):
            await room.volume.content.read(name, here_only=True)
        with pytest.raises(StorageFailed):
            room.volume.content.size(name)
        assert await room.volume.content.read(name) == data

    monkeypatch.setattr(room.volume.content.disk, "get", malformed)
    monkeypatch.setattr(room.volume.content.disk, "size", malformed)
    monkeypatch.setattr(room.volume.content, "_fetch", fetched)
    run(room, story)
    assert not room.fatal
