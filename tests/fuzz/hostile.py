"""Strategies: values that break parsers, and messages of the lane built from their own types with such values in them.

Nothing here talks to anybody. A message is drawn in the form that it has on the wire (`wire_values`), so that a field may
hold what its type forbids; `damaged` then breaks the bytes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from gdah_volume import wire
from gdah_volume.content import hash_of

NUMBERS = st.sampled_from(
    [0, 1, 2, 3, -1, 255, 4096, 0o7777, 0o10000, 1 << 20, (1 << 20) + 1, (1 << 31) - 1, 1 << 31, 1 << 32, 9_200_000_000 * 10**9,
     (1 << 60), (1 << 61), (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 31), -(1 << 62), -(1 << 63)]
)  # fmt: skip
SMALL_NUMBERS = st.integers(0, 20)
NAMES = st.sampled_from(
    [b"a", b"b", b"report.txt", b"x" * 254, b"x" * 255, b"x" * 256, b"", b".", b"..", b"a/b", b"/", b"a\0b", b"\0", b"\n", b"\xff",
     b"\xed\xa0\x80", "ä".encode() * 127, b"a (conflict x a1b2c3-0001-1)", b" (conflict x a1b2c3-0001-1).b", b"-rf", b"*", b" ", b"\xff" * 255]
)  # fmt: skip
OPS = st.builds(
    lambda device, boot, number: f"{device}-{boot}-{number}",
    st.sampled_from(["fuzz-a1b2c3", "other-d4e5f6"]),
    st.sampled_from(["00000001", "beef"]),
    st.integers(1, 6) | st.sampled_from([999_999_999_999_999]),
)
BAD_TEXTS = st.sampled_from(
    ["", "..", "../../etc/passwd", "a\0b", "root", ".lost", "\n", "x" * 5000, "fuzz-a1b2c3-beef-0", "fuzz-a1b2c3-beef-1\n", "+", "ä",
     "fuzz-a1b2c3-beef-1+fuzz-a1b2c3-beef-2", "fuzz-a1b2c3-beef-9999999999999999", "s1\n", "S!", "'; DROP TABLE nodes; --", "%s%n", "~", ":",
     "fuzz-a1b2c3-beef-١", "\u202e", "\U0010ffff"]
)  # fmt: skip
SERVERS = st.sampled_from(["s1", "s2", "sfuzz"])
DATA = b"content"
BLOBS = st.sampled_from([DATA, b"", b"y" * 65_536, b"y" * 65_537, b"\0"])
HASHES = st.sampled_from([hash_of(DATA), hash_of(b"y" * 65_536), hash_of(b"\0"), b"h" * 32, b"h" * 31, b""])

_OPERATION_FIELDS = {"id", "link"}
_NODE_FIELDS = {"node", "parent", "also"}
_VERSION_FIELDS = {"rev", "version", "base", "last"}


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any], odds: int = 12) -> st.SearchStrategy[Any]:
    """One of so many is bad: a message with one wrong field gets further than one that is all wrong."""
    return st.integers(0, odds).flatmap(lambda n: bad if n == odds else good)


def _text(field: str) -> st.SearchStrategy[Any]:
    if field in _OPERATION_FIELDS:
        return mostly(OPS, BAD_TEXTS)
    if field in _NODE_FIELDS:
        return mostly(OPS | st.just("root"), BAD_TEXTS)
    if field in _VERSION_FIELDS:
        return mostly(OPS, BAD_TEXTS)
    if field in ("author", "client", "clients"):
        return mostly(st.sampled_from(["fuzz-a1b2c3-00000001", "other-d4e5f6-beef"]), BAD_TEXTS)
    if field in ("server", "sequencer", "members"):
        return mostly(SERVERS, BAD_TEXTS)
    if field == "volume":
        return mostly(st.just("test_chamber"), BAD_TEXTS)
    if field == "url":  # nothing that a server could dial
        return st.sampled_from(["ftp://x", "http://", "x" * 301, "", "http://[", "http://127.0.0.1:99999"])
    return mostly(st.sampled_from(["", "x"]), BAD_TEXTS)


def _bytes(field: str) -> st.SearchStrategy[Any]:
    if field == "hash":
        return HASHES
    if field == "data":
        return BLOBS
    if field == "name":
        return mostly(NAMES.filter(lambda name: 0 < len(name) < 256 and not set(name) & {0, 47}), NAMES, 4)
    return st.sampled_from([b"", b"x"]) | NAMES


def _of(kind: Any, field: str = "") -> st.SearchStrategy[Any]:
    """The wire's form of a value of this type (as msgspec describes it), now and then of another one."""
    return mostly(
        _right(kind, field), st.sampled_from([None, True, -1, 1.5, float("nan"), "x", b"x", [], {}, [[]]]), 150
    )


def _right(kind: Any, field: str) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.IntType():
            return mostly(SMALL_NUMBERS, NUMBERS, 5)
        case inspect.StrType():
            return _text(field)
        case inspect.BytesType():
            return _bytes(field)
        case inspect.BoolType():
            return st.booleans()
        case inspect.FloatType():
            return st.floats()
        case inspect.NoneType():
            return st.none()
        case inspect.LiteralType():
            return mostly(st.sampled_from(list(kind.values)), BAD_TEXTS, 30)
        case inspect.UnionType():
            return st.sampled_from(kind.types).flatmap(lambda one: _of(one, field))
        case inspect.VarTupleType() | inspect.ListType():
            return st.lists(_of(kind.item_type, field), max_size=3)
        case inspect.TupleType():
            return st.tuples(*(_of(item, field) for item in kind.item_types)).map(list)
        case inspect.DictType():
            return st.dictionaries(NAMES, BLOBS, max_size=3)
        case inspect.StructType():
            return _struct(kind)
    raise TypeError(f"no strategy for {kind}")


def _struct(kind: inspect.StructType) -> st.SearchStrategy[Any]:
    fields = {each.encode_name: _of(each.type, each.encode_name) for each in kind.fields}
    if kind.array_like:
        head = [st.just(kind.tag)] if kind.tag else []
        return st.tuples(*head, *fields.values()).map(list)
    tag = {kind.tag_field: st.just(kind.tag)} if kind.tag_field else {}
    return st.fixed_dictionaries(tag | fields)


@cache
def wire_values(message: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    return _right(inspect.type_info(message), "")


MESSAGES: tuple[type[msgspec.Struct], ...] = wire.Message.__args__
"""Of the lane, both directions."""
FROM_DIALLER = [
    kind
    for kind in MESSAGES
    if kind.__name__ not in ("Welcome", "Feed", "Ack", "Refused", "Failed", "RangeIs", "LockTold")
]
FROM_SERVER = [
    kind for kind in MESSAGES if kind.__name__ not in ("Hello", "Submit", "Subscribe", "Offer", "LockAsk", "LockClaim")
]


def frames(kinds: list[type[msgspec.Struct]], *, broken: int = 3) -> st.SearchStrategy[bytes]:
    """Frames of these messages; one of so many has its bytes damaged as well."""
    whole = st.sampled_from(kinds).flatmap(wire_values).map(msgspec.msgpack.encode)
    return mostly(whole, whole.flatmap(damaged), broken)


def damaged(frame: bytes) -> st.SearchStrategy[bytes]:
    """Bits turned, cut, doubled, deeply nested, lengths that lie."""
    place = st.integers(0, max(0, len(frame) - 1))
    flipped = st.tuples(place, st.integers(0, 7)).map(lambda at: _flip(frame, *at))
    lying = place.map(lambda at: frame[:at] + b"\xdd\xff\xff\xff\xff" + frame[at:])
    return st.one_of(
        flipped,
        place.map(lambda at: frame[:at]),
        place.map(lambda at: frame[:at] + frame[at + 1 :]),
        lying,
        place.map(lambda at: frame[:at] + b"\xc6\xff\xff\xff\xff" + frame[at:]),
        st.sampled_from(
            [frame + frame, frame + b"\xc0", b"\x91" * 5000 + frame, b"\x81\xa1x" * 3000, b"", b"\xc1", frame[::-1]]
        ),
        st.binary(max_size=64),
    )


def _flip(frame: bytes, at: int, bit: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 1 << bit]) + frame[at + 1 :] if frame else b"\x01"
