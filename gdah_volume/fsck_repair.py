"""Mends what a check has found in the folder of a server that is stopped. Nothing is deleted: a database that is
replaced stays beside as a file, bytes that are wrong go to quarantine.

Two ways for the database. ANEW FROM THE LOG: every operation is here, so the tree is folded anew; positions, epoch and
all else stay. FROM THE PEER: its snapshot, and on top every operation that can still be read here and that it lacks;
positions mean nothing then, so a new epoch begins and every log is read again.

Threading: one thread, which holds the lock of the folder.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import ChunkHash, hash_of
from gdah_volume.database import Database
from gdah_volume.errors import GdahError, InvalidArgument, StorageFailed
from gdah_volume.fsck import Checked
from gdah_volume.fsck_log import LOG_COLUMNS, NO_OPERATION
from gdah_volume.ids import ServerId, check_op_id
from gdah_volume.layout import Place
from gdah_volume.needed import needed
from gdah_volume.operations import Operation, check_operation, from_json
from gdah_volume.reading import reading, salvaged
from gdah_volume.refold import Refold
from gdah_volume.replica import Replica
from gdah_volume.snapshot_file import SnapshotFile
from gdah_volume.stamps import PENDING_CLOCK, Stamp, wall_clock_us

PROMISE_AHEAD_US = 10_000_000
"""A server that does not know any more what it had promised stamps above this."""
KEPT = {
    "meta": "key, value",
    "operations": "position, id, clock, server, author, type, at, path, operation",
    "authors": "author, sequence, pruned",
    "counters": "id, head, operations, digest, max_clock, pruned_to, stable_clock, stable_server",
}
CHUNK_TABLES = {
    "chunks": ("hash BLOB PRIMARY KEY, data BLOB NOT NULL", "hash, data"),
    "collected": ("hash BLOB PRIMARY KEY, data BLOB NOT NULL, at INTEGER NOT NULL", "hash, data, at"),
    "unneeded": ("hash BLOB PRIMARY KEY, since INTEGER NOT NULL", "hash, since"),
}
"""As `chunk_store` and `collected` make them."""
_POSITIONS = ("epoch", "cursor:", "pruned_below")
"""Keys of `meta` that mean something only together with the positions of the log they were written for."""


class NotMended(GdahError):
    """Why, and what is to be done. `done`: what was mended before."""

    def __init__(self, words: str, done: list[str] | None = None) -> None:
        super().__init__(words)
        self.done = done or []


class Peer(Protocol):
    @property
    def url(self) -> str: ...
    def chunk(self, name: ChunkHash) -> bytes | None: ...
    def snapshot(self) -> AbstractContextManager[SnapshotFile]: ...


Progress = Callable[[str], None]


def in_use(place: Place) -> bool:
    """Somebody holds its lock. Changes nothing, and nobody is kept from starting but for a moment."""
    try:
        with place.lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def owned(place: Place) -> Iterator[None]:
    """The lock that a server or a mount takes when it starts. Raises InvalidArgument."""
    with place.lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidArgument(f"{place.folder} is in use; stop it first") from None
        yield


def mend_server(place: Place, checked: Checked, peer: Peer | None, progress: Progress) -> list[str]:
    """What was done, in words. Raises NotMended for what could not be."""
    done: list[str] = []
    if checked.report.needs("tree", "log", "database"):
        done += _mend_database(place, checked, peer, progress)
    try:
        with closing(Database(place.database, create=False)) as database:
            done += _mend_chunks(place, checked, database, peer, progress)
    except NotMended as error:
        raise NotMended(str(error), done + error.done) from error
    return done


# --- the database


def _mend_database(place: Place, checked: Checked, peer: Peer | None, progress: Progress) -> list[str]:
    anew = place.database.with_suffix(".new")
    for left in (anew, Path(f"{anew}-wal"), Path(f"{anew}-shm")):
        left.unlink(missing_ok=True)
    try:
        if peer is None:
            if not checked.log_is_sound:
                raise NotMended(
                    "operations are damaged or gone here, and the tree cannot be made without them: give --peer URL of "
                    "a server that runs and keeps this volume. Nothing was changed"
                )
            words = _from_log(place, anew, progress)
        else:
            with peer.snapshot() as snapshot:
                if checked.log_is_sound and not _log_differs(place, snapshot):
                    words = _from_log(place, anew, progress)
                else:
                    words = _from_peer(place, anew, snapshot, peer.url, progress)
    except NotMended:
        raise
    except (GdahError, sqlite3.Error) as error:
        raise NotMended(f"{error}. Nothing was changed") from error
    aside = replace_database(place.database, anew)
    return [words, f"the database as it was is kept as {aside}"]


def _from_log(place: Place, path: Path, progress: Progress) -> str:
    with reading(place.database) as old, closing(Database(path)) as new:
        row = old.row("SELECT stable_clock, stable_server FROM counters")
        assert row is not None
        refold = Refold(new, Stamp(row[0], ServerId(row[1])))
        count = 0
        for clock, server, op, text in old.execute(
            "SELECT clock, server, id, operation FROM operations ORDER BY clock, server, id"
        ):
            refold.take(from_json(text), (clock, server, op))
            count += 1
            if count % 500 == 0:
                progress(f"folding anew: {count} operations")
        refold.finish()
        with new.transaction(sync=True):
            for table, columns in KEPT.items():
                _copy(old, new, table, columns)
            _keep_times(old, new)
            _keep_chunks(old, new)
        _close_whole(new)
    return f"the tree was folded anew from {count} operations"


def _copy(old: Database, new: Database, table: str, columns: str) -> None:
    new.execute(f"DELETE FROM {table}")
    marks = ", ".join("?" * (columns.count(",") + 1))
    new.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", old.execute(f"SELECT {columns} FROM {table}"))


def _keep_times(old: Database, new: Database) -> None:
    """Times of folders are no part of the fold: those that were there stay, where they can be read."""
    columns = "node, pending, clock, server, mtime_ns, ctime_ns"
    for row in salvaged(old, "touched_at", columns, "node")[0]:
        if new.row("SELECT 1 FROM nodes WHERE id = ?", (row[0],)) is not None:
            with suppress(sqlite3.Error):
                new.execute(f"INSERT OR REPLACE INTO touched_at ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row)


def _keep_chunks(old: Database, new: Database) -> None:
    """Small chunks, those that were collected too; what cannot be read, or has other bytes, stays behind."""
    for table, (schema, columns) in CHUNK_TABLES.items():
        new.execute(f"CREATE TABLE IF NOT EXISTS {table} ({schema})")
        if old.row("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)) is None:
            continue
        for row in salvaged(old, table, columns, "hash")[0]:
            has_bytes = table != "unneeded"
            if isinstance(row[0], bytes) and not (has_bytes and not _is_its_own(*row[:2])):
                marks = ", ".join("?" * len(row))
                new.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", row)


def _is_its_own(name: bytes, data: Any) -> bool:
    return isinstance(data, bytes) and hash_of(data) == name


def _log_differs(place: Place, snapshot: SnapshotFile) -> bool:
    """Whether an operation that both have is another one there, or has another stamp. Digests do not tell the first."""
    with reading(place.database) as old:
        for table, rows in snapshot.rows():
            if table != "operations":
                continue
            for _, op, clock, server, *_, text in rows:
                mine = old.row("SELECT clock, server, operation FROM operations WHERE id = ?", (op,))
                if mine is not None and ((mine[0], mine[1]) != (clock, server) or not _same(mine[2], text)):
                    return True
    return False


def _same(mine: str, theirs: str) -> bool:
    return mine == theirs or from_json(mine) == from_json(theirs)


def _from_peer(place: Place, path: Path, snapshot: SnapshotFile, url: str, progress: Progress) -> str:
    with closing(Database(path)) as new:
        replica = Replica(new)
        progress(f"taking the snapshot of {url}")
        with new.transaction(sync=True):
            replica.load(snapshot.rows())
            if not replica.operations:
                raise NotMended(f"{url} has an empty volume: this copy would be the last one. Nothing was changed")
            with _old(place) as old:
                count = 0 if old is None else _put_on_top(replica, old)
                _keep_meta(new, replica, old)
                if old is not None:
                    _keep_chunks(old, new)
        _close_whole(new)
    return f"everything was taken from {url}, and {count} operations that only this server had were put on top"


@contextmanager
def _old(place: Place) -> Iterator[Database | None]:
    """None: SQLite cannot read it at all."""
    try:
        opened = reading(place.database)
        database = opened.__enter__()
    except StorageFailed:
        yield None
        return
    try:
        yield database
    finally:
        opened.__exit__(None, None, None)


def _put_on_top(replica: Replica, old: Database) -> int:
    """What can still be read here and is unknown there. Below the stable point a stamp is void: it gets a new one."""
    own: list[tuple[Operation, Stamp]] = []
    clock = max(replica.max_clock, wall_clock_us())
    server = ServerId(old.meta("server") or "") if _has_meta(old) else ServerId("")
    for _, name, stamped, by, *_, text in salvaged(old, "operations", LOG_COLUMNS, "position")[0]:
        try:
            op = check_operation(from_json(text))
            check_op_id(name)
        except NO_OPERATION:
            continue
        if op.id != name or not 0 < stamped < PENDING_CLOCK or replica.stamp_of(op.id) is not None:
            continue
        stamp = Stamp(stamped, ServerId(by))
        if stamp <= replica.stable:
            clock += 1
            stamp = Stamp(clock, server)
        own.append((op, stamp))
    replica.accept_all(own)
    return len(own)


def _has_meta(old: Database) -> bool:
    try:
        return old.meta("server") is not None
    except sqlite3.Error:
        return False


def _keep_meta(new: Database, replica: Replica, old: Database | None) -> None:
    """Who this server is, and its members; not what belongs to positions."""
    rows: list[tuple[Any, ...]] = [] if old is None else salvaged(old, "meta", "key, value", "key")[0]
    promised = max(replica.max_clock, wall_clock_us() + PROMISE_AHEAD_US)
    for key, value in rows:
        if key == "promised":
            with suppress(ValueError):
                promised = max(promised, int(value))
        elif not str(key).startswith(_POSITIONS):
            new.set_meta(key, value)
    new.set_meta("promised", str(promised))
    new.set_meta("pruned_below", str(replica.stable.clock))


def _close_whole(database: Database) -> None:
    """All of it in the one file, on the disk."""
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def replace_database(path: Path, anew: Path) -> Path:
    """The new database gets the name; the old one keeps its bytes under another."""
    with suppress(GdahError, sqlite3.Error), closing(Database(path, create=False)) as old:
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    at = time.time_ns()
    when = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at // 10**9))
    aside = path.with_name(f"{path.name}.damaged-{when}.{at % 10**9:09}")  # repaired twice within a second: two files
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    with suppress(FileNotFoundError):
        os.link(path, aside)
    for left in (Path(f"{anew}-wal"), Path(f"{anew}-shm")):
        left.unlink(missing_ok=True)
    _fsync(anew)
    anew.replace(path)
    _fsync(path.parent)
    return aside


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- chunks


def _mend_chunks(
    place: Place, checked: Checked, database: Database, peer: Peer | None, progress: Progress
) -> list[str]:
    chunks = checked.chunks
    done: list[str] = []
    folder = place.chunks[0]
    moved = [quarantine(folder, path) for path in (*chunks.bad_files, *chunks.strangers)]
    if moved:
        done.append(f"{len(moved)} files were moved to {folder / 'quarantine'}")
    rows = _quarantine_rows(folder, database, chunks.bad_rows)
    if rows:
        done.append(f"{rows} small chunks were moved to {folder / 'quarantine'}")
    store = ChunkStore(folder, database)  # removes partial files
    if chunks.partial:
        done.append(f"{len(chunks.partial)} partial files were removed")
    missing = store.missing(sorted(needed(database)))
    if not missing:
        return done
    if peer is None:
        raise NotMended(f"{len(missing)} chunks are missing; give --peer URL of a server that has them", done)
    fetched = _fetch(store, missing, peer, progress)
    store.sync()
    with database.transaction(sync=True):
        pass
    if fetched:
        done.append(f"{fetched} chunks were fetched from {peer.url}")
    if fetched < len(missing):
        raise NotMended(
            f"{len(missing) - fetched} chunks are not on {peer.url} either; try another server, or restore them", done
        )
    return done


def _fetch(store: ChunkStore, missing: list[ChunkHash], peer: Peer, progress: Progress) -> int:
    fetched = 0
    for name in missing:
        try:
            data = peer.chunk(name)
        except GdahError as error:
            raise NotMended(
                str(error), [f"{fetched} chunks were fetched from {peer.url}"] if fetched else []
            ) from error
        if data is not None:
            store.put_named(name, data)
            fetched += 1
            progress(f"chunks: {fetched} of {len(missing)} fetched")
    return fetched


def quarantine(folder: Path, path: Path) -> Path:
    aside = folder / "quarantine"
    aside.mkdir(exist_ok=True)
    to = aside / f"{path.name}-fsck-{os.getpid()}-{time.time_ns()}"
    path.rename(to)
    return to


def _quarantine_rows(folder: Path, database: Database, names: set[bytes]) -> int:
    """Those that are there still: a database that was made anew has none of them."""
    count = 0
    (folder / "quarantine").mkdir(parents=True, exist_ok=True)
    for name in names:
        row = database.row("SELECT data FROM chunks WHERE hash = ?", (name,))
        if row is None:
            continue
        called = name.hex() if isinstance(name, bytes) else "row"
        data = row[0] if isinstance(row[0], bytes) else str(row[0]).encode("utf-8", "surrogateescape")
        (folder / "quarantine" / f"{called[:64]}-fsck-{os.getpid()}-{time.time_ns()}").write_bytes(data)
        with database.transaction(sync=True):
            database.execute("DELETE FROM chunks WHERE hash = ?", (name,))
        count += 1
    return count
