"""The data lane to other servers: chunks from and to them, snapshots of them. Decides nothing; speaks HTTP.

Threading: the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import msgspec

from gdah_volume.content import CHUNK_SIZE, ChunkHash, hash_of
from gdah_volume.errors import BadMessage, UnknownChunk, Unreachable
from gdah_volume.ids import Epoch, VolumeName
from gdah_volume.wire import PROTOCOL

log = logging.getLogger("storage_server")

CONNECT_S = 0.5
READ_S = 5.0
FRAME_MAX_BYTES = 64 << 20
"""Of a snapshot: a single row can be the content of a 64 GiB file."""


class SnapshotHeader(msgspec.Struct, frozen=True):
    """The first frame of a snapshot."""

    server: str
    epoch: str
    head: int
    stable: tuple[int, str]
    protocol: int


class PeerTransfer:
    def __init__(self, token: str | None, tls: ssl.SSLContext | bool, spool: Path) -> None:  # noqa: FBT001
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(
            headers=headers,
            verify=tls,
            trust_env=False,
            timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=16),
        )
        self._spool = spool

    async def close(self) -> None:
        await self._http.aclose()

    async def fetch(self, volume: VolumeName, name: ChunkHash, urls: Sequence[str]) -> bytes:
        """One chunk, verified. Raises UnknownChunk if every server says it has none, else Unreachable."""
        absent = 0
        error = "no other server is known"
        for url in urls:
            try:
                answer = await self._http.get(f"{url}/v1/volumes/{volume}/chunks/{name.hex()}?local=1")
            except httpx.HTTPError as failure:
                error = f"{url}: {failure or type(failure).__name__}"
                continue
            if answer.status_code == 200 and len(answer.content) <= CHUNK_SIZE and hash_of(answer.content) == name:
                return answer.content
            if answer.status_code == 404:
                absent += 1
            error = f"{url} answered {answer.status_code}"
        if urls and absent == len(urls):
            raise UnknownChunk(f"chunk {name.hex()} is on no server")
        raise Unreachable(f"chunk {name.hex()[:16]} cannot be fetched: {error}")

    async def forward(
        self, volume: VolumeName, name: ChunkHash, data: bytes, urls: Sequence[str], *, sync: bool
    ) -> int:
        """Store a chunk at other servers too; how many took it."""
        if not urls:
            return 0
        taken = await asyncio.gather(*(self._put(volume, name, data, url, sync=sync) for url in urls))
        return sum(taken)

    async def _put(self, volume: VolumeName, name: ChunkHash, data: bytes, url: str, *, sync: bool) -> bool:
        address = f"{url}/v1/volumes/{volume}/chunks/{name.hex()}?forward=0&sync={int(sync)}"
        try:
            answer = await self._http.put(address, content=data)
        except httpx.HTTPError as error:
            log.debug("could not forward a chunk to %s: %r", url, error)
            return False
        return answer.status_code in (200, 201)

    async def snapshot(self, volume: VolumeName, url: str) -> SpooledSnapshot:
        """Fetch it whole before anything is replaced here. Raises Unreachable."""
        file = tempfile.TemporaryFile(dir=self._spool)  # noqa: SIM115 - closed below, or by the snapshot
        try:
            async with self._stream(f"{url}/v1/volumes/{volume}/snapshot") as answer:
                if answer.status_code != 200:
                    raise Unreachable(f"{url} gave no snapshot: HTTP status {answer.status_code}")
                async for piece in answer.aiter_bytes():
                    await asyncio.to_thread(file.write, piece)
            return SpooledSnapshot(file)
        except BaseException:
            file.close()
            raise

    @asynccontextmanager
    async def _stream(self, url: str) -> AsyncIterator[httpx.Response]:
        try:
            async with self._http.stream("GET", url) as answer:
                yield answer
        except httpx.HTTPError as error:
            raise Unreachable(f"{url}: {error or type(error).__name__}") from error


class SpooledSnapshot:
    """A snapshot in a file of ours. Raises BadMessage if it is none, or not whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        file.seek(0)
        frames = self._frames()
        first = next(frames, None)
        try:
            header = msgspec.msgpack.decode(first or b"", type=SnapshotHeader)
        except msgspec.DecodeError as error:
            raise BadMessage(f"not a snapshot: {error}") from error
        if header.protocol > PROTOCOL:
            raise BadMessage(f"a snapshot of protocol {header.protocol}: update this server")
        self.epoch = Epoch(header.epoch)
        self.head = header.head
        self._start = file.tell()
        last = None
        for frame in frames:
            last = frame
        if last != b"":
            raise BadMessage("the snapshot is not whole")

    def _frames(self) -> Iterator[bytes]:
        while True:
            prefix = self._file.read(4)
            if len(prefix) < 4:
                return
            size = int.from_bytes(prefix, "big")
            if size > FRAME_MAX_BYTES:
                raise BadMessage("a snapshot with a frame too long")
            frame = self._file.read(size)
            if len(frame) < size:
                return
            yield frame

    def rows(self) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        self._file.seek(self._start)
        for frame in self._frames():
            if frame:
                table, rows = msgspec.msgpack.decode(frame, type=tuple[str, list[tuple[Any, ...]]])
                yield table, rows

    def close(self) -> None:
        self._file.close()


def frame_of(value: Any) -> bytes:
    """One length-prefixed frame of a snapshot; the last one is empty."""
    body = b"" if value is None else msgspec.msgpack.encode(value)
    return len(body).to_bytes(4, "big") + body
