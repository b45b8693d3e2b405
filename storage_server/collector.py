"""Puts chunks out of the way that nothing needs any more, and deletes them when they were not missed for days.

What is needed says `gdah_volume.needed`; here is when that may be believed. The whole run is given up, and nothing is
moved, at the first thing that cannot be read, listed or parsed, while a member of the volume is not there or does not
hold everything, while a snapshot is loaded, after damage to the database, and when clocks contradict each other. A run
that would take more than half of all bytes asks first (`force`).

A chunk goes in three steps, each in a run of its own: nothing needs it (a mark); a grace time later still so, and
nobody has stored it again (out of the way); days later still so (deleted). The last two are done in the writer's
thread, where operations are taken too, after a look at what the log got since the decision. Whoever reads, stores or
names a chunk meanwhile has it back.

Threading: the event loop; the decision in a worker thread on one state of the database; moves in the writer's thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gdah_volume.collected import Collected
from gdah_volume.content import ChunkHash
from gdah_volume.errors import GdahError
from gdah_volume.needed import mentioned, needed, nodes_of, owners
from gdah_volume.operations import chunks_in
from storage_server.peer_state import Phase
from storage_server.volume_store import VolumeStore
from storage_server.volumes import Volume

log = logging.getLogger("storage_server")

LOOK_EVERY_S = 60.0
FIRST_AFTER_S = 600.0
"""A server that has just begun has other things to do."""
EVERYWHERE_WITHIN_S = 10.0
BATCH = 50
BATCH_PAUSE_S = 0.02
NEWS_AT_ONCE = 500
"""The writer looks at so many operations since the decision at a time, before others get their turn."""
SHARE_MAX = 0.5
ASK_FROM_BYTES = 64 << 20
CLOCKS_APART_S = 3600.0
PAUSE_S = 0.002
META = "collector"


class Hindered(Exception):
    """Nothing is collected now; the text says why."""


@dataclass
class Plan:
    """What one look has found. `head` and `again` grow as the log does, until the last move."""

    epoch: str
    head: int
    now_ns: int
    old_ns: int
    expired_ns: int
    mark: list[ChunkHash] = field(default_factory=list)
    unmark: list[ChunkHash] = field(default_factory=list)
    take: list[ChunkHash] = field(default_factory=list)
    take_bytes: int = 0
    back: list[ChunkHash] = field(default_factory=list)
    delete: list[ChunkHash] = field(default_factory=list)
    delete_bytes: int = 0
    total_bytes: int = 0
    needed: int = 0
    aside: int = 0
    aside_bytes: int = 0
    owners: dict[str, set[bytes]] = field(default_factory=dict)
    again: set[bytes] = field(default_factory=set)

    def asks_first(self) -> bool:
        return self.take_bytes > ASK_FROM_BYTES and self.take_bytes > self.total_bytes * SHARE_MAX


@dataclass
class Figures:
    """Of the last run; `waiting_*`: what lies out of the way."""

    running: bool = False
    last_run_at: float | None = None
    aborted: str | None = None
    asks: str | None = None
    dry: bool = False
    needed: int = 0
    marked: int = 0
    taken: int = 0
    taken_bytes: int = 0
    brought_back: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    waiting: int = 0
    waiting_bytes: int = 0


class Collector:
    def __init__(
        self,
        volume: Volume,
        *,
        every_s: float,
        grace_s: float,
        keep_s: float,
        sound: Callable[[], str | None] = lambda: None,
        wall_ns: Callable[[], int] = time.time_ns,
        since_boot_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        """`sound`: what is wrong with the database, None if nothing is known. `every_s` 0: only when asked to."""
        self._volume = volume
        self._every_s = every_s
        self._grace_ns = int(grace_s * 1e9)
        self._keep_ns = int(keep_s * 1e9)
        self._sound = sound
        self._wall_ns = wall_ns
        self._since_boot_s = since_boot_s
        self._clock_base_s = wall_ns() / 1e9 - since_boot_s()
        self._lock = asyncio.Lock()
        self.figures = Figures()
        volume.care["collector"] = lambda: asdict(self.figures)

    async def run(self) -> None:
        """Now and then, for ever."""
        kept = json.loads(await self._volume.do(lambda store: store.database.meta(META) or "{}"))
        self.figures.last_run_at = kept.get("last_run_at")
        await asyncio.sleep(FIRST_AFTER_S)
        while self._every_s:
            if self._wall_ns() / 1e9 - (self.figures.last_run_at or 0.0) >= self._every_s:
                await self.collect()
            await asyncio.sleep(LOOK_EVERY_S)

    async def collect(self, *, dry: bool = False, force: bool = False) -> dict[str, Any]:
        """One run now; its figures. `dry`: only says what it would do. Raises nothing: what hinders it is a figure."""
        async with self._lock:
            figures = self.figures = Figures(running=True, dry=dry, last_run_at=self.figures.last_run_at)
            try:
                await self._collect(figures, dry=dry, force=force)
            except (GdahError, Hindered) as error:
                figures.aborted = str(error)
            except Exception as error:  # a fault of ours is no reason to lose a byte
                log.exception("volume %s: collecting failed", self._volume.name)
                figures.aborted = f"{type(error).__name__}: {error}"
            finally:
                figures.running = False
            if figures.aborted:
                log.warning("volume %s: nothing more is collected now: %s", self._volume.name, figures.aborted)
            elif not dry:
                log.info("volume %s: collected %s", self._volume.name, asdict(figures))
            return asdict(figures)

    async def _collect(self, figures: Figures, *, dry: bool, force: bool) -> None:
        volume = self._volume
        await self._everybody_has_everything()
        self._check()
        plan = await asyncio.to_thread(self._decide)
        figures.needed, figures.waiting, figures.waiting_bytes = plan.needed, plan.aside, plan.aside_bytes
        if plan.asks_first():
            figures.asks = (
                f"{len(plan.take)} chunks with {plan.take_bytes} bytes, of {plan.total_bytes}, would go: more than"
                f" half. If that is right: POST /v1/volumes/{volume.name}/collect?force=1"
            )
        if dry:
            figures.marked, figures.brought_back = len(plan.mark), len(plan.back)
            figures.taken, figures.taken_bytes = len(plan.take), plan.take_bytes
            figures.deleted, figures.deleted_bytes = len(plan.delete), plan.delete_bytes
            return
        if figures.asks and not force:
            raise Hindered(figures.asks)
        figures.asks = None
        await self._carry_out(plan, figures)
        now = figures.last_run_at = self._wall_ns() / 1e9
        await volume.do(lambda store: store.database.set_meta(META, json.dumps({"last_run_at": now})))

    # --- may it be believed

    async def _everybody_has_everything(self) -> None:
        """Raises Hindered."""
        volume, head = self._volume, self._volume.figures.head
        until = volume.monotonic() + EVERYWHERE_WITHIN_S
        while volume.replication.everywhere < head:
            if volume.monotonic() >= until or not self._all_are_there():
                raise Hindered("not every server of the volume holds everything")
            await asyncio.sleep(0.1)

    def _all_are_there(self) -> bool:
        replication = self._volume.replication
        return not replication.unmet and all(peer.phase is Phase.JOINED for peer in replication.peers.values())

    def _check(self) -> None:
        """Raises Hindered. Asked before each step."""
        volume = self._volume
        if not self._all_are_there():
            raise Hindered("a server of the volume is not there")
        if volume.loading:
            raise Hindered("a snapshot is being loaded")
        if volume.trouble:
            raise Hindered(volume.trouble)
        if volume.incoming.skipped:
            raise Hindered("an operation of a peer could not be applied here")
        damage = self._sound()
        if damage:
            raise Hindered(f"the database is damaged: {damage}")
        now_s, boot_s = self._wall_ns() / 1e9, self._since_boot_s()
        moved_s = now_s - boot_s - self._clock_base_s
        if abs(moved_s) > CLOCKS_APART_S:
            self._clock_base_s = now_s - boot_s
            raise Hindered(f"the clock of this machine was set by {moved_s:.0f} s")
        seen_s = max([volume.figures.max_clock, *(peer.clock_us for peer in volume.replication.peers.values())]) / 1e6
        if seen_s > now_s + CLOCKS_APART_S:
            raise Hindered(f"a server's clock is {seen_s - now_s:.0f} s ahead of this one's")

    # --- the decision, in a worker thread

    def _decide(self) -> Plan:
        """Raises whatever cannot be read."""
        chunks = self._volume.content.disk
        with self._volume.readers.fresh() as replica:
            database, now_ns = replica.database, self._wall_ns()
            plan = Plan(
                epoch=database.meta("epoch") or "",
                head=replica.head,
                now_ns=now_ns,
                old_ns=now_ns - self._grace_ns,
                expired_ns=now_ns - self._keep_ns,
            )
            keep = needed(database, _pause)
            keep.update(ChunkHash(bytes.fromhex(name)) for name in json.loads(database.meta("wanted") or "[]"))
            plan.needed = len(keep)
            collected = Collected(chunks.collected.folder, database)
            marks = collected.marks()
            here: set[ChunkHash] = set()
            for prefix in range(256):
                _pause()
                for name, size in chunks.sizes_in(prefix).items():
                    plan.total_bytes += size
                    here.add(name)
                    if name in keep:
                        continue
                    if marks.get(name, now_ns) <= plan.old_ns:
                        plan.take.append(name)
                        plan.take_bytes += size
                    elif name not in marks:
                        plan.mark.append(name)
            plan.unmark = [name for name in marks if name in keep or name not in here]
            self._decide_aside(plan, collected, keep)
            if plan.take or plan.delete:
                plan.owners = owners(database, {*plan.take, *plan.delete}, _pause)
        return plan

    @staticmethod
    def _decide_aside(plan: Plan, collected: Collected, keep: set[ChunkHash]) -> None:
        for aside in collected.all():
            if aside.name in keep:
                plan.back.append(aside.name)
                continue
            plan.aside += 1
            plan.aside_bytes += aside.size
            if aside.at_ns <= plan.expired_ns:
                plan.delete.append(aside.name)
                plan.delete_bytes += aside.size

    # --- the moves, in the writer's thread

    async def _carry_out(self, plan: Plan, figures: Figures) -> None:
        collected = self._volume.content.disk.collected

        def mark(_store: VolumeStore, names: Sequence[ChunkHash]) -> int:
            collected.mark(names, plan.now_ns)
            return len(names)

        def unmark(_store: VolumeStore, names: Sequence[ChunkHash]) -> int:
            for name in names:
                collected.unmark(name)
            return len(names)

        def back(store: VolumeStore, names: Sequence[ChunkHash]) -> int:
            return sum(store.chunks.bring_back(name) for name in names)

        def take(store: VolumeStore, names: Sequence[ChunkHash]) -> int:
            still = still_unneeded(store, plan, names)
            if plan.old_ns == plan.now_ns:  # without a grace time nothing was marked before
                collected.mark(still, plan.now_ns)
            count, size = store.chunks.collect(still, old_ns=plan.old_ns, now_ns=plan.now_ns)
            figures.taken_bytes += size
            figures.waiting += count
            figures.waiting_bytes += size
            return count

        def delete(store: VolumeStore, names: Sequence[ChunkHash]) -> int:
            sizes = [collected.delete(n, old_ns=plan.expired_ns) for n in still_unneeded(store, plan, names)]
            figures.deleted_bytes += sum(sizes)
            figures.waiting -= sum(size > 0 for size in sizes)
            figures.waiting_bytes -= sum(sizes)
            return sum(size > 0 for size in sizes)

        await self._in_batches(plan, unmark, plan.unmark)
        figures.brought_back = await self._in_batches(plan, back, plan.back)
        figures.marked = await self._in_batches(plan, mark, plan.mark)
        figures.deleted = await self._in_batches(plan, delete, plan.delete)
        figures.taken = await self._in_batches(plan, take, plan.take)

    async def _in_batches(
        self, plan: Plan, work: Callable[[VolumeStore, Sequence[ChunkHash]], int], names: Sequence[ChunkHash]
    ) -> int:
        done = 0
        for start in range(0, len(names), BATCH):
            self._check()
            while await self._volume.do(lambda store: catch_up(store, plan)) == NEWS_AT_ONCE:  # noqa: ASYNC110
                await asyncio.sleep(BATCH_PAUSE_S)
            batch = names[start : start + BATCH]
            done += await self._volume.do(lambda store, batch=batch: work(store, batch))  # type: ignore[misc]
            await asyncio.sleep(BATCH_PAUSE_S)
        return done


def catch_up(store: VolumeStore, plan: Plan) -> int:
    """Look at the next operations since the decision. Their number. Raises Hindered when it is another log."""
    if store.epoch != plan.epoch:
        raise Hindered("the volume has begun a new epoch meanwhile")
    ids: set[str] = set()
    entries = store.replica.entries_after(plan.head, NEWS_AT_ONCE)
    for position, _, op in entries:
        plan.head = position
        plan.again.update(chunk.hash for chunk in chunks_in(op))
        ids.update(mentioned(op))
    for node in nodes_of(store.database, ids) if ids else ():
        plan.again.update(plan.owners.get(node, ()))
    return len(entries)


def still_unneeded(store: VolumeStore, plan: Plan, names: Sequence[ChunkHash]) -> list[ChunkHash]:
    """Of what was decided, what the log has not come to need since. Raises Hindered."""
    if catch_up(store, plan) == NEWS_AT_ONCE:
        raise Hindered("too much has happened since the decision")
    return [name for name in names if name not in plan.again and not store.is_wanted(name)]


def _pause() -> None:
    time.sleep(PAUSE_S)
