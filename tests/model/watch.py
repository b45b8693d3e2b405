"""What a change reports must cover what changed: the kernel is told to forget exactly that, and would keep the rest."""

from __future__ import annotations

from collections.abc import Callable

from gdah_volume.database import Database
from gdah_volume.ids import LOST, NodeId
from gdah_volume.replica import Changes
from tests.model.plain import State
from tests.model.rows import state_of


def entries(state: State) -> dict[tuple[NodeId, bytes], NodeId]:
    return {(row.parent, row.name): row.node for row in state.live().values()}


def faces(state: State) -> dict[NodeId, tuple[object, ...]]:
    """What a program may see of each node, open files without a name included."""
    return {
        node: (state.attrs.get(node), state.files.get(node), len(state.links_of(node)), state.aliases.get(node))
        for node in state.nodes
    }


def watched(database: Database, change: Callable[[], Changes]) -> Changes:
    """Do it and compare its report with the tables before and after."""
    before = state_of(database)
    told = change()
    after = state_of(database)
    old_entries, new_entries = entries(before), entries(after)
    moved = {at for at in {*old_entries, *new_entries} if old_entries.get(at) != new_entries.get(at)}
    assert moved <= told.entries, f"nobody was told of {moved - told.entries}"
    old_faces, new_faces = faces(before), faces(after)
    changed = {node for node in {*old_faces} & {*new_faces} if old_faces[node] != new_faces[node]} - {LOST}
    assert changed <= told.nodes, f"nobody was told of {changed - told.nodes}"
    return told
