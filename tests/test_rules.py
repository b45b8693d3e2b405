"""The rules one by one: what an operation does to the rows, and what a strict author is told."""

from __future__ import annotations

import pytest

from gdah_volume import errors
from gdah_volume.content import Content
from gdah_volume.errors import FileSystemError
from gdah_volume.evaluation import Evaluation
from gdah_volume.ids import LOST, ROOT, VERSION_MAX_CHARS, LinkId, NodeId, OpId, Version
from gdah_volume.names import conflict_name, is_conflict, without_conflict
from gdah_volume.operations import Operation, Rename, Rmdir, SetAttr, Unlink, Write
from gdah_volume.placing import union
from gdah_volume.rows import MEMBERS, READ, WRITTEN, AttrsRow
from gdah_volume.rules import fold
from tests.foldkit import ATTRS, Client, MemoryRows, World, data, listing, sign, stamp

C1 = "a-a1b2c3-9f3c"


@pytest.fixture
def world():
    with World("a", "b") as made:
        yield made


def strict(world: World, name: str, op: Operation) -> type[FileSystemError] | None:
    """What a strict author is told; refused, nothing changes."""
    site = world.sites[name]
    head, before = site.head, listing(site.tree)
    try:
        with site.database.transaction():
            site.offer(op, stamp(world.clock + 1, name))
    except FileSystemError as error:
        assert (site.head, listing(site.tree)) == (head, before)
        assert site.stamp_of(op.id) is None
        return type(error)
    world.clock += 1
    world.log[op.id] = (op, stamp(world.clock, name))
    return None


# --- names


def test_a_conflict_name_keeps_the_extension_and_names_device_and_operation():
    op = OpId("laptop-a1b2c3-9f3c-42")
    assert conflict_name(b"report.txt", op) == b"report (conflict laptop a1b2c3-9f3c-42).txt"
    assert conflict_name(b"report", op) == b"report (conflict laptop a1b2c3-9f3c-42)"
    assert conflict_name(b".bashrc", op) == b".bashrc (conflict laptop a1b2c3-9f3c-42)"
    assert conflict_name(b"report.txt", op, 2) == b"report (conflict laptop a1b2c3-9f3c-42 2).txt"


def test_a_conflict_name_of_a_conflict_name_does_not_grow():
    first = conflict_name(b"f.txt", OpId("x-a1b2c3-9f3c-1"), 3)
    assert is_conflict(first)
    assert without_conflict(first) == b"f.txt"
    assert conflict_name(first, OpId("y-a1b2c3-9f3c-2")) == b"f (conflict y a1b2c3-9f3c-2).txt"
    assert not is_conflict(b"a (conflict of interest).txt")
    assert without_conflict(b" (conflict x a1b2c3-9f3c-1)") == b" (conflict x a1b2c3-9f3c-1)"


@pytest.mark.parametrize("name", [b"x" * 255, "ü".encode() * 127, b"n." + b"e" * 250, b"\xff" * 255])
def test_a_conflict_name_has_at_most_255_bytes_and_cuts_no_character(name: bytes):
    made = conflict_name(name, OpId("laptop-a1b2c3-9f3c-42"), 12)
    assert len(made) <= 255
    assert is_conflict(made)
    if name != b"\xff" * 255:
        made.decode()


def test_a_set_of_versions_that_no_message_could_carry_starts_anew():
    many = Version("+".join(f"laptop-a1b2c3-9f3c-{n:014}" for n in range(1, 120)))
    assert len(many) <= VERSION_MAX_CHARS
    assert union(many, OpId("z-a1b2c3-9f3c-1")) == many + "+z-a1b2c3-9f3c-1"
    full = Version("+".join([many, *(f"x-a1b2c3-9f3c-{n}" for n in range(1, 30))]))
    assert union(full, OpId("z-a1b2c3-9f3c-1")) == "z-a1b2c3-9f3c-1"
    assert union(Version("b+a"), OpId("a")) == "a+b"


# --- create


def test_create_makes_a_node_a_name_and_a_version(world: World):
    a = world.clients["a"]
    assert strict(world, "a", a.mkdir("d")) is None
    assert strict(world, "a", a.create("d/f", "one")) is None
    tree = world.meet()
    assert listing(tree) == {"d": "/", "d/f": sign("one")}
    view = tree.node(a.at("d/f").node)
    assert (view.mode, view.uid, view.size, view.nlink, view.version) == (0o644, 1000, 3, 1, f"{C1}-2")


def test_create_on_a_taken_name_takes_a_conflict_name_and_the_occupant_keeps_his(world: World):
    world.do("a", world.clients["a"].create("f.txt", "one"))
    world.do("b", world.clients["b"].create("f.txt", "two"))
    conflict = "f (conflict b a1b2c3-9f3c-1).txt"
    assert listing(world.meet()) == {"f.txt": sign("one"), conflict: sign("two")}
    assert [path.decode() for path, _ in world.sites["b"].tree.conflicts()] == [conflict]


def test_two_directories_of_one_name_become_one(world: World):
    for name in "ab":
        client = world.clients[name]
        world.do(name, client.mkdir("d"))
        world.do(name, client.create(f"d/{name}", name))
    tree = world.meet()
    assert listing(tree) == {"d": "/", "d/a": sign("a"), "d/b": sign("b")}
    winner = world.clients["a"].at("d").node
    assert tree.aliases_into(winner) == ("b-a1b2c3-9f3c-1",)
    assert tree.resolve(NodeId("b-a1b2c3-9f3c-1")) == winner


@pytest.mark.parametrize(("kind", "text", "target"), [("file", "same", b""), ("symlink", "", b"to")])
def test_the_same_file_or_symlink_created_twice_is_one(world: World, kind, text: str, target: bytes):
    for name in "ab":
        world.do(name, world.clients[name].create("f", text, kind=kind, target=target))
    tree = world.meet()
    assert list(listing(tree)) == ["f"]
    assert tree.conflicts() == []


def test_empty_files_and_symlinks_to_elsewhere_are_not_merged(world: World):
    for name in "ab":
        world.do(name, world.clients[name].create("empty"))
        world.do(name, world.clients[name].create("s", kind="symlink", target=name.encode()))
    assert len(listing(world.meet())) == 4


def test_create_in_an_unknown_folder_goes_to_the_hidden_one(world: World):
    lost = world.clients["a"].create("f", "one")
    world.do("a", type(lost)(id=lost.id, time_ns=1, kind="file", parent=NodeId(f"{C1}-99"), name=b"f", attrs=ATTRS))
    tree = world.meet()
    assert listing(tree) == {".lost/f": ""}
    hidden = tree.lookup(ROOT, b".lost")
    assert hidden is not None
    assert hidden.node == LOST
    assert tree.entries(ROOT) == []


def test_create_in_a_removed_folder_brings_it_back_with_its_parents(world: World):
    a, b = world.clients["a"], world.clients["b"]
    for path in ("x", "x/y", "x/y/z"):
        world.do("a", a.mkdir(path))
    world.meet()
    for path in ("x/y/z", "x/y", "x"):
        world.do("a", a.rmdir(path))
    world.do("b", b.create("x/y/z/f", "new"))
    assert listing(world.meet()) == {"x": "/", "x/y": "/", "x/y/z": "/", "x/y/z/f": sign("new")}


def test_a_removed_folder_that_comes_back_where_another_folder_is_merges_with_it(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("d"))
    world.meet()
    world.do("a", a.rmdir("d"))
    world.do("a", a.mkdir("d"))
    world.do("b", b.create("d/f", "new"))
    tree = world.meet()
    assert listing(tree) == {"d": "/", "d/f": sign("new")}
    assert tree.resolve(NodeId(f"{C1}-1")) == f"{C1}-3"


def test_deep_chains_of_removed_folders_come_back_without_recursion():
    with World("a") as world:
        a = world.clients["a"]
        paths = ["/".join(["d"] * depth) for depth in range(1, 400)]
        for path in paths:
            world.do("a", a.mkdir(path))
        late = a.create(paths[-1] + "/f", "deep")
        for path in reversed(paths):
            world.do("a", a.rmdir(path))
        world.do("a", late)
        assert len(listing(a.tree)) == 400


def test_strict_create(world: World):
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    world.do("a", a.mkdir("d"))
    assert strict(world, "a", a.create("f", "one")) is errors.Exists
    assert strict(world, "a", a.create("f", "two")) is errors.Exists
    assert strict(world, "a", a.mkdir("d")) is errors.Exists
    assert strict(world, "a", a.create("f/x")) is errors.NotADirectory
    into = a.create("d/x")
    world.do("a", a.rmdir("d"))
    assert strict(world, "a", into) is errors.NotFound


# --- write


def test_a_write_on_the_current_version_follows_it(world: World):
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    assert strict(world, "a", a.write("f", "two")) is None
    view = world.meet().node(a.at("f").node)
    assert (view.content, view.version, view.mtime_ns) == (data("two"), f"{C1}-2", 77)


def test_a_write_on_another_version_keeps_both_beside_each_other(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("d"))
    world.do("a", a.create("d/f.txt", "one"))
    world.do("a", a.chmod("d/f.txt", 0o600))
    world.meet()
    mine, his = a.write("d/f.txt", "mine"), b.write("d/f.txt", "his")
    world.do("a", mine)
    world.do("b", his)
    conflict = "d/f (conflict b a1b2c3-9f3c-1).txt"
    tree = world.meet()
    assert listing(tree) == {"d": "/", "d/f.txt": sign("mine"), conflict: sign("his")}
    fork = tree.node(NodeId(his.id))
    assert (fork.mode, fork.mtime_ns, fork.version) == (0o600, 77, his.id)
    # The author of the fork goes on in his fork, whatever he calls the file.
    more = Write(**b.next(), node=his.node, base=Version(his.id), content=data("more"), name=b"f.txt", mtime_ns=78)
    world.do("b", more)
    assert listing(world.meet())[conflict] == sign("more")


def test_the_same_bytes_written_by_two_are_one_version_with_two_names(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    world.do("a", a.write("f", "same"))
    world.do("b", b.write("f", "same"))
    tree = world.meet()
    assert listing(tree) == {"f": sign("same")}
    assert tree.seen_version(a.at("f").node) == f"{C1}-2+b-a1b2c3-9f3c-1"


def test_a_write_whose_base_had_the_current_bytes_follows(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    old = b.write("f", "new")
    world.do("a", a.write("f", "two"))
    world.do("a", a.write("f", "one"))
    world.do("b", old)
    assert listing(world.meet()) == {"f": sign("new")}


def test_an_edit_beats_a_delete(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    edit, delete = a.write("f", "two"), b.unlink("f")
    world.do("b", delete)
    world.do("a", edit)
    assert listing(world.meet()) == {"f": sign("two")}
    with World("a", "b") as other:
        a, b = other.clients["a"], other.clients["b"]
        other.do("a", a.create("f", "one"))
        other.meet()
        edit, delete = a.write("f", "two"), b.unlink("f")
        other.do("a", edit)
        other.do("b", delete)
        assert listing(other.meet()) == {"f": sign("two")}


def test_a_write_to_an_unknown_file_is_found_in_the_hidden_folder(world: World):
    a = world.clients["a"]
    node = NodeId("z-a1b2c3-9f3c-7")
    world.do("a", Write(**a.next(), node=node, base=None, content=data("x"), name=b"hint", mtime_ns=5))
    tree = world.meet()
    assert listing(tree) == {".lost/hint": sign("x")}
    # Its Create, should it come, changes nothing.
    late = Client("z", tree)
    late.sequence = 6
    world.do("a", late.create("f", "y"))
    assert listing(world.meet()) == {".lost/hint": sign("x")}


def test_writing_clears_set_user_id_where_the_author_says_so(world: World):
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    world.do("a", a.chmod("f", 0o6755))
    link = a.at("f")
    base = a.tree.seen_version(link.node)
    world.do(
        "a",
        Write(**a.next(), node=link.node, base=base, content=data("2"), name=b"f", mtime_ns=5, clear_suid=True),
    )
    assert world.meet().node(link.node).mode == 0o755


def test_strict_write(world: World):
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    world.do("a", a.mkdir("d"))
    stale = a.write("f", "stale")
    world.do("a", a.write("f", "two"))
    assert strict(world, "a", stale) is errors.StaleHandle
    assert strict(world, "a", a.write("d", "x")) is errors.IsADirectory
    unknown = Write(**a.next(), node=NodeId(f"{C1}-99"), base=None, content=Content(), name=b"n", mtime_ns=0)
    assert strict(world, "a", unknown) is errors.NotFound
    removed = a.write("f", "three")
    world.do("a", a.unlink("f"))
    assert strict(world, "a", removed) is errors.StaleHandle
    # The same, tentative, brings the file back.
    world.do("a", removed)
    assert listing(world.meet())["f"] == sign("three")


# --- attributes


def test_attributes_are_set_field_by_field_and_the_later_wins(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    link = a.at("f")
    world.do("a", SetAttr(**a.next(), node=link.node, mode=0o600, xattrs={b"user.x": b"1", b"user.y": b"2"}))
    world.do("b", SetAttr(**b.next(), node=link.node, uid=5, mtime_ns=9, xattrs_gone=(b"user.y",)))
    world.do("b", SetAttr(**b.next(), node=link.node, gid=6, atime_ns=8))
    view = world.meet().node(link.node)
    assert (view.mode, view.uid, view.gid, view.mtime_ns, view.atime_ns) == (0o600, 5, 6, 9, 8)
    assert view.xattrs == {b"user.x": b"1"}


def test_the_root_can_get_attributes_and_nothing_else(world: World):
    a = world.clients["a"]
    assert strict(world, "a", SetAttr(**a.next(), node=ROOT, mode=0o700)) is None
    assert world.meet().node(ROOT).mode == 0o700
    refused = [
        SetAttr(**a.next(), node=LOST, mode=0o700),
        Write(**a.next(), node=ROOT, base=None, content=Content(), name=b"n", mtime_ns=0),
        Unlink(**a.next(), link=LinkId(LOST), rev=Version("x"), node=LOST, version=None, last=True),
        Rmdir(**a.next(), link=LinkId(ROOT), rev=Version("x"), node=ROOT),
        Rename(**a.next(), link=LinkId(LOST), node=LOST, version=None, parent=ROOT, name=b"n"),
    ]
    for op in refused:
        assert strict(world, "a", op) is errors.NotPermitted
        world.do("a", op)  # from a peer: total, and without effect
    assert listing(world.meet()) == {}


def test_strict_setattr(world: World):
    a = world.clients["a"]
    assert strict(world, "a", SetAttr(**a.next(), node=NodeId(f"{C1}-99"), mode=0)) is errors.NotFound
    world.do("a", a.create("f"))
    late = a.chmod("f", 0o600)
    world.do("a", a.unlink("f"))
    assert strict(world, "a", late) is errors.NotFound
    world.do("a", late)
    assert listing(world.meet()) == {}


# --- link


def test_a_link_is_another_name_of_the_same_file(world: World):
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    assert strict(world, "a", a.link("f", "g")) is None
    tree = world.meet()
    assert a.at("f").node == a.at("g").node
    assert tree.node(a.at("g").node).nlink == 2
    world.do("a", a.unlink("f"))
    assert listing(world.meet()) == {"g": sign("one")}


def test_a_link_that_is_there_already_is_recorded_dead(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    world.do("a", a.link("f", "g"))
    world.do("b", b.link("f", "g"))
    tree = world.meet()
    assert listing(tree) == {"f": sign("one"), "g": sign("one")}
    assert tree.node(a.at("f").node).nlink == 2


def test_a_link_revives_a_removed_file(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    world.do("a", a.unlink("f"))
    world.do("b", b.link("f", "g"))
    assert listing(world.meet()) == {"g": sign("one")}


def test_strict_link(world: World):
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    world.do("a", a.create("g", "two"))
    world.do("a", a.mkdir("d"))
    assert strict(world, "a", a.link("f", "g")) is errors.Exists
    assert strict(world, "a", a.link("f", "f")) is errors.Exists
    assert strict(world, "a", a.link("d", "e")) is errors.NotPermitted
    late = a.link("f", "h")
    world.do("a", a.unlink("f"))
    assert strict(world, "a", late) is errors.NotFound


# --- drop


def test_unlink_and_rmdir_remove_what_was_seen(world: World):
    a = world.clients["a"]
    world.do("a", a.mkdir("d"))
    world.do("a", a.create("d/f", "one"))
    assert strict(world, "a", a.rmdir("d")) is errors.NotEmpty
    assert strict(world, "a", a.unlink("d/f")) is None
    assert strict(world, "a", a.rmdir("d")) is None
    assert listing(world.meet()) == {}


def test_a_move_beats_a_delete(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    delete = b.unlink("f")
    world.do("a", a.rename("f", "g"))
    world.do("b", delete)
    assert listing(world.meet()) == {"g": sign("one")}


def test_a_folder_into_which_another_puts_something_stays(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("d"))
    world.meet()
    delete = b.rmdir("d")
    world.do("a", a.create("d/f", "one"))
    world.do("b", delete)
    assert listing(world.meet()) == {"d": "/", "d/f": sign("one")}


def test_a_last_name_goes_only_by_one_who_thought_it_was_the_last(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.do("a", a.link("f", "g"))
    world.meet()
    world.do("a", a.unlink("f"))
    world.do("b", b.unlink("g"))
    assert listing(world.meet()) == {"g": sign("one")}


def test_strict_drop(world: World):
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    world.do("a", a.mkdir("d"))
    f, d = a.unlink("f"), a.rmdir("d")
    wrong = Unlink(**a.next(), link=d.link, rev=d.rev, node=d.node, version=None, last=True)
    assert strict(world, "a", wrong) is errors.IsADirectory
    wrong2 = Rmdir(**a.next(), link=f.link, rev=f.rev, node=f.node)
    assert strict(world, "a", wrong2) is errors.NotADirectory
    unknown = Rmdir(**a.next(), link=LinkId(f"{C1}-99"), rev=f.rev, node=f.node)
    assert strict(world, "a", unknown) is errors.NotFound
    world.do("a", a.write("f", "two"))
    assert strict(world, "a", f) is errors.NotAsSeen
    moved = a.rmdir("d")
    world.do("a", a.rename("d", "e"))
    assert strict(world, "a", moved) is errors.NotAsSeen
    again = a.unlink("f")
    world.do("a", a.unlink("f"))
    assert strict(world, "a", again) is errors.NotFound


# --- rename


def test_rename_moves_and_replaces_what_was_seen(world: World):
    a = world.clients["a"]
    world.do("a", a.create("new", "two"))
    world.do("a", a.create("f", "one"))
    world.do("a", a.mkdir("d"))
    assert strict(world, "a", a.rename("new", "f")) is None
    assert listing(world.meet()) == {"d": "/", "f": sign("two")}
    assert strict(world, "a", a.rename("f", "d/g")) is None
    assert listing(world.meet()) == {"d": "/", "d/g": sign("two")}


def test_the_later_of_two_renames_wins(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    world.do("a", a.rename("f", "g"))
    world.do("b", b.rename("f", "h"))
    assert listing(world.meet()) == {"h": sign("one")}


def test_a_rename_revives_what_another_removed(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    world.do("a", a.unlink("f"))
    world.do("b", b.rename("f", "g"))
    assert listing(world.meet()) == {"g": sign("one")}


def test_a_rename_over_what_another_edited_leaves_both(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.do("a", a.create("tmp", "saved"))
    world.meet()
    world.do("a", a.write("f", "edited"))
    world.do("b", b.rename("tmp", "f"))
    assert listing(world.meet()) == {"f": sign("edited"), "f (conflict b a1b2c3-9f3c-1)": sign("saved")}


def test_a_replaced_file_is_followed_to_where_it_is(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("d"))
    world.do("a", a.mkdir("e"))
    world.do("a", a.create("d/f", "one"))
    world.do("a", a.create("d/tmp", "saved"))
    world.meet()
    world.do("a", a.rename("d", "e/d"))
    world.do("b", b.rename("d/tmp", "d/f"))
    assert listing(world.meet()) == {"e": "/", "e/d": "/", "e/d/f": sign("saved")}


def test_two_renames_that_would_make_a_cycle(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("x"))
    world.do("a", a.mkdir("y"))
    world.meet()
    world.do("a", a.rename("x", "y/x"))
    world.do("b", b.rename("y", "x/y"))
    assert listing(world.meet()) == {"y": "/", "y/x": "/"}


def test_a_rolled_back_rename_takes_its_replacement_back_too(world: World):
    a, b = world.clients["a"], world.clients["b"]
    for path in ("x", "y", "y/x"):
        world.do("a", a.mkdir(path))
    world.meet()
    swallow = b.rename("x", "y/x")
    world.do("a", a.rename("y", "x/y"))
    world.do("b", swallow)
    tree = world.meet()
    assert sorted(listing(tree)) == ["x", "x/y", "x/y/x"]


def test_one_of_two_names_renamed_over_the_other_goes(world: World):
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    world.do("a", a.link("f", "g"))
    world.do("a", a.rename("f", "g", replace=False))
    assert listing(world.meet()) == {"g": sign("one")}


def test_a_rename_to_where_it_is_only_counts_as_a_placing(world: World):
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    op = a.rename("f", "f")
    world.do("a", op)
    assert listing(world.meet()) == {"f": sign("one")}
    assert a.at("f").rev == op.id


def test_strict_rename(world: World):
    a = world.clients["a"]
    for path in ("d", "d/sub", "e"):
        world.do("a", a.mkdir(path))
    world.do("a", a.create("f", "one"))
    world.do("a", a.create("g", "two"))
    assert strict(world, "a", a.rename("f", "g", replace=False)) is errors.Exists
    assert strict(world, "a", a.rename("e", "d", replace=False)) is errors.NotEmpty
    assert strict(world, "a", a.rename("e", "d")) is errors.NotEmpty
    assert strict(world, "a", a.rename("d", "d/sub/d")) is errors.InvalidArgument
    assert strict(world, "a", a.rename("d", "f")) is errors.NotADirectory
    assert strict(world, "a", a.rename("f", "e")) is errors.IsADirectory
    stale = a.rename("f", "g")
    world.do("a", a.write("g", "three"))
    assert strict(world, "a", stale) is errors.NotAsSeen
    gone = a.rename("f", "h")
    world.do("a", a.unlink("f"))
    assert strict(world, "a", gone) is errors.NotFound
    into = a.rename("g", "e/g")
    world.do("a", a.rmdir("e"))
    assert strict(world, "a", into) is errors.NotFound


def test_what_lost_its_fight_for_a_name_can_be_given_any_other(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.do("b", b.create("f", "two"))
    world.meet()
    assert strict(world, "a", a.rename("f (conflict b a1b2c3-9f3c-1)", "mine")) is None
    tree = world.meet()
    assert tree.conflicts() == []
    assert listing(tree) == {"f": sign("one"), "mine": sign("two")}


# --- what an evaluation touches


def touched(rows: MemoryRows, op: Operation) -> dict:
    evaluation = Evaluation(rows)
    fold(op, evaluation)
    rows.write(evaluation.new)
    return evaluation.touched


def test_absent_rows_and_memberships_are_touched():
    rows = MemoryRows()

    class NoTree:
        pass

    client = Client("a", NoTree())  # type: ignore[arg-type]
    keys = touched(rows, client.create("f", "one"))
    assert keys["at", ROOT, b"f"] == READ | WRITTEN
    assert keys["in", ROOT] == MEMBERS
    assert keys["of", f"{C1}-1"] == MEMBERS
    assert keys["alias", ROOT] == READ
    assert keys["node", f"{C1}-1"] == READ | WRITTEN


def test_what_was_taken_back_was_only_read():
    rows = MemoryRows()
    evaluation = Evaluation(rows)
    evaluation.put_attrs(ROOT, AttrsRow(0, 0, 0, 0, 0, 0))
    evaluation.forget_writes()
    assert evaluation.new.attrs == {}
    assert set(evaluation.touched.values()) == {READ}
