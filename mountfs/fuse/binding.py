"""The FUSE library of this machine: its structures, its calls, and how a session with the kernel starts and ends.

The one module that knows which library is there: libfuse2 through fusepy, or, where only libfuse3 exists, libfuse3
through mfusepy, fusepy's maintained successor. Both give the library handle and its vocabulary (`c_stat`,
`fuse_file_info`, ...); what they lack is declared here from the headers of libfuse 2.9 and 3.14: the LOW-LEVEL API.
That API names files by inode number, where fusepy's own `FUSE` class names them by path, which breaks on renamed or
unlinked open files and cannot invalidate exactly. Refuses to know what any operation means.

Threading: a `Library` and a `Connection` are used from many threads; libfuse guards its own lists.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import os
from collections.abc import Callable, Mapping
from ctypes import POINTER, c_char_p, c_double, c_int, c_size_t, c_uint, c_ulong, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gdah_volume.errors import MountFailed
from mountfs.fuse.negotiation import MAX_WRITE_BYTES, RECEIVE_BYTES, agreed
from mountfs.fuse.stat_layout import StatLayout

ROOT_INO = 1
_ANSWER_MAX_BYTES = 4096

CAP_ATOMIC_O_TRUNC = 1 << 3
CAP_BIG_WRITES = 1 << 5
CAP_SPLICE = 1 << 7 | 1 << 8 | 1 << 9
CAP_AUTO_INVAL_DATA = 1 << 12
CAP_HANDLE_KILLPRIV = 1 << 20
# libfuse3's own numbers; libfuse2 does not know these, see `negotiation`.
CAP_ASYNC_DIO, CAP_PARALLEL_DIROPS, CAP_CACHE_SYMLINKS = 1 << 15, 1 << 18, 1 << 23

SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_ATIME, SET_MTIME = (1 << bit for bit in range(6))
SET_ATIME_NOW, SET_MTIME_NOW = 1 << 7, 1 << 8

_REQ, _INO, _OFF, _MODE = c_void_p, c_ulong, ctypes.c_longlong, c_uint
_FILE = c_void_p  # struct fuse_file_info *: an address, so that reading one field makes no ctypes object

# struct fuse_lowlevel_ops up to 2.9, in its order. Every callback returns void.
_OPERATIONS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("init", (c_void_p, c_void_p)),
    ("destroy", (c_void_p,)),
    ("lookup", (_REQ, _INO, c_char_p)),
    ("forget", (_REQ, _INO, c_ulong)),
    ("getattr", (_REQ, _INO, _FILE)),
    ("setattr", (_REQ, _INO, c_void_p, c_int, _FILE)),
    ("readlink", (_REQ, _INO)),
    ("mknod", (_REQ, _INO, c_char_p, _MODE, ctypes.c_ulonglong)),
    ("mkdir", (_REQ, _INO, c_char_p, _MODE)),
    ("unlink", (_REQ, _INO, c_char_p)),
    ("rmdir", (_REQ, _INO, c_char_p)),
    ("symlink", (_REQ, c_char_p, _INO, c_char_p)),
    ("rename", (_REQ, _INO, c_char_p, _INO, c_char_p)),
    ("link", (_REQ, _INO, _INO, c_char_p)),
    ("open", (_REQ, _INO, _FILE)),
    ("read", (_REQ, _INO, c_size_t, _OFF, _FILE)),
    ("write", (_REQ, _INO, c_void_p, c_size_t, _OFF, _FILE)),
    ("flush", (_REQ, _INO, _FILE)),
    ("release", (_REQ, _INO, _FILE)),
    ("fsync", (_REQ, _INO, c_int, _FILE)),
    ("opendir", (_REQ, _INO, _FILE)),
    ("readdir", (_REQ, _INO, c_size_t, _OFF, _FILE)),
    ("releasedir", (_REQ, _INO, _FILE)),
    ("fsyncdir", (_REQ, _INO, c_int, _FILE)),
    ("statfs", (_REQ, _INO)),
    ("setxattr", (_REQ, _INO, c_char_p, c_void_p, c_size_t, c_int)),
    ("getxattr", (_REQ, _INO, c_char_p, c_size_t)),
    ("listxattr", (_REQ, _INO, c_size_t)),
    ("removexattr", (_REQ, _INO, c_char_p)),
    ("access", (_REQ, _INO, c_int)),
    ("create", (_REQ, _INO, c_char_p, _MODE, _FILE)),
    ("getlk", (_REQ, _INO, _FILE, c_void_p)),
    ("setlk", (_REQ, _INO, _FILE, c_void_p, c_int)),
    ("bmap", (_REQ, _INO, c_size_t, ctypes.c_uint64)),
    ("ioctl", (_REQ, _INO, c_int, c_void_p, _FILE, c_uint, c_void_p, c_size_t, c_size_t)),
    ("poll", (_REQ, _INO, _FILE, c_void_p)),
    ("write_buf", (_REQ, _INO, c_void_p, _OFF, _FILE)),
    ("retrieve_reply", (_REQ, c_void_p, _INO, _OFF, c_void_p)),
    ("forget_multi", (_REQ, c_size_t, c_void_p)),
    ("flock", (_REQ, _INO, _FILE, c_int)),
    ("fallocate", (_REQ, _INO, c_int, _OFF, _OFF, _FILE)),
)
# What libfuse3 changed and added; the three at the end stay null: the kernel copies, seeks and lists without them.
_CHANGED_IN_3 = {"rename": (_REQ, _INO, c_char_p, _INO, c_char_p, c_uint)}
_ADDED_IN_3 = (
    ("readdirplus", (_REQ, _INO, c_size_t, _OFF, _FILE)),
    ("copy_file_range", (_REQ, _INO, _OFF, _FILE, _INO, _OFF, _FILE, c_size_t, c_int)),
    ("lseek", (_REQ, _INO, _OFF, c_int, _FILE)),
)


class _Args(ctypes.Structure):
    _fields_ = [("argc", c_int), ("argv", POINTER(c_char_p)), ("allocated", c_int)]


class _Context(ctypes.Structure):
    """struct fuse_ctx"""

    _fields_ = [("uid", c_uint), ("gid", c_uint), ("pid", c_int), ("umask", c_uint)]


class ForgetData(ctypes.Structure):
    """struct fuse_forget_data"""

    _fields_ = [("ino", ctypes.c_uint64), ("nlookup", ctypes.c_uint64)]


class FLock(ctypes.Structure):
    """struct flock of fcntl(2), on machines of 64 bits"""

    _fields_ = [("l_type", ctypes.c_short), ("l_whence", ctypes.c_short), ("l_start", _OFF), ("l_len", _OFF)]
    _fields_ += [("l_pid", c_int)]


_INTERRUPTED = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)


class _Part(ctypes.Structure):
    """struct iovec"""

    _fields_ = [("base", c_void_p), ("size", c_size_t)]


_SEND = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(_Part), c_size_t)


class _ChannelOps(ctypes.Structure):
    """struct fuse_chan_ops of libfuse2"""

    _fields_ = [("receive", c_void_p), ("send", _SEND), ("destroy", c_void_p)]


class _Buffer(ctypes.Structure):
    """struct fuse_buf"""

    _fields_ = [("size", c_size_t), ("flags", c_int), ("mem", c_void_p), ("fd", c_int), ("pos", _OFF)]


def _connection_info(major: int) -> type[ctypes.Structure]:
    """struct fuse_conn_info, as far as it is used"""
    second = ("async_read", "max_write") if major == 2 else ("max_write", "max_read")
    names = ("proto_major", "proto_minor", *second, "max_readahead", "capable", "want", "max_background")
    fields = [(name, c_uint) for name in (*names, "congestion_threshold")]
    return type("fuse_conn_info", (ctypes.Structure,), {"_fields_": fields})


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How the kernel mounts. Sizes are in bytes."""

    fsname: str = "gdah"
    subtype: str = "gdah"
    allow_other: bool = False
    read_only: bool = False
    privileged: bool = False
    """Set-user-id programs and device nodes work; only root may mount so. Else the kernel ignores both."""
    default_permissions: bool = True
    max_readahead_bytes: int = 1 << 20
    max_background: int = 48
    """Read-ahead and asynchronous requests that the kernel lets run at once."""
    threads: int = 8
    max_threads: int = 64
    """More are started while all of them are busy. Above `max_background`, so that read-ahead which waits for a slow
    server leaves threads for everybody else."""

    def kernel_words(self) -> str:
        """The argument of `-o`; a comma or backslash inside of a name is escaped."""
        name = self.fsname.replace("\\", "\\\\").replace(",", "\\,")
        words = [f"fsname={name}", f"subtype={self.subtype}", "ro" if self.read_only else "rw"]
        words += ["allow_other"] if self.allow_other else []
        words += ["suid", "dev"] if self.privileged else []
        words += ["default_permissions"] if self.default_permissions else []
        return ",".join(words)


class Connection(Protocol):
    """One mounted session. `fd` is where the kernel's requests are read from, one per read."""

    fd: int

    def greet(self, address: int, size: int) -> None:
        """Answer INIT, the first request. Call `ended` after it."""
        ...

    def process(self, address: int, size: int) -> None:
        """Decode one request and call its callback, which replies."""
        ...

    def ended(self) -> bool:
        """Whether the library gave the session up, as when it cannot agree on a protocol with the kernel."""
        ...

    def notify_inode(self, ino: int) -> int:
        """Forget attributes and pages of `ino`; 0 or a negative errno. May wait for requests that are under way."""
        ...

    def notify_entry(self, parent: int, name: bytes) -> int:
        """Forget what `name` in `parent` is, present or absent; as `notify_inode`."""
        ...

    def close(self) -> None:
        """Give back what the library holds. Nothing else may use the connection any more."""
        ...


class Library:
    """libfuse with every prototype declared. Reply functions answer one request, and free it whatever they return."""

    def __init__(self, vocabulary: Any, major: int) -> None:
        self.major = major
        self.c_stat = vocabulary.c_stat
        self.c_statvfs = vocabulary.c_statvfs
        self.c_file_info = vocabulary.fuse_file_info
        self.stat_layout = StatLayout.of(vocabulary.c_stat)
        self._handle_offset: int = vocabulary.fuse_file_info.fh.offset
        self._owner_offset: int = vocabulary.fuse_file_info.lock_owner.offset
        self.waiting = vocabulary._libfuse
        # Replies and decoding are short and never wait, so they keep the interpreter lock: giving it up and taking it
        # back costs more than they do, and under load somebody else takes it in between.
        self.short = ctypes.PyDLL(self.waiting._name)
        self._declare()
        changed = _CHANGED_IN_3 if major == 3 else {}
        table = (*_OPERATIONS, *(_ADDED_IN_3 if major == 3 else ()))
        self._prototypes = {name: ctypes.CFUNCTYPE(None, *changed.get(name, args)) for name, args in table}
        self._table_type = type("fuse_lowlevel_ops", (ctypes.Structure,), {"_fields_": [*self._prototypes.items()]})

    def _declare(self) -> None:
        def reply(name: str, *args: Any, library: Any = self.short) -> Any:
            function = library[f"fuse_reply_{name}"]
            function.argtypes, function.restype = (_REQ, *args), c_int
            return function

        self.reply_err = reply("err", c_int)
        self.reply_none = reply("none")
        self.reply_none.restype = None
        self.reply_entry = reply("entry", c_char_p)
        self.reply_create = reply("create", c_char_p, _FILE)
        self.reply_attr = reply("attr", c_char_p, c_double)
        self.reply_readlink = reply("readlink", c_char_p)
        self.reply_write = reply("write", c_size_t)
        self.reply_buf = reply("buf", c_char_p, c_size_t)
        self.reply_data = reply("buf", c_char_p, c_size_t, library=self.waiting)
        self.reply_statfs = reply("statfs", POINTER(self.c_statvfs))
        self.reply_xattr = reply("xattr", c_size_t)
        self.reply_lock = reply("lock", c_void_p)
        # It waits for a lock that the callback's thread holds, so it must not keep the interpreter's meanwhile.
        self._interrupt_func = _declare(self.waiting, "fuse_req_interrupt_func", None, _REQ, _INTERRUPTED, c_void_p)
        self._req_ctx = self.short["fuse_req_ctx"]
        self._req_ctx.argtypes, self._req_ctx.restype = (_REQ,), c_void_p
        self.add_direntry = self.short["fuse_add_direntry"]
        self.add_direntry.argtypes = (_REQ, c_void_p, c_size_t, c_char_p, c_void_p, _OFF)
        self.add_direntry.restype = c_size_t

    def caller(self, request: int) -> tuple[int, int, int, int]:
        """uid, gid, pid and umask of who asks."""
        context = _Context.from_address(self._req_ctx(request))
        return context.uid, context.gid, context.pid, context.umask

    def handle(self, file_info: int) -> int:
        """The handle that open or opendir gave."""
        value: int = ctypes.c_uint64.from_address(file_info + self._handle_offset).value
        return value

    def lock_owner(self, file_info: int) -> int:
        """In a lock request, flush and release: whose locks it is about."""
        value: int = ctypes.c_uint64.from_address(file_info + self._owner_offset).value
        return value

    @staticmethod
    def interrupt_callback(note: Callable[[int], None]) -> Any:
        """For `on_interrupt`; whoever uses it keeps it alive. `note(key)` must neither wait nor reply."""
        return _INTERRUPTED(lambda _request, key: note(key or 0))

    def on_interrupt(self, request: int, callback: Any, key: int) -> None:
        """Have `callback` called when the kernel takes the request back, perhaps before this returns."""
        self._interrupt_func(request, callback, key)

    def table(self, callbacks: Mapping[str, Callable[..., None]], options: MountOptions) -> ctypes.Structure:
        """struct fuse_lowlevel_ops. An operation without a callback stays null, and libfuse says ENOSYS for it."""
        info_type = _connection_info(self.major)

        def init(_userdata: int | None, address: int) -> None:
            info: Any = info_type.from_address(address)
            info.max_readahead = options.max_readahead_bytes
            info.max_write = MAX_WRITE_BYTES
            info.max_background = options.max_background
            info.congestion_threshold = options.max_background * 3 // 4
            later = CAP_ASYNC_DIO | CAP_PARALLEL_DIROPS | CAP_CACHE_SYMLINKS
            want = CAP_ATOMIC_O_TRUNC | (CAP_BIG_WRITES if self.major == 2 else later)
            # Splicing would fill pipes instead of our buffers; data is invalidated by us, exactly; and set-user-id
            # bits are taken away by the kernel itself.
            unwanted = CAP_SPLICE | CAP_AUTO_INVAL_DATA | CAP_HANDLE_KILLPRIV
            info.want = (info.want | want & info.capable) & ~unwanted

        functions = {"init": init, **callbacks}
        pointers = {name: self._prototypes[name](function) for name, function in functions.items()}
        table: ctypes.Structure = self._table_type(**pointers)
        return table

    def connect(self, path: Path, table: ctypes.Structure, options: MountOptions) -> Connection:
        """Mount. Raises MountFailed; libfuse or fusermount then said why on standard error."""
        kind = _Connection2 if self.major == 2 else _Connection3
        return kind(self, path, table, options)


def _arguments(*words: str) -> _Args:
    vector = (c_char_p * (len(words) + 1))(*(os.fsencode(word) for word in words), None)
    return _Args(len(words), ctypes.cast(vector, POINTER(c_char_p)), 0)


def _declare(library: Any, name: str, restype: Any, *argtypes: Any) -> Any:
    function = library[name]
    function.argtypes, function.restype = argtypes, restype
    return function


def _refused(path: Path) -> MountFailed:
    return MountFailed(f"{path} could not be mounted; the line above says why, see also fusermount(1)")


class _Connection2:
    """libfuse2: a channel mounted first, then a session on it."""

    def __init__(self, library: Library, path: Path, table: ctypes.Structure, options: MountOptions) -> None:
        waiting, short = library.waiting, library.short
        self._waiting = waiting
        self._path = os.fsencode(path)
        self._table = table  # libfuse copied the pointers; the functions behind them live here
        mount = _declare(waiting, "fuse_mount", c_void_p, c_char_p, POINTER(_Args))
        new = _declare(waiting, "fuse_lowlevel_new", c_void_p, POINTER(_Args), c_void_p, c_size_t, c_void_p)
        self._unmount = _declare(waiting, "fuse_unmount", None, c_char_p, c_void_p)
        self._destroy = _declare(waiting, "fuse_session_destroy", None, c_void_p)
        self._remove = _declare(waiting, "fuse_session_remove_chan", None, c_void_p)
        self._process = _declare(short, "fuse_session_process", None, c_void_p, c_void_p, c_size_t, c_void_p)
        self._exited = _declare(short, "fuse_session_exited", c_int, c_void_p)
        self._inval_inode = _declare(waiting, "fuse_lowlevel_notify_inval_inode", c_int, c_void_p, _INO, _OFF, _OFF)
        self._inval_entry = _declare(
            waiting, "fuse_lowlevel_notify_inval_entry", c_int, c_void_p, _INO, c_char_p, c_size_t
        )
        free_args = _declare(waiting, "fuse_opt_free_args", None, POINTER(_Args))

        mount_args, session_args = _arguments("gdah", "-o", options.kernel_words()), _arguments("gdah")
        self._channel = mount(self._path, ctypes.byref(mount_args))
        free_args(ctypes.byref(mount_args))
        if not self._channel:
            raise _refused(path)
        self._session = new(ctypes.byref(session_args), ctypes.byref(table), ctypes.sizeof(table), None)
        free_args(ctypes.byref(session_args))
        if not self._session:
            self._unmount(self._path, self._channel)
            raise _refused(path)
        _declare(waiting, "fuse_session_add_chan", None, c_void_p, c_void_p)(self._session, self._channel)
        self.fd: int = _declare(waiting, "fuse_chan_fd", c_int, c_void_p)(self._channel)
        os.set_inheritable(self.fd, False)

    def greet(self, address: int, size: int) -> None:
        """libfuse answers into a channel that only collects; the kernel hears what `negotiation` makes of it."""
        collected: list[bytes] = []

        def send(_channel: int, parts: Any, count: int) -> int:
            collected.append(b"".join(ctypes.string_at(parts[at].base, parts[at].size) for at in range(count)))
            return 0

        ops = _ChannelOps(None, _SEND(send), None)
        new = _declare(self._waiting, "fuse_chan_new", c_void_p, POINTER(_ChannelOps), c_int, c_size_t, c_void_p)
        channel = new(ctypes.byref(ops), -1, RECEIVE_BYTES, None)
        self._process(self._session, address, size, channel)
        _declare(self._waiting, "fuse_chan_destroy", None, c_void_p)(channel)
        for answer in collected:
            os.write(self.fd, agreed(ctypes.string_at(address, size), answer))

    def process(self, address: int, size: int) -> None:
        self._process(self._session, address, size, self._channel)

    def ended(self) -> bool:
        return bool(self._exited(self._session))

    def notify_inode(self, ino: int) -> int:
        result: int = self._inval_inode(self._channel, ino, 0, 0)
        return result

    def notify_entry(self, parent: int, name: bytes) -> int:
        result: int = self._inval_entry(self._channel, parent, name, len(name))
        return result

    def close(self) -> None:
        self._remove(self._channel)
        self._unmount(self._path, self._channel)
        self._destroy(self._session)


class _Connection3:
    """libfuse3: a session first, which then mounts."""

    def __init__(self, library: Library, path: Path, table: ctypes.Structure, options: MountOptions) -> None:
        waiting, short = library.waiting, library.short
        self._table = table
        new = _declare(waiting, "fuse_session_new", c_void_p, POINTER(_Args), c_void_p, c_size_t, c_void_p)
        mount = _declare(waiting, "fuse_session_mount", c_int, c_void_p, c_char_p)
        self._unmount = _declare(waiting, "fuse_session_unmount", None, c_void_p)
        self._destroy = _declare(waiting, "fuse_session_destroy", None, c_void_p)
        self._process = _declare(short, "fuse_session_process_buf", None, c_void_p, POINTER(_Buffer))
        self._exited = _declare(short, "fuse_session_exited", c_int, c_void_p)
        self._inval_inode = _declare(waiting, "fuse_lowlevel_notify_inval_inode", c_int, c_void_p, _INO, _OFF, _OFF)
        self._inval_entry = _declare(
            waiting, "fuse_lowlevel_notify_inval_entry", c_int, c_void_p, _INO, c_char_p, c_size_t
        )
        args = _arguments("gdah", "-o", options.kernel_words())
        self._session = new(ctypes.byref(args), ctypes.byref(table), ctypes.sizeof(table), None)
        _declare(waiting, "fuse_opt_free_args", None, POINTER(_Args))(ctypes.byref(args))
        if not self._session:
            raise _refused(path)
        if mount(self._session, os.fsencode(path)):
            self._destroy(self._session)
            raise _refused(path)
        self.fd: int = _declare(waiting, "fuse_session_fd", c_int, c_void_p)(self._session)
        os.set_inheritable(self.fd, False)

    def greet(self, address: int, size: int) -> None:
        """libfuse3 writes to its descriptor and nowhere else: for this one answer a pipe lies under that number."""
        device = os.dup(self.fd)
        answers, pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.dup2(pipe, self.fd, inheritable=False)
            self.process(address, size)
        finally:
            os.dup2(device, self.fd, inheritable=False)
            os.close(device)
            os.close(pipe)
        with open(answers, "rb", buffering=0) as collected:
            answer = collected.read(_ANSWER_MAX_BYTES)
        if answer:
            os.write(self.fd, agreed(ctypes.string_at(address, size), answer))

    def process(self, address: int, size: int) -> None:
        self._process(self._session, ctypes.byref(_Buffer(size, 0, address, -1, 0)))

    def ended(self) -> bool:
        return bool(self._exited(self._session))

    def notify_inode(self, ino: int) -> int:
        result: int = self._inval_inode(self._session, ino, 0, 0)
        return result

    def notify_entry(self, parent: int, name: bytes) -> int:
        result: int = self._inval_entry(self._session, parent, name, len(name))
        return result

    def close(self) -> None:
        self._unmount(self._session)
        self._destroy(self._session)


def load() -> Library:
    """The library of this machine: libfuse2 if it is there, unless mfusepy's own variable FUSE_LIBRARY_NAME says
    `fuse3`. Raises MountFailed that says what to install."""
    bindings = (("fuse", "fuse"), ("mfusepy", "fuse3"))
    for binding, soname in reversed(bindings) if os.environ.get("FUSE_LIBRARY_NAME") == "fuse3" else bindings:
        if ctypes.util.find_library(soname) is None:
            continue
        try:
            vocabulary = importlib.import_module(binding)
        except ImportError:
            continue
        return Library(vocabulary, getattr(vocabulary, "fuse_version_major", 2))
    raise MountFailed(
        "no FUSE library found; on Debian: apt-get install fuse, or: apt-get install fuse3 and pip install mfusepy"
    )
