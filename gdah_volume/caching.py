"""A bounded dictionary for rows that were read. Knows nothing of what it holds.

Threading: one thread at a time.
"""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Missing:
    """What a cache answers when it does not know (None means: known to be absent)."""


MISSING = Missing()


class Cache(Generic[K, V]):
    """At most 2 * limit entries; what was not asked for since the last `limit` new ones is forgotten."""

    __slots__ = ("_limit", "_old", "_young")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | Missing:
        found = self._young.get(key, MISSING)
        if isinstance(found, Missing) and self._old:
            found = self._old.pop(key, MISSING)
            if not isinstance(found, Missing):
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        if len(self._young) >= self._limit:
            self._old, self._young = self._young, {}
            if not self._limit:
                return
        self._young[key] = value

    def drop(self, key: K) -> None:
        self._young.pop(key, None)
        self._old.pop(key, None)

    def known(self, key: K) -> bool:
        return key in self._young or key in self._old

    def clear(self) -> None:
        self._young, self._old = {}, {}
