"""What the kernel, and open files, must look at again when the tree has changed elsewhere.

The kernel keeps attributes, names and pages until it is told; so for each change that comes from a server
exactly the inodes and names that the kernel may know are named to it. Own operations need none of this: the
kernel made them.

Threading: any thread; takes mirror.lock for a look at the tree, and no other lock while holding it but
leaves.
"""

from __future__ import annotations

from gdah_volume.replica import Changes
from mountfs.handles import Handles
from mountfs.inodes import Inodes
from mountfs.openfile import Parts
from mountfs.subfolders import Subfolders


class Invalidation:
    def __init__(self, parts: Parts, inodes: Inodes, handles: Handles) -> None:
        self._parts = parts
        self._inodes = inodes
        self._handles = handles
        self.subfolders = Subfolders(parts.mirror.tree)

    def on_changes(self, changes: Changes) -> None:
        """A listener of the mirror."""
        self._handles.all_stale()
        with self._parts.mirror.lock:
            self.subfolders.changed(changes.entries)
            for node in changes.nodes:
                self.subfolders.merged(node)
        if len(self._inodes) <= 1 and not changes.entries:
            return
        nodes, entries = self._known(changes)
        for ino in nodes:
            self._inodes.pages_are(ino, None)
            self._parts.kernel.invalidate_inode(ino)
        for parent_ino, name in entries:
            self._parts.kernel.invalidate_entry(parent_ino, name)

    def on_reload(self) -> None:
        """The whole tree was replaced."""
        self._handles.all_stale()
        with self._parts.mirror.lock:
            self.subfolders.forget()
        for _, ino in self._inodes.all():
            self._inodes.pages_are(ino, None)
            self._parts.kernel.invalidate_inode(ino)
        self._parts.kernel.invalidate_everything()

    def _known(self, changes: Changes) -> tuple[list[int], list[tuple[int, bytes]]]:
        """What of the changes the kernel may know. A folder that was merged into another is known by its old
        number, too."""
        tree = self._parts.mirror.tree
        folders = {parent for parent, _ in changes.entries}
        with self._parts.mirror.lock:
            names = {node: (node, *tree.aliases_into(node)) for node in changes.nodes | folders}
        inodes = [ino for node in changes.nodes for ino in self._inodes.known(names[node])]
        entries = [(ino, name) for parent, name in changes.entries for ino in self._inodes.known(names[parent])]
        return inodes, entries
