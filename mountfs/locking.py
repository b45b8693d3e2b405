"""The locks of this mount's programs: judged here while nobody else is interested, by the sequencer otherwise.

A file's locks are in one of three modes (see `LockedFile`). Whoever wants the first lock of a file asks the server,
which gives a LEASE if no other mount holds or wants one: from then on this mount judges by itself, without a message.
When another mount asks, the lease is RECALLED: unsaved writes are saved, the table is handed to the server, and it
judges for both. After a turn to another server, or when a server says that it knows nothing of us, everything is
CLAIMED anew.

A lock that a server grants comes with a position of its log. The program goes on when this mount's tree has reached
it and the kernel has forgotten what it had cached (the FENCE): so it sees what the one before has written. A lock is
given back to a server only when what this mount changed before is acknowledged.

Without a server, or with one that does not answer, calls are judged here among the programs of this mount: nobody is
ever stopped. What they hold then is claimed when a server is back.

Threading: any thread; `_lock` is a leaf but for nothing: no callback, no message, no wait under it. What is to be sent
or told is queued under it and goes out after it, messages in order. One thread (`locks`) looks after time.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from gdah_volume.errors import Deadlock, GdahError, Interrupted, TooManyLocks, Unreachable, WouldBlock
from gdah_volume.ids import Author, NodeId
from gdah_volume.lock_messages import (
    LOCK_HOLDS_MAX,
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
from gdah_volume.locks import LockTable, Owner, Range, Space, Waiter
from mountfs.lock_files import Act, Ask, Done, LockedFile

log = logging.getLogger("mountfs.locks")

HOPE_S = 1.0
"""So long after the last server was lost a call waits for the next one; then it is judged here."""
PATIENCE_S = 4.0
"""So long it waits for a server that is there: one that has just begun lets nobody in for a moment."""
LINE_S = 10.0
"""Who was in line behind another mount's lock is let in only when no server was there for so long."""
TOLD_S = 1.0
"""A program that unlocks, closes or is interrupted waits no longer for the server to say that it knows."""
LEASE_S = 1.25
"""A lease is worth nothing that long after the last sign that the server has answered. Less than LOCK_GRACE_S, in which
a new sequencer lets nobody in."""
BEAT_S = 0.2
TICK_S = 0.05
BRIEFLY_S = 0.02
"""The kernel tells of the last close(2) of an open file a moment after close has returned: a lock of a file of this
mount that is in the way is looked at again after that."""
IDLE_S = 60.0
FILES_MAX = 8192
"""Files with a lease or a lock; above it idle leases are given back early, and then ENOLCK."""
PIDS_MAX = 64


class Surroundings(Protocol):
    """What locking asks of the rest of the mount."""

    def save(self, node: NodeId, pids: set[int]) -> None:
        """Save the unsaved edits of a file, and of what those processes have open."""
        ...

    def mark(self) -> int:
        """Of the changes made so far."""
        ...

    def settled(self, mark: int) -> bool:
        """Whether a server has acknowledged them."""
        ...

    def fence(self, position: int, then: Callable[[], None]) -> None:
        """Call `then`, in any thread, when the tree has all of the server's log up to `position` and the kernel was
        told. Never, if the server is lost before."""
        ...


class Alone:
    """The surroundings of a mount that has no server."""

    def save(self, node: NodeId, pids: set[int]) -> None: ...

    def mark(self) -> int:
        return 0

    def settled(self, mark: int) -> bool:  # noqa: ARG002
        return True

    def fence(self, position: int, then: Callable[[], None]) -> None:  # noqa: ARG002
        then()


class Locking:
    """Invariants: `queue.table` of a file is what programs of this mount hold, whoever judged it; each ask is answered
    once."""

    def __init__(
        self,
        client: Author,
        around: Surroundings | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        hope_s: float = HOPE_S,
    ) -> None:
        self.client = client
        self.around: Surroundings = around or Alone()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._files: dict[NodeId, LockedFile] = {}
        self._asks: dict[int, Ask] = {}
        """Those that are in no answer yet, by name."""
        self._names = itertools.count(1)
        self._send: Callable[[OfMount], None] | None = None
        self._session = 0
        self._claimed = False
        self._used = False
        """A server has been asked in this run."""
        self._lost_at = monotonic() - (HOPE_S - hope_s)
        self._lease_until = float("-inf")
        self._beaten_at = float("-inf")
        self._later: list[Ask] = []
        """Unsets that wait for what was written before."""
        self._briefly: list[tuple[float, Ask]] = []
        self._fences: dict[int, Callable[[], None]] = {}
        self._out: deque[OfMount] = deque()
        self._told: deque[Callable[[], None]] = deque()
        self._sending = threading.Lock()
        self._recalling = 0
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.conflicts = 0
        """Locks of ours that contradict others', as the server counts them."""
        self.decided_alone = 0
        """Calls that should have been judged by a server, and were judged here."""

    # --- what programs ask

    def ask(
        self,
        node: NodeId,
        act: Act,
        space: Space,
        key: int,
        wanted: Range,
        done: Done,
        *,
        granted: Callable[[], None] | None = None,
        pid: int = 0,
    ) -> Callable[[], None]:
        """`done` is called once, perhaps before this returns, in any thread. The result ends the wait."""
        owner = Owner(self.client, key)
        ask = Ask(next(self._names), node, act, space, owner, wanted, done, self._monotonic(), granted)
        ask.mark = self.around.mark() if act == "unset" else 0
        with self._lock:
            file = self._file(ask)
            if file is not None:
                if pid and len(file.pids) < PIDS_MAX:
                    file.pids.add(pid)
                self._take(file, ask)
                if self._thread is None and not self._stopped and (self._asks or self._claimed or file.local):
                    self._start()
        self._go()
        return lambda: self._cancel(ask)

    def is_shared(self, node: NodeId) -> bool:
        """Whether somebody else may hold or want locks of it, so that an unlock has to make visible what was
        written."""
        file = self._files.get(node)
        return file is not None and file.mode == "shared"

    def concerns(self, node: NodeId, space: Space, key: int) -> bool:
        """Whether that owner holds anything there."""
        file = self._files.get(node)
        return file is not None and file.queue.table.holds(space, Owner(self.client, key))

    def held_by(self, node: NodeId, space: Space, key: int) -> list[Range]:
        with self._lock:
            file = self._files.get(node)
            owner = Owner(self.client, key)
            return [] if file is None else [held for s, o, held in file.queue.table.all() if (s, o) == (space, owner)]

    def _file(self, ask: Ask) -> LockedFile | None:
        file = self._files.get(ask.node)
        if file is None:
            if ask.act == "unset":
                self._answer(ask, None)
                return None
            if len(self._files) >= FILES_MAX and not self._make_room():
                self._answer(ask, TooManyLocks(f"locks of {FILES_MAX} files are held on this mount"))
                return None
            file = self._files[ask.node] = LockedFile(ask.node)
        file.used_at = self._monotonic()
        return file

    def _take(self, file: LockedFile, ask: Ask) -> None:
        now = self._monotonic()
        if ask.act == "unset":
            self._unset(file, ask)
        elif file.mode == "leased" and now < self._lease_until and not (file.recalled or file.fences):
            self._judge(file, ask, now)
        elif not self._hopeful(now):
            self.decided_alone += self._used
            self._judge(file, ask, now)
        else:
            file.asks[ask.name] = self._asks[ask.name] = ask
            self._say(ask)

    def _hopeful(self, now: float) -> bool:
        return self._send is not None or now - self._lost_at < HOPE_S

    # --- judging here

    def _judge(self, file: LockedFile, ask: Ask, now: float) -> None:
        queue = file.queue
        if ask.act == "test":
            found = queue.table.conflict(ask.space, ask.owner, ask.wanted)
            self._answer(ask, None if found is None else found[1])
            return
        try:
            if ask.act == "set":
                found = queue.take(ask.space, ask.owner, ask.wanted)
                if found is None:
                    self._answer(ask, None)
                else:
                    self._refuse(file, ask, now)
                return
            if ask.space == "posix" and self._is_deadlock(file, ask):
                self._answer(ask, Deadlock("the locks would wait for each other"))
                return
            if queue.wait(Waiter(ask.name, ask.space, ask.owner, ask.wanted, now), now):
                self._answer(ask, None)
            else:
                file.local[ask.name] = ask
        except TooManyLocks as error:
            self._answer(ask, error)

    def _refuse(self, file: LockedFile, ask: Ask, now: float) -> None:
        if ask.tried or ask.space == "posix" or file.queue.table.conflict(ask.space, ask.owner, ask.wanted) is None:
            self._answer(ask, WouldBlock("somebody else holds the lock"))
            return
        ask.tried = True
        self._briefly.append((now + BRIEFLY_S, ask))
        self._asks[ask.name] = ask
        self._wake.notify()

    def _is_deadlock(self, file: LockedFile, ask: Ask) -> bool:
        """Whether somebody who stands in the way waits for the one who asks, perhaps by others."""
        waits: dict[Owner, list[tuple[LockTable, Range]]] = {}
        for each in self._files.values():
            for other in (*each.local.values(), *each.asks.values()):
                if other.space == "posix" and other.act == "wait" and other is not ask:
                    waits.setdefault(other.owner, []).append((each.queue.table, other.wanted))
        seen: set[Owner] = set()
        open_ = [owner for owner, _ in file.queue.table.conflicts("posix", ask.owner, ask.wanted)]
        while open_:
            owner = open_.pop()
            if owner == ask.owner:
                return True
            if owner in seen:
                continue
            seen.add(owner)
            for table, wanted in waits.get(owner, ()):
                open_.extend(other for other, _ in table.conflicts("posix", owner, wanted))
        return False

    def _unset(self, file: LockedFile, ask: Ask) -> None:
        if file.mode == "shared" and self._hopeful(self._monotonic()):
            file.asks[ask.name] = self._asks[ask.name] = ask
            if self.around.settled(ask.mark):
                self._say(ask)
            else:
                self._later.append(ask)
            return
        self._remove(file, ask)
        self._answer(ask, None)

    def _remove(self, file: LockedFile, ask: Ask) -> None:
        file.queue.table.remove(ask.space, ask.owner, ask.wanted.start, ask.wanted.end)
        self._pump(file, self._monotonic())

    def _pump(self, file: LockedFile, now: float) -> None:
        for waiter in file.queue.pump(now):
            self._answer(file.local.pop(waiter.name), None)

    def _cancel(self, ask: Ask) -> None:
        with self._lock:
            file = self._files.get(ask.node)
            if file is None or ask.done is None:
                return
            if file.local.pop(ask.name, None) is not None:
                file.queue.cancel(self.client, ask.name)
                self._pump(file, self._monotonic())
                self._answer(ask, Interrupted("interrupted"))
            elif ask.name in file.asks and ask.said != "granted" and ask.act != "unset":
                if ask.said == "" or self._send is None:
                    self._drop(file, ask)
                    self._answer(ask, Interrupted("interrupted"))
                elif not ask.ended:
                    ask.ended, ask.at = True, self._monotonic()
                    self._queue(self._message(ask, "cancel"))
        self._go()

    # --- what goes to the server

    def _say(self, ask: Ask) -> None:
        self._used = True
        if self._send is None:
            return
        if not self._claimed:
            self._claim()
            return
        ask.said = "sent"
        self._queue(self._message(ask, ask.act))

    def _message(self, ask: Ask, act: Act | str) -> LockAsk:
        wanted = ask.wanted
        return LockAsk(
            client=self.client,
            session=self._session,
            ask=ask.name,
            node=ask.node,
            act=act,  # type: ignore[arg-type]
            space=ask.space,
            owner=ask.owner.key,
            write=wanted.write,
            start=wanted.start,
            end=wanted.end,
            pid=wanted.pid,
        )

    def _claim(self) -> None:
        """Say everything from the beginning: what is held, and then what is asked."""
        self._session += 1
        self._claimed = True
        for file in self._files.values():
            if file.mode != "leased":
                file.mode = "shared" if file.queue.table else "alone"
        holds = [file.hold() for file in self._files.values() if file.queue.table or file.mode == "leased"]
        parts = list(_parts(holds))
        for at, part in enumerate(parts):
            self._queue(LockClaim(client=self.client, session=self._session, holds=part, last=at == len(parts) - 1))
        for file in self._files.values():
            if file.mode != "leased":
                self._hand_over_line(file)
            self._say_again(file)
        self._beat(self._monotonic())

    def _hand_over_line(self, file: LockedFile) -> None:
        """Who waited here waits at the server."""
        for ask in file.local.values():
            ask.said = ""
            file.asks[ask.name] = self._asks[ask.name] = ask
        file.local.clear()
        file.queue.waiting.clear()

    def _say_again(self, file: LockedFile) -> None:
        for ask in list(file.asks.values()):
            if ask.said == "granted" or ask in self._later:
                continue
            if ask.ended:
                self._drop(file, ask)
                self._answer(ask, Interrupted("interrupted"))
                continue
            self._say(ask)

    def _beat(self, now: float) -> None:
        self._beaten_at = now
        self._queue(LockBeat(client=self.client, session=self._session, sent_us=int(now * 1e6)))

    # --- what the sync side tells

    def up(self, send: Callable[[OfMount], None]) -> None:
        """A server that knows about locks is in use; `send` raises Unreachable when its connection is lost."""
        with self._lock:
            self._send = send
            self._claimed = False
            self._out.clear()
            if self._used or any(file.queue or file.asks for file in self._files.values()):
                self._used = True
                self._claim()
                self._start()
        self._go()

    def down(self) -> None:
        """It is lost, or one is in use that knows nothing of locks."""
        with self._lock:
            if self._send is not None:
                self._lost_at = self._monotonic()
            self._send = None
            self._claimed = False
            self._out.clear()
            for ask in self._asks.values():
                ask.said = "" if ask.said == "sent" else ask.said
            self._wake.notify()

    def hear(self, message: ToMount) -> None:
        with self._lock:
            match message:
                case LockTold():
                    self._hear_answer(message)
                case LockBeat():
                    self._hear_beat(message)
                case LockRecall():
                    self._recall(message.node)
                case LockAgain():
                    if self._used and self._send is not None and message.session in (-1, self._session):
                        self._claim()
        self._go()

    def _hear_beat(self, beat: LockBeat) -> None:
        if beat.session != self._session:
            return
        self._lease_until = max(self._lease_until, beat.sent_us / 1e6 + LEASE_S)
        self.conflicts = beat.conflicts
        for name in list(self._fences):  # of a server that was lost before the tree had come up to it
            self._fence(beat.position, name)

    def _hear_answer(self, told: LockTold) -> None:
        ask = self._asks.get(told.ask)
        if ask is None or told.session != self._session:
            return
        file = self._files[ask.node]
        match told.result:
            case "granted":
                file.mode = "shared"
                ask.said = "granted"
                try:
                    file.queue.table.put(ask.space, ask.owner, ask.wanted)
                except TooManyLocks as error:
                    self._drop(file, ask)
                    self._answer(ask, error)
                    return
                self._new_fence(told.position, lambda: self._granted(file, ask))
            case "leased":
                self._lease_until = max(self._lease_until, ask.at + LEASE_S)
                if file.mode != "leased":
                    file.mode, file.recalled = "leased", False
                    file.fences += 1
                    self._new_fence(told.position, lambda: self._lease_is_ready(file))
                elif not (file.fences or file.recalled):
                    self._decide_all(file)
            case "waiting":
                file.mode, ask.said = "shared", "waits"
                if ask.space == "posix" and not ask.ended and self._is_deadlock(file, ask):
                    self._queue(self._message(ask, "cancel"))
                    self._drop(file, ask)
                    self._answer(ask, Deadlock("the locks would wait for each other"))
            case "local":
                self._drop(file, ask)
                if ask.act == "unset":
                    self._remove(file, ask)
                    self._answer(ask, None)
                else:
                    self.decided_alone += 1
                    self._judge(file, ask, self._monotonic())
            case _:
                self._hear_verdict(file, ask, told)

    def _hear_verdict(self, file: LockedFile, ask: Ask, told: LockTold) -> None:
        self._drop(file, ask)
        if file.mode == "alone":
            file.mode = "shared"
        lock = told.lock
        match told.result:
            case "conflict" if ask.act == "test" and lock is not None:
                self._answer(ask, Range(lock.write, lock.start, lock.end, lock.pid))
            case "conflict":
                self._refuse(file, ask, self._monotonic())
            case "cancelled":
                self._answer(ask, Interrupted("interrupted"))
            case "full":
                self._answer(ask, TooManyLocks("the server keeps no more locks"))
            case _:
                if ask.act == "unset":
                    file.queue.table.remove(ask.space, ask.owner, ask.wanted.start, ask.wanted.end)
                self._answer(ask, None)

    def _granted(self, file: LockedFile, ask: Ask) -> None:
        self._drop(file, ask)
        self._answer(ask, None)

    def _lease_is_ready(self, file: LockedFile) -> None:
        file.fences = max(0, file.fences - 1)
        if file.mode == "leased" and not file.fences and not file.recalled:
            self._decide_all(file)

    def _decide_all(self, file: LockedFile) -> None:
        now = self._monotonic()
        for ask in list(file.asks.values()):
            if ask.said != "granted":
                self._drop(file, ask)
                ask.fresh = True
                if ask.ended:
                    self._answer(ask, Interrupted("interrupted"))
                elif ask.act == "unset":
                    self._remove(file, ask)
                    self._answer(ask, None)
                else:
                    self._judge(file, ask, now)

    # --- the fence

    def _new_fence(self, position: int, then: Callable[[], None]) -> None:
        name = next(self._names)
        self._fences[name] = then
        self._fence(position, name)

    def _fence(self, position: int, name: int) -> None:
        self._told.append(lambda: self.around.fence(position, lambda: self._passed(name)))

    def _passed(self, name: int) -> None:
        with self._lock:
            then = self._fences.pop(name, None)
            if then is not None:
                then()
        self._go()

    # --- recalls

    def _recall(self, node: NodeId) -> None:
        file = self._files.get(node)
        if file is None or file.mode != "leased":
            hold = LockHold(node) if file is None else file.hold()
            self._queue(LockGiven(client=self.client, session=self._session, hold=hold))
        elif not file.recalled:
            file.recalled = True
            self._recalling += 1
            threading.Thread(
                target=self._give_back, args=(file, self._session), name="lock-recall", daemon=True
            ).start()

    def _give_back(self, file: LockedFile, session: int) -> None:
        """In a thread of its own: what was written under the lease is saved first, and acknowledged."""
        try:
            self.around.save(file.node, file.pids)
        except GdahError as error:
            log.warning("a lock is handed on though its file could not be saved: %s", error)
        mark = self.around.mark()
        while not self._stopped and session == self._session and not self.around.settled(mark):
            time.sleep(TICK_S / 10)
        with self._lock:
            self._recalling -= 1
            file.recalled = False
            if session == self._session and file.mode == "leased":
                self._give(file)
            else:
                self._say_again(file)
        self._go()

    def _give(self, file: LockedFile) -> None:
        file.mode = "shared"
        file.fences = 0
        file.pids.clear()
        self._queue(LockGiven(client=self.client, session=self._session, hold=file.hold()))
        self._hand_over_line(file)
        self._say_again(file)

    # --- answers and messages go out

    def _drop(self, file: LockedFile, ask: Ask) -> None:
        file.asks.pop(ask.name, None)
        self._asks.pop(ask.name, None)

    def _answer(self, ask: Ask, result: Range | GdahError | None) -> None:
        done, ask.done = ask.done, None
        granted = ask.granted if result is None and (ask.fresh or ask.said == "granted") else None
        if done is None:
            return

        def tell() -> None:
            if granted is not None:
                granted()
            done(result)

        self._told.append(tell)

    def _queue(self, message: OfMount) -> None:
        self._out.append(message)

    def _go(self) -> None:
        """Without `_lock`: what was queued goes out. One thread at a time sends, in order, for all."""
        while self._told:
            try:
                tell = self._told.popleft()
            except IndexError:
                break
            tell()
        while self._out and self._sending.acquire(blocking=False):
            try:
                self._send_all()
            finally:
                self._sending.release()

    def _send_all(self) -> None:
        while True:
            with self._lock:
                send = self._send
                if not self._out or send is None:
                    self._out.clear()
                    return
                message = self._out.popleft()
            try:
                send(message)
            except Unreachable:
                return  # `down` follows

    # --- time

    def _start(self) -> None:
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._run, name="locks", daemon=True)
            self._thread.start()
        self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._stopped:
                    return
                busy = self._asks or self._later or self._fences or any(f.local for f in self._files.values())
                self._wake.wait(BRIEFLY_S if self._briefly or self._later else TICK_S if busy else BEAT_S)
                if self._stopped:
                    return
            try:
                self.tick(self._monotonic())
            except Exception:
                log.exception("looking after locks failed")

    def tick(self, now: float) -> None:
        with self._lock:
            self._look_briefly(now)
            self._look_at_unsets()
            for ask in list(self._asks.values()):
                self._look_at(ask, now)
            if not self._hopeful(now):
                for name in list(self._fences):
                    self._fences.pop(name)()
            for file in list(self._files.values()):
                if file.local:
                    self._pump(file, now)
                self._look_idle(file, now)
            if self._claimed and self._files and now - self._beaten_at >= BEAT_S - TICK_S / 2:
                self._beat(now)
        self._go()

    def _look_briefly(self, now: float) -> None:
        due = [ask for at, ask in self._briefly if at <= now]
        self._briefly = [(at, ask) for at, ask in self._briefly if at > now]
        for ask in due:
            self._asks.pop(ask.name, None)
            file = self._file(ask)
            if file is not None and ask.done is not None:
                ask.said = ""
                self._take(file, ask)

    def _look_at_unsets(self) -> None:
        waiting, self._later = self._later, []
        for ask in waiting:
            file = self._files.get(ask.node)
            if file is None or ask.name not in file.asks:
                continue
            if self.around.settled(ask.mark) or self._send is None:
                self._say(ask)
            else:
                self._later.append(ask)

    def _look_at(self, ask: Ask, now: float) -> None:
        file = self._files.get(ask.node)
        if file is None or ask.name not in file.asks or ask.said == "granted":
            return
        age_s = now - ask.at
        if ask.act == "unset" and age_s > TOLD_S:
            self._answer(ask, None)
        if ask.ended and age_s > TOLD_S:
            self._answer(ask, Interrupted("interrupted"))
        lost_s = now - self._lost_at if self._send is None else 0.0
        if lost_s > (LINE_S if ask.said == "waits" else HOPE_S) or (ask.said == "sent" and age_s > PATIENCE_S):
            if ask.act == "unset" and self._send is not None:
                return  # it is told when the server answers
            self._decide_here(file, ask, now)

    def _decide_here(self, file: LockedFile, ask: Ask, now: float) -> None:
        self._drop(file, ask)
        if ask.act == "unset":
            self._remove(file, ask)
            self._answer(ask, None)
            return
        self.decided_alone += 1
        self._judge(file, ask, now)
        if self._send is not None:
            self._claim()  # so that the server knows what has come of it

    def _look_idle(self, file: LockedFile, now: float) -> None:
        if file.idle and now - file.used_at > IDLE_S:
            self._forget(file)

    def _make_room(self) -> bool:
        for file in sorted(self._files.values(), key=lambda each: each.used_at):
            if file.idle:
                self._forget(file)
                return True
        return False

    def _forget(self, file: LockedFile) -> None:
        del self._files[file.node]
        if file.mode == "leased" and self._claimed:
            self._queue(LockGiven(client=self.client, session=self._session, hold=LockHold(file.node)))

    # --- the end, and figures

    def stop(self) -> None:
        """Everybody who waits is interrupted, and the server told that this mount ends."""
        with self._lock:
            self._stopped = True
            self._wake.notify_all()
            if self._claimed:
                self._queue(LockClaim(client=self.client, session=self._session + 1, leave=True))
            for file in self._files.values():
                for ask in (*file.local.values(), *file.asks.values()):
                    self._answer(ask, Interrupted("this mount ends"))
            self._files.clear()
            self._asks.clear()
        self._go()
        if self._thread is not None:
            self._thread.join(5.0)

    def figures(self) -> dict[str, int]:
        """For the status."""
        with self._lock:
            files = list(self._files.values())
            return {
                "held": sum(len(file.queue.table) for file in files),
                "waiting": sum(
                    len(file.local) + sum(ask.act == "wait" for ask in file.asks.values()) for file in files
                ),
                "leases": sum(file.mode == "leased" for file in files),
                "conflicts": self.conflicts if self._send is not None else 0,
                "decided_alone": self.decided_alone,
            }


def _parts(holds: list[LockHold]) -> Iterator[tuple[LockHold, ...]]:
    """At least one, and none too large for a message."""
    part: list[LockHold] = []
    size = 0
    for hold in holds:
        if part and size + 1 + len(hold.locks) > LOCK_HOLDS_MAX:
            yield tuple(part)
            part, size = [], 0
        part.append(hold)
        size += 1 + len(hold.locks)
    yield tuple(part)
