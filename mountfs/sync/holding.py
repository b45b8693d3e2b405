"""The brake of a mount: a burst of deletions made here is kept from the others until a person confirms it.

What a program removes is gone for it at once, as always. But from the moment on when this device has removed more
than the limits say (see `gdah_volume.brake`), removals belong to a SECOND AUTHOR of this mount, and nothing of that
author is sent. Whatever is done here later and would mean something else without them (a new file in the place of
a removed one, the folder around them) belongs to it as well: so the second author is a chain of its own, and all
else flows past it, the same operation with it and without it. What leans on what is known exactly, from the keys
that the merge touched (`Replica.leans_on`).

    confirm   the chain becomes ordinary pending operations: an edit elsewhere meanwhile beats a removal, as always
    discard   the removals are taken out of the log and of the mirror, as refused ones are; what was made in the place
              of a removed file is no removal, so it stays: beside what is back, by the ordinary rules

What is held is in the mirror's log like all that is pending; which author is held stands beside it, and changes in the
same transaction. Knows no server and no sender: what is released goes to the outbox.

Threading: any thread. Everything is under mirror.lock; `discard` lets go of it in between. Leaves as in `changelog`.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeGuard

from gdah_volume.brake import BrakeLimits, Burst
from gdah_volume.errors import Unavailable
from gdah_volume.ids import Author, NodeId, OpId, author_of, new_author, op_id, sequence_of
from gdah_volume.operations import Operation, Rmdir, Unlink
from gdah_volume.replica import Changes
from mountfs.sync.mirror import Mirror
from mountfs.sync.outbox import Outbox
from mountfs.sync.pending import Record

log = logging.getLogger("mountfs.sync.holding")

KEY = "brake"
"""In the mirror's `meta`: the state as JSON; empty: nothing is held."""
SLICE_REMOVALS = 16
"""Taken out in one transaction, in about 25 ms: programs wait for the lock meanwhile, then the rest waits its turn."""
FOLDERS_SHOWN = 10
JOURNAL = b"-journal"
"""How SQLite names the journal of a transaction. To remove it is to commit: held and brought back it would undo what
its database was told since. And 84 commits in a second are no burst."""


@dataclass(frozen=True, slots=True)
class State:
    """While something is held. `since`: time.time(); `discarding`: a person wants it undone, and it is not yet."""

    author: Author
    since: float
    why: str
    discarding: bool = False


def is_removal(op: Operation | None) -> TypeGuard[Unlink | Rmdir]:
    return isinstance(op, Unlink | Rmdir)


def is_undone(op: Operation | None, author: Author) -> bool:
    """Whether a discard takes out this held operation: it removes a name that was there before. (What was made in the
    chain itself and removed again stays removed.)"""
    return isinstance(op, Unlink | Rmdir) and author_of(OpId(op.link)) != author


def is_newer(op: Operation, author: Author, than: int) -> bool:
    """Whether what is removed was made by this author after that operation of his."""
    return isinstance(op, Unlink | Rmdir) and author_of(OpId(op.node)) == author and sequence_of(OpId(op.node)) > than


class Holding:
    """Invariant: what is held are exactly the pending operations of `state.author`; none of them is in the outbox."""

    def __init__(
        self,
        mirror: Mirror,
        outbox: Outbox,
        author: Author,
        limits: BrakeLimits,
        send: Callable[[], None],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`send` is called, without any lock, when something was released to the outbox."""
        self._mirror = mirror
        self._outbox = outbox
        self._send = send
        self._author = author
        self._burst = Burst(limits)
        self._clock = clock
        self._monotonic = monotonic
        self._engaged_at = 0
        """The main author's sequence when the brake engaged; after a restart 0."""
        self._records: dict[OpId, Record] = {}
        self._folders: Counter[bytes] = Counter()
        self._nodes: Counter[NodeId] = Counter()
        self._removals = 0
        self._bytes = 0
        text = mirror.database.meta(KEY)
        self.state: State | None = State(**json.loads(text)) if text else None

    # --- what the change log asks, under mirror.lock

    def holds(self, op: OpId) -> bool:
        """Whether an operation of an earlier run is held."""
        return self.state is not None and author_of(op) == self.state.author

    def wanted(self, op: Operation, sequence: int) -> State | None:
        """The state with which a new operation is to be held; None: it goes its way. `sequence`: of the main author."""
        state, why = self.state, None
        counts = self._counts(op)
        if counts:
            why = self._burst.why(self._monotonic(), self._entries)
        if state is None:
            if why is None:
                return None
            self._engaged_at = sequence
            return State(new_author(self._author.rpartition("-")[0]), self._clock(), why)
        if counts and (why is not None or not is_newer(op, self._author, self._engaged_at)):
            return state
        return state if self._mirror.replica.leans_on(op, state.author) else None

    def next_id(self, state: State) -> OpId:
        return op_id(state.author, self._mirror.replica.author_sequence(state.author) + 1)

    def save(self, state: State | None) -> None:
        """Inside the transaction that makes it so."""
        self._mirror.database.set_meta(KEY, "" if state is None else json.dumps(asdict(state)))

    def took(self, record: Record, state: State) -> None:
        """It is committed, and held."""
        if self.state is None:
            log.warning("the brake holds deletions until a person confirms them: %s", state.why)
        self.state = state
        self._records[record.id] = record
        self._count(record, 1)

    def noted(self, op: Operation) -> None:
        """It was performed, held or not."""
        if self._counts(op):
            self._burst.note(self._monotonic())

    def _counts(self, op: Operation) -> bool:
        """Whether it is a removal that can be part of a burst: not that of a journal that was made here."""
        if not is_removal(op):
            return False
        row = self._mirror.replica.store.link(op.link) if is_newer(op, self._author, 0) else None
        return row is None or not row.name.endswith(JOURNAL)

    def _entries(self) -> int:
        row = self._mirror.database.row("SELECT count(*) FROM links WHERE live = 1")
        return 0 if row is None else int(row[0])

    def _count(self, record: Record, by: int) -> None:
        self._bytes += by * record.content_bytes
        if is_removal(record.op):
            self._removals += by
            if record.path is not None:
                folder = record.path.rpartition(b"/")[0]
                self._folders[folder] += by
                if not self._folders[folder]:
                    del self._folders[folder]
            return
        self._nodes[record.node] += by
        if not self._nodes[record.node]:
            del self._nodes[record.node]

    # --- what a person decides

    def confirm(self) -> int:
        """Let everything go its way. Returns how many operations; 0: nothing was held. Raises Unavailable while it is
        being brought back."""
        with self._mirror.lock:
            state = self.state
            if state is None:
                return 0
            if state.discarding:
                raise Unavailable("what was held is being brought back; look again in a moment")
            self._burst.release()
            count = self._let_go()
        log.warning("held operations were confirmed: %d are handed over", count)
        self._send()
        return count

    def discard(self) -> int:
        """Take the held removals back. Returns how many; what cannot be brought back so (it was edited elsewhere, or
        new things are in its place) is there by the ordinary rules."""
        with self._mirror.lock:
            if self.state is None:
                return 0
            state = replace(self.state, discarding=True)
            with self._mirror.database.transaction(sync=True):
                self.save(state)
            self.state = state
        count = self.finish_discard()
        self._send()
        return count

    def finish_discard(self) -> int:
        """Also what an earlier run began. A removal that comes meanwhile is taken back as well."""
        count = 0
        left: list[OpId] = []
        while True:
            with self._mirror.lock:
                state = self.state
                if state is None or not state.discarding:
                    return count
                if not left:
                    left = [r.id for r in self._records.values() if is_undone(r.op, state.author)]
                if not left:
                    stayed = self._let_go()
                    log.warning("held deletions were taken back: %d; %d operations stay", count, stayed)
                    return count
                # From the newest on: removals that lean on them were taken back before.
                changes = self._take_out(left[-SLICE_REMOVALS:])
            count += len(left[-SLICE_REMOVALS:])
            del left[-SLICE_REMOVALS:]
            self._mirror.notify(changes)
            time.sleep(0)  # a waiting thread may have the lock now

    def _take_out(self, ops: list[OpId]) -> Changes:
        with self._mirror.database.transaction():
            changes = self._mirror.replica.drop_all_pending(ops)
            self._mirror.database.executemany("DELETE FROM change_log WHERE id = ?", [(op,) for op in ops])
        for op in ops:
            record = self._records.pop(op, None)
            if record is not None:  # else another one takes them back, too
                self._count(record, -1)
        return changes

    def _let_go(self) -> int:
        """Nothing is held any more: what is still here is handed over."""
        with self._mirror.database.transaction(sync=True):
            self.save(None)
        records = list(self._records.values())
        self.state = None
        self._records.clear()
        self._folders.clear()
        self._nodes.clear()
        self._removals = self._bytes = 0
        self._outbox.admit(records)
        return len(records)

    # --- looking

    def __len__(self) -> int:
        return len(self._records)

    def is_held(self, node: NodeId) -> bool:
        """What is here of this node waits for the decision."""
        return node in self._nodes

    def figures(self) -> dict[str, Any]:
        """The status' `held`."""
        with self._mirror.lock:
            state = self.state
            return {
                "operations": len(self._records),
                "deletions": self._removals,
                "bytes": self._bytes,
                "since": None if state is None else state.since,
                "age_s": None if state is None else round(max(0.0, self._clock() - state.since), 1),
                "why": None if state is None else state.why,
                "bringing_back": state is not None and state.discarding,
                "folders": [
                    {"path": path.decode("utf-8", "surrogateescape"), "deletions": count}
                    for path, count in self._folders.most_common(FOLDERS_SHOWN)
                ],
                "limits": {
                    "count": self._burst.limits.count,
                    "window_s": self._burst.limits.window_s,
                    "share": self._burst.limits.share,
                },
            }
