"""One operation being evaluated: its writes on top of the rows as they are, and the keys that it touched.

Nothing is written anywhere until the engine takes the result over, so a refused or clashing evaluation is simply
dropped. This module knows no rule and no storage. Threading: an evaluation lives inside one call.
"""

from __future__ import annotations

from gdah_volume.ids import LinkId, NodeId, Version
from gdah_volume.rows import (
    MEMBERS,
    READ,
    WRITTEN,
    AttrsRow,
    Before,
    FileRow,
    Key,
    LinkRow,
    NodeRow,
    Source,
    VersionRow,
)


class Evaluation:
    """Implements `Rows`. Invariant: a row is in `new` iff it was written, and then in `touched` as WRITTEN."""

    __slots__ = ("_source", "new", "touched")

    def __init__(self, source: Source) -> None:
        self._source = source
        self.touched: dict[Key, int] = {}
        self.new = Before(nodes={}, aliases={}, attrs={}, files={}, links={}, versions={}, last={})

    def _touch(self, key: Key, mode: int) -> None:
        self.touched[key] = self.touched.get(key, 0) | mode

    # --- reads

    def node(self, node: NodeId) -> NodeRow | None:
        self._touch(("node", node), READ)
        new = self.new.nodes
        return new[node] if node in new else self._source.node(node)

    def alias(self, node: NodeId) -> NodeId | None:
        self._touch(("alias", node), READ)
        new = self.new.aliases
        return new[node] if node in new else self._source.alias(node)

    def attrs(self, node: NodeId) -> AttrsRow | None:
        self._touch(("attrs", node), READ)
        new = self.new.attrs
        return new[node] if node in new else self._source.attrs(node)

    def file(self, node: NodeId) -> FileRow | None:
        self._touch(("file", node), READ)
        new = self.new.files
        return new[node] if node in new else self._source.file(node)

    def link(self, link: LinkId) -> LinkRow | None:
        self._touch(("link", link), READ)
        new = self.new.links
        return new[link] if link in new else self._source.link(link)

    def version(self, version: Version) -> VersionRow | None:
        self._touch(("version", version), READ)
        new = self.new.versions
        return new[version] if version in new else self._source.version(version)

    def last(self, node: NodeId) -> LinkId | None:
        self._touch(("last", node), READ)
        new = self.new.last
        return new[node] if node in new else self._source.last(node)

    def link_at(self, parent: NodeId, name: bytes) -> LinkId | None:
        self._touch(("at", parent, name), READ)
        for link, row in self.new.links.items():
            if row is not None and row.live and row.name == name and row.parent == parent:
                return link
        found = self._source.link_at(parent, name)
        return None if found in self.new.links else found

    def links_of(self, node: NodeId) -> tuple[LinkId, ...]:
        self._touch(("of", node), READ)
        found = self._source.links_of(node)
        new = self.new.links
        if not new:
            return found
        kept = {link for link in found if link not in new}
        kept.update(link for link, row in new.items() if row is not None and row.live and row.node == node)
        return tuple(sorted(kept))

    def links_via(self, via: NodeId) -> tuple[LinkId, ...]:
        self._touch(("via", via), READ)
        new = self.new.links
        kept = {link for link in self._source.links_via(via) if link not in new}
        kept.update(
            link
            for link, row in new.items()
            if row is not None and row.live and row.via == via and row.parent != row.via
        )
        return tuple(sorted(kept))

    def has_entries(self, node: NodeId) -> bool:
        self._touch(("in", node), READ)
        new = self.new.links
        if any(row is not None and row.live and row.parent == node for row in new.values()):
            return True
        return self._source.has_entries(node, new)

    # --- writes

    def put_node(self, node: NodeId, row: NodeRow) -> None:
        self._touch(("node", node), WRITTEN)
        self.new.nodes[node] = row

    def put_alias(self, node: NodeId, into: NodeId | None) -> None:
        self._touch(("alias", node), WRITTEN)
        self.new.aliases[node] = into

    def put_attrs(self, node: NodeId, row: AttrsRow) -> None:
        self._touch(("attrs", node), WRITTEN)
        self.new.attrs[node] = row

    def put_file(self, node: NodeId, row: FileRow) -> None:
        self._touch(("file", node), WRITTEN)
        self.new.files[node] = row

    def put_version(self, version: Version, row: VersionRow) -> None:
        self._touch(("version", version), WRITTEN)
        self.new.versions[version] = row

    def put_last(self, node: NodeId, link: LinkId) -> None:
        self._touch(("last", node), WRITTEN)
        self.new.last[node] = link

    def put_link(self, link: LinkId, row: LinkRow) -> None:
        old = self.link(link)
        self._touch(("link", link), WRITTEN)
        self.new.links[link] = row
        if old is not None and old.live:
            self._leave_or_join(old, row)
        if row.live:
            self._leave_or_join(row, old)

    def _leave_or_join(self, row: LinkRow, other: LinkRow | None) -> None:
        """Touch what `row` is a member of and `other` (the same link before or after) is not."""
        if other is not None and not other.live:
            other = None
        if other is None or row.parent != other.parent or row.name != other.name:
            self._touch(("at", row.parent, row.name), WRITTEN)
            self._touch(("in", row.parent), MEMBERS)
        if other is None or row.node != other.node:
            self._touch(("of", row.node), MEMBERS)
        if row.via != row.parent and (other is None or other.via != row.via or other.via == other.parent):
            self._touch(("via", row.via), MEMBERS)

    def forget_writes(self) -> None:
        self.new = Before(nodes={}, aliases={}, attrs={}, files={}, links={}, versions={}, last={})
        self.touched = dict.fromkeys(self.touched, READ)

    # --- the result

    def before(self) -> Before:
        """The rows that were written, as they are in the source."""
        new, source = self.new, self._source
        return Before(
            nodes={node: source.node(node) for node in new.nodes},
            aliases={node: source.alias(node) for node in new.aliases},
            attrs={node: source.attrs(node) for node in new.attrs},
            files={node: source.file(node) for node in new.files},
            links={link: source.link(link) for link in new.links},
            versions={version: source.version(version) for version in new.versions},
            last={node: source.last(node) for node in new.last},
        )
