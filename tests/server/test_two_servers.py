"""Two real servers: copies, order, loss and return of each, partition and healing."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable

import pytest

from gdah_drill.cluster import Cluster
from gdah_drill.waiting import wait_until
from gdah_volume.content import hash_of
from gdah_volume.ids import NodeId
from gdah_volume.wire import Ack, Feed, Refused
from tests.server.conftest import Connect, assert_copies, wait_joined
from tests.server.lane_client import Identity

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
Servers = Callable[..., Cluster]


def test_both_acknowledge_two_copies_and_have_equal_digests(servers: Servers, lane: Connect) -> None:
    cluster = servers()
    for number, server in enumerate(cluster.servers):
        mount = lane(server)
        for index in range(20):
            ack = mount.create(b"%d-%d" % (number, index), b"x" * 100)
            assert ack.of == 2
            assert ack.copies == 2 or cluster.lost_sight()
    cluster.wait_equal()
    trees = [server.full_state() for server in cluster.servers]
    assert trees[0] == trees[1]
    assert len(trees[0]) == 40


def test_the_feed_of_an_operation_precedes_its_acknowledgement(servers: Servers, lane: Connect) -> None:
    cluster = servers()
    for server in cluster.servers:
        mount = lane(server)
        ids = [mount.submit(*mount.identity.create(b"%s-%d" % (server.name.encode(), i), b"y")) for i in range(50)]
        for op in ids:
            assert isinstance(mount.answer(op), Ack)
        seen: set[str] = set()
        for message in mount.order:
            if isinstance(message, Feed):
                seen.update(entry.op.id for entry in message.entries)
            elif isinstance(message, Ack):
                assert message.id in seen


def test_what_one_mount_does_another_one_at_the_other_server_is_told(servers: Servers, lane: Connect) -> None:
    a, b = servers().servers
    one, other = lane(a), lane(b)
    ack = one.create(b"from one")
    entry = other.wait_fed(ack.id)
    assert entry.stamp == ack.stamp
    assert entry.blobs == ()


def test_of_exclusive_creates_through_different_servers_one_wins(servers: Servers, lane: Connect) -> None:
    cluster = servers()
    mounts = [lane(server) for server in cluster.servers]
    for index in range(30):
        ids = []
        barrier = threading.Barrier(2)

        def send(mount: object, name: bytes) -> None:
            op, blobs = mount.identity.create(name)  # type: ignore[attr-defined]
            barrier.wait()  # noqa: B023
            mount.submit(op, blobs)  # type: ignore[attr-defined]
            ids.append((mount, op.id))  # noqa: B023

        threads = [threading.Thread(target=send, args=(mount, b"lock-%d" % index)) for mount in mounts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answers = [mount.answer(op) for mount, op in ids]  # type: ignore[attr-defined]
        if all(isinstance(answer, Ack) for answer in answers):
            assert cluster.lost_sight(), answers
            break
        assert sorted(type(answer).__name__ for answer in answers) == ["Ack", "Refused"], answers
        assert next(answer for answer in answers if isinstance(answer, Refused)).code == "Exists"
    cluster.wait_equal()


def test_a_retry_through_the_other_server_is_acknowledged_with_the_same_stamp(servers: Servers, lane: Connect) -> None:
    a, b = servers().servers
    identity = Identity()
    one = lane(a, identity)
    op, blobs = identity.create(b"once", b"data")
    first = one.answer(one.submit(op, blobs))
    again = lane(b, identity)
    for strict in (True, False):
        second = again.answer(again.submit(op, blobs, strict=strict))
        assert isinstance(first, Ack)
        assert isinstance(second, Ack)
        assert second.stamp == first.stamp
        again.answers.clear()
    assert len(a.full_state()) == 1


@pytest.mark.parametrize("which", [0, 1], ids=["sequencer", "other"])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_one_is_lost_and_returns(servers: Servers, lane: Connect, which: int, how: str) -> None:
    cluster = servers()
    by_role = sorted(cluster.servers, key=lambda server: server.status()["server"])
    lost, kept = by_role[which], by_role[1 - which]
    mount = lane(kept)
    mount.create(b"before", b"1")
    if how == "kill":
        lost.kill9()
    else:
        lost.stop()
    for index in range(10):
        ack = mount.create(b"alone-%d" % index, b"2")
    assert (ack.copies, ack.of) == (1, 2)
    status = kept.volume()
    assert not status["peers"][0]["connected"]
    assert status["peers"][0]["last_error"]
    assert status["peers"][0]["lag_operations"] >= 10
    if how == "kill":
        lost.start()
    else:
        lost.cont()
    cluster.wait_peers()
    cluster.wait_equal()
    wait_joined(cluster)
    ack = mount.create(b"after", b"3")
    assert_copies(cluster, ack, 2, 2)
    late = lane(lost)
    ack = late.create(b"through the one that was lost", b"4")
    assert_copies(cluster, ack, 2, 2)
    cluster.wait_equal()
    assert cluster.servers[0].full_state() == cluster.servers[1].full_state()
    assert len(lost.full_state()) == 13


def test_operations_on_the_way_survive_the_loss_of_either(servers: Servers, lane: Connect) -> None:
    cluster = servers()
    by_role = sorted(cluster.servers, key=lambda server: server.status()["server"])
    sequencer, other = by_role
    mount = lane(other)
    ids = [mount.submit(*mount.identity.create(b"f%d" % index, b"z" * 500)) for index in range(300)]
    sequencer.kill9()
    for op in ids:
        assert isinstance(mount.answer(op), Ack)
    sequencer.start()
    cluster.wait_equal()
    assert len(other.full_state()) == 300
    assert sequencer.full_state() == other.full_state()


def test_partition_and_healing(servers: Servers, lane: Connect) -> None:
    cluster = servers(cables=True)
    a, b = cluster.servers
    one, other = lane(a), lane(b)
    both = one.create(b"both", b"start")
    other.wait_fed(both.id)
    cluster.cut(a, b)
    for server in (a, b):
        wait_until(lambda server=server: not server.volume()["peers"][0]["connected"], "the peer is lost")  # type: ignore[misc]
    node = NodeId(both.id)
    for mount, data in ((one, b"of one"), (other, b"of the other")):
        op, blobs = mount.identity.write(node, both.id, data, b"both")
        answer = mount.answer(mount.submit(op, blobs))
        assert isinstance(answer, Ack)
        assert (answer.copies, answer.of) == (1, 2)
        mount.create(b"same", data)
        mount.create(b"folder", kind="dir")
    cluster.heal()
    cluster.wait_equal()
    tree = a.full_state()
    assert tree == b.full_state()
    assert sorted(content for content in tree.values() if content is not None) == [
        b"of one", b"of one", b"of the other", b"of the other",
    ]  # fmt: skip
    assert [name for name, content in tree.items() if content is None] == ["folder"]
    wait_joined(cluster)
    assert_copies(cluster, one.create(b"later"), 2, 2)


def test_one_way_silence_is_a_partition_and_heals(servers: Servers, lane: Connect) -> None:
    cluster = servers(cables=True)
    a, b = cluster.servers
    assert a.door is not None
    one, other = lane(a), lane(b)
    a.door.cut("out")
    for server in (a, b):
        wait_until(lambda server=server: not server.volume()["peers"][0]["connected"], "the peer is lost")  # type: ignore[misc]
    assert one.create(b"one").copies == 1
    assert other.create(b"other").copies == 1
    cluster.heal()
    wait_joined(cluster)
    cluster.wait_equal()
    assert sorted(a.full_state()) == ["one", "other"]


def test_a_server_that_comes_back_empty_receives_the_union(servers: Servers, lane: Connect) -> None:
    cluster = servers()
    a, b = cluster.servers
    mount = lane(a)
    big = bytes(range(256)) * 8192
    assert cluster.http.put(f"{a.url}/v1/volumes/test_chamber/files/big", content=big).status_code == 201
    for index in range(20):
        mount.create(b"f%d" % index, b"data")
    before = b.status()["server"]
    b.kill9()
    b.wipe()
    b.start()
    cluster.wait_equal()
    assert b.status()["server"] != before
    assert len(a.volume()["peers"]) == 1, "the emptied server is replaced, not added"
    assert a.volume()["of"] == 2
    wait_until(lambda: b.volume()["copies"] == 2 and a.volume()["copies"] == 2, "2/2")
    healed = b.volume()["healed"]
    assert healed["entries"] >= 21
    assert healed["entry_bytes"] > 20 * len(b"data")
    assert (healed["chunks"], healed["chunk_bytes"]) == (1, 1 << 20)
    a.kill9()
    tree = b.full_state()
    assert tree["big"] == big
    assert len(tree) == 21


def test_a_server_from_an_old_backup_gets_a_new_epoch_and_the_union(servers: Servers, lane: Connect) -> None:
    cluster = servers()
    a, b = cluster.servers
    lane(b).create(b"old", b"1")
    cluster.wait_equal()
    b.process.terminate()
    backup = cluster.folder / "backup"
    shutil.copytree(b.data, backup)
    b.start()
    wait_joined(cluster)
    mount = lane(b)
    for index in range(30):
        assert_copies(cluster, mount.create(b"new-%d" % index, b"2"), 2, 2)
    cluster.wait_equal()
    epoch = b.status()["epoch"]
    mount.close()
    b.kill9()
    shutil.rmtree(b.data)
    shutil.copytree(backup, b.data)
    b.start()
    wait_until(lambda: b.status()["epoch"] != epoch, "a new epoch")
    cluster.wait_equal()
    assert a.full_state() == b.full_state()
    assert len(b.full_state()) == 31
    wait_joined(cluster)
    assert_copies(cluster, lane(b).create(b"last"), 2, 2)


def test_an_old_backup_that_was_written_to_alone_still_receives_the_union(servers: Servers, lane: Connect) -> None:
    """Its log is as long again as the peer has read, with other operations: only the digests tell."""
    cluster = servers()
    a, b = cluster.servers
    lane(b).create(b"old", b"1")
    cluster.wait_equal()
    b.process.terminate()
    backup = cluster.folder / "backup"
    shutil.copytree(b.data, backup)
    b.start()
    wait_joined(cluster)
    mount = lane(b)
    for index in range(10):
        mount.create(b"lost-%d" % index, b"2")
    cluster.wait_equal()
    a.kill9()
    b.kill9()
    shutil.rmtree(b.data)
    shutil.copytree(backup, b.data)
    b.start()
    mount = lane(b)
    for index in range(30):
        mount.create(b"alone-%d" % index, b"3")
    a.start()
    cluster.wait_equal()
    assert a.full_state() == b.full_state()
    assert len(b.full_state()) == 41


def test_a_chunk_that_only_one_has_is_fetched_and_a_damaged_one_is_repaired(servers: Servers, lane: Connect) -> None:
    cluster = servers()
    a = cluster.servers[0]
    data = bytes(range(256)) * 4096
    name = hash_of(data).hex()
    answer = cluster.http.put(f"{a.url}/v1/volumes/test_chamber/chunks/{name}", content=data)
    assert answer.json() == {"copies": 2, "of": 2}
    mount = lane(a)
    op, _ = mount.identity.create(b"big", data)
    assert isinstance(mount.answer(mount.submit(op)), Ack)
    (path,) = (a.data / "volumes/test_chamber/chunks").glob(f"??/{name}")
    path.write_bytes(b"x" * len(data))
    assert cluster.http.get(f"{a.url}/v1/volumes/test_chamber/chunks/{name}").content == data
    wait_until(lambda: path.read_bytes() == data, "the damaged chunk is replaced")
    wait_until(lambda: a.volume()["wanted_chunks"] == 0, "nobody is about to store it once more")
    path.unlink()
    assert cluster.http.get(f"{a.url}/v1/volumes/test_chamber/chunks/{name}?local=1").status_code == 404
    assert cluster.http.get(f"{a.url}/v1/volumes/test_chamber/chunks/{name}").content == data


def test_synced_operations_and_both_orders_of_start(servers: Servers, lane: Connect) -> None:
    cluster = servers(start=False)
    a, b = cluster.servers
    a.start()
    mount = lane(a)
    ack = mount.create(b"alone", b"1", sync=True)
    assert (ack.copies, ack.of) == (1, 2)
    peer = a.volume()["peers"][0]
    assert not peer["connected"]
    assert "refused" in peer["last_error"]
    b.start()
    cluster.wait_equal()
    wait_joined(cluster)
    assert_copies(cluster, mount.create(b"together", b"2", sync=True), 2, 2)
    assert a.process.terminate() == 0
    assert b.process.terminate() == 0
