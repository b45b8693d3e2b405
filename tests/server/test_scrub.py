"""Scrubbing on two real servers: damage is found before anybody reads it and repaired from the other copy, what is
damaged on both is said with the name of its file, and nothing is deleted; trash goes after its retention."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gdah_drill import launch
from gdah_drill.cluster import Cluster, Server
from gdah_drill.waiting import wait_until
from gdah_volume.content import hash_of
from gdah_volume.database import Database
from gdah_volume.ids import LinkId, NodeId, Version
from gdah_volume.operations import Unlink
from gdah_volume.replica import Replica
from gdah_volume.wire import Ack
from storage_server import scrub as module
from storage_server.scrub import Scrub
from tests.server.conftest import Connect, wait_joined
from tests.server.rooms import Room, run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]
Servers = Callable[..., Cluster]
VOLUME = "/v1/volumes/test_chamber"
DAY_NS = 86_400 * 10**9


def post(cluster: Cluster, server: Server, what: str) -> dict[str, Any]:
    answer = cluster.http.post(f"{server.url}{VOLUME}/{what}", timeout=60.0)
    assert answer.status_code == 200, answer.text
    figures: dict[str, Any] = answer.json()
    return figures


def store(cluster: Cluster, server: Server, path: str, data: bytes) -> str:
    answer = cluster.http.put(f"{server.url}{VOLUME}/files/{path}", content=data)
    assert answer.status_code == 201, answer.text
    return hash_of(data).hex()


def chunk_file(server: Server, name: str) -> Path:
    return server.data / "volumes/test_chamber/chunks" / name[:2] / name


def here(cluster: Cluster, server: Server, name: str) -> bytes | None:
    answer = cluster.http.get(f"{server.url}{VOLUME}/chunks/{name}?local=1")
    return answer.content if answer.status_code == 200 else None


def quarantined(server: Server) -> list[bytes]:
    return sorted(path.read_bytes() for path in (server.data / "volumes/test_chamber/chunks/quarantine").iterdir())


def test_damage_is_found_and_repaired_and_what_both_lost_is_named(servers: Servers) -> None:
    """Every stored chunk is read again in time, and one that is damaged or missing comes from the other server. Bytes
    that are damaged are put aside, never deleted; what is damaged on every server is told with the names of its
    files."""
    cluster = servers()
    a, b = cluster.servers
    datas = {f"f{count}": os.urandom(70_000 + count) for count in range(4)}
    names = {path: store(cluster, a, path, data) for path, data in datas.items()}
    small = os.urandom(300)
    small_name = store(cluster, a, "small", small)
    cluster.wait_equal()
    wait_until(lambda: a.volume()["copies"] == 2, "both have everything")
    chunk_file(a, names["f0"]).write_bytes(b"rot")
    chunk_file(a, names["f1"]).unlink()
    with sqlite3.connect(a.data / "volumes/test_chamber/volume.db", timeout=20) as database:
        database.execute("UPDATE chunks SET data = x'00' WHERE hash = ?", (bytes.fromhex(small_name),))
    database.close()
    first = post(cluster, a, "scrub")
    assert (first["damaged"], first["missing"], first["repaired"], first["hurt"]) == (2, 1, 3, [])
    assert (first["checked"], first["database"], first["running"]) == (4, "sound", False)
    assert quarantined(a) == [b"\0", b"rot"]
    healed = a.volume()["healed"]
    assert (healed["chunks"], healed["chunk_bytes"]) == (3, 70_000 + 70_001 + 300)
    assert here(cluster, a, names["f0"]) == datas["f0"]
    assert here(cluster, a, names["f1"]) == datas["f1"]
    assert here(cluster, a, small_name) == small
    assert a.volume()["scrub"]["last_pass_at"] == first["last_pass_at"]
    second = post(cluster, a, "scrub")
    assert (second["checked"], second["bytes"], second["damaged"]) == (5, sum(map(len, datas.values())) + 300, 0)

    for server in (a, b):
        chunk_file(server, names["f2"]).write_bytes(b"rot on both")
    for server in (a, b):
        figures = post(cluster, server, "scrub")
        assert [each["files"] for each in figures["hurt"]] == [["f2"]]
        assert figures["hurt"][0]["chunk"] == names["f2"]
        assert b"rot on both" in quarantined(server)
    assert 'gdah_scrub_hurt_chunks{volume="test_chamber"} 1.0' in cluster.http.get(a.url + "/metrics").text
    cluster.http.put(f"{b.url}{VOLUME}/chunks/{names['f2']}", content=datas["f2"])
    wait_until(lambda: a.volume()["scrub"]["hurt"] == [] == b.volume()["scrub"]["hurt"], "somebody brought it again")
    assert post(cluster, a, "scrub")["damaged"] == 0


def test_trash_goes_after_its_retention_and_stays_restorable_before(servers: Servers, lane: Connect) -> None:
    cluster = servers(2, start=False)
    options = ("--collect-grace-hours", "0", "--collect-keep-days", "1")
    clock = cluster.folder / "clock"
    clock.write_text(str(-40 * 86_400))
    for server in cluster.servers:
        server.environ = {launch.CLOCK: str(clock)}
        server.start(*options)
    wait_joined(cluster)
    a = cluster.servers[0]
    mount = lane(a)
    long_ago = time.time_ns() - 40 * DAY_NS
    datas: dict[bytes, bytes] = {}
    for name, removed in ((b"kept", None), (b"old trash", long_ago), (b"young trash", time.time_ns())):
        data = datas[name] = os.urandom(70_000)
        cluster.http.put(f"{a.url}{VOLUME}/chunks/{hash_of(data).hex()}", content=data)
        op, _ = mount.identity.create(name, data)
        op = msgspec.structs.replace(op, time_ns=long_ago)
        assert isinstance(mount.answer(mount.submit(op)), Ack)
        if name == b"young trash":
            clock.write_text("0")
            wait_until(lambda: (cluster.folder / "clock.seen").read_text().split()[-2:] == ["0", "0"], "it is today")
        if removed is not None:
            gone = Unlink(
                id=mount.identity.next_id(),
                time_ns=removed,
                link=LinkId(op.id),
                rev=Version(op.id),
                node=NodeId(op.id),
                version=Version(op.id),
                last=True,
            )
            assert isinstance(mount.answer(mount.submit(gone)), Ack)
    cluster.wait_equal()
    assert post(cluster, a, "collect")["taken"] == 0, "all of it is in the log still"
    a.process.terminate()
    a.start(*options)
    wait_joined(cluster)
    wait_until(lambda: a.volume()["first"] > 1, "what is old has left the log")
    assert post(cluster, a, "collect?dry=1")["taken"] == 1
    figures = post(cluster, a, "collect")
    assert (figures["taken"], figures["taken_bytes"], figures["aborted"]) == (1, 70_000, None), figures
    assert not chunk_file(a, hash_of(datas[b"old trash"]).hex()).exists()
    for name in (b"young trash", b"kept"):
        assert here(cluster, a, hash_of(datas[name]).hex()) == datas[name]
    assert a.volume()["collector"]["waiting"] == 1
    assert post(cluster, a, "scrub")["missing"] == 0, "what is not needed is not missed"
    assert here(cluster, a, hash_of(datas[b"old trash"]).hex()) == datas[b"old trash"], "a few days more for who asks"


def test_a_damaged_database_is_told_with_the_next_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "volume.db"
    database = Database(path)
    with database.transaction():
        database.executemany(
            "INSERT INTO links VALUES (?, 'n', 'root', x'61', x'61', 'r', 0, 'root', 0, 0)",
            [(f"l{n}",) for n in range(2000)],
        )
    database.checkpoint()
    database.close()
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2 // 4096 * 4096
    whole[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(whole)
    database = Database(path)
    (found,) = [Scrub._quick_check(stand_in(database), [])]
    database.close()
    assert found != "sound"


def test_a_slow_pass_gives_way_and_goes_on_after_a_restart_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(module, "SAVE_EVERY", 1)
    monkeypatch.setattr(module, "GIVE_WAY_S", 0.0)
    room = Room(tmp_path)
    names = sorted(room.put(50)[0] for _ in range(40))
    half = names[20][0]

    async def first() -> None:
        scrub = Scrub(room.volume, every_s=1, bytes_per_s=1e12)
        looks = 0

        async def is_clear() -> None:
            nonlocal looks
            looks += 1
            if scrub.figures.part > half:
                raise asyncio.CancelledError  # the server is stopped

        scrub._way_is_clear = is_clear  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await scrub.run()
        assert looks > 5

    async def second() -> None:
        scrub = Scrub(room.volume, every_s=3600, bytes_per_s=1e12)
        room.volume.busy = 1.0
        task = asyncio.get_running_loop().create_task(scrub.run())
        for _ in range(200):
            await asyncio.sleep(0)
        assert scrub.figures.last_pass_at is None, "it waits while the writer is busy"
        room.volume.busy = 0.0
        while scrub.figures.last_pass_at is None:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        task.cancel()
        assert scrub.figures.checked == 40, "each once, over both lives"

    run(room, first)
    again = Room(tmp_path)
    room.close()
    room = again
    run(room, second)
    room.close()


def test_a_pass_that_was_told_goes_before_a_slow_one(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for _ in range(20):
        room.put(50)

    async def story() -> None:
        scrub = Scrub(room.volume, every_s=3600)
        gate = asyncio.Event()
        scrub._way_is_clear = gate.wait  # type: ignore[method-assign, assignment]
        slow = asyncio.get_running_loop().create_task(scrub._guarded_pass(fast=False))
        await asyncio.sleep(0.01)
        told = asyncio.get_running_loop().create_task(scrub.pass_now())
        await asyncio.sleep(0.01)
        gate.set()
        assert (await slow)["last_pass_at"] is None
        figures = await told
        assert (figures["checked"], figures["part"], figures["damaged"]) == (20, 0, 0)

    run(room, story)
    room.close()


def stand_in(database: Database) -> Any:
    class Readers:
        def fresh(self) -> Any:
            return self

        def __enter__(self) -> Replica:
            return Replica(database)

        def __exit__(self, *_: object) -> None: ...

    class Self:
        _volume = type("Volume", (), {"readers": Readers()})()

    return Self()
