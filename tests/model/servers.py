"""The server's side of the protocol, as plain as it can be said: stamping, forwarding to the sequencer, reading a
peer's log, taking what a client hands over, promising not to stamp below a clock.

Messages are calls. What the network does to them (cuts, losses) is decided by the `Network` that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gdah_volume.errors import FileSystemError
from gdah_volume.ids import OpId, ServerId
from gdah_volume.operations import Operation
from gdah_volume.stamps import MAX_LEAD_US, PENDING_SERVER, Stamp
from tests.model.sites import Site


@dataclass(frozen=True)
class Ack:
    stamp: Stamp
    copies: int


@dataclass(frozen=True)
class Refused:
    error: FileSystemError


class Lost(Exception):
    """No answer came: the other side may or may not have done what it was asked."""


class Network(Protocol):
    """Who can talk to whom, and who relies on whom."""

    servers: list[Server]
    members: set[ServerId]
    softened: set[OpId]
    """For the checks: taken as tentative because their forwarding was in doubt."""

    def connected(self, one: str, other: str) -> bool: ...
    def met(self, one: Server, other: Server) -> bool:
        """Connected, and past the barrier: each has read the other's log since they are."""
        ...

    def part(self, one: Server, other: Server) -> None:
        """They take each other for down."""
        ...

    def take_fault(self, kind: str) -> bool:
        """Whether the fault is due now; it happens once."""
        ...


class Clock:
    """A hybrid clock over the simulated time of one machine. Invariant: `last` covers every stamp and every promise."""

    def __init__(self, server: ServerId, last: int, now_us: Callable[[], int]) -> None:
        self.server = server
        self.last = last
        self.now_us = now_us

    def next(self, floor: int) -> Stamp:
        self.last = max(self.now_us(), self.last + 1, floor + 1)
        return Stamp(self.last, self.server)

    def observe(self, clock: int) -> None:
        self.last = max(self.last, clock)


class Server(Site):
    """Persistent: the database, with cursors into the logs of peers and the promise in `meta`. The rest dies with the
    process."""

    def __init__(self, name: str, folder: object, network: Network, now_us: Callable[[], int]) -> None:
        self.id = ServerId(name)
        self.network = network
        self.skew_us = 0
        self._now_us = now_us
        super().__init__(name, folder)  # type: ignore[arg-type]
        self._wake()

    def _wake(self) -> None:
        last = max(self.replica.max_clock, self.meta_int("promise"))
        self.clock = Clock(self.id, last, lambda: self._now_us() + self.skew_us)
        self.promises: dict[ServerId, int] = {}

    def reopen(self) -> None:
        super().reopen()
        self._wake()

    def replace_disk(self) -> None:
        """An empty server with a new identity in the old one's place."""
        self.wipe()
        self.id = ServerId(f"{self.name}-{self.generation}")
        self._wake()

    # --- the log, as others read it ------------------------------------------------------------------

    @property
    def head(self) -> int:
        return self.replica.head

    @property
    def joined(self) -> bool:
        """False: an empty server in an old one's place. It stamps nothing before it has met the volume once: others may
        have a stable point that its clock is below."""
        return self.generation == 0 or self.database.meta("joined") is not None

    def read_from(self, peer: Server, limit: int = 1 << 30) -> None:
        """Catch up with a peer's log, from where this server stopped reading it."""
        self._read_from(peer, limit)
        if not self.joined and peer.joined and self.caught_up_with(peer):
            with self.database.transaction():
                self.clock.observe(peer.promise())
                self.database.set_meta("joined", "1")
                self.database.set_meta("promise", str(self.clock.last))

    def _read_from(self, peer: Server, limit: int) -> None:
        key = f"cursor:{peer.id}"
        cursor = self.meta_int(key)
        if cursor + 1 < peer.replica.first:
            if not self.joined or not self.replica.operations:
                self.take_snapshot(peer)
                return
            # A log is pruned below what every member holds: what is missing there is here, and stable.
            entries, reached = peer.replica.entries_above(self.replica.stable), peer.head
        else:
            entries = peer.replica.entries_after(cursor, limit)
            reached = entries[-1][0] if entries else cursor
        if reached == cursor:
            return
        with self.database.transaction():
            self.clock.observe(max((stamp.clock for _, stamp, _ in entries), default=0))
            self.take([(op, stamp) for _, stamp, op in entries])
            self.database.set_meta(key, str(reached))

    def take_snapshot(self, peer: Server) -> None:
        """Only a server that is new to the volume does, whatever it has read of another already."""
        with self.database.transaction():
            self.replica.load(list(peer.replica.dump(everywhere=peer.everywhere())))
            self.database.set_meta(f"cursor:{peer.id}", str(peer.head))
        for op, stamp in peer.ghost.items():
            self.note(op, stamp)
        self.clock.observe(self.replica.max_clock)

    def caught_up_with(self, peer: Server) -> bool:
        return self.meta_int(f"cursor:{peer.id}") >= peer.head

    # --- operations ------------------------------------------------------------------------------------

    def peers_met(self) -> list[Server]:
        return [s for s in self.network.servers if s is not self and self.network.met(self, s)]

    def sequencer(self) -> Server:
        return min([self, *self.peers_met()], key=lambda s: s.id)

    def submit(self, op: Operation, floor: int, *, strict: bool) -> Ack | Refused:
        """Raises Lost when the answer gets lost on its way to the client."""
        stamp = self.replica.stamp_of(op.id)
        if stamp is None:
            refused = self._log(op, floor, strict=strict)
            if refused is not None:
                return refused
        return self._acknowledge(op)

    def _acknowledge(self, op: Operation) -> Ack:
        if self.network.take_fault("lag"):
            raise Lost
        for peer in self.peers_met():
            peer.read_from(self)
        stamp = self.replica.stamp_of(op.id)
        assert stamp is not None
        return Ack(stamp, sum(s.replica.stamp_of(op.id) is not None for s in self.network.servers))

    def _log(self, op: Operation, floor: int, *, strict: bool) -> Refused | None:
        """Have it stamped here or by the sequencer. An operation whose forwarding was in doubt is never strict."""
        while True:
            sequencer = self.sequencer()
            if sequencer is self:
                return self._stamp(op, floor, strict=strict)
            try:
                return self._forward(sequencer, op, floor, strict=strict)
            except Lost:
                self.network.part(self, sequencer)
                self.network.softened.add(op.id)
                strict = False

    def _stamp(self, op: Operation, floor: int, *, strict: bool) -> Refused | None:
        trusted = floor if floor <= self.clock.now_us() + MAX_LEAD_US else 0
        stamp = self.clock.next(trusted)
        with self.database.transaction():
            try:
                if strict:
                    self.replica.offer(op, stamp)
                else:
                    self.replica.accept(op, stamp)
            except FileSystemError as error:
                if not strict:
                    raise AssertionError("a tentative operation was refused") from error
                return Refused(error)
        self.note(op.id, stamp)
        return None

    def _forward(self, sequencer: Server, op: Operation, floor: int, *, strict: bool) -> Refused | None:
        if self.network.take_fault("forward_request"):
            raise Lost
        # What a client handed over here must be there before an operation that builds on it.
        sequencer.read_from(self)
        if sequencer.replica.stamp_of(op.id) is None:
            refused = sequencer._log(op, floor, strict=strict)
            if refused is not None:
                return refused
        if self.network.take_fault("forward_answer"):
            raise Lost
        self.read_from(sequencer)
        return None

    # --- what a client knows and this server lacks -------------------------------------------------------

    def want(self, offered: Sequence[tuple[OpId, Stamp]]) -> list[OpId]:
        wanted = []
        for op, stamp in offered:
            known = self.replica.stamp_of(op)
            if known is None or stamp < known:
                wanted.append(op)
        return wanted

    def take_over(self, entries: Sequence[tuple[Operation, Stamp]]) -> None:
        with self.database.transaction():
            self.clock.observe(max((stamp.clock for _, stamp in entries), default=0))
            self.take(entries)

    # --- the stable point ----------------------------------------------------------------------------------

    def promise(self) -> int:
        """No stamp at or below the returned clock will be given here any more, not even after a restart."""
        self.clock.observe(self.clock.now_us())
        with self.database.transaction():
            self.database.set_meta("promise", str(self.clock.last))
        return self.clock.last

    def hear(self, peer: Server) -> None:
        """A heartbeat: the promise counts only for one who has read everything that was stamped before it."""
        promised = peer.promise()
        if self.caught_up_with(peer):
            self.promises[peer.id] = promised

    def stabilise(self) -> None:
        """The least over the members of what they will not stamp any more."""
        known = {**self.promises, self.id: self.promise()}
        if any(member not in known for member in self.network.members):
            return
        stable = Stamp(min(known[member] for member in self.network.members), PENDING_SERVER)
        if stable > self.replica.stable:
            with self.database.transaction():
                self.replica.stabilise(stable)

    def everywhere(self) -> int:
        """The position of this log up to which every member holds it."""
        peers = [s for s in self.network.servers if s is not self]
        if {self.id, *(s.id for s in peers)} != self.network.members:
            return 0
        return min([self.head, *(s.meta_int(f"cursor:{self.id}") for s in peers)])

    def prune(self) -> int:
        with self.database.transaction():
            return self.replica.prune(before_time_ns=1 << 61, up_to_position=self.everywhere())
