"""Two names that change places: what the rule does, what a strict author is told, and what it does when people worked
on both sides of a cut: "an exchange happens whole or not at all"."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from gdah_volume import errors
from gdah_volume.errors import BadMessage
from gdah_volume.ids import LOST, LinkId, NodeId, Version
from gdah_volume.operations import Exchange, SeenLink, check_operation, from_json, to_json
from tests.foldkit import Client, World, listing, sign
from tests.test_rules import strict

Twist = Callable[[Client], object]


@pytest.fixture
def world() -> Iterator[World]:
    with World("a", "b") as made:
        a = made.clients["a"]
        made.do("a", a.create("f", "one"))
        made.do("a", a.mkdir("d"))
        made.do("a", a.create("d/g", "two"))
        made.do("a", a.mkdir("d/e"))
        made.do("a", a.create("d/e/h", "three"))
        made.meet()
        yield made


START = {"d": "/", "d/e": "/", "d/e/h": sign("three"), "d/g": sign("two"), "f": sign("one")}


def test_two_files_change_places_with_all_that_is_theirs(world: World) -> None:
    a = world.clients["a"]
    one, two = a.at("f").node, a.at("d/g").node
    world.do("a", a.chmod("f", 0o600))
    assert strict(world, "a", a.exchange("f", "d/g")) is None
    assert listing(world.meet()) == START | {"f": sign("two"), "d/g": sign("one")}
    assert (a.at("f").node, a.at("d/g").node) == (two, one)
    assert a.tree.node(one).mode == 0o600
    assert strict(world, "a", a.exchange("d/g", "f")) is None
    assert listing(world.meet()) == START


def test_a_folder_and_a_file_change_places(world: World) -> None:
    a = world.clients["a"]
    assert strict(world, "a", a.exchange("d/e", "f")) is None
    assert listing(world.meet()) == {
        "d": "/", "d/e": sign("one"), "d/g": sign("two"), "f": "/", "f/h": sign("three")
    }  # fmt: skip


def test_both_folders_and_both_nodes_get_the_time_of_the_exchange(world: World) -> None:
    a = world.clients["a"]
    op = a.exchange("f", "d/g")
    world.do("a", op)
    tree = world.meet()
    assert tree.node(a.at("d").node).mtime_ns == op.time_ns
    assert tree.node(NodeId("root")).mtime_ns == op.time_ns
    for path in ("f", "d/g"):
        view = tree.node(a.at(path).node)
        assert (view.ctime_ns, view.mtime_ns < op.time_ns) == (op.time_ns, True)


def test_with_itself_or_another_name_of_the_same_file_nothing_happens(world: World) -> None:
    a = world.clients["a"]
    world.do("a", a.link("f", "d/i"))
    before = listing(world.meet())
    for other in ("f", "d/i"):
        assert strict(world, "a", a.exchange("f", other)) is None
    assert listing(world.meet()) == before


@pytest.mark.parametrize(("one", "two"), [("d", "d/g"), ("d/e/h", "d"), ("d", "d/e"), ("d/e", "d")])
def test_no_folder_comes_to_lie_in_itself(world: World, one: str, two: str) -> None:
    a = world.clients["a"]
    op = a.exchange(one, two)
    assert strict(world, "a", op) is errors.InvalidArgument
    world.do("a", op)
    assert listing(world.meet()) == START


def test_folders_beside_each_other_change_places_with_what_is_in_them(world: World) -> None:
    a = world.clients["a"]
    world.do("a", a.mkdir("x"))
    world.do("a", a.create("x/y", "four"))
    assert strict(world, "a", a.exchange("x", "d/e")) is None
    moved = {"d/e/y": sign("four"), "x": "/", "x/h": sign("three")}
    assert listing(world.meet()) == {path: what for path, what in START.items() if path != "d/e/h"} | moved


@pytest.mark.parametrize(
    ("twist", "refusal"),
    [
        (lambda b: b.unlink("f"), errors.NotFound),
        (lambda b: b.unlink("d/g"), errors.NotFound),
        (lambda b: b.rename("f", "moved"), errors.NotAsSeen),
        (lambda b: b.rename("d/g", "moved"), errors.NotAsSeen),
        (lambda b: b.exchange("f", "d/g"), errors.NotAsSeen),
        (lambda b: b.exchange("f", "d/e"), errors.NotAsSeen),
    ],
)
def test_what_is_not_as_seen_stays_as_it_is(world: World, twist: Twist, refusal: type[errors.FileSystemError]) -> None:
    """Whichever of the two somebody else has moved, exchanged or removed: neither half is done."""
    a, b = world.clients["a"], world.clients["b"]
    late = a.exchange("f", "d/g")
    world.do("b", twist(b))  # type: ignore[arg-type]
    expected = listing(world.meet())
    assert strict(world, "a", late) is refusal
    world.do("a", late)
    assert listing(world.meet()) == expected


def test_an_edit_of_the_other_goes_along(world: World) -> None:
    a, b = world.clients["a"], world.clients["b"]
    late = a.exchange("f", "d/g")
    world.do("b", b.write("f", "edited"))
    world.do("a", late)
    assert listing(world.meet()) == START | {"f": sign("two"), "d/g": sign("edited")}


def test_who_removes_the_old_version_after_an_exchange_does_not_remove_an_edit_of_it(world: World) -> None:
    """The careful way to save: the new file takes the place of the old one, which then goes. An edit of the old one on
    the other side of the cut outlives that."""
    a, b = world.clients["a"], world.clients["b"]
    world.do("b", b.write("f", "edited"))
    world.do("a", a.create("f.new", "saved"))
    world.do("a", a.exchange("f.new", "f"))
    world.do("a", a.unlink("f.new"))
    assert listing(world.meet()) == START | {"f": sign("saved"), "f.new": sign("edited")}


def test_what_an_author_wrote_into_a_copy_of_its_own_is_not_taken_for_the_other_file(world: World) -> None:
    a, b = world.clients["a"], world.clients["b"]
    mine = a.write("f", "mine")
    world.do("b", b.write("f", "theirs"))
    world.do("a", mine)
    world.do("a", a.exchange("f", "d/g"))
    world.do("b", b.write("d/g", "more"))
    found = listing(world.meet())
    assert found["f"] == sign("theirs")
    assert found["d/g"] == sign("more")
    assert sign("mine") in found.values()


def test_a_merge_that_its_author_has_not_seen_is_not_moved(world: World) -> None:
    a, b = world.clients["a"], world.clients["b"]
    world.do("b", b.mkdir("n"))
    world.do("a", a.mkdir("n"))
    world.do("a", a.exchange("n", "f"))
    assert listing(world.meet()) == START | {"n": "/"}
    assert strict(world, "a", a.exchange("n", "f")) is None
    assert listing(world.meet()) == START | {"f": "/", "n": sign("one")}
    folder = a.at("f")
    assert a.tree.aliases_into(folder.node)
    assert set(a.tree.aliases_into(folder.node)) < set(folder.rev.split("+")), "only who has seen both may remove both"


def test_the_hidden_folder_is_not_exchanged(world: World) -> None:
    a = world.clients["a"]
    f = a.at("f")
    hidden = SeenLink(LinkId(LOST), Version("x"), NodeId(LOST), None)
    op = Exchange(**a.next(), link=f.link, rev=f.rev, node=f.node, version=None, other=hidden)
    assert strict(world, "a", op) is errors.NotPermitted
    world.do("a", op)
    assert listing(world.meet()) == START


def test_it_can_be_read_in_the_log(world: World) -> None:
    op = world.clients["a"].exchange("f", "d/g")
    assert from_json(to_json(op)) == op
    assert check_operation(op) == op
    bad = Exchange(id=op.id, time_ns=0, link=op.link, rev=op.rev, node=op.node, version=None,
                   other=SeenLink(LinkId("../x"), op.rev, op.node, None))  # fmt: skip
    with pytest.raises(BadMessage):
        check_operation(bad)
