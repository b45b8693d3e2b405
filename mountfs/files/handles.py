"""The tables of what programs have open: handles by number, open files by node, listings of folders.

Which OpenFile a node has, how many handles it has, and when it may go. What a file shows is decided in
`openfile`.

Threading: any thread; the lock is a leaf (nothing is called under it).
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from gdah_volume.errors import BadHandle
from gdah_volume.ids import NodeId
from gdah_volume.locks import Space
from mountfs.cache import ReadAhead
from mountfs.files.openfile import OpenFile, Parts
from mountfs.ports import Caller, DirEntry


@dataclass(slots=True)
class Handle:
    """One open(2) of a file. `seen`: the last foreign version of the file that it has looked at (see OpenFile)."""

    number: int
    file: OpenFile
    ino: int
    flags: int
    caller: Caller
    """Who opened it."""
    seen: int = 0
    written: bool = False
    ahead: ReadAhead = field(default_factory=ReadAhead)
    looked: bool = False
    locks: set[tuple[NodeId, Space, int]] = field(default_factory=set)
    """Whose locks of which node were set by it, and may still be held: they end with it."""

    @property
    def pid(self) -> int:
        return self.caller.pid

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def reads(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def appends(self) -> bool:
        return bool(self.flags & os.O_APPEND)


@dataclass(slots=True)
class Listing:
    """One opendir(3): the entries as they were at its first read, so that cookies stay right while entries change."""

    node: NodeId
    ino: int
    entries: list[DirEntry] | None = None


class Handles:
    """Invariant: an OpenFile is in the table iff a handle, a call in progress or unsaved edits need it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._handles: dict[int, Handle] = {}
        self._listings: dict[int, Listing] = {}
        self._files: dict[NodeId, OpenFile] = {}
        self._strayed: list[OpenFile] = []
        """Files whose handles follow a copy of their own, while the kernel knows them by the number of another."""

    # --- files

    def find(self, node: NodeId) -> OpenFile | None:
        """Without counting it. The answer may be old as soon as it is given."""
        return self._files.get(node)

    def acquire(self, node: NodeId, ino: int | None = None) -> OpenFile:
        """The OpenFile of a node (resolved), counted. One that has followed its own copy meanwhile is not it: what is
        done by the name would be done to the copy."""
        while True:
            with self._lock:
                file = self._files.get(node)
                if file is None:
                    file = self._files[node] = self.new_file(node)
                file.handles += 1
            with file.lock:
                if file.is_still(node):
                    if ino is not None:
                        file.inos.add(ino)
                    return file
            self.release(file)
            self.drop(file)

    def release(self, file: OpenFile) -> bool:
        """Count one less; True: it was the last (the file stays in the table until `drop`)."""
        with self._lock:
            file.handles -= 1
            return file.handles == 0

    def drop(self, file: OpenFile) -> None:
        """Take a file that has no unsaved edits out of the table, unless it was opened again."""
        with self._lock:
            if file.handles or file.draft is not None:
                return
            for node in [node for node, found in self._files.items() if found is file]:
                del self._files[node]
            if file in self._strayed:
                self._strayed.remove(file)

    def _moved(self, file: OpenFile, node: NodeId) -> None:
        """The file has turned out to be `node` (it was merged into it, or its edits ended there)."""
        with self._lock:
            for key in [key for key, found in self._files.items() if found is file]:
                del self._files[key]
            self._files.setdefault(node, file)
            if file.inos and file not in self._strayed:
                self._strayed.append(file)

    def adopt(self, file: OpenFile) -> None:
        """A file with unsaved edits that no handle has made in this run."""
        with self._lock:
            self._files.setdefault(file.node, file)

    def strayed(self, ino: int, file: OpenFile) -> bool:
        """Whether handles of another file use this number, or other numbers lead to this file as well: then the pages
        that the kernel has of it are not to be trusted."""
        return any(other.inos - {ino} if other is file else ino in other.inos for other in self._strayed)

    def new_file(self, node: NodeId) -> OpenFile:
        return OpenFile(self._parts, node, self._moved)

    def all_stale(self) -> None:
        """The tree has changed somewhere: every open file looks again before its next step."""
        for file in list(self._files.values()):
            file.stale = True

    def stale(self, nodes: Iterable[NodeId]) -> None:
        for node in nodes:
            file = self._files.get(node)
            if file is not None:
                file.stale = True

    def files(self) -> list[OpenFile]:
        with self._lock:
            return list(dict.fromkeys(self._files.values()))

    def extents(self) -> int:
        """Of all files together; what they take in memory."""
        return sum(file.draft.extent_count for file in self.files() if file.draft is not None)

    # --- handles

    def add(self, file: OpenFile, ino: int, flags: int, caller: Caller) -> Handle:
        handle = Handle(next(self._numbers), file, ino, flags, caller, file.foreign)
        self._handles[handle.number] = handle
        return handle

    def get(self, number: int) -> Handle:
        """Raises BadHandle."""
        handle = self._handles.get(number)
        if handle is None:
            raise BadHandle(f"handle {number} is not open")
        return handle

    def opened_by(self, pids: set[int]) -> list[Handle]:
        return [handle for handle in list(self._handles.values()) if handle.pid in pids]

    def of(self, file: OpenFile) -> list[Handle]:
        return [handle for handle in list(self._handles.values()) if handle.file is file]

    def remove(self, number: int) -> Handle | None:
        return self._handles.pop(number, None)

    def __len__(self) -> int:
        return len(self._handles)

    # --- listings

    def add_listing(self, node: NodeId, ino: int) -> int:
        number = next(self._numbers)
        self._listings[number] = Listing(node, ino)
        return number

    def listing(self, number: int) -> Listing:
        """Raises BadHandle."""
        found = self._listings.get(number)
        if found is None:
            raise BadHandle(f"handle {number} is not an open folder")
        return found

    def remove_listing(self, number: int) -> Listing | None:
        return self._listings.pop(number, None)


def unsaved(files: Iterable[OpenFile]) -> list[OpenFile]:
    """Those that hold edits which can be saved."""
    return [file for file in files if file.draft is not None and file.orphan is None]
