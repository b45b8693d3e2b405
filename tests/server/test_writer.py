"""The writer's thread and the store that it changes: batches, refusals, full and failing disks, epochs."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import hash_of
from gdah_volume.database import Database
from gdah_volume.errors import BadMessage, Exists, GdahError, NoSpace, OutOfOrder, StorageFailed, UnknownChunk
from gdah_volume.ids import ServerId, client_of, new_author, new_epoch
from gdah_volume.stamps import ZERO, Stamp
from gdah_volume.wire import Blob, Entry
from storage_server.ports import StaleLease, Stamped, Submission
from storage_server.replication import FOREVER
from storage_server.volume_store import VolumeStore
from storage_server.writer import Job, Outcome, Writer
from tests.server.lane_client import Identity

PEER = ServerId("s2")


class Kept:
    """A store, its writer, and what they told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.database = Database(folder / "volume.db")
        self.chunks = ChunkStore(folder / "chunks", self.database, lock=self.lock)
        self.now = 100.0
        self.now_us: int | None = None
        self.store = VolumeStore(
            self.database, self.chunks, monotonic=lambda: self.now, now_us=lambda: self.now_us or 1_000_000_000
        )
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self.failed: queue.Queue[GdahError] = queue.Queue()
        self.writer = Writer("t", self.store, self.outcomes.put, self.failed.put, self.lock)
        self.me = Identity()

    def submission(self, name: bytes, data: bytes = b"", *, stream: int = 1, blobs: Any = None) -> Submission:
        op, found = self.me.create(name, data)
        return Submission(
            op=op, floor=ZERO, blobs=found if blobs is None else blobs, strict=True, sync=False, asker=None,  # type: ignore[arg-type]
            stream=stream,
        )  # fmt: skip

    def job(self, submission: Submission, *, sync: bool = False, valid_until: float = FOREVER) -> Job:
        return Job(
            lambda store: store.stamp(submission, strict=submission.strict, valid_until=valid_until),
            sync=sync,
            submission=submission,
        )

    def run(self, *jobs: Job) -> list[Any]:
        """All in one batch, if the writer was not started before."""
        for job in jobs:
            self.writer.submit(job)
        if not self.writer._thread.is_alive():
            self.writer.start()
        results: list[Any] = []
        while len(results) < len(jobs):
            results += [result for _, result in self.outcomes.get(timeout=20).results]
        return results

    def close(self) -> None:
        if self.writer._thread.is_alive():
            self.writer.stop()
        self.database.close()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.close()


def test_one_refused_operation_harms_no_other_of_its_batch(kept: Kept) -> None:
    jobs = [kept.job(kept.submission(name, b"data")) for name in (b"a", b"b", b"a", b"c")]
    results = kept.run(*jobs)
    assert [type(result) for result in results] == [Stamped, Stamped, Exists, Stamped]
    assert kept.store.replica.operations == 3
    assert len({result.stamp for result in results if isinstance(result, Stamped)}) == 3


def test_a_fault_in_one_job_harms_no_other_of_its_batch(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    def broken(store: VolumeStore) -> None:
        store.database.set_meta("half", "done")
        raise ZeroDivisionError

    results = kept.run(kept.job(kept.submission(b"a")), Job(broken), kept.job(kept.submission(b"b")))
    assert [type(result) for result in results] == [Stamped, ZeroDivisionError, Stamped]
    assert kept.database.meta("half") is None
    assert [entry[2].id.endswith(("-1", "-2")) for entry in kept.store.replica.entries_after(0, 9)] == [True, True]
    assert "a job of the writer failed" in caplog.text


def test_a_full_disk_refuses_and_the_server_lives_on(kept: Kept) -> None:
    kept.run(kept.job(kept.submission(b"a", b"data")))
    pages = kept.database.row("PRAGMA page_count")
    assert pages is not None
    with kept.lock:
        kept.database.execute(f"PRAGMA max_page_count = {pages[0]}")
    results = kept.run(*(kept.job(kept.submission(b"big-%d" % index, os.urandom(60_000))) for index in range(3)))
    assert [type(result) for result in results] == [NoSpace, OutOfOrder, OutOfOrder]
    with kept.lock:
        kept.database.execute("PRAGMA max_page_count = 1000000")
    (refused,) = kept.run(kept.job(kept.submission(b"later on the same connection")))
    assert isinstance(refused, OutOfOrder), "it must not overtake those that were refused"
    (again,) = kept.run(kept.job(kept.submission(b"on another", stream=2)))
    assert isinstance(again, Stamped)
    assert kept.failed.empty()


def test_a_failed_fsync_ends_the_server_and_tells_nobody(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.run(kept.job(kept.submission(b"a")))

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    kept.writer.submit(kept.job(kept.submission(b"b"), sync=True))
    error = kept.failed.get(timeout=20)
    assert isinstance(error, StorageFailed)
    assert kept.outcomes.empty()
    kept.writer._thread.join(20)
    assert not kept.writer._thread.is_alive(), "it is not tried again"
    small = kept.job(kept.submission(b"c"))
    small.is_small = True
    kept.writer.submit(small)
    assert kept.outcomes.empty()
    assert kept.store.replica.operations <= 2


def test_a_stale_lease_stamps_nothing(kept: Kept) -> None:
    submission = kept.submission(b"a")
    (result,) = kept.run(kept.job(submission, valid_until=kept.now))
    assert isinstance(result, StaleLease)
    assert kept.store.replica.operations == 0
    (result,) = kept.run(kept.job(submission, valid_until=kept.now + 0.1))
    assert isinstance(result, Stamped)
    (known,) = kept.run(kept.job(submission, valid_until=kept.now - 1))
    assert known.stamp == result.stamp, "what is known needs no lease"


def test_what_follows_a_stale_one_in_its_turn_is_stale_whatever_its_own_lease(kept: Kept) -> None:
    known, first, second = (kept.submission(name) for name in (b"a", b"b", b"c"))
    (before,) = kept.run(kept.job(known))

    def job(submission: Submission, valid_until: float, turn: int) -> Job:
        return Job(
            lambda store: store.stamp(submission, strict=True, valid_until=valid_until, turn=turn),
            submission=submission,
        )

    results = kept.run(job(first, kept.now, 5), job(second, FOREVER, 5), job(known, FOREVER, 5))
    assert [type(result) for result in results] == [StaleLease, StaleLease, Stamped]
    assert results[2].stamp == before.stamp, "known: it is not stamped anew"
    results = kept.run(job(first, FOREVER, 6), job(second, FOREVER, 6))
    assert results[0].stamp < results[1].stamp


def test_nothing_overtakes_an_operation_that_must_be_sent_again(kept: Kept) -> None:
    data = os.urandom(100_000)
    lacking = kept.submission(b"a", data)
    following = kept.submission(b"b")
    other = kept.submission(b"c", stream=2)
    results = kept.run(kept.job(lacking), kept.job(following), kept.job(other))
    assert [type(result) for result in results] == [UnknownChunk, OutOfOrder, Stamped]
    kept.chunks.put(data)
    lacking.strict = following.strict = False
    results = kept.run(kept.job(lacking), kept.job(following))
    assert [type(result) for result in results] == [Stamped, Stamped]


def test_stamps_grow_over_restarts_and_promises_are_kept_when_the_clock_is_set_back(tmp_path: Path) -> None:
    first = Kept(tmp_path)
    first.now_us = 5_000_000_000
    (a,) = first.run(first.job(first.submission(b"a")))
    (promise,) = first.run(Job(lambda store: store.promise()))
    assert promise >= 5_000_000_000
    first.close()
    again = Kept(tmp_path)
    again.now_us = 1_000
    (b,) = again.run(again.job(again.submission(b"b")))
    assert b.stamp.clock > promise >= a.stamp.clock
    again.close()


def test_a_feed_is_applied_once_in_any_number_of_deliveries(kept: Kept) -> None:
    entries = []
    for number in range(1, 6):
        op, blobs = Identity().create(b"f%d" % number, b"data-%d" % number)
        entries.append(Entry(number, Stamp(1_000 + number, PEER), op, blobs))
    epoch = new_epoch()

    def apply(store: VolumeStore) -> Any:
        store.set_cursor(PEER, epoch, 5, entries[-1].op.id)
        return store.apply(entries, PEER)

    for _ in range(3):
        (applied,) = kept.run(Job(apply))
        assert applied.missing == ()
    assert kept.store.replica.operations == 5
    assert kept.chunks.get(hash_of(b"data-3")) == b"data-3"
    assert kept.store.cursor(PEER, epoch) == (5, entries[-1].op.id)
    assert kept.store.cursor(PEER, new_epoch()) == (0, "")
    assert kept.store.clock.last >= 1_005


def test_content_that_a_feed_names_and_does_not_bring_is_wanted_until_it_comes(kept: Kept) -> None:
    op, blobs = Identity().create(b"f", b"data")
    damaged = (Blob(blobs[0].hash, b"atad"),)
    for number, content in enumerate(((), damaged), 1):
        entry = Entry(number, Stamp(1_000, PEER), op, content)
        (applied,) = kept.run(Job(lambda store, entry=entry: store.apply([entry], PEER)))
        assert applied.missing == (hash_of(b"data"),)
    assert kept.store.wanted() == [hash_of(b"data")]
    kept.chunks.put(b"data")
    assert kept.store.wanted() == []


def test_what_arrives_below_the_stable_point_is_offered_again(kept: Kept) -> None:
    kept.run(Job(lambda store: store.replica.stabilise(Stamp(2_000, PEER))))
    op, blobs = Identity().create(b"late", b"data")
    entry = Entry(1, Stamp(1_000, PEER), op, blobs)
    kept.run(Job(lambda store: store.apply([entry], PEER)))
    stamp = kept.store.replica.stamp_of(op.id)
    assert stamp is not None
    assert stamp.server == kept.store.server
    assert stamp > Stamp(2_000, PEER)


def test_a_new_epoch_forgets_every_cursor(kept: Kept) -> None:
    epoch = new_epoch()
    kept.run(Job(lambda store: store.set_cursor(PEER, epoch, 7, "x")))
    before = kept.store.epoch
    kept.run(Job(lambda store: store.begin_epoch()))
    assert kept.store.epoch != before
    assert kept.store.cursor(PEER, epoch) == (0, "")
    assert kept.database.meta("epoch") == kept.store.epoch


def test_lines_take_turns_and_keep_their_order(kept: Kept) -> None:
    """Behind a connection with very many operations on their way another one waited for all of them."""
    busy = [kept.submission(b"busy-%d" % number) for number in range(100)]
    kept.me = Identity("another")
    other = [kept.submission(b"other-%d" % number, stream=2) for number in range(2)]
    kept.run(*map(kept.job, [*busy, *other]))
    names = [op.name for _, _, op in kept.store.replica.entries_after(0, 200)]  # type: ignore[union-attr]
    assert names[:4] == [b"busy-0", b"other-0", b"busy-1", b"other-1"]
    assert [name for name in names if name.startswith(b"busy")] == [b"busy-%d" % number for number in range(100)]


def test_what_a_killed_run_of_a_mount_left_goes_before_what_the_next_run_did_on_it(kept: Kept) -> None:
    """They have different authors, and are sent over one connection. The later ones overtook: a client that worked
    alone got a conflict copy of its own."""
    left = [kept.submission(b"left-%d" % number) for number in range(3)]
    kept.me.author = new_author(client_of(left[0].op.id))
    later = [kept.submission(b"later-%d" % number) for number in range(2)]
    kept.run(*map(kept.job, [*left, *later]))
    names = [op.name for _, _, op in kept.store.replica.entries_after(0, 200)]  # type: ignore[union-attr]
    assert names == [b"left-0", b"left-1", b"left-2", b"later-0", b"later-1"]


def test_what_a_server_stamped_whose_clock_was_days_ahead_is_taken_from_a_mount(kept: Kept) -> None:
    """When that server is gone, nobody else could be given what it had acknowledged, and mounts were turned away."""
    op, blobs = kept.me.create(b"x")
    day_us = 86_400_000_000

    def handed(days: int) -> list[Entry]:
        return [Entry(1, Stamp(kept.store.clock.now_us() + days * day_us, PEER), op, blobs)]

    kept.store.check_handed(handed(20))
    with pytest.raises(BadMessage, match="cannot be one of a server's"):
        kept.store.check_handed(handed(40 * 366))
