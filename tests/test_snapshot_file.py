"""A snapshot is whole or refused."""

from __future__ import annotations

import io

import pytest

from gdah_volume.errors import BadMessage, VersionFromTheFuture
from gdah_volume.snapshot_file import SnapshotFile, frame_of

HEADER = {"server": "s1", "epoch": "e", "head": 3, "stable": (5, "s1"), "protocol": 1}
WHOLE = frame_of(HEADER) + frame_of(("nodes", [(1, b"x")])) + frame_of(("links", [])) + frame_of(None)


def test_round_trip() -> None:
    snapshot = SnapshotFile(io.BytesIO(WHOLE))
    assert snapshot.header.head == 3
    assert list(snapshot.rows()) == [("nodes", [(1, b"x")]), ("links", [])]
    assert list(snapshot.rows()) == [("nodes", [(1, b"x")]), ("links", [])], "it can be read again"


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_cut_short_anywhere_it_is_refused(length: int) -> None:
    with pytest.raises(BadMessage):
        SnapshotFile(io.BytesIO(WHOLE[:length]))


def test_a_huge_length_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadMessage, match="out of bounds"):
        SnapshotFile(io.BytesIO(frame_of(HEADER) + b"\xff\xff\xff\xff"))


def test_rows_that_are_none_are_refused() -> None:
    snapshot = SnapshotFile(io.BytesIO(frame_of(HEADER) + frame_of(7) + frame_of(None)))
    with pytest.raises(BadMessage, match="damaged"):
        list(snapshot.rows())


def test_a_future_protocol_is_named() -> None:
    with pytest.raises(VersionFromTheFuture):
        SnapshotFile(io.BytesIO(frame_of({**HEADER, "protocol": 99}) + frame_of(None)))
