"""The change log without any server: what it keeps, what it refuses, what is there after kill -9."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gdah_volume.content import INLINE_MAX_BYTES, hash_of
from gdah_volume.errors import Exists, InvalidArgument, NoSpace, NotFound, StorageFailed
from gdah_volume.ids import ROOT, OpId
from gdah_volume.operations import SetAttr
from mountfs.sync.dirty import Limits
from tests.sync.worlds import World

LARGE = b"L" * (INLINE_MAX_BYTES + 1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "w")


def test_without_a_server_everything_goes_on(world: World) -> None:
    world.create("a")
    world.write("a", b"hello")
    world.rename("a", "b")
    world.create("c")
    world.unlink("c")
    assert world.names() == ["b"]
    assert world.log.pending_operations == 5
    assert world.log.pending_bytes == 5
    assert world.log.oldest_age_s >= 0
    assert not world.log.flush(0.0)


def test_after_kill_9_everything_is_there(world: World) -> None:
    world.create("a")
    world.write("a", b"small")
    world.create("b")
    world.write("b", LARGE)
    world.unlink("a")
    again = world.again()
    assert again.names() == ["b"]
    assert again.log.recovered_operations == 5
    assert again.log.dirty_chunk(hash_of(b"small")) == b"small"
    assert again.log.dirty_chunk(hash_of(LARGE)) == LARGE
    assert again.log.pending_bytes == world.log.pending_bytes
    records = again.log.outbox.unacked()
    assert all(record.in_doubt and record.told for record in records)
    assert [record.number for record in records] == [1, 2, 3, 4, 5]
    again.create("c")
    assert again.again().names() == ["b", "c"]


def test_what_no_server_would_take_is_not_logged(world: World) -> None:
    """It would be refused with the connection, again and again, and hold back everything after it."""
    world.create("a")

    def too_late(op: OpId, time_ns: int) -> SetAttr:
        link = world.mirror.tree.lookup(ROOT, b"a")
        assert link is not None
        return SetAttr(id=op, time_ns=time_ns, node=link.node, version=None, mtime_ns=(1 << 63) - 1)

    with pytest.raises(InvalidArgument):
        world.log.perform(too_late)
    assert world.log.pending_operations == 1
    world.create("b")
    assert world.names() == ["a", "b"]


def test_what_does_not_fit_the_own_view_is_refused_and_not_logged(world: World) -> None:
    world.create("a")
    with pytest.raises(Exists):
        world.create("a")
    with pytest.raises(NotFound):
        world.unlink("b")
    assert world.log.pending_operations == 1
    world.create("c")
    assert world.again().log.recovered_operations == 2


def test_a_chunk_without_an_operation_is_forgotten(world: World) -> None:
    kept, small = world.log.store_chunk(LARGE), world.log.store_chunk(b"small")
    assert world.log.dirty_chunk(kept) == LARGE
    assert world.log.dirty_chunk(small) == b"small"
    world.log.discard_chunk(kept)
    world.log.discard_chunk(small)
    assert world.log.dirty_chunk(kept) is None
    assert world.log.dirty_chunk(small) is None
    assert world.dirty.total_bytes == 0


def test_a_chunk_that_two_need_goes_with_the_second(world: World) -> None:
    first, second = world.log.store_chunk(LARGE), world.log.store_chunk(LARGE)
    assert first == second
    world.log.discard_chunk(first)
    assert world.log.dirty_chunk(first) == LARGE
    world.log.discard_chunk(second)
    assert world.log.dirty_chunk(first) is None


def test_loose_chunks_do_not_survive_a_restart(world: World) -> None:
    world.log.store_chunk(LARGE)
    world.create("a")
    world.write("a", b"M" * len(LARGE))
    again = world.again()
    assert again.log.dirty_chunk(hash_of(LARGE)) is None
    assert list(again.store.names()) == [hash_of(b"M" * len(LARGE))]


@pytest.mark.parametrize("data", [b"small", LARGE])
def test_bytes_named_again_stay_until_the_last_operation_is_everywhere(world: World, data: bytes) -> None:
    for name in ("a", "b"):
        world.create(name)
        world.write(name, data)
    first, second = (r for r in world.log.outbox.unacked() if r.chunks)
    for record in (first, second):
        assert world.log.dirty_chunk(hash_of(data)) == data
        world.log.outbox.acknowledge(record.id, 2, 2)
        world.log.outbox.fed("f", record.number, record.id)
        world.log.outbox.spread("f", record.number)
        world.log.sweep()
    assert world.log.dirty_chunk(hash_of(data)) is None
    assert world.adopted == {hash_of(data): data}
    assert list(world.store.names()) == []


def test_acknowledged_is_not_everywhere(world: World) -> None:
    world.create("a")
    world.write("a", LARGE)
    for record in world.log.outbox.unacked():
        world.log.outbox.acknowledge(record.id, 1, 2)
    assert world.log.pending_operations == 0
    assert world.log.outbox.least_copies() == 1
    world.log.sweep()
    assert world.log.dirty_chunk(hash_of(LARGE)) == LARGE
    assert world.log.flush(0.0)


# --- limits


def test_the_limit_of_pending_bytes_is_enospc(tmp_path: Path) -> None:
    world = World(tmp_path / "w", limits=Limits(max_bytes=2 * len(LARGE)))
    for name in ("a", "b"):
        world.create(name)
        world.write(name, name.encode() * len(LARGE))
    world.create("c")
    with pytest.raises(NoSpace):
        world.write("c", b"c" * len(LARGE))
    assert world.dirty.total_bytes == 2 * len(LARGE)
    world.unlink("a")
    world.rename("b", "d")
    assert world.names() == ["c", "d"]


def test_the_minimum_of_free_disk_is_enospc_before_it_is_full(tmp_path: Path) -> None:
    free = [10_000_000]
    world = World(tmp_path / "w", limits=Limits(min_free_bytes=1_000_000), free=lambda: free[0])
    world.dirty._monotonic = iter(range(10_000)).__next__  # type: ignore[assignment]
    world.create("a")
    world.write("a", LARGE)
    free[0] = 1_000_000
    with pytest.raises(NoSpace):
        world.log.store_chunk(b"x" * len(LARGE))
    world.unlink("a")  # the way out of a full disk
    free[0] = 200_000
    with pytest.raises(NoSpace):
        world.create("b")
    assert world.names() == []


def test_too_many_operations_are_enospc(tmp_path: Path) -> None:
    world = World(tmp_path / "w", records_max=2)
    world.create("a")
    world.create("b")
    with pytest.raises(NoSpace):
        world.create("c")


def test_at_the_limit_what_one_server_holds_makes_room(tmp_path: Path) -> None:
    world = World(tmp_path / "w", limits=Limits(max_bytes=2 * len(LARGE)))
    for name in ("a", "b"):
        world.create(name)
        world.write(name, name.encode() * len(LARGE))
    for record in world.log.outbox.unacked():
        world.log.outbox.acknowledge(record.id, 1, 2)
    world.create("c")
    world.write("c", b"c" * len(LARGE))
    assert world.adopted == {hash_of(b"a" * len(LARGE)): b"a" * len(LARGE)}
    assert len(world.log.outbox.acked()) == 4, "the operations themselves stay until every server has them"
    assert world.log.dirty_chunk(hash_of(b"b" * len(LARGE))) is not None


def test_a_disk_that_fails_leaves_no_trace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.create("a")

    def fail(*_: object) -> None:
        raise StorageFailed("as the test wants it")

    monkeypatch.setattr(world.store, "put_checked", fail)
    with pytest.raises(StorageFailed):
        world.write("a", b"small")
    monkeypatch.undo()
    assert world.log.pending_operations == 1
    world.write("a", b"small")
    assert world.log.pending_operations == 2
    assert world.again().log.recovered_operations == 2


# --- tickets without a server


def test_nobody_waits_without_a_server(world: World) -> None:
    ticket = world.create("a", wait=False)
    ticket.wait()
    ticket.wait()


def test_sync_without_a_server_is_on_this_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = world.database._sync
    monkeypatch.setattr(world.store, "sync", lambda: synced.append("chunks"))
    monkeypatch.setattr(world.database, "_sync", lambda: (synced.append("log"), real()))
    world.create("a")
    assert synced == []
    world.write("a", LARGE, sync=True)
    assert synced == ["chunks", "log"]


def test_many_threads(world: World) -> None:
    def work(i: int) -> None:
        world.create(f"f{i}")
        world.write(f"f{i}", LARGE if i % 5 == 0 else b"%d" % (i % 3))
        if i % 2:
            world.unlink(f"f{i}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(80)))
    assert len(world.names()) == 40
    numbers = [record.number for record in world.log.outbox.unacked()]
    assert numbers == sorted(numbers)
    again = world.again()
    assert len(again.names()) == 40
    assert again.log.pending_operations == len(numbers)
