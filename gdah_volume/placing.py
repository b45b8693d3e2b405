"""How a name comes to a place and leaves it: conflict names, bringing back what was removed, merging and taking a
merge back. Part of the rules (see `rules`).
"""

from __future__ import annotations

from gdah_volume import errors
from gdah_volume.ids import LOST, VERSION_MAX_CHARS, LinkId, NodeId, OpId, Version
from gdah_volume.meaning import Meaning
from gdah_volume.names import conflict_name
from gdah_volume.rows import FileRow, LinkRow, VersionRow, unpack_content


def union(versions: Version, op: OpId, *others: str) -> Version:
    """The sorted set of all; a set that grew beyond what a message can carry starts anew with `op`."""
    joined = "+".join(sorted({*versions.split("+"), op, *others}))
    return Version(joined if len(joined) <= VERSION_MAX_CHARS else op)


class Placing(Meaning):
    def free_name(self, parent: NodeId, name: bytes, want: bytes, mover: LinkId | None = None) -> bytes:
        """`name`, or a conflict name where another link than `mover` has it. The occupant always keeps its name."""
        attempt = 0
        while self.rows.link_at(parent, name) not in (None, mover):
            self.refuse(errors.Exists, "the name is taken")
            attempt += 1
            name = conflict_name(want, self.op, attempt)
        return name

    def detach(self, link: LinkId, row: LinkRow) -> None:
        self.rows.put_link(link, LinkRow(row.node, row.parent, row.name, row.want, row.rev, False, row.via))
        self.rows.put_last(row.node, link)

    def directory(self, node: NodeId) -> NodeId:
        """The live directory meant by `node`, brought back with its parents if it was removed; else the hidden one."""
        found = self.resolve(node)
        if not self.is_dir(found):
            known = self.rows.node(found) is not None
            self.refuse(errors.NotADirectory if known else errors.NotFound, "the folder is unknown or no folder")
            return LOST
        dead: list[LinkId] = []
        walk = found
        seen = set()
        while not self.alive(walk):
            self.refuse(errors.NotFound, "the folder has been removed")
            link = self.rows.last(walk)
            row = None if link is None else self.rows.link(link)
            if link is None or row is None or walk in seen:
                break
            seen.add(walk)
            dead.append(link)
            walk = self.resolve(row.parent)
            if not self.is_dir(walk):
                break
        for link in reversed(dead):
            self.revive_in_living(link)
        found = self.resolve(node)
        return found if self.alive(found) else LOST

    def revive(self, link: LinkId | None) -> None:
        row = None if link is None else self.rows.link(link)
        if link is None or row is None:
            return
        self.directory(row.parent)
        self.revive_in_living(link)

    def revive_in_living(self, link: LinkId) -> None:
        """`revive` where the directories above are alive, or stay as they are."""
        row = self.rows.link(link)
        if row is None or row.live:
            return
        parent = self.resolve(row.parent)
        if not self.is_dir(parent) or not self.alive(parent):
            parent = LOST
        occupant = self.rows.link_at(parent, row.name)
        if occupant is not None and self.is_dir(row.node):
            other = self.rows.link(occupant)
            if other is not None and self.is_dir(other.node):
                placed = LinkRow(row.node, parent, row.name, row.want, row.rev, False, row.via)
                self.merge(link, placed, occupant, other)
                return
        name = self.free_name(parent, row.name, row.want)
        self.rows.put_link(link, LinkRow(row.node, parent, name, row.want, row.rev, True, row.via))

    def merge(self, link: LinkId, row: LinkRow, occupant: LinkId, other: LinkRow) -> None:
        """The node of `link` becomes part of the occupant's, with all that was merged into it before."""
        self.rows.put_alias(row.node, other.node)
        self.rows.put_link(
            link, LinkRow(row.node, row.parent, row.name, row.want, row.rev, False, row.via, merged=True)
        )
        rev = union(other.rev, self.op, row.node, *self.merged_parts(row.rev))
        self.rows.put_link(
            occupant, LinkRow(other.node, other.parent, other.name, other.want, rev, other.live, other.via)
        )

    def merged_parts(self, rev: Version) -> list[str]:
        """The nodes that were merged into what `rev` placed. A move keeps them in the new `rev`: only who has seen them
        may remove what holds them."""
        if "+" not in rev:
            return []
        return [part for part in rev.split("+") if self.rows.alias(NodeId(part)) is not None]

    def same(self, node: NodeId, size: int, packed: bytes) -> None:
        """The operation brought the content that is there: the version becomes the set of both."""
        current = self.rows.file(node)
        assert current is not None
        joined = union(current.version, self.op)
        self.rows.put_file(node, FileRow(joined, size))
        self.rows.put_version(Version(self.op), VersionRow(node, packed))
        self.rows.put_version(joined, VersionRow(node, packed))

    def split(self, link: LinkId, row: LinkRow, version: Version | None) -> None:
        """Take a merge back: the node stands alone again, without a place; a file with the content its author saw."""
        rows, node = self.rows, row.node
        rows.put_alias(node, None)
        rows.put_link(link, LinkRow(node, row.parent, row.name, row.want, row.rev, False, row.via))
        rows.put_last(node, link)
        known = rows.node(node)
        if known is None or known.kind != "file":
            return
        content = self.landed(version)
        if content is None or version is None:
            version = Version(node)
            content = self.landed(version)
        if content is not None:
            rows.put_file(node, FileRow(version, unpack_content(content.content).size))
            rows.put_version(version, VersionRow(node, content.content))

    def take_along(self, node: NodeId, out_of: NodeId) -> None:
        """What was put into a directory under its own id, while it was merged into another, leaves with it."""
        for link in self.rows.links_via(node):
            row = self.rows.link(link)
            if row is not None and row.parent == out_of:
                moved = LinkRow(row.node, node, row.name, row.want, row.rev, True, node)
                self.rows.put_link(link, moved)
