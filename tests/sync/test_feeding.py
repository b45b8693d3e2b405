"""Feeding by hand: what a snapshot that does not load leads to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from gdah_volume.errors import GdahError, StorageFailed
from mountfs.sync.feeding import SNAPSHOT_PAUSE_MAX_S, Feeding
from mountfs.sync.session import Session


class Failing:
    """Every snapshot arrives, and none is any good."""

    def __init__(self) -> None:
        self.fetched = 0

    def fetch(self, url: str, done: Callable[[Path | GdahError], None]) -> None:
        self.fetched += 1
        done(StorageFailed("damaged on purpose"))

    def read(self, path: Path) -> Any:
        raise AssertionError("nothing was fetched")


def test_a_snapshot_that_never_loads_is_fetched_ever_more_rarely() -> None:
    dropped: list[str] = []
    pauses: list[float] = []
    snapshots = Failing()
    session = cast("Session", SimpleNamespace(link=SimpleNamespace(url="http://s", drop=dropped.append)))

    def after(seconds: float, call: Callable[[], None]) -> None:
        pauses.append(seconds)
        call()

    changelog = SimpleNamespace(outbox=None)
    feeding = Feeding(cast("Any", None), cast("Any", changelog), snapshots, lambda call: call(), lambda: session, after)
    for _ in range(10):
        feeding.load(session)
    assert snapshots.fetched == len(dropped) == 10
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pauses[-1] == SNAPSHOT_PAUSE_MAX_S
