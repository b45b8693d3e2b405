"""What has to be the same on the mount and in the plain folder, and the one list of what may differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.differential.steps import Step

Answer = tuple[str, Any]
Snapshot = dict[str, dict[str, Any]]

ERRORS_OF_DEVICES = {("error", "EACCES"), ("error", "ENXIO"), ("error", "ENODEV")}


@dataclass(frozen=True)
class Permitted:
    name: str
    reason: str
    applies: Callable[[Step, Answer, Answer], bool]


def _call(step: Step) -> str:
    return str(step[1])


PERMITTED = [
    Permitted(
        "device nodes cannot be opened",
        "a mount is nodev, as every FUSE mount that users make",
        lambda step, ours, plain: _call(step) in ("open", "truncate") and {ours, plain} <= ERRORS_OF_DEVICES,
    ),
    Permitted(
        "the working folder was removed on the other mount",
        "the kernel has not been told that it is gone for good, and looks at the right to link first",
        lambda step, ours, plain: (
            any(str(arg).startswith("./") for arg in step[2:])
            and (ours, plain) == (("error", "EPERM"), ("error", "ENOENT"))
        ),
    ),
    Permitted(
        "device nodes cannot be opened, which is said before O_NOATIME is looked at",
        "as above",
        lambda step, ours, plain: (
            _call(step) == "open"
            and "NOATIME" in step[4]
            and (ours, plain) == (("error", "EACCES"), ("error", "EPERM"))
        ),
    ),
]


NOT_COMPARED = {
    "atime moved by reading": "it is set by programs alone; what a program set is compared",
    "sizes of folders, order of listings, inode numbers, positions in folders": "nobody may rely on them",
    "st_blocks": "only bounds: a hole is one where a whole chunk of 1 MiB is",
    "where SEEK_DATA and SEEK_HOLE find something": "only that nothing but zeros is skipped, and errors",
    "ctime after chown(-1, -1)": "ext4 moves it, POSIX and most file systems do not ask for it",
    "ctime after setxattr with the value that is there": "ext4 leaves it alone, others and a mount move it",
    "times of files with maps": "a store through a map moves them at once on ext4, on a mount when it is written",
    "places and lengths of O_DIRECT": "ext4 takes whole blocks only, a mount takes any",
    "O_TMPFILE": "not supported by a mount; programs then make a file with a name",
    "what one mount has not saved, or not seen": "two mounts take turns: before a turn the programs of one "
    "call fsync, and those of the other look again (or close, if they can only write)",
    "what was written to a file, and not saved when it was removed": "never reaches who has it open on another mount",
}
"""What may differ without a word, and why."""


def agree(step: Step, ours: Answer, plain: Answer) -> str | None:
    """None: a difference that counts. "": the same. Otherwise the name of the permitted difference."""
    if ours == plain:
        return ""
    for permitted in PERMITTED:
        if permitted.applies(step, ours, plain):
            return permitted.name
    return None


SAME = ("kind", "mode", "links", "owner", "mtime", "size", "rdev", "target", "xattrs", "content")


def trees(
    ours: Snapshot, plain: Snapshot, before: tuple[Snapshot, Snapshot] | None = None, *, times: bool = True
) -> list[str]:
    """The differences of two trees. `before`: earlier ones, to see what moved meanwhile; `times`: of files, too."""
    found = [f"{path!r} is only on the mount" for path in sorted(ours.keys() - plain.keys())]
    found += [f"{path!r} is not on the mount" for path in sorted(plain.keys() - ours.keys())]
    if found:
        return found
    for path in sorted(plain):
        mine, theirs = ours[path], plain[path]
        found += [
            f"{path!r} {key}: {mine.get(key)!r} on the mount, {theirs.get(key)!r} in the folder"
            for key in SAME
            if mine.get(key) != theirs.get(key) and (times or key != "mtime")
        ]
        found += [f"{path!r} {word}" for word in _oddities(mine, theirs)]
    found += _names_of_one_file(ours, plain)
    if before is not None:
        found += _moved(ours, plain, before, times=times)
    return found


def mounts(one: Snapshot, other: Snapshot) -> list[str]:
    """The differences of two mounts of one volume. Blocks may: what was written as zeros is a hole once it is saved."""
    found = [f"{path!r} is on one mount only" for path in sorted(one.keys() ^ other.keys())]
    for path in sorted(one.keys() & other.keys()):
        mine, theirs = one[path], other[path]
        found += [
            f"{path!r} {key}: {mine.get(key)!r} on one mount, {theirs.get(key)!r} on the other"
            for key in sorted(mine.keys() | theirs.keys())
            if key != "blocks" and mine.get(key) != theirs.get(key)
        ]
    return found


HOLES_IN_CHUNKS_BLOCKS = 3 * 2048
"""A hole is one where a whole chunk of 1 MiB is."""


def any_content(value: dict[str, Any]) -> bool:
    content = value.get("content")
    return isinstance(content, bytes) and any(content)


def _oddities(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Blocks: no more than the size, none for nothing but holes. Access times: only programs set ours; reading moves
    those of the folder."""
    found = []
    if mine["kind"] == "file":
        if mine["blocks"] * 512 > -(-mine["size"] // 4096) * 4096:
            found.append(f"takes {mine['blocks']} blocks for {mine['size']} bytes")
        if mine["blocks"] > 3 * theirs["blocks"] + HOLES_IN_CHUNKS_BLOCKS:
            found.append(f"takes {mine['blocks']} blocks, and {theirs['blocks']} in the folder")
        if theirs["blocks"] and not mine["blocks"] and any_content(mine):
            found.append("takes no blocks")
    ours_at, plain_at = mine["times"][0], theirs["times"][0]
    if ours_at != plain_at and (_recent(ours_at) and not _recent(plain_at)):
        found.append(f"atime {ours_at} on the mount, {plain_at} in the folder")
    if not _recent(ours_at) and not _recent(plain_at) and ours_at != plain_at:
        found.append(f"atime {ours_at} on the mount, {plain_at} in the folder")
    return found


def _recent(time_ns: int) -> bool:
    return 17 * 10**17 < time_ns < 20 * 10**17


def _names_of_one_file(ours: Snapshot, plain: Snapshot) -> list[str]:
    def groups(snapshot: Snapshot) -> set[tuple[str, ...]]:
        names: dict[int, list[str]] = {}
        for path in sorted(snapshot):
            names.setdefault(snapshot[path]["ino"], []).append(path)
        return {tuple(group) for group in names.values()}

    mine, theirs = groups(ours), groups(plain)
    return [f"one inode on one side only: {sorted(mine ^ theirs)}"] if mine != theirs else []


def _moved(ours: Snapshot, plain: Snapshot, before: tuple[Snapshot, Snapshot], *, times: bool) -> list[str]:
    """Whether mtime and ctime of each object moved since the earlier snapshots."""
    found = []
    earlier = {value["ino"]: path for path, value in before[0].items()}
    for path in sorted(plain):
        old = earlier.get(ours[path]["ino"])
        if old is None or old not in before[1] or (not times and ours[path]["kind"] == "file"):
            continue
        for index, name in ((1, "mtime"), (2, "ctime")):
            mine = before[0][old]["times"][index] != ours[path]["times"][index]
            theirs = before[1][old]["times"][index] != plain[path]["times"][index]
            if mine != theirs:
                times_ns = before[0][old]["times"][index], ours[path]["times"][index]
                found.append(f"{path!r} {name} {_word(mine)} on the mount, {_word(theirs)} in the folder: {times_ns}")
    return found


def _word(moved: bool) -> str:
    return "moved" if moved else "stayed"
