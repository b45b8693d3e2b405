"""The rows of the fold in plain dictionaries: what the tables of a replica must say, computed without tables, without
roll back and without any shortcut. The oracle of the engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field, fields

from gdah_volume.errors import FileSystemError
from gdah_volume.ids import LinkId, NodeId, Version
from gdah_volume.operations import Operation
from gdah_volume.rows import AttrsRow, FileRow, LinkRow, NodeRow, VersionRow
from gdah_volume.rules import fold


@dataclass
class State:
    """All rows of a fold; two replicas agree iff these are equal."""

    nodes: dict[NodeId, NodeRow] = field(default_factory=dict)
    aliases: dict[NodeId, NodeId] = field(default_factory=dict)
    attrs: dict[NodeId, AttrsRow] = field(default_factory=dict)
    files: dict[NodeId, FileRow] = field(default_factory=dict)
    links: dict[LinkId, LinkRow] = field(default_factory=dict)
    versions: dict[Version, VersionRow] = field(default_factory=dict)
    last: dict[NodeId, LinkId] = field(default_factory=dict)

    def copy(self) -> State:
        return State(*(copy(getattr(self, table.name)) for table in fields(self)))

    def difference(self, other: State) -> str:
        """For people: what differs, '' if nothing does."""
        lines = []
        for table in fields(self):
            mine, theirs = getattr(self, table.name), getattr(other, table.name)
            keys = sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))
            lines += [f"{table.name}[{key}]: {mine.get(key)} != {theirs.get(key)}" for key in keys]
        return "\n".join(lines)

    # --- what follows from the links

    def live(self) -> dict[LinkId, LinkRow]:
        return {link: row for link, row in self.links.items() if row.live}

    def links_of(self, node: NodeId) -> tuple[LinkId, ...]:
        return tuple(sorted(link for link, row in self.links.items() if row.live and row.node == node))


class PlainRows:
    """`gdah_volume.rows.Rows` over a State: an operation's writes go straight in, the old rows are kept for `undo`."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.saved = state.copy()

    def apply(self, op: Operation) -> FileSystemError | None:
        self.saved = self.state.copy()
        return fold(op, self)

    def forget_writes(self) -> None:
        for table in fields(State):
            rows = getattr(self.state, table.name)
            rows.clear()
            rows.update(getattr(self.saved, table.name))

    def node(self, node: NodeId) -> NodeRow | None:
        return self.state.nodes.get(node)

    def alias(self, node: NodeId) -> NodeId | None:
        return self.state.aliases.get(node)

    def attrs(self, node: NodeId) -> AttrsRow | None:
        return self.state.attrs.get(node)

    def file(self, node: NodeId) -> FileRow | None:
        return self.state.files.get(node)

    def link(self, link: LinkId) -> LinkRow | None:
        return self.state.links.get(link)

    def version(self, version: Version) -> VersionRow | None:
        return self.state.versions.get(version)

    def last(self, node: NodeId) -> LinkId | None:
        return self.state.last.get(node)

    def link_at(self, parent: NodeId, name: bytes) -> LinkId | None:
        found = [
            link for link, row in self.state.links.items() if row.live and (row.parent, row.name) == (parent, name)
        ]
        return found[0] if found else None

    def links_of(self, node: NodeId) -> tuple[LinkId, ...]:
        return self.state.links_of(node)

    def links_via(self, via: NodeId) -> tuple[LinkId, ...]:
        rows = self.state.links
        return tuple(sorted(link for link, row in rows.items() if row.live and row.via == via and row.parent != via))

    def has_entries(self, node: NodeId) -> bool:
        return any(row.live and row.parent == node for row in self.state.links.values())

    def put_node(self, node: NodeId, row: NodeRow) -> None:
        self.state.nodes[node] = row

    def put_alias(self, node: NodeId, into: NodeId | None) -> None:
        if into is None:
            self.state.aliases.pop(node, None)
        else:
            self.state.aliases[node] = into

    def put_attrs(self, node: NodeId, row: AttrsRow) -> None:
        self.state.attrs[node] = row

    def put_file(self, node: NodeId, row: FileRow) -> None:
        self.state.files[node] = row

    def put_link(self, link: LinkId, row: LinkRow) -> None:
        self.state.links[link] = row

    def put_version(self, version: Version, row: VersionRow) -> None:
        self.state.versions[version] = row

    def put_last(self, node: NodeId, link: LinkId) -> None:
        self.state.last[node] = link


def fold_all(start: State, operations: Iterable[Operation]) -> State:
    """`start` with the operations applied in the order given."""
    rows = PlainRows(start.copy())
    for op in operations:
        rows.apply(op)
    return rows.state
