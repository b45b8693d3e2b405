"""What others do to files that are open here, and what the kernel is told about it."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from typing import Any

import pytest

from gdah_volume.content import Content
from gdah_volume.errors import ContentUnavailable, Exists, NotFound, StaleHandle
from gdah_volume.ids import OpId
from gdah_volume.operations import Operation
from mountfs.files import intents
from mountfs.ports import Caller, Opened, Stat
from tests.fs.device import ROOT_CALLER, Device, Stranger
from tests.fs.targets import ObjectTarget, read_file, write_file
from tests.fs.test_posix import raises

PHONE_USER = Caller(1000, 1000, 1)
RW, RO = os.O_RDWR, os.O_RDONLY


class Two:
    """This device, and somebody else on another."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.target = ObjectTarget(device)
        self.phone = Stranger(device)

    @property
    def tree(self):  # type: ignore[no-untyped-def]
        return self.device.mirror.tree

    def settled(self, path: bytes, data: bytes) -> None:
        """A file that everybody has seen."""
        write_file(self.target, path, data)
        self.device.feed_own()

    def content(self, data: bytes) -> Content:
        return self.device.shelf.add(data)

    def edit(self, path: bytes, data: bytes) -> Operation:
        """The phone writes what it sees now; not fed yet."""
        node = self.phone.node(path)
        base = self.tree.seen_version(node)
        build = intents.write(node, base, self.content(data), path, 1_700_000_000_000_000_000, clear_suid=False)
        return self.phone.does(build)

    def create(self, path: bytes, data: bytes) -> Operation:
        above, _, name = path.rpartition(b"/")
        parent = self.phone.node(above) if above else "root"
        return self.phone.does(
            intents.create(self.tree, parent, name, "file", 0o644, PHONE_USER, content=self.content(data))
        )

    def mkdir(self, name: bytes) -> Operation:
        return self.phone.does(intents.create(self.tree, "root", name, "dir", 0o755, PHONE_USER))  # type: ignore[arg-type]

    def unlink(self, path: bytes) -> Operation:
        above, _, name = path.rpartition(b"/")
        parent = self.phone.node(above) if above else "root"
        return self.phone.does(intents.unlink(self.tree, parent, name))

    def names(self) -> list[bytes]:
        return self.target.listdir(b"")

    def conflicts(self) -> list[bytes]:
        return [name for name in self.names() if b"conflict" in name]


@pytest.fixture
def two(device: Device) -> Two:
    return Two(device)


# --- open files


def test_a_clean_handle_reads_what_is_new(two: Two) -> None:
    two.settled(b"a", b"old content")
    reader = two.target.open(b"a", RO)
    assert two.target.pread(reader, 100, 0) == b"old content"
    two.device.feed(two.edit(b"a", b"new"))
    assert two.target.pread(reader, 100, 0) == b"new"
    assert two.target.fstat(reader).size == 3
    assert read_file(two.target, b"a") == b"new"
    two.target.close(reader)
    assert two.conflicts() == []


def test_unsaved_edits_keep_their_base_and_become_a_copy(two: Two) -> None:
    two.settled(b"a.txt", b"base content")
    edit = two.edit(b"a.txt", b"theirs")
    fd = two.target.open(b"a.txt", RW)
    two.target.pwrite(fd, b"OURS", 0)
    two.device.feed(edit)
    assert two.target.pread(fd, 100, 0) == b"OURS content"
    two.target.close(fd)
    assert read_file(two.target, b"a.txt") == b"theirs"
    (copy,) = two.conflicts()
    assert copy.startswith(b"a (conflict laptop ")
    assert copy.endswith(b").txt")
    assert read_file(two.target, copy) == b"OURS content"


def test_a_handle_follows_its_own_copy(two: Two) -> None:
    two.settled(b"a", b"base")
    edit = two.edit(b"a", b"theirs")
    fd = two.target.open(b"a", RW)
    two.target.pwrite(fd, b"ours", 0)
    two.device.feed(edit)
    two.target.fsync(fd)
    two.target.pwrite(fd, b" and more", 4)
    assert two.target.pread(fd, 100, 0) == b"ours and more"
    other = two.target.open(b"a", RO)
    assert two.target.pread(other, 100, 0) == b"theirs"
    assert two.target.pread(fd, 100, 0) == b"ours and more"
    two.target.close(other)
    two.target.close(fd)
    (copy,) = two.conflicts()
    assert read_file(two.target, copy) == b"ours and more"
    assert read_file(two.target, b"a") == b"theirs"


def test_while_a_handle_follows_its_copy_others_bypass_the_kernels_pages(two: Two) -> None:
    two.settled(b"a", b"base")
    edit = two.edit(b"a", b"theirs")
    fs = two.device.fs
    ino = fs.lookup(1, b"a").ino
    handle = fs.open(ino, RW, ROOT_CALLER).handle
    fs.write(ino, handle, 0, b"ours")
    two.device.feed(edit)
    fs.flush(ino, handle)
    assert fs.open(ino, RO, ROOT_CALLER).direct_io
    fs.release(ino, handle)
    assert not fs.open(ino, RO, ROOT_CALLER).direct_io


def test_a_copy_made_by_a_server_is_followed_too(two: Two) -> None:
    """The edit was saved here first, and turns out to be the later one when the server stamps."""
    two.settled(b"a", b"base")
    theirs = two.edit(b"a", b"theirs")
    fd = two.target.open(b"a", RW)
    two.target.pwrite(fd, b"ours", 0)
    two.target.fsync(fd)
    assert two.conflicts() == []
    two.device.feed(theirs)
    two.target.pwrite(fd, b"!", 4)
    two.target.close(fd)
    two.device.feed_own()
    (copy,) = two.conflicts()
    assert read_file(two.target, copy) == b"ours!"
    assert read_file(two.target, b"a") == b"theirs"


def test_a_handle_that_has_not_looked_edits_what_it_saw(two: Two) -> None:
    """Read, modify, write: between the two somebody else wrote. Both are kept."""
    two.settled(b"a", b"one two")
    fd = two.target.open(b"a", RW)
    assert two.target.pread(fd, 100, 0) == b"one two"
    two.device.feed(two.edit(b"a", b"THEIR whole new text"))
    two.target.pwrite(fd, b"ONE", 0)
    assert two.target.pread(fd, 100, 0) == b"ONE two"
    two.target.close(fd)
    assert read_file(two.target, b"a") == b"THEIR whole new text"
    (copy,) = two.conflicts()
    assert read_file(two.target, copy) == b"ONE two"


def test_a_handle_that_has_looked_edits_what_is_new(two: Two) -> None:
    two.settled(b"a", b"one two")
    fd = two.target.open(b"a", RW)
    two.device.feed(two.edit(b"a", b"new text"))
    assert two.target.pread(fd, 100, 0) == b"new text"
    two.target.pwrite(fd, b"NEW", 0)
    two.target.close(fd)
    assert read_file(two.target, b"a") == b"NEW text"
    assert two.conflicts() == []


def test_the_same_edit_by_two_is_no_conflict(two: Two) -> None:
    two.settled(b"a", b"base")
    edit = two.edit(b"a", b"same")
    fd = two.target.open(b"a", RW)
    two.target.pwrite(fd, b"same", 0)
    two.device.feed(edit)
    two.target.close(fd)
    two.device.feed_own()
    assert two.names() == [b"a"]
    assert read_file(two.target, b"a") == b"same"


def test_own_edits_through_several_handles_never_conflict(two: Two) -> None:
    two.settled(b"a", b"0")
    fds = [two.target.open(b"a", RW) for _ in range(3)]
    for n in range(12):
        two.target.pwrite(fds[n % 3], b"%02d" % n, 2 * n)
        if n % 2:
            two.target.fsync(fds[(n + 1) % 3])
        if n % 4 == 3:
            two.device.feed_own()
    for fd in fds:
        two.target.close(fd)
    two.device.feed_own()
    assert two.names() == [b"a"]
    assert read_file(two.target, b"a") == b"".join(b"%02d" % n for n in range(12))


# --- removal elsewhere


def test_a_clean_open_file_that_is_removed_elsewhere_lives_on_here(two: Two) -> None:
    two.settled(b"a", b"data")
    fd = two.target.open(b"a", RW)
    two.device.feed(two.unlink(b"a"))
    assert two.names() == []
    assert two.target.pread(fd, 10, 0) == b"data"
    assert two.target.fstat(fd).nlink == 0
    two.target.pwrite(fd, b"D", 0)
    two.target.close(fd)
    assert two.names() == []
    assert two.device.mirror.replica.pending() == []


def test_unsaved_edits_beat_a_removal_elsewhere(two: Two) -> None:
    two.settled(b"a", b"data")
    gone = two.unlink(b"a")
    fd = two.target.open(b"a", RW)
    two.target.pwrite(fd, b"DATA", 0)
    two.device.feed(gone)
    assert two.names() == []
    two.target.close(fd)
    assert two.names() == [b"a"]
    assert read_file(two.target, b"a") == b"DATA"


def test_a_file_removed_here_stays_removed_whatever_its_handle_writes(two: Two) -> None:
    two.settled(b"a", b"data")
    fd = two.target.open(b"a", RW)
    two.target.pwrite(fd, b"D", 0)
    two.target.unlink(b"a")
    two.target.pwrite(fd, b"E", 1)
    two.target.fsync(fd)
    two.target.close(fd)
    two.device.feed_own()
    assert two.names() == []


def test_creating_the_same_folder_is_one_folder(two: Two) -> None:
    theirs = two.mkdir(b"d")
    two.target.mkdir(b"d")
    fs = two.device.fs
    ino = fs.lookup(1, b"d").ino
    write_file(two.target, b"d/ours", b"1")
    two.device.feed(theirs)
    two.device.feed_own()
    assert two.names() == [b"d"]
    assert fs.getattr(ino).nlink == 2
    assert [entry.name for entry in fs.readdir(ino, fs.opendir(ino), 0)] == [b".", b"..", b"ours"]
    stat, opened = fs.create(ino, b"more", 0o644, RW | os.O_CREAT, ROOT_CALLER)
    fs.release(stat.ino, opened.handle)
    assert two.target.listdir(b"d") == [b"more", b"ours"]
    # changes in the merged folder reach the kernel under the number that it knows
    two.device.kernel.entries.clear()
    two.device.feed(two.create(b"d/theirs", b"2"))
    assert (ino, b"theirs") in two.device.kernel.entries


# --- what the kernel is told


def test_exactly_what_the_kernel_may_know_is_invalidated(two: Two) -> None:
    two.settled(b"known", b"1")
    two.settled(b"unknown", b"1")
    fs, kernel = two.device.fs, two.device.kernel
    ino = fs.lookup(1, b"known").ino
    kernel.inodes.clear()
    kernel.entries.clear()
    two.device.feed(two.edit(b"known", b"2"))
    assert kernel.inodes == [ino]
    assert kernel.entries == []
    two.device.feed(two.edit(b"unknown", b"2"))
    assert kernel.inodes == [ino]
    two.device.feed(two.create(b"fresh", b""))
    assert (1, b"fresh") in kernel.entries
    two.device.feed(two.unlink(b"known"))
    assert (1, b"known") in kernel.entries
    fs.forget(ino, 1)
    with pytest.raises(StaleHandle):
        fs.getattr(ino)


def test_all_names_of_a_hard_link_are_told(two: Two) -> None:
    two.settled(b"a", b"1")
    two.target.link(b"a", b"b")
    two.device.feed_own()
    fs = two.device.fs
    ino = fs.lookup(1, b"a").ino
    two.device.kernel.inodes.clear()
    two.device.feed(two.unlink(b"b"))
    assert ino in two.device.kernel.inodes
    assert fs.getattr(ino).nlink == 1


def test_pages_are_kept_only_while_they_are_right(two: Two) -> None:
    two.settled(b"a", b"1")
    fs = two.device.fs
    ino = fs.lookup(1, b"a").ino

    def opened(flags: int = RO) -> bool:
        found = fs.open(ino, flags, ROOT_CALLER)
        fs.flush(ino, found.handle)
        fs.release(ino, found.handle)
        return found.keep_cache

    assert not opened()
    assert opened()
    writer = fs.open(ino, RW, ROOT_CALLER)
    fs.write(ino, writer.handle, 0, b"2")
    fs.flush(ino, writer.handle)
    fs.release(ino, writer.handle)
    assert opened(), "what was written went through the kernel's pages"
    two.device.feed_own()
    two.device.feed(two.edit(b"a", b"3"))
    assert not opened()
    assert opened()


def test_a_replaced_tree_is_looked_at_anew(two: Two) -> None:
    two.settled(b"a", b"1")
    fs = two.device.fs
    ino = fs.lookup(1, b"a").ino
    fs.invalidation.on_reload()
    assert ino in two.device.kernel.inodes
    assert two.device.kernel.everything == 1


# --- without servers


def test_content_in_no_cache_fails_at_once_and_attributes_still_show(two: Two) -> None:
    two.device.feed(two.create(b"a", b"far away"))
    two.device.shelf.reachable = False
    fd = two.target.open(b"a", RO)
    assert two.target.fstat(fd).size == 8
    with pytest.raises(OSError, match="no server") as error:
        two.target.pread(fd, 10, 0)
    assert error.value.errno == ContentUnavailable.errno
    two.device.shelf.reachable = True
    assert two.target.pread(fd, 10, 0) == b"far away"
    two.target.close(fd)


def test_an_edit_over_content_that_is_not_here_is_kept_until_it_can_be_saved(two: Two) -> None:
    whole = bytes(range(256)) * 1000
    two.device.feed(two.create(b"a", whole))
    two.device.shelf.reachable = False
    fd = two.target.open(b"a", RW)
    two.target.pwrite(fd, b"EDIT", 1000)
    assert two.target.pread(fd, 4, 1000) == b"EDIT"
    with pytest.raises(OSError, match="no server"):
        two.target.close(fd)
    assert two.device.fs.unsaved_files() == 1
    two.device.restart()
    assert two.device.recovered == 1
    assert two.device.fs.unsaved_files() == 1, "still not possible, still kept"
    two.device.shelf.reachable = True
    assert two.device.fs.save_parked() == 0
    target = ObjectTarget(two.device)
    assert read_file(target, b"a") == whole[:1000] + b"EDIT" + whole[1004:]
    assert two.device.fs.unsaved_files() == 0


def test_overwriting_content_that_is_not_here_needs_no_server(two: Two) -> None:
    two.device.feed(two.create(b"a", b"x" * 100_000))
    two.device.shelf.reachable = False
    write_file(two.target, b"a", b"all new")
    assert read_file(two.target, b"a") == b"all new"
    fd = two.target.open(b"a", RW)
    two.target.pwrite(fd, b"y" * 200_000, 0)
    two.target.close(fd)
    assert read_file(two.target, b"a") == b"y" * 200_000


# --- folders


def test_listings_are_stable_while_entries_change(two: Two) -> None:
    for n in range(50):
        two.settled(b"f%02d" % n, b"")
    fs = two.device.fs
    handle = fs.opendir(1)
    first = list(fs.readdir(1, handle, 0))[:20]
    for n in range(0, 50, 3):
        two.target.unlink(b"f%02d" % n)
    write_file(two.target, b"a new one", b"")
    rest = list(fs.readdir(1, handle, first[-1].offset))
    names = [entry.name for entry in first + rest]
    assert names == [b".", b"..", *(b"f%02d" % n for n in range(50))]
    again = [entry.name for entry in fs.readdir(1, handle, 0)]
    assert b"a new one" in again
    assert b"f00" not in again
    fs.releasedir(1, handle)


def test_inode_numbers_are_the_same_in_every_run_and_in_listings(two: Two) -> None:
    two.settled(b"a", b"1")
    two.target.mkdir(b"d")
    before = {name: two.target.stat(name).ino for name in (b"a", b"d")}
    fs = two.device.fs
    listed = {entry.name: entry.ino for entry in fs.readdir(1, fs.opendir(1), 0)}
    assert {name: listed[name] for name in before} == before
    two.device.restart()
    target = ObjectTarget(two.device)
    assert {name: target.stat(name).ino for name in before} == before


def test_link_counts_of_folders_follow_what_others_do(two: Two) -> None:
    fs, target = two.device.fs, two.target

    def count() -> int:
        return target.stat(b"").nlink - 2

    assert count() == 0
    two.device.feed(two.mkdir(b"theirs"), two.create(b"file", b"1"))
    assert count() == 1
    target.mkdir(b"ours")
    two.device.feed_own()
    assert count() == 2
    two.device.feed(two.phone.does(intents.rename(two.tree, "root", b"theirs", two.phone.node(b"ours"), b"in", 0)))  # type: ignore[arg-type]
    assert count() == 1
    assert target.stat(b"ours").nlink == 3
    two.device.feed(two.phone.does(intents.rmdir(two.tree, two.phone.node(b"ours"), b"in")))
    assert target.stat(b"ours").nlink == 2
    theirs = two.mkdir(b"twin")
    target.mkdir(b"twin")
    assert count() == 2
    two.device.feed(theirs)
    two.device.feed_own()
    assert count() == 2, "two that were made at once are one"
    target.mkdir(b"twin/sub")
    assert target.stat(b"twin").nlink == 3
    fs.invalidation.on_reload()
    assert count() == 2


def test_a_removed_folder_that_is_open(two: Two) -> None:
    two.target.mkdir(b"d")
    fs = two.device.fs
    ino = fs.lookup(1, b"d").ino
    handle = fs.opendir(ino)
    two.target.rmdir(b"d")
    assert list(fs.readdir(ino, handle, 0)) == []
    assert fs.getattr(ino).nlink == 0
    with pytest.raises(NotFound):
        fs.mkdir(ino, b"x", 0o700, ROOT_CALLER)
    fs.releasedir(ino, handle)


# --- a rename that was decided on an old view


@pytest.mark.parametrize("flags", [0, 1])
def test_a_rename_onto_a_name_that_somebody_took_a_moment_ago(
    two: Two, monkeypatch: pytest.MonkeyPatch, flags: int
) -> None:
    """The server knows of it, this mount not yet. To replace it is what rename does; with RENAME_NOREPLACE it is the
    server's refusal that counts."""
    two.settled(b"mine", b"mine")
    device, theirs = two.device, two.create(b"place", b"theirs")
    perform = device.log.perform

    def refusing_once(build: Any, **named: Any) -> Any:
        monkeypatch.setattr(device.log, "perform", perform)
        build(OpId("laptop-000001-0000-99"), 1)
        device.feed(theirs)
        raise Exists("the name is taken")

    monkeypatch.setattr(device.log, "perform", refusing_once)
    with raises(errno.EEXIST) if flags else nullcontext():
        two.target.rename(b"mine", b"place", flags)
    assert two.names() == ([b"mine", b"place"] if flags else [b"place"])
    assert read_file(two.target, b"place") == (b"theirs" if flags else b"mine")


def made_while_another_writes(two: Two, name: bytes) -> tuple[Stat, Opened]:
    """Somebody else writes to it between the operation that makes it and the opening."""
    fs, opening = two.device.fs, two.device.fs._open

    def others_first(ino: int, flags: int, caller: Caller, **how: Any) -> Opened:
        two.device.feed_own()
        two.device.feed(two.edit(name, b"written elsewhere"))
        return opening(ino, flags, caller, **how)

    fs._open = others_first  # type: ignore[method-assign]
    try:
        return fs.create(1, name, 0o644, RW | os.O_CREAT | os.O_EXCL, ROOT_CALLER)
    finally:
        fs._open = opening  # type: ignore[method-assign]


def test_who_makes_a_file_writes_to_an_empty_one_though_another_was_faster(device: Device) -> None:
    """The name is seen elsewhere before open(2) returns here. What was written there, with its beginning written over
    here, was one content of two."""
    two = Two(device)
    stat, opened = made_while_another_writes(two, b"f")
    device.fs.write(stat.ino, opened.handle, 0, b"mine")
    assert device.fs.read(stat.ino, opened.handle, 0, 100) == b"mine"
    device.fs.flush(stat.ino, opened.handle)
    device.fs.release(stat.ino, opened.handle)
    contents = sorted(read_file(two.target, name) for name in two.names())
    assert contents == [b"mine", b"written elsewhere"]


def test_who_makes_a_file_and_reads_it_first_knows_what_is_there(device: Device) -> None:
    two = Two(device)
    stat, opened = made_while_another_writes(two, b"f")
    assert device.fs.read(stat.ino, opened.handle, 0, 100) == b"written elsewhere"
    device.fs.write(stat.ino, opened.handle, 0, b"mine")
    device.fs.flush(stat.ino, opened.handle)
    assert two.names() == [b"f"]
