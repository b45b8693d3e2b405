"""What a volume does by itself, time and again: timers of the replication, promises, the stable point, the disk.

Threading: one task on the event loop; disk and database in threads and in the writer.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from pathlib import Path

from gdah_volume.database import Database
from gdah_volume.errors import GdahError, StorageFailed
from gdah_volume.wire import BEAT_INTERVAL_S
from storage_server.volumes import Volume

log = logging.getLogger("storage_server")

TICK_S = 0.05
STABILISE_EVERY_S = 0.5
DISK_EVERY_S = 1.0
FLUSH_EVERY_S = 5.0
"""What nobody asked to sync is on the disk after so long all the same."""
PRUNE_EVERY_S = 3600.0
FOLD_EVERY_S = 10.0
FOLD_ENTRIES = 2000
"""After so many entries (some 16 MiB with small files), or a while after a few, the write-ahead log is folded back."""
DAY_NS = 86_400 * 1_000_000_000


class Upkeep:
    def __init__(
        self, volume: Volume, folder: Path, database: Database, *, min_free_bytes: int, log_retention_days: float
    ) -> None:
        """`database`: a connection of our own, to fold the write-ahead log back beside the writer."""
        self._volume = volume
        self._folder = folder
        self._database = database
        self._folding = False
        self._folded_head = volume.figures.head
        self._min_free_bytes = min_free_bytes
        self._retention_ns = int(log_retention_days * DAY_NS)
        self._prune_every_s = min(PRUNE_EVERY_S, max(1.0, log_retention_days * PRUNE_EVERY_S))
        self._due: dict[str, float] = {}
        self._promised = True
        self._stabilising = False
        self._flushed_head = volume.figures.head
        self._busy_s = 0.0
        self._busy_at = volume.monotonic()
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        volume = self._volume
        volume.last_tick = volume.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = volume.monotonic()
            if volume.stood_still(now):
                # Stopped, or starved. Leases are over, so nothing is stamped before the others are heard; whoever gave
                # us up has closed its lanes. We only must not take for their silence what was ours.
                log.warning("volume %s: this server stood still for %.1f s", volume.name, now - volume.last_tick)
                volume.has_stood_still(now)
            volume.last_tick = now
            volume.replication.tick(now)
            volume.locks.tick(now)
            self._now_and_then(now)

    def _is_due(self, what: str, every_s: float, now: float) -> bool:
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + every_s
        return True

    def _now_and_then(self, now: float) -> None:
        if self._is_due("promise", BEAT_INTERVAL_S, now):
            self._volume.feeds.tell_peers()
            self._volume.incoming.say_what_is_held()
            self._promise()
        if self._is_due("stabilise", STABILISE_EVERY_S, now):
            self._stabilise()
        if self._is_due("disk", DISK_EVERY_S, now):
            self._begin(self._look_at_disk())
        new = self._volume.figures.head - self._folded_head
        if not self._folding and (new >= FOLD_ENTRIES or (new and self._is_due("fold", FOLD_EVERY_S, now))):
            self._begin(self._fold_log())
        if self._is_due("flush", FLUSH_EVERY_S, now) and self._volume.figures.head != self._flushed_head:
            self._begin(self._flush())
        if self._volume.replication.everywhere and self._is_due("prune", self._prune_every_s, now):
            self._prune()

    def _begin(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _promise(self) -> None:
        """Only while somebody waits for it: once all is stable an idle volume is left alone."""
        figures = self._volume.figures
        if self._promised and figures.max_clock > figures.stable.clock:
            self._promised = False
            self._volume.ask(lambda store: store.promise(), self._has_promised)

    def _has_promised(self, _result: object) -> None:
        self._promised = True

    def _stabilise(self) -> None:
        """In steps: after a long time apart there is much to forget."""
        volume = self._volume
        if not self._stabilising and volume.figures.max_clock > volume.figures.stable.clock:
            stable = volume.replication.stable(volume.figures.promise)
            if stable > volume.figures.stable:
                self._stabilising = True
                volume.ask(lambda store: store.stabilise(stable), self._has_stabilised, is_bulk=True)

    def _has_stabilised(self, result: object) -> None:
        self._stabilising = False
        if not isinstance(result, Exception):
            self._stabilise()

    async def _look_at_disk(self) -> None:
        volume = self._volume
        now, busy_s = volume.monotonic(), volume.writer.busy_s
        volume.busy = min(1.0, (busy_s - self._busy_s) / max(now - self._busy_at, 1e-3))
        self._busy_s, self._busy_at = busy_s, now
        try:
            usage = await asyncio.to_thread(shutil.disk_usage, self._folder)
        except OSError as error:
            volume.disk_failed(StorageFailed(f"the data folder {self._folder} cannot be reached: {error}"))
            return
        volume.free_bytes = usage.free
        if usage.free < self._min_free_bytes:
            volume.disk_full(f"{usage.free >> 20} MiB free, less than --min-free {self._min_free_bytes >> 20} MiB")
        else:
            volume.disk_has_room()

    async def _fold_log(self) -> None:
        """Most of it here; the rest, a moment's work, in the writer, so that the log begins anew."""
        self._folding = True
        self._folded_head = self._volume.figures.head
        try:
            await asyncio.to_thread(self._database.checkpoint)
            self._volume.writer.fold_soon()
            await self._volume.do(lambda store: None)  # noqa: ARG005
        except GdahError as error:
            log.warning("volume %s: its write-ahead log could not be folded back: %s", self._volume.name, error)
        finally:
            self._folding = False

    async def _flush(self) -> None:
        """Larger files first, outside of the writer; then the log, which is short by now."""
        volume = self._volume
        self._flushed_head = volume.figures.head
        try:
            await asyncio.to_thread(volume.content.disk.sync)
            await volume.do(lambda store: None, sync=True)  # noqa: ARG005
        except StorageFailed as error:
            volume.disk_failed(error)
        except GdahError as error:
            log.warning("volume %s could not be flushed: %s", volume.name, error)

    def _prune(self) -> None:
        before_ns = time.time_ns() - self._retention_ns
        everywhere = self._volume.replication.everywhere
        self._volume.later(lambda store: store.prune(before_time_ns=before_ns, up_to_position=everywhere))
