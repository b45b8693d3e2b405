"""What a server refuses because the news of others have not come yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gdah_volume.errors import Exists
from gdah_volume.ids import ROOT
from mountfs.files import intents
from mountfs.files.performing import TRY_FOR_S, Performer
from mountfs.sync.sending import GIVE_UP_S
from tests.sync.live import eventually
from tests.sync.test_upstream import Setup, foreign


class NoHandles:
    def stale(self, nodes: Any) -> None:
        pass

    def find(self, node: Any) -> None:
        return None


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """A mount that shows the file f; that somebody else has made h is held back."""
    found = Setup(tmp_path, ("sa",))
    found.connect()
    found.world.create("f")
    found.answered()
    server = found.servers[0]
    assert server.link is not None
    server.link.subscribed = False
    foreign(server, "h")
    yield found
    found.end()
    found.world.database.close()


def performer(setup: Setup) -> Performer:
    parts = SimpleNamespace(log=setup.world.log, mirror=setup.world.mirror)
    return Performer(cast("Any", parts), cast("Any", NoHandles()))


def rename(setup: Setup, *, exactly: bool) -> None:
    build = intents.rename(setup.world.mirror.tree, ROOT, b"f", ROOT, b"h", 0)
    performer(setup).perform(build, ROOT, again=(Exists,), exactly=exactly)


def test_it_waits_for_the_news_and_then_the_rules_decide(setup: Setup) -> None:
    """Programs were told ENOENT of what was before their eyes, after twelve tries (seeds 9001, 8004)."""
    began = time.monotonic()
    rename(setup, exactly=False)
    assert time.monotonic() - began >= TRY_FOR_S
    server = setup.servers[0]
    asked = [call for call in server.asked if call[0] == "submit"]
    assert [strict for _, _, strict, _ in asked[-2:]] == [True, False]
    assert setup.world.names() == ["h"]
    eventually(lambda: setup.world.log.pending_operations == 0)


def test_what_a_program_wants_exactly_is_refused(setup: Setup) -> None:
    with pytest.raises(Exists):
        rename(setup, exactly=True)
    assert setup.world.names() == ["f"]


def test_it_takes_no_longer_than_any_other_call(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that was spent on trying counts."""
    began: list[float] = []
    patience = setup.upstream.sending.patience_s

    def noting(record: Any) -> float:
        began.append(record.issued_at)
        return patience(record)

    monkeypatch.setattr(setup.upstream.sending, "patience_s", noting)
    started = time.monotonic()
    rename(setup, exactly=False)
    assert max(began) - started < TRY_FOR_S < GIVE_UP_S
