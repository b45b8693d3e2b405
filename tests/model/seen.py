"""Property 4: nobody moves or removes a link that he had not seen; a last name goes only by one who thought that it was
the last. Judged for each step of a fold, from what the author's view showed when he made the operation.
"""

from __future__ import annotations

from gdah_volume.ids import LinkId, NodeId, OpId, Version
from gdah_volume.operations import Exchange, Operation, Rename, Replaced, Rmdir, Unlink
from gdah_volume.rows import LinkRow
from tests.model.clients import Issued
from tests.model.plain import State
from tests.model.violation import require

Movers = dict[LinkId, OpId]
"""Who moved a link last, of those that were moved (or found it moved to where he wanted it)."""


def note_moves(movers: Movers, op: Operation, before: State, after: State) -> None:
    if isinstance(op, Exchange):
        movers.update((link, op.id) for link, old in before.links.items() if after.links[link] != old)
    if not isinstance(op, Rename):
        return
    for link, old in before.links.items():
        new = after.links[link]
        moved = (old.parent, old.name) != (new.parent, new.name)
        if new.live and new != old and (moved or (op.link == link and op.name == new.name)):
            movers[link] = op.id


def check_seen(issued: Issued, before: State, after: State, movers: Movers) -> None:
    """Of one operation."""
    if isinstance(issued.op, Exchange):
        check_exchange(issued.op, before, after)
    for link, old in before.live().items():
        new = after.links[link]
        if new.live and (new.parent, new.name, new.node) == (old.parent, old.name, old.node):
            continue
        went = not new.live
        require(
            4,
            was_seen(issued, link, old, before) or (not went and new.parent == old.via and new.name == old.name),
            f"{issued.op.id} {'removed' if went else 'moved'} {link}, which its author had not seen",
        )
        if went and not new.merged:
            check_removal(issued, link, old, before, after, movers)


def check_exchange(op: Exchange, before: State, after: State) -> None:
    """Both names or none; and only those that nobody had moved, nor put another content behind."""
    changed = {link for link, old in before.links.items() if after.links[link] != old}
    require(4, changed in (set(), {op.link, op.other.link}), f"{op.id} exchanged {sorted(changed)}")
    for seen, other in ((op, op.other), (op.other, op)) if changed else ():
        old, place, new = before.links[seen.link], before.links[other.link], after.links[seen.link]
        require(4, old.live and old.rev == seen.rev, f"{op.id} moved {seen.link}, which had been placed anew meanwhile")
        require(4, (new.parent, new.name) == (place.parent, place.name), f"{op.id} put {seen.link} elsewhere")
        # A file that is parted from another keeps its version, and so does the other: then it is in both.
        file = before.files.get(old.node)
        still = seen.version is None or (file is not None and file.version == seen.version)
        gone = not still and seen.version is not None and landed(seen.version, before) != old.node
        require(4, not gone, f"{op.id} moved {seen.link}, but what its author had seen there is in another file")


def drops(op: Operation) -> Replaced | None:
    match op:
        case Unlink():
            return Replaced(op.link, op.rev, op.node, op.version, op.last, False, op.also)
        case Rmdir():
            return Replaced(op.link, op.rev, op.node, None, True, True, op.also)
        case Rename():
            return op.replaces
    return None


def was_seen(issued: Issued, link: LinkId, row: LinkRow, before: State) -> bool:
    """He had the link in his view; or what he saw under another one has gone into this node meanwhile, and the link is
    the only name of that, or the one that it was given then."""
    if link in issued.links:
        return True
    if before.links_of(row.node) != (link,) and link != LinkId(row.node):
        return False
    seen = drops(issued.op)
    versions = [seen.version if seen else None, issued.op.version if isinstance(issued.op, Rename) else None]
    return any(row.node == landed(version, before) for version in versions if version is not None)


def merged_into(node: NodeId, state: State) -> set[NodeId]:
    found: set[NodeId] = set()
    for alias in state.aliases:
        walk = alias
        while walk in state.aliases:
            walk = state.aliases[walk]
        if walk == node:
            found.add(alias)
    return found


def landed(version: Version, state: State) -> NodeId | None:
    for name in (version, *version.split("+")):
        found = state.versions.get(Version(name))
        if found is not None:
            return found.node
    return None


def check_removal(issued: Issued, link: LinkId, old: LinkRow, before: State, after: State, movers: Movers) -> None:
    op, seen = issued.op, drops(issued.op)
    if isinstance(op, Rename) and (seen is None or link == op.link):
        # The moved link met another name of its own file, or went with a merge.
        require(4, after.links_of(old.node), f"{op.id} moved {link} and its file has no name any more")
        return
    require(4, seen is not None, f"{op.id} removed {link} without asking for it")
    assert seen is not None
    if link == seen.link:
        require(4, old.rev == seen.rev, f"{op.id} removed {link}, which had been placed anew meanwhile")
    mover = movers.get(link)
    # What he had seen may be in another file now, and that moved by others: by its version it is his to remove.
    followed = link not in (seen.link, *issued.links)
    known = followed or mover is None or mover == op.id or mover in issued.view
    require(4, known, f"{op.id} removed {link}, which {mover} had moved meanwhile")
    if before.nodes[old.node].kind == "dir":
        inside = [other for other, row in after.live().items() if row.parent == old.node]
        require(4, not inside, f"{op.id} removed a folder that holds {inside}")
        strange = merged_into(old.node, before) - {seen.node, *seen.also}
        require(4, not strange, f"{op.id} removed {strange} with it, of which its author did not know")
    elif not after.links_of(old.node):
        require(4, seen.last, f"{op.id} removed the last name of {old.node}, its author knew another one")
        if before.nodes[old.node].kind == "file":
            version = before.files[old.node].version
            require(4, version == seen.version, f"{op.id} removed {version}, its author had seen {seen.version}")
