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

Threading: any thread. `_lock` guards the book and the talk; no callback, no message and no wait under it: what is to be
sent or told is queued under it and goes out after it. One thread (`locks`) looks after time, one for each recall saves.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable

from gdah_volume.errors import GdahError, Interrupted
from gdah_volume.ids import Author, NodeId
from gdah_volume.lock_messages import LockAgain, LockBeat, LockHold, LockRecall, LockTold, OfMount, ToMount
from gdah_volume.locks import Owner, Range, Space
from mountfs.locks.lock_answers import LockAnswers
from mountfs.locks.lock_book import BRIEFLY_S, LockBook
from mountfs.locks.lock_files import Act, Alone, Ask, Done, LockedFile, Surroundings
from mountfs.locks.lock_talk import BEAT_S, HOPE_S, LockTalk

log = logging.getLogger("mountfs.locks")

PATIENCE_S = 4.0
"""So long a call waits for a server that is there and says nothing about it."""
LINE_S = 10.0
"""Who was in line behind another mount's lock is let in only when no server was there for so long."""
TOLD_S = 1.0
"""A program that unlocks, closes or is interrupted waits no longer for the server to say that it knows."""
TICK_S = 0.05
IDLE_S = 60.0
"""A lease that nobody used for so long is given back."""
PIDS_MAX = 64


class Locking:
    """Implements `ports.LockEvents`."""

    def __init__(
        self,
        client: Author,
        around: Surroundings | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        hope_s: float = HOPE_S,
        threads: bool = True,
    ) -> None:
        """`hope_s`: how long a server is waited for at the beginning. Without `threads` somebody else calls `tick`, and
        recalls are answered at once."""
        self.client = client
        self.around: Surroundings = around or Alone()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._talk = LockTalk(client, monotonic() - (HOPE_S - hope_s))
        self._book = LockBook(client, self._forgotten)
        self._names = itertools.count(1)
        self._later: list[Ask] = []
        """What waits for what was written before: unlocks, and locks for writing that become ones for reading."""
        self._answers = LockAnswers(self._book, self._talk, self.around, monotonic, self._passed)
        self._threads = threads
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._conflicts = 0

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
        """`done` is called once, perhaps before this returns, in any thread. The result ends the wait. `granted` is
        called before it when a lock is held. An unset saves what was written first, if others may want to see it."""
        now = self._monotonic()
        ask = Ask(next(self._names), node, act, space, Owner(self.client, key), wanted, done, now, granted)
        while not self._begin(ask, pid, now):
            ask.saved = True
            try:
                self.around.save(node, {pid})
            except Exception:  # whatever it is, the lock must not stay
                log.exception("what was written under a lock could not be saved")
            ask.mark = self.around.mark()
        self._go()
        return lambda: self._cancel(ask)

    def _begin(self, ask: Ask, pid: int, now: float) -> bool:
        """False: it is to be saved before."""
        with self._lock:
            file = self._book.file(ask, now)
            if file is None:
                return True
            if not ask.saved and (file.mode != "leased" or file.recalled) and self._gives_up_writing(file, ask):
                return False
            if pid and len(file.pids) < PIDS_MAX:
                file.pids.add(pid)
            self._take(file, ask)
            if self._book.asks or file.local or file.mode == "leased":
                self._watch()
            return True

    def concerns(self, node: NodeId, space: Space, key: int) -> bool:
        """Whether that owner holds anything there."""
        file = self._book.files.get(node)
        return file is not None and file.queue.table.holds(space, Owner(self.client, key))

    @staticmethod
    def _gives_up_writing(file: LockedFile, ask: Ask) -> bool:
        """Whether others may read after it what was written before: an unlock, or a lock for writing that becomes one
        for reading."""
        if ask.act == "unset":
            return True
        start, end = (ask.wanted.start, ask.wanted.end)
        return ask.act != "test" and not ask.wanted.write and file.queue.table.writes(ask.space, ask.owner, start, end)

    def closing(self, node: NodeId, space: Space, key: int) -> None:
        """The open file by which that was set is being closed, perhaps for the last time."""
        with self._lock:
            self._book.closing(node, space, Owner(self.client, key), self._monotonic())

    def held_by(self, node: NodeId, space: Space, key: int) -> list[Range]:
        with self._lock:
            file = self._book.files.get(node)
            owner = Owner(self.client, key)
            return [] if file is None else [held for s, o, held in file.queue.table.all() if (s, o) == (space, owner)]

    def _take(self, file: LockedFile, ask: Ask) -> None:
        now = self._monotonic()
        if ask.act == "unset":
            if not (file.mode == "shared" or file.recalled) or not self._talk.hopeful(now):
                self._book.decide(file, ask, now)
                return
            self._book.keep(file, ask)
            self._say_when_settled(file, ask)
        elif file.mode == "leased" and now < self._talk.lease_until and not (file.recalled or file.fences):
            self._book.judge(file, ask, now)
        elif not self._talk.hopeful(now):
            self._answers.decided_alone += self._talk.used
            self._book.judge(file, ask, now)
        else:
            self._book.keep(file, ask)
            self._say_when_settled(file, ask)

    def _say_when_settled(self, file: LockedFile, ask: Ask) -> None:
        if ask.saved and not self.around.settled(ask.mark):
            self._later.append(ask)
        elif not file.recalled:  # else it is told after the lease is given back
            self._say(ask)

    def _cancel(self, ask: Ask) -> None:
        with self._lock:
            file = self._book.files.get(ask.node)
            if file is None or ask.done is None:
                return
            now = self._monotonic()
            if file.local.pop(ask.name, None) is not None:
                file.queue.cancel(self.client, ask.name)
                self._book.pump(file, now)
                self._book.answer(ask, Interrupted("interrupted"))
            elif ask.name in file.asks and ask.said != "granted" and ask.act != "unset":
                if ask.said == "" or not self._talk.connected:
                    self._book.drop(file, ask)
                    self._book.answer(ask, Interrupted("interrupted"))
                elif not ask.ended:
                    ask.ended, ask.at = True, now
                    self._talk.ask(ask)
        self._go()

    # --- what goes to the server

    def _say(self, ask: Ask) -> None:
        self._talk.used = True
        if not self._talk.connected:
            return
        if not self._talk.claimed:
            self._claim()
            return
        if ask.act in ("set", "wait"):
            self._book.files[ask.node].queue.table.convert(ask.space, ask.owner, ask.wanted)
        ask.said, ask.sent_at = "sent", self._monotonic()
        self._talk.ask(ask, ask.act)

    def _claim(self) -> None:
        """Say everything from the beginning: what is held, and then what is asked."""
        files = self._book.files.values()
        for file in files:
            if file.mode != "leased":
                file.mode = "shared" if file.queue.table else "alone"
        holds = [file.hold() for file in files if file.queue.table or file.mode == "leased"]
        self._talk.claim(holds, self._monotonic())
        for file in files:
            if file.mode != "leased":
                self._book.hand_over_line(file)
            self._say_again(file)

    def _say_again(self, file: LockedFile) -> None:
        for ask in list(file.asks.values()):
            if ask.said == "granted" or ask in self._later:
                continue
            if ask.ended:
                self._book.drop(file, ask)
                self._book.answer(ask, Interrupted("interrupted"))
            else:
                self._say(ask)

    # --- what the sync side tells

    def up(self, send: Callable[[OfMount], None]) -> None:
        with self._lock:
            self._talk.up(send)
            if self._talk.used or any(file.queue or file.asks for file in self._book.files.values()):
                self._claim()
                self._watch()
        self._go()

    def down(self) -> None:
        with self._lock:
            self._talk.down(self._monotonic())
            for ask in self._book.asks.values():
                ask.said = "" if ask.said == "sent" else ask.said
            self._wake.notify()

    def hear(self, message: ToMount) -> None:
        with self._lock:
            match message:
                case LockTold():
                    self._answers.hear(message)
                case LockBeat() if message.session == self._talk.session:
                    self._talk.heard(message.sent_us / 1e6)
                    self._conflicts = message.conflicts
                    self._answers.build_again(message.position)
                case LockRecall():
                    self._recall(message.node)
                case LockAgain() if self._talk.used and self._talk.connected:
                    if message.session in (-1, self._talk.session):
                        self._claim()
                case _:
                    pass
        self._go()

    def _passed(self, fence: int) -> None:
        with self._lock:
            self._answers.passed(fence)
        self._go()

    # --- recalls

    def _recall(self, node: NodeId) -> None:
        file = self._book.files.get(node)
        if file is None or file.mode != "leased":
            self._talk.give(LockHold(node) if file is None else file.hold())
        elif not file.recalled:
            file.recalled = True
            session = self._talk.session
            if self._threads:
                give_back = threading.Thread(
                    target=self._give_back, args=(file, session), name="lock-recall", daemon=True
                )
                give_back.start()
            else:
                self._book.told.append(lambda: self._give_back(file, session))

    def _give_back(self, file: LockedFile, session: int) -> None:
        """In a thread of its own: what was written under the lease is saved first, and acknowledged."""
        try:
            self.around.save(file.node, set(file.pids))
        except GdahError as error:
            log.warning("a lock is handed on though its file could not be saved: %s", error)
        mark = self.around.mark()
        while not self._stopped and session == self._talk.session and not self.around.settled(mark):
            time.sleep(TICK_S / 10)
        with self._lock:
            file.recalled = False
            if session == self._talk.session and file.mode == "leased":
                file.mode = "shared"
                file.pids.clear()
                self._talk.give(file.hold())
                self._book.hand_over_line(file)
            self._say_again(file)
        self._go()

    def _forgotten(self, file: LockedFile) -> None:
        if file.mode == "leased":
            self._talk.give_nothing(file.node)

    def _go(self) -> None:
        """Without `_lock`: what was queued goes out."""
        told = self._book.told
        while told:
            try:
                tell = told.popleft()
            except IndexError:
                break
            tell()
        self._talk.flush(self._lock)

    # --- time

    def _watch(self) -> None:
        if self._thread is None and not self._stopped and self._threads:
            self._thread = threading.Thread(target=self._run, name="locks", daemon=True)
            self._thread.start()
        elif self._book.briefly or self._later:
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._lock:
                book = self._book
                if not self._stopped:
                    soon = BRIEFLY_S / 2 if book.briefly or self._later else TICK_S
                    busy = book.asks or self._answers.waiting or any(file.local for file in book.files.values())
                    self._wake.wait(soon if busy else BEAT_S)
                if self._stopped:
                    return
            try:
                self.tick(self._monotonic())
            except Exception:
                log.exception("looking after locks failed")

    def tick(self, now: float) -> None:
        book = self._book
        with self._lock:
            for ask in book.due(now):
                file = book.file(ask, now)
                if file is not None:
                    self._take(file, ask)
            self._look_later()
            for ask in list(book.asks.values()):
                self._look_at(ask, now)
            if not self._talk.hopeful(now):
                self._answers.tear_down()
            for file in list(book.files.values()):
                if file.local:
                    book.pump(file, now)
                if file.idle and now - file.used_at > IDLE_S:
                    book.forget(file)
            if book.files:
                self._talk.beat_if_due(now)
        self._go()

    def _look_later(self) -> None:
        waiting, self._later = self._later, []
        for ask in waiting:
            file = self._book.files.get(ask.node)
            if file is None or ask.name not in file.asks:
                continue
            if self.around.settled(ask.mark) or not self._talk.connected:
                if not file.recalled:
                    self._say(ask)
            else:
                self._later.append(ask)

    def _look_at(self, ask: Ask, now: float) -> None:
        file = self._book.files.get(ask.node)
        if file is None or ask.name not in file.asks or ask.said == "granted":
            return
        age_s = now - ask.at
        if ask.act == "unset" and age_s > TOLD_S:
            self._book.answer(ask, None)
        if ask.ended and age_s > TOLD_S:
            self._book.answer(ask, Interrupted("interrupted"))
        patience_s = LINE_S if ask.said == "waits" and ask.act == "wait" else HOPE_S
        unheard = ask.said == "sent" and now - ask.sent_at > PATIENCE_S and ask.act != "unset"
        if self._talk.lost_s(now) > patience_s or unheard:
            self._answers.decided_alone += ask.act != "unset"
            log.warning("lock call decided here act=%s said=%s sent_s_ago=%.2f", ask.act, ask.said, now - ask.sent_at)
            self._book.decide(file, ask, now)
            if self._talk.connected:
                self._claim()  # so that the server knows what has come of it

    # --- the end, and figures

    def stop(self) -> None:
        """Everybody who waits is interrupted, and the server told that this mount ends."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            self._wake.notify_all()
            self._talk.leave()
            for ask in self._book.everybody():
                self._book.answer(ask, Interrupted("this mount ends"))
            self._book.files.clear()
            self._book.asks.clear()
        self._go()
        if self._thread is not None:
            self._thread.join(5.0)

    def figures(self) -> dict[str, int]:
        """For the status. `conflicts`: locks of the volume that contradict each other. `decided_alone`: calls that a
        server should have judged and that were judged here."""
        with self._lock:
            conflicts = self._conflicts if self._talk.connected else 0
            return {**self._book.figures(), "conflicts": conflicts, "decided_alone": self._answers.decided_alone}
