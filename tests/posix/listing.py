"""Listings of folders while entries come and go, and positions in them. Part of the caller's process."""

from __future__ import annotations

import ctypes
import os
from typing import Self

libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = ctypes.c_void_p
libc.opendir.argtypes = (ctypes.c_char_p,)
for name in ("readdir", "telldir", "rewinddir", "closedir"):
    getattr(libc, name).argtypes = (ctypes.c_void_p,)
libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
NAME_OFFSET = 19
"""Of d_name in struct dirent."""


class Stream:
    """DIR *"""

    def __init__(self, path: bytes) -> None:
        self._stream = libc.opendir(path)
        if not self._stream:
            raise OSError(ctypes.get_errno(), "opendir")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        libc.closedir(self._stream)

    def next(self) -> bytes | None:
        entry = libc.readdir(self._stream)
        return ctypes.string_at(entry + NAME_OFFSET) if entry else None

    def rest(self) -> list[bytes]:
        found = []
        while (name := self.next()) is not None:
            found.append(name)
        return found

    def tell(self) -> int:
        at: int = libc.telldir(self._stream)
        return at

    def seek(self, position: int) -> None:
        libc.seekdir(self._stream, position)

    def rewind(self) -> None:
        libc.rewinddir(self._stream)


def positions(path: bytes, step: int) -> list[str]:
    """What is wrong with telldir, seekdir and rewinddir."""
    wrong = []
    with Stream(path) as stream:
        told: list[tuple[int, bytes]] = []
        at = stream.tell()
        while (name := stream.next()) is not None:
            told.append((at, name))
            at = stream.tell()
        names = [name for _, name in told]
        for number in [*range(0, len(told), step), len(told) - 1, 0]:
            stream.seek(told[number][0])
            if stream.rest() != names[number:]:
                wrong.append(f"after seekdir to entry {number}")
        os.close(os.open(path + b"/made after opendir", os.O_CREAT | os.O_WRONLY))
        os.unlink(path + b"/" + max(names))
        stream.rewind()
        again = stream.rest()
        if sorted(again) != sorted({*names, b"made after opendir"} - {max(names)}):
            wrong.append("rewinddir does not show what there is now")
    return wrong


def churn(path: bytes, rounds: int) -> list[str]:
    """List a folder again and again, in small pieces, while another process makes and removes entries. What stays is in
    every listing once, nothing is in one twice."""
    stays = set(os.listdir(path))
    child = os.fork()
    if child == 0:
        try:
            for number in range(rounds):
                os.close(os.open(path + b"/%d comes" % (number % 50), os.O_CREAT | os.O_WRONLY))
                if number >= 20:
                    os.unlink(path + b"/%d comes" % ((number - 20) % 50))
        finally:
            os._exit(0)
    wrong, listings = [], 0
    while not wrong:
        ended = os.waitpid(child, os.WNOHANG)[0] != 0
        with Stream(path) as stream:
            found = [name for name in stream.rest() if name not in (b".", b"..")]
        listings += 1
        if len(found) != len(set(found)):
            wrong.append(f"listing {listings}: twice: {sorted(name for name in set(found) if found.count(name) > 1)}")
        if missing := stays - set(found):
            wrong.append(f"listing {listings}: {len(missing)} are missing, as {min(missing)!r}")
        if ended:
            return wrong
    os.waitpid(child, 0)
    return wrong
