"""The one thread that writes a volume: takes what is queued, makes one transaction of it, tells the results.

Group commit: whatever has come in while a transaction was under way is the next one. A job that fails refuses itself
and harms no other: the batch is rolled back and its jobs run again one by one. A disk that is full refuses the jobs
(NoSpace) and the server lives on; any other failure of the disk (StorageFailed) ends the server: nothing is told then,
nothing is tried again.

Threading: `submit` and `delivered` on the event loop; `run` of a job, inside a transaction, and then `deliver`, once a
batch, in the writer's thread or, of a single small job, within `submit`. One at a time: both hold the lock.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gdah_volume.errors import FileSystemError, GdahError, NoSpace, RequestError, StorageFailed
from storage_server.ports import Figures, Published, StaleLease, Submission
from storage_server.volume_store import VolumeStore

log = logging.getLogger("storage_server")

BATCH_MAX_JOBS = 256
BATCH_MAX_S = 0.05
"""A batch that has run so long commits: whoever waits for its first job has waited enough."""

_REFUSALS = (FileSystemError, RequestError, StaleLease)
"""What the job of a submission raises before it has changed anything."""


@dataclass(slots=True)
class Job:
    """`done` gets the result or the exception, on the event loop; a job for a `submission` has none: its result goes to
    the replication together with the others of its batch."""

    run: Callable[[VolumeStore], Any]
    done: Callable[[Any], None] | None = None
    sync: bool = False
    submission: Submission | None = None
    is_small: bool = False
    """Takes less than a millisecond and no fsync, so that it may run in the event loop's thread."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A committed batch."""

    results: list[tuple[Job, Any]]
    published: list[Published]
    figures: Figures


class Writer:
    def __init__(
        self,
        name: str,
        store: VolumeStore,
        deliver: Callable[[Outcome], None],
        failed: Callable[[GdahError], None],
        lock: threading.RLock,
    ) -> None:
        """`lock` is held whenever the database is in use here; the chunk store shares it."""
        self._lock = lock
        self._store = store
        self._deliver = deliver
        self._failed = failed
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=f"writer-{name}", daemon=True)
        self._out = 0
        self._fold = False
        self._dead = False
        """The disk failed: nothing is tried any more, and nobody is told anything."""
        self.busy_s = 0.0
        """Time spent in batches, ever; for the load figure."""

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        """From the event loop. When nothing is under way a small job is done at once in the caller's thread: that saves
        two wakings of threads. Its outcome is delivered like any other."""
        if self._dead:
            return
        self._out += 1
        if self._out == 1 and job.is_small and not job.sync and self._lock.acquire(blocking=False):
            try:
                self._timed(job, alone=True)
            finally:
                self._lock.release()
        else:
            self._queue.put(job)

    def fold_soon(self) -> None:
        """Fold the rest of the write-ahead log back after the next batch in the writer's thread."""
        self._fold = True

    def delivered(self, outcome: Outcome) -> None:
        """The event loop has taken it."""
        self._out -= len(outcome.results)

    @property
    def queued(self) -> int:
        """Jobs whose outcome has not been taken yet."""
        return self._out

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Finish what is queued, then end; False if it did not in time."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while True:
            job = self._queue.get()
            if job is None:
                return
            with self._lock:
                goes_on = self._timed(job)
                if goes_on and self._fold:
                    goes_on = self._fold_now()
            if not goes_on:
                return

    def _fold_now(self) -> bool:
        """False: the disk failed."""
        self._fold = False
        try:
            self._store.database.checkpoint()
        except Exception as error:  # noqa: BLE001 - busy is no exception here: what is one comes from the disk
            self._dead = True
            self._failed(StorageFailed(f"the write-ahead log cannot be folded back: {error}"))
            return False
        return True

    def _timed(self, job: Job, *, alone: bool = False) -> bool:
        started = time.monotonic()
        goes_on = self._batch(job, started, alone=alone)
        self.busy_s += time.monotonic() - started
        return goes_on

    def _batch(self, first: Job, started: float, *, alone: bool) -> bool:
        """False: it is the last one."""
        jobs: list[Job] = []
        results: list[Any] = []
        ended = False
        try:
            try:
                with self._store.database.transaction():
                    job: Job | None = first
                    while job is not None:
                        jobs.append(job)
                        results.append(self._run(job))
                        if alone or len(jobs) >= BATCH_MAX_JOBS or time.monotonic() - started > BATCH_MAX_S:
                            break
                        job, ended = self._next()
                    self._sync_before_commit(jobs)
                published = self._store.published
            except StorageFailed:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, each job alone shows whose it is
                log.debug("a batch of %d jobs failed: %r", len(jobs), error)
                published = []
                results = [self._alone(job, published) for job in jobs]
        except StorageFailed as error:
            self._dead = True
            self._failed(error)
            return False
        self._store.published = []
        self._deliver(Outcome(list(zip(jobs, results, strict=True)), published, self._store.figures()))
        return not ended

    def _next(self) -> tuple[Job | None, bool]:
        try:
            job = self._queue.get_nowait()
        except queue.Empty:
            return None, False
        return job, job is None

    def _run(self, job: Job) -> Any:
        """A refused operation has changed nothing, so it needs no roll back; any other failure does."""
        try:
            return job.run(self._store)
        except _REFUSALS as refusal:
            if job.submission is None or isinstance(refusal, NoSpace):
                raise
            return refusal

    def _sync_before_commit(self, jobs: list[Job]) -> None:
        if any(job.sync for job in jobs):
            self._store.chunks.sync()
            with self._store.database.transaction(sync=True):
                pass

    def _alone(self, job: Job, published: list[Published]) -> Any:
        """One job in a transaction of its own; its failure is its result."""
        self._store.published = []
        try:
            with self._store.database.transaction():
                result = self._run(job)
                self._sync_before_commit([job])
        except StorageFailed:
            raise
        except GdahError as error:
            if job.submission is not None and isinstance(error, NoSpace):
                self._store.streams.refused(job.submission)
            return error
        except Exception as error:
            log.exception("a job of the writer failed")
            return error
        published.extend(self._store.published)
        return result
