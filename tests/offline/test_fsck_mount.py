"""`gdah fsck` on a mount's cache folder: what is pending is never given up, all else is fetched anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import content_of
from gdah_volume.database import Database
from gdah_volume.ids import DEFAULT_VOLUME, ROOT, NodeId, Version
from gdah_volume.layout import of_mount
from gdah_volume.operations import Create, Operation
from gdah_volume.replica import Replica
from mountfs import tool
from mountfs.files import records
from mountfs.files.records import Opening, Sealed
from mountfs.journal import Journals
from mountfs.sync.changelog import ChangeLog
from mountfs.sync.dirty import DirtyChunks, Limits
from mountfs.sync.mirror import Mirror
from tests.foldkit import ATTRS, Client, stamp
from tests.offline.folders import BIG

HASHED = content_of(BIG)[0].chunks[0].hash


@dataclass
class Device:
    """The parts of a mount that are on its disk."""

    cache_dir: Path

    def __post_init__(self) -> None:
        self.place = of_mount(self.cache_dir, DEFAULT_VOLUME)
        self.place.folder.mkdir(parents=True, exist_ok=True)
        self.place.lock.touch()
        self.database = Database(self.place.database)
        self.mirror = Mirror(Replica(self.database))
        self.dirty = DirtyChunks(
            ChunkStore(self.place.folder / "dirty", self.database, lock=self.mirror.lock),
            Limits(),
            lambda: 1 << 40,
            self.mirror.changing,
        )
        self.client = Client("me", self.mirror.tree)
        self.log = ChangeLog(self.mirror, self.dirty, self.client.author)

    def perform(self, make: Any) -> None:
        def build(op: Any, time_ns: int) -> Operation:
            self.client.sequence = int(op.rpartition("-")[2]) - 1
            made: Operation = make()
            return made

        self.log.perform(build)

    def close(self) -> None:
        self.database.close()


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """Something that all servers have, pending operations with small and large content, an open file, a cache."""
    device = Device(tmp_path / "cache")
    other = Client("other", device.mirror.tree)
    with device.database.transaction():
        device.mirror.replica.accept(other.mkdir("theirs"), stamp(50))
        device.mirror.replica.accept(other.create("theirs/file", "known everywhere"), stamp(60))
    device.perform(lambda: device.client.mkdir("mine"))
    for name, data in (("small", b"unsent"), ("big", BIG)):
        chunk = device.log.store_chunk(data)
        content = content_of(data)[0]
        assert content.chunks[0].hash == chunk

        def create(name: str = name, content: Any = content) -> Operation:
            parent = device.client.at("mine").node
            named = device.client.next()
            return Create(**named, kind="file", parent=parent, name=name.encode(), attrs=ATTRS, content=content)

        device.perform(create)
    journals = Journals(device.place.folder / "open")
    journals.begin().finish()  # one that is idle, with a stale tail
    journal = journals.begin()
    opening = Opening(NodeId(ROOT), Version("other-a1b2c3-9f3c-2"), content_of(b"")[0], b"x")
    journal.append(records.OPENING, 0, records.pack(opening))
    journal.append(records.DATA, 0, b"unsaved bytes")
    journal.append(records.CHUNK, 0, records.pack(Sealed(3, content_of(BIG)[0].chunks[0])))
    journals.close()
    cached = device.place.folder / "cache" / "ab"
    cached.mkdir(parents=True)
    device.close()
    return tmp_path / "cache"


@pytest.fixture
def again(used: Path) -> Iterator[Any]:
    """The folder as the next mount finds it: (pending paths and contents, the device)."""
    made: list[Device] = []

    def open_it() -> Device:
        made.append(Device(used))
        return made[-1]

    yield open_it
    for device in made:
        device.close()


def fsck(cache_dir: Path, *more: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = tool.main(["fsck", "--cache-dir", str(cache_dir), *more])
    return code, capsys.readouterr().out


def damage(cache_dir: Path, *statements: str) -> None:
    with sqlite3.connect(cache_dir / "test_chamber/mirror.db") as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def dirty_file(cache_dir: Path) -> Path:
    return cache_dir / "test_chamber/dirty" / HASHED.hex()[:2] / HASHED.hex()


def test_a_sound_folder_is_called_so(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fsck(used, capsys=capsys)
    assert code == 0, said
    assert "sound: 2 operations" in said
    assert "5 folded anew from the beginning" in said


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM links",
        "UPDATE counters SET digest = 'ff', operations = 77",
        "UPDATE operations SET operation = '' WHERE clock = 50",
        "DROP TABLE versions",
        "DELETE FROM change_log WHERE number = 1",
    ],
)
def test_a_damaged_mirror_keeps_what_is_pending(
    used: Path, again: Any, statement: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(used, statement)
    code, said = fsck(used, capsys=capsys)
    assert code == 1, said
    code, said = fsck(used, "--repair", capsys=capsys)
    assert code == 0, said
    assert "made anew with 3 operations" in said
    device = again()
    assert device.log.pending_operations == 3
    assert device.mirror.empty  # so the next mount takes a server's snapshot
    assert [op.name for op in device.mirror.replica.pending()] == [b"mine", b"small", b"big"]
    assert [record.id for record in device.log.outbox.unacked()] == [op.id for op in device.mirror.replica.pending()]
    assert device.dirty.read(HASHED) == BIG
    assert device.dirty.read(content_of(b"unsent")[0].chunks[0].hash) == b"unsent"
    other = Replica(Database(":memory:"))
    them = Client("other", other.tree)
    with other.database.transaction():
        other.accept(them.mkdir("theirs"), stamp(50))
    feed = device.mirror.feed("s1", "e")
    device.mirror.load(feed, other.dump())
    other.database.close()
    assert sorted(path for path, _ in device.mirror.tree.walk()) == [b"mine", b"mine/big", b"mine/small", b"theirs"]


def test_a_damaged_file_of_the_cache_is_removed(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached = used / "test_chamber/cache/ab" / ("ab" + "0" * 62)
    cached.write_bytes(b"rotten")
    code, said = fsck(used, "--repair", capsys=capsys)
    assert code == 0, said
    assert "1 damaged files of the cache were removed" in said
    assert not cached.exists()


def test_unsent_content_that_is_gone_is_said_and_nothing_is_given_up(
    used: Path, again: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    dirty_file(used).write_bytes(BIG[:-1] + b"?")
    damage(used, "DELETE FROM chunks WHERE length(data) = 6")
    code, said = fsck(used, "--repair", capsys=capsys)
    assert code == 1
    for name in ("chunk.damaged", "changelog.content: 6 of 6", "changelog.content: 262144 of", "journal.content"):
        assert name in said, said
    assert again().log.pending_operations == 3


def test_a_pending_operation_that_cannot_be_read_stops_the_repair(
    used: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(used, "UPDATE operations SET operation = '{' WHERE clock > 1000", "DELETE FROM links")
    before = (used / "test_chamber/mirror.db").read_bytes()
    code, said = fsck(used, "--repair", capsys=capsys)
    assert code == 1
    assert "changelog.operation" in said
    assert "cannot be read" in said
    assert "Nothing was changed" in said
    assert (used / "test_chamber/mirror.db").read_bytes() == before


def test_a_mirror_that_sqlite_cannot_read_is_left_to_a_person(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (used / "test_chamber/mirror.db").write_bytes(b"x" * 9999)
    code, said = fsck(used, "--repair", capsys=capsys)
    assert code == 1
    assert "Move " in said
    assert (used / "test_chamber/mirror.db").read_bytes() == b"x" * 9999


def test_damage_in_the_middle_of_a_journal(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (path for path in (used / "test_chamber/open").iterdir() if b"unsaved bytes" in path.read_bytes())
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"unsaved bytes", b"unsaved_bytes"))
    code, said = fsck(used, capsys=capsys)
    assert code == 1
    assert "journal.gap" in said
    path.write_bytes(b"?" + whole[1:])
    assert "journal.head" in fsck(used, capsys=capsys)[1]
    path.write_bytes(whole[:-5])  # as a kill leaves it: it was never acknowledged
    assert fsck(used, capsys=capsys)[0] == 0


def test_the_folder_of_a_mount_can_be_exported(used: Path, tmp_path: Path) -> None:
    assert tool.main(["export", "--cache-dir", str(used), str(tmp_path / "out")]) == 1  # one file is not on this device
    assert (tmp_path / "out/mine/big").read_bytes() == BIG
    assert (tmp_path / "out/mine/small").read_bytes() == b"unsent"
    assert not (tmp_path / "out/theirs/file").exists()
