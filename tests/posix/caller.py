"""A process that makes system calls in one folder, as anybody: a folder that hangs does not take the test along.

`main` takes pickled calls on standard input and answers on standard output. It starts as root and takes on the wanted
user, group and supplementary groups for each call: to the kernel that is the same as a process of that user, for
rights follow the effective ids. One thread, because ids are the process's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.posix import listing

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
AT_FDCWD, AT_SYMLINK_NOFOLLOW = -100, 0x100
BAD_POINTERS = {"NULL": None, "BAD": ctypes.c_void_p(0xDEADC0DE)}

libc = ctypes.CDLL(None, use_errno=True)


class Node(NamedTuple):
    """What stat says."""

    type: str
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    ino: int
    rdev: tuple[int, int]
    atime: int
    mtime: int
    ctime: int
    blocks: int


class Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


def node_of(found: os.stat_result) -> Node:
    return Node(
        TYPES[stat.S_IFMT(found.st_mode)],
        stat.S_IMODE(found.st_mode),
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_size,
        found.st_ino,
        (os.major(found.st_rdev), os.minor(found.st_rdev)),
        found.st_atime_ns,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_blocks,
    )


def create(path: bytes, mode: int = 0o644) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))


def open_(path: bytes, flags: int, mode: int = 0o644, *then: tuple[Any, ...]) -> Any:
    """Open, do what `then` says with the descriptor, close. The result of the last step."""
    fd = os.open(path, flags, mode)
    result: Any = None
    try:
        for name, *args in then:
            result = ON_DESCRIPTOR[name](fd, *args) if name in ON_DESCRIPTOR else CALLS[name](*args)
    finally:
        os.close(fd)
    return result


def put(path: bytes, data: bytes) -> None:
    open_(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, ("write", data))


def get(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def mknod(path: bytes, kind: str, mode: int = 0o644, major: int = 0, minor: int = 0) -> None:
    bits = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO, "file": stat.S_IFREG,
            "socket": stat.S_IFSOCK, "dir": stat.S_IFDIR, "symlink": stat.S_IFLNK}[kind]  # fmt: skip
    os.mknod(path, bits | mode, os.makedev(major, minor))


def bind(path: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)


def connect(path: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(path)


def conversation(path: bytes) -> bytes:
    """A server binds to the path, a client connects through it."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
        listener.bind(path)
        listener.listen(1)
        caller.connect(path)
        served, _ = listener.accept()
        with served:
            caller.sendall(b"through the mount")
            return served.recv(100)


def through_fifo(path: bytes, data: bytes) -> bytes:
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(writer, data)
        return os.read(reader, len(data) + 1)
    finally:
        os.close(reader)
        os.close(writer)


def utimens(
    path: bytes, atime: tuple[int, int] | None, mtime: tuple[int, int] | None = None, *, follow: bool = True
) -> None:
    """As utimensat(2), with UTIME_NOW and UTIME_OMIT; atime None: a null pointer."""
    times = None if atime is None else (Timespec * 2)(Timespec(*atime), Timespec(*(mtime or (0, UTIME_OMIT))))
    _check(libc.utimensat(AT_FDCWD, path, times, 0 if follow else AT_SYMLINK_NOFOLLOW))


def bad_pointer(call: str, *args: Any) -> None:
    """A call with "NULL" or "BAD" in place of a path."""
    given = [BAD_POINTERS[arg] if isinstance(arg, str) else arg for arg in args]
    _check(getattr(libc, call)(*given))


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    _check(libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags))


def pathconf(path: bytes, name: str) -> int:
    return os.pathconf(path, name)


def deep(name: bytes, depth: int) -> None:
    """A chain of folders, each made from within the one above."""
    home = os.open(b".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(depth):
            os.mkdir(name)
            os.chdir(name)
    finally:
        os.fchdir(home)
        os.close(home)


def many(path: bytes, count: int) -> None:
    """Empty files with names of all lengths."""
    for number in range(count):
        create(path + b"/%d" % number + b"x" * (number % 200))


def remove_tree(path: bytes) -> str:
    """What rm says."""
    words = [b"rm", b"-rf", b"--", path]
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stderr


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


ON_DESCRIPTOR: dict[str, Callable[..., Any]] = {
    "write": os.write,
    "read": os.read,
    "pread": os.pread,
    "pwrite": os.pwrite,
    "fstat": lambda fd: node_of(os.fstat(fd)),
    "ftruncate": os.ftruncate,
    "fchmod": os.fchmod,
    "fchown": os.fchown,
    "fsync": os.fsync,
    "posix_fallocate": os.posix_fallocate,
}

CALLS: dict[str, Callable[..., Any]] = {
    "open": open_,
    "create": create,
    "put": put,
    "get": get,
    "mkdir": os.mkdir,
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "link": lambda old, new: os.link(old, new, follow_symlinks=False),
    "symlink": os.symlink,
    "readlink": os.readlink,
    "rename": os.rename,
    "renameat2": renameat2,
    "mkfifo": os.mkfifo,
    "mknod": mknod,
    "bind": bind,
    "connect": connect,
    "conversation": conversation,
    "through_fifo": through_fifo,
    "chmod": os.chmod,
    "chown": os.chown,
    "lchown": os.lchown,
    "truncate": os.truncate,
    "utimens": utimens,
    "access": os.access,
    "stat": lambda path: node_of(os.stat(path)),
    "lstat": lambda path: node_of(os.lstat(path)),
    "listdir": lambda path: sorted(os.listdir(path)),
    "entries": lambda path: sorted((entry.name, entry.inode()) for entry in os.scandir(path)),
    "setxattr": lambda path, name, value, flags=0: os.setxattr(path, name, value, flags, follow_symlinks=False),
    "getxattr": lambda path, name: os.getxattr(path, name, follow_symlinks=False),
    "listxattr": lambda path: sorted(os.listxattr(path, follow_symlinks=False)),
    "removexattr": lambda path, name: os.removexattr(path, name, follow_symlinks=False),
    "statvfs": lambda path: os.statvfs(path).f_namemax,
    "pathconf": pathconf,
    "bad_pointer": bad_pointer,
    "makedirs": os.makedirs,
    "chdir": os.chdir,
    "deep": deep,
    "remove_tree": remove_tree,
    "many": many,
    "positions": listing.positions,
    "churn": listing.churn,
}


class Identity(NamedTuple):
    """Who calls. `groups` are the supplementary ones."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int = 0


def become(who: Identity) -> None:
    os.setgroups(who.groups)
    os.setegid(who.gid)
    os.seteuid(who.uid)
    os.umask(who.umask)


def be_root() -> None:
    os.seteuid(0)
    os.setegid(0)


def perform(who: Identity, name: str, args: Sequence[Any], named: dict[str, Any]) -> Any:
    """The result, or Failed with the name of the errno."""
    become(who)
    try:
        return CALLS[name](*args, **named)
    except OSError as error:
        return Failed(errno.errorcode.get(error.errno or 0, str(error)))
    finally:
        be_root()


class Failed(NamedTuple):
    errno: str


def main() -> None:
    os.chdir(sys.argv[1])
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(perform(*request), sys.stdout.buffer)
        sys.stdout.buffer.flush()
