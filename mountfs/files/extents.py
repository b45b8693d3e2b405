"""Arithmetic of edited byte ranges and of lists of chunks. Pure functions over frozen values; no input or output.

The unsaved edits inside one chunk are a tuple of EXTENTS, ascending and disjoint: bytes [start, end) of the
file lie at position `at` of the file's journal. A gap between them shows what lies underneath (the base, or
zeros).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gdah_volume.content import CHUNK_SIZE, MAX_SIZE, Chunk, Content
from gdah_volume.errors import FileTooBig


class Extent(NamedTuple):
    start: int
    end: int
    at: int


Extents = tuple[Extent, ...]


class Piece(NamedTuple):
    """Bytes [start, end): in the journal at `at`, or (None) whatever lies underneath."""

    start: int
    end: int
    at: int | None


def _end_of(extent: Extent) -> int:
    return extent.end


def _start_of(extent: Extent) -> int:
    return extent.start


def insert(extents: Extents, new: Extent) -> Extents:
    """`extents` with `new` on top of them."""
    if not extents or extents[-1].end <= new.start:
        return (*extents, new)
    low = bisect_right(extents, new.start, key=_end_of)
    high = bisect_left(extents, new.end, low, key=_start_of)
    middle = [new]
    if low < high:
        first, last = extents[low], extents[high - 1]
        if first.start < new.start:
            middle.insert(0, Extent(first.start, new.start, first.at))
        if last.end > new.end:
            middle.append(Extent(new.end, last.end, last.at + new.end - last.start))
    return (*extents[:low], *middle, *extents[high:])


def cut(extents: Extents, end: int) -> Extents:
    """Only what lies below `end`."""
    if not extents or extents[-1].end <= end:
        return extents
    kept = extents[: bisect_left(extents, end, key=_start_of)]
    if kept and kept[-1].end > end:
        return (*kept[:-1], Extent(kept[-1].start, end, kept[-1].at))
    return kept


def covered_bytes(extents: Extents) -> int:
    return sum(extent.end - extent.start for extent in extents)


def stored_in_chunk(extents: Extents, index: int, below: int) -> int:
    """Roughly, above `below` bytes that lie underneath: those that an extent hides are counted, too."""
    if not extents:
        return below
    return min(below + covered_bytes(extents), max(below, extents[-1].end - index * CHUNK_SIZE))


def pieces(extents: Extents, start: int, end: int) -> Iterator[Piece]:
    """[start, end) in order, cut where its source changes."""
    at = start
    for extent in extents[bisect_right(extents, start, key=_end_of) :]:
        if extent.start >= end:
            break
        if extent.start > at:
            yield Piece(at, extent.start, None)
            at = extent.start
        stop = min(extent.end, end)
        yield Piece(at, stop, extent.at + at - extent.start)
        at = stop
    if at < end:
        yield Piece(at, end, None)


def check_size(size: int) -> None:
    """Raises FileTooBig."""
    if size > MAX_SIZE:
        raise FileTooBig(f"a file may have {MAX_SIZE >> 60} EiB at most")


def split_at_chunks(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """[start, end) cut at the borders of chunks: (index, start, end)."""
    while start < end:
        index = start // CHUNK_SIZE
        stop = min(end, (index + 1) * CHUNK_SIZE)
        yield index, start, stop
        start = stop


# --- lists of chunks ---------------------------------------------------------------------------------


def _index_of(chunk: Chunk) -> int:
    return chunk.index


def chunk_at(content: Content, index: int) -> Chunk | None:
    """The stored chunk at `index`; None: a hole. Direct where nothing is sparse, else by bisection."""
    chunks = content.chunks
    if index < len(chunks) and chunks[index].index == index:
        return chunks[index]
    place = bisect_left(chunks, index, key=_index_of)
    if place < len(chunks) and chunks[place].index == index:
        return chunks[place]
    return None


def stored_bytes(content: Content) -> int:
    return sum(chunk.length for chunk in content.chunks)


def combine(base: Content, size: int, kept: int, changed: Mapping[int, Chunk | None]) -> Content:
    """The content of `size` bytes that takes `changed` chunks (None: a hole), and else the chunks of `base`
    that end at or below byte `kept`."""
    chosen = [
        chunk for chunk in base.chunks if chunk.index not in changed and chunk.index * CHUNK_SIZE + chunk.length <= kept
    ]
    fresh = [chunk for chunk in changed.values() if chunk is not None]
    if fresh:
        if chosen and min(chunk.index for chunk in fresh) < chosen[-1].index:
            chosen = sorted([*chosen, *fresh], key=_index_of)
        else:
            chosen.extend(sorted(fresh, key=_index_of))
    return Content(size, tuple(chosen))
