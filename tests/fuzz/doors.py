"""A door is where input comes in: what is tried at it, and the one loop that tries, by a seed, for so long or so often.

Threading: the caller's thread.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

BATCH = 200
"""Inputs before a door looks whether all is still sound, and the clock is looked at."""


class Door(Protocol):
    name: str
    inputs: st.SearchStrategy[Any]
    tried: int
    """Requests, frames or texts so far."""

    def try_one(self, given: Any) -> None:
        """Raises AssertionError if it did harm."""

    def sound(self) -> None:
        """Nothing was stored that was refused, no traceback was logged. Raises AssertionError."""


def knock(
    door: Door, seed: int, *, times: int = BATCH, phases: tuple[Phase, ...] = (Phase.generate, Phase.shrink)
) -> None:
    """So many inputs, the same for the same seed; a finding is made smaller and raised."""

    @hypothesis.seed(seed)
    @settings(max_examples=times, database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=phases)
    @hypothesis.given(door.inputs)
    def each(given: Any) -> None:
        door.try_one(given)

    each()
    door.sound()


def knock_for(door: Door, seed: int, seconds: float) -> None:
    """Batch after batch until the time is over; each has a seed of its own."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        knock(door, seed, times=getattr(door, "batch", BATCH))
        seed += 1
