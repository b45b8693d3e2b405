"""One file that programs have open: which version it shows, its unsaved edits, and how they become an operation.

All handles of a node share one OpenFile, as programs of one machine share a file. The rules:

* Without unsaved edits it FOLLOWS the tree: it shows the newest version that the mirror knows (reads: that the kernel
  was told of, see `until_told`).
* With unsaved edits it keeps the version that they are based on: the one that the writing handle had seen
  last. If somebody else has written meanwhile, saving makes a fork (a conflict copy), and the handles follow
  their own copy.
* A file whose last name was removed on this mount, or elsewhere while it had no unsaved edits, is an ORPHAN:
  its edits stay here and go with the last handle. Removed elsewhere while it had unsaved edits: saving brings
  it back.

Threading: any thread, under `lock`. Lock order: OpenFile.lock, mirror.lock, then the leaves (table of
handles, inodes, cache). Nobody waits for a server's acknowledgement under `lock`; reading what lies under a
partial edit may fetch under it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from gdah_volume.content import CHUNK_SIZE, EMPTY, MAX_SIZE, Content
from gdah_volume.errors import NotFound, StaleHandle
from gdah_volume.ids import NodeId, OpId, Version
from gdah_volume.operations import Operation
from gdah_volume.tree import NodeView, Tree
from mountfs.cache import Cache, ReadAhead
from mountfs.files import intents
from mountfs.files.attributes import Nameless, Unsaved, nameless
from mountfs.files.extents import check_size
from mountfs.files.intents import Builder
from mountfs.files.records import JournalPool, Opening, OperationLog, Ticket
from mountfs.files.sparse import Piece, SparseDraft, data_in
from mountfs.files.until_told import READ_WAIT_S, UntilTold
from mountfs.ports import KernelCache

log = logging.getLogger("mountfs.files")

SEEN_MAX = 8
"""Foreign versions of an open file whose predecessors are remembered, for handles that have not looked since."""
LOST_NAME = b"recovered"


class MirrorView(Protocol):
    @property
    def lock(self) -> Any: ...
    @property
    def tree(self) -> Tree: ...


@dataclass(slots=True)
class Parts:
    """What open files work with. `kernel` is replaced when the mount has a session."""

    mirror: MirrorView
    log: OperationLog
    cache: Cache
    journals: JournalPool
    kernel: KernelCache
    now_ns: Callable[[], int]


class Looker(Protocol):
    """A handle: `seen` counts the foreign versions of its file that it has looked at. `looked`: at all that there are
    when it is used next."""

    seen: int
    ahead: ReadAhead
    looked: bool


class OpenFile:
    """Invariant: with a draft, (version, content) is the draft's base; without one, what the file shows."""

    def __init__(self, parts: Parts, node: NodeId, moved: Callable[[OpenFile, NodeId], None]) -> None:
        """`moved(self, node)` is told when the file turns out to be another node."""
        self._moved = moved
        self.lock = threading.RLock()
        self.node = node
        self.handles = 0
        """Under the lock of the table."""
        self.inos: set[int] = set()
        """The numbers by which the kernel has it open."""
        self.stale = True
        """Set by anyone: the tree may have changed; the next call under the lock looks."""
        self.version: Version | None = None
        self.content: Content = EMPTY
        self.draft: SparseDraft | None = None
        self.orphan: Nameless | None = None
        """The last known attributes, once it has no name."""
        self.unsaved: Unsaved | None = None
        """What getattr shows meanwhile. A frozen value, replaced whole: it is read without the lock."""
        self.until_told = UntilTold()
        self.foreign = 0
        self._seen = 0
        """As of a handle, for all: what one of them has read the others may have read from the kernel's pages."""
        self.removed_here = False
        self.nameless = False
        """As it was at the last look; a file that is no orphan may be so until it is saved."""
        self._parts = parts
        self._name = LOST_NAME
        self._before: list[tuple[Version | None, Content]] = []
        self._saved_as: Version | None = None
        self._under_way: threading.Event | None = None
        """Set when the operation that saved edits last is acknowledged (or has failed)."""
        self._ctime_ns = 0

    # --- what the tree says

    def refresh(self) -> None:
        """Under the lock."""
        if not self.stale:
            return
        self.stale = False
        tree = self._parts.mirror.tree
        with self._parts.mirror.lock:
            node = self._follow(tree)
            if node != self.node:
                self.node = node
                self._moved(self, node)
            try:
                view = tree.node(node)
            except NotFound:
                view = None
            self.nameless = view is None or view.nlink == 0
            if view is None or self.nameless:
                self._lost_its_name(view)
            else:
                self._has_a_name(view)
        self._publish()

    def is_still(self, node: NodeId) -> bool:
        """Under the lock. Whether this is the file that the node leads to."""
        self.refresh()
        with self._parts.mirror.lock:
            return self._parts.mirror.tree.resolve(node) == self.node

    def _follow(self, tree: Tree) -> NodeId:
        """The node that the file is now: merged into another, or the fork that its own edits ended in."""
        if self._saved_as is not None:
            row = tree.store.version(self._saved_as)
            if row is not None:
                return tree.resolve(row.node)
        return tree.resolve(self.node)

    def _lost_its_name(self, view: NodeView | None) -> None:
        if view is not None and self.draft is None and self.orphan is None:
            with suppress(StaleHandle):  # forgotten since: then what it showed last
                self._show(view)  # written elsewhere before it was removed
        if self.orphan is not None or view is None or (self.draft is not None and not self.removed_here):
            return
        self.orphan = nameless(view)
        if self.draft is not None:
            self.draft.sealing = False
            self.draft.note_orphan(orphan=True)

    def _has_a_name(self, view: NodeView) -> None:
        if self.orphan is not None and self.draft is not None:
            self.draft.sealing = True
            self.draft.note_orphan(orphan=False)
        self.orphan = None
        self.removed_here = False
        if self.draft is None:
            self._show(view)

    def _show(self, view: NodeView) -> None:
        if view.version == self.version:
            return
        content = view.content
        if self.version is not None and content != self.content:
            self.foreign += 1
            self._before.append((self.version, self.content))
            del self._before[:-SEEN_MAX]
        self.version, self.content = view.version, content

    def _publish(self) -> None:
        draft = self.draft
        if draft is None:
            self.unsaved = None
            return
        self.unsaved = Unsaved(
            size=draft.size,
            stored_bytes=draft.stored_bytes,
            mtime_ns=draft.mtime_ns,
            ctime_ns=self._ctime_ns,
        )

    @property
    def size(self) -> int:
        """Under the lock."""
        return self.content.size if self.draft is None else self.draft.size

    # --- reading and editing

    def read(self, handle: Looker, offset: int, size: int) -> bytes:
        """Raises ContentUnavailable."""
        arrived = self.until_told.arrive(READ_WAIT_S)
        with self.lock:
            self.refresh()
            if self.draft is not None:
                return self.draft.read(offset, size)
            before = self.until_told.before(arrived)
            content = self.content if before is None else before
            if before is None:
                handle.seen = self._seen = self.foreign
        return self._parts.cache.read(content, offset, size, handle.ahead)

    def write(self, handle: Looker, offset: int | None, data: bytes | memoryview) -> int:
        """`offset` None: at the end. Returns where it was written. Raises FileTooBig, NoSpace, StorageFailed."""
        with self.lock:
            self.refresh()
            at = self.size if offset is None else offset
            check_size(at + len(data))
            draft = self._begin(None if offset is None else handle)  # the end is that of the newest version
            now_ns = self._parts.now_ns()
            draft.write(at, data, now_ns)
            self._edited(now_ns)
        return at

    def truncate(self, size: int, handle: Looker | None) -> None:
        with self.lock:
            self.refresh()
            check_size(size)  # before there is a draft: an edit that fails leaves nothing to save
            now_ns = self._parts.now_ns()
            self._begin(handle).truncate(size, now_ns)
            self._edited(now_ns)

    def data(self, offset: int, end: int = MAX_SIZE) -> Iterator[tuple[int, int]]:
        """Where it is no hole, from the chunk of `offset` to that of `end`. Under the lock."""
        return data_in(self.content, offset) if self.draft is None else self.draft.data(offset, end)

    def reshape(self, handle: Looker, start: int, end: int, *, punch: bool, grow: bool) -> None:
        """Holes at [start, end), and as long as that."""
        with self.lock:
            self.refresh()
            draft, now_ns = self._begin(handle), self._parts.now_ns()
            if punch:
                draft.punch(start, end, now_ns)
            draft.grow(end if grow else 0, now_ns)
            self._edited(now_ns)

    def receive(self, handle: Looker, piece: Piece) -> None:
        """A piece of another file, with the pin of its chunk."""
        with self.lock:
            self.refresh()
            draft, now_ns = self._begin(handle), self._parts.now_ns()
            start, end, data, chunk, pinned = piece
            if data is not None:
                draft.write(start, data, now_ns)
            elif chunk is None:
                draft.punch(start, end, now_ns)
                draft.grow(end, now_ns)
            elif draft.sealing and draft.fits_whole(start, end):
                draft.share(start // CHUNK_SIZE, chunk, end, now_ns, pinned=pinned)
            else:
                whole = self._parts.cache.chunk(chunk)
                draft.write(start, whole + bytes(end - start - len(whole)), now_ns)
                if pinned:
                    self._parts.log.discard_chunk(chunk.hash)
            self._edited(now_ns)

    def set_mtime(self, mtime_ns: int) -> bool:
        """Of a file with unsaved edits: saving them keeps this time. False: there are none."""
        with self.lock:
            self.refresh()
            if self.draft is None:
                return False
            self.draft.set_mtime(mtime_ns)
            self._edited(self._parts.now_ns())
            return True

    def _edited(self, now_ns: int) -> None:
        self._ctime_ns = now_ns
        if self.draft is not None:
            self.draft.stamp(now_ns)
        self._publish()

    def _begin(self, handle: Looker | None) -> SparseDraft:
        if self.draft is not None:
            return self.draft
        if handle is not None and handle.looked:
            handle.seen, handle.looked = self.foreign, False
        seen = self.foreign if handle is None else max(handle.seen, self._seen)
        if seen < self.foreign:
            self._go_back_to(seen)
        opening = Opening(self.node, self.version, self.content, self._known_name())
        parts = self._parts
        self.draft = SparseDraft.begin(opening, parts.journals, parts.cache, parts.log, parts.now_ns())
        if self.orphan is not None:
            self.draft.sealing = False
            self.draft.note_orphan(orphan=True)
        return self.draft

    def _go_back_to(self, seen: int) -> None:
        """The writer has not looked since somebody else wrote: the edit is based on what it saw, and so makes
        a fork."""
        missed = min(self.foreign - seen, len(self._before))
        if missed and self.orphan is None:
            self.version, self.content = self._before[-missed]
            for ino in self.inos:
                self._parts.kernel.invalidate_inode(ino)

    def is_seen_as_made(self, handle: Looker) -> None:
        """Under the lock. Who made the file thinks that it is empty, also if somebody was faster to write to it."""
        made = Version(OpId(self.node))
        if self.draft is None and self.version not in (None, made):
            self.foreign += 1
            self._before.append((made, EMPTY))
            handle.seen = self.foreign - 1

    def has_looked(self, handle: Looker) -> None:
        """It got a lock: what it edits next follows what is there now. Does not wait for the lock of this file, which
        may be held while content is fetched."""
        if not self.lock.acquire(blocking=False):
            handle.looked = True
            return
        try:
            self.refresh()
            handle.seen = self.foreign
        finally:
            self.lock.release()

    def _known_name(self) -> bytes:
        with self._parts.mirror.lock:
            links = self._parts.mirror.tree.links(self.node)
        if links:
            self._name = links[0].name
        return self._name

    # --- saving

    @property
    def is_being_saved(self) -> bool:
        return self._under_way is not None

    def save(self, *, sync: bool) -> bool:
        """Turn the unsaved edits into one operation, and wait for it as the durability says. False: there was
        nothing to save (what another thread is saving right now is waited for). Raises what stopped it; the
        edits are kept then, or (a disk that failed to sync) logged."""
        with self.lock:
            self.refresh()
            if self.draft is None or self.orphan is not None:
                under_way = self._under_way
                mine = None
            else:
                ticket = self._log_edits(self.draft, sync=sync)
                under_way = mine = self._under_way = threading.Event()
        if mine is None:
            if under_way is not None:
                under_way.wait()
            return False
        try:
            ticket.wait()
        finally:
            mine.set()
            if self._under_way is mine:
                self._under_way = None
        return True

    def _log_edits(self, draft: SparseDraft, *, sync: bool) -> Ticket:
        content = draft.compose()
        name = draft.opening.name
        write = intents.write(self.node, self.version, content, name, draft.mtime_ns, clear_suid=False)
        ticket = self._parts.log.perform(self._noting(draft, content, write), sync=sync, wait=False)
        draft.finish()
        self.draft = None
        self._saved_as = self.version = Version(ticket.op)
        self.content = content
        self.stale = True
        self.refresh()
        return ticket

    def _noting(self, draft: SparseDraft, content: Content, build: Builder) -> Builder:
        """Under mirror.lock. Saving is no change of its own: the operation has the time of the last change before it,
        so that ctime stays as it was shown."""

        def noting(op: OpId, time_ns: int) -> Operation:
            try:
                changed_ns = max(self._ctime_ns, self._parts.mirror.tree.node(self.node).ctime_ns)
            except NotFound:
                changed_ns = time_ns
            operation = build(op, changed_ns)
            draft.note_saving(op, content)
            return operation

        return noting

    def hold_edits(self, draft: SparseDraft, version: Version | None, content: Content, edited_ns: int) -> None:
        """Edits of an earlier run."""
        with self.lock:
            self.version, self.content, self.draft = version, content, draft
            self._edited(edited_ns)

    def drop_edits(self) -> None:
        """The last handle of an orphan is gone."""
        with self.lock:
            if self.draft is not None:
                self.draft.discard()
                self.draft = None
                self._publish()
