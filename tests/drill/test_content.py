"""Content names its write and its place: whatever happens to the bytes is seen from the bytes."""

from __future__ import annotations

import pytest

from gdah_drill.content import LINE_BYTES, SMALLEST_BYTES, digest, line_of, make, parse
from gdah_drill.shared_load import lines_that_are_none
from gdah_drill.worker_hands import _digest

MIB = 1 << 20


@pytest.mark.parametrize("size", [SMALLEST_BYTES, 100, LINE_BYTES, LINE_BYTES + 1, 70_000, 2 * MIB + 5])
def test_what_is_whole_is_recognized(size: int) -> None:
    data = make("w1.42", size)
    parsed = parse(data)
    assert len(data) == size
    assert (parsed.kind, parsed.content, parsed.size) == ("whole", "w1.42", size)
    assert b"\0" not in data


def test_nothing_and_a_part() -> None:
    assert parse(b"").kind == "empty"
    part = parse(make("w1.42", 70_000)[:8192])
    assert (part.kind, part.content, part.size) == ("prefix", "w1.42", 70_000)


def test_two_writes_of_one_size_share_no_line() -> None:
    one, other = make("w1.1", 5000).splitlines(), make("w1.2", 5000).splitlines()
    assert not set(one) & set(other)


@pytest.mark.parametrize(
    "broken",
    [
        make("w1.1", 5000)[:1280] + make("w2.7", 5000)[1280:],
        make("w1.1", 5000) + make("w2.7", 5000)[5000 - 100 :],
        make("w1.1", 5000)[:1280] + bytes(128) + make("w1.1", 5000)[1408:],
        make("w1.1", 3 * MIB)[MIB : 2 * MIB] + make("w1.1", 3 * MIB)[:MIB] + make("w1.1", 3 * MIB)[2 * MIB :],
        make("w1.1", 3 * MIB)[:MIB] + make("w1.1", 3 * MIB)[2 * MIB :],
        make("w1.1", 5000)[1280:],
        b"nobody wrote this",
    ],
    ids=["two", "tail of another", "hole", "chunks swapped", "chunk missing", "no beginning", "foreign"],
)
def test_a_mixture_is_seen(broken: bytes) -> None:
    parsed = parse(broken)
    assert parsed.kind == "mixed"
    assert parsed.note


def test_a_bit_that_changed_is_seen() -> None:
    data = bytearray(make("w1.1", 70_000))
    data[66_000] ^= 1
    assert "from byte 66000 on" in parse(bytes(data)).note


def test_lines_of_a_log() -> None:
    log = line_of("w1.1") + line_of("w2.300")
    assert lines_that_are_none(log) == []
    assert lines_that_are_none(log[:-3]) == [line_of("w2.300")[:-3]]
    assert lines_that_are_none(log[5:]) == [line_of("w1.1")[5:]]


def test_the_helper_names_bytes_as_the_drill_does() -> None:
    assert digest(b"abc") == _digest(b"abc")
