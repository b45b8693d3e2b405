"""Servers cut off from each other, people at work on both sides, then the cable is plugged in again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gdah_drill.cluster import Cluster
from gdah_drill.waiting import wait_until

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(240)]


def test_both_sides_edit_delete_create_and_rename(new_cluster: Callable[..., Cluster]) -> None:
    """What both sides did is there afterwards: both contents exist; the edit survives the delete; one folder with the
    contents of both; what was written is in the renamed folder.
    """
    cluster = new_cluster(cables=True)
    a, b = cluster.start_servers()
    left, right = cluster.mount("left"), cluster.mount("right")
    left.hands.mkdir("to rename")
    left.hands.write("twice edited.txt", b"base")
    left.hands.write("edited and deleted.txt", b"base")
    left.hands.write("untouched.txt", b"base")
    cluster.wait_settled()
    wait_until(lambda: right.hands.tree() == left.hands.tree(), "both mounts see the same")

    cluster.cut(a, b)
    left.cut(b)
    right.cut(a)
    wait_until(lambda: left.uses(a) and right.uses(b), "each mount uses the server on its side")
    for server in (a, b):
        wait_until(lambda server=server: not server.volume()["peers"][0]["connected"], "peers are lost")  # type: ignore[misc]

    left.hands.write("twice edited.txt", b"from the left")
    right.hands.write("twice edited.txt", b"from the right")
    left.hands.unlink("edited and deleted.txt")
    right.hands.append("edited and deleted.txt", b", edited")
    for side, hands in (("left", left.hands), ("right", right.hands)):
        hands.mkdir("same folder")
        hands.write(f"same folder/{side}.txt", side.encode())
    left.hands.rename("to rename", "renamed")
    right.hands.write("to rename/late.txt", b"written meanwhile")

    cluster.heal()
    cluster.wait_settled()
    wait_until(lambda: right.hands.tree() == left.hands.tree(), "both mounts see the same")
    tree = left.hands.tree()
    assert tree == right.hands.tree() == a.full_state() == b.full_state()

    twice = {path: content for path, content in tree.items() if path.startswith("twice edited")}
    assert sorted(twice.values()) == [b"from the left", b"from the right"]
    assert "twice edited.txt" in twice
    conflict = next(path for path in twice if path != "twice edited.txt")
    assert "(conflict " in conflict
    assert conflict.endswith(".txt")
    assert tree["edited and deleted.txt"] == b"base, edited"
    assert tree["same folder/left.txt"] == b"left"
    assert tree["same folder/right.txt"] == b"right"
    assert tree["renamed/late.txt"] == b"written meanwhile"
    assert tree["untouched.txt"] == b"base"
    assert sorted(path for path in tree if "/" not in path) == sorted(
        ["edited and deleted.txt", "renamed", "same folder", "twice edited.txt", conflict, "untouched.txt"]
    )

    right.hands.write(conflict, b"a conflict copy is a file like any other")
    wait_until(lambda: left.hands.read(conflict).startswith(b"a conflict copy"), "the other side sees it")


def test_a_link_that_is_silent_one_way_only_loses_nothing(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(cables=True)
    a, b = cluster.start_servers()
    mount = cluster.mount()
    mount.hands.write("before", b"1")
    assert a.door is not None
    assert b.door is not None
    for door, way in ((a.door, "in"), (b.door, "out"), (b.door, "in"), (a.door, "out")):
        door.cut(way)  # type: ignore[arg-type]
        mount.hands.write(f"during {way} of {door.port}", way.encode())
        mount.hands.mkdir(f"folder {way} of {door.port}")
        door.heal()
        door.reset()
        mount.hands.write(f"after {way} of {door.port}", way.encode())
    cluster.wait_settled()
    assert mount.hands.tree() == a.full_state() == b.full_state()
    assert len(mount.hands.listdir()) == 13


def test_messages_cut_in_the_middle_and_acknowledgements_lost(new_cluster: Callable[..., Cluster]) -> None:
    """Healing never makes a conflict out of the work of one person alone.

    An acknowledgement that never arrives makes a retry in doubt.
    """
    cluster = new_cluster(cables=True)
    a, b = cluster.start_servers()
    mount = cluster.mount()
    expected: dict[str, bytes | str | None] = {}
    for round_number in range(6):
        for server in (a, b):
            door = mount.doors[server]
            door.stop_after(700 + 900 * round_number, "out" if round_number % 2 else "in")
            for number in range(4):
                name = f"{server.name} {round_number} {number}"
                mount.hands.write(name, name.encode() * 30)
                mount.hands.write(name, name.encode() * 40)
                mount.hands.rename(name, name + " renamed")
                expected[name + " renamed"] = name.encode() * 40
            door.reset()
            door.heal()
    cluster.wait_settled()
    assert mount.hands.tree() == expected
    assert a.full_state() == b.full_state() == expected
    assert mount.status()["conflicts"] in (0, [])
