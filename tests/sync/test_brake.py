"""The brake on bursts of deletions: what it holds, what flows past it, confirmed and discarded, through crashes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdah_volume.brake import SHARE_FROM, BrakeLimits, Burst, brake_limits
from gdah_volume.content import Chunk, Content, hash_of
from gdah_volume.errors import FileSystemError, InvalidArgument
from gdah_volume.ids import OpId, ServerId
from gdah_volume.stamps import Stamp
from mountfs.files import intents
from mountfs.files.intents import NothingToDo
from mountfs.sync.holding import is_undone
from tests.sync.braking import Device, Server, conflicts_in, other

AT_ONCE = BrakeLimits(count=2, window_s=60.0, share=0.0)
NO_BRAKE = BrakeLimits(count=0)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def device(tmp_path: Path, server: Server) -> Device:
    return Device(tmp_path / "w", server, AT_ONCE)


def full(device: Device, names: str = "abcdefgh") -> None:
    device.mkdir("d")
    for name in names:
        device.save(f"d/{name}", name.encode())
    device.send()


# --- the rule


def test_more_than_the_count_within_the_window_is_a_burst() -> None:
    burst = Burst(BrakeLimits(count=3, window_s=10.0, share=0.0))
    for now in (0.0, 1.0, 2.0):
        assert burst.why(now, lambda: 0) is None
        burst.note(now)
    assert burst.why(3.0, lambda: 0) == "more than 3 deletions within 10 s"
    assert burst.why(10.5, lambda: 0) is None  # the first is out of the window


def test_more_than_the_share_is_a_burst_from_a_thousand_on() -> None:
    asked: list[int] = []

    def entries() -> int:
        asked.append(1)
        return 2001 - SHARE_FROM + 1

    burst = Burst(BrakeLimits(count=5000, window_s=60.0, share=50.0))
    burst.note(0.0, SHARE_FROM - 1)
    assert burst.why(1.0, entries) is None  # the thousandth of 2,001
    burst.note(1.0)
    assert burst.why(1.0, entries) == "more than 50 % of all that was there within 60 s"
    assert asked == [1]


def test_a_confirmed_burst_passes_until_it_has_calmed_down() -> None:
    burst = Burst(BrakeLimits(count=1, window_s=10.0, share=0.0))
    burst.note(0.0)
    assert burst.why(1.0, lambda: 0)
    burst.note(1.0)
    burst.release()
    assert burst.why(2.0, lambda: 0) is None
    burst.note(2.0)
    assert burst.why(13.0, lambda: 0) is None  # calm
    burst.note(13.0)
    assert burst.why(14.0, lambda: 0)


@given(st.lists(st.floats(0.0, 5.0), max_size=40), st.integers(1, 5), st.floats(1.0, 20.0))
def test_the_sliding_window_is_the_plain_count(steps: list[float], count: int, window_s: float) -> None:
    burst = Burst(BrakeLimits(count=count, window_s=window_s, share=0.0))
    now, removed = 0.0, list[float]()
    for step in steps:
        now += step
        within = sum(at > now - window_s for at in removed) + 1
        assert (burst.why(now, lambda: 0) is not None) == (within > count)
        burst.note(now)
        removed.append(now)


def test_zero_turns_it_off_and_nonsense_is_refused() -> None:
    burst = Burst(NO_BRAKE)
    burst.note(0.0, 1_000_000)
    assert burst.why(0.0, lambda: 1) is None
    assert brake_limits({"brake-count": "7", "brake-window": "2.5", "brake-share": "20%"}) == BrakeLimits(7, 2.5, 20.0)
    for bad in ({"brake-count": "many"}, {"brake-count": -1}, {"brake-count": "1.5"}, {"brake-share": 101}):
        with pytest.raises(InvalidArgument, match=next(iter(bad))):
            brake_limits({"brake-count": 1, "brake-window": 1, "brake-share": 1} | bad)


# --- what is held


def test_the_excess_is_held_and_the_rest_flows(device: Device, server: Server) -> None:
    full(device)
    held = [device.is_held(device.unlink(f"d/{name}")) for name in "abcd"]
    assert held == [False, False, True, True]
    device.save("new", b"n")
    device.save("d/new", b"n")  # the same folder, another name
    device.chmod("d/e", 0o600)
    device.send()
    assert device.log.pending_operations == 0
    assert {"new", "d/new", "d/c", "d/d", "d/e"} <= set(server.shape)
    assert "d/c" not in device.shape
    figures = device.holding.figures()
    assert (figures["operations"], figures["deletions"]) == (2, 2)
    assert figures["why"] == "more than 2 deletions within 60 s"
    assert figures["folders"] == [{"path": "d", "deletions": 2}]
    assert device.log.flush(0.0)


def test_while_it_holds_every_deletion_is_held_but_of_what_was_made_since(device: Device) -> None:
    full(device)
    for name in "abc":
        device.unlink(f"d/{name}")
    device.now += 1000
    assert device.is_held(device.unlink("d/d"))
    device.create("d/journal")
    assert not device.is_held(device.unlink("d/journal"))


def test_the_journal_of_a_database_is_never_held(device: Device) -> None:
    """It would come back with the discard, and undo what its database was told since."""
    full(device)
    device.save("d/db-journal", b"before the burst")
    for name in "abcd":
        device.unlink(f"d/{name}")
    assert not device.is_held(device.unlink("d/db-journal"))
    for _ in range(10):
        assert not device.is_held(device.create("d/db-journal"))
        assert not device.is_held(device.unlink("d/db-journal"))
    assert device.holding.figures()["operations"] == 2


def test_what_leans_on_a_held_deletion_is_held_with_it(device: Device, server: Server) -> None:
    full(device, "abcde")
    device.mkdir("d/sub")
    device.send()
    for name in "abc":
        device.unlink(f"d/{name}")
    assert device.is_held(device.create("d/c"))  # its place
    assert device.is_held(device.write("d/c", b"new"))
    assert device.is_held(device.rmdir("d/sub"))
    assert device.is_held(device.mkdir("d/sub"))  # its place
    assert device.is_held(device.create("d/sub/inside"))
    assert not device.is_held(device.rename("d/d", "d/free"))
    assert not device.is_held(device.chmod("d/free", 0o600))
    assert device.is_held(device.rename("d/e", "d/sub/e"))
    device.send()
    assert set(server.shape) == {"d", "d/c", "d/free", "d/e", "d/sub"}
    assert device.holding.confirm() == 7
    device.send(strict=False)
    assert server.shape == device.shape
    assert set(server.shape) == {"d", "d/c", "d/free", "d/sub", "d/sub/inside", "d/sub/e"}


def test_an_edit_elsewhere_beats_a_held_deletion(device: Device, server: Server) -> None:
    full(device)
    for name in "abcd":
        device.unlink(f"d/{name}")
    performs = other(server, device)
    tree = server.replica.tree
    link = tree.at_path(b"d/c")
    assert link is not None
    edited = Content(6, (Chunk(0, hash_of(b"edited"), 6),))
    performs(intents.write(link.node, tree.seen_version(link.node), edited, b"c", 2, clear_suid=False))
    assert "d/c" in device.shape
    device.holding.confirm()
    device.send(strict=False)
    assert "d/c" in server.shape
    assert "d/d" not in server.shape
    assert server.shape == device.shape


# --- confirmed, discarded


def test_discarded_deletions_are_back_and_listeners_hear_of_it(device: Device, server: Server) -> None:
    full(device)
    before = server.shape
    seen: list[Any] = []
    device.world.mirror.add_listener(seen.append)
    for name in "abcdefgh":
        device.unlink(f"d/{name}")
    device.rmdir("d")
    device.send()
    assert device.holding.discard() == 7
    assert device.shape == {path: what for path, what in before.items() if path not in ("d/a", "d/b")}
    folder = device.node("d")
    assert (folder, b"h") in frozenset().union(*(changes.entries for changes in seen))
    device.send()
    assert server.shape == device.shape
    assert device.holding.figures()["operations"] == 0
    assert len(device.world.database.rows("SELECT * FROM change_log")) == len(device.log.outbox)


def test_what_was_made_in_the_place_of_a_held_deletion_outlives_the_discard(device: Device, server: Server) -> None:
    """Files are back, and nothing that was accepted since is lost: it stands beside them."""
    full(device, "abc")
    for name in "abc":
        device.unlink(f"d/{name}")
    device.save("d/c", b"new")
    device.save("d/tmp", b"t")
    device.holding.discard()
    device.send(strict=False)
    assert server.shape == device.shape
    assert sum(what == hash_of(b"new") for what in server.shape.values()) == 1
    assert server.shape["d/c"] == hash_of(b"c")
    assert len(conflicts_in(server.shape)) == 1


def test_a_burst_that_goes_on_after_the_discard_is_held_again(device: Device) -> None:
    full(device)
    for name in "abcd":
        device.unlink(f"d/{name}")
    device.holding.discard()
    assert device.is_held(device.unlink("d/e"))
    assert device.holding.figures()["operations"] == 1


def test_a_burst_that_goes_on_after_it_was_confirmed_passes(device: Device) -> None:
    full(device)
    for name in "abcd":
        device.unlink(f"d/{name}")
    device.holding.confirm()
    for name in "ef":
        device.unlink(f"d/{name}")
    assert device.holding.figures()["operations"] == 0
    device.now += 61
    device.unlink("d/g")
    device.unlink("d/h")
    device.create("d/i")
    assert device.is_held(device.unlink("d/i"))


def test_nothing_held_is_nothing_to_decide(device: Device) -> None:
    assert device.holding.confirm() == 0
    assert device.holding.discard() == 0
    assert device.holding.figures()["since"] is None


# --- crashes


def test_held_operations_survive_kill_9(device: Device, server: Server) -> None:
    full(device)
    for name in "abcd":
        device.unlink(f"d/{name}")
    device.save("d/c", b"new")
    device.send()
    here, since = device.shape, device.holding.figures()["since"]
    device.crash()
    assert device.shape == here
    figures = device.holding.figures()
    assert (figures["operations"], figures["deletions"], figures["since"]) == (4, 2, since)
    assert device.log.pending_operations == 0
    assert device.is_held(device.unlink("d/e"))
    assert device.is_held(device.write("d/c", b"newer"))
    device.send()
    assert "d/e" in server.shape
    device.holding.confirm()
    device.crash()
    assert device.holding.figures()["operations"] == 0
    device.send(strict=False)
    assert server.shape == device.shape


def test_a_discard_that_was_killed_goes_on_at_the_next_start(device: Device, server: Server) -> None:
    full(device)
    for name in "abcdef":
        device.unlink(f"d/{name}")
    device.send()
    holding = device.holding
    taken: list[OpId] = []

    def killed(ops: list[OpId]) -> Any:
        taken.extend(ops)
        raise KeyboardInterrupt

    holding._take_out = killed
    with pytest.raises(KeyboardInterrupt):
        holding.discard()
    assert taken
    device.crash()
    assert device.holding.figures()["operations"] == 0
    assert device.shape == server.shape
    assert {"d/c", "d/d", "d/e", "d/f"} <= set(device.shape)


def test_a_backlog_of_an_outage_is_held_beyond_the_count(device: Device, server: Server) -> None:
    full(device)
    for name in "abcdef":  # no server can be reached
        device.unlink(f"d/{name}")
    device.save("while away", b"w")
    assert device.log.pending_operations == 4
    device.crash()
    device.send(strict=False)
    assert set(server.shape) == {"d", "while away", *(f"d/{name}" for name in "cdefgh")}
    assert device.holding.figures()["operations"] == 4


# --- any program

NAMES = ("a", "b", "d", "d/a", "d/b", "e", "e/a")
LATER = 10**9
STEPS = st.one_of(
    st.tuples(st.sampled_from(("unlink", "rmdir", "create", "mkdir", "chmod")), st.sampled_from(NAMES)),
    st.tuples(st.just("write"), st.sampled_from(NAMES), st.sampled_from((b"1", b"2"))),
    st.tuples(st.sampled_from(("rename", "link", "exchange")), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.sampled_from(("send", "crash"))),
)


def run(device: Device, steps: list[tuple[Any, ...]]) -> list[str]:
    """What programs see of each step."""
    seen = []
    for name, *values in steps:
        if name == "chmod":
            values.append(0o600)
        method: Callable[..., Any] = getattr(device, name)
        try:
            method(*values)
        except NothingToDo:
            seen.append("nothing")
        except FileSystemError as error:
            seen.append(error.code)
        else:
            seen.append("done")
        if name == "unlink" and seen[-1] == "done":
            device.now += 1.0
    return seen


def begin(device: Device) -> None:
    for name in ("d", "e"):
        device.mkdir(name)
    for name in ("a", "b", "d/a", "d/b", "e/a"):
        device.save(name, name.encode())
    device.send()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, max_size=14), st.integers(0, 2))
def test_any_program_is_the_same_with_the_brake_and_right_without_what_it_held(
    steps: list[tuple[Any, ...]], count: int
) -> None:
    """Programs see no difference; what flows is accepted strictly by a server that lacks what is held; confirmed it is
    the tree without any brake; discarded it is that of the log without the deletions."""
    with tempfile.TemporaryDirectory(prefix="gdah-brake-") as made:
        folder = Path(made)
        plain = Device(folder / "plain", Server(), NO_BRAKE)
        confirmed = Device(folder / "confirmed", Server(), BrakeLimits(count + 1, 60.0, 0.0))
        discarded = Device(folder / "discarded", Server(), BrakeLimits(count + 1, 60.0, 0.0))
        for device in (plain, confirmed, discarded):
            begin(device)
        wanted = run(plain, steps)
        for device in (confirmed, discarded):
            assert run(device, steps) == wanted
            assert device.shape == plain.shape
            device.send()  # strictly
        plain.send()

        confirmed.holding.confirm()
        confirmed.send(strict=True)
        assert confirmed.server.shape == plain.server.shape == plain.shape == confirmed.shape
        assert not conflicts_in(confirmed.shape)

        without = Server()
        for _, stamp, op in discarded.server.replica.entries_after(0, 10_000):
            without.accept(op, stamp)
        flowed, stayed = without.shape, 0
        for op in (record.op for record in discarded.holding._records.values()):
            if not is_undone(op, discarded.holding.state.author):
                stayed += 1
                without.accept(op, Stamp(LATER + stayed, ServerId("s1")))
        discarded.holding.discard()
        discarded.send(strict=False)
        assert discarded.server.shape == without.shape == discarded.shape
        if not stayed:
            assert discarded.shape == flowed
            assert not conflicts_in(flowed)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.booleans(), STEPS), max_size=14), st.booleans())
def test_with_others_at_work_everybody_sees_the_same_after_the_decision(
    steps: list[tuple[bool, tuple[Any, ...]]], confirm: bool
) -> None:
    with tempfile.TemporaryDirectory(prefix="gdah-brake-") as made:
        server = Server()
        one = Device(Path(made) / "one", server, BrakeLimits(1, 60.0, 0.0))
        two = Device(Path(made) / "two", server, NO_BRAKE, client="desk-d4e5f6")
        begin(one)
        two.catch_up()
        for by_other, step in steps:
            if step[0] == "send":
                one.send(strict=False)
                two.send(strict=False)
                one.catch_up()
                two.catch_up()
            else:
                run(two if by_other else one, [step])
        if confirm:
            one.holding.confirm()
        else:
            one.holding.discard()
        for device in (one, two):
            device.send(strict=False)
        for device in (one, two):
            device.catch_up()
            assert device.shape == server.shape
            assert device.world.mirror.replica.digest == server.replica.digest


def test_a_folders_time_is_the_servers_after_a_discard(device: Device, server: Server) -> None:
    """Of what was pending when a held deletion came on top of it, the time must not be lost."""
    full(device)
    for name in "abcd":  # no server can be reached
        device.unlink(f"d/{name}")
    device.send()
    device.holding.discard()
    device.send()
    folder = device.node("d")
    assert device.tree.node(folder).mtime_ns == server.replica.tree.node(folder).mtime_ns
