"""Upstream against fake servers: order, lost answers, turns, handover, refusals, content, snapshots, patience."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gdah_volume.content import INLINE_MAX_BYTES, hash_of
from gdah_volume.errors import BadMessage, Exists, NoSpace, NotFound, OutOfOrder, StaleHandle
from gdah_volume.ids import ROOT, Epoch, OpId
from gdah_volume.lock_messages import LockAgain
from gdah_volume.operations import Attrs, Create
from gdah_volume.stamps import Stamp
from gdah_volume.wire import Entry
from mountfs.sync import sending, session, uploads, upstream
from mountfs.sync.changelog import ChangeLog
from mountfs.sync.mailbox import PIECE_ENTRIES
from mountfs.sync.mirror import FeedState
from mountfs.sync.people import status_of
from mountfs.sync.servers import BEHIND_ENTRIES
from mountfs.sync.uploads import Uploads
from mountfs.sync.upstream import Upstream
from tests.sync.fakes import FakeData, FakeServer
from tests.sync.live import eventually
from tests.sync.worlds import World

LARGE = b"L" * (INLINE_MAX_BYTES + 1)


class Setup:
    def __init__(self, folder: Path, names: tuple[str, ...] = ("sa", "sb"), *, replicated: bool = True) -> None:
        self.world = World(folder / "w", replicated=replicated)
        self.servers = [FakeServer(name) for name in names]
        self.data = FakeData(self.servers, folder)
        self.begin()

    def begin(self) -> None:
        self.uploads = Uploads(self.world.dirty.read, self.data.store, self.pump)
        self.upstream = Upstream(
            self.world.mirror, self.world.log, self.uploads, self.data, content=self.world.dirty.read
        )
        for server in self.servers:
            self.upstream.add_server(server.url, server.health)
        self.upstream.start()

    def pump(self) -> None:
        self.upstream.sending.pump()

    def end(self) -> None:
        self.upstream.stop()
        self.uploads.stop()
        for server in self.servers:
            if server.link is not None:
                server.link.drop("the test ends")

    def restart(self) -> None:
        self.end()
        self.world = self.world.again()
        self.begin()

    def connect(self, *which: int) -> None:
        """In this order; the first is the one in use."""
        for index in which or range(len(self.servers)):
            self.servers[index].connect(self.upstream)
            eventually(lambda: self.upstream.url is not None)

    def answered(self) -> None:
        eventually(lambda: self.world.log.pending_operations == 0, what="all is acknowledged")


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    found = Setup(tmp_path)
    yield found
    found.end()
    found.world.database.close()


def submits(server: FakeServer) -> list[tuple[str, bool]]:
    return [(asked[1], asked[2]) for asked in server.asked if asked[0] == "submit"]


# --- the ordinary way


def test_operations_go_to_the_server_in_order_and_come_back_stamped(setup: Setup) -> None:
    setup.connect()
    a, _ = setup.servers
    for name in ("x", "y"):
        setup.world.create(name)
        setup.world.write(name, name.encode())
    setup.answered()
    assert a.log == [op for op, _ in submits(a)]
    eventually(lambda: setup.world.mirror.replica.digest == a.replica.digest)
    a.beat()
    eventually(lambda: len(setup.world.log.outbox) == 0)
    eventually(lambda: set(setup.world.adopted.values()) == {b"x", b"y"})
    assert setup.world.log.outbox.least_copies() is None
    assert setup.world.again().log.recovered_operations == 0


def test_what_was_made_offline_is_sent_when_a_server_comes(setup: Setup) -> None:
    names = [f"f{i}" for i in range(300)]
    for name in names:
        setup.world.create(name)
    setup.connect(1)
    setup.answered()
    assert [op.name.decode() for _, _, op in setup.servers[1].replica.entries_after(0, 1000)] == names  # type: ignore[union-attr]


def test_a_mirror_that_cannot_be_read_for_a_moment_is_said_in_one_line(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read, failures = (
        setup.world.mirror.stamped_above_stable,
        [sqlite3.DatabaseError("database disk image is malformed")],
    )

    def fails_once() -> list[tuple[OpId, Stamp]]:
        if failures:
            raise failures.pop()
        return read()

    monkeypatch.setattr(setup.world.mirror, "stamped_above_stable", fails_once)
    setup.world.create("kept")
    setup.servers[0].connect(setup.upstream)
    eventually(lambda: len(setup.servers[0].log) == 1)
    assert "the mirror of this device cannot be read" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_program_waits_for_the_answer(setup: Setup) -> None:
    setup.connect(0)
    setup.world.create("a")
    assert setup.servers[0].log
    assert setup.world.log.pending_operations == 0


def test_local_durability_does_not_wait_and_is_never_strict(tmp_path: Path) -> None:
    setup = Setup(tmp_path, replicated=False)
    setup.servers[0].lose_acks = True
    setup.connect(0)
    setup.world.create("a")
    assert setup.world.log.pending_operations == 1
    eventually(lambda: submits(setup.servers[0]))
    assert submits(setup.servers[0])[0][1] is False
    setup.end()


def test_others_operations_reach_the_tree_and_the_listeners(setup: Setup) -> None:
    told: list[object] = []
    setup.world.mirror.add_listener(told.append)
    setup.connect(0)
    setup.world.create("own")
    foreign(setup.servers[0], "theirs")
    eventually(lambda: setup.world.names() == ["own", "theirs"])
    eventually(lambda: told)
    assert len(told) == 1, "own operations are no news"


def foreign(server: FakeServer, name: str) -> None:
    """Somebody else creates a file at this server."""
    op_id = f"phone-ffffff-00000001-{len(server.log) + 1}"
    attrs = Attrs(mode=0o644, uid=2, gid=2, mtime_ns=1, atime_ns=1)
    op = Create(id=op_id, time_ns=1, kind="file", parent=ROOT, name=name.encode(), attrs=attrs)  # type: ignore[arg-type]
    server.stamp(op, Stamp(0, server.id), (), strict=True)


# --- lost answers and turns


def test_an_operation_in_doubt_goes_to_the_other_server_under_its_id_as_tentative(setup: Setup) -> None:
    a, b = setup.servers
    setup.connect()
    a.lose_acks = True
    assert a.link is not None
    a.link.subscribed = False
    waiter = setup.world.in_thread(lambda: setup.world.create("a"))
    eventually(lambda: a.log)
    a.link.cut("cable")
    waiter.join()
    assert waiter.error is None
    eventually(lambda: submits(b))
    (op, strict), (again, strict_again) = submits(a)[0], submits(b)[0]
    assert op == again
    assert (strict, strict_again) == (True, False)
    setup.world.create("later")
    assert submits(b)[1][1] is True, "nothing is in doubt any more"
    a.merge(b)
    assert a.replica.digest == b.replica.digest
    assert [entry[0] for entry in a.replica.tree.entries(ROOT)] == [b"a", b"later"]


def test_what_comes_behind_a_doubt_is_tentative_too(setup: Setup) -> None:
    a, b = setup.servers
    setup.connect()
    a.deaf = True
    waiters = [setup.world.in_thread(lambda i=i: setup.world.create(f"f{i}")) for i in range(4)]  # type: ignore[misc]
    eventually(lambda: len(submits(a)) == 4)
    b.lose_acks = True
    b.everywhere = 0
    assert a.link is not None
    a.link.cut("cable")
    eventually(lambda: len(submits(b)) == 4)
    setup.world.create("new", wait=False)
    eventually(lambda: len(submits(b)) == 5)
    assert not any(strict for _, strict in submits(b))
    for waiter in waiters:
        assert waiter.join().error is None


def test_the_other_server_is_handed_what_it_lacks_with_its_stamps(setup: Setup) -> None:
    a, b = setup.servers
    setup.connect()
    setup.world.create("own")
    setup.world.write("own", b"small")
    foreign(a, "theirs")
    eventually(lambda: len(setup.world.names()) == 2)
    assert a.link is not None
    a.link.cut("cable")
    eventually(lambda: b.log == a.log)
    assert b.replica.digest == a.replica.digest, "the same stamps"
    assert b.chunks == {hash_of(b"small"): b"small"}
    eventually(lambda: b.asked[-1][0] == "subscribe")
    kinds = [asked[0] for asked in b.asked]
    assert kinds[0] == "offer"
    assert kinds.index("handover") < kinds.index("subscribe")
    assert submits(b) == [], "what is stamped is not submitted again"


def test_the_handover_comes_before_the_operations(setup: Setup) -> None:
    a, b = setup.servers
    setup.connect()
    setup.world.create("first")
    assert a.link is not None
    a.link.cut("cable")
    setup.world.create("second")
    eventually(lambda: len(b.log) == 2)
    assert [op.name for _, _, op in b.replica.entries_after(0, 9)] == [b"first", b"second"]  # type: ignore[union-attr]


def test_an_acknowledgement_that_was_lost_after_the_feed_is_one(setup: Setup) -> None:
    a, b = setup.servers
    setup.connect()
    a.lose_acks = True
    a.everywhere = 0
    waiter = setup.world.in_thread(lambda: setup.world.create("a"))
    eventually(lambda: setup.world.mirror.replica.max_clock > 0, what="the feed brought it back")
    assert not waiter.done
    assert a.link is not None
    a.link.cut("cable")
    waiter.join()
    assert waiter.error is None
    eventually(lambda: b.log == a.log)
    assert submits(b) == []


def test_a_silent_server_is_left_for_another(setup: Setup) -> None:
    a, b = setup.servers
    setup.connect()
    a.deaf = True
    setup.world.create("a")
    eventually(lambda: b.log)
    assert setup.upstream.choice.url == b.url
    assert "not answered" in setup.upstream.choice.why
    assert setup.world.log.pending_operations == 0


def test_a_silent_server_alone_is_given_up_once(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    (a, _) = setup.servers
    setup.connect(0)
    a.deaf = True
    setup.world.create("a")  # waits out its patience
    assert not setup.upstream.sending.answering
    for i in range(20):
        setup.world.create(f"f{i}")  # these do not wait at all
    assert setup.world.log.pending_operations == 21
    assert caplog.text.count("no server answers") == 1
    a.deaf = False
    assert a.link is not None
    a.link.cut("it is restarted")
    setup.connect(0)
    setup.answered()
    assert not any(strict for op, strict in submits(a)[1:21])


def test_a_planned_turn_leaves_nothing_in_doubt(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "UNANSWERED_S", 60.0)
    monkeypatch.setattr(upstream, "TURN_WITHIN_S", 60.0)
    a, b = setup.servers
    a.everywhere = 0
    setup.connect()
    setup.world.create("before")
    a.hold_acks = True
    waiting = setup.world.create("under way", wait=False)
    eventually(lambda: a.held_acks)
    a.health.trouble = "disk full"
    eventually(lambda: setup.upstream._turn_wanted_at)
    assert setup.upstream.url == a.url
    a.held_acks.pop()()
    waiting.wait()
    eventually(lambda: setup.upstream.url == b.url)
    assert "disk full" in setup.upstream.choice.why
    eventually(lambda: b.log == a.log)
    assert submits(b) == []


def test_a_planned_turn_comes_under_load_too(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "TURN_WITHIN_S", 0.1)
    a, b = setup.servers
    setup.connect()
    a.hold_acks = True
    a.everywhere = 0
    setup.world.create("under way", wait=False)
    eventually(lambda: a.held_acks)
    a.health.trouble = "disk full"
    eventually(lambda: setup.upstream.url == b.url)
    setup.answered()
    eventually(lambda: b.log == a.log)


def test_who_answers_too_late_is_waited_for_once(setup: Setup) -> None:
    a = setup.servers[0]
    a.everywhere = 0
    setup.connect(0)
    a.hold_acks = True
    setup.world.create("first")
    assert not setup.upstream.sending.answering
    for i in range(20):
        setup.world.create(f"f{i}")
    late = a.held_acks.pop(0)
    first = setup.world.log.outbox.oldest()
    assert first is not None
    eventually(lambda: time.monotonic() - first.sent_at > sending.GIVE_UP_S)  # a busy machine may have sent it late
    late()
    eventually(lambda: setup.world.log.pending_operations == 20)
    assert not setup.upstream.sending.answering, "that was too late to count"
    a.hold_acks = False
    setup.world.create("quick")
    eventually(lambda: setup.upstream.sending.answering)


def test_the_first_view_is_waited_for(setup: Setup) -> None:
    a = setup.servers[0]
    foreign(a, "x")
    waiter = setup.world.in_thread(lambda: setup.upstream.wait_first_view(30))
    setup.connect(0)
    eventually(lambda: (a.link is not None and a.beat(), waiter.done)[1])
    assert waiter.result is True
    assert setup.world.names() == ["x"]
    assert setup.upstream.wait_first_view(0.0) is True, "it is not the first any more"


def test_after_a_bad_end_the_first_server_is_heard_before_anybody_looks(setup: Setup) -> None:
    """Found by the fire drill: after a loss of power a program saw files that it had removed, because the disk had
    forgotten what the servers knew; a moment later they were gone."""
    a = setup.servers[0]
    foreign(a, "x")
    setup.connect(0)
    eventually(lambda: setup.world.names() == ["x"])
    assert setup.upstream.wait_first_view(0.0) is True
    waiter = setup.world.in_thread(lambda: setup.upstream.wait_first_view(30, doubt=True))
    assert not waiter.done
    eventually(lambda: (a.link is not None and a.beat(), waiter.done)[1])
    assert waiter.result is True


def slowly(setup: Setup, monkeypatch: pytest.MonkeyPatch, pause_s: float) -> None:
    """The mirror takes each piece of a feed so long."""
    apply = setup.world.mirror.apply

    def slow(feed: FeedState, entries: Sequence[Entry]) -> None:
        time.sleep(pause_s)
        apply(feed, entries)

    monkeypatch.setattr(setup.world.mirror, "apply", slow)


def test_a_first_view_that_gets_on_is_waited_for_longer(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the fire drill (seeds 9001, 9003): after a loss of power thousands of operations had to be told again;
    after two seconds the folder was shown as it had been, and programs went on with what was long gone."""
    a = setup.servers[0]
    for number in range(10 * PIECE_ENTRIES):
        foreign(a, f"x{number}")
    slowly(setup, monkeypatch, 0.1)
    waiter = setup.world.in_thread(lambda: setup.upstream.wait_first_view(0.4, doubt=True))
    setup.connect(0)
    eventually(lambda: (a.link is not None and a.beat(), waiter.done)[1])
    assert waiter.result is True
    assert len(setup.world.names()) == 10 * PIECE_ENTRIES


def test_a_first_view_is_not_that_of_a_server_that_is_being_filled(setup: Setup) -> None:
    a, b = setup.servers
    foreign(b, "x")
    a.health.behind = BEHIND_ENTRIES + 1
    waiter = setup.world.in_thread(lambda: setup.upstream.wait_first_view(30, doubt=True))
    setup.connect(0)
    for _ in range(5):
        assert a.link is not None
        a.beat()
        time.sleep(0.05)
    assert not waiter.done
    b.connect(setup.upstream)
    eventually(lambda: setup.upstream.url == b.url)
    eventually(lambda: (b.link is not None and b.beat(), waiter.done)[1])
    assert setup.world.names() == ["x"]


def test_what_was_acknowledged_and_not_fed_goes_to_the_next_server_too(setup: Setup) -> None:
    """Found by the fire drill (seed 9002): a mount whose disk was full could not take the feed of what had been
    acknowledged. It used another server, which was told what came after that and not that: a file had vanished."""
    a, b = setup.servers
    setup.connect()
    assert a.link is not None
    setup.world.create("before")
    setup.answered()
    eventually(lambda: not setup.world.mirror.replica.pending())
    a.link.subscribed = False
    setup.world.create("lost")
    setup.world.write("lost", b"content")
    setup.answered()
    a.link.drop("its disk burnt")
    eventually(lambda: setup.upstream.url == b.url)
    setup.world.write("lost", b"more")
    setup.answered()
    assert [op for op in b.log if op in a.log[-2:]] == a.log[-2:], "in their order, before what came later"
    assert setup.world.names() == ["before", "lost"]
    eventually(lambda: not setup.world.mirror.replica.pending())
    assert setup.world.mirror.replica.digest == b.replica.digest


def test_a_lost_server_is_left_although_it_had_fed_a_lot(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the fire drill (seeds 9001, 9003): for ten seconds a mount used no server, because it was still taking
    what the lost one had fed."""
    a, b = setup.servers
    for number in range(20 * PIECE_ENTRIES):
        foreign(a, f"x{number}")
    slowly(setup, monkeypatch, 0.5)
    setup.connect()
    assert a.link is not None
    eventually(setup.world.names)
    a.link.drop("its disk burnt")
    eventually(lambda: setup.upstream.url == b.url)
    assert len(setup.world.names()) < 10 * PIECE_ENTRIES


def test_without_a_server_there_is_no_first_view(setup: Setup) -> None:
    for server in setup.servers:
        server.health.errors = 1
    assert setup.upstream.wait_first_view(30) is False


def test_when_the_last_link_breaks_nobody_waits_any_longer(setup: Setup) -> None:
    setup.connect(0)
    a = setup.servers[0]
    a.deaf = True
    waiter = setup.world.in_thread(lambda: setup.world.create("a"))
    eventually(lambda: submits(a))
    assert a.link is not None
    a.link.cut("cable")
    assert waiter.join().error is None
    assert setup.upstream.disconnected_since is not None
    assert setup.upstream.choice.why == "cable"


def test_the_view_never_goes_back_over_a_turn(setup: Setup) -> None:
    a, b = setup.servers
    setup.connect()
    for i in range(50):
        setup.world.create(f"f{i}")
        if i == 25:
            assert a.link is not None
            a.link.cut("cable")
        assert len(setup.world.names()) == i + 1
    setup.answered()
    assert len(b.log) == 50


# --- refusals


def test_a_strict_refusal_is_the_errno_and_leaves_no_trace(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "GIVE_UP_S", 30.0)  # the refusal is heard, however busy the machine is
    told: list[object] = []
    setup.world.mirror.add_listener(told.append)
    setup.connect(0)
    setup.servers[0].refuse = Exists("somebody was first")
    with pytest.raises(Exists):
        setup.world.create("a")
    assert setup.world.names() == []
    assert setup.world.log.pending_operations == 0
    assert told, "the kernel has to forget it"
    assert setup.world.again().log.recovered_operations == 0


def test_a_ticket_tells_its_refusal_as_often_as_it_is_asked(setup: Setup) -> None:
    setup.connect(0)
    setup.servers[0].refuse = Exists("somebody was first")
    ticket = setup.world.create("a", wait=False)
    for _ in range(2):
        with pytest.raises(Exists):
            ticket.wait()


def test_exclusive_creates_have_one_winner(setup: Setup) -> None:
    setup.connect(0)
    foreign(setup.servers[0], "x")
    errors = []
    try:
        setup.world.create("x")
    except Exists as error:
        errors.append(error)
    eventually(lambda: setup.world.names() == ["x"])
    assert len(errors) == 1


@pytest.mark.parametrize("error", [StaleHandle("another version"), NotFound("gone"), Exists("?")])
def test_a_write_is_never_lost_to_a_refusal(setup: Setup, error: Exception) -> None:
    setup.connect(0)
    setup.world.create("a")
    setup.servers[0].refuse = error  # type: ignore[assignment]
    setup.world.write("a", b"data")
    setup.answered()
    assert len(setup.servers[0].log) == 2


def test_who_was_told_is_never_refused(setup: Setup) -> None:
    """The refusal comes after the program gave up waiting: the operation is sent again, tentative."""
    a = setup.servers[0]
    setup.connect(0)
    a.deaf = True
    setup.world.create("a")
    a.deaf = False
    link = a.link
    assert link is not None
    op = submits(a)[0][0]
    link.tell(lambda: link.upstream.on_refused(link, op, "Exists", "too late"))  # type: ignore[arg-type]
    setup.answered()
    assert setup.world.names() == ["a"]
    assert submits(a)[-1] == (op, False)


@pytest.mark.parametrize("error", [NoSpace("full"), OutOfOrder("gap"), BadMessage("what?")])
def test_trouble_of_a_server_is_no_refusal(setup: Setup, error: Exception) -> None:
    setup.connect(0)
    setup.servers[0].refuse = error  # type: ignore[assignment]
    setup.world.create("a")
    setup.answered()
    assert setup.servers[0].log == [submits(setup.servers[0])[0][0]]


def test_what_is_held_goes_before_what_was_issued_later(setup: Setup) -> None:
    setup.connect(0)
    a = setup.servers[0]
    a.refuse = NoSpace("full")
    setup.world.create("a", wait=False)
    setup.world.create("b", wait=False)
    setup.answered()
    firsts = [op for op, _ in submits(a)]
    assert firsts[-1] != firsts[0] or len(firsts) == 3


def test_what_depends_on_an_unanswered_strict_operation_waits(setup: Setup) -> None:
    setup.connect(0)
    a = setup.servers[0]
    a.deaf = True
    folder = setup.world.create("d", kind="dir", wait=False)
    eventually(lambda: submits(a))
    setup.world.create("inside", parent=folder.op, wait=False)  # type: ignore[arg-type]
    setup.world.create("beside", wait=False)
    assert [op for op, _ in submits(a)] == [folder.op]
    a.deaf = False
    link = a.link
    assert link is not None
    link.tell(lambda: link.upstream.on_refused(link, folder.op, "Exists", "somebody made it"))
    with pytest.raises(Exists):
        folder.wait()
    setup.answered()
    assert "beside" in [e[0].decode() for e in a.replica.tree.entries(ROOT)]


# --- content


def test_large_content_goes_before_its_operation(setup: Setup) -> None:
    setup.connect(0)
    a = setup.servers[0]
    setup.data.hang.clear()
    setup.world.create("a")
    waiter = setup.world.in_thread(lambda: setup.world.write("a", LARGE))
    eventually(lambda: setup.world.log.pending_operations == 1)
    assert len(submits(a)) == 1
    setup.data.hang.set()
    assert waiter.join().error is None
    setup.answered()
    assert a.chunks[hash_of(LARGE)] == LARGE
    assert setup.data.stored == [(a.url, hash_of(LARGE))]


def test_others_pass_a_write_whose_content_travels(setup: Setup) -> None:
    setup.connect(0)
    a = setup.servers[0]
    setup.world.create("large")
    setup.data.hang.clear()
    waiter = setup.world.in_thread(lambda: setup.world.write("large", LARGE))
    eventually(lambda: setup.world.log.pending_operations == 1)
    setup.world.create("small")
    setup.world.write("small", b"1")
    assert setup.world.log.pending_operations == 1, "these were answered"
    assert not waiter.done
    setup.world.rename("large", "renamed", wait=False)
    setup.world.create("after", wait=False)
    assert len(submits(a)) == 3, "what is about the same file waits, and all behind it"
    setup.data.hang.set()
    assert waiter.join().error is None
    setup.answered()
    assert [op.id.rpartition("-")[2] for _, _, op in a.replica.entries_after(0, 9)] == ["1", "3", "4", "2", "5", "6"]
    eventually(lambda: setup.world.names() == ["after", "renamed", "small"])


def test_a_server_that_lost_a_chunk_gets_it_again(setup: Setup) -> None:
    setup.connect(0)
    a = setup.servers[0]
    setup.world.create("a")
    chunk = setup.world.log.store_chunk(LARGE)
    eventually(lambda: setup.data.stored)
    del a.chunks[chunk]
    setup.world.write("a", LARGE)
    setup.answered()
    assert a.chunks[chunk] == LARGE


def test_content_of_what_is_not_everywhere_goes_to_the_next_server_too(setup: Setup) -> None:
    a, b = setup.servers
    a.everywhere = b.everywhere = 0
    setup.connect()
    setup.world.create("a")
    setup.world.write("a", LARGE)
    assert a.link is not None
    a.link.cut("burnt")
    eventually(lambda: hash_of(LARGE) in b.chunks)
    assert b.log == a.log


def test_what_all_servers_had_is_lent_to_one_that_comes_back_empty(setup: Setup) -> None:
    """Both had stored the chunk when it was sent; so the mount believed for ever that every server has it."""
    a, b = setup.servers
    a.everywhere = b.everywhere = 0
    a.copies = 2
    setup.connect()
    setup.world.create("a")
    setup.world.write("a", LARGE)
    assert b.link is not None
    b.link.cut("its folder is gone")
    empty = setup.servers[1] = FakeServer("sb")
    empty.epoch, empty.everywhere = Epoch("e2"), 0
    setup.data.replace(empty)
    setup.connect(1)
    eventually(lambda: setup.upstream._epochs.get(empty.url) == "e2", what="the mount has met it")
    assert a.link is not None
    a.link.cut("burnt")
    eventually(lambda: hash_of(LARGE) in empty.chunks)


def test_much_content_is_lent_bit_by_bit(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "HINTS_MAX", 2)
    a, b = setup.servers
    a.everywhere = b.everywhere = 0
    setup.connect()
    for i in range(10):
        setup.world.create(f"f{i}")
        setup.world.write(f"f{i}", bytes([i]) * len(LARGE))
    assert a.link is not None
    a.link.cut("burnt")
    eventually(lambda: len(b.chunks) == 10)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_damaged_chunk_parks_its_operation_and_the_others_go_on(setup: Setup, restarted: bool) -> None:
    setup.world.create("a")
    setup.world.write("a", LARGE)
    setup.world.create("b")
    path = setup.world.store.path_of(hash_of(LARGE))
    assert path is not None
    path.write_bytes(b"rot" * 30_000)
    setup.world.dirty._recent.clear()
    if restarted:
        setup.restart()
    a = setup.servers[0]
    a.connect(setup.upstream)
    eventually(lambda: a.link or a.connect(setup.upstream), what="the mount dials again")

    def others_are_there() -> bool:
        if a.link is None:
            a.connect(setup.upstream)
        return len(a.log) == 2

    eventually(others_are_there)
    (left,) = setup.world.log.outbox.unacked()
    eventually(lambda: left.last_error)
    assert hash_of(LARGE).hex()[:16] in (left.last_error or "")
    assert setup.world.log.outbox.next_try_at > 0


def test_content_that_only_another_server_lacks_is_brought_from_here(setup: Setup) -> None:
    """A clean chunk that is named again: the server in use has never got it."""
    a = setup.servers[0]
    setup.connect(0)
    setup.world.create("a")
    setup.world.write("a", b"small")
    a.beat()
    eventually(lambda: setup.world.adopted)
    del a.chunks[hash_of(b"small")]
    setup.upstream._content = setup.world.adopted.get  # as the cache does
    setup.uploads._read = setup.upstream._content
    setup.world.create("b")
    setup.world.copy("a", "b")
    setup.answered()
    assert a.chunks[hash_of(b"small")] == b"small"


# --- restarts


def test_after_a_restart_everything_is_sent_again_tentative(setup: Setup) -> None:
    a = setup.servers[0]
    setup.connect(0)
    a.lose_acks = True
    assert a.link is not None
    a.link.subscribed = False
    ticket = setup.world.create("sent", wait=False)
    eventually(lambda: a.log)
    a.link.cut("the mount is killed")
    setup.world.create("not sent")
    setup.restart()
    a.lose_acks = False
    setup.connect(0)
    setup.answered()
    assert a.log[0] == ticket.op
    assert [e[0] for e in a.replica.tree.entries(ROOT)] == [b"not sent", b"sent"]
    assert not any(strict for _, strict in submits(a)[1:])
    setup.world.create("new")
    assert submits(a)[-1][1] is True


def test_what_is_on_one_server_is_remembered_over_a_restart(setup: Setup) -> None:
    a, b = setup.servers
    a.everywhere = b.everywhere = 0
    setup.connect(0)
    setup.world.create("a")
    setup.world.write("a", LARGE)
    assert a.link is not None
    a.link.cut("killed")
    setup.restart()
    assert setup.world.log.pending_operations == 0
    assert setup.world.log.outbox.least_copies() == 1
    assert setup.world.log.dirty_chunk(hash_of(LARGE)) == LARGE
    setup.connect(1)
    eventually(lambda: b.log == a.log)
    eventually(lambda: hash_of(LARGE) in b.chunks)
    b.everywhere = None
    eventually(lambda: (b.beat(), len(setup.world.log.outbox) == 0)[1])
    eventually(lambda: setup.world.adopted)


def test_what_was_read_past_before_a_kill_still_leaves(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by a storm: killed after the cursor had moved, before the records had gone. That log never tells them
    again, and "1/2" stayed for ever."""
    a = setup.servers[0]
    setup.connect(0)
    setup.world.create("a")
    setup.answered()
    monkeypatch.setattr(ChangeLog, "sweep", lambda _: None)
    eventually(lambda: (a.beat(), setup.world.log.outbox.least_copies() is None)[1])
    assert a.link is not None
    a.link.cut("killed")
    setup.restart()
    monkeypatch.undo()
    assert len(setup.world.log.outbox) == 1
    setup.connect(0)
    eventually(lambda: (a.beat(), len(setup.world.log.outbox) == 0)[1])


def test_the_feed_goes_on_where_it_stopped(setup: Setup) -> None:
    a = setup.servers[0]
    setup.connect(0)
    for i in range(5):
        setup.world.create(f"f{i}")
    a.beat(stable=True)
    eventually(lambda: len(setup.world.log.outbox) == 0)
    eventually(lambda: setup.world.mirror.replica.stable.clock > 0)
    assert a.link is not None
    a.link.cut("night")
    foreign(a, "meanwhile")
    setup.restart()
    setup.connect(0)
    eventually(lambda: "meanwhile" in setup.world.names())
    assert [asked[1] for asked in a.asked if asked[0] == "subscribe"] == [None, 5] or [
        asked[1] for asked in a.asked if asked[0] == "subscribe"
    ] == [0, 5]


# --- snapshots, epochs


def test_an_empty_mirror_loads_a_snapshot_rather_than_a_long_log(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SNAPSHOT_WORTH", 3)
    a = setup.servers[0]
    for i in range(6):
        foreign(a, f"f{i}")
    reloaded: list[int] = []
    setup.world.mirror.add_reload_listener(lambda: reloaded.append(1))
    setup.world.create("own")
    setup.connect(0)
    eventually(lambda: len(setup.world.names()) == 7)
    eventually(lambda: reloaded)
    setup.answered()
    a.beat()
    eventually(lambda: len(setup.world.log.outbox) == 0)
    foreign(a, "later")
    eventually(lambda: "later" in setup.world.names())


def test_a_log_that_does_not_reach_back_leads_to_a_snapshot(setup: Setup) -> None:
    a = setup.servers[0]
    foreign(a, "old")
    setup.connect(0)
    eventually(lambda: setup.world.names() == ["old"])
    a.beat(stable=True)
    assert a.link is not None
    a.link.cut("holidays")
    for i in range(4):
        foreign(a, f"f{i}")
    with a.database.transaction():
        a.replica.stabilise(Stamp(a.clock.last, a.id))
        a.replica.prune(before_time_ns=1 << 62, up_to_position=a.replica.head)
    setup.world.create("own")
    setup.connect(0)
    eventually(lambda: len(setup.world.names()) == 6)
    setup.answered()


def test_a_new_epoch_is_read_anew(setup: Setup) -> None:
    a = setup.servers[0]
    setup.connect(0)
    setup.world.create("a")
    assert a.link is not None
    a.link.cut("its disk burnt")
    new = FakeServer("sa")
    new.epoch = Epoch("e2")
    setup.servers[0] = new
    setup.connect(0)
    eventually(lambda: new.log == a.log, what="the mount is the one who still knows")
    setup.world.create("b")
    eventually(lambda: len(new.log) == 2)


def test_a_server_that_lost_what_all_had_is_asked_tentatively_until_it_has_it(setup: Setup) -> None:
    """Found by a drill: a server that came back empty met the mount before it met its peer, and refused what was to be
    done in folders that it had not heard of yet."""
    a = setup.servers[0]
    setup.connect(0)
    for name in ("old", "new"):
        setup.world.create(name)
    a.beat(stable=True)
    eventually(lambda: setup.world.mirror.newest_everywhere() is not None)
    assert a.link is not None
    a.link.cut("its folder is gone")
    eventually(lambda: setup.upstream.url is None)
    empty = setup.servers[0] = FakeServer("sa")
    empty.epoch = Epoch("e2")
    setup.connect(0)
    setup.world.unlink("old")
    assert setup.world.names() == ["new"], "the program was not refused"
    assert submits(empty)[-1][1] is False
    empty.link.cut("once more")  # type: ignore[union-attr]
    setup.connect(0)
    setup.world.unlink("new")
    assert submits(empty)[-1][1] is False, "and it is known again after that"

    with empty.lock:
        for _, stamp, op in a.replica.entries_after(0, 10):
            empty.replica.accept(op, stamp)
    empty.beat(stable=True)
    setup.world.create("later")
    eventually(lambda: submits(empty)[-1][1] is True or setup.world.create(f"later{len(empty.asked)}"))
    assert not {"old", "new"} & set(setup.world.names())


def test_while_a_server_is_filled_anew_nothing_is_said_to_be_on_all(setup: Setup) -> None:
    """A disk was replaced, and the mount said 2/2 at once: all that it had made had been everywhere before."""
    a, b = setup.servers
    setup.connect()
    setup.world.create("a")
    a.beat()

    def copies() -> str:
        healths = [(server.url, server.health) for server in (a, b)]
        told: str = status_of(setup.upstream, setup.world.log, setup.world.dirty, healths)["copies"]
        return told

    eventually(lambda: len(setup.world.log.outbox) == 0)
    assert copies() == "2/2"
    a.everywhere = 0
    a.beat()
    eventually(lambda: copies() == "1/2")
    a.everywhere = None
    a.beat()
    eventually(lambda: copies() == "2/2")


def test_a_failed_snapshot_is_tried_again(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SNAPSHOT_WORTH", 3)
    a = setup.servers[0]
    for i in range(6):
        foreign(a, f"f{i}")
    failing = [True]
    real: Callable[..., None] = setup.data.fetch

    def fetch(url: str, done: Callable[[object], None]) -> None:
        if failing.pop() if failing else False:
            done(BadMessage("cut short"))
        else:
            real(url, done)

    monkeypatch.setattr(setup.data, "fetch", fetch)
    a.connect(setup.upstream)
    eventually(lambda: a.link is None, what="the connection is given up")
    setup.connect(0)
    eventually(lambda: len(setup.world.names()) == 6)


def test_the_first_view_of_an_empty_folder_is_there_with_the_second_beat(setup: Setup) -> None:
    """However far apart they come: a mount that never saw two of them within 0.1 s waited for its whole limit."""
    a = setup.servers[0]
    setup.connect(0)
    seen: list[bool] = []
    waiting = threading.Thread(target=lambda: seen.append(setup.upstream.wait_first_view(60)))
    waiting.start()
    for _ in range(5):
        time.sleep(0.2)
        a.beat()
    waiting.join(30)
    assert seen == [True]


# --- locks


class Locks:
    """Implements `LockEvents`."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.send: Callable[..., None] | None = None

    def up(self, send: Callable[..., None]) -> None:
        self.said.append("up")
        self.send = send

    def down(self) -> None:
        self.said.append("down")

    def hear(self, message: object) -> None:
        self.said.append(type(message).__name__)

    def stop(self) -> None:
        self.said.append("stop")


def test_locks_go_to_the_server_in_use_if_it_knows_of_them(setup: Setup) -> None:
    """While one server after the other is updated, an old one is never told what it would take for nonsense."""
    a, b = setup.servers
    b.locks = True
    locks = setup.upstream.locks = Locks()
    setup.connect(0, 1)
    assert locks.said == []
    assert a.link is not None
    a.link.cut("updated")
    eventually(lambda: locks.said == ["down", "up"])
    assert b.link is not None
    assert locks.send is not None
    locks.send(LockAgain())
    assert b.asked[-1] == ("lock", LockAgain())
    setup.connect(0)
    assert a.link is not None
    setup.upstream.on_lock(a.link, LockAgain())
    setup.upstream.on_lock(b.link, LockAgain())  # type: ignore[arg-type]
    assert locks.said == ["down", "up", "LockAgain"]
    b.link.cut("gone")
    eventually(lambda: locks.said == ["down", "up", "LockAgain", "down"], what="the other one knows of none")


def test_a_fence_is_passed_when_the_mirror_has_come_up_to_it(setup: Setup) -> None:
    a = setup.servers[0]
    setup.connect(0)
    foreign(a, "one")
    passed: list[str] = []
    setup.upstream.fence(a.replica.head, lambda: passed.append("here"))
    setup.upstream.fence(a.replica.head + 1, lambda: passed.append("soon"))
    eventually(lambda: passed == ["here"])
    assert setup.world.names() == ["one"]
    setup.world.create("own")
    eventually(lambda: passed == ["here", "soon"], what="own operations count, too")
    setup.upstream.fence(a.replica.head + 1, lambda: passed.append("never"))
    assert a.link is not None
    a.link.cut("lost")
    eventually(lambda: setup.upstream.url is None)
    foreign(a, "two")
    setup.connect(0)
    eventually(lambda: "two" in setup.world.names())
    assert passed == ["here", "soon"]
