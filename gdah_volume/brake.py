"""The brake's rule: when one source removes more, in a while, than somebody is likely to mean. Pure: it is told what
time it is and how much there is; what follows from it is up to who asks.

A burst is recognised by what one device removed within the last `window_s` seconds: more than `count` names, or more
than `share` percent of all that there was, which counts from SHARE_FROM removals on (half of a folder of four files
is no burst). Nothing is remembered over a restart but by who asks.

Threading: as its owner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gdah_volume.errors import InvalidArgument

SHARE_FROM = 1000
COUNT_MAX = 1_000_000
"""Each removal within the window is remembered by its time."""
WINDOW_MAX_S = 86_400.0

BRAKE_DEFAULTS: dict[str, Any] = {"brake-count": 5000, "brake-window": 60, "brake-share": 50}
"""The settings of it, of a mount and of a server."""


@dataclass(frozen=True, slots=True)
class BrakeLimits:
    """`count` 0: no brake at all; `share` 0: only the count counts."""

    count: int = 5000
    window_s: float = 60.0
    share: float = 50.0


def brake_limits(values: Mapping[str, Any]) -> BrakeLimits:
    """From layered settings. Raises InvalidArgument."""
    return BrakeLimits(
        int(_number(values, "brake-count", 0, COUNT_MAX, whole=True)),
        _number(values, "brake-window", 1, WINDOW_MAX_S),
        _number(values, "brake-share", 0, 100),
    )


def _number(values: Mapping[str, Any], name: str, low: float, high: float, *, whole: bool = False) -> float:
    try:
        number = float(str(values[name]).strip().removesuffix("%"))
    except ValueError:
        raise InvalidArgument(f"--{name}: not a number: {values[name]!r}") from None
    if not low <= number <= high or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise InvalidArgument(f"--{name} {values[name]}: choose {kind} from {low:g} to {high:.0f}")
    return number


class Burst:
    """What one source removed of late. Invariant: times in order, none older than the window at the last look."""

    def __init__(self, limits: BrakeLimits) -> None:
        self.limits = limits
        self._times: deque[float] = deque(maxlen=limits.count + 1)
        self._before: int | None = None
        """How much there was when the burst began, as far as the share matters."""
        self._released = False

    def recent(self, now: float) -> int:
        """How many were removed within the window; more than `count` are not told apart."""
        times, oldest = self._times, now - self.limits.window_s
        while times and times[0] <= oldest:
            times.popleft()
        return len(times)

    def why(self, now: float, entries: Callable[[], int], more: int = 1) -> str | None:
        """Why `more` removals at once would be too many now, for people; None: they would not. `entries`: how much
        there is; asked at most once in a burst."""
        reason = self._why(now, entries, more)
        if reason is None:
            self._released = False
        return None if self._released else reason

    def _why(self, now: float, entries: Callable[[], int], more: int) -> str | None:
        limits = self.limits
        if not limits.count:
            return None
        recent = self.recent(now)
        count = recent + more
        if count > limits.count:
            return f"more than {limits.count} deletions within {limits.window_s:g} s"
        if not limits.share or count < SHARE_FROM:
            self._before = None
            return None
        if self._before is None:
            self._before = entries() + recent
        if count * 100 > limits.share * self._before:
            return f"more than {limits.share:g} % of all that was there within {limits.window_s:g} s"
        return None

    def note(self, now: float, count: int = 1) -> None:
        """So many were removed now."""
        if self.limits.count:
            self._times.extend([now] * min(count, self.limits.count + 1))

    def release(self) -> None:
        """A person has confirmed this burst: what follows of it passes, until it has calmed down to the limit."""
        self._released = True
