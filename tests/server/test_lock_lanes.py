"""Ways of lock messages through servers, without network: who decides, who passes on, and what comes back when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gdah_volume.ids import Author, NodeId, ServerId
from gdah_volume.lock_messages import LockAgain, LockAsk, LockClaim, LockClients, LockTold
from gdah_volume.wire import Message, decode
from storage_server.lock_lanes import LockLanes
from storage_server.lock_words import LOCK_GRACE_S
from storage_server.replication import FOREVER, PassOn, StampHere, Wait

ME, OTHER = ServerId("s2"), ServerId("s1")
ONE = Author("one-000001-0001")
FILE = NodeId("dev-000001-0001-1")


class Way:
    """Implements `Outlet`; keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.closed = False
        self.queued_bytes = 0

    def send(self, frame: bytes) -> None:
        self.sent.append(decode(frame))

    def kinds(self) -> list[str]:
        return [type(message).__name__ for message in self.sent]


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self.route: Any = StampHere(FOREVER)
        self.peer = SimpleNamespace(server=OTHER, cursor=5, sequencer=ME, lease_until=lambda: FOREVER)
        self.joined: list[Any] = []
        self.replication = SimpleNamespace(
            own=ME,
            sequencer=ME,
            is_full=False,
            peers={OTHER: self.peer},
            route=lambda now: self.route,
            joined=lambda: self.joined,
        )
        self.lane, self.mount = Way(), Way()
        self.head = 70
        self.lanes = LockLanes(
            cast("Any", self.replication), {OTHER: cast("Any", self.lane)}, lambda: self.head, lambda: self.now
        )
        self.lanes.mount_here(ONE, cast("Any", self.mount))
        self.lanes.peer_is_able(OTHER, able=True)

    def passes_on(self) -> None:
        self.route, self.replication.sequencer = PassOn(OTHER), OTHER
        self.lanes.sequencer_changed()
        self.mount.sent.clear()

    def says(self, message: Any, way: Way | None = None) -> None:
        self.lanes.hear(message, cast("Any", way or self.mount))

    def ticks(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.05
            self.lanes.tick(self.now)


@pytest.fixture
def world() -> World:
    return World()


def ask(session: int = 1, number: int = 1) -> LockAsk:
    return LockAsk(client=ONE, session=session, ask=number, node=FILE, act="set", space="flock", write=True)


def test_the_sequencer_decides_when_its_grace_is_over(world: World) -> None:
    world.lanes.tick(world.now)
    world.says(LockClaim(client=ONE, session=1))
    world.says(ask())
    assert world.mount.sent[-1] == LockTold(client=ONE, session=1, ask=1, result="waiting")
    world.ticks(LOCK_GRACE_S + 0.1)
    assert world.mount.sent[-1] == LockTold(client=ONE, session=1, ask=1, result="leased", position=70)
    assert LockClients(clients=(ONE,)) in world.lane.sent


def test_another_server_passes_on_and_holds_a_grant_back_until_it_has_the_log(world: World) -> None:
    world.passes_on()
    world.says(ask())
    assert world.lane.sent[-1] == ask()
    told = LockTold(client=ONE, session=1, ask=1, result="granted", position=9)
    world.lanes.heard_back(OTHER, told)
    later = LockTold(client=ONE, session=1, ask=2, result="done")
    world.lanes.heard_back(OTHER, later)
    assert world.mount.sent == []
    world.peer.cursor = 9
    world.lanes.applied(OTHER)
    assert world.mount.sent == [LockTold(client=ONE, session=1, ask=1, result="granted", position=70), later]


def test_a_sequencer_that_knows_no_locks_leaves_them_to_the_mount(world: World) -> None:
    world.lanes.peer_is_able(OTHER, able=False)
    world.passes_on()
    world.says(LockClaim(client=ONE, session=1))
    world.says(ask())
    assert world.lane.sent == []
    assert world.mount.sent == [LockTold(client=ONE, session=1, ask=1, result="local")]


def test_messages_wait_in_order_until_it_is_known_who_decides(world: World) -> None:
    world.route = Wait("somebody")
    world.says(LockClaim(client=ONE, session=1))
    world.says(ask())
    assert world.mount.sent == []
    world.passes_on()
    world.lanes.tick(world.now)
    assert world.lane.kinds()[-2:] == ["LockClaim", "LockAsk"]


def test_a_lease_of_the_sequencer_that_is_over_decides_nothing(world: World) -> None:
    world.route = StampHere(world.now - 1)
    world.says(LockClaim(client=ONE, session=1))
    world.says(ask())
    assert world.mount.sent == []
    world.joined = [world.peer]
    world.peer.lease_until = lambda: world.now - 1
    world.ticks(3)
    assert world.lanes.service.clients == {}


def test_what_was_under_way_on_an_old_connection_leads_no_answers_there(world: World) -> None:
    old = Way()
    world.passes_on()
    world.says(LockClaim(client=ONE, session=2))
    world.says(ask(session=1), old)
    world.lanes.heard_back(OTHER, LockTold(client=ONE, session=2, ask=1, result="done"))
    assert (old.kinds(), world.mount.kinds()) == ([], ["LockTold"])
    world.lanes.gone(cast("Any", world.mount))
    world.lanes.heard_back(OTHER, LockTold(client=ONE, session=2, ask=2, result="done"))
    assert world.mount.kinds() == ["LockTold"]


def test_everybody_claims_again_when_the_sequencer_changes(world: World) -> None:
    world.lanes.tick(world.now)
    assert world.mount.kinds() == ["LockAgain"]
    assert world.lane.kinds() == ["LockAgain"], "the mounts of others, too"
    world.passes_on()
    world.lanes.again()
    world.lanes.heard_back(OTHER, LockAgain())
    assert world.mount.kinds() == ["LockAgain"] * 2
    world.route, world.replication.sequencer = StampHere(FOREVER), ME
    world.lanes.sequencer_changed()
    assert world.mount.kinds() == ["LockAgain"] * 3


def test_a_successor_waits_for_those_that_it_was_told_of(world: World) -> None:
    world.passes_on()
    world.lanes.clients_are((ONE,))
    world.route, world.replication.sequencer = StampHere(FOREVER), ME
    world.lanes.sequencer_changed()
    world.says(LockClaim(client=ONE, session=1))
    world.says(ask())
    assert world.mount.sent[-1] == LockTold(client=ONE, session=1, ask=1, result="leased", position=70)


def test_who_joins_may_have_reigned_over_others(world: World) -> None:
    world.ticks(LOCK_GRACE_S + 0.1)
    world.says(LockClaim(client=ONE, session=1))
    world.joined = [world.peer]
    world.says(ask())
    assert world.mount.sent[-1] == LockAgain(client=ONE, session=1)
