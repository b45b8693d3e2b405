"""Read queries: names, listings, paths, figures, and a cache that is right after every roll back."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdah_volume import errors
from gdah_volume.caching import Cache, Missing
from gdah_volume.content import CHUNK_SIZE, Chunk, ChunkHash, Content
from gdah_volume.database import Database
from gdah_volume.ids import LOST, ROOT, NodeId
from gdah_volume.operations import Create, SetAttr, Write
from gdah_volume.replica import Replica
from gdah_volume.tree import Tree
from tests.foldkit import ATTRS, Client, World, data, listing, stamp


@pytest.fixture
def world():
    with World("a", "b") as made:
        yield made


@pytest.fixture
def full(world: World) -> Tree:
    a = world.clients["a"]
    for path in ("d", "d/e"):
        world.do("a", a.mkdir(path))
    for path in ("d/f", "d/e/g", "h"):
        world.do("a", a.create(path, path))
    world.do("a", a.create("s", kind="symlink", target=b"d/f"))
    return world.sites["a"].tree


def test_lookup(world: World, full: Tree):
    found = full.lookup(ROOT, b"d")
    assert found is not None
    assert (found.parent, found.name, full.kind(found.node)) == (ROOT, b"d", "dir")
    assert full.lookup(ROOT, b"none") is None
    with pytest.raises(errors.NotFound):
        full.lookup(NodeId("z-a1b2c3-9f3c-1"), b"x")
    with pytest.raises(errors.NotADirectory):
        full.lookup(world.clients["a"].at("h").node, b"x")
    folder = world.clients["a"].at("d/e").node
    world.do("a", world.clients["a"].unlink("d/e/g"))
    world.do("a", world.clients["a"].rmdir("d/e"))
    with pytest.raises(errors.NotFound):
        full.lookup(folder, b"g")
    assert full.lookup(found.node, b"e") is None


def test_node(world: World, full: Tree):
    root = full.node(ROOT)
    assert (root.kind, root.mode, root.nlink) == ("dir", 0o755, 1)
    link = full.at_path(b"s")
    assert link is not None
    view = full.node(link.node)
    assert (view.kind, view.target, view.size, view.version) == ("symlink", b"d/f", 3, None)
    assert view.content == Content()
    with pytest.raises(errors.NotFound):
        full.node(NodeId("z-a1b2c3-9f3c-1"))
    with pytest.raises(errors.NotFound):
        full.kind(NodeId("z-a1b2c3-9f3c-1"))
    file = world.clients["a"].at("h").node
    world.do("a", world.clients["a"].unlink("h"))
    dead = full.node(file)
    assert (dead.nlink, dead.content, full.alive(file)) == (0, data("h"), False)
    assert full.path(file) is None
    assert full.alive(ROOT)
    assert full.alive(LOST)
    assert "file" in repr(dead)


def test_entries_are_sorted_by_bytes_and_can_be_continued(world: World):
    a = world.clients["a"]
    for name in ("b", "a", "é", "Z", "zz"):
        world.do("a", a.create(name))
    tree = a.tree
    names = [name for name, _, _ in tree.entries(ROOT)]
    assert names == sorted(names) == [b"Z", b"a", b"b", b"zz", "é".encode()]
    assert [name for name, _, _ in tree.entries(ROOT, after=b"a", limit=2)] == [b"b", b"zz"]
    assert tree.count_entries(ROOT) == 5
    with pytest.raises(errors.NotADirectory):
        tree.entries(a.at("a").node)


def test_paths(world: World, full: Tree):
    a = world.clients["a"]
    assert full.path(ROOT) == b""
    assert full.path(a.at("d/e/g").node) == b"d/e/g"
    assert full.path_of_link(a.at("d/e/g")) == b"d/e/g"
    assert full.path_of_link(a.at("h")) == b"h"
    assert full.at_path(b"") is None
    assert full.at_path(b"/d//f/") == a.at("d/f")
    assert full.at_path(b"d/none") is None
    with pytest.raises(errors.NotADirectory):
        full.at_path(b"h/x")
    world.do("a", a.rename("d", "q"))
    assert full.path(a.at("q/e/g").node) == b"q/e/g"


def test_walk_goes_from_parents_to_children(full: Tree, world: World):
    assert [path for path, _ in full.walk()] == [b"d", b"h", b"s", b"d/e", b"d/f", b"d/e/g"]
    below = world.clients["a"].at("d").node
    assert [path for path, _ in full.walk(below)] == [b"d/e", b"d/f", b"d/e/g"]
    with pytest.raises(errors.NotFound):
        list(full.walk(NodeId("z-a1b2c3-9f3c-1")))


def test_the_hidden_folder_can_be_reached_by_name_when_it_holds_something(world: World):
    a = world.clients["a"]
    assert a.tree.lookup(ROOT, b".lost") is None
    op = Create(**a.next(), kind="file", parent=NodeId("z-a1b2c3-9f3c-1"), name=b"f", attrs=ATTRS)
    world.do("a", op)
    found = a.tree.lookup(ROOT, b".lost")
    assert found is not None
    assert found.node == LOST
    assert a.tree.path(NodeId(op.id)) == b".lost/f"
    assert a.tree.path(LOST) == b".lost"
    world.do("a", a.rename(".lost/f", "found"))
    assert listing(a.tree) == {"found": ""}
    # A user's own file of that name hides it.
    world.do("a", a.create(".lost", "mine"))
    assert a.at(".lost").node != LOST


def test_names_of_a_file(world: World):
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    assert a.tree.is_last_name(a.at("f"))
    world.do("a", a.link("f", "g"))
    node = a.at("f").node
    assert [link.name for link in a.tree.links(node)] == [b"f", b"g"]
    assert not a.tree.is_last_name(a.at("g"))
    assert a.tree.seen_version(node) == node
    assert a.tree.seen_version(ROOT) is None
    assert a.at("f") != a.at("g")
    assert len({a.at("f"), a.at("f"), a.at("g")}) == 2


def test_aliases_are_followed_everywhere(world: World):
    for name in "abc"[:2]:
        world.do(name, world.clients[name].mkdir("d"))
        world.do(name, world.clients[name].create(f"d/{name}", name))
    tree = world.meet()
    other = NodeId("b-a1b2c3-9f3c-1")
    assert tree.resolve(other) == "a-a1b2c3-9f3c-1"
    assert tree.alive(other)
    assert tree.kind(other) == "dir"
    assert tree.path(other) == b"d"
    assert [name for name, _, _ in tree.entries(other)] == [b"a", b"b"]
    found = tree.lookup(other, b"a")
    assert found is not None
    assert found.parent == "a-a1b2c3-9f3c-1"
    assert tree.node(other).node == "a-a1b2c3-9f3c-1"


def test_totals(world: World, full: Tree):
    assert full.totals() == (4, 2, len("d/f") + len("d/e/g") + len("h"))
    world.do("a", world.clients["a"].unlink("h"))
    assert full.totals() == (3, 2, len("d/f") + len("d/e/g"))


def test_long_lists_of_chunks_are_not_read_with_the_node(world: World):
    a = world.clients["a"]
    chunks = tuple(Chunk(i, ChunkHash(bytes([i % 256]) * 32), CHUNK_SIZE) for i in range(5000))
    content = Content(5000 * CHUNK_SIZE, chunks)
    world.do("a", a.create("big", "x"))
    link = a.at("big")
    version = a.tree.seen_version(link.node)
    world.do("a", Write(**a.next(), node=link.node, base=version, content=content, name=b"big", mtime_ns=1))
    seen: list[str] = []
    a.tree.store.forget()
    a.tree.store.database.connection.set_trace_callback(seen.append)
    view = a.tree.node(link.node)
    assert view.size == content.size
    assert not any("versions" in sql for sql in seen)
    assert view.content == content
    a.tree.store.database.connection.set_trace_callback(None)


def test_what_is_cached_is_right_after_a_roll_back_of_operations(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.create("f", "one"))
    world.meet()
    world.do("a", a.rename("f", "g"), clock=100)
    node = a.at("g").node
    assert a.tree.node(node).mode == 0o644
    assert a.tree.lookup(ROOT, b"f") is None
    world.do("b", b.rename("f", "h"), clock=200)
    world.do("b", b.chmod("h", 0o600), clock=210)
    tree = world.meet()
    assert tree.lookup(ROOT, b"g") is None
    assert tree.path(node) == b"h"
    assert tree.node(node).mode == 0o600


def test_a_reader_has_a_tree_of_its_own(tmp_path: Path):
    database = Database(tmp_path / "v.db")
    replica = Replica(database)
    client = Client("a", replica.tree)
    with database.transaction():
        replica.accept(client.create("f", "one"), stamp(1))
    reader = database.reader()
    tree = Tree(reader)
    assert listing(tree) == listing(replica.tree)
    with database.transaction():
        replica.accept(client.write("f", "two"), stamp(2))
        replica.accept(client.mkdir("d"), stamp(3))
        assert tree.lookup(ROOT, b"d") is None
    assert listing(tree) == listing(replica.tree)
    assert tree.totals() == replica.tree.totals()
    reader.close()
    database.close()


# --- times


def test_times_of_folders_follow_their_entries(world: World):
    a = world.clients["a"]
    made = a.mkdir("d")
    world.do("a", made)
    tree = a.tree
    folder = NodeId(made.id)
    assert (tree.node(folder).mtime_ns, tree.node(folder).ctime_ns) == (ATTRS.mtime_ns, made.time_ns)
    assert tree.node(ROOT).mtime_ns == made.time_ns
    inside = a.create("d/f")
    world.do("a", inside)
    assert tree.node(folder).mtime_ns == inside.time_ns
    explicit = SetAttr(**a.next(), node=folder, mtime_ns=5)
    world.do("a", explicit)
    assert (tree.node(folder).mtime_ns, tree.node(folder).ctime_ns) == (5, explicit.time_ns)
    gone = a.unlink("d/f")
    world.do("a", gone)
    assert tree.node(folder).mtime_ns == gone.time_ns
    moved = a.rename("d", "e")
    world.do("a", moved)
    assert (tree.node(folder).mtime_ns, tree.node(folder).ctime_ns) == (gone.time_ns, moved.time_ns)
    assert tree.node(ROOT).mtime_ns == moved.time_ns


def test_an_earlier_stamp_does_not_change_a_folders_time(world: World):
    a, b = world.clients["a"], world.clients["b"]
    world.do("a", a.mkdir("d"), clock=10)
    world.meet()
    late = b.create("d/late")
    newest = a.create("d/new")
    world.do("a", newest, clock=100)
    world.do("b", late, clock=50)
    tree = world.meet()
    assert tree.node(a.at("d").node).mtime_ns == newest.time_ns


def test_times_of_a_files_names(world: World):
    a = world.clients["a"]
    world.do("a", a.create("f", "one"))
    node = a.at("f").node
    link = a.link("f", "g")
    world.do("a", link)
    assert a.tree.node(node).ctime_ns == link.time_ns
    assert a.tree.node(node).mtime_ns == ATTRS.mtime_ns
    write = a.write("f", "two")
    world.do("a", write)
    assert (a.tree.node(node).mtime_ns, a.tree.node(node).ctime_ns) == (77, write.time_ns)


def test_times_of_pending_operations_go_with_them():
    replica = Replica(Database(":memory:"))
    client = Client("a", replica.tree)
    with replica.database.transaction():
        made = client.mkdir("d")
        replica.accept(made, stamp(1))
        op = client.create("d/f")
        replica.add_pending(op, strict=True)
    folder = NodeId(made.id)
    assert replica.tree.node(folder).mtime_ns == op.time_ns
    with replica.database.transaction():
        changes = replica.drop_pending(op.id)
    assert folder in changes.nodes
    assert replica.tree.node(folder).mtime_ns == ATTRS.mtime_ns
    with replica.database.transaction():
        again = client.create("d/g")
        replica.add_pending(again, strict=True)
        replica.accept(again, stamp(5))
    assert replica.tree.node(folder).mtime_ns == again.time_ns
    assert replica.database.rows("SELECT node FROM touched_at WHERE pending = 1") == []
    replica.database.close()


# --- the cache


def test_the_cache_is_bounded_and_keeps_what_is_used():
    cache: Cache[int, str] = Cache(10)
    for n in range(100):
        cache.put(n, str(n))
        assert cache.get(0) == "0"
    held = [n for n in range(100) if not isinstance(cache.get(n), Missing)]
    assert len(held) <= 20
    assert {0, 99} <= set(held)
    cache.drop(99)
    assert isinstance(cache.get(99), Missing)
    cache.clear()
    assert isinstance(cache.get(0), Missing)
