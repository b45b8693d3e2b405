"""The cache: bounded, verified, read ahead; never the only copy of anything."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gdah_volume.content import Chunk, ChunkHash, Content, content_of, hash_of
from gdah_volume.errors import ContentUnavailable
from mountfs.cache import AHEAD_MAX_CHUNKS, Cache, ReadAhead
from tests.fs.device import Shelf

MIB = 1 << 20


class Box:
    """Makes caches over one folder and one shelf."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shelf = Shelf()
        self._made: list[Cache] = []

    def cache(self, max_bytes: int = 1 << 30, memory_bytes: int = 0) -> Cache:
        made = Cache(self.folder, self.shelf, max_bytes=max_bytes, memory_bytes=memory_bytes)
        made.wait_scanned()
        self._made.append(made)
        return made

    def close(self) -> None:
        for made in self._made:
            made.close()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "cache")
    yield made
    made.close()


def chunk_file(box: Box, name: ChunkHash) -> Path:
    return box.folder / name.hex()[:2] / name.hex()


def test_ranges_over_chunks_and_holes(box: Box) -> None:
    data = random.Random(1).randbytes(2 * MIB + 500)
    content = box.shelf.add(data)
    holed = Content(5 * MIB, (content.chunks[0], Chunk(3, content.chunks[2].hash, 500)))
    cache = box.cache()
    for offset, size in [(0, 10), (MIB - 5, 10), (0, 3 * MIB), (2 * MIB + 499, 100), (3 * MIB, 1), (123, 2 * MIB)]:
        assert cache.read(content, offset, size) == data[offset : offset + size]
    plain = data[:MIB] + bytes(2 * MIB) + data[2 * MIB :] + bytes(2 * MIB - 500)
    assert cache.read(holed, 0, 9 * MIB) == plain
    assert cache.read(holed, MIB - 3, 7) == plain[MIB - 3 : MIB + 4]


def test_what_was_read_once_needs_no_server_again_even_in_the_next_run(box: Box) -> None:
    data = random.Random(2).randbytes(MIB + 10)
    content = box.shelf.add(data)
    assert box.cache().read(content, 0, len(data)) == data
    box.shelf.reachable = False
    again = box.cache()
    assert again.read(content, 0, len(data)) == data
    assert again.figures().chunks == 2
    assert again.figures().bytes == MIB + 10


def test_content_that_is_nowhere_fails_at_once(box: Box) -> None:
    content = box.shelf.add(b"x" * 100)
    box.shelf.reachable = False
    cache = box.cache()
    with pytest.raises(ContentUnavailable):
        cache.read(content, 0, 10)
    box.shelf.reachable = True
    assert cache.read(content, 0, 10) == b"x" * 10


def test_a_damaged_chunk_is_fetched_again(box: Box) -> None:
    data = random.Random(3).randbytes(200_000)
    content = box.shelf.add(data)
    cache = box.cache()
    cache.read(content, 0, 1)
    other = cache.chunk(box.shelf.add(b"other").chunks[0])  # the one chunk that stays in memory
    assert other == b"other"
    path = chunk_file(box, content.chunks[0].hash)
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 1
    path.write_bytes(raw)
    assert cache.read(content, 0, len(data)) == data
    assert cache.figures().repaired == 1
    assert hash_of(path.read_bytes()) == content.chunks[0].hash
    raw = bytearray(path.read_bytes())
    path.write_bytes(raw[:500])
    box.shelf.reachable = False
    with pytest.raises(ContentUnavailable):
        box.cache().read(content, 0, len(data))


def test_the_least_recently_used_goes_first(box: Box) -> None:
    cache = box.cache(max_bytes=10_000)
    contents = [box.shelf.add(bytes([n]) * 3000) for n in range(1, 4)]
    for content in contents:
        cache.read(content, 0, 1)
    cache.read(box.shelf.add(b"\xff"), 0, 1)  # takes the place in memory
    cache.read(contents[0], 0, 1)
    cache.read(box.shelf.add(b"new" * 1000), 0, 1)
    kept = [cache.has(content.chunks[0].hash) for content in contents]
    assert kept == [True, False, True]
    assert cache.figures().bytes <= 10_000


def test_eviction_never_touches_dirty_content(box: Box) -> None:
    dirty: dict[ChunkHash, bytes] = {}
    content, blobs = content_of(b"only here" * 1000)
    dirty |= blobs
    cache = box.cache(max_bytes=5_000)
    cache.dirty = dirty.get
    for n in range(50):
        cache.read(box.shelf.add(b"%d" % n * 1000), 0, 1)
        assert cache.read(content, 0, 9) == b"only here"
    assert not chunk_file(box, content.chunks[0].hash).exists(), "what is only here is not the cache's to keep"
    assert content.chunks[0].hash not in box.shelf.fetched


def test_reading_works_when_nothing_may_be_stored(box: Box) -> None:
    data = random.Random(4).randbytes(2 * MIB)
    content = box.shelf.add(data)
    cache = box.cache(max_bytes=1000)
    assert cache.read(content, 0, len(data)) == data
    assert cache.figures().bytes == 0


def test_the_minimum_of_free_disk_is_left_alone(tmp_path: Path) -> None:
    shelf = Shelf()
    cache = Cache(tmp_path, shelf, max_bytes=1 << 40, min_free_bytes=1 << 60, memory_bytes=0)
    cache.wait_scanned()
    data = random.Random(5).randbytes(40_000)
    assert cache.read(shelf.add(data), 0, len(data)) == data
    assert cache.figures().bytes == 0
    cache.close()


def test_sequential_reading_fetches_ahead_with_a_doubling_window() -> None:
    ahead = ReadAhead()
    asked = [ahead.advance(at, 131_072) for at in range(0, 64 * MIB, 131_072)]
    indexes = [index for part in asked for index in part]
    assert indexes == list(range(1, 1 + len(indexes))), "each chunk is asked for once, in order"
    assert max(len(part) for part in asked) <= AHEAD_MAX_CHUNKS
    assert ahead.window == AHEAD_MAX_CHUNKS
    jumping = ReadAhead()
    rng = random.Random(6)
    for _ in range(50):
        assert len(jumping.advance(rng.randrange(20, 1000) * 3 * MIB, 4096)) <= 1


def test_chunks_ahead_are_there_before_they_are_asked_for(box: Box) -> None:
    data = random.Random(7).randbytes(4 * MIB)
    content = box.shelf.add(data)
    cache = box.cache(memory_bytes=64 << 20)
    ahead = ReadAhead()
    for at in range(0, 2 * MIB, 131_072):
        assert cache.read(content, at, 131_072, ahead) == data[at : at + 131_072]
    arrived = threading.Event()
    for _ in range(500):
        if len(set(box.shelf.fetched)) == 4:
            arrived.set()
            break
        arrived.wait(0.01)
    assert arrived.is_set()
    assert len(box.shelf.fetched) == 4, "nothing is fetched twice"


def test_many_readers_of_one_chunk_fetch_it_once(box: Box) -> None:
    data = random.Random(8).randbytes(MIB)
    content = box.shelf.add(data)
    cache = box.cache(memory_bytes=8 << 20)
    gate = threading.Barrier(8)
    seen: list[bool] = []

    def read() -> None:
        gate.wait()
        seen.append(cache.read(content, 0, MIB) == data)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 8
    assert len(box.shelf.fetched) == 1


def test_adopted_content_needs_no_server(box: Box) -> None:
    content, blobs = content_of(b"written here" * 100)
    cache = box.cache()
    for name, data in blobs.items():
        cache.adopt(name, data)
    box.shelf.reachable = False
    assert cache.read(content, 0, 12) == b"written here"
    assert cache.figures().chunks == len(content.chunks)
