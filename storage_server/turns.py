"""Who is next: jobs in lines, of which each keeps its order, and all lines have their turn.

A line is what must not overtake itself: the operations of one client. A mount with a thousand operations on their way
makes another one wait for one of them, not for a thousand. Nobody's operation needs one of another client that is still
in line: he could not have seen it.

Threading: any thread; the lock is a leaf.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Invariant: no line is empty; the one that was served last stands last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[Hashable, deque[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def append(self, line: Hashable, item: T) -> None:
        with self._lock:
            waiting = self._lines.get(line)
            if waiting is None:
                waiting = self._lines[line] = deque()
            waiting.append(item)

    def popleft(self) -> T:
        """The first of the line that has waited longest for its turn. Raises StopIteration if there is none."""
        with self._lock:
            line = next(iter(self._lines))
            waiting = self._lines.pop(line)
            item = waiting.popleft()
            if waiting:
                self._lines[line] = waiting
            return item
