"""A chunk on its way to a peer does not hold up whoever stored it, once that peer is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import ChunkHash, hash_of
from gdah_volume.database import Database
from gdah_volume.errors import NoSpace
from gdah_volume.ids import DEFAULT_VOLUME, VolumeName
from storage_server.ports import ChunkSource
from storage_server.volume_chunks import VolumeChunks
from storage_server.wanted import WantedChunks

QUICK, STOPPED = "http://quick", "http://stopped"
DATA = b"x" * 100_000


class Around:
    def __init__(self) -> None:
        self.urls = [QUICK, STOPPED]

    def connected_urls(self) -> list[str]:
        return self.urls

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Source:
    """One peer takes what it gets, the other never answers."""

    def __init__(self, asked: asyncio.Event) -> None:
        self.asked = asked
        self.cancelled = False

    async def store(self, _: VolumeName, name: ChunkHash, data: bytes, urls: Sequence[str], *, sync: bool) -> int:
        if urls == [STOPPED]:
            self.asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        return 1


def test_a_peer_that_is_given_up_is_not_waited_for(tmp_path: Path) -> None:
    async def scenario(chunks: ChunkStore) -> None:
        around, asked = Around(), asyncio.Event()
        source = Source(asked)
        content = VolumeChunks(
            DEFAULT_VOLUME, chunks, cast("ChunkSource", source), cast("Any", around), cast("Any", None)
        )
        storing = asyncio.ensure_future(content.store(hash_of(DATA), DATA))
        await asked.wait()
        await asyncio.sleep(0.1)
        assert not storing.done(), "a peer that is counted on is waited for"
        around.urls = [QUICK]
        assert await asyncio.wait_for(storing, 10) == 2
        await asyncio.sleep(0)
        assert source.cancelled
        assert chunks.get(hash_of(DATA)) == DATA

    with closing(Database(tmp_path / "v.db")) as database:
        asyncio.run(scenario(ChunkStore(tmp_path / "chunks", database)))


def test_catching_up_leaves_the_free_space_alone(tmp_path: Path) -> None:
    """A server whose disk was nearly full went on fetching missing chunks until there was no byte left."""

    class Full(Around):
        full = True

        def check_room(self) -> None:
            if self.full:
                raise NoSpace("less than --min-free")

        def peer_urls(self) -> list[str]:
            return [QUICK]

    class Holder(Source):
        fetched = 0

        async def fetch(self, _: VolumeName, name: ChunkHash, urls: Sequence[str]) -> bytes:
            self.fetched += 1
            return DATA

    async def scenario(chunks: ChunkStore) -> None:
        around, source = Full(), Holder(asyncio.Event())
        content = VolumeChunks(DEFAULT_VOLUME, chunks, cast("ChunkSource", source), cast("Any", around))
        content.wanted.add([hash_of(DATA)])
        await asyncio.sleep(0.2)
        assert source.fetched == 0
        around.full = False
        here = asyncio.Event()
        content.wanted.when_here(here.set)
        await asyncio.wait_for(here.wait(), 20)
        assert source.fetched == 1
        await content.wanted.close()

    with closing(Database(tmp_path / "v.db")) as database:
        store = ChunkStore(tmp_path / "chunks", database)
        asyncio.run(scenario(store))
        assert store.get(hash_of(DATA)) == DATA


def test_a_fault_while_fetching_does_not_end_the_search_for_a_chunk() -> None:
    async def scenario() -> None:
        tries: list[ChunkHash] = []
        stored: list[bytes] = []

        async def fetch(name: ChunkHash) -> bytes:
            tries.append(name)
            if len(tries) == 1:
                raise AttributeError("a bug in a library")
            return DATA

        async def store(_: ChunkHash, data: bytes) -> None:
            stored.append(data)

        wanted = WantedChunks(fetch, store, lambda _: None)
        wanted.add([hash_of(DATA)])
        here = asyncio.Event()
        wanted.when_here(here.set)
        await asyncio.wait_for(here.wait(), 20)
        assert (len(tries), stored) == (2, [DATA])
        await wanted.close()

    asyncio.run(scenario())
