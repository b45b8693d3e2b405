"""What the kernel, and open files, must look at again when the tree has changed elsewhere.

The kernel keeps attributes, names and pages until it is told; so for each change that comes from a server
exactly the inodes and names that the kernel may know are named to it. Own operations need none of this: the
kernel made them.

Threading: any thread; takes mirror.lock for a look at the tree, and no other lock while holding it but
leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gdah_volume.content import Content
from gdah_volume.errors import GdahError
from gdah_volume.ids import NodeId
from gdah_volume.operations import Operation, Write
from gdah_volume.replica import Changes
from mountfs.files.attributes import Unsaved
from mountfs.files.extents import stored_bytes
from mountfs.files.handles import Handles
from mountfs.files.inodes import Inodes
from mountfs.files.openfile import Parts
from mountfs.files.subfolders import Subfolders


class Invalidation:
    def __init__(self, parts: Parts, inodes: Inodes, handles: Handles) -> None:
        self._parts = parts
        self._inodes = inodes
        self._handles = handles
        self.subfolders = Subfolders(parts.mirror.tree)
        self._told_early: set[NodeId] = set()
        """By the last `witness`, so that `on_changes` need not; both belong to the thread that feeds."""

    def witness(self, operations: Sequence[Operation]) -> Callable[[], None]:
        """Of the mirror. From when a file that the kernel knows is another one until the kernel was told, what is open
        shows what it held before, and opening waits (`wait_told`)."""
        written = {self._parts.mirror.tree.resolve(op.node) for op in operations if isinstance(op, Write)}
        before = {node: self._look(node) for node in written if self._inodes.known([node])}

        def afterwards() -> None:
            self._told_early = set()
            for node, (content, shown) in before.items():
                if content is not None and content != self._look(node)[0]:
                    self._told_early.add(node)
                    self._hold(node, content, shown)

        return afterwards

    def _look(self, node: NodeId) -> tuple[Content | None, Unsaved]:
        """What it holds, and what of its attributes goes with that."""
        try:
            view = self._parts.mirror.tree.node(node)
            content = view.content
        except GdahError:  # unknown, or forgotten
            return None, Unsaved(0, 0, 0, 0)
        return content, Unsaved(content.size, stored_bytes(content), view.mtime_ns, view.ctime_ns)

    def _hold(self, node: NodeId, before: Content, shown: Unsaved) -> None:
        file = self._handles.find(node)
        until_told = None
        if file is not None and file.draft is None and file.orphan is None:
            until_told = file.until_told
            until_told.hold(before, shown)
        for ino in self._inodes.known([node, *self._parts.mirror.tree.aliases_into(node)]):
            self._inodes.pages_are(ino, None)
            self._parts.kernel.invalidate_inode(ino, until_told)

    def on_changes(self, changes: Changes) -> None:
        """A listener of the mirror."""
        self._handles.all_stale()
        with self._parts.mirror.lock:
            self.subfolders.changed(changes.entries)
            for node in changes.nodes:
                self.subfolders.merged(node)
        if len(self._inodes) <= 1 and not changes.entries:
            return
        early, self._told_early = self._told_early, set()
        nodes, entries = self._known(Changes(changes.nodes - early, changes.entries) if early else changes)
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
