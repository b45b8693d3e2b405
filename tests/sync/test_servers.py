"""The choice of the server: pure, so every case is a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountfs.sync.servers import BEHIND_ENTRIES, BEHIND_HOLD_S, HOLD_S, NO_CHOICE, ONLY_ONE, Choice, Figures, choose

A, B = "http://a", "http://b"


def figures(
    url: str, latency_ms: float = 1.0, *, usable: bool = True, errors: float = 0.0, trouble: str = ""
) -> Figures:
    return Figures(url, usable, latency_ms, errors, trouble)


def test_no_server() -> None:
    assert choose([figures(A, usable=False)], NO_CHOICE, 0.0).url is None
    assert choose([], NO_CHOICE, 0.0).url is None


def test_equal_servers_are_taken_in_the_order_given() -> None:
    assert choose([figures(A), figures(B)], NO_CHOICE, 0.0).url == A
    assert choose([figures(B), figures(A)], NO_CHOICE, 0.0).url == B


def test_the_only_one_says_so_until_it_is_not() -> None:
    only = choose([figures(A), figures(B, usable=False)], NO_CHOICE, 0.0)
    assert (only.url, only.why) == (A, ONLY_ONE)
    both = choose([figures(A), figures(B)], only, 1.0)
    assert both.url == A
    assert both.why != ONLY_ONE


def test_the_lost_one_is_named_with_what_happened() -> None:
    choice = choose([figures(A, usable=False), figures(B)], Choice(A, ""), 0.0, "nothing heard for 0.4 s")
    assert choice.url == B
    assert A in choice.why
    assert "nothing heard for 0.4 s" in choice.why


def test_all_lost_says_what_happened_last() -> None:
    choice = choose([figures(A, usable=False)], Choice(A, "x"), 0.0, "reset")
    assert (choice.url, choice.why) == (None, "reset")
    assert choose([figures(A, usable=False)], choice, 1.0).why == "reset"


def test_a_little_better_is_no_reason_to_turn() -> None:
    choice = Choice(A, "x")
    for now in range(100):
        choice = choose([figures(A, 9.0), figures(B, 5.0)], choice, float(now))
        assert choice.url == A


def test_much_better_for_a_while_is_a_reason_to_turn() -> None:
    servers = [figures(A, 40.0), figures(B, 2.0)]
    choice = choose(servers, Choice(A, "x"), 10.0)
    assert (choice.url, choice.rival) == (A, B)
    choice = choose(servers, choice, 10.0 + HOLD_S - 0.1)
    assert choice.url == A
    choice = choose(servers, choice, 10.0 + HOLD_S)
    assert choice.url == B
    assert "2.0 ms" in choice.why


def test_a_short_hiccup_starts_the_clock_anew() -> None:
    slow, fine = [figures(A, 40.0), figures(B, 2.0)], [figures(A, 2.0), figures(B, 2.0)]
    choice = choose(slow, Choice(A, "x"), 0.0)
    choice = choose(fine, choice, 1.0)
    choice = choose(slow, choice, 2.0)
    assert choose(slow, choice, 1.0 + HOLD_S).url == A


def test_a_full_disk_is_left_at_once() -> None:
    choice = choose([figures(A, 1.0, trouble="disk full"), figures(B, 30.0)], Choice(A, "x"), 0.0)
    assert choice.url == B
    assert "disk full" in choice.why


def test_when_all_are_full_one_stays() -> None:
    servers = [figures(A, trouble="full"), figures(B, trouble="full")]
    assert choose(servers, Choice(B, "x"), 0.0).url == B


_servers = st.lists(
    st.builds(
        Figures,
        st.sampled_from([A, B, "http://c"]),
        st.booleans(),
        st.floats(0, 1000),
        st.floats(0, 1),
        st.sampled_from(["", "full"]),
    ),
    unique_by=lambda one: one.url,
    max_size=3,
)


@given(st.lists(_servers, max_size=20))
def test_the_chosen_one_is_usable_and_never_much_worse_for_long(rounds: list[list[Figures]]) -> None:
    choice = NO_CHOICE
    for now, servers in enumerate(rounds):
        choice = choose(servers, choice, float(now))
        usable = {one.url: one for one in servers if one.usable}
        assert (choice.url in usable) == bool(usable)
        assert choice.why


@pytest.mark.parametrize("rounds", [50])
def test_two_equal_servers_do_not_take_turns(rounds: int) -> None:
    choice, turns = NO_CHOICE, 0
    for now in range(rounds):
        noisy = [figures(A, 1.0 + now % 3), figures(B, 1.0 + (now + 1) % 3)]
        before, choice = choice, choose(noisy, choice, float(now))
        turns += before.url is not None and before.url != choice.url
    assert turns == 0


def test_one_that_is_being_filled_is_taken_only_when_there_is_no_other() -> None:
    filled, other = Figures(A, True, 1.0, behind=BEHIND_ENTRIES + 1), figures(B, 50.0)
    assert choose([filled, other], NO_CHOICE, 0.0).url == B
    assert choose([filled, figures(B, usable=False)], NO_CHOICE, 0.0).url == A
    at_first = choose([filled, other], Choice(A, "x"), 0.0)
    assert at_first.url == A
    turned = choose([filled, other], at_first, BEHIND_HOLD_S)
    assert turned.url == B
    assert "65 operations" in turned.why
    assert choose([filled, figures(B, trouble="disk full")], NO_CHOICE, 0.0).url == A


def test_what_is_just_on_its_way_is_no_reason_to_turn() -> None:
    assert choose([Figures(A, True, 1.0, behind=BEHIND_ENTRIES), figures(B)], Choice(A, "x"), 0.0).url == A
