"""What is offered to a server again after a break."""

from __future__ import annotations

from gdah_volume.ids import Epoch, OpId, ServerId
from gdah_volume.stamps import ZERO, Stamp
from gdah_volume.wire import PROTOCOL, Welcome
from mountfs.sync.mirror import FeedState
from mountfs.sync.session import not_told

SERVER, EPOCH = ServerId("s1"), Epoch("e1")


def welcome(run: str, head: int = 10) -> Welcome:
    return Welcome(
        protocol=PROTOCOL, server=SERVER, epoch=EPOCH, software="", head=head, first=1, stable=ZERO, members=(), run=run
    )


def test_what_the_same_run_of_a_server_told_is_not_offered_to_it() -> None:
    stamped = [(OpId(f"a-b1b1b1-c1c1-{n}"), Stamp(n, SERVER)) for n in range(1, 5)]
    feed = FeedState(SERVER, EPOCH)
    feed.unspread.extend([(9, stamped[0][1]), (10, stamped[1][1]), (11, stamped[2][1])])
    assert not_told(stamped, feed, welcome("run 1")) == stamped, "nothing is known of this run yet"
    feed.run = "run 1"
    assert not_told(stamped, feed, welcome("run 1")) == stamped[2:], "its log ends before the third"
    assert not_told(stamped, feed, welcome("run 2")) == stamped, "killed meanwhile, it may have lost what it had told"
    assert not_told(stamped, feed, welcome("")) == stamped, "an older server"
