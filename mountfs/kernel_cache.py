"""Telling the kernel what it must forget, so that it may keep everything else for a long time.

A thread of its own notifies, because the kernel can make a notification wait for requests that are under way: it takes
the folder's lock, and waits for pages that are being read. From a handler that would be a wait for oneself; here nobody
waits. The same lock is why a name cannot be cached stale: a notification about it waits until the lookup that is under
way is done. Attributes have no such lock: a lookup may bring the kernel an inode just after it was told to forget it,
and said "never heard of" (ENOENT). So those are told again, twice.

A name also stands for its folder: the kernel keeps listings, and drops one when it is told of the folder's inode. First
the name, then the inode: the folder's lock makes sure that no listing is under way that would be kept afterwards.

Everything at once, and at the limit (LIMIT names waiting): all names that the kernel may know in the root are told,
since dropping a folder's name drops everything unused below it.

Threading: any thread may invalidate, at once and without waiting. `_lock` guards the two sets and is held for nothing
else; the notifying thread holds no lock while it talks to the kernel.
"""

from __future__ import annotations

import errno
import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from mountfs.ports import KernelCache

log = logging.getLogger("gdah.fuse")

LIMIT = 100_000
"""Names or inodes waiting; about 20 MB, and 10 s of notifying."""
AGAIN_S = (0.1, 1.0)
"""When an inode that the kernel did not know is told again."""
STOP_S = 5.0
_ROOT_INO = 1


class Notify(Protocol):
    """Both return 0 or a negative errno, and may wait for the kernel."""

    def notify_inode(self, ino: int) -> int: ...
    def notify_entry(self, parent: int, name: bytes) -> int: ...


class NotifyingKernelCache(KernelCache):
    """Invariant: what was asked before a `flush` that returned True, the kernel was told. Before `start` the kernel has
    nothing cached, after `stop` it has nothing mounted: then asking does nothing."""

    def __init__(self, *, limit: int = LIMIT, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._inodes: dict[int, None] = {}
        self._entries: dict[tuple[int, bytes], None] = {}
        self._again: list[tuple[float, int, int]] = []
        self._everything = False
        self._busy = False
        self._running = False
        self._thread: threading.Thread | None = None
        self.told = 0
        """Notifications that the kernel took."""
        self.overflows = 0

    # --- asking, from any thread

    def invalidate_inode(self, ino: int) -> None:
        with self._lock:
            if self._running:
                self._inodes[ino] = None
                self._work.notify()

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        with self._lock:
            if not self._running:
                return
            if self._everything and parent != _ROOT_INO:
                return
            self._entries[parent, name] = None
            self._inodes[parent] = None
            if len(self._entries) > self._limit:
                self._overflow()
            self._work.notify()

    def invalidate_everything(self) -> None:
        with self._lock:
            if self._running:
                self._forget_all_names()
                self._work.notify()

    def _overflow(self) -> None:
        self.overflows += 1
        self._forget_all_names()

    def _forget_all_names(self) -> None:
        self._entries = {key: None for key in self._entries if key[0] == _ROOT_INO}
        self._everything = True
        self._inodes[_ROOT_INO] = None

    def flush(self, timeout_s: float) -> bool:
        """Wait until the kernel was told of everything that was asked so far; not for a handler to call."""
        with self._lock:
            return self._work.wait_for(lambda: not (self._busy or self._waiting()), timeout_s)

    def _waiting(self) -> bool:
        return bool(self._inodes or self._entries or self._everything)

    # --- telling, in a thread of its own

    def start(self, notify: Notify, root_names: Callable[[], Iterable[bytes]]) -> None:
        self._running = True
        self._thread = threading.Thread(target=self._run, args=(notify, root_names), name="fuse-notify", daemon=True)
        self._thread.start()

    def stop(self) -> bool:
        """Whether the thread has ended, so that nobody notifies any more."""
        with self._lock:
            self._running = False
            self._inodes, self._entries, self._again, self._everything = {}, {}, [], False
            self._work.notify_all()
        if self._thread is None:
            return True
        self._thread.join(STOP_S)
        return not self._thread.is_alive()

    def _run(self, notify: Notify, root_names: Callable[[], Iterable[bytes]]) -> None:
        while True:
            with self._lock:
                while self._running and not self._waiting() and not self._due():
                    pause = self._again[0][0] - self._clock() if self._again else None
                    self._work.wait(pause)
                if not self._running:
                    return
                inodes, self._inodes = self._inodes, {}
                entries, self._entries = self._entries, {}
                everything, self._everything = self._everything, False
                tries = dict.fromkeys(inodes, 0)
                while self._due():
                    _, ino, tried = heapq.heappop(self._again)
                    tries.setdefault(ino, tried)
                self._busy = True
            try:
                self._tell(notify, tries, entries, root_names if everything else tuple)
            except Exception:
                log.exception("telling the kernel failed")
            with self._lock:
                self._busy = False
                self._work.notify_all()

    def _due(self) -> bool:
        return bool(self._again) and self._again[0][0] <= self._clock()

    def _tell(
        self,
        notify: Notify,
        tries: dict[int, int],
        entries: dict[tuple[int, bytes], None],
        root_names: Callable[[], Iterable[bytes]],
    ) -> None:
        for parent, name in entries:
            self.told += notify.notify_entry(parent, name) == 0
        for name in root_names():
            self.told += notify.notify_entry(_ROOT_INO, name) == 0
        for ino, tried in tries.items():
            result = notify.notify_inode(ino)
            self.told += result == 0
            if result == -errno.ENOENT and tried < len(AGAIN_S):
                with self._lock:
                    if self._running and len(self._again) < self._limit:
                        heapq.heappush(self._again, (self._clock() + AGAIN_S[tried], ino, tried + 1))
