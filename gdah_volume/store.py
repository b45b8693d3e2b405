"""The rows of the fold in SQLite, with a cache in front that is written through. Implements `Source`.

The logical rows node, attrs and file of one id share a table row, so that creating a file and looking at it are one
statement each; each part is still written and undone by itself.

Threading: as its Database. A store over a reader's connection does not cache: it could not know when rows change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gdah_volume.caching import MISSING, Cache, Missing
from gdah_volume.ids import LinkId, NodeId, Version
from gdah_volume.names import is_conflict
from gdah_volume.rows import AttrsRow, Before, FileRow, LinkRow, NodeRow, VersionRow

if TYPE_CHECKING:
    from gdah_volume.database import Database

CACHED_NODES = 20_000
CACHED_LINKS = 20_000
CACHED_VERSIONS = 512
CACHED_CONTENT_BYTES = 32 << 10
"""Longer contents (files of more than about 700 MiB) are read anew each time."""

_xattrs_encoder = msgspec.msgpack.Encoder()
_xattrs_decoder: msgspec.msgpack.Decoder[dict[bytes, bytes]] = msgspec.msgpack.Decoder(dict[bytes, bytes])
_NO_XATTRS: dict[bytes, bytes] = {}


class NodeRecord(msgspec.Struct, frozen=True):
    """One row of the table `nodes`, and what `touched_at` adds."""

    node: NodeRow
    attrs: AttrsRow | None
    file: FileRow | None


Touched = tuple[int | None, int]
"""(mtime of a directory or None, ctime) in ns, from what was done to a node's entries and names."""


class Store:
    """Invariant: a cached row equals the table's row as this connection sees it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._caching = not database.read_only
        self.generation = 0
        """Grows with every write, for those who keep derived figures."""
        self.times_before: dict[NodeId, Touched | None] = {}
        """Of what was touched since the engine began to collect changes."""
        self._nodes: Cache[NodeId, NodeRecord | None] = Cache(CACHED_NODES)
        self._touched: Cache[NodeId, Touched | None] = Cache(CACHED_NODES)
        self._links: Cache[LinkId, LinkRow | None] = Cache(CACHED_LINKS)
        self._places: Cache[tuple[NodeId, bytes], LinkId | None] = Cache(CACHED_LINKS)
        self._links_of: Cache[NodeId, tuple[LinkId, ...]] = Cache(CACHED_NODES)
        self._versions: Cache[Version, VersionRow | None] = Cache(CACHED_VERSIONS)
        self.views: Cache[NodeId, Any] = Cache(CACHED_NODES if self._caching else 0)
        """What readers made of a node; dropped here whenever anything about the node changes."""
        self._aliases: dict[NodeId, NodeId] | None = None
        self._merged: dict[NodeId, set[NodeId]] = {}
        database.after_rollback.append(self.forget)

    def forget(self) -> None:
        """Nothing cached is trusted any more."""
        self.generation += 1
        self._aliases = None
        caches: tuple[Cache[Any, Any], ...] = (
            self._nodes,
            self._touched,
            self._links,
            self._places,
            self._links_of,
            self._versions,
            self.views,
        )
        for cache in caches:
            cache.clear()

    # --- reads

    def record(self, node: NodeId) -> NodeRecord | None:
        found = self._nodes.get(node)
        if not isinstance(found, Missing):
            return found
        row = self.database.row(
            "SELECT kind, target, rdev, forked, mode, uid, gid, mtime_ns, atime_ns, ctime_ns, xattrs, version, size"
            " FROM nodes WHERE id = ?",
            (node,),
        )
        record = None if row is None else _record(row)
        if self._caching:
            self._nodes.put(node, record)
        return record

    def node(self, node: NodeId) -> NodeRow | None:
        record = self.record(node)
        return None if record is None else record.node

    def attrs(self, node: NodeId) -> AttrsRow | None:
        record = self.record(node)
        return None if record is None else record.attrs

    def file(self, node: NodeId) -> FileRow | None:
        record = self.record(node)
        return None if record is None else record.file

    def touched(self, node: NodeId) -> Touched | None:
        found = self._touched.get(node)
        if not isinstance(found, Missing):
            return found
        rows = self.database.rows(
            "SELECT mtime_ns, ctime_ns FROM touched_at WHERE node = ? ORDER BY pending DESC", (node,)
        )
        result: Touched | None = None
        if rows:
            result = (next((m for m, _ in rows if m is not None), None), max(c for _, c in rows))
        if self._caching:
            self._touched.put(node, result)
        return result

    def _all_aliases(self) -> dict[NodeId, NodeId]:
        """There is one for each conflict that was merged: few enough to keep all."""
        aliases = self._aliases
        if aliases is None:
            aliases = dict(self.database.rows("SELECT node, into_node FROM aliases"))
            self._merged = {}
            for node, into in aliases.items():
                self._merged.setdefault(into, set()).add(node)
            if self._caching:
                self._aliases = aliases
        return aliases

    def alias(self, node: NodeId) -> NodeId | None:
        if self._caching:
            aliases = self._aliases
            return (self._all_aliases() if aliases is None else aliases).get(node)
        row = self.database.row("SELECT into_node FROM aliases WHERE node = ?", (node,))
        return None if row is None else row[0]

    def merged_into(self, node: NodeId) -> set[NodeId]:
        """The ids whose alias is `node` itself."""
        self._all_aliases()
        return self._merged.get(node, set())

    def link(self, link: LinkId) -> LinkRow | None:
        found = self._links.get(link)
        if not isinstance(found, Missing):
            return found
        row = self.database.row(
            "SELECT node, parent, name, want, rev, live, via, merged FROM links WHERE id = ?", (link,)
        )
        result = None
        if row is not None:
            node, parent, name, want, rev, live, via, merged = row
            result = LinkRow(node, parent, name, want, rev, live == 1, via, merged == 1)
        if self._caching:
            self._links.put(link, result)
        return result

    def version(self, version: Version) -> VersionRow | None:
        found = self._versions.get(version)
        if not isinstance(found, Missing):
            return found
        row = self.database.row("SELECT node, content FROM versions WHERE version = ?", (version,))
        result = None if row is None else VersionRow(row[0], row[1])
        if self._caching:
            self._keep_version(version, result)
        return result

    def _keep_version(self, version: Version, row: VersionRow | None) -> None:
        if row is None or len(row.content) <= CACHED_CONTENT_BYTES:
            self._versions.put(version, row)
        else:
            self._versions.drop(version)

    def last(self, node: NodeId) -> LinkId | None:
        row = self.database.row("SELECT link FROM last WHERE node = ?", (node,))
        return None if row is None else row[0]

    def link_at(self, parent: NodeId, name: bytes) -> LinkId | None:
        key = (parent, name)
        found = self._places.get(key)
        if not isinstance(found, Missing):
            return found
        row = self.database.row("SELECT id FROM links WHERE live = 1 AND parent = ? AND name = ?", key)
        result = None if row is None else row[0]
        if self._caching:
            self._places.put(key, result)
        return result

    def links_of(self, node: NodeId) -> tuple[LinkId, ...]:
        found = self._links_of.get(node)
        if not isinstance(found, Missing):
            return found
        rows = self.database.rows("SELECT id FROM links WHERE live = 1 AND node = ? ORDER BY id", (node,))
        result = tuple(row[0] for row in rows)
        if self._caching:
            self._links_of.put(node, result)
        return result

    def links_via(self, via: NodeId) -> tuple[LinkId, ...]:
        rows = self.database.rows(
            "SELECT id FROM links WHERE live = 1 AND via <> parent AND via = ? ORDER BY id", (via,)
        )
        return tuple(row[0] for row in rows)

    def has_entries(self, node: NodeId, ignoring: Mapping[LinkId, LinkRow | None] = {}) -> bool:
        rows = self.database.execute("SELECT id FROM links WHERE live = 1 AND parent = ?", (node,))
        return any(link not in ignoring for (link,) in rows)

    # --- writes

    def write(self, new: Before) -> None:
        """Make the rows what `new` says (None: absent)."""
        self.generation += 1
        self._write_nodes(new)
        if new.links:
            self._write_links(new.links)
        execute = self.database.execute
        for version, landed in new.versions.items():
            self._keep_version(version, landed)
            if landed is None:
                execute("DELETE FROM versions WHERE version = ?", (version,))
            else:
                execute(
                    "INSERT INTO versions (version, node, content) VALUES (?, ?, ?)"
                    " ON CONFLICT (version) DO UPDATE SET node = excluded.node, content = excluded.content",
                    (version, landed.node, landed.content),
                )
        for node, link in new.last.items():
            if link is None:
                execute("DELETE FROM last WHERE node = ?", (node,))
            else:
                execute("INSERT OR REPLACE INTO last (node, link) VALUES (?, ?)", (node, link))
        for node, into in new.aliases.items():
            self._write_alias(node, into)

    def _write_alias(self, node: NodeId, into: NodeId | None) -> None:
        aliases = self._all_aliases()
        old = aliases.pop(node, None)
        if old is not None:
            self._merged[old].discard(node)
        if into is None:
            self.database.execute("DELETE FROM aliases WHERE node = ?", (node,))
        else:
            aliases[node] = into
            self._merged.setdefault(into, set()).add(node)
            self.database.execute("INSERT OR REPLACE INTO aliases (node, into_node) VALUES (?, ?)", (node, into))

    def _write_nodes(self, new: Before) -> None:
        execute = self.database.execute
        for node, row in new.nodes.items():
            if row is None:
                execute("DELETE FROM nodes WHERE id = ?", (node,))
                self._nodes.put(node, None)
                self.views.drop(node)
                continue
            record = NodeRecord(row, new.attrs.get(node), new.files.get(node))
            execute(
                "INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (node, row.kind, row.target, row.rdev, row.forked, *_attrs_out(record.attrs), *_file_out(record.file)),
            )
            self._nodes.put(node, record)
            self.views.drop(node)
        for node, attrs in new.attrs.items():
            if node not in new.nodes:
                execute(
                    "UPDATE nodes SET mode = ?, uid = ?, gid = ?, mtime_ns = ?, atime_ns = ?, ctime_ns = ?, xattrs = ?"
                    " WHERE id = ?",
                    (*_attrs_out(attrs), node),
                )
                self._replace(node, attrs=attrs)
        for node, file in new.files.items():
            if node not in new.nodes:
                execute("UPDATE nodes SET version = ?, size = ? WHERE id = ?", (*_file_out(file), node))
                self._replace(node, file=file)

    def _replace(
        self, node: NodeId, *, attrs: AttrsRow | Missing | None = MISSING, file: FileRow | Missing | None = MISSING
    ) -> None:
        self.views.drop(node)
        old = self._nodes.get(node)
        if old is None or isinstance(old, Missing):
            self._nodes.drop(node)
            return
        record = NodeRecord(
            old.node,
            old.attrs if isinstance(attrs, Missing) else attrs,
            old.file if isinstance(file, Missing) else file,
        )
        self._nodes.put(node, record)

    def _write_links(self, links: dict[LinkId, LinkRow | None]) -> None:
        execute = self.database.execute
        for link in links:
            old = self.link(link)
            if old is not None and old.live:
                self._places.put((old.parent, old.name), None)
                self._links_of.drop(old.node)
                self.views.drop(old.node)
        for link, row in links.items():
            self._links.put(link, row)
            if row is None:
                execute("DELETE FROM links WHERE id = ?", (link,))
                continue
            execute(
                "INSERT OR REPLACE INTO links VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    link,
                    row.node,
                    row.parent,
                    row.name,
                    row.want,
                    row.rev,
                    row.live,
                    row.via,
                    row.merged,
                    is_conflict(row.name),
                ),
            )
            if row.live:
                self._places.put((row.parent, row.name), link)
                self._links_of.drop(row.node)
                self.views.drop(row.node)

    # --- times that are no part of the fold

    def touch(
        self, node: NodeId, clock: int, server: str, mtime_ns: int | None, ctime_ns: int, *, pending: bool
    ) -> None:
        """A node's entries or names changed. The later stamp's mtime wins; ctime only grows."""
        self.times_before.setdefault(node, self.touched(node))
        self._touched.drop(node)
        self.views.drop(node)
        self.generation += 1
        self.database.execute(
            "INSERT INTO touched_at VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (node, pending) DO UPDATE SET"
            " ctime_ns = max(ctime_ns, excluded.ctime_ns),"
            " mtime_ns = CASE WHEN excluded.mtime_ns IS NOT NULL AND (mtime_ns IS NULL OR"
            " (excluded.clock, excluded.server) >= (clock, server)) THEN excluded.mtime_ns ELSE mtime_ns END,"
            " clock = CASE WHEN excluded.mtime_ns IS NOT NULL THEN max(clock, excluded.clock) ELSE clock END,"
            " server = CASE WHEN excluded.mtime_ns IS NOT NULL AND excluded.clock >= clock"
            " THEN excluded.server ELSE server END",
            (node, pending, clock, server, mtime_ns, ctime_ns),
        )

    def touches_of_pending(self, clock: int) -> list[tuple[NodeId, int | None, int]]:
        """Take out what a pending operation left here: (node, mtime, ctime)."""
        for (node,) in self.database.rows("SELECT node FROM touched_at WHERE pending = 1 AND clock = ?", (clock,)):
            self.times_before.setdefault(node, self.touched(node))
        rows = self.database.rows(
            "DELETE FROM touched_at WHERE pending = 1 AND clock = ? RETURNING node, mtime_ns, ctime_ns", (clock,)
        )
        for node, _, _ in rows:
            self._touched.drop(node)
            self.views.drop(node)
        return rows


def _record(row: tuple[Any, ...]) -> NodeRecord:
    kind, target, rdev, forked, mode, uid, gid, mtime_ns, atime_ns, ctime_ns, xattrs, version, size = row
    attrs = None
    if mode is not None:
        named = _NO_XATTRS if xattrs == b"\x80" else _xattrs_decoder.decode(xattrs)
        attrs = AttrsRow(mode, uid, gid, mtime_ns, atime_ns, ctime_ns, named)
    file = None if version is None else FileRow(version, size)
    return NodeRecord(NodeRow(kind, target, rdev, forked == 1), attrs, file)


def _attrs_out(attrs: AttrsRow | None) -> tuple[Any, ...]:
    if attrs is None:
        return (None,) * 7
    xattrs = _xattrs_encoder.encode(dict(sorted(attrs.xattrs.items()))) if attrs.xattrs else b"\x80"
    return (attrs.mode, attrs.uid, attrs.gid, attrs.mtime_ns, attrs.atime_ns, attrs.ctime_ns, xattrs)


def _file_out(file: FileRow | None) -> tuple[Any, ...]:
    return (None, None) if file is None else (file.version, file.size)
