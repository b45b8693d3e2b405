"""The locks of a volume at its sequencer: pure, with simulated time."""

from __future__ import annotations

from typing import Any

import pytest

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
    ToMount,
)
from storage_server import lock_service
from storage_server.lock_service import LockService
from storage_server.lock_words import LOCK_GRACE_S, QUIET_S, TERM_S

ONE, TWO, THREE = Author("one-000001-0001"), Author("two-000001-0001"), Author("three-000001-0001")
FILE = NodeId("dev-000001-0001-1")
MINE = FileLock("flock", 1, write=True)


class World:
    """A service without a grace, unless a reign is begun; mounts that are counted by their asks."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[tuple[Author, ToMount]] = []
        self.head = 7
        self.service = LockService(lambda client, message: self.told.append((client, message)), lambda: self.head)
        self.names = 0
        self.sessions: dict[Author, int] = {}

    def claims(self, client: Author, *holds: LockHold, **more: Any) -> None:
        self.sessions[client] = self.sessions.get(client, 0) + 1
        self.service.hear(LockClaim(client=client, session=self.sessions[client], holds=holds, **more), self.now)

    def asks(self, client: Author, act: Any = "set", **how: Any) -> int:
        """Its name; what was told before is forgotten."""
        self.told.clear()
        self.names += 1
        fields: dict[str, Any] = {"space": "flock", "owner": 1, "write": True, "ask": self.names} | how
        self.service.hear(
            LockAsk(client=client, session=self.sessions.get(client, 1), node=FILE, act=act, **fields), self.now
        )
        return self.names

    def gives(self, client: Author, *locks: FileLock) -> None:
        self.service.hear(LockGiven(client=client, session=self.sessions[client], hold=LockHold(FILE, locks)), self.now)

    def beats(self, client: Author) -> None:
        self.service.hear(LockBeat(client=client, session=self.sessions.get(client, 1), sent_us=5), self.now)

    def passes(self, seconds: float, *alive: Author) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 0.1, end)
            for client in alive:
                self.beats(client)
            self.service.tick(self.now)

    def results(self, client: Author | None = None) -> list[str]:
        return [m.result for who, m in self.told if isinstance(m, LockTold) and client in (None, who)]

    def recalled(self) -> list[Author]:
        return [who for who, message in self.told if isinstance(message, LockRecall)]


@pytest.fixture
def world() -> World:
    made = World()
    for client in (ONE, TWO, THREE):
        made.claims(client)
    return made


def shared(world: World, *locks: FileLock) -> None:
    """One holds those, and the file is not leased any more."""
    world.asks(ONE)
    world.asks(TWO)
    world.gives(ONE, *locks)
    world.asks(TWO, "unset")


def test_the_first_alone_gets_a_lease(world: World) -> None:
    world.asks(ONE)
    assert world.results() == ["leased"]
    assert world.told[0][1].position == 7  # type: ignore[union-attr]
    world.asks(ONE, "test")
    assert world.results() == ["leased"]


def test_the_interest_of_another_recalls_it_and_is_judged_exactly(world: World) -> None:
    world.asks(ONE)
    ask = world.asks(TWO)
    assert world.recalled() == [ONE]
    assert world.results(TWO) == ["waiting"]
    world.told.clear()
    world.head = 9
    world.gives(ONE, MINE)
    assert world.results(TWO) == ["conflict"]
    assert world.told[-1][1].lock == MINE  # type: ignore[union-attr]
    world.asks(TWO, "wait")
    assert world.results() == ["waiting"]
    world.asks(ONE, "unset")
    granted = world.told[-1][1]
    assert isinstance(granted, LockTold)
    assert (granted.result, granted.position, granted.client) == ("granted", 9, TWO)
    assert granted.ask == ask + 1


def test_a_lease_is_given_again_when_nobody_else_was_interested_for_a_moment(world: World) -> None:
    shared(world)
    world.asks(TWO)
    assert world.results() == ["granted"]
    world.asks(TWO, "unset")
    world.passes(QUIET_S + 0.1, ONE, TWO)
    world.asks(ONE)
    assert world.results() == ["leased"]


def test_who_waits_is_served_in_order(world: World) -> None:
    shared(world, MINE)
    first, second = world.asks(TWO, "wait"), world.asks(THREE, "wait")
    world.asks(ONE, "unset")
    assert [m.ask for _, m in world.told if isinstance(m, LockTold) and m.result == "granted"] == [first]
    world.asks(TWO, "unset")
    assert [m.ask for _, m in world.told if isinstance(m, LockTold) and m.result == "granted"] == [second]


def test_who_gives_up_sharing_to_get_it_alone_lets_the_others_go_on(world: World) -> None:
    shared(world, FileLock("flock", 1, write=False))
    world.asks(TWO, write=False)
    world.asks(THREE, "wait")
    world.asks(ONE, "wait")
    assert world.results() == ["waiting"]
    world.asks(TWO, "wait")
    told = [(who, message.result) for who, message in world.told if isinstance(message, LockTold)]
    assert told == [(TWO, "waiting"), (THREE, "granted")]


def test_a_cancelled_wait_gets_nothing(world: World) -> None:
    shared(world, MINE)
    ask = world.asks(TWO, "wait")
    world.asks(TWO, "cancel", ask=ask)
    assert world.results() == ["cancelled"]
    world.asks(ONE, "unset")
    assert world.results() == ["done"]


def test_a_dead_mount_loses_its_locks_and_leases(world: World) -> None:
    shared(world, MINE)
    world.asks(TWO, "wait")
    world.told.clear()
    world.passes(TERM_S - 0.2, TWO)
    assert world.results() == []
    world.passes(0.5, TWO)
    assert world.results() == ["granted"]
    world.claims(THREE)
    world.passes(TERM_S + 0.2, THREE)
    world.asks(THREE)
    assert world.results() == ["leased"]


def test_a_dead_lessee_is_not_waited_for(world: World) -> None:
    world.asks(ONE)
    world.asks(TWO)
    world.told.clear()
    world.passes(TERM_S + 0.2, TWO)
    assert world.recalled()[:1] == [ONE], "told again meanwhile"
    assert world.results() == ["leased"]


def test_a_mount_that_ends_gives_everything_back_at_once(world: World) -> None:
    shared(world, MINE)
    world.asks(TWO, "wait")
    world.claims(ONE, leave=True)
    assert world.results(TWO)[-1] == "granted"


def test_who_comes_back_late_keeps_its_lock_and_is_counted(world: World) -> None:
    """Two sides of a healed partition may both hold a lock: both keep it, and the status says so."""
    shared(world, MINE)
    world.passes(TERM_S + 0.2, TWO, THREE)
    world.asks(TWO)
    world.asks(ONE, "test")
    assert isinstance(world.told[-1][1], LockAgain)
    world.claims(ONE, LockHold(FILE, (MINE,)))
    if world.recalled():
        world.gives(TWO, MINE)
    assert world.service.figures()["came_back_late"] == 1
    world.passes(0.5, ONE, TWO, THREE)
    assert world.service.conflicts == 1
    world.asks(THREE)
    assert world.results() == ["conflict"]
    world.beats(ONE)
    beat = world.told[-1][1]
    assert isinstance(beat, LockBeat)
    assert (beat.sent_us, beat.position, beat.conflicts) == (5, 7, 1)
    world.asks(TWO, "unset")
    world.passes(0.5, ONE, TWO, THREE)
    assert world.service.conflicts == 0


def test_a_new_reign_grants_nothing_before_the_grace_is_over(world: World) -> None:
    world.service.begin(world.now, None)
    world.claims(TWO)
    world.asks(TWO)
    assert world.results() == ["waiting"]
    world.passes(LOCK_GRACE_S - 0.2, TWO)
    world.claims(ONE, LockHold(FILE, (MINE,)))
    world.told.clear()
    world.passes(0.3, ONE, TWO)
    assert world.results(TWO) == ["conflict"]


def test_the_grace_ends_when_all_known_mounts_have_claimed(world: World) -> None:
    world.service.begin(world.now, {ONE, TWO})
    world.claims(TWO)
    world.asks(TWO)
    assert world.results() == ["waiting"]
    world.told.clear()
    world.claims(ONE, LockHold(FILE, (MINE,)))
    assert world.results(TWO) == ["conflict"]


def test_a_lease_survives_a_new_reign(world: World) -> None:
    world.service.begin(world.now, {ONE, TWO})
    world.claims(ONE, LockHold(FILE, (MINE,), leased=True))
    world.claims(TWO)
    world.asks(TWO)
    assert world.recalled() == [ONE]
    world.gives(ONE, MINE)
    assert world.results(TWO) == ["waiting", "conflict"]


def test_leases_of_both_sides_are_both_recalled(world: World) -> None:
    world.service.begin(world.now, {ONE, TWO})
    world.claims(THREE)
    world.claims(ONE, LockHold(FILE, (MINE,), leased=True))
    world.claims(TWO, LockHold(FILE, (MINE,), leased=True))
    assert sorted(world.recalled()) == sorted([ONE, TWO])
    world.asks(THREE)
    assert world.results() == ["waiting"]
    world.gives(ONE, MINE)
    assert world.results(THREE) == ["waiting"]
    world.gives(TWO)
    assert world.results(THREE) == ["waiting", "conflict"]


def test_what_is_late_means_nothing(world: World) -> None:
    shared(world)
    old = world.sessions[ONE]
    world.claims(ONE)
    world.told.clear()
    world.service.hear(LockAsk(client=ONE, session=old, ask=1, node=FILE, act="set", space="flock"), world.now)
    world.service.hear(LockClaim(client=ONE, session=old, holds=(LockHold(FILE, (MINE,)),)), world.now)
    assert world.told == []
    assert world.service.figures()["held"] == 0


def test_a_claim_in_parts_counts_when_it_is_whole(world: World) -> None:
    world.service.hear(LockClaim(client=ONE, session=5, holds=(LockHold(FILE, (MINE,)),), last=False), world.now)
    assert world.service.figures()["held"] == 0
    world.service.hear(LockClaim(client=ONE, session=5), world.now)
    assert world.service.figures()["held"] == 1


def test_a_wait_that_is_asked_twice_is_granted_once(world: World) -> None:
    shared(world, MINE)
    ask = world.asks(TWO, "wait")
    world.asks(TWO, "wait", ask=ask)
    world.asks(ONE, "unset")
    world.asks(TWO, "unset")
    assert world.results() == ["done"]
    assert world.service.figures()["held"] == 0


def test_limits_are_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_service, "CLIENT_ASKS_MAX", 2)
    shared(world, MINE)
    for expected in ("waiting", "waiting", "full"):
        world.asks(TWO, "wait")
        assert world.results() == [expected]
    monkeypatch.setattr(lock_service, "CLIENT_FILES_MAX", 0)
    world.asks(THREE)
    assert world.results() == ["full"]


def test_nothing_is_kept_of_a_file_that_nobody_locks(world: World) -> None:
    shared(world)
    world.passes(2 * QUIET_S + 0.5, ONE, TWO, THREE)
    assert world.service._files == {}
    assert all(not client.nodes for client in world.service.clients.values())
