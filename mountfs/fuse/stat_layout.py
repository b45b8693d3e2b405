"""`Stat` as the bytes of struct stat, and of struct fuse_entry_param around it, on this kind of machine.

One call of `struct.pack` instead of fifteen assignments to a ctypes structure: attributes are in nearly every reply.
The layout is read off the `c_stat` of the binding; only its size, which `fuse_entry_param` needs and the binding leaves
short, is stated here. Pure arithmetic.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from gdah_volume.errors import MountFailed
from mountfs.ports import Stat

IO_BYTES = 128 << 10
"""st_blksize: what stdio and Python take as the size of their buffers, so that one flush is one request."""

_STAT_BYTES = {"x86_64": 144, "aarch64": 128, "ppc64le": 144}
"""sizeof(struct stat) of glibc and musl."""

_NAMES = ("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_blksize", "st_rdev")
_TIMES = ("st_atimespec", "st_mtimespec", "st_ctimespec")
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class StatLayout:
    """`order` picks the values of a stat, listed as in `_values`, in the order of the structure."""

    attributes: struct.Struct
    entry: struct.Struct
    order: Callable[[tuple[int, ...]], tuple[int, ...]]

    @classmethod
    def of(cls, c_stat: type[ctypes.Structure], machine: str | None = None) -> StatLayout:
        """Raises MountFailed on a machine whose struct stat is not known."""
        machine = machine or platform.machine()
        size = _STAT_BYTES.get(machine)
        if size is None or ctypes.sizeof(c_stat) > size:
            raise MountFailed(
                f"gdah does not know the layout of struct stat on {machine}; use {', '.join(_STAT_BYTES)}"
            )
        codes, order, end = "", [], 0
        for name, _type in _fields(c_stat):
            place = getattr(c_stat, name)
            if name in _TIMES:
                code, indexes = "qq", [len(_NAMES) + 2 * _TIMES.index(name) + part for part in (0, 1)]
            elif name in _NAMES:
                code, indexes = {4: "I", 8: "Q"}[place.size], [_NAMES.index(name)]
            else:
                continue
            codes += f"{place.offset - end}x{code}"
            order += indexes
            end = place.offset + place.size
        codes += f"{size - end}x"
        return cls(struct.Struct(f"={codes}"), struct.Struct(f"=QQ{codes}dd"), itemgetter(*order))

    def pack(self, stat: Stat) -> bytes:
        """struct stat"""
        return self.attributes.pack(*self.order(_values(stat)))

    def pack_entry(self, stat: Stat, attributes_s: float, entry_s: float) -> bytes:
        """struct fuse_entry_param; the generation is 0, because inode numbers are never used twice."""
        return self.entry.pack(stat.ino, 0, *self.order(_values(stat)), attributes_s, entry_s)

    def pack_absent(self, entry_s: float) -> bytes:
        """The entry that says: there is no such name, and for how long."""
        return self.entry.pack(0, 0, *(0,) * (len(_NAMES) + 2 * len(_TIMES)), 0.0, entry_s)


def _fields(c_stat: type[ctypes.Structure]) -> list[tuple[str, Any]]:
    return [(field[0], field[1]) for field in c_stat._fields_]


def _values(stat: Stat) -> tuple[int, ...]:
    return (
        stat.ino,
        stat.mode,
        stat.nlink,
        stat.uid,
        stat.gid,
        stat.size,
        stat.blocks,
        IO_BYTES,
        stat.rdev,
        *divmod(stat.atime_ns, _SECOND_NS),
        *divmod(stat.mtime_ns, _SECOND_NS),
        *divmod(stat.ctime_ns, _SECOND_NS),
    )
