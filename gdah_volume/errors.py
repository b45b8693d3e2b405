"""The one tree of errors. A class owns its errno, its code on the wire and its HTTP status.

    GdahError
    ├── FileSystemError      what a program may see: an expected refusal of a file operation
    │   ├── NotFound (NotAsSeen)  Exists  NotADirectory  IsADirectory  NotEmpty  NameTooLong  InvalidName
    │   ├── InvalidArgument  AccessDenied  NotPermitted  NotSupported  NoData  TooManyLinks  FileTooBig
    │   ├── NoSpace  ReadOnly  StaleHandle  BadHandle  OutOfRange  NoMoreData
    │   └── WouldBlock  Interrupted  Deadlock  TooManyLocks
    ├── RequestError         the other side said something wrong: 4xx, nothing stored
    │   ├── BadMessage (CutShort)  MessageTooBig  UnknownVolume  UnknownNode  UnknownVersion  UnknownChunk
    │   └── HashMismatch  Unauthorized  VersionFromTheFuture  OutOfOrder  HeldByBrake
    ├── Unavailable          remote or local trouble, worth another try elsewhere or later
    │   ├── Unreachable      no server answered in time
    │   ├── ContentUnavailable   a chunk is in no copy that can be reached: EIO
    │   └── StorageFailed    a disk refused: EIO; the server stops, never retries
    └── MountFailed          the folder cannot be mounted or unmounted; only a person can help
        └── MountBusy        programs still use it

Translated once at each edge: `fuse_ops` takes `.errno`, HTTP takes `.http_status`, the lane takes `.code`.
"""

from __future__ import annotations

import errno as _errno
from typing import ClassVar


class GdahError(Exception):
    """Base of all errors that gdah raises on purpose; the message says the cause and the next step."""

    errno: ClassVar[int] = _errno.EIO
    http_status: ClassVar[int] = 500

    @property
    def code(self) -> str:
        return type(self).__name__


class FileSystemError(GdahError):
    http_status = 409


class NotFound(FileSystemError):
    errno = _errno.ENOENT
    http_status = 404


class NotAsSeen(NotFound):
    """It is there, but no longer as the author saw it (moved, edited or merged by somebody): look again, then retry."""


class Exists(FileSystemError):
    errno = _errno.EEXIST


class NotADirectory(FileSystemError):
    errno = _errno.ENOTDIR


class IsADirectory(FileSystemError):
    errno = _errno.EISDIR


class NotEmpty(FileSystemError):
    errno = _errno.ENOTEMPTY


class NameTooLong(FileSystemError):
    errno = _errno.ENAMETOOLONG
    http_status = 400


class InvalidName(FileSystemError):
    errno = _errno.EINVAL
    http_status = 400


class InvalidArgument(FileSystemError):
    errno = _errno.EINVAL
    http_status = 400


class AccessDenied(FileSystemError):
    errno = _errno.EACCES
    http_status = 403


class NotPermitted(FileSystemError):
    errno = _errno.EPERM
    http_status = 403


class NotSupported(FileSystemError):
    errno = _errno.EOPNOTSUPP
    http_status = 501


class NoData(FileSystemError):
    errno = _errno.ENODATA
    http_status = 404


class NoMoreData(FileSystemError):
    errno = _errno.ENXIO
    http_status = 416


class TooManyLinks(FileSystemError):
    errno = _errno.EMLINK


class FileTooBig(FileSystemError):
    errno = _errno.EFBIG
    http_status = 413


class NoSpace(FileSystemError):
    errno = _errno.ENOSPC
    http_status = 507


class ReadOnly(FileSystemError):
    errno = _errno.EROFS
    http_status = 403


class StaleHandle(FileSystemError):
    errno = _errno.ESTALE
    http_status = 410


class BadHandle(FileSystemError):
    errno = _errno.EBADF
    http_status = 400


class OutOfRange(FileSystemError):
    errno = _errno.ERANGE
    http_status = 400


class WouldBlock(FileSystemError):
    """Somebody else holds the lock."""

    errno = _errno.EAGAIN


class Interrupted(FileSystemError):
    """A signal ended the wait for a lock."""

    errno = _errno.EINTR


class Deadlock(FileSystemError):
    """To wait for this lock would be to wait for oneself."""

    errno = _errno.EDEADLK


class TooManyLocks(FileSystemError):
    errno = _errno.ENOLCK


class RequestError(GdahError):
    errno = _errno.EPROTO
    http_status = 400


class BadMessage(RequestError):
    pass


class CutShort(BadMessage):
    """Whoever sent it is gone before its end: nobody hears the answer."""


class MessageTooBig(RequestError):
    http_status = 413


class UnknownVolume(RequestError):
    http_status = 404


class UnknownNode(RequestError):
    http_status = 404


class UnknownVersion(RequestError):
    http_status = 404


class UnknownChunk(RequestError):
    http_status = 404


class HashMismatch(RequestError):
    http_status = 422


class Unauthorized(RequestError):
    errno = _errno.EACCES
    http_status = 401


class VersionFromTheFuture(RequestError):
    http_status = 426


class OutOfOrder(RequestError):
    http_status = 409


class HeldByBrake(RequestError):
    """Too many deletions at once: a person has to confirm them."""

    http_status = 429


class Unavailable(GdahError):
    http_status = 503


class Unreachable(Unavailable):
    http_status = 502


class Retired(Unavailable):
    """This server is no member of the volume any more, for good."""

    http_status = 410


class ContentUnavailable(Unavailable):
    pass


class StorageFailed(Unavailable):
    pass


class MountFailed(GdahError):
    pass


class MountBusy(MountFailed):
    pass


def _tree(base: type[GdahError]) -> dict[str, type[GdahError]]:
    found: dict[str, type[GdahError]] = {base.__name__: base}
    for child in base.__subclasses__():
        found |= _tree(child)
    return found


BY_CODE: dict[str, type[GdahError]] = _tree(GdahError)


def from_code(code: str, message: str) -> GdahError:
    """The error that a peer named on the wire; an unknown code becomes a GdahError that says so."""
    kind = BY_CODE.get(code)
    return kind(message) if kind else GdahError(f"{code}: {message}")
