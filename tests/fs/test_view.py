"""Files by path, uploads, events and the status of a mount, without servers and without a kernel."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from gdah_volume.brake import BrakeLimits
from gdah_volume.errors import Exists, IsADirectory, NotADirectory, NotFound, Unreachable
from gdah_volume.ids import DEFAULT_VOLUME, VolumeName
from mountfs.fileside import FileSide, supplementary_groups
from mountfs.ports import Caller, Event
from mountfs.syncside import SyncSide
from mountfs.view import MountedView
from tests.fs.device import ROOT_CALLER, RecordingKernel

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    cache_dir: Path
    volume: VolumeName = DEFAULT_VOLUME
    servers: tuple[str, ...] = ()
    durability: Literal["replicated", "local"] = "replicated"
    token: str | None = None
    ca: str | None = None
    device: str = "laptop"
    pending_max_bytes: int = 1 << 30
    min_free_bytes: int = 0
    cache_size_bytes: int = 1 << 30
    uid: int | None = None
    gid: int | None = None
    umask: int = 0
    brake: BrakeLimits = field(default_factory=BrakeLimits)


class Mounted:
    def __init__(self, folder: Path) -> None:
        settings = Settings(folder)
        self.files = FileSide(settings)
        self.sync = SyncSide(settings, self.files.kept_chunks())
        self.kernel = RecordingKernel()
        self.files.open(self.sync, self.kernel)
        self.recovered = self.files.recover()
        self.fs = self.files.filesystem
        self.view = MountedView(self.sync, self.fs, self.files.cache, {"mount": "/m", "device": "laptop"})

    def close(self) -> None:
        self.files.close()
        self.sync.close()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    made = Mounted(tmp_path)
    yield made
    made.close()


def read(view: MountedView, path: str) -> bytes:
    return b"".join(view.read_file(path)[1])


def test_files_go_in_and_out_by_path(mounted: Mounted) -> None:
    view = mounted.view
    item = view.write_file("sub/deep/a \udcff.txt", iter([b"hello ", b"world"]))
    assert (item.path, item.size, item.state, item.is_dir) == ("sub/deep/a \udcff.txt", 11, "pending", False)
    assert read(view, "sub/deep/a \udcff.txt") == b"hello world"
    assert [found.path for found in view.files()] == ["sub"]
    assert [found.path for found in view.files(recursive=True)] == ["sub", "sub/deep", "sub/deep/a \udcff.txt"]
    assert [found.path for found in view.files("sub/deep")] == ["sub/deep/a \udcff.txt"]
    view.write_file("sub/deep/a \udcff.txt", iter([b"again"]))
    assert read(view, "sub/deep/a \udcff.txt") == b"again"
    view.write_file("empty", iter([]))
    assert read(view, "empty") == b""


def test_a_large_upload_is_cut_into_chunks(mounted: Mounted) -> None:
    data = bytes(range(256)) * 12_000
    mounted.view.write_file("big", (data[at : at + 70_001] for at in range(0, len(data), 70_001)))
    assert read(mounted.view, "big") == data
    mounted.view.write_file("zeros", iter([bytes(3 * MIB)]))
    assert read(mounted.view, "zeros") == bytes(3 * MIB)


def test_an_upload_that_breaks_off_leaves_nothing(mounted: Mounted) -> None:
    mounted.view.write_file("a", iter([b"whole"]))

    def broken() -> Iterator[bytes]:
        yield bytes([1]) * 2 * MIB
        raise ConnectionError("gone")

    for path in ("a", "new/b"):
        with pytest.raises(ConnectionError):
            mounted.view.write_file(path, broken())
    assert read(mounted.view, "a") == b"whole"
    assert [item.path for item in mounted.view.files(recursive=True)] == ["a"]
    assert mounted.sync.dirty.total_bytes == 5


def test_what_is_wrong_is_said(mounted: Mounted) -> None:
    view = mounted.view
    view.make_dir("d")
    view.write_file("d/f", iter([b""]))
    with pytest.raises(NotFound):
        view.files("none")
    with pytest.raises(NotADirectory):
        view.files("d/f")
    with pytest.raises(NotADirectory):
        view.write_file("d/f/below", iter([b""]))
    with pytest.raises(IsADirectory):
        view.read_file("d")
    with pytest.raises(IsADirectory):
        view.write_file("d", iter([b""]))
    with pytest.raises(Exists):
        view.make_dir("d")
    with pytest.raises(NotFound):
        view.remove("none")
    with pytest.raises(NotFound):
        view.move("none", "other")
    view.write_file("g", iter([b"kept"]))
    with pytest.raises(Exists):
        view.move("d/f", "g")
    assert read(view, "g") == b"kept"


def test_moving_and_removing(mounted: Mounted) -> None:
    view = mounted.view
    view.write_file("d/e/f", iter([b"1"]))
    view.write_file("d/g", iter([b"2"]))
    view.move("d/e/f", "new/place/f")
    assert read(view, "new/place/f") == b"1"
    view.remove("d")
    view.remove("new/place/f")
    assert [item.path for item in view.files(recursive=True)] == ["new", "new/place"]


def test_the_kernel_hears_of_what_it_did_not_do(mounted: Mounted) -> None:
    fs, kernel = mounted.fs, mounted.kernel
    mounted.view.write_file("a", iter([b"1"]))
    ino = fs.lookup(1, b"a").ino
    handle = fs.open(ino, 0, ROOT_CALLER).handle
    kernel.inodes.clear()
    kernel.entries.clear()
    mounted.view.write_file("a", iter([b"22"]))
    assert (1, b"a") in kernel.entries
    assert ino in kernel.inodes
    assert fs.read(ino, handle, 0, 10) == b"22"
    mounted.view.remove("a")
    assert kernel.entries.count((1, b"a")) == 2
    assert fs.getattr(ino).nlink == 0
    fs.release(ino, handle)


def test_status_without_a_server(mounted: Mounted) -> None:
    mounted.view.write_file("a", iter([b"12345"]))
    status = mounted.view.status()
    assert status["role"] == "mount"
    assert status["mount"] == "/m"
    assert status["connected"] is False
    assert status["server"] is None
    assert status["pending"]["operations"] == 1
    assert status["pending"]["bytes"] == 5
    assert status["conflicts"] == 0
    assert status["cache"]["bytes"] == 0
    assert status["cache"]["limit_bytes"] == 1 << 30
    assert [(item.type, item.path, item.bytes) for item in mounted.view.pending()] == [("created", "a", 5)]
    with pytest.raises(Unreachable):
        mounted.view.pull(0.05)
    with pytest.raises(Unreachable):
        mounted.view.push(0.05)


def test_who_listens_hears_of_changes_once_each_and_no_more_after_the_end(mounted: Mounted) -> None:
    heard: list[Event] = []
    told = threading.Event()

    def listen(event: Event) -> None:
        heard.append(event)
        told.set()

    end = mounted.view.subscribe(listen)
    mounted.view.write_file("a", iter([b"1"]))
    assert told.wait(10)
    while not {"change", "pending"} <= {event.kind for event in heard}:
        told.clear()
        assert told.wait(10)
    end()
    end()


def test_a_restart_finds_everything(tmp_path: Path) -> None:
    first = Mounted(tmp_path)
    first.view.write_file("a", iter([b"1" * 3 * MIB]))
    stat, opened = first.fs.create(1, b"open", 0o644, 2, ROOT_CALLER)
    first.fs.write(stat.ino, opened.handle, 0, b"x" * (2 * MIB + 5))
    first.close()
    second = Mounted(tmp_path)
    assert second.recovered == 1
    assert read(second.view, "a") == b"1" * 3 * MIB
    assert read(second.view, "open") == b"x" * (2 * MIB + 5)
    assert second.view.status()["pending"]["operations"] == 3
    second.close()


def test_space_is_that_of_the_disk_when_no_server_tells(mounted: Mounted) -> None:
    room = mounted.fs.statfs()
    assert 0 < room.blocks_free <= room.blocks
    assert 0 < room.files_free < room.files


def test_groups_of_a_process_and_of_none() -> None:
    assert supplementary_groups(Caller(0, 0, os.getpid())) == frozenset(os.getgroups())
    assert supplementary_groups(Caller(0, 0, 2**22 + 12345)) == frozenset()
