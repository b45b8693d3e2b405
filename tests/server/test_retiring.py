"""A server is taken out for good: nobody waits for it, and nothing that it alone had is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gdah_drill.cluster import Cluster, Server
from gdah_drill.waiting import wait_until
from gdah_volume.ids import ServerId
from gdah_volume.stamps import Stamp
from gdah_volume.wire import Beat, Entry
from storage_server.membership import Membership
from storage_server.peer_state import Peer
from tests.server.conftest import Connect, assert_copies, wait_joined
from tests.server.test_writer import Kept, kept

__all__ = ["kept"]
Servers = Callable[..., Cluster]
A, B, C = ServerId("a"), ServerId("b"), ServerId("c")


class TestMembership:
    def made(self) -> Membership:
        it = Membership(A, "http://a", ("http://b",))
        it.answered(B, "http://b")
        it.called(C, "http://c")
        return it

    def test_by_id_or_url(self) -> None:
        it = self.made()
        assert [it.find(each) for each in ("b", "http://c", "http://c/", "http://x")] == [B, C, C, None]

    def test_who_is_retired_never_comes_back_by_itself(self) -> None:
        it = self.made()
        it.retire(B, "")
        assert it.retired == {B: "http://b"}
        assert it.answered(B, "http://b").added == ()
        assert it.called(B, "http://b9").added == ()
        assert it.told([(B, "http://b9")]).added == ()
        assert it.urls == {C: "http://c"}
        assert it.find("http://b") == B, "to say it twice is no fault"

    def test_its_place_is_not_waited_for_but_free_for_another(self) -> None:
        it = self.made()
        it.retire(B, "")
        assert not it.is_expected("http://b")
        assert it.answered(ServerId("d"), "http://b").added == (ServerId("d"),)

    def test_it_knows_when_it_is_itself(self) -> None:
        it = self.made()
        assert not it.is_retired
        it.retire(A, "http://a")
        assert it.is_retired


def test_promises_of_a_peer_that_does_not_know_it_do_not_count() -> None:
    peer = Peer(B, confirmed=50)
    peer.link_up(head=0, cursor=0)
    peer.told(Beat(sent_us=1, promise=100), "out", 0.0, agrees=False)
    assert peer.confirmed == 50
    peer.told(Beat(sent_us=1, promise=200), "out", 0.0, agrees=True)
    assert peer.confirmed == 200
    peer.hold_back(60)
    assert peer.confirmed == 60


class TestVoidStamps:
    def entry(self, kept: Kept, clock: int, server: ServerId = C) -> Entry:
        op, blobs = kept.me.create(b"of %s at %d" % (server.encode(), clock))
        return Entry(1, Stamp(clock, server), op, blobs)

    def retire(self, kept: Kept) -> None:
        with kept.database.transaction():
            kept.store.retire({C: "http://c"})

    def apply(self, kept: Kept, entry: Entry, origin: ServerId | None, **named: Any) -> Stamp:
        with kept.database.transaction():
            kept.store.apply([entry], origin, **named)
        stamp = kept.store.replica.stamp_of(entry.op.id)
        assert stamp is not None
        return stamp

    def test_what_only_the_retired_one_or_a_mount_has_is_stamped_anew(self, kept: Kept) -> None:
        self.retire(kept)
        for origin in (None, C):
            entry = self.entry(kept, 2_000_000_000)
            stamp = self.apply(kept, entry, origin)
            assert stamp.server == kept.store.server
            assert kept.store.published[-1].origin is None, "it is news to everybody"
            assert self.apply(kept, entry, origin) == stamp, "once"

    def test_what_a_member_had_keeps_its_stamp(self, kept: Kept) -> None:
        self.retire(kept)
        for origin, named in ((B, {}), (None, {"by_member": True})):
            entry = self.entry(kept, 2_000_000_000)
            assert self.apply(kept, entry, origin, **named) == entry.stamp

    def test_a_member_that_had_it_after_all_wins(self, kept: Kept) -> None:
        """A mount hands it over here before the log of the member that had it comes: both end with the same stamp."""
        self.retire(kept)
        entry = self.entry(kept, 1_000)
        assert self.apply(kept, entry, None).server == kept.store.server
        assert self.apply(kept, entry, B) == entry.stamp

    def test_it_is_known_after_a_restart(self, kept: Kept) -> None:
        self.retire(kept)
        assert '"c"' in (kept.database.meta("retired_members") or "")


# --- real servers


def ask(at: Server, /, **params: Any) -> httpx.Response:
    return httpx.post(f"{at.url}/v1/volumes/test_chamber/retire", params=params, trust_env=False, timeout=20)


def knows(server: Server, gone: str) -> bool:
    volume = server.volume()
    return all(peer["server"] != gone for peer in volume["peers"]) and any(
        each["server"] == gone for each in volume["retired"]
    )


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_one_that_is_dead_and_comes_back_with_what_nobody_else_has(servers: Servers, lane: Connect) -> None:
    cluster = servers(3, cables=True)
    a, b, c = cluster.servers
    gone = str(c.status()["server"])
    lane(a).create(b"by all", b"data")
    cluster.wait_equal()
    for server in cluster.servers:
        assert server.door is not None
        server.door.cut()
    mount = lane(c)
    for index in range(30):
        mount.create(b"alone-%d" % index, b"only on c %d" % index)
    op, _ = mount.identity.create(b"large", b"")
    chunk = b"\x07" * 200_000
    del op
    httpx.put(f"{c.url}/v1/volumes/test_chamber/files/large", content=chunk, trust_env=False, timeout=20)
    c.kill9()
    for server in (a, b):
        assert server.door is not None
        server.door.heal()
    wait_joined_of(a, b)
    assert ask(a, url=c.peer_url).json() == {"retired": gone}
    assert ask(b, server=gone).json() == {"retired": gone}, "also when it is known already"
    wait_until(lambda: knows(a, gone) and knows(b, gone), "both know it")
    wait_joined_of(a, b)
    ack = lane(a).create(b"while it is away", b"1")
    assert_copies(cluster, ack, 2, 2)
    wait_until(lambda: a.volume()["stable_clock"] >= ack.stamp.clock, "the stable point goes on without it")

    assert c.door is not None
    c.door.heal()
    c.start()
    wait_until(lambda: c.process.log_text().count("has got the") >= 2, "it handed over to both")
    wait_until(lambda: a.volume()["digest"] == b.volume()["digest"], "the others agree")
    names = {f"alone-{index}" for index in range(30)} | {"by all", "large", "while it is away"}
    for server in (a, b):
        tree = server.full_state()
        assert tree.keys() == names
        assert tree["alone-7"] == b"only on c 7"
        assert tree["large"] == chunk
        assert server.volume()["of"] == 2
    assert c.get("/readyz").status_code == 503
    refused = httpx.put(f"{c.url}/v1/volumes/test_chamber/files/new", content=b"x", trust_env=False, timeout=20)
    assert refused.status_code == 410
    assert "was retired" in refused.json()["message"]

    c.process.terminate()
    c.wipe()
    c.start()  # a new server at the old place
    wait_joined(cluster)
    cluster.wait_equal()
    assert c.full_state().keys() == names
    assert_copies(cluster, lane(b).create(b"at the end"), 3, 3)


def wait_joined_of(*servers: Server) -> None:
    """They rely on each other, whatever the third does."""
    urls = {server.peer_url for server in servers}
    for server in servers:
        wait_until(
            lambda server=server: all(  # type: ignore[misc]
                peer["state"] == "joined" for peer in server.volume()["peers"] if peer["url"] in urls
            ),
            f"{server.name} has joined the other",
        )


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_one_that_is_alive_while_all_are_written_to(servers: Servers, lane: Connect) -> None:
    cluster = servers(3)
    a, b, c = cluster.servers
    gone = str(c.status()["server"])
    mounts = [lane(server) for server in cluster.servers]
    ids = [mount.submit(*mount.identity.create(b"%d-%d" % (n, i))) for i in range(60) for n, mount in enumerate(mounts)]
    assert ask(a, server=gone).json() == {"retired": gone}
    wait_until(lambda: knows(b, gone), "b learns of it")
    wait_until(lambda: c.volume()["trouble"], "it learns of it itself")
    wait_until(lambda: c.process.log_text().count("has got the") >= 2, "it handed over to both")
    for server in (a, b):
        assert_copies(cluster, lane(server).create(b"later at %s" % server.name.encode()), 2, 2)
    wait_until(lambda: a.volume()["digest"] == b.volume()["digest"], "the others agree")
    tree = a.full_state()
    acked = {op for n, mount in enumerate(mounts) for op in mount.answers if type(mount.answers[op]).__name__ == "Ack"}
    assert len(acked) > 0
    for number, op in enumerate(ids):
        if op in acked:
            assert f"{number % 3}-{number // 3}" in tree
    for server in (a, b):  # and after a restart nobody waits for it, though it is among their --peer
        server.process.terminate()
    for server in (a, b):
        server.start()
    wait_until(lambda: all(s.volume()["of"] == 2 for s in (a, b)), "two are members")
    wait_joined_of(a, b)
    assert_copies(cluster, lane(a).create(b"after the restart"), 2, 2)


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_what_cannot_be_retired(servers: Servers) -> None:
    cluster = servers(2)
    a, b = cluster.servers
    for params, status, words in (
        ({"url": a.peer_url}, 400, "this server itself"),
        ({"server": "s0000"}, 404, "members besides this one"),
        ({}, 400, "say which"),
        ({"url": b.peer_url}, 400, "only other server"),
    ):
        answer = ask(a, **params)
        assert (answer.status_code, words in answer.json()["message"]) == (status, True), answer.text
    assert ask(a, url=b.peer_url, force=1).status_code == 200
    assert a.volume()["of"] == 1
