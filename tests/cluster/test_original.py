"""Programs written against the original system's interface work with gdah unchanged."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gdah_drill.cluster import Cluster
from gdah_drill.waiting import wait_until
from tests.cluster.original import OriginalClient, OriginalServer, now

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(120)]


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    cluster = new_cluster()
    cluster.start_servers()
    cluster.mount()
    yield cluster
    cluster.wait_settled()


def test_its_client_pulls_and_pushes(cluster: Cluster, tmp_path: Path) -> None:
    (a, b), (mount,) = cluster.servers, cluster.mounts
    mount.hands.makedirs("sub/empty")
    mount.hands.write("sub/a.txt", b"from a program on the mount")
    cluster.wait_settled()
    with closing(OriginalClient(tmp_path / "old", a.url, "pc")) as client:
        client.pull()
        assert (
            client.tree()
            == mount.hands.tree()
            == {"sub": None, "sub/empty": None, "sub/a.txt": b"from a program on the mount"}
        )

        assert client.push("created", "made/by/old.txt", content=b"\x00\xff old")["status"] == "ok"
        assert client.push("created", "empty")["status"] == "ok"
        assert client.push("created", "new folder", folder=True)["status"] == "ok"
        assert client.push("modified", "sub/a.txt", content=b"modified")["status"] == "ok"
        assert client.push("modified", "sub", folder=True)["status"] == "ok"
        assert client.push("moved", "sub/a.txt", dest="else/where/b.txt")["status"] == "ok"
        assert client.push("deleted", "sub", folder=True)["status"] == "ok"
        wait_until(lambda: mount.hands.tree() == client.tree(), "the mount shows what the old client did")
        cluster.wait_settled()
        for server in (a, b):
            assert server.full_state() == client.tree()
        assert "else/where/b.txt" in client.tree()


def test_its_server_polls_and_never_echoes(cluster: Cluster, tmp_path: Path) -> None:
    (a, b), (mount,) = cluster.servers, cluster.mounts
    with closing(OriginalServer(tmp_path / "old", b.url, "old-host")) as old:
        mount.hands.mkdir("folder")
        mount.hands.write("folder/one", b"1")
        mount.hands.write("folder/two", b"2" * 100_000)
        mount.hands.write("folder/one", b"changed")
        mount.hands.rename("folder/one", "folder/renamed")
        mount.hands.unlink("folder/two")
        mount.hands.rename("folder", "moved folder")
        cluster.wait_settled()

        def same() -> bool:
            old.poll()
            return bool(old.tree() == mount.hands.tree())

        wait_until(same, "the polling server has the same tree")
        assert all(change["origin"] for change in old.applied)

        change = {
            "timestamp": now(),
            "type": "created",
            "src": "test_chamber/from the old server",
            "is_directory": False,
            "origin": "old-host",
            "content": base64.b64encode(b"pushed").decode(),
        }
        old.apply(change)
        assert a.get("/healthz").status_code == 200
        assert cluster.http.post(a.url + "/push_change", json=change).json() == {"status": "ok"}
        wait_until(lambda: mount.hands.read("from the old server") == b"pushed", "the mount has it")
        cluster.wait_settled()
        before = len(old.applied)

        def skipped() -> bool:
            old.poll()
            return any(change["src"] == "test_chamber/from the old server" for change in old.skipped)

        wait_until(skipped, "its own change comes back under its own origin")
        assert [change["src"] for change in old.applied[before:]] == []
        assert old.tree() == mount.hands.tree()
        after = len(old.skipped)
        old.poll()
        assert len(old.skipped) == after, "a change is told once"


def test_a_change_without_origin_gets_that_of_its_sender(cluster: Cluster) -> None:
    a = cluster.servers[0]
    change = {"timestamp": now(), "type": "created", "src": "test_chamber/x", "is_directory": False}
    assert cluster.http.post(a.url + "/push_change", json=change).json() == {"status": "ok"}
    told = a.get("/get_changes", params={"since": ""}).json()
    assert [(one["src"], one["origin"]) for one in told if one["src"] == "test_chamber/x"] == [
        ("test_chamber/x", "user-127.0.0.1")
    ]


def test_bad_input_is_an_error_and_nothing_is_stored(cluster: Cluster) -> None:
    a = cluster.servers[0]
    good = {"timestamp": now(), "type": "created", "src": "test_chamber/x", "is_directory": False, "origin": "o"}
    answer = cluster.http.post(a.url + "/push_change")
    assert answer.status_code == 400
    assert answer.json()["status"] == "error"
    bad: list[dict[str, object]] = [
        {"src": "test_chamber/../../etc/x"}, {"src": "/etc/x"}, {"src": "elsewhere/x"}, {"src": "test_chamber/a\0b"},
        {"src": "test_chamber/" + "x" * 300}, {"src": 7}, {"type": "exploded"}, {"content": "not base64!"},
        {"type": "moved"}, {"type": "moved", "dest": "../x"}, {"is_directory": "maybe"},
    ]  # fmt: skip
    for wrong in bad:
        answer = cluster.http.post(a.url + "/push_change", json=good | wrong)
        assert 400 <= answer.status_code <= 500, wrong
        assert answer.json()["status"] == "error", wrong
        assert answer.json()["message"], wrong
    assert a.full_state() == {}


def test_the_mount_answers_as_its_client_did(cluster: Cluster) -> None:
    (mount,) = cluster.mounts
    mount.hands.mkdir("folder")
    mount.hands.write("folder/file", b"x")
    cluster.wait_settled()
    status = mount.get("/api/status").json()
    assert status["peer_connected"] is True
    assert status["pending"] == []
    files = {item["path"]: item for item in status["files"]}
    assert files["test_chamber/folder"]["is_directory"] is True
    assert files["test_chamber/folder/file"]["status"] == "synced"
    assert files["test_chamber/folder/file"]["mtime"] > 1_600_000_000
    for action in ("pull", "push"):
        answer = cluster.http.post(f"{mount.url}/api/{action}", timeout=40)
        assert answer.status_code == 200
        assert answer.json()["status"] == "ok"
    for server in cluster.servers:
        server.kill9()
    mount.hands.write("folder/offline", b"y")
    for action in ("pull", "push"):
        answer = cluster.http.post(f"{mount.url}/api/{action}", timeout=60)
        assert answer.status_code == 502
        assert answer.json()["status"] == "error"
    status = mount.get("/api/status").json()
    assert status["peer_connected"] is False
    first = status["pending"][0]
    assert (first["type"], first["src"]) == ("created", "test_chamber/folder/offline")
    for server in cluster.servers:
        server.start()
