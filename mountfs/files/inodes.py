"""Inode numbers: what the kernel calls the nodes of the tree. Knows no attributes and no content.

A number is a hash of the node's id, so it is the same in every run and on every device (backups and `find
-inum` may rely on it). Two nodes with one hash are told apart while both are known: the later one gets the
next free number.

Invariant: a number that the kernel holds (lookups not yet forgotten) or that an open handle uses maps to one
node.

Threading: any thread; the lock is a leaf.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from blake3 import blake3

from gdah_volume.errors import StaleHandle
from gdah_volume.ids import ROOT, NodeId, Version

ROOT_INO = 1
_MASK = (1 << 63) - 1


def number_of(node: NodeId) -> int:
    """The preferred number: 63 bits, never 0 or 1 but for the root."""
    if node == ROOT:
        return ROOT_INO
    return (int.from_bytes(blake3(node.encode()).digest(length=8), "little") & _MASK) | 2


class _Entry:
    __slots__ = ("count", "node", "pages")

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.count = 0
        self.pages: Version | None = None


class Inodes:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        root = _Entry(ROOT)
        root.count = 1
        self._entries: dict[int, _Entry] = {ROOT_INO: root}
        self._numbers: dict[NodeId, int] = {ROOT: ROOT_INO}

    def __len__(self) -> int:
        return len(self._entries)

    def number(self, node: NodeId) -> int:
        """The number of a node, without holding it (for listings)."""
        return self._numbers.get(node) or number_of(node)

    def hold(self, node: NodeId, count: int = 1) -> int:
        """Count references; returns the number."""
        with self._lock:
            ino = self._numbers.get(node)
            if ino is None:
                ino = number_of(node)
                while ino in self._entries:
                    ino = (ino + 2) & _MASK
                self._entries[ino] = _Entry(node)
                self._numbers[node] = ino
            self._entries[ino].count += count
            return ino

    def release(self, ino: int, count: int = 1) -> NodeId | None:
        """Give references back; at none the number is free, and its node is returned."""
        with self._lock:
            entry = self._entries.get(ino)
            if entry is None or ino == ROOT_INO:
                return None
            entry.count -= count
            if entry.count > 0:
                return None
            del self._entries[ino]
            del self._numbers[entry.node]
            return entry.node

    def node(self, ino: int) -> NodeId:
        """Raises StaleHandle for a number that nobody was told (or that was given back)."""
        entry = self._entries.get(ino)
        if entry is None:
            raise StaleHandle(f"inode {ino} is not known here any more")
        return entry.node

    def known(self, nodes: Iterable[NodeId]) -> list[int]:
        """The numbers of those nodes that somebody holds."""
        numbers = self._numbers
        return [numbers[node] for node in nodes if node in numbers]

    def all(self) -> list[tuple[NodeId, int]]:
        with self._lock:
            return list(self._numbers.items())

    def pages_are(self, ino: int, version: Version | None) -> bool:
        """Note that the kernel's pages of an inode show `version` from now on; whether they did already."""
        with self._lock:
            entry = self._entries.get(ino)
            if entry is None:
                return False
            same = entry.pages is not None and entry.pages == version
            entry.pages = version
            return same

    def pages_follow(self, ino: int, old: Version | None, new: Version | None) -> None:
        """What was written through the kernel has become `new`: pages that showed `old` show that."""
        with self._lock:
            entry = self._entries.get(ino)
            if entry is not None and entry.pages == old:
                entry.pages = new
