"""Sequences of messages, losses and restarts that broke an earlier form of the protocol, each by its name.

The rules alone cannot save these: they need the hand over, tentative retries, the floor of a stamp, the barrier, and a
stable point that nobody stamps below. Each runs as a program of the model and ends with every check of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gdah_volume.content import content_of
from gdah_volume.names import is_conflict
from gdah_volume.stamps import PENDING_SERVER, Stamp
from tests.model import checks
from tests.model.alone import listing
from tests.model.trial import empty_state
from tests.model.world import Program, World

APART = ("cut", 0, 1)
A_X, B = b"a.x", b"b"
EMPTY_FILE, SHARED, OWN = 0, 1, 4
"""Choices of content: nothing, what others write too, what only this operation writes."""


@contextmanager
def told(program: Program, servers: int = 2, clients: int = 2) -> Iterator[World]:
    """The world after the program; at the end it is settled and everything about it is checked."""
    with World(servers, clients) as world:
        world.run(program)
        yield world
        settle(world)


def settle(world: World) -> None:
    world.settle()
    checks.check_settled(world, empty_state())
    checks.check_quiet(world)


def tree_of(world: World) -> dict[bytes, object]:
    """path -> content of files, kind of everything else, at the first server."""
    found = listing(world.servers[0].replica.tree)
    return {path: content if kind == "file" else kind for path, (kind, _, content, _) in found.items()}


def own(op: str) -> object:
    return content_of(op.encode())[0]


def test_acknowledgements_lost_at_one_server_and_early_operations_stamped_anew_by_the_other() -> None:
    """Ann makes a folder at s1 and hears nothing; s2 stamps it again, later. Then a file in it at s2, unheard, which s1
    stamps again. The smaller stamps win everywhere, all keep their order, and she never meets herself."""
    program = [
        APART,
        ("issue", 0, "mkdir", 0, 1),
        ("push", 0, 0, 1000, "answer"),
        ("push", 0, 1, 1000, "none"),
        ("issue", 0, "create", 1, 0, OWN),
        ("push", 0, 1, 1000, "answer"),
        ("push", 0, 0, 1000, "none"),
        ("do", 0, 1, "none", "write", 0, OWN),
    ]
    with told(program) as world:
        settle(world)
        log = world.servers[1].order()
        assert log == [f"ann-000001-0001-{n}" for n in (1, 2, 3)]
        assert [world.servers[0].ghost[op].server for op in log] == ["s1", "s2", "s2"], (
            "the first stamps are the smaller"
        )
        assert tree_of(world) == {B: "dir", B + b"/" + A_X: own(log[2])}


def test_a_third_operation_is_not_stamped_below_the_first() -> None:
    """s2's clock is far behind. Ann, cut from s1, turns to it: it gets what she knows with its stamps, and stamps
    above."""
    program = [
        ("skew", 1, -400_000),
        APART,
        ("do", 0, 0, "none", "create", 0, 0, OWN),
        ("do", 0, 0, "none", "write", 0, OWN),
        ("cut", 0, 2),
        ("do", 0, 1, "none", "write", 0, OWN),
    ]
    with told(program) as world:
        assert len(world.servers[1].ghost) == 3, "the first two were handed over"
        settle(world)
        assert tree_of(world) == {A_X: own("ann-000001-0001-3")}


def test_the_floor_holds_where_the_clock_of_a_server_runs_days_ahead() -> None:
    """s1 stamps two hours in the future, beyond what s2 believes of a client; what is handed over it believes."""
    program = [
        ("skew", 0, 7200 * 1_000_000),
        APART,
        ("do", 0, 0, "none", "create", 0, 0, OWN),
        ("do", 0, 1, "none", "write", 0, OWN),
    ]
    with told(program) as world:
        first, second = world.servers[1].ghost.values()
        assert first < second


def test_a_strict_create_in_doubt_is_tentative_at_the_other_server() -> None:
    """Logged at s1, the answer lost. At s2 Bob has the name: refused there and logged here would be a contradiction.
    Ann's comes as tentative, both files exist, one under a conflict name."""
    program = [
        APART,
        ("do", 0, 0, "answer", "create", 0, 0, OWN),
        ("do", 1, 1, "none", "create", 0, 0, OWN),
        ("push", 0, 1, 1000, "none"),
    ]
    with told(program) as world:
        assert not world.refused
        settle(world)
        names = list(tree_of(world))
        assert len(names) == 2
        assert sum(map(is_conflict, names)) == 1


def test_an_operation_in_doubt_sorts_earlier_than_it_was_shown() -> None:
    """Known and accepted: Ann's create is stamped at s1 and its answer lost; at s2 Bob's is there first, as she is
    shown. When the servers meet, hers has the smaller stamp, and it is Bob who ends with the conflict name. Nothing is
    lost."""
    program = [
        APART,
        ("do", 0, 0, "answer", "create", 0, 0, OWN),
        ("tick", 1000),
        ("do", 1, 1, "none", "create", 0, 0, OWN),
        ("push", 0, 1, 1000, "none"),
    ]
    with told(program) as world:
        shown = listing(world.clients[0].replica.tree)
        assert shown[A_X][2] == own("bob-000002-0001-1")
        settle(world)
        found = tree_of(world)
        assert found[A_X] == own("ann-000001-0001-1")
        assert sorted(map(str, found.values())) == sorted(
            map(str, (own("ann-000001-0001-1"), own("bob-000002-0001-1")))
        )


def test_a_write_to_an_open_file_without_a_name_is_never_logged() -> None:
    """Ann has a file open and removes it; what she writes then lives on with her, and brings nothing back."""
    program = [
        ("do", 0, 0, "none", "create", 0, 0, OWN),
        ("issue", 0, "open", 1, 0),
        ("do", 0, 0, "none", "unlink", 0),
        ("do", 0, 0, "none", "write_handle", 1, OWN),
    ]
    with told(program) as world:
        assert len(world.servers[0].ghost) == 2
        settle(world)
        assert tree_of(world) == {}


def test_a_write_to_an_open_file_that_another_removed_meanwhile_brings_it_back() -> None:
    """The other way round: Ann has not seen Bob's removal. An edit beats a delete."""
    program = [
        ("do", 0, 0, "none", "create", 0, 0, OWN),
        ("issue", 0, "open", 1, 0),
        ("pull", 1, 1, 1000),
        ("do", 1, 1, "none", "unlink", 0),
        ("issue", 0, "write_handle", 1, OWN),
    ]
    with told(program) as world:
        settle(world)
        assert tree_of(world) == {A_X: own("ann-000001-0001-2")}


def test_servers_that_meet_again_exchange_logs_before_they_rely_on_the_sequencer() -> None:
    """Bob created the name at s2 while the servers were apart. Connected again, but before the barrier, s1 decides for
    itself alone (a conflict name in the end); after the barrier it knows, and refuses."""
    apart = [APART, ("do", 1, 1, "none", "create", 0, 0, OWN), ("heal", 0, 1)]
    create = ("do", 0, 0, "none", "create", 0, 0, OWN)
    with told([*apart, create]) as world:
        assert not world.refused
        assert not world.clean, "nobody was told that both servers agree"
    with told([*apart, ("meet", 0, 1), create]) as world:
        assert world.refused == {"ann-000001-0001-1"}


def test_a_sequencer_that_is_lost_in_the_middle_of_an_operation() -> None:
    """s2 forwards Bob's strict create; s1 logs it and its answer is lost. s2 goes on alone, tentatively: it may not
    refuse what may be logged. Two stamps of one id, the smaller wins, one file."""
    for fault in ("forward_answer", "forward_request"):
        with told([("do", 1, 1, fault, "create", 0, 0, OWN)]) as world:
            assert len(world.servers[1].ghost) == 1
            assert not world.met(*world.servers)
            settle(world)
            assert tree_of(world) == {A_X: own("bob-000002-0001-1")}


def test_what_was_handed_over_to_one_server_reaches_the_sequencer_before_what_builds_on_it() -> None:
    """Ann's folder is at s3 only, which is cut off. She turns to s2, hands it over and creates in it, strictly. The
    sequencer s1 must have the folder before it judges: it would refuse with ENOENT."""
    program = [
        ("cut", 2, 0),
        ("cut", 2, 1),
        ("do", 0, 2, "none", "mkdir", 0, 1),
        ("do", 0, 1, "none", "create", 1, 0, OWN),
    ]
    with told(program, servers=3) as world:
        assert not world.refused
        assert len(world.servers[0].ghost) == 2


def test_a_silent_server_holds_the_stable_point_back() -> None:
    """s2 is cut off: what it stamps meanwhile may be smaller than anything, so nothing becomes stable at s1. When it
    is heard again, its operations sort where they belong."""
    program = [
        ("do", 0, 0, "none", "create", 0, 0, OWN),
        ("beat",),
        APART,
        ("skew", 1, -3),
        ("do", 1, 1, "none", "create", 0, 1, OWN),
        ("tick", 1000),
        ("do", 0, 0, "none", "create", 0, 2, OWN),
        ("beat",),
    ]
    with told(program) as world:
        stable = world.servers[0].replica.stable
        assert stable < world.servers[1].ghost["bob-000002-0001-1"]  # type: ignore[index]
        world.run([("heal", 0, 1), ("meet", 0, 1), ("tick", 1000), ("beat",), ("beat",)])
        assert world.servers[0].replica.stable > max(world.servers[0].ghost.values())


def test_a_promise_outlives_a_restart_with_a_clock_that_was_set_back() -> None:
    """s2 promised not to stamp below its clock and restarts with one that is behind: it stamps above its promise."""
    program = [
        ("tick", 5000),
        ("pull", 0, 0, 1),
        ("beat",),
        ("beat",),
        APART,
        ("skew", 1, -4000),
        ("restart", 1),
        ("do", 1, 1, "none", "create", 0, 0, OWN),
    ]
    with told(program) as world:
        assert next(iter(world.servers[1].ghost.values())) > world.servers[0].replica.stable


def test_an_empty_server_in_the_place_of_another_stamps_nothing_before_it_met_the_volume() -> None:
    """s2 loses its disk and its clock is behind what s1 holds stable. A client that comes first has to wait."""
    program = [
        ("do", 0, 0, "none", "create", 0, 0, OWN),
        ("tick", 5000),
        ("beat",),
        ("beat",),
        ("skew", 1, -90_000),
        ("wipe", 1),
        ("do", 1, 1, "none", "create", 0, 1, OWN),
    ]
    with told(program) as world:
        assert not world.servers[1].ghost
        world.run([("meet", 0, 1), APART, ("push", 1, 1, 1000, "none")])
        assert len(world.servers[1].ghost) == 2


def test_what_only_one_lost_disk_held_comes_back_from_the_client_that_made_it() -> None:
    """Acknowledged by s1 alone, 1/2; s1 loses its disk. Ann still has it with its stamp and hands it over."""
    program = [
        APART,
        ("do", 0, 0, "none", "create", 0, 0, OWN),
        ("wipe", 0),
    ]
    with told(program) as world:
        settle(world)
        assert tree_of(world) == {A_X: own("ann-000001-0001-1")}


def test_a_client_that_got_a_copy_turns_to_a_server_that_lags() -> None:
    """Stable at s1 is not yet held by s2: s2 only promised not to stamp there. Bob gets a copy of s1 and turns to s2:
    the copy brings what he must hand over, or his view would go backwards and his write be refused."""
    program = [
        APART,
        ("do", 0, 0, "none", "create", 0, 0, OWN),
        ("heal", 0, 1),
        ("tick", 1000),
        ("beat",),
        ("snapshot", 1, 0),
        ("do", 1, 1, "none", "write", 0, OWN),
    ]
    with told(program) as world:
        assert not world.refused
        assert len(world.servers[1].ghost) == 2


def test_pending_operations_go_on_top_of_a_copy_and_known_ones_are_recognised() -> None:
    """Ann made three things offline; the first reached s1 without her knowing. s1 pruned its log since, so she gets a
    copy: the first is in it, the others come on top."""
    program = [
        ("issue", 0, "mkdir", 0, 1),
        ("issue", 0, "create", 1, 0, OWN),
        ("issue", 0, "create", 0, 2, OWN),
        ("push", 0, 0, 1, "answer"),
        ("meet", 0, 1),
        ("tick", 1000),
        ("beat",),
        ("beat",),
        ("sync", 1, 0, 1000),
        ("prune", 0),
        ("pull", 0, 0, 1000),
    ]
    with told(program) as world:
        assert world.counts.pruned == 1
        assert [op.id for op in world.clients[0].pending()] == ["ann-000001-0001-2", "ann-000001-0001-3"]
        assert not any(is_conflict(path) for path in listing(world.clients[0].replica.tree))


def test_a_folder_that_both_made_is_not_removed_by_one_who_moved_his_and_does_not_know_the_other() -> None:
    """Ann makes a folder, moves it and removes it, all before she hears that Bob has made the same one: the two had
    become one when she moved it. Her move must not wipe out the mark that it holds Bob's too."""
    program = [
        ("issue", 0, "mkdir", 0, 1),
        ("issue", 0, "rename", 0, 0, 2),
        ("issue", 0, "rmdir", 0),
        ("push", 0, 0, 1, "none"),
        ("issue", 1, "mkdir", 0, 1),
        ("push", 1, 1, 1000, "none"),
        ("push", 0, 0, 1000, "none"),
    ]
    with told(program) as world:
        settle(world)
        assert tree_of(world) == {b"c": "dir"}


def test_a_file_that_was_parted_from_another_is_still_what_its_author_saw() -> None:
    """Both keep the version when two files that had become one are parted: an exchange of either finds what was seen.
    (The check was wrong, not the rule.)"""
    program = [
        ("issue", 1, "create", 2, 0, 2),
        ("issue", 2, "create", 2, 0, 2),
        ("issue", 2, "write", 2, 0, 0),
        ("issue", 2, "save", 2, 0, 3),
        ("push", 1, 1, 1000, "none"),
        ("do", 2, 0, "none", "swap_save", 1, 0, 3),
    ]
    with told(program, servers=3, clients=3) as world:
        assert world.counts.issued == 8


def test_heartbeats_of_one_side_only_make_nothing_stable_that_the_other_may_still_stamp() -> None:
    """A promise counts only for one who has read everything that was stamped before it."""
    program = [
        APART,
        ("do", 1, 1, "none", "create", 0, 0, OWN),
        ("heal", 0, 1),
        ("tick", 1000),
        ("beat",),
    ]
    with told(program) as world:
        assert world.servers[0].replica.stable == Stamp(0, world.servers[0].replica.stable.server)
        world.run([("sync", 0, 1, 1000), ("beat",)])
        assert world.servers[0].replica.stable >= Stamp(world.now_us - 100, PENDING_SERVER)
