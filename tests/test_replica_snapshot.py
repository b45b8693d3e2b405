"""A replica as a stream of rows, and back."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from gdah_volume import errors
from gdah_volume.database import Database
from gdah_volume.ids import Author
from gdah_volume.replica import Replica
from gdah_volume.stamps import ZERO
from tests.foldkit import Client, cached_rows, check_tree, listing, rows_of, sign, sorted_fold, stamp
from tests.test_replica_order import Program, deliver


def over_the_wire(batches):
    """As it arrives: tuples have become lists."""
    for table, rows in batches:
        yield msgspec.msgpack.decode(msgspec.msgpack.encode((table, rows)))


@pytest.fixture
def source(tmp_path: Path):
    database = Database(tmp_path / "source.db")
    rng = random.Random(1)
    program = Program(rng, 3)
    for _ in range(150):
        program.step()
    replica = Replica(database)
    deliver(replica, program.arrivals, rng)
    program.close()
    yield replica, program
    database.close()


def test_round_trip_through_a_reader_beside_the_writer(source, tmp_path: Path):
    replica, program = source
    with replica.database.transaction():
        replica.stabilise(stamp(replica.max_clock // 2))
    reader = replica.database.reader()
    batches = Replica(reader).dump()
    first = next(batches)
    with replica.database.transaction():
        replica.accept(Client("zz", replica.tree).create("later"), stamp(10_000))
    copy = Replica(Database(":memory:"))
    with copy.database.transaction():
        copy.load(over_the_wire([first, *batches]))
    rows = rows_of(copy)
    assert rows == sorted_fold(program.log).rows, "one state from begin to end"
    assert cached_rows(copy, rows) == rows
    assert copy.operations == replica.operations - 1
    assert copy.stable == replica.stable
    # The log's tail goes on from there, late ones too.
    with copy.database.transaction():
        for _, at, op in replica.entries_after(copy.head, 100):
            copy.accept(op, at)
    assert copy.digest == replica.digest
    assert copy.head == replica.head
    late = Client("zz", copy.tree)
    late.sequence = 1
    op = late.create("a", "late")
    for one in (copy, replica):
        with one.database.transaction():
            one.accept(op, stamp(replica.stable.clock + 1, "s9"))
    assert rows_of(copy) == rows_of(replica)
    reader.close()
    copy.database.close()


def test_what_lies_below_the_stable_point_of_a_snapshot_is_known_by_its_author(source):
    replica, program = source
    with replica.database.transaction():
        replica.stabilise(stamp(replica.max_clock // 2, "s9"))
    copy = Replica(Database(":memory:"))
    with copy.database.transaction():
        copy.load(over_the_wire(replica.dump(everywhere=replica.head)))
    for op, at in program.log.values():
        assert copy.stamp_of(op.id) == (ZERO if at <= replica.stable else at)
    assert copy.first > 1
    assert [one[2].id for one in copy.entries_after(0, 1000)] == [
        op.id for _, at, op in replica.entries_after(0, 1000) if at > replica.stable
    ]
    for op, at in program.log.values():
        with copy.database.transaction():
            assert not copy.accept(op, at)
    assert copy.digest == replica.digest
    copy.database.close()


def test_own_operations_come_on_top_again(source):
    replica, program = source
    mine = Replica(Database(":memory:"))
    client = Client("me", mine.tree)
    with mine.database.transaction():
        mine.accept(client.create("stamped elsewhere", "x"), stamp(5_000, "s7"))
        lost = client.create("logged, the answer lost", "y")
        mine.add_pending(lost, strict=True)
        waiting = client.create("a", "still waiting")
        mine.add_pending(waiting, strict=False)
    program.log[lost.id] = (lost, stamp(4_000, "s1"))
    with replica.database.transaction():
        replica.accept(lost, stamp(4_000, "s1"))
    with mine.database.transaction():
        mine.load(over_the_wire(replica.dump()))
    assert mine.pending() == [waiting]
    assert mine.stamp_of(lost.id) == stamp(4_000, "s1")
    found = listing(mine.tree)
    assert sign("still waiting") in found.values()
    assert found["stamped elsewhere"] == sign("x")
    assert mine.author_sequence(Author("me-a1b2c3-9f3c")) == 3
    check_tree(rows_of(mine))
    mine.database.close()


def test_pending_operations_are_no_part_of_a_snapshot():
    replica = Replica(Database(":memory:"))
    with replica.database.transaction():
        replica.add_pending(Client("a", replica.tree).create("f"), strict=True)
    with pytest.raises(ValueError, match="pending"):
        list(replica.dump())
    replica.database.close()


@pytest.mark.parametrize("batch", [("meta", [["key", "value"]]), ("last", [["only one"]]), ("sqlite_master", [])])
def test_what_is_no_dump_is_refused_and_nothing_changes(source, batch):
    replica, _ = source
    before = rows_of(replica)

    def load() -> None:
        with replica.database.transaction():
            replica.load([batch])

    with pytest.raises(errors.BadMessage):
        load()
    assert rows_of(replica) == before
    assert cached_rows(replica, before) == before


def test_an_empty_replica_can_be_dumped():
    replica, copy = Replica(Database(":memory:")), Replica(Database(":memory:"))
    with copy.database.transaction():
        copy.load(over_the_wire(replica.dump()))
    assert rows_of(copy) == rows_of(replica)
    assert (copy.head, copy.first, copy.digest) == (0, 1, bytes(16))
    for one in (replica, copy):
        one.database.close()
