"""What the fuzzer found in parsers and at the lane, each by its name: input that was a traceback, or was stored."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from gdah_volume.database import Database
from gdah_volume.errors import BadMessage, InvalidArgument
from gdah_volume.operations import from_json
from gdah_volume.settings import load_file, parse_size, read_token
from gdah_volume.snapshot import load
from gdah_volume.snapshot_file import SnapshotFile, frame_of
from gdah_volume.wire import decode

CREATE = {
    "type": "create", "id": "fuzz-a1b2c3-beef-1", "time_ns": 1, "kind": "file", "parent": "root", "name": b"q",
    "attrs": {"mode": 0, "uid": 0, "gid": 0, "mtime_ns": 0, "atime_ns": 0},
}  # fmt: skip


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\x92\xa5ofer\x90", id="text that is no UTF-8"),
        pytest.param(msgspec.msgpack.encode(["ask_range", (1 << 64) - 2, (1 << 64) - 1]), id="a number of 64 bits"),
        pytest.param(msgspec.msgpack.encode(["offer", [["fuzz-a1b2c3-beef-1", [1 << 63, "s1"]]]]), id="an offered clock"),
        pytest.param(msgspec.msgpack.encode(["handover", [[0, [5, "x\n"], CREATE]], True]), id="a stamp of no server"),
        pytest.param(msgspec.msgpack.encode(["handover", [[1 << 63, [5, "s1"], CREATE]], True]), id="a position"),
        pytest.param(msgspec.msgpack.encode(["subscribe", None, [1 << 63, "s1"], False, ""]), id="a stamp to begin above"),
        pytest.param(msgspec.msgpack.encode(["welcome", 2, "../x", "e", "", 0, 1, [0, ""], []]), id="a server that is a path"),
        pytest.param(msgspec.msgpack.encode(["welcome", 2, "s1", "e:1", "", 0, 1, [0, ""], []]), id="an epoch with a separator"),
    ],
)  # fmt: skip
def test_a_frame_that_decodes_to_what_cannot_be_kept(frame: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(frame)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"type": "rename", "id": "fuzz-a1b2c3-beef-1", "time_ns": 7, "link": 5.7, "node": "a", "parent": "root", "name": ""}',
        '{"type": "unlink", "id": "fuzz-a1b2c3-beef-1", "time_ns": "x", "link": "a", "rev": {}, "node": "a", "last": 1}',
    ],
)
def test_an_operation_in_json_of_wrong_types(text: str) -> None:
    with pytest.raises(BadMessage):
        from_json(text)


@pytest.mark.parametrize("text", [b"\xff\n", b"a = " + b"[" * 3000, b"a = {" * 500])
def test_a_settings_file_that_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "gdah.toml").write_bytes(text)
    with pytest.raises(InvalidArgument, match="cannot read the settings file"):
        load_file("mount", str(tmp_path / "gdah.toml"), {})


@pytest.mark.parametrize("path", ["a\0b", "~nobody-here/x"])
def test_a_path_that_no_file_can_have(path: str) -> None:
    with pytest.raises(InvalidArgument):
        load_file("mount", path, {})
    with pytest.raises(InvalidArgument):
        read_token(path)


def test_a_size_beyond_all_disks() -> None:
    for text in ("9" * 400, "9" * 30, "2000000T"):
        with pytest.raises(InvalidArgument, match="too large"):
            parse_size(text)
    assert parse_size("1024T") == 1 << 50


def test_a_snapshot_whose_text_is_no_utf8() -> None:
    with pytest.raises(BadMessage):
        SnapshotFile(io.BytesIO(b"\0\0\0\x0a\x81\xa6server\xa1\xff" + frame_of(None)))


@pytest.mark.parametrize("row", [[None, "x"], [1 << 63, "x"], [{}, "x"], [["x"], "x"]])
def test_a_snapshot_with_rows_that_no_table_takes_is_no_failed_disk(row: list[object]) -> None:
    """StorageFailed ends a server: a peer could have ended it with one row."""
    database = Database(":memory:")
    try:
        with pytest.raises(BadMessage), database.transaction():
            load(database, [("last", [row])])
    finally:
        database.close()
