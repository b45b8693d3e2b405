"""Rules about owners and modes for users who are not root, what fsync does, and limits: on the object alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress

import pytest

from gdah_volume.errors import (
    AccessDenied,
    BadHandle,
    Exists,
    FileTooBig,
    InvalidArgument,
    NoData,
    NoSpace,
    NotPermitted,
    NotSupported,
    OutOfRange,
    StaleHandle,
)
from gdah_volume.operations import SetAttr, Write
from mountfs.files import attributes, intents, saving, xattrs
from mountfs.files.attributes import permits, without_suid
from mountfs.files.inodes import Inodes, number_of
from mountfs.ports import AttrChange, Caller, Stat
from tests.fs.device import ROOT_CALLER, Device
from tests.fs.targets import ObjectTarget, read_file, write_file

ANA = Caller(1000, 1000, 1)
RW, RO = os.O_RDWR, os.O_RDONLY


def test_an_edit_by_a_user_takes_set_user_id_away(device: Device) -> None:
    fs = device.fs
    stat, opened = fs.create(1, b"tool", 0o755, RW | os.O_CREAT, ANA)
    fs.release(stat.ino, opened.handle)
    fs.setattr(stat.ino, AttrChange(mode=0o6755), None, ROOT_CALLER)
    handle = fs.open(stat.ino, RW, ANA).handle
    fs.write(stat.ino, handle, 0, b"x")
    assert fs.getattr(stat.ino).mode & 0o7777 == 0o755
    fs.flush(stat.ino, handle)
    assert fs.getattr(stat.ino).mode & 0o7777 == 0o755
    fs.setattr(stat.ino, AttrChange(mode=0o4755), None, ROOT_CALLER)
    fs.write(stat.ino, handle, 0, b"y")
    fs.setattr(stat.ino, AttrChange(mode=0o4755), handle, ANA)
    fs.flush(stat.ino, handle)
    assert fs.getattr(stat.ino).mode & 0o7777 == 0o4755, "set again after the edit"
    fs.release(stat.ino, handle)


def test_set_group_id_is_for_members_of_the_group(device: Device) -> None:
    fs = device.fs
    stat = fs.mknod(1, b"a", 0o100644, 0, ANA)
    fs.setattr(stat.ino, AttrChange(gid=2000), None, ROOT_CALLER)
    assert fs.setattr(stat.ino, AttrChange(mode=0o2755), None, ANA).mode & 0o7777 == 0o755
    assert fs.setattr(stat.ino, AttrChange(mode=0o2755), None, ROOT_CALLER).mode & 0o7777 == 0o2755


@pytest.mark.parametrize(
    ("mode", "caller", "groups", "left"),
    [
        (0o6755, ROOT_CALLER, {0}, 0o755),
        (0o2755, ANA, {1000}, 0o755),
        (0o6644, ROOT_CALLER, set(), 0o2644),
        (0o6644, ANA, {1000}, 0o644),
        (0o6644, ANA, {1000, 2000}, 0o2644),
        (0o6644, Caller(1000, 2000, 1), set(), 0o2644),
    ],
)
def test_what_an_edit_leaves_of_set_ids(device: Device, mode: int, caller: Caller, groups: set[int], left: int) -> None:
    device.fs.mknod(1, b"a", 0o100755, 0, Caller(0, 2000, 1))
    device.fs.setattr(device.fs.lookup(1, b"a").ino, AttrChange(mode=mode), None, ROOT_CALLER)
    view = device.mirror.tree.node(device.fs.inodes.node(device.fs.lookup(1, b"a").ino))
    assert without_suid(view, caller, lambda _: frozenset(groups)) == left


def test_capabilities_go_with_an_edit_and_with_the_owner(device: Device) -> None:
    fs, target = device.fs, ObjectTarget(device)
    edits: list[Callable[[Stat, int], object]] = [
        lambda stat, handle: fs.write(stat.ino, handle, 0, b"x"),
        lambda stat, handle: fs.setattr(stat.ino, AttrChange(size=3), handle, ROOT_CALLER),
        lambda stat, handle: fs.setattr(stat.ino, AttrChange(size=3), None, ROOT_CALLER),
        lambda stat, handle: fs.setattr(stat.ino, AttrChange(gid=7), None, ROOT_CALLER),
        lambda stat, handle: target.unlink(b"a") or fs.write(stat.ino, handle, 0, b"x"),
    ]
    for edit in edits:
        stat, opened = fs.create(1, b"a", 0o755, RW | os.O_CREAT, ROOT_CALLER)
        fs.setxattr(stat.ino, xattrs.CAPABILITY, b"all", 0)
        fs.setxattr(stat.ino, b"security.other", b"stays", 0)
        assert fs.getxattr(stat.ino, xattrs.CAPABILITY) == b"all"
        edit(stat, opened.handle)
        assert fs.listxattr(stat.ino, ANA) == [b"security.other"]
        fs.release(stat.ino, opened.handle)
        with suppress(FileNotFoundError):
            target.unlink(b"a")


def test_a_file_may_have_so_many_names(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intents, "LINKS_MAX", 3)
    target = ObjectTarget(device)
    write_file(target, b"a", b"")
    target.link(b"a", b"b")
    target.link(b"b", b"c")
    with pytest.raises(OSError, match="names") as error:
        target.link(b"a", b"d")
    assert error.value.errno == errno.EMLINK
    target.unlink(b"b")
    target.link(b"a", b"d")


def test_an_owner_that_is_shown_in_place_of_all_is_a_view(device: Device) -> None:
    shown = attributes.Shown(uid=1234, gid=1235, umask=0o027)
    stat = device.fs.mknod(1, b"a", 0o104777, 0, ANA)
    seen = shown.stat(stat)
    assert (seen.uid, seen.gid, seen.mode & 0o7777) == (1234, 1235, 0o4750)
    assert shown.change(AttrChange(uid=1234, gid=1235, mode=0o600)) == AttrChange(mode=0o600)
    for change in (AttrChange(uid=0), AttrChange(gid=0), AttrChange(uid=1234, gid=7)):
        with pytest.raises(NotPermitted):
            shown.change(change)
    assert shown.mode(0o640, 0o4777) == 0o667
    assert attributes.AS_STORED.stat(stat) is stat
    assert attributes.AS_STORED.change(AttrChange(uid=5)) == AttrChange(uid=5)
    assert attributes.AS_STORED.mode(0o640, 0o777) == 0o640


def test_a_file_that_appeared_meanwhile_is_opened_by_who_may(device: Device) -> None:
    fs = device.fs
    write_file(ObjectTarget(device), b"secret", b"text", mode=0o600)
    with pytest.raises(AccessDenied):
        fs.create(1, b"secret", 0o644, RW | os.O_CREAT, ANA)
    with pytest.raises(Exists):
        fs.create(1, b"secret", 0o644, RW | os.O_CREAT | os.O_EXCL, ROOT_CALLER)
    stat, opened = fs.create(1, b"secret", 0o644, RW | os.O_CREAT, ROOT_CALLER)
    assert fs.read(stat.ino, opened.handle, 0, 10) == b"text"
    fs.release(stat.ino, opened.handle)
    stat, opened = fs.create(1, b"secret", 0o644, RW | os.O_CREAT | os.O_TRUNC, ROOT_CALLER)
    assert fs.read(stat.ino, opened.handle, 0, 10) == b""
    fs.release(stat.ino, opened.handle)
    view = device.fs.getattr(stat.ino)
    assert permits(view, Caller(0, 0, 1), 6, lambda caller: frozenset())
    assert not permits(view, ANA, 4, lambda caller: frozenset({0}))


def operations(device: Device) -> list[object]:
    return list(device.mirror.replica.pending())


def test_fsync_of_a_saved_file_takes_what_was_saved_to_the_disks_once(device: Device) -> None:
    fs, target = device.fs, ObjectTarget(device)
    write_file(target, b"a", b"1")
    stat = fs.lookup(1, b"a")
    handle = fs.open(stat.ino, RO, ROOT_CALLER).handle
    before = len(operations(device))
    fs.fsync(stat.ino, handle, data_only=False)
    (added,) = operations(device)[before:]
    assert isinstance(added, SetAttr), "an operation that changes nothing carries the wish"
    after = fs.getattr(stat.ino)
    assert (after.ctime_ns, after.mtime_ns, after.mode) == (stat.ctime_ns, stat.mtime_ns, stat.mode)
    fs.fsync(stat.ino, handle, data_only=False)
    assert len(operations(device)) == before + 1, "nothing has changed since"
    listing = fs.opendir(1)
    fs.fsyncdir(1, listing)
    assert len(operations(device)) == before + 1, "the folder was changed before that, too"
    target.rename(b"a", b"b")
    fs.fsyncdir(1, listing)
    assert len(operations(device)) == before + 3
    fs.fsync(stat.ino, handle, data_only=True)
    assert len(operations(device)) == before + 3


def test_fsync_of_edits_is_their_write(device: Device) -> None:
    fs = device.fs
    stat, opened = fs.create(1, b"a", 0o644, RW | os.O_CREAT, ROOT_CALLER)
    fs.write(stat.ino, opened.handle, 0, b"x")
    fs.fsync(stat.ino, opened.handle, data_only=False)
    assert isinstance(operations(device)[-1], Write)
    fs.flush(stat.ino, opened.handle)
    fs.fsync(stat.ino, opened.handle, data_only=False)
    assert len(operations(device)) == 2


def test_a_close_without_edits_makes_no_operation(device: Device) -> None:
    target = ObjectTarget(device)
    write_file(target, b"a", b"1")
    before = len(operations(device))
    for flags in (RO, RW):
        fd = target.open(b"a", flags)
        target.pread(fd, 10, 0)
        target.close(fd)
    assert len(operations(device)) == before


def test_rename_flags(device: Device) -> None:
    fs, target = device.fs, ObjectTarget(device)
    write_file(target, b"a", b"1")
    write_file(target, b"b", b"2")
    with pytest.raises(Exists):
        fs.rename(1, b"a", 1, b"b", 1)
    for flags in (3, 4, 6):
        with pytest.raises(InvalidArgument):
            fs.rename(1, b"a", 1, b"b", flags)
    fs.rename(1, b"a", 1, b"c", 1)
    assert target.listdir(b"") == [b"b", b"c"]


def test_sizes_that_are_too_big(device: Device) -> None:
    fs = device.fs
    stat, opened = fs.create(1, b"a", 0o644, RW | os.O_CREAT, ROOT_CALLER)
    with pytest.raises(FileTooBig):
        fs.write(stat.ino, opened.handle, (1 << 60) - 1, b"xx")
    with pytest.raises(FileTooBig):
        fs.setattr(stat.ino, AttrChange(size=(1 << 60) + 1), opened.handle, ROOT_CALLER)
    assert fs.getattr(stat.ino).size == 0
    fs.write(stat.ino, opened.handle, 0, b"fine")
    fs.flush(stat.ino, opened.handle)
    assert fs.getattr(stat.ino).size == 4


def test_scattered_edits_are_saved_before_they_take_too_much_memory(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "EXTENTS_MAX", 1000)
    target = ObjectTarget(device)
    fd = target.open(b"a", RW | os.O_CREAT)
    for n in range(3000):
        target.pwrite(fd, b"x", n * 5000)
    (file,) = device.fs.handles.files()
    assert file.draft is not None
    assert file.draft.extent_count < 1300
    target.close(fd)
    data = read_file(target, b"a")
    assert all(data[n * 5000] == ord("x") for n in range(3000))
    assert data.count(0) == len(data) - 3000


def test_numbers_and_handles_that_nobody_was_given(device: Device) -> None:
    fs = device.fs
    with pytest.raises(StaleHandle):
        fs.getattr(12345)
    with pytest.raises(BadHandle):
        fs.read(1, 999, 0, 1)
    with pytest.raises(BadHandle):
        list(fs.readdir(1, 999, 0))
    fs.release(1, 999)
    fs.forget(12345, 1)


def test_inode_numbers_that_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mountfs.files.inodes.number_of", lambda node: 1 if node == "root" else 10)
    inodes = Inodes()
    one, two = inodes.hold("one"), inodes.hold("two")  # type: ignore[arg-type]
    assert one != two
    assert (inodes.node(one), inodes.node(two)) == ("one", "two")
    inodes.hold("one")  # type: ignore[arg-type]
    inodes.release(one)
    assert inodes.node(one) == "one"
    inodes.release(one)
    with pytest.raises(StaleHandle):
        inodes.node(one)
    assert inodes.number("two") == two  # type: ignore[arg-type]
    inodes.release(1, 100)
    assert inodes.node(1) == "root"


def test_inode_numbers_are_hashes() -> None:
    assert number_of("root") == 1  # type: ignore[arg-type]
    numbers = {number_of(f"laptop-a1b2c3-9f3c-{n}") for n in range(1000)}  # type: ignore[arg-type]
    assert len(numbers) == 1000
    assert all(1 < number < 1 << 63 for number in numbers)


def test_rules_of_extended_attributes() -> None:
    present = {b"user.a": b"1"}
    with pytest.raises(NotSupported):
        xattrs.check_set(b"system.posix_acl_access", b"", 0, present)
    xattrs.check_set(b"security.selinux", b"", 0, present)
    with pytest.raises(NoData):
        xattrs.value_of(b"security.capability", present)
    for absent in (b"system.posix_acl_access", b"security.selinux"):
        with pytest.raises(NotSupported):
            xattrs.value_of(absent, present)
    assert xattrs.value_of(b"security.selinux", {b"security.selinux": b"kept all the same"})
    with pytest.raises(InvalidArgument):
        xattrs.check_set(b"user.", b"", 0, present)
    with pytest.raises(InvalidArgument):
        xattrs.check_set(b"user.a", b"", 3, present)
    with pytest.raises(OutOfRange):
        xattrs.check_set(b"user." + b"x" * 251, b"", 0, present)
    with pytest.raises(OutOfRange):
        xattrs.check_set(b"user.b", bytes(65_537), 0, present)
    xattrs.check_set(b"trusted.b", bytes(65_536), 1, present)
    many = {b"user.%059d" % number: b"" for number in range(1_007)}
    xattrs.check_set(b"user.%058d" % 7, b"x", 0, many)
    with pytest.raises(NoSpace):
        xattrs.check_set(b"user.%059d" % 2_000, b"", 0, many | {b"user.%059d" % 1_999: b""})
    xattrs.check_set(b"user.%059d" % 1, b"again", 0, many)
    with pytest.raises(NoSpace):
        xattrs.check_set(b"user.b", bytes(60_000), 0, {b"user.%d" % number: bytes(50_000) for number in range(5)})


def test_the_untouched_root_belongs_to_who_mounts_it() -> None:
    """Otherwise a person who is not root could mount the folder and then make nothing in it."""
    untouched = Stat(1, 0o040755, 2, 0, 0, 4096, 8, 0, 0, 0)
    shown = attributes.stat_of_root(untouched, (1000, 100), 7)
    assert (shown.uid, shown.gid, shown.atime_ns, shown.mtime_ns, shown.ctime_ns) == (1000, 100, 7, 7, 7)
    given = Stat(1, 0o040755, 2, 5, 6, 4096, 8, 1, 2, 3)
    assert attributes.stat_of_root(given, (1000, 100), 7) == given
