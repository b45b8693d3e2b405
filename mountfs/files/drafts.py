"""A DRAFT: the unsaved edits of one file over the version that they are based on. Decides nothing about saving.

What a byte of the file shows, from the top: an extent (its bytes are in the journal), a sealed chunk (whole,
in the dirty store), the base (below `kept`), zero. A chunk that was written to its end is SEALED at once, so
a long file costs memory for its list of chunks only, its journal stays short, and saving waits for the tail
alone.

Limits: EXTENTS_PER_CHUNK_MAX (then the chunk is sealed together with what lies under it), EXTENTS_MAX for one
file and EXTENTS_TOTAL_MAX for all (then its owner saves it early); about 100 bytes of memory each. The bytes
themselves are on disk, bounded by the journals' check of free space.

Threading: under the lock of the open file that it belongs to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Self

from gdah_volume.content import CHUNK_SIZE, INLINE_MAX_BYTES, MAX_CHUNKS, Chunk, ChunkHash, Content
from gdah_volume.errors import ContentUnavailable, FileTooBig
from gdah_volume.ids import OpId
from mountfs.files import records
from mountfs.files.extents import (
    Extent,
    Extents,
    check_size,
    chunk_at,
    combine,
    covered_bytes,
    cut,
    insert,
    pieces,
    split_at_chunks,
    stored_bytes,
    stored_in_chunk,
)
from mountfs.files.records import (
    ChunkSink,
    ContentReader,
    JournalFile,
    JournalPool,
    Opening,
    RecordView,
    Saving,
    Sealed,
)

log = logging.getLogger("mountfs.files")

EXTENTS_PER_CHUNK_MAX = 512
EXTENTS_MAX = 65_536
EXTENTS_TOTAL_MAX = 262_144
COMPOSE_AHEAD = 4
"""Chunks that are read in advance while the ones before them are composed."""
GARBAGE_MAX_BYTES = 16 << 20
"""A journal is rewritten when it holds more than so much, and more than as much again as is still of use."""
_ZEROS = bytes(CHUNK_SIZE)


class Draft:
    """Invariant: replaying its journal over `opening` gives the same bytes; kept <= size and kept <= base size."""

    def __init__(
        self,
        opening: Opening,
        journal: JournalFile,
        pool: JournalPool,
        reader: ContentReader,
        sink: ChunkSink,
        mtime_ns: int,
    ) -> None:
        self.opening = opening
        self.size = opening.content.size
        self.mtime_ns = mtime_ns
        self.sealing = True
        """Off for a file without a name: nothing of it may reach the dirty store."""
        self.extent_count = 0
        self._base = opening.content
        self._kept = self._base.size
        self._stored_bytes = stored_bytes(self._base)
        self._compact_at = GARBAGE_MAX_BYTES
        self._extents: dict[int, Extents] = {}
        self._sealed: dict[int, Chunk | None] = {}
        self._stored: dict[ChunkHash, int] = {}
        """How often each chunk was put into the dirty store, and so is pinned there."""
        self._superseded: list[Chunk | None] = []
        """Sealed chunks that were replaced in composing, while the journal may still need them."""
        self._journal = journal
        self._pool = pool
        self._reader = reader
        self._sink = sink

    @classmethod
    def begin(cls, opening: Opening, pool: JournalPool, reader: ContentReader, sink: ChunkSink, mtime_ns: int) -> Self:
        """An empty draft with a journal of its own. Raises NoSpace or StorageFailed."""
        journal = pool.begin()
        try:
            journal.append(records.OPENING, 0, records.pack(opening))
        except BaseException:
            journal.finish()
            raise
        return cls(opening, journal, pool, reader, sink, mtime_ns)

    def _take(self, state: records.State) -> None:
        self.size, self._kept = state.size, state.kept
        self._sealed = {item.index: item.chunk for item in state.sealed}

    # --- editing

    def write(self, offset: int, data: bytes | memoryview, mtime_ns: int) -> None:
        """Raises FileTooBig, NoSpace, StorageFailed; then nothing has changed."""
        end = offset + len(data)
        check_size(end)
        at = self._journal.append(records.DATA, offset, data)
        self.mtime_ns = mtime_ns
        self._add(offset, end, at)
        for index, _, stop in split_at_chunks(offset, end):
            self._seal_if_ripe(index, stop)
        self._compact_if_long()

    def truncate(self, size: int, mtime_ns: int) -> None:
        """Cut or grow. Raises FileTooBig, ContentUnavailable, NoSpace, StorageFailed; then nothing is seen of it."""
        check_size(size)
        start = size - size % CHUNK_SIZE
        sealed = self._sealed.get(size // CHUNK_SIZE)
        if size < self.size and sealed is not None and start + sealed.length > size > start:
            # The part of the sealed chunk that stays becomes an extent, beneath nothing: it is whole.
            data = self._visible(start, size)
            self._add(start, size, self._journal.append(records.DATA, start, data))
        self._journal.append(records.SIZE, size)
        self.mtime_ns = mtime_ns
        self._resize(size)

    def set_mtime(self, mtime_ns: int) -> None:
        self._journal.append(records.TIME, 0, mtime_ns.to_bytes(16, "little", signed=True))
        self.mtime_ns = mtime_ns

    def _add(self, start: int, end: int, at: int) -> None:
        for index, low, high in split_at_chunks(start, end):
            before, stored = self._extents.get(index, ()), self._stored_at(index)
            after = insert(before, Extent(low, high, at + low - start))
            self._extents[index] = after
            self.extent_count += len(after) - len(before)
            self._stored_bytes += self._stored_at(index) - stored
        self.size = max(self.size, end)

    def _resize(self, size: int) -> None:
        if size < self.size:
            border = size // CHUNK_SIZE
            for index in [index for index in self._extents if index >= border]:
                before, after = self._extents[index], cut(self._extents[index], size)
                self.extent_count += len(after) - len(before)
                if after:
                    self._extents[index] = after
                else:
                    del self._extents[index]
            for index in [index for index in self._sealed if index >= border]:
                sealed = self._sealed[index]
                if sealed is not None and index * CHUNK_SIZE + sealed.length > size:
                    self._let_go(sealed)
                    self._sealed[index] = None  # a hole under the extents hides the base
            self._kept = min(self._kept, size)
            based = (chunk.index for chunk in self._base.chunks)
            self._stored_bytes = sum(map(self._stored_at, {*self._extents, *self._sealed, *based}))
        self.size = size

    # --- sealing

    def _seal_if_ripe(self, index: int, stop: int) -> None:
        extents = self._extents.get(index, ())
        if self.sealing and stop == (index + 1) * CHUNK_SIZE and covered_bytes(extents) == CHUNK_SIZE:
            self._seal(index)
        elif len(extents) > EXTENTS_PER_CHUNK_MAX:
            try:
                if self.sealing:
                    self._seal(index)
                else:
                    self._flatten(index)
            except ContentUnavailable:
                return  # what lies under it is out of reach; EXTENTS_MAX of the file still holds

    def _flatten(self, index: int) -> None:
        start = index * CHUNK_SIZE
        data = self._visible(start, min(start + CHUNK_SIZE, self.size))
        self._add(start, start + len(data), self._journal.append(records.DATA, start, data))

    def _seal(self, index: int, *, record: bool = True) -> None:
        data = self._compose(index)
        if record and data is not None and len(data) <= INLINE_MAX_BYTES:
            self._flatten(index)  # small chunks reach the disk with the operation that names them
            return
        chunk = None
        if data is not None:
            chunk = Chunk(index, self._sink.store_chunk(data), len(data))
            self._stored[chunk.hash] = self._stored.get(chunk.hash, 0) + 1
        if record:
            self._journal.append(records.CHUNK, 0, records.pack(Sealed(index, chunk)))
            self._put_sealed(index, chunk)
        else:
            self._superseded.append(self._sealed.get(index))
            self._put_sealed(index, chunk, keep=True)

    def _put_sealed(self, index: int, chunk: Chunk | None, *, keep: bool = False) -> None:
        if not keep:
            self._let_go(self._sealed.get(index))
        stored = self._stored_at(index)
        self._sealed[index] = chunk
        self.extent_count -= len(self._extents.pop(index, ()))
        self._stored_bytes += self._stored_at(index) - stored

    def _let_go(self, chunk: Chunk | None) -> None:
        if chunk is None or chunk.hash not in self._stored:
            return
        self._stored[chunk.hash] -= 1
        if not self._stored[chunk.hash]:
            del self._stored[chunk.hash]
        self._sink.discard_chunk(chunk.hash)

    def _compose(self, index: int) -> bytes | None:
        """The bytes of a chunk as the file shows them, up to the last that is known; None: all zeros."""
        start = index * CHUNK_SIZE
        extents = self._extents.get(index, ())
        under = self._under(index)
        under_end = 0 if under is None else self._under_end(index, under)
        top = max(under_end, extents[-1].end if extents else start)
        if top <= start:
            return None
        if len(extents) == 1 and extents[0].start == start and extents[0].end == top:
            data = self._journal.read(extents[0].at, top - start)
        else:
            buffer = bytearray(top - start)
            if under is not None and covered_bytes(cut(extents, under_end)) < under_end - start:
                buffer[: under_end - start] = self._reader.chunk(under)[: under_end - start]
            for extent in extents:
                buffer[extent.start - start : extent.end - start] = self._journal.read(
                    extent.at, extent.end - extent.start
                )
            data = bytes(buffer)
        return None if data == _ZEROS[: len(data)] else data

    def _needed(self, index: int) -> Chunk | None:
        """The chunk that has to be read to compose this one."""
        under = self._under(index)
        if under is None:
            return None
        start, end = index * CHUNK_SIZE, self._under_end(index, under)
        return None if covered_bytes(cut(self._extents.get(index, ()), end)) == end - start else under

    def _under(self, index: int) -> Chunk | None:
        """The chunk beneath the extents; None: nothing but zeros."""
        if index in self._sealed:
            return self._sealed[index]
        if index * CHUNK_SIZE >= self._kept:
            return None
        return chunk_at(self._base, index)

    def _under_end(self, index: int, under: Chunk) -> int:
        end = index * CHUNK_SIZE + under.length
        return end if index in self._sealed else min(end, self._kept)

    # --- reading

    def read(self, offset: int, size: int) -> bytes:
        """Raises ContentUnavailable."""
        return self._visible(offset, min(offset + size, self.size))

    def _visible(self, offset: int, end: int) -> bytes:
        parts: list[bytes] = []
        for index, start, stop in split_at_chunks(offset, end):
            for piece in pieces(self._extents.get(index, ()), start, stop):
                if piece.at is None:
                    parts.append(self._beneath(index, piece.start, piece.end))
                else:
                    parts.append(self._journal.read(piece.at, piece.end - piece.start))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _beneath(self, index: int, start: int, end: int) -> bytes:
        if index in self._sealed:
            chunk = self._sealed[index]
            place = index * CHUNK_SIZE
            data = b"" if chunk is None else self._reader.chunk(chunk)[start - place : end - place]
        else:
            stop = min(end, self._kept)
            data = self._reader.read(self._base, start, stop - start) if stop > start else b""
        return data if len(data) == end - start else data + bytes(end - start - len(data))

    # --- saving

    def compose(self) -> Content:
        """Everything into the dirty store; the content that the file has now, and that the draft still shows. Raises
        ContentUnavailable, FileTooBig, NoSpace, StorageFailed."""
        todo = set(self._extents)
        border = self._kept // CHUNK_SIZE
        if border not in self._sealed:
            under = chunk_at(self._base, border)
            if under is not None and border * CHUNK_SIZE < self._kept < border * CHUNK_SIZE + under.length:
                todo.add(border)
        order = sorted(todo)
        for place, index in enumerate(order):
            for ahead in order[place + 1 : place + 1 + COMPOSE_AHEAD]:
                under = self._needed(ahead)
                if under is not None:
                    self._reader.prefetch(under)
            self._seal(index, record=False)
        content = combine(self._base, self.size, self._kept, self._sealed)
        if len(content.chunks) > MAX_CHUNKS:
            raise FileTooBig(f"a file may hold {MAX_CHUNKS >> 10} GiB of data at most")
        return content

    def note_saving(self, op: OpId, content: Content) -> None:
        self._journal.append(records.SAVING, 0, records.pack(records.Saving(op, content)))

    def note_orphan(self, *, orphan: bool) -> None:
        self._journal.append(records.ORPHAN, int(orphan))

    def finish(self) -> None:
        """Saved: an operation names the chunks now. The draft may not be used after this."""
        for chunk in self._superseded:
            self._let_go(chunk)
        for name, count in self._stored.items():
            for _ in range(count - 1):
                self._sink.discard_chunk(name)  # the operation took over one pin, however often it names the chunk
        self._journal.finish()

    def discard(self) -> None:
        """Not wanted any more: its chunks may go, too."""
        for name, count in self._stored.items():
            for _ in range(count):
                self._sink.discard_chunk(name)
        self._stored.clear()
        self._journal.finish()

    def _stored_at(self, index: int) -> int:
        below = 0 if (under := self._under(index)) is None else self._under_end(index, under) - index * CHUNK_SIZE
        return stored_in_chunk(self._extents.get(index, ()), index, below)

    # --- the journal

    def _compact_if_long(self) -> None:
        length = self._journal.length
        if length <= self._compact_at:
            return
        useful = sum(covered_bytes(found) for found in self._extents.values()) + 64 * len(self._sealed)
        if length > 2 * useful + GARBAGE_MAX_BYTES:
            old, self._journal = self._journal, self._rewritten()
            old.finish()
        self._compact_at = self._journal.length + GARBAGE_MAX_BYTES

    def _rewritten(self) -> JournalFile:
        """A journal that says the same in fewer words."""
        for index, chunk in self._sealed.items():
            if chunk is not None and chunk.length <= INLINE_MAX_BYTES and chunk.hash in self._stored:
                # Sealed by a saving that failed: it is in no file, so its bytes go along, over a hole.
                self._flatten(index)
                self._superseded.append(chunk)
                self._sealed[index] = None
        journal = self._pool.begin()
        try:
            journal.append(records.OPENING, 0, records.pack(self.opening))
            sealed = tuple(Sealed(index, chunk) for index, chunk in self._sealed.items())
            journal.append(records.STATE, 0, records.pack(records.State(self.size, self._kept, sealed)))
            if not self.sealing:
                journal.append(records.ORPHAN, 1)
            moved: dict[int, Extents] = {}
            for index, extents in self._extents.items():
                moved[index] = tuple(
                    Extent(start, end, journal.append(records.DATA, start, self._journal.read(at, end - start)))
                    for start, end, at in extents
                )
        except BaseException:
            journal.finish()
            raise
        self._extents = moved
        return journal

    def replay(self, found: Iterable[RecordView], is_logged: Callable[[Saving], bool]) -> bool:
        """Take the state from the records that follow the opening. False: nothing is to be saved any more."""
        unsaved, orphan, edited_ns = False, False, self.mtime_ns
        for record in found:
            match record.kind:
                case records.DATA:
                    self._add(record.offset, record.offset + record.length, record.at)
                case records.SIZE:
                    self._resize(record.offset)
                case records.CHUNK:
                    sealed = records.unpack_sealed(self._payload(record))
                    self._put_sealed(sealed.index, sealed.chunk)
                case records.STATE:
                    self._take(records.unpack_state(self._payload(record)))
                case records.TIME:
                    self.mtime_ns = int.from_bytes(self._payload(record), "little", signed=True)
                case records.SAVING:
                    if is_logged(records.unpack_saving(self._payload(record))):
                        return False
                    continue
                case records.ORPHAN:
                    orphan = bool(record.offset)
                    continue
                case _:
                    log.warning("unknown record in a journal kind=%d", record.kind)
                    continue
            unsaved = True
            self.mtime_ns = edited_ns if record.kind in (records.DATA, records.SIZE) else self.mtime_ns
        return unsaved and not orphan

    def _payload(self, record: RecordView) -> bytes:
        return self._journal.read(record.at, record.length)
