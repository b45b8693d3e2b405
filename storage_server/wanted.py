"""Chunks that operations here name and that are not here yet: fetched from peers, a few at a time, until they come.

A peer is told that its log is HELD here only when all that was wanted up to then has arrived. A chunk that every member
of the volume says for GIVE_UP_S that it does not have is given up, loudly: nobody must wait for ever for what nobody
has.

Threading: the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from gdah_volume.content import ChunkHash
from gdah_volume.errors import GdahError, NoSpace, StorageFailed, UnknownChunk

log = logging.getLogger("storage_server")

PARALLEL = 4
RETRY_S = 1.0
GIVE_UP_S = 60.0
OUTSTANDING_MAX = 2048
"""With so many wanted the feeds that name them are read no further."""


class WantedChunks:
    def __init__(
        self,
        fetch: Callable[[ChunkHash], Awaitable[bytes]],
        store: Callable[[ChunkHash, bytes], Awaitable[None]],
        got: Callable[[list[ChunkHash]], None],
    ) -> None:
        """`fetch` raises UnknownChunk if no member has it, another GdahError if one could not be asked."""
        self._fetch = fetch
        self._store = store
        self._got = got
        self._serial = 0
        self._wanted: dict[ChunkHash, int] = {}
        self._gates: list[tuple[int, Callable[[], None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(PARALLEL)
        self._room = asyncio.Event()
        self._room.set()
        self.given_up: list[str] = []

    def __len__(self) -> int:
        return len(self._wanted)

    def __contains__(self, name: ChunkHash) -> bool:
        return name in self._wanted

    def add(self, names: Iterable[ChunkHash]) -> None:
        for name in names:
            if name not in self._wanted:
                self._serial += 1
                self._wanted[name] = self._serial
                task = asyncio.get_running_loop().create_task(self._get(name))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if len(self._wanted) >= OUTSTANDING_MAX:
            self._room.clear()

    def when_here(self, then: Callable[[], None]) -> None:
        """Call `then` as soon as all that is wanted now is here: at once if nothing is."""
        if not self._wanted:
            then()
        else:
            self._gates.append((self._serial, then))

    @property
    def is_full(self) -> bool:
        return not self._room.is_set()

    async def room(self) -> None:
        await self._room.wait()

    def arrived(self, name: ChunkHash) -> None:
        """It came some other way, maybe long after it was given up."""
        if name.hex() in self.given_up:
            self.given_up.remove(name.hex())
        self._done(name)

    def _done(self, name: ChunkHash) -> None:
        if self._wanted.pop(name, None) is not None:
            self._got([name])
            self._open_gates()

    def _open_gates(self) -> None:
        if len(self._wanted) < OUTSTANDING_MAX // 2:
            self._room.set()
        oldest = min(self._wanted.values(), default=self._serial + 1)
        while self._gates and self._gates[0][0] < oldest:
            self._gates.pop(0)[1]()

    async def _get(self, name: ChunkHash) -> None:
        give_up_at = asyncio.get_running_loop().time() + GIVE_UP_S
        while name in self._wanted:
            try:
                async with self._slots:
                    if name not in self._wanted:
                        return
                    data = await self._fetch(name)
                    if name not in self._wanted:  # it came another way meanwhile
                        return
                    await self._store(name, data)
                self.arrived(name)
            except UnknownChunk:
                # A mount may still be on its way with it.
                if asyncio.get_running_loop().time() < give_up_at:
                    await asyncio.sleep(RETRY_S)
                    continue
                log.critical("chunk %s is on no server of the volume: given up", name.hex())
                if name.hex() not in self.given_up:
                    self.given_up.append(name.hex())
                self._done(name)
            except (NoSpace, StorageFailed) as error:
                log.warning("cannot store the missing chunk %s: %s", name.hex()[:16], error)
                await asyncio.sleep(RETRY_S)
            except GdahError as error:
                log.debug("cannot fetch chunk %s yet: %s", name.hex()[:16], error)
                await asyncio.sleep(RETRY_S)
            except Exception:
                # A fault of ours: said aloud, and tried again, or this chunk would hold back our `held` for ever.
                log.exception("fetching chunk %s failed; it is tried again", name.hex()[:16])
                await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
