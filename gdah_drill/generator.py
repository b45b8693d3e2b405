"""Workers: each is a program that uses a mount, and tells the history what it did and what it was answered.

A worker makes one call after the other through hands of its own. What it does next is drawn from its seed. That its
mount dies under it, it survives: it waits until the runner says that the mount serves again, looks at what is there and
goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from gdah_drill.history import History


class HandsLike(Protocol):
    def call(self, name: str, *args: Any, deadline_s: float = ...) -> Any: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Profile:
    """What kind of load: weights and limits."""

    shared_share: float = 0.35
    """Part of the steps that work in the shared folder."""
    fsync_share: float = 0.15
    large_share: float = 0.04
    """Part of the contents that are larger than 64 KiB."""
    max_bytes: int = 3 << 20
    pause_s: float = 0.0
    """Between two steps."""
    call_deadline_s: float = 60.0
    """After which a call counts as stuck."""


class Worker:
    """Threading: `step` from one thread; `lock` is shared by the workers of one mount."""

    def __init__(
        self,
        name: str,
        mount: str,
        hands: Callable[[], HandsLike],
        seed: int,
        history: History,
        *,
        serves: Callable[[], bool],
        lock: threading.Lock,
        profile: Profile | None = None,
    ) -> None:
        """`serves`: waits until the mount serves; False when the drill is over. `hands`: new ones on the mount."""
        self.name = name
        self.mount = mount
        self._hands = hands
        self._seed = seed
        self._history = history
        self._serves = serves
        self._lock = lock
        self._profile = profile or Profile()

    def step(self) -> None:
        """One operation, or the looks after a death. Never raises for what the mount does."""
        raise NotImplementedError

    def finish(self) -> None:
        """After the load and healing: close what is open, look once more. Call from the same thread."""
        raise NotImplementedError
