"""The check of a replica, as a list of steps: SQLite, log, tree, the log folded anew, chunks. Only reads; of a replica
that is in use it sees one state.

The strongest step is the refold: the tree is a function of the log, so the tables must be what the log gives. Of a log
whose beginning was pruned only the part above the stable point can be folded anew, on the tables taken back to there.

Threading: one thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gdah_volume.content import ChunkHash
from gdah_volume.database import Database
from gdah_volume.errors import GdahError, StorageFailed
from gdah_volume.findings import Mending, Report
from gdah_volume.fsck_chunks import ChunkCheck
from gdah_volume.fsck_log import ROWS_SQL, LogCheck
from gdah_volume.fsck_tree import check_tree, check_undo
from gdah_volume.ids import ServerId
from gdah_volume.layout import Place
from gdah_volume.needed import needed
from gdah_volume.reading import reading, salvaged
from gdah_volume.refold import FOLDED, Refold, differences, scratch
from gdah_volume.rows import unpack_content
from gdah_volume.schema import SCHEMA_VERSION
from gdah_volume.stamps import Stamp

Progress = Callable[[str], None]
_BROKEN = (sqlite3.Error, GdahError, msgspec.MsgspecError, ValueError, TypeError, KeyError, AttributeError)
_COUNTERS = ("head", "operations", "digest", "max_clock", "pruned_to", "stable_clock", "stable_server")
_SHOW_EVERY = 500


@dataclass
class Checked:
    """What was found, and what a repair has to know."""

    report: Report
    chunks: ChunkCheck
    log_is_sound: bool = False
    """Every operation that was ever held is there, readable, with its stamp: the tree can be made from it."""
    missing: list[ChunkHash] = field(default_factory=list)


def check_replica(place: Place, report: Report, progress: Progress, *, is_server: bool) -> Checked:
    checked = Checked(report, ChunkCheck(report, progress))
    folders = place.chunks if is_server else ()
    try:
        with reading(place.database) as database:
            named = _check_database(database, checked, progress)
            with _told(checked, "small chunks"):
                checked.chunks.rows(database, "chunks")
            wanted = json.loads(database.meta("wanted") or "[]")
    except StorageFailed as error:
        report.damage("sqlite.unreadable", str(error), "database")
        named, wanted = {}, []
    except (sqlite3.Error, ValueError) as error:
        report.damage("sqlite.damaged", f"{place.database} cannot be read: {error}", "log")
        checked.log_is_sound = False
        named, wanted = {}, []
    for folder in folders:
        checked.chunks.files(folder, "chunks")
    if is_server:
        checked.missing = checked.chunks.needed(named, wanted, "chunks")
        unnamed = len(checked.chunks.good.keys() - named.keys())
        report.facts["chunks_named_by_none"] = unnamed
    report.facts["chunks"] = len(checked.chunks.good)
    report.facts["chunk_bytes"] = checked.chunks.bytes
    return checked


def _check_database(database: Database, checked: Checked, progress: Progress) -> dict[bytes, int]:
    """Returns the chunks that are named, with their lengths. Raises sqlite3.Error for what cannot be read."""
    report = checked.report
    version = (database.row("PRAGMA user_version") or (0,))[0]
    if version != SCHEMA_VERSION:
        step = "use a newer gdah" if version > SCHEMA_VERSION else "start the server once, it brings it up to date"
        report.damage("sqlite.schema", f"schema {version}, this gdah knows {SCHEMA_VERSION}", "nothing", step)
        return {}
    progress("SQLite")
    with _told(checked, "the database"):
        for line in database.integrity_check():
            report.damage("sqlite.integrity", line, "tree")
    row = database.row(f"SELECT {', '.join(_COUNTERS)} FROM counters")
    if row is None:
        report.damage("log.counters", "the row of counters is gone", "log")
        return {}
    counters = dict(zip(_COUNTERS, row, strict=True))
    authors = {author: (sequence, pruned) for author, sequence, pruned in database.execute("SELECT * FROM authors")}
    stable = Stamp(counters["stable_clock"], ServerId(counters["stable_server"]))
    log = LogCheck(report, counters, authors)
    report.facts["server"] = database.meta("server")
    with scratch() as anew:
        refold = Refold(anew, stable)
        folded, why_not = _pass(database, log, refold, stable, progress)
        log.finish()
        damaged = any(finding.name.startswith("log.") for finding in report.damages)
        checked.log_is_sound = log.whole and not damaged
        progress("tree")
        with _told(checked, "the tree"):
            check_tree(database, report)
            check_undo(database, report)
        if not why_not and not log.pruned and not log.whole:
            why_not = "operations are missing"
        if why_not:
            report.note("refold.impossible", f"the tree was not compared with the log: {why_not}")
        else:
            with _told(checked, "the tree"):
                _compare(database, anew, report, progress)
    named = _needed(database, log)
    report.facts |= {
        "operations": counters["operations"],
        "digest": str(counters["digest"]),
        "pending": log.pending,
        "folded_anew": 0 if why_not else folded,
        "folded_from": "" if why_not else _from_where(log, stable),
    }
    return named


@contextmanager
def _told(checked: Checked, what: str) -> Iterator[None]:
    """What SQLite cannot read of all that is a function of the log is no reason to look no further."""
    try:
        yield
    except sqlite3.Error as error:
        mending: Mending = "tree" if checked.log_is_sound else "log"
        checked.report.damage("sqlite.damaged", f"{what} cannot be read whole: {error}", mending)


def _from_where(log: LogCheck, stable: Stamp) -> str:
    return f"the stable point {stable.clock}, what is older was pruned" if log.pruned else "the beginning"


def _pass(database: Database, log: LogCheck, refold: Refold, stable: Stamp, progress: Progress) -> tuple[int, str]:
    """Every row of the log is checked, and folded anew as long as that makes sense: (how many, "" or why not)."""
    above_only, why_not, folded = log.pruned, "", 0
    if above_only:
        try:
            refold.start_from(database)
        except _BROKEN as error:
            why_not = f"it cannot be taken back to its stable point: {error}"
    bound = (stable.clock, stable.server)
    for row in database.execute(ROWS_SQL):
        op = log.take(row)
        if log.rows % _SHOW_EVERY == 0:
            progress(f"log: {log.rows} operations")
        if op is None:
            why_not = why_not or "an operation in the log is damaged"
            continue
        if why_not or (above_only and (row[2], row[3]) <= bound):
            continue
        try:
            refold.take(op, (row[2], row[3], op.id))
            folded += 1
        except _BROKEN as error:
            why_not = f"operation {op.id} cannot be applied: {error}"
    refold.finish()
    return folded, why_not


def _compare(database: Database, anew: Database, report: Report, progress: Progress) -> None:
    progress("comparing the tree with the log")
    for table in FOLDED:
        for key, words in differences(database, anew, table):
            report.damage("tree.refold", f"{table} {key}: {words} by the log", "tree")


def _needed(database: Database, log: LogCheck) -> dict[bytes, int]:
    """The chunks that must be here, with their lengths: what the collector would keep; of a damaged database all that
    anything names."""
    named = dict(log.chunks)
    for _, packed in salvaged(database, "versions", "version, content", "version")[0]:
        try:
            named.update((chunk.hash, chunk.length) for chunk in unpack_content(packed).chunks)
        except (msgspec.MsgspecError, TypeError):
            continue  # told by the check of the tree
    try:
        kept = needed(database)
    except _BROKEN:
        return named
    return {name: length for name, length in named.items() if name in kept}


def compare_with_peer(report: Report, status: dict[str, Any], volume: str, url: str) -> None:
    """The digest of this replica with what a server tells of its own."""
    theirs = status.get("volumes", {}).get(volume)
    if theirs is None:
        report.damage("peer.volume", f"{url} keeps no volume {volume}", "nothing", "give the URL of another server")
        return
    ours, count = report.facts.get("digest"), report.facts.get("operations")
    if ours is None:
        return
    if int(str(ours) or "0", 16) == int(str(theirs.get("digest") or "0"), 16):
        report.note("peer.equal", f"{url} holds the same {theirs.get('operations')} operations")
    else:
        report.note(
            "peer.differs",
            f"{url} holds {theirs.get('operations')} operations, this one {count}, and not the same",
            "while both run they exchange what the other lacks; once that is done the digests are equal",
        )
