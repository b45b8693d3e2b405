"""The chunks of a volume on this server and, where they are missing or damaged, on the others.

Disk in threads, other servers through `ChunkSource`. A disk that fails ends the server; a full one is told.
Threading: the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import CHUNK_SIZE, INLINE_MAX_BYTES, Chunk, ChunkHash, Content, hash_of
from gdah_volume.disk_errors import database_errors
from gdah_volume.errors import (
    ContentUnavailable,
    FileTooBig,
    GdahError,
    HashMismatch,
    NoSpace,
    StorageFailed,
    UnknownChunk,
)
from gdah_volume.ids import VolumeName
from gdah_volume.wire import Blob
from storage_server.ports import ChunkSource
from storage_server.wanted import WantedChunks

log = logging.getLogger("storage_server")

FORWARD_LOOK_S = 0.05
"""How often a forward looks whether its peer is still counted on."""
UPLOAD_MAX_BYTES = 64 << 30


class Surroundings(Protocol):
    """What the chunks ask of their volume."""

    def peer_urls(self) -> list[str]:
        """Where other copies may be; those that can be reached first."""
        ...

    def connected_urls(self) -> list[str]:
        """Peers that would take something now."""
        ...

    def check_room(self) -> None:
        """Raises NoSpace."""
        ...

    def disk_full(self, reason: str) -> None: ...
    def disk_failed(self, error: GdahError) -> None: ...
    def want(self, names: Sequence[ChunkHash]) -> None:
        """Write down that they are missing."""
        ...

    def got(self, names: list[ChunkHash]) -> None: ...


class VolumeChunks:
    def __init__(
        self,
        name: VolumeName,
        store: ChunkStore,
        source: ChunkSource,
        around: Surroundings,
        repaired: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self.disk = store
        self._source = source
        self._around = around
        self._repaired = repaired
        self.fetched = 0
        """Chunks that peers gave since the start, because they were missing or damaged here."""
        self.fetched_bytes = 0
        self.hurt: dict[ChunkHash, list[str]] = {}
        """Damaged or missing here, with no good copy found so far: the files that they belong to, once somebody has
        looked."""
        self.wanted = WantedChunks(self._fetch_wanted, self.store_here, around.got)

    # --- storing

    async def store_here(self, name: ChunkHash, data: bytes) -> None:
        """Raises HashMismatch, NoSpace, StorageFailed."""
        try:
            await asyncio.to_thread(self.disk.put_named, name, data)
        except StorageFailed as error:
            self._around.disk_failed(error)
            raise
        except NoSpace as error:
            self._around.disk_full(str(error))
            raise
        self.hurt.pop(name, None)
        self.wanted.arrived(name)

    async def store(self, name: ChunkHash, data: bytes, *, sync: bool = False, forward: bool = True) -> int:
        """Here and at the peers, at the same time: each checks the name itself. The number of copies.

        Raises as `store_here`."""
        here = asyncio.ensure_future(self._store_synced(name, data, sync=sync))
        try:
            there = await self._forward(name, data, sync=sync) if forward else 0
        finally:
            await asyncio.wait({here})
        here.result()
        return 1 + there

    async def _forward(self, name: ChunkHash, data: bytes, *, sync: bool) -> int:
        """To the peers that are counted on; one that is given up meanwhile is not waited for (it gets the chunk when
        it catches up). Waiting out a stopped peer's TCP made a close of a program take 0.9 s."""
        travelling = {
            asyncio.ensure_future(self._source.store(self._name, name, data, [url], sync=sync)): url
            for url in self._around.connected_urls()
        }
        there = 0
        try:
            while travelling:
                done, _ = await asyncio.wait(travelling, timeout=FORWARD_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del travelling[task]
                    there += task.result()
                counted_on = self._around.connected_urls()
                for task in [task for task, url in travelling.items() if url not in counted_on]:
                    task.cancel()
                    del travelling[task]
        finally:
            for task in travelling:
                task.cancel()
        return there

    async def _store_synced(self, name: ChunkHash, data: bytes, *, sync: bool) -> None:
        await self.store_here(name, data)
        if sync:
            await self.sync()

    async def sync(self) -> None:
        """What was stored so far is on the disk."""
        try:
            await asyncio.to_thread(self.disk.sync)
        except StorageFailed as error:
            self._around.disk_failed(error)
            raise

    async def upload(self, pieces: AsyncIterator[bytes], *, sync: bool = False) -> tuple[Content, list[Blob]]:
        """Cut a stream into chunks: larger ones are stored, here and at the peers, a small one comes back."""
        chunks: list[Chunk] = []
        blobs: list[Blob] = []
        size = 0
        buffer = bytearray()

        async def cut() -> None:
            data = bytes(buffer[:CHUNK_SIZE])
            del buffer[:CHUNK_SIZE]
            name = await asyncio.to_thread(hash_of, data)
            if len(data) <= INLINE_MAX_BYTES:
                blobs.append(Blob(name, data))
            else:
                await self.store(name, data, sync=sync)
            chunks.append(Chunk(len(chunks), name, len(data)))

        async for piece in pieces:
            size += len(piece)
            if size > UPLOAD_MAX_BYTES:
                raise FileTooBig(f"a file of more than {UPLOAD_MAX_BYTES >> 30} GiB")
            buffer += piece
            while len(buffer) >= CHUNK_SIZE:
                await cut()
        if buffer:
            await cut()
        return Content(size, tuple(chunks)), blobs

    # --- reading

    async def read(self, name: ChunkHash, *, here_only: bool = False) -> bytes:
        """The verified bytes; what is missing or damaged here is fetched from a peer, and kept.

        Raises UnknownChunk if nobody has it, ContentUnavailable if somebody who may have it cannot be asked.
        """
        damaged = False
        try:
            data = await asyncio.to_thread(self._get, name)
            if data is not None:
                return data
        except StorageFailed as error:  # it may be readable again in a moment
            log.warning("volume %s: %s", self._name, error)
            if here_only:
                raise ContentUnavailable(f"chunk {name.hex()} cannot be read here now: {error}") from error
        except HashMismatch as error:
            log.warning("volume %s: %s", self._name, error)
            damaged = True
            self.hurt.setdefault(name, [])
            self._around.want([name])
        if here_only:
            raise UnknownChunk(f"chunk {name.hex()} is not on this server")
        try:
            data = await self._fetch(name)
        except UnknownChunk:
            raise
        except GdahError as error:
            raise ContentUnavailable(f"chunk {name.hex()} is not here, and {error}") from error
        await self.store_here(name, data)
        if damaged:
            log.warning("volume %s: chunk %s is repaired from a peer", self._name, name.hex()[:16])
            self._repaired()
        return data

    def _get(self, name: ChunkHash) -> bytes | None:
        with database_errors(f"volume {self._name}"):
            return self.disk.get(name)

    def size(self, name: ChunkHash) -> int | None:
        """Bytes of a chunk on this disk, None if it is not. In a thread. Raises StorageFailed."""
        with database_errors(f"volume {self._name}"):
            return self.disk.size(name)

    async def mend(self, name: ChunkHash) -> bool:
        """Get a needed chunk, that is missing or set aside, from a peer now; False: no member has it.

        Raises NoSpace, StorageFailed, Unreachable."""
        try:
            data = await self._fetch_wanted(name)
        except UnknownChunk:
            return False
        await self.store_here(name, data)
        log.warning("volume %s: chunk %s is repaired from a peer", self._name, name.hex()[:16])
        self._repaired()
        return True

    async def _fetch(self, name: ChunkHash) -> bytes:
        urls = self._around.peer_urls()
        if not urls:
            raise UnknownChunk(f"chunk {name.hex()} is not here, and there is no other server")
        data = await self._source.fetch(self._name, name, urls)
        self.fetched += 1
        self.fetched_bytes += len(data)
        return data

    async def _fetch_wanted(self, name: ChunkHash) -> bytes:
        """Catching up does not use the room that is kept free for the log."""
        self._around.check_room()
        return await self._fetch(name)

    async def pieces(self, content: Content) -> AsyncIterator[bytes]:
        """A file's bytes in order, holes as zeros."""
        at = 0
        for chunk in content.chunks:
            async for zeros in _zeros(chunk.index * CHUNK_SIZE - at):
                yield zeros
            yield (await self.read(chunk.hash))[: chunk.length]
            at = chunk.index * CHUNK_SIZE + chunk.length
        async for zeros in _zeros(content.size - at):
            yield zeros

    async def close(self) -> None:
        await self.wanted.close()


async def _zeros(size: int) -> AsyncIterator[bytes]:
    while size > 0:
        yield bytes(min(size, CHUNK_SIZE))
        size -= CHUNK_SIZE
