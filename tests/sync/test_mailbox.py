"""The mailbox of the steering thread: what comes in which order, and in which pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from gdah_volume.wire import Entry
from mountfs.ports import ServerLink
from mountfs.sync.mailbox import LAZY_ENTRIES_MAX, PIECE_ENTRIES, Fed, Mailbox


def link(name: str) -> ServerLink:
    return cast("ServerLink", name)


def entries(first: int, last: int) -> tuple[Entry, ...]:
    return cast("tuple[Entry, ...]", tuple(range(first, last + 1)))


def nothing() -> None:
    pass


def taken(mailbox: Mailbox) -> list[object]:
    """All that is there: feeds as (link, first, last)."""
    found: list[object] = []
    while (event := mailbox.take(0.0)) is not None:
        if isinstance(event, Fed):
            found.append((event.link, event.entries[0], event.entries[-1]))
            mailbox.applied(event)
        else:
            found.append(event)
    return found


def test_small_feeds_come_as_one_and_a_large_one_in_pieces() -> None:
    mailbox = Mailbox()
    for position in range(1, 11):
        mailbox.fed(link("a"), entries(position, position), 0, lazy=False)
    mailbox.fed(link("a"), entries(11, 2 * PIECE_ENTRIES + 5), 0, lazy=False)
    mailbox.fed(link("b"), entries(1, 3), 0, lazy=False)
    size = PIECE_ENTRIES
    assert taken(mailbox) == [("a", 1, size), ("a", size + 1, 2 * size), ("a", 2 * size + 1, 2 * size + 5), ("b", 1, 3)]


def test_that_a_server_is_lost_comes_before_the_rest_of_what_it_fed() -> None:
    mailbox = Mailbox()
    lost: Callable[[], None] = lambda: None  # noqa: E731
    mailbox.fed(link("a"), entries(1, 10 * PIECE_ENTRIES), 0, lazy=False)
    mailbox.post(nothing)
    piece = mailbox.take(0.0)
    assert isinstance(piece, Fed)
    assert len(piece.entries) == PIECE_ENTRIES
    mailbox.post(lost, first=True)
    assert mailbox.take(0.0) is lost
    rest = taken(mailbox)
    assert len(rest) == 10
    assert rest[-1] is nothing


def test_it_wakes_who_waits() -> None:
    mailbox = Mailbox()
    mailbox.post(nothing, first=True)
    assert mailbox.take(10.0) is nothing
    assert mailbox.take(0.0) is None


def test_what_can_wait_comes_before_what_comes_after_it() -> None:
    mailbox = Mailbox()
    mailbox.fed(link("a"), entries(1, 2), 0, lazy=True)
    mailbox.fed(link("a"), entries(3, 4), 0, lazy=True)
    mailbox.post(nothing)
    assert taken(mailbox) == [("a", 1, 4), nothing]
    mailbox.fed(link("a"), entries(5, 5 + LAZY_ENTRIES_MAX), 0, lazy=True)
    assert mailbox.take(0.0) is not None
