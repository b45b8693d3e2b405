"""What the differential machine may do: from a few bytes that Hypothesis draws to a step, a plain tuple.

    (hand, call, arguments ...)     hand: who makes the call, see HANDS
    ("burst", (hand, steps), ...)   several hands at once, each in a folder of its own
    ("fault", kind, arguments ...)  what happens to the mounts and servers, see `faults`

The choice knows the plain folder and what is open, so that most steps do something; what becomes of a step is no
business of this module.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Step = tuple[Any, ...]

CHUNK = 1 << 20
GENES = 16
"""Bytes of one step."""
PLAN_GENES = 24
SLOTS = 4
"""Descriptors of one hand."""


@dataclass(frozen=True)
class Who:
    mount: str
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


HANDS = {
    "r": Who("A"),
    "s": Who("A"),
    "u": Who("A", 1000, 1000, (1000, 2000, 3000)),
    "v": Who("A", 1001, 1001, (2000,)),
    "b": Who("B"),
    "w": Who("B", 1000, 1000, (1000, 2000, 3000)),
}

NAMES = ["a", "b", "c", "d"]
ODD_NAMES = ["x" * 255, "x" * 256, "\udcff\udc80 ü", "a ", "new\nline", "conflict (a)", ".", "..", ""]
OFFSETS = [0, 1, 10, 100, 4095, 4096, 4097, 65535, 65536, 131072, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]
FAR_OFFSETS = [(4 << 30) + 5, 5 << 30, (1 << 40), (1 << 63) - 1, -1]
LENGTHS = [1, 2, 10, 100, 4096, 5000, 70_000, 131072, CHUNK, CHUNK + 5]
MODES = [0o644, 0o600, 0o755, 0o777, 0o000, 0o4755, 0o2755, 0o2644, 0o1777, 0o6777, 0o444, 0o222, 0o111, 0o2775]
TIMES: list[int | str] = ["now", "omit", 0, 1, 999_999_999, 10**9, 1234567890 * 10**8 + 7, -1, -(10**9), 2**31 * 10**9]
TIMES += [2**33 * 10**9 + 5, 10**18]
IDS = [0, 1000, 1001, 2000, 3000, 4000, -1]
XATTRS = ["user.a", "user.b", "user.", "trusted.t", "nothing", "user." + "n" * 249, "user." + "n" * 251]
HOLES = ["", "keep", "punch", "zero"]
NODES = ["fifo", "socket", "file", "char", "block"]
RENAMES = ["noreplace", "exchange"]
ACCESS_FLAGS = ["RDWR", "RDONLY", "WRONLY"]
MORE_FLAGS = ["CREAT", "EXCL", "TRUNC", "APPEND", "NOFOLLOW", "DIRECTORY", "SYNC", "DSYNC", "DIRECT", "NOATIME", "PATH"]


class Genes:
    """Bytes to decide by. Zeros choose what is simplest."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        value = self._data[self._at % len(self._data)]
        self._at += 1
        return value

    def more(self, name: str) -> bytes:
        """Many bytes that follow from these."""
        return hashlib.shake_128(self._data + name.encode()).digest(200)

    def number(self, below: int) -> int:
        return (self.byte() | self.byte() << 8) % below

    def pick(self, options: Sequence[T]) -> T:
        return options[self.byte() % len(options)]

    def one_in(self, times: int) -> bool:
        return self.byte() >= 256 - 256 // times


@dataclass
class Slot:
    kind: str
    flags: str


@dataclass
class State:
    """What a choice knows. `root`: of the program on the plain folder."""

    root: Path
    slots: dict[str, dict[int, Slot]] = field(default_factory=lambda: {hand: {} for hand in HANDS})
    maps: dict[str, set[int]] = field(default_factory=lambda: {hand: set() for hand in HANDS})
    hand: str = "r"
    paths: dict[str, list[str]] = field(default_factory=dict)

    def look(self) -> None:
        found: dict[str, list[str]] = {"dir": [""], "file": [], "symlink": [], "other": []}
        for folder, folders, files in os.walk(self.root):
            below = os.path.relpath(folder, self.root)
            for name in sorted(folders + files):
                path = name if below == "." else f"{below}/{name}"
                mode = os.lstat(self.root / path).st_mode
                kind = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "symlink"}.get(
                    stat.S_IFMT(mode), "other"
                )
                found[kind].append(path)
        self.paths = found

    def open_slots(self, *kinds: str) -> list[int]:
        mine = self.slots[self.hand]
        return sorted(slot for slot in mine if not kinds or mine[slot].kind in kinds)

    def note(self, step: Step, ours: tuple[str, Any]) -> None:
        """What a step that went the same way on both sides has opened and closed."""
        hand, call, *args = step
        if ours[0] != "ok":
            return
        if call == "open":
            self.slots[hand][args[0]] = Slot(ours[1]["kind"], args[2])
            self.maps[hand].discard(args[0])
        elif call == "close":
            self.slots[hand].pop(args[0], None)
            self.maps[hand].discard(args[0])
        elif call == "dup":
            self.slots[hand][args[1]] = self.slots[hand][args[0]]
            self.maps[hand].discard(args[1])
        elif call == "mmap":
            self.maps[hand].add(args[0])
        elif call == "munmap":
            self.maps[hand].discard(args[0])


class Chooser:
    def __init__(self, genes: Genes, state: State) -> None:
        self.genes = genes
        self.state = state

    # --- paths

    def existing(self, *kinds: str) -> str:
        paths = self.state.paths
        wanted = [path for kind in kinds or paths for path in paths[kind]]
        if not wanted or self.genes.one_in(12):
            return self.place()
        return self._dressed(self.genes.pick(wanted))

    def place(self) -> str:
        """A name in a folder, which may be taken."""
        genes = self.genes
        folder = genes.pick(self.state.paths["dir"])
        if genes.one_in(25):
            folder = genes.pick([*self.state.paths["symlink"], *self.state.paths["file"], "no"])
        name = genes.pick(ODD_NAMES) if genes.one_in(30) else genes.pick(NAMES)
        if name == "..":
            return f"{folder}/.." if folder in self.state.paths["dir"][1:] else "."  # never out of the program's folder
        path = f"{folder}/{name}" if folder else name
        folders = self.state.open_slots("dir")
        if folders and genes.one_in(6):
            return f"@{genes.pick(folders)}/{name}"
        if genes.one_in(20):
            return f"./{name}"
        return self._dressed(path)

    def _dressed(self, path: str) -> str:
        genes = self.genes
        if genes.one_in(25):
            return path + "/"
        if path and genes.one_in(40):
            return f"{path}/../{genes.pick(NAMES)}"
        return path

    def any_path(self) -> str:
        slots = self.state.open_slots()
        if slots and self.genes.one_in(12):
            return f"@{self.genes.pick(slots)}"
        return self.existing()

    def file_slot(self) -> int:
        return self._slot("file")

    def some_file_slot(self) -> int:
        """Positions in folders are nobody's business."""
        if not self.state.open_slots("file"):
            raise NothingOpen
        return self.file_slot()

    def owners(self) -> tuple[int, int]:
        """Not (-1, -1), see `compare.NOT_COMPARED`."""
        uid = self.genes.pick(IDS)
        return uid, self.genes.pick(IDS if uid != -1 else IDS[:-1])

    def plain_slot(self) -> int:
        """Of a file without O_DIRECT: which places and lengths that one takes is a matter of the file system."""
        mine = self.state.slots[self.state.hand]
        slots = [
            slot for slot in self.state.open_slots("file") if "DIRECT|" not in mine[slot].flags.replace("DIRECTORY", "")
        ]
        if not slots:
            raise NothingOpen
        return self.genes.pick(slots)

    def any_slot(self) -> int:
        return self._slot()

    def _slot(self, *kinds: str) -> int:
        slots = self.state.open_slots(*kinds) or self.state.open_slots()
        if not slots:
            raise NothingOpen
        return self.genes.pick(slots)

    def offset(self) -> int:
        genes = self.genes
        if genes.one_in(24):
            return genes.pick(FAR_OFFSETS)
        return genes.pick(OFFSETS) if genes.one_in(2) else genes.number(200)

    def near_offset(self) -> int:
        return self.genes.pick(OFFSETS) if self.genes.one_in(2) else self.genes.number(200)

    def length(self) -> int:
        genes = self.genes
        return genes.pick(LENGTHS) if genes.one_in(3) else 1 + genes.number(300)

    def value(self) -> bytes:
        """Of an extended attribute; mostly another one each time, see `compare.NOT_COMPARED`."""
        return self.genes.pick([b"", b"\0\xff", b"v" * 2000]) + b"%d" % self.genes.number(1 << 16)

    def seed(self) -> int:
        return 1 + self.genes.number(250)

    def mode(self) -> int:
        return self.genes.pick(MODES)


class NothingOpen(Exception):
    """The step needs something open."""


def flags(c: Chooser) -> str:
    chosen = [c.genes.pick(ACCESS_FLAGS)]
    if c.genes.one_in(2):
        chosen.append("CREAT")
    while c.genes.one_in(3) and len(chosen) < 5:
        chosen.append(c.genes.pick(MORE_FLAGS))
    return "|".join(dict.fromkeys(chosen)) + "|NONBLOCK"


def open_slot(c: Chooser) -> int:
    return c.genes.number(SLOTS)


def open_some(c: Chooser) -> Step:
    slot = open_slot(c)
    how = c.genes.byte() % 8
    if how == 0:
        path = c.place()
    elif how == 1:
        path = c.any_path()
    else:
        path = c.existing("file")
    return "open", slot, path, flags(c), c.mode()


Build = Callable[[Chooser], Step]

GROUPS: dict[str, dict[str, tuple[int, Build]]] = {
    "files": {
        "open": (14, open_some),
        "open new": (6, lambda c: ("open", open_slot(c), c.place(), "RDWR|CREAT|NONBLOCK", c.mode())),
        "open rw": (6, lambda c: ("open", open_slot(c), c.existing("file"), "RDWR|NONBLOCK", 0)),
        "close": (7, lambda c: ("close", c.any_slot())),
        "dup": (1, lambda c: ("dup", c.any_slot(), open_slot(c))),
        "read": (3, lambda c: ("read", c.any_slot(), c.length())),
        "pread": (5, lambda c: ("pread", c.file_slot(), c.length(), c.offset())),
        "write": (7, lambda c: ("write", c.file_slot(), c.seed(), c.length())),
        "pwrite": (8, lambda c: ("pwrite", c.file_slot(), c.seed(), c.length(), c.near_offset())),
        "lseek": (2, lambda c: ("lseek", c.some_file_slot(), c.offset(), c.genes.pick(["set", "cur", "end"]))),
        "fstat": (4, lambda c: ("fstat", c.any_slot())),
    },
    "vectors": {
        "readv": (2, lambda c: ("readv", c.any_slot(), c.length(), c.length())),
        "writev": (2, lambda c: ("writev", c.file_slot(), c.seed(), c.length(), c.length())),
        "copy": (3, lambda c: ("copy", c.plain_slot(), c.plain_slot(), c.length(), c.near_offset(), c.near_offset())),
        "sendfile": (2, lambda c: ("sendfile", c.plain_slot(), c.plain_slot(), c.length(), c.near_offset())),
        "seek_data": (2, lambda c: ("seek_data", c.some_file_slot(), c.offset())),
        "seek_hole": (2, lambda c: ("seek_hole", c.some_file_slot(), c.offset())),
        "advise": (2, lambda c: ("advise", c.file_slot())),
    },
    "sizes": {
        "ftruncate": (5, lambda c: ("ftruncate", c.any_slot(), c.offset())),
        "truncate": (4, lambda c: ("truncate", c.existing("file"), c.offset())),
        "truncate any": (1, lambda c: ("truncate", c.any_path(), c.offset())),
        "far write": (1, lambda c: ("pwrite", c.file_slot(), c.seed(), 100, c.genes.pick(FAR_OFFSETS))),
        "fallocate": (
            4,
            lambda c: (
                "fallocate",
                c.file_slot(),
                c.genes.pick(["", "keep", "punch", "zero"]),
                c.near_offset(),
                c.length(),
            ),
        ),
    },
    "sync": {
        "fsync": (4, lambda c: ("fsync", c.any_slot())),
        "fdatasync": (2, lambda c: ("fdatasync", c.any_slot())),
    },
    "maps": {
        "mmap": (4, lambda c: ("mmap", c.some_file_slot(), not c.genes.one_in(5))),
        "mstore": (6, lambda c: ("mstore", _mapped(c), c.seed(), c.length(), c.near_offset())),
        "mread": (4, lambda c: ("mread", _mapped(c), c.length(), c.near_offset())),
        "msync": (3, lambda c: ("msync", _mapped(c))),
        "munmap": (2, lambda c: ("munmap", _mapped(c))),
    },
    "names": {
        "unlink": (7, lambda c: ("unlink", c.existing("file", "symlink", "other"))),
        "unlink any": (1, lambda c: ("unlink", c.any_path())),
        "rename": (8, lambda c: ("rename", c.existing(), c.place())),
        "rename over": (4, lambda c: ("rename", c.existing(), c.existing())),
        "rename2": (
            2,
            lambda c: ("rename2", c.existing(), c.existing(), c.genes.pick(RENAMES)),
        ),
        "link": (5, lambda c: ("link", c.existing("file", "symlink", "other"), c.place(), c.genes.one_in(4))),
        "link open": (1, lambda c: ("link", f"@{c.any_slot()}", c.place(), True)),
        "symlink": (4, lambda c: ("symlink", c.genes.pick([*NAMES, "../a", "a/b", "no", "", "t" * 4000]), c.place())),
        "readlink": (2, lambda c: ("readlink", c.existing("symlink"))),
    },
    "folders": {
        "mkdir": (8, lambda c: ("mkdir", c.place(), c.mode())),
        "rmdir": (5, lambda c: ("rmdir", c.existing("dir"))),
        "rmdir any": (1, lambda c: ("rmdir", c.any_path())),
        "list": (3, lambda c: ("list", c.existing("dir"))),
        "open folder": (4, lambda c: ("open", open_slot(c), c.existing("dir"), "RDONLY|DIRECTORY", 0)),
        "list_open": (2, lambda c: ("list_open", c._slot("dir"))),
        "churn": (1, lambda c: ("churn", c.existing("dir"), 25, 5)),
        "chdir": (2, lambda c: ("chdir", c.existing("dir"))),
        "fchdir": (1, lambda c: ("fchdir", c._slot("dir"))),
        "getcwd": (2, lambda c: ("getcwd",)),
        "statvfs": (1, lambda c: ("statvfs", c.existing())),
    },
    "locks": {
        "flock": (6, lambda c: ("flock", c.some_file_slot(), c.genes.pick(["exclusive", "shared", "none"]))),
        "lock": (
            8,
            lambda c: (
                "lock",
                c.some_file_slot(),
                c.genes.pick(["write", "read", "none"]),
                c.genes.number(100),
                c.genes.number(60),
                c.genes.one_in(2),
            ),
        ),
        "test_lock": (
            4,
            lambda c: (
                "test_lock",
                c.some_file_slot(),
                c.genes.pick(["write", "read"]),
                c.genes.number(100),
                c.genes.number(60),
            ),
        ),
    },
    "special": {
        "mknod": (
            3,
            lambda c: ("mknod", c.place(), c.genes.pick(["fifo", "socket", "file", "char", "block"]), c.mode()),
        ),
    },
    "attributes": {
        "stat": (3, lambda c: ("stat", c.any_path())),
        "lstat": (2, lambda c: ("lstat", c.existing())),
        "chmod": (5, lambda c: ("chmod", c.any_path(), c.mode())),
        "fchmod": (3, lambda c: ("fchmod", c.any_slot(), c.mode())),
        "chown": (
            4,
            lambda c: ("chown", c.existing(), *c.owners(), c.genes.one_in(2)),
        ),
        "fchown": (2, lambda c: ("fchown", c.any_slot(), *c.owners())),
        "utime": (
            4,
            lambda c: ("utime", c.existing(), c.genes.pick(TIMES), c.genes.pick(TIMES), not c.genes.one_in(4)),
        ),
        "futime": (3, lambda c: ("futime", c.any_slot(), c.genes.pick(TIMES), c.genes.pick(TIMES))),
        "access": (3, lambda c: ("access", c.any_path(), c.genes.number(8), c.genes.one_in(2))),
    },
    "xattrs": {
        "setxattr": (4, lambda c: ("setxattr", c.any_path(), c.genes.pick(XATTRS), c.value(), c.genes.number(3))),
        "getxattr": (3, lambda c: ("getxattr", c.existing(), c.genes.pick(XATTRS))),
        "listxattr": (2, lambda c: ("listxattr", c.existing())),
        "removexattr": (2, lambda c: ("removexattr", c.existing(), c.genes.pick(XATTRS))),
        "fsetxattr": (2, lambda c: ("fsetxattr", c.any_slot(), c.genes.pick(XATTRS), c.value())),
        "fgetxattr": (1, lambda c: ("fgetxattr", c.any_slot(), c.genes.pick(XATTRS))),
    },
}
ALWAYS = ("files", "names")


def _mapped(c: Chooser) -> int:
    slots = sorted(c.state.maps[c.state.hand])
    if not slots:
        raise NothingOpen
    return c.genes.pick(slots)


FAULTS: list[Step] = [
    ("fault", "forget"),
    ("fault", "forget"),
    ("fault", "remount"),
    ("fault", "kill mount"),
    ("fault", "kill server", 0),
    ("fault", "kill server", 1),
    ("fault", "stop server", 0),
    ("fault", "stop server", 1),
    ("fault", "restore"),
    ("fault", "restore"),
    ("fault", "restore"),
]


def burst(genes: Genes, hands: Sequence[str]) -> Step:
    """Several hands at once, each in a folder of its own: ("burst", (hand, steps), (hand, steps), ...)."""
    some = [hand for hand in hands if genes.byte() % 3] or [hands[0]]
    return ("burst", *((hand, tuple(_alone(Genes(genes.more(hand)), f"burst-{hand}"))) for hand in some))


BURST_STEPS = 12


def _alone(genes: Genes, folder: str) -> Iterator[Step]:
    def path() -> str:
        return f"{folder}/{genes.pick(NAMES)}"

    def slot() -> int:
        return genes.byte() % 2

    def length() -> int:
        return genes.pick(LENGTHS)

    calls: list[Callable[[], Step]] = [
        lambda: ("open", slot(), path(), "RDWR|CREAT|NONBLOCK", 0o644),
        lambda: ("open", slot(), path(), "RDWR|CREAT|APPEND|NONBLOCK", 0o644),
        lambda: ("open", slot(), path(), "WRONLY|CREAT|TRUNC|NONBLOCK", 0o600),
        lambda: ("write", slot(), 1 + genes.byte() % 250, length()),
        lambda: ("write", slot(), 1 + genes.byte() % 250, length()),
        lambda: ("pwrite", slot(), 1 + genes.byte() % 250, length(), genes.pick(OFFSETS)),
        lambda: ("pread", slot(), length(), genes.pick(OFFSETS)),
        lambda: ("ftruncate", slot(), genes.pick(OFFSETS)),
        lambda: ("close", slot()),
        lambda: ("fsync", slot()),
        lambda: ("fstat", slot()),
        lambda: ("rename", path(), path()),
        lambda: ("rename", path(), path()),
        lambda: ("unlink", path()),
        lambda: ("link", path(), path(), False),
        lambda: ("mkdir", path(), 0o755),
        lambda: ("rmdir", path()),
        lambda: ("list", folder),
        lambda: ("stat", path()),
        lambda: ("chmod", path(), genes.pick([0o644, 0o600, 0o755])),
        lambda: ("symlink", "a", path()),
        lambda: ("setxattr", path(), "user.a", b"%d" % genes.number(1 << 16), 0),
    ]
    for _ in range(BURST_STEPS):
        yield genes.pick(calls)()


@dataclass(frozen=True)
class Plan:
    """What one program uses: a part of the words, so that what it uses meets."""

    builds: tuple[Build, ...]
    hands: tuple[str, ...]
    bursts: bool
    fault_one_in: int
    faults: tuple[Step, ...]

    @classmethod
    def of(cls, genes: Genes, *, hands: Sequence[str], faults: bool) -> Plan:
        chosen = [name for name in GROUPS if name in ALWAYS or genes.byte() % 2]
        builds = [build for name in chosen for weight, build in GROUPS[name].values() for _ in range(weight)]
        some = [hand for hand in hands if genes.byte() % 3] or [hands[0]]
        often = genes.pick([0, 40, 15]) if faults else 0
        return cls(tuple(builds), tuple(some), genes.byte() % 2 == 0, often, tuple(FAULTS))


def choose(genes: Genes, state: State, plan: Plan) -> Step:
    """The next step."""
    if plan.fault_one_in and genes.number(65536) < 65536 // plan.fault_one_in:
        return genes.pick(plan.faults)
    if plan.bursts and genes.one_in(25):
        return burst(genes, plan.hands)
    # Mostly the same hand goes on.
    if state.hand not in plan.hands or genes.one_in(4):
        state.hand = genes.pick(plan.hands)
    number = genes.number(65536)
    chooser = Chooser(genes, state)
    state.look()
    for shift in range(len(plan.builds)):
        try:
            return (state.hand, *plan.builds[(number + shift * 7) % len(plan.builds)](chooser))
        except NothingOpen:
            continue
    return (state.hand, "getcwd")
