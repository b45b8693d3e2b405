"""Without any server everything goes on, survives a kill -9 of the mount, and is handed over when servers return."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from gdah_drill.cluster import Cluster
from gdah_drill.waiting import wait_until

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(240)]


def test_both_servers_gone_then_the_mount_killed_then_all_return(new_cluster: Callable[..., Cluster]) -> None:
    """Without any server, creating, writing, renaming, deleting and reading cached files go on.

    After `kill -9` of the mount everything that was accepted is there again when it is mounted, with or without a
    server. When servers return, everything is handed over without anyone doing anything.
    """
    cluster = new_cluster()
    a, b = cluster.start_servers()
    mount = cluster.mount("laptop")
    hands = mount.hands
    hands.makedirs("folder/old")
    hands.write("folder/read me", b"cached content")
    hands.write("folder/edit me", b"first version")
    hands.write("folder/delete me", b"not needed")
    hands.write("folder/old/move me", b"on the move")
    assert hands.read("folder/read me") == b"cached content"
    cluster.wait_settled()

    for server in (a, b):
        server.kill9()
    hands.write("offline", b"made without a server" * 5000)
    hands.write("synced", b"fsync without a server", True)
    hands.write("folder/edit me", b"second version")
    hands.append("folder/edit me", b", appended")
    hands.rename("folder/old/move me", "folder/moved")
    hands.rename("folder/old", "renamed folder")
    hands.unlink("folder/delete me")
    hands.mkdir("renamed folder/new")
    hands.symlink("../moved", "renamed folder/new/link")
    hands.write("large", os.urandom(3_000_000))
    assert hands.read("folder/read me") == b"cached content"
    for number in range(100):
        hands.write(f"renamed folder/new/{number}", f"number {number}".encode())
    open_fd = hands.open("still open", os.O_RDWR | os.O_CREAT)
    hands.pwrite(open_fd, b"written, never closed")
    hands.fsync(open_fd)
    expected = hands.tree()

    status = mount.status()
    assert not status["connected"]
    assert status["server"] is None
    assert status["why"]
    assert status["pending"]["operations"] >= 100
    assert status["pending"]["bytes"] >= 3_000_000
    assert status["pending"]["oldest_age_s"] > 0

    mount.kill9()
    mount.start()
    hands = mount.hands
    assert hands.tree() == expected
    assert mount.status()["pending"]["operations"] >= 100
    hands.write("after the restart", b"too")
    expected["after the restart"] = b"too"

    for server in (a, b):
        server.start()
    cluster.wait_settled()
    assert hands.tree() == expected
    for server in (a, b):
        told = server.full_state()
        assert {path: content for path, content in expected.items() if path in told} == told
        assert set(expected) - set(told) <= {"renamed folder/new/link"}, (
            "only a symlink is unknown to the old interface"
        )
    assert mount.status()["conflicts"] in (0, [])


def test_a_mount_starts_without_any_server_and_shows_what_it_knows(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster()
    a, b = cluster.start_servers()
    mount = cluster.mount()
    mount.hands.write("known", b"content")
    mount.hands.read("known")
    cluster.wait_settled()
    assert mount.terminate() == 0
    for server in (a, b):
        server.kill9()
    mount.start()
    assert mount.hands.tree() == {"known": b"content"}
    assert not mount.status()["connected"]


def test_content_that_is_in_no_cache_fails_at_once_and_comes_back_with_the_servers(
    new_cluster: Callable[..., Cluster],
) -> None:
    cluster = new_cluster()
    a, b = cluster.start_servers()
    writer = cluster.mount("writer")
    writer.hands.write("elsewhere", b"a" * 2_000_000)
    cluster.wait_settled()
    reader = cluster.mount("reader")
    wait_until(lambda: reader.hands.exists("elsewhere"), "the reader knows the name")
    for server in (a, b):
        server.kill9()
    with pytest.raises(OSError, match="Input/output error"):
        reader.hands.read("elsewhere")
    assert reader.hands.stat("elsewhere").st_size == 2_000_000
    for server in (a, b):
        server.start()
    wait_until(lambda: reader.hands.read("elsewhere") == b"a" * 2_000_000, "content can be read again")


def test_a_mount_that_was_killed_is_not_an_empty_folder(new_cluster: Callable[..., Cluster]) -> None:
    """A dead mount looks dead (ENOTCONN), never empty."""
    cluster = new_cluster()
    cluster.start_servers()
    mount = cluster.mount()
    mount.hands.write("file", b"x")
    watcher = mount.more_hands()
    mount.kill9()
    with pytest.raises(OSError, match="not connected"):
        watcher.listdir()
    mount.start()
    assert mount.hands.listdir() == ["file"]
