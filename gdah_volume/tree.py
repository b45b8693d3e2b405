"""The tree of a volume, to be looked at: names, nodes, listings, paths. Read queries over a store; changes nothing.

Threading: as its store. The writer's tree answers from the store's cache, which is right after every roll back; a
tree over a `Database.reader()` may live in any other thread and sees committed states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gdah_volume.content import EMPTY, Content
from gdah_volume.errors import NotADirectory, NotFound, StaleHandle
from gdah_volume.ids import LOST, ROOT, LinkId, NodeId, Version
from gdah_volume.operations import ALSO_MAX, Kind
from gdah_volume.rows import LinkRow, unpack_content
from gdah_volume.store import NodeRecord, Store

if TYPE_CHECKING:
    from gdah_volume.database import Database

_KEPT_CHUNKS = 64
"""Longer lists are decoded each time, so that cached views stay small."""
_PATH_DEPTH_MAX = 10_000
"""Deeper than any path can be made through calls that take 4096 bytes; a guard, not a promise."""


class NodeView:
    """A node as it was when it was looked at; frozen. `nlink` counts its names (0: removed; a live directory: 1).
    `content` is fetched when it is first asked for."""

    __slots__ = (
        "_content",
        "_store",
        "atime_ns",
        "ctime_ns",
        "gid",
        "kind",
        "mode",
        "mtime_ns",
        "nlink",
        "node",
        "rdev",
        "size",
        "target",
        "uid",
        "version",
        "xattrs",
    )

    def __init__(self, store: Store, node: NodeId, record: NodeRecord, nlink: int) -> None:
        row, attrs, file = record.node, record.attrs, record.file
        assert attrs is not None, "a node without attributes"
        self._store = store
        self._content: Content | None = None
        self.node = node
        self.kind: Kind = row.kind
        self.mode = attrs.mode
        self.uid = attrs.uid
        self.gid = attrs.gid
        self.atime_ns = attrs.atime_ns
        self.mtime_ns = attrs.mtime_ns
        self.ctime_ns = attrs.ctime_ns
        self.nlink = nlink
        self.rdev = row.rdev
        self.target = row.target
        self.xattrs: dict[bytes, bytes] = attrs.xattrs
        self.size = len(row.target)
        self.version: Version | None = None
        if file is not None:
            self.size, self.version = file.size, file.version
        touched = store.touched(node)
        if touched is not None:
            if touched[0] is not None:
                self.mtime_ns = touched[0]
            self.ctime_ns = max(self.ctime_ns, touched[1])

    @property
    def content(self) -> Content:
        """Of the version that was current. Raises StaleHandle when that has been forgotten since."""
        if self._content is not None:
            return self._content
        if not self.size or self.version is None:
            return EMPTY
        row = self._store.version(self.version)
        if row is None:
            raise StaleHandle(f"version {self.version} of {self.node} is no longer kept")
        content = unpack_content(row.content)
        if len(content.chunks) <= _KEPT_CHUNKS:
            self._content = content
        return content

    def __repr__(self) -> str:
        return f"NodeView({self.node} {self.kind} {self.mode:04o} size={self.size} version={self.version})"


class LinkView:
    """A name: which node it leads to and where it is; frozen. `rev` is the operation that last placed it."""

    __slots__ = ("link", "name", "node", "parent", "rev")

    def __init__(self, link: LinkId, row: LinkRow) -> None:
        self.link = link
        self.rev = row.rev
        self.node = row.node
        self.parent = row.parent
        self.name = row.name

    def __repr__(self) -> str:
        return f"LinkView({self.link} {self.parent}/{self.name!r} -> {self.node})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LinkView):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.link, self.rev))


_LOST_NAME = b".lost"
_LOST_LINK = LinkRow(LOST, ROOT, _LOST_NAME, _LOST_NAME, Version(LOST), True, ROOT)


class Tree:
    def __init__(self, source: Database | Store) -> None:
        self.store = source if isinstance(source, Store) else Store(source)
        self._db = self.store.database
        self._totals: tuple[int, tuple[int, int, int]] | None = None

    # --- nodes

    def resolve(self, node: NodeId) -> NodeId:
        """The node that `node` was merged into, or itself."""
        alias = self.store.alias
        while (into := alias(node)) is not None:
            node = into
        return node

    def alive(self, node: NodeId) -> bool:
        node = self.resolve(node)
        return node in (ROOT, LOST) or bool(self.store.links_of(node))

    def kind(self, node: NodeId) -> Kind:
        """Raises NotFound for an unknown node."""
        row = self.store.node(self.resolve(node))
        if row is None:
            raise NotFound(f"there is no node {node}")
        return row.kind

    def node(self, node: NodeId) -> NodeView:
        """Raises NotFound for an unknown node; a removed one is still described, with nlink 0."""
        node = self.resolve(node)
        view = self.store.views.get(node)
        if isinstance(view, NodeView):
            return view
        record = self.store.record(node)
        if record is None:
            raise NotFound(f"there is no node {node}")
        links = 1 if node in (ROOT, LOST) else len(self.store.links_of(node))
        view = NodeView(self.store, node, record, links)
        self.store.views.put(node, view)
        return view

    def seen_version(self, node: NodeId) -> Version | None:
        """Of a file; None of anything else."""
        file = self.store.file(self.resolve(node))
        return None if file is None else file.version

    def aliases_into(self, node: NodeId) -> tuple[NodeId, ...]:
        """All that were merged into this one, directly or through others: the `also` of an operation on it."""
        found: set[NodeId] = set()
        left = [node]
        while left:
            more = self.store.merged_into(left.pop()) - found
            found |= more
            left.extend(more)
        return tuple(sorted(found)[:ALSO_MAX])

    # --- names

    def _directory(self, node: NodeId) -> NodeId:
        node = self.resolve(node)
        record = self.store.record(node)
        if record is None or not (node in (ROOT, LOST) or self.store.links_of(node)):
            raise NotFound(f"there is no folder {node}")
        if record.node.kind != "dir":
            raise NotADirectory(f"{node} is a {record.node.kind}")
        return node

    def lookup(self, parent: NodeId, name: bytes) -> LinkView | None:
        """The link at a name, None when it is free. Raises NotFound (parent unknown or removed), NotADirectory."""
        parent = self._directory(parent)
        link = self.store.link_at(parent, name)
        if link is None:
            if parent == ROOT and name == _LOST_NAME and self.store.has_entries(LOST):
                return LinkView(LinkId(LOST), _LOST_LINK)
            return None
        row = self.store.link(link)
        assert row is not None, f"no row of link {link}"
        return LinkView(link, row)

    def links(self, node: NodeId) -> list[LinkView]:
        """The names of a node."""
        node = self.resolve(node)
        rows = [(link, self.store.link(link)) for link in self.store.links_of(node)]
        return [LinkView(link, row) for link, row in rows if row is not None]

    def is_last_name(self, link: LinkView) -> bool:
        return len(self.store.links_of(self.resolve(link.node))) <= 1

    def entries(
        self, node: NodeId, after: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, NodeId, Kind]]:
        """Names in a directory that sort after `after`, by their bytes. Raises NotFound, NotADirectory."""
        node = self._directory(node)
        rows = self._db.rows(
            "SELECT l.name, l.node, n.kind FROM links l JOIN nodes n ON n.id = l.node"
            " WHERE l.live = 1 AND l.parent = ? AND l.name > ? ORDER BY l.name LIMIT ?",
            (node, b"" if after is None else after, -1 if limit is None else limit),
        )
        return [(name, child, kind) for name, child, kind in rows]

    def count_entries(self, node: NodeId) -> int:
        node = self._directory(node)
        row = self._db.row("SELECT count(*) FROM links WHERE live = 1 AND parent = ?", (node,))
        return 0 if row is None else int(row[0])

    def path(self, node: NodeId, depth_max: int = _PATH_DEPTH_MAX) -> bytes | None:
        """Relative to the root, through the first name of each node; b"" for the root, None for what was removed, or
        lies deeper than `depth_max` folders."""
        parts: list[bytes] = []
        walk = self.resolve(node)
        for _ in range(depth_max + 1):
            if walk == ROOT:
                return b"/".join(reversed(parts))
            if walk == LOST:
                return b"/".join((_LOST_NAME, *reversed(parts)))
            links = self.store.links_of(walk)
            row = self.store.link(links[0]) if links else None
            if row is None:
                return None
            parts.append(row.name)
            walk = row.parent
        return None

    def path_of_link(self, link: LinkView) -> bytes | None:
        above = self.path(link.parent)
        if above is None:
            return None
        return above + b"/" + link.name if above else link.name

    def at_path(self, path: bytes) -> LinkView | None:
        """The link at a path relative to the root; None when there is none (the root has no link). Raises as
        `lookup`."""
        found: LinkView | None = None
        parent = ROOT
        for name in path.strip(b"/").split(b"/"):
            if not name:
                continue
            found = self.lookup(parent, name)
            if found is None:
                return None
            parent = found.node
        return found

    def walk(self, node: NodeId = ROOT) -> Iterator[tuple[bytes, NodeView]]:
        """Everything below a directory, parents before children, siblings by name; paths relative to the root."""
        start = self.path(node)
        if start is None:
            raise NotFound(f"there is no folder {node}")
        left = [(start, self._directory(node))]
        while left:
            path, directory = left.pop()
            found = []
            for name, child, kind in self.entries(directory):
                full = path + b"/" + name if path else name
                yield full, self.node(child)
                if kind == "dir":
                    found.append((full, child))
            left.extend(reversed(found))

    # --- figures

    def conflicts(self) -> list[tuple[bytes, NodeId]]:
        """(path, node) of every name with a conflict suffix, by path."""
        rows = self._db.rows(
            "SELECT id, node, parent, name FROM links INDEXED BY links_conflict WHERE live = 1 AND conflict = 1"
        )
        found = []
        for _, node, parent, name in rows:
            above = self.path(parent)
            if above is not None:
                found.append((above + b"/" + name if above else name, node))
        return sorted(found)

    def totals(self) -> tuple[int, int, int]:
        """(files and other things that are no folders, folders without the root, bytes of the files)."""
        generation = self.store.generation
        if self._totals is None or self._totals[0] != generation or self._db.read_only:
            row: tuple[Any, ...] | None = self._db.row(
                "SELECT coalesce(sum(kind <> 'dir'), 0), coalesce(sum(kind = 'dir'), 0), coalesce(sum(size), 0)"
                " FROM nodes WHERE EXISTS (SELECT 1 FROM links WHERE live = 1 AND links.node = nodes.id)"
            )
            assert row is not None
            self._totals = (generation, (row[0], row[1], row[2]))
        return self._totals[1]
