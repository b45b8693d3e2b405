"""The history of a drill: what was told is what is loaded."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from gdah_drill.history import KILL, QUIET, History, from_line, to_line


def test_a_history_is_loaded_as_it_was_told(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.operation(
        "w1", "one", "write", "a", began=1.0, ended=1.5, outcome="ok", content="w1.1", details={"size": 3}
    )
    history.fault(KILL, "server-a", began=1.2, ended=3.0, pending=4)
    history.mark(QUIET, took_s=2.0)
    history.close()
    again = History.load(tmp_path / "history.jsonl")
    assert again.events == history.events
    assert again.faults[0].details == {"pending": 4}
    assert again.operation("w1", "one", "look", "", began=4.0, ended=4.1, outcome="ok").n == 2


def test_an_answer_that_is_false_or_nothing_is_kept() -> None:
    history = History()
    for result in (None, False, 0, [], ["a"]):
        event = history.operation("w1", "one", "list", "", began=0.0, ended=0.0, outcome="ok", result=result)
        assert from_line(to_line(event)) == event


def test_threads_may_tell_at_the_same_time(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")

    def tell(name: str) -> None:
        for _ in range(100):
            history.operation(name, "one", "look", "", began=0.0, ended=0.0, outcome="ok")

    threads = [threading.Thread(target=tell, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history.close()
    assert [event.n for event in History.load(tmp_path / "history.jsonl").operations] == list(range(1, 401))


def test_a_fault_that_has_no_word_is_refused() -> None:
    with pytest.raises(AssertionError, match="thunder"):
        History().fault("thunder", "server-a", began=0.0, ended=1.0)
