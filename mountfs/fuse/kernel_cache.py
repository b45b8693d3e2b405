"""Telling the kernel what it must forget, so that it may keep everything else for a long time.

A thread of its own notifies, because the kernel can make a notification wait for requests that are under way: it takes
the folder's lock, and waits for pages that are being read. From a handler that would be a wait for oneself; here nobody
waits. The same lock is why a name cannot be cached stale: a notification about it waits until the lookup that is under
way is done. Attributes have no such lock: a lookup may bring the kernel an inode just after it was told to forget it,
and said "never heard of" (ENOENT). So those are told again, a few times, and at once when one of them is opened: then
the kernel has it.

A name also stands for its folder: the kernel keeps listings, and drops one when it is told of the folder's inode. First
the name, then the inode: the folder's lock makes sure that no listing is under way that would be kept afterwards.

A folder that a program of this mount is changing is locked until that change is acknowledged, and that may wait for
another mount, which waits for us (`after`). So names in such a folder are told by a second thread, which may wait, and
`after` does not wait for it: what is changed there at the same time has no order anyway.

What a file holds changes for programs when the kernel was told, and not before: who asks to invalidate an inode may
want to hear of it (`Telling`), and may ask for one more time if the kernel was given something of before meanwhile.

Everything at once, and at the limit (LIMIT names waiting): all names that the kernel may know in the root are told,
since dropping a folder's name drops everything unused below it.

Threading: any thread may invalidate, at once and without waiting. `_lock` guards what is waiting and is held for
nothing else; the two notifying threads hold no lock while they talk to the kernel, or call back.
"""

from __future__ import annotations

import errno
import heapq
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from mountfs.ports import KernelCache, Telling

log = logging.getLogger("gdah.fuse")

LIMIT = 100_000
"""Names or inodes waiting; about 20 MB, and 10 s of notifying."""
AGAIN_S = (0.005, 0.1, 1.0)
"""When an inode that the kernel did not know is told again."""
TELL_AT_MOST = 8
"""How often an inode is told in a row because programs went on reading what was there before."""
STOP_S = 5.0
_ROOT_INO = 1


class Notify(Protocol):
    """Both return 0 or a negative errno, and may wait for the kernel."""

    def notify_inode(self, ino: int) -> int: ...
    def notify_entry(self, parent: int, name: bytes) -> int: ...


class Changing:
    """Folders in which a program is changing a name: the kernel holds their locks until it has the answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[int] = Counter()

    @contextmanager
    def names_in(self, *folders: int) -> Iterator[None]:
        with self._lock:
            self._counts.update(folders)
        try:
            yield
        finally:
            with self._lock:
                for folder in folders:
                    self._counts[folder] -= 1
                    if not self._counts[folder]:
                        del self._counts[folder]

    def __call__(self, folder: int) -> bool:
        with self._lock:
            return folder in self._counts


class NotifyingKernelCache(KernelCache):
    """Invariant: what was asked before a `flush` that returned True, the kernel was told. Before `start` the kernel has
    nothing cached, after `stop` it has nothing mounted: then asking does nothing."""

    def __init__(self, *, limit: int = LIMIT, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._patience = threading.Condition(self._lock)
        self._inodes: dict[int, list[Telling]] = {}
        self._telling: set[int] = set()
        """Taken from `_inodes` and not told yet."""
        self._told_waiters = 0
        self._unknown: set[int] = set()
        """Those that the kernel did not know, and will be told again."""
        self._entries: dict[tuple[int, bytes], None] = {}
        self._again: list[tuple[float, int, int]] = []
        self._everything = False
        self._busy = False
        self._patient: dict[tuple[int, bytes], None] = {}
        self._patient_busy = False
        self._patient_after: list[Callable[[], None]] = []
        self._after: list[Callable[[], None]] = []
        self._running = False
        self._threads: list[threading.Thread] = []
        self.told = 0
        """Notifications that the kernel took."""
        self.overflows = 0

    # --- asking, from any thread

    def invalidate_inode(self, ino: int, telling: Telling | None = None) -> None:
        with self._lock:
            if self._running:
                waiting = self._inodes.setdefault(ino, [])
                if telling is not None:
                    waiting.append(telling)
                self._work.notify_all()
                return
        if telling is not None:
            _tell_at_most([telling], lambda: 0)

    def wait_told(self, ino: int, timeout_s: float) -> bool:
        if ino not in self._inodes and ino not in self._telling and ino not in self._unknown:  # as almost always
            return True
        with self._lock:
            if ino in self._unknown:
                self._unknown.discard(ino)
                self._inodes.setdefault(ino, [])
                self._work.notify_all()
            self._told_waiters += 1
            try:
                return self._work.wait_for(lambda: ino not in self._inodes and ino not in self._telling, timeout_s)
            finally:
                self._told_waiters -= 1

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        with self._lock:
            if not self._running:
                return
            if self._everything and parent != _ROOT_INO:
                return
            self._entries[parent, name] = None
            self._inodes.setdefault(parent, [])
            if len(self._entries) > self._limit:
                self._overflow()
            self._work.notify_all()

    def invalidate_everything(self) -> None:
        with self._lock:
            if self._running:
                self._forget_all_names()
                self._work.notify_all()

    def _overflow(self) -> None:
        self.overflows += 1
        self._forget_all_names()

    def _forget_all_names(self) -> None:
        self._entries = {key: None for key in self._entries if key[0] == _ROOT_INO}
        self._everything = True
        self._inodes.setdefault(_ROOT_INO, [])

    def after(self, done: Callable[[], None]) -> None:
        """Call `done` when the kernel was told of everything that was asked so far, but of names in folders that this
        mount itself is changing. From a notifying thread, or at once; it must not wait."""
        with self._lock:
            if self._running and (self._busy or self._waiting()):
                self._after.append(done)
                self._work.notify_all()
                return
        done()

    def after_all(self, done: Callable[[], None]) -> None:
        """As `after`, and of the names in folders that this mount is changing, too. Nobody who changes a folder may
        wait for it."""

        def others_told() -> None:
            with self._lock:
                if self._running and self._has_patient():
                    self._patient_after.append(done)
                    self._patience.notify()
                    return
            done()

        self.after(others_told)

    def flush(self, timeout_s: float) -> bool:
        """Wait until the kernel was told of everything that was asked so far; not for a handler to call."""
        with self._lock:
            return self._work.wait_for(lambda: not (self._busy or self._waiting() or self._has_patient()), timeout_s)

    def _has_patient(self) -> bool:
        return bool(self._patient) or self._patient_busy

    def _waiting(self) -> bool:
        return bool(self._inodes or self._entries or self._everything or self._after)

    # --- telling, in threads of its own

    def start(
        self,
        notify: Notify,
        root_names: Callable[[], Iterable[bytes]],
        is_changing: Callable[[int], bool] = lambda ino: False,  # noqa: ARG005
    ) -> None:
        """`is_changing`: whether a program of this mount may hold the lock of that folder now."""
        self._running = True
        self._threads = [
            threading.Thread(target=self._run, args=(notify, root_names, is_changing), name="fuse-notify", daemon=True),
            threading.Thread(target=self._run_patient, args=(notify,), name="fuse-notify-patient", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> bool:
        """Whether the thread has ended, so that nobody notifies any more."""
        with self._lock:
            self._running = False
            left = [telling for waiting in self._inodes.values() for telling in waiting]
            self._inodes, self._entries, self._again, self._everything = {}, {}, [], False
            self._patient = {}
            self._work.notify_all()
            self._patience.notify_all()
        _tell_at_most(left, lambda: 0)
        for thread in self._threads:
            thread.join(STOP_S)
        return not any(thread.is_alive() for thread in self._threads)

    def _run(
        self, notify: Notify, root_names: Callable[[], Iterable[bytes]], is_changing: Callable[[int], bool]
    ) -> None:
        while True:
            with self._lock:
                while self._running and not self._waiting() and not self._due():
                    pause = self._again[0][0] - self._clock() if self._again else None
                    self._work.wait(pause)
                if not self._running:
                    return
                inodes, self._inodes = self._inodes, {}
                self._telling = set(inodes)
                entries, self._entries = self._entries, {}
                everything, self._everything = self._everything, False
                after, self._after = self._after, []
                for entry in [entry for entry in entries if is_changing(entry[0])]:
                    del entries[entry]
                    self._patient[entry] = None
                    self._patience.notify()
                if len(self._patient) > self._limit:
                    self._patient = {}
                    self._overflow()
                tries = dict.fromkeys(inodes, 0)
                while self._due():
                    _, ino, tried = heapq.heappop(self._again)
                    tries.setdefault(ino, tried)
                self._busy = True
            try:
                self._tell(notify, tries, entries, root_names if everything else tuple, inodes)
            except Exception:
                log.exception("telling the kernel failed")
            for ino in self._telling:  # only if that failed
                _tell_at_most(inodes[ino], lambda: 0)
            for done in after:
                try:
                    done()
                except Exception:
                    log.exception("what was to follow a notification failed")
            with self._lock:
                self._busy = False
                self._telling = set()
                self._work.notify_all()

    def _run_patient(self, notify: Notify) -> None:
        while True:
            with self._lock:
                while self._running and not (self._patient or self._patient_after):
                    self._patience.wait()
                if not self._running:
                    return
                entries, self._patient = self._patient, {}
                after, self._patient_after = self._patient_after, []
                self._patient_busy = True
            try:
                self._tell(notify, dict.fromkeys((parent for parent, _ in entries), 0), entries, tuple)
                for done in after:
                    done()
            except Exception:
                log.exception("telling the kernel failed")
            with self._lock:
                self._patient_busy = False
                self._work.notify_all()

    def _due(self) -> bool:
        return bool(self._again) and self._again[0][0] <= self._clock()

    def _tell(
        self,
        notify: Notify,
        tries: dict[int, int],
        entries: dict[tuple[int, bytes], None],
        root_names: Callable[[], Iterable[bytes]],
        waiting: Mapping[int, Sequence[Telling]] | None = None,
    ) -> None:
        """`waiting`: who wants to hear that an inode was told."""
        for parent, name in entries:
            self.told += notify.notify_entry(parent, name) == 0
        for name in root_names():
            self.told += notify.notify_entry(_ROOT_INO, name) == 0
        for ino, tried in tries.items():
            result = self._tell_inode(notify, ino, (waiting or {}).get(ino, ()))
            if result == -errno.ENOENT and tried < len(AGAIN_S):
                with self._lock:
                    if self._running and len(self._again) < self._limit:
                        heapq.heappush(self._again, (self._clock() + AGAIN_S[tried], ino, tried + 1))
                        self._unknown.add(ino)
            elif ino in self._unknown:
                with self._lock:
                    self._unknown.discard(ino)

    def _tell_inode(self, notify: Notify, ino: int, waiting: Sequence[Telling]) -> int:
        def tell() -> int:
            result = notify.notify_inode(ino)
            self.told += result == 0
            return result

        result = _tell_at_most(waiting, tell)
        self._telling.discard(ino)
        if self._told_waiters:
            with self._lock:
                self._work.notify_all()
        return result


def _tell_at_most(waiting: Sequence[Telling], tell: Callable[[], int]) -> int:
    """Until nobody who waits wants it again. The last result."""
    for _ in range(TELL_AT_MOST):
        for each in waiting:
            each.telling()
        result = tell()
        waiting = [each for each in waiting if not each.told()]
        if not waiting:
            break
    return result
