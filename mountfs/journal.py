"""Journals: the unsaved bytes of open files on disk, so that kill -9 of the mount loses nothing. An edge: files.

A JOURNAL belongs to one file that is being edited: an append-only sequence of records (kind, offset,
payload). What the records mean is the business of `drafts`. Journals lie in a pool of files that are reused
without being cut, so that a small file costs three writes and no creation on the host's disk. Each use has a
GENERATION that stands in every record: the stale tail of an earlier use ends the reading like a torn one.

A record: 32 bytes of header (magic, kind, generation, length, offset, 8 bytes of BLAKE3 of the payload,
CRC-32 of the header before it), then the payload. A record that is cut short, or whose checks fail, is the
end: it was never acknowledged, because `append` had not returned.

Threading: `Journals` from any thread; a `Journal` under the lock of the file that it belongs to.
"""

from __future__ import annotations

import errno
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from gdah_volume.errors import NoSpace, StorageFailed

_MAGIC = 0x6A67
_HEADER = struct.Struct("<HBxIIQ8sI")
_BODY = struct.Struct("<HBxIIQ8s")
HEADER_BYTES = _HEADER.size
POOL_MAX_FILES = 64
"""Idle files that are kept open; more are removed."""
POOL_FILE_MAX_BYTES = 1 << 20
"""An idle file keeps at most so much of the host's disk."""
SPACE_CHECK_BYTES = 16 << 20
"""How much may be appended between two looks at the free space of the disk."""
_SUFFIX = ".journal"

FREE = 0
"""Not a kind that can be appended: what stands in the first record of an idle file."""


@dataclass(frozen=True, slots=True)
class Record:
    """`at`: where the payload begins in the journal."""

    kind: int
    offset: int
    at: int
    length: int


@dataclass(frozen=True, slots=True)
class Leftover:
    """A journal that was in use when the mount ended, with its readable records and when it was last written."""

    journal: Journal
    records: tuple[Record, ...]
    mtime_ns: int


def _failed(what: str, error: OSError) -> NoSpace | StorageFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{what}: the disk of the cache is full; free some space or move --cache-dir")
    return StorageFailed(f"{what}: {error.strerror}; check the disk of the cache")


class Journal:
    """Invariant: bytes [0, length) are whole records of this generation."""

    def __init__(self, fd: int, number: int, owner: Journals) -> None:
        self._fd = fd
        self.number = number
        self._owner = owner
        self._generation = 0
        self.length = 0
        self._high_water = 0

    def start(self) -> None:
        self._generation = secrets.randbits(32)
        self.length = 0

    def append(self, kind: int, offset: int, payload: bytes | memoryview = b"") -> int:
        """Add a record; returns the position of its payload. Raises NoSpace or StorageFailed; then nothing
        was added."""
        body = _BODY.pack(_MAGIC, kind, self._generation, len(payload), offset, blake3(payload).digest(length=8))
        start = self.length
        self._put(start, body + zlib.crc32(body).to_bytes(4, "little"), payload)
        self.length = start + HEADER_BYTES + len(payload)
        return start + HEADER_BYTES

    def stamp(self, time_ns: int) -> None:
        """Note the time of the last edit, as the file's own, for who finds the journal: times then stay as they were
        shown. 2 us."""
        with suppress(OSError):
            os.utime(self._fd, ns=(time_ns, time_ns))

    def _put(self, at: int, head: bytes, payload: bytes | memoryview) -> None:
        total = HEADER_BYTES + len(payload)
        self._owner.reserve(total)
        try:
            done = os.pwritev(self._fd, [head, payload], at)
            while done < total:  # short writes happen when the disk is nearly full; the next one says why
                rest = memoryview(payload)[done - HEADER_BYTES :] if done >= HEADER_BYTES else None
                parts = [rest] if rest is not None else [memoryview(head)[done:], memoryview(payload)]
                done += os.pwritev(self._fd, parts, at + done)
        except OSError as error:
            raise _failed("cannot keep unsaved bytes", error) from error
        self._high_water = max(self._high_water, at + total)

    def read(self, at: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, at)
        except OSError as error:
            raise StorageFailed(f"cannot read unsaved bytes back: {error.strerror}") from error
        if len(data) != size:
            raise StorageFailed(f"a journal of unsaved bytes was cut short from outside (number {self.number})")
        return data

    def sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise StorageFailed(f"cannot sync unsaved bytes: {error.strerror}") from error

    def finish(self) -> None:
        """Nothing in it is needed any more; the journal may not be used after this."""
        with suppress(OSError):
            os.pwrite(self._fd, bytes(HEADER_BYTES), 0)
            if self._high_water > POOL_FILE_MAX_BYTES:
                os.ftruncate(self._fd, 0)
                self._high_water = 0
        self.length = 0
        self._owner.give_back(self)

    def close(self) -> None:
        os.close(self._fd)

    def scan(self) -> tuple[list[Record], int]:
        """The readable records from the start, and the position after them."""
        size = os.fstat(self._fd).st_size
        self._high_water = size
        records: list[Record] = []
        at = 0
        while at + HEADER_BYTES <= size:
            head = os.pread(self._fd, HEADER_BYTES, at)
            magic, kind, generation, length, offset, digest, check = _HEADER.unpack(head)
            if magic != _MAGIC or check != zlib.crc32(head[:-4]) or kind == FREE:
                break
            if records and generation != self._generation:
                break
            self._generation = generation
            payload = os.pread(self._fd, length, at + HEADER_BYTES)
            if len(payload) != length or blake3(payload).digest(length=8) != digest:
                break
            records.append(Record(kind, offset, at + HEADER_BYTES, length))
            at += HEADER_BYTES + length
        return records, at

    @property
    def began(self) -> bool:
        """`scan` has found the head of a first record, whole or not."""
        return self._generation != 0

    def next_record(self, raw: bytes, after: int) -> int | None:
        """Where in the bytes of the file another whole record of this use begins after `after`, if there is one: then
        what lies between was damaged, and is no end that a kill has cut."""
        mark = _MAGIC.to_bytes(2, "little")
        at = raw.find(mark, after)
        while 0 <= at <= len(raw) - HEADER_BYTES:
            _, kind, generation, _, _, _, check = _HEADER.unpack_from(raw, at)
            is_head = check == zlib.crc32(raw[at : at + HEADER_BYTES - 4]) and kind != FREE
            if is_head and at > after and generation == self._generation:
                return at
            at = raw.find(mark, at + 1)
        return None


class Journals:
    """The folder of journals. `min_free_bytes` of the disk are left alone: appends raise NoSpace before that."""

    def __init__(
        self, folder: Path, *, min_free_bytes: int = 0, free_bytes: Callable[[Path], int] | None = None
    ) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._idle: list[Journal] = []
        self._open: dict[int, Journal] = {}
        self._min_free_bytes = min_free_bytes
        self._free_bytes = free_bytes or _free_bytes_of
        self._appended = 0
        self._next = 1
        self._leftovers: list[Leftover] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def leftovers(self) -> list[Leftover]:
        """What an earlier run left in use; its idle files join the pool. The first call, before the first
        `begin`, reads; later ones give the same list."""
        if self._leftovers is not None:
            return self._leftovers
        found: list[Leftover] = []
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if not path.stem.isdigit():
                continue
            number = int(path.stem)
            self._next = max(self._next, number + 1)
            journal = Journal(os.open(path, os.O_RDWR | os.O_CLOEXEC), number, self)
            self._open[number] = journal
            records, journal.length = journal.scan()
            if records:
                found.append(Leftover(journal, tuple(records), path.stat().st_mtime_ns))
            else:
                journal.finish()
        self._leftovers = found
        return found

    def begin(self) -> Journal:
        """A journal that is empty. Raises NoSpace or StorageFailed."""
        with self._lock:
            journal = self._idle.pop() if self._idle else self._create()
            self._open[journal.number] = journal
        journal.start()
        return journal

    def _create(self) -> Journal:
        path = self._folder / f"{self._next}{_SUFFIX}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _failed("cannot start a journal", error) from error
        journal = Journal(fd, self._next, self)
        self._next += 1
        return journal

    def give_back(self, journal: Journal) -> None:
        with self._lock:
            self._open.pop(journal.number, None)
            if len(self._idle) < POOL_MAX_FILES:
                self._idle.append(journal)
                return
        (self._folder / f"{journal.number}{_SUFFIX}").unlink(missing_ok=True)
        journal.close()

    def reserve(self, size: int) -> None:
        """Raises NoSpace when the disk is so full that the bytes may not be taken."""
        self._appended += size  # a race of two threads only moves the next look
        if self._appended < SPACE_CHECK_BYTES and size < SPACE_CHECK_BYTES:
            return
        if self._min_free_bytes and self._free_bytes(self._folder) < self._min_free_bytes:
            raise NoSpace(f"the disk of the cache has less than {self._min_free_bytes >> 20} MiB left; free some space")
        self._appended = 0

    @property
    def bytes_in_use(self) -> int:
        with self._lock:
            return sum(journal.length for journal in self._open.values())

    def close(self) -> None:
        """Journals in use stay on disk for `leftovers` of the next run."""
        with self._lock:
            for journal in (*self._idle, *self._open.values()):
                journal.close()
            self._idle.clear()
            self._open.clear()


def _free_bytes_of(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
