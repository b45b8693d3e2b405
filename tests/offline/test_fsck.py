"""`gdah fsck` on a server's data folder: each kind of damage is found by its name and mended."""

from __future__ import annotations

import fcntl
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdah_volume.content import ChunkHash, hash_of
from gdah_volume.errors import Unreachable
from gdah_volume.findings import Report
from gdah_volume.fsck import check_replica
from gdah_volume.ids import ServerId
from gdah_volume.needed import needed
from gdah_volume.snapshot_file import SnapshotFile, SnapshotHeader, frame_of
from gdah_volume.stamps import Stamp
from gdah_volume.wire import PROTOCOL
from mountfs import tool
from mountfs.tools import tool_fsck
from tests.foldkit import Client
from tests.offline.conftest import told
from tests.offline.folders import BIG, Folder, fill
from tests.offline.test_export import chunk_file, damage
from tests.test_replica_order import TEXTS, Program, deliver


class Twin:
    """A peer that holds what `Folder` held when it was filled: in the place of one that is asked over HTTP."""

    def __init__(self, path: Path) -> None:
        self.url = "http://twin"
        self.folder = Folder(path)

    def close(self) -> None:
        pass

    def status(self) -> dict[str, Any]:
        replica = self.folder.replica
        return {"volumes": {"test_chamber": {"digest": replica.digest.hex(), "operations": replica.operations}}}

    def chunk(self, name: ChunkHash) -> bytes | None:
        return self.folder.chunks.get(name)

    @contextmanager
    def snapshot(self) -> Iterator[SnapshotFile]:
        path = self.folder.data / "snapshot"
        with path.open("wb") as file:
            header = SnapshotHeader(ServerId("twin"), "e", self.folder.replica.head, Stamp(0, ServerId("")), PROTOCOL)  # type: ignore[arg-type]
            file.write(frame_of(header))
            for table, rows in self.folder.replica.dump():
                file.write(frame_of((table, rows)))
            file.write(frame_of(None))
        with path.open("rb") as file:
            yield SnapshotFile(file)


@pytest.fixture
def twin(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Twin]:
    shutil.copytree(template, tmp_path / "twin")
    made = Twin(tmp_path / "twin")
    monkeypatch.setattr(tool_fsck, "PeerClient", lambda url, volume, token: made)
    yield made
    made.folder.database.close()


def fsck(data: Path, *more: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = tool.main(["fsck", "--data", str(data), *more])
    return code, capsys.readouterr().out


def test_a_sound_folder_is_called_so(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fsck(filled, capsys=capsys)
    assert code == 0, said
    assert "sound: 18 operations" in said
    assert "18 folded anew from the beginning" in said
    code, said = fsck(filled, "--json", capsys=capsys)
    assert json.loads(said)["test_chamber"]["sound"] is True


def test_a_folder_in_use_is_read_and_never_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Folder(tmp_path / "data") as folder, (tmp_path / "data/lock").open("w") as lock:
        fill(folder)
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.database.connection.execute("BEGIN IMMEDIATE")
        folder.database.execute("UPDATE counters SET operations = 99")
        code, said = fsck(folder.data, capsys=capsys)  # what is not committed is not seen
        assert code == 0, said
        assert "in use" in said
        folder.database.connection.rollback()
        assert fsck(folder.data, "--repair", capsys=capsys)[0] == 2


FLIPS: dict[str, tuple[str, ...]] = {
    "tree.refold: links": ("UPDATE links SET want = x'00' WHERE name = x'70697065'",),
    "tree.refold: nodes": ("UPDATE nodes SET mode = 511 WHERE id = (SELECT min(id) FROM nodes WHERE kind = 'file')",),
    "tree.refold": ("DELETE FROM links WHERE name = x'706970650a' OR name = x'70697065'",),
    "tree.unreachable": ("DELETE FROM links WHERE name = x'646f6373'",),
    "tree.node": ("DELETE FROM nodes WHERE kind = 'fifo'",),
    "tree.cycle": (
        "UPDATE links SET parent = (SELECT node FROM links WHERE name = x'64656570') WHERE name = x'646f6373'",
    ),
    "tree.names": ("UPDATE links SET name = x'6c696e6b' WHERE name = x'70697065'",),
    "tree.parent": ("UPDATE links SET parent = node WHERE name = x'70697065'",),
    "tree.alias": ("INSERT INTO aliases SELECT node, 'root' FROM links WHERE name = x'70697065'",),
    "tree.alias_loop": ("INSERT INTO aliases VALUES ('a', 'b'), ('b', 'a')",),
    "tree.merged": ("UPDATE links SET merged = 1 WHERE name = x'70697065'",),
    "tree.folder": (
        (
            "INSERT INTO links SELECT 'x', node, 'root', x'7a', x'7a', rev, 1, via, 0, 0"
            " FROM links WHERE name = x'64656570'"
        ),
    ),
    "tree.version": ("DELETE FROM versions WHERE version = (SELECT version FROM nodes WHERE size = 6)",),
    "tree.last": ("UPDATE last SET link = 'nothing'",),
    "tree.attributes": ("UPDATE nodes SET xattrs = x'ff' WHERE kind = 'fifo'",),
    "tree.root": ("DELETE FROM nodes WHERE id = 'root'",),
    "tree.name": ("UPDATE links SET name = x'2e2e' WHERE name = x'70697065'",),
    "tree.derived": ("UPDATE links SET conflict = 1 WHERE name = x'70697065'",),
    "tree.content": ("UPDATE versions SET content = x'00' WHERE version = (SELECT max(version) FROM versions)",),
    "tree.size": ("UPDATE nodes SET size = 7 WHERE size = 6",),
    "sqlite.damaged": ("DROP TABLE versions",),
    "undo.missing": ("DELETE FROM undo",),
    "undo.record": ("UPDATE undo SET before = x'00' WHERE id = (SELECT min(id) FROM undo)",),
    "undo.stranger": ("UPDATE undo SET clock = clock + 1 WHERE id = (SELECT min(id) FROM undo)",),
}


@pytest.mark.parametrize("name", FLIPS)
def test_a_damaged_tree_is_found_and_folded_anew_without_any_peer(
    filled: Path, sound_state: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(filled, *FLIPS[name])
    code, said = fsck(filled, "--repair", capsys=capsys)
    assert code == 0, said
    assert f"DAMAGE {name}" in said
    assert "folded anew from 18 operations" in said
    assert told(filled) == sound_state
    assert len(list((filled / "volumes/test_chamber").glob("volume.db.damaged-*"))) == 1


LOG: dict[str, tuple[str, ...]] = {
    "log.row": ("UPDATE operations SET operation = substr(operation, 9) WHERE position = 3",),
    "log.row: ": ("UPDATE operations SET author = 'nobody' WHERE position = 3",),
    "log.count": ("DELETE FROM operations WHERE position = 5",),
    "log.digest": ("UPDATE counters SET digest = 'ff'",),
    "log.digest: ": ("UPDATE operations SET clock = clock + 1 WHERE position = 4",),
    "log.head": ("UPDATE counters SET head = 2",),
    "log.clock": ("UPDATE counters SET max_clock = 2",),
    "log.author": ("UPDATE authors SET sequence = 2",),
    "log.counters": ("DELETE FROM counters",),
}


@pytest.mark.parametrize("name", LOG)
def test_a_damaged_log_needs_another_server(
    filled: Path, sound_state: Any, twin: Twin, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(filled, *LOG[name])
    if name == "log.count":
        code, said = fsck(filled, "--repair", capsys=capsys)
        assert code == 1
        assert "give --peer URL" in said
    code, said = fsck(filled, "--repair", "--peer", "http://twin", capsys=capsys)
    assert code == 0, said
    assert f"DAMAGE {name.rstrip(': ')}" in said
    assert told(filled) == sound_state


def test_a_log_that_says_something_else_than_the_peers_is_taken_from_there(
    filled: Path, sound_state: Any, twin: Twin, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digest covers ids and stamps alone: only the tree differs from such a log, and the log is wrong."""
    damage(filled, "UPDATE operations SET operation = replace(operation, 'pipe', 'pope')")
    code, said = fsck(filled, "--repair", "--peer", "http://twin", capsys=capsys)
    assert code == 0, said
    assert "everything was taken from http://twin" in said
    assert told(filled) == sound_state


def test_what_only_this_server_had_is_put_on_top(
    tmp_path: Path, twin: Twin, capsys: pytest.CaptureFixture[str]
) -> None:
    with Folder(tmp_path / "data") as folder:
        fill(folder)
        folder.write("mine alone", b"precious")
    damage(folder.data, "UPDATE operations SET operation = '{' WHERE position = 2")
    code, said = fsck(folder.data, "--repair", "--peer", "http://twin", capsys=capsys)
    assert code == 0, said
    assert "1 operations that only this server had" in said
    assert told(folder.data)[0][b"mine alone"][-1] == b"precious"
    with sqlite3.connect(folder.place.database) as database:
        meta = dict(database.execute("SELECT key, value FROM meta"))
    database.close()
    assert meta["server"] == "s1"
    assert "epoch" not in meta  # a new one begins with the next start


def test_a_database_that_sqlite_cannot_read_is_set_aside(
    filled: Path, sound_state: Any, twin: Twin, capsys: pytest.CaptureFixture[str]
) -> None:
    path = filled / "volumes/test_chamber/volume.db"
    path.write_bytes(b"x" * 50_000)
    assert "sqlite.unreadable" in fsck(filled, capsys=capsys)[1]
    assert fsck(filled, "--repair", capsys=capsys)[0] == 1
    assert path.read_bytes() == b"x" * 50_000
    code, said = fsck(filled, "--repair", "--peer", "http://twin", capsys=capsys)
    assert code == 0, said
    assert told(filled)[0] == sound_state[0]
    (aside,) = path.parent.glob("volume.db.damaged-*")
    assert aside.read_bytes() == b"x" * 50_000


def test_a_page_of_the_tree_that_cannot_be_read_is_no_loss(
    filled: Path, sound_state: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = filled / "volumes/test_chamber/volume.db"
    with sqlite3.connect(path) as database:
        size = database.execute("PRAGMA page_size").fetchone()[0]
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'links_place'").fetchone()
    database.close()
    raw = bytearray(path.read_bytes())
    raw[(root - 1) * size + 2000 : root * size] = b"\xa5" * (size - 2000)
    path.write_bytes(raw)
    code, said = fsck(filled, capsys=capsys)
    assert code == 1
    assert "sqlite." in said
    code, said = fsck(filled, "--repair", capsys=capsys)
    assert code == 0, said
    assert told(filled) == sound_state


def test_a_peer_that_is_silent_or_empty_never_gets_the_last_copy_thrown_away(
    filled: Path, tmp_path: Path, twin: Twin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = filled / "volumes/test_chamber/volume.db"
    path.write_bytes(b"x" * 50_000)
    full = twin.folder
    with Folder(tmp_path / "empty") as twin.folder:
        code, said = fsck(filled, "--repair", "--peer", "http://twin", capsys=capsys)
    twin.folder = full
    assert code == 1
    assert "this copy would be the last one" in said

    @contextmanager
    def silent() -> Iterator[SnapshotFile]:
        raise Unreachable("http://twin does not answer")
        yield

    monkeypatch.setattr(twin, "snapshot", silent)
    code, said = fsck(filled, "--repair", "--peer", "http://twin", capsys=capsys)
    assert code == 1
    assert "Nothing was changed" in said
    assert path.read_bytes() == b"x" * 50_000


Harm = Callable[[Path], None]
CHUNKS: dict[str, Harm] = {
    "chunk.missing": lambda data: chunk_file(data).unlink(),
    "chunk.damaged: flipped": lambda data: none(chunk_file(data).write_bytes(BIG[:-1] + b"?")),
    "chunk.damaged: cut short": lambda data: none(chunk_file(data).write_bytes(BIG[:1000])),
    "chunk.damaged: empty": lambda data: none(chunk_file(data).write_bytes(b"")),
    "chunk.missing: row": lambda data: damage(data, "DELETE FROM chunks WHERE length(data) = 6"),
    "chunk.damaged: row": lambda data: damage(data, "UPDATE chunks SET data = x'00' WHERE length(data) = 6"),
    "chunk.stranger": lambda data: none(chunk_file(data).with_name("notes.txt").write_bytes(b"what am I")),
}


def none(_: object) -> None:
    return None


@pytest.mark.parametrize("name", CHUNKS)
def test_chunks(filled: Path, sound_state: Any, twin: Twin, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    CHUNKS[name](filled)
    if name == "chunk.missing":
        code, said = fsck(filled, "--repair", capsys=capsys)
        assert code == 1
        assert "give --peer URL" in said
    code, said = fsck(filled, "--repair", "--peer", "http://twin", capsys=capsys)
    assert code == 0, said
    first, again = said.split("looking again")
    assert name.partition(":")[0] in first
    assert name.partition(":")[0] not in again
    assert told(filled) == sound_state


def test_what_nobody_has_is_said(
    filled: Path, sound_state: Any, twin: Twin, capsys: pytest.CaptureFixture[str]
) -> None:
    chunk_file(filled).unlink()
    chunk_file(twin.folder.data).unlink()
    code, said = fsck(filled, "--repair", "--peer", "http://twin", capsys=capsys)
    assert code == 1
    assert "1 chunks are not on http://twin either" in said


def test_chunks_on_their_way_and_partial_files_are_no_damage(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = chunk_file(filled).name
    chunk_file(filled).unlink()
    damage(filled, f"INSERT INTO meta VALUES ('wanted', '[\"{name}\"]')")
    code, said = fsck(filled, capsys=capsys)
    assert code == 0
    assert "chunk.wanted: 1 chunks are still to be fetched" in said


def test_of_a_pruned_log_the_part_above_the_stable_point_is_folded_anew(
    filled: Path, sound_state: Any, twin: Twin, capsys: pytest.CaptureFixture[str]
) -> None:
    with Folder(filled.parent / "pruned") as folder:
        fill(folder)
        with folder.database.transaction():
            folder.replica.stabilise(Stamp(1080, ServerId("s1")))
            assert folder.replica.prune(before_time_ns=1 << 62, up_to_position=6) == 6
    code, said = fsck(folder.data, capsys=capsys)
    assert code == 0, said
    assert "10 folded anew from the stable point 1080, what is older was pruned" in said
    damage(folder.data, "UPDATE nodes SET mode = 1 WHERE kind = 'fifo'")
    code, said = fsck(folder.data, capsys=capsys)
    assert code == 1
    assert "tree.refold: nodes" in said
    assert fsck(folder.data, "--repair", capsys=capsys)[0] == 1  # not without the beginning
    code, said = fsck(folder.data, "--repair", "--peer", "http://twin", capsys=capsys)
    assert code == 0, said
    assert told(folder.data)[1:] == sound_state[1:]


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fsck(tmp_path, capsys=capsys)[0] == 2
    assert tool.main(["fsck", "--cache-dir", str(tmp_path / "nowhere")]) == 2
    assert tool.main(["fsck", str(tmp_path), "--data", str(tmp_path)]) == 2


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), steps=st.integers(5, 60), stable=st.floats(0, 1))
def test_what_conflicts_leave_is_sound(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: int, stable: float
) -> None:
    """Merged folders, forks, late and re-stamped operations, pending ones on top, a stable point, a pruned log."""
    check_random(tmp_path_factory.mktemp("random"), seed, steps, stable)


def check_random(top: Path, seed: int, steps: int, stable: float) -> None:
    rng = random.Random(seed)
    program = Program(rng, 3)
    with Folder(top / "data") as folder:
        for _ in range(steps):
            program.step()
        rng.shuffle(program.arrivals)
        deliver(folder.replica, program.arrivals, rng)
        if seed % 2:
            clocks = sorted(at.clock for _, at in program.log.values())
            at = Stamp(clocks[int(stable * (len(clocks) - 1))] if clocks else 0, ServerId("s9"))
            with folder.database.transaction():
                folder.replica.stabilise(at)
                if seed % 4 == 1:
                    folder.replica.prune(before_time_ns=1 << 62, up_to_position=rng.randrange(steps))
        if seed % 3 == 0:
            op = program.make(Client("me", folder.replica.tree))
            if op is not None:
                with folder.database.transaction():
                    folder.replica.add_pending(op, strict=False)
        for name in needed(folder.database):
            data = next(text.encode() for text in TEXTS if text and hash_of(text.encode()) == name)
            folder.chunks.put_named(name, data)
    report = check_replica(folder.place, Report(), lambda _: None, is_server=True).report
    assert [finding.line() for finding in report.damages] == []
