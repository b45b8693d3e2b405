"""The calls on ranges of files: lseek to data and holes, fallocate, copy_file_range. What a program gets of them is
decided here, how a draft does it in `sparse`.

Copying inside of the mount shares chunks: content is a list of chunks that are named by their hash, so a chunk that
comes to lie at a chunk's border again is named twice and travels never. The rest is copied by bytes, BYTES_MAX for one
request; the program asks again for what is left.

Threading: any thread. The locks of two open files are never held together: what is copied is taken from the first, then
put into the second.
"""

from __future__ import annotations

from collections.abc import Callable

from gdah_volume.content import CHUNK_SIZE, INLINE_MAX_BYTES, MAX_CHUNKS, MAX_SIZE
from gdah_volume.errors import BadHandle, FileTooBig, GdahError, InvalidArgument, NoSpace, NotSupported
from mountfs.files.changing import AttributeChanges
from mountfs.files.handles import Handle, Handles
from mountfs.files.openfile import Parts
from mountfs.files.saving import Saving
from mountfs.files.sparse import Layers, Piece, Saved, aligned, missing_bytes, seek
from mountfs.ports import Caller, StatFs

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
MODES = (0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE)
BYTES_MAX = 8 << 20
SHARED_MAX = 4096
"""Chunks shared by one request: 4 GiB, some 50 ms."""


class RangeCalls:
    """A part of `Filesystem`."""

    parts: Parts
    handles: Handles
    _changes: AttributeChanges
    _saving: Saving
    _space: Callable[[], StatFs]

    def seek(self, ino: int, handle: int, offset: int, whence: int) -> int:  # noqa: ARG002
        file = self.handles.get(handle).file
        with file.lock:
            file.refresh()
            return seek(file.data(offset), file.size, offset, whence)

    def allocate(self, ino: int, handle: int, mode: int, offset: int, length: int, caller: Caller) -> None:  # noqa: ARG002
        found = self._writing(handle)
        end = offset + length
        if mode not in MODES:
            raise NotSupported("only KEEP_SIZE, PUNCH_HOLE and ZERO_RANGE")
        if offset < 0 or length <= 0:
            raise InvalidArgument("no bytes to allocate")
        if end > MAX_SIZE:
            raise FileTooBig(f"a file may have {MAX_SIZE >> 60} EiB at most")
        file = found.file
        if mode in (0, KEEP_SIZE):
            with file.lock:
                file.refresh()
                missing = missing_bytes(file.data(offset, end), offset, end)
            self._check_room(missing)
        self._changes.drop_privileges(file, caller)
        file.reshape(found, offset, end, punch=bool(mode & ~KEEP_SIZE), grow=not mode & KEEP_SIZE)
        self._saving.save_if_heavy(file)

    def copy_range(self, handle: int, offset: int, to_handle: int, to_offset: int, length: int, caller: Caller) -> int:
        source, found = self.handles.get(handle), self._writing(to_handle)
        if not source.reads:
            raise BadHandle("the source is open for writing only")
        if min(offset, to_offset, length) < 0:
            raise InvalidArgument("a negative offset or length")
        length = min(length, MAX_SIZE - to_offset)
        if length <= 0:
            raise FileTooBig(f"a file may have {MAX_SIZE >> 60} EiB at most")
        pieces = self._taken(source, offset, offset + length, to_offset - offset)
        if not pieces:
            return 0
        self._changes.drop_privileges(found.file, caller)
        done = 0
        try:
            for piece in pieces:
                found.file.receive(found, piece)
                done += 1
        except GdahError:
            if not done:
                raise
        finally:
            self._let_go(pieces[done:])
        self._saving.save_if_heavy(found.file)
        return pieces[done - 1].end - to_offset

    def _writing(self, handle: int) -> Handle:
        found = self.handles.get(handle)
        if not found.writes:
            raise BadHandle("the file is open for reading only")
        return found

    def _check_room(self, missing: int) -> None:
        """Nothing is reserved, but who asks for what does not exist hears of it now."""
        if missing > MAX_CHUNKS * CHUNK_SIZE:
            raise FileTooBig(f"a file may hold {MAX_CHUNKS >> 10} GiB of data at most")
        if not missing:
            return
        room = self._space()
        if missing > room.blocks_free * room.block_size:
            raise NoSpace(f"{missing >> 20} MiB are not free on every server")

    def _taken(self, source: Handle, offset: int, end: int, shift: int) -> list[Piece]:
        """The beginning of [offset, end), as much as one request copies, to be put `shift` bytes further on."""
        file = source.file
        with file.lock:
            file.refresh()
            source.seen = file.foreign
            if file.draft is not None:
                return self._cut(file.draft, offset, end, shift)
            content = file.content
        return self._cut(Saved(content, self.parts.cache, source.ahead), offset, end, shift)

    def _cut(self, layers: Layers, offset: int, end: int, shift: int) -> list[Piece]:
        pieces: list[Piece] = []
        left = BYTES_MAX
        try:
            for index, start, stop, whole in aligned(offset, min(end, layers.size), layers.size):
                known, chunk = layers.whole(index) if whole and shift % CHUNK_SIZE == 0 else (False, None)
                if known and (chunk is None or chunk.length > INLINE_MAX_BYTES):
                    pinned = chunk is not None and self.parts.log.keep_chunk(chunk.hash)
                    pieces.append(Piece(start + shift, stop + shift, None, chunk, pinned))
                elif pieces and left < stop - start:
                    break
                else:
                    left -= stop - start
                    pieces.append(Piece(start + shift, stop + shift, layers.read(start, stop - start)))
                if len(pieces) >= SHARED_MAX:
                    break
        except BaseException:
            self._let_go(pieces)
            raise
        return pieces

    def _let_go(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if piece.chunk is not None and piece.pinned:
                self.parts.log.discard_chunk(piece.chunk.hash)
