"""The sync side as people and monitors see it: what is only here, how it is with the servers, how many copies
there are.

Reads figures, changes nothing. Threading: any thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from gdah_volume.errors import GdahError
from gdah_volume.ids import NodeId
from gdah_volume.operations import Create, Exchange, Link, Operation, Rename, Rmdir, SetAttr, Unlink, Write
from mountfs.ports import PendingItem, ServerHealth
from mountfs.sync.changelog import ChangeLog
from mountfs.sync.dirty import DirtyChunks
from mountfs.sync.mirror import Mirror
from mountfs.sync.outbox import Outbox
from mountfs.sync.pending import Record
from mountfs.sync.upstream import Upstream

PENDING_SHOWN_MAX = 1000

_TYPES: dict[type[Operation], Literal["created", "modified", "deleted", "moved"]] = {
    Create: "created",
    Link: "created",
    Write: "modified",
    SetAttr: "modified",
    Unlink: "deleted",
    Rmdir: "deleted",
    Rename: "moved",
    Exchange: "moved",
}


def pending_items(mirror: Mirror, outbox: Outbox, at_most: int = PENDING_SHOWN_MAX) -> list[PendingItem]:
    """What no server has acknowledged, oldest first; paths as they are here now."""
    items: list[PendingItem] = []
    for record in outbox.unacked()[:at_most]:
        op = record.op
        if op is not None:
            with mirror.lock:
                items.append(_item(mirror, record, op))
    return items


def _item(mirror: Mirror, record: Record, op: Operation) -> PendingItem:
    path, dest = record.path, None
    if path is None:
        path = _path(mirror, record.node) or getattr(op, "name", b"") or record.node.encode()
    elif isinstance(op, Rename):
        above = _path(mirror, op.parent)
        dest = b"/".join(part for part in (above, op.name) if part)
    elif isinstance(op, Exchange):
        dest = _path(mirror, op.node)
    return PendingItem(
        id=record.id,
        time_ns=record.time_ns,
        type=_TYPES[type(op)],
        path=_text(path),
        is_dir=_is_dir(mirror, record.node),
        bytes=record.content_bytes,
        tries=record.tries,
        last_error=record.last_error,
        dest=None if dest is None else _text(dest),
    )


def _path(mirror: Mirror, node: NodeId) -> bytes | None:
    try:
        return mirror.tree.path(node)
    except GdahError:
        return None


def _is_dir(mirror: Mirror, node: NodeId) -> bool:
    try:
        return mirror.tree.kind(node) == "dir"
    except GdahError:
        return False


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def status_of(
    upstream: Upstream, changelog: ChangeLog, dirty: DirtyChunks, healths: Sequence[tuple[str, ServerHealth]]
) -> dict[str, Any]:
    """`connected`, `server`, `why`, `since`, `servers`, `pending`, `copies`, `recovered_operations`."""
    outbox = changelog.outbox
    url = upstream.url
    since = upstream.disconnected_since
    least = outbox.least_copies()
    of = upstream.of
    held = of if least is None else min(least, of)
    if upstream.is_one_being_filled:
        held = min(held, max(1, of - 1))
    return {
        "connected": url is not None,
        "server": url,
        "why": upstream.choice.why,
        "disconnected_since": None if since is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since)),
        "disconnected_s": None if since is None else round(time.time() - since, 1),
        "servers": [_server(one, health, upstream) for one, health in healths],
        "pending": _pending(changelog, dirty),
        "held": changelog.holding.figures(),
        "copies": f"{held}/{of}",
        "recovered_operations": changelog.recovered_operations,
    }


def _server(url: str, health: ServerHealth, upstream: Upstream) -> dict[str, Any]:
    usable = upstream.usable(url)
    return {
        "url": url,
        "healthy": usable and not health.trouble,
        "connected": usable,
        "latency_ms": round(health.latency_ms, 2),
        "error_rate": round(health.error_rate, 3),
        "errors": health.errors,
        "last_error": health.trouble or health.last_error,
        "lag_operations": health.lag_operations,
        "free_bytes": health.free_bytes,
        "operations": health.operations,
        "digest": health.digest,
    }


def _pending(changelog: ChangeLog, dirty: DirtyChunks) -> dict[str, Any]:
    outbox = changelog.outbox
    oldest = outbox.oldest()
    next_try_at = outbox.next_try_at
    return {
        "operations": changelog.pending_operations,
        "bytes": changelog.pending_bytes,
        "oldest_age_s": round(changelog.oldest_age_s, 1),
        "tries": 0 if oldest is None else oldest.tries,
        "last_error": None if oldest is None else oldest.last_error,
        "next_try_s": round(max(0.0, next_try_at - time.monotonic()), 1) if next_try_at else None,
        "not_everywhere_operations": len(outbox),
        "not_everywhere_bytes": dirty.total_bytes,
    }
