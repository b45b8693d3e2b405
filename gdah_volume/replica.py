"""One replica of a volume: its log, and the tree that is the fold of the log in the order of the stamps.

Two replicas that hold the same operations with the same stamps hold the same tree, whatever the order of arrival. This
module says what may happen to an operation (accepted, offered, pending, dropped, stamped anew); the rules are in
`rules`, how the rows follow is in `engine`.

Threading: one thread at a time: the caller holds a lock, or is the writer's thread. Every method that changes
something runs inside `database.transaction()`; after a roll back of it everything here is as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gdah_volume.engine import Engine
from gdah_volume.errors import OutOfOrder
from gdah_volume.ids import LOST, Author, NodeId, OpId, author_of
from gdah_volume.log import DIGEST_BYTES, Log, order_of
from gdah_volume.operations import Create, Exchange, Link, Operation, Rename, SetAttr, Write
from gdah_volume.rows import LinkRow, Order
from gdah_volume.rules import refuse_hidden
from gdah_volume.snapshot import dump, load
from gdah_volume.stamps import PENDING_CLOCK, Stamp
from gdah_volume.store import Store
from gdah_volume.times import move_times
from gdah_volume.tree import Tree

if TYPE_CHECKING:
    from gdah_volume.database import Database


@dataclass(frozen=True, slots=True)
class Changes:
    """What became different in the visible tree. `nodes`: attributes, content or number of names changed (a
    directory's times too). `entries`: (directory, name) appeared, went, or leads elsewhere."""

    nodes: frozenset[NodeId] = frozenset()
    entries: frozenset[tuple[NodeId, bytes]] = frozenset()

    def __or__(self, other: Changes) -> Changes:
        return Changes(self.nodes | other.nodes, self.entries | other.entries)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.entries)


_NOTHING = Changes()
ALL = 1 << 60
HINT_DEPTH_MAX = 64
"""Folders above what is named in the log for people: finding the path of a folder 1,000 levels down took longer than
making it, on the mount and on each server, and long names made it 255 KB of text."""


class Replica:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = Store(database)
        self.tree = Tree(self.store)
        self._log = Log(database)
        self._engine = Engine(database, self.store, self._log)
        self.void: frozenset[str] = frozenset()
        """Servers whose stamps give way to any other that a server tells of the same operation (see `accept`)."""

    # --- what it holds

    @property
    def head(self) -> int:
        """The newest position; 0 when nothing was ever held."""
        return self._log.head

    @property
    def first(self) -> int:
        """The oldest position from which on nothing is missing; head + 1 when the log is empty."""
        return self._log.pruned_to + 1

    @property
    def operations(self) -> int:
        """How many stamped operations the log has ever held."""
        return self._log.operations

    @property
    def digest(self) -> bytes:
        """Equal on two replicas iff they have held the same operations with the same stamps; 16 bytes."""
        return self._log.digest.to_bytes(DIGEST_BYTES, "big")

    @property
    def max_clock(self) -> int:
        """The highest clock of a real stamp that was ever accepted."""
        return self._log.max_clock

    @property
    def stable(self) -> Stamp:
        return self._log.stable

    def stamp_of(self, op: OpId) -> Stamp | None:
        """None iff the operation is unknown. Of one that is pending its pending stamp; of one that was pruned from
        the log `stamps.ZERO`: it has been part of the tree for long."""
        return self._log.stamp_of(op)

    def operation(self, op: OpId) -> Operation | None:
        return self._log.operation(op)

    def pending(self) -> list[Operation]:
        """Own operations that no server has stamped yet, in the order in which they were made."""
        return [op for _, op in self._log.pending()]

    def author_sequence(self, author: Author) -> int:
        """The highest sequence of this author's operations that was ever held; 0 for none."""
        return self._log.author_sequence(author)

    def entries_after(self, position: int, limit: int) -> list[tuple[int, Stamp, Operation]]:
        """Stamped operations in the order of their arrival here, after a position."""
        return self._log.entries_after(position, limit)

    def entries_above(self, stamp: Stamp) -> list[tuple[int, Stamp, Operation]]:
        """Stamped operations with a larger stamp, in the order of their arrival here."""
        return self._log.entries_above(stamp)

    def stamped_above(self, stamp: Stamp) -> list[tuple[OpId, Stamp]]:
        """Ids and stamps of those with a larger stamp, in the order of the stamps."""
        return self._log.stamped_above(stamp)

    def last_up_to(self, stamp: Stamp) -> tuple[OpId, Stamp] | None:
        """The one in the log with the largest stamp that is not above that."""
        return self._log.last_up_to(stamp)

    def range_digest(self, low: int, high: int) -> tuple[int, bytes]:
        """(number, digest) of what the log holds with clocks in [low, high); equal for equal sets, 16 bytes."""
        return self._log.range_digest(low, high)

    def range_ids(self, low: int, high: int) -> list[tuple[OpId, Stamp]]:
        return self._log.range_ids(low, high)

    # --- what happens to an operation

    def accept(self, op: Operation, stamp: Stamp) -> Changes:
        """Take over an operation that some server has stamped. Total and idempotent: the smallest stamp of an id wins.

        Raises OutOfOrder for a stamp at or below the stable point that is news here: somebody stamped where he had
        promised not to, and nothing was logged.
        """
        return self.accept_all([(op, stamp)])

    def accept_all(self, entries: Iterable[tuple[Operation, Stamp]]) -> Changes:
        """`accept` for many, in the order of their arrival: what has to be rolled back for them is rolled back once."""
        self._engine.begin()
        late: dict[OpId, tuple[Operation, Stamp, Stamp | None]] = {}
        for op, stamp in entries:
            if op.id in late:
                if stamp < late[op.id][1]:
                    late[op.id] = (op, stamp, late[op.id][2])
                continue
            known = self._log.stamp_of(op.id)
            if known is not None and known <= stamp and not self._gives_way(known, stamp):
                continue
            if stamp <= self._log.stable:
                raise OutOfOrder(f"{op.id}: stamp {stamp.clock} is not above the stable point {self._log.stable.clock}")
            if known is None and not late and order_of(op.id, stamp) > self._log.top():
                self._insert(op, stamp, strict=False)
            else:
                late[op.id] = (op, stamp, known)
        if late:
            self._insert_late(list(late.values()))
        return self._changes()

    def _gives_way(self, known: Stamp, stamp: Stamp) -> bool:
        return known.server in self.void and self._log.stable < known < stamp

    def _insert_late(self, entries: list[tuple[Operation, Stamp, Stamp | None]]) -> None:
        new: dict[Order, Operation] = {}
        moved: dict[Order, Order] = {}
        ops = {op.id: op for op, _, _ in entries}
        for op, stamp, known in entries:
            order = order_of(op.id, stamp)
            if known is None:
                new[order] = op
                self._log.append(op, stamp, self._path_before(op))
            else:
                moved[order_of(op.id, known)] = order
                self._log.restamp(op.id, known, stamp)
        self._engine.insert_late(new, moved)
        for old, order in moved.items():
            if old[0] >= PENDING_CLOCK:
                moved_rows = move_times(self.store, old[0], order)
                op = ops[order[2]]
                if isinstance(op, Rename | Exchange) or not (moved_rows or isinstance(op, Write | SetAttr)):
                    self._engine.note_times_of(op, order)

    def offer(self, op: Operation, stamp: Stamp) -> Changes:
        """Take over an operation only if it does exactly what its author asks for. `stamp` is above all that is here.

        Raises the FileSystemError that its author gets otherwise; then nothing was logged. A known id is not looked at
        again.
        """
        if self._log.stamp_of(op.id) is not None:
            return self.accept(op, stamp)
        self._engine.begin()
        self._insert(op, stamp, strict=True)
        return self._changes()

    def add_pending(self, op: Operation, *, strict: bool) -> Changes:
        """An own operation, on top of everything until a server has stamped it. `strict` as in `offer`."""
        if self._log.stamp_of(op.id) is not None:
            return _NOTHING
        self._engine.begin()
        self._insert(op, self._log.next_pending(), strict=strict)
        return self._changes()

    def drop_pending(self, op: OpId) -> Changes:
        """A server refused it: as if it had never been; later ones are evaluated anew. Unknown or stamped: nothing."""
        return self.drop_all_pending([op])

    def drop_all_pending(self, ops: Iterable[OpId]) -> Changes:
        """`drop_pending` for many: what has to be evaluated anew for them is evaluated once."""
        stamps = {op: stamp for op in ops if (stamp := self._log.stamp_of(op)) is not None and stamp.is_pending}
        if not stamps:
            return _NOTHING
        self._engine.begin()
        self._engine.remove([order_of(op, stamp) for op, stamp in stamps.items()])
        touched: set[NodeId] = set()
        for op, stamp in stamps.items():
            self._log.remove(op, stamp)
            touched.update(node for node, _, _ in self.store.touches_of_pending(stamp.clock))
        return self._changes() | Changes(frozenset(touched))

    def leans_on(self, op: Operation, author: Author) -> bool:
        """Whether a new operation means something else, or makes something else of them, without the pending ones of
        this author: whether it touches, in a way that does not commute, what one of them touched."""
        return self._engine.leans_on(op, (PENDING_CLOCK, "", OpId("")), lambda other: author_of(other) == author)

    def _insert(self, op: Operation, stamp: Stamp, *, strict: bool) -> None:
        """One that is new and above all others."""
        if strict:
            refusal = refuse_hidden(op)
            if refusal is not None:
                raise refusal
        path = self._path_before(op)
        self._engine.insert(op, order_of(op.id, stamp), strict=strict)
        self._log.append(op, stamp, path)

    def _path_before(self, op: Operation) -> str | None:
        """Where it happens, for people who read the log; as it is here now, so only a hint; none where it would
        cost more than the operation."""
        tree = self.tree
        match op:
            case Create() | Link():
                above, name = tree.path(op.parent, HINT_DEPTH_MAX), op.name
            case Write() | SetAttr():
                above, name = tree.path(op.node, HINT_DEPTH_MAX), b""
            case _:
                row = self.store.link(op.link)
                above, name = (None, b"") if row is None else (tree.path(row.parent, HINT_DEPTH_MAX), row.name)
        if above is None:
            return None
        path = above + b"/" + name if above and name else above or name
        text = path.decode("utf-8", "backslashreplace")
        if isinstance(op, Rename):
            to = tree.path(op.parent, HINT_DEPTH_MAX)
            target = op.name if to == b"" else (to or b"?") + b"/" + op.name
            text += " -> " + target.decode("utf-8", "backslashreplace")
        elif isinstance(op, Exchange):
            text += " <-> " + (tree.path(op.other.node, HINT_DEPTH_MAX) or b"?").decode("utf-8", "backslashreplace")
        return text

    def _changes(self) -> Changes:
        """What is different now from what it was at `engine.begin()`."""
        old, store = self._engine.original, self.store
        nodes: set[NodeId] = set()
        entries: set[tuple[NodeId, bytes]] = set()
        nodes.update(node for node, was in old.nodes.items() if store.node(node) != was)
        nodes.update(node for node, attrs in old.attrs.items() if store.attrs(node) != attrs)
        nodes.update(node for node, file in old.files.items() if store.file(node) != file)
        nodes.update(node for node, was in store.times_before.items() if store.touched(node) != was)
        for node, into in old.aliases.items():
            now = store.alias(node)
            if now != into:
                nodes.update(one for one in (node, into, now) if one is not None)
        for link, before in old.links.items():
            after = store.link(link)
            was = before if before is not None and before.live else None
            is_now = after if after is not None and after.live else None
            if was is not None and is_now is not None and _place(was) == _place(is_now):
                continue
            for row in (was, is_now):
                if row is not None:
                    entries.add((row.parent, row.name))
                    nodes.update((row.parent, row.node))
        nodes.discard(LOST)
        return Changes(frozenset(nodes), frozenset(entries))

    # --- the stable point

    def stabilise(self, stamp: Stamp, *, at_most: int = ALL) -> None:
        """No smaller stamp can arrive any more: what was kept to undo operations up to here goes. Never falls back.
        `at_most` so many operations (some 10 us each): the point may stop short of `stamp`."""
        if stamp.is_pending or stamp <= self._log.stable:
            return
        gone, reached = self._engine.stabilise(stamp, at_most)
        self._log.set_stable(reached, save=gone > 0)

    def prepare(self) -> None:
        """Before anybody waits: what late operations will need, if many can still be undone."""
        self._engine.prepare()

    def prune(self, *, before_time_ns: int, up_to_position: int) -> int:
        """Delete stable operations that were made before a time (by the clocks of their authors and of the servers that
        stamped them) and lie at or below a position that everybody has read. The tree stays. Returns how many."""
        return self._log.prune(before_time_ns, up_to_position)

    # --- snapshots

    def dump(self, *, everywhere: int = 0) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        """A copy of the replica as (table, rows) batches of plain values, consistent, for `load`. Not with pending
        operations. What is stable and lies at or below the position `everywhere`, up to which every member holds this
        log, is left out of the log. Best on a replica over a `Database.reader()`: nobody waits for it."""
        return dump(self.database, everywhere)

    def load(self, batches: Iterable[tuple[str, Sequence[Sequence[Any]]]]) -> None:
        """Become what was dumped; look at everything anew. Operations held here above the stable point of the dump and
        unknown to it come on top again, pending ones last. Raises BadMessage for what is no dump."""
        kept = [(op, stamp) for _, stamp, op in self._log.entries_above(self._log.stable) if not stamp.is_pending]
        kept.extend((op, stamp) for stamp, op in self._log.pending())
        load(self.database, batches)
        self.store.forget()
        self._engine.forget()
        self._log.load_counters()
        self.accept_all((op, stamp) for op, stamp in kept if stamp > self._log.stable)


def _place(row: LinkRow) -> tuple[NodeId, bytes, NodeId]:
    return row.parent, row.name, row.node
