"""Two people in one folder: what happens to files that one holds open while the other works on them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from gdah_drill.cluster import Cluster, Mount
from gdah_drill.processes import finish_program
from gdah_drill.waiting import wait_until

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(180)]

RW = os.O_RDWR
GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "A Person",
    "GIT_AUTHOR_EMAIL": "person@example.org",
    "GIT_COMMITTER_NAME": "A Person",
    "GIT_COMMITTER_EMAIL": "person@example.org",
}


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory, fuse: None) -> Iterator[tuple[Mount, Mount]]:
    """Each uses another server first."""
    with Cluster(tmp_path_factory.mktemp("people"), cables=True) as cluster:
        a, b = cluster.start_servers()
        yield cluster.mount("one", [a, b]), cluster.mount("two", [b, a])
        cluster.wait_settled()


def sees(mount: Mount, path: str, content: bytes | None) -> None:
    """None: the name is absent."""

    def seen() -> bool:
        return not mount.hands.exists(path) if content is None else mount.hands.read(path) == content

    wait_until(seen, f"{mount.name} sees {content!r:.40} in {path}", 30, 0.01)


def contents(mount: Mount, folder: str) -> list[bytes]:
    return sorted(content for content in mount.hands.tree(folder).values() if isinstance(content, bytes))


def both_hold(mounts: tuple[Mount, Mount], folder: str, wanted: list[bytes]) -> None:
    for mount in mounts:

        def holds(mount: Mount = mount) -> bool:
            assert contents(mount, folder) == sorted(wanted), mount.hands.tree(folder)
            return True

        wait_until(holds, f"{mount.name}: {wanted}", 30)


def folder(mounts: tuple[Mount, Mount], name: str, **files: bytes) -> str:
    """A folder with files, seen by both."""
    one, two = mounts
    one.hands.mkdir(name)
    for file, content in files.items():
        one.hands.write(f"{name}/{file}", content)
    for file, content in files.items():
        sees(two, f"{name}/{file}", content)
    wait_until(lambda: two.hands.exists(name), "the folder is there", 30)
    return name


def test_what_is_written_after_the_other_renamed_it_is_in_the_renamed_file(mounts: tuple[Mount, Mount]) -> None:
    one, two = mounts
    at = folder(mounts, "renamed", a=b"first")
    fd = one.hands.open(f"{at}/a", RW)
    two.hands.mkdir(f"{at}/sub")
    two.hands.rename(f"{at}/a", f"{at}/sub/b")
    sees(one, f"{at}/a", None)
    one.hands.pwrite(fd, b"FIRST and more")
    one.hands.close_fd(fd)
    for mount in mounts:
        sees(mount, f"{at}/sub/b", b"FIRST and more")
        assert mount.hands.listdir(at) == ["sub"]


def test_what_is_written_to_a_file_that_the_other_removes_is_not_lost(mounts: tuple[Mount, Mount]) -> None:
    """It was written before the removal was seen here: the edit survives."""
    one, two = mounts
    at = folder(mounts, "removed", a=b"first")
    fd = one.hands.open(f"{at}/a", RW)
    one.hands.pwrite(fd, b"EDIT!")
    two.hands.unlink(f"{at}/a")
    sees(two, f"{at}/a", None)
    one.hands.close_fd(fd)
    both_hold(mounts, at, [b"EDIT!"])


def test_a_file_replaced_by_the_other_keeps_its_content_for_who_holds_it(mounts: tuple[Mount, Mount]) -> None:
    """`rename` replaces atomically: every reader, on any mount, sees the old file or the new one."""
    one, two = mounts
    at = folder(mounts, "replaced", a=b"old content", new=b"new")
    fd = one.hands.open(f"{at}/a", os.O_RDONLY)
    two.hands.rename(f"{at}/new", f"{at}/a")
    sees(one, f"{at}/a", b"new")
    assert one.hands.pread(fd, 100) == b"old content"
    assert one.hands.fstat(fd).st_nlink == 0
    one.hands.close_fd(fd)
    assert one.hands.listdir(at) == two.hands.listdir(at) == ["a"]


def test_when_both_write_what_both_hold_open_both_contents_exist(mounts: tuple[Mount, Mount]) -> None:
    one, two = mounts
    at = folder(mounts, "both", **{"a.txt": b"base"})
    fds = [mount.hands.open(f"{at}/a.txt", RW) for mount in mounts]
    for mount, fd in zip(mounts, fds, strict=True):
        mount.hands.pwrite(fd, f"by {mount.name}".encode())
    for mount, fd in zip(mounts, fds, strict=True):
        mount.hands.close_fd(fd)
    both_hold(mounts, at, [b"by one", b"by two"])
    wait_until(lambda: one.hands.listdir(at) == two.hands.listdir(at), "the same names", 30)
    assert [name for name in one.hands.listdir(at) if "(conflict" in name] != []


def test_appending_in_turn_never_loses(mounts: tuple[Mount, Mount]) -> None:
    at = folder(mounts, "appended", log=b"")
    wanted = b""
    for number in range(20):
        mount, other = mounts[number % 2], mounts[1 - number % 2]
        line = f"{number} by {mount.name}\n".encode()
        mount.hands.append(f"{at}/log", line)
        wanted += line
        sees(other, f"{at}/log", wanted)
    both_hold(mounts, at, [wanted])


def test_two_mounts_creating_in_one_folder_at_once(mounts: tuple[Mount, Mount]) -> None:
    at = folder(mounts, "busy")
    script = 'i=0; while [ $i -lt 60 ]; do echo $0 > "$0 $i"; mkdir "d $0 $i"; i=$((i+1)); done'
    programs = [mount.begin("sh", "-c", script, mount.name, inside=at) for mount in mounts]
    for program in programs:
        finish_program(program)
    wanted = sorted(f"{d}{m.name} {i}" for d in ("", "d ") for m in mounts for i in range(60))
    for mount in mounts:
        wait_until(lambda mount=mount: mount.hands.listdir(at) == wanted, "every name, once", 30)  # type: ignore[misc]


def test_a_folder_that_the_other_removed_under_a_process(mounts: tuple[Mount, Mount]) -> None:
    one, two = mounts
    at = folder(mounts, "gone", a=b"x")
    script = "echo in; while [ -e ../gone ]; do sleep 0.05; done; ls -a; echo x > y || echo refused; cd / && echo out"
    program = one.begin("sh", "-c", script, inside=at)
    two.hands.rmtree(at)
    said = finish_program(program).stdout
    assert "refused" in said, said
    assert said.endswith("out\n"), said
    assert not one.hands.exists(at)


def test_tail_on_one_mount_follows_appends_on_the_other(mounts: tuple[Mount, Mount]) -> None:
    one, two = mounts
    at = folder(mounts, "tailed", log=b"begin\n")
    program = two.begin(
        "timeout", "20", "sh", "-c", "tail -s 0.1 -n +1 -f log | sed /end/q; pkill -P $$ tail", inside=at
    )
    for number in range(5):
        one.hands.append(f"{at}/log", b"line %d\n" % number)
    one.hands.append(f"{at}/log", b"end\n")
    said = finish_program(program, check=False).stdout
    assert said == "begin\n" + "".join(f"line {number}\n" for number in range(5)) + "end\n"


def test_a_map_shows_what_the_other_writes(mounts: tuple[Mount, Mount]) -> None:
    one, two = mounts
    at = folder(mounts, "mapped", data=b"A" * 20_000)
    script = """
import mmap, time
with open("data", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
    assert view[:] == b"A" * 20000
    print("mapped", flush=True)
    end = time.monotonic() + 30
    while view[:] != b"B" * 20000 and time.monotonic() < end:
        time.sleep(0.01)
    print(view[:3], set(view[:]))
"""
    program = two.begin("python3", "-c", script, inside=at)
    one.hands.write(f"{at}/other", b"")
    assert program.stdout is not None
    assert program.stdout.readline() == b"mapped\n"
    fd = one.hands.open(f"{at}/data", RW)
    one.hands.pwrite(fd, b"B" * 20_000)
    one.hands.close_fd(fd)
    assert finish_program(program).stdout == "b'BBB' {66}\n"


def test_git_push_and_pull_between_clones_on_two_mounts(mounts: tuple[Mount, Mount]) -> None:
    one, two = mounts
    at = folder(mounts, "git")
    script = "git init -q --bare -b main hub && git clone -q hub {0} 2> /dev/null && cd {0} && echo 1 > f && git add f"
    one.run(
        "sh", "-c", script.format("one") + " && git commit -qm 1 && git push -q origin main", inside=at, environ=GIT
    )
    wait_until(
        lambda: two.run("git", "ls-remote", "hub", "main", inside=at, check=False).stdout, "the push arrives", 30
    )
    two.run("git", "clone", "-q", "hub", "two", inside=at, environ=GIT)
    for number in range(1):
        for mount, name, other in ((two, "two", one), (one, "one", two)):
            line = f"cd {name} && git pull -q --ff-only && echo {number} >> f && git commit -qam {number}"
            mount.run("sh", "-c", f"{line} && git push -q origin main", inside=at, environ=GIT)
            head = mount.run("git", "-C", name, "rev-parse", "HEAD", inside=at).stdout
            wait_until(
                lambda other=other, head=head: (
                    other.run("git", "-C", "hub", "rev-parse", "main", inside=at).stdout == head
                ),  # type: ignore[misc]
                "the push arrives",
                30,
            )
    one.run("git", "-C", "hub", "fsck", "--full", "--strict", inside=at)
    assert two.run("cat", "two/f", inside=at).stdout == "1\n0\n"
    assert one.run("cat", "one/f", inside=at).stdout == "1\n0\n0\n"


# --- what is held open ends in the tree or in a conflict copy, never nowhere


def test_what_is_held_open_survives_a_failover(mounts: tuple[Mount, Mount]) -> None:
    one, two = mounts
    at = folder(mounts, "failover", a=b"first")
    fd = one.hands.open(f"{at}/a", RW)
    one.hands.pwrite(fd, b"half")
    used = next(server for server in one.servers if one.uses(server))
    used.kill9()
    one.hands.pwrite(fd, b"whole", 4)
    one.hands.close_fd(fd)
    sees(two, f"{at}/a", b"halfwhole")
    used.start()
    one.cluster.wait_settled()


def test_what_is_held_open_survives_an_outage(mounts: tuple[Mount, Mount]) -> None:
    one, two = mounts
    at = folder(mounts, "outage", a=b"first")
    fd = one.hands.open(f"{at}/a", RW)
    one.hands.pwrite(fd, b"before")
    one.cut()
    one.hands.pwrite(fd, b" during", 6)
    one.hands.close_fd(fd)
    assert one.hands.read(f"{at}/a") == b"before during"
    one.heal()
    sees(two, f"{at}/a", b"before during")


def test_what_is_held_open_ends_in_a_conflict_copy_when_both_sides_of_an_outage_wrote(
    mounts: tuple[Mount, Mount],
) -> None:
    """The handle follows its own copy; whoever opens the name gets what has the name, and changes that."""
    one, two = mounts
    at = folder(mounts, "conflict", **{"a.txt": b"base"})
    fd = one.hands.open(f"{at}/a.txt", RW)
    one.hands.pwrite(fd, b"here")
    one.cut()
    two.hands.write(f"{at}/a.txt", b"there")
    one.hands.fsync(fd)
    one.heal()
    both_hold(mounts, at, [b"here", b"there"])
    assert one.hands.read(f"{at}/a.txt") == b"there"
    one.hands.write(f"{at}/a.txt", b"ours")
    one.hands.pwrite(fd, b"HERE")
    one.hands.close_fd(fd)
    both_hold(mounts, at, [b"HERE", b"ours"])
    assert one.hands.read(f"{at}/a.txt") == two.hands.read(f"{at}/a.txt") == b"ours"


def test_what_is_held_open_survives_its_removal_during_an_outage(mounts: tuple[Mount, Mount]) -> None:
    one, two = mounts
    at = folder(mounts, "outage-removed", a=b"base", b=b"base")
    fd = one.hands.open(f"{at}/a", RW)
    one.cut()
    two.hands.unlink(f"{at}/a")
    one.hands.pwrite(fd, b"edit")
    one.hands.close_fd(fd)
    one.heal()
    both_hold(mounts, at, [b"base", b"edit"])


def test_what_is_held_open_survives_the_other_sides_new_start(mounts: tuple[Mount, Mount]) -> None:
    one, two = mounts
    at = folder(mounts, "restarted", a=b"base")
    fd = one.hands.open(f"{at}/a", RW)
    one.hands.pwrite(fd, b"mine")
    held = two.hands.open(f"{at}/a", RW)
    two.hands.pwrite(held, b"!", 4)
    two.kill9()
    one.hands.close_fd(fd)
    two.unmount_lazily()
    two.start()
    both_hold(mounts, at, [b"base!", b"mine"])


def test_a_scanner_finds_inodes_and_times_unchanged_after_a_new_start_and_on_the_other_mount(
    mounts: tuple[Mount, Mount],
) -> None:
    """As unison, syncthing, rsync and git look at it."""
    one, two = mounts
    at = folder(mounts, "scanned", a=b"x", b=b"y")
    one.hands.mkdir(f"{at}/d")
    one.hands.link(f"{at}/a", f"{at}/d/c")
    one.hands.symlink("a", f"{at}/l")
    wait_until(lambda: two.hands.exists(f"{at}/l"), "all is there", 30)

    def scan(mount: Mount) -> str:
        return mount.run("sh", "-c", "find . -printf '%i %T@ %C@ %s %m %n %p\\n' | sort", inside=at).stdout

    before = scan(one)
    assert scan(two) == before
    one.cluster.wait_settled()
    assert one.terminate() == 0
    one.start()
    assert scan(one) == before
