"""Reads every stored chunk again, time after time, before somebody needs it: damaged and missing ones come from a peer.

A pass goes through the chunks by the first byte of their names, verifies each (`ChunkStore.verify`: bytes that do not
match go to quarantine, none are deleted), asks SQLite whether the database is sound, and at its end looks whether all
that is needed is here. By itself it is slow: it reads at a set rate, and not while the writer is busy. Its place is
written down, so that a restart goes on from there. Told to, it makes a whole pass as fast as the disk reads.

A chunk that no server has in order stays wanted; `hurt` in the figures names the files that it belongs to.

Threading: the event loop; reading and hashing in worker threads, which hold no lock of the database.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from gdah_volume.content import ChunkHash
from gdah_volume.database import Database
from gdah_volume.errors import GdahError, HashMismatch, NoSpace, NotFound, StorageFailed, Unreachable
from gdah_volume.ids import NodeId
from gdah_volume.needed import needed, owners
from gdah_volume.replica import Replica
from storage_server.volumes import Volume

log = logging.getLogger("storage_server")

LOOK_EVERY_S = 60.0
FIRST_AFTER_S = 300.0
BYTES_PER_S = 8 << 20
"""A TiB takes a day and a half."""
BATCH_CHUNKS = 64
BATCH_BYTES = 1 << 20
BUSY_MAX = 0.2
QUEUE_MAX = 8
GIVE_WAY_S = 0.5
SAVE_EVERY = 8
"""Of 256 parts of a pass: so much is read twice after a restart at most."""
MISSING_AT_ONCE = 500
HURT_FILES_MAX = 20
HURT_SHOWN = 100
PAUSE_S = 0.002
META = "scrub"


@dataclass
class Figures:
    """Of the pass that is under way, or of the last one. Times in seconds since 1970."""

    running: bool = False
    part: int = 0
    """Of 256; 0 when none is under way."""
    checked: int = 0
    bytes: int = 0
    damaged: int = 0
    missing: int = 0
    repaired: int = 0
    began_at: float | None = None
    last_pass_at: float | None = None
    last_error: str | None = None
    database: str = "not checked yet"


class Scrub:
    def __init__(self, volume: Volume, *, every_s: float, bytes_per_s: float = BYTES_PER_S) -> None:
        """`every_s` 0: only when asked to."""
        self._volume = volume
        self._every_s = every_s
        self._bytes_per_s = bytes_per_s
        self._lock = asyncio.Lock()
        self._told = 0
        """Fast passes that wait or run: a slow one gives way."""
        self.figures = Figures()
        volume.care["scrub"] = self._status

    def _status(self) -> dict[str, Any]:
        hurt = self._volume.content.hurt
        shown = [{"chunk": name.hex(), "files": hurt[name]} for name in islice(hurt, HURT_SHOWN)]
        return asdict(self.figures) | {"hurt": shown, "hurt_chunks": len(hurt)}

    def database_damage(self) -> str | None:
        """What SQLite found wrong the last time it was asked."""
        return None if self.figures.database in ("sound", "not checked yet") else self.figures.database

    # --- when

    async def run(self) -> None:
        """Now and then, for ever."""
        kept = json.loads(await self._volume.do(lambda store: store.database.meta(META) or "{}"))
        self.figures = Figures(**{key: kept[key] for key in asdict(self.figures) if key in kept} | {"running": False})
        await asyncio.sleep(FIRST_AFTER_S)
        while True:
            await self._name_hurt()
            due = self.figures.part or time.time() - (self.figures.last_pass_at or 0.0) >= self._every_s
            if self._every_s and due:
                await self._guarded_pass(fast=False)
            await asyncio.sleep(LOOK_EVERY_S)

    async def pass_now(self) -> dict[str, Any]:
        """A whole pass at full speed; its figures."""
        self._told += 1
        try:
            return await self._guarded_pass(fast=True)
        finally:
            self._told -= 1

    async def _guarded_pass(self, *, fast: bool) -> dict[str, Any]:
        async with self._lock:
            if fast or not self.figures.part:
                last = self.figures.last_pass_at
                self.figures = Figures(began_at=time.time(), last_pass_at=last, database=self.figures.database)
            figures = self.figures
            figures.running = True
            try:
                await self._pass(figures, fast=fast)
            except (NoSpace, StorageFailed) as error:
                self._error(str(error))
            finally:
                figures.running = False
            return self._status()

    def _error(self, text: str) -> None:
        self.figures.last_error = text
        log.error("volume %s: scrubbing: %s", self._volume.name, text)

    async def _save(self) -> None:
        text = json.dumps(asdict(self.figures))
        await self._volume.do(lambda store: store.database.set_meta(META, text))

    # --- one pass

    async def _pass(self, figures: Figures, *, fast: bool) -> None:
        if figures.part == 0:
            await self._check_database()
        for part in range(figures.part, 256):
            if not fast and self._told:
                return
            await self._part(part, fast=fast)
            figures.part = part + 1
            if figures.part % SAVE_EVERY == 0:
                await self._save()
        await self._look_for_missing()
        figures.part = 0
        figures.last_pass_at = time.time()
        await self._save()
        level = logging.WARNING if figures.damaged or figures.missing else logging.INFO
        log.log(level, "volume %s: scrubbed %s", self._volume.name, asdict(figures))

    async def _part(self, part: int, *, fast: bool) -> None:
        figures, disk = self.figures, self._volume.content.disk
        try:
            sizes = await asyncio.to_thread(disk.sizes_in, part)
        except StorageFailed as error:
            self._error(str(error))
            return
        damaged: list[ChunkHash] = []
        for batch in _batches(sizes):
            if not fast:
                await self._way_is_clear()
            count, size, bad, error_text = await asyncio.to_thread(self._verify, batch)
            figures.checked += count
            figures.bytes += size
            damaged += bad
            if error_text:
                self._error(error_text)
            if not fast:
                await asyncio.sleep(size / self._bytes_per_s)
        if damaged:
            figures.damaged += len(damaged)
            keep = await asyncio.to_thread(self._needed)
            await self._mend([name for name in damaged if name in keep])

    async def _way_is_clear(self) -> None:
        """Whoever wants something of this server comes first."""
        while self._volume.busy > BUSY_MAX or self._volume.writer.queued > QUEUE_MAX:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(GIVE_WAY_S)

    def _verify(self, names: Iterable[ChunkHash]) -> tuple[int, int, list[ChunkHash], str]:
        """(chunks, bytes, those that are damaged, what else went wrong); those that went meanwhile do not count."""
        count = size = 0
        damaged: list[ChunkHash] = []
        trouble = ""
        for name in names:
            try:
                found = self._volume.content.disk.verify(name)
            except HashMismatch as error:
                log.warning("volume %s: %s", self._volume.name, error)
                damaged.append(name)
                found = 0
            except GdahError as error:
                trouble = str(error)
                continue
            count += found > 0 or name in damaged
            size += found
        return count, size, damaged, trouble

    async def _look_for_missing(self) -> None:
        """What should be here and is not, nor is on its way."""
        volume = self._volume
        hurt = volume.content.hurt
        names = [name for name in await asyncio.to_thread(self._needed) if name not in hurt]
        missing: list[ChunkHash] = []
        for start in range(0, len(names), MISSING_AT_ONCE):
            part = names[start : start + MISSING_AT_ONCE]
            missing += [name for name in await asyncio.to_thread(self._absent, part) if name not in volume.wanted]
        if missing:
            log.warning("volume %s: %d chunks are missing here", volume.name, len(missing))
            self.figures.missing += len(missing)
            await self._mend(missing)
        for name in set(hurt).difference(await asyncio.to_thread(self._absent, list(hurt))):
            del hurt[name]
        await self._mend([name for name in hurt if name not in missing])

    async def _mend(self, names: list[ChunkHash]) -> None:
        """From a peer; what nobody has is hurt, and somebody has to hear which files that are."""
        hurt: list[ChunkHash] = []
        for count, name in enumerate(names):
            try:
                mended = await self._volume.content.mend(name)
            except Unreachable as error:
                self._error(f"{len(names) - count} chunks cannot be repaired now: {error}")
                hurt += names[count:]
                break
            self.figures.repaired += mended
            if not mended:
                hurt.append(name)
        if hurt:
            self._volume.want(hurt)
            for name in hurt:
                self._volume.content.hurt.setdefault(name, [])
            await self._name_hurt()

    async def _name_hurt(self) -> None:
        """Of chunks that were found damaged, also by those who read: which files that are."""
        known = self._volume.content.hurt
        names = {name for name, files in known.items() if not files}
        if not names:
            return
        files = await asyncio.to_thread(self._files_of, names)
        for count, name in enumerate(names.intersection(known)):
            known[name] = files.get(name) or ["nothing that this server's log still names"]
            if count < HURT_SHOWN:
                log.error(
                    "volume %s: chunk %s is damaged or missing here, no good copy was found so far; it belongs to: %s",
                    self._volume.name,
                    name.hex()[:16],
                    ", ".join(known[name]),
                )

    # --- in worker threads

    def _absent(self, names: list[ChunkHash]) -> list[ChunkHash]:
        disk = self._volume.content.disk
        return [name for name in disk.missing(names) if not disk.bring_back(name)]

    def _needed(self) -> set[ChunkHash]:
        with self._volume.readers.fresh() as replica:
            return needed(replica.database, lambda: time.sleep(PAUSE_S))

    def _files_of(self, names: set[ChunkHash]) -> dict[ChunkHash, list[str]]:
        found: dict[ChunkHash, list[str]] = {}
        with self._volume.readers.fresh() as replica:
            for node, hit in owners(replica.database, names).items():
                for name in hit:
                    files = found.setdefault(ChunkHash(name), [])
                    if len(files) < HURT_FILES_MAX:
                        files.append(_describe(replica, NodeId(node), ChunkHash(name)))
        return found

    async def _check_database(self) -> None:
        """On a connection of its own; readers and the writer go on meanwhile."""
        open_ones: list[Database] = []
        try:
            found = await asyncio.to_thread(self._quick_check, open_ones)
        except asyncio.CancelledError:
            for database in open_ones:
                database.connection.interrupt()
            raise
        self.figures.database = found
        if self.database_damage():
            log.critical(
                "volume %s: its database is damaged: %s."
                " Stop this server, then: gdah fsck --data DIR --repair --peer URL",
                self._volume.name,
                found,
            )
            self.figures.last_error = f"the database is damaged: {found}"

    def _quick_check(self, open_ones: list[Database]) -> str:
        try:
            with self._volume.readers.fresh() as replica:
                open_ones.append(replica.database)
                lines = [str(line) for (line,) in replica.database.rows("PRAGMA quick_check(10)")]
        except Exception as error:  # noqa: BLE001 - SQLite says in many ways that a file is none of its own
            return f"{type(error).__name__}: {error}"
        return "sound" if lines == ["ok"] else "; ".join(lines)[:1000]


def _batches(sizes: dict[ChunkHash, int]) -> Iterator[list[ChunkHash]]:
    batch: list[ChunkHash] = []
    total = 0
    for name, size in sizes.items():
        batch.append(name)
        total += size
        if len(batch) >= BATCH_CHUNKS or total >= BATCH_BYTES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def _describe(replica: Replica, node: NodeId, name: ChunkHash) -> str:
    try:
        view = replica.tree.node(node)
    except NotFound:
        return "a file that is unknown here"
    path = replica.tree.path(node)
    text = "a removed file" if path is None else path.decode("utf-8", "backslashreplace")
    return text if any(chunk.hash == name for chunk in view.content.chunks) else f"{text} (an older version)"
