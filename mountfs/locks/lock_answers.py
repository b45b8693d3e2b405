"""What a server's answers about locks mean: who holds his lock now, which file is managed here from now on; and the
fence that is between a grant and the program that waits for it.

Threading: guarded by the lock of `locking`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from gdah_volume.errors import Deadlock, Interrupted, TooManyLocks
from gdah_volume.lock_messages import LockTold
from gdah_volume.locks import Range
from mountfs.locks.lock_book import LockBook
from mountfs.locks.lock_files import Ask, LockedFile, Surroundings
from mountfs.locks.lock_talk import LockTalk


class LockAnswers:
    """Invariant: an ask that was granted is answered once its fence is passed, at this server or the next."""

    def __init__(
        self,
        book: LockBook,
        talk: LockTalk,
        around: Surroundings,
        monotonic: Callable[[], float],
        then: Callable[[int], None],
    ) -> None:
        """`then(name)` is called in any thread when a fence is passed; it takes the lock and calls `passed`."""
        self._book = book
        self._talk = talk
        self._around = around
        self._monotonic = monotonic
        self._then = then
        self._names: Iterator[int] = itertools.count(1)
        self._fences: dict[int, Callable[[], None]] = {}
        self.decided_alone = 0
        """Calls that a server should have judged, and that were judged here."""

    @property
    def waiting(self) -> bool:
        return bool(self._fences)

    def hear(self, told: LockTold) -> None:
        ask = self._book.asks.get(told.ask)
        if ask is None or told.session != self._talk.session or ask.name not in self._book.files[ask.node].asks:
            return
        file, now = self._book.files[ask.node], self._monotonic()
        match told.result:
            case "granted":
                self._hear_grant(file, ask, told.position)
            case "leased":
                self._hear_lease(file, ask, told.position)
            case "waiting":
                ask.said = "waits"
                file.mode = "shared" if file.mode == "alone" else file.mode
                if ask.act == "wait" and not ask.ended and self._book.is_deadlock(file, ask):
                    self._talk.ask(ask)
                    self._book.drop(file, ask)
                    self._book.answer(ask, Deadlock("the locks would wait for each other"))
            case "local":
                self.decided_alone += ask.act != "unset"
                self._book.decide(file, ask, now)
            case _:
                self._hear_verdict(file, ask, told, now)

    def _hear_grant(self, file: LockedFile, ask: Ask, position: int) -> None:
        file.mode = "shared"
        if ask.done is None:  # its program was interrupted, and did not wait to hear whether the server knows
            self._book.drop(file, ask)
            self._talk.ask(ask, "unset")
            return
        ask.said = "granted"
        try:
            file.queue.table.put(ask.space, ask.owner, ask.wanted)
        except TooManyLocks as error:
            self._book.drop(file, ask)
            self._book.answer(ask, error)
            return

        def seen() -> None:
            self._book.drop(file, ask)
            self._book.answer(ask, None)

        self._new_fence(position, seen)

    def _hear_lease(self, file: LockedFile, ask: Ask, position: int) -> None:
        self._talk.heard(ask.sent_at)
        if file.mode == "leased":
            if not (file.fences or file.recalled):
                self._decide_all(file)
            return
        file.mode = "leased"
        file.fences += 1

        def seen() -> None:
            file.fences -= 1
            if file.mode == "leased" and not file.fences and not file.recalled:
                self._decide_all(file)

        self._new_fence(position, seen)

    def _hear_verdict(self, file: LockedFile, ask: Ask, told: LockTold, now: float) -> None:
        self._book.drop(file, ask)
        file.mode = "shared" if file.mode == "alone" else file.mode
        lock = told.lock
        if told.result == "conflict" and ask.act == "test" and lock is not None:
            self._book.refuse(file, ask, now, Range(lock.write, lock.start, lock.end, lock.pid))
        elif told.result == "conflict":
            self._book.refuse(file, ask, now)
        elif told.result == "cancelled":
            self._book.answer(ask, Interrupted("interrupted"))
        elif told.result == "full":
            self._book.answer(ask, TooManyLocks("the server keeps no more locks"))
        else:
            if ask.act == "unset":
                file.queue.table.remove(ask.space, ask.owner, ask.wanted.start, ask.wanted.end)
            self._book.answer(ask, None)

    def _decide_all(self, file: LockedFile) -> None:
        now = self._monotonic()
        for ask in list(file.asks.values()):
            if ask.said != "granted":
                self._book.decide(file, ask, now)

    # --- the fence

    def _new_fence(self, position: int, then: Callable[[], None]) -> None:
        name = next(self._names)
        self._fences[name] = then
        self._fence(position, name)

    def _fence(self, position: int, name: int) -> None:
        self._book.told.append(lambda: self._around.fence(position, lambda: self._then(name)))

    def passed(self, name: int) -> None:
        """With the lock."""
        then = self._fences.pop(name, None)
        if then is not None:
            then()

    def build_again(self, position: int) -> None:
        """Those of a server that was lost before the tree had come up to it: the next one has this position now."""
        for name in list(self._fences):
            self._fence(position, name)

    def tear_down(self) -> None:
        """No server is there that could say what is missing."""
        for name in list(self._fences):
            self._fences.pop(name)()
