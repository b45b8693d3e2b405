"""`gdah export`: the files of a data folder without a server; what is damaged is told, everything else is written."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdah_volume import reading
from gdah_volume.content import CHUNK_SIZE, hash_of
from gdah_volume.ids import ROOT, NodeId
from gdah_volume.operations import Attrs
from mountfs import tool
from tests.offline.folders import BIG, Folder, fill, told_tree


def written_tree(target: Path) -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    top = os.fsencode(target)
    for above, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(above, name)
            info = os.lstat(path)
            kind = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}[
                stat.S_IFMT(info.st_mode)
            ]
            target_of = os.readlink(path) if kind == "symlink" else b""
            data = Path(os.fsdecode(path)).read_bytes() if kind == "file" else None
            names = os.listxattr(path, follow_symlinks=False) if kind != "symlink" else []
            xattrs = {name.encode(): os.getxattr(path, name) for name in names}
            mode = None if kind == "symlink" else stat.S_IMODE(info.st_mode)
            owner = (info.st_uid, info.st_gid)
            found[path[len(top) + 1 :]] = (kind, mode, owner, info.st_mtime_ns, target_of, xattrs, data)
    return found


def as_written(told: dict[bytes, Any]) -> dict[bytes, Any]:
    """Owners are kept by root only."""
    if os.geteuid() == 0:
        return told
    me = (os.geteuid(), os.getegid())
    return {path: (*row[:2], me, *row[3:]) for path, row in told.items()}


def export(*argv: str | Path) -> int:
    return tool.main(["export", *map(str, argv)])


def damage(data: Path, *statements: str) -> None:
    with sqlite3.connect(data / "volumes/test_chamber/volume.db") as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def chunk_file(data: Path) -> Path:
    name = hash_of(BIG).hex()
    return data / "volumes/test_chamber/chunks" / name[:2] / name


def test_everything_is_written_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside one who has the database open, as a server has."""
    with Folder(tmp_path / "data") as folder:
        fill(folder)
        assert export("--data", folder.data, tmp_path / "out") == 0
        assert written_tree(tmp_path / "out") == as_written(told_tree(folder))
    out = tmp_path / "out"
    assert (out / "docs/a.txt").samefile(out / "docs/deep/hard")
    assert (out / "sparse").stat().st_blocks * 512 < CHUNK_SIZE
    assert (out / "docs/a.txt").read_bytes() == b"two"
    assert "6 files" in capsys.readouterr().out


def test_the_trash_says_when_and_what(filled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export("--data", filled, "--trash", out) == 0
    (removed,) = (out / ".trash/removed/docs").iterdir()
    assert removed.name.startswith("gone.txt (removed 1970-01-01 ")
    assert removed.read_bytes() == b"was here"
    (old,) = (out / ".trash/removed/old").iterdir()
    assert old.read_bytes() == b"in a removed folder"
    (version,) = (out / ".trash/versions/docs").iterdir()
    assert version.name.startswith("a.txt (version 1970-01-01 ")
    assert version.read_bytes() == b"one"


def test_what_the_retention_has_taken_is_no_failure(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    was, gone, moved = (hash_of(data).hex() for data in (b"was here", b"one", b"in a removed folder"))
    damage(
        filled,
        f"DELETE FROM chunks WHERE hash IN (x'{was}', x'{gone}')",
        "CREATE TABLE IF NOT EXISTS collected (hash BLOB PRIMARY KEY, data BLOB NOT NULL, at INTEGER NOT NULL)",
        f"INSERT INTO collected SELECT hash, data, 0 FROM chunks WHERE hash = x'{moved}'",
        f"DELETE FROM chunks WHERE hash = x'{moved}'",
    )
    assert export("--data", filled, "--trash", tmp_path / "out") == 0
    assert "2 removed files and earlier versions (2 more are no longer kept)" in capsys.readouterr().out


def test_a_damaged_chunk_harms_its_file_alone(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chunk_file(filled).write_bytes(BIG[:-1] + b"?")
    assert export("--data", filled, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "docs/deep/big.bin: 1 of 1 pieces are in no copy" in said
    assert "sparse: 1 of 1 pieces" in said
    assert not (tmp_path / "out/docs/deep/big.bin").exists()
    assert (tmp_path / "out/docs/deep/big.bin.incomplete").stat().st_size == len(BIG)
    assert (tmp_path / "out/docs/a.txt").read_bytes() == b"two"


def test_what_one_folder_lacks_comes_from_another(filled: Path, tmp_path: Path, template: Path) -> None:
    shutil.copytree(template, tmp_path / "other")
    with Folder(tmp_path / "other") as other:
        told = told_tree(other)
    chunk_file(filled).unlink()
    damage(filled, "DELETE FROM chunks")
    assert export("--data", filled, "--data", tmp_path / "other", tmp_path / "out") == 0
    assert written_tree(tmp_path / "out") == as_written(told)


def test_a_database_that_is_none_is_passed_over(
    filled: Path, tmp_path: Path, template: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (filled / "volumes/test_chamber/volume.db").write_bytes(b"x" * 100_000)
    assert export("--data", filled, tmp_path / "out") == 1
    assert "SQLite cannot read" in capsys.readouterr().err
    shutil.copytree(template, tmp_path / "other")
    with Folder(tmp_path / "other") as other:
        told = told_tree(other)
    assert export("--data", filled, "--data", tmp_path / "other", tmp_path / "out") == 1  # and says so
    assert written_tree(tmp_path / "out") == as_written(told)


@pytest.mark.parametrize("table", ["nodes", "links", "versions"])
def test_a_damaged_tree_is_folded_anew_from_the_log(filled: Path, tmp_path: Path, table: str) -> None:
    """A page in the middle of a table is overwritten: SQLite says that the file is malformed."""
    with Folder(tmp_path / "data2") as folder:
        fill(folder)
        for number in range(60):
            folder.write(f"file {number}", b"%d" % number)
        told = told_tree(folder)
        folder.database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    path = tmp_path / "data2/volumes/test_chamber/volume.db"
    with sqlite3.connect(path) as database:
        size = database.execute("PRAGMA page_size").fetchone()[0]
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    database.close()
    raw = bytearray(path.read_bytes())
    raw[(root - 1) * size : root * size] = b"\xa5" * size
    path.write_bytes(raw)
    assert export("--data", tmp_path / "data2", tmp_path / "out") == 1
    found = written_tree(tmp_path / "out")
    assert {path: row[-1] for path, row in found.items()} == {path: row[-1] for path, row in told.items()}


def test_without_the_log_what_can_be_read_is_written(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(filled, "UPDATE counters SET pruned_to = 3", "DELETE FROM links WHERE name = x'64656570'")  # "deep"
    assert export("--data", filled, tmp_path / "out") == 1
    assert "a folder that is in no folder any more" in capsys.readouterr().err
    (found,) = (tmp_path / "out/.found").iterdir()
    assert (found / "big.bin").read_bytes() == BIG
    assert (tmp_path / "out/docs/a.txt").read_bytes() == b"two"


@pytest.mark.parametrize("name", [b"..", b"../../evil", b"/tmp/evil", b"", b"a\0b"])
def test_nothing_is_written_outside_of_the_target(
    filled: Path, tmp_path: Path, name: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(filled, f"UPDATE links SET name = x'{name.hex()}' WHERE name = x'70726976617465'")  # "private"

    def outside() -> list[Path]:
        """But for what SQLite keeps beside a database that somebody reads."""
        found = sorted(path for path in tmp_path.rglob("*") if not path.name.endswith(("-wal", "-shm")))
        return [path for path in found if not path.is_relative_to(tmp_path / "out")]

    before = outside()
    assert export("--data", filled, tmp_path / "out") == 1
    assert outside() == before
    assert "not a file name" in capsys.readouterr().err


def test_a_name_that_is_there_twice_never_leads_through_a_symlink(filled: Path, tmp_path: Path) -> None:
    """The symlink gets the name of a folder; what is in that folder must not land where the symlink points."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    damage(
        filled,
        f"UPDATE nodes SET target = x'{os.fsencode(elsewhere).hex()}' WHERE kind = 'symlink'",
        "UPDATE links SET name = x'646f6373', id = 'a' WHERE name = x'6c696e6b'",
    )
    assert export("--data", filled, tmp_path / "out") == 1
    assert list(elsewhere.iterdir()) == []


def test_wrong_usage_says_the_next_step(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_bytes(b"")
    for argv, words in (
        (["--data", filled, tmp_path / "full"], "not empty; export into a new folder"),
        ([tmp_path / "out"], "say from where"),
        (["--data", tmp_path / "nowhere", tmp_path / "out"], "give the right folder"),
        (["--data", filled, "--volume", "other", tmp_path / "out"], "there are: test_chamber"),
        (["--data", filled, filled / "volumes/test_chamber/out"], "give a folder elsewhere"),
    ):
        assert export(*argv) == 2
        assert words in capsys.readouterr().err


def test_a_disk_that_cannot_be_written_is_read_from_a_copy(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = reading._open

    def read_only(path: Path) -> Any:
        if path.is_relative_to(filled):
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorname = "SQLITE_CANTOPEN"
            raise error
        return real(path)

    monkeypatch.setattr(reading, "_open", read_only)
    assert export("--data", filled, tmp_path / "out") == 0
    assert (tmp_path / "out/docs/deep/big.bin").read_bytes() == BIG


names = st.binary(min_size=1, max_size=12).filter(lambda name: name not in (b".", b"..") and not set(name) & {0, 47})
kinds = st.sampled_from(["dir", "dir", "file", "file", "symlink", "fifo"])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    made=st.lists(
        st.tuples(
            st.integers(0, 9),
            names,
            kinds,
            st.sampled_from([b"", b"x", BIG, bytes(70_000)]),
            st.integers(0, 0o7777),
            st.integers(-(10**18), 10**18),
        ),
        max_size=12,
    )
)
def test_a_random_tree_is_exported_as_the_volume_tells_it(tmp_path_factory: pytest.TempPathFactory, made: Any) -> None:
    top = tmp_path_factory.mktemp("random")
    with Folder(top / "data") as folder:
        folders = [ROOT]
        for which, name, kind, data, mode, time_ns in made:
            parent = folders[which % len(folders)]
            content = folder.put(data) if kind == "file" else folder.put(b"")
            target = name if kind == "symlink" else b""
            made_op = folder.create(
                parent, name, kind=kind, content=content, target=target, attrs=Attrs(mode, 0, 0, time_ns, time_ns)
            )
            if kind == "dir":
                folders.append(NodeId(made_op))
        assert export("--data", folder.data, top / "out") == 0
        assert written_tree(top / "out") == as_written(told_tree(folder))
