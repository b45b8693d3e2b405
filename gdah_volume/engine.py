"""Keeps the rows equal to the fold of the log, whatever order operations arrive in.

Straight: an operation above all others is evaluated on the rows as they are. Late: it is evaluated there as well, and
if no later operation touched what it touched (see the modes in `rows`), that is what the fold would have done.
Otherwise the later ones that clash, and those that clash with them in turn, are undone newest first by their
before-images, and all are evaluated again, smallest first; each of them is inserted late in its turn.

Before-images and touched keys are kept above the stable point only. The index of touched keys is in memory, about 1 kB
for each operation above the stable point. It is made from the undo records when there are INDEX_FROM of them (20,000
took half a second, in which nobody was served) or at the first late insertion, and dropped when few are left.

Threading: one thread, inside a transaction of the database. After a roll back of it nothing in memory is trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from gdah_volume.errors import FileSystemError
from gdah_volume.evaluation import Evaluation
from gdah_volume.ids import OpId, ServerId
from gdah_volume.log import Log
from gdah_volume.operations import Operation
from gdah_volume.rows import Before, Order
from gdah_volume.rules import fold
from gdah_volume.stamps import PENDING_CLOCK, Stamp
from gdah_volume.store import Store
from gdah_volume.times import note_times
from gdah_volume.undo import TouchIndex, Undo, pack_undo, touched_by, unpack_undo

if TYPE_CHECKING:
    from gdah_volume.database import Database

INDEX_FROM = 1_000
"""So many undo records are worth an index before anything comes late; it is made in some 30 ms."""
STALE_MIN = 10_000
"""Entries of the index that lie below the stable point, before it is thrown away, if few others are in it."""
STALE_MAX = 100_000
"""The same, if most of it is stale."""


class Engine:
    """Invariant: between calls the store holds the fold of the log; every operation above the stable point has its
    undo record."""

    def __init__(self, database: Database, store: Store, log: Log) -> None:
        self._db = database
        self._store = store
        self._log = log
        self._index: TouchIndex | None = None
        self._stale = 0
        self._unindexed = 0
        self.original = Before(nodes={}, aliases={}, attrs={}, files={}, links={}, versions={}, last={})
        """The rows as they were when `begin` was called, of those that were written since."""
        self.evaluations = 0
        """How often rules were applied; for tests and figures."""
        database.after_rollback.append(self.forget)

    def forget(self) -> None:
        self._index = None
        self._stale = self._unindexed = 0

    def prepare(self) -> None:
        """Make the index now if there is much to put into it."""
        self._unindexed = 0
        if self._index is None and self._db.row("SELECT 1 FROM undo LIMIT 1 OFFSET ?", (INDEX_FROM - 1,)):
            self._indexed()

    def begin(self) -> None:
        """Start to collect what changes."""
        self._store.times_before.clear()
        self.original = Before(nodes={}, aliases={}, attrs={}, files={}, links={}, versions={}, last={})

    # --- the three things that happen to an operation

    def insert(self, op: Operation, order: Order, *, strict: bool = False) -> None:
        """Apply one that is above all in the log; the caller appends it. `strict` raises its FileSystemError, and then
        nothing has changed."""
        assert order > self._log.top(), f"{order} is not above all others"
        evaluation, refusal = self._evaluate(op)
        if strict and refusal is not None:
            raise refusal
        self._take(op, order, evaluation)

    def insert_late(self, new: dict[Order, Operation], moved: dict[Order, Order]) -> None:
        """Many at once, so that what has to be undone for them is undone once. `new` are in the log already or will be;
        `moved` (from, to) go to another place, nearly always an earlier one."""
        todo: dict[Order, Operation] = {}
        for old, order in moved.items():
            if old not in todo and not self._moves_freely(old, order):
                todo |= self._undo_all({old})
            if old in todo:
                todo[order] = todo.pop(old)
        self._run(todo | new)

    def remove(self, orders: Iterable[Order]) -> None:
        """Take these out as if they had never been."""
        gone = set(orders)
        undone = self._undo_all(gone)
        self._run({order: op for order, op in undone.items() if order not in gone})

    def note_times_of(self, op: Operation, order: Order) -> None:
        """Once more, now that it has its stamp: what was noted while it was pending went over to a later one."""
        before = self._record(order).before
        links = {link: self._store.link(link) for link in before.links}
        note_times(self._store, op, order, before, Before(nodes=dict(before.nodes), links=links))

    def leans_on(self, op: Operation, above: Order, wanted: Callable[[OpId], bool]) -> bool:
        """Whether a new operation must keep its order to a wanted one above that place: it would do something else, or
        make that one do something else, if it came before it."""
        evaluation, _ = self._evaluate(op)
        later = self._indexed().closing(above, evaluation.touched.items(), {})
        return any(wanted(order[2]) for order in later)

    def _moves_freely(self, order: Order, new: Order) -> bool:
        """Move one to an earlier place if it clashes with nothing in between."""
        if new > order:
            return False
        touched = list(touched_by(self._record(order)))
        index = self._indexed()
        if index.clashing(new, touched, order):
            return False
        self._db.execute(
            "UPDATE undo SET clock = ?, server = ? WHERE clock = ? AND server = ? AND id = ?",
            (new[0], new[1], *order),
        )
        index.remove(order, touched)
        index.add(new, touched)
        return True

    # --- roll back and re-apply

    def _run(self, todo: dict[Order, Operation]) -> None:
        heap = list(todo)
        heapify(heap)
        while heap:
            order = heappop(heap)
            op = todo[order]
            evaluation, _ = self._evaluate(op)
            clashing = self._indexed().clashing(order, evaluation.touched.items())
            if clashing:
                undone = self._undo_all(clashing)
                todo |= undone
                for later in undone:
                    heappush(heap, later)
                heappush(heap, order)
                continue
            self._take(op, order, evaluation)

    def _undo_all(self, start: set[Order]) -> dict[Order, Operation]:
        """Undo these and, transitively, the later ones that clash with them; newest first."""
        index = self._indexed()
        records: dict[Order, Undo] = {}
        seen: dict[int, Order] = {}
        left = list(start)
        heapify(left)
        while left:
            order = heappop(left)
            if order not in records:
                record = records[order] = self._record(order)
                for later in index.closing(order, touched_by(record), seen):
                    heappush(left, later)
        undone: dict[Order, Operation] = {}
        for order in sorted(records, reverse=True):
            record = records[order]
            self._write(record.before)
            self._db.execute("DELETE FROM undo WHERE clock = ? AND server = ? AND id = ?", order)
            index.remove(order, touched_by(record))
            op = self._log.operation(order[2])
            assert op is not None
            undone[order] = op
        return undone

    def _evaluate(self, op: Operation) -> tuple[Evaluation, FileSystemError | None]:
        self.evaluations += 1
        evaluation = Evaluation(self._store)
        return evaluation, fold(op, evaluation)

    def _take(self, op: Operation, order: Order, evaluation: Evaluation) -> None:
        before = evaluation.before()
        self._db.execute(
            "INSERT INTO undo (clock, server, id, before) VALUES (?, ?, ?, ?)",
            (*order, pack_undo(before, evaluation.touched)),
        )
        if self._index is not None:
            self._index.add(order, evaluation.touched.items())
        else:
            self._unindexed += 1
            if self._unindexed >= INDEX_FROM:
                self.prepare()
        self._write(evaluation.new, before)
        note_times(self._store, op, order, before, evaluation.new)

    def _write(self, new: Before, before: Before | None = None) -> None:
        self._remember(new, before)
        self._store.write(new)

    def _remember(self, new: Before, before: Before | None) -> None:
        old, store = self.original, self._store
        for node in new.nodes:
            old.nodes.setdefault(node, before.nodes[node] if before else store.node(node))
        for node in new.aliases:
            old.aliases.setdefault(node, before.aliases[node] if before else store.alias(node))
        for node in new.attrs:
            old.attrs.setdefault(node, before.attrs[node] if before else store.attrs(node))
        for node in new.files:
            old.files.setdefault(node, before.files[node] if before else store.file(node))
        for link in new.links:
            old.links.setdefault(link, before.links[link] if before else store.link(link))

    def _record(self, order: Order) -> Undo:
        row = self._db.row("SELECT before FROM undo WHERE clock = ? AND server = ? AND id = ?", order)
        assert row is not None, f"no undo record of {order}"
        return unpack_undo(row[0])

    def _indexed(self) -> TouchIndex:
        index = self._index
        if index is None:
            index = self._index = TouchIndex()
            self._stale = 0
            for clock, server, op, record in self._db.execute(
                "SELECT clock, server, id, before FROM undo ORDER BY clock, server, id"
            ):
                index.add((clock, server, OpId(op)), touched_by(unpack_undo(record)))
        return index

    # --- the stable point

    def stabilise(self, stamp: Stamp, at_most: int) -> tuple[int, Stamp]:
        """Nothing at or below will be undone any more. How many records went (little more than `at_most`), and up to
        where."""
        assert stamp.clock < PENDING_CLOCK
        oldest = self._db.row("SELECT clock, server FROM undo ORDER BY clock, server, id LIMIT 1")
        if oldest is None or (oldest[0], oldest[1]) > (stamp.clock, stamp.server):
            return 0, stamp
        further = self._db.row("SELECT clock, server FROM undo ORDER BY clock, server, id LIMIT 1 OFFSET ?", (at_most,))
        if further is not None:
            stamp = min(stamp, Stamp(further[0], ServerId(further[1])))
        gone = self._db.execute(
            "DELETE FROM undo WHERE (clock, server) <= (?, ?)", (stamp.clock, stamp.server)
        ).rowcount
        if self._index is not None:
            # Stale entries are below every place where something can still be inserted: they only cost memory.
            self._stale += gone
            left = self._index.count - self._stale
            if self._stale > STALE_MIN and (left < INDEX_FROM or self._stale > max(STALE_MAX, left)):
                self.forget()
        return gone, stamp
