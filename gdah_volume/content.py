"""File content as a list of chunks named by their BLAKE3 hash. Pure arithmetic; no input or output.

A file is cut at multiples of CHUNK_SIZE. Chunk `i` covers bytes [i * CHUNK_SIZE, (i + 1) * CHUNK_SIZE). A chunk
that is absent is a hole, and a stored chunk may be shorter than its place: the rest up to the size of the file
reads as zeros. Invariant: no chunk reaches past the size, indexes ascend, none is empty.
"""

from __future__ import annotations

from typing import NewType

import msgspec
from blake3 import blake3

from gdah_volume.errors import BadMessage

ChunkHash = NewType("ChunkHash", bytes)

HASH_BYTES = 32
CHUNK_SIZE = 1 << 20
INLINE_MAX_BYTES = 64 << 10
"""Chunks up to this size live in the database and ride inside messages; larger ones are files."""
MAX_CHUNKS = 65_536
"""Non-empty chunks of one file: 64 GiB of data; above it a write is refused with EFBIG."""
MAX_SIZE = 1 << 60


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    index: int
    hash: ChunkHash
    length: int


class Content(msgspec.Struct, frozen=True, array_like=True):
    """What a file holds: `size` in bytes and its chunks."""

    size: int = 0
    chunks: tuple[Chunk, ...] = ()


EMPTY = Content()


def hash_of(data: bytes | bytearray | memoryview) -> ChunkHash:
    return ChunkHash(blake3(data).digest())


def check_content(content: Content) -> Content:
    """Raises BadMessage unless the invariant of the module holds."""
    if not 0 <= content.size <= MAX_SIZE or len(content.chunks) > MAX_CHUNKS:
        raise BadMessage("content out of bounds")
    last = -1
    for chunk in content.chunks:
        if chunk.index <= last or len(chunk.hash) != HASH_BYTES or not 0 < chunk.length <= CHUNK_SIZE:
            raise BadMessage("malformed list of chunks")
        if chunk.index * CHUNK_SIZE + chunk.length > content.size:
            raise BadMessage("a chunk reaches past the size of the file")
        last = chunk.index
    return content


def chunk_span(offset: int, length: int) -> range:
    """Indexes of the chunks that bytes [offset, offset + length) touch."""
    if length <= 0:
        return range(0)
    return range(offset // CHUNK_SIZE, (offset + length - 1) // CHUNK_SIZE + 1)


def content_of(data: bytes) -> tuple[Content, dict[ChunkHash, bytes]]:
    """Cut a whole file held in memory; returns its content and the chunks by hash."""
    chunks: list[Chunk] = []
    blobs: dict[ChunkHash, bytes] = {}
    for start in range(0, len(data), CHUNK_SIZE):
        piece = data[start : start + CHUNK_SIZE]
        name = hash_of(piece)
        blobs[name] = piece
        chunks.append(Chunk(start // CHUNK_SIZE, name, len(piece)))
    return Content(len(data), tuple(chunks)), blobs
