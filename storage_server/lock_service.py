"""The locks of a volume as its sequencer keeps them: who manages a file's locks, who holds what, who waits.

Pure: messages and the time come in, messages go out through `tell`; no network and no clock of its own. Everything is
in memory: a new sequencer begins a REIGN with nothing, and every mount claims what it holds. In the first
LOCK_GRACE_S, or until all mounts that it was told of have claimed, nothing new is granted to anybody. What is claimed
is always accepted: two sides of a cut may hold the same lock, both keep it, and they are counted.

A mount that holds anything beats; one that was not heard for TERM_S loses all it holds. A file that one mount alone
is interested in is LEASED to it. Somebody else's interest has the lease recalled: his call waits until it is given
back, or its holder's term is over.

Threading: the event loop.
"""

from __future__ import annotations

from collections.abc import Callable

from gdah_volume.errors import TooManyLocks
from gdah_volume.ids import Author, NodeId
from gdah_volume.lock_messages import (
    FileLock,
    LockAgain,
    LockAsk,
    LockBeat,
    LockClaim,
    LockGiven,
    LockHold,
    LockRecall,
    LockTold,
    OfMount,
    ToMount,
)
from gdah_volume.locks import Owner, Range, Waiter
from storage_server.lock_words import (
    CLIENT_ASKS_MAX,
    CLIENT_FILES_MAX,
    CLIENT_LOCKS_MAX,
    COUNT_S,
    GONE_KEPT,
    HELD_MAX,
    LOCK_GRACE_S,
    QUIET_S,
    RECALL_AGAIN_S,
    TERM_S,
    Client,
    ServedFile,
)


class LockService:
    def __init__(self, tell: Callable[[Author, ToMount], None], position: Callable[[], int]) -> None:
        """`position`: of the newest entry in the log here."""
        self._tell = tell
        self._position = position
        self.clients: dict[Author, Client] = {}
        self._files: dict[NodeId, ServedFile] = {}
        self._parts: dict[Author, tuple[int, list[LockHold]]] = {}
        self._held: list[LockAsk] = []
        """Asked during the grace."""
        self._lines: set[NodeId] = set()
        """Files with somebody in line, or a lease that is owed back."""
        self._torn: set[NodeId] = set()
        """Files with locks that contradict each other, as far as known."""
        self._gone: dict[Author, float] = {}
        self._grace_until = float("-inf")
        self._awaited: set[Author] | None = None
        self._swept_at = self._count_at = 0.0
        self.conflicts = 0
        """Locks that contradict each other, as counted last."""
        self.came_back_late = 0
        """Mounts that were given up, and came back with locks that may have been given away."""

    # --- a reign

    def begin(self, now: float, known: set[Author] | None) -> None:
        """Nothing is known but who may hold something (None: not even that)."""
        self.end()
        self._grace_until = now + LOCK_GRACE_S
        self._awaited = known

    def end(self) -> None:
        self.clients.clear()
        self._files.clear()
        self._parts.clear()
        self._held.clear()
        self._lines.clear()
        self._torn.clear()

    def shift(self, seconds: float) -> None:
        """This process did not run for so long: nobody was silent for that."""
        for client in self.clients.values():
            client.heard_at += seconds

    def _in_grace(self, now: float) -> bool:
        if now >= self._grace_until:
            return False
        return self._awaited is None or not self._awaited <= self.clients.keys()

    # --- what mounts say

    def hear(self, message: OfMount, now: float) -> None:
        if isinstance(message, LockClaim):
            self._claim(message, now)
            return
        client = self.clients.get(message.client)
        if client is None or message.session > client.session:
            self._tell(message.client, LockAgain(client=message.client, session=message.session))
            return
        if message.session < client.session:
            return
        client.heard_at = now
        match message:
            case LockAsk():
                self._hear_ask(message, client, now)
            case LockBeat():
                self._tell(
                    message.client,
                    LockBeat(
                        client=message.client,
                        session=message.session,
                        sent_us=message.sent_us,
                        position=self._position(),
                        conflicts=self.conflicts,
                    ),
                )
            case LockGiven():
                self._given(message.client, message.hold, now)

    def _claim(self, claim: LockClaim, now: float) -> None:
        known = self.clients.get(claim.client)
        if known is not None and claim.session < known.session:
            return
        if claim.leave:
            self._forget(claim.client, now)
            return
        session, parts = self._parts.get(claim.client, (claim.session, []))
        parts = parts if session == claim.session else []
        if sum(1 + len(hold.locks) for hold in parts) < CLIENT_LOCKS_MAX + CLIENT_FILES_MAX:
            parts.extend(claim.holds)
        self._parts[claim.client] = (claim.session, parts)
        if not claim.last:
            return
        del self._parts[claim.client]
        if self._gone.pop(claim.client, None) is not None and parts:
            self.came_back_late += 1
        self._take_away(claim.client)
        client = self.clients[claim.client] = Client(claim.session, now)
        for hold in parts:
            self._adopt(claim.client, client, hold, now)
        for node in list(self._lines):
            self._go_on(node, now)
        self._end_grace(now)

    def _adopt(self, name: Author, client: Client, hold: LockHold, now: float) -> None:
        file = self._files.setdefault(hold.node, ServedFile())
        client.nodes.add(hold.node)
        alone = file.lease is None and not file.owing and not file.queue.table.clients() - {name}
        if hold.leased and alone:
            file.lease = name
            return
        self._put(name, file, hold)
        if hold.leased:
            self._recall(name, hold.node, file, now)
        self._recall(file.lease, hold.node, file, now)

    def _put(self, name: Author, file: ServedFile, hold: LockHold) -> None:
        file.queue.table.remove_client(name)
        for lock in hold.locks:
            wanted = Range(lock.write, lock.start, lock.end, lock.pid)
            try:
                file.queue.table.put(lock.space, Owner(name, lock.owner), wanted)
            except TooManyLocks:
                continue
        self._torn.add(hold.node)

    def _hear_ask(self, ask: LockAsk, client: Client, now: float) -> None:
        if ask.act == "cancel":
            self._cancel(ask)
        elif ask.act == "unset":
            self._unset(ask, now)
        elif self._in_grace(now):
            if len(self._held) < HELD_MAX:
                self._held.append(ask)
                self._answer(ask, "waiting")
            else:
                self._answer(ask, "full")
        else:
            self._ask(ask, client, now)

    def _ask(self, ask: LockAsk, client: Client, now: float) -> None:
        file = self._files.get(ask.node)
        if ask.node not in client.nodes:
            if len(client.nodes) >= CLIENT_FILES_MAX:
                self._answer(ask, "full")
                return
            client.nodes.add(ask.node)
        if file is None:
            file = self._files[ask.node] = ServedFile()
        file.asked[ask.client] = now
        if file.lease == ask.client and not file.owing:
            self._answer(ask, "leased", position=self._position())
        elif file.lease is not None or file.owing:
            self._recall(file.lease, ask.node, file, now)
            self._pend(ask, file)
        elif self._may_lease(file, ask.client, now):
            file.lease = ask.client
            file.queue.table.remove_client(ask.client)
            self._answer(ask, "leased", position=self._position())
        else:
            self._judge(ask, file, now)

    def _pend(self, ask: LockAsk, file: ServedFile) -> None:
        file.pending = [each for each in file.pending if (each.client, each.ask) != (ask.client, ask.ask)]
        if len(file.pending) >= CLIENT_ASKS_MAX:
            self._answer(ask, "full")
            return
        file.pending.append(ask)
        self._answer(ask, "waiting")

    def _may_lease(self, file: ServedFile, client: Author, now: float) -> bool:
        if file.queue.waiting or file.queue.table.clients() - {client}:
            return False
        return not any(now - at < QUIET_S for other, at in file.asked.items() if other != client)

    def _judge(self, ask: LockAsk, file: ServedFile, now: float) -> None:
        owner, wanted = Owner(ask.client, ask.owner), Range(ask.write, ask.start, ask.end, ask.pid)
        queue = file.queue
        try:
            if ask.act == "test":
                found = queue.table.conflict(ask.space, owner, wanted)
                self._answer(ask, "clear" if found is None else "conflict", found=found)
            elif ask.act == "set":
                found = queue.take(ask.space, owner, wanted)
                if found is None:
                    self._answer(ask, "granted", position=self._position())
                else:
                    self._answer(ask, "conflict", found=found)
            elif queue.cancel(ask.client, ask.ask) or len(queue.waiting) < CLIENT_ASKS_MAX:
                if queue.wait(Waiter(ask.ask, ask.space, owner, wanted, now), now):
                    self._answer(ask, "granted", position=self._position())
                else:
                    self._lines.add(ask.node)
                    self._answer(ask, "waiting")
            else:
                self._answer(ask, "full")
        except TooManyLocks:
            self._answer(ask, "full")
        if ask.act != "test" and queue.waiting:
            for waiter in queue.pump(now):
                self._granted(waiter)

    def _unset(self, ask: LockAsk, now: float) -> None:
        file = self._files.get(ask.node)
        if file is not None:
            file.queue.table.remove(ask.space, Owner(ask.client, ask.owner), ask.start, ask.end)
        self._answer(ask, "done")
        if file is not None:
            self._go_on(ask.node, now)

    def _cancel(self, ask: LockAsk) -> None:
        def other(each: LockAsk) -> bool:
            return (each.client, each.ask) != (ask.client, ask.ask)

        file = self._files.get(ask.node)
        if file is not None:
            file.queue.cancel(ask.client, ask.ask)
            file.pending = [each for each in file.pending if other(each)]
        self._held = [each for each in self._held if other(each)]
        self._answer(ask, "cancelled")

    def _answer(
        self, ask: LockAsk, result: str, *, position: int = 0, found: tuple[Owner, Range] | None = None
    ) -> None:
        lock = None
        if found is not None:
            owner, held = found
            lock = FileLock(ask.space, owner.key, held.write, held.start, held.end, held.pid)
        self._tell(
            ask.client,
            LockTold(
                client=ask.client,
                session=ask.session,
                ask=ask.ask,
                result=result,  # type: ignore[arg-type]
                position=position,
                lock=lock,
            ),
        )

    # --- leases

    def _recall(self, lessee: Author | None, node: NodeId, file: ServedFile, now: float) -> None:
        if lessee is None or lessee in file.owing:
            return
        file.lease = None if file.lease == lessee else file.lease
        file.owing[lessee] = now
        file.asked[lessee] = now
        self._lines.add(node)
        self._tell(lessee, LockRecall(client=lessee, node=node))

    def _given(self, name: Author, hold: LockHold, now: float) -> None:
        file = self._files.setdefault(hold.node, ServedFile())
        self.clients[name].nodes.add(hold.node)
        if file.owing.pop(name, None) is not None:
            file.asked[name] = now
        if file.lease == name:
            file.lease = None
        self._put(name, file, hold)
        self._go_on(hold.node, now)

    def _go_on(self, node: NodeId, now: float) -> None:
        """What has waited in a file, as far as it goes now."""
        file = self._files.get(node)
        if file is None:
            self._lines.discard(node)
            return
        if file.lease is None and not file.owing:
            for waiter in file.queue.pump(now):
                self._granted(waiter)
            pending, file.pending = file.pending, []
            for ask in pending:
                client = self.clients.get(ask.client)
                if client is not None and client.session == ask.session:
                    self._ask(ask, client, now)
        if not (file.queue.waiting or file.owing or file.pending):
            self._lines.discard(node)

    def _granted(self, waiter: Waiter) -> None:
        name = Author(waiter.owner.client)
        client = self.clients.get(name)
        if client is not None:
            self._tell(
                name,
                LockTold(
                    client=name,
                    session=client.session,
                    ask=waiter.name,
                    result="granted",
                    position=self._position(),
                ),
            )

    # --- who is gone

    def _take_away(self, name: Author) -> set[NodeId]:
        client = self.clients.pop(name, None)
        self._held = [ask for ask in self._held if ask.client != name]
        if client is None:
            return set()
        for node in client.nodes:
            file = self._files.get(node)
            if file is None:
                continue
            file.queue.table.remove_client(name)
            file.queue.forget_waiters(lambda waiter: waiter.owner.client == name)
            file.pending = [ask for ask in file.pending if ask.client != name]
            file.owing.pop(name, None)
            file.asked.pop(name, None)
            if file.lease == name:
                file.lease = None
            self._lines.add(node)
        return client.nodes

    def _forget(self, name: Author, now: float) -> None:
        self._parts.pop(name, None)
        for node in self._take_away(name):
            self._go_on(node, now)

    # --- time

    def tick(self, now: float) -> None:
        """Several times a second, while this server certainly is the sequencer."""
        for name, client in list(self.clients.items()):
            if now - client.heard_at > TERM_S:
                if client.nodes:
                    self._gone[name] = now
                    while len(self._gone) > GONE_KEPT:
                        del self._gone[next(iter(self._gone))]
                self._forget(name, now)
        self._end_grace(now)
        if now >= self._count_at:
            self._count_at = now + COUNT_S
            self._count()
        for node in list(self._lines):
            file = self._files.get(node)
            for lessee, at in list(file.owing.items()) if file is not None else ():
                if now - at > RECALL_AGAIN_S:
                    file.owing[lessee] = now  # type: ignore[union-attr]
                    self._tell(lessee, LockRecall(client=lessee, node=node))
            self._go_on(node, now)
        if now - self._swept_at > QUIET_S:
            self._swept_at = now
            self._sweep(now)

    def _end_grace(self, now: float) -> None:
        if not self._held or self._in_grace(now):
            return
        held, self._held = self._held, []
        for ask in held:
            client = self.clients.get(ask.client)
            if client is not None and client.session == ask.session:
                self._ask(ask, client, now)

    def _sweep(self, now: float) -> None:
        for node, file in list(self._files.items()):
            file.asked = {name: at for name, at in file.asked.items() if now - at < QUIET_S}
            involved = file.queue.table.clients() | {each.owner.client for each in file.queue.waiting}
            involved |= {each.client for each in file.pending} | set(file.owing) | {file.lease or ""}
            for name, client in self.clients.items():
                if name not in involved and name not in file.asked:
                    client.nodes.discard(node)
            if file.empty and not file.asked:
                del self._files[node]
                self._torn.discard(node)

    # --- figures

    def _count(self) -> None:
        """Now and then, because it takes its time: how many locks contradict each other."""
        counts = {node: self._files[node].queue.table.contradictions() for node in self._torn if node in self._files}
        self._torn = {node for node, count in counts.items() if count}
        self.conflicts = sum(counts.values())

    def figures(self) -> dict[str, int]:
        files = self._files.values()
        return {
            "mounts": len(self.clients),
            "held": sum(len(file.queue.table) for file in files),
            "waiting": sum(len(file.queue.waiting) + len(file.pending) for file in files) + len(self._held),
            "leases": sum(file.lease is not None for file in files),
            "conflicts": self.conflicts,
            "came_back_late": self.came_back_late,
        }
