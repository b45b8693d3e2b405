"""The tree of a replica as it is on a disk, for `gdah export`: no server runs, the database may be damaged.

Gives plain values: folders with their entries, nodes, contents, what is in the trash. Where the tables of the tree
cannot be read and the log is whole, the tree is folded anew from the log; else what can be read of it is given, with a
word on what cannot. Writes nothing; the writing of files is in `export_files`.

Threading: one thread. Memory: about 1 kB for each name.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from gdah_volume.content import EMPTY, Content, check_content
from gdah_volume.database import Database
from gdah_volume.errors import GdahError
from gdah_volume.ids import LOST, ROOT, LinkId, NodeId, Version
from gdah_volume.layout import Place
from gdah_volume.operations import content_in, from_json
from gdah_volume.reading import reading, salvaged
from gdah_volume.refold import Refold, scratch
from gdah_volume.rows import unpack_content
from gdah_volume.stamps import PENDING_CLOCK, PENDING_SERVER, Stamp
from gdah_volume.store import NodeRecord, Store

_FOLD_ALL = Stamp(2 * PENDING_CLOCK, PENDING_SERVER)
"""Above every stamp: no undo records are made."""
BROKEN = (sqlite3.Error, GdahError, msgspec.MsgspecError, ValueError, TypeError)
"""How a row that is damaged shows itself."""
LOST_NAME = b".lost"


@dataclass(frozen=True, slots=True)
class Entry:
    """A name. `link` tells two names apart that damage has given the same place."""

    name: bytes
    node: NodeId
    link: LinkId


@dataclass(frozen=True, slots=True)
class Gone:
    """What is not in the tree any more: `parent` is where it was; `when` and `by` are empty if nobody knows."""

    parent: NodeId
    name: bytes
    node: NodeId
    version: Version | None
    when: str
    by: str


@dataclass
class ExportSource:
    """Invariant: `children` has every live name that could be read, once."""

    database: Database
    log: Database
    """Where `operations` is; the same, unless the tree was folded anew."""
    children: dict[NodeId, list[Entry]] = field(default_factory=dict)
    dead: dict[NodeId, tuple[NodeId, bytes]] = field(default_factory=dict)
    """The last place of nodes without a name."""
    places: dict[NodeId, tuple[NodeId, bytes]] = field(default_factory=dict)
    names: dict[NodeId, int] = field(default_factory=dict)
    """How many live names a node has."""
    trouble: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(self.database)
        rows, trouble = salvaged(self.database, "links", "id, node, parent, name, live, merged", "id")
        if trouble:
            self.trouble.append(f"some names cannot be read: {trouble}")
        last: dict[NodeId, LinkId] = dict(salvaged(self.database, "last", "node, link", "node")[0])
        for link, node, parent, raw, live, merged in rows:
            name = raw if isinstance(raw, bytes) else str(raw).encode("utf-8", "surrogateescape")
            if live:
                self.children.setdefault(parent, []).append(Entry(name, node, link))
                self.places.setdefault(node, (parent, name))
                self.names[node] = self.names.get(node, 0) + 1
            elif not merged and (node not in self.dead or last.get(node) == link):
                self.dead[node] = (parent, name)
        if self.children.get(LOST):
            self.children.setdefault(ROOT, []).append(Entry(LOST_NAME, LOST, LinkId(LOST)))
        for entries in self.children.values():
            entries.sort(key=lambda entry: (entry.name, entry.link))

    def record(self, node: NodeId) -> NodeRecord:
        """Raises one of BROKEN."""
        found = self.store.record(node)
        if found is None or found.attrs is None:
            raise ValueError(f"there is no row of {node}")
        return found

    def times(self, node: NodeId, record: NodeRecord) -> tuple[int, int]:
        """(atime, mtime) in ns."""
        assert record.attrs is not None
        touched = None
        try:
            touched = self.store.touched(node)
        except BROKEN:
            self.trouble.append(f"the times of {node} cannot be read")
        mtime_ns = record.attrs.mtime_ns if touched is None or touched[0] is None else touched[0]
        return record.attrs.atime_ns, mtime_ns

    def content(self, version: Version) -> Content:
        """Of a version; from the log where its row is damaged. Raises one of BROKEN."""
        try:
            row = self.store.version(version)
            if row is not None:
                return check_content(unpack_content(row.content))
        except BROKEN as error:
            self.trouble.append(f"the content of version {version} is taken from the log: {error}")
        for one in version.split("+"):
            logged = self.log.row("SELECT operation FROM operations WHERE id = ?", (one,))
            if logged is not None:
                return check_content(content_in(from_json(logged[0])))
        raise ValueError(f"nothing tells the content of version {version}")

    def content_of(self, record: NodeRecord) -> Content:
        return EMPTY if record.file is None or not record.file.version else self.content(record.file.version)

    # --- the trash

    def gone(self) -> Iterator[Gone]:
        """Removed files and earlier versions, those of one node in the order of their names."""
        removed = self._removals()
        for node, (parent, name) in sorted(self.dead.items()):
            if node not in self.places:
                when, by = removed.get(node, ("", ""))
                yield Gone(parent, name, node, None, when, by)
        rows, trouble = salvaged(self.database, "versions", "version, node", "version")
        if trouble:
            self.trouble.append(f"some versions cannot be read: {trouble}")
        for version, node in rows:
            where = self.places.get(node) or self.dead.get(node)
            if where is not None and not self._is_current(version, node):
                yield Gone(*where, node, version, *self._made(version))

    def _is_current(self, version: Version, node: NodeId) -> bool:
        """Or the same bytes as the current one."""
        try:
            file = self.record(node).file
            return file is None or version == file.version or self.content(version) == self.content(file.version)
        except BROKEN:
            return False

    def _made(self, version: Version) -> tuple[str, str]:
        one = version.partition("+")[0]
        try:
            row = self.log.row("SELECT at FROM operations WHERE id = ?", (one,))
        except sqlite3.Error:
            row = None
        return ("" if row is None else row[0], one)

    def _removals(self) -> dict[NodeId, tuple[str, str]]:
        """node -> (when, by which operation) it was removed, as far as the log tells."""
        found: dict[NodeId, tuple[str, str]] = {}
        try:
            for op, at, text in self.log.execute(
                "SELECT id, at, operation FROM operations WHERE type IN ('unlink', 'rmdir', 'rename')"
                " ORDER BY clock, server, id"
            ):
                raw = msgspec.json.decode(text.encode("utf-8", "surrogateescape"))
                seen = raw if raw["type"] != "rename" else raw.get("replaces")
                if seen:
                    found[seen["node"]] = (at, op)
        except (*BROKEN, KeyError, AttributeError) as error:
            self.trouble.append(f"when some files were removed cannot be read: {error}")
        return found


@contextmanager
def opened(place: Place) -> Iterator[ExportSource]:
    """The tree of a replica. Raises StorageFailed when its database cannot be read at all."""
    with reading(place.database) as database:
        damage = _damage_of_tables(database)
        if not damage:
            yield ExportSource(database, database)
            return
        with scratch() as anew:
            why_not = _folded(database, anew)
            if why_not:
                source = ExportSource(database, database)
                source.trouble += [
                    f"the tables of the tree are damaged ({damage})",
                    f"the log does not help: {why_not}",
                ]
                yield source
                return
            source = ExportSource(anew, database)
            source.trouble.append(
                f"the tables of the tree are damaged ({damage}); the tree was folded anew from the log"
            )
            yield source


def _damage_of_tables(database: Database) -> str:
    """What SQLite says when it reads all that the tree is made of, or when counting finds what cannot be."""
    try:
        for table in ("nodes", "links", "versions", "last", "touched_at", "aliases"):
            for _ in database.execute(f"SELECT * FROM {table}"):
                pass
        orphans = database.row(
            "SELECT count(*) FROM links l WHERE live = 1 AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = l.node)"
        )
        lost = database.row(
            "SELECT count(*) FROM links l WHERE live = 1 AND parent NOT IN ('root', '.lost')"
            " AND NOT EXISTS (SELECT 1 FROM links p WHERE p.live = 1 AND p.node = l.parent)"
        )
    except sqlite3.Error as error:
        return str(error)
    assert orphans is not None
    assert lost is not None
    return f"{orphans[0]} names of nothing, {lost[0]} names in no folder" if orphans[0] or lost[0] else ""


def _folded(database: Database, anew: Database) -> str:
    """Fold the whole log into `anew`; "" or why it is not whole."""
    refold = Refold(anew, _FOLD_ALL)
    count = 0
    try:
        counters = database.row("SELECT operations, pruned_to FROM counters")
        if counters is None or counters[1]:
            return "its older part was pruned"
        for clock, server, op, text in database.execute(
            "SELECT clock, server, id, operation FROM operations ORDER BY clock, server, id"
        ):
            refold.take(from_json(text), (clock, server, op))
            count += clock < PENDING_CLOCK
        refold.finish()
    except BROKEN as error:
        return str(error)
    if count != counters[0]:
        return f"it has {count} operations of {counters[0]}"
    return ""
