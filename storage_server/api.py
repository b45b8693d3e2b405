"""The data lane and the public REST API over HTTP: chunks, snapshots, files by path, status. Decides nothing.

Errors are JSON `{"error": code, "message": text}` with the status that the class of the error owns.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any
from urllib.parse import parse_qs, unquote_to_bytes

from fastapi import APIRouter, FastAPI, Query, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from gdah_volume.content import CHUNK_SIZE, HASH_BYTES, INLINE_MAX_BYTES, Chunk, ChunkHash, Content, hash_of
from gdah_volume.errors import (
    BadMessage,
    ContentUnavailable,
    FileTooBig,
    GdahError,
    HashMismatch,
    IsADirectory,
    MessageTooBig,
    NotADirectory,
    UnknownChunk,
    UnknownVolume,
)
from gdah_volume.ids import check_volume
from gdah_volume.stamps import Stamp
from gdah_volume.tree import NodeView, Tree
from gdah_volume.wire import PROTOCOL, Blob
from storage_server import metrics
from storage_server.authoring import Editor, look
from storage_server.channel import serve_lane
from storage_server.metrics import COUNTS
from storage_server.status import not_ready, server_status, volume_status
from storage_server.transfer import PeerTransfer, frame_of
from storage_server.volumes import Volume

log = logging.getLogger("storage_server")

TREE_MAX_ENTRIES = 100_000
UPLOAD_MAX_BYTES = 64 << 30
OCTETS = "application/octet-stream"


class Served:
    """What the routes work on."""

    def __init__(
        self, volumes: dict[str, Volume], editors: dict[str, Editor], transfer: PeerTransfer, server: dict[str, Any]
    ) -> None:
        self.volumes = volumes
        self.editors = editors
        self.transfer = transfer
        self.server = server

    def volume(self, name: str) -> Volume:
        volume = self.volumes.get(check_volume(name))
        if volume is None:
            raise UnknownVolume(f"there is no volume {name!r} here")
        return volume

    def editor(self, name: str) -> Editor:
        return self.editors[self.volume(name).name]


class AnyTextJSON(Response):
    """JSON for names that are no UTF-8 too: lone surrogates travel as escapes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()


def error_answer(error: GdahError) -> Response:
    COUNTS.refused(error.code)
    return AnyTextJSON({"error": error.code, "message": str(error)}, status_code=error.http_status)


def install_errors(app: FastAPI) -> None:
    """Every failure becomes a JSON answer with a reason; none shows a traceback."""

    async def ours(_request: Request, error: Exception) -> Response:
        assert isinstance(error, GdahError)
        return error_answer(error)

    async def malformed(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0] if error.errors() else {}
        where = ".".join(str(part) for part in first.get("loc", ()))
        return error_answer(BadMessage(f"{where}: {first.get('msg', 'malformed request')}"))

    async def plain(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        COUNTS.refused(f"HTTP{error.status_code}")
        return AnyTextJSON(
            {"error": f"HTTP{error.status_code}", "message": str(error.detail)},
            status_code=error.status_code,
            headers=error.headers,
        )

    app.add_exception_handler(GdahError, ours)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, plain)


def chunk_name(text: str) -> ChunkHash:
    """The hash in a URL: exactly 64 lower-case hex digits, so that it can never mean anything else."""
    if len(text) != 2 * HASH_BYTES or any(digit not in "0123456789abcdef" for digit in text):
        raise BadMessage("not the name of a chunk: 64 lower-case hex digits of BLAKE3")
    return ChunkHash(bytes.fromhex(text))


async def body_of(request: Request, limit: int) -> bytes:
    """The whole body, if it is not longer than `limit`."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise MessageTooBig(f"a body of {declared} bytes; at most {limit} are taken")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise MessageTooBig(f"a body of more than {limit} bytes")
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def make_router(served: Served) -> APIRouter:
    router = APIRouter()
    _monitoring(router, served)
    _chunks(router, served)
    _volumes(router, served)
    _files(router, served)
    return router


def _monitoring(router: APIRouter, served: Served) -> None:
    @router.get("/status", tags=["monitoring"])
    async def status() -> Response:
        """The state of this server, its volumes and its peers."""
        return AnyTextJSON(server_status(served.server, served.volumes))

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
        if there.trouble:
            there.check_room()
        if await asyncio.to_thread(hash_of, data) != chunk:
            raise HashMismatch(f"the bytes do not match the name {name}")
        COUNTS.chunk("in", len(data))
        urls = there.connected_urls() if forward else []
        copies = 1 + sum(
            await asyncio.gather(
                _store(there, chunk, data, sync=bool(sync)),
                served.transfer.forward(there.name, chunk, data, urls, sync=bool(sync)),
            )
        )
        return AnyTextJSON({"copies": copies, "of": there.replication.of}, status_code=201)

    @router.get(address, tags=["chunks"])
    async def get_chunk(volume: str, name: str, local: int = 0) -> Response:
        """The verified bytes; what is missing or damaged here comes from a peer, unless `local=1`."""
        data = await _chunk(served, served.volume(volume), chunk_name(name), local=bool(local))
        COUNTS.chunk("out", len(data))
        return Response(data, media_type=OCTETS, headers={"cache-control": "immutable, max-age=31536000"})

    @router.head(address, tags=["chunks"])
    async def has_chunk(volume: str, name: str) -> Response:
        """Whether the chunk is on this server's disk."""
        size = await asyncio.to_thread(served.volume(volume).chunks.size, chunk_name(name))
        if size is None:
            return Response(status_code=404)
        return Response(headers={"content-length": str(size)}, media_type=OCTETS)


async def _store(volume: Volume, chunk: ChunkHash, data: bytes, *, sync: bool) -> int:
    await volume.store_chunk(chunk, data)
    if sync:
        await volume.sync_chunks()
    return 0


async def _chunk(served: Served, volume: Volume, name: ChunkHash, *, local: bool) -> bytes:
    damaged = False
    try:
        data = await volume.read_chunk(name)
        if data is not None:
            return data
    except HashMismatch as error:
        log.warning("volume %s: %s", volume.name, error)
        damaged = True
        volume.repair(name)
    if local:
        raise UnknownChunk(f"chunk {name.hex()} is not on this server")
    try:
        data = await served.transfer.fetch(volume.name, name, volume.peer_urls())
    except UnknownChunk:
        raise
    except GdahError as error:
        if volume.replication.peers or volume.replication.unmet:
            raise ContentUnavailable(f"chunk {name.hex()} is not here, and {error}") from error
        raise UnknownChunk(f"chunk {name.hex()} is not here") from error
    await volume.store_chunk(name, data)
    if damaged:
        log.warning("volume %s: chunk %s is repaired from a peer", volume.name, name.hex()[:16])
        COUNTS.repaired()
    return data


def _volumes(router: APIRouter, served: Served) -> None:
    @router.websocket("/v1/volumes/{volume}/lane")
    async def lane(websocket: WebSocket, volume: str) -> None:
        await serve_lane(websocket, served.volumes, volume)

    @router.get("/v1/volumes", tags=["volumes"])
    async def volumes() -> Response:
        """The names of the volumes that are kept here."""
        return AnyTextJSON({"volumes": list(served.volumes)})

    @router.get("/v1/volumes/{volume}/snapshot", tags=["volumes"])
    async def snapshot(volume: str) -> Response:
        """The state of the volume as length-prefixed msgpack frames: a header, (table, rows) pairs, an empty one."""
        return StreamingResponse(_frames(served.volume(volume)), media_type=OCTETS)

    @router.get("/v1/volumes/{volume}/tree", tags=["files"])
    async def tree(volume: str, request: Request, *, recursive: bool = False) -> Response:
        """What is in a folder (`path`, the volume itself without), or in all below it."""
        path = _query_path(request)
        entries = await served.editor(volume).read(lambda found: _listing(found, path, recursive=recursive))
        return AnyTextJSON({"path": _text(path), "entries": entries})


def _frames(volume: Volume) -> Iterator[bytes]:
    with volume.readers.fresh() as replica:
        stable: Stamp = replica.stable
        yield frame_of(
            {
                "server": volume.server,
                "epoch": volume.epoch,
                "head": replica.head,
                "stable": (stable.clock, stable.server),
                "protocol": PROTOCOL,
            }
        )
        for table, rows in replica.dump():
            yield frame_of((table, rows))
    yield frame_of(None)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _query_path(request: Request) -> bytes:
    query: str = request.scope["query_string"].decode("ascii", "replace")
    found = parse_qs(query, errors="surrogateescape").get("path", [""])[0]
    return found.encode("utf-8", "surrogateescape").strip(b"/")


def _file_path(request: Request) -> bytes:
    """The bytes after /files/, undisturbed by any decoding but the percent signs."""
    raw: bytes = request.scope["raw_path"]
    path = unquote_to_bytes(raw.split(b"/files/", 1)[1])
    return bytes(path).strip(b"/")


def _item(path: bytes, node: NodeView) -> dict[str, Any]:
    return {
        "path": _text(path),
        "name": _text(path.rpartition(b"/")[2]),
        "kind": node.kind,
        "size": node.size,
        "mode": f"{node.mode:04o}",
        "uid": node.uid,
        "gid": node.gid,
        "mtime_ns": node.mtime_ns,
        "version": node.version,
        **({"target": _text(node.target)} if node.kind == "symlink" else {}),
    }


def _listing(tree: Tree, path: bytes, *, recursive: bool) -> list[dict[str, Any]]:
    _, folder = look(tree, path)
    if folder.kind != "dir":
        raise NotADirectory(f"{_text(path)!r} is no folder")
    before = path + b"/" if path else b""
    found: list[dict[str, Any]] = []
    if recursive:
        for below, node in tree.walk(folder.node):  # paths are relative to the root
            if node.node != folder.node:
                found.append(_item(below, node))
            if len(found) > TREE_MAX_ENTRIES:
                raise FileTooBig(f"more than {TREE_MAX_ENTRIES} entries: list folders one by one")
        return found
    for name, child, _ in tree.entries(folder.node):
        found.append(_item(before + name, tree.node(child)))
        if len(found) > TREE_MAX_ENTRIES:
            raise FileTooBig(f"more than {TREE_MAX_ENTRIES} entries in one folder")
    return found


def _files(router: APIRouter, served: Served) -> None:
    address = "/v1/volumes/{volume}/files/{path:path}"

    @router.get(address, tags=["files"])
    async def read_file(volume: str, request: Request) -> Response:
        """The content of a file."""
        there, raw = served.volume(volume), _file_path(request)
        node, content = await served.editor(volume).read(lambda tree: _file_at(tree, raw))
        headers = {"content-length": str(content.size), "x-gdah-version": node.version or ""}
        return StreamingResponse(file_pieces(served, there, content), media_type=OCTETS, headers=headers)

    @router.put(address, tags=["files"])
    async def write_file(volume: str, request: Request, sync: Annotated[int, Query(ge=0, le=1)] = 0) -> Response:
        """Create or replace a file, with missing parent folders; `folder=1` in the query makes a folder instead."""
        there, raw = served.volume(volume), _file_path(request)
        if request.query_params.get("folder") == "1":
            await served.editor(volume).make_dirs(raw)
            return AnyTextJSON({"path": _text(raw)}, status_code=201)
        there.check_room()
        content, blobs = await upload(served, there, request.stream(), sync=bool(sync))
        ack = await served.editor(volume).write_file(raw, content, blobs, sync=bool(sync))
        copies = {} if ack is None else {"copies": ack.copies, "of": ack.of, "id": ack.id}
        return AnyTextJSON({"path": _text(raw), "size": content.size, **copies}, status_code=201)

    @router.delete(address, tags=["files"])
    async def delete_file(volume: str, request: Request, *, recursive: bool = False) -> Response:
        """Remove a file, or an empty folder; with `recursive` a folder and all that is in it (it goes to the trash)."""
        raw = _file_path(request)
        await served.editor(volume).remove(raw, recursive=recursive)
        return AnyTextJSON({"path": _text(raw)})


def _file_at(tree: Tree, path: bytes) -> tuple[NodeView, Content]:
    _, node = look(tree, path)
    if node.kind != "file":
        raise IsADirectory(f"{_text(path)!r} is no file but a {node.kind}")
    return node, node.content


async def file_pieces(served: Served, volume: Volume, content: Content) -> AsyncIterator[bytes]:
    """A file's bytes in order, holes as zeros."""
    at = 0
    for chunk in content.chunks:
        async for zeros in _zeros(chunk.index * CHUNK_SIZE - at):
            yield zeros
        yield (await _chunk(served, volume, chunk.hash, local=False))[: chunk.length]
        at = chunk.index * CHUNK_SIZE + chunk.length
    async for zeros in _zeros(content.size - at):
        yield zeros


async def _zeros(size: int) -> AsyncIterator[bytes]:
    while size > 0:
        yield bytes(min(size, CHUNK_SIZE))
        size -= CHUNK_SIZE


async def upload(
    served: Served, volume: Volume, pieces: AsyncIterator[bytes], *, sync: bool = False
) -> tuple[Content, list[Blob]]:
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
            urls = volume.connected_urls()
            await asyncio.gather(
                _store(volume, name, data, sync=sync),
                served.transfer.forward(volume.name, name, data, urls, sync=sync),
            )
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
