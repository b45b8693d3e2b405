"""Workers on a plain folder: what they think is there is there, whatever dies meanwhile; and the replay agrees."""

from __future__ import annotations

from pathlib import Path
from random import Random
from threading import Lock
from typing import Any

import pytest

from gdah_drill import generator
from gdah_drill.content import make
from gdah_drill.generator import home_of
from gdah_drill.history import History
from gdah_drill.private_load import Profile
from gdah_drill.replay import replay
from gdah_drill.shared_load import SharedLoad
from tests.drill.plain import PlainHands, Strict, make_worker


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_knows_what_its_folder_holds(tmp_path: Path, seed: int) -> None:
    history = History()
    worker = make_worker(tmp_path, history, seed=seed)
    for _ in range(400):
        worker.step()
    worker.finish()
    assert worker.uncertain is None
    assert worker.folder.difference(PlainHands(tmp_path).survey(home_of("w1"))[0]) == ""
    told = replay("w1", history.operations, Strict())
    assert told.findings == []
    assert told.uncertain is None
    assert told.folder.tree() == worker.folder.tree()
    assert told.saved
    assert told.answers > 200
    assert len({operation.op for operation in history.operations}) > 25


def test_a_worker_survives_deaths_of_its_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "RETRY_LOOK_S", 0.0)
    history = History()
    worker = make_worker(tmp_path, history, seed=5, deaths=range(8, 60))
    for _ in range(1500):
        worker.step()
    worker.finish()
    told = replay("w1", history.operations, Strict())
    assert told.findings == []
    assert told.folder.tree() == worker.folder.tree()
    assert sum(operation.outcome == "info" for operation in history.operations) > 30
    assert told.looks > 30


def test_the_same_seed_does_the_same(tmp_path: Path) -> None:
    done = []
    for name in ("a", "b"):
        root = tmp_path / name
        root.mkdir()
        history = History()
        worker = make_worker(root, history, seed=3)
        for _ in range(150):
            worker.step()
        worker.close()
        done.append([(op.op, op.path, op.to, op.content, op.outcome, op.errno) for op in history.operations])
    assert done[0] == done[1]


def test_what_reads_as_two_contents_is_read_again() -> None:
    """A long read is several for the kernel. But nobody writes zeros."""
    reads: list[bytes] = []
    torn = make("w1.1", 300)[:200] + make("w1.2", 300)[200:]
    whole, zeros = make("w1.2", 300), make("w1.1", 300)[:200] + bytes(100)

    class Batch:
        def __init__(self, data: bytes) -> None:
            self.answers, self.done, self.outcome = [data], 1 if data else 0, "ok" if data else "info"

    def batch(calls: list[Any]) -> Batch:
        return Batch(reads.pop(0))

    load = SharedLoad(Random(1), Profile(), lambda: "w1.9", batch, lambda *a, **b: None, Lock())
    reads[:] = [torn, whole]
    assert load._look_at("shared/n1")[1]["kind"] == "whole"
    reads[:] = [torn, torn]
    assert load._look_at("shared/n1")[1]["kind"] == "mixed"
    reads[:] = [torn, b""]
    assert load._look_at("shared/n1") == ("", None)
    reads[:] = [zeros, whole]
    assert load._look_at("shared/n1")[1]["kind"] == "mixed"
