"""Real programs at work in the folder: each story is a script that runs on a plain disk and on a mount, and has to say
the same on both.

    python -m tests.cluster.programs [--list] [--fast] [NAME...]

A story is `NAME.sh` or `NAME.py` in `stories`. It starts in an empty folder, and what it prints is compared line by
line, so it prints what has to be equal (listings, checksums, answers) and keeps to itself what may differ (times, ids).
Its head says what it does and needs:

    #: what    clone, add, commit ...
    #: needs   git rsync                   programs that must be installed
    #: fast                                small enough for the test suite
    #: limit   120                         seconds, for the mount
    #: user    postgres                    who runs it (else whoever runs the command)
    #: alone                               its output is not compared: it judges itself by its exit code

It finds in its environment `SCRATCH` (a folder on the local disk), `STORIES` (that folder), `PLACE` (plain or mount)
and, on the mount, `THERE`: the same folder as another mount shows it.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from gdah_drill.cluster import Mount
from gdah_drill.processes import run_program

FOLDER = Path(__file__).parent / "stories"
DATE = "2026-01-02T03:04:05+0000"


@dataclass(frozen=True)
class Story:
    name: str
    path: Path
    what: str = ""
    needs: tuple[str, ...] = ()
    fast: bool = False
    limit_s: float = 300.0
    user: str = ""
    alone: bool = False

    @property
    def missing(self) -> list[str]:
        """What it needs and this machine has not: programs, and modules named with a colon (`python:lmdb`)."""
        return [need for need in self.needs if not _is_here(need)]

    def argv(self) -> list[str]:
        command = [sys.executable, str(self.path)] if self.path.suffix == ".py" else ["bash", "-eu", str(self.path)]
        return ["runuser", "-u", self.user, "--", *command] if self.user and os.geteuid() == 0 else command


@dataclass
class Run:
    """One story in one place."""

    output: str
    seconds: float
    failed: str = ""


@dataclass
class Result:
    story: Story
    differences: list[str] = field(default_factory=list)
    plain_s: float = 0.0
    mount_s: float = 0.0

    @property
    def word(self) -> str:
        if self.story.missing:
            return "not installed: " + " ".join(self.story.missing)
        return "differs" if self.differences else "ok"


def stories() -> list[Story]:
    paths = [path for path in FOLDER.iterdir() if path.suffix in {".sh", ".py"} and not path.name.startswith("_")]
    return [read_story(path) for path in sorted(paths)]


def read_story(path: Path) -> Story:
    said: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line.startswith("#: "):
            key, _, value = line[3:].strip().partition(" ")
            said[key] = (said.get(key, "") + " " + value.strip()).strip()
    return Story(
        name=path.stem,
        path=path,
        what=said.get("what", ""),
        needs=tuple(said.get("needs", "").split()),
        fast="fast" in said,
        limit_s=float(said.get("limit", 300)),
        user=said.get("user", ""),
        alone="alone" in said,
    )


def tell(story: Story, mount: Mount, there: Mount, scratch: Path) -> Result:
    """Run it on the local disk, then on the mount, and say what was different."""
    result = Result(story)
    if story.missing:
        return result
    plain_folder = scratch / "plain" / story.name
    plain_folder.mkdir(parents=True)
    plain = run(story, plain_folder, scratch / "plain-scratch" / story.name, {"PLACE": "plain"})
    result.plain_s = plain.seconds
    if plain.failed:
        result.differences = [f"fails on a plain disk as well: {plain.failed}"]
        return result
    mount.hands.mkdir(story.name)
    environ = {"PLACE": "mount", "THERE": str(there.root / story.name)}
    if story.user:
        run_program(["chown", story.user, mount.root / story.name])
    real = run(story, mount.root / story.name, scratch / "mount-scratch" / story.name, environ)
    result.mount_s = real.seconds
    if real.failed:
        result.differences = [real.failed]
    elif not story.alone:
        result.differences = differences(plain.output, real.output)
    return result


def run(story: Story, folder: Path, scratch: Path, environ: dict[str, str]) -> Run:
    (scratch / "home").mkdir(parents=True)
    if story.user:
        for path in (scratch, scratch / "home", *((folder,) if environ["PLACE"] == "plain" else ())):
            shutil.chown(path, story.user)
    environ = environ | {
        "HOME": str(scratch / "home"),
        "SCRATCH": str(scratch),
        "STORIES": str(FOLDER),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "TERM": "dumb",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_AUTHOR_NAME": "A Person",
        "GIT_AUTHOR_EMAIL": "person@example.org",
        "GIT_COMMITTER_NAME": "A Person",
        "GIT_COMMITTER_EMAIL": "person@example.org",
        "GIT_AUTHOR_DATE": DATE,
        "GIT_COMMITTER_DATE": DATE,
        "GIT_EDITOR": "true",
        "GIT_PAGER": "cat",
    }
    began = time.monotonic()
    try:
        done = run_program(story.argv(), cwd=folder, timeout_s=story.limit_s, environ=environ, check=False)
    except AssertionError as stuck:
        return Run("", time.monotonic() - began, str(stuck))
    seconds = time.monotonic() - began
    output = done.stdout.replace(str(scratch), "SCRATCH").replace(str(folder), "HERE")
    failed = "" if done.returncode == 0 else f"exit code {done.returncode}: {output[-3000:]}"
    return Run(output, seconds, failed)


def differences(plain: str, real: str) -> list[str]:
    """Lines of the one and the other that are not the same, a few of them."""
    if plain == real:
        return []
    lines = list(difflib.unified_diff(plain.splitlines(), real.splitlines(), "plain", "mount", lineterm="", n=1))
    return lines[:60]


def _is_here(need: str) -> bool:
    kind, _, name = need.rpartition(":")
    if kind == "python":
        return importlib.util.find_spec(name) is not None
    return shutil.which(need) is not None or Path(need).exists()
