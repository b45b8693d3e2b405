"""Servers that were apart meet again: everything of both sides is everywhere, and nothing of it is mixed."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from gdah_drill.cluster import Cluster, Mount, Server
from gdah_drill.waiting import wait_until
from tests.cluster.healing import SmallCalls, heal_and_time, load_both

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(180)]
OPERATIONS = 200


def parted(new_cluster: Callable[..., Cluster]) -> tuple[Cluster, list[Server], list[Mount]]:
    """Two servers, each with a mount that sees only it."""
    cluster = new_cluster(cables=True)
    servers = cluster.start_servers()
    mounts = [cluster.mount(f"at-{server.name[-1]}", [server]) for server in servers]
    mounts[0].hands.mkdir("shared")
    for number in range(20):
        mounts[0].hands.write(f"shared/file-{number}", b"as both knew it %d" % number)
    cluster.wait_settled()
    cluster.cut(*servers)
    wait_until(lambda: not any(peer["connected"] for s in servers for peer in s.volume()["peers"]), "they part")
    return cluster, servers, mounts


def edit_shared(mounts: list[Mount]) -> tuple[list[bytes], dict[int, int]]:
    """Of each shared file both sides do something: write, rename, remove, write and remove, and so on. Returns the
    contents that were written, and how often each file was removed."""
    dice = random.Random(11)
    contents: list[bytes] = []
    removed = dict.fromkeys(range(20), 0)
    for mount in mounts:
        for number in range(20):
            path = f"shared/file-{number}"
            what = dice.choice(("write", "write", "rename", "unlink", "save"))
            data = b"%s of %s %d" % (what.encode(), mount.name.encode(), number)
            match what:
                case "write":
                    mount.hands.write(path, data)
                    contents.append(data)
                case "rename":
                    mount.hands.rename(path, f"{path}-of-{mount.name}")
                case "unlink":
                    mount.hands.unlink(path)
                    removed[number] += 1
                case "save":
                    mount.hands.write(f"{path}.new", data)
                    mount.hands.rename(f"{path}.new", path)
                    contents.append(data)
        mount.hands.mkdir("made by both")
        mount.hands.write(f"made by both/{mount.name}", b"here")
    return contents, removed


def test_different_files_and_the_same_files_of_both_sides(new_cluster: Callable[..., Cluster]) -> None:
    """In one go, as two clusters take twice as long: what was done to other files is not touched by the conflicts."""
    cluster, servers, mounts = parted(new_cluster)
    programs = [SmallCalls(mount) for mount in mounts]
    loads = load_both(cluster, OPERATIONS, seed=7)
    contents, removed = edit_shared(mounts)
    heal_and_time(cluster)
    for program in programs:
        program.finish()
        assert program.errors == []
        assert len(program.calls) > 6
    cluster.wait_settled()
    trees = [server.full_state() for server in servers]
    assert trees[0] == trees[1]
    for mount in mounts:
        assert mount.hands.tree() == trees[0]
    of_both = ("shared/", "made by both/")
    files = {path: data for path, data in trees[0].items() if data is not None}
    held = {path: data for path, data in files.items() if not path.startswith(of_both)}
    assert held == {path: data for load in loads for path, data in load.expected().items()}, "and no conflict copy"
    found = [data for path, data in files.items() if path.startswith(of_both)]
    assert [data for data in contents if found.count(data) != 1] == [], "each version that was written is there once"
    assert {"made by both/at-a", "made by both/at-b"} <= trees[0].keys()
    conflicts = [path for path in trees[0] if "(conflict" in path]
    assert 0 < len(conflicts) <= len(contents)
    for number in range(20):  # what nobody removed or replaced is still there
        if not removed[number] and not any(data.endswith(b" %d" % number) for data in contents):
            assert b"as both knew it %d" % number in found
