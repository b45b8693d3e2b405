"""What must hold, as functions that raise a Violation which names the property.

1. Same operations with the same smallest stamps: same rows, however they arrived.
2. A tree: no cycle, everything alive is reachable, names unique, one name for a folder, no loop of aliases.
3. Acknowledged content is current somewhere, or the base of a write by one who saw it, or removed by one who saw it.
4. Nobody moves or removes a link that he had not seen; a last name goes only by one who thought that it was the last.
5. A client alone never meets a conflict of its own work.
6. A client's view never goes backwards, and an operation comes after everything that its author had seen.
7. What was acknowledged as clean by all servers is clean for ever: one winner of exclusive creates.
8. Conflict names only where operations were concurrent, or the order was in doubt; healing again makes none.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gdah_volume.content import Content
from gdah_volume.errors import FileSystemError
from gdah_volume.ids import LOST, ROOT, LinkId, NodeId, OpId, Version, author_of
from gdah_volume.names import is_conflict
from gdah_volume.operations import Create, Operation, Write
from gdah_volume.replica import Replica
from gdah_volume.rows import LinkRow, Order, pack_content
from gdah_volume.stamps import ZERO, Stamp
from gdah_volume.undo import Touch, TouchIndex
from tests.model.clients import Issued
from tests.model.plain import PlainRows, State, fold_all
from tests.model.rows import state_of
from tests.model.seen import Movers, check_seen, drops, note_moves
from tests.model.sites import Site
from tests.model.violation import Violation, require
from tests.model.world import World

# --- 1: the same rows -----------------------------------------------------------------------------------


def operations_of(world: World) -> dict[OpId, Operation]:
    return {op: issued.op for op, issued in world.histories().items()}


def check_site(site: Site, operations: dict[OpId, Operation], start: State) -> None:
    """The tables say what the sorted fold of the site's operations says, its pending ones on top."""
    order = [operations[op] for op in site.order()] + site.replica.pending()
    difference = state_of(site.database).difference(fold_all(start, order))
    require(1, not difference, f"{site.name} is not the sorted fold of what it holds:\n{difference}")


def check_log(site: Site) -> None:
    """The log answers for what the site holds: smallest stamps (ZERO: held once), a count, the highest clock."""
    for op, stamp in site.ghost.items():
        told = site.replica.stamp_of(op)
        require(1, told in (stamp, ZERO), f"{site.name} says {told} of {op}, was told {stamp}")
    require(1, site.replica.operations == len(site.ghost), f"{site.name} counts {site.replica.operations} operations")
    highest = max((stamp.clock for stamp in site.ghost.values()), default=0)
    require(1, site.replica.max_clock >= highest, f"{site.name} forgot its clock")
    highest_of: dict[str, int] = {}
    for op in site.ghost:
        highest_of[author_of(op)] = max(highest_of.get(author_of(op), 0), int(op.rpartition("-")[2]))
    for author, sequence in highest_of.items():
        known = site.replica.author_sequence(author)  # type: ignore[arg-type]
        require(1, known >= sequence, f"{site.name} forgot the sequence of {author}")


def check_any_order(replica: Replica, log: list[tuple[Operation, Stamp]], rng: random.Random) -> Replica:
    """Feed an empty replica in a random order with duplicates, too large stamps first, and restarts. Returns it."""
    arrivals = [(op, stamp) for op, stamp in log]
    arrivals += [
        (op, Stamp(stamp.clock + rng.randrange(1, 60), stamp.server)) for op, stamp in log if rng.random() < 0.3
    ]
    arrivals += [entry for entry in log if rng.random() < 0.2]
    if rng.random() < 0.8:
        rng.shuffle(arrivals)
    else:
        arrivals.reverse()
    for op, stamp in arrivals:
        with replica.database.transaction():
            replica.accept(op, stamp)
        if rng.random() < 0.05:
            replica = Replica(replica.database)
    return replica


class EverythingClashes(TouchIndex):
    """Makes of the selective engine one that rolls back all that is later."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: set[Order] = set()

    def add(self, order: Order, touched: Iterable[Touch]) -> None:
        self.orders.add(order)
        super().add(order, touched)

    def remove(self, order: Order, touched: Iterable[Touch]) -> None:
        self.orders.discard(order)
        super().remove(order, touched)

    def clashing(self, above: Order, touched: Iterable[Touch], below: Order | None = None) -> set[Order]:
        return {order for order in self.orders if order > above and (below is None or order < below)}

    def closing(self, above: Order, touched: Iterable[Touch], seen: dict[int, Order]) -> Iterator[Order]:
        yield from self.clashing(above, touched)


# --- 2: a tree --------------------------------------------------------------------------------------------


def check_tree(state: State) -> None:
    live = state.live()
    places = [(row.parent, row.name) for row in live.values()]
    require(2, len(places) == len(set(places)), "two links at one place")
    for node in state.aliases:
        walk, steps = node, 0
        while walk in state.aliases:
            walk, steps = state.aliases[walk], steps + 1
            require(2, steps <= len(state.aliases), f"aliases of {node} go in a circle")
        require(2, not state.links_of(node), f"{node} is merged and has a name")
    for link, row in live.items():
        _check_link(state, link, row)
    for node, known in state.nodes.items():
        require(2, known.kind != "dir" or len(state.links_of(node)) <= 1, f"folder {node} has several names")
    for node in state.files:
        require(2, state.nodes[node].kind == "file", f"{node} has content and is no file")
        require(2, state.files[node].version in state.versions, f"the content of {node} is unknown")


def _check_link(state: State, link: LinkId, row: LinkRow) -> None:
    require(2, row.node in state.nodes and row.node in state.attrs, f"{link} names an unknown node")
    require(2, not row.merged, f"{link} is merged and alive")
    require(2, 0 < len(row.name) <= 255 and b"/" not in row.name, f"{link} has the name {row.name!r}")
    require(2, row.node not in (ROOT, LOST), f"{link} names the root")
    if state.nodes[row.node].kind == "file":
        require(2, row.node in state.files, f"file {row.node} has no content")
    walk, seen = row.parent, set()
    while walk not in (ROOT, LOST):
        require(2, walk not in seen, f"{link} lies in a circle")
        seen.add(walk)
        require(2, walk in state.nodes and state.nodes[walk].kind == "dir", f"{link} lies in no folder")
        above = state.links_of(walk)
        require(2, above, f"{link} lies in a folder that is removed or merged")
        walk = state.links[above[0]].parent


# --- 3: nothing acknowledged is lost --------------------------------------------------------------------


def check_nothing_lost(log: Iterable[Operation], acknowledged: Iterable[OpId], state: State) -> None:
    operations = {op.id: op for op in log}
    current = {state.versions[state.files[row.node].version].content for row in _live_files(state)}
    replaced: set[bytes] = set()
    removed: set[str] = set()
    for op in operations.values():
        if isinstance(op, Write) and op.base is not None:
            replaced.update(pack_content(content) for content in contents_of(op.base, operations))
        seen = drops(op)
        if seen is not None and seen.version is not None:
            removed.update(seen.version.split("+"))
    for op_id in acknowledged:
        require(3, op_id in operations, f"{op_id} was acknowledged and is in no log")
        op = operations[op_id]
        if isinstance(op, Create | Write) and op.content.size:
            packed = pack_content(op.content)
            let_go = packed in replaced or op_id in removed
            require(3, packed in current or let_go, f"the content of {op_id} is gone and nobody let it go")


def _live_files(state: State) -> list[LinkRow]:
    return [row for row in state.live().values() if row.node in state.files]


def contents_of(version: Version, operations: dict[OpId, Operation]) -> list[Content]:
    found = []
    for member in version.split("+"):
        op = operations.get(OpId(member))
        if isinstance(op, Create | Write):
            found.append(op.content)
    return found


# --- 4, 6, 7, 8: step by step through the fold -----------------------------------------------------------


@dataclass
class Told:
    """What the walk through a fold counted."""

    conflicts: int = 0
    forks: int = 0
    merged: int = 0


def check_fold(world: World, log: list[OpId], start: State) -> tuple[State, Told]:
    """Apply the log in order and judge every step by what its author had seen."""
    histories, told = world.histories(), Told()
    movers: Movers = {}
    clean = {entry.op for entry in world.clean}
    place = {op: number for number, op in enumerate(log)}
    rows = PlainRows(start.copy())
    for number, op in enumerate(log):
        issued = histories[op]
        check_cause(issued, place, world.refused)
        refusal = rows.apply(issued.op)
        before = rows.saved
        require(7, op not in clean or refusal is None, f"{op} was acknowledged as clean by all servers: {refusal!r}")
        check_seen(issued, before, rows.state, movers)
        note_moves(movers, issued.op, before, rows.state)
        check_followed(issued.op, rows.state)
        made = new_conflicts(before, rows.state)
        told.conflicts += len(made)
        told.forks += isinstance(issued.op, Write) and NodeId(op) in rows.state.nodes
        told.merged += len(rows.state.aliases) > len(before.aliases)
        expected = is_as_seen(issued, log[:number])
        require(8, not (made and expected), f"{op} got {made} although nothing was concurrent")
        require(8, not expected or refusal is None, f"{op} is not clean although nothing was concurrent: {refusal!r}")
    return rows.state, told


def check_followed(op: Operation, state: State) -> None:
    """What an author wrote anew is not left behind as a copy of its own."""
    if isinstance(op, Write) and op.base is not None:
        left = [node for node, file in state.files.items() if file.version == op.base and state.links_of(node)]
        require(8, not left, f"{op.id} edited {op.base}, which is still there as {left}")


def check_cause(issued: Issued, place: dict[OpId, int], refused: set[OpId]) -> None:
    mine = place[issued.op.id]
    for seen in issued.view:
        if seen not in refused:
            require(6, seen in place, f"{issued.op.id} builds on {seen}, which is lost")
            require(6, place[seen] < mine, f"{issued.op.id} sorts before {seen}, which its author had seen")


def is_as_seen(issued: Issued, before: list[OpId]) -> bool:
    """Whether the fold applies the operation to exactly what its author had seen, in the order in which he saw it (and
    a write was based on what he saw, not on what a file held when it was opened)."""
    return issued.current and before == list(issued.view)


def new_conflicts(before: State, after: State) -> list[bytes]:
    """Names that a link got and had not asked for."""
    made = []
    for link, row in after.links.items():
        old = before.links.get(link)
        had_it = old is not None and old.live and old.name == row.name
        if row.live and row.name != row.want and is_conflict(row.name) and not had_it:
            made.append(row.name)
    return made


# --- 8: healing again -----------------------------------------------------------------------------------


def check_quiet(world: World) -> None:
    """After everything is settled, exchanging it again changes nothing."""
    before = [state_of(site.database) for site in world.sites()]
    heads = [server.replica.head for server in world.servers]
    for server in world.servers:
        for client in world.clients:
            client.server = None
            client.attach(server)
            client.read_feed()
    world.settle()
    require(8, heads == [server.replica.head for server in world.servers], "a log grew without an operation")
    for site, old in zip(world.sites(), before, strict=True):
        require(8, not old.difference(state_of(site.database)), f"{site.name} changed without an operation")


# --- all of it -----------------------------------------------------------------------------------------------


def check_settled(world: World, start: State) -> tuple[list[tuple[Operation, Stamp]], Told]:
    """After `World.settle`: everybody holds the same, it is right, and nothing is missing. Returns the log."""
    first = world.servers[0]
    operations = operations_of(world)
    for client in world.clients:
        require(3, not client.pending(), f"{client.name} still has {client.pending()}")
    for site in world.sites():
        require(6, site.ghost == first.ghost, f"{site.name} and {first.name} do not hold the same")
        require(1, site.replica.digest == first.replica.digest, f"digests of {site.name} and {first.name} differ")
        check_log(site)
    log = first.order()
    require(7, not world.refused & set(log), f"refused and logged: {world.refused & set(log)}")
    state, told = check_fold(world, log, start)
    for site in world.sites():
        difference = state_of(site.database).difference(state)
        require(1, not difference, f"{site.name} is not the sorted fold:\n{difference}")
    check_tree(state)
    check_nothing_lost([operations[op] for op in log], world.acknowledged, state)
    return [(operations[op], first.ghost[op]) for op in log], told


def check_clean_offers(replica: Replica, log: list[tuple[Operation, Stamp]], clean: set[OpId]) -> None:
    """The sorted fold on the tables, with the clean ones offered as strict: none of them is refused."""
    for op, stamp in log:
        with replica.database.transaction():
            if op.id in clean:
                try:
                    replica.offer(op, stamp)
                except FileSystemError as error:
                    raise Violation(7, f"{op.id} was acknowledged as clean, offered again: {error!r}") from error
            else:
                replica.accept(op, stamp)
