"""Times that follow from what happens to entries: a directory's mtime, and ctime where only names of a node changed.

They are no part of the fold and never undone: the latest stamp wins. They come from the operations (the author's
clock).
"""

from __future__ import annotations

from gdah_volume.ids import NodeId
from gdah_volume.operations import Operation, SetAttr
from gdah_volume.rows import Before, Order
from gdah_volume.stamps import PENDING_CLOCK
from gdah_volume.store import Store


def note_times(store: Store, op: Operation, order: Order, before: Before, after: Before) -> None:
    """Take down the times of what one operation changed."""
    clock, server = order[0], order[1]
    pending = clock >= PENDING_CLOCK
    directories: set[NodeId] = set()
    named: set[NodeId] = set()
    for link, new in after.links.items():
        old = before.links[link]
        was = old if old is not None and old.live else None
        now = new if new is not None and new.live else None
        if was is not None and now is not None and (was.parent, was.name) == (now.parent, now.name):
            continue
        for row in (was, now):
            if row is not None:
                directories.add(row.parent)
                named.add(row.node)
    if isinstance(op, SetAttr) and op.mtime_ns is not None:
        for node in after.attrs:
            known = store.node(node)
            if known is not None and known.kind == "dir":
                store.touch(node, clock, server, op.mtime_ns, op.time_ns, pending=pending)
    for directory in directories:
        store.touch(directory, clock, server, op.time_ns, op.time_ns, pending=pending)
    for node in named - directories:
        if node not in after.nodes and store.links_of(node):
            store.touch(node, clock, server, None, op.time_ns, pending=pending)


def move_times(store: Store, pending_clock: int, order: Order) -> int:
    """A pending operation got its stamp. Returns of how many nodes; a later pending one may have taken some over."""
    rows = store.touches_of_pending(pending_clock)
    for node, mtime_ns, ctime_ns in rows:
        store.touch(node, order[0], order[1], mtime_ns, ctime_ns, pending=False)
    return len(rows)
