"""The mount's side of locks, with a server that is played by the test, and with the service that ships, in simulated
time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gdah_volume.errors import GdahError, Interrupted, TooManyLocks, Unreachable, WouldBlock
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
from gdah_volume.locks import LockTable, Owner, Range
from mountfs.locks import lock_book, locking
from mountfs.locks.lock_talk import HOPE_S, LEASE_S
from mountfs.locks.locking import Locking
from storage_server.lock_service import LockService
from storage_server.lock_words import LOCK_GRACE_S, TERM_S

ME = Author("one-000001-0001")
FILE, OTHER = NodeId("dev-000001-0001-1"), NodeId("dev-000001-0001-2")
WHOLE = Range(write=True)


class Around:
    """Implements `Surroundings`; nothing happens by itself."""

    def __init__(self) -> None:
        self.saved: list[tuple[NodeId, set[int]]] = []
        self.marked = 0
        self.acknowledged = 0
        self.fences: list[tuple[int, Callable[[], None]]] = []
        self.open_gates = True

    def save(self, node: NodeId, pids: set[int]) -> None:
        self.saved.append((node, pids))

    def mark(self) -> int:
        return self.marked

    def settled(self, mark: int) -> bool:
        return mark <= self.acknowledged

    def fence(self, position: int, then: Callable[[], None]) -> None:
        if self.open_gates:
            then()
        else:
            self.fences.append((position, then))


class Mount:
    def __init__(self, name: Author = ME, now: Callable[[], float] | None = None) -> None:
        self.now = 100.0
        self.around = Around()
        self.locking = Locking(name, self.around, monotonic=now or (lambda: self.now), threads=False)
        self.sent: list[OfMount] = []
        self.broken = False

    def send(self, message: OfMount) -> None:
        if self.broken:
            raise Unreachable("gone")
        self.sent.append(message)

    def connects(self) -> None:
        self.locking.up(self.send)

    def asks(self, act: Any = "set", key: int = 1, wanted: Range = WHOLE, node: NodeId = FILE, **how: Any) -> list[Any]:
        """What is answered, as it comes."""
        answers: list[Any] = []
        cancel = self.locking.ask(node, act, "flock", key, wanted, answers.append, **how)
        self.cancel = cancel
        return answers

    def last(self, kind: type[Any]) -> Any:
        return [message for message in self.sent if isinstance(message, kind)][-1]

    def told(self, result: Any, ask: LockAsk | None = None, **how: Any) -> None:
        ask = ask or self.last(LockAsk)
        self.locking.hear(LockTold(client=ME, session=ask.session, ask=ask.ask, result=result, **how))

    def passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.05
            self.locking.tick(self.now)

    def is_leased(self) -> None:
        self.connects()
        self.asks("test")
        self.told("leased", position=3)

    def is_shared(self) -> list[Any]:
        self.connects()
        answers = self.asks()
        self.told("granted", position=3)
        return answers


def test_the_first_call_claims_and_asks_and_a_lease_answers_the_others() -> None:
    mount = Mount()
    mount.connects()
    assert mount.sent == [], "nobody has asked for anything yet"
    one, two = mount.asks(key=1), mount.asks(key=2)
    assert [type(message) for message in mount.sent] == [LockClaim, LockBeat, LockAsk, LockAsk]
    mount.told("leased", mount.sent[2])
    assert one == [None]
    mount.passes(0.1)
    assert isinstance(two[0], WouldBlock)
    before = len(mount.sent)
    assert mount.asks("unset", key=1) == [None]
    assert mount.asks("wait", key=2) == [None]
    assert len(mount.sent) == before


def test_a_lease_is_worth_nothing_when_the_server_is_silent() -> None:
    mount = Mount()
    mount.is_leased()
    mount.now += LEASE_S + 0.01
    answers = mount.asks()
    assert answers == []
    assert mount.last(LockAsk).act == "set"
    mount.told("leased")
    assert answers == [None]
    mount.now += LEASE_S + 0.01
    mount.locking.tick(mount.now)
    beat = mount.last(LockBeat)
    mount.locking.hear(msgspec.structs.replace(beat, position=9, conflicts=2))
    assert mount.asks("unset") == [None]
    assert mount.asks() == [None]
    assert mount.locking.figures() == {"held": 1, "waiting": 0, "leases": 1, "conflicts": 2, "decided_alone": 0}


def test_a_recall_saves_first_and_hands_over_who_holds_and_who_waits() -> None:
    mount = Mount()
    mount.is_leased()
    mount.asks(key=1, pid=42)
    waiting = mount.asks("wait", key=2)
    mount.locking.hear(LockRecall(client=ME, node=FILE))
    assert mount.around.saved == [(FILE, {42})]
    given, asked = mount.last(LockGiven), mount.last(LockAsk)
    assert given.hold == LockHold(FILE, (FileLock("flock", 1, write=True),))
    assert mount.sent.index(given) < mount.sent.index(asked)
    assert (asked.act, asked.owner) == ("wait", 2)
    mount.told("granted", asked, position=4)
    assert waiting == [None]


def test_an_unlock_during_a_recall_is_saved_and_told_after_it() -> None:
    """What was written between the save of the recall and the unlock must not be missed by the next one."""
    mount = Mount()
    mount.is_leased()
    mount.asks(key=1)
    assert mount.around.saved == []
    unlocked: list[Any] = []

    def save_and_unlock(node: NodeId, pids: set[int]) -> None:
        mount.around.saved.append((node, pids))
        if len(mount.around.saved) == 1:  # the program unlocks while the recall saves, and its unlock saves again
            unlocked.append(mount.asks("unset", key=1, pid=7))

    mount.around.save = save_and_unlock  # type: ignore[method-assign]
    mount.locking.hear(LockRecall(client=ME, node=FILE))
    assert [pids for _, pids in mount.around.saved] == [set(), {7}]
    assert mount.last(LockGiven).hold.locks == (FileLock("flock", 1, write=True),)
    assert (mount.last(LockAsk).act, unlocked) == ("unset", [[]])
    mount.told("done")
    assert unlocked == [[None]]


def test_a_recall_of_what_is_not_leased_is_answered() -> None:
    mount = Mount()
    mount.is_shared()
    mount.locking.hear(LockRecall(client=ME, node=FILE))
    assert mount.last(LockGiven).hold.locks == (FileLock("flock", 1, write=True),)
    mount.locking.hear(LockRecall(client=ME, node=OTHER))
    assert mount.last(LockGiven).hold == LockHold(OTHER)


def test_a_granted_lock_waits_for_what_others_wrote() -> None:
    mount = Mount()
    mount.around.open_gates = False
    mount.connects()
    seen: list[str] = []
    answers = mount.asks(granted=lambda: seen.append("looked"))
    mount.told("granted", position=12)
    assert (answers, [position for position, _ in mount.around.fences]) == ([], [12])
    mount.around.fences.pop()[1]()
    assert (answers, seen) == ([None], ["looked"])


def test_a_fence_of_a_lost_server_is_built_again_at_the_next_one() -> None:
    mount = Mount()
    mount.around.open_gates = False
    mount.connects()
    answers = mount.asks()
    mount.told("granted", position=12)
    mount.locking.down()
    mount.connects()
    assert mount.last(LockClaim).holds[0].locks == (FileLock("flock", 1, write=True),)
    mount.locking.hear(msgspec.structs.replace(mount.last(LockBeat), position=5))
    assert mount.around.fences[-1][0] == 5
    mount.around.fences[-1][1]()
    assert answers == [None]
    mount.around.fences[0][1]()


def test_an_unlock_is_told_when_what_was_written_is_acknowledged() -> None:
    mount = Mount()
    mount.is_shared()
    mount.around.marked = 5
    answers = mount.asks("unset", pid=42)
    assert mount.around.saved == [(FILE, {42})]
    mount.passes(0.2)
    assert mount.last(LockAsk).act == "set"
    mount.around.acknowledged = 5
    mount.passes(0.1)
    assert (mount.last(LockAsk).act, answers) == ("unset", [])
    mount.told("done")
    assert answers == [None]
    assert mount.locking.figures()["held"] == 0


def test_a_lock_for_writing_that_becomes_one_for_reading_shows_what_was_written() -> None:
    mount = Mount()
    mount.is_shared()
    mount.around.marked = 5
    answers = mount.asks("set", wanted=Range(write=False), pid=42)
    assert mount.around.saved == [(FILE, {42})]
    mount.passes(0.1)
    assert mount.last(LockAsk).write
    mount.around.acknowledged = 5
    mount.passes(0.1)
    assert not mount.last(LockAsk).write
    mount.told("granted")
    assert answers == [None]


def test_an_flock_that_is_converted_in_vain_is_lost_here_and_there() -> None:
    mount = Mount()
    mount.connects()
    mount.asks(wanted=Range(write=False))
    mount.told("granted")
    answers = mount.asks(wanted=WHOLE)
    mount.told("conflict")
    assert isinstance(answers[0], WouldBlock)
    assert mount.locking.figures()["held"] == 0


def test_a_lock_whose_unlock_is_not_told_yet_is_claimed() -> None:
    mount = Mount()
    mount.is_shared()
    mount.around.marked = 5
    answers = mount.asks("unset")
    mount.locking.down()
    mount.connects()
    assert mount.last(LockClaim).holds[0].locks == (FileLock("flock", 1, write=True),)
    mount.passes(locking.TOLD_S + 0.1)
    assert answers == [None], "the program need not wait for that"
    assert mount.locking.figures()["held"] == 1
    mount.around.acknowledged = 5
    mount.passes(0.1)
    mount.told("done")
    assert mount.locking.figures()["held"] == 0


def test_without_a_server_calls_are_judged_here_after_a_moment() -> None:
    """You are never stopped: a lock call that cannot be decided within about 1 s is decided on this device."""
    mount = Mount()
    first = mount.asks(key=1)
    assert first == [], "a server may be found yet"
    mount.passes(HOPE_S + 0.1)
    assert first == [None]
    second = mount.asks(key=2)
    mount.passes(0.1)
    assert isinstance(second[0], WouldBlock)
    waiting = mount.asks("wait", key=2)
    assert mount.asks("unset", key=1) == [None]
    assert waiting == [None]
    mount.connects()
    assert mount.last(LockClaim).holds == (LockHold(FILE, (FileLock("flock", 2, write=True),)),)


def test_who_was_in_line_at_a_server_waits_longer_for_the_next_one() -> None:
    mount = Mount()
    mount.connects()
    answers = mount.asks("wait")
    mount.told("waiting")
    mount.locking.down()
    mount.passes(HOPE_S + 0.5)
    assert answers == []
    mount.connects()
    assert mount.last(LockAsk).act == "wait"
    mount.passes(locking.PATIENCE_S - 0.5)
    assert answers == []
    mount.told("waiting")
    mount.passes(locking.PATIENCE_S + 1)
    assert answers == [], "it has been told to wait"
    mount.locking.down()
    mount.passes(locking.LINE_S + 0.2)
    assert answers == [None]
    assert mount.locking.figures()["decided_alone"] == 1


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    mount = Mount()
    mount.connects()
    answers = mount.asks()
    mount.passes(locking.PATIENCE_S + 0.1)
    assert answers == [None]
    assert mount.last(LockClaim).session == 2, "so that it knows, if it is there after all"
    assert mount.last(LockClaim).holds[0].locks == (FileLock("flock", 1, write=True),)


def test_a_server_whose_sequencer_knows_no_locks_says_so() -> None:
    mount = Mount()
    mount.connects()
    answers = mount.asks()
    mount.told("local")
    assert answers == [None]


def test_an_interrupted_wait_ends_here_and_at_the_server() -> None:
    mount = Mount()
    mount.is_leased()
    mount.asks(key=1)
    here = mount.asks("wait", key=2)
    mount.cancel()
    assert isinstance(here[0], Interrupted)
    mount = Mount()
    mount.connects()
    there = mount.asks("wait")
    mount.told("waiting")
    mount.cancel()
    mount.cancel()
    assert [message.act for message in mount.sent if isinstance(message, LockAsk)] == ["wait", "cancel"]
    assert there == []
    mount.told("cancelled")
    assert isinstance(there[0], Interrupted)


def test_an_interrupt_may_come_too_late() -> None:
    mount = Mount()
    mount.connects()
    answers = mount.asks("wait")
    ask = mount.last(LockAsk)
    mount.cancel()
    mount.told("granted", ask)
    mount.told("cancelled", ask)
    assert answers == [None]


def test_what_is_granted_to_nobody_is_given_back() -> None:
    mount = Mount()
    mount.connects()
    answers = mount.asks("wait")
    ask = mount.last(LockAsk)
    mount.cancel()
    mount.passes(locking.TOLD_S + 0.1)
    assert isinstance(answers[0], Interrupted), "the server says nothing, and the program is to end"
    mount.told("granted", ask)
    assert (mount.last(LockAsk).act, mount.locking.figures()["held"]) == ("unset", 0)


def test_a_failed_save_does_not_keep_the_lock() -> None:
    mount = Mount()
    mount.is_shared()

    def fails(node: NodeId, pids: set[int]) -> None:
        raise RuntimeError("a fault of ours")

    mount.around.save = fails  # type: ignore[method-assign]
    mount.asks("unset")
    assert mount.last(LockAsk).act == "unset"


def test_an_interrupted_wait_is_not_asked_again() -> None:
    mount = Mount()
    mount.connects()
    answers = mount.asks("wait")
    mount.cancel()
    mount.locking.hear(LockAgain())
    assert isinstance(answers[0], Interrupted)
    assert not [m for m in mount.sent if isinstance(m, LockAsk) and m.session == 2]


def test_a_server_that_knows_nothing_hears_everything_again() -> None:
    mount = Mount()
    mount.is_shared()
    waiting = mount.asks("wait", key=2)
    mount.locking.hear(LockAgain(client=ME, session=1))
    claim = mount.last(LockClaim)
    assert (claim.session, claim.holds) == (2, (LockHold(FILE, (FileLock("flock", 1, write=True),)),))
    mount.locking.hear(LockAgain(client=ME, session=1))
    assert mount.last(LockClaim) is claim, "once is enough"
    assert (mount.last(LockAsk).session, mount.last(LockAsk).owner) == (2, 2)
    mount.told("granted")
    assert waiting == [None]


def test_the_end_interrupts_everybody_and_is_told() -> None:
    mount = Mount()
    mount.is_leased()
    mount.asks(key=1)
    waiting = mount.asks("wait", key=2)
    mount.locking.stop()
    assert isinstance(waiting[0], Interrupted)
    assert mount.last(LockClaim).leave


def test_limits_are_enolck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_book, "FILES_MAX", 1)
    mount = Mount()
    mount.is_leased()
    mount.asks(key=1)
    answers = mount.asks(node=OTHER)
    assert isinstance(answers[0], TooManyLocks)
    mount.asks("unset", key=1)
    mount.asks(node=OTHER)
    assert mount.last(LockGiven).hold == LockHold(FILE), "an idle lease makes room"
    mount.told("full")


def test_an_idle_lease_is_given_back() -> None:
    mount = Mount()
    mount.is_leased()
    mount.passes(locking.IDLE_S + 1)
    assert mount.last(LockGiven).hold == LockHold(FILE)
    assert mount.locking.figures()["leases"] == 0


NAMES = [Author(f"mount{number}-000001-0001") for number in range(3)]


class Machine(RuleBasedStateMachine):
    """Three mounts and the service of a sequencer that dies now and then. Between mounts that have never been without
    it nobody holds what somebody else holds; and in the end everybody gets his lock."""

    @initialize()
    def begin(self) -> None:
        self.now = 100.0
        self.inbox: dict[Author, list[ToMount]] = {name: [] for name in NAMES}
        self.mounts = {name: Mount(name, lambda: self.now) for name in NAMES}
        self.connected: set[Author] = set()
        self.held: dict[tuple[Author, int], str] = {}
        self.cancels: dict[tuple[Author, int], Callable[[], None]] = {}
        self.strayed = False
        self.new_service(known=True)
        for name in NAMES:
            self.connect(name)

    def new_service(self, known: bool) -> None:
        self.service = LockService(lambda client, message: self.inbox[client].append(message), lambda: 1)
        self.service.begin(self.now, set(NAMES) if known else None)

    def connect(self, name: Author) -> None:
        self.connected.add(name)
        self.inbox[name].clear()
        self.mounts[name].sent.clear()
        self.mounts[name].connects()

    def settle(self) -> None:
        """Messages go to and fro until all are heard."""
        busy = True
        while busy:
            busy = False
            for name in self.connected:
                mount = self.mounts[name]
                while mount.sent:
                    busy = True
                    self.service.hear(mount.sent.pop(0), self.now)
                while self.inbox[name]:
                    busy = True
                    mount.locking.hear(self.inbox[name].pop(0))

    @rule(name=st.sampled_from(NAMES), key=st.integers(1, 2), wait=st.booleans())
    def lock(self, name: Author, key: int, wait: bool) -> None:
        if self.held.get((name, key), "free") != "free":
            return
        self.held[name, key] = "asked"

        def done(result: Range | GdahError | None) -> None:
            self.held[name, key] = "held" if result is None else "free"

        locking = self.mounts[name].locking
        self.cancels[name, key] = locking.ask(FILE, "wait" if wait else "set", "flock", key, WHOLE, done)
        self.settle()

    @rule(name=st.sampled_from(NAMES), key=st.integers(1, 2))
    def unlock(self, name: Author, key: int) -> None:
        if self.held.get((name, key)) == "held":
            self.held[name, key] = "free"
            self.mounts[name].locking.ask(FILE, "unset", "flock", key, WHOLE, lambda _: None)
            self.settle()

    @rule(name=st.sampled_from(NAMES), key=st.integers(1, 2))
    def interrupt(self, name: Author, key: int) -> None:
        if self.held.get((name, key)) == "asked":
            self.cancels[name, key]()
            self.settle()

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.5]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.1
            for mount in self.mounts.values():
                mount.locking.tick(self.now)
            self.service.tick(self.now)
            self.settle()

    @rule(known=st.booleans(), quickly=st.booleans())
    def another_sequencer(self, known: bool, quickly: bool) -> None:
        for name in list(self.connected):
            self.mounts[name].locking.down()
        names, self.connected = self.connected, set()
        if not quickly:
            self.now += 0.5
        self.new_service(known)
        for name in names:
            self.connect(name)
        self.settle()

    @rule(name=st.sampled_from(NAMES))
    def turn(self, name: Author) -> None:
        """To another server, that passes on to the same sequencer: what was on the way is lost."""
        if name in self.connected:
            self.mounts[name].locking.down()
            self.connect(name)
            self.settle()

    @rule(name=st.sampled_from(NAMES))
    def is_cut_off(self, name: Author) -> None:
        self.strayed = True
        self.connected.discard(name)
        self.mounts[name].locking.down()

    @rule(name=st.sampled_from(NAMES))
    def comes_back(self, name: Author) -> None:
        if name not in self.connected:
            self.connect(name)
            self.settle()

    @invariant()
    def no_lock_is_held_twice(self) -> None:
        if not self.strayed:
            holders = [key for key, state in self.held.items() if state == "held"]
            assert len(holders) <= 1, holders

    @invariant()
    def the_service_knows_what_is_held(self) -> None:
        for name in self.connected:
            mine = self.mounts[name].locking._book.files.get(FILE)
            table = mine.queue.table if mine is not None else LockTable()
            for key in (1, 2):
                if self.held.get((name, key)) == "held":
                    assert table.holds("flock", Owner(name, key))

    def teardown(self) -> None:
        if not hasattr(self, "mounts"):
            return
        for name in NAMES:
            self.comes_back(name)
        for _ in range(20):
            self.time_passes(max(TERM_S, LOCK_GRACE_S))
            for name, key in list(self.held):
                self.unlock(name, key)
        assert set(self.held.values()) <= {"free"}
        assert self.service.figures()["held"] == 0
        assert self.service.conflicts == 0


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
