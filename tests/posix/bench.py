"""The bench of the conformance suite: calls as anybody in one folder, what is expected of them, and the transcript.

A scenario is a function of a Bench. It makes a folder of its own, so that scenarios do not meet. Each expectation is
one check; those that fail are collected, so that one run shows all. The transcript holds every result that must be
the same on every file system: two benches that ran the same scenario are compared by it.
"""

from __future__ import annotations

import pickle
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.posix.caller import Failed, Identity, Node

ROOT = Identity(0, 0, (0,))
USER = Identity(65534, 65534, (65534,))
OTHER = Identity(65533, 65533, (65533,))
COLLEAGUE = Identity(65533, 65534, (65534,))
"""Another user in the user's group."""
MEMBER = Identity(65532, 65531, (65531, 65534))
"""Another user, in the user's group by a supplementary group."""
USER_OF_ROOTS_GROUP = Identity(65534, 0, (0,))

Thing = TypeVar("Thing")
KINDS = ("file", "dir", "fifo", "block", "char", "socket", "symlink")
"""All seven types of file."""
NO_FOLDERS = tuple(kind for kind in KINDS if kind != "dir")
NO_LINKS = tuple(kind for kind in KINDS if kind != "symlink")
PLAIN = tuple(kind for kind in NO_FOLDERS if kind != "symlink")

DEADLINE_S = 60.0
TICK_S = 0.012
"""Longer than the clock tick by which a local file system's times may lag behind."""
FAILURES_SHOWN = 40
NAME_MAX, PATH_MAX = 255, 4096
SOCKET_PATH_MAX = 107
_CALLER = "from tests.posix.caller import main; main()"


class Bench:
    """Paths are bytes (or ASCII text) relative to the scenario's folder."""

    def __init__(self, root: Path, *, thorough: bool = False) -> None:
        """`thorough`: every combination; else a part of those that are many and alike."""
        self.root = root
        self.thorough = thorough
        self.checks = 0
        self.failures: list[str] = []
        self.transcript: list[str] = []
        self._turns = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CALLER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    # --- calls

    def raw(self, name: str, *args: Any, by: Identity = ROOT, **named: Any) -> Any:
        """The result or Failed; not a check, not in the transcript."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((by, name, args, named), self._process.stdin)
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], DEADLINE_S)
        assert ready, f"{name}{args!r:.200} did not return within {DEADLINE_S:.0f} s"
        return pickle.load(self._process.stdout)

    def call(self, name: str, *args: Any, by: Identity = ROOT, **named: Any) -> Any:
        """As `raw`, noted in the transcript. Without an expectation of its own: both file systems have to do the
        same."""
        result = self.raw(name, *self._given(name, args), by=by, **named)
        self.transcript.append(f"{_words(name, args, by)} -> {_comparable(result)}")
        self.checks += 1
        return result

    @staticmethod
    def _given(name: str, args: tuple[Any, ...]) -> list[Any]:
        """Paths may be written as text; they are sent as bytes."""
        words = _WORDS.get(name, ())
        return [arg.encode() if isinstance(arg, str) and at not in words else arg for at, arg in enumerate(args)]

    def ok(self, name: str, *args: Any, by: Identity = ROOT, **named: Any) -> Any:
        """The call succeeds; its result."""
        result = self.call(name, *args, by=by, **named)
        if isinstance(result, Failed):
            self._fail(f"{_words(name, args, by)}: {result.errno}")
        return result

    def fails(self, wanted: str, name: str, *args: Any, by: Identity = ROOT, **named: Any) -> None:
        """The call fails with this errno; alternatives are separated by "|"."""
        result = self.call(name, *args, by=by, **named)
        got = result.errno if isinstance(result, Failed) else "success"
        if got not in wanted.split("|"):
            self._fail(f"{_words(name, args, by)}: {got}, wanted {wanted}")

    def gives(self, wanted: Any, name: str, *args: Any, by: Identity = ROOT, **named: Any) -> None:
        result = self.call(name, *args, by=by, **named)
        if result != wanted:
            self._fail(f"{_words(name, args, by)}: {result!r:.200}, wanted {wanted!r:.200}")

    def shows(self, path: str | bytes, *, follow: bool = False, by: Identity = ROOT, **wanted: Any) -> Any:
        """lstat (or stat) succeeds and says all of `wanted`."""
        found = self.ok("stat" if follow else "lstat", path, by=by)
        if isinstance(found, Node):
            wrong = {name: getattr(found, name) for name, value in wanted.items() if getattr(found, name) != value}
            if wrong:
                self._fail(f"stat {path!r} as {by.uid}: {_said(wrong)}, wanted {_said(wanted)}")
        return found

    def gone(self, *paths: str | bytes) -> None:
        for path in paths:
            self.fails("ENOENT", "lstat", path)

    def true(self, fact: bool, words: str) -> None:
        self.checks += 1
        if not fact:
            self._fail(words)

    def _fail(self, words: str) -> None:
        frame = sys._getframe(2)
        while frame.f_code.co_filename == __file__ and frame.f_back is not None:
            frame = frame.f_back
        self.failures.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}: {words}")

    # --- what is often needed

    def some(self, things: Sequence[Thing], count: int = 1) -> Sequence[Thing]:
        """All of them, or, each time it is asked, the next `count`."""
        if self.thorough:
            return things
        self._turns += count
        return [things[(self._turns + at) % len(things)] for at in range(count)]

    def make(
        self, kind: str, path: str | bytes, mode: int | None = None, owner: tuple[int, int] | None = None
    ) -> str | bytes:
        """Something of any type, as root; with `mode` and `owner` whatever it got at first."""
        match kind:
            case "none":
                return path
            case "file":
                self.ok("create", path, 0o644)
            case "dir":
                self.ok("mkdir", path, 0o755)
            case "fifo":
                self.ok("mkfifo", path, 0o644)
            case "char" | "block":
                self.ok("mknod", path, kind, 0o644, 1, 2)
            case "socket" if len(path) > SOCKET_PATH_MAX:
                self.ok("mknod", path, "socket", 0o755)
            case "socket":
                self.ok("bind", path)
            case "symlink":
                self.ok("symlink", b"test", path)
        if mode is not None and kind != "symlink":
            self.ok("chmod", path, mode)
        if owner is not None:
            self.ok("lchown", path, *owner)
        return path

    def remove(self, path: str | bytes, kind: str = "file") -> None:
        if kind != "none":
            self.ok("rmdir" if kind == "dir" else "unlink", path)

    @contextmanager
    def moves(self, **wanted: str) -> Iterator[None]:
        """`moves(f="mc", DOT="")`: of f exactly mtime and ctime move on, of the folder none. ("DOT" is ".", "__" a
        slash; reading moves atime on one file system and not on another, so nothing that reads belongs here.)"""
        paths = {word: word.replace("DOT", ".").replace("__", "/").encode() for word in wanted}
        before = {word: self.raw("lstat", path) for word, path in paths.items()}
        time.sleep(TICK_S)
        yield
        for word, letters in wanted.items():
            old, new = before[word], self.raw("lstat", paths[word])
            self.checks += 1
            if isinstance(old, Failed) or isinstance(new, Failed):
                self._fail(f"times of {word}: {old} {new}")
                continue
            moved = "".join(
                letter for letter, field in (("a", "atime"), ("m", "mtime"), ("c", "ctime"))
                if getattr(new, field) > getattr(old, field)
            )  # fmt: skip
            same = all(getattr(new, f) >= getattr(old, f) for f in ("atime", "mtime", "ctime"))
            if moved != letters or not same:
                self._fail(f"of {word} moved {moved or 'nothing'}, wanted {letters or 'nothing'}")


Scenario = Callable[[Bench], None]

_WORDS = {"pathconf": (1,), "bad_pointer": (0, 1, 2), "mknod": (1,)}
"""Arguments that are words and no paths, by their place."""


def _words(name: str, args: tuple[Any, ...], by: Identity) -> str:
    shown = ", ".join(oct(arg) if isinstance(arg, int) and arg > 9 else f"{arg!r:.80}" for arg in args)
    return f"{name}({shown}) by {by.uid}:{by.gid}{list(by.groups) if by.groups != (by.gid,) else ''}"


def _comparable(result: Any) -> str:
    """Without what differs from file system to file system."""
    if isinstance(result, Node):
        size = result.size if result.type in ("file", "symlink") else "-"
        return f"{result.type} {result.mode:04o} {result.nlink} {result.uid}:{result.gid} {size} {result.rdev}"
    return f"{result!r:.300}"


def _said(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:04o}" if name == "mode" else f"{name} {value}" for name, value in fields.items())


def run(bench: Bench, scenario: Scenario) -> None:
    """In a folder of its own, which stays the working folder of the calls until the scenario ends."""
    home = scenario.__name__
    bench.failures.clear()
    bench.transcript.clear()
    bench._turns = 0
    made = bench.raw("mkdir", home.encode(), 0o755)
    assert not isinstance(made, Failed), (home, made)
    bench.raw("chdir", home.encode())
    try:
        scenario(bench)
    finally:
        bench.raw("chdir", b"..")


def report(bench: Bench) -> str:
    more = len(bench.failures) - FAILURES_SHOWN
    return "\n".join([*bench.failures[:FAILURES_SHOWN], *([f"... and {more} more"] if more > 0 else [])])


def differences(one: Bench, two: Bench) -> list[str]:
    """Lines of the transcripts that differ."""
    pairs = zip(one.transcript, two.transcript, strict=True)
    return [f"{line_one}\n    but on the mount {line_two.rpartition(' -> ')[2]}"
            for line_one, line_two in pairs if line_one != line_two][:FAILURES_SHOWN]  # fmt: skip


__all__ = [
    "COLLEAGUE", "KINDS", "MEMBER", "NAME_MAX", "NO_FOLDERS", "NO_LINKS", "OTHER", "PATH_MAX", "PLAIN", "ROOT",
    "USER", "USER_OF_ROOTS_GROUP", "Bench", "Failed", "Identity", "Node", "Scenario", "differences", "report", "run",
]  # fmt: skip
