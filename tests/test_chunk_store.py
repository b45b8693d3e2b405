"""The chunk store: names, sizes on both sides of the inline limit, damage, loss of power, many threads."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import CHUNK_SIZE, INLINE_MAX_BYTES, ChunkHash, hash_of
from gdah_volume.errors import BadMessage, HashMismatch, NoSpace, StorageFailed


class PlainRows:
    """The least database that the store can work with."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.depth = 0

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self.connection.execute(sql, parameters)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        if self.depth:
            yield
            return
        self.connection.execute("BEGIN IMMEDIATE")
        self.depth = 1
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        else:
            self.connection.execute("COMMIT")
        finally:
            self.depth = 0


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[PlainRows]:
    found = PlainRows(tmp_path / "volume.db")
    yield found
    found.connection.close()


@pytest.fixture
def store(tmp_path: Path, rows: PlainRows) -> ChunkStore:
    return ChunkStore(tmp_path / "chunks", rows)


SIZES = [1, 100, INLINE_MAX_BYTES - 1, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, CHUNK_SIZE]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_put_is_got(store: ChunkStore, size: int) -> None:
    data = os.urandom(size)
    name = store.put(memoryview(data))
    assert name == hash_of(data)
    assert store.get(name) == data
    assert store.size(name) == size
    assert store.has(name)
    assert store.missing([name]) == []
    assert list(store.names()) == [name]
    assert store.total_bytes() == size
    assert store.put(data) == name
    assert store.total_bytes() == size
    store.delete(name)
    store.delete(name)
    assert store.get(name) is None
    assert store.size(name) is None
    assert not store.has(name)
    assert store.missing([name, name]) == [name]


def test_small_ones_are_rows_and_large_ones_files(store: ChunkStore, rows: PlainRows, tmp_path: Path) -> None:
    store.put(b"s" * INLINE_MAX_BYTES)
    large = store.put(b"l" * (INLINE_MAX_BYTES + 1))
    assert rows.execute("SELECT count(*) FROM chunks").fetchone()[0] == 1
    assert (tmp_path / "chunks" / large.hex()[:2] / large.hex()).stat().st_size == INLINE_MAX_BYTES + 1
    assert store.path_of(large) is not None
    assert list((tmp_path / "chunks" / "new").iterdir()) == []


@pytest.mark.parametrize("size", [10, INLINE_MAX_BYTES + 1])
def test_bytes_that_do_not_match_their_name_are_not_stored(store: ChunkStore, size: int) -> None:
    name = hash_of(b"x" * size)
    with pytest.raises(HashMismatch):
        store.put_named(name, b"y" * size)
    assert not store.has(name)
    store.put_named(name, b"x" * size)
    assert store.has(name)


@pytest.mark.parametrize("data", [b"", b"z" * (CHUNK_SIZE + 1)])
def test_sizes_out_of_bounds_are_refused(store: ChunkStore, data: bytes) -> None:
    with pytest.raises(BadMessage):
        store.put(data)


def test_a_damaged_file_is_set_aside_and_can_be_put_again(store: ChunkStore, tmp_path: Path) -> None:
    data = os.urandom(CHUNK_SIZE)
    name = store.put(data)
    path = store.path_of(name)
    assert path is not None
    with path.open("r+b") as file:
        file.write(b"rot")
    with pytest.raises(HashMismatch):
        store.get(name)
    assert store.get(name) is None
    assert len(list((tmp_path / "chunks" / "quarantine").iterdir())) == 1
    store.put_named(name, data)
    assert store.get(name) == data


def test_what_a_disk_could_not_read_for_a_moment_is_there_again_later(
    store: ChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the fire drill: reads of a mount's disk failed for 3 s, and 48 chunks that no server had yet stayed in
    quarantine for ever, whole, while their operations waited for them."""
    data = os.urandom(CHUNK_SIZE)
    name = store.put(data)

    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("builtins.open", fails)
        with pytest.raises(HashMismatch, match="cannot be read"):
            store.get(name)
    assert store.get(name) == data
    assert store.path_of(name) is not None
    assert list((tmp_path / "chunks" / "quarantine").iterdir()) == []


def test_a_damaged_row_is_set_aside(store: ChunkStore, rows: PlainRows, tmp_path: Path) -> None:
    name = store.put(b"good")
    rows.execute("UPDATE chunks SET data = ?", (b"rot",))
    with pytest.raises(HashMismatch):
        store.get(name)
    assert store.get(name) is None
    assert [p.read_bytes() for p in (tmp_path / "chunks" / "quarantine").iterdir()] == [b"rot"]


def test_a_file_that_lost_its_bytes_with_the_power_counts_as_missing(tmp_path: Path, rows: PlainRows) -> None:
    store = ChunkStore(tmp_path / "chunks", rows)
    whole, empty, cut = (store.put(os.urandom(CHUNK_SIZE)) for _ in range(3))
    store.sync()
    for name, length in ((empty, 0), (cut, 4096)):
        path = store.path_of(name)
        assert path is not None
        os.truncate(path, length)
    (tmp_path / "chunks" / "new" / "left").write_bytes(b"half")
    again = ChunkStore(tmp_path / "chunks", rows)
    assert again.missing([whole, empty, cut]) == [empty, cut]
    assert list((tmp_path / "chunks" / "new").iterdir()) == []


def test_synced_files_are_not_read_again_when_opened(
    tmp_path: Path, rows: PlainRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ChunkStore(tmp_path / "chunks", rows)
    old = store.put(os.urandom(CHUNK_SIZE))
    store.sync()
    long_ago = 1_000_000_000
    path = store.path_of(old)
    assert path is not None
    os.utime(path.parent, (long_ago, long_ago))
    read: list[ChunkHash] = []
    monkeypatch.setattr(ChunkStore, "get", lambda self, name: read.append(name))
    ChunkStore(tmp_path / "chunks", rows)
    assert read == []


def test_sync_reaches_every_new_file_once(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), real(fd))[1])
    store.put(b"small")
    store.sync()
    assert synced == []
    store.put(b"a" * CHUNK_SIZE)
    store.put(b"b" * CHUNK_SIZE)
    store.sync()
    assert len(synced) == 5  # two files, their folders, the folder of folders
    store.sync()
    assert len(synced) == 5


def test_a_failed_fsync_is_never_forgotten(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    store.put(b"a" * CHUNK_SIZE)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageFailed):
        store.sync()
    monkeypatch.undo()
    with pytest.raises(StorageFailed):
        store.sync()


@pytest.mark.parametrize(("number", "kind"), [(28, NoSpace), (122, NoSpace), (5, StorageFailed)])
def test_a_disk_that_refuses_is_named(
    store: ChunkStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, kind: type[Exception]
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "write", refuse)
    data = b"a" * CHUNK_SIZE
    with pytest.raises(kind):
        store.put(data)
    monkeypatch.undo()
    assert not store.has(hash_of(data))
    assert list((tmp_path / "chunks" / "new").iterdir()) == []


def test_a_put_inside_a_transaction_goes_with_it(store: ChunkStore, rows: PlainRows) -> None:
    name = hash_of(b"small")

    def put_and_fail() -> None:
        with rows.transaction():
            store.put(b"small")
            assert store.has(name)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        put_and_fail()
    assert not store.has(name)


def test_committed_rows_are_read_through_the_reader(tmp_path: Path, rows: PlainRows) -> None:
    reader = PlainRows(tmp_path / "volume.db")
    with contextlib.closing(reader.connection):
        lock = threading.RLock()
        store = ChunkStore(tmp_path / "chunks", rows, lock=lock, reader=reader)
        name = store.put(b"small")
        with lock, ThreadPoolExecutor(1) as pool:  # another thread reads while the lock is held here
            assert pool.submit(store.get, name).result(timeout=30) == b"small"


def test_many_threads(store: ChunkStore) -> None:
    pieces = [bytes([i % 7]) * (1 + (i % 3) * INLINE_MAX_BYTES) for i in range(60)]

    def work(data: bytes) -> bool:
        name = store.put(data)
        store.sync()
        return store.get(name) == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, pieces))
    assert sorted(store.names()) == sorted({hash_of(p) for p in pieces})
