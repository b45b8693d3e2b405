"""Content that says what it is: the bytes of each write are unique, and any part of them names its write and its place.

So a mixture of two writes, a hole, a part that is missing and chunks that changed places are seen from the bytes alone.
Pure; knows no files.

A content is made of lines of LINE_BYTES. Each begins with the id of the write (`w1.42`: the 42nd of worker w1); the
first line goes on with the size in all, the others with their own number.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from typing import Literal

LINE_BYTES = 128
SMALLEST_BYTES = 24
"""Room for the id and the size."""
_HEAD = re.compile(rb"([a-z][a-z0-9]*\.[0-9]+):([0-9]+):")
_NAME = re.compile(rb"([a-z][a-z0-9]*\.[0-9]+):([0-9]+)[:.]")


@functools.lru_cache(maxsize=64)
def make(content: str, size: int) -> bytes:
    """The bytes of a content: `size` is 0 or at least SMALLEST_BYTES."""
    assert size == 0 or size >= SMALLEST_BYTES, size
    filling = hashlib.blake2b(content.encode(), digest_size=32).hexdigest() * 2
    lines = [f"{content}:{size}:{filling}"[: LINE_BYTES - 1].ljust(LINE_BYTES - 1, "-") + "\n"]
    lines += [
        f"{content}:{number}.{filling}"[: LINE_BYTES - 1].ljust(LINE_BYTES - 1, "-") + "\n"
        for number in range(1, -(-size // LINE_BYTES))
    ]
    return "".join(lines).encode()[:size]


@dataclass(frozen=True)
class Parsed:
    """`whole`, `prefix`: of `content`, which was to have `size` bytes. `mixed`: `note` says what is where."""

    kind: Literal["empty", "whole", "prefix", "mixed"]
    content: str = ""
    size: int = 0
    note: str = ""


def parse(data: bytes) -> Parsed:
    if not data:
        return Parsed("empty")
    head = _HEAD.match(data)
    if head is None:
        return Parsed("mixed", note=f"{len(data)} bytes that no write begins with: {data[:40]!r}; {contents_in(data)}")
    content, size = head[1].decode(), int(head[2])
    if size >= SMALLEST_BYTES:
        made = make(content, size)
        if data == made:
            return Parsed("whole", content, size)
        if made.startswith(data):
            return Parsed("prefix", content, size)
    return Parsed("mixed", content, size, _difference(data, content, size))


def contents_in(data: bytes) -> list[str]:
    """The ids that are named in the bytes, each once, in their order."""
    return list(dict.fromkeys(name[1].decode() for name in _NAME.finditer(data)))


def _difference(data: bytes, content: str, size: int) -> str:
    made = make(content, size) if size >= SMALLEST_BYTES else b""
    same = next((at for at, (a, b) in enumerate(zip(data, made, strict=False)) if a != b), min(len(data), len(made)))
    there = data[same - same % LINE_BYTES :][:40]
    return (
        f"{len(data)} bytes that begin as {content} ({size} bytes) and differ from byte {same} on: {there!r}; "
        f"contents in it: {', '.join(contents_in(data)[:5])}; zeros: {data.count(0)}"
    )


def digest(data: bytes) -> str:
    """As the helper of a worker names bytes (`Hands`), so that these need not go through the pipe."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def line_of(content: str) -> bytes:
    """A line for a file to which everybody appends."""
    return make(content, SMALLEST_BYTES)[:-1] + b"\n"
