"""A mounted session: threads that fetch the kernel's requests, and its end.

The threads are Python's own. libfuse's loop starts its threads in C, and each callback on such a thread makes and
throws away a Python thread state; on ours it only takes the interpreter lock.

Threading: `mount`, `run`, `unmount` and `stopped` may be called from any thread, also from a signal handler: they wait
on file descriptors, never on a lock that the interrupted code may hold. A request that came in is answered before its
thread ends.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import select
import threading
from pathlib import Path

from gdah_volume.errors import MountFailed
from mountfs.fuse import mountpoint
from mountfs.fuse.binding import Connection, Library, MountOptions, load
from mountfs.fuse.kernel_cache import NotifyingKernelCache
from mountfs.fuse.last_will import LastWill
from mountfs.fuse.negotiation import RECEIVE_BYTES
from mountfs.fuse_ops import FuseOps

log = logging.getLogger("gdah.fuse")

UNMOUNTED_S = 5.0
"""How long the kernel may take, after an unmount, to end the session."""
READAHEAD_KIB = 1024


def mount(
    path: Path,
    operations: FuseOps,
    options: MountOptions | None = None,
    kernel_cache: NotifyingKernelCache | None = None,
) -> Session:
    """Mount `operations` on `path`, which `mountpoint.prepare` found fit. Requests are served from here on; daemonize
    before, because threads do not survive a fork. Raises MountFailed."""
    options = options or MountOptions()
    library = load()
    table = library.table(operations.callbacks(library), options)
    connection = library.connect(path, table, options)
    session = Session(path, operations, connection, library, kernel_cache or NotifyingKernelCache())
    try:
        session._greet()
    except BaseException:
        mountpoint.unmount(path, lazy=True)
        raise
    session._start(options)
    return session


class Session:
    """Invariant: the threads end only when the kernel has ended the connection, so no request is left unanswered."""

    def __init__(
        self,
        path: Path,
        operations: FuseOps,
        connection: Connection,
        library: Library,
        kernel_cache: NotifyingKernelCache,
    ) -> None:
        self.path = path
        self.kernel_cache = kernel_cache
        self.operations = operations
        self.library = library
        self._connection = connection
        self._lock = threading.Lock()  # guards the two counts below; held for nothing else
        self._workers = 0
        self._idle = 0
        self._max_workers = 1
        self._stopped_out, self._stopped_in = os.pipe()
        self._last_will: LastWill | None = None

    def run(self) -> None:
        """Returns when the folder is unmounted, by whomever, and every request is answered."""
        self.stopped(None)
        if self._last_will is not None:
            self._last_will.cancel()
        self.operations.waits.abandon()
        if self.kernel_cache.stop():
            self._connection.close()

    def stopped(self, timeout_s: float | None = 0.0) -> bool:
        """Whether the session has ended, waiting for it up to `timeout_s`."""
        poll = select.poll()
        poll.register(self._stopped_out, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def unmount(self, *, lazy: bool = False, grace_s: float = UNMOUNTED_S) -> bool:
        """Raises MountBusy while programs use it, unless `lazy`: then it leaves the tree now and its users have
        `grace_s` to finish. Returns whether the session has ended; if it has not, ending the process ends it for
        those users with ENOTCONN."""
        mountpoint.unmount(self.path, lazy=lazy)
        return self.stopped(grace_s)

    # --- serving

    def _greet(self) -> None:
        """The first request is INIT, which the kernel sends when it mounts."""
        buffer, address = _buffer()
        size = self._fetch(buffer)
        if size > 0:
            self._connection.greet(address, size)
        if size <= 0 or self._connection.ended():
            raise MountFailed("the kernel and the FUSE library cannot agree on a protocol; update the library")

    def _start(self, options: MountOptions) -> None:
        mounted = mountpoint.find_mount(self.path)
        if mounted is not None:
            _raise_readahead(mounted.device)
            self._last_will = LastWill(mounted.device)
        self.kernel_cache.start(self._connection, self.operations.root_names, self.operations.changing)
        with self._lock:
            self._max_workers = options.max_threads
            for _ in range(options.threads):
                self._add_worker()

    def _add_worker(self) -> None:
        """Under the lock. A machine that has no thread left goes on with those that there are."""
        thread = threading.Thread(target=self._work, name=f"fuse-{self._workers}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            log.warning("no more threads than %d for the mount", self._workers)
            self._max_workers = self._workers
            return
        self._workers += 1
        self._idle += 1

    def _work(self) -> None:
        buffer, address = _buffer()
        try:
            while self._serve_one(buffer, address):
                with self._lock:
                    self._idle += 1
        finally:
            with self._lock:
                self._workers -= 1
                last = self._workers == 0
            if last:
                os.write(self._stopped_in, b".")

    def _serve_one(self, buffer: list[mmap.mmap], address: int) -> bool:
        """Fetch one request and have it answered; False when there will be no more. The thread is then not idle."""
        size = self._fetch(buffer)
        with self._lock:
            self._idle -= 1
            if size > 0 and self._idle == 0 and self._workers < self._max_workers:
                self._add_worker()
        if size > 0:
            answer = self.operations.raw.answer(buffer[0], size)
            if answer is None:
                self._connection.process(address, size)
            else:
                self._reply(answer)
        return size >= 0

    def _reply(self, answer: bytes) -> None:
        try:
            os.write(self._connection.fd, answer)
        except OSError as error:  # ENOENT: who asked was killed meanwhile; ENODEV: unmounted
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                log.exception("answering the kernel failed: %s", error.strerror)

    def _fetch(self, buffer: list[mmap.mmap]) -> int:
        """The size of the request; 0: it was taken back meanwhile; -1: there will be no more."""
        try:
            return os.readv(self._connection.fd, buffer) or -1
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EAGAIN):
                return 0
            if error.errno != errno.ENODEV:
                log.exception("reading from the kernel failed: %s", error.strerror)
            return -1


def _buffer() -> tuple[list[mmap.mmap], int]:
    """Mapped, not zeroed: a thread takes as much memory as the largest request that it has seen, 1 MiB at most."""
    buffer = mmap.mmap(-1, RECEIVE_BYTES)
    return [buffer], ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _raise_readahead(device: str) -> None:
    """The kernel reads ahead 128 KiB unless root allows more for this device; without that right it stays."""
    try:
        Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(READAHEAD_KIB))
    except OSError:
        log.debug("read-ahead stays at the kernel's default")
