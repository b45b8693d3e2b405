"""The log and the fold together: stamps, pending operations, the stable point, pruning, counters, changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gdah_volume import errors
from gdah_volume.content import Content
from gdah_volume.database import Database
from gdah_volume.ids import ROOT, Author, OpId
from gdah_volume.operations import from_json
from gdah_volume.replica import Changes, Replica
from gdah_volume.stamps import PENDING_CLOCK, ZERO, Stamp
from tests.foldkit import Client, data, listing, rows_of, sign, sorted_fold, stamp


@pytest.fixture
def replica():
    made = Replica(Database(":memory:"))
    yield made
    made.database.close()


@pytest.fixture
def client(replica: Replica) -> Client:
    return Client("a", replica.tree)


def accept(replica: Replica, op, clock: int, server: str = "s1") -> Changes:
    with replica.database.transaction():
        return replica.accept(op, stamp(clock, server))


# --- stamps and positions


def test_accepting_is_idempotent_and_the_smallest_stamp_wins(replica: Replica, client: Client):
    op = client.create("f", "one")
    assert accept(replica, op, 10)
    assert not accept(replica, op, 10)
    assert not accept(replica, op, 20)
    assert (replica.stamp_of(op.id), replica.head, replica.operations) == (stamp(10), 1, 1)
    digest = replica.digest
    accept(replica, op, 5, "s2")
    assert (replica.stamp_of(op.id), replica.head, replica.operations) == (stamp(5, "s2"), 2, 1)
    assert replica.digest != digest
    assert replica.entries_after(0, 10) == [(2, stamp(5, "s2"), op)]
    assert replica.operation(op.id) == op
    assert replica.operation(OpId("a-a1b2c3-9f3c-77")) is None


def test_restamping_moves_an_operation_among_those_it_clashes_with(replica: Replica, client: Client):
    first = client.create("f", "one")
    other = Client("b", replica.tree).create("f", "two")
    accept(replica, first, 10)
    accept(replica, other, 20)
    assert listing(replica.tree)["f"] == sign("one")
    changes = accept(replica, other, 5)
    assert listing(replica.tree)["f"] == sign("two")
    assert (ROOT, b"f") in changes.entries
    assert {first.id, other.id} <= changes.nodes


def test_what_comes_and_goes_within_one_batch_has_changed_its_folder(replica: Replica):
    """Found by the differential machine: after an outage another mount's kernel kept the old times of the folder."""
    there = Replica(Database(":memory:"))
    client = Client("a", there.tree)
    made = client.create("f", "one")
    accept(there, made, 10)
    gone = client.unlink("f")
    there.database.close()
    with replica.database.transaction():
        changes = replica.accept_all([(made, stamp(10)), (gone, stamp(11))])
    assert listing(replica.tree) == {}
    assert ROOT in changes.nodes
    with replica.database.transaction():
        assert not replica.accept_all([(gone, stamp(11))])


def test_the_digest_is_that_of_the_set_and_not_of_its_order(replica: Replica, client: Client):
    ops = [client.create(name) for name in "abc"]
    other = Replica(Database(":memory:"))
    assert replica.digest == other.digest == bytes(16)
    for n, op in enumerate(ops):
        accept(replica, op, n + 1)
    for n, op in reversed(list(enumerate(ops))):
        accept(other, op, n + 1)
    assert replica.digest == other.digest != bytes(16)
    assert replica.range_digest(0, 1 << 61) == (3, replica.digest)
    assert replica.range_digest(2, 3)[0] == 1
    assert replica.range_ids(2, 4) == [(ops[1].id, stamp(2)), (ops[2].id, stamp(3))]
    other.database.close()


def test_entries_come_in_order_of_arrival_and_above_a_stamp(replica: Replica, client: Client):
    ops = [client.create(name) for name in "abc"]
    for op, clock in zip(ops, (30, 10, 20), strict=True):
        accept(replica, op, clock)
    assert [at.clock for _, at, _ in replica.entries_after(0, 10)] == [30, 10, 20]
    assert [position for position, _, _ in replica.entries_after(1, 1)] == [2]
    assert [at.clock for _, at, _ in replica.entries_above(stamp(10))] == [30, 20]
    assert replica.stamped_above(stamp(10)) == [(ops[2].id, stamp(20)), (ops[0].id, stamp(30))]
    assert replica.entries_above(ZERO)[0][2] == ops[0]
    assert replica.max_clock == 30


def test_author_sequences(replica: Replica, client: Client):
    assert replica.author_sequence(client.author) == 0
    ops = [client.create(name) for name in "ab"]
    accept(replica, ops[1], 2)
    assert replica.author_sequence(client.author) == 2
    accept(replica, ops[0], 1)
    assert replica.author_sequence(client.author) == 2
    assert Replica(replica.database).author_sequence(client.author) == 2
    assert replica.author_sequence(Author("z-a1b2c3-9f3c")) == 0


# --- strict


def test_an_offer_that_is_refused_leaves_nothing_and_the_next_goes_on(replica: Replica, client: Client):
    with replica.database.transaction():
        replica.offer(client.create("f", "one"), stamp(1))
        refused = client.create("f", "two")
        with pytest.raises(errors.Exists):
            replica.offer(refused, stamp(2))
        replica.offer(client.create("g", "three"), stamp(2))
    assert replica.stamp_of(refused.id) is None
    assert (replica.head, replica.operations) == (2, 2)
    assert listing(replica.tree) == {"f": sign("one"), "g": sign("three")}


def test_a_known_operation_is_not_judged_again(replica: Replica, client: Client):
    op = client.create("f", "one")
    with replica.database.transaction():
        replica.offer(op, stamp(1))
        assert not replica.offer(op, stamp(2))
    assert replica.stamp_of(op.id) == stamp(1)


# --- pending


def test_pending_operations_lie_on_top_in_their_order(replica: Replica, client: Client):
    with replica.database.transaction():
        create = client.create("f", "mine")
        replica.add_pending(create, strict=True)
        write = client.write("f", "mine too")
        replica.add_pending(write, strict=True)
        assert not replica.add_pending(write, strict=True)
    at = replica.stamp_of(create.id)
    assert at is not None
    assert at.is_pending
    assert replica.pending() == [create, write]
    assert replica.entries_after(0, 10) == []
    assert (replica.operations, replica.digest, replica.max_clock) == (0, bytes(16), 0)
    other = Client("b", replica.tree)
    theirs = other.create("f", "theirs")
    changes = accept(replica, theirs, 7)
    assert listing(replica.tree) == {"f": sign("theirs"), "f (conflict a a1b2c3-9f3c-1)": sign("mine too")}
    assert changes.entries == {(ROOT, b"f"), (ROOT, b"f (conflict a a1b2c3-9f3c-1)")}


def test_a_pending_operation_gets_its_stamp(replica: Replica, client: Client):
    with replica.database.transaction():
        ops = [client.create(name, name) for name in "abc"]
        for op in ops:
            replica.add_pending(op, strict=True)
    evaluations = replica._engine.evaluations
    for n, op in enumerate(ops):
        assert not accept(replica, op, n + 1), "nothing that can be seen has changed"
    assert replica._engine.evaluations == evaluations, "nothing had to be evaluated again"
    assert replica.pending() == []
    assert (replica.operations, replica.max_clock) == (3, 3)
    assert rows_of(replica) == sorted_fold({op.id: (op, stamp(n + 1)) for n, op in enumerate(ops)}).rows


def test_a_refused_pending_operation_is_taken_out_and_the_later_ones_follow(replica: Replica, client: Client):
    with replica.database.transaction():
        folder = client.mkdir("d")
        replica.add_pending(folder, strict=True)
        replica.add_pending(client.create("d/f", "one"), strict=True)
        changes = replica.drop_pending(folder.id)
    assert listing(replica.tree) == {".lost/f": sign("one")}
    assert (ROOT, b"d") in changes.entries
    assert replica.stamp_of(folder.id) is None
    with replica.database.transaction():
        assert not replica.drop_pending(folder.id)
        assert not replica.drop_pending(OpId("z-a1b2c3-9f3c-1"))


def test_dropping_does_not_touch_a_stamped_operation(replica: Replica, client: Client):
    op = client.create("f")
    accept(replica, op, 1)
    with replica.database.transaction():
        assert not replica.drop_pending(op.id)
    assert replica.stamp_of(op.id) == stamp(1)


def test_pending_stamps_go_on_after_a_restart(replica: Replica, client: Client):
    with replica.database.transaction():
        replica.add_pending(client.create("a"), strict=True)
    again = Replica(replica.database)
    op = client.create("b")
    with again.database.transaction():
        again.add_pending(op, strict=True)
    assert again.stamp_of(op.id) == Stamp(PENDING_CLOCK + 1, stamp(0, "~").server)


# --- roll back


def test_a_late_operation_that_touches_nothing_of_the_later_ones_undoes_none(replica: Replica, client: Client):
    for n in range(20):
        accept(replica, client.create(f"f{n}", "x"), 100 + n)
    other = Client("b", replica.tree)
    before = replica._engine.evaluations
    for n in range(20):
        accept(replica, other.create(f"g{n}", "y"), 50 + n)
    assert replica._engine.evaluations == before + 20
    assert len(listing(replica.tree)) == 40


def test_only_what_clashes_is_undone(replica: Replica, client: Client):
    accept(replica, client.create("f", "one"), 1)
    stale = Client("b", replica.tree).write("f", "late")
    for n in range(20):
        accept(replica, client.create(f"g{n}", "x"), 100 + n)
    accept(replica, client.write("f", "two"), 200)
    accept(replica, client.write("f", "three"), 201)
    before = replica._engine.evaluations
    accept(replica, stale, 50)
    assert replica._engine.evaluations - before <= 6
    assert listing(replica.tree)["f"] == sign("late")
    assert sign("three") in listing(replica.tree).values()


def test_a_thousand_operations_are_rolled_back_and_applied_again(replica: Replica, client: Client):
    accept(replica, client.create("f", "0"), 1)
    stale = Client("b", replica.tree).write("f", "late")
    log = {op.id: (op, at) for _, at, op in replica.entries_after(0, 10)}
    with replica.database.transaction():
        for n in range(1000):
            op = client.write("f", f"{n}")
            replica.accept(op, stamp(100 + n))
            log[op.id] = (op, stamp(100 + n))
    log[stale.id] = (stale, stamp(50))
    accept(replica, stale, 50)
    assert rows_of(replica) == sorted_fold(log).rows


# --- stable point and pruning


def test_below_the_stable_point_nothing_is_kept_to_be_undone(replica: Replica, client: Client):
    for n in range(10):
        accept(replica, client.create(f"f{n}"), n + 1)
    with replica.database.transaction():
        replica.stabilise(stamp(5, "s9"))
    assert replica.stable == stamp(5, "s9")
    assert replica.database.row("SELECT count(*) FROM undo") == (5,)
    with replica.database.transaction():
        replica.stabilise(stamp(3))
    assert replica.stable == stamp(5, "s9")
    late = Client("b", replica.tree).create("x")
    with pytest.raises(errors.OutOfOrder):
        accept(replica, late, 5)
    assert replica.stamp_of(late.id) is None
    assert Replica(replica.database).stable == stamp(5, "s9")
    accept(replica, late, 6, "s0")
    assert len(listing(replica.tree)) == 11


def test_a_stable_point_that_frees_nothing_writes_nothing(replica: Replica, client: Client):
    accept(replica, client.create("f"), 10)
    changes = replica.database.connection.total_changes
    for clock in range(1, 9):
        with replica.database.transaction():
            replica.stabilise(stamp(clock))
    assert replica.database.connection.total_changes == changes
    assert replica.stable == stamp(8)


def test_pending_operations_survive_the_stable_point(replica: Replica, client: Client):
    with replica.database.transaction():
        op = client.create("f")
        replica.add_pending(op, strict=True)
        replica.stabilise(stamp(1000))
    with replica.database.transaction():
        replica.drop_pending(op.id)
    assert listing(replica.tree) == {}


def test_late_insertion_still_works_after_the_stable_point_moved(replica: Replica, client: Client):
    other = Client("b", replica.tree)
    for n in range(10):
        accept(replica, client.create(f"f{n}", "x"), 10 * n + 10)
        accept(replica, other.create(f"g{n}", "y"), 10 * n + 5)
        with replica.database.transaction():
            replica.stabilise(stamp(10 * n))
    log = {op.id: (op, at) for _, at, op in replica.entries_after(0, 100)}
    assert rows_of(replica) == sorted_fold(log).rows


def test_the_history_of_a_device_whose_clock_is_years_behind_is_kept_as_long_as_any(replica: Replica, client: Client):
    for n in range(3):
        accept(replica, client.create(f"f{n}", "x"), 1_000_000 + n)
    with replica.database.transaction():
        replica.stabilise(stamp(2_000_000))
        assert all(op.time_ns < 500_000_000 for _, _, op in replica.entries_after(0, 10)), "made in 1970"
        assert replica.prune(before_time_ns=500_000_000, up_to_position=100) == 0, "stamped after that all the same"
        assert replica.prune(before_time_ns=1_100_000_000, up_to_position=100) == 3


def test_pruning_forgets_old_operations_and_nothing_else(replica: Replica, client: Client):
    ops = [client.create(f"f{n}", "x") for n in range(10)]
    for n, op in enumerate(ops):
        accept(replica, op, n + 1)
    rows, digest = rows_of(replica), replica.digest
    with replica.database.transaction():
        assert replica.prune(before_time_ns=1 << 60, up_to_position=100) == 0, "nothing is stable"
        replica.stabilise(stamp(8))
        assert replica.prune(before_time_ns=0, up_to_position=100) == 0, "nothing is old"
        assert replica.prune(before_time_ns=1 << 60, up_to_position=5) == 5
        assert replica.prune(before_time_ns=1 << 60, up_to_position=100) == 3
    assert (replica.first, replica.head, replica.operations) == (9, 10, 10)
    assert (rows_of(replica), replica.digest) == (rows, digest)
    assert [op.id for _, _, op in replica.entries_after(0, 100)] == [op.id for op in ops[8:]]
    # What was pruned is known to have been held.
    assert replica.stamp_of(ops[0].id) == ZERO
    assert not accept(replica, ops[0], 100)
    assert replica.operations == 10
    assert replica.stamp_of(client.create("new").id) is None
    again = Replica(replica.database)
    assert (again.first, again.head, again.stamp_of(ops[3].id)) == (9, 10, ZERO)


def test_an_empty_log_begins_after_its_head(replica: Replica, client: Client):
    assert (replica.first, replica.head) == (1, 0)
    accept(replica, client.create("f"), 1)
    with replica.database.transaction():
        replica.stabilise(stamp(1))
        replica.prune(before_time_ns=1 << 60, up_to_position=1)
    assert (replica.first, replica.head) == (2, 1)


# --- the log for people, files on disk


def test_the_log_can_be_read(tmp_path: Path):
    database = Database(tmp_path / "v.db")
    replica = Replica(database)
    client = Client("laptop", replica.tree)
    with database.transaction():
        replica.accept(client.mkdir("docs"), stamp(1))
        replica.accept(client.create("docs/a\udcff.txt".encode("utf-8", "surrogateescape").decode("latin-1")), stamp(2))
        replica.accept(client.create("docs/plan.txt", "hello"), stamp(3))
        replica.accept(client.rename("docs/plan.txt", "plan.txt"), stamp(4))
        replica.accept(client.unlink("plan.txt"), stamp(5))
    command = [sys.executable, "-m", "sqlite_utils", "rows", str(tmp_path / "v.db"), "operations"]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert [row["type"] for row in shown] == ["create", "create", "create", "rename", "unlink"]
    assert [row["path"] for row in shown][2:] == ["docs/plan.txt", "docs/plan.txt -> plan.txt", "plan.txt"]
    assert shown[2]["at"] == "1970-01-01T00:00:00.003000+00:00"
    operation = json.loads(shown[2]["operation"])
    assert (operation["name"], operation["kind"], operation["attrs"]["mode"]) == ("plan.txt", "file", "0644")
    for row in shown:
        assert from_json(row["operation"]) == replica.operation(row["id"])
    database.close()


def test_what_lies_too_deep_is_logged_without_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder 1,000 levels down took longer to name than to make."""
    monkeypatch.setattr("gdah_volume.replica.HINT_DEPTH_MAX", 1)
    database = Database(tmp_path / "v.db")
    replica = Replica(database)
    client = Client("laptop", replica.tree)
    with database.transaction():
        replica.accept(client.mkdir("a"), stamp(1))
        replica.accept(client.mkdir("a/b"), stamp(2))
        replica.accept(client.mkdir("a/b/c"), stamp(3))
        replica.accept(client.rename("a/b/c", "d"), stamp(4))
        replica.accept(client.rename("d", "a/b/d"), stamp(5))
    paths = [row[0] for row in database.rows("SELECT path FROM operations ORDER BY position")]
    assert paths == ["a", "a/b", None, None, "d -> ?/d"]
    assert replica.tree.path(client.at("a/b/d").node) == b"a/b/d"
    database.close()


def test_everything_is_there_after_a_restart(tmp_path: Path):
    database = Database(tmp_path / "v.db")
    replica = Replica(database)
    client = Client("a", replica.tree)
    with database.transaction():
        replica.accept(client.create("f", "one"), stamp(10))
        replica.add_pending(client.write("f", "two"), strict=True)
    state = (replica.head, replica.operations, replica.digest, replica.max_clock, replica.pending())
    rows = rows_of(replica)
    database.close()
    database = Database(tmp_path / "v.db", create=False)
    replica = Replica(database)
    assert (replica.head, replica.operations, replica.digest, replica.max_clock, replica.pending()) == state
    assert rows_of(replica) == rows
    late = Client("b", replica.tree).create("f", "late")
    accept(replica, late, 5)
    assert listing(replica.tree)["f"] == sign("late")
    database.close()


_CRASH = """
import os, sys
from pathlib import Path
from gdah_volume.database import Database
from gdah_volume.replica import Replica
from tests.foldkit import Client, stamp
database = Database(Path(sys.argv[1]))
replica = Replica(database)
client = Client("a", replica.tree)
for n in range(20):
    with database.transaction(sync=n % 5 == 0):
        replica.accept(client.create(f"f{n}", "x"), stamp(n + 1))
database.connection.execute("BEGIN IMMEDIATE")
database._depth = 1
replica.accept(client.create("half", "x"), stamp(100))
os.kill(os.getpid(), 9)
"""


def test_kill_9_loses_nothing_that_was_committed_and_keeps_nothing_that_was_not(tmp_path: Path):
    path = tmp_path / "v.db"
    died = subprocess.run([sys.executable, "-c", _CRASH, str(path)], check=False, cwd=Path(__file__).parent.parent)
    assert died.returncode == -9
    database = Database(path, create=False)
    replica = Replica(database)
    assert database.integrity_check() == []
    assert (replica.operations, replica.head) == (20, 20)
    assert set(listing(replica.tree)) == {f"f{n}" for n in range(20)}
    log = {op.id: (op, at) for _, at, op in replica.entries_after(0, 100)}
    assert rows_of(replica) == sorted_fold(log).rows
    database.close()


# --- changes


def test_changes_name_what_became_different_and_only_that(replica: Replica, client: Client):
    folder, file = client.mkdir("d"), None
    assert accept(replica, folder, 1) == Changes(frozenset({ROOT, folder.id}), frozenset({(ROOT, b"d")}))
    file = client.create("d/f", "one")
    accept(replica, file, 2)
    assert accept(replica, client.write("d/f", "two"), 3) == Changes(frozenset({file.id}))
    moved = accept(replica, client.rename("d/f", "g"), 4)
    assert moved.entries == {(folder.id, b"f"), (ROOT, b"g")}
    assert moved.nodes == {folder.id, ROOT, file.id}
    linked = accept(replica, client.link("g", "h"), 5)
    assert linked == Changes(frozenset({ROOT, file.id}), frozenset({(ROOT, b"h")}))
    assert accept(replica, client.chmod("g", 0o600), 6) == Changes(frozenset({file.id}))
    assert accept(replica, client.chmod("g", 0o600), 7).entries == frozenset()
    assert Changes() | moved == moved
    assert not Changes()


def test_changes_of_a_merge_name_both_nodes(replica: Replica, client: Client):
    other = Client("b", replica.tree).mkdir("d")
    first = client.mkdir("d")
    accept(replica, first, 2)
    changes = accept(replica, other, 1)
    assert {first.id, other.id} <= changes.nodes
    assert changes.entries == {(ROOT, b"d")}


def test_a_no_op_changes_nothing(replica: Replica, client: Client):
    accept(replica, client.create("f", "one"), 1)
    gone = client.unlink("f")
    accept(replica, client.write("f", "two"), 2)
    assert not accept(replica, gone, 3)
    assert Content() == data("")


def test_the_stamp_of_a_retired_server_gives_way_to_a_later_one(replica: Replica, client: Client):
    """Nobody but this replica had it, so the others stamped the operation anew."""
    replica.void = frozenset({"s9"})
    first = client.create("f", "one")
    accept(replica, first, 10, "s9")
    second = client.write("f", "two")
    accept(replica, second, 20)
    third = client.create("g", "three")
    accept(replica, third, 30)
    accept(replica, first, 40)
    assert replica.stamp_of(first.id) == stamp(40)
    expected = {first.id: (first, stamp(40)), second.id: (second, stamp(20)), third.id: (third, stamp(30))}
    assert rows_of(replica) == sorted_fold(expected).rows
    accept(replica, first, 50)
    assert replica.stamp_of(first.id) == stamp(40), "of two that count the smaller one"
