"""A program of the differential machine: a process that makes the calls of its steps, with its own descriptors, maps
and working folder.

The machine starts one on the mount and one on the plain folder for each hand. It runs as a script with nothing but the
standard library. A step is a tuple (call, arguments ...); the answer is a value that both sides can give: no inode
numbers, no times of this moment, no paths outside of the folder.

A path is relative to the folder of the program. "@3/a" starts at descriptor 3, "@3" is what it has open (by
/proc/self/fd), "./a" starts at the working folder.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import pickle
import select
import stat
import struct
import sys
import time
from typing import Any

EPOCH_NS = time.time_ns()
"""Times about this are those of the run: shown as "now"."""
HUGE_BYTES = 16 << 20
WINDOWS = (0, 4096, 65536, 1 << 20, 3 << 20, 16 << 20, (4 << 30) + 5, 5 << 30)
"""Of a huge file only what lies around these is read."""
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400

libc = ctypes.CDLL(None, use_errno=True)
FLAGS = {name[2:]: getattr(os, name) for name in dir(os) if name.startswith("O_")}
WHENCE = {"set": os.SEEK_SET, "cur": os.SEEK_CUR, "end": os.SEEK_END}
FALLOCATE = {"": 0, "keep": 1, "punch": 3, "zero": 16}
LOCKS = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX, "none": fcntl.LOCK_UN}
KINDS = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK, "none": fcntl.F_UNLCK}
FLOCK = struct.Struct("hhqqi4x")
RENAME = {"noreplace": 1, "exchange": 2}


class Empty(Exception):
    """The step needs a descriptor or a map that is not there."""


def pattern(seed: int, size: int) -> bytes:
    block = bytes((seed + 7 * i) % 255 + 1 for i in range(251))
    return (block * (size // 251 + 1))[:size]


def shown(data: bytes) -> Any:
    if len(data) <= 32:
        return bytes(data)
    return len(data), hashlib.blake2b(data, digest_size=8).hexdigest()


def shown_time(time_ns: int) -> Any:
    return "now" if abs(time_ns - EPOCH_NS) < 10**9 * 86400 * 30 else time_ns


def shown_stat(found: os.stat_result) -> dict[str, Any]:
    kind = stat.S_IFMT(found.st_mode)
    value = {
        "kind": {
            stat.S_IFREG: "file",
            stat.S_IFDIR: "dir",
            stat.S_IFLNK: "symlink",
            stat.S_IFIFO: "fifo",
            stat.S_IFSOCK: "socket",
        }.get(kind, "device"),
        "mode": oct(stat.S_IMODE(found.st_mode)),
        "links": found.st_nlink,
        "owner": (found.st_uid, found.st_gid),
        "mtime": shown_time(found.st_mtime_ns),
    }
    if kind in (stat.S_IFREG, stat.S_IFLNK):
        value["size"] = found.st_size
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        value["rdev"] = found.st_rdev
    return value


def called(name: str, *args: Any) -> int:
    result: int = getattr(libc, name)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Program:
    def __init__(self, top: str) -> None:
        self.top = top
        self.base = os.open(top, os.O_PATH | os.O_DIRECTORY)
        self.root = -1
        self.inside = ""
        self.slots: dict[int, int] = {}
        self.flags: dict[int, int] = {}
        self.maps: dict[int, tuple[Any, int]] = {}

    # --- for the machine

    def begin(self, inside: str) -> None:
        """Everything is closed; paths start in the folder `inside` from now on."""
        self.close_all()
        if self.root >= 0:
            os.close(self.root)
        self.inside = inside
        self.root = os.open(f"/proc/self/fd/{self.base}/{inside}", os.O_PATH | os.O_DIRECTORY)
        os.fchdir(self.root)

    def close_all(self) -> None:
        for slot in list(self.maps):
            self.munmap(slot)
        for slot in list(self.slots):
            self.close(slot)

    def hand_over(self, orphans: bool) -> list[int]:
        """Save what is unsaved. `orphans`: close what has no name any more. Returns the slots that were closed."""
        for slot in list(self.maps):
            self.msync(slot)
        closed = []
        for slot, fd in list(self.slots.items()):
            if self.flags[slot] & os.O_PATH:
                continue
            if orphans and os.fstat(fd).st_nlink == 0:
                self.maps.pop(slot, None)
                self.close(slot)
                closed.append(slot)
            elif stat.S_ISREG(os.fstat(fd).st_mode):
                os.fsync(fd)
        return closed

    def msync_all(self) -> None:
        for slot in list(self.maps):
            self.msync(slot)

    def look(self) -> list[int]:
        """Look at every open file again; those that can not be looked at are closed. Returns their slots."""
        closed = []
        for slot, fd in list(self.slots.items()):
            access = self.flags[slot] & os.O_ACCMODE
            if self.flags[slot] & os.O_PATH or not stat.S_ISREG(os.fstat(fd).st_mode):
                continue
            if access == os.O_WRONLY and self.flags[slot] & os.O_APPEND:
                continue  # its writes go to the end, wherever that is
            if access == os.O_WRONLY or self.flags[slot] & os.O_DIRECT:
                self.close(slot)
                closed.append(slot)
            else:
                os.pread(fd, 1, 0)
        return closed

    def nameless(self) -> dict[int, Any]:
        """What is shown of open files that have no name any more, by slot."""
        found = {}
        for slot, fd in self.slots.items():
            if self.flags[slot] & (os.O_PATH | os.O_DIRECT | os.O_WRONLY):
                continue
            seen = os.fstat(fd)
            if stat.S_ISREG(seen.st_mode) and seen.st_nlink == 0:
                found[slot] = seen.st_size, shown(os.pread(fd, HUGE_BYTES, 0))
        return found

    def make(self, path: str, mode: int) -> None:
        os.mkdir(f"/proc/self/fd/{self.base}/{path}")
        os.chmod(f"/proc/self/fd/{self.base}/{path}", mode)

    def folder(self, path: str) -> None:
        if not os.path.isdir(f"/proc/self/fd/{self.base}/{path}"):
            self.make(path, 0o777)

    def touch(self, path: str, time_ns: int) -> None:
        path = f"/proc/self/fd/{self.base}/{path}"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.utime(path, ns=(time_ns, time_ns))

    def wait_for_time(self, path: str, time_ns: int, limit_s: float) -> bool:
        path = f"/proc/self/fd/{self.base}/{path}"
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            try:
                if os.stat(path).st_mtime_ns == time_ns:
                    return True
            except FileNotFoundError:
                pass
            time.sleep(0.002)
        return False

    def snapshot(self, inside: str, content: bool) -> dict[str, dict[str, Any]]:
        """Everything below a folder: path to what can be seen of it. `times`, `ino` and `blocks` are not the same on
        both sides."""
        top = f"/proc/self/fd/{self.base}/{inside}"
        found: dict[str, dict[str, Any]] = {}

        def look(path: str) -> None:
            at = f"{top}/{path}" if path else f"{top}/."
            seen = os.stat(at, follow_symlinks=False)
            value = found[path] = shown_stat(seen)
            value["ino"] = seen.st_ino
            value["blocks"] = seen.st_blocks
            value["times"] = (seen.st_atime_ns, seen.st_mtime_ns, seen.st_ctime_ns)
            if value["kind"] == "symlink":
                value["target"] = os.readlink(at)
            if content and value["kind"] in ("file", "dir"):
                value["xattrs"] = {name: os.getxattr(at, name) for name in sorted(os.listxattr(at))}
            if content and value["kind"] == "file":
                value["content"] = whole(at, seen.st_size)
            if value["kind"] == "dir":
                for name in sorted(os.listdir(at)):
                    look(f"{path}/{name}" if path else name)

        look("")
        return found

    def many(self, steps: list[tuple[Any, ...]]) -> list[tuple[str, Any]]:
        """One after the other, while others make theirs."""
        return [answer_to(self, step) for step in steps]

    # --- paths and descriptors

    def at(self, path: str) -> str:
        if path.startswith("@"):
            number, slash, rest = path[1:].partition("/")
            return f"/proc/self/fd/{self.fd(int(number))}{slash}{rest}"
        if path.startswith("./"):
            return path
        return f"/proc/self/fd/{self.root}/{path or '.'}"

    def fd(self, slot: int) -> int:
        if slot not in self.slots:
            raise Empty
        return self.slots[slot]

    def _put(self, slot: int, fd: int, flags: int) -> None:
        if slot in self.maps:
            self.munmap(slot)
        if slot in self.slots:
            os.close(self.slots[slot])
        self.slots[slot], self.flags[slot] = fd, flags

    # --- files

    def open(self, slot: int, path: str, flags: str, mode: int = 0o644) -> dict[str, Any]:
        how = 0
        for name in flags.split("|"):
            how |= FLAGS[name]
        fd = os.open(self.at(path), how, mode)
        self._put(slot, fd, how)
        return {"kind": shown_stat(os.fstat(fd))["kind"]}

    def close(self, slot: int) -> None:
        fd = self.fd(slot)
        del self.slots[slot]
        if slot in self.maps:
            self.maps.pop(slot)[0].close()
        os.close(fd)

    def dup(self, slot: int, other: int) -> None:
        self._put(other, os.dup(self.fd(slot)), self.flags[slot])

    def _room(self, slot: int, size: int) -> Any:
        """A buffer; for O_DIRECT an aligned one of whole blocks."""
        if self.flags.get(slot, 0) & os.O_DIRECT:
            return mmap.mmap(-1, max(4096, size & ~4095))
        return bytearray(size)

    def _align(self, slot: int) -> None:
        """Which places and lengths O_DIRECT takes is a matter of the file system: all are made whole blocks."""
        flags, fd = self.flags.get(slot, 0), self.fd(slot)
        if not flags & os.O_DIRECT:
            return
        if flags & os.O_APPEND and os.fstat(fd).st_size & 4095:
            raise Empty
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.lseek(fd, os.lseek(fd, 0, os.SEEK_CUR) & ~4095, os.SEEK_SET)

    def _place(self, slot: int, offset: int) -> int:
        return offset & ~4095 if self.flags.get(slot, 0) & os.O_DIRECT else offset

    def _data(self, slot: int, seed: int, size: int) -> Any:
        room = self._room(slot, size)
        room[:] = pattern(seed, len(room))
        return room

    def read(self, slot: int, size: int) -> Any:
        self._align(slot)
        room = self._room(slot, size)
        return shown(bytes(room[: os.readv(self.fd(slot), [room])]))

    def pread(self, slot: int, size: int, offset: int) -> Any:
        room = self._room(slot, size)
        return shown(bytes(room[: os.preadv(self.fd(slot), [room], self._place(slot, offset))]))

    def readv(self, slot: int, *sizes: int) -> Any:
        self._align(slot)
        rooms = [self._room(slot, size) for size in sizes]
        count = os.readv(self.fd(slot), rooms)
        return shown(b"".join(bytes(room[:]) for room in rooms)[:count])

    def write(self, slot: int, seed: int, size: int) -> int:
        self._align(slot)
        return os.write(self.fd(slot), self._data(slot, seed, size))

    def pwrite(self, slot: int, seed: int, size: int, offset: int) -> int:
        self._align(slot)
        return os.pwrite(self.fd(slot), self._data(slot, seed, size), self._place(slot, offset))

    def writev(self, slot: int, seed: int, *sizes: int) -> int:
        self._align(slot)
        return os.writev(self.fd(slot), [self._data(slot, seed + i, size) for i, size in enumerate(sizes)])

    def lseek(self, slot: int, offset: int, whence: str) -> int:
        return os.lseek(self.fd(slot), self._place(slot, offset), WHENCE[whence])

    def seek_data(self, slot: int, offset: int) -> str:
        """What is skipped has to read as zeros; where data and holes are is a matter of the file system."""
        fd = self.fd(slot)
        size = os.fstat(fd).st_size
        before = os.lseek(fd, 0, os.SEEK_CUR)
        try:
            found = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO or offset >= size:
                raise
            found = size  # nothing but holes from here on
        os.lseek(fd, before, os.SEEK_SET)
        if self.flags[slot] & (os.O_ACCMODE | os.O_DIRECT):
            return "not read"
        skipped = os.pread(fd, min(found - offset, 1 << 20), offset)
        return "data skipped" if any(skipped) else "in order"

    def seek_hole(self, slot: int, offset: int) -> str:
        fd = self.fd(slot)
        before = os.lseek(fd, 0, os.SEEK_CUR)
        found = os.lseek(fd, offset, os.SEEK_HOLE)
        os.lseek(fd, before, os.SEEK_SET)
        return "in order" if offset <= found <= os.fstat(fd).st_size else f"a hole at {found}"

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self.fd(slot), size)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self.at(path), size)

    def fallocate(self, slot: int, how: str, offset: int, size: int) -> None:
        call = libc.fallocate64
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        called("fallocate64", self.fd(slot), FALLOCATE[how], offset, size)

    def fsync(self, slot: int) -> None:
        os.fsync(self.fd(slot))

    def fdatasync(self, slot: int) -> None:
        os.fdatasync(self.fd(slot))

    def advise(self, slot: int) -> None:
        os.posix_fadvise(self.fd(slot), 0, 0, os.POSIX_FADV_DONTNEED)

    def copy(self, slot: int, other: int, size: int, offset: int, other_offset: int) -> int:
        return os.copy_file_range(self.fd(slot), self.fd(other), size, offset, other_offset)

    def sendfile(self, slot: int, other: int, size: int, offset: int) -> int:
        return os.sendfile(self.fd(other), self.fd(slot), offset, size)

    def position(self, slot: int) -> int:
        return os.lseek(self.fd(slot), 0, os.SEEK_CUR)

    # --- locks

    def flock(self, slot: int, how: str) -> None:
        fcntl.flock(self.fd(slot), LOCKS[how] | fcntl.LOCK_NB)

    def lock(self, slot: int, kind: str, start: int, size: int, own: bool) -> None:
        """Of the open file itself, or (`own`) of this process."""
        asked = FLOCK.pack(KINDS[kind], os.SEEK_SET, start, size, 0)
        fcntl.fcntl(self.fd(slot), fcntl.F_SETLK if own else fcntl.F_OFD_SETLK, asked)

    def test_lock(self, slot: int, kind: str, start: int, size: int) -> Any:
        """Whether it is free; what stands against it may be one of several."""
        asked = FLOCK.pack(KINDS[kind], os.SEEK_SET, start, size, 0)
        found = FLOCK.unpack(fcntl.fcntl(self.fd(slot), fcntl.F_OFD_GETLK, asked))
        return found[0] == fcntl.F_UNLCK

    # --- maps

    def mmap(self, slot: int, writable: bool) -> int:
        fd = self.fd(slot)
        size = os.fstat(fd).st_size
        if size == 0 or size > 1 << 30:
            raise Empty
        how = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        made = mmap.mmap(fd, min(size, 4 << 20), mmap.MAP_SHARED, how)
        if slot in self.maps:
            self.maps.pop(slot)[0].close()
        self.maps[slot] = made, how
        return len(made)

    def _map(self, slot: int, offset: int, size: int) -> tuple[Any, int, int]:
        """As much as lies in the file: beyond it a program is killed."""
        if slot not in self.maps:
            raise Empty
        made = self.maps[slot][0]
        end = min(len(made), os.fstat(self.fd(slot)).st_size)
        if offset >= end:
            raise Empty
        return made, offset, min(size, end - offset)

    def mstore(self, slot: int, seed: int, size: int, offset: int) -> int:
        made, offset, size = self._map(slot, offset, size)
        if not self.maps[slot][1] & mmap.PROT_WRITE:
            raise Empty
        made[offset : offset + size] = pattern(seed, size)
        return size

    def mread(self, slot: int, size: int, offset: int) -> Any:
        made, offset, size = self._map(slot, offset, size)
        return shown(made[offset : offset + size])

    def msync(self, slot: int) -> None:
        if slot not in self.maps:
            raise Empty
        self.maps[slot][0].flush()

    def munmap(self, slot: int) -> None:
        if slot not in self.maps:
            raise Empty
        self.maps.pop(slot)[0].close()

    # --- names

    def unlink(self, path: str) -> None:
        os.unlink(self.at(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self.at(path))

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.at(path), mode)

    def rename(self, path: str, new: str) -> None:
        os.rename(self.at(path), self.at(new))

    def rename2(self, path: str, new: str, how: str) -> None:
        old, to = os.fsencode(self.at(path)), os.fsencode(self.at(new))
        called("renameat2", AT_FDCWD, old, AT_FDCWD, to, RENAME[how])

    def link(self, path: str, new: str, follow: bool) -> None:
        old, to = os.fsencode(self.at(path)), os.fsencode(self.at(new))
        called("linkat", AT_FDCWD, old, AT_FDCWD, to, AT_SYMLINK_FOLLOW if follow else 0)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self.at(path))

    def readlink(self, path: str) -> str:
        return os.readlink(self.at(path))

    def mknod(self, path: str, kind: str, mode: int) -> None:
        bits = {"file": stat.S_IFREG, "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}
        bits |= {"char": stat.S_IFCHR, "block": stat.S_IFBLK}
        os.mknod(self.at(path), bits[kind] | mode, os.makedev(240, 77) if kind in ("char", "block") else 0)

    # --- attributes

    def stat(self, path: str) -> dict[str, Any]:
        return shown_stat(os.stat(self.at(path)))

    def lstat(self, path: str) -> dict[str, Any]:
        return shown_stat(os.lstat(self.at(path)))

    def fstat(self, slot: int) -> dict[str, Any]:
        return shown_stat(os.fstat(self.fd(slot)))

    def access(self, path: str, how: int, effective: bool) -> bool:
        return os.access(self.at(path), how, effective_ids=effective)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self.fd(slot), mode)

    def chown(self, path: str, uid: int, gid: int, follow: bool) -> None:
        os.chown(self.at(path), uid, gid, follow_symlinks=follow)

    def fchown(self, slot: int, uid: int, gid: int) -> None:
        os.fchown(self.fd(slot), uid, gid)

    def utime(self, path: str, atime: int | str, mtime: int | str, follow: bool) -> None:
        times = _timespecs(atime, mtime)
        called("utimensat", AT_FDCWD, os.fsencode(self.at(path)), times, 0 if follow else 0x100)

    def futime(self, slot: int, atime: int | str, mtime: int | str) -> None:
        called("futimens", self.fd(slot), _timespecs(atime, mtime))

    def setxattr(self, path: str, name: str, value: bytes, how: int) -> None:
        os.setxattr(self.at(path), name, value, how)

    def getxattr(self, path: str, name: str) -> Any:
        return shown(os.getxattr(self.at(path), name))

    def listxattr(self, path: str) -> list[str]:
        return sorted(os.listxattr(self.at(path)))

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self.at(path), name)

    def fsetxattr(self, slot: int, name: str, value: bytes) -> None:
        os.setxattr(self.fd(slot), name, value)

    def fgetxattr(self, slot: int, name: str) -> Any:
        return shown(os.getxattr(self.fd(slot), name))

    def statvfs(self, path: str) -> dict[str, Any]:
        found = os.statvfs(self.at(path))
        return {"name": found.f_namemax, "sane": 0 < found.f_bfree <= found.f_blocks and found.f_bsize >= 512}

    # --- folders

    def list(self, path: str) -> list[Any]:
        with os.scandir(self.at(path)) as found:
            return sorted((entry.name, _type(entry)) for entry in found)

    def list_open(self, slot: int) -> list[Any]:
        with os.scandir(self.fd(slot)) as found:
            return sorted((entry.name, _type(entry)) for entry in found)

    def churn(self, path: str, stable: int, changing: int) -> Any:
        """Names come and go while a folder is read: the others are seen exactly once, the ones that go or come at
        most once."""
        top = self.at(path)
        names = [f"{number:03}" + "s" * 200 for number in range(stable)]
        going = [f"{number:03}" + "g" * 200 for number in range(changing)]
        for name in names + going:
            os.mkdir(f"{top}/{name}")
        seen = []
        with os.scandir(top) as found:
            for entry in found:
                seen.append(entry.name)
                if going:
                    gone = going.pop()
                    os.rmdir(f"{top}/{gone}")
                    os.mkdir(f"{top}/n{gone[:200]}")
        left = os.listdir(top)
        for name in left:
            if len(name) > 100:
                os.rmdir(f"{top}/{name}")
        counts = [seen.count(name) for name in names]
        return set(counts), max((seen.count(name) for name in seen), default=0), len(left)

    def chdir(self, path: str) -> None:
        os.chdir(self.at(path))

    def fchdir(self, slot: int) -> None:
        os.fchdir(self.fd(slot))

    def getcwd(self) -> str:
        return os.getcwd().removeprefix(f"{self.top}/{self.inside}") or "/"


def _type(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "symlink"
    return "dir" if entry.is_dir(follow_symlinks=False) else "file" if entry.is_file(follow_symlinks=False) else "other"


def _timespecs(*times: int | str) -> Any:
    values: list[int] = []
    for moment in times:
        if isinstance(moment, str):
            values += [0, {"now": (1 << 30) - 1, "omit": (1 << 30) - 2}[moment]]
        else:
            values += [moment // 10**9, moment % 10**9]
    return (ctypes.c_int64 * 4)(*values)


def whole(path: str, size: int) -> Any:
    fd = os.open(path, os.O_RDONLY)
    try:
        if size <= HUGE_BYTES:
            data = b""
            while piece := os.read(fd, 1 << 20):
                data += piece
            return shown(data)
        parts = [os.pread(fd, 16384, max(0, at - 8192)) for at in (*WINDOWS, size)]
        return size, shown(b"".join(parts))
    finally:
        os.close(fd)


# --- the conversation


def send(fd: int, value: Any) -> None:
    data = pickle.dumps(value)
    view = memoryview(struct.pack(">I", len(data)) + data)
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int, deadline: float | None = None) -> Any:
    (size,) = struct.unpack(">I", _exactly(fd, 4, deadline))
    return pickle.loads(_exactly(fd, size, deadline))


def _exactly(fd: int, size: int, deadline: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        if deadline is not None and not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        piece = os.read(fd, size - len(parts))
        if not piece:
            raise EOFError("the process is gone")
        parts += piece
    return bytes(parts)


def answer_to(program: Program, step: tuple[Any, ...]) -> tuple[str, Any]:
    name, *args = step
    try:
        return "ok", getattr(program, name)(*args)
    except OSError as error:
        return "error", errno.errorcode.get(error.errno or 0, str(error.errno))
    except Empty:
        return "empty", None
    except ValueError as error:
        return "refused by Python", str(error)


def main() -> None:
    top, uid, gid, groups, inside = sys.argv[1:6]
    answers = os.dup(1)
    os.dup2(2, 1)
    program = Program(top)
    os.umask(0o022)
    if inside:
        program.begin(inside)  # before it is anybody else: the folder may be closed to him by now
    if uid != "0":
        os.setgroups([int(group) for group in groups.split(",") if group])
        os.setgid(int(gid))
        os.setuid(int(uid))
    while True:
        try:
            step = receive(0)
        except EOFError:
            return
        send(answers, answer_to(program, step))


if __name__ == "__main__":
    main()
