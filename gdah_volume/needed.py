"""Which chunks a replica needs: those of its files, of its log, and of every older version that the log can bring back.

NEEDED is what an operation in the log names, what a file shows that has a name, and every version of each file that an
operation in the log mentions. The log's retention so is that of history and trash: what was removed or written over
yesterday has all its versions, what left the log has its newest one as long as it has a name. Rows of `versions` are
never removed (they are part of the fold); this is about bytes alone, and each server's own affair.

Whoever deletes by this must delete nothing when it raises: what cannot be read may name anything. Knows no files and no
time. Threading: one thread and one state of the database (`Database.snapshot`) from begin to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from gdah_volume.content import Chunk, ChunkHash, check_content
from gdah_volume.errors import BadMessage, StorageFailed
from gdah_volume.operations import (
    Create,
    Exchange,
    Link,
    Operation,
    Rename,
    Rmdir,
    SetAttr,
    Unlink,
    Write,
    chunks_in,
    from_json,
)
from gdah_volume.rows import unpack_content
from gdah_volume.undo import unpack_undo

if TYPE_CHECKING:
    from gdah_volume.database import Database

PAUSE_EVERY_ROWS = 500
LOOKUPS_MAX = 2000
"""With more ids the tables are walked through once instead."""

_SHOWN = (
    "SELECT n.id, v.content FROM nodes n LEFT JOIN versions v ON v.version = n.version"
    " WHERE n.version IS NOT NULL AND EXISTS (SELECT 1 FROM links l WHERE l.live = 1 AND l.node = n.id)"
)


def mentioned(op: Operation) -> Iterator[str]:
    """Every id that an operation says, of nodes, links and versions; a version that is a set, by its members."""
    yield op.id
    match op:
        case Create():
            yield op.parent
        case Write():
            yield op.node
            yield from _members(op.base)
        case SetAttr():
            yield op.node
            yield from _members(op.version)
        case Link():
            yield from (op.node, op.parent)
            yield from _members(op.version)
        case Unlink():
            yield from (op.link, op.node, *op.also)
            yield from _members(op.rev, op.version)
        case Rmdir():
            yield from (op.link, op.node, *op.also)
            yield from _members(op.rev)
        case Rename():
            yield from (op.link, op.node, op.parent, *op.also)
            yield from _members(op.version)
            if op.replaces is not None:
                yield from (op.replaces.link, op.replaces.node, *op.replaces.also)
                yield from _members(op.replaces.rev, op.replaces.version)
        case Exchange():
            yield from (op.link, op.node, op.other.link, op.other.node)
            yield from _members(op.rev, op.version, op.other.rev, op.other.version)


def _members(*versions: str | None) -> Iterator[str]:
    for version in versions:
        if version is not None:
            yield version
            yield from version.split("+")


def needed(database: Database, pause: Callable[[], None] = lambda: None) -> set[ChunkHash]:
    """Raises BadMessage or StorageFailed if anything at all cannot be read. `pause` is called time and again."""
    found: set[ChunkHash] = set()
    ids: set[str] = set()
    for op in _slowly(_operations(database), pause):
        found.update(chunk.hash for chunk in chunks_in(op))
        ids.update(mentioned(op))
    for node, packed in _slowly(database.execute(_SHOWN), pause):
        if packed is None:
            raise StorageFailed(f"the content of {node} has no row in the table of versions")
        found.update(chunk.hash for chunk in _chunks(packed, node))
    _add_undo(database, found, ids)
    nodes = nodes_of(database, ids, pause)
    for version, node, packed in _slowly(database.execute("SELECT version, node, content FROM versions"), pause):
        if node in nodes or not ids.isdisjoint(_members(version)):
            found.update(chunk.hash for chunk in _chunks(packed, version))
    return found


def owners(
    database: Database, names: set[ChunkHash], pause: Callable[[], None] = lambda: None
) -> dict[str, set[bytes]]:
    """Of those chunks, which each node's versions name: whoever mentions the node needs them again."""
    found: dict[str, set[bytes]] = {}
    for version, node, packed in _slowly(database.execute("SELECT version, node, content FROM versions"), pause):
        hit = names.intersection(chunk.hash for chunk in _chunks(packed, version))
        if hit:
            found.setdefault(node, set()).update(hit)
    return found


def nodes_of(database: Database, ids: set[str], pause: Callable[[], None] = lambda: None) -> set[str]:
    """The nodes that ids may mean: themselves, those of links and versions, and those they were merged with."""
    nodes = set(ids)
    for table, key in (("links", "id"), ("versions", "version")):
        if len(ids) > LOOKUPS_MAX:
            rows = database.execute(f"SELECT {key}, node FROM {table}")
            nodes.update(node for one, node in _slowly(rows, pause) if one in ids)
        else:
            for one in ids:
                nodes.update(node for (node,) in database.rows(f"SELECT node FROM {table} WHERE {key} = ?", (one,)))
    near: dict[str, set[str]] = {}
    for node, into in database.rows("SELECT node, into_node FROM aliases"):
        near.setdefault(node, set()).add(into)
        near.setdefault(into, set()).add(node)
    todo = [node for node in nodes if node in near]
    while todo:
        for other in near[todo.pop()] - nodes:
            nodes.add(other)
            todo.append(other)
    return nodes


def _operations(database: Database) -> Iterator[Operation]:
    for name, text in database.execute("SELECT id, operation FROM operations"):
        op = from_json(text)
        if op.id != name:
            raise BadMessage(f"the log says {name} of an operation that calls itself {op.id}")
        if isinstance(op, Create | Write):
            check_content(op.content)
        yield op


def _add_undo(database: Database, found: set[ChunkHash], ids: set[str]) -> None:
    """What a late operation would bring back for a moment, or for good."""
    for (packed,) in database.execute("SELECT before FROM undo"):
        try:
            before = unpack_undo(packed).before
        except msgspec.MsgspecError as error:
            raise BadMessage(f"a record of the table undo cannot be read: {error}") from error
        ids.update(before.files)
        ids.update(member for file in before.files.values() if file for member in _members(file.version))
        for version, row in before.versions.items():
            if row is not None:
                found.update(chunk.hash for chunk in _chunks(row.content, version))


def _chunks(packed: bytes, whose: str) -> tuple[Chunk, ...]:
    try:
        return check_content(unpack_content(packed)).chunks
    except msgspec.MsgspecError as error:
        raise BadMessage(f"the content of {whose} cannot be read: {error}") from error


def _slowly(rows: Iterable[Any], pause: Callable[[], None]) -> Iterator[Any]:
    for count, row in enumerate(rows, 1):
        yield row
        if count % PAUSE_EVERY_ROWS == 0:
            pause()
