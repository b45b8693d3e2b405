"""The brake on bursts of deletions that come with paths: over the REST API, and from programs of the original system.

A mount holds its own burst back (`mountfs.sync.holding`); who has no mount is refused here instead, whole and before
anything is changed, until a person confirms. Counts by source: the origin that a change names, else the address it
came from. A source that is not known any more (there are more than SOURCES_MAX) begins anew.

Threading: the event loop.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from gdah_volume.brake import SHARE_FROM, BrakeLimits, Burst
from gdah_volume.errors import HeldByBrake
from gdah_volume.ids import device_of
from gdah_volume.operations import Operation, Rmdir, Unlink

SOURCES_MAX = 1024
CONFIRMED_S = 300.0
"""So long a source may remove what it likes after somebody has confirmed it."""


@dataclass(slots=True)
class Source:
    burst: Burst
    refused: int = 0
    """Removals, since it was confirmed last."""
    why: str = ""
    free_until: float = field(default=float("-inf"))


class Brakes:
    """Those of one volume."""

    def __init__(self, volume: str, limits: BrakeLimits, monotonic: Callable[[], float]) -> None:
        self._volume = volume
        self._limits = limits
        self._monotonic = monotonic
        self._sources: dict[str, Source] = {}

    def _source(self, name: str) -> Source:
        found = self._sources.pop(name, None) or Source(Burst(self._limits))
        self._sources[name] = found  # the one that was seen last is the last
        while len(self._sources) > SOURCES_MAX:
            del self._sources[next(iter(self._sources))]
        return found

    def needs_entries(self, name: str, count: int) -> bool:
        """Whether the decision depends on how much there is."""
        now = self._monotonic()
        return bool(self._limits.share) and self._source(name).burst.recent(now) + count >= SHARE_FROM

    def let_through(self, name: str, count: int, entries: int) -> None:
        """Count so many removals. Raises HeldByBrake if they are too many; then nothing was counted."""
        source, now = self._source(name), self._monotonic()
        why = source.burst.why(now, lambda: entries, count)
        if why is not None and now >= source.free_until:
            source.refused += count
            source.why = why
            raise HeldByBrake(
                f"held by the brake: {why} from {name}. Nothing was changed. If it is meant, confirm with"
                f" POST /v1/volumes/{self._volume}/brake?source={quote(name, safe='')} and send it again"
            )
        source.burst.note(now, count)

    def confirm(self, name: str) -> float:
        """Returns for how many seconds."""
        source = self._source(name)
        source.free_until = self._monotonic() + CONFIRMED_S
        source.refused, source.why = 0, ""
        return CONFIRMED_S

    def figures(self) -> dict[str, Any]:
        """What the status says: who was refused."""
        refused = {name: source for name, source in self._sources.items() if source.refused}
        return {
            "refused": sum(source.refused for source in refused.values()),
            "sources": {name: {"refused": source.refused, "why": source.why} for name, source in refused.items()},
        }


class Deletions:
    """How many names each device removed within the last minute, as far as it arrived here; to be looked at. It tells
    of a mount that has no brake, too."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._seconds: deque[tuple[int, Counter[str]]] = deque()

    def note(self, ops: Iterable[Operation]) -> None:
        removed = Counter(device_of(op.id) for op in ops if isinstance(op, Unlink | Rmdir))
        if removed:
            now = int(self._monotonic())
            if self._seconds and self._seconds[-1][0] == now:
                self._seconds[-1][1].update(removed)
            else:
                self._seconds.append((now, removed))
                self._forget()

    def _forget(self) -> None:
        while self._seconds and self._seconds[0][0] <= self._monotonic() - 60:
            self._seconds.popleft()

    def last_minute(self) -> dict[str, int]:
        self._forget()
        return dict(sum((removed for _, removed in self._seconds), Counter[str]()))
