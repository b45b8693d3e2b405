"""The interface of the original system, against one and two servers, without any mount."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gdah_drill.cluster import Cluster
from gdah_drill.waiting import wait_until
from tests.cluster.original import OriginalClient, OriginalServer, now
from tests.server.conftest import Connect

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
Servers = Callable[..., Cluster]


def test_its_client_and_its_polling_server_work_unchanged(servers: Servers, tmp_path: Path) -> None:
    cluster = servers()
    a, b = cluster.servers
    with (
        closing(OriginalClient(tmp_path / "client", a.url, "pc")) as client,
        closing(OriginalServer(tmp_path / "server", b.url, "old-host")) as old,
    ):
        big = bytes(range(256)) * 6000
        client.push("created", "made/by/old.txt", content=b"\x00\xff old")
        client.push("created", "big", content=big)
        client.push("created", "empty")
        client.push("created", "folder/inner", folder=True)
        client.push("modified", "big", content=big[::-1])
        client.push("modified", "folder", folder=True)
        client.push("moved", "made/by/old.txt", dest="else/where/new.txt")
        client.push("moved", "folder", dest="renamed folder")
        client.push("created", "over", content=b"1")
        client.push("moved", "empty", dest="over")
        client.push("created", "rm/x/y/z", content=b"gone soon")
        client.push("deleted", "rm", folder=True)
        client.push("deleted", "never was there")
        cluster.wait_equal()
        assert a.full_state() == b.full_state() == client.tree()

        def same() -> bool:
            old.poll()
            return old.tree() == client.tree()

        wait_until(same, "the polling server has the same tree")
        origins = {change["origin"] for change in old.applied}
        assert origins == {"user-pc"}

        client.push("moved", "renamed folder", dest="deep/er/folder")
        client.push("deleted", "big")
        client.push("modified", "else/where/new.txt", content=b"changed")
        wait_until(same, "and follows")
        kinds = [(change["type"], change["src"]) for change in old.applied if "renamed folder" in change["src"]]
        assert ("moved", "test_chamber/renamed folder") in kinds


def test_a_change_keeps_its_origin_on_every_server_and_over_a_restart(servers: Servers) -> None:
    cluster = servers()
    a, b = cluster.servers
    change = {
        "timestamp": now(),
        "type": "created",
        "src": "test_chamber/from afar",
        "is_directory": False,
        "origin": "old-host.local",
        "content": base64.b64encode(b"x").decode(),
    }
    assert cluster.http.post(a.url + "/push_change", json=change).json() == {"status": "ok"}
    cluster.wait_equal()
    for server in (a, b):
        (told,) = server.get("/get_changes", params={"since": ""}).json()
        assert told["origin"] == "old-host.local"
        assert told["content"] == change["content"]
        assert server.get("/get_changes", params={"since": told["timestamp"]}).json() == []
    a.process.terminate()
    a.start()
    assert a.get("/get_changes", params={"since": told["timestamp"]}).json() == []
    (again,) = a.get("/get_changes", params={"since": "1970"}).json()
    assert again["origin"] == "old-host.local"


def test_changes_of_mounts_are_told_with_their_device(servers: Servers, lane: Connect) -> None:
    server = servers(1).servers[0]
    lane(server).create(b"by a mount", b"data")
    (told,) = server.get("/get_changes", params={"since": "2000-01-01T00:00:00.000000"}).json()
    assert (told["type"], told["src"], told["origin"]) == ("created", "test_chamber/by a mount", "user-tester")


def test_wrong_changes_are_errors_in_its_own_form(servers: Servers) -> None:
    cluster = servers(1)
    server = cluster.servers[0]
    good = {"timestamp": now(), "type": "created", "src": "test_chamber/x", "is_directory": False, "origin": "o"}
    wrong: list[dict[str, object]] = [
        {"src": "test_chamber/../../etc/x"}, {"src": "/etc/x"}, {"src": "elsewhere/x"}, {"src": "test_chamber/a\0b"},
        {"src": "test_chamber/" + "x" * 300}, {"src": 7}, {"src": ""}, {"src": "test_chamber"}, {"type": "exploded"},
        {"content": "not base64!"}, {"content": 7}, {"type": "moved"}, {"type": "moved", "dest": "../x"},
        {"is_directory": "maybe"}, {"origin": 7}, {"origin": "x" * 300}, {"origin": "\ud800"},
        {"src": "test_chamber/\ud800"}, {"type": "moved", "dest": "test_chamber/y"},
        {"type": "deleted", "src": "test_chamber"},
    ]  # fmt: skip
    for change in wrong:
        answer = cluster.http.post(server.url + "/push_change", content=json.dumps(good | change).encode())
        assert 400 <= answer.status_code < 500, (change, answer.text)
        assert answer.json()["status"] == "error"
        assert answer.json()["message"]
    for body in (b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000):
        answer = cluster.http.post(server.url + "/push_change", content=body)
        assert answer.status_code == 400, body[:10]
        assert answer.json()["status"] == "error"
    assert server.full_state() == {}


def test_a_burst_of_deletions_by_path_is_refused_until_it_is_confirmed(
    servers: Servers,
) -> None:
    """Whole, before anything is changed; in each interface's own words; by source."""
    cluster = servers(1, start=False)
    server = cluster.servers[0].start("--brake-count", "4")
    files = server.url + "/v1/volumes/test_chamber/files/"
    for name in ("d/1", "d/2", "d/3", "d/4", "a", "b"):
        assert cluster.http.put(files + name, content=b"x").status_code == 201
    answer = cluster.http.delete(files + "d", params={"recursive": True})
    assert (answer.status_code, answer.json()["error"]) == (429, "HeldByBrake"), answer.text
    assert "POST /v1/volumes/test_chamber/brake?source=127.0.0.1" in answer.json()["message"]
    assert len(server.full_state()) == 7
    assert cluster.http.delete(files + "a").status_code == 200

    gone = {"timestamp": now(), "type": "deleted", "src": "test_chamber/d", "is_directory": True, "origin": "old host"}
    answer = cluster.http.post(server.url + "/push_change", json=gone)
    assert (answer.status_code, answer.json()["status"]) == (429, "error")
    assert "brake?source=old%20host" in answer.json()["message"]
    assert len(server.full_state()) == 6
    brake = server.url + "/v1/volumes/test_chamber/brake"
    assert cluster.http.get(brake).json()["refused"] == 10
    assert cluster.http.post(brake).status_code == 400
    assert cluster.http.post(brake, params={"source": "old host"}).json() == {"confirmed": "old host", "for_s": 300.0}
    assert cluster.http.post(server.url + "/push_change", json=gone).json() == {"status": "ok"}
    assert list(server.full_state()) == ["b"]
    assert cluster.http.get(brake).json()["sources"].keys() == {"127.0.0.1"}
    assert server.volume()["deletions_last_minute"] == {server.status()["server"]: 6}
