"""What one program on one plain file system would see: names, contents, errors. No versions, no merging, no log.

The oracle for a client that is alone: whatever happens to its messages, its tree must be this one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gdah_volume import errors
from gdah_volume.content import Content
from gdah_volume.errors import FileSystemError
from gdah_volume.ids import ROOT, LinkId, NodeId
from gdah_volume.operations import Create, Exchange, Kind, Link, Operation, Rename, Rmdir, SetAttr, Unlink, Write


@dataclass
class Inode:
    kind: Kind
    mode: int
    content: Content
    target: bytes


@dataclass
class PlainTree:
    inodes: dict[NodeId, Inode] = field(default_factory=dict)
    entries: dict[NodeId, dict[bytes, NodeId]] = field(default_factory=lambda: {ROOT: {}})
    places: dict[LinkId, tuple[NodeId, bytes]] = field(default_factory=dict)

    def apply(self, op: Operation) -> type[FileSystemError] | None:
        """Do it, or say the error that a program gets."""
        match op:
            case Create(id=id_, parent=parent, name=name):
                error = self._free(parent, name)
                if error is None:
                    node = NodeId(id_)
                    self.inodes[node] = Inode(op.kind, op.attrs.mode, op.content, op.target)
                    if op.kind == "dir":
                        self.entries[node] = {}
                    self._put(LinkId(id_), parent, name, node)
                return error
            case Write(node=node, content=content):
                self.inodes[node].content = content
            case SetAttr(node=node, mode=mode) if mode is not None:
                self.inodes[node].mode = mode
            case Link(id=id_, parent=parent, name=name, node=node):
                error = self._free(parent, name)
                if error is None:
                    self._put(LinkId(id_), parent, name, node)
                return error
            case Unlink(link=link):
                self._take(link)
            case Rmdir(link=link, node=node):
                if self.entries[node]:
                    return errors.NotEmpty
                self._take(link)
                del self.entries[node]
            case Rename():
                return self._rename(op)
            case Exchange():
                return self._exchange(op)
        return None

    def _free(self, parent: NodeId, name: bytes) -> type[FileSystemError] | None:
        if parent not in self.entries:
            return errors.NotFound
        return errors.Exists if name in self.entries[parent] else None

    def _put(self, link: LinkId, parent: NodeId, name: bytes, node: NodeId) -> None:
        self.entries[parent][name] = node
        self.places[link] = (parent, name)

    def _take(self, link: LinkId) -> NodeId:
        parent, name = self.places.pop(link)
        return self.entries[parent].pop(name)

    def _rename(self, op: Rename) -> type[FileSystemError] | None:
        if op.parent not in self.entries:
            return errors.NotFound
        there = self.entries[op.parent].get(op.name)
        if there is not None and self.entries.get(there):
            return errors.NotEmpty
        if self._inside(op.parent, op.node):
            return errors.InvalidArgument
        self.entries.pop(there, None)  # type: ignore[arg-type]
        if there is not None:
            self.places = {link: place for link, place in self.places.items() if place != (op.parent, op.name)}
        self._put(op.link, op.parent, op.name, self._take(op.link))
        return None

    def _exchange(self, op: Exchange) -> type[FileSystemError] | None:
        mine, theirs = self.places[op.link], self.places[op.other.link]
        if self._inside(theirs[0], op.node) or self._inside(mine[0], op.other.node):
            return errors.InvalidArgument
        self.entries[mine[0]][mine[1]] = op.other.node
        self.entries[theirs[0]][theirs[1]] = op.node
        self.places[op.link], self.places[op.other.link] = theirs, mine
        return None

    def _inside(self, folder: NodeId, node: NodeId) -> bool:
        while folder != ROOT:
            if folder == node:
                return True
            folder = next(parent for parent, names in self.entries.items() if folder in names.values())
        return False

    def listing(self) -> dict[bytes, tuple[Kind, int, Content, bytes]]:
        """path -> what is there"""
        found: dict[bytes, tuple[Kind, int, Content, bytes]] = {}
        todo = [(b"", ROOT)]
        while todo:
            above, folder = todo.pop()
            for name, node in self.entries[folder].items():
                path = above + b"/" + name if above else name
                inode = self.inodes[node]
                found[path] = (inode.kind, inode.mode, inode.content, inode.target)
                if node in self.entries:
                    todo.append((path, node))
        return found
