"""Which server to use: a pure choice from health figures, with hysteresis and the reason in words.

The cost of a server is what an operation costs there: its latency, more when it fails often, and far more
when its disk is nearly full, or when it is being filled: one that lacks what others have shows an old folder, and
is busy. The one in use stays unless another is much cheaper for a while: to turn costs a
handover, and two equal servers must not take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MUCH_CHEAPER = 2.0
WORTH_MS = 5.0
"""Another server must be cheaper by this factor and by so much ..."""
HOLD_S = 3.0
"""... for so long."""
LATENCY_FLOOR_MS = 0.2
ERROR_WEIGHT = 4.0
TROUBLE_MS = 10_000.0
BEHIND_MS = 5_000.0
BEHIND_ENTRIES = 64
"""So many may be on their way at any time."""
BEHIND_HOLD_S = 0.4
"""Two servers that have just met again do not know at once how much they lack of each other."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One server as it is now. `usable`: connected and heard of lately."""

    url: str
    usable: bool
    latency_ms: float = 0.0
    error_rate: float = 0.0
    trouble: str = ""
    """Why it cannot store anything now; empty: it can."""
    behind: int = 0
    """Operations that it lacks."""

    @property
    def is_behind(self) -> bool:
        return self.behind > BEHIND_ENTRIES

    @property
    def cost_ms(self) -> float:
        cost = max(self.latency_ms, LATENCY_FLOOR_MS) * (1.0 + ERROR_WEIGHT * self.error_rate)
        return cost + (TROUBLE_MS if self.trouble else 0.0) + (BEHIND_MS if self.is_behind else 0.0)


@dataclass(frozen=True, slots=True)
class Choice:
    """`rival` has been much cheaper than `url` since `rival_since`."""

    url: str | None
    why: str
    rival: str | None = None
    rival_since: float = 0.0


ONLY_ONE = "the only server that answers"
NO_CHOICE = Choice(None, "no server was reached yet")


def choose(servers: Sequence[Figures], before: Choice, now: float, lost: str | None = None) -> Choice:
    """The server to use. `lost`: what happened to the one that was in use, if it is gone.

    Servers that cost the same are taken in the order given.
    """
    usable = [server for server in servers if server.usable]
    if not usable:
        return Choice(None, lost or (before.why if before.url is None else "no server answers"))
    best = min(usable, key=lambda server: server.cost_ms)
    current = next((server for server in usable if server.url == before.url), None)
    if current is None:
        return Choice(best.url, _first_reason(best, len(usable), len(servers), before, lost))
    if best is current or not _much_cheaper(best, current):
        return Choice(current.url, _still(before.why, len(usable)))
    if current.trouble and not best.trouble:
        return Choice(best.url, _better_reason(best, current))
    if before.rival != best.url:
        return Choice(current.url, before.why, best.url, now)
    hold_s = BEHIND_HOLD_S if current.is_behind and not best.is_behind else HOLD_S
    if now - before.rival_since < hold_s:
        return Choice(current.url, before.why, best.url, before.rival_since)
    return Choice(best.url, _better_reason(best, current))


def _still(why: str, usable: int) -> str:
    return "it was the first to answer, and no other is much better" if why == ONLY_ONE and usable > 1 else why


def _much_cheaper(one: Figures, other: Figures) -> bool:
    return one.cost_ms * MUCH_CHEAPER < other.cost_ms and one.cost_ms + WORTH_MS < other.cost_ms


def _first_reason(best: Figures, usable: int, of: int, before: Choice, lost: str | None) -> str:
    if lost is not None and before.url is not None and before.url != best.url:
        return f"{before.url} is lost ({lost}); this one answers in {best.latency_ms:.1f} ms"
    if usable == 1 and of > 1:
        return ONLY_ONE
    if of == 1:
        return "the only server"
    return f"answers in {best.latency_ms:.1f} ms"


def _better_reason(best: Figures, current: Figures) -> str:
    if current.trouble and not best.trouble:
        return f"{current.url} cannot store: {current.trouble}"
    if current.is_behind and not best.is_behind:
        return f"{current.url} lacks {current.behind} operations and is being filled"
    if current.error_rate > 2 * best.error_rate:
        return f"{current.url} fails more often ({current.error_rate:.0%} of late)"
    return f"answers in {best.latency_ms:.1f} ms, {current.url} in {current.latency_ms:.1f} ms"
