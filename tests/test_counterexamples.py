"""Sequences that broke an earlier form of the rules, each by its name. All end with all replicas alike (`meet`)."""

from __future__ import annotations

import pytest

from gdah_volume import errors
from gdah_volume.content import Content
from gdah_volume.ids import NodeId, Version
from gdah_volume.names import conflict_name
from gdah_volume.operations import Rename, Rmdir, Unlink, Write
from tests.foldkit import World, data, listing, sign, stamp


@pytest.fixture
def world():
    with World("a", "b") as made:
        yield made


def test_identical_files_by_two_then_one_removes_his(world: World):
    """Set versions: the other one's copy stays."""
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "same"))
    world.do("b", b.create("f", "same"))
    world.do("b", b.unlink("f"))
    assert listing(world.meet()) == {"f": sign("same")}


def test_identical_writes_by_two_then_one_removes_the_file(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    world.do("a", a.write("f", "same"))
    world.do("b", b.write("f", "same"))
    world.do("b", b.unlink("f"))
    assert listing(world.meet()) == {"f": sign("same")}
    # Whoever has seen that the two are one may remove it.
    world.do("a", a.unlink("f"))
    assert listing(world.meet()) == {}


def test_one_folder_by_two_and_one_moves_his(world: World):
    """via, split: what he put into his goes with him, the other's stays."""
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("d"))
    world.do("a", a.create("d/of_a", "a"))
    world.do("b", b.mkdir("d"))
    world.do("b", b.create("d/of_b", "b"))
    world.do("b", b.rename("d", "e"))
    assert listing(world.meet()) == {"d": "/", "d/of_a": sign("a"), "e": "/", "e/of_b": sign("b")}


def test_one_folder_by_two_and_one_who_knows_it_moves_it(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("d"))
    world.do("a", a.create("d/of_a", "a"))
    world.do("b", b.mkdir("d"))
    world.do("b", b.create("d/of_b", "b"))
    world.meet()
    world.do("b", b.rename("d", "e"))
    assert listing(world.meet()) == {"e": "/", "e/of_a": sign("a"), "e/of_b": sign("b")}


def test_one_folder_by_two_and_one_removes_his_empty_one(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("d"))
    world.do("a", a.create("d/f", "a"))
    world.do("b", b.mkdir("d"))
    world.do("b", b.rmdir("d"))
    assert listing(world.meet()) == {"d": "/", "d/f": sign("a")}


def test_a_removed_merged_folder_with_things_of_its_own_in_it_stays_merged(world: World):
    """A directory with viaidx children: ignored."""
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("d"))
    mine = world.do("b", b.mkdir("d"))
    inside = b.create("d/f", "b")
    gone = Rmdir(**b.next(), link=b.at("d").link, rev=b.at("d").rev, node=b.at("d").node)
    world.do("b", inside)
    world.do("b", gone)
    tree = world.meet()
    assert listing(tree) == {"d": "/", "d/f": sign("b")}
    assert tree.resolve(NodeId(mine)) != mine


def test_two_names_of_a_file_each_removed_by_another(world: World):
    """`last`: one name stays."""
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.do("a", a.link("f", "g"))
    world.meet()
    world.do("a", a.unlink("f"))
    world.do("b", b.unlink("g"))
    assert list(listing(world.meet()).values()) == [sign("one")]


def test_a_fork_then_a_save_by_rename_over_it(world: World):
    """The branch check comes before liveness: what he replaced is his fork."""
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    edit = b.write("f", "edit of b")
    world.do("a", a.write("f", "edit of a"))
    world.do("b", edit)
    world.do("b", b.create("tmp", "saved by b"))
    world.do("b", b.rename("tmp", "f"))
    conflict = conflict_name(b"f", edit.id).decode()
    assert listing(world.meet()) == {"f": sign("edit of a"), conflict: sign("saved by b")}


def test_the_same_where_the_other_one_removed_the_file(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    edit = b.write("f", "edit of b")
    world.do("a", a.write("f", "edit of a"))
    world.do("a", a.unlink("f"))
    world.do("b", edit)
    world.do("b", b.create("tmp", "saved by b"))
    world.do("b", b.rename("tmp", "f"))
    assert sign("saved by b") in listing(world.meet()).values()
    assert len(listing(world.meet())) == 1


def test_a_file_that_he_forked_and_removed_is_gone_and_the_other_stays(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    world.do("a", a.write("f", "edit of a"))
    world.do("b", b.write("f", "edit of b"))
    world.do("b", b.unlink("f"))
    assert listing(world.meet()) == {"f": sign("edit of a")}


def test_reviving_merges_into_a_cycle(world: World):
    """rmdir c, mv a c, mv a into the old c: the destination comes back as the very folder that moves; checked twice."""
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("a"))
    world.do("a", a.mkdir("c"))
    world.meet()
    into = b.rename("a", "c/a")
    world.do("a", a.rmdir("c"))
    world.do("a", a.rename("a", "c"))
    world.do("b", into)
    assert listing(world.meet()) == {"c": "/"}


def test_a_merged_folder_renamed_into_itself(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("d"))
    world.do("b", b.mkdir("d"))
    tree = world.meet()
    link = a.at("d")
    other = tree.aliases_into(link.node)[0]
    op = Rename(**a.next(), link=link.link, node=link.node, version=None, parent=other, name=b"x", also=(other,))
    world.do("a", op)
    assert listing(world.meet()) == {"d": "/"}


def test_rmdir_of_a_file_and_unlink_of_a_folder_do_nothing(world: World):
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    world.do("a", a.mkdir("d"))
    f, d = a.at("f"), a.at("d")
    world.do("a", Rmdir(**a.next(), link=f.link, rev=f.rev, node=f.node))
    world.do("a", Unlink(**a.next(), link=d.link, rev=d.rev, node=d.node, version=None, last=True))
    assert listing(world.meet()) == {"d": "/", "f": sign("one")}


def test_a_conflict_name_of_a_conflict_name(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f.txt", "one"))
    first = b.create("f.txt", "two")
    world.do("b", first)
    world.meet()
    name = conflict_name(b"f.txt", first.id).decode()
    world.do("a", a.write(name, "three"))
    second = b.write(name, "four")
    world.do("b", second)
    expected = {"f.txt", name, conflict_name(b"f.txt", second.id).decode()}
    assert set(listing(world.meet())) == expected


def test_a_redirect_after_a_fork_never_moves_the_hard_link_of_another(world: World):
    """branch_link: the fork's own link, however many names the fork has got since."""
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    world.do("a", a.write("f", "edit of a"))
    edit = b.write("f", "edit of b")
    world.do("b", edit)
    late = b.rename("f", "renamed by b")
    conflict = conflict_name(b"f", edit.id).decode()
    world.meet()
    world.do("a", a.link(conflict, "link of a"))
    world.do("b", late)
    assert listing(world.meet()) == {
        "f": sign("edit of a"),
        "link of a": sign("edit of b"),
        "renamed by b": sign("edit of b"),
    }


def test_a_later_operation_stamped_below_earlier_ones(world: World):
    """The third of an author's operations got the smallest stamp: total, alike everywhere, nothing lost."""
    a = world.clients["a"]
    create, write = a.create("f", "one"), None
    world.do("a", create, clock=100)
    write = a.write("f", "two")
    world.do("a", write, clock=110)
    world.do("a", a.write("f", "three"), clock=5)
    found = listing(world.meet())
    assert sign("three") in found.values()
    assert sign("two") in found.values() or sign("one") in found.values()


def test_early_operations_get_smaller_stamps_at_another_server(world: World):
    """Acknowledgements lost at one server: the smaller stamps of the other win, without a conflict of his own."""
    a, b = world.clients["a"], world.sites["b"]
    ops = [a.mkdir("d")]
    world.do("a", ops[0])
    for op in (a.create("d/f", "one"), None):
        if op is not None:
            ops.append(op)
            world.do("a", op)
    ops.append(a.write("d/f", "two"))
    world.do("a", ops[-1])
    with b.database.transaction():
        for n, op in enumerate(ops):
            b.accept(op, stamp(n + 1, "b"))
            world.log[op.id] = (op, stamp(n + 1, "b"))
    assert listing(world.meet()) == {"d": "/", "d/f": sign("two")}


def test_strict_create_logged_at_one_server_is_tentative_at_the_other(world: World):
    """Refused where it was not logged, it would contradict the one where it was: a retry in doubt is never strict."""
    a, b = world.clients["a"], world.clients["b"]
    doubtful = a.create("f", "of a")
    world.do("a", doubtful)
    site = world.sites["b"]
    world.do("b", b.create("f", "of b"))

    def retry_strictly() -> None:
        with site.database.transaction():
            site.offer(doubtful, stamp(1000, "b"))

    with pytest.raises(errors.Exists):
        retry_strictly()
    assert set(listing(world.meet()).values()) == {sign("of a"), sign("of b")}
    # Known now: acknowledged again, whatever its precondition says.
    with site.database.transaction():
        assert not site.offer(doubtful, stamp(2000, "b"))
    assert site.stamp_of(doubtful.id) == world.log[doubtful.id][1]


def test_commuting_looks_at_absent_rows(world: World):
    """A late create at a place where a later one found nothing."""
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "later"), clock=50)
    world.do("b", b.create("f", "earlier"), clock=40)
    found = listing(world.meet())
    assert found["f"] == sign("earlier")
    assert len(found) == 2


def test_commuting_looks_at_membership(world: World):
    """A late create in a folder that a later rmdir found empty."""
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("d"), clock=10)
    world.meet()
    world.do("a", a.rmdir("d"), clock=50)
    world.do("b", b.create("d/f", "late"), clock=40)
    assert listing(world.meet()) == {"d": "/", "d/f": sign("late")}


def test_equal_stamps_are_ordered_by_id(world: World):
    a, b = world.clients["a"], world.clients["b"]
    first, second = a.create("f", "of a"), b.create("f", "of b")
    for op in (second, first):
        world.log[op.id] = (op, stamp(7, "s"))
    for name, ops in (("a", (first, second)), ("b", (second, first))):
        with world.sites[name].database.transaction():
            for op in ops:
                world.sites[name].accept(op, stamp(7, "s"))
    assert listing(world.meet())["f"] == sign("of a")


def test_writing_to_a_removed_file_revives_it_so_it_is_refused_when_strict(world: World):
    """A client never logs a write to a file without a name; should it try, the strict form says no."""
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    link, version = a.at("f"), a.tree.seen_version(a.at("f").node)
    world.do("a", a.unlink("f"))
    op = Write(**a.next(), node=link.node, base=version, content=Content(), name=b"f", mtime_ns=1)
    site = world.sites["a"]
    with site.database.transaction(), pytest.raises(errors.StaleHandle):
        site.add_pending(op, strict=True)
    assert listing(world.meet()) == {}


def test_an_operation_in_doubt_that_sorts_earlier_costs_a_conflict_name_and_nothing_else(world: World):
    """Known and accepted."""
    a, b = world.clients["a"], world.clients["b"]
    world.do("b", b.create("f", "of b"), clock=50)
    world.do("a", a.create("f", "of a"), clock=40)
    found = listing(world.meet())
    assert sorted(found.values()) == sorted([sign("of a"), sign("of b")])
    assert found["f"] == sign("of a")


def test_a_version_that_is_a_set_is_found_by_any_of_its_members(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    world.do("a", a.write("f", "same"))
    world.do("b", b.write("f", "same"))
    world.do("b", b.write("f", "more by b"))
    assert listing(world.meet()) == {"f": sign("more by b")}
    node = a.at("f").node
    unknown_set = Version(f"{a.author}-2+z-a1b2c3-9f3c-9")
    op = Write(**a.next(), node=node, base=unknown_set, content=data("by a"), name=b"f", mtime_ns=1)
    world.do("a", op)
    assert len(listing(world.meet())) == 2
