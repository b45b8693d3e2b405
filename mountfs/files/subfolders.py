"""How many folders a folder holds, for its link count, without listing it for each stat.

A folder is listed once, when it is first asked for; then the names of its subfolders are kept right by
looking at each entry that changes. So a stat of a folder with 100,000 files costs nothing while files come
and go in it.

Threading: called under mirror.lock; that is the only lock.
"""

from __future__ import annotations

from collections.abc import Iterable

from gdah_volume.errors import GdahError
from gdah_volume.ids import NodeId
from gdah_volume.tree import Tree

NAMES_MAX = 1_000_000
"""Names that are remembered, in all; above it everything is forgotten and listed anew when asked for."""


class Subfolders:
    """Invariant: what is remembered of a folder is as the tree is, but for entries that `changed` is about to
    be told of."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._names: dict[NodeId, set[bytes]] = {}
        self._size = 0

    def count(self, folder: NodeId) -> int:
        """Of a resolved folder; 0 if it was removed."""
        found = self._names.get(folder)
        if found is None:
            if not self._tree.alive(folder):
                return 0
            found = {name for name, _, kind in self._tree.entries(folder) if kind == "dir"}
            if self._size > NAMES_MAX:
                self.forget()
            self._names[folder] = found
            self._size += len(found) + 1
        return len(found)

    def changed(self, entries: Iterable[tuple[NodeId, bytes]]) -> None:
        """At these names something appeared, went, or is another."""
        for parent, name in entries:
            found = self._names.get(parent)
            if found is None:
                continue
            if self._is_folder(parent, name):
                found.add(name)
            else:
                found.discard(name)

    def merged(self, node: NodeId) -> None:
        """If this node was merged into another, that one has got its entries."""
        folder = self._tree.resolve(node)
        if folder != node:
            self._names.pop(node, None)
            self._names.pop(folder, None)

    def _is_folder(self, folder: NodeId, name: bytes) -> bool:
        try:
            link = self._tree.lookup(folder, name)
            return link is not None and self._tree.kind(link.node) == "dir"
        except GdahError:
            return False

    def forget(self) -> None:
        self._names.clear()
        self._size = 0
