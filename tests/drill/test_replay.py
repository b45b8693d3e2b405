"""The replay of a worker's own folder where its mount's disk lost what was not synced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from gdah_drill.content import digest, make
from gdah_drill.history import History
from gdah_drill.replay import Replayed, replay
from tests.drill.plain import Strict


@dataclass
class Powerless(Strict):
    reachable: bool = True

    def lost_power(self, mount: str, since: float, until: float) -> bool | None:
        return self.reachable


class Story:
    def __init__(self) -> None:
        self.history = History()
        self.at = 0.0

    def tell(self, op: str, **more: Any) -> None:
        self.at += 1.0
        defaults = {"began": self.at, "ended": self.at + 0.5, "outcome": "ok"}
        self.history.operation("w1", "one", op, "", **{**defaults, **more})

    def write(self, path: str, content: str, *, sync: bool = False, close: bool = True) -> None:
        calls: list[list[Any]] = [["open", content, path, "w"], ["put", content, [content, 500], 0]]
        calls += [["sync", content]] if sync else []
        calls += [["close", content]] if close else []
        self.tell("write", details={"calls": calls, "done": len(calls)}, result=[None] * len(calls))

    def died(self) -> None:
        self.tell("read", outcome="info", details={"calls": [["read", "a"]], "done": 0}, result=[])

    def look(self, **files: str) -> None:
        survey = {path: ["file", 500, digest(make(content, 500)), 0o644, 1, 1] for path, content in files.items()}
        self.tell("look", result=survey)

    def judged(self, *, reachable: bool = True) -> Replayed:
        return replay("w1", self.history.operations, Powerless(reachable))


@pytest.fixture
def story() -> Story:
    story = Story()
    story.write("a", "w1.1", sync=True)
    story.write("b", "w1.2")
    story.write("c", "w1.3", close=False)
    story.died()
    return story


def rules(told: Replayed) -> list[str]:
    return [finding.rule for finding in told.findings]


def test_what_was_not_saved_may_be_lost_with_the_power(story: Story) -> None:
    story.look(a="w1.1", b="w1.2")
    assert rules(story.judged()) == []


def test_what_was_saved_is_on_the_servers(story: Story) -> None:
    story.look(a="w1.1")
    assert rules(story.judged()) == ["lost"]
    assert rules(story.judged(reachable=False)) == []


def test_what_was_fsynced_is_never_lost(story: Story) -> None:
    story.look(b="w1.2")
    assert rules(story.judged()) == ["fsync"]
    assert rules(story.judged(reachable=False)) == ["fsync"]


def test_after_it_the_work_goes_on_from_what_was_adopted(story: Story) -> None:
    story.look(a="w1.1", b="w1.2")
    story.tell("adopt", result={"a": ["file", "eA==", 1], "b": ["file", "eA==", 1]})
    story.tell("read", details={"calls": [["read", "b"]], "done": 1}, result=[digest(b"x")])
    told = story.judged()
    assert rules(told) == []
    assert told.folder.names["a"] == told.folder.names["b"]
