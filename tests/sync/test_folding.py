"""The write-ahead log of a mount is folded back beside whoever writes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from gdah_volume.database import Database
from mountfs.sync.folding import ROWS, Folding
from tests.sync.live import eventually


def fill(database: Database, keys: int) -> None:
    with database.transaction():
        for number in range(keys):
            database.set_meta(f"key {number}", os.urandom(500).hex())


def wal_bytes(database: Database) -> int:
    return os.path.getsize(database.path + "-wal")


def test_it_folds_what_was_written_and_the_log_begins_anew(tmp_path: Path) -> None:
    database = Database(tmp_path / "mirror.db")
    folding = Folding(database, threading.RLock())
    for _ in range(10):
        fill(database, 2_000)
    grown = wal_bytes(database)
    assert grown > 20 << 20, "no commit folds by itself"
    assert os.path.getsize(database.path) < 1 << 20
    folding.fold()
    assert os.path.getsize(database.path) > 2 << 20
    for _ in range(5):
        fill(database, 2_000)
    assert wal_bytes(database) == grown, "the same log is written again from its beginning"
    folding.stop()
    database.close()
    assert len(Database(tmp_path / "mirror.db").rows("SELECT key FROM meta WHERE key LIKE 'key %'")) == 2_000


def test_it_does_so_by_itself_once_there_is_enough(tmp_path: Path) -> None:
    database = Database(tmp_path / "mirror.db")
    folding = Folding(database, threading.RLock())
    folding.start()
    fill(database, ROWS)
    eventually(lambda: folding.folds)
    folding.stop()
    database.close()


def test_a_disk_that_does_not_do_it_harms_nobody(tmp_path: Path) -> None:
    database = Database(tmp_path / "mirror.db")
    folding = Folding(database, threading.RLock())
    fill(database, 10)
    folding._beside.close()
    folding.fold()
    assert folding.folds == 0
    assert database.meta("key 9")
    folding.stop()
    database.close()
