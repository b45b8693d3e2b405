"""The JSON interface of the page and of `gdah`: files, changes, conflicts, live events, flush, unmount.

Translates HTTP into calls of `MountView` and decides nothing. Plain `def` routes may block: they run in worker threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response, StreamingResponse

from gdah_volume.errors import IsADirectory, NotSupported, Unavailable
from mountfs.ports import FileItem, MountView
from mountfs.web.status_events import EventHub
from mountfs.web.status_upload import store_parts, store_raw
from mountfs.web.status_words import (
    Json,
    content_disposition,
    exactly,
    file_out,
    folder_of,
    new_path_of,
    path_of,
    pending_out,
)

log = logging.getLogger("mountfs.web.status")

ITEMS_MAX = 100_000
"""Rows in one answer; `total` says how many there are."""
FLUSH_MAX_S = 60.0
UNMOUNT_FLUSH_S = 10.0

Path = Annotated[str, Depends(path_of)]
Folder = Annotated[str, Depends(folder_of)]
NewPath = Annotated[str, Depends(new_path_of)]
Limit = Annotated[int, Query(ge=1, le=ITEMS_MAX)]
Switch = Annotated[bool, Query()]
Timeout = Annotated[float, Query(ge=0, le=FLUSH_MAX_S)]
Decision = Annotated[Literal["confirm", "discard"], Query()]


def routes(view: MountView, hub: EventHub, unmount: Callable[[], None] | None) -> APIRouter:
    router = APIRouter(prefix="/api")
    _files(router, view)
    _lists(router, view)
    _doing(router, view, unmount)

    @router.get("/events", summary="Live: change, peer_status, pending, conflict, status (Server-Sent Events)")
    async def events() -> Response:
        stream = await hub.listen()
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    return router


def _files(router: APIRouter, view: MountView) -> None:
    @router.get("/files", summary="A folder's entries, or with recursive=true everything under it")
    def files(*, path: Folder, recursive: Switch = False, limit: Limit = ITEMS_MAX) -> Response:
        items = view.files(path, recursive=recursive)
        rows = [file_out(item) for item in items[:limit]]
        return Json({"path": path, "total": len(items), "items": rows})

    @router.get("/file", summary="Download a file")
    def download(path: Path) -> Response:
        item, pieces = view.read_file(path)
        return _download(item, pieces)

    @router.put("/file", summary="Upload: the body is the file", status_code=201)
    @router.post("/file", summary="Upload: the body is the file", status_code=201)
    async def upload(path: Path, request: Request) -> Response:
        return Json(file_out(await store_raw(view, path, request)), 201)

    @router.post("/upload", summary="Upload: a form (multipart/form-data) with files for the folder", status_code=201)
    async def upload_form(path: Folder, request: Request) -> Response:
        stored = await store_parts(view, path, request)
        return Json({"items": [file_out(item) for item in stored]}, 201)

    @router.delete("/file", summary="Delete a file, or a folder with everything in it")
    def delete(path: Path) -> Response:
        view.remove(path)
        return Json({"status": "ok"})

    @router.post("/mkdir", summary="Make a folder", status_code=201)
    def mkdir(path: Path) -> Response:
        view.make_dir(path)
        return Json({"status": "ok"}, 201)

    @router.post("/move", summary="Move or rename from path to to")
    def move(path: Path, to: NewPath) -> Response:
        view.move(path, to)
        return Json({"status": "ok"})


def _download(item: FileItem, pieces: Iterator[bytes]) -> Response:
    if item.is_dir:
        raise IsADirectory(f"{item.path!r} is a folder; its files are downloaded one by one")
    # The first piece is read before the answer begins: content that no copy has is an error, not a cut download.
    whole = chain(list(islice(pieces, 1)), pieces)
    headers = {
        "content-length": str(item.size),
        "content-disposition": content_disposition(item.path),
        "content-security-policy": "default-src 'none'; sandbox",
    }
    return StreamingResponse(exactly(whole, item.size), media_type="application/octet-stream", headers=headers)


def _lists(router: APIRouter, view: MountView) -> None:
    @router.get("/pending", summary="Changes that not every server has yet, the oldest first")
    def pending(limit: Limit = 1000) -> Response:
        items = view.pending()
        return Json(
            {"total": max(len(items), pending_count(view)), "items": [pending_out(item) for item in items[:limit]]}
        )

    @router.get("/conflicts", summary="Files that two sides changed at once: the second version beside the first")
    def conflicts(limit: Limit = 1000) -> Response:
        items = view.conflicts()
        return Json({"total": len(items), "items": [file_out(item) for item in items[:limit]]})


def pending_count(view: MountView) -> int:
    """Operations that no server has; a view may list fewer than there are."""
    return int(view.status().get("pending", {}).get("operations") or 0)


def held_count(view: MountView) -> int:
    """Operations that wait for a person's decision."""
    return int(view.status().get("held", {}).get("operations") or 0)


def _doing(router: APIRouter, view: MountView, unmount: Callable[[], None] | None) -> None:
    @router.post("/flush", summary="Wait until nothing is only on this device")
    def flush(timeout_s: Timeout = 30.0) -> Response:
        try:
            message = view.push(timeout_s)
        except Unavailable as error:
            return Json({"status": "error", "message": str(error), "pending": pending_count(view)}, 502)
        return Json({"status": "ok", "message": message, "pending": 0, "held": held_count(view)})

    @router.post("/brake", summary="Of deletions that the brake holds: confirm them, or discard them (files come back)")
    def brake(do: Decision) -> Response:
        count = view.confirm_held() if do == "confirm" else view.discard_held()
        return Json({"status": "ok", "operations": count})

    @router.post("/unmount", summary="Flush, say what is still only here, and end the mount")
    def end(timeout_s: Timeout = UNMOUNT_FLUSH_S) -> Response:
        if unmount is None:
            raise NotSupported("this mount cannot be ended from here: end its process")
        try:
            message = view.push(timeout_s)
        except Unavailable as error:
            message = str(error)
        left, held = pending_count(view), held_count(view)
        log.info("unmount was asked for over HTTP, %d operations are only here, %d are held", left, held)
        unmount()
        return Json({"status": "ok", "message": message, "pending": left, "held": held})
