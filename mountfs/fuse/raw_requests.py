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

from gdah_volume.errors import GdahError, InvalidArgument
from mountfs.fuse.kernel_cache import Changing
from mountfs.fuse.negotiation import REQUEST_HEADER_BYTES
from mountfs.ports import Caller, FileSystemCalls

RENAME2, LSEEK, COPY_FILE_RANGE, COPY_FILE_RANGE_64 = 45, 46, 47, 53

_OPCODE = struct.Struct("=4xI")
_HEADER = struct.Struct("=IIQQIII")
"""struct fuse_in_header: length, opcode, unique, inode, uid, gid, pid; then the lengths of extensions, 0 here."""
_ANSWER = struct.Struct("=IiQ")
_SEEK, _SOUGHT = struct.Struct("=QQI4x"), struct.Struct("=Q")
"""struct fuse_lseek_in: handle, offset, whence; fuse_lseek_out."""
_COPY, _COPIED, _COPIED_64 = struct.Struct("=QQQQQQQ"), struct.Struct("=I4x"), struct.Struct("=Q")
"""struct fuse_copy_file_range_in: handle, offset, inode, handle and offset of the target, length, flags; then
fuse_write_out, and fuse_copy_file_range_out (7.45, Linux 6.18)."""
_RENAME = struct.Struct("=QI4x")
"""struct fuse_rename2_in: new folder, flags; then both names, each with its zero."""


class RawRequests:
    def __init__(self, calls: FileSystemCalls, changing: Changing, failed: Callable[[str], None]) -> None:
        """`failed(name)` is told inside of the handling of an exception that is no GdahError."""
        self._calls = calls
        self._changing = changing
        self._failed = failed
        self._handlers: dict[int, tuple[str, Callable[[int, bytes, Caller], bytes]]] = {
            RENAME2: ("rename", self._rename),
            LSEEK: ("seek", self._seek),
            COPY_FILE_RANGE: ("copy_range", self._copy),
            COPY_FILE_RANGE_64: ("copy_range", self._copy_64),
        }

    def names(self) -> set[str]:
        """The calls that come here."""
        return {name for name, _ in self._handlers.values()}

    def answer(self, buffer: mmap.mmap, size: int) -> bytes | None:
        """The whole reply to the request in `buffer`; None: it is the library's."""
        (opcode,) = _OPCODE.unpack_from(buffer)
        found = self._handlers.get(opcode)
        if found is None:
            return None
        name, handler = found
        _, _, unique, ino, uid, gid, pid = _HEADER.unpack_from(buffer)
        code, payload = 0, b""
        try:
            payload = handler(ino, buffer[REQUEST_HEADER_BYTES:size], Caller(uid, gid, pid))
        except GdahError as error:
            code = error.errno
        except BaseException:  # noqa: BLE001 - a request must be answered
            self._failed(name)
            code = errno.EIO
        return _ANSWER.pack(_ANSWER.size + len(payload), -code, unique) + payload

    def _rename(self, parent: int, body: bytes, _caller: Caller) -> bytes:
        new_parent, flags = _RENAME.unpack_from(body)
        name, new_name, _ = body[_RENAME.size :].split(b"\0", 2)
        with self._changing.names_in(parent, new_parent):
            self._calls.rename(parent, name, new_parent, new_name, flags)
        return b""

    def _seek(self, ino: int, body: bytes, _caller: Caller) -> bytes:
        handle, offset, whence = _SEEK.unpack_from(body)
        return _SOUGHT.pack(self._calls.seek(ino, handle, offset, whence))

    def _copy(self, _ino: int, body: bytes, caller: Caller) -> bytes:
        return _COPIED.pack(self._copied(body, caller))

    def _copy_64(self, _ino: int, body: bytes, caller: Caller) -> bytes:
        return _COPIED_64.pack(self._copied(body, caller))

    def _copied(self, body: bytes, caller: Caller) -> int:
        handle, offset, _to_ino, to_handle, to_offset, length, flags = _COPY.unpack_from(body)
        if flags:
            raise InvalidArgument("copy_file_range has no flags")
        return self._calls.copy_range(handle, offset, to_handle, to_offset, length, caller)
