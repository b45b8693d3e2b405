"""Locks as programs see them: by handle of an open file, released at close, at the last release, and not before what
was written under them can be seen by the next one.

Which node a handle's locks are of, and when they end, is decided here; who gets a lock in `locking`.

Threading: any thread; holds no lock while it waits. The sets of a handle are only ever added to and thrown away whole.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from gdah_volume.errors import BadHandle, GdahError
from gdah_volume.ids import NodeId
from gdah_volume.locks import Range, Space
from mountfs.files.handles import Handle, Handles
from mountfs.files.openfile import OpenFile
from mountfs.files.saving import Saving
from mountfs.locks.lock_files import Act
from mountfs.locks.locking import Locking
from mountfs.ports import LockDone

log = logging.getLogger("mountfs.files")

CLOSE_S = 3.0
"""close(2) waits no longer than this for its locks to be given back; what is late is given back all the same."""


class FileLocks:
    def __init__(self, handles: Handles, saving: Saving, locking: Locking) -> None:
        self._handles = handles
        self._saving = saving
        self.locking = locking

    def test(self, handle: int, owner: int, wanted: Range, done: LockDone) -> Callable[[], None]:
        file = self._handles.get(handle).file
        return self.locking.ask(file.node, "test", "posix", owner, wanted, done)

    def change(
        self,
        handle: int,
        space: Space,
        owner: int,
        wanted: Range,
        *,
        frees: bool,
        wait: bool,
        pid: int,
        done: LockDone,
    ) -> Callable[[], None]:
        found = self._handles.get(handle)
        if frees:
            return self._free(found, space, owner, wanted, pid, done)
        if space == "posix" and not may_lock(found, write=wanted.write):
            raise BadHandle("the file is not open for that")
        node = found.file.node
        self._follow(found, node)
        found.locks.add((node, space, owner))
        act: Act = "wait" if wait else "set"
        return self.locking.ask(
            node, act, space, owner, wanted, done, granted=lambda: self._looked(found, pid), pid=pid
        )

    def _free(
        self, found: Handle, space: Space, owner: int, wanted: Range, pid: int, done: LockDone
    ) -> Callable[[], None]:
        nodes = {node for node, *whose in [*found.locks] if whose == [space, owner]} | {found.file.node}
        *others, last = nodes
        for node in others:
            self.locking.ask(node, "unset", space, owner, wanted, lambda _: None, pid=pid)
        return self.locking.ask(last, "unset", space, owner, wanted, done, pid=pid)

    def _follow(self, handle: Handle, node: NodeId) -> None:
        """A file that was merged into another, or went on as a copy of its own, is another node from then on: what its
        holders held of the old one is worth nothing to anybody."""
        for old, space, owner in [*handle.locks]:
            if old != node and self.locking.concerns(old, space, owner):
                for held in self.locking.held_by(old, space, owner):
                    self.locking.ask(node, "set", space, owner, held, lambda _: None)
                self.locking.ask(old, "unset", space, owner, Range(write=True), lambda _: None)
                handle.locks.add((node, space, owner))

    # --- ends

    def closed(self, handle: Handle, owner: int) -> None:
        """One close(2) of one process: its posix locks on the file end, whichever handle they were set by."""
        nodes = {handle.file.node} | {node for node, space, _ in [*handle.locks] if space == "posix"}
        ended = {(node, "posix", owner) for node in nodes if self.locking.concerns(node, "posix", owner)}
        for node, _, _ in ended:
            self._end(node, "posix", owner, handle.pid)
        handle.locks -= {(node, "posix", owner) for node in nodes}
        for other in self._handles.of(handle.file) if ended else ():
            other.locks -= ended
        for node, space, whose in [*handle.locks]:
            if self.locking.concerns(node, space, whose):
                self.locking.closing(node, space, whose)

    def released(self, handle: Handle) -> None:
        """The last close of one open(2): what was set by it and is still held."""
        for node, space, owner in [*handle.locks]:
            if self.locking.concerns(node, space, owner):
                self._end(node, space, owner, handle.pid)

    def _end(self, node: NodeId, space: Space, owner: int, pid: int) -> None:
        gone = threading.Event()
        self.locking.ask(node, "unset", space, owner, Range(write=True), lambda _: gone.set(), pid=pid)
        gone.wait(CLOSE_S)

    # --- what was written

    def save(self, node: NodeId, pids: set[int]) -> None:
        """What the next one must see, of the file and of what those processes have open. A failure is logged, and told
        by close or fsync."""
        files: dict[OpenFile, None] = {}
        found = self._handles.find(node)
        if found is not None:
            files[found] = None
        for handle in self._handles.opened_by(pids):
            if handle.writes:
                files[handle.file] = None
        for file in files:
            if file.orphan is None:
                try:
                    self._saving.save(file, sync=False)
                except GdahError as error:
                    log.warning("what was written under a lock could not be saved yet: %s", error)

    def _looked(self, handle: Handle, pid: int) -> None:
        """A lock is held: whoever got it has seen the newest versions, also where the kernel had their pages, so what
        it writes now follows them."""
        for each in (handle, *self._handles.opened_by({pid})):
            each.file.has_looked(each)


def may_lock(handle: Handle, *, write: bool) -> bool:
    """As fcntl(2): a write lock needs a handle that writes. (The kernel has checked it; this is for other callers.)"""
    return handle.writes or not write
