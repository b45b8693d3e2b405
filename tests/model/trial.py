"""One TRIAL: a program from a seed, run in a world, settled, and judged by every check."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

from gdah_volume import engine
from gdah_volume.replica import Replica
from gdah_volume.undo import TouchIndex
from tests.model import checks
from tests.model.plain import State
from tests.model.programs import Maker
from tests.model.rows import state_of
from tests.model.sites import MemoryDatabase
from tests.model.violation import require
from tests.model.world import Counts, Program, World


@cache
def empty_state() -> State:
    """What a volume holds before its first operation."""
    database = MemoryDatabase()
    try:
        Replica(database)
        return state_of(database)
    finally:
        database.close()


@dataclass(frozen=True)
class Trial:
    """Everything that a run depends on. `seed` also chooses the arrival orders of the checks."""

    seed: int
    servers: int
    clients: int
    program: Program
    folder: Path | None = None
    deep: bool = True
    """Replay the log into empty replicas, in a random order, and sorted with the strict ones offered; otherwise let the
    world exchange everything once more."""

    def run(self) -> Counts:
        with World(self.servers, self.clients, self.folder) as world:
            self._run(world)
            return world.counts

    def _run(self, world: World) -> None:
        rng = random.Random(self.seed)
        for site in world.sites():
            site.batched = rng.random() < 0.5
            site.watched = rng.random() < 0.2
        middle = rng.randrange(len(self.program) + 1)
        world.run(self.program[:middle])
        site = rng.choice(world.sites())
        checks.check_site(site, checks.operations_of(world), empty_state())
        world.run(self.program[middle:])
        for client in world.clients:
            checks.check_site(client, checks.operations_of(world), empty_state())
        world.settle()
        log, told = checks.check_settled(world, empty_state())
        if not self.deep:
            checks.check_quiet(world)
        counts = world.counts
        counts.logged, counts.conflicts, counts.forks, counts.merged = len(log), told.conflicts, told.forks, told.merged
        if self.deep and log:
            self._replay(world, rng)

    def _replay(self, world: World, rng: random.Random) -> None:
        first = world.servers[0]
        operations = checks.operations_of(world)
        log = [(operations[op], first.ghost[op]) for op in first.order()]
        wanted = state_of(first.database)
        database = MemoryDatabase()
        try:
            index = rng.choice((TouchIndex, TouchIndex, checks.EverythingClashes))
            with patch.object(engine, "TouchIndex", index):
                replica = checks.check_any_order(Replica(database), log, rng)
            difference = state_of(database).difference(wanted)
            require(1, not difference, f"another order of arrival gave other rows:\n{difference}")
            require(1, replica.digest == first.replica.digest, "another order of arrival gave another digest")
        finally:
            database.close()
        database = MemoryDatabase()
        try:
            checks.check_clean_offers(Replica(database), log, {entry.op for entry in world.clean})
            difference = state_of(database).difference(wanted)
            require(1, not difference, f"the sorted log gave other rows:\n{difference}")
        finally:
            database.close()


def random_trial(seed: int, folder: Path | None = None) -> Trial:
    rng = random.Random(seed)
    servers, clients = rng.choice(((2, 2), (2, 2), (2, 3), (3, 2), (3, 3), (1, 2)))
    length = rng.randrange(8, 36) if rng.random() < 0.95 else rng.randrange(60, 140)
    program = Maker(rng, servers, clients).program(length)
    return Trial(seed, servers, clients, program, folder, deep=seed % 2 == 0)
