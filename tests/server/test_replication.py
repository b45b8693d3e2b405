"""The decisions of replication, without network, disk or time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from gdah_volume.content import Chunk, ChunkHash, Content
from gdah_volume.errors import Exists, NoSpace
from gdah_volume.ids import Author, Epoch, ServerId, op_id
from gdah_volume.operations import Attrs, Create
from gdah_volume.stamps import PENDING_SERVER, ZERO, Stamp
from gdah_volume.wire import PROTOCOL, Ack, Beat, Entry, Refused, Welcome
from storage_server.peer_state import HARDLY_ENTRIES, NEARLY_ENTRIES, NEARLY_S, Phase
from storage_server.ports import Published, StaleLease, Stamped, Submission
from storage_server.replication import FOREVER, Replication

A, B, C = ServerId("a"), ServerId("b"), ServerId("c")
LARGE = Content(100_000, (Chunk(0, ChunkHash(b"h" * 32), 100_000),))
AUTHOR = Author("tester-abcdef-abcd")
_numbers = itertools.count(1)


def operation() -> Create:
    return Create(
        id=op_id(AUTHOR, next(_numbers)),
        time_ns=0,
        kind="dir",
        parent="root",  # type: ignore[arg-type]
        name=b"x",
        attrs=Attrs(mode=0o755, uid=0, gid=0, mtime_ns=0, atime_ns=0),
    )


@dataclass
class Mount:
    answers: list[Ack | Refused] = field(default_factory=list)

    def answer(self, message: Ack | Refused) -> None:
        self.answers.append(message)


@dataclass
class Deeds:
    """What was asked for, and the hands to do it."""

    stamped: list[tuple[Submission, bool, float]] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    passed: list[tuple[ServerId, Submission, bool]] = field(default_factory=list)
    looked_up: list[Submission] = field(default_factory=list)
    changes: int = 0

    def stamp(self, submission: Submission, *, strict: bool, valid_until: float, turn: int) -> None:
        self.stamped.append((submission, strict, valid_until))
        self.turns.append(turn)

    def pass_on(self, server: ServerId, submission: Submission, *, strict: bool) -> None:
        self.passed.append((server, submission, strict))

    def acknowledge(self, submission: Submission, ack: Ack) -> None:
        submission.asker.answer(ack)

    def look_up(self, submission: Submission) -> None:
        self.looked_up.append(submission)

    def sequencer_changed(self) -> None:
        self.changes += 1


class World:
    """One server under test, and everything around it by hand."""

    def __init__(self, own: ServerId, *others: ServerId) -> None:
        self.now = 100.0
        self.deeds = Deeds()
        self.it = Replication(own, self.deeds)
        self.mount = Mount()
        for other in others:
            self.it.member(other, f"http://{other}", self.now)

    def connect(self, other: ServerId, *, head: int = 0, cursor: int = 0, read: int = 0) -> None:
        welcome = Welcome(
            protocol=PROTOCOL, server=other, epoch=Epoch("e"), software="t", head=head, first=1, stable=ZERO, members=()
        )
        self.it.link_up(other, welcome, cursor, self.now)
        self.it.feed_open(other, read, self.now)

    def beat(self, other: ServerId, sequencer: ServerId | None = None, **named: Any) -> None:
        """On both lanes, echoing what we said just now."""
        for lane in ("in", "out"):
            beat = Beat(sent_us=1, echo_us=int(self.now * 1e6), sequencer=sequencer, **named)
            self.it.beat(other, beat, lane, self.now)

    def join(self, other: ServerId) -> None:
        self.connect(other)
        self.beat(other, sequencer=min(self.it.own, other))
        assert self.it.peers[other].phase is Phase.JOINED

    def submit(self, **named: Any) -> Submission:
        submission = Submission(
            op=operation(), floor=ZERO, blobs=(), strict=True, sync=False, asker=self.mount, **named
        )
        self.it.submit(submission, self.now)
        return submission

    def write(self, submission: Submission, position: int, server: ServerId | None = None, **named: Any) -> None:
        """Our writer logs it."""
        stamp = Stamp(position * 10, server or self.it.own)
        self.it.published([Published(Entry(position, stamp, submission.op), **named)], self.now)
        self.it.content_here(position)
        self.it.stamped([(submission, Stamped(stamp, position))], self.now)

    def fed_alone(self, submission: Submission, position: int, by: ServerId) -> None:
        """The feed brings it, but its content is on another way: only an Ack can say that it is there."""
        submission.op = msgspec.structs.replace(submission.op, kind="file", content=LARGE)
        self.fed(submission, position, by)

    def fed(self, submission: Submission, position: int, by: ServerId) -> None:
        """The feed of a peer brings it."""
        stamp = Stamp(position * 10, by)
        self.it.published([Published(Entry(position, stamp, submission.op), origin=by)], self.now)
        self.it.came_back(by, [submission.op.id], self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.it.tick(self.now)

    @property
    def last(self) -> Ack | Refused:
        return self.mount.answers[-1]


def test_alone_it_stamps_at_once_and_has_every_copy_there_should_be() -> None:
    world = World(A)
    submission = world.submit()
    assert world.deeds.stamped == [(submission, True, FOREVER)]
    world.write(submission, 1)
    assert isinstance(world.last, Ack)
    assert (world.last.copies, world.last.of, world.it.everywhere) == (1, 1, 1)


def test_the_sequencer_waits_for_the_copy_of_a_joined_peer() -> None:
    world = World(A, B)
    world.join(B)
    submission = world.submit()
    world.write(submission, 1)
    assert world.mount.answers == []
    world.it.held(B, 1, world.now)
    assert isinstance(world.last, Ack)
    assert (world.last.copies, world.last.of, world.it.everywhere) == (2, 2, 1)


def test_the_other_passes_on_and_answers_when_it_has_it_too() -> None:
    world = World(B, A)
    world.join(A)
    assert world.it.sequencer == A
    submission = world.submit()
    assert world.deeds.stamped == []
    assert world.deeds.passed == [(A, submission, True)]
    world.fed(submission, 1, by=A)
    assert isinstance(world.last, Ack)
    assert (world.last.copies, world.last.of, world.last.stamp.server) == (2, 2, A)
    world.it.peer_acked(A, submission.op.id, 1, world.now)
    assert len(world.mount.answers) == 1


def test_with_larger_content_it_waits_until_that_is_there_too() -> None:
    world = World(B, A)
    world.join(A)
    submission = world.submit()
    world.fed_alone(submission, 1, by=A)
    assert world.mount.answers == []
    world.it.peer_acked(A, submission.op.id, 1, world.now)
    assert isinstance(world.last, Ack)
    assert world.last.copies == 2


def test_an_acknowledgement_without_content_counts_only_when_it_is_held() -> None:
    world = World(B, A)
    world.join(A)
    submission = world.submit()
    world.fed_alone(submission, 1, by=A)
    world.it.peer_acked(A, submission.op.id, 0, world.now)
    assert world.mount.answers == []
    world.it.held(A, 1, world.now)
    assert isinstance(world.last, Ack)
    assert world.last.copies == 2


def test_a_refusal_of_the_sequencer_is_the_answer() -> None:
    world = World(B, A)
    world.join(A)
    submission = world.submit()
    world.it.peer_refused(A, submission.op.id, Exists.__name__, "it is there", world.now)
    assert world.last == Refused(id=submission.op.id, code="Exists", message="it is there")
    assert world.deeds.stamped == []


def test_a_full_disk_of_the_sequencer_is_not_the_answer_and_nothing_is_in_doubt() -> None:
    world = World(B, A)
    world.join(A)
    submission = world.submit()
    world.it.peer_refused(A, submission.op.id, NoSpace.__name__, "disk full", world.now)
    assert world.deeds.stamped == [(submission, True, FOREVER)]
    assert world.it.sequencer == B


@pytest.mark.parametrize("lose", ["out", "in", "silence", "stall"])
def test_what_was_passed_on_and_not_answered_is_stamped_without_being_refused_in_order(lose: str) -> None:
    world = World(B, A)
    world.join(A)
    first, second = world.submit(), world.submit()
    if lose == "out":
        world.it.link_down(A, "gone", world.now, gone=True)
    elif lose == "in":
        world.it.feed_closed(A, "gone", world.now, gone=True)
    elif lose == "silence":
        world.it.link_down(A, "lost", world.now, gone=False)
        assert world.deeds.stamped == [], "a moment for it to come back"
        world.pass_time(0.1)
        world.pass_time(0.6)
    else:
        world.pass_time(0.6)
    assert [(s, strict) for s, strict, _ in world.deeds.stamped] == [(first, False), (second, False)]
    for position, submission in enumerate((first, second), 1):
        world.write(submission, position)
        assert isinstance(world.last, Ack)
        assert (world.last.copies, world.last.of) == (1, 2)


def test_a_retry_while_it_is_passed_on_is_not_passed_on_twice() -> None:
    world = World(B, A)
    world.join(A)
    submission = world.submit()
    again = Submission(op=submission.op, floor=ZERO, blobs=(), strict=False, sync=False, asker=world.mount)
    world.it.submit(again, world.now)
    assert len(world.deeds.passed) == 1
    world.fed(submission, 1, by=A)
    world.it.peer_acked(A, submission.op.id, 1, world.now)
    assert len(world.mount.answers) == 2


def test_what_the_sequencer_acknowledged_and_we_had_already_is_looked_up() -> None:
    world = World(B, A)
    world.join(A)
    submission = world.submit()
    world.it.peer_acked(A, submission.op.id, 1, world.now)
    world.pass_time(0.1)
    assert world.deeds.looked_up == [submission]
    world.it.found(submission, Stamped(Stamp(10, A), 1), world.now)
    assert isinstance(world.last, Ack)


class TestBarrier:
    def test_operations_wait_until_the_sequencer_has_read_our_log(self) -> None:
        world = World(B, A)
        world.it.link_down(A, "refused", world.now, gone=True)
        alone = world.submit()
        world.write(alone, 1)
        world.connect(A)
        submission = world.submit()
        assert world.deeds.passed == []
        assert len(world.deeds.stamped) == 1, "only the one before"
        world.it.held(A, 1, world.now)
        assert world.deeds.passed == [(A, submission, True)]

    def test_not_while_we_stamp_ourselves(self) -> None:
        world = World(B, A)
        world.it.link_down(A, "refused", world.now, gone=True)
        alone = world.submit()
        world.connect(A)
        submission = world.submit()
        assert world.deeds.passed == []
        world.write(alone, 1)
        world.it.held(A, 1, world.now)
        assert world.deeds.passed == [(A, submission, True)]

    def test_not_before_we_have_read_what_it_had_when_we_met(self) -> None:
        world = World(B, A)
        world.connect(A, head=5)
        world.submit()
        assert world.deeds.passed == []
        world.it.applied(A, 5, world.now)
        assert len(world.deeds.passed) == 1

    def test_the_wait_is_bounded(self) -> None:
        world = World(B, A)
        world.connect(A, head=5, cursor=1)
        submission = world.submit()
        world.pass_time(0.6)
        assert world.deeds.stamped == [(submission, True, FOREVER)]

    def test_nobody_waits_for_a_long_catch_up(self) -> None:
        world = World(B, A)
        world.connect(A, head=100_000, cursor=1)
        submission = world.submit()
        assert world.deeds.stamped == [(submission, True, FOREVER)]
        assert world.it.peers[A].phase is Phase.CATCHING_UP

    def test_the_sequencer_waits_until_the_other_says_that_it_passes_on(self) -> None:
        world = World(A, B)
        world.connect(B)
        world.beat(B, sequencer=B)
        submission = world.submit()
        assert world.deeds.stamped == [], "the other still stamps alone"
        world.beat(B, sequencer=A)
        assert [each[0] for each in world.deeds.stamped] == [submission]

    def test_at_start_nothing_is_stamped_before_the_peer_was_tried(self) -> None:
        world = World(A)
        world.it.expect("http://b", world.now)
        submission = world.submit()
        assert world.deeds.stamped == []
        world.it.unreachable("http://b", world.now)
        assert [each[0] for each in world.deeds.stamped] == [submission]
        assert world.it.of == 2
        assert world.it.everywhere == 0

    def test_what_a_mount_handed_over_is_read_by_the_sequencer_first(self) -> None:
        world = World(B, A)
        world.join(A)
        handed = operation()
        world.it.published([Published(Entry(1, Stamp(10, C), handed))], world.now)
        submission = world.submit()
        assert world.deeds.passed == [], "the sequencer may not know the folder that it names"
        world.it.held(A, 1, world.now)
        assert world.deeds.passed == [(A, submission, True)]

    def test_what_came_from_the_sequencer_it_needs_not_read(self) -> None:
        world = World(B, A)
        world.join(A)
        world.it.published([Published(Entry(1, Stamp(10, A), operation()), origin=A)], world.now)
        world.submit()
        assert len(world.deeds.passed) == 1


class TestLease:
    def test_it_ends_a_silence_limit_after_what_was_heard(self) -> None:
        world = World(A, B)
        world.join(B)
        world.submit()
        assert world.now < world.deeds.stamped[-1][2] < world.now + 0.4

    def test_after_having_stood_still_nothing_is_stamped_before_the_other_is_heard(self) -> None:
        world = World(A, B)
        world.join(B)
        world.now += 10.0
        submission = world.submit()
        assert world.deeds.stamped == []
        world.beat(B, sequencer=A)
        assert [each[0] for each in world.deeds.stamped] == [submission]

    def test_a_stale_one_is_routed_again_in_order(self) -> None:
        world = World(A, B)
        world.join(B)
        first, second = world.submit(), world.submit()
        world.now += 1.0
        third = world.submit()
        world.it.stamped([(first, StaleLease()), (second, StaleLease())], world.now)
        world.beat(B, sequencer=A)
        assert [each[0] for each in world.deeds.stamped[2:]] == [first, second, third]

    def test_nothing_is_stamped_while_stale_ones_are_on_their_way_back(self) -> None:
        """Seen with a backlog on a busy machine: those behind the stale ones had a later lease and were logged first,
        so that a folder's removal came before those of the files in it, and the folder came back."""
        world = World(A, B)
        world.join(B)
        first, second = world.submit(), world.submit()
        world.now += 0.3
        world.beat(B, sequencer=A)
        third = world.submit()
        assert world.deeds.stamped[2][2] > world.deeds.stamped[1][2], "a later lease"
        world.it.stamped([(first, StaleLease())], world.now)
        fourth = world.submit()
        world.beat(B, sequencer=A)
        assert len(world.deeds.stamped) == 3, "the second and the third are still on their way"
        world.it.stamped([(second, StaleLease()), (third, StaleLease())], world.now)
        assert [each[0] for each in world.deeds.stamped[3:]] == [first, second, third, fourth]
        assert world.deeds.turns == [0, 0, 0, 1, 1, 1, 1], "or the writer would find the new ones stale, too"

    def test_both_lanes_must_hear_us(self) -> None:
        world = World(A, B)
        world.join(B)
        world.now += 0.39
        world.it.beat(B, Beat(sent_us=1, echo_us=int(world.now * 1e6), sequencer=A), "in", world.now)
        submission = world.submit()
        assert world.deeds.stamped == []
        world.it.beat(B, Beat(sent_us=1, echo_us=int(world.now * 1e6), sequencer=A), "out", world.now)
        assert [each[0] for each in world.deeds.stamped] == [submission]

    def test_an_echo_from_the_future_is_worth_no_more_than_now(self) -> None:
        world = World(A, B)
        world.join(B)
        for lane in ("in", "out"):
            world.it.beat(B, Beat(sent_us=1, echo_us=int((world.now + 99) * 1e6), sequencer=A), lane, world.now)
        assert world.it.peers[B].lease_until() <= world.now + 0.4


def test_a_peer_that_does_not_store_in_time_is_waited_for_once() -> None:
    world = World(A, B)
    world.join(B)
    first = world.submit()
    world.write(first, 1)
    world.beat(B, sequencer=A)
    world.pass_time(0.3)
    world.beat(B, sequencer=A)
    assert world.mount.answers == []
    world.pass_time(0.3)
    assert isinstance(world.last, Ack)
    assert (world.last.copies, world.last.of) == (1, 2)
    second = world.submit()
    world.write(second, 2)
    assert len(world.mount.answers) == 2, "nobody waits for it any more"
    world.pass_time(2.0)
    world.beat(B, sequencer=A)
    assert world.it.peers[B].phase is Phase.CATCHING_UP, "not before it has stored what it was waited for"
    world.it.held(B, 2, world.now)
    assert world.it.peers[B].phase is Phase.JOINED


def test_progress_is_time_enough() -> None:
    world = World(B, A)
    world.join(A)
    waiting = [world.submit() for _ in range(10)]
    for position, submission in enumerate(waiting, 1):
        world.pass_time(0.3)
        world.fed(submission, position, by=A)
        world.it.peer_acked(A, submission.op.id, 1, world.now)
    assert len(world.mount.answers) == 10
    assert world.deeds.stamped == []


def test_of_three_the_smallest_joined_is_the_sequencer_and_every_copy_is_waited_for() -> None:
    world = World(B, A, C)
    world.join(A)
    world.join(C)
    assert world.it.sequencer == A
    submission = world.submit()
    assert world.deeds.passed == [(A, submission, True)]
    world.fed(submission, 1, by=A)
    assert world.mount.answers == [], "the third one lacks it"
    world.it.held(C, 1, world.now)
    assert isinstance(world.last, Ack)
    assert (world.last.copies, world.last.of) == (3, 3)
    world.it.link_down(A, "gone", world.now, gone=True)
    assert world.it.sequencer == B


def test_it_may_come_by_the_third_one_before_the_sequencer_tells_it() -> None:
    world = World(B, A, C)
    world.join(A)
    world.join(C)
    submission = world.submit()
    stamp = Stamp(10, A)
    world.it.published([Published(Entry(1, stamp, submission.op), origin=C)], world.now)
    world.it.held(C, 1, world.now)
    assert world.mount.answers == []
    world.it.came_back(A, [submission.op.id], world.now)
    assert isinstance(world.last, Ack)
    assert world.last.copies == 3


def test_a_loss_answers_what_waited_for_the_copy() -> None:
    world = World(A, B)
    world.join(B)
    submission = world.submit()
    world.write(submission, 1)
    world.it.feed_closed(B, "killed", world.now, gone=True)
    assert isinstance(world.last, Ack)
    assert (world.last.copies, world.last.of) == (1, 2)


def test_everywhere_is_what_the_least_member_holds_and_falls_when_it_comes_back_with_less() -> None:
    world = World(A, B, C)
    for other in (B, C):
        world.join(other)
    world.it.head = 9
    world.it.content_here(9)
    world.it.held(B, 9, world.now)
    world.it.held(C, 4, world.now)
    assert world.it.everywhere == 4
    assert world.it.lag == 5
    world.it.feed_open(C, 2, world.now)
    assert world.it.everywhere == 0
    world.it.retire(C, world.now)
    assert (world.it.everywhere, world.it.of) == (9, 2)


def test_what_is_not_whole_here_is_not_everywhere_although_all_others_hold_it() -> None:
    """We are a member, too. A server that was catching up said that all was everywhere, because its peer held it, while
    chunks of it were still on their way; a mount that heard this let go of the only other copy."""
    world = World(B, A)
    world.join(A)
    world.it.head = 9
    world.it.held(A, 9, world.now)
    assert world.it.everywhere == 0
    world.it.content_here(4)
    assert (world.it.everywhere, world.it.lag) == (4, 5)
    world.it.content_here(9)
    assert world.it.everywhere == 9
    world.it.forget_reads()
    world.it.held(A, 9, world.now)
    assert world.it.everywhere == 0, "another log has come in its place"


def test_our_own_copy_counts_only_with_its_content() -> None:
    """A mount asks again for what the feed of a peer has brought already, and its chunk is still on the way here."""
    world = World(A, B)
    world.join(B)
    world.it.head = 3
    world.it.held(B, 3, world.now)
    submission = world.submit()
    world.it.stamped([(submission, Stamped(Stamp(10, B), 3, (ChunkHash(b"h" * 32),)))], world.now)
    assert isinstance(world.last, Ack)
    assert (world.last.copies, world.last.of) == (1, 2)


def test_our_own_copy_of_what_was_looked_up_counts_only_with_its_content() -> None:
    world = World(B, A)
    world.join(A)
    submission = world.submit()
    submission.op = msgspec.structs.replace(submission.op, kind="file", content=LARGE)
    world.it.peer_acked(A, submission.op.id, 1, world.now)
    world.pass_time(0.1)
    assert world.deeds.looked_up == [submission]
    world.it.found(submission, Stamped(Stamp(10, A), 1, (ChunkHash(b"h" * 32),)), world.now)
    assert isinstance(world.last, Ack)
    assert (world.last.copies, world.last.of) == (1, 2)


def test_for_a_peer_that_passes_on_we_look_whether_the_content_is_here() -> None:
    """Of three: C relied on us, we on A. Nobody has looked here yet whether we have what it names."""
    world = World(B, A, C)
    world.join(A)
    submission = world.submit(giver=C)
    world.fed_alone(submission, 1, by=A)
    world.it.peer_acked(A, submission.op.id, 1, world.now)
    assert world.mount.answers == []
    assert world.deeds.looked_up == [submission]
    world.it.found(submission, Stamped(Stamp(10, A), 1, (ChunkHash(b"h" * 32),)), world.now)
    assert isinstance(world.last, Ack)
    assert world.last.copies == 0


def test_the_stable_point_needs_a_promise_of_everybody_and_all_that_came_before_it() -> None:
    world = World(A, B)
    assert world.it.stable(500) == Stamp(0, PENDING_SERVER)
    world.connect(B)
    world.beat(B, sequencer=A, promise=300, head=7)
    assert world.it.stable(500).clock == 0, "its log up to 7 is not here"
    world.it.applied(B, 7, world.now)
    assert world.it.stable(500) == Stamp(300, PENDING_SERVER)
    assert world.it.stable(200).clock == 200
    world.it.expect("http://c", world.now)
    assert world.it.stable(500).clock == 0


def test_a_peer_in_trouble_is_neither_asked_nor_waited_for() -> None:
    world = World(B, A)
    world.join(A)
    world.beat(A, sequencer=A, trouble="disk full")
    submission = world.submit()
    assert [each[0] for each in world.deeds.stamped] == [submission]
    world.write(submission, 1)
    assert isinstance(world.last, Ack)
    world.beat(A, sequencer=A)
    world.pass_time(1.1)
    world.it.held(A, 1, world.now)
    assert world.it.sequencer == A


def test_a_submission_of_a_peer_is_answered_without_waiting_for_its_copy() -> None:
    world = World(A, B)
    world.join(B)
    whole = world.submit(giver=B)
    world.it.stamped([(whole, Stamped(Stamp(10, A), 1, is_new=True))], world.now)
    assert world.mount.answers == [], "the feed tells it"
    world.it.stamped([(whole, Stamped(Stamp(10, A), 1))], world.now)
    assert isinstance(world.last, Ack)
    assert world.last.copies == 1
    lacking = world.submit(giver=B)
    world.it.stamped([(lacking, Stamped(Stamp(20, A), 2, (b"h" * 32,)))], world.now)  # type: ignore[arg-type]
    assert isinstance(world.last, Ack)
    assert world.last.copies == 0


class TestLost:
    """A mount that turned to a server which was being filled again was told that its folders are not there."""

    def test_who_has_read_nothing_of_a_peer_yet_refuses_nothing(self) -> None:
        world = World(A, B)
        world.connect(B, head=5_000)
        world.submit()
        assert [strict for _, strict, _ in world.deeds.stamped] == [False]

    def test_until_it_has_read_what_the_peer_had_when_they_met(self) -> None:
        world = World(A, B)
        world.connect(B, head=5_000)
        world.it.applied(B, 1_000, world.now)
        world.submit()
        assert [strict for _, strict, _ in world.deeds.stamped] == [False]
        world.it.applied(B, 5_000, world.now)
        world.beat(B, sequencer=A)
        world.submit()
        assert [strict for _, strict, _ in world.deeds.stamped] == [False, True]

    def test_an_ordinary_catch_up_is_none(self) -> None:
        world = World(A, B)
        world.connect(B, head=5_000, cursor=3_000)
        world.submit()
        assert [strict for _, strict, _ in world.deeds.stamped] == [True]

    def test_an_older_copy_is_one_although_it_knows_a_part(self) -> None:
        world = World(A, B)
        world.connect(B, head=5_000, cursor=5_000)
        world.it.lost_data()
        world.it.link_down(B, "reset", world.now, gone=False)
        world.connect(B, head=5_000, cursor=3_000)
        world.submit()
        assert [strict for _, strict, _ in world.deeds.stamped] == [False]
        world.it.applied(B, 5_000, world.now)
        assert not world.it.peers[B].lacking


def test_operations_do_not_wait_for_a_peer_that_has_much_to_exchange() -> None:
    world = World(B, A)
    world.connect(A, head=HARDLY_ENTRIES + 1)
    world.submit()
    assert len(world.deeds.stamped) == 1, "nobody waits while more than a few are to be read"
    world.it.stamped([], world.now)
    world.it.applied(A, 1, world.now)
    assert world.it.peers[A].phase is Phase.COMING
    world.submit()
    assert len(world.deeds.stamped) == 1
    assert not world.deeds.passed


def test_when_a_few_hundred_are_always_on_their_way_they_are_waited_for_after_all() -> None:
    world = World(B, A)
    world.connect(A, head=NEARLY_ENTRIES)
    assert world.it.peers[A].phase is Phase.CATCHING_UP
    world.pass_time(NEARLY_S + 0.01)
    assert world.it.peers[A].phase is Phase.COMING


def test_it_says_how_far_it_is_behind_while_it_reads() -> None:
    world = World(B, A)
    assert world.it.behind == 0
    world.connect(A, head=500, cursor=100)
    assert world.it.behind == 400
    world.it.applied(A, 500, world.now)
    world.beat(A, sequencer=A, head=501)
    assert world.it.peers[A].phase is Phase.JOINED
    assert world.it.behind == 0, "what is just on its way to one who has joined"


def test_who_lost_everything_is_behind_also_while_the_peer_is_away() -> None:
    world = World(B, A)
    world.connect(A, head=500, cursor=0)
    world.it.applied(A, 10, world.now)
    world.it.link_down(A, "lost", world.now, gone=True)
    assert world.it.behind == 490
