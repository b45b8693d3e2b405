"""Which acknowledgements wait until other mounts show what they acknowledge: an `open` on one mount after a `close` on
another sees what was closed. Pure: time comes as an argument, nothing is sent from here.

Each connected mount says how far its folder shows the log. One that is not there in time is not waited for until it is
nearly there again: a mount that was stopped makes one operation pause for LIMIT_S, not each. One that is late again and
again is left out for longer each time, up to RETRY_S.

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
RETRY_FIRST_S = 0.125
RETRY_S = 1.0
FORGIVEN_S = 10.0
"""Who was not late for so long was never late."""
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
        self.passed_by = 0
        """How often one was acknowledged although a connected mount did not show it."""

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
        is_back = now >= watcher.late_at + watcher.pause_s and head - position <= NEARLY_ENTRIES
        watcher.prompt = watcher.prompt or is_back
        self._settle()

    @property
    def counted_on(self) -> int:
        """Mounts that are waited for."""
        return sum(watcher.prompt for watcher in self._mounts)

    def lacking(self, position: int, but: Watcher | None = None) -> list[Need]:
        """The mounts that are counted on and do not show `position` yet, without `but`, who made it."""
        return [(w, position) for w in self._mounts if w.prompt and w is not but and w.position < position]

    def pass_by(self, position: int, but: Watcher | None = None) -> None:
        """Count what is about to be acknowledged without those who are not counted on."""
        if any(not w.prompt and w is not but and w.position < position for w in self._mounts):
            self.passed_by += 1

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
                        self._is_late(watcher, now)
        self._settle()

    def _is_late(self, watcher: Watcher, now: float) -> None:
        self.late += 1
        self.passed_by += 1
        if watcher.prompt or now > watcher.late_at:  # once, for all that waited for it
            again = now - watcher.late_at <= FORGIVEN_S
            watcher.pause_s = min(max(2 * watcher.pause_s, RETRY_FIRST_S), RETRY_S) if again else 0.0
            watcher.late_at = now
        watcher.prompt = False

    def _settle(self) -> None:
        if not self._waiting:
            return
        ready = [waiting for waiting in self._waiting if waiting.over or waiting.complete]
        if ready:
            self._waiting = [waiting for waiting in self._waiting if not (waiting.over or waiting.complete)]
        for waiting in ready:
            waiting.done()
