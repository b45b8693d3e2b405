"""The replicated tree under random programs: the eight properties. `test_model_mutations` proves that their checks can
fail.

`GDAH_MODEL_SECONDS` (45) is shared out among the searches here; a longer search is `python -m tests.campaign`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model import checks
from tests.model.alone import run_alone
from tests.model.programs import programs
from tests.model.trial import Trial, empty_state, random_trial
from tests.model.world import Counts, Program, World

SECONDS = float(os.environ.get("GDAH_MODEL_SECONDS", "45"))
DRAWING: dict[str, float] = {}
"""When the search of Hypothesis ends, from its first program on."""
AT_LEAST = 20
"""Programs that run however slow the machine is."""


def search(share: float, run: Callable[[int], object]) -> int:
    """Call `run` with seeds 0, 1, 2 ... for a share of the time; returns how many."""
    end, seed = time.monotonic() + SECONDS * share, 0
    while seed < AT_LEAST or time.monotonic() < end:
        run(seed)
        seed += 1
    return seed


@pytest.mark.timeout(600)
def test_random_programs() -> None:
    """All properties of docs/TESTING.md, in memory."""
    total = Counts()
    search(0.35, lambda seed: total.add(random_trial(seed).run()))
    assert total.conflicts > 0, "no program made a conflict: the generator has lost its teeth"
    assert total.refused > 0, "no strict operation was refused"
    assert total.in_doubt > 0, "no acknowledgement was lost"


@pytest.mark.timeout(600)
def test_random_programs_on_files(tmp_path: Path) -> None:
    """Restarts close the database and open it again."""

    def run(seed: int) -> None:
        folder = tmp_path / str(seed)
        folder.mkdir()
        random_trial(1_000_000 + seed, folder).run()

    search(0.05, run)


@pytest.mark.timeout(600)
def test_a_client_alone_has_a_plain_file_system() -> None:
    """Lost answers, restarts, any server: names, contents, modes and errors are those of a plain tree (property 5)."""
    search(0.12, lambda seed: run_alone(seed).close())


@pytest.mark.timeout(600)
def test_exclusive_creates_have_one_winner() -> None:
    """Two mounts, two servers, one name, neither has seen the other's: exactly one is told that it has it."""

    def run(seed: int) -> None:
        names = [("create", 0, seed % 3, 4), ("mkdir", 0, seed % 3)]
        first, second = names[seed // 3 % 2], names[seed // 6 % 2]
        with World(2 + seed // 12 % 2, 2) as world:
            world.run([("skew", 1, -40), ("pull", 0, 0, 1), ("pull", 1, 1, 1)])
            world.run([("do", seed % 2, seed % 2, "none", *first), ("do", 1 - seed % 2, 1, "none", *second)])
            assert len(world.acknowledged) == 1
            assert len(world.refused) == 1
            world.settle()
            checks.check_settled(world, empty_state())

    for seed in range(24):
        run(seed)


@pytest.mark.timeout(600)
@settings(
    deadline=None,
    max_examples=max(20, int(SECONDS * 4)),
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(program=programs(), seed=st.integers(0, 3))
def test_programs_that_shrink(program: Program, seed: int) -> None:
    """The same steps drawn by Hypothesis: what fails here comes out small."""
    end = DRAWING.setdefault("end", time.monotonic() + SECONDS * 0.3)
    if time.monotonic() < end:
        Trial(seed, 2, 2, program).run()
