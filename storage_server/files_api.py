"""The public REST API: what is in a volume, and files by path. Decides nothing; errors as in `api`.

Paths are bytes: percent signs in the address, lone surrogates in JSON, carry names that are no UTF-8.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qs, unquote_to_bytes

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from gdah_volume.content import Content
from gdah_volume.errors import BadMessage, FileTooBig, IsADirectory, NotADirectory
from gdah_volume.operations import ORIGIN_MAX_CHARS
from gdah_volume.tree import NodeView, Tree
from storage_server.answers import AnyTextJSON, stream_of
from storage_server.authoring import look
from storage_server.served import Served

TREE_MAX_ENTRIES = 100_000
_SLASHES_BEFORE = 5
OCTETS = "application/octet-stream"
Source = Annotated[str, Query(min_length=1, max_length=ORIGIN_MAX_CHARS)]


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _query_path(request: Request) -> bytes:
    query: str = request.scope["query_string"].decode("ascii", "replace")
    found = parse_qs(query, errors="surrogateescape").get("path", [""])[0]
    return found.encode("utf-8", "surrogateescape").strip(b"/")


def _file_path(request: Request) -> bytes:
    """The bytes after /files/, undisturbed by any decoding but the percent signs. Raises BadMessage where one
    hides a part of the address before them."""
    raw: bytes = request.scope["raw_path"]
    _, found, path = raw.partition(b"/files/")
    if not found or raw.count(b"/", 0, len(raw) - len(path)) != _SLASHES_BEFORE:
        raise BadMessage("write the address as /v1/volumes/VOLUME/files/PATH, percent signs in PATH only")
    return bytes(unquote_to_bytes(path)).strip(b"/")


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


def make_files_router(served: Served) -> APIRouter:
    """The public REST API: listings, and files by path."""
    router = APIRouter(tags=["files"])

    @router.get("/v1/volumes/{volume}/tree")
    async def tree(volume: str, request: Request, *, recursive: bool = False) -> Response:
        """What is in a folder (`path`, the volume itself without), or in all below it."""
        path = _query_path(request)
        entries = await served.editor(volume).read(lambda found: _listing(found, path, recursive=recursive))
        return AnyTextJSON({"path": _text(path), "entries": entries})

    address = "/v1/volumes/{volume}/files/{path:path}"

    @router.get(address)
    async def read_file(volume: str, request: Request) -> Response:
        """The content of a file."""
        there, raw = served.volume(volume), _file_path(request)
        node, content = await served.editor(volume).read(lambda tree: _file_at(tree, raw))
        headers = {"content-length": str(content.size), "x-gdah-version": node.version or ""}
        return StreamingResponse(there.content.pieces(content), media_type=OCTETS, headers=headers)

    @router.put(address)
    async def write_file(volume: str, request: Request, sync: Annotated[int, Query(ge=0, le=1)] = 0) -> Response:
        """Create or replace a file, with missing parent folders; `folder=1` in the query makes a folder instead."""
        there, raw = served.volume(volume), _file_path(request)
        if request.query_params.get("folder") == "1":
            await served.editor(volume).make_dirs(raw)
            return AnyTextJSON({"path": _text(raw)}, status_code=201)
        there.check_room()
        content, blobs = await there.content.upload(stream_of(request), sync=bool(sync))
        ack = await served.editor(volume).write_file(raw, content, blobs, sync=bool(sync))
        copies = {} if ack is None else {"copies": ack.copies, "of": ack.of, "id": ack.id}
        return AnyTextJSON({"path": _text(raw), "size": content.size, **copies}, status_code=201)

    @router.delete(address)
    async def delete_file(volume: str, request: Request, *, recursive: bool = False) -> Response:
        """Remove a file, or an empty folder; with `recursive` a folder and all that is in it (it goes to the trash)."""
        raw = _file_path(request)
        await served.editor(volume).remove(raw, recursive=recursive, source=_address(request))
        return AnyTextJSON({"path": _text(raw)})

    @router.get("/v1/volumes/{volume}/brake")
    async def held(volume: str) -> Response:
        """Whose deletions by path were refused as a burst, since somebody confirmed them last."""
        return AnyTextJSON(served.editor(volume).brakes.figures())

    @router.post("/v1/volumes/{volume}/brake")
    async def confirm(volume: str, source: Source) -> Response:
        """The deletions of this source (as the refusal named it) are meant: for a while as many as it likes."""
        return AnyTextJSON({"confirmed": source, "for_s": served.editor(volume).brakes.confirm(source)})

    return router


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _file_at(tree: Tree, path: bytes) -> tuple[NodeView, Content]:
    _, node = look(tree, path)
    if node.kind != "file":
        raise IsADirectory(f"{_text(path)!r} is no file but a {node.kind}")
    return node, node.content
