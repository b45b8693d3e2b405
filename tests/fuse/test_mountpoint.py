"""The folder that is mounted over; and the layout of what is told to libfuse. No mount is made here."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from gdah_volume.errors import MountFailed
from mountfs.fuse import binding, mountpoint
from mountfs.fuse.stat_layout import StatLayout
from mountfs.fuse_ops import pack_direntry
from mountfs.ports import DirEntry, Stat

MOUNTINFO = """\
23 1 254:0 / / rw,relatime - ext4 /dev/vda rw
57 23 0:40 / /home/me/test\\040chamber rw,nosuid,nodev - fuse.gdah gdah rw,user_id=0
58 57 0:41 / /home/me/test\\040chamber rw - tmpfs tmpfs rw
59 23 0:42 / /home/me/opt rw shared:1 master:2 - fuse.gdah my\\040name rw
"""


def test_mountinfo_names_the_topmost_mount() -> None:
    found = mountpoint.find_mount(Path("/home/me/test chamber"), MOUNTINFO)
    assert found == mountpoint.Mounted("0:41", "tmpfs", "tmpfs")
    assert mountpoint.find_mount(Path("/home/me/opt"), MOUNTINFO) == mountpoint.Mounted("0:42", "fuse.gdah", "my name")
    assert mountpoint.find_mount(Path("/home/me"), MOUNTINFO) is None
    assert mountpoint.find_mount(Path("/"), MOUNTINFO) is not None


def test_a_missing_folder_is_made(tmp_path: Path, fuse: None) -> None:
    assert mountpoint.prepare(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    assert mountpoint.prepare(tmp_path / "a" / "b") == tmp_path / "a" / "b"


def test_a_folder_that_holds_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("x")
    with pytest.raises(MountFailed, match=r"holds files.*letter\.txt.*move them away"):
        mountpoint.prepare(tmp_path)
    assert (tmp_path / "letter.txt").exists()


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MountFailed, match="is a file"):
        mountpoint.prepare(tmp_path / "file")
    with pytest.raises(MountFailed, match="cannot be used"):
        mountpoint.prepare(tmp_path / "file" / "below")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with pytest.raises(MountFailed, match="symbolic link"):
        mountpoint.prepare(tmp_path / "link")


def test_another_mount_is_refused() -> None:
    with pytest.raises(MountFailed, match="already mounted"):
        mountpoint.prepare(Path("/proc"))


def test_unmounting_nothing_is_fine(tmp_path: Path) -> None:
    mountpoint.unmount(tmp_path)
    assert not mountpoint.is_mounted(tmp_path)


def test_users_are_found_by_what_they_hold_open(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w"):
        assert os.getpid() in [pid for pid, _ in mountpoint.users_of(tmp_path)]
    assert os.getpid() not in [pid for pid, _ in mountpoint.users_of(tmp_path)]


STAT = Stat(
    ino=2**40 + 1,
    mode=0o100644,
    nlink=3,
    uid=4,
    gid=5,
    size=2**33,
    blocks=7,
    atime_ns=-1,
    mtime_ns=1_222_333_444_555_666_777,
    ctime_ns=9_000_000_010,
    rdev=11,
)


def test_struct_stat_is_what_the_binding_says(fuse: None) -> None:
    library = binding.load()
    packed = library.stat_layout.pack(STAT)
    read = library.c_stat.from_buffer_copy(packed[: ctypes.sizeof(library.c_stat)])
    assert (read.st_ino, read.st_mode, read.st_nlink, read.st_uid, read.st_gid) == (2**40 + 1, 0o100644, 3, 4, 5)
    assert (read.st_size, read.st_blocks, read.st_blksize, read.st_rdev) == (2**33, 7, 131072, 11)
    assert (read.st_atimespec.tv_sec, read.st_atimespec.tv_nsec) == (-1, 999_999_999)
    assert (read.st_mtimespec.tv_sec, read.st_mtimespec.tv_nsec) == (1_222_333_444, 555_666_777)
    assert (read.st_ctimespec.tv_sec, read.st_ctimespec.tv_nsec) == (9, 10)


def test_struct_entry_has_the_size_of_the_header_files(fuse: None) -> None:
    """176 bytes on x86_64, with the timeouts at 160 and 168: sizeof and offsetof of libfuse 2.9 and 3.14."""
    layout = StatLayout.of(binding.load().c_stat, "x86_64")
    packed = layout.pack_entry(STAT, 1.5, 2.5)
    assert len(layout.pack(STAT)) == 144
    assert len(packed) == 176
    assert packed[16:160] == layout.pack(STAT)
    assert (ctypes.c_double * 2).from_buffer_copy(packed[160:])[:] == [1.5, 2.5]
    absent = layout.pack_absent(7.0)
    assert absent[:168] == bytes(168)
    assert ctypes.c_double.from_buffer_copy(absent[168:]).value == 7.0


def test_the_table_of_operations_has_the_size_of_the_header_files(fuse: None) -> None:
    library = binding.load()
    table = library._table_type
    if library.major == 2:
        assert ctypes.sizeof(table) == 328
        assert (table.lookup.offset, table.statfs.offset, table.create.offset) == (16, 192, 240)
        assert (table.forget_multi.offset, table.fallocate.offset) == (304, 320)


def test_an_unknown_machine_is_refused(fuse: None) -> None:
    with pytest.raises(MountFailed, match="struct stat on vax"):
        StatLayout.of(binding.load().c_stat, "vax")


@pytest.mark.parametrize("name", [b"a", b"12345678", b"123456789", b"\xff" * 255])
def test_directory_entries_are_what_libfuse_writes(name: bytes, fuse: None) -> None:
    library = binding.load()
    entry = DirEntry(name, STAT.ino, STAT.mode, 42)
    buffer = ctypes.create_string_buffer(512)
    size = library.add_direntry(None, buffer, 512, name, library.stat_layout.pack(STAT), 42)
    assert pack_direntry(entry) == buffer.raw[:size]
