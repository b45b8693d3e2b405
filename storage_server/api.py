"""The data lane over HTTP, and the state of the server: chunks, snapshots, status. Decides nothing.

Errors are JSON `{"error": code, "message": text}` with the status that the class of the error owns.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from gdah_volume.content import CHUNK_SIZE, HASH_BYTES, ChunkHash
from gdah_volume.errors import BadMessage
from storage_server import metrics
from storage_server.answers import AnyTextJSON, body_of
from storage_server.metrics import COUNTS
from storage_server.served import Served
from storage_server.snapshots import frames
from storage_server.status import not_ready, server_status, volume_status

TARGET_MAX_CHARS = 300
OCTETS = "application/octet-stream"


def chunk_name(text: str) -> ChunkHash:
    """The hash in a URL: exactly 64 lower-case hex digits, so that it can never mean anything else."""
    if len(text) != 2 * HASH_BYTES or any(digit not in "0123456789abcdef" for digit in text):
        raise BadMessage("not the name of a chunk: 64 lower-case hex digits of BLAKE3")
    return ChunkHash(bytes.fromhex(text))


def make_router(served: Served) -> APIRouter:
    router = APIRouter()
    _monitoring(router, served)
    _chunks(router, served)
    _volumes(router, served)
    return router


def _monitoring(router: APIRouter, served: Served) -> None:
    @router.get("/status", tags=["monitoring"])
    async def status() -> Response:
        """The state of this server, its volumes and its peers."""
        return AnyTextJSON(server_status(served.about, served.volumes))

    @router.get("/metrics", tags=["monitoring"])
    async def prometheus() -> Response:
        """The same in numbers, for Prometheus."""
        figures = [(name, volume_status(volume)) for name, volume in served.volumes.items()]
        return Response(metrics.exposition(figures), media_type=metrics.CONTENT_TYPE)

    @router.get("/healthz", tags=["monitoring"])
    async def healthy() -> Response:
        """The process answers. Needs no token."""
        return AnyTextJSON({"status": "ok"})

    @router.get("/readyz", tags=["monitoring"])
    async def ready() -> Response:
        """Operations would be taken now; 503 with the reasons if not."""
        reasons = not_ready(served.volumes)
        if reasons:
            return AnyTextJSON({"status": "not ready", "reasons": reasons}, status_code=503)
        return AnyTextJSON({"status": "ok"})


def _chunks(router: APIRouter, served: Served) -> None:
    address = "/v1/volumes/{volume}/chunks/{name}"

    @router.put(address, tags=["chunks"])
    async def put_chunk(
        volume: str, name: str, request: Request, forward: int = 1, sync: Annotated[int, Query(ge=0, le=1)] = 0
    ) -> Response:
        """Store the bytes that the name is the BLAKE3 hash of, here and at the peers; `copies` says how many did."""
        there, chunk = served.volume(volume), chunk_name(name)
        data = await body_of(request, CHUNK_SIZE)
        if not data:
            raise BadMessage("an empty chunk")
        there.check_room()
        COUNTS.chunk("in", len(data))
        copies = await there.content.store(chunk, data, sync=bool(sync), forward=bool(forward))
        return AnyTextJSON({"copies": copies, "of": there.replication.of}, status_code=201)

    @router.get(address, tags=["chunks"])
    async def get_chunk(volume: str, name: str, local: int = 0) -> Response:
        """The verified bytes; what is missing or damaged here comes from a peer, unless `local=1`."""
        data = await served.volume(volume).content.read(chunk_name(name), here_only=bool(local))
        COUNTS.chunk("out", len(data))
        return Response(data, media_type=OCTETS, headers={"cache-control": "immutable, max-age=31536000"})

    @router.head(address, tags=["chunks"])
    async def has_chunk(volume: str, name: str) -> Response:
        """Whether the chunk is on this server's disk."""
        size = await asyncio.to_thread(served.volume(volume).content.size, chunk_name(name))
        if size is None:
            return Response(status_code=404)
        return Response(headers={"content-length": str(size)}, media_type=OCTETS)


def _volumes(router: APIRouter, served: Served) -> None:
    @router.get("/v1/volumes", tags=["volumes"])
    async def volumes() -> Response:
        """The names of the volumes that are kept here."""
        return AnyTextJSON({"volumes": list(served.volumes)})

    @router.post("/v1/volumes/{volume}/retire", tags=["volumes"])
    async def retire(
        volume: str,
        url: Annotated[str, Query(max_length=TARGET_MAX_CHARS)] = "",
        server: Annotated[str, Query(max_length=TARGET_MAX_CHARS)] = "",
        force: Annotated[int, Query(ge=0, le=1)] = 0,
    ) -> Response:
        """Take another server out of the volume for good, by its URL or id: nobody waits for it any more, and what only
        it has is taken over when it comes back. `force=1`: also the only other one that has everything."""
        if bool(url) == bool(server):
            raise BadMessage("say which server: url=URL or server=ID")
        gone = await served.volume(volume).retiring.retire(url or server, force=bool(force))
        return AnyTextJSON({"retired": gone})

    @router.post("/v1/volumes/{volume}/scrub", tags=["volumes"])
    async def scrub(volume: str) -> Response:
        """Verify every chunk now, at full speed, and repair from peers; answers with the figures when that is done."""
        return AnyTextJSON(await served.care_of(volume).scrub.pass_now())

    @router.post("/v1/volumes/{volume}/collect", tags=["volumes"])
    async def collect(
        volume: str, dry: Annotated[int, Query(ge=0, le=1)] = 0, force: Annotated[int, Query(ge=0, le=1)] = 0
    ) -> Response:
        """Put content out of the way that nothing needs, and delete what lay there for days; answers with the figures.

        `dry=1` only says what would go; `force=1` also takes more than half of all bytes at once."""
        return AnyTextJSON(await served.care_of(volume).collector.collect(dry=bool(dry), force=bool(force)))

    @router.get("/v1/volumes/{volume}/snapshot", tags=["volumes"])
    async def snapshot(volume: str) -> Response:
        """The state of the volume as length-prefixed msgpack frames: a header, (table, rows) pairs, an empty one."""
        there = served.volume(volume)
        return StreamingResponse(frames(there.readers, there.server, there.epoch), media_type=OCTETS)
