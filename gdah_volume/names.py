"""Conflict names: how the second of two that want one place is called. Pure; the same on every replica.

`report.txt` becomes `report (conflict laptop a1b2c3-9f3c-42).txt`: the device and the rest of the id of the operation
that found the place taken. A conflict name of a conflict name does not grow: the older suffix is taken off first.
"""

from __future__ import annotations

import re

from gdah_volume.ids import NAME_MAX_BYTES, OpId, device_of, short_of

_SUFFIX = re.compile(rb" \(conflict [a-z0-9_]{1,20} [0-9a-f]{6}-[0-9a-f]{4,8}-[1-9][0-9]{0,14}(?: [0-9]{1,9})?\)")
_EXTENSION_MAX_BYTES = 32


def is_conflict(name: bytes) -> bool:
    return b" (conflict " in name and _SUFFIX.search(name) is not None


def without_conflict(name: bytes) -> bytes:
    """The name without its conflict suffixes (itself if nothing else would be left)."""
    return _SUFFIX.sub(b"", name) or name


def conflict_name(want: bytes, op: OpId, attempt: int = 1) -> bytes:
    """The name for the `attempt`-th try, at most NAME_MAX_BYTES long."""
    want = without_conflict(want)
    stem, dot, extension = want.rpartition(b".")
    if not stem or not extension or len(extension) > _EXTENSION_MAX_BYTES:
        stem, dot, extension = want, b"", b""
    count = f" {attempt}" if attempt > 1 else ""
    suffix = f" (conflict {device_of(op)} {short_of(op)}{count})".encode("utf-8", "surrogateescape")
    return _cut(stem, NAME_MAX_BYTES - len(suffix) - len(dot) - len(extension)) + suffix + dot + extension


def _cut(stem: bytes, limit: int) -> bytes:
    """At most `limit` bytes of it, not ending inside a UTF-8 character."""
    if len(stem) <= limit:
        return stem
    end = limit
    while end > limit - 3 and end > 1 and stem[end] & 0xC0 == 0x80:
        end -= 1
    return stem[:end]
