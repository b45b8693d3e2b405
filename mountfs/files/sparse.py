"""Where data lies in a file and where holes are; and the edits of whole ranges that follow from it: punching holes,
putting chunks in place that exist already. Decides nothing about who may.

A HOLE takes no space: a chunk that is absent, or what lies beyond the end of one that is shorter than its place. What
was written as zeros inside of a chunk counts as data, as on any file system.

Threading: pure, or (`SparseDraft`) under the lock of the open file that it belongs to.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from gdah_volume.content import CHUNK_SIZE, MAX_SIZE, Chunk, Content
from gdah_volume.errors import InvalidArgument, NoMoreData
from mountfs.cache import Cache, ReadAhead
from mountfs.files import records
from mountfs.files.drafts import Draft
from mountfs.files.extents import check_size, chunk_at, split_at_chunks
from mountfs.files.records import Sealed

Ranges = Iterable[tuple[int, int]]
"""Bytes [start, end) that are data, ascending; neighbours need not be joined."""


def seek(data: Ranges, size: int, offset: int, whence: int) -> int:
    """lseek(2) with SEEK_DATA or SEEK_HOLE; the end of a file counts as a hole. Raises NoMoreData, InvalidArgument."""
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise InvalidArgument("no such way to seek")
    if not 0 <= offset < size:
        raise NoMoreData("at or beyond the end of the file")
    at = offset
    for start, end in data:
        if end <= at:
            continue
        if whence == os.SEEK_DATA:
            return max(at, start)
        if start > at:
            break
        at = end
    if whence == os.SEEK_DATA:
        raise NoMoreData("only a hole up to the end of the file")
    return min(at, size)


def missing_bytes(data: Ranges, offset: int, end: int) -> int:
    """How much of [offset, end) is no data."""
    return end - offset - sum(max(0, min(stop, end) - max(start, offset)) for start, stop in data)


def data_in(content: Content, offset: int) -> Iterator[tuple[int, int]]:
    """The data of a saved file, from the chunk of `offset` on."""
    chunks = content.chunks
    first = bisect_left(chunks, offset // CHUNK_SIZE, key=lambda chunk: chunk.index)
    for place in range(first, len(chunks)):
        start = chunks[place].index * CHUNK_SIZE
        yield start, start + chunks[place].length


class Piece(NamedTuple):
    """What is to be put at [start, end): bytes, else a chunk that is all of it (pinned in the dirty store, or on the
    servers), else a hole."""

    start: int
    end: int
    data: bytes | None
    chunk: Chunk | None = None
    pinned: bool = False


class Layers(Protocol):
    """A file to copy from."""

    @property
    def size(self) -> int: ...
    def whole(self, index: int) -> tuple[bool, Chunk | None]: ...
    def read(self, offset: int, size: int) -> bytes: ...


class Saved:
    """A file without unsaved edits. Implements `Layers`."""

    def __init__(self, content: Content, cache: Cache, ahead: ReadAhead) -> None:
        self._content, self._cache, self._ahead = content, cache, ahead
        self.size = content.size

    def whole(self, index: int) -> tuple[bool, Chunk | None]:
        return True, chunk_at(self._content, index)

    def read(self, offset: int, size: int) -> bytes:
        return self._cache.read(self._content, offset, size, self._ahead)


class SparseDraft(Draft):
    """A draft that knows its holes."""

    def data(self, offset: int, end: int = MAX_SIZE) -> Iterator[tuple[int, int]]:
        """From the chunk of `offset` up to that of `end`."""
        first, stop = offset // CHUNK_SIZE, -(-end // CHUNK_SIZE)
        edited = {index for table in (self._extents, self._sealed) for index in table if first <= index < stop}
        chunks = self._base.chunks
        place = bisect_left(chunks, first, key=lambda chunk: chunk.index)
        for index in sorted(edited):
            while place < len(chunks) and chunks[place].index <= index:
                if chunks[place].index < index:
                    yield from self._data_of(chunks[place].index)
                place += 1
            yield from self._data_of(index)
        while place < len(chunks) and chunks[place].index < stop:
            yield from self._data_of(chunks[place].index)
            place += 1

    def _data_of(self, index: int) -> list[tuple[int, int]]:
        """In one chunk."""
        found = [(extent.start, extent.end) for extent in self._extents.get(index, ())]
        under = self._under(index)
        if under is not None:
            found.append((index * CHUNK_SIZE, self._under_end(index, under)))
        joined: list[tuple[int, int]] = []
        for start, end in sorted(found):
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            else:
                joined.append((start, end))
        return joined

    def whole(self, index: int) -> tuple[bool, Chunk | None]:
        """(True, the chunk that is all of the data at `index`; None: a hole); (False, None): more than one part."""
        under = self._under(index)
        if index in self._extents:
            return False, None
        if under is not None and self._under_end(index, under) < index * CHUNK_SIZE + under.length:
            return False, None
        return True, under

    @property
    def stored_bytes(self) -> int:
        """Roughly what the file takes on a disk, for `st_blocks`: at least what is in it, at most its size."""
        return min(self.size, self._stored_bytes)

    def stamp(self, time_ns: int) -> None:
        """The time of the last edit, to be found after a crash."""
        self._journal.stamp(time_ns)

    # --- edits

    def grow(self, size: int, mtime_ns: int) -> None:
        """At least so long, with a hole at the end. Raises as `truncate`."""
        self.mtime_ns = mtime_ns
        if size > self.size:
            self.truncate(size, mtime_ns)

    def punch(self, start: int, end: int, mtime_ns: int) -> None:
        """Zeros in [start, end), as far as the file goes: holes where nothing else of a chunk is left. Raises NoSpace,
        StorageFailed; then a part of it may be done."""
        end = min(end, self.size)
        touched = sorted({low // CHUNK_SIZE for low, _ in self.data(start, end)}) if start < end else []
        for index in touched:
            low, high = max(start, index * CHUNK_SIZE), min(end, (index + 1) * CHUNK_SIZE)
            ranges = self._data_of(index)
            gone = [(max(low, one), min(high, two)) for one, two in ranges if one < high and two > low]
            if not gone:
                continue
            if low <= ranges[0][0] and high >= ranges[-1][1]:
                self._journal.append(records.CHUNK, 0, records.pack(Sealed(index, None)))
                self._put_sealed(index, None)
            else:
                zeros = bytes(gone[-1][1] - gone[0][0])
                self._add(gone[0][0], gone[-1][1], self._journal.append(records.DATA, gone[0][0], zeros))
                self._stored_bytes = max(0, self._stored_bytes - sum(two - one for one, two in gone))
        self.mtime_ns = mtime_ns
        self._compact_if_long()

    def share(self, index: int, source: Chunk, end: int, mtime_ns: int, *, pinned: bool) -> None:
        """All of the chunk at `index` is this one of another place now, up to byte `end` of the file at least.
        `pinned`: it lies in the dirty store, held for us, and is let go with the draft; else the servers have it.
        Raises FileTooBig, NoSpace, StorageFailed."""
        check_size(end)
        chunk = Chunk(index, source.hash, source.length)
        self.grow(end, mtime_ns)
        self._journal.append(records.CHUNK, 0, records.pack(Sealed(index, chunk)))
        if pinned:
            self._stored[chunk.hash] = self._stored.get(chunk.hash, 0) + 1
        self._put_sealed(index, chunk)

    def fits_whole(self, start: int, end: int) -> bool:
        """Whether bytes [start, end) are all of one chunk's place that the file uses."""
        return start % CHUNK_SIZE == 0 and (end % CHUNK_SIZE == 0 or end >= self.size)


def aligned(offset: int, end: int, size: int) -> Iterator[tuple[int, int, int, bool]]:
    """[offset, end) of a file, chunk by chunk: (index, start, end, whether that is all of the chunk's place)."""
    for index, start, stop in split_at_chunks(offset, end):
        yield index, start, stop, start % CHUNK_SIZE == 0 and (stop % CHUNK_SIZE == 0 or stop == size)
