"""Which acknowledgements wait until other mounts show what they acknowledge: an `open` on one mount after a `close` on
another sees what was closed. Pure: time comes as an argument, nothing is sent from here.

Each connected mount says how far its folder shows the log. One that is not there in time is not waited for until it is
nearly there again, and not before RETRY_S: a mount that was stopped makes one operation pause for LIMIT_S, not each.

Threading: the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from storage_server.ports import Watcher

LIMIT_S = 0.1
"""No operation waits longer for the mounts that are connected here."""
PEER_LIMIT_S = 0.15
"""Nor for a peer to say so of its mounts: a little more than the peer itself waits."""
RETRY_S = 1.0
NEARLY_ENTRIES = 64


Need = tuple[Watcher, int]
"""Who is to show which position."""


@dataclass(slots=True, eq=False)
class _Waiting:
    needs: list[Need]
    until: float
    done: Callable[[], None]
    over: bool = field(default=False)

    @property
    def complete(self) -> bool:
        return all(watcher.position >= position for watcher, position in self.needs)


class Shown:
    """Invariant: who is waiting here lacks somebody, and not for longer than the limit (once `tick` was called)."""

    def __init__(self) -> None:
        self._mounts: dict[Watcher, None] = {}
        self._waiting: list[_Waiting] = []
        self.late = 0
        """How often an operation went on without somebody who was waited for."""

    def add(self, watcher: Watcher) -> None:
        """A mount; waited for as soon as it has caught up."""
        self._mounts[watcher] = None

    def remove(self, watcher: Watcher) -> None:
        """It is gone, and what it may still show is its own affair."""
        self._mounts.pop(watcher, None)
        self.told(watcher, 1 << 62, 1 << 62, 0.0)

    def told(self, watcher: Watcher, position: int, head: int, now: float) -> None:
        """It shows the log up to `position`, which ends at `head`."""
        watcher.position = max(watcher.position, position)
        if not watcher.prompt and now >= watcher.retry_at and head - position <= NEARLY_ENTRIES:
            watcher.prompt = True
        self._settle()

    def lacking(self, position: int, but: Watcher | None = None) -> list[Need]:
        """The mounts that are counted on and do not show `position` yet, without `but`, who made it."""
        return [(w, position) for w in self._mounts if w.prompt and w is not but and w.position < position]

    def wait(self, needs: Sequence[Need], done: Callable[[], None], now: float, limit_s: float = LIMIT_S) -> None:
        """Call `done` when all are met, or the time is over; at once if none is open."""
        if all(watcher.position >= position for watcher, position in needs):
            done()
        else:
            self._waiting.append(_Waiting(list(needs), now + limit_s, done))

    @property
    def due(self) -> float | None:
        """When `tick` has something to do."""
        return min((waiting.until for waiting in self._waiting), default=None)

    def tick(self, now: float) -> None:
        """Nobody is waited for any longer than the limit; who was late is left out for a while."""
        for waiting in self._waiting:
            if now >= waiting.until:
                waiting.over = True
                for watcher, position in waiting.needs:
                    if watcher.position < position:
                        self.late += 1
                        watcher.prompt = False
                        watcher.retry_at = now + RETRY_S
        self._settle()

    def _settle(self) -> None:
        if not self._waiting:
            return
        ready = [waiting for waiting in self._waiting if waiting.over or waiting.complete]
        if ready:
            self._waiting = [waiting for waiting in self._waiting if not (waiting.over or waiting.complete)]
        for waiting in ready:
            waiting.done()
