"""The locks of one file, as fcntl(2) and flock(2) define them. Pure words: no clock of its own, no network, no kernel.

There are two independent SPACES: `posix`, ranges of bytes that belong to a process (or, for open file description
locks, to one open(2)), and `flock`, the whole file, which belongs to one open(2). In both, a lock of one owner never
stands in the way of the same owner: setting one again changes it (upgrade, downgrade), and its neighbours are split or
merged. An OWNER is the client that speaks for it and the kernel's number for it there.

`LockTable` says who holds what. `LockQueue` adds those who wait, first come first served: who holds nothing in the
file waits behind those who came before it, so that a writer does not starve among readers, but no longer than FAIR_S,
so that two queues can never wait for each other for good.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gdah_volume.errors import TooManyLocks

Space = Literal["posix", "flock"]
SPACES: tuple[Space, ...] = ("posix", "flock")
EOF = (1 << 63) - 1
"""As the end of a range: to the end of the file, however long it gets."""
FILE_LOCKS_MAX = 4096
"""Ranges that one client may hold of one file; above it ENOLCK."""
FAIR_S = 1.0


class Owner(NamedTuple):
    client: str
    key: int


class Range(NamedTuple):
    """Bytes `start` to `end`, both included. `pid`: the process that set it, as its own machine calls it."""

    write: bool
    start: int = 0
    end: int = EOF
    pid: int = 0


class LockTable:
    """Invariant: the ranges of an owner are sorted, do not overlap, and equal neighbours are one."""

    def __init__(self) -> None:
        self._held: dict[Space, dict[Owner, list[Range]]] = {"posix": {}, "flock": {}}
        self._counts: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return any(self._held.values())

    def __len__(self) -> int:
        return sum(len(ranges) for owners in self._held.values() for ranges in owners.values())

    def all(self) -> Iterator[tuple[Space, Owner, Range]]:
        for space, owners in self._held.items():
            for owner, ranges in owners.items():
                for held in ranges:
                    yield space, owner, held

    def of(self, client: str) -> list[tuple[Space, Owner, Range]]:
        return [each for each in self.all() if each[1].client == client]

    def clients(self) -> set[str]:
        return {owner.client for owners in self._held.values() for owner in owners}

    def holds(self, space: Space, owner: Owner) -> bool:
        return owner in self._held[space]

    def writes(self, space: Space, owner: Owner, start: int, end: int) -> bool:
        """Whether that owner holds any of these bytes for writing."""
        return any(held.write and held.start <= end for held in self._from(space, owner, start))

    def _from(self, space: Space, owner: Owner, start: int) -> list[Range]:
        ranges = self._held[space].get(owner, [])
        return ranges[_first(ranges, start) :]

    def convert(self, space: Space, owner: Owner, wanted: Range) -> None:
        """An flock of the other type is lost before the new one is tried, as Linux does it: else two who share a lock
        and want it alone would wait for each other."""
        if space == "flock" and any(held.write != wanted.write for held in self._held[space].get(owner, [])):
            self.remove(space, owner)

    def conflicts(self, space: Space, owner: Owner, wanted: Range) -> Iterator[tuple[Owner, Range]]:
        """Locks of others that stand in the way."""
        for other, ranges in self._held[space].items():
            if other != owner:
                for at in range(_first(ranges, wanted.start), len(ranges)):
                    held = ranges[at]
                    if held.start > wanted.end:
                        break
                    if held.write or wanted.write:
                        yield other, held

    def conflict(self, space: Space, owner: Owner, wanted: Range) -> tuple[Owner, Range] | None:
        """Of those the one with the first byte."""
        return min(self.conflicts(space, owner, wanted), key=lambda found: found[1].start, default=None)

    def put(self, space: Space, owner: Owner, wanted: Range) -> None:
        """Hold it, whoever else does. Raises TooManyLocks, and changes nothing then."""
        held = self._held[space].get(owner, [])
        first, last = _first(held, wanted.start), _first(held, wanted.end + 1)
        last += last < len(held) and held[last].start <= wanted.end
        new = [wanted]
        for before in held[first:last]:
            new = _around(before, wanted, new)
        if first and _joins(held[first - 1], new[0]):
            first -= 1
            new[0] = new[0]._replace(start=held[first].start)
        if last < len(held) and _joins(new[-1], held[last]):
            new[-1] = new[-1]._replace(end=held[last].end)
            last += 1
        grows = len(new) - (last - first)
        if grows > 0 and self._counts[owner.client] + grows > FILE_LOCKS_MAX:
            raise TooManyLocks(f"{FILE_LOCKS_MAX} locks of one file are held on one mount")
        self._counts[owner.client] += grows
        held[first:last] = new
        self._held[space][owner] = held

    def remove(self, space: Space, owner: Owner, start: int = 0, end: int = EOF) -> bool:
        """Whether anything was held there."""
        held = self._held[space].get(owner)
        if held is None:
            return False
        kept = _without(held, start, end)
        self._counts[owner.client] += len(kept) - len(held)
        if kept:
            self._held[space][owner] = kept
        else:
            del self._held[space][owner]
        return kept != held

    def remove_client(self, client: str) -> bool:
        gone = [(space, owner) for space, owners in self._held.items() for owner in owners if owner.client == client]
        for space, owner in gone:
            del self._held[space][owner]
        del self._counts[client]
        return bool(gone)

    def contradictions(self) -> int:
        """How many locks stand against one that begins before them or with them: two sides of a cut met again."""
        return sum(_contradictions(owners) for owners in self._held.values() if len(owners) > 1)


def _contradictions(owners: dict[Owner, list[Range]]) -> int:
    """In one pass over all ranges by their start: of those before it is enough to know the two owners that reach
    furthest, and the two that do so for writing."""
    count = 0
    furthest: dict[bool, list[tuple[int, Owner]]] = {False: [], True: []}
    for held, owner in sorted(
        ((held, owner) for owner, ranges in owners.items() for held in ranges), key=lambda each: each[0].start
    ):
        rivals = furthest[not held.write]
        count += any(end >= held.start and other != owner for end, other in rivals)
        for for_writing in (False, True) if held.write else (False,):
            reach = [each for each in furthest[for_writing] if each[1] != owner]
            mine = max([held.end, *(end for end, other in furthest[for_writing] if other == owner)])
            furthest[for_writing] = sorted([*reach, (mine, owner)], reverse=True)[:2]
    return count


def _first(ranges: list[Range], byte: int) -> int:
    """Where the first of an owner's ranges is that does not end before that byte."""
    return bisect.bisect_left(ranges, byte, key=_end)


def _end(held: Range) -> int:
    return held.end


def _joins(left: Range, right: Range) -> bool:
    return left.write == right.write and left.end + 1 == right.start


def _around(before: Range, wanted: Range, new: list[Range]) -> list[Range]:
    """What is left of a range beside the wanted one; `new` holds that, and what was left of others."""
    if before.start < wanted.start:
        rest = before._replace(end=wanted.start - 1)
        new = [new[0]._replace(start=rest.start), *new[1:]] if rest.write == wanted.write else [rest, *new]
    if before.end > wanted.end:
        rest = before._replace(start=wanted.end + 1)
        new = [*new[:-1], new[-1]._replace(end=rest.end)] if rest.write == wanted.write else [*new, rest]
    return new


def clash(one: Range, other: Range) -> bool:
    return (one.write or other.write) and one.start <= other.end and other.start <= one.end


def _without(ranges: Iterable[Range], start: int, end: int) -> list[Range]:
    left: list[Range] = []
    for held in ranges:
        if held.end < start or held.start > end:
            left.append(held)
            continue
        if held.start < start:
            left.append(held._replace(end=start - 1))
        if held.end > end:
            left.append(held._replace(start=end + 1))
    return left


@dataclass(eq=False, slots=True)
class Waiter:
    """`name` tells it from the others of its client; `since`: when it began to wait."""

    name: int
    space: Space
    owner: Owner
    wanted: Range
    since: float


class LockQueue:
    """Who holds the file's locks, and who waits for them."""

    def __init__(self) -> None:
        self.table = LockTable()
        self.waiting: list[Waiter] = []

    def __bool__(self) -> bool:
        return bool(self.table) or bool(self.waiting)

    def take(self, space: Space, owner: Owner, wanted: Range) -> tuple[Owner, Range] | None:
        """Hold it now; or whose lock stands in the way. Raises TooManyLocks. Others may go on after either (`pump`)."""
        self.table.convert(space, owner, wanted)
        found = self.table.conflict(space, owner, wanted)
        if found is None:
            self.table.put(space, owner, wanted)
        return found

    def wait(self, waiter: Waiter, now: float) -> bool:
        """Hold it now (True), or stand in line (False). Raises TooManyLocks. As to `pump`, see `take`."""
        self.table.convert(waiter.space, waiter.owner, waiter.wanted)
        if self._may_go(waiter, self.waiting, now):
            self.table.put(waiter.space, waiter.owner, waiter.wanted)
            return True
        self.waiting.append(waiter)
        return False

    def cancel(self, client: str, name: int) -> bool:
        """Whether it was still waiting."""
        before = len(self.waiting)
        self.waiting = [each for each in self.waiting if (each.owner.client, each.name) != (client, name)]
        return len(self.waiting) < before

    def forget_waiters(self, wanted: Callable[[Waiter], bool]) -> None:
        self.waiting = [each for each in self.waiting if not wanted(each)]

    def pump(self, now: float) -> list[Waiter]:
        """Those whose turn it is: they hold their locks from now on."""
        granted: list[Waiter] = []
        ahead: list[Waiter] = []
        for waiter in self.waiting:
            if self._may_go(waiter, ahead, now):
                try:
                    self.table.put(waiter.space, waiter.owner, waiter.wanted)
                except TooManyLocks:  # one more only by what it holds meanwhile; it goes on waiting
                    ahead.append(waiter)
                    continue
                granted.append(waiter)
            else:
                ahead.append(waiter)
        if granted:
            self.waiting = ahead
        return granted

    def _may_go(self, waiter: Waiter, ahead: list[Waiter], now: float) -> bool:
        if self.table.conflict(waiter.space, waiter.owner, waiter.wanted) is not None:
            return False
        if now - waiter.since >= FAIR_S or self.table.holds(waiter.space, waiter.owner):
            return True
        return not any(
            each.space == waiter.space and each.owner != waiter.owner and clash(each.wanted, waiter.wanted)
            for each in ahead
        )
