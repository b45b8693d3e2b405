"""A server says that its log is everywhere only as far as the content is in its own house, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gdah_volume.content import hash_of
from tests.server.rooms import LARGE, Room, run


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
