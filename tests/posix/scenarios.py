"""All scenarios, in the order in which they are run."""

from __future__ import annotations

from tests.posix import attributes, limits, moving, owners, paths, rights, sticky, times
from tests.posix.bench import Scenario

SCENARIOS: list[Scenario] = [
    scenario for module in (paths, sticky, rights, owners, times, moving, attributes, limits) for scenario in module.ALL
]
