"""The data lane to other servers: chunks from and to them, snapshots of them. Decides nothing; speaks HTTP.

Threading: the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from gdah_volume.content import CHUNK_SIZE, ChunkHash, hash_of
from gdah_volume.errors import UnknownChunk, Unreachable
from gdah_volume.ids import VolumeName
from storage_server.snapshots import SpooledSnapshot

log = logging.getLogger("storage_server")

CONNECT_S = 0.5
READ_S = 5.0
BROKEN = (httpx.HTTPError, OSError, AttributeError)
"""How a request fails for want of the other side. AttributeError: a connection that is reset at the moment it is made
leaves uvloop's transport without a socket, and anyio asks that for its peer (seen with httpcore 1.0, anyio 4)."""


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
            if self._http.is_closed:
                raise Unreachable("this server is about to stop")
            try:
                answer = await self._http.get(f"{url}/v1/volumes/{volume}/chunks/{name.hex()}?local=1")
            except BROKEN as failure:
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

    async def store(self, volume: VolumeName, name: ChunkHash, data: bytes, urls: Sequence[str], *, sync: bool) -> int:
        """Store a chunk at other servers too; how many took it."""
        taken = await asyncio.gather(*(self._put(volume, name, data, url, sync=sync) for url in urls))
        return sum(taken)

    async def _put(self, volume: VolumeName, name: ChunkHash, data: bytes, url: str, *, sync: bool) -> bool:
        address = f"{url}/v1/volumes/{volume}/chunks/{name.hex()}?forward=0&sync={int(sync)}"
        try:
            answer = await self._http.put(address, content=data)
        except BROKEN as error:
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
        except BROKEN as error:
            raise Unreachable(f"{url}: {error or type(error).__name__}") from error
