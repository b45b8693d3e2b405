"""What stands in the journal of a file with unsaved bytes, and what edits ask of others. Vocabulary only.

A journal is a sequence of records; replaying them over the base gives the unsaved state back:

    OPENING   node, base version and content, name hint: the first record
    DATA      bytes at an offset
    SIZE      the file was cut or grown to `offset` bytes
    CHUNK     the chunk at an index is whole and lies in the dirty store (or is a hole)
    STATE     everything at once, at the start of a journal that replaces a longer one
    TIME      the modification time was set by a program (it wins until the next DATA)
    SAVING    an operation that saves all records before this one is about to be logged
    ORPHAN    `offset` 1: the file has no name any more, so nothing of it is to be recovered; 0: it has one
    again
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from gdah_volume.content import Chunk, ChunkHash, Content
from gdah_volume.ids import NodeId, OpId, Version
from gdah_volume.operations import Operation

OPENING = 1
DATA = 2
SIZE = 3
CHUNK = 4
STATE = 5
TIME = 6
SAVING = 7
ORPHAN = 8


class Opening(msgspec.Struct, frozen=True, array_like=True):
    node: NodeId
    base: Version | None
    content: Content
    name: bytes
    """The last known name, for a file whose node nobody knows any more."""


class Sealed(msgspec.Struct, frozen=True, array_like=True):
    """A chunk that is whole. None: a hole."""

    index: int
    chunk: Chunk | None


class State(msgspec.Struct, frozen=True, array_like=True):
    size: int
    kept: int
    sealed: tuple[Sealed, ...]


class Saving(msgspec.Struct, frozen=True, array_like=True):
    op: OpId
    content: Content


_encoder = msgspec.msgpack.Encoder()
_opening = msgspec.msgpack.Decoder(Opening)
_sealed = msgspec.msgpack.Decoder(Sealed)
_state = msgspec.msgpack.Decoder(State)
_saving = msgspec.msgpack.Decoder(Saving)


def pack(value: Opening | Sealed | State | Saving) -> bytes:
    return _encoder.encode(value)


def unpack_opening(payload: bytes) -> Opening:
    return _opening.decode(payload)


def unpack_sealed(payload: bytes) -> Sealed:
    return _sealed.decode(payload)


def unpack_state(payload: bytes) -> State:
    return _state.decode(payload)


def unpack_saving(payload: bytes) -> Saving:
    return _saving.decode(payload)


class RecordView(Protocol):
    @property
    def kind(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def at(self) -> int: ...
    @property
    def length(self) -> int: ...


class JournalFile(Protocol):
    """Raises NoSpace or StorageFailed; an append that raised has added nothing."""

    length: int

    def append(self, kind: int, offset: int, payload: bytes | memoryview = b"") -> int: ...
    def read(self, at: int, size: int) -> bytes: ...
    def stamp(self, time_ns: int) -> None: ...
    def finish(self) -> None: ...


class LeftoverView(Protocol):
    @property
    def journal(self) -> JournalFile: ...
    @property
    def records(self) -> Sequence[RecordView]: ...
    @property
    def mtime_ns(self) -> int: ...


class JournalPool(Protocol):
    def begin(self) -> JournalFile: ...
    def leftovers(self) -> Sequence[LeftoverView]: ...


class ContentReader(Protocol):
    def read(self, content: Content, offset: int, size: int) -> bytes: ...
    def chunk(self, chunk: Chunk) -> bytes: ...
    def prefetch(self, chunk: Chunk) -> None: ...


class ChunkSink(Protocol):
    def store_chunk(self, data: bytes | memoryview) -> ChunkHash: ...
    def discard_chunk(self, name: ChunkHash) -> None: ...


class Ticket(Protocol):
    @property
    def op(self) -> OpId: ...
    def wait(self) -> None: ...


class OperationLog(ChunkSink, Protocol):
    """What the file system asks of the change log; see there."""

    def perform(
        self,
        build: Callable[[OpId, int], Operation],
        *,
        sync: bool = False,
        wait: bool = True,
        tentative: bool = False,
        since: float | None = None,
    ) -> Ticket: ...
    def keep_chunk(self, name: ChunkHash) -> bool: ...
