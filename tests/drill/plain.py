"""Workers on a plain folder instead of a mount: what the parts of a drill make of a file system that does no wrong, and
of one that is made to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gdah_drill.generator import Profile, Worker
from gdah_drill.history import History, Operation
from gdah_drill.worker_hands import DrillCalls

Break = Callable[[str, tuple[Any, ...]], Any]


class PlainHands(DrillCalls):
    """`HandsLike` in this process. `dies_at`: the number of the call in the middle of which the mount dies."""

    def __init__(self, root: Path, dies_at: int = 0) -> None:
        super().__init__(str(root))
        self._left = dies_at

    def call(self, name: str, *args: Any, deadline_s: float = 60.0) -> Any:
        if self._left:
            self._left -= 1
            if not self._left:
                if name == "timed":
                    self.timed(list(args[0])[:1])
                raise EOFError("the helper process is gone")
        return getattr(self, name)(*args)

    def _mounted(self) -> bool:
        return True

    def close(self) -> None:
        self.forget()


class Strict:
    """A judge for whom nothing excuses anything."""

    def may_refuse(self, operation: Operation) -> bool:
        return False

    def lost_power(self, mount: str, since: float, until: float) -> bool | None:
        return None


def make_worker(
    root: Path, history: History, name: str = "w1", *, seed: int = 1, deaths: Sequence[int] = (), shared: float = 0.3
) -> Worker:
    left = list(deaths)
    return Worker(
        name,
        "one",
        lambda: PlainHands(root, left.pop(0) if left else 0),
        seed,
        history,
        serves=lambda: True,
        lock=threading.Lock(),
        profile=Profile(shared_share=shared, max_bytes=200_000),
    )
