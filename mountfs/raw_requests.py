"""Requests that libfuse2 does not know, decoded from the kernel's own structures and answered with them.

libfuse2 ends at protocol 7.19 and would say ENOSYS; `negotiation` told the kernel that we go on to 7.38. What is not
here either (STATX, TMPFILE, SYNCFS, ...) still goes to the library, whose ENOSYS makes the kernel do without. Under
libfuse3 the same requests are answered here, so that both libraries behave alike.

Decides nothing: one request becomes one call of `FileSystemCalls`, a `GdahError` its errno, anything else EIO and a
traceback in the log, as in `fuse_ops`.

Threading: on the session's threads, many at once; frozen.
"""

from __future__ import annotations

import errno
import mmap
import struct
from collections.abc import Callable

from gdah_volume.errors import GdahError
from mountfs.kernel_cache import Changing
from mountfs.negotiation import REQUEST_HEADER_BYTES
from mountfs.ports import FileSystemCalls

RENAME2 = 45

_OPCODE = struct.Struct("=4xI")
_HEADER = struct.Struct("=IIQQIII")
"""struct fuse_in_header: length, opcode, unique, inode, uid, gid, pid; then the lengths of extensions, 0 here."""
_ANSWER = struct.Struct("=IiQ")
_RENAME = struct.Struct("=QI4x")
"""struct fuse_rename2_in: new folder, flags; then both names, each with its zero."""


class RawRequests:
    def __init__(self, calls: FileSystemCalls, changing: Changing, failed: Callable[[str], None]) -> None:
        """`failed(name)` is told inside of the handling of an exception that is no GdahError."""
        self._calls = calls
        self._changing = changing
        self._failed = failed
        self._handlers: dict[int, tuple[str, Callable[[int, bytes], bytes]]] = {RENAME2: ("rename", self._rename)}

    def answer(self, buffer: mmap.mmap, size: int) -> bytes | None:
        """The whole reply to the request in `buffer`; None: it is the library's."""
        (opcode,) = _OPCODE.unpack_from(buffer)
        found = self._handlers.get(opcode)
        if found is None:
            return None
        name, handler = found
        _, _, unique, ino, _, _, _ = _HEADER.unpack_from(buffer)
        code, payload = 0, b""
        try:
            payload = handler(ino, buffer[REQUEST_HEADER_BYTES:size])
        except GdahError as error:
            code = error.errno
        except BaseException:  # noqa: BLE001 - a request must be answered
            self._failed(name)
            code = errno.EIO
        return _ANSWER.pack(_ANSWER.size + len(payload), -code, unique) + payload

    def _rename(self, parent: int, body: bytes) -> bytes:
        new_parent, flags = _RENAME.unpack_from(body)
        name, new_name, _ = body[_RENAME.size :].split(b"\0", 2)
        with self._changing.names_in(parent, new_parent):
            self._calls.rename(parent, name, new_parent, new_name, flags)
        return b""
