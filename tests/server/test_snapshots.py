"""Logs that do not reach back far enough: snapshots for peers and mounts. Full disks, seen from outside."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gdah_drill.cluster import Cluster, Server
from gdah_drill.waiting import wait_until
from gdah_volume.ids import OpId
from gdah_volume.stamps import ZERO
from gdah_volume.wire import Ack, Entry, HandedOver, Handover, Offer, Refused, SnapshotNeeded, Subscribe, Want
from storage_server.snapshots import SpooledSnapshot
from tests.server.conftest import Connect, wait_joined
from tests.server.lane_client import Identity

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]
Servers = Callable[..., Cluster]


def _prune(cluster: Cluster, server: Server) -> None:
    """Start it again without any retention, and wait until its log is gone."""
    server.process.terminate()
    server.start("--log-retention-days", "0")
    cluster.wait_peers()
    wait_until(lambda: server.volume()["first"] == server.volume()["head"] + 1, "the log is pruned")


def test_an_emptied_server_is_filled_from_a_snapshot_when_the_log_is_gone(servers: Servers, lane: Connect) -> None:
    cluster = servers()
    a, b = cluster.servers
    big = bytes(range(256)) * 5000
    assert cluster.http.put(f"{a.url}/v1/volumes/test_chamber/files/folder/big", content=big).status_code == 201
    mount = lane(a)
    for index in range(50):
        mount.create(b"f%d" % index, b"data")
    cluster.wait_equal()
    _prune(cluster, a)
    b.kill9()
    b.wipe()
    b.start()
    cluster.wait_equal()
    wait_joined(cluster)
    wait_until(lambda: b.volume()["copies"] == 2 and a.volume()["copies"] == 2, "2/2")
    a.kill9()
    tree = b.full_state()
    assert tree["folder/big"] == big
    assert len(tree) == 52
    assert lane(b).create(b"goes on", b"1").copies == 1


def test_what_only_the_emptied_server_was_given_is_on_top_of_the_snapshot(servers: Servers, lane: Connect) -> None:
    cluster = servers()
    a, b = cluster.servers
    lane(a).create(b"old", b"1")
    cluster.wait_equal()
    _prune(cluster, a)
    b.kill9()
    b.wipe()
    a.kill9()
    b.start()
    ack = lane(b).create(b"new", b"2")
    assert ack.copies == 1
    a.start()
    cluster.wait_equal()
    assert a.full_state() == b.full_state() == {"old": b"1", "new": b"2"}


def test_a_mount_that_is_behind_the_log_is_sent_to_a_snapshot(servers: Servers, lane: Connect) -> None:
    cluster = servers()
    a = cluster.servers[0]
    for index in range(5):
        lane(a).create(b"f%d" % index, b"data")
    cluster.wait_equal()
    _prune(cluster, a)
    mount = lane(a, cursor=2)
    needed = mount.wait(lambda: next((m for m in mount.order if isinstance(m, SnapshotNeeded)), None), "its answer")
    assert needed.first == a.volume()["first"]
    path = cluster.folder / "snapshot"
    path.write_bytes(a.get("/v1/volumes/test_chamber/snapshot").content)
    with path.open("rb") as file:
        snapshot = SpooledSnapshot(file)
        tables = {table for table, _ in snapshot.rows()}
    assert {"nodes", "links", "counters"} <= tables
    mount.send(Subscribe(cursor=snapshot.head))
    ack = mount.create(b"after", b"1")
    assert mount.wait_fed(ack.id)


def test_a_mount_hands_over_what_the_server_lacks(servers: Servers, lane: Connect) -> None:
    cluster = servers(2, start=False)
    a, b = cluster.servers
    a.start()
    identity = Identity()
    mount = lane(a, identity)
    acks = [mount.create(b"f%d" % index, b"data-%d" % index) for index in range(3)]
    entries = [mount.wait_fed(ack.id) for ack in acks]
    mount.close()
    a.kill9()
    b.start()
    mount = lane(b, identity, subscribe=False)
    mount.send(Offer(stamped=tuple((entry.op.id, entry.stamp) for entry in entries)))
    want = mount.wait(lambda: next((m for m in mount.order if isinstance(m, Want)), None), "what is wanted")
    assert want.ids == tuple(ack.id for ack in acks)
    for _ in range(2):
        mount.send(Handover(entries=tuple(Entry(0, entry.stamp, entry.op) for entry in entries), last=True))
    mount.wait(lambda: sum(isinstance(m, HandedOver) for m in mount.order) == 2, "taken, twice")
    op, blobs = identity.create(b"f3", b"data-3")
    ack = mount.answer(mount.submit(op, blobs, floor=acks[-1].stamp))
    assert isinstance(ack, Ack)
    assert ack.stamp > acks[-1].stamp
    assert b.volume()["operations"] == 4
    assert b.volume()["wanted_chunks"] == 3, "its content was not handed over: it is looked for"
    a.start()
    cluster.wait_equal()
    wait_until(lambda: b.volume()["wanted_chunks"] == 0, "the content is there")
    assert a.full_state() == b.full_state()
    assert b.full_state()["f1"] == b"data-1"
    assert OpId(acks[0].id)
    assert acks[0].stamp > ZERO


def test_a_full_disk_refuses_says_so_and_the_peer_goes_on(servers: Servers, lane: Connect) -> None:
    cluster = servers(2, start=False)
    a, b = cluster.servers
    a.start("--min-free", "100000T")
    b.start()
    wait_until(lambda: a.get("/readyz").status_code == 503, "it says that it is not ready")
    assert "free" in a.get("/readyz").json()["reasons"][0]
    wait_until(lambda: b.volume()["peers"][0]["trouble"], "its peer knows")
    mount = lane(a)
    op, blobs = mount.identity.create(b"x", b"data")
    answer = mount.answer(mount.submit(op, blobs))
    assert isinstance(answer, Refused)
    assert answer.code == "NoSpace"
    mount.wait(lambda: mount.beat is not None and mount.beat.trouble, "mounts are told in beats")
    answer = cluster.http.put(f"{a.url}/v1/volumes/test_chamber/files/x", content=b"x" * 100_000)
    assert answer.status_code == 507
    ack = lane(b).create(b"through the other", b"data")
    assert ack.of == 2
