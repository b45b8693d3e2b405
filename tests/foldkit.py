"""For the tests of the fold: the plain reference (a sort and dictionaries), rows to compare, and operations made from
a view.

The reference shares the rules with what it checks, and nothing else: no SQL, no cache, no roll back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from gdah_volume.content import Content, content_of
from gdah_volume.database import Database
from gdah_volume.evaluation import Evaluation
from gdah_volume.ids import LOST, ROOT, Author, LinkId, NodeId, OpId, ServerId, Version, op_id
from gdah_volume.operations import (
    Attrs,
    Create,
    Exchange,
    Kind,
    Link,
    Operation,
    Rename,
    Replaced,
    Rmdir,
    SeenLink,
    SetAttr,
    Unlink,
    Write,
)
from gdah_volume.replica import Replica
from gdah_volume.rows import AttrsRow, Before, LinkRow, NodeRow, VersionRow
from gdah_volume.rules import fold
from gdah_volume.schema import ROOT_MODE
from gdah_volume.stamps import Stamp
from gdah_volume.tree import LinkView, Tree

ATTRS = Attrs(0o644, 1000, 1000, 10, 10)


def stamp(clock: int, server: str = "s1") -> Stamp:
    return Stamp(clock, ServerId(server))


def data(text: str) -> Content:
    return content_of(text.encode())[0]


class MemoryRows:
    """A `Source` of dictionaries."""

    def __init__(self) -> None:
        self.rows = Before(nodes={}, aliases={}, attrs={}, files={}, links={}, versions={}, last={})
        for node in (ROOT, LOST):
            self.rows.nodes[node] = NodeRow("dir")
            self.rows.attrs[node] = AttrsRow(ROOT_MODE, 0, 0, 0, 0, 0)

    def node(self, node: NodeId) -> NodeRow | None:
        return self.rows.nodes.get(node)

    def alias(self, node: NodeId) -> NodeId | None:
        return self.rows.aliases.get(node)

    def attrs(self, node: NodeId) -> AttrsRow | None:
        return self.rows.attrs.get(node)

    def file(self, node: NodeId) -> Any:
        return self.rows.files.get(node)

    def link(self, link: LinkId) -> LinkRow | None:
        return self.rows.links.get(link)

    def version(self, version: Version) -> VersionRow | None:
        return self.rows.versions.get(version)

    def last(self, node: NodeId) -> LinkId | None:
        return self.rows.last.get(node)

    def _live(self) -> Iterable[tuple[LinkId, LinkRow]]:
        return ((link, row) for link, row in sorted(self.rows.links.items()) if row is not None and row.live)

    def link_at(self, parent: NodeId, name: bytes) -> LinkId | None:
        return next((link for link, row in self._live() if row.parent == parent and row.name == name), None)

    def links_of(self, node: NodeId) -> tuple[LinkId, ...]:
        return tuple(link for link, row in self._live() if row.node == node)

    def links_via(self, via: NodeId) -> tuple[LinkId, ...]:
        return tuple(link for link, row in self._live() if row.via == via != row.parent)

    def has_entries(self, node: NodeId, ignoring: Mapping[LinkId, LinkRow | None]) -> bool:
        return any(row.parent == node and link not in ignoring for link, row in self._live())

    def write(self, new: Before) -> None:
        for table in new.__struct_fields__:
            rows = getattr(self.rows, table)
            for key, row in getattr(new, table).items():
                if row is None:
                    rows.pop(key, None)
                else:
                    rows[key] = row


def sorted_fold(log: Mapping[OpId, tuple[Operation, Stamp]]) -> MemoryRows:
    """The definition: all operations in the order of (clock, server, id)."""
    rows = MemoryRows()
    for op, _ in sorted(log.values(), key=lambda item: (item[1].clock, item[1].server, item[0].id)):
        evaluation = Evaluation(rows)
        fold(op, evaluation)
        rows.write(evaluation.new)
    return rows


def rows_of(replica: Replica) -> Before:
    """Every row of the fold that is in the tables, read by SQL and not through the cache."""
    db = replica.database
    found = Before(nodes={}, aliases={}, attrs={}, files={}, links={}, versions={}, last={})
    fresh = type(replica.store)(db)
    for (node,) in db.rows("SELECT id FROM nodes"):
        found.nodes[node] = fresh.node(node)
        if fresh.attrs(node) is not None:
            found.attrs[node] = fresh.attrs(node)
        if fresh.file(node) is not None:
            found.files[node] = fresh.file(node)
    found.aliases.update(db.rows("SELECT node, into_node FROM aliases"))
    for (link,) in db.rows("SELECT id FROM links"):
        found.links[link] = fresh.link(link)
    for (version,) in db.rows("SELECT version FROM versions"):
        found.versions[version] = fresh.version(version)
    found.last.update(db.rows("SELECT node, link FROM last"))
    db.after_rollback.remove(fresh.forget)
    return found


def cached_rows(replica: Replica, like: Before) -> Before:
    """The same rows through the cache of the replica."""
    store = replica.store
    return Before(
        nodes={node: store.node(node) for node in like.nodes},
        aliases={node: store.alias(node) for node in like.aliases},
        attrs={node: store.attrs(node) for node in like.attrs},
        files={node: store.file(node) for node in like.files},
        links={link: store.link(link) for link in like.links},
        versions={version: store.version(version) for version in like.versions},
        last={node: store.last(node) for node in like.last},
    )


def check_tree(rows: Before) -> None:
    """No cycle, all that lives is reachable, names are unique, a directory has one link, no loop of aliases."""
    for node in rows.aliases:
        seen = set()
        walk: NodeId | None = node
        while walk is not None:
            assert walk not in seen, f"loop of aliases at {node}"
            seen.add(walk)
            walk = rows.aliases.get(walk)
    live = {link: row for link, row in rows.links.items() if row is not None and row.live}
    places = [(row.parent, row.name) for row in live.values()]
    assert len(places) == len(set(places)), "two links at one place"
    of: dict[NodeId, list[LinkRow]] = {}
    for row in live.values():
        assert row.node not in rows.aliases, "a live link of a node that was merged"
        assert row.parent not in rows.aliases, "a live link inside a node that was merged"
        assert not row.merged
        of.setdefault(row.node, []).append(row)
    for node, links in of.items():
        kind = rows.nodes[node]
        assert kind is not None
        assert kind.kind != "dir" or len(links) == 1, "a directory with two links"
        seen = set()
        walk = node
        while walk not in (ROOT, LOST):
            assert walk not in seen, f"a cycle above {node}"
            seen.add(walk)
            assert walk in of, f"{node} lies in {walk}, which has been removed"
            walk = of[walk][0].parent
            above = rows.nodes.get(walk)
            assert above is not None
            assert above.kind == "dir"
    for node, file in rows.files.items():
        assert file is not None
        if node not in rows.aliases:
            assert file.version in rows.versions, "a current version without a row"


class Client:
    """Makes operations from what it sees in a tree, as a mount does."""

    def __init__(self, name: str, tree: Tree) -> None:
        self.author = Author(f"{name}-a1b2c3-9f3c")
        self.tree = tree
        self.sequence = 0

    def next(self) -> dict[str, Any]:
        self.sequence += 1
        return {"id": op_id(self.author, self.sequence), "time_ns": 1_000_000 * self.sequence}

    def parent(self, path: str) -> tuple[NodeId, bytes]:
        above, _, name = path.rpartition("/")
        if not above:
            return ROOT, name.encode()
        return self.at(above).node, name.encode()

    def at(self, path: str) -> LinkView:
        found = self.tree.at_path(path.encode())
        assert found is not None, f"nothing at {path}"
        return found

    def create(self, path: str, text: str = "", kind: Kind = "file", target: bytes = b"") -> Create:
        parent, name = self.parent(path)
        content = data(text)
        return Create(**self.next(), kind=kind, parent=parent, name=name, attrs=ATTRS, content=content, target=target)

    def mkdir(self, path: str) -> Create:
        return self.create(path, kind="dir")

    def write(self, path: str, text: str) -> Write:
        link = self.at(path)
        return Write(
            **self.next(),
            node=link.node,
            base=self.tree.seen_version(link.node),
            content=data(text),
            name=link.name,
            mtime_ns=77,
        )

    def chmod(self, path: str, mode: int) -> SetAttr:
        link = self.at(path)
        return SetAttr(**self.next(), node=link.node, version=self.tree.seen_version(link.node), mode=mode)

    def link(self, path: str, new: str) -> Link:
        parent, name = self.parent(new)
        node = self.at(path).node
        return Link(**self.next(), node=node, version=self.tree.seen_version(node), parent=parent, name=name)

    def unlink(self, path: str) -> Unlink:
        link = self.at(path)
        return Unlink(
            **self.next(),
            link=link.link,
            rev=link.rev,
            node=link.node,
            version=self.tree.seen_version(link.node),
            last=self.tree.is_last_name(link),
            also=self.tree.aliases_into(link.node),
        )

    def rmdir(self, path: str) -> Rmdir:
        link = self.at(path)
        also = self.tree.aliases_into(link.node)
        return Rmdir(**self.next(), link=link.link, rev=link.rev, node=link.node, also=also)

    def rename(self, path: str, new: str, *, replace: bool = True) -> Rename:
        link = self.at(path)
        parent, name = self.parent(new)
        there = self.tree.lookup(parent, name)
        replaces = None
        if there is not None and replace and there.link != link.link:
            replaces = Replaced(
                there.link,
                there.rev,
                there.node,
                self.tree.seen_version(there.node),
                self.tree.is_last_name(there),
                self.tree.kind(there.node) == "dir",
                self.tree.aliases_into(there.node),
            )
        return Rename(
            **self.next(),
            link=link.link,
            node=link.node,
            version=self.tree.seen_version(link.node),
            parent=parent,
            name=name,
            also=self.tree.aliases_into(link.node),
            replaces=replaces,
        )

    def exchange(self, path: str, other: str) -> Exchange:
        one, two = self.at(path), self.at(other)
        version = self.tree.seen_version
        seen = SeenLink(two.link, two.rev, two.node, version(two.node))
        return Exchange(**self.next(), link=one.link, rev=one.rev, node=one.node, version=version(one.node), other=seen)


class World:
    """Sites that work apart and then meet; operations sort in the order of their making, unless said otherwise."""

    def __init__(self, *names: str) -> None:
        self.log: dict[OpId, tuple[Operation, Stamp]] = {}
        self.clock = 0
        self.sites = {name: Replica(Database(":memory:")) for name in names}
        self.clients = {name: Client(name, site.tree) for name, site in self.sites.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for site in self.sites.values():
            site.database.close()

    def do(self, name: str, op: Operation, clock: int | None = None) -> OpId:
        """`op` happens at one site, which alone knows of it until they meet."""
        self.clock = max(self.clock + 10, clock or 0)
        at = stamp(self.clock if clock is None else clock, name)
        self.log[op.id] = (op, at)
        site = self.sites[name]
        with site.database.transaction():
            site.accept(op, at)
        return op.id

    def meet(self) -> Tree:
        """Everybody learns everything; all are checked against the sorted fold. Returns the common tree."""
        expected = sorted_fold(self.log).rows
        for site in self.sites.values():
            with site.database.transaction():
                for op, at in reversed(self.log.values()):
                    site.accept(op, at)
            rows = rows_of(site)
            assert rows == expected
            assert cached_rows(site, rows) == rows
        check_tree(expected)
        assert len({site.digest for site in self.sites.values()}) == 1
        return next(iter(self.sites.values())).tree


def listing(tree: Tree) -> dict[str, str]:
    """Path to content's first chunk in hex ("" if empty), "/" for folders, "-> target" for symlinks."""
    found = {}
    for start in (ROOT, LOST):
        for path, view in tree.walk(start):
            text = "/" if view.kind == "dir" else "-> " + view.target.decode() if view.kind == "symlink" else ""
            if view.content.chunks:
                text = view.content.chunks[0].hash.hex()[:8]
            found[path.decode()] = text
    return found


def sign(text: str) -> str:
    """What `listing` shows of a file with this content."""
    chunks = data(text).chunks
    return chunks[0].hash.hex()[:8] if chunks else ""
