"""The form of a snapshot between servers and to mounts: length-prefixed msgpack frames.

First a header, then (table, rows) pairs, at last an empty frame, by which the reader knows that it is whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import msgspec

from gdah_volume.errors import BadMessage
from gdah_volume.ids import Epoch, ServerId
from gdah_volume.wire import PROTOCOL
from storage_server.readers import Readers

FRAME_MAX_BYTES = 64 << 20
"""A single row can be the content of a 64 GiB file."""


class SnapshotHeader(msgspec.Struct, frozen=True):
    """The first frame."""

    server: str
    epoch: str
    head: int
    stable: tuple[int, str]
    protocol: int


def frame_of(value: Any) -> bytes:
    """Length (4 bytes, big endian) and msgpack; None is the empty frame."""
    body = b"" if value is None else msgspec.msgpack.encode(value)
    return len(body).to_bytes(4, "big") + body


def frames(readers: Readers, server: ServerId, epoch: Epoch) -> Iterator[bytes]:
    """The whole volume as it is now; one consistent state, and nobody waits for it."""
    with readers.fresh() as replica:
        stable = replica.stable
        yield frame_of(SnapshotHeader(server, epoch, replica.head, (stable.clock, stable.server), PROTOCOL))
        for table, rows in replica.dump():
            yield frame_of((table, rows))
    yield frame_of(None)


class SpooledSnapshot:
    """A snapshot in a file of ours. Raises BadMessage if it is none, or not whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        file.seek(0)
        found = self._frames()
        first = next(found, None)
        try:
            header = msgspec.msgpack.decode(first or b"", type=SnapshotHeader)
        except msgspec.DecodeError as error:
            raise BadMessage(f"not a snapshot: {error}") from error
        if header.protocol > PROTOCOL:
            raise BadMessage(f"a snapshot of protocol {header.protocol}: update this server")
        self.epoch = Epoch(header.epoch)
        self.head = header.head
        self._start = file.tell()
        last = None
        for frame in found:
            last = frame
        if last != b"":
            raise BadMessage("the snapshot is not whole")

    def _frames(self) -> Iterator[bytes]:
        while True:
            prefix = self._file.read(4)
            if len(prefix) < 4:
                return
            size = int.from_bytes(prefix, "big")
            if size > FRAME_MAX_BYTES:
                raise BadMessage("a snapshot with a frame too long")
            frame = self._file.read(size)
            if len(frame) < size:
                return
            yield frame

    def rows(self) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        self._file.seek(self._start)
        for frame in self._frames():
            if frame:
                yield msgspec.msgpack.decode(frame, type=tuple[str, list[tuple[Any, ...]]])

    def close(self) -> None:
        self._file.close()
