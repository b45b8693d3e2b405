"""What a worker does in the shared folder: few names, so that people on all mounts meet at the same files.

Whoever changes or removes a file has read it just before, and says what he saw. A file is edited in its place through
one descriptor that was read first, replaced by renaming, or made exclusively; to a log everybody appends lines.

A long read is several for the kernel; another mount's change may arrive in between. So what reads as two contents, or
as the beginning of one, is read again, and the second time counts, also if it fails (a mount that dies cuts reads
short); the first does if there are zeros in it, which nobody writes.

Threading: one thread. Programs of one mount that edit one file at once mix it, as on any file system; so those of one
mount take turns (`lock`), and a mixture is a fault of the system under test.
"""

from __future__ import annotations

import posixpath
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from gdah_drill.content import SMALLEST_BYTES, contents_in, line_of, parse
from gdah_drill.folder import Call
from gdah_drill.private_load import Profile, size_of_a_content

SHARED = "shared"
FOLDERS = ("", "", "d0", "d1")
NAMES = tuple(f"n{number}" for number in range(5))
LOGS = ("log-0", "log-1")
MOST_NAMES = 60
"""In the shared folder; above it files are removed rather than made."""
LARGEST_BYTES = 1 << 20
CLOSE: tuple[Call, ...] = (("dup", "s", "after"), ("close", "s"), ("links", "after"), ("close", "after"))
"""Closing an open file and asking whether it still had a name. Who writes to one that another has removed or replaced
meanwhile writes for himself only, on any file system; with a name it is saved."""


class SharedLoad:
    def __init__(
        self,
        rng: random.Random,
        profile: Profile,
        new_content: Callable[[], str],
        batch: Callable[..., Any],
        tell: Callable[..., Any],
        lock: threading.Lock,
    ) -> None:
        self._rng = rng
        self._profile = profile
        self._new_content = new_content
        self._batch = batch
        self._tell = tell
        self._lock = lock

    def step(self) -> None:
        (word,) = self._rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        with self._lock:
            getattr(self, f"_{word}")()

    # --- choosing

    def _name(self) -> str:
        return posixpath.join(SHARED, self._rng.choice(FOLDERS), self._rng.choice(NAMES))

    def _existing(self) -> str:
        """A file that a listing shows, or any name."""
        folder = posixpath.join(SHARED, self._rng.choice(FOLDERS)).rstrip("/")
        listed = self._batch([("list", folder)])
        names = [name for name in (listed.answers[0] if listed.done > 0 else []) if name[0] == "n"]
        return posixpath.join(folder, self._rng.choice(names)) if names else self._name()

    def _spec(self) -> tuple[str, int]:
        size = min(size_of_a_content(self._rng, self._profile), LARGEST_BYTES)
        return self._new_content(), max(size, SMALLEST_BYTES)

    def _maybe_sync(self) -> list[Call]:
        return [("sync", "s")] if self._rng.random() < self._profile.fsync_share else []

    def _tell_write(
        self, op: str, path: str, batches: Sequence[Any], spec: tuple[str, int], sync: list[Call], **more: Any
    ) -> None:
        details = {"size": spec[1], "fsync": bool(sync), **more.pop("details", {})}
        if batches[-1].outcome == "ok" and 0 in batches[-1].answers:
            details["unlinked"] = True
        self._tell(op, path, batches, content=spec[0], details=details, **more)
        if batches[-1].outcome == "fail":
            self._batch([("forget_one", "s"), ("forget_one", "after")])  # closed, with what it holds

    # --- writing

    def _create(self) -> None:
        path, spec, sync = self._name(), self._spec(), self._maybe_sync()
        made = self._batch([("open", "s", path, "x"), ("put", "s", spec, 0), *sync, *CLOSE])
        self._tell_write("s-create", path, [made], spec, sync)

    def _edit(self) -> None:
        path, spec, sync = self._existing(), self._spec(), self._maybe_sync()
        opened = self._batch([("open", "s", path, "+"), ("get", "s")])
        if opened.outcome == "ok" and _may_be_torn(opened.answers[1]):
            again = self._batch([("get", "s")])
            opened.answers[1] = again.answers[0] if again.done > 0 else b""
        if opened.outcome != "ok":
            self._tell("s-edit", path, [opened], details={"not_begun": True})
            self._batch([("forget_one", "s")])
            return
        before = parse(opened.answers[1])
        written = self._batch([("cut", "s", 0), ("put", "s", spec, 0), *sync, *CLOSE])
        self._tell_write(
            "s-edit", path, [opened, written], spec, sync, seen=before.content, result=_told(opened.answers[1])
        )

    def _save(self) -> None:
        """As editors do: a new file beside it, renamed over it."""
        path, spec, sync = self._existing(), self._spec(), self._maybe_sync()
        new = posixpath.join(posixpath.dirname(path), f".{spec[0]}")
        seen, result = self._look_at(path)
        calls = [("open", "s", new, "w"), ("put", "s", spec, 0), *sync, ("close", "s"), ("rename", new, path)]
        self._tell_write("s-save", new, [self._batch(calls)], spec, sync, to=path, seen=seen, result=result)

    def _append(self) -> None:
        path, content, sync = posixpath.join(SHARED, self._rng.choice(LOGS)), self._new_content(), self._maybe_sync()
        line = line_of(content)
        done = self._batch([("open", "s", path, "a"), ("add", "s", line), *sync, ("close", "s")])
        self._tell_write("s-append", path, [done], (content, len(line)), sync)

    # --- names

    def _remove(self) -> None:
        path = self._existing()
        seen, result = self._look_at(path)
        self._tell("s-remove", path, [self._batch([("unlink", path)])], seen=seen, result=result)

    def _rename(self) -> None:
        """`details.over`: what was read under the new name, which goes."""
        path, new = self._existing(), self._name()
        seen, result = self._look_at(path)
        over, _ = self._look_at(new)
        if path == new:
            return
        renamed = self._batch([("rename", path, new)])
        self._tell("s-rename", path, [renamed], to=new, seen=seen, result=result, details={"over": over})

    def _mkdir(self) -> None:
        path = posixpath.join(SHARED, self._rng.choice(FOLDERS[2:]))
        self._tell("s-mkdir", path, [self._batch([("mkdir", path)])])

    def _rename_folder(self) -> None:
        path, new = (posixpath.join(SHARED, name) for name in self._rng.sample(FOLDERS[2:], 2))
        self._tell("s-rename-folder", path, [self._batch([("rename", path, new)])], to=new)

    # --- looking

    def _read(self) -> None:
        path = self._existing()
        read = self._bytes(path)
        self._tell("s-read", path, [read], result=_told(read.answers[0]) if read.done > 0 else None)

    def _read_log(self) -> None:
        path = posixpath.join(SHARED, self._rng.choice(LOGS))
        read = self._batch([("bytes", path)])
        self._tell("s-read-log", path, [read], result=_lines_told(read.answers[0]) if read.done > 0 else None)

    def _tidy(self) -> None:
        """A conflict copy is read and removed, as its owner does who has seen to it; so is any file where there are too
        many."""
        folder = posixpath.join(SHARED, self._rng.choice(FOLDERS)).rstrip("/")
        listed = self._batch([("list", folder)])
        names: list[str] = listed.answers[0] if listed.done > 0 else []
        old = [name for name in names if "(conflict" in name] or (names if len(names) > MOST_NAMES else [])
        if not old:
            return
        path = posixpath.join(folder, self._rng.choice(old))
        seen, result = self._look_at(path)
        self._tell("s-remove", path, [self._batch([("unlink", path)])], seen=seen, result=result)

    def _look_at(self, path: str) -> tuple[str, Any]:
        read = self._bytes(path)
        if read.done < 1:
            return "", None
        return parse(read.answers[0]).content, _told(read.answers[0])

    def _bytes(self, path: str) -> Any:
        read = self._batch([("bytes", path)])
        if read.done > 0 and _may_be_torn(read.answers[0]):
            return self._batch([("bytes", path)])
        return read


def _may_be_torn(data: bytes) -> bool:
    return 0 not in data and parse(data).kind in ("mixed", "prefix") and bool(lines_that_are_none(data))


def _told(data: bytes) -> dict[str, Any]:
    parsed = parse(data)
    if parsed.kind == "mixed" and not lines_that_are_none(data):
        return {"kind": "lines", "contents": contents_in(data)}
    told = {"kind": parsed.kind, "content": parsed.content, "bytes": len(data)}
    return {**told, "note": parsed.note} if parsed.note else told


def _lines_told(data: bytes) -> dict[str, Any]:
    wrong = lines_that_are_none(data)
    return {"kind": "mixed", "note": f"lines that nobody wrote: {wrong[:3]!r}"} if wrong else {"kind": "lines"}


def lines_that_are_none(data: bytes) -> list[bytes]:
    """Of a file to which lines are appended: what is no line of anybody."""
    return [
        line
        for line in data.splitlines(keepends=True)
        if len(line) != SMALLEST_BYTES or contents_in(line)[:1] == [] or line != line_of(contents_in(line)[0])
    ]


_WEIGHTS = {
    "create": 5,
    "edit": 10,
    "save": 5,
    "append": 4,
    "remove": 3,
    "rename": 2,
    "mkdir": 2,
    "rename_folder": 1,
    "read": 10,
    "read_log": 2,
    "tidy": 1,
}
