"""The lock table of one file against an array of bytes, and its queue."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdah_volume import locks
from gdah_volume.errors import TooManyLocks
from gdah_volume.locks import EOF, LockQueue, LockTable, Owner, Range, Waiter

BYTES = 12
"""The last one stands for everything up to EOF."""
OWNERS = [Owner("one", 1), Owner("one", 2), Owner("two", 1)]


class Bytes:
    """Each byte: who holds it, and how."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, int], dict[Owner, bool]] = {}

    def cells(self, space: str, start: int, end: int) -> list[dict[Owner, bool]]:
        return [self.held.setdefault((space, at), {}) for at in range(start, min(end, BYTES - 1) + 1)]

    def free(self, space: str, owner: Owner, start: int, end: int, write: bool) -> bool:
        others = [each for cell in self.cells(space, start, end) for each in cell.items() if each[0] != owner]
        return not any(write or holds_write for _, holds_write in others)

    def put(self, space: str, owner: Owner, start: int, end: int, write: bool) -> None:
        for cell in self.cells(space, start, end):
            cell[owner] = write

    def remove(self, space: str, owner: Owner, start: int, end: int) -> None:
        for cell in self.cells(space, start, end):
            cell.pop(owner, None)


def as_bytes(table: LockTable) -> dict[tuple[str, int], dict[Owner, bool]]:
    model = Bytes()
    for space, owner, held in table.all():
        model.put(space, owner, held.start, held.end, held.write)
    return {key: cell for key, cell in model.held.items() if cell}


steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "put", "remove", "leave"]),
        st.sampled_from(["posix", "flock"]),
        st.sampled_from(OWNERS),
        st.integers(0, BYTES - 1),
        st.one_of(st.integers(0, BYTES - 1), st.just(EOF)),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_the_table_is_an_array_of_bytes(program: list[tuple[Any, ...]]) -> None:
    table, model = LockQueue(), Bytes()
    for act, space, owner, start, drawn, write in program:
        end = EOF if max(start, drawn) >= BYTES - 1 else max(start, drawn)
        wanted = Range(write, start, end, 7)
        if act == "take":
            if space == "flock" and any(o == owner and h.write != write for s, o, h in table.table.all() if s == space):
                model.remove(space, owner, 0, EOF)
            free = model.free(space, owner, start, end, write)
            found = table.take(space, owner, wanted)
            assert (found is None) == free
            if found is None:
                model.put(space, owner, start, end, write)
            else:
                assert found[0] != owner
                assert locks.clash(found[1], wanted)
        elif act == "put":
            table.table.put(space, owner, wanted)
            model.put(space, owner, start, end, write)
        elif act == "remove":
            table.table.remove(space, owner, start, end)
            model.remove(space, owner, start, end)
        else:
            table.table.remove_client(owner.client)
            for other in OWNERS:
                if other.client == owner.client:
                    for each in ("posix", "flock"):
                        model.remove(each, other, 0, EOF)
        assert as_bytes(table.table) == {key: cell for key, cell in model.held.items() if cell}
        for each in OWNERS:
            for one in ("posix", "flock"):
                ranges = [held for s, o, held in table.table.all() if (s, o) == (one, each)]
                assert ranges == sorted(ranges, key=lambda held: held.start)
                for left, right in itertools.pairwise(ranges):
                    assert left.end < right.start
                    assert left.end + 1 < right.start or left.write != right.write, "equal neighbours are one"


@settings(max_examples=200, deadline=None)
@given(steps)
def test_contradictions_are_counted_as_one_by_one(program: list[tuple[Any, ...]]) -> None:
    table = LockTable()
    for _, space, owner, start, drawn, write in program:
        table.put(space, owner, Range(write, start, max(start, drawn)))
    held = sorted(table.all(), key=lambda each: each[2].start)
    against = [
        any(s == space and o != owner and locks.clash(before, each) for s, o, before in held[:at])
        for at, (space, owner, each) in enumerate(held)
    ]
    assert table.contradictions() == sum(against)


A, B, C = OWNERS


def test_a_range_is_split_and_merged_again() -> None:
    table = LockTable()
    table.put("posix", A, Range(True, 0, 99))
    table.remove("posix", A, 40, 59)
    assert [held[1:3] for _, _, held in table.all()] == [(0, 39), (60, 99)]
    table.put("posix", A, Range(False, 50, 70))
    assert [held[:3] for _, _, held in table.all()] == [(True, 0, 39), (False, 50, 70), (True, 71, 99)]
    table.put("posix", A, Range(True, 0, EOF))
    assert [held[:3] for _, _, held in table.all()] == [(True, 0, EOF)]


def test_the_conflict_that_is_told_is_the_first() -> None:
    table = LockTable()
    table.put("posix", B, Range(True, 50, 59, 2))
    table.put("posix", C, Range(True, 10, 19, 3))
    assert table.conflict("posix", A, Range(False)) == (C, Range(True, 10, 19, 3))
    assert table.conflict("flock", A, Range(True)) is None


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "FILE_LOCKS_MAX", 3)
    table = LockTable()
    for start in (0, 10, 20):
        table.put("posix", A, Range(True, start, start))
    before = list(table.all())
    with pytest.raises(TooManyLocks):
        table.put("posix", A, Range(True, 30, 30))
    with pytest.raises(TooManyLocks):
        table.put("flock", B, Range(True))
    assert list(table.all()) == before
    table.put("posix", C, Range(True, 0, EOF))
    table.put("posix", A, Range(True, 0, EOF))
    table.put("flock", B, Range(True))
    table.remove_client("one")
    for start in (0, 10, 20):
        table.put("posix", A, Range(True, start, start))


def waiter(name: int, owner: Owner, wanted: Range, since: float = 0.0) -> Waiter:
    return Waiter(name, "flock", owner, wanted, since)


def test_a_writer_does_not_starve_among_readers() -> None:
    queue = LockQueue()
    assert queue.take("flock", A, Range(False)) is None
    assert not queue.wait(waiter(1, B, Range(True)), 0.0)
    assert not queue.wait(waiter(2, C, Range(False)), 0.1), "behind the writer"
    queue.table.remove("flock", A)
    assert [each.name for each in queue.pump(0.2)] == [1]
    queue.table.remove("flock", B)
    assert [each.name for each in queue.pump(0.3)] == [2]
    assert queue.waiting == []


def test_nobody_waits_for_long_for_those_who_wait() -> None:
    queue = LockQueue()
    queue.take("flock", A, Range(False))
    queue.wait(waiter(1, B, Range(True)), 0.0)
    queue.wait(waiter(2, C, Range(False), 0.0), 0.0)
    assert queue.pump(0.5) == []
    assert [each.name for each in queue.pump(locks.FAIR_S)] == [2]


def test_who_holds_something_is_not_put_behind_others() -> None:
    queue = LockQueue()
    queue.table.put("posix", A, Range(True, 0, 9))
    assert not queue.wait(Waiter(1, "posix", B, Range(True, 0, 99), 0.0), 0.0)
    assert queue.wait(Waiter(2, "posix", A, Range(True, 50, 59), 0.0), 0.0)


def test_a_wait_is_cancelled_once() -> None:
    queue = LockQueue()
    queue.take("flock", A, Range(True))
    queue.wait(waiter(1, B, Range(True)), 0.0)
    assert not queue.cancel("two", 1)
    assert queue.cancel("one", 1)
    assert not queue.cancel("one", 1)
    queue.table.remove("flock", A)
    assert queue.pump(0.0) == []


def test_an_flock_is_lost_when_its_conversion_fails() -> None:
    queue = LockQueue()
    queue.take("flock", A, Range(False))
    queue.take("flock", B, Range(False))
    assert queue.take("flock", A, Range(True)) == (B, Range(False))
    assert not queue.table.holds("flock", A)
    queue.take("posix", A, Range(False))
    queue.take("posix", B, Range(False))
    assert queue.take("posix", A, Range(True)) is not None
    assert queue.table.holds("posix", A), "a range stays what it was"


def test_two_who_share_an_flock_and_want_it_alone_get_it_one_after_the_other() -> None:
    queue = LockQueue()
    queue.take("flock", A, Range(False))
    queue.take("flock", B, Range(False))
    assert not queue.wait(waiter(1, A, Range(True)), 0.0)
    assert not queue.wait(waiter(2, B, Range(True)), 0.0), "first come, first served"
    assert [each.name for each in queue.pump(0.0)] == [1]
    queue.table.remove("flock", A)
    assert [each.name for each in queue.pump(0.0)] == [2]


def test_both_sides_of_a_cut_keep_their_locks_and_are_counted() -> None:
    table = LockTable()
    table.put("flock", A, Range(True))
    table.put("flock", C, Range(True))
    assert table.contradictions() == 1
    table.put("flock", B, Range(False))
    assert table.contradictions() == 2
    table.remove("flock", B)
    assert table.conflict("flock", B, Range(False)) is not None
    table.remove_client("two")
    assert table.contradictions() == 0
