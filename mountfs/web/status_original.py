"""The web interface of the original system, with its names and its JSON, for programs written against it.

`GET /api/status`, `POST /api/pull`, `POST /api/push`, `GET /change_log.json`. Its paths begin with the folder's
name, its times are local ISO 8601 without a zone, its changes carry whole files in base64. There the log lived in
memory; here it is a view of the pending operations, and file content is streamed into it, so it is only in
`change_log.json` and not in `/api/status`.
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

from gdah_volume.errors import GdahError, Unavailable
from mountfs.ports import FileItem, MountView, PendingItem
from mountfs.web.status_words import Json

SAME_EVENT_S = 0.5
"""Equal events of a file within this time count once."""
_BASE64_BLOCK_BYTES = 3 << 16


@dataclass(frozen=True, slots=True)
class Change:
    """An entry of the original's change log. `path` is ours, without the folder's name."""

    item: PendingItem
    fields: dict[str, Any]


def local_time(time_ns: int) -> str:
    """As in `2025-05-31T10:10:27.793686`: local, always with microseconds, no zone."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds).replace(microsecond=rest_ns // 1000).isoformat(timespec="microseconds")


def changes_of(pending: list[PendingItem], folder: str, origin: str) -> list[Change]:
    """The pending operations as the original's changes; repeated events of a file within 0.5 s are one."""
    changes: list[Change] = []
    counted: dict[tuple[str, str, str | None], int] = {}
    for item in pending:
        key = (item.type, item.path, item.dest)
        before = counted.get(key)
        counted[key] = item.time_ns
        if before is not None and item.time_ns - before < SAME_EVENT_S * 1e9:
            continue
        fields: dict[str, Any] = {
            "timestamp": local_time(item.time_ns),
            "type": item.type,
            "src": f"{folder}/{item.path}",
            "is_directory": item.is_dir,
            "origin": origin,
        }
        if item.dest is not None:
            fields["dest"] = f"{folder}/{item.dest}"
        changes.append(Change(item, fields))
    return changes


def file_of(item: FileItem, folder: str) -> dict[str, Any]:
    out: dict[str, Any] = {"path": f"{folder}/{item.path}", "is_directory": item.is_dir, "status": item.state}
    if not item.is_dir:
        out["mtime"] = item.mtime_ns / 1e9
    return out


def _encoded(pieces: Iterator[bytes]) -> Iterator[str]:
    """Base64 of a stream, in blocks that need no padding but the last."""
    kept = bytearray()
    for piece in pieces:
        kept += piece
        if len(kept) >= _BASE64_BLOCK_BYTES:
            cut = len(kept) - len(kept) % 3
            yield base64.b64encode(kept[:cut]).decode()
            del kept[:cut]
    yield base64.b64encode(kept).decode()


def _change_text(view: MountView, change: Change) -> Iterator[str]:
    text = json.dumps(change.fields)
    if change.item.is_dir or change.item.type not in ("created", "modified"):
        yield text
        return
    try:
        _, pieces = view.read_file(change.item.path)
        first = next(pieces, b"")
    except GdahError:  # moved or removed since, or in no copy: the change is told without its content
        yield text
        return
    yield text[:-1] + ', "content": "'
    yield from _encoded(_with(first, pieces))
    yield '"}'


def _with(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _log_text(view: MountView, changes: list[Change]) -> Iterator[bytes]:
    yield b"["
    for number, change in enumerate(changes):
        if number:
            yield b", "
        for text in _change_text(view, change):
            yield text.encode()
    yield b"]"


def routes(view: MountView, folder: str) -> APIRouter:
    router = APIRouter()
    origin = f"user-{socket.gethostname()}"

    @router.get("/api/status", summary="The original system's state: pending, files, peer_connected")
    def status() -> Response:
        changes = changes_of(view.pending(), folder, origin)
        return Json(
            {
                "pending": [change.fields for change in changes],
                "files": [file_of(item, folder) for item in view.files("", recursive=True)],
                "peer_connected": bool(view.status().get("connected")),
            }
        )

    @router.get("/change_log.json", summary="The original system's change log: what is not yet pushed")
    def change_log() -> Response:
        changes = changes_of(view.pending(), folder, origin)
        return StreamingResponse(_log_text(view, changes), media_type="application/json")

    @router.post("/api/pull", summary="Get all that the servers have; 502 if none can be reached")
    def pull() -> Response:
        return _result(view.pull)

    @router.post("/api/push", summary="Hand over all that is only here; 502 if no server can be reached")
    def push() -> Response:
        return _result(view.push)

    return router


def _result(action: Callable[[], str]) -> Response:
    try:
        return Json({"status": "ok", "message": action()})
    except Unavailable as error:
        return Json({"status": "error", "message": str(error)}, 502)
