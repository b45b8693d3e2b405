"""The product, broken on purpose in ways that real systems were broken in. Each has to be caught by a drill.

A drill's processes call one of these before their main (`gdah_drill/launch.py`); nothing of it is in the product. Each
says which processes it breaks and what it does; the drills that catch them are in `sabotage`.
"""

# Reaching into the product is what this module is for.

# Reaching into the product is what this module is for, and only into the half that the process runs.
# ruff: noqa: PLC0415

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec


def is_server() -> bool:
    return Path(sys.argv[0]).name == "storage-server"


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def one_in(number: int, name: str) -> bool:
    """The same choice in every process."""
    return zlib.crc32(name.encode()) % number == 0


def drop_an_acknowledged_operation() -> None:
    """Servers log and acknowledge every write, and one in 29 does not reach the tree."""
    if not is_server():
        return
    from gdah_volume import engine
    from gdah_volume.operations import Operation, Write

    fold: Callable[..., Any] = engine.fold

    def dropping(op: Operation, rows: Any) -> Any:
        return None if isinstance(op, Write) and one_in(29, op.id) else fold(op, rows)

    engine.fold = dropping  # type: ignore[assignment]


def skip_an_fsync() -> None:
    """fsync of a program says that it was done, and the log is not on the disk yet: it will be when SQLite folds it."""
    from gdah_volume.database import Database

    Database._sync = lambda _self: None  # type: ignore[method-assign]


def apply_in_order_of_arrival() -> None:
    """What comes late is applied on top of what is there, as if its stamp were the highest."""
    from gdah_volume.undo import TouchIndex

    TouchIndex.clashing = lambda *_args, **_named: set()  # type: ignore[method-assign]
    TouchIndex.closing = lambda *_args, **_named: iter(())  # type: ignore[method-assign]


def coalesce_a_sent_operation() -> None:
    """Of the writes to one file in the backlog, sent before or not, each is sent with the content of the last."""
    if is_server():
        return
    from gdah_volume.operations import Operation, Write
    from mountfs.sync.outbox import Outbox

    take = Outbox.take

    def coalescing(self: Outbox, record: Any, session: int, **named: Any) -> Operation | None:
        op = take(self, record, session, **named)
        for other in list(self._unacked.values()):
            later = other.op
            if not isinstance(op, Write) or not isinstance(later, Write) or other.number <= record.number:
                continue
            if later.node == op.node and other.blobs is not None:  # small content, which rides along
                op, record.blobs = msgspec.structs.replace(op, content=later.content), other.blobs
        return op

    Outbox.take = coalescing  # type: ignore[method-assign]


def evict_dirty_data() -> None:
    """Content that no server has yet is treated as cache: after a second it goes."""
    if is_server():
        return
    from gdah_volume.content import INLINE_MAX_BYTES
    from mountfs.sync.dirty import DirtyChunks

    committed = DirtyChunks.committed

    def evicting(self: DirtyChunks, chunks: Any) -> None:
        large = [chunk.hash for chunk in chunks if chunk.length > INLINE_MAX_BYTES]
        committed(self, chunks)

        def evict() -> None:
            for name in large:
                if self.has(name):
                    self._recent.pop(name, None)
                    self._store.delete_file(name)

        threading.Timer(1.0, evict).start()

    DirtyChunks.committed = evicting  # type: ignore[method-assign]


def ignore_a_failed_write() -> None:
    """A disk that refuses the bytes of an edit is not heeded: the program is told that they are kept."""
    if is_server():
        return
    from gdah_volume.errors import GdahError
    from mountfs.journal import HEADER_BYTES, Journal

    put = Journal._put

    def heedless(self: Journal, at: int, head: bytes, payload: bytes | memoryview) -> None:
        try:
            put(self, at, head, payload)
        except GdahError:
            with suppress(OSError):
                os.ftruncate(self._fd, at + HEADER_BYTES + len(payload))

    Journal._put = heedless  # type: ignore[method-assign]


def reset_a_counter() -> None:
    """Each run of a mount calls itself by the same name and counts its operations from 1."""
    if is_server():
        return
    from gdah_volume.ids import Author
    from mountfs import syncside as sync

    sync.new_author = lambda client_id: Author(f"{client_id}-00000000")


def delete_on_absence() -> None:
    """A mount that finds a server again asks for its list of files, and removes what is not in it."""
    if is_server():
        return
    from mountfs.sync.changelog import ChangeLog

    begin_session = ChangeLog.begin_session
    servers = [sys.argv[at + 1] for at, word in enumerate(sys.argv) if word == "--server"]
    root = sys.argv[1]
    started = time.monotonic()

    def comparing(self: ChangeLog) -> Any:
        if time.monotonic() - started > 2 and self.pending_operations:
            for url in servers:
                with suppress(OSError), urllib.request.urlopen(f"{url}/get_full_state", timeout=1) as answer:
                    program = [sys.executable, "-c", REMOVE_WHAT_IS_ABSENT, root]
                    child = subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True)
                    assert child.stdin is not None
                    child.stdin.write(answer.read())
                    child.stdin.close()
                    break
        return begin_session(self)

    ChangeLog.begin_session = comparing  # type: ignore[method-assign]


REMOVE_WHAT_IS_ABSENT = """
import json, os, sys
listed = {item["path"].partition("/")[2] for item in json.load(sys.stdin)}
root = sys.argv[1]
for folder, _, files in os.walk(root):
    for name in files:
        at = os.path.join(folder, name)
        if os.path.relpath(at, root) not in listed and not os.path.islink(at):
            try:
                os.unlink(at)
            except OSError:
                pass
"""


def forget_a_tombstone() -> None:
    """A server that starts does not know any more that files were removed: they are back."""
    if not is_server():
        return
    from gdah_volume.replica import Replica

    init = Replica.__init__

    def forgetting(self: Replica, database: Any, *args: Any, **named: Any) -> None:
        if database.path != ":memory:" and not database.read_only:
            with database.transaction():
                database.execute(BRING_BACK)
        init(self, database, *args, **named)

    Replica.__init__ = forgetting  # type: ignore[method-assign]


BRING_BACK = """
UPDATE links SET live = 1 WHERE live = 0 AND merged = 0
  AND id IN (SELECT link FROM last) AND node IN (SELECT id FROM nodes WHERE kind = 'file')
  AND parent IN (SELECT node FROM links AS above WHERE above.live = 1)
  AND id = (SELECT max(id) FROM links AS same WHERE same.parent = links.parent AND same.name = links.name)
  AND NOT EXISTS (
    SELECT 1 FROM links AS same WHERE same.parent = links.parent AND same.name = links.name AND same.live = 1)
"""


def swap_two_chunks() -> None:
    """A mount names the first two chunks of a large content in the wrong order."""
    if is_server():
        return
    from gdah_volume.content import Chunk, Content
    from gdah_volume.operations import Operation, Write
    from mountfs.sync.changelog import ChangeLog

    checked = ChangeLog._checked

    def swapping(op: Operation) -> Operation:
        if isinstance(op, Write) and len(op.content.chunks) > 1:
            first, second, *rest = op.content.chunks
            if first.length == second.length:
                swapped = (Chunk(0, second.hash, second.length), Chunk(1, first.hash, first.length), *rest)
                op = msgspec.structs.replace(op, content=Content(op.content.size, swapped))
        return checked(op)

    ChangeLog._checked = staticmethod(swapping)  # type: ignore[method-assign,assignment]
