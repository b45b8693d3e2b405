"""The proof that the checks of the model can fail: the product broken on purpose, and caught by the property that
speaks of it."""

from __future__ import annotations

import pytest

from tests.model.alone import run_alone
from tests.model.mutations import CATALOGUE, Mutation, limited
from tests.model.trial import Trial, random_trial
from tests.model.violation import Violation

FOUND_AT = {
    "no undo of last": 26,
    "no undo of aliases": 45,
    "no undo of versions": 8,
    "no clash of membership": 4,
    "ignores rev": 35,
    "ignores last": 87,
    "ignores version": 27,
    "overwrites instead of forking": 68,
    "an edit does not revive": 5,
    "a folder goes with its entries": 4,
    "an exchange ignores rev": 35,
    "an exchange leaves rev": 48,
    "an exchange looks for one circle": 26,
    "nothing is handed over": 11,
    "floor ignored, alone": 979,
    "retries under a new id": 12,
    "stable by the own clock": 4,
}
"""Random programs by a seed: where the search begins, because it was caught there the last time. (From 0 on it takes
30 s of processor time in all.)"""


def caught(mutation: Mutation, seed: int) -> int | None:
    """The number of the property that fails; 0: the code itself noticed."""
    try:
        with limited(2):
            if mutation.alone:
                run_alone(seed).close()
            elif mutation.program:
                Trial(seed, 2, 2, mutation.program).run()
            else:
                random_trial(seed).run()
    except Violation as violation:
        return violation.number
    except Exception:
        return 0
    return None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", CATALOGUE, ids=lambda mutation: mutation.name)
def test_what_is_broken_on_purpose_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        mutation.apply(patch)
        begin = FOUND_AT.get(mutation.name, 0)
        for seed in range(begin, begin + 2000):
            number = caught(mutation, seed)
            if number in mutation.caught_by:
                return
    pytest.fail(f"nothing noticed: {mutation.name}")


@pytest.mark.parametrize("mutation", [m for m in CATALOGUE if m.program], ids=lambda mutation: mutation.name)
def test_programs_of_the_mutations_hold_without_them(mutation: Mutation) -> None:
    assert Trial(0, 2, 2, mutation.program).run().logged > 0
