"""Chunks on their way out: marked, out of the way, back at the first who asks, gone; killed between any two steps."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gdah_volume.chunk_reading import ChunkReader
from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import INLINE_MAX_BYTES, ChunkHash
from gdah_volume.database import Database
from gdah_volume.errors import HashMismatch, StorageFailed

DAY_NS = 86_400 * 10**9
SIZES = [10, INLINE_MAX_BYTES + 1]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "volume.db")
    yield found
    found.close()


@pytest.fixture
def store(tmp_path: Path, database: Database) -> ChunkStore:
    return ChunkStore(tmp_path / "chunks", database)


def age(store: ChunkStore, database: Database, name: ChunkHash, days: float) -> None:
    """Stored, and needed by nothing, since so long."""
    then = time.time_ns() - int(days * DAY_NS)
    path = store.path_of(name)
    if path is not None:
        os.utime(path, ns=(then, then))
    with database.transaction():
        store.collected.unmark(name)
        store.collected.mark([name], then)


def collect(store: ChunkStore, database: Database, *names: ChunkHash) -> tuple[int, int]:
    now = time.time_ns()
    with database.transaction():
        return store.collect(names, old_ns=now - DAY_NS, now_ns=now)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_collected_is_back_for_whoever_reads_it(store: ChunkStore, database: Database, size: int) -> None:
    data = os.urandom(size)
    name = store.put(data)
    age(store, database, name, 2)
    assert collect(store, database, name) == (1, size)
    assert store.size(name) is None
    assert store.missing([name]) == [name]
    assert [aside.name for aside in store.collected.all()] == [name]
    assert store.get(name) == data
    assert store.has(name)
    assert list(store.collected.all()) == []
    assert collect(store, database, name) == (0, 0), "it is young again"


@pytest.mark.parametrize("size", SIZES)
def test_who_only_looks_at_a_folder_finds_it_too(
    store: ChunkStore, database: Database, tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    name = store.put(data)
    age(store, database, name, 2)
    collect(store, database, name)
    assert ChunkReader([tmp_path / "chunks"], database).read(name) == (data, "")
    assert not store.has(name)


@pytest.mark.parametrize("size", SIZES)
def test_only_what_is_old_and_was_unneeded_for_long_is_taken(store: ChunkStore, database: Database, size: int) -> None:
    data = os.urandom(size)
    name = store.put(data)
    assert collect(store, database, name) == (0, 0), "nobody has marked it"
    age(store, database, name, 0.5)
    assert collect(store, database, name) == (0, 0)
    age(store, database, name, 2)
    store.put(data)
    assert collect(store, database, name) == (0, 0), "it was stored once more"
    assert store.get(name) == data


@pytest.mark.parametrize("size", SIZES)
def test_what_is_stored_while_it_is_out_of_the_way_is_here(store: ChunkStore, database: Database, size: int) -> None:
    data = os.urandom(size)
    name = store.put(data)
    age(store, database, name, 2)
    collect(store, database, name)
    store.put(data)
    assert store.has(name)
    assert store.get(name) == data
    age(store, database, name, 2)
    assert collect(store, database, name) == (1, size)
    assert store.bring_back(name)
    assert not store.bring_back(name)
    assert store.get(name) == data


@pytest.mark.parametrize("size", SIZES)
def test_it_is_deleted_only_after_its_time(store: ChunkStore, database: Database, size: int) -> None:
    name = store.put(os.urandom(size))
    age(store, database, name, 2)
    collect(store, database, name)
    with database.transaction():
        assert store.collected.delete(name, old_ns=time.time_ns() - DAY_NS) == 0
    assert store.collected.has(name)
    with database.transaction():
        assert store.collected.delete(name, old_ns=time.time_ns()) == size
    assert not store.collected.has(name)
    assert store.get(name) is None


@pytest.mark.parametrize("size", SIZES)
def test_a_transaction_that_is_rolled_back_loses_nothing(store: ChunkStore, database: Database, size: int) -> None:
    data = os.urandom(size)
    name = store.put(data)
    age(store, database, name, 2)
    with contextlib.suppress(ZeroDivisionError), database.transaction():
        store.collect([name], old_ns=time.time_ns() - DAY_NS, now_ns=time.time_ns())
        raise ZeroDivisionError
    assert store.get(name) == data


def test_a_store_that_is_opened_again_knows_what_was_collected(
    store: ChunkStore, database: Database, tmp_path: Path
) -> None:
    data = [os.urandom(size) for size in SIZES]
    names = [store.put(each) for each in data]
    for name in names:
        age(store, database, name, 2)
    assert collect(store, database, *names) == (2, sum(SIZES))
    again = ChunkStore(tmp_path / "chunks", database)
    assert [again.get(name) for name in names] == data


def test_what_no_collector_put_there_is_an_error(store: ChunkStore, tmp_path: Path) -> None:
    name = store.put(os.urandom(INLINE_MAX_BYTES + 1))
    (tmp_path / "chunks" / "collected" / "notes.txt").touch()
    with pytest.raises(StorageFailed):
        list(store.collected.all())
    (tmp_path / "chunks" / name.hex()[:2] / "notes.txt").touch()
    with pytest.raises(StorageFailed):
        store.sizes_in(name[0])


def test_names_by_their_first_byte(store: ChunkStore) -> None:
    names = {store.put(os.urandom(size)) for size in SIZES * 20}
    found = [store.sizes_in(prefix) for prefix in range(256)]
    assert {name for part in found for name in part} == names
    assert all(name[0] == prefix for prefix, part in enumerate(found) for name in part)


@pytest.mark.parametrize("size", SIZES)
def test_a_damaged_one_is_found_and_its_bytes_are_kept(
    store: ChunkStore, database: Database, tmp_path: Path, size: int
) -> None:
    name = store.put(os.urandom(size))
    assert store.verify(name) == size
    path = store.path_of(name)
    if path is None:
        database.execute("UPDATE chunks SET data = ? WHERE hash = ?", (b"rot", name))
    else:
        path.write_bytes(b"rot")
    with pytest.raises(HashMismatch):
        store.verify(name)
    assert store.verify(name) == 0
    (kept,) = (tmp_path / "chunks" / "quarantine").iterdir()
    assert kept.read_bytes() == b"rot"


def test_a_row_that_the_database_cannot_read_is_told(store: ChunkStore, database: Database) -> None:
    name = store.put(b"small")
    database.execute("DROP TABLE chunks")
    with pytest.raises(StorageFailed):
        store.verify(name)


def test_who_stores_while_others_collect_finds_it_always(tmp_path: Path) -> None:
    lock = threading.RLock()
    database = Database(tmp_path / "volume.db")
    reader = database.reader()
    store = ChunkStore(tmp_path / "chunks", database, lock=lock, reader=reader)
    data = [os.urandom(size) for size in SIZES]
    names = [store.put(each) for each in data]
    ended = threading.Event()

    def collector() -> None:
        while not ended.is_set():
            future = time.time_ns() + DAY_NS
            with lock, database.transaction():
                store.collected.mark(names, 0)
                store.collect(names, old_ns=future, now_ns=time.time_ns())

    thread = threading.Thread(target=collector)
    thread.start()
    try:
        for _ in range(40):
            for name, each in zip(names, data, strict=True):
                assert store.get(name) in (each, None)  # taken once more between its return and the read
                store.put(each)
                with lock:
                    assert store.has(name) or store.bring_back(name)
                    assert store.get(name) == each
    finally:
        ended.set()
        thread.join()
    reader.close()
    database.close()
