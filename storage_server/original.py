"""The interface of the system that gdah replaces: `/get_full_state`, `/get_changes`, `/push_change`, with its JSON.

Programs written against it work unchanged. Changes are found as its own watcher found them, by comparing the tree with
what was last told; they keep the origin that they came with, or they would echo for ever. What was told is kept in a
small database of its own (`original.db`), beside the volume's.

Threading: the event loop; the comparison runs in a thread, one at a time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlite_utils
from fastapi import APIRouter, Request, Response

from gdah_volume.content import Chunk, ChunkHash, Content
from gdah_volume.errors import BadMessage, GdahError, InvalidName, MessageTooBig, NotFound
from gdah_volume.ids import DEFAULT_VOLUME, NodeId, device_of
from gdah_volume.operations import ORIGIN_MAX_CHARS, Operation
from gdah_volume.replica import Replica
from storage_server.answers import AnyTextJSON, body_of
from storage_server.authoring import Editor, parts_of
from storage_server.metrics import COUNTS
from storage_server.original_diff import Difference, Item, differences
from storage_server.served import Served
from storage_server.volumes import Volume

PUSH_MAX_BYTES = 256 << 20
"""A whole file in base64 in one JSON body: that is how that interface is."""
CHANGES_KEPT = 100_000
LOG_BATCH = 1000
_TYPES = ("created", "modified", "deleted", "moved")


class OriginalView:
    """Invariant: `shadow` is the tree as it follows from all changes told so far."""

    def __init__(self, volume: Volume, editor: Editor, path: Path) -> None:
        self.volume = volume
        self.editor = editor
        self._path = path
        self._lock = asyncio.Lock()
        self._looked_at: tuple[int, str] | None = None

    def _open(self) -> sqlite_utils.Database:
        db = sqlite_utils.Database(str(self._path))
        db.execute("PRAGMA synchronous = NORMAL")
        if not db.table("shadow").exists():
            db.table("shadow").create({"path": str, "node": str, "is_dir": int, "version": str}, pk="path")
            db.table("changes").create(
                {
                    "number": int, "timestamp": str, "type": str, "src": str, "dest": str, "is_directory": int,
                    "origin": str, "content": str,
                },
                pk="number",
            )  # fmt: skip
            db.table("changes").create_index(["timestamp"])
            db.table("marks").create({"name": str, "value": str}, pk="name")
        return db

    async def refresh(self) -> None:
        """Find out what has changed since the last time."""
        async with self._lock:
            state = (self.volume.figures.head, self.volume.epoch)
            if state != self._looked_at:
                await asyncio.to_thread(self._refresh, self.volume.epoch)
                self._looked_at = state

    def _refresh(self, epoch: str) -> None:
        db = self._open()
        try:
            with self.volume.readers.replica() as replica, replica.database.snapshot():
                new, contents = _tree_of(replica)
                marks = {row["name"]: row["value"] for row in db.table("marks").rows}
                since = int(marks.get("position", 0)) if marks.get("epoch") == epoch else 0
                origins, position = _origins(replica, since, str(self.volume.server))
            old = {
                row["path"]: Item(row["node"], bool(row["is_dir"]), row["version"]) for row in db.table("shadow").rows
            }
            self._record(db, old, new, contents, origins)
            db.table("marks").upsert_all(
                [{"name": "position", "value": str(position)}, {"name": "epoch", "value": epoch}], pk="name"
            )
            db.conn.commit()
        finally:
            db.conn.close()

    def _record(
        self,
        db: sqlite_utils.Database,
        old: dict[str, Item],
        new: dict[str, Item],
        contents: dict[str, Content],
        origins: dict[str, str],
    ) -> None:
        (last,) = db.execute("SELECT coalesce(max(timestamp), '') FROM changes").fetchone()
        rows = []
        for found in differences(old, new):
            last = _later_than(last)
            rows.append(self._row(found, last, contents, origins))
        if not rows:
            return
        db.table("changes").insert_all(rows)
        db.execute("DELETE FROM changes WHERE number <= (SELECT max(number) FROM changes) - ?", [CHANGES_KEPT])
        for path in old.keys() - new.keys():
            db.table("shadow").delete(path)
        db.table("shadow").upsert_all(
            [
                {"path": path, "node": item.node, "is_dir": int(item.is_dir), "version": item.version}
                for path, item in new.items()
                if old.get(path) != item
            ],
            pk="path",
        )

    def _row(
        self, found: Difference, timestamp: str, contents: dict[str, Content], origins: dict[str, str]
    ) -> dict[str, Any]:
        carries = found.type in ("created", "modified") and not found.item.is_dir
        content = contents[found.path] if carries else None
        return {
            "timestamp": timestamp,
            "type": found.type,
            "src": f"{self.volume.name}/{found.path}",
            "dest": f"{self.volume.name}/{found.dest}" if found.dest else "",
            "is_directory": int(found.item.is_dir),
            "origin": origins.get(found.item.node, str(self.volume.server)),
            "content": "" if content is None else _content_out(content),
        }

    async def changes(self, since: str) -> list[dict[str, Any]]:
        await self.refresh()

        def read() -> list[dict[str, Any]]:
            db = self._open()
            try:
                return list(db.table("changes").rows_where("timestamp > ?", [since], order_by="number"))
            finally:
                db.conn.close()

        return await asyncio.to_thread(read)


def _tree_of(replica: Replica) -> tuple[dict[str, Item], dict[str, Content]]:
    """Files and folders by path; other kinds are unknown to the original system."""
    items: dict[str, Item] = {}
    contents: dict[str, Content] = {}
    for raw, node in replica.tree.walk():
        if raw and node.kind in ("file", "dir"):
            path = _text(raw)
            items[path] = Item(node.node, node.kind == "dir", str(node.version or ""))
            if node.kind == "file":
                contents[path] = node.content
    return items, contents


def _text(path: bytes) -> str:
    """Names that are no UTF-8 cannot be told in that interface's JSON; they are shown with their bytes escaped."""
    return path.decode("utf-8", "backslashreplace")


def _origins(replica: Replica, since: int, server: str) -> tuple[dict[str, str], int]:
    """Who changed each node last, by the log after a position."""
    origins: dict[str, str] = {}
    position = since
    while batch := replica.entries_after(position, LOG_BATCH):
        for position, _, op in batch:  # noqa: B007 - the last one is the mark
            device = device_of(op.id)
            origin = op.origin or (server if device == server else f"user-{device}")
            origins[replica.tree.resolve(_node_of(op))] = origin
    return origins, position


def _node_of(op: Operation) -> NodeId:
    return getattr(op, "node", None) or NodeId(op.id)


def _later_than(last: str) -> str:
    """Now, in the form of that interface (local time, no zone), but after the last one in any case."""
    now = datetime.now().isoformat(timespec="microseconds")
    if now > last:
        return now
    return (datetime.fromisoformat(last) + timedelta(microseconds=1)).isoformat(timespec="microseconds")


def _content_out(content: Content) -> str:
    return json.dumps([content.size, [[c.index, c.hash.hex(), c.length] for c in content.chunks]])


def _content_in(text: str) -> Content:
    size, chunks = json.loads(text)
    return Content(size, tuple(Chunk(index, ChunkHash(bytes.fromhex(name)), length) for index, name, length in chunks))


# --- routes


def make_original_router(served: Served, views: dict[str, OriginalView]) -> APIRouter:
    router = APIRouter(tags=["original system"])

    @router.get("/get_full_state")
    async def full_state(volume: str = DEFAULT_VOLUME) -> Response:
        """Every file and folder, parents first; files with their whole content in base64."""
        there = served.volume(volume)
        view = views[there.name]
        await view.refresh()
        items = await view.editor.read(_state_of)
        answer: list[dict[str, Any]] = []
        for path, mtime_ns, content in items:
            item: dict[str, Any] = {"path": f"{there.name}/{path}", "is_directory": content is None}
            if content is not None:
                item["content"] = await _whole(there, content)
                item["last_modified"] = mtime_ns / 1e9
            answer.append(item)
        return AnyTextJSON(answer)

    @router.get("/get_changes")
    async def get_changes(since: str = "", volume: str = DEFAULT_VOLUME) -> Response:
        """What has changed since; timestamps are compared as strings."""
        there = served.volume(volume)
        answer: list[dict[str, Any]] = []
        for row in await views[there.name].changes(since):
            change: dict[str, Any] = {
                "timestamp": row["timestamp"],
                "type": row["type"],
                "src": row["src"],
                "is_directory": bool(row["is_directory"]),
                "origin": row["origin"],
            }
            if row["dest"]:
                change["dest"] = row["dest"]
            if row["content"]:
                try:
                    change["content"] = await _whole(there, _content_in(row["content"]))
                except GdahError:
                    continue  # an old version that is nowhere any more: a later change tells what is there now
            answer.append(change)
        return AnyTextJSON(answer)

    @router.post("/push_change")
    async def push_change(request: Request) -> Response:
        """Apply one change of a client or server of the original system."""
        try:
            change = _change_of(await body_of(request, PUSH_MAX_BYTES))
            client = request.client.host if request.client else "unknown"
            await _apply(served, views, change, f"user-{client}")
        except GdahError as error:
            COUNTS.refused(error.code)
            return AnyTextJSON({"status": "error", "message": str(error)}, status_code=error.http_status)
        return AnyTextJSON({"status": "ok"})

    return router


def _state_of(tree: Any) -> list[tuple[str, int, Content | None]]:
    return [
        (_text(raw), node.mtime_ns, node.content if node.kind == "file" else None)
        for raw, node in tree.walk()
        if raw and node.kind in ("file", "dir")
    ]


async def _whole(volume: Volume, content: Content) -> str:
    if content.size > PUSH_MAX_BYTES:
        raise MessageTooBig(f"a file of {content.size} bytes is too large for this interface")
    data = b"".join([piece async for piece in volume.content.pieces(content)])
    return base64.b64encode(data).decode("ascii")


def _change_of(body: bytes) -> dict[str, Any]:
    if not body:
        raise BadMessage("a change as JSON is expected")
    try:
        change = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"not JSON: {error}") from error
    if not isinstance(change, dict):
        raise BadMessage("a change is a JSON object")
    if change.get("type") not in _TYPES:
        raise BadMessage(f"type must be one of {', '.join(_TYPES)}")
    if not isinstance(change.get("is_directory", False), bool):
        raise BadMessage("is_directory must be true or false")
    origin = change.get("origin")
    if origin is not None and (not isinstance(origin, str) or len(origin) > ORIGIN_MAX_CHARS or not _is_utf8(origin)):
        raise BadMessage(f"origin must be a text of at most {ORIGIN_MAX_CHARS} characters")
    return change


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _place(change: dict[str, Any], field: str) -> tuple[str, bytes]:
    """(volume, path in it). The first part of a path is the folder's, that is the volume's, name."""
    text = change.get(field)
    if not isinstance(text, str) or not text:
        raise BadMessage(f"{field} must be a path that begins with the folder's name")
    if not _is_utf8(text):
        raise InvalidName(f"{field} is no text")
    volume, _, path = text.rstrip("/").partition("/")
    raw = path.encode()
    parts_of(raw)
    return volume, raw


def _bytes_of(change: dict[str, Any]) -> bytes:
    content = change.get("content") or ""
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise BadMessage(f"content is not base64: {error}") from error


async def _apply(served: Served, views: dict[str, OriginalView], change: dict[str, Any], sender: str) -> None:
    name, path = _place(change, "src")
    volume = served.volume(name)
    editor, origin = views[volume.name].editor, change.get("origin") or sender
    is_dir = change.get("is_directory", False)
    if not path:
        if is_dir and change["type"] in ("created", "modified"):
            return  # the folder itself is there
        raise BadMessage("the folder itself cannot be changed")
    match change["type"]:
        case "created" if is_dir:
            await editor.make_dirs(path, origin)
        case "modified" if is_dir:
            pass  # means nothing
        case "created" | "modified":
            volume.check_room()
            data = _bytes_of(change)

            async def pieces() -> Any:
                yield data

            content, blobs = await volume.content.upload(pieces())
            await editor.write_file(path, content, blobs, origin=origin)
        case "deleted":
            try:
                await editor.remove(path, recursive=True, source=origin, origin=origin)
            except NotFound:
                pass  # gone already, as wished
        case "moved":
            to_volume, dest = _place(change, "dest")
            if to_volume != name:
                raise BadMessage("a move stays within one folder")
            await editor.move(path, dest, origin)
