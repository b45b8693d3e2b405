"""The check of a mount's cache folder: mirror, change log, unsent content, journals of open files, cache; and what can
be mended of it. What is pending is never given up: where it cannot be read, nothing is changed.

A mirror is only a copy of what servers have, with this device's pending operations on top. So a damaged one is made
anew with those alone, and the next mount fetches the rest, as in a new folder.

Threading: one thread; of a folder in use it reads one state.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec

from gdah_volume.chunk_reading import ChunkReader
from gdah_volume.content import ChunkHash
from gdah_volume.database import Database
from gdah_volume.errors import GdahError
from gdah_volume.findings import Report
from gdah_volume.fsck import Checked, check_replica
from gdah_volume.fsck_chunks import ChunkCheck
from gdah_volume.fsck_log import NO_OPERATION
from gdah_volume.fsck_repair import NotMended, in_use, quarantine, replace_database
from gdah_volume.layout import MOUNT_CACHE, MOUNT_DIRTY, MOUNT_JOURNALS, Place
from gdah_volume.operations import Operation, check_operation, chunks_in, from_json
from gdah_volume.reading import reading, salvaged
from gdah_volume.replica import Replica
from gdah_volume.snapshot import TABLES
from gdah_volume.stamps import PENDING_CLOCK
from mountfs.files import records
from mountfs.journal import HEADER_BYTES, Journal, Journals

Progress = Callable[[str], None]
_BY_HAND = "it is in no other place unless a server has it; look at the servers' copies, and keep this folder"
_FEEDS = "feed:"
"""Keys of `meta`: how far servers' logs were read."""


def check_mount(place: Place, progress: Progress) -> Checked:
    running = in_use(place)
    report = Report(instead={"tree": "mirror", "log": "mirror", "chunks": "nothing"})
    checked = check_replica(place, report, progress, is_server=False)
    checked.chunks.files(place.folder / MOUNT_DIRTY, "nothing")
    if not report.needs("database"):
        with reading(place.database) as database:
            try:
                _check_change_log(database, checked, place)
            except sqlite3.Error as error:
                report.damage("changelog.unreadable", f"the change log cannot be read: {error}", "nothing", _BY_HAND)
    for path in sorted((place.folder / MOUNT_JOURNALS).glob("*.journal")):
        progress("journals of open files")
        _check_journal(path, report, checked.chunks, running=running)
    about_cache = Report() if running else report  # its files are written in place
    cached = ChunkCheck(about_cache, progress)
    cached.files(place.folder / MOUNT_CACHE, "cache")
    for finding in about_cache.damages if running else ():
        report.note(finding.name, finding.what, "the mount may be writing it; look again when it is unmounted")
    checked.chunks.strangers += cached.strangers
    checked.chunks.bad_files |= cached.bad_files
    report.facts |= {"chunks": len(checked.chunks.good) + len(cached.good), "cached_chunks": len(cached.good)}
    return checked


# --- change log


def _change_log(database: Database) -> list[tuple[int, str, int]]:
    """(number, operation, bytes of its unsent content), in the order of issue. Raises sqlite3.Error."""
    if database.row("SELECT 1 FROM sqlite_master WHERE name = 'change_log'") is None:
        return []
    return [(n, op, size) for n, op, size in database.rows("SELECT number, id, bytes FROM change_log ORDER BY number")]


def _check_change_log(database: Database, checked: Checked, place: Place) -> None:
    report = checked.report
    pending = dict(database.rows("SELECT id, operation FROM operations WHERE clock >= ?", (PENDING_CLOCK,)))
    known = set()
    for number, name, size in _change_log(database):
        known.add(name)
        text = pending.get(name)
        if text is None:
            continue  # some server has it
        try:
            op = check_operation(from_json(text))
        except NO_OPERATION:
            report.damage(
                "changelog.operation", f"pending operation {name} (number {number}) is damaged", "nothing", _BY_HAND
            )
            continue
        here = sum({c.hash: c.length for c in chunks_in(op) if c.hash in checked.chunks.good}.values())
        if here < size and _is_short(place, op, size):
            words = f"{size - here} of {size} unsent bytes of {name} are not here in good health"
            report.damage("changelog.content", words, "nothing", _BY_HAND)
    for name in sorted(pending.keys() - known):
        report.damage(
            "changelog.unknown", f"operation {name} is pending, and the change log does not know it", "mirror"
        )
    report.facts["pending"] = len(pending)
    report.facts["not_everywhere"] = len(known)


def _is_short(place: Place, op: Operation, size: int) -> bool:
    """Looks once more: of a mount that runs, content may have come or gone on since its files were read."""
    with reading(place.database) as now:
        reader = ChunkReader((place.folder / MOUNT_DIRTY,), now)
        here = sum({c.hash: c.length for c in chunks_in(op) if reader.read(c.hash)[0] is not None}.values())
    with reading(place.database) as now:
        sql = "SELECT 1 FROM change_log c JOIN operations o ON o.id = c.id WHERE c.id = ? AND o.clock >= ?"
        return here < size and now.row(sql, (op.id, PENDING_CLOCK)) is not None


# --- journals


def _check_journal(path: Path, report: Report, chunks: ChunkCheck, *, running: bool) -> None:
    """While the mount runs its journals change as they are read, so what looks wrong then is said as a note."""

    def damage(name: str, words: str) -> None:
        if running:
            report.note(name, words, "the mount is writing it; look again when it is unmounted")
        else:
            report.damage(name, words, "nothing", _BY_HAND)

    try:
        raw = path.read_bytes()
        journal = Journal(os.open(path, os.O_RDONLY | os.O_CLOEXEC), 0, _NOBODY)
    except FileNotFoundError:
        return
    except OSError as error:
        damage("journal.unreadable", f"{path} cannot be read: {error.strerror}")
        return
    try:
        found, end = journal.scan()
        if not found and not any(raw[:HEADER_BYTES]):
            return  # not in use
        if not found and len(raw) >= HEADER_BYTES and not journal.began:
            damage("journal.head", f"{path}: the first record is damaged")
            return
        later = journal.next_record(raw, end)
        if later is not None:
            damage("journal.gap", f"{path}: what was written at {end} is damaged, and more follows at {later}")
        for name in _sealed_in(journal, found):
            if name not in chunks.good:
                damage("journal.content", f"{path} names chunk {name.hex()[:16]}, which is not here in good health")
    except (GdahError, OSError, msgspec.MsgspecError) as error:
        damage("journal.record", f"{path}: {error}")
    finally:
        journal.close()


def _sealed_in(journal: Journal, found: list[Any]) -> Iterator[ChunkHash]:
    """Chunks of unsaved edits that lie in the dirty store. Raises for a record that is none."""
    for record in found:
        payload = journal.read(record.at, record.length)
        sealed: tuple[records.Sealed, ...] = ()
        if record.kind == records.OPENING:
            records.unpack_opening(payload)
        elif record.kind == records.SAVING:
            records.unpack_saving(payload)
        elif record.kind == records.CHUNK:
            sealed = (records.unpack_sealed(payload),)
        elif record.kind == records.STATE:
            sealed = records.unpack_state(payload).sealed
        yield from (one.chunk.hash for one in sealed if one.chunk is not None)


class _Nobody(Journals):
    """A journal that is only read has no pool."""

    def __init__(self) -> None:
        pass


_NOBODY = _Nobody()


# --- mending


def mend_mount(place: Place, checked: Checked) -> list[str]:
    """What was done. Raises NotMended; then what is pending is as it was."""
    done: list[str] = []
    report = checked.report
    cache = place.folder / MOUNT_CACHE
    clean = [path for path in checked.chunks.bad_files if path.is_relative_to(cache)]
    for path in clean:
        path.unlink(missing_ok=True)
    if clean:
        done.append(f"{len(clean)} damaged files of the cache were removed; they are fetched again")
    for path in checked.chunks.strangers:
        quarantine(place.folder / MOUNT_DIRTY, path)
    if checked.chunks.strangers:
        done.append(f"{len(checked.chunks.strangers)} files that are no chunks were moved to quarantine")
    if report.needs("database"):
        raise NotMended(
            f"SQLite cannot read {place.database}, in which is what this device has not handed over. Move "
            f"{place.folder} away and keep it, then mount again: the rest is fetched anew from the servers",
            done,
        )
    if report.needs("mirror"):
        done += _anew(place, done)
    return done


def _anew(place: Place, done: list[str]) -> list[str]:
    path = place.database.with_suffix(".new")
    for left in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        left.unlink(missing_ok=True)
    try:
        with reading(place.database) as old, closing(Database(path)) as new:
            kept = _pending(old)
            replica = Replica(new)
            with new.transaction(sync=True):
                for op in kept:
                    replica.add_pending(op, strict=False)
                _keep_other_tables(old, new)
                _keep_meta(old, new)
                _all_in_change_log(new, kept)
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except NotMended as error:
        raise NotMended(str(error), done) from error
    except (GdahError, sqlite3.Error) as error:
        raise NotMended(f"{error}. Nothing was changed", done) from error
    aside = replace_database(place.database, path)
    return [
        f"the mirror was made anew with {len(kept)} operations that wait here; the next mount fetches the rest",
        f"the database as it was is kept as {aside}",
    ]


def _pending(old: Database) -> list[Operation]:
    """All that this device must still hand over, in the order of issue. Raises NotMended if one cannot be read."""
    order = {name: number for number, name, _ in _change_log(old)}
    rows, trouble = salvaged(old, "operations", "position, id, clock, operation", "position")
    if trouble:
        raise NotMended(f"the log cannot be read ({trouble}), and what is pending is in it. Nothing was changed")
    kept: list[tuple[int, int, Operation]] = []
    before = 0
    for _, name, clock, text in sorted(rows, key=lambda row: row[2]):  # pending ones: as they were made
        if clock < PENDING_CLOCK and name not in order:
            continue
        if clock >= PENDING_CLOCK:
            before = order.get(name, before)
        try:
            kept.append((order.get(name, before), clock, check_operation(from_json(text))))
        except NO_OPERATION as error:
            raise NotMended(f"pending operation {name} cannot be read ({error}). Nothing was changed") from error
    return [op for _, _, op in sorted(kept, key=lambda item: item[:2])]


def _keep_other_tables(old: Database, new: Database) -> None:
    """What a mount has beside its replica: the change log, small unsent chunks."""
    for table, sql in old.rows("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL"):
        if table in TABLES or table == "meta" or table.startswith("sqlite_"):
            continue
        new.execute(f"DROP TABLE IF EXISTS {table}")
        new.execute(sql)
        for row in old.execute(f"SELECT * FROM {table}"):
            new.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def _keep_meta(old: Database, new: Database) -> None:
    with suppress(sqlite3.Error):
        for key, value in old.rows("SELECT key, value FROM meta"):
            if not str(key).startswith(_FEEDS):
                new.set_meta(key, value)


def _all_in_change_log(new: Database, kept: list[Operation]) -> None:
    """Each of them, numbered in the order of issue: so they are sent."""
    rows = _change_log(new)
    known = {name for _, name, _ in rows}
    number = max((number for number, _, _ in rows), default=0)
    for op in kept:
        number += 1
        if op.id in known:
            new.execute("UPDATE change_log SET number = ? WHERE id = ?", (number, op.id))
        else:
            new.execute(
                "INSERT INTO change_log (number, id, time_ns, path, bytes, sync) VALUES (?, ?, ?, NULL, 0, 0)",
                (number, op.id, op.time_ns),
            )
