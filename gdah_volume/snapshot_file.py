"""A snapshot on its way: length-prefixed msgpack frames. A header, (table, rows) pairs, and an empty frame at the end.

The empty frame tells a whole snapshot from one that was cut short: nothing is loaded before it was seen. Words and
arithmetic over an open file; knows no HTTP and no SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import msgspec

from gdah_volume.errors import BadMessage, VersionFromTheFuture
from gdah_volume.ids import Epoch, ServerId
from gdah_volume.stamps import Stamp
from gdah_volume.wire import PROTOCOL

FRAME_MAX_BYTES = 64 << 20
_MALFORMED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

Rows = list[tuple[Any, ...]]


class SnapshotHeader(msgspec.Struct, frozen=True):
    """The first frame: where in which log the snapshot was taken."""

    server: ServerId
    epoch: Epoch
    head: int
    stable: Stamp
    protocol: int


def frame_of(value: Any) -> bytes:
    """One frame; None is the empty one that ends a snapshot."""
    body = b"" if value is None else msgspec.msgpack.encode(value)
    return len(body).to_bytes(4, "big") + body


class SnapshotFile:
    """A whole snapshot in an open file. Raises BadMessage if it is none or not whole, VersionFromTheFuture."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        file.seek(0)
        frames = self._frames()
        try:
            self.header = msgspec.msgpack.decode(next(frames, b""), type=SnapshotHeader)
        except _MALFORMED as error:
            raise BadMessage(f"not a snapshot: {error}") from error
        if self.header.protocol > PROTOCOL:
            raise VersionFromTheFuture(f"a snapshot of protocol {self.header.protocol}: update this side")
        self._start = file.tell()
        last = None
        for frame in frames:
            last = frame
        if last != b"":
            raise BadMessage("the snapshot was cut short")

    def _frames(self) -> Iterator[bytes]:
        while prefix := self._file.read(4):
            size = int.from_bytes(prefix, "big")
            if len(prefix) < 4 or size > FRAME_MAX_BYTES:
                raise BadMessage("a damaged snapshot: a frame out of bounds")
            frame = self._file.read(size)
            if len(frame) < size:
                raise BadMessage("the snapshot was cut short")
            yield frame
            if not frame:
                return

    def rows(self) -> Iterator[tuple[str, Rows]]:
        """(table, rows) in the order of the dump."""
        self._file.seek(self._start)
        for frame in self._frames():
            if frame:
                try:
                    yield _decoder.decode(frame)
                except _MALFORMED as error:
                    raise BadMessage(f"a damaged snapshot: {error}") from error


_decoder: msgspec.msgpack.Decoder[tuple[str, Rows]] = msgspec.msgpack.Decoder(tuple[str, Rows])
