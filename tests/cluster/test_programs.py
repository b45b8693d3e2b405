"""Ordinary programs on a mount of two healthy servers behave as on a local disk, without an error."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gdah_drill.cluster import Cluster, Mount
from gdah_drill.processes import run_program
from tests.cluster.programs import Story, stories, tell

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(300)]

GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "A Person",
    "GIT_AUTHOR_EMAIL": "person@example.org",
    "GIT_COMMITTER_NAME": "A Person",
    "GIT_COMMITTER_EMAIL": "person@example.org",
}

SQLITE_PROGRAM = """
import sqlite3, sys
path, mode = sys.argv[1:]
database = sqlite3.connect(path, isolation_level=None)
assert database.execute(f"PRAGMA journal_mode={mode}").fetchone()[0] == mode.lower()
database.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, text TEXT)")
for number in range(200):
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO entries VALUES (?, ?)", (number, f"entry {number} " + "x" * (number * 7 % 900)))
    if number % 3 == 0:
        database.execute("UPDATE entries SET text = text || '!' WHERE number % 10 = ?", (number % 10,))
    database.execute("COMMIT")
assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
database.close()
again = sqlite3.connect(path)
assert again.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
assert again.execute("SELECT count(*) FROM entries").fetchone()[0] == 200
again.close()
"""


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, fuse: None) -> Iterator[Mount]:
    with Cluster(tmp_path_factory.mktemp("programs")) as cluster:
        cluster.start_servers()
        yield cluster.mount()
        cluster.wait_settled()


def test_a_tree_of_real_source_files_is_copied_in_and_git_works_in_it(mount: Mount, sources: Path) -> None:
    """The folder behaves like a local file system to any program on one mount."""
    mount.run("cp", "-r", sources, "lib")
    assert mount.run("diff", "-r", sources, "lib").stdout == ""

    mount.run("git", "init", "-q", ".", inside="lib", environ=GIT)
    mount.run("git", "add", "-A", inside="lib", environ=GIT)
    mount.run("git", "commit", "-q", "-m", "All of it", inside="lib", environ=GIT)
    mount.run("git", "fsck", "--full", "--strict", inside="lib", environ=GIT)
    assert mount.run("git", "status", "--porcelain", inside="lib", environ=GIT).stdout == ""
    mount.run("git", "clone", "-q", "lib", "clone", environ=GIT)
    assert mount.run("diff", "-r", "--exclude=.git", sources, "clone").stdout == ""
    assert mount.run("git", "status", "--porcelain", inside="clone", environ=GIT).stdout == ""


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_sqlite_database_is_whole_after_200_transactions(mount: Mount, mode: str) -> None:
    mount.run("python3", "-c", SQLITE_PROGRAM, f"{mode}.db", mode, timeout_s=180)
    assert [name for name in mount.hands.listdir() if name.startswith(mode)] == [f"{mode}.db"]


def test_an_editor_saves_by_writing_anew_and_renaming_over(mount: Mount) -> None:
    """`rename` replaces atomically: every reader, on any mount, sees the old file or the new one."""
    hands = mount.hands
    hands.mkdir("edited")
    hands.write("edited/text", b"first\n")
    hands.chmod("edited/text", 0o640)
    for round_number in range(20):
        text = f"round {round_number}\n".encode() * 50
        hands.write("edited/.text.new", text, True)
        hands.chmod("edited/.text.new", stat.S_IMODE(hands.stat("edited/text").st_mode))
        if hands.exists("edited/text~"):
            hands.unlink("edited/text~")
        before = hands.read("edited/text")
        hands.link("edited/text", "edited/text~")
        hands.rename("edited/.text.new", "edited/text")
        assert hands.read("edited/text") == text
        assert hands.read("edited/text~") == before
        assert hands.stat("edited/text").st_nlink == 1
    assert hands.listdir("edited") == ["text", "text~"]
    assert stat.S_IMODE(hands.stat("edited/text").st_mode) == 0o640
    mount.run("sed", "-i", "s/round/lap/", "edited/text")
    assert hands.read("edited/text").startswith(b"lap 19\n")


def test_a_file_unlinked_while_open_stays_with_its_holder_and_leaves_nothing_behind(mount: Mount) -> None:
    """A file that is unlinked while open stays readable and writable to its holder, and leaves nothing behind."""
    hands = mount.hands
    hands.mkdir("unlinked")
    hands.write("unlinked/file", b"still here")
    fd = hands.open("unlinked/file", os.O_RDWR)
    hands.unlink("unlinked/file")
    assert hands.listdir("unlinked") == []
    assert hands.pread(fd, 100) == b"still here"
    assert hands.fstat(fd).st_nlink == 0
    hands.pwrite(fd, b"STILL")
    hands.fsync(fd)
    assert hands.pread(fd, 100) == b"STILL here"
    assert hands.fstat(fd).st_size == 10
    hands.write("unlinked/file", b"another one of the same name")
    assert hands.pread(fd, 100) == b"STILL here"
    hands.close_fd(fd)
    assert hands.listdir("unlinked") == ["file"]
    hands.rmtree("unlinked")


def test_links_attributes_and_holes_are_kept(mount: Mount) -> None:
    hands = mount.hands
    hands.makedirs("kept/deep/folder")
    hands.write("kept/file", b"0123456789")
    hands.link("kept/file", "kept/deep/other name")
    hands.symlink("../file", "kept/deep/symlink")
    hands.chmod("kept/file", 0o600)
    hands.utime("kept/file", (1_000_000_001, 2_000_000_003))
    hands.setxattr("kept/file", "user.colour", b"\x00blue")
    seen = hands.stat("kept/deep/other name")
    assert seen.st_nlink == 2
    assert stat.S_IMODE(seen.st_mode) == 0o600
    assert (seen.st_atime_ns, seen.st_mtime_ns) == (1_000_000_001, 2_000_000_003)
    assert seen.st_ino == hands.stat("kept/file").st_ino
    assert hands.readlink("kept/deep/symlink") == "../file"
    assert hands.getxattr("kept/deep/other name", "user.colour") == b"\x00blue"
    hands.truncate("kept/file", 4)
    hands.truncate("kept/file", 3_000_000)
    assert hands.read("kept/deep/other name") == b"0123" + bytes(2_999_996)
    fd = hands.open("kept/file", os.O_RDWR)
    hands.pwrite(fd, b"end", 2_500_000)
    hands.close_fd(fd)
    assert hands.read("kept/file")[2_499_999:2_500_004] == b"\0end\0"
    with pytest.raises(OSError, match="not empty"):
        hands.rmdir("kept/deep")


def test_any_name_that_a_local_disk_takes_works(mount: Mount) -> None:
    hands = mount.hands
    hands.mkdir("names")
    names = [
        "with space", "ação.txt", "名前", "-rf", "*?[", "'\"`$(x)", "new\nline", ".hidden", "e\u0301", "\u00e9",
        os.fsdecode(b"not utf-8 \xff\xfe"), "x" * 255, "CON", "a:b", "back\\slash", "trailing.", "trailing ",
    ]  # fmt: skip
    for name in names:
        hands.write(f"names/{name}", os.fsencode(name))
    assert set(hands.listdir("names")) == set(names)
    for name in names:
        assert hands.read(f"names/{name}") == os.fsencode(name)
    with pytest.raises(OSError, match="too long"):
        hands.write("names/" + "x" * 256, b"")


def test_many_names_in_one_folder_are_listed_once_each(mount: Mount) -> None:
    """Readdir goes on by cookies over several calls while entries come and go."""
    mount.run("sh", "-c", "mkdir many && cd many && i=0; while [ $i -lt 600 ]; do : > file-$i; i=$((i+1)); done")
    assert len(mount.hands.listdir("many")) == 600
    mount.run("rm", "-r", "many")
    assert not mount.hands.exists("many")


def test_two_programs_append_to_files_and_nothing_is_lost(mount: Mount) -> None:
    script = "i=0; while [ $i -lt 100 ]; do echo $0 $i >> appended; i=$((i+1)); done"
    programs = [mount.begin("sh", "-c", script, name) for name in ("a", "b")]
    for program in programs:
        mount.finish(program)
    lines = mount.hands.read("appended").decode().splitlines()
    assert sorted(lines) == sorted(f"{name} {i}" for name in ("a", "b") for i in range(100))


def test_archives_and_checksums_of_large_files_are_exact(mount: Mount, tmp_path: Path) -> None:
    """Bytes over many chunks, written in odd pieces, read back by other programs after a rename."""
    size = 9 * (1 << 20) + 12345
    local = tmp_path / "big"
    local.write_bytes(os.urandom(size))
    mount.run("dd", f"if={local}", "of=big", "bs=77777", "status=none")
    mount.run("mv", "big", "renamed big")
    assert mount.run("cmp", local, "renamed big").stdout == ""
    mount.run("tar", "cf", "archive.tar", "renamed big")
    out = tmp_path / "out"
    out.mkdir()
    run_program(["tar", "xf", mount.root / "archive.tar", "-C", out])
    assert (out / "renamed big").read_bytes() == local.read_bytes()


@pytest.mark.parametrize("story", [story for story in stories() if story.fast], ids=lambda story: story.name)
def test_programs_say_on_a_mount_what_they_say_on_a_plain_disk(
    mount: Mount, tmp_path_factory: pytest.TempPathFactory, story: Story
) -> None:
    """The folder behaves like a local file system to any program on one mount."""
    result = tell(story, mount, mount, tmp_path_factory.mktemp(story.name))
    if story.missing:
        pytest.skip(result.word)
    assert not result.differences, "\n".join(result.differences)
