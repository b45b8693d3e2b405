"""Faults of disks and of what lies on them: full, errors, lost power, an older copy, no copy, rotten bits.

The rule of what may be destroyed is kept here: a server loses data only after every other one had all of it (`loss` is
held until it has it back), a mount only what servers have; and `nemesis` gives these faults to one server of a drill.
Threading: as in `faults`.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx

from gdah_drill import history as words
from gdah_drill.cluster import Mount, Server
from gdah_drill.environment import volume_folder
from gdah_drill.faults import Fault
from gdah_drill.processes import Ended
from gdah_drill.waiting import wait_until

SAFE_S = 20.0
BACK_S = 60.0
FELT_S = 10.0
ENDS_S = 5.0
"""So much longer a disk may fail until somebody needs it."""


class OfADisk(Fault):
    """A node whose disk fails on command. It happened when the disk refused something (or, full, when the node says
    so)."""

    settings: dict[str, Any]

    def begin(self) -> None:
        self._before = self._refusals()
        self.env.disks[self.target].set(**self.settings)

    def _refusals(self) -> int:
        figures = self.env.disks[self.target].figures()
        return sum(figures[name] for name in ("full", "read_error", "write_error", "fsync_error"))

    def end(self) -> None:
        until = time.monotonic() + FELT_S
        while not self._felt() and time.monotonic() < until:
            time.sleep(0.1)
        if not self._felt():  # what it has in memory is enough for it: then it must do without
            self._start_on_it()
        self.happened = self._felt()
        if isinstance(self.node, Server) and self.kind != words.FULL and self.happened:  # it may be about to end
            with contextlib.suppress(AssertionError):
                wait_until(lambda: not self.node.process.running, "the server ends", ENDS_S)
        self.env.disks[self.target].heal()
        self.details["ended_itself"] = not self.node.process.running
        if not self.node.process.running:
            self.bring_back()
        elif isinstance(self.node, Mount) and self.kind != words.FULL:
            # What a mount saw fail it does not trust any more, and says so: a person would start it anew.
            self.node.kill9()
            self.bring_back()

    def _start_on_it(self) -> None:
        """The node starts anew on the disk that fails. Whether it comes up there is all the same."""
        self.env.disks[self.target].set(**{name: "" for name in self.settings if name.endswith(("d_error", "e_error"))})
        self.node.kill9()
        if isinstance(self.node, Mount):
            self.env.shut(self.node)
            self.node.unmount_lazily()
        with contextlib.suppress(AssertionError, Ended):
            self.node.start(wait=False)  # type: ignore[attr-defined]
            wait_until(self._felt, "the disk refuses something", FELT_S)
        self.node.process.make_sure_it_is_gone()

    def _felt(self) -> bool:
        return self._refusals() > self._before or self._says_so()

    def _says_so(self) -> bool:
        return False


class Full(OfADisk):
    kind = words.FULL

    @property
    def settings(self) -> dict[str, Any]:  # type: ignore[override]
        return {"full": True}

    def _says_so(self) -> bool:
        if isinstance(self.node, Server):
            with contextlib.suppress(httpx.HTTPError, ValueError):
                return bool(self.env.volume_status(self.node).get("trouble"))
        return False


class IoError(OfADisk):
    """details: on ("read" or "write"), files (a part of their path; "" all)."""

    kind = words.IO_ERROR

    @property
    def settings(self) -> dict[str, Any]:  # type: ignore[override]
        return {f"{self.details['on']}_error": self.details["files"]}


class FsyncError(OfADisk):
    kind = words.FSYNC_ERROR

    @property
    def settings(self) -> dict[str, Any]:  # type: ignore[override]
        return {"fsync_error": True}


class Losing(Fault):
    """A fault after which something is missing on this node. `end` waits until the node has it again."""

    @property
    def resources(self) -> tuple[str, ...]:
        return (self.target, "loss")

    def safe(self) -> bool:
        """Every server has everything, but for what mounts still keep. Else it is not done."""
        why = self.env.wait_agreed(SAFE_S)
        if why:
            self.not_done(f"the servers did not hold the same before it: {why}")
        return not why

    def end(self) -> None:
        why = self.env.wait_agreed(BACK_S)
        if why:
            self.note = f"{self.note} not everything is back: {why}".strip()


class Power(Losing):
    """kill -9, and what was not synced is gone. details: seed (None: all of it; else a part)."""

    kind = words.POWER

    def begin(self) -> None:
        if isinstance(self.node, Server) and not self.safe():
            return
        if isinstance(self.node, Mount):
            self.details["pending"] = self.env.pending(self.target)
        self.node.kill9()
        lost = self.env.disks[self.target].cut_power(self.details["seed"])
        self.details |= lost
        self.happened = sum(lost.values()) > 0

    def end(self) -> None:
        if not self.node.process.running:
            self.bring_back()
        super().end()


class OldCopy(Losing):
    """The folder is copied while the server is down for a moment; details: older_s later it is put in its place."""

    kind = words.OLD_COPY

    def begin(self) -> None:
        server = self.env.server(self.target)
        copy = self.env.home / f"{self.target}-copy"
        shutil.rmtree(copy, ignore_errors=True)
        server.kill9()
        shutil.copytree(server.data, copy)
        self.bring_back()
        time.sleep(self.details["older_s"])
        if not self.safe():
            return
        server.kill9()
        before = operations_in(server.data)
        empty(server.data)
        shutil.copytree(copy, server.data, dirs_exist_ok=True)
        self.details["operations_missing"] = before - operations_in(server.data)
        self.happened = self.details["operations_missing"] > 0

    def end(self) -> None:
        if not self.node.process.running:
            self.bring_back()
        super().end()


class LostFolder(Losing):
    """The server comes back with an empty folder, as after the failure of its disk."""

    kind = words.LOST_FOLDER

    def begin(self) -> None:
        if not self.safe():
            return
        server = self.env.server(self.target)
        server.kill9()
        self.details["operations_missing"] = operations_in(server.data)
        empty(server.data)
        self.happened = not any(server.data.iterdir())

    def end(self) -> None:
        if not self.node.process.running:
            self.bring_back()
        super().end()


class Rot(Fault):
    """One bit changes in some chunk files (details: files, at most; seed). On a server only in chunks that another one
    has, on a mount only in its clean cache."""

    kind = words.ROT

    def begin(self) -> None:
        chance = random.Random(self.details["seed"])
        files = sorted(self.env.chunk_files(self.target))
        chance.shuffle(files)
        wanted, self.details["files"] = self.details["files"], 0
        for path in files:
            if self.details["files"] >= wanted:
                break
            if isinstance(self.node, Server) and not self._elsewhere(path):
                continue
            with contextlib.suppress(OSError, ValueError):  # evicted, or empty, meanwhile
                rot(path, chance)
                self.details["files"] += 1
        self.happened = self.details["files"] > 0
        if not self.happened:
            self.not_done("there was no chunk file that may rot")

    def _elsewhere(self, path: Path) -> bool:
        wanted = Path("chunks", path.parent.name, path.name)
        there = [self.env.volume_folder(server.name) / wanted for server in self.env.others(self.target)]
        return any(other.is_file() and other.stat().st_size == path.stat().st_size for other in there)

    def end(self) -> None:
        """Who finds it mends it; that is what is tested."""


def rot(path: Path, chance: random.Random) -> None:
    with open(path, "r+b") as file:
        size = path.stat().st_size
        offset = chance.randrange(size)
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ (1 << chance.randrange(8))]))


def empty(folder: Path) -> None:
    """What is in it; the folder itself may be where a disk is mounted."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def operations_in(data: Path) -> int:
    """Of the volume in this folder, with what its write-ahead log holds; nobody may be using it."""
    with contextlib.closing(sqlite3.connect(volume_folder(data) / "volume.db")) as database:
        (count,) = database.execute("SELECT operations FROM counters").fetchone()
        return int(count)
