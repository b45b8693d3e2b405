"""A volume in the test's own process, with its writer and without peers, to be looked into while its loop runs."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import ChunkHash
from gdah_volume.database import Database
from gdah_volume.errors import GdahError, UnknownChunk
from gdah_volume.ids import DEFAULT_VOLUME, ServerId
from gdah_volume.operations import Operation
from gdah_volume.stamps import PENDING_SERVER, Stamp, wall_clock_us
from gdah_volume.wire import Entry
from storage_server.collector import Collector
from storage_server.membership import Membership
from storage_server.readers import Readers
from storage_server.volume_store import VolumeStore
from storage_server.volumes import Volume, VolumeParts
from tests.server.lane_client import Identity

DAY_S = 86_400.0
NOW_NS = time.time_ns()
LARGE = 70_000


class NoPeers:
    async def fetch(self, *_: object) -> bytes:
        raise UnknownChunk("nobody is there")


class Room:
    """A volume that can be looked into while its loop runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lock = threading.RLock()
        self.database = Database(folder / "volume.db")
        self.reader = self.database.reader()
        self.chunks = ChunkStore(folder / "chunks", self.database, lock=lock, reader=self.reader)
        store = VolumeStore(self.database, self.chunks, monotonic=time.monotonic)
        parts = VolumeParts(DEFAULT_VOLUME, store, self.chunks, Readers(self.database, self.chunks), lock)
        membership = Membership(store.server, "", ())
        self.fatal: list[GdahError] = []
        self.volume = Volume(parts, membership, cast("Any", NoPeers()), self.fatal.append)
        self.me = Identity()
        self.wall_ns = NOW_NS
        self.boot_s = 1000.0
        self.damage: str | None = None
        self.collector = self.make_collector()

    def make_collector(self, *, grace_s: float = DAY_S, keep_s: float = 7 * DAY_S) -> Collector:
        return Collector(
            self.volume,
            every_s=0,
            grace_s=grace_s,
            keep_s=keep_s,
            sound=lambda: self.damage,
            wall_ns=lambda: self.wall_ns,
            since_boot_s=lambda: self.boot_s,
        )

    def passes(self, seconds: float) -> None:
        self.wall_ns += int(seconds * 1e9)
        self.boot_s += seconds

    async def do(self, *ops: Operation) -> None:
        for op in ops:
            entry = Entry(0, Stamp(wall_clock_us() - 1000, ServerId("s-of-another")), op)
            await self.volume.hand_over([entry], by_mount=False)

    async def age(self) -> None:
        """All files are old."""
        for path in (self.folder / "chunks").glob("??/*"):
            os.utime(path, ns=(NOW_NS - int(9 * DAY_S * 1e9),) * 2)

    async def taken_soon(self) -> dict[str, Any]:
        """Two runs with the grace time between them."""
        await self.age()
        first = await self.collector.collect()
        assert first["aborted"] is None, first
        self.passes(DAY_S + 1)
        return await self.collector.collect()

    async def prune(self) -> None:
        """All that is in the log leaves it."""
        await self.volume.do(lambda store: store.stabilise(Stamp(store.replica.max_clock, PENDING_SERVER)))
        await self.volume.do(lambda store: store.prune(before_time_ns=2**62, up_to_position=store.replica.head))

    def put(self, size: int) -> tuple[ChunkHash, bytes]:
        data = os.urandom(size)
        return self.chunks.put(data), data

    def create(self, name: bytes, *datas: bytes) -> Operation:
        op, _ = self.me.create(name, b"".join(datas))
        for data in datas:
            self.chunks.put(data)
        return op

    def close(self) -> None:
        self.reader.close()
        self.database.close()


def run(room: Room, story: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        room.volume.start()
        try:
            await story()
        finally:
            await room.volume.stop()

    asyncio.run(whole())
    assert room.fatal == []
