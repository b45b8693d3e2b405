"""The disk that fails on command: what it refuses, what it forgets when power is cut, and that SQLite works on it."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gdah_drill.disk import Disk

pytestmark = pytest.mark.mount


@pytest.fixture
def disk(tmp_path: Path, fuse: None) -> Iterator[Disk]:
    disk = Disk(tmp_path, "d")
    disk.start()
    yield disk
    disk.close()
    assert not disk.is_mounted()


def synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def test_a_full_disk_refuses_what_needs_room(disk: Disk) -> None:
    synced(disk.folder / "a", b"text")
    disk.set(full=True)
    with pytest.raises(OSError, match="No space") as refused:
        (disk.folder / "a").write_bytes(b"more")
    assert refused.value.errno == errno.ENOSPC
    assert os.statvfs(disk.folder).f_bavail == 0
    assert disk.figures()["full"] > 0
    disk.heal()
    (disk.folder / "a").write_bytes(b"more")
    assert (disk.folder / "a").read_bytes() == b"more"


def test_errors_of_chosen_files(disk: Disk) -> None:
    synced(disk.folder / "good", b"text")
    synced(disk.folder / "bad", b"text")
    disk.set(read_error="bad", write_error="bad")
    assert (disk.folder / "good").read_bytes() == b"text"
    with pytest.raises(OSError, match="Input/output"):
        (disk.folder / "bad").read_bytes()
    with (disk.folder / "bad").open("ab", buffering=0) as file, pytest.raises(OSError, match="Input/output"):
        file.write(b"x")
    figures = disk.figures()
    assert figures["read_error"] > 0
    assert figures["write_error"] > 0


def test_what_no_fsync_covered_goes_with_the_power(disk: Disk) -> None:
    synced(disk.folder / "kept", b"first and second")
    with (disk.folder / "kept").open("r+b") as file:
        file.write(b"FIRST")
        file.truncate(8)
    (disk.folder / "gone").write_bytes(b"never synced")
    (disk.folder / "kept").rename(disk.folder / "other")
    lost = disk.cut_power()
    assert lost["lost_names"] == 2
    assert {path.name: path.read_bytes() for path in disk.folder.iterdir()} == {"kept": b"first and second"}


def test_names_are_kept_by_the_next_fsync_and_a_removed_file_comes_back(disk: Disk) -> None:
    synced(disk.folder / "a", b"one")
    (disk.folder / "a").rename(disk.folder / "b")
    synced(disk.folder / "c", b"three")
    (disk.folder / "b").unlink()
    disk.cut_power()
    assert {path.name: path.read_bytes() for path in disk.folder.iterdir()} == {"b": b"one", "c": b"three"}


def test_a_failed_fsync_saves_nothing(disk: Disk) -> None:
    synced(disk.folder / "a", b"old")
    disk.set(fsync_error=True)
    with pytest.raises(OSError, match="Input/output"):
        synced(disk.folder / "a", b"new")
    disk.cut_power()
    assert (disk.folder / "a").read_bytes() == b"old"


def test_sqlite_with_its_log_and_shared_memory_keeps_what_it_synced(disk: Disk) -> None:
    path = disk.folder / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA synchronous = NORMAL")
        writer.execute("CREATE TABLE t (a)")
        writer.execute("INSERT INTO t VALUES (1)")
        with closing(sqlite3.connect(path)) as reader:
            assert reader.execute("SELECT a FROM t").fetchall() == [(1,)]
        log = os.open(f"{path}-wal", os.O_RDONLY)
        os.fsync(log)
        os.close(log)
        writer.execute("INSERT INTO t VALUES (2)")
        disk.cut_power()
    with closing(sqlite3.connect(path)) as again:
        assert again.execute("SELECT a FROM t").fetchall() == [(1,)]
        assert again.execute("PRAGMA integrity_check").fetchone() == ("ok",)
