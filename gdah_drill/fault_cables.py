"""Faults of the cable between two nodes: silence, slowness, lost answers, cuts in the middle.

A target is `one>server-a` (what flows that way) or `one<>server-a`; what a fault closed, it opens again, and nothing
else. Threading: as in `faults`.
"""

from __future__ import annotations

import time
from typing import Any

from gdah_drill import history as words
from gdah_drill.environment import Environment, pair
from gdah_drill.faults import Fault
from gdah_drill.proxy import Cable

STEP_S = 0.02
SPEAK_S = 30.0
BEAT_PART_BYTES = 5


class OfACable(Fault):
    def __init__(self, env: Environment, target: str, **details: Any) -> None:
        super().__init__(env, target, **details)
        self.both = "<>" in target
        self.one, _, self.other = target.partition("<>" if self.both else ">")
        self._before: dict[str, int] = {}

    @property
    def resources(self) -> tuple[str, ...]:
        return (pair(self.one, self.other),)

    @property
    def cables(self) -> list[Cable]:
        return self.env.cables(self.one, self.other)

    def count(self, figure: str) -> int:
        found = (getattr(cable, figure) for cable in self.cables)
        return sum(sum(value.values()) if isinstance(value, dict) else value for value in found)

    def remember(self, *figures: str) -> None:
        """What the observation is measured against. Before it, both ends come to speak, if they were away."""
        until = time.monotonic() + SPEAK_S
        while not any(cable.connected for cable in self.cables) and time.monotonic() < until:
            time.sleep(STEP_S)
        self._before = {figure: self.count(figure) for figure in figures}

    def grew(self) -> bool:
        """Any of the figures that were remembered."""
        return any(self.count(figure) > before for figure, before in self._before.items())

    def comes(self, timeout_s: float) -> bool:
        """Whether it is seen within the time."""
        until = time.monotonic() + timeout_s
        while not self.grew() and time.monotonic() < until:
            time.sleep(STEP_S)
        return self.grew()

    def end(self) -> None:
        self.happened = self.happened or self.comes(SPEAK_S)
        for cable in self.cables:
            cable.heal()


class Cut(OfACable):
    """Silence one way or both. It happened when somebody's bytes did not get through."""

    kind = words.CUT

    def begin(self) -> None:
        self.remember("withheld", "kept_waiting")
        flows = self.env.flows(self.one, self.other)
        if self.both:
            flows += self.env.flows(self.other, self.one)
        for cable, way in flows:
            cable.cut(way)


class Slow(OfACable):
    """details: delay_s, each way."""

    kind = words.SLOW

    def begin(self) -> None:
        self.remember("passed")
        for cable in self.cables:
            cable.delay(self.details["delay_s"])


class Drip(OfACable):
    """details: bytes_per_s."""

    kind = words.DRIP

    def begin(self) -> None:
        self.remember("passed")
        for cable in self.cables:
            cable.drip(self.details["bytes_per_s"])


class LostAck(OfACable):
    """What is asked arrives and is done, the answers vanish: held back for details["for_s"], then the connection is
    reset with them. It happened when bytes of answers were lost."""

    kind = words.LOST_ACK

    def begin(self) -> None:
        self.remember("lost")
        for cable in self.cables:
            cable.cut("in")
        self._answered()
        time.sleep(self.details["for_s"])
        for cable in self.cables:
            cable.reset()
            cable.heal()

    def _answered(self) -> None:
        """Until an answer stands at the closed gate."""
        before = self.count("withheld")
        until = time.monotonic() + SPEAK_S
        while self.count("withheld") == before and time.monotonic() < until:
            time.sleep(STEP_S)


class Torn(OfACable):
    """So many more bytes pass (details: after_bytes, way), then the rest of the message never comes: reset."""

    kind = words.TORN

    def begin(self) -> None:
        self.remember("halved")
        for cable in self.cables:
            cable.stop_after(self.details["after_bytes"], self.details["way"])
        if not self.comes(self.details["for_s"]):  # not so many bytes: then in the middle of a beat
            for cable in self.cables:
                cable.stop_after(BEAT_PART_BYTES, self.details["way"])
            self.details["after_bytes"] = BEAT_PART_BYTES
            self.comes(SPEAK_S)
        for cable in self.cables:
            cable.reset()
            cable.heal()
