"""Lock requests of the kernel, which may be answered long after their handler has returned.

A handler starts such a request and says LATER; whoever decides answers it, from any thread, once. The kernel may take
it back (INTERRUPT, when a signal comes for the program that waits): libfuse calls us with its own lock held, so that
call only leaves a note, and a thread (`fuse-interrupt`) asks the file system to end the wait, which answers with
EINTR.
Threading: a request's lock is held while it is answered, or while libfuse is told whom to call, so that the second
never happens to a request that is gone. Nothing else is called under it.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol

from gdah_volume.errors import GdahError, Interrupted, InvalidArgument
from gdah_volume.locks import EOF, Range
from mountfs.fuse.binding import FLock, Library
from mountfs.ports import FileSystemCalls, LockDone

log = logging.getLogger("gdah.fuse")

Answer = tuple[Any, ...]
LATER: Answer = ()

F_RDLCK, F_WRLCK, F_UNLCK = 0, 1, 2
LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN = 1, 2, 4, 8


class _Waiting:
    """One request. Invariant: answered once, and libfuse is asked nothing about it afterwards."""

    def __init__(self, waits: Waits, request: int, reply: Callable[[Range | None], Answer]) -> None:
        self._waits = waits
        self._request = request
        self._reply = reply
        self._lock = threading.Lock()
        self._answered = False
        self._key = 0
        self.cancel: Callable[[], None] = lambda: None

    def finish(self, result: Range | GdahError | None) -> None:
        with self._lock:
            if self._answered:
                return
            self._answered = True
            if isinstance(result, GdahError):
                self._waits.library.reply_err(self._request, result.errno)
            else:
                answer = self._reply(result)
                answer[0](self._request, *answer[1:])
        self._waits.forget(self._key)

    def arm(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel
        with self._lock:
            if not self._answered:
                self._key = self._waits.remember(self)
                self._waits.library.on_interrupt(self._request, self._waits.interrupted, self._key)


class Waits:
    def __init__(self, library: Library) -> None:
        self.library = library
        self._keys = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._interrupts: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.interrupted = library.interrupt_callback(self._interrupts.put)

    def begin(
        self,
        request: int,
        reply: Callable[[Range | None], Answer],
        start: Callable[[LockDone], Callable[[], None]],
    ) -> Answer:
        """`start(done)` begins what the request asks for, and returns what ends it early."""
        waiting = _Waiting(self, request, reply)
        try:
            cancel = start(waiting.finish)
        except GdahError as error:
            waiting.finish(error)
        except BaseException:
            waiting.finish(GdahError("a fault of this mount"))
            log.exception("a lock request failed")
        else:
            waiting.arm(cancel)
        return LATER

    def remember(self, waiting: _Waiting) -> int:
        key = next(self._keys)
        self._waiting[key] = waiting
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fuse-interrupt", daemon=True)
                self._thread.start()
        return key

    def forget(self, key: int) -> None:
        self._waiting.pop(key, None)

    def _run(self) -> None:
        while (key := self._interrupts.get()) is not None:
            waiting = self._waiting.get(key)
            if waiting is not None:
                try:
                    waiting.cancel()
                except Exception:
                    log.exception("ending the wait for a lock failed")

    def abandon(self) -> None:
        """The session is over: nobody may answer any more when it is taken down."""
        for waiting in list(self._waiting.values()):
            waiting.finish(Interrupted("the folder is unmounted"))
        self._interrupts.put(None)


class _LockHandlers(Protocol):
    calls: FileSystemCalls
    library: Library
    waits: Waits

    def _handle(self, file_info: int) -> int: ...


class LockHandlers:
    """The lock requests, for `fuse_ops`."""

    def getlk(self: _LockHandlers, request: int, ino: int, file_info: int, address: int) -> Answer:
        handle, owner = self._handle(file_info), self.library.lock_owner(file_info)
        asked = FLock.from_address(address)
        wanted = _range(asked)

        def reply(found: Range | None) -> Answer:
            return self.library.reply_lock, ctypes.byref(_flock(found))

        return self.waits.begin(request, reply, lambda done: self.calls.getlk(ino, handle, owner, wanted, done))

    def setlk(self: _LockHandlers, request: int, ino: int, file_info: int, address: int, sleep: int) -> Answer:
        handle, owner = self._handle(file_info), self.library.lock_owner(file_info)
        asked = FLock.from_address(address)
        wanted, frees = _range(asked), asked.l_type == F_UNLCK
        pid = self.library.caller(request)[2]

        def start(done: LockDone) -> Callable[[], None]:
            return self.calls.setlk(ino, handle, owner, wanted, frees=frees, wait=bool(sleep), pid=pid, done=done)

        return self.waits.begin(request, lambda _: (self.library.reply_err, 0), start)

    def flock(self: _LockHandlers, request: int, ino: int, file_info: int, how: int) -> Answer:
        handle, owner = self._handle(file_info), self.library.lock_owner(file_info)
        kind = how & ~LOCK_NB
        if kind not in (LOCK_SH, LOCK_EX, LOCK_UN):
            raise InvalidArgument("not a way to lock")
        pid = self.library.caller(request)[2]
        wanted = Range(kind == LOCK_EX, pid=pid)

        def start(done: LockDone) -> Callable[[], None]:
            wait = not how & LOCK_NB
            return self.calls.flock(ino, handle, owner, wanted, frees=kind == LOCK_UN, wait=wait, pid=pid, done=done)

        return self.waits.begin(request, lambda _: (self.library.reply_err, 0), start)


def _range(asked: Any) -> Range:
    """The kernel has counted from the start of the file already; a length of 0 goes to its end."""
    end = EOF if asked.l_len == 0 else asked.l_start + asked.l_len - 1
    return Range(asked.l_type == F_WRLCK, asked.l_start, end, max(0, asked.l_pid))


def _flock(found: Range | None) -> Any:
    if found is None:
        return FLock(F_UNLCK, 0, 0, 0, 0)
    length = 0 if found.end == EOF else found.end - found.start + 1
    return FLock(F_WRLCK if found.write else F_RDLCK, 0, found.start, length, found.pid & 0x7FFFFFFF)
