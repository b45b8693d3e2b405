"""What an operation's ids mean in the tree as it is now: nodes that were merged, versions that landed elsewhere,
places of the dead. Reads only. Part of the rules (see `rules`).
"""

from __future__ import annotations

from gdah_volume.errors import FileSystemError
from gdah_volume.ids import LOST, ROOT, LinkId, NodeId, OpId, Version
from gdah_volume.rows import LinkRow, Rows, VersionRow


class Meaning:
    """One application. `refusal` is the first thing that was not as the author asked."""

    def __init__(self, op: OpId, time_ns: int, rows: Rows) -> None:
        self.op = op
        self.time_ns = time_ns
        self.rows = rows
        self.refusal: FileSystemError | None = None

    def refuse(self, kind: type[FileSystemError], why: str) -> None:
        if self.refusal is None:
            self.refusal = kind(why)

    def resolve(self, node: NodeId) -> NodeId:
        while (into := self.rows.alias(node)) is not None:
            node = into
        return node

    def landed(self, version: Version | None) -> VersionRow | None:
        if version is None:
            return None
        row = self.rows.version(version)
        if row is None and "+" in version:
            for member in version.split("+"):
                row = self.rows.version(Version(member))
                if row is not None:
                    break
        return row

    def target(self, node: NodeId, version: Version | None) -> NodeId:
        """The node that an author meant who saw `version` of `node`: where that version is now."""
        node = self.resolve(node)
        if version is not None:
            file = self.rows.file(node)
            if file is None or file.version != version:
                row = self.landed(version)
                if row is not None:
                    return row.node
        return node

    def alive(self, node: NodeId) -> bool:
        return node in (ROOT, LOST) or bool(self.rows.links_of(node))

    def is_dir(self, node: NodeId) -> bool:
        row = self.rows.node(node)
        return row is not None and row.kind == "dir"

    def first_or_last(self, node: NodeId) -> LinkId | None:
        links = self.rows.links_of(node)
        return links[0] if links else self.rows.last(node)

    def branch_link(self, node: NodeId) -> LinkId | None:
        """The one name that an author can have meant: a fork's own, else the only one, else the last of a dead
        node."""
        row = self.rows.node(node)
        if row is not None and row.forked:
            return LinkId(node)
        links = self.rows.links_of(node)
        if len(links) > 1:
            return None
        return links[0] if links else self.rows.last(node)

    def seen_merge(self, row: LinkRow, also: tuple[NodeId, ...]) -> LinkId | None:
        """The link that stands for a merged one, if the author knew that the two are one."""
        node = self.resolve(row.node)
        return self.first_or_last(node) if node in also else None

    def inside(self, directory: NodeId, node: NodeId) -> bool:
        """Whether `directory` is `node` or lies below it, dead ones by their last place."""
        seen = set()
        walk = self.resolve(directory)
        while walk not in seen:
            if walk == node:
                return True
            if walk in (ROOT, LOST):
                return False
            seen.add(walk)
            link = self.first_or_last(walk)
            row = None if link is None else self.rows.link(link)
            if row is None:
                return False
            walk = self.resolve(row.parent)
        return False

    def holds(self, node: NodeId, size: int, packed: bytes) -> bool:
        """Whether the current content of a file is this."""
        file = self.rows.file(node)
        if file is None or file.size != size:
            return False
        current = self.rows.version(file.version)
        return current is not None and current.content == packed

    def link_of_version(self, version: Version | None) -> LinkId | None:
        landed = self.landed(version)
        return None if landed is None else self.branch_link(landed.node)
