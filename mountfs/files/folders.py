"""Reading folders: the part of the file system as an object that lists them.

An open folder shows the entries as they were at its first read (and after a rewind), so that positions stay right
while entries come and go: what stays is listed once.

Threading: as in `filesystem`; takes mirror.lock for a look at the tree.
"""

from __future__ import annotations

from collections.abc import Iterator

from gdah_volume.errors import NotADirectory
from gdah_volume.tree import Tree
from mountfs.files import intents
from mountfs.files.attributes import TYPE_BITS
from mountfs.files.handles import Handles, Listing
from mountfs.files.inodes import Inodes
from mountfs.files.openfile import MirrorView
from mountfs.files.performing import Performer
from mountfs.ports import DirEntry


class FolderCalls:
    """A part of `Filesystem`."""

    inodes: Inodes
    handles: Handles
    performer: Performer
    _mirror: MirrorView
    _tree: Tree

    def opendir(self, ino: int) -> int:
        with self._mirror.lock:
            view = self._tree.node(self.inodes.node(ino))
        if view.kind != "dir":
            raise NotADirectory("not a folder")
        return self.handles.add_listing(view.node, ino)

    def readdir(self, ino: int, handle: int, offset: int) -> Iterator[DirEntry]:  # noqa: ARG002
        listing = self.handles.listing(handle)
        entries = listing.entries
        if entries is None or offset == 0:
            entries = listing.entries = self._list(listing)
        return map(entries.__getitem__, range(offset, len(entries)))  # no copy of the rest for each page

    def _list(self, listing: Listing) -> list[DirEntry]:
        with self._mirror.lock:
            view = self._tree.node(listing.node)
            if view.nlink == 0:
                return []
            parent = intents.parent_of(self._tree, view.node)
            found = self._tree.entries(view.node)
        number = self.inodes.number
        listed = [
            DirEntry(b".", listing.ino, TYPE_BITS["dir"], 1),
            DirEntry(b"..", number(parent), TYPE_BITS["dir"], 2),
        ]
        listed.extend(
            DirEntry(name, number(node), TYPE_BITS[kind], offset) for offset, (name, node, kind) in enumerate(found, 3)
        )
        return listed

    def releasedir(self, ino: int, handle: int) -> None:  # noqa: ARG002
        self.handles.remove_listing(handle)

    def fsyncdir(self, ino: int, handle: int) -> None:  # noqa: ARG002
        self.performer.sync(self.handles.listing(handle).node)
