"""Keeps the rows equal to the fold of the log, whatever order operations arrive in.

Straight: an operation above all others is evaluated on the rows as they are. Late: it is evaluated there as well, and
if no later operation touched what it touched (see the modes in `rows`), that is what the fold would have done.
Otherwise the later ones that clash, and those that clash with them in turn, are undone newest first by their
before-images, and all are evaluated again, smallest first; each of them is inserted late in its turn.

Before-images and touched keys are kept above the stable point only. The index of touched keys is in memory, made from
the undo records at the first late insertion and dropped when it is mostly stale: about 1 kB for each operation above
the stable point.

Threading: one thread, inside a transaction of the database. After a roll back of it nothing in memory is trusted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from heapq import heappop, heappush

import msgspec

from gdah_volume.database import Database
from gdah_volume.errors import FileSystemError
from gdah_volume.evaluation import Evaluation
from gdah_volume.ids import OpId
from gdah_volume.log import Log
from gdah_volume.operations import Operation
from gdah_volume.rows import MEMBERS, READ, WRITTEN, Before, Key, Order
from gdah_volume.rules import fold
from gdah_volume.stamps import PENDING_CLOCK, Stamp
from gdah_volume.store import Store
from gdah_volume.times import note_times


class Undo(msgspec.Struct, array_like=True):
    """What is kept of an applied operation: how to take it back, and what it touched (mode, table, id[, name])."""

    before: Before
    touched: list[tuple[int, str, str]]
    places: list[tuple[int, str, bytes]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Undo)

STALE_MIN = 10_000


def _pack(before: Before, touched: dict[Key, int]) -> bytes:
    plain: list[tuple[int, str, str]] = []
    places: list[tuple[int, str, bytes]] = []
    for key, mode in touched.items():
        if len(key) == 3:
            places.append((mode, key[1], key[2]))
        else:
            plain.append((mode, key[0], key[1]))
    return _encoder.encode(Undo(before, plain, places))


def _touched(undo: Undo) -> Iterable[tuple[Key, int]]:
    for mode, table, name in undo.touched:
        yield (table, name), mode
    for mode, parent, raw in undo.places:
        yield ("at", parent, raw), mode


class _Index:
    """Which operations touched a key, by mode, in the order of the fold. Keys by their hash: two that share one only
    clash needlessly."""

    _MODES = (READ, WRITTEN, MEMBERS)

    def __init__(self) -> None:
        self._by_mode: dict[int, dict[int, list[Order]]] = {mode: {} for mode in self._MODES}
        self.count = 0

    def add(self, order: Order, touched: Iterable[tuple[Key, int]]) -> None:
        self.count += 1
        for key, modes in touched:
            hashed = hash(key)
            for mode in self._MODES:
                if modes & mode:
                    orders = self._by_mode[mode].get(hashed)
                    if orders is None:
                        self._by_mode[mode][hashed] = [order]
                    elif orders[-1] < order:
                        orders.append(order)
                    else:
                        insort(orders, order)

    def remove(self, order: Order, touched: Iterable[tuple[Key, int]]) -> None:
        self.count -= 1
        for key, modes in touched:
            hashed = hash(key)
            for mode in self._MODES:
                if modes & mode:
                    orders = self._by_mode[mode][hashed]
                    del orders[bisect_left(orders, order)]
                    if not orders:
                        del self._by_mode[mode][hashed]

    def clashing(self, above: Order, touched: Iterable[tuple[Key, int]], below: Order | None = None) -> set[Order]:
        """Operations in (above, below) that must keep their order to one that touched these keys."""
        found: set[Order] = set()
        reads, writes, members = (self._by_mode[mode] for mode in self._MODES)
        for key, modes in touched:
            hashed = hash(key)
            against = [writes]
            if modes & (WRITTEN | MEMBERS):
                against.append(reads)
            if modes & (WRITTEN | READ):
                against.append(members)
            for orders_of in against:
                orders = orders_of.get(hashed)
                if orders is None or orders[-1] <= above:
                    continue
                end = len(orders) if below is None else bisect_left(orders, below)
                found.update(orders[bisect_right(orders, above) : end])
        return found


class Engine:
    """Invariant: between calls the store holds the fold of the log; every operation above the stable point has its
    undo record."""

    def __init__(self, database: Database, store: Store, log: Log) -> None:
        self._db = database
        self._store = store
        self._log = log
        self._index: _Index | None = None
        self._stale = 0
        self.original = Before(nodes={}, aliases={}, attrs={}, files={}, links={}, versions={}, last={})
        """The rows as they were when `begin` was called, of those that were written since."""
        self.evaluations = 0
        """How often rules were applied; for tests and figures."""
        database.after_rollback.append(self.forget)

    def forget(self) -> None:
        self._index = None
        self._stale = 0

    def begin(self) -> None:
        """Start to collect what changes."""
        self.original = Before(nodes={}, aliases={}, attrs={}, files={}, links={}, versions={}, last={})

    # --- the three things that happen to an operation

    def insert(self, op: Operation, order: Order, *, strict: bool = False) -> None:
        """Apply one that the log does not have yet; the caller appends it. `strict` raises its FileSystemError, and
        then nothing has changed (it must be above all others)."""
        if order > self._log.top():
            evaluation, refusal = self._evaluate(op)
            if strict and refusal is not None:
                raise refusal
            self._take(op, order, evaluation)
            return
        assert not strict, "a strict operation is stamped above all others"
        self._run({order: op})

    def remove(self, order: Order) -> None:
        """Take one out as if it had never been."""
        undone = self._undo_all({order})
        del undone[order]
        self._run(undone)

    def restamp(self, order: Order, new: Order) -> None:
        """Move one to an earlier place."""
        assert new < order
        undo = self._record(order)
        touched = list(_touched(undo))
        index = self._indexed()
        if not index.clashing(new, touched, order):
            self._db.execute(
                "UPDATE undo SET clock = ?, server = ? WHERE clock = ? AND server = ? AND id = ?",
                (new[0], new[1], *order),
            )
            index.remove(order, touched)
            index.add(new, touched)
            return
        undone = self._undo_all({order})
        undone[new] = undone.pop(order)
        self._run(undone)

    # --- roll back and re-apply

    def _run(self, todo: dict[Order, Operation]) -> None:
        heap = sorted(todo)
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
        left = list(start)
        while left:
            order = left.pop()
            if order in records:
                continue
            record = records[order] = self._record(order)
            left.extend(later for later in index.clashing(order, _touched(record)) if later not in records)
        undone: dict[Order, Operation] = {}
        for order in sorted(records, reverse=True):
            record = records[order]
            self._write(record.before)
            self._db.execute("DELETE FROM undo WHERE clock = ? AND server = ? AND id = ?", order)
            index.remove(order, _touched(record))
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
            (*order, _pack(before, evaluation.touched)),
        )
        if self._index is not None:
            self._index.add(order, evaluation.touched.items())
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
        return _decoder.decode(row[0])

    def _indexed(self) -> _Index:
        index = self._index
        if index is None:
            index = self._index = _Index()
            self._stale = 0
            for clock, server, op, record in self._db.execute(
                "SELECT clock, server, id, before FROM undo ORDER BY clock, server, id"
            ):
                index.add((clock, server, OpId(op)), _touched(_decoder.decode(record)))
        return index

    # --- the stable point

    def stabilise(self, stamp: Stamp) -> int:
        """Nothing at or below will be undone any more. Returns how many records went."""
        assert stamp.clock < PENDING_CLOCK
        oldest = self._db.row("SELECT clock, server FROM undo ORDER BY clock, server, id LIMIT 1")
        if oldest is None or (oldest[0], oldest[1]) > (stamp.clock, stamp.server):
            return 0
        gone = self._db.execute("DELETE FROM undo WHERE (clock, server) <= (?, ?)", (stamp.clock, stamp.server))
        if self._index is not None:
            # Stale entries are below every place where something can still be inserted: they only cost memory.
            self._stale += gone.rowcount
            if self._stale > STALE_MIN and self._stale * 2 > self._index.count:
                self.forget()
        return gone.rowcount
