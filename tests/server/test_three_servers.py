"""Nothing assumes two servers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gdah_drill.cluster import Cluster
from gdah_drill.waiting import wait_until
from gdah_volume.wire import Ack
from tests.server.conftest import Connect, assert_copies, wait_joined

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]
Servers = Callable[..., Cluster]


def test_three_copies_and_any_one_may_be_lost(servers: Servers, lane: Connect) -> None:
    cluster = servers(3)
    for number, server in enumerate(cluster.servers):
        mount = lane(server)
        for index in range(10):
            ack = mount.create(b"%d-%d" % (number, index), b"x" * 1000)
            assert_copies(cluster, ack, 3, 3)
    cluster.wait_equal()
    for lost in cluster.servers:
        others = [server for server in cluster.servers if server is not lost]
        lost.kill9()
        for server in others:
            ack = lane(server).create(b"without %s at %s" % (lost.name.encode(), server.name.encode()))
            assert_copies(cluster, ack, 2, 3)
        lost.start()
        wait_joined(cluster)
        cluster.wait_equal()
    trees = [server.full_state() for server in cluster.servers]
    assert trees[0] == trees[1] == trees[2]
    assert len(trees[0]) == 36


def test_two_are_lost_and_come_back(servers: Servers, lane: Connect) -> None:
    cluster = servers(3)
    a, b, c = cluster.servers
    mount = lane(a)
    b.kill9()
    c.kill9()
    ids = [mount.submit(*mount.identity.create(b"f%d" % index, b"data")) for index in range(100)]
    for op in ids:
        answer = mount.answer(op)
        assert isinstance(answer, Ack)
    assert (answer.copies, answer.of) == (1, 3)
    b.start()
    c.start()
    cluster.wait_equal()
    wait_joined(cluster)
    a.kill9()
    assert len(b.full_state()) == len(c.full_state()) == 100


def test_servers_learn_of_each_other(servers: Servers, lane: Connect) -> None:
    """b and c know only a; they find each other through it."""
    cluster = servers(3, start=False)
    a, b, c = cluster.servers
    everyone, cluster.servers = cluster.servers, [a]
    a.start()
    for server in (b, c):
        cluster.servers = [a, server]
        server.start()
    cluster.servers = everyone
    wait_until(lambda: all(len(server.volume()["peers"]) == 2 for server in everyone), "all know all")
    wait_joined(cluster)
    for server in everyone:
        ack = lane(server).create(b"by " + server.name.encode(), b"data")
        assert_copies(cluster, ack, 3, 3)
    cluster.wait_equal()


def test_a_server_that_was_written_to_before_it_met_the_others(servers: Servers, lane: Connect) -> None:
    cluster = servers(3, start=False)
    a, b, c = cluster.servers
    everyone, cluster.servers = cluster.servers, [a, b]
    a.start()
    b.start()
    wait_joined(cluster)
    for index in range(5):
        assert lane(a).create(b"pair-%d" % index, b"1").copies == 2
    cluster.servers = [c]
    c.start()
    for index in range(5):
        assert lane(c).create(b"lone-%d" % index, b"2").copies == 1
    for index in range(5):
        lane(a).create(b"pair-later-%d" % index, b"1")
    c.process.terminate()
    cluster.servers = everyone
    c.start()
    cluster.wait_equal()
    trees = [server.full_state() for server in cluster.servers]
    assert trees[0] == trees[1] == trees[2]
    assert len(trees[0]) == 15
