"""The mount as people and monitors see it: files by path, what waits, conflicts, status, events.

Paths are text, relative to the volume's root, with bytes that are no UTF-8 as lone surrogates. What is
changed here goes the way of programs' changes: one operation through the change log; the kernel is told,
because it did not ask for it.

An upload becomes visible whole, as one operation, or not at all.

Threading: any thread; one more while somebody listens (see `watching`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Self

from gdah_volume.content import CHUNK_SIZE, EMPTY, Chunk, ChunkHash, Content
from gdah_volume.errors import Exists, GdahError, IsADirectory, NotADirectory, NotFound, Unreachable
from gdah_volume.ids import ROOT, NodeId
from gdah_volume.names import is_conflict
from gdah_volume.operations import Operation
from gdah_volume.replica import Changes
from gdah_volume.tree import LinkView, NodeView, Tree
from mountfs.cache import Cache, ReadAhead
from mountfs.files import intents
from mountfs.files.filesystem import Filesystem
from mountfs.files.intents import Builder, NothingToDo
from mountfs.files.records import ChunkSink
from mountfs.ports import Caller, Event, FileItem, PendingItem
from mountfs.syncside import SyncSide
from mountfs.watching import Watcher

NEW_FILE_MODE = 0o644
NEW_FOLDER_MODE = 0o755
PIECE_BYTES = CHUNK_SIZE
LOOK_S = 0.5
NO_SERVER_S = 2.0
"""Who asks to push or pull is told so soon that there is no server; a turn to another one takes less."""


class MountedView:
    """Implements `ports.MountView`."""

    def __init__(self, sync: SyncSide, filesystem: Filesystem, cache: Cache, facts: Mapping[str, Any]) -> None:
        """`facts`: what the status says besides, as it is (mount, volume, device, version)."""
        self._sync = sync
        self._mirror = sync.mirror
        self._tree: Tree = sync.mirror.tree
        self._filesystem = filesystem
        self._cache = cache
        self._facts = {"role": "mount", **facts}
        self._caller = Caller(os.getuid(), os.getgid(), os.getpid())
        self._watcher = Watcher(sync)

    # --- looking

    def status(self) -> dict[str, Any]:
        figures = self._cache.figures()
        with self._mirror.lock:
            conflicts = len(self._tree.conflicts())
        return {
            **self._facts,
            **self._sync.status(),
            "conflicts": conflicts,
            "locks": self._filesystem.locks.locking.figures(),
            "unsaved_files": self._filesystem.unsaved_files(),
            "cache": {
                "bytes": figures.bytes,
                "limit_bytes": figures.max_bytes,
                "chunks": figures.chunks,
                "hits": figures.hits,
                "misses": figures.misses,
                "fetched_bytes": figures.fetched_bytes,
                "repaired": figures.repaired,
            },
        }

    def files(self, path: str = "", *, recursive: bool = False) -> list[FileItem]:
        start = self._node_at(_raw(path))
        found: list[FileItem] = []
        folders = [(_raw(path).strip(b"/"), start)]
        while folders:
            at, folder = folders.pop()
            below = self._listed(at, folder)
            found.extend(item for item, _ in below)
            if not recursive:
                break
            folders.extend((_raw(item.path), node) for item, node in reversed(below) if item.is_dir)
        return found

    def _listed(self, path: bytes, folder: NodeId) -> list[tuple[FileItem, NodeId]]:
        """One folder at a time under the lock, so that programs do not wait for a long listing."""
        with self._mirror.lock:
            if self._tree.kind(folder) != "dir":
                raise NotADirectory(f"{_text(path)!r} is not a folder")
            return [
                (self._item(path + b"/" + name if path else name, self._tree.node(node)), node)
                for name, node, _ in self._tree.entries(folder)
            ]

    def _item(self, path: bytes, view: NodeView) -> FileItem:
        state: Any = "synced"
        if is_conflict(path.rpartition(b"/")[2]):
            state = "conflict"
        elif self._sync.changelog.is_pending(view.node):
            state = "pending"
        return FileItem(_text(path), view.kind == "dir", view.kind, view.size, view.mtime_ns, state)

    def _node_at(self, path: bytes) -> NodeId:
        with self._mirror.lock:
            if not path.strip(b"/"):
                return ROOT
            link = self._tree.at_path(path)
            if link is None:
                raise NotFound(f"there is no {_text(path)!r}")
            return link.node

    def pending(self) -> list[PendingItem]:
        return self._sync.pending()

    def conflicts(self) -> list[FileItem]:
        with self._mirror.lock:
            return [self._item(path, self._tree.node(node)) for path, node in self._tree.conflicts()]

    def read_file(self, path: str) -> tuple[FileItem, Iterator[bytes]]:
        """The version that is saved now, to its end, whatever is saved meanwhile."""
        node = self._node_at(_raw(path))
        with self._mirror.lock:
            view = self._tree.node(node)
            if view.kind == "dir":
                raise IsADirectory(f"{path!r} is a folder")
            content = view.content
            item = self._item(_raw(path).strip(b"/"), view)
        return item, self._pieces(content)

    def _pieces(self, content: Content) -> Iterator[bytes]:
        ahead = ReadAhead()
        for offset in range(0, content.size, PIECE_BYTES):
            yield self._cache.read(content, offset, PIECE_BYTES, ahead)

    # --- changing

    def write_file(self, path: str, pieces: Iterator[bytes]) -> FileItem:
        raw = _raw(path).strip(b"/")
        above, _, name = raw.rpartition(b"/")
        with _Upload(self._sync.changelog) as upload:
            for piece in pieces:
                upload.add(piece)
            content = upload.finish()
            folder = self._made_folder(above)
            self._put(folder, name, content)
            upload.keep()
        node = self._node_at(raw)
        with self._mirror.lock:
            return self._item(raw, self._tree.node(node))

    def _put(self, folder: NodeId, name: bytes, content: Content) -> None:
        def build_write(link: LinkView) -> Builder:
            view = self._tree.node(link.node)
            if view.kind == "dir":
                raise IsADirectory(f"{_text(name)!r} is a folder")
            if view.kind != "file":
                raise Exists(f"{_text(name)!r} is no regular file")
            mtime_ns = self._filesystem.parts.now_ns()
            return intents.write(view.node, view.version, content, name, mtime_ns, clear_suid=False)

        with self._mirror.lock:
            link = self._tree.lookup(folder, name)
            if link is None:
                build = intents.create(self._tree, folder, name, "file", NEW_FILE_MODE, self._caller, content=content)
            else:
                build = build_write(link)
        self._perform(build, folder, name)

    def make_dir(self, path: str) -> None:
        raw = _raw(path).strip(b"/")
        above, _, name = raw.rpartition(b"/")
        self._make(self._made_folder(above), name)

    def _make(self, folder: NodeId, name: bytes) -> None:
        self._perform(intents.create(self._tree, folder, name, "dir", NEW_FOLDER_MODE, self._caller), folder, name)

    def _made_folder(self, path: bytes) -> NodeId:
        """The folder at a path, made with those above it where they are missing."""
        folder = ROOT
        for name in path.split(b"/") if path else []:
            with self._mirror.lock:
                link = self._tree.lookup(folder, name)
            if link is None:
                with suppress(Exists):  # somebody else was faster
                    self._make(folder, name)
                with self._mirror.lock:
                    link = intents.must(self._tree, folder, name)
            folder = link.node
        return folder

    def remove(self, path: str) -> None:
        raw = _raw(path).strip(b"/")
        above, _, name = raw.rpartition(b"/")
        self._remove(self._node_at(above), name)

    def _remove(self, folder: NodeId, name: bytes) -> None:
        with self._mirror.lock:
            link = intents.must(self._tree, folder, name)
            is_dir = self._tree.kind(link.node) == "dir"
            below = [entry for entry, _, _ in self._tree.entries(link.node)] if is_dir else []
        for entry in below:
            with suppress(NotFound):
                self._remove(link.node, entry)
        build = intents.rmdir if is_dir else intents.unlink
        self._perform(build(self._tree, folder, name), folder, name)

    def move(self, path: str, new_path: str) -> None:
        """Never over something else: that would be a deletion that nobody asked for."""
        old_above, _, name = _raw(path).strip(b"/").rpartition(b"/")
        new_above, _, new_name = _raw(new_path).strip(b"/").rpartition(b"/")
        folder = self._node_at(old_above)
        new_folder = self._made_folder(new_above)
        build = intents.rename(self._tree, folder, name, new_folder, new_name, intents.RENAME_NOREPLACE)
        self._perform(build, folder, name, also=(new_folder, new_name))

    def _perform(
        self, build: Builder, folder: NodeId, name: bytes, also: tuple[NodeId, bytes] | None = None
    ) -> Operation | None:
        places = [(folder, name)] if also is None else [(folder, name), also]
        try:
            return self._filesystem.performer.perform(build, *(parent for parent, _ in places))
        except NothingToDo:
            return None
        finally:
            self._tell_kernel(places)

    def _tell_kernel(self, places: list[tuple[NodeId, bytes]]) -> None:
        nodes = {parent for parent, _ in places}
        with self._mirror.lock:
            for parent, name in places:
                with suppress(GdahError):
                    link = self._tree.lookup(parent, name)
                    if link is not None:
                        nodes.add(link.node)
        self._filesystem.invalidation.on_changes(Changes(frozenset(nodes), frozenset(places)))

    # --- pull and push

    def pull(self, timeout_s: float = 10.0) -> str:
        if not self._wait(self._sync.upstream.wait_caught_up, timeout_s):
            raise Unreachable("no server tells what is new; gdah status says why")
        return "everything that the server has is here"

    def push(self, timeout_s: float = 30.0) -> str:
        with suppress(GdahError):  # an edit that can not be saved now is shown as such; the rest goes on
            self._filesystem.flush_all()
        log = self._sync.changelog
        if not self._wait(log.flush, timeout_s):
            raise Unreachable(f"{log.pending_operations} changes are still only on this device; gdah status says why")
        return "everything is on a server"

    def _wait(self, done: Callable[[float], bool], timeout_s: float) -> bool:
        """Until it is done. False at the timeout, or when for NO_SERVER_S there was nobody to wait for."""
        deadline = time.monotonic() + timeout_s
        lonely_since: float | None = None
        while not done(min(LOOK_S, max(0.0, deadline - time.monotonic()))):
            now = time.monotonic()
            lonely_since = None if self._sync.connected else lonely_since or now
            if now >= deadline or (lonely_since is not None and now - lonely_since >= NO_SERVER_S):
                return False
        return True

    # --- what the brake holds

    def confirm_held(self) -> int:
        return self._sync.changelog.holding.confirm()

    def discard_held(self) -> int:
        return self._sync.changelog.holding.discard()

    # --- events

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        return self._watcher.subscribe(listener)


class _Upload:
    """Pieces of any size become chunks in the dirty store; they are let go again unless `keep` was called."""

    def __init__(self, sink: ChunkSink) -> None:
        self._sink = sink
        self._waiting = bytearray()
        self._chunks: list[Chunk] = []
        self._size = 0
        self._kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        taken_over: set[ChunkHash] = set()
        for chunk in self._chunks:
            if self._kept and chunk.hash not in taken_over:
                taken_over.add(chunk.hash)  # one pin went to the operation, however often it names the chunk
            else:
                self._sink.discard_chunk(chunk.hash)

    def add(self, piece: bytes) -> None:
        self._waiting += piece
        while len(self._waiting) >= CHUNK_SIZE:
            self._store(bytes(self._waiting[:CHUNK_SIZE]))
            del self._waiting[:CHUNK_SIZE]

    def finish(self) -> Content:
        if self._waiting:
            self._store(bytes(self._waiting))
            self._waiting.clear()
        return Content(self._size, tuple(self._chunks)) if self._size else EMPTY

    def keep(self) -> None:
        self._kept = True

    def _store(self, data: bytes) -> None:
        index = self._size // CHUNK_SIZE
        self._size += len(data)
        if any(data):
            self._chunks.append(Chunk(index, self._sink.store_chunk(data), len(data)))


def _raw(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
