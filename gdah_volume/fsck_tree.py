"""Is a tree a tree? No cycle, all that lives is reachable, names are unique, a folder has one name, aliases end
somewhere, what can be derived is right. Reads the tables; knows no log.

Threading: one thread. Memory: some 300 bytes for each folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gdah_volume.content import check_content
from gdah_volume.database import Database
from gdah_volume.errors import GdahError
from gdah_volume.findings import Report
from gdah_volume.ids import LOST, ROOT, check_name
from gdah_volume.names import is_conflict
from gdah_volume.rows import unpack_content
from gdah_volume.undo import unpack_undo

_RULES: tuple[tuple[str, str, str], ...] = (
    (
        "tree.names",
        (
            "SELECT parent || '/' || CAST(name AS TEXT) FROM links WHERE live = 1 GROUP BY parent, name"
            " HAVING count(*) > 1"
        ),
        "two links are at one place",
    ),
    (
        "tree.node",
        "SELECT id FROM links l WHERE NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = l.node)",
        "a link leads to a node that there is not",
    ),
    (
        "tree.parent",
        "SELECT l.id FROM links l LEFT JOIN nodes n ON n.id = l.parent WHERE l.live = 1 AND n.kind IS NOT 'dir'",
        "a link lies in what is no folder",
    ),
    (
        "tree.alias",
        "SELECT l.id FROM links l JOIN aliases a ON a.node IN (l.node, l.parent) WHERE l.live = 1",
        "a live link of, or in, a node that was merged into another",
    ),
    ("tree.merged", "SELECT id FROM links WHERE live = 1 AND merged = 1", "a link is live and merged"),
    (
        "tree.folder",
        (
            "SELECT l.node FROM links l JOIN nodes n ON n.id = l.node WHERE l.live = 1 AND n.kind = 'dir'"
            " GROUP BY l.node HAVING count(*) > 1"
        ),
        "a folder has two names",
    ),
    (
        "tree.version",
        (
            "SELECT n.id FROM nodes n WHERE n.kind = 'file' AND n.id NOT IN (SELECT node FROM aliases) AND NOT EXISTS"
            " (SELECT 1 FROM versions v WHERE v.version = n.version)"
        ),
        "the current version of a file is not there",
    ),
    (
        "tree.last",
        "SELECT node FROM last WHERE NOT EXISTS (SELECT 1 FROM links l WHERE l.id = last.link)",
        "the last name of a node is none",
    ),
    (
        "tree.attributes",
        "SELECT id FROM nodes WHERE mode IS NULL OR mtime_ns IS NULL OR xattrs IS NULL",
        "a node without attributes",
    ),
)


def check_tree(database: Database, report: Report) -> None:
    """Raises sqlite3.Error for tables that cannot be read."""
    for name, sql, words in _RULES:
        for (key,) in database.execute(sql):
            report.damage(name, f"{words}: {key}", "tree")
    for node in (ROOT, LOST):
        row = database.row("SELECT kind FROM nodes WHERE id = ?", (node,))
        if row is None or row[0] != "dir":
            report.damage("tree.root", f"the folder {node} is not there", "tree")
    _check_aliases(dict(database.rows("SELECT node, into_node FROM aliases")), report)
    _check_reach(database, report)
    _check_names(database, report)
    sizes = _check_contents(database, report)
    for node, version, size, xattrs in database.execute("SELECT id, version, size, xattrs FROM nodes"):
        if version in sizes and sizes[version] != size:
            report.damage("tree.size", f"file {node} says {size} bytes, its content has {sizes[version]}", "tree")
        if not _decodes(xattrs, dict[bytes, bytes]):
            report.damage("tree.attributes", f"the extended attributes of {node} cannot be read", "tree")


def _check_aliases(aliases: dict[str, str], report: Report) -> None:
    for start in aliases:
        node, seen = start, set()
        while node in aliases and node not in seen:
            seen.add(node)
            node = aliases[node]
        if node in seen:
            report.damage("tree.alias_loop", f"the aliases of {start} lead in a circle", "tree")


def _check_reach(database: Database, report: Report) -> None:
    """Every folder with a name, and every folder that something live lies in, leads up to the root or to .lost."""
    above = dict(
        database.rows(
            "SELECT l.node, l.parent FROM links l JOIN nodes n ON n.id = l.node WHERE l.live = 1 AND n.kind = 'dir'"
        )
    )
    good = {str(ROOT), str(LOST)}
    parents = {parent for (parent,) in database.execute("SELECT DISTINCT parent FROM links WHERE live = 1")}
    for start in sorted(parents | set(above)):
        path: list[str] = []
        node: str | None = start
        while node is not None and node not in good and node not in path:
            path.append(node)
            node = above.get(node)
        if node is None:
            report.damage("tree.unreachable", f"what lies in {start} is in no folder of the tree", "tree")
        elif node not in good:
            report.damage("tree.cycle", f"folder {start} lies in itself", "tree")
        else:
            good.update(path)


def _check_names(database: Database, report: Report) -> None:
    for link, name, live, merged, conflict in database.execute("SELECT id, name, live, merged, conflict FROM links"):
        try:
            check_name(name)
        except (GdahError, TypeError):
            report.damage("tree.name", f"link {link} is called {name!r}, which is no name", "tree")
            continue
        if conflict != is_conflict(name) or live not in (0, 1) or merged not in (0, 1):
            report.damage("tree.derived", f"what is derived of link {link} is wrong", "tree")


def _check_contents(database: Database, report: Report) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for version, packed in database.execute("SELECT version, content FROM versions"):
        try:
            sizes[version] = check_content(unpack_content(packed)).size
        except (GdahError, msgspec.MsgspecError, TypeError):
            report.damage("tree.content", f"the content of version {version} cannot be read", "tree")
    return sizes


def _decodes(packed: Any, form: Any) -> bool:
    try:
        msgspec.msgpack.decode(packed, type=form)
    except (msgspec.MsgspecError, TypeError):
        return False
    return True


def check_undo(database: Database, report: Report) -> None:
    """What is needed to take an operation back is there for all above the stable point, and for no others."""
    sql = (
        "SELECT o.id FROM operations o, counters c WHERE (o.clock, o.server) > (c.stable_clock, c.stable_server)"
        " AND NOT EXISTS (SELECT 1 FROM undo u WHERE u.clock = o.clock AND u.server = o.server AND u.id = o.id)"
    )
    for (op,) in database.execute(sql):
        report.damage("undo.missing", f"operation {op} is not stable and cannot be taken back", "tree")
    for op, logged, record in _undo_rows(database):
        if not logged:
            report.damage("undo.stranger", f"a before-image of {op}, which is not in the log with that stamp", "tree")
        try:
            unpack_undo(record)
        except (msgspec.MsgspecError, TypeError):
            report.damage("undo.record", f"the before-image of {op} cannot be read", "tree")


def _undo_rows(database: Database) -> Iterator[tuple[str, bool, bytes]]:
    sql = (
        "SELECT u.id, o.id IS NOT NULL, u.before FROM undo u LEFT JOIN operations o"
        " ON o.id = u.id AND o.clock = u.clock AND o.server = u.server"
    )
    for op, logged, record in database.execute(sql):
        yield op, bool(logged), record
