"""The tables of a volume and how older ones are brought up to date. Everything here runs once, when a database is
opened.

People read `operations` (one row an operation, JSON), `nodes`, `links` and `trash`; the other tables serve the fold.
The schema's version is in SQLite's `user_version`; a database of a newer gdah is refused, never guessed at.
"""

from __future__ import annotations

import sqlite_utils

from gdah_volume.errors import StorageFailed
from gdah_volume.ids import LOST, ROOT

SCHEMA_VERSION = 1

ROOT_MODE = 0o755

# Clustered by their id (WITHOUT ROWID, which sqlite-utils cannot ask for): every tree that a commit changes costs it a
# page of the write-ahead log, 4 kB and about 10 us.
_CLUSTERED = """
CREATE TABLE nodes (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, target BLOB NOT NULL, rdev INTEGER NOT NULL, forked INTEGER NOT NULL,
  mode INTEGER, uid INTEGER, gid INTEGER, mtime_ns INTEGER, atime_ns INTEGER, ctime_ns INTEGER, xattrs BLOB,
  version TEXT, size INTEGER
) WITHOUT ROWID;
CREATE TABLE aliases (node TEXT PRIMARY KEY, into_node TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE links (
  id TEXT PRIMARY KEY, node TEXT NOT NULL, parent TEXT NOT NULL, name BLOB NOT NULL, want BLOB NOT NULL,
  rev TEXT NOT NULL, live INTEGER NOT NULL, via TEXT NOT NULL, merged INTEGER NOT NULL, conflict INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX links_place ON links (parent, name) WHERE live = 1;
CREATE INDEX links_node ON links (node) WHERE live = 1;
CREATE INDEX links_via ON links (via) WHERE live = 1 AND via <> parent;
CREATE INDEX links_conflict ON links (id) WHERE live = 1 AND conflict = 1;
CREATE TABLE versions (version TEXT PRIMARY KEY, node TEXT NOT NULL, content BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE authors (
  author TEXT PRIMARY KEY, sequence INTEGER NOT NULL, pruned INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE last (node TEXT PRIMARY KEY, link TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE touched_at (
  node TEXT NOT NULL, pending INTEGER NOT NULL, clock INTEGER NOT NULL, server TEXT NOT NULL,
  mtime_ns INTEGER, ctime_ns INTEGER NOT NULL, PRIMARY KEY (node, pending)
) WITHOUT ROWID;
CREATE INDEX touched_at_pending ON touched_at (clock) WHERE pending = 1;
CREATE TABLE undo (
  clock INTEGER NOT NULL, server TEXT NOT NULL, id TEXT NOT NULL, before BLOB NOT NULL, PRIMARY KEY (clock, server, id)
) WITHOUT ROWID;
CREATE VIEW trash AS
  SELECT CAST(name AS TEXT) AS name, parent, node, id AS link FROM links WHERE live = 0 AND merged = 0;
"""


def _first(db: sqlite_utils.Database) -> None:
    """Version 1."""

    def table(name: str) -> sqlite_utils.db.Table:
        return sqlite_utils.db.Table(db, name)

    table("meta").create({"key": str, "value": str}, pk="key", not_null={"value"})
    numbers = ("head", "operations", "max_clock", "pruned_to", "stable_clock")
    table("counters").create(
        {"id": int, "digest": str, "stable_server": str, **dict.fromkeys(numbers, int)},
        pk="id",
        not_null={"digest", "stable_server", *numbers},
    )
    table("counters").insert({"id": 1, "digest": "", "stable_server": "", **dict.fromkeys(numbers, 0)})
    table("operations").create(
        {
            "position": int,
            "id": str,
            "clock": int,
            "server": str,
            "author": str,
            "type": str,
            "at": str,
            "path": str,
            "operation": str,
        },
        pk="position",
        not_null={"id", "clock", "server", "author", "type", "at", "operation"},
    )
    table("operations").create_index(["id"], unique=True)
    table("operations").create_index(["clock", "server", "id"])
    for statement in _CLUSTERED.split(";"):  # executescript would commit in the middle
        if statement.strip():
            db.execute(statement)
    for node in (ROOT, LOST):
        db.execute(
            "INSERT INTO nodes VALUES (?, 'dir', x'', 0, 0, ?, 0, 0, 0, 0, 0, x'80', NULL, NULL)", (node, ROOT_MODE)
        )


_MIGRATIONS = (_first,)
assert len(_MIGRATIONS) == SCHEMA_VERSION


def migrate(db: sqlite_utils.Database) -> None:
    """Bring a database up to SCHEMA_VERSION, all or nothing. Raises StorageFailed for one from the future."""
    (found,) = db.execute("PRAGMA user_version").fetchone()
    if found > SCHEMA_VERSION:
        raise StorageFailed(f"the database has schema {found}, this gdah knows {SCHEMA_VERSION}: update gdah")
    if found == SCHEMA_VERSION:
        return
    for step in _MIGRATIONS[found:]:
        step(db)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
