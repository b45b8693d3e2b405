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
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from gdah_volume.errors import FileSystemError, GdahError, NoSpace, RequestError, StorageFailed
from storage_server.ports import Figures, Published, StaleLease, Submission
from storage_server.turns import Turns
from storage_server.volume_store import VolumeStore

log = logging.getLogger("storage_server")

BATCH_MAX_JOBS = 256
BATCH_MAX_S = 0.02
"""A batch that has run so long commits: whoever waits for its first job, or comes meanwhile, has waited enough. (With
0.05 s and many on their way an operation took twice as long, and no more of them were done.)"""
BULK_MAX_S = 0.02
"""The same for bulk, which is nobody's first."""
REST_MAX_S = 0.02
"""After a batch of a backlog the writer rests for as long as that took, at most this, unless somebody waits: it shares
the interpreter and the processors with the event loop and the mounts."""

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
    line: Hashable = None
    """Those of one line are done in order; lines take turns. (A submission knows its own; bulk is one line.)"""
    is_small: bool = False
    """Takes less than a millisecond and no fsync, so that it may run in the event loop's thread."""
    is_bulk: bool = False
    """Of a longer work that nobody waits for piece by piece: others go first, in turn."""
    is_backlog: bool = False
    """Bulk of which there is so much that it can take its time."""


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
        self._jobs: tuple[Turns[Job], Turns[Job]] = (Turns(), Turns())
        """Those that somebody waits for; bulk."""
        self._tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """One True for each job that was put there, after it; False: end."""
        self._waited_for = threading.Event()
        self._rests_until = 0.0
        self._bulk_next = False
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
            self._jobs[job.is_bulk].append(_line_of(job), job)
            self._tokens.put(True)
            if not job.is_bulk:
                self._waited_for.set()

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
        self._tokens.put(False)
        self._rests_until = 0.0
        self._waited_for.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while True:
            if not self._tokens.get():
                return
            self._rest()
            with self._lock:
                job = self._pick()
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
        ended = time.monotonic()
        self.busy_s += ended - started
        if job.is_backlog:
            self._rests_until = ended + min(ended - started, REST_MAX_S)
        return goes_on

    def _batch(self, first: Job, started: float, *, alone: bool) -> bool:
        """False: it is the last one."""
        jobs: list[Job] = []
        results: list[Any] = []
        ended = False
        limit_s = BULK_MAX_S if first.is_bulk else BATCH_MAX_S
        try:
            try:
                with self._store.database.transaction():
                    job: Job | None = first
                    while job is not None:
                        jobs.append(job)
                        results.append(self._run(job))
                        if alone or len(jobs) >= BATCH_MAX_JOBS or time.monotonic() - started > limit_s:
                            break
                        job, ended = self._next(first)
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

    def _rest(self) -> None:
        """Before more bulk, unless somebody waits."""
        self._waited_for.clear()
        rest_s = self._rests_until - time.monotonic()
        if rest_s > 0 and not self._jobs[False]:
            self._waited_for.wait(rest_s)

    def _pick(self) -> Job:
        """The next job of a new batch: of those that are waited for and of bulk in turn."""
        waited_for, bulk = self._jobs
        self._bulk_next = bool(bulk) and (self._bulk_next or not waited_for)
        job = (bulk if self._bulk_next else waited_for).popleft()
        self._bulk_next = not self._bulk_next
        return job

    def _next(self, first: Job) -> tuple[Job | None, bool]:
        """One more for the batch that `first` began, and whether the end has come. No batch has both kinds: who waits
        is told after his own kind, and a batch of bulk ends as soon as somebody waits."""
        if not self._jobs[first.is_bulk] or (first.is_bulk and self._jobs[False]):
            return None, False
        try:
            goes_on = self._tokens.get_nowait()
        except queue.Empty:
            return None, False
        if not goes_on:
            return None, True
        return self._jobs[first.is_bulk].popleft(), False

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


def _line_of(job: Job) -> Hashable:
    if job.is_bulk:
        return None
    return job.line if job.submission is None else job.submission.line
