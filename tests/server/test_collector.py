"""The collector: nothing that may be needed is taken, nothing is moved when anything is wrong, and what is taken
returns to whoever asks. A volume in this process, with its writer and without peers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import ChunkHash, Content, hash_of
from gdah_volume.ids import OpId, ServerId, Version
from gdah_volume.operations import SetAttr
from storage_server import collector as module
from storage_server.collector import Plan
from tests.server.rooms import DAY_S, NOW_NS, Room, run

LARGE = 70_000


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setattr(module, "BATCH_PAUSE_S", 0.0)
    found = Room(tmp_path)
    yield found
    found.close()


def aside(room: Room) -> set[ChunkHash]:
    return {each.name for each in room.chunks.collected.all()}


SIZES = pytest.mark.parametrize("size", [100, LARGE])


@SIZES
def test_an_upload_without_an_operation_goes_in_three_steps(room: Room, size: int) -> None:
    name, data = room.put(size)
    kept = room.create(b"kept", os.urandom(size))

    async def story() -> None:
        await room.do(kept)
        await room.age()
        dry = await room.collector.collect(dry=True)
        assert (dry["marked"], dry["taken"], dry["aborted"]) == (1, 0, None)
        first = await room.collector.collect()
        assert (first["marked"], first["taken"], first["needed"]) == (1, 0, 1)
        room.passes(DAY_S + 1)
        dry = await room.collector.collect(dry=True)
        assert (dry["taken"], dry["taken_bytes"], room.chunks.has(name)) == (1, size, True)
        second = await room.collector.collect()
        assert (second["taken"], second["taken_bytes"], second["waiting"], second["waiting_bytes"]) == (
            1,
            size,
            1,
            size,
        )
        assert not room.chunks.has(name)
        assert room.chunks.get(name) == data, "it is back for whoever reads it"
        for path in (room.folder / "chunks").glob("??/*"):
            os.utime(path, ns=(NOW_NS, NOW_NS))
        assert (await room.collector.collect())["marked"] == 1
        room.passes(DAY_S + 1)
        assert (await room.collector.collect())["taken"] == 1
        room.passes(6 * DAY_S)
        assert (await room.collector.collect())["deleted"] == 0
        room.passes(DAY_S + 1)
        last = await room.collector.collect()
        assert (last["deleted"], last["deleted_bytes"], last["waiting"]) == (1, size, 0)
        assert room.chunks.get(name) is None
        assert room.volume.care["collector"]() == last

    run(room, story)


@SIZES
def test_what_is_stored_again_is_young_again(room: Room, size: int) -> None:
    name, data = room.put(size)

    async def story() -> None:
        await room.age()
        await room.collector.collect()
        room.passes(DAY_S + 1)
        await room.volume.content.store_here(name, data)
        for path in (room.folder / "chunks").glob("??/*"):  # the store's clock is the machine's
            os.utime(path, ns=(room.wall_ns, room.wall_ns))
        assert (await room.collector.collect())["taken"] == 0
        assert room.chunks.has(name)

    run(room, story)


@SIZES
def test_history_and_trash_stay_as_long_as_the_log_and_go_after_it(room: Room, size: int) -> None:
    """Content that is neither shown nor mentioned by the log of the last 30 days goes, nothing else."""
    old, new = os.urandom(size), os.urandom(size)
    op = room.create(b"file", old)

    async def story() -> None:
        await room.do(op)
        write, _ = room.me.write(cast("Any", op.id), Version(op.id), new)
        room.chunks.put(new)
        await room.do(write)
        assert (await room.taken_soon())["taken"] == 0
        await room.prune()
        assert (await room.taken_soon())["taken"] == 1
        assert aside(room) == {hash_of(old)}
        assert room.chunks.get(hash_of(new)) == new

    run(room, story)


@SIZES
def test_an_operation_that_names_what_was_collected_has_it_back(room: Room, size: int) -> None:
    name, data = room.put(size)

    async def story() -> None:
        assert (await room.taken_soon())["taken"] == 1
        op, _ = room.me.create(b"late", data)
        await room.volume.do(lambda store: store.check_content(op, ()))
        assert room.chunks.has(name)
        assert aside(room) == set()

    run(room, story)


@SIZES
def test_what_a_peer_tells_of_it_has_it_back_too(room: Room, size: int) -> None:
    name, data = room.put(size)

    async def story() -> None:
        assert (await room.taken_soon())["taken"] == 1
        op, _ = room.me.create(b"late", data)
        await room.do(op)
        assert len(room.volume.wanted) == 0
        assert room.chunks.get(name) == data

    run(room, story)


@SIZES
def test_what_the_log_comes_to_need_between_the_decision_and_the_move_stays(room: Room, size: int) -> None:
    """New content with the same chunk; and a touch of a file whose older versions were about to go."""
    first, old, new = os.urandom(size), os.urandom(size), os.urandom(size)
    file = room.create(b"file", old)
    room.chunks.put(first)

    async def story() -> None:
        await room.do(file)
        write, _ = room.me.write(cast("Any", file.id), Version(file.id), new)
        room.chunks.put(new)
        await room.do(write)
        await room.prune()
        await room.age()
        assert (await room.collector.collect())["marked"] == 2
        room.passes(DAY_S + 1)
        decide, loop = room.collector._decide, asyncio.get_running_loop()
        late, _ = room.me.create(b"late", first)
        touch = SetAttr(id=room.me.next_id(), time_ns=NOW_NS, node=cast("Any", file.id), mode=0o600)

        def decide_and_then_both_arrive() -> Plan:
            plan = decide()
            assert set(plan.take) == {hash_of(first), hash_of(old)}
            asyncio.run_coroutine_threadsafe(room.do(late, touch), loop).result(20)
            return plan

        room.collector._decide = decide_and_then_both_arrive  # type: ignore[method-assign]
        figures = await room.collector.collect()
        assert (figures["aborted"], figures["taken"]) == (None, 0)
        assert room.chunks.has(hash_of(first))
        assert room.chunks.has(hash_of(old))

    run(room, story)


def test_before_it_is_deleted_it_is_looked_at_once_more(room: Room) -> None:
    """It came to be needed while it lay out of the way, and nobody has read it since."""
    data = os.urandom(LARGE)
    room.chunks.put(data)
    op, _ = room.me.create(b"late", data)

    async def story() -> None:
        assert (await room.taken_soon())["taken"] == 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ChunkStore, "bring_back", lambda *_: False)  # as if an older gdah had logged it
            await room.do(op)
            room.volume.wanted.arrived(hash_of(data))
        room.passes(30 * DAY_S)
        figures = await room.collector.collect()
        assert (figures["brought_back"], figures["deleted"]) == (1, 0)
        assert room.chunks.has(hash_of(data))

    run(room, story)


def test_more_than_half_of_everything_asks_first(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_FROM_BYTES", 2 * LARGE)
    names = [room.put(LARGE)[0] for _ in range(3)]
    kept = room.create(b"kept", os.urandom(100))

    async def story() -> None:
        await room.do(kept)
        figures = await room.taken_soon()
        assert figures["taken"] == 0
        assert "force=1" in figures["asks"]
        assert figures["aborted"] == figures["asks"]
        assert all(room.chunks.has(name) for name in names)
        assert (await room.collector.collect(force=True))["taken"] == 3

    run(room, story)


def sql(statement: str) -> Callable[[Room], None]:
    return lambda room: room.database.execute(statement) and None


def foreign(*where: str) -> Callable[[Room], None]:
    def put(room: Room) -> None:
        path = room.folder.joinpath("chunks", *where)
        path.parent.mkdir(exist_ok=True)
        path.touch()

    return put


def given(name: str, value: object) -> Callable[[Room], None]:
    return lambda room: setattr(room.volume, name, value)


def clock_set(room: Room) -> None:
    room.wall_ns += int(40 * DAY_S * 1e9)


def clock_of_another(room: Room) -> None:
    room.volume.replication.member(ServerId("s9"), "http://127.0.0.1:9", 0.0)
    peer = room.volume.replication.peers[ServerId("s9")]
    peer.clock_us = room.wall_ns // 1000 + 7200 * 10**6
    peer.held = 2**60
    room.collector._all_are_there = lambda: True  # type: ignore[method-assign]


def skipped(room: Room) -> None:
    room.volume.incoming.skipped.append(OpId("d-x-y-1"))


def damaged(room: Room) -> None:
    room.damage = "a page is torn"


WRONG = {
    "an operation that is none": sql("UPDATE operations SET operation = '{}'"),
    "an operation under another id": sql("UPDATE operations SET id = 'd-x-y-9'"),
    "an unreadable version": sql("UPDATE versions SET content = x'93'"),
    "a version that is not there": sql("DELETE FROM versions"),
    "an unreadable record of undo": sql("INSERT INTO undo VALUES (1, 's', 'x', x'c1')"),
    "a table that is not there": sql("DROP TABLE unneeded"),
    "wanted names that are none": sql("INSERT OR REPLACE INTO meta VALUES ('wanted', '[1]')"),
    "a file that is no chunk": foreign("ab", "notes.txt"),
    "a chunk folder that is none": foreign("a0"),
    "a file among the collected that is no chunk": foreign("collected", "notes.txt"),
    "a peer that was never met": lambda room: room.volume.replication.expect("http://127.0.0.1:9", 0.0),
    "a peer that is not there": lambda room: room.volume.replication.member(ServerId("s9"), "", 0.0) and None,
    "a snapshot on its way": given("loading", True),
    "a full disk": given("trouble", "disk full"),
    "an operation that was skipped": skipped,
    "a damaged database": damaged,
    "a clock that was set": clock_set,
    "a clock of another far ahead": clock_of_another,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_nothing_is_moved_when_anything_is_wrong(room: Room, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When anything at all cannot be read, or a server of the volume is not there, nothing is collected."""
    monkeypatch.setattr(module, "EVERYWHERE_WITHIN_S", 0.0)
    name, data = room.put(LARGE)
    small, _ = room.put(100)
    kept = room.create(b"kept", os.urandom(100))

    async def story() -> None:
        await room.do(kept)
        await room.age()
        await room.collector.collect()
        room.passes(DAY_S + 1)
        WRONG[wrong](room)
        figures = await room.collector.collect()
        assert figures["aborted"], figures
        assert (figures["taken"], figures["deleted"], figures["running"]) == (0, 0, False)
        assert room.chunks.has(small)
        assert room.chunks.get(name) == data

    run(room, story)


def test_another_epoch_ends_a_run(room: Room) -> None:
    name, _ = room.put(LARGE)

    async def story() -> None:
        await room.age()
        await room.collector.collect()
        room.passes(DAY_S + 1)
        decide, loop = room.collector._decide, asyncio.get_running_loop()

        def decide_and_then_an_epoch_begins() -> Plan:
            plan = decide()
            asyncio.run_coroutine_threadsafe(room.volume.begin_epoch("a test"), loop).result(20)
            return plan

        room.collector._decide = decide_and_then_an_epoch_begins  # type: ignore[method-assign]
        figures = await room.collector.collect()
        assert "epoch" in figures["aborted"]
        assert room.chunks.has(name)

    run(room, story)


def test_a_wanted_chunk_is_needed(room: Room) -> None:
    name, _ = room.put(LARGE)

    async def story() -> None:
        await room.volume.do(lambda store: store.want_chunks([name]))
        assert (await room.taken_soon())["taken"] == 0
        assert room.chunks.has(name)

    run(room, story)


KILLED = """
    import os, sys, time
    from pathlib import Path
    from gdah_volume.chunk_store import ChunkStore
    from gdah_volume.database import Database

    folder, at = Path(sys.argv[1]), sys.argv[2]
    database = Database(folder / "volume.db")
    store = ChunkStore(folder / "chunks", database)
    names = list(store.names())
    with database.transaction():
        store.collected.mark(names, 0)
    rename, utime, count = os.rename, os.utime, [0]

    def rename_or_die(*paths):
        count[0] += 1
        if (at, count[0]) == ("before a rename", 2):
            os.kill(os.getpid(), 9)
        rename(*paths)
        if (at, count[0]) == ("after a rename", 2):
            os.kill(os.getpid(), 9)

    os.rename = rename_or_die
    now = time.time_ns() + 10**9
    with database.transaction():
        store.collect(names, old_ns=now, now_ns=now)
        if at == "before the commit":
            os.kill(os.getpid(), 9)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("at", ["before a rename", "after a rename", "before the commit", "after the commit"])
def test_a_kill_in_the_middle_of_a_move_loses_nothing(room: Room, at: str) -> None:
    datas = dict([*(room.put(LARGE) for _ in range(4)), *(room.put(50) for _ in range(4))])
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(room.folder), at], check=False, timeout=60
    )
    assert ended.returncode == -9
    again = ChunkStore(room.folder / "chunks", room.database)
    assert len(list(again.names())) < 8 or "commit" not in at
    assert {name: again.get(name) for name in datas} == datas


def test_the_last_run_is_known_after_a_restart(room: Room) -> None:
    async def story() -> None:
        figures = await room.collector.collect()
        assert figures["last_run_at"] == room.wall_ns / 1e9
        kept = room.database.meta("collector")
        assert json.loads(kept or "")["last_run_at"] == figures["last_run_at"]

    run(room, story)


def test_content_of_no_bytes_names_nothing(room: Room) -> None:
    op = msgspec.structs.replace(room.create(b"empty"), content=Content())

    async def story() -> None:
        await room.do(op)
        assert (await room.taken_soon())["needed"] == 0

    run(room, story)
