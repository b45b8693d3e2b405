"""The tables of a replica read as the rows of the fold, by SQL of their own: no cache of the product is between."""

from __future__ import annotations

import msgspec

from gdah_volume.database import Database
from gdah_volume.ids import LinkId, NodeId, Version
from gdah_volume.rows import AttrsRow, FileRow, LinkRow, NodeRow, VersionRow
from tests.model.plain import State


def state_of(database: Database) -> State:
    state = State()
    columns = "id, kind, target, rdev, forked, mode, uid, gid, mtime_ns, atime_ns, ctime_ns, xattrs, version, size"
    for node, kind, target, rdev, forked, *attrs, xattrs, version, size in database.rows(
        f"SELECT {columns} FROM nodes"
    ):
        state.nodes[node] = NodeRow(kind, target, rdev, forked == 1)
        if attrs[0] is not None:
            state.attrs[node] = AttrsRow(*attrs, msgspec.msgpack.decode(xattrs, type=dict[bytes, bytes]))  # type: ignore[call-arg]
        if version is not None:
            state.files[node] = FileRow(version, size)
    state.aliases.update(database.rows("SELECT node, into_node FROM aliases"))
    columns = "id, node, parent, name, want, rev, live, via, merged"
    for link, node, parent, name, want, rev, live, via, merged in database.rows(f"SELECT {columns} FROM links"):
        state.links[link] = LinkRow(node, parent, name, want, rev, live == 1, via, merged == 1)
    for version, node, content in database.rows("SELECT version, node, content FROM versions"):
        state.versions[version] = VersionRow(node, content)
    state.last.update(database.rows("SELECT node, link FROM last"))
    return state


def live_links(database: Database) -> dict[LinkId, tuple[NodeId, Version]]:
    return {link: (node, rev) for link, node, rev in database.rows("SELECT id, node, rev FROM links WHERE live = 1")}
