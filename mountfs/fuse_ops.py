"""The translator between the kernel's requests and the file system as an object: every callback of libfuse's low-level
API becomes one call of `FileSystemCalls` and one reply. Decides nothing, knows no path and no server.

Every request is answered exactly once: a handler returns its answer as (reply function, arguments), and only `_guard`
sends it (but for locks, see `fuse_locks`). `GdahError` answers with its errno. Anything else is a fault of ours: EIO,
a traceback in the log, a count, and the mount lives on.

Threading: handlers run on the session's threads, many at once. The objects here are frozen but for the counter.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import sqlite3
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from gdah_volume.errors import GdahError, NotFound, OutOfRange
from mountfs.fuse.binding import (
    ROOT_INO,
    SET_ATIME,
    SET_ATIME_NOW,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_NOW,
    SET_SIZE,
    SET_UID,
    ForgetData,
    Library,
)
from mountfs.fuse.fuse_locks import LATER, LockHandlers, Waits
from mountfs.fuse.kernel_cache import Changing
from mountfs.fuse.raw_requests import RawRequests
from mountfs.ports import AttrChange, Caller, DirEntry, FileSystemCalls, Stat

log = logging.getLogger("gdah.fuse")

LOGGED_FAILURES = 100
"""Tracebacks in the log one by one; after that every hundredth, so that a fault cannot fill a disk."""

ROOT_NAMES_MAX = 50_000
"""Names in the root that the kernel may keep; it asks for further ones each time."""

Answer = tuple[Any, ...]

_SECOND_NS = 1_000_000_000
_ENTRY_INO = struct.Struct("=Q")
_OPENED = struct.Struct("=QII")
"""The kernel's struct fuse_open_out: handle, flags, padding. Made here, because libfuse2 knows only some flags."""
_DIRECT_IO, _KEEP_CACHE, _CACHE_LISTING = 1 << 0, 1 << 1, 1 << 3
_WRITE_FLAGS, _WRITE_FLAGS_BEFORE, _WRITE_KILL_SUID = ctypes.c_uint32, 20, 1 << 2
"""`write_flags` in the kernel's struct fuse_write_in, which lies right before the bytes; libfuse2 passes on one of them
only. The kernel says so who writes without the right to leave set-user-id (see HANDLE_KILLPRIV_V2 in `negotiation`)."""
_DIRENT = struct.Struct("=QQII")
"""The kernel's struct fuse_dirent: inode, cookie, length of the name, type; then the name, padded to 8."""


@dataclass(frozen=True, slots=True)
class CacheTimes:
    """For how long the kernel may answer by itself, in seconds. Long ones need a KernelCache that tells of changes.
    Listings are kept as long as nothing is told about the folder, unless `entry_s` is 0."""

    entry_s: float = 3600.0
    attributes_s: float = 3600.0
    absent_s: float = 3600.0


class FuseOps:
    """What a session serves: the file system, and what the kernel may keep of its answers."""

    def __init__(self, calls: FileSystemCalls, times: CacheTimes | None = None) -> None:
        self.calls = calls
        self.times = times or CacheTimes()
        self.asked: dict[bytes, None] = {}
        """Names in the root that the kernel asked for."""
        self._lock = threading.Lock()  # guards `failures`
        self.failures = 0
        """Handlers that ended in an exception which is no GdahError: faults of ours."""
        self.changing = Changing()
        self.raw = RawRequests(calls, self.changing, self._failed)

    def callbacks(self, library: Library) -> dict[str, Callable[..., None]]:
        """By name of the operation, for `Library.table`."""
        self.waits = Waits(library)
        handlers = _Handlers(self.calls, self.times, library, self.asked, self.waits, self.changing)
        return {name: self._guard(name, getattr(handlers, name), handlers) for name in HANDLED}

    def root_names(self) -> list[bytes]:
        """The names in the root that the kernel may know, present or absent: it asks before it keeps one."""
        return list(self.asked)

    def _guard(self, name: str, handler: Callable[..., Answer], handlers: _Handlers) -> Callable[..., None]:
        reply_err = handlers.library.reply_err

        def callback(request: int, *args: Any) -> None:
            try:
                answer = handler(request, *args)
            except GdahError as error:
                answer = (reply_err, error.errno)
            except sqlite3.Error as error:
                log.warning("the cache of this mount cannot be used, see its disk: op=%s: %s", name, error)
                answer = (reply_err, errno.EIO)
            except BaseException:  # noqa: BLE001 - nothing may pass through libfuse, and a request must be answered
                self._failed(name)
                answer = (reply_err, errno.EIO)
            if answer is LATER:
                return
            try:
                refused = answer[0](request, *answer[1:])
            except BaseException:  # noqa: BLE001 - raised before libfuse was called: nothing was answered yet
                self._failed(name)
                reply_err(request, errno.EIO)
                return
            if refused:  # answered and freed all the same
                try:
                    handlers.take_back(name, args, answer)
                except BaseException:  # noqa: BLE001
                    self._failed(name)

        return callback

    def _failed(self, name: str) -> None:
        with self._lock:
            self.failures += 1
            count = self.failures
        if count <= LOGGED_FAILURES or count % LOGGED_FAILURES == 0:
            log.exception("fuse handler failed op=%s count=%d", name, count)


class _Handlers(LockHandlers):
    """One method for each operation, with libfuse's arguments; each returns its answer."""

    def __init__(
        self,
        calls: FileSystemCalls,
        times: CacheTimes,
        library: Library,
        asked: dict[bytes, None],
        waits: Waits,
        changing: Changing,
    ) -> None:
        self.calls = calls
        self.changing = changing
        self.library = library
        self.waits = waits
        self.asked = asked
        self.done = (library.reply_err, 0)
        self.attributes_s, self.entry_s = times.attributes_s, times.entry_s
        self.absent = library.stat_layout.pack_absent(times.absent_s) if times.absent_s > 0 else None
        self.listing = _CACHE_LISTING | _KEEP_CACHE if times.entry_s > 0 else 0

    def take_back(self, name: str, args: tuple[Any, ...], answer: Answer) -> None:
        """The kernel did not take the answer: give back the references and handles that it carried."""
        if answer[0] in (self.library.reply_entry, self.library.reply_create):
            (ino,) = _ENTRY_INO.unpack_from(answer[1])
            if ino and name == "create":
                self.calls.release(ino, self.library.handle(args[-1]))
            if ino:
                self.calls.forget(ino, 1)
        elif name in ("open", "opendir") and answer[0] is self.library.reply_buf:
            give_back = self.calls.release if name == "open" else self.calls.releasedir
            give_back(args[0], _OPENED.unpack(answer[1])[0])

    # --- answers

    def _entry(self, stat: Stat) -> Answer:
        return self.library.reply_entry, self._packed(stat)

    def _packed(self, stat: Stat) -> bytes:
        return self.library.stat_layout.pack_entry(stat, self.attributes_s, self.entry_s)

    def _attributes(self, stat: Stat) -> Answer:
        return self.library.reply_attr, self.library.stat_layout.pack(stat), self.attributes_s

    def _opened(self, handle: int, flags: int) -> Answer:
        return self.library.reply_buf, _OPENED.pack(handle, flags, 0), _OPENED.size

    def _caller(self, request: int) -> Caller:
        return Caller(*self.library.caller(request))

    def _handle(self, file_info: int) -> int:
        return self.library.handle(file_info)

    # --- names and attributes

    def lookup(self, _request: int, parent: int, name: bytes) -> Answer:
        keep = parent != ROOT_INO or self._remember(name)
        try:
            stat = self.calls.lookup(parent, name)
        except NotFound:
            if self.absent is None or not keep:
                raise
            return self.library.reply_entry, self.absent
        entry_s = self.entry_s if keep else 0.0
        return self.library.reply_entry, self.library.stat_layout.pack_entry(stat, self.attributes_s, entry_s)

    def _remember(self, name: bytes) -> bool:
        if name not in self.asked and len(self.asked) < ROOT_NAMES_MAX:
            self.asked[name] = None
        return name in self.asked

    def forget(self, _request: int, ino: int, count: int) -> Answer:
        self.calls.forget(ino, count)
        return (self.library.reply_none,)

    def forget_multi(self, _request: int, count: int, address: int) -> Answer:
        for item in (ForgetData * count).from_address(address):
            self.calls.forget(item.ino, item.nlookup)
        return (self.library.reply_none,)

    def getattr(self, _request: int, ino: int, file_info: int | None) -> Answer:
        handle = self._handle(file_info) if file_info else None
        return self._attributes(self.calls.getattr(ino, handle))

    def setattr(self, request: int, ino: int, address: int, to_set: int, file_info: int | None) -> Answer:
        handle = self._handle(file_info) if file_info else None
        change = self._change(self.library.c_stat.from_address(address), to_set)
        return self._attributes(self.calls.setattr(ino, change, handle, self._caller(request)))

    def _change(self, stat: Any, to_set: int) -> AttrChange:
        return AttrChange(
            mode=stat.st_mode & 0o7777 if to_set & SET_MODE else None,
            uid=stat.st_uid if to_set & SET_UID else None,
            gid=stat.st_gid if to_set & SET_GID else None,
            size=stat.st_size if to_set & SET_SIZE else None,
            atime_ns=_time(stat.st_atimespec, to_set, SET_ATIME, SET_ATIME_NOW),
            mtime_ns=_time(stat.st_mtimespec, to_set, SET_MTIME, SET_MTIME_NOW),
        )

    def readlink(self, _request: int, ino: int) -> Answer:
        return self.library.reply_readlink, self.calls.readlink(ino)

    def mknod(self, request: int, parent: int, name: bytes, mode: int, rdev: int) -> Answer:
        with self.changing.names_in(parent):
            return self._entry(self.calls.mknod(parent, name, mode, rdev, self._caller(request)))

    def mkdir(self, request: int, parent: int, name: bytes, mode: int) -> Answer:
        with self.changing.names_in(parent):
            return self._entry(self.calls.mkdir(parent, name, mode, self._caller(request)))

    def symlink(self, request: int, target: bytes, parent: int, name: bytes) -> Answer:
        with self.changing.names_in(parent):
            return self._entry(self.calls.symlink(parent, name, target, self._caller(request)))

    def link(self, _request: int, ino: int, new_parent: int, new_name: bytes) -> Answer:
        with self.changing.names_in(new_parent):
            return self._entry(self.calls.link(ino, new_parent, new_name))

    def unlink(self, _request: int, parent: int, name: bytes) -> Answer:
        with self.changing.names_in(parent):
            self.calls.unlink(parent, name)
            return self.done

    def rmdir(self, _request: int, parent: int, name: bytes) -> Answer:
        with self.changing.names_in(parent):
            self.calls.rmdir(parent, name)
            return self.done

    def rename(
        self, _request: int, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> Answer:
        with self.changing.names_in(parent, new_parent):
            self.calls.rename(parent, name, new_parent, new_name, flags)
            return self.done

    # --- files

    def create(self, request: int, parent: int, name: bytes, mode: int, file_info: int) -> Answer:
        with self.changing.names_in(parent):
            info = self.library.c_file_info.from_address(file_info)
            stat, opened = self.calls.create(parent, name, mode, info.flags, self._caller(request))
            info.fh, info.keep_cache, info.direct_io = opened.handle, opened.keep_cache, opened.direct_io
            return self.library.reply_create, self._packed(stat), file_info

    def open(self, request: int, ino: int, file_info: int) -> Answer:
        flags = self.library.c_file_info.from_address(file_info).flags
        opened = self.calls.open(ino, flags, self._caller(request))
        # Never _NO_FLUSH, also for who only reads: close(2) gives back the locks of its process.
        answer = _KEEP_CACHE if opened.keep_cache else 0
        answer |= _DIRECT_IO if opened.direct_io else 0
        return self._opened(opened.handle, answer)

    def read(self, _request: int, ino: int, size: int, offset: int, file_info: int) -> Answer:
        data = self.calls.read(ino, self._handle(file_info), offset, size)
        return self.library.reply_data, data, len(data)

    def write(self, request: int, ino: int, address: int, size: int, offset: int, file_info: int) -> Answer:
        # A copy, 10 us for 128 KiB: the buffer belongs to the next request as soon as this one is answered.
        data = ctypes.string_at(address, size)
        kills = _WRITE_FLAGS.from_address(address - _WRITE_FLAGS_BEFORE).value & _WRITE_KILL_SUID
        killer = self._caller(request) if kills else None
        written = self.calls.write(ino, self._handle(file_info), offset, data, killer=killer)
        return self.library.reply_write, written

    def fallocate(self, request: int, ino: int, mode: int, offset: int, length: int, file_info: int) -> Answer:
        self.calls.allocate(ino, self._handle(file_info), mode, offset, length, self._caller(request))
        return self.done

    def flush(self, _request: int, ino: int, file_info: int) -> Answer:
        self.calls.flush(ino, self._handle(file_info), self.library.lock_owner(file_info))
        return self.done

    def fsync(self, _request: int, ino: int, data_only: int, file_info: int) -> Answer:
        self.calls.fsync(ino, self._handle(file_info), data_only=bool(data_only))
        return self.done

    def release(self, _request: int, ino: int, file_info: int) -> Answer:
        self.calls.release(ino, self._handle(file_info))
        return self.done

    # --- folders

    def opendir(self, _request: int, ino: int, _file_info: int) -> Answer:
        return self._opened(self.calls.opendir(ino), self.listing)

    def readdir(self, _request: int, ino: int, size: int, offset: int, file_info: int) -> Answer:
        listing, used = [], 0
        for entry in self.calls.readdir(ino, self._handle(file_info), offset):
            packed = pack_direntry(entry)
            used += len(packed)
            if used > size:
                break
            listing.append(packed)
        data = b"".join(listing)
        return self.library.reply_buf, data, len(data)

    def releasedir(self, _request: int, ino: int, file_info: int) -> Answer:
        self.calls.releasedir(ino, self._handle(file_info))
        return self.done

    def fsyncdir(self, _request: int, ino: int, _data_only: int, file_info: int) -> Answer:
        self.calls.fsyncdir(ino, self._handle(file_info))
        return self.done

    def statfs(self, _request: int, _ino: int) -> Answer:
        room = self.calls.statfs()
        answer = self.library.c_statvfs(
            f_bsize=room.block_size,
            f_frsize=room.block_size,
            f_blocks=room.blocks,
            f_bfree=room.blocks_free,
            f_bavail=room.blocks_free,
            f_files=room.files,
            f_ffree=room.files_free,
            f_favail=room.files_free,
            f_namemax=room.name_max,
        )
        return self.library.reply_statfs, ctypes.byref(answer)

    # --- extended attributes

    def setxattr(self, _request: int, ino: int, name: bytes, address: int, size: int, flags: int) -> Answer:
        self.calls.setxattr(ino, name, ctypes.string_at(address, size) if size else b"", flags)
        return self.done

    def getxattr(self, _request: int, ino: int, name: bytes, size: int) -> Answer:
        return self._sized(self.calls.getxattr(ino, name), size)

    def listxattr(self, request: int, ino: int, size: int) -> Answer:
        names = self.calls.listxattr(ino, self._caller(request))
        return self._sized(b"".join(name + b"\0" for name in names), size)

    def _sized(self, value: bytes, size: int) -> Answer:
        """Size 0 asks how much room the value needs."""
        if size == 0:
            return self.library.reply_xattr, len(value)
        if len(value) > size:
            raise OutOfRange("the value needs more room than was given")
        return self.library.reply_buf, value, len(value)

    def removexattr(self, _request: int, ino: int, name: bytes) -> Answer:
        self.calls.removexattr(ino, name)
        return self.done


HANDLED = tuple(
    name
    for name, value in (vars(_Handlers) | vars(LockHandlers)).items()
    if name[0] != "_" and name != "take_back" and callable(value)
)
"""What is not in it stays null: the kernel hears ENOSYS and stops asking (access, bmap, ioctl, poll)."""


def pack_direntry(entry: DirEntry) -> bytes:
    """What fuse_add_direntry would write, without the call for each name."""
    size = len(entry.name)
    head = _DIRENT.pack(entry.ino, entry.offset, size, (entry.mode & 0o170000) >> 12)
    return b"".join((head, entry.name, b"\0" * (-size % 8)))


def _time(value: Any, to_set: int, given: int, now: int) -> int | Literal["now"] | None:
    if to_set & now:
        return "now"
    if to_set & given:
        return int(value.tv_sec) * _SECOND_NS + int(value.tv_nsec)
    return None
