"""Which locks the programs of this mount hold and wait for, and who of them gets what: the judge on this device. Pure
but for the clock that comes as an argument; knows no server.

Answers are queued in `told` and called by whoever has let the lock of `locking` go.

Threading: guarded by that lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from gdah_volume.errors import Deadlock, GdahError, Interrupted, TooManyLocks, WouldBlock
from gdah_volume.ids import NodeId
from gdah_volume.locks import LockTable, Owner, Range, Space, Waiter
from mountfs.locks.lock_files import Ask, LockedFile

BRIEFLY_S = 0.01
BRIEF_TRIES = 5
"""The kernel tells of the last close(2) of an open file (RELEASE) a moment after that close has returned. So if a lock
is in the way that was set by an open file which was just closed by somebody, it is looked at again, so often after so
long."""
CLOSING_S = 1.0
FILES_MAX = 8192
"""Files with a lease or a lock; above it idle leases are given back early, and then ENOLCK."""


class LockBook:
    """Invariants: `queue.table` of a file is what programs of this mount hold, whoever judged it; each ask is answered
    once."""

    def __init__(self, client: str, forgotten: Callable[[LockedFile], None]) -> None:
        """`forgotten` is told of a file that is not kept any more."""
        self.client = client
        self._forgotten = forgotten
        self.files: dict[NodeId, LockedFile] = {}
        self.asks: dict[int, Ask] = {}
        """Those that a server is to judge, or will be judged again, by name."""
        self.briefly: list[tuple[float, Ask]] = []
        self._closing: dict[tuple[NodeId, Space, Owner], float] = {}
        """Locks that may end with the RELEASE that comes next, and since when."""
        self.told: deque[Callable[[], None]] = deque()

    # --- files

    def file(self, ask: Ask, now: float) -> LockedFile | None:
        """None: it was answered, there is nothing to be done about it."""
        file = self.files.get(ask.node)
        if file is None:
            if ask.act == "unset":
                self.answer(ask, None)
                return None
            if len(self.files) >= FILES_MAX and not self._make_room():
                self.answer(ask, TooManyLocks(f"locks of {FILES_MAX} files are held on this mount"))
                return None
            file = self.files[ask.node] = LockedFile(ask.node)
        file.used_at = now
        return file

    def _make_room(self) -> bool:
        for file in sorted(self.files.values(), key=lambda each: each.used_at):
            if file.idle:
                self.forget(file)
                return True
        return False

    def forget(self, file: LockedFile) -> None:
        del self.files[file.node]
        self._forgotten(file)

    def keep(self, file: LockedFile, ask: Ask) -> None:
        """A server is to judge it."""
        file.asks[ask.name] = self.asks[ask.name] = ask

    def drop(self, file: LockedFile, ask: Ask) -> None:
        file.asks.pop(ask.name, None)
        self.asks.pop(ask.name, None)

    def hand_over_line(self, file: LockedFile) -> None:
        """Who waited here waits at the server."""
        for ask in file.local.values():
            ask.said = ""
            self.keep(file, ask)
        file.local.clear()
        file.queue.waiting.clear()

    # --- judging

    def judge(self, file: LockedFile, ask: Ask, now: float) -> None:
        queue = file.queue
        if ask.act == "test":
            found = queue.table.conflict(ask.space, ask.owner, ask.wanted)
            if found is None:
                self.answer(ask, None)
            else:
                self.refuse(file, ask, now, found[1])
            return
        try:
            if ask.act == "set":
                if queue.take(ask.space, ask.owner, ask.wanted) is None:
                    self.answer(ask, None)
                else:
                    self.refuse(file, ask, now)
            elif self.is_deadlock(file, ask):
                self.answer(ask, Deadlock("the locks would wait for each other"))
            elif queue.wait(Waiter(ask.name, ask.space, ask.owner, ask.wanted, now), now):
                self.answer(ask, None)
            else:
                file.local[ask.name] = ask
        except TooManyLocks as error:
            self.answer(ask, error)
        if file.local:
            self.pump(file, now)

    def refuse(self, file: LockedFile, ask: Ask, now: float, held: Range | None = None) -> None:
        """`held`: what a test tells."""
        if ask.tries >= BRIEF_TRIES or not self._may_end(file, ask, now):
            self.answer(ask, held or WouldBlock("somebody else holds the lock"))
            return
        ask.tries += 1
        self.briefly.append((now + BRIEFLY_S, ask))
        self.asks[ask.name] = ask

    def closing(self, node: NodeId, space: Space, owner: Owner, now: float) -> None:
        """The open file by which this was set was closed by somebody, perhaps for the last time."""
        self._closing = {lock: at for lock, at in self._closing.items() if now - at < CLOSING_S}
        self._closing[node, space, owner] = now

    def _may_end(self, file: LockedFile, ask: Ask, now: float) -> bool:
        return bool(self._closing) and any(
            now - self._closing.get((file.node, ask.space, other), float("-inf")) < CLOSING_S
            for other, _ in file.queue.table.conflicts(ask.space, ask.owner, ask.wanted)
        )

    def due(self, now: float) -> list[Ask]:
        """Those that were refused briefly ago."""
        due = [ask for at, ask in self.briefly if at <= now]
        self.briefly = [(at, ask) for at, ask in self.briefly if at > now]
        for ask in due:
            self.asks.pop(ask.name, None)
            ask.said = ""
        return [ask for ask in due if ask.done is not None]

    def is_deadlock(self, file: LockedFile, ask: Ask) -> bool:
        """Whether somebody who stands in the way waits for the one who asks, perhaps by others."""
        if ask.space != "posix":
            return False
        waits: dict[Owner, list[tuple[LockTable, Range]]] = {}
        for each in self.files.values():
            for other in (*each.local.values(), *each.asks.values()):
                if other.space == "posix" and other.act == "wait" and other is not ask:
                    waits.setdefault(other.owner, []).append((each.queue.table, other.wanted))
        seen: set[Owner] = set()
        open_ = [owner for owner, _ in file.queue.table.conflicts("posix", ask.owner, ask.wanted)]
        while open_:
            owner = open_.pop()
            if owner == ask.owner:
                return True
            if owner not in seen:
                seen.add(owner)
                for table, wanted in waits.get(owner, ()):
                    open_.extend(other for other, _ in table.conflicts("posix", owner, wanted))
        return False

    def remove(self, file: LockedFile, ask: Ask, now: float) -> None:
        """What an unset is about; the next in line are let in."""
        file.queue.table.remove(ask.space, ask.owner, ask.wanted.start, ask.wanted.end)
        self.pump(file, now)

    def pump(self, file: LockedFile, now: float) -> None:
        for waiter in file.queue.pump(now):
            self.answer(file.local.pop(waiter.name), None)

    def decide(self, file: LockedFile, ask: Ask, now: float) -> None:
        """Here after all, what was to be judged by a server."""
        self.drop(file, ask)
        if ask.ended:
            self.answer(ask, Interrupted("interrupted"))
        elif ask.act == "unset":
            self.remove(file, ask, now)
            self.answer(ask, None)
        else:
            self.judge(file, ask, now)

    # --- answers

    def answer(self, ask: Ask, result: Range | GdahError | None) -> None:
        done, ask.done = ask.done, None
        granted = ask.granted if result is None and ask.act in ("set", "wait") else None
        if done is None:
            return

        def tell() -> None:
            if granted is not None:
                granted()
            done(result)

        self.told.append(tell)

    def everybody(self) -> Iterator[Ask]:
        """Who waits for an answer."""
        for file in self.files.values():
            yield from file.local.values()
            yield from file.asks.values()
        for _, ask in self.briefly:
            yield ask

    def figures(self) -> dict[str, int]:
        files = self.files.values()
        waiting = sum(len(file.local) + sum(ask.act == "wait" for ask in file.asks.values()) for file in files)
        return {
            "held": sum(len(file.queue.table) for file in files),
            "waiting": waiting,
            "leases": sum(file.mode == "leased" for file in files),
        }
