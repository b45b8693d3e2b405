"""The world that a program runs in: servers, clients, the network between them, one simulated time.

A PROGRAM is a list of steps, flat tuples of a word and numbers; every step is possible in every state (one that makes
no sense does nothing), so that programs can be drawn at random, shrunk, and written into a report.

    ("do", client, server, fault, intent...)  a program on a connected mount waits for the answer
    ("issue", client, intent...)              logged only; the program goes on
    ("push", client, server, count, fault)    send pending operations
    ("pull", client, server, count)           read the feed
    ("sync", server, peer, count)             read a peer's log, a part of it
    ("meet", server, peer)                    the barrier: read each other's logs whole, then rely on each other
    ("cut", a, b) ("heal", a, b)              ends are numbered: servers first, then clients
    ("restart", server) ("reboot", client)    the process dies; the database stays
    ("torn", end, server, dies)               reading a server's log ends in a roll back, or the death of the process
    ("beat",)                                 heartbeats between servers that see each other; the stable point grows
    ("prune", server) ("snapshot", client, server) ("wipe", server)
    ("tick", us) ("skew", server, us)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from gdah_volume.ids import OpId, ServerId
from gdah_volume.operations import Operation
from gdah_volume.stamps import Stamp
from tests.model.clients import Client, Issued
from tests.model.intents import builders
from tests.model.servers import Ack, Lost, Refused, Server

Step = tuple[int | str, ...]
Program = Sequence[Step]

START_US = 1_000_000
FAULTS = ("none", "request", "answer", "crash", "lag", "forward_request", "forward_answer")


@dataclass(frozen=True)
class Clean:
    """A strict operation that went through the one sequencer of all servers, and that every member held when it was
    acknowledged."""

    op: OpId
    stamp: Stamp


@dataclass
class Counts:
    steps: int = 0
    issued: int = 0
    logged: int = 0
    faults: int = 0
    refused: int = 0
    in_doubt: int = 0
    restamped: int = 0
    snapshots: int = 0
    races: int = 0
    pruned: int = 0
    conflicts: int = 0
    merged: int = 0
    forks: int = 0

    def add(self, other: Counts) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class World:
    servers_wanted: int = 2
    clients_wanted: int = 2
    folder: Path | None = None
    """Where databases lie as files; None: in memory."""

    counts: Counts = field(default_factory=Counts)
    acknowledged: dict[OpId, Stamp] = field(default_factory=dict)
    clean: list[Clean] = field(default_factory=list)
    refused: set[OpId] = field(default_factory=set)
    softened: set[OpId] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.now_us = START_US
        self.fault = "none"
        self.cuts: set[frozenset[str]] = set()
        self.servers: list[Server] = []
        self.members: set[ServerId] = set()
        for number in range(self.servers_wanted):
            server = Server(f"s{number + 1}", self.folder, self, lambda: self.now_us)
            self.servers.append(server)
            self.members.add(server.id)
        self.clients = [Client(name, n + 1, self.folder) for n, name in enumerate(self._names())]
        self.met_pairs = {frozenset((a.name, b.name)) for a, b in itertools.combinations(self.servers, 2)}

    def _names(self) -> list[str]:
        return ["ann", "bob", "cid", "dan"][: self.clients_wanted]

    def close(self) -> None:
        for site in (*self.servers, *self.clients):
            site.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the network ------------------------------------------------------------------------------------

    def connected(self, one: str, other: str) -> bool:
        return frozenset((one, other)) not in self.cuts

    def met(self, one: Server, other: Server) -> bool:
        pair = frozenset((one.name, other.name))
        return pair not in self.cuts and pair in self.met_pairs

    def part(self, one: Server, other: Server) -> None:
        self.met_pairs.discard(frozenset((one.name, other.name)))

    def take_fault(self, kind: str) -> bool:
        if self.fault != kind:
            return False
        self.fault = "none"
        self.counts.faults += 1
        return True

    def histories(self) -> dict[OpId, Issued]:
        return {op: issued for client in self.clients for op, issued in client.history.items()}

    # --- running ------------------------------------------------------------------------------------------

    def run(self, program: Iterable[Step]) -> None:
        for step in program:
            self.step(step)

    def step(self, step: Step) -> None:
        self.counts.steps += 1
        self.now_us += 7
        self.fault = "none"
        word, *rest = step
        numbers = [int(number) for number in rest if isinstance(number, int)]
        match word:
            case "do":
                self._do(self._client(rest[0]), self._server(rest[1]), str(rest[2]), rest[3:])
            case "issue":
                self._issue(self._client(rest[0]), rest[1:])
            case "push":
                self._push(self._client(rest[0]), self._server(rest[1]), numbers[2], str(rest[3]))
            case "pull":
                self._pull(self._client(rest[0]), self._server(rest[1]), numbers[2])
            case "snapshot":
                self._snapshot(self._client(rest[0]), self._server(rest[1]))
            case "reboot":
                self._client(rest[0]).reopen()
                self.counts.faults += 1
            case "tick":
                self.now_us += numbers[0]
            case _:
                self._server_step(str(word), numbers)

    def _server_step(self, word: str, numbers: list[int]) -> None:
        match word:
            case "sync":
                reader, peer = self._server(numbers[0]), self._server(numbers[1])
                if reader is not peer and self.connected(reader.name, peer.name):
                    reader.read_from(peer, numbers[2])
            case "meet":
                self._meet(self._server(numbers[0]), self._server(numbers[1]))
            case "cut":
                self._cut(*self._ends(numbers))
            case "heal":
                self.cuts.discard(frozenset(self._ends(numbers)))
            case "restart":
                self._restart(self._server(numbers[0]))
            case "beat":
                self._beat()
            case "torn":
                self._torn(self.sites()[numbers[0] % len(self.sites())], self._server(numbers[1]), dies=numbers[2] > 0)
            case "prune":
                self.counts.pruned += self._server(numbers[0]).prune()
            case "wipe":
                self._wipe(self._server(numbers[0]))
            case "skew":
                self._server(numbers[0]).skew_us = numbers[1]
            case _:
                raise AssertionError(f"no such step: {word}")

    def _client(self, number: int | str) -> Client:
        return self.clients[int(number) % len(self.clients)]

    def _server(self, number: int | str) -> Server:
        return self.servers[int(number) % len(self.servers)]

    def _ends(self, numbers: list[int]) -> tuple[str, str]:
        names = [site.name for site in (*self.servers, *self.clients)]
        return names[numbers[0] % len(names)], names[numbers[1] % len(names)]

    # --- steps of clients ----------------------------------------------------------------------------------

    def _issue(self, client: Client, intent: Sequence[int | str], *, strict: bool = False) -> list[Operation]:
        """The operations of one intent; the first refusal ends it."""
        issued = []
        for build in builders(intent):
            op = client.issue(build, self.now_us * 1000, strict=strict)
            if op is None:
                break
            issued.append(op)
            self.counts.issued += 1
        return issued

    def _do(self, client: Client, server: Server, fault: str, intent: Sequence[int | str]) -> None:
        """Each operation of the intent is answered before the next; without a server it stays in the log."""
        for build in builders(intent):
            op = client.issue(build, self.now_us * 1000, strict=True)
            if op is None:
                return
            self.counts.issued += 1
            self._push(client, server, 1 << 30, fault)
            if op.id in self.refused:
                return

    def _push(self, client: Client, server: Server, count: int, fault: str) -> None:
        """Send up to `count` pending operations; the fault hits the last of them."""
        if not self._attach(client, server):
            return
        batch = client.pending()[:count]
        for number, op in enumerate(batch):
            if op.id in {pending.id for pending in client.pending()}:
                self.fault = fault if number == len(batch) - 1 else "none"
                if not self._send(client, server, op):
                    return

    def _send(self, client: Client, server: Server, op: Operation) -> bool:
        if self.take_fault("request"):
            client.lose(op)
            return False
        strict = op.id in client.strict and op.id not in client.in_doubt
        try:
            if self.fault in ("answer", "crash"):
                return self._lose_answer(client, server, op, strict=strict)
            answer = client.send(op)
        except Lost:
            self.counts.in_doubt += 1
            return False
        match answer:
            case Refused():
                self.counts.refused += 1
                self.refused.add(op.id)
            case Ack(stamp, copies):
                self.acknowledged[op.id] = stamp
                if strict and copies == len(self.members) and self._all_met() and op.id not in self.softened:
                    self.clean.append(Clean(op.id, stamp))
        return True

    def _all_met(self) -> bool:
        return all(self.met(one, other) for one, other in itertools.combinations(self.servers, 2))

    def _lose_answer(self, client: Client, server: Server, op: Operation, *, strict: bool) -> bool:
        crash = self.take_fault("crash")
        if not crash:
            self.take_fault("answer")
        server.submit(op, client.replica.max_clock, strict=strict)
        client.lose(op)
        self.counts.in_doubt += 1
        if crash:
            self._restart(server)
        return False

    def _attach(self, client: Client, server: Server) -> bool:
        """False: no connection, or an empty server that must first get the volume from a peer."""
        if not self.connected(client.name, server.name) or not server.joined:
            return False
        before = dict(client.ghost)
        client.attach(server)
        for op, stamp in before.items():
            assert op in server.ghost, f"{server.name} lacks {op} after a hand over"
            assert server.ghost[op] <= stamp, f"{server.name} holds {op} later than it was told"
            assert client.ghost[op] <= stamp, f"the view of {client.name} went backwards over {op}"
        return True

    def _pull(self, client: Client, server: Server, count: int) -> None:
        if self._attach(client, server):
            client.read_feed(count)

    def _snapshot(self, client: Client, server: Server) -> None:
        """A client that returns so late that only a copy will do."""
        if self._attach(client, server):
            client.take_snapshot(server)
            self.counts.snapshots += 1

    # --- steps of servers ----------------------------------------------------------------------------------

    def _meet(self, one: Server, other: Server) -> None:
        if one is other or not self.connected(one.name, other.name):
            return
        for _ in range(2):
            one.read_from(other)
            other.read_from(one)
        if not (one.joined and other.joined):
            return
        self.met_pairs.add(frozenset((one.name, other.name)))

    def _cut(self, one: str, other: str) -> None:
        if one == other:
            return
        self.counts.faults += 1
        self.cuts.add(frozenset((one, other)))
        self.met_pairs.discard(frozenset((one, other)))
        for client in self.clients:
            if client.server is not None and frozenset((client.name, client.server.name)) in self.cuts:
                client.server = None

    def _restart(self, server: Server) -> None:
        self.counts.faults += 1
        server.reopen()
        self._forget_links(server)

    def _torn(self, reader: Server | Client, peer: Server, *, dies: bool) -> None:
        """A transaction that takes over everything from a server is rolled back: the disk was full, or kill -9."""
        if reader is peer:
            return
        self.counts.faults += 1
        news = [(op, stamp) for _, stamp, op in peer.replica.entries_above(reader.replica.stable)]
        try:
            with reader.database.transaction():
                reader.replica.accept_all(news)
                raise Lost
        except Lost:
            pass
        if not dies:
            return
        if isinstance(reader, Server):
            self._restart(reader)
        else:
            reader.reopen()

    def _forget_links(self, server: Server) -> None:
        for other in self.servers:
            self.part(server, other)
        for client in self.clients:
            if client.server is server:
                client.server = None

    def _beat(self) -> None:
        for server in self.servers:
            for peer in self.servers:
                if peer is not server and self.connected(server.name, peer.name):
                    server.hear(peer)
            server.stabilise()

    def _wipe(self, server: Server) -> None:
        """Lose a disk, if another server still has one: what nobody else ever held is gone by definition."""
        if not any(other.joined for other in self.servers if other is not server):
            return
        self.counts.faults += 1
        server.replace_disk()
        self.members.add(server.id)
        self._forget_links(server)

    # --- the end ------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Everything is connected again, everybody hands over what he has and reads what there is."""
        self.fault = "none"
        self.cuts.clear()
        self._meet_all()
        for client in self.clients:
            client.server = None
            self._push(client, self.servers[0], 1 << 30, "none")
        self._meet_all()
        for number, client in enumerate(self.clients):
            client.server = None
            self._pull(client, self.servers[-1 - number % len(self.servers)], 1 << 30)
        self._meet_all()
        for client in self.clients:
            client.read_feed()

    def _meet_all(self) -> None:
        for one, other in itertools.combinations(self.servers, 2):
            self._meet(one, other)
        for one, other in itertools.combinations(self.servers, 2):
            self._meet(one, other)

    def sites(self) -> list[Server | Client]:
        return [*self.servers, *self.clients]
