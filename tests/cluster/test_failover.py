"""A server dies or stops in the middle of the work: no program notices, and the status says what happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gdah_drill.cluster import Cluster, Mount, Server
from gdah_drill.waiting import wait_until

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(300)]


def server_in_use(mount: Mount) -> Server:
    return wait_until(
        lambda: next((server for server in mount.servers if mount.uses(server)), None), "the mount chose a server"
    )


@pytest.mark.parametrize("fault", ["killed", "stopped"])
@pytest.mark.parametrize("which", ["in use", "other"])
def test_a_server_is_lost_in_the_middle_of_a_copy(
    new_cluster: Callable[..., Cluster], sources: Path, some_sources: Path, fault: str, which: str
) -> None:
    """No program sees an error because a server was killed, stopped or cut off.

    A server that dies or stops makes one call pause, not fail.
    """
    if which == "other":
        sources = some_sources
    cluster = new_cluster()
    cluster.start_servers()
    mount = cluster.mount()
    in_use = server_in_use(mount)
    other = next(server for server in cluster.servers if server is not in_use)
    lost, left = (in_use, other) if which == "in use" else (other, in_use)

    copy = mount.begin("cp", "-r", sources, "lib")
    watcher = mount.more_hands()
    wait_until(lambda: watcher.exists("lib") and watcher.count("lib") > 50, "the copy is under way", 60)
    if fault == "killed":
        lost.kill9()
    else:
        lost.stop()
    assert copy.poll() is None, "the copy was over before the fault"
    assert mount.finish(copy).stdout == ""
    assert mount.run("diff", "-r", sources, "lib").stdout == ""

    wait_until(lambda: mount.status()["copies"] == "1/2", "the status says one copy")
    status = mount.status()
    assert status["connected"]
    assert status["server"] == left.url
    assert status["why"]
    told = {server["url"]: server for server in status["servers"]}
    assert not told[lost.url]["healthy"]
    assert told[lost.url]["last_error"]
    assert not left.volume()["peers"][0]["connected"]
    assert left.volume()["peers"][0]["last_error"]

    if fault == "killed":
        lost.start()
    else:
        lost.cont()
    cluster.wait_settled()
    assert mount.run("diff", "-r", sources, "lib").stdout == ""
    names = {str(path.relative_to(sources.parent)) for path in sources.rglob("*")} | {"lib"}
    assert set(lost.full_state()) == names
    assert mount.status()["conflicts"] in (0, [])


def test_an_fsynced_file_is_on_both_servers_when_both_are_killed_at_once(new_cluster: Callable[..., Cluster]) -> None:
    """What a call accepted is not lost by the failure of one machine, and not by `kill -9` of any or all
    processes.
    """
    cluster = new_cluster()
    a, b = cluster.start_servers()
    mount = cluster.mount()
    mount.hands.write("synced", b"kept" * 1000, True)
    mount.hands.write("closed", b"kept too")
    for server in (a, b):
        server.kill9()
    mount.kill9()
    mount.unmount_lazily()
    for server in (a, b):
        server.start()
    cluster.wait_equal()
    for server in (a, b):
        assert server.full_state() == {"synced": b"kept" * 1000, "closed": b"kept too"}
