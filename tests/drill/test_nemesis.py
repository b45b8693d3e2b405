"""The one who plays the faults of a scene: what takes long to end holds up nobody."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

from gdah_drill.environment import Environment
from gdah_drill.faults import Fault
from gdah_drill.history import History
from gdah_drill.nemesis import Nemesis
from gdah_drill.scenes import Step

LONG_S = 30.0


class Needing(Fault):
    """Its end needs that another one ends, as a mount that starts needs a server that is stopped."""

    kind = "power"

    def begin(self) -> None:
        self.happened = True

    def end(self) -> None:
        self.note = "" if self.details["other"].wait(LONG_S) else "the other one did not end"


class Needed(Needing):
    kind = "stop"

    def end(self) -> None:
        self.details["other"].set()


def test_a_fault_that_needs_that_another_one_ends_does_not_hold_it_up() -> None:
    env: Any = cast(Environment, SimpleNamespace(troubles=[]))
    history = History()
    other = threading.Event()
    needing, needed = Needing(env, "one", other=other), Needed(env, "server-a", other=other)
    faults: list[tuple[Step, Fault]] = [(Step("power", "one", 0, 0.0), needing), (Step("stop", "a", 0, 0.05), needed)]
    Nemesis(env, history)._acts(faults)
    assert [(fault.fault, fault.note) for fault in history.faults] == [("stop", ""), ("power", "")]
