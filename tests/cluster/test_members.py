"""Servers join and leave for good while programs work on mounts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gdah_drill.cluster import Cluster
from gdah_drill.waiting import wait_until
from mountfs import tool
from tests.cluster.healing import SmallCalls

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(240)]


def test_a_third_server_joins_and_the_one_in_use_is_retired(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(3)
    everyone = cluster.servers
    a, b, c = everyone
    cluster.servers = [a, b]
    for server in cluster.servers:
        server.start()
    cluster.wait_peers()
    mounts = [cluster.mount("first", [a, c]), cluster.mount("second", [b, c])]
    programs = [SmallCalls(mount) for mount in mounts]
    for number in range(40):
        mounts[number % 2].hands.write(f"before-{number}", b"%d" % number)

    cluster.servers = [a, c]  # it knows one of the two
    c.start()
    cluster.servers = everyone
    wait_until(lambda: all(server.volume()["of"] == 3 for server in everyone), "all know all")
    joined = lambda server: all(peer["state"] == "joined" for peer in server.volume()["peers"])  # noqa: E731
    wait_until(lambda: all(joined(server) for server in everyone), "all have caught up and rely on each other")
    mounts[0].hands.write("with three", b"3")

    gone = str(a.status()["server"])
    assert tool.main(["retire", "--server", b.url, a.url]) == 0
    cluster.servers = [b, c]
    wait_until(lambda: mounts[0].uses(c), "the mount uses the other one")
    for number in range(40):
        mounts[number % 2].hands.write(f"after-{number}", b"%d" % number)
    for program in programs:
        program.finish()
        assert program.errors == []
    cluster.wait_settled()

    status = mounts[0].status()
    (at_a,) = (server for server in status["servers"] if server["url"].rstrip("/") == a.url)
    assert not at_a["healthy"]
    assert "was retired" in at_a["last_error"]
    assert status["copies"] == "2/2"
    trees = [server.full_state() for server in (b, c)]
    assert trees[0] == trees[1]
    assert all(mount.hands.tree() == trees[0] for mount in mounts)
    assert {f"{when}-{n}" for when in ("before", "after") for n in range(40)} <= trees[0].keys()
    assert not [path for path in trees[0] if "(conflict" in path]
    assert all(gone not in [peer["server"] for peer in server.volume()["peers"]] for server in (b, c))
    wait_until(lambda: a.process.log_text().count("has got the") >= 2, "it handed over what it had")


def test_what_a_mount_did_at_a_retired_server_is_taken_over(new_cluster: Callable[..., Cluster]) -> None:
    """The mount knows stamps of that server that nobody else has: they are void, and its view follows the others'."""
    cluster = new_cluster(3, cables=True)
    a, b, c = cluster.start_servers()
    mount = cluster.mount("one", [c, a])
    wait_until(lambda: mount.uses(c) or mount.uses(a), "a server is in use")
    mount.hands.write("shared", b"by all")
    cluster.wait_settled()
    mount.cut(a)
    wait_until(lambda: mount.uses(c), "the one that is going to be retired is in use")
    for server in (a, b, c):
        assert server.door is not None
        server.door.cut()
    wait_until(lambda: not any(peer["connected"] for peer in c.volume()["peers"]), "it is alone")
    mount.hands.write("shared", b"at the retired one")
    mount.hands.mkdir("folder")
    mount.hands.write("folder/large", b"\x01" * 200_000)
    wait_until(lambda: mount.status()["pending"]["operations"] == 0, "it took them")
    c.kill9()
    for server in (a, b):
        assert server.door is not None
        server.door.heal()
    assert tool.main(["retire", "--server", a.url, c.peer_url]) == 0
    mount.heal(a)
    cluster.servers = [a, b]
    cluster.wait_settled()
    expected = {"shared": b"at the retired one", "folder": None, "folder/large": b"\x01" * 200_000}
    assert mount.hands.tree() == expected
    assert a.full_state() == b.full_state() == expected
    mount.hands.write("shared", b"later")
    cluster.wait_settled()
    assert a.full_state()["shared"] == b"later"
    assert mount.status()["conflicts"] == 0
