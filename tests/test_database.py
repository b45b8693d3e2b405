"""Transactions, durability and what happens when the disk or the file is not as it should be."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gdah_volume import schema
from gdah_volume.database import Database
from gdah_volume.errors import NoSpace, StorageFailed, Unavailable
from gdah_volume.schema import SCHEMA_VERSION


@pytest.fixture
def database(tmp_path: Path):
    made = Database(tmp_path / "v.db")
    yield made
    made.close()


def test_it_is_made_with_its_tables_and_opened_again(tmp_path: Path):
    first = Database(tmp_path / "v.db")
    assert {"operations", "nodes", "links", "meta"} <= set(first.utils().table_names())
    assert "trash" in first.utils().view_names()
    with first.transaction():
        first.set_meta("server", "s1")
    first.close()
    first.close()
    again = Database(str(tmp_path / "v.db"), create=False)
    assert (again.meta("server"), again.meta("nothing")) == ("s1", None)
    assert again.integrity_check() == []
    again.close()


def test_one_that_is_not_there_is_not_made(tmp_path: Path):
    with pytest.raises(StorageFailed, match="no database"):
        Database(tmp_path / "none.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_one_of_a_newer_gdah_is_refused(tmp_path: Path):
    Database(tmp_path / "v.db").close()
    with sqlite3.connect(tmp_path / "v.db") as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StorageFailed, match="update gdah"):
        Database(tmp_path / "v.db")


def test_a_making_that_was_interrupted_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(db: object) -> None:
        schema._first(db)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(schema, "_MIGRATIONS", (broken,))
        with pytest.raises(KeyboardInterrupt):
            Database(tmp_path / "v.db")
    whole = Database(tmp_path / "v.db")
    assert whole.meta("x") is None
    whole.close()


def test_what_is_no_database_is_refused_by_name(tmp_path: Path):
    (tmp_path / "v.db").write_bytes(b"not a database, really not" * 100)
    with pytest.raises(StorageFailed, match=r"v\.db"):
        Database(tmp_path / "v.db")


def test_a_transaction_is_all_or_nothing(database: Database):
    def fail() -> None:
        with database.transaction():
            database.set_meta("a", "1")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert database.meta("a") is None
    assert not database.in_transaction
    with database.transaction():
        database.set_meta("a", "1")
        assert database.in_transaction
    assert database.meta("a") == "1"


def test_a_transaction_inside_another_is_a_savepoint(database: Database):
    calls: list[str] = []
    database.before_commit.append(lambda: calls.append("commit"))
    database.after_rollback.append(lambda: calls.append("rollback"))

    def fail() -> None:
        with database.transaction():
            database.set_meta("inner", "1")
            raise ValueError("no")

    with database.transaction():
        database.set_meta("outer", "1")
        with pytest.raises(ValueError, match="no"):
            fail()
        with database.transaction():
            database.set_meta("second", "1")
    assert (database.meta("outer"), database.meta("inner"), database.meta("second")) == ("1", None, "1")
    # Before each savepoint as well, so that what a roll back re-reads is there.
    assert calls == ["commit", "rollback", "commit", "commit", "commit"]


def test_a_roll_back_of_nothing_disturbs_nobody(database: Database):
    calls: list[str] = []
    database.after_rollback.append(lambda: calls.append("rollback"))

    def refuse() -> None:
        with database.transaction():
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        refuse()
    assert calls == []


def test_a_synced_commit_calls_fsync_and_the_others_do_not(database: Database, monkeypatch: pytest.MonkeyPatch):
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), real(fd))[1])
    with database.transaction():
        database.set_meta("a", "1")
    assert synced == []
    with database.transaction(sync=True):
        database.set_meta("a", "2")
    assert len(synced) == 2, "the log, and once the folder that names it"
    with database.transaction(sync=True):
        database.set_meta("a", "3")
    with database.transaction():
        with database.transaction(sync=True):
            database.set_meta("a", "4")
        assert len(synced) == 3, "the outermost commit is what is synced"
    assert len(synced) == 4


def test_a_failed_fsync_is_never_ignored(database: Database, monkeypatch: pytest.MonkeyPatch):
    def broken(fd: int) -> None:
        raise OSError(5, "the disk")

    monkeypatch.setattr(os, "fsync", broken)

    def commit() -> None:
        with database.transaction(sync=True):
            database.set_meta("a", "1")

    with pytest.raises(StorageFailed, match="fsync"):
        commit()


def test_nothing_to_sync_is_no_failure(tmp_path: Path):
    database = Database(tmp_path / "v.db")
    database.close()
    database = Database(tmp_path / "v.db")
    with database.transaction(sync=True):
        pass
    database.close()


def test_a_full_disk_has_its_own_error(database: Database):
    pages = database.row("PRAGMA page_count")
    assert pages is not None
    database.execute(f"PRAGMA max_page_count = {pages[0] + 2}").fetchall()

    def fill() -> None:
        with database.transaction():
            for n in range(1000):
                database.set_meta(f"key {n}", "x" * 1000)

    with pytest.raises(NoSpace):
        fill()
    assert database.meta("key 0") is None
    assert not database.in_transaction
    with database.transaction():
        database.set_meta("small", "1")


def test_a_reader_sees_commits_only_and_cannot_write(database: Database):
    reader = database.reader()
    with database.transaction():
        database.set_meta("a", "1")
        assert reader.meta("a") is None
    assert reader.meta("a") == "1"
    with reader.snapshot():
        assert reader.meta("a") == "1"
        with database.transaction():
            database.set_meta("a", "2")
        assert reader.meta("a") == "1"
    assert reader.meta("a") == "2"
    with pytest.raises(sqlite3.OperationalError):
        reader.set_meta("a", "3")
    reader.close()


def test_a_database_in_memory_has_no_reader():
    database = Database(":memory:")
    with database.transaction(sync=True):
        database.set_meta("a", "1")
    with pytest.raises(StorageFailed):
        database.reader()
    database.close()


def test_a_checkpoint_folds_the_log_into_the_file(database: Database, tmp_path: Path):
    with database.transaction():
        database.set_meta("a", "1")
    database.checkpoint()
    assert (tmp_path / "v.db").stat().st_size > 4096
    assert database.meta("a") == "1"


def test_a_snapshot_inside_a_snapshot_is_the_same_one(tmp_path: Path) -> None:
    """A server streams a dump from within a snapshot that also covers its head and digest."""
    with closing(Database(tmp_path / "v.db")) as database, closing(database.reader()) as reader:
        with reader.snapshot():
            assert reader.meta("x") is None
            with database.transaction():
                database.set_meta("x", "1")
            with reader.snapshot():
                assert reader.meta("x") is None
            assert reader.meta("x") is None
        assert reader.meta("x") == "1"


def test_who_comes_when_it_is_closed_is_told_so_and_the_disk_is_not_blamed(tmp_path: Path) -> None:
    """Found by the fire drill: a chunk that arrived during a shutdown made the server end as if its disk had failed."""
    database = Database(tmp_path / "x.db")
    database.close()
    with pytest.raises(Unavailable) as refused, database.transaction():
        pass
    assert not isinstance(refused.value, StorageFailed)


def test_a_log_that_cannot_be_folded_back_is_an_error_of_ours(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db")
    database.close()
    with pytest.raises(Unavailable, match="closed"):
        database.checkpoint()
