"""The client's side of the protocol: log first, strict only when never in doubt, hand over before turning to another
server, read the feed before believing an acknowledgement.

What the programs on the client want is in `intents`; here an operation is built from the client's own view, put on top
of it, and sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gdah_volume.errors import FileSystemError
from gdah_volume.ids import Author, LinkId, NodeId, OpId, Version, op_id
from gdah_volume.operations import Operation, Write
from tests.model.intents import Builder, Desk
from tests.model.rows import live_links
from tests.model.servers import Ack, Lost, Refused, Server
from tests.model.sites import Site


@dataclass(frozen=True)
class Issued:
    """What the checks remember of the moment in which an operation was made."""

    op: Operation
    client: str
    view: tuple[OpId, ...]
    """All operations that its author had, in the order in which his view folded them."""
    links: dict[LinkId, tuple[NodeId, Version]]
    """The live links that he saw, with node and rev."""
    current: bool
    """False: a write through a file that was opened before another version came."""


class Client(Site):
    """Persistent: the database, with a cursor for each server in `meta`. After a restart every pending operation is in
    doubt, and new ones have a new author."""

    def __init__(self, name: str, number: int, folder: Path | None) -> None:
        super().__init__(name, folder)
        self.number = number
        self.boot = 0
        self.desk = Desk()
        self.last_error: FileSystemError | None = None
        self.history: dict[OpId, Issued] = {}
        self.ever_in_doubt: set[OpId] = set()
        self._wake()

    def _wake(self) -> None:
        self.boot += 1
        self.author = Author(f"{self.name}-{self.number:06x}-{self.boot:04x}")
        self.sequence = 0
        self.server: Server | None = None
        self.strict: set[OpId] = set()
        self.in_doubt: set[OpId] = {op.id for op in self.replica.pending()}
        self.desk.close_all()

    def reopen(self) -> None:
        super().reopen()
        self._wake()
        self.ever_in_doubt |= self.in_doubt

    def pending(self) -> list[Operation]:
        return self.replica.pending()

    # --- issuing -----------------------------------------------------------------------------------------

    def issue(self, build: Builder, time_ns: int, *, strict: bool = False) -> Operation | None:
        """Build from the own view and put on top of it. None when the program got an error or nothing is to be done.

        A write is never refused: its data exists. `strict`: the program waits for a server's answer.
        """
        new_id = op_id(self.author, self.sequence + 1)
        seen = live_links(self.database)
        view = (*self.order(), *(op.id for op in self.pending()))
        try:
            with self.database.transaction():
                op = build(self.replica.tree, self.desk, new_id, time_ns)
                if op is None:
                    return None
                tree = self.replica.tree
                current = not isinstance(op, Write) or tree.seen_version(tree.resolve(op.node)) == op.base
                self.change(partial(self.replica.add_pending, op, strict=not isinstance(op, Write)))
        except FileSystemError as error:
            self.last_error = error
            return None
        self.sequence += 1
        if strict and not isinstance(op, Write):
            self.strict.add(op.id)
        self.history[op.id] = Issued(op, self.name, view, seen, current)
        return op

    # --- talking to servers --------------------------------------------------------------------------------

    def attach(self, server: Server) -> None:
        """Turn to a server: first hand over what it lacks, then read its feed."""
        if self.server is server:
            return
        self.hand_over(server)
        self.subscribe(server)
        self.server = server

    def hand_over(self, server: Server) -> None:
        wanted = server.want(self.replica.stamped_above(server.replica.stable))
        entries = []
        for op_id_ in wanted:
            op, stamp = self.replica.operation(op_id_), self.replica.stamp_of(op_id_)
            assert op is not None
            assert stamp is not None
            entries.append((op, stamp))
        server.take_over(entries)

    def subscribe(self, server: Server) -> None:
        """Go on at the cursor; without one, begin above what can no longer change; if the log does not reach back so
        far either, take a copy."""
        key = f"cursor:{server.id}"
        cursor = self.database.meta(key)
        if cursor is not None and int(cursor) + 1 >= server.replica.first:
            return
        pruned = server.replica.first > 1
        if pruned and self.replica.stable < server.replica.stable:
            self.take_snapshot(server)
            return
        with self.database.transaction():
            self.take([(op, stamp) for _, stamp, op in server.replica.entries_above(self.replica.stable)])
            self.database.set_meta(key, str(server.head))

    def take_snapshot(self, server: Server) -> None:
        with self.database.transaction():
            self.replica.load(list(server.replica.dump(everywhere=server.everywhere())))
            self.database.set_meta(f"cursor:{server.id}", str(server.head))
        for op, stamp in server.ghost.items():
            self.note(op, stamp)
        self._settle_doubts()

    def read_feed(self, limit: int = 1 << 30) -> None:
        server = self.server
        assert server is not None
        key = f"cursor:{server.id}"
        cursor = self.meta_int(key)
        if cursor + 1 < server.replica.first:
            self.take_snapshot(server)
            return
        entries = server.replica.entries_after(cursor, limit)
        with self.database.transaction():
            self.take([(op, stamp) for _, stamp, op in entries])
            cursor = entries[-1][0] if entries else cursor
            self.database.set_meta(key, str(cursor))
            if cursor >= server.head and server.replica.stable > self.replica.stable:
                self.replica.stabilise(server.replica.stable)
        self._settle_doubts()

    def _settle_doubts(self) -> None:
        waiting = {op.id for op in self.pending()}
        self.in_doubt &= waiting
        self.strict &= waiting

    def send(self, op: Operation) -> Ack | Refused:
        """Raises Lost: then the operation is in doubt, and the link is broken."""
        server = self.server
        assert server is not None
        strict = op.id in self.strict and op.id not in self.in_doubt
        self.in_doubt.add(op.id)
        try:
            answer = server.submit(op, self.replica.max_clock, strict=strict)
        except Lost:
            self.lose(op)
            raise
        match answer:
            case Refused():
                with self.database.transaction():
                    self.change(partial(self.replica.drop_pending, op.id))
            case Ack():
                self.read_feed()
                assert self.replica.stamp_of(op.id) == answer.stamp, "the feed brings an operation before its answer"
        self._settle_doubts()
        return answer

    def lose(self, op: Operation) -> None:
        self.in_doubt.add(op.id)
        self.ever_in_doubt.add(op.id)
        self.server = None
