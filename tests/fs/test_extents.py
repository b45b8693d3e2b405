"""The arithmetic of edited ranges against a plain array of bytes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gdah_volume.content import CHUNK_SIZE, Chunk, ChunkHash, Content
from mountfs.files.extents import (
    Extent,
    Extents,
    chunk_at,
    combine,
    covered_bytes,
    cut,
    insert,
    pieces,
    split_at_chunks,
    stored_bytes,
)

SPACE = 40
ranges = st.tuples(st.integers(0, SPACE - 1), st.integers(1, 12)).map(lambda r: (r[0], min(SPACE, r[0] + r[1])))


def drawn(edits: list[tuple[int, int]]) -> tuple[Extents, list[int | None], int]:
    """Edits one after the other, each from its own stretch of the journal; and the position that each byte has."""
    extents: Extents = ()
    plain: list[int | None] = [None] * SPACE
    at = 1000
    for start, end in edits:
        extents = insert(extents, Extent(start, end, at))
        for byte in range(start, end):
            plain[byte] = at + byte - start
        at += 1000
    return extents, plain, at


def shown(extents: Extents, start: int = 0, end: int = SPACE) -> list[int | None]:
    found: list[int | None] = []
    for piece in pieces(extents, start, end):
        size = piece.end - piece.start
        found.extend([None] * size if piece.at is None else range(piece.at, piece.at + size))
    return found


@given(st.lists(ranges, max_size=12))
def test_the_last_edit_of_a_byte_wins(edits: list[tuple[int, int]]) -> None:
    extents, plain, _ = drawn(edits)
    assert shown(extents) == plain
    assert covered_bytes(extents) == sum(place is not None for place in plain)
    assert all(a.end <= b.start for a, b in pairwise(extents))
    assert all(extent.start < extent.end for extent in extents)


@given(st.lists(ranges, max_size=12), st.integers(0, SPACE), st.integers(0, SPACE))
def test_any_stretch_shows_its_part(edits: list[tuple[int, int]], one: int, two: int) -> None:
    extents, plain, _ = drawn(edits)
    start, end = min(one, two), max(one, two)
    assert shown(extents, start, end) == plain[start:end]


@given(st.lists(ranges, max_size=12), st.integers(0, SPACE))
def test_cutting_keeps_what_lies_below(edits: list[tuple[int, int]], end: int) -> None:
    extents, plain, _ = drawn(edits)
    assert shown(cut(extents, end)) == plain[:end] + [None] * (SPACE - end)


@given(st.integers(0, 5 * CHUNK_SIZE), st.integers(0, 3 * CHUNK_SIZE))
def test_ranges_are_split_at_chunks(start: int, size: int) -> None:
    parts = list(split_at_chunks(start, start + size))
    assert sum(stop - low for _, low, stop in parts) == size
    at = start
    for index, low, stop in parts:
        assert low == at
        assert index * CHUNK_SIZE <= low < stop <= (index + 1) * CHUNK_SIZE
        at = stop


def chunk(index: int, length: int = CHUNK_SIZE, mark: int = 0) -> Chunk:
    return Chunk(index, ChunkHash(bytes([mark]) * 32), length)


def test_chunks_are_found_in_sparse_and_full_files() -> None:
    full = Content(3 * CHUNK_SIZE, (chunk(0), chunk(1), chunk(2)))
    sparse = Content(900 * CHUNK_SIZE, (chunk(5), chunk(7), chunk(800, 10)))
    assert [chunk_at(full, index) for index in range(4)] == [*full.chunks, None]
    assert [chunk_at(sparse, index) for index in (0, 5, 6, 7, 800, 801)] == [
        None,
        chunk(5),
        None,
        chunk(7),
        chunk(800, 10),
        None,
    ]
    assert stored_bytes(sparse) == 2 * CHUNK_SIZE + 10


def test_combining_replaces_adds_and_drops() -> None:
    base = Content(3 * CHUNK_SIZE, (chunk(0), chunk(1), chunk(2)))
    same = combine(base, base.size, base.size, {})
    assert same == base
    changed = combine(base, 9 * CHUNK_SIZE, base.size, {1: chunk(1, 5, 1), 8: chunk(8, 6, 1)})
    assert changed.chunks == (chunk(0), chunk(1, 5, 1), chunk(2), chunk(8, 6, 1))
    assert combine(base, 9, 9, {0: chunk(0, 9, 1)}).chunks == (chunk(0, 9, 1),)
    assert combine(base, base.size, base.size, {1: None}).chunks == (chunk(0), chunk(2))
