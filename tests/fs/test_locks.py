"""Locks on the file system as an object: by handle, without a kernel and without a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gdah_volume.errors import BadHandle, Interrupted, WouldBlock
from gdah_volume.locks import EOF, Range
from mountfs.files import intents
from mountfs.ports import Caller
from tests.fs.device import Device, Stranger

WHOLE = Range(write=True)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "device")
    yield made
    made.kill()


class File:
    """One open(2) of `file`, and its lock calls."""

    def __init__(self, device: Device, flags: int = os.O_RDWR, pid: int = 7) -> None:
        self.fs = device.fs
        stat, opened = self.fs.create(1, b"file", 0o644, flags, Caller(0, 0, pid))
        self.ino, self.handle = stat.ino, opened.handle

    def posix(self, owner: int, wanted: Range = WHOLE, *, frees: bool = False, wait: bool = False) -> list[Any]:
        answers: list[Any] = []
        self.cancel = self.fs.setlk(
            self.ino, self.handle, owner, wanted, frees=frees, wait=wait, pid=owner, done=answers.append
        )
        return answers

    def flock(self, owner: int, wanted: Range = WHOLE, *, frees: bool = False, wait: bool = True) -> list[Any]:
        answers: list[Any] = []
        self.cancel = self.fs.flock(
            self.ino, self.handle, owner, wanted, frees=frees, wait=wait, pid=owner, done=answers.append
        )
        return answers

    def in_the_way(self, owner: int, wanted: Range = WHOLE) -> Any:
        answers: list[Any] = []
        self.fs.getlk(self.ino, self.handle, owner, wanted, answers.append)
        return answers[0]

    def close(self, owner: int) -> None:
        self.fs.flush(self.ino, self.handle, owner)

    def release(self) -> None:
        self.fs.release(self.ino, self.handle)


def test_ranges_conflicts_and_who_is_in_the_way(device: Device) -> None:
    file = File(device)
    assert file.posix(1, Range(True, 10, 19, 111)) == [None]
    assert isinstance(file.posix(2, Range(False, 0, EOF))[0], WouldBlock)
    assert file.in_the_way(2) == Range(True, 10, 19, 111)
    assert file.in_the_way(1) is None
    assert file.posix(1, Range(True, 15, EOF), frees=True) == [None]
    assert file.in_the_way(2) == Range(True, 10, 14, 111)


def test_a_close_gives_back_what_its_process_holds_by_any_handle(device: Device) -> None:
    one, two = File(device), File(device, os.O_RDONLY)
    assert one.posix(1) == [None]
    two.close(2)
    assert one.in_the_way(9) is not None
    two.close(1)
    assert one.in_the_way(9) is None
    assert one.posix(1) == [None]
    two.release()
    assert one.in_the_way(9) is not None, "it was set again, by the other handle"


def test_the_last_release_gives_back_what_was_set_by_the_handle(device: Device) -> None:
    one, two = File(device), File(device)
    assert one.flock(1) == [None]
    assert one.posix(5) == [None], "as a lock of an open file description, whose owner is never said to close"
    waiting = two.flock(2)
    one.close(3)
    assert waiting == []
    one.release()
    assert waiting == [None]
    assert two.in_the_way(9) is None


def test_a_wait_is_ended_from_outside(device: Device) -> None:
    one, two = File(device), File(device)
    one.flock(1)
    waiting = two.flock(2)
    two.cancel()
    assert isinstance(waiting[0], Interrupted)
    one.flock(1, frees=True)
    assert one.flock(3) == [None]


def test_a_handle_that_only_reads_sets_no_lock_for_writing(device: Device) -> None:
    File(device).release()
    file = File(device, os.O_RDONLY)
    with pytest.raises(BadHandle):
        file.posix(1)
    assert file.posix(1, Range(write=False)) == [None]


def test_who_has_locked_writes_on_top_of_what_is_there(device: Device) -> None:
    """Without a lock, who writes without having looked makes a conflict copy; a lock is a look."""
    file = File(device)
    device.fs.write(file.ino, file.handle, 0, b"mine")
    file.close(1)
    device.feed_own()
    stranger = Stranger(device)
    node = stranger.node(b"file")
    theirs = device.shelf.add(b"theirs")
    for locks in (True, False):
        with device.mirror.lock:
            version = device.mirror.tree.node(node).version
        device.feed(stranger.does(intents.write(node, version, theirs, b"file", 1, clear_suid=False)))
        if locks:
            assert file.flock(1) == [None]
        device.fs.write(file.ino, file.handle, 6, b" and mine")
        file.close(1)
        device.feed_own()
        entries = [entry.name for entry in device.fs.readdir(1, device.fs.opendir(1), 0)]
        assert any(b"(conflict" in name for name in entries) != locks, entries
        theirs = device.shelf.add(b"others")


def test_a_lock_follows_a_file_that_goes_on_as_a_copy_of_its_own(device: Device) -> None:
    file = File(device)
    device.fs.write(file.ino, file.handle, 0, b"mine")
    file.close(1)
    device.feed_own()
    before = device.fs.handles.get(file.handle).file.node
    assert file.flock(1) == [None]
    stranger = Stranger(device)
    device.fs.write(file.ino, file.handle, 0, b"edit")
    with device.mirror.lock:
        version = device.mirror.tree.node(before).version
    device.feed(
        stranger.does(intents.write(before, version, device.shelf.add(b"theirs"), b"file", 1, clear_suid=False))
    )
    file.close(1)
    after = device.fs.handles.get(file.handle).file.node
    assert after != before
    assert file.posix(1) == [None]
    locking = device.fs.locks.locking
    assert not locking.concerns(before, "flock", 1)
    assert locking.concerns(after, "flock", 1)
    file.release()
    assert locking.figures()["held"] == 0


def test_a_lock_outlives_the_name(device: Device) -> None:
    file, other = File(device), File(device)
    assert file.flock(1) == [None]
    device.fs.unlink(1, b"file")
    waiting = other.flock(2)
    assert waiting == []
    file.release()
    assert waiting == [None]
