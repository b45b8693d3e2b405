"""What a worker does next in the folder in which it works alone. Pure: from its random numbers and what the folder
holds.

Every operation is a list of calls (`gdah_drill/folder.py`), whose effect is known beforehand, that of a refused one
too.
"""

from __future__ import annotations

import posixpath
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gdah_drill.content import SMALLEST_BYTES
from gdah_drill.folder import Call, Folder

NAMES = "abcdefgh"
DEEPEST = 3
MOST_NAMES = 50
MOST_BYTES = 8 << 20
MOST_HANDLES = 3
INLINE_BYTES = 64 << 10


@dataclass(frozen=True)
class Profile:
    """What kind of load: shares of one, and limits."""

    shared_share: float = 0.3
    """Part of the steps that work in the shared folder."""
    fsync_share: float = 0.15
    large_share: float = 0.05
    """Part of the contents that are larger than 64 KiB, up to `max_bytes`."""
    max_bytes: int = 3 << 20
    call_deadline_s: float = 60.0
    """After which a call counts as stuck."""


@dataclass(frozen=True)
class Work:
    op: str
    path: str
    calls: tuple[Call, ...]
    to: str = ""
    content: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def size_of_a_content(rng: random.Random, profile: Profile) -> int:
    draw = rng.random()
    if draw < profile.large_share:
        return rng.randrange(INLINE_BYTES + 1, max(profile.max_bytes, INLINE_BYTES + 2))
    if draw < profile.large_share + 0.03:
        return 0
    return rng.randrange(SMALLEST_BYTES, rng.choice((100, 1000, 4000, 40_000)))


class PrivateLoad:
    """Threading: one thread."""

    def __init__(self, rng: random.Random, profile: Profile, new_content: Callable[[], str]) -> None:
        self._rng = rng
        self._profile = profile
        self._new_content = new_content
        self._number = 0
        self._words = list(_WEIGHTS)
        self._weights = list(_WEIGHTS.values())

    def next(self, folder: Folder) -> Work:
        if len(folder.names) > MOST_NAMES or folder.size() > MOST_BYTES:
            return self._remove_tree(folder) or self._unlink(folder) or self._mkdir(folder)
        while True:
            (word,) = self._rng.choices(self._words, self._weights)
            work: Work | None = getattr(self, f"_{word}")(folder)
            if work:
                return work

    # --- choosing

    def _some(self, paths: list[str]) -> str:
        return self._rng.choice(paths) if paths else ""

    def _file(self, folder: Folder) -> str:
        return self._some(folder.paths("file"))

    def _folders(self, folder: Folder) -> list[str]:
        return ["", *(path for path in folder.paths("dir") if path.count("/") < DEEPEST - 1)]

    def _free(self, folder: Folder, but: str = "") -> str:
        """A name that nothing has, not below `but`; empty if the ones that were tried are taken."""
        places = [at for at in self._folders(folder) if not but or not f"{at}/".startswith(f"{but}/")]
        for _ in range(8):
            path = posixpath.join(self._rng.choice(places), self._rng.choice(NAMES) + self._rng.choice(NAMES))
            if path not in folder.names:
                return path
        return ""

    def _place(self, folder: Folder) -> str:
        """Where a file may be written: new or there."""
        return self._file(folder) if self._rng.random() < 0.5 else self._free(folder)

    def _handle(self) -> str:
        self._number += 1
        return f"h{self._number}"

    def _spec(self, limit: int = 0) -> list[Any]:
        size = size_of_a_content(self._rng, self._profile)
        return [self._new_content(), min(size, limit) if limit else size]

    def _maybe_sync(self, handle: str) -> list[Call]:
        return [("sync", handle)] if self._rng.random() < self._profile.fsync_share else []

    # --- writing

    def _write(self, folder: Folder) -> Work | None:
        path = self._place(folder)
        if not path:
            return None
        handle, spec = self._handle(), self._spec()
        calls = [("open", handle, path, "w"), ("put", handle, spec, 0), *self._maybe_sync(handle), ("close", handle)]
        return Work("write", path, tuple(calls), content=spec[0])

    def _save(self, folder: Folder) -> Work | None:
        path = self._place(folder)
        if not path:
            return None
        handle, spec = self._handle(), self._spec()
        new = posixpath.join(posixpath.dirname(path), f".new-{handle}")
        calls = [("open", handle, new, "w"), ("put", handle, spec, 0), *self._maybe_sync(handle), ("close", handle)]
        return Work("save", new, (*calls, ("rename", new, path)), to=path, content=spec[0])

    def _append(self, folder: Folder) -> Work | None:
        path = self._place(folder)
        if not path:
            return None
        handle, spec = self._handle(), self._spec()
        calls = [("open", handle, path, "a"), ("add", handle, spec), *self._maybe_sync(handle), ("close", handle)]
        return Work("append", path, tuple(calls), content=spec[0])

    def _overwrite(self, folder: Folder) -> Work | None:
        path = self._file(folder)
        if not path:
            return None
        handle, spec = self._handle(), self._spec(INLINE_BYTES)
        offset = self._rng.randrange(len(folder.at(path).data) + 1)
        calls = [("open", handle, path, "+"), ("put", handle, spec, offset), *self._maybe_sync(handle)]
        return Work("overwrite", path, (*calls, ("close", handle)), content=spec[0])

    def _truncate(self, folder: Folder) -> Work | None:
        path = self._file(folder)
        if not path:
            return None
        size = self._rng.randrange(len(folder.at(path).data) + self._rng.choice((1, 1, 5000)))
        return Work("truncate", path, (("truncate", path, size),))

    def _copy(self, folder: Folder) -> Work | None:
        path, new = self._file(folder), self._place(folder)
        if not path or not new or folder.names[path] == folder.names.get(new):
            return None
        return Work("copy", path, (("copy", path, new),), to=new)

    def _create(self, folder: Folder) -> Work | None:
        """Exclusive; half the time of what is there already."""
        path = self._place(folder)
        if not path:
            return None
        handle, spec = self._handle(), self._spec()
        return Work(
            "create",
            path,
            (("open", handle, path, "x"), ("put", handle, spec, 0), ("close", handle)),
            content=spec[0],
        )

    # --- files that are held open

    def _hold(self, folder: Folder) -> Work | None:
        path = self._file(folder)
        if not path or len(folder.handles) >= MOST_HANDLES:
            return None
        return Work("hold", path, (("open", self._handle(), path, self._rng.choice("+a")),))

    def _hold_write(self, folder: Folder) -> Work | None:
        handle = self._some(sorted(folder.handles))
        if not handle:
            return None
        node, to_the_end = folder.handles[handle]
        spec = self._spec(INLINE_BYTES)
        if to_the_end:
            return Work("hold-write", handle, (("add", handle, spec),), content=spec[0])
        offset = self._rng.randrange(len(folder.nodes[node].data) + 1)
        return Work("hold-write", handle, (("put", handle, spec, offset),), content=spec[0])

    def _hold_sync(self, folder: Folder) -> Work | None:
        handle = self._some(sorted(folder.handles))
        return Work("hold-sync", handle, (("sync", handle),)) if handle else None

    def _hold_close(self, folder: Folder) -> Work | None:
        handle = self._some(sorted(folder.handles))
        return Work("hold-close", handle, (("close", handle),)) if handle else None

    # --- names

    def _mkdir(self, folder: Folder) -> Work:
        path = self._free(folder) or self._some(list(folder.names))
        return Work("mkdir", path, (("mkdir", path),))

    def _rmdir(self, folder: Folder) -> Work | None:
        """Refused where something is inside."""
        path = self._some(folder.paths("dir"))
        return Work("rmdir", path, (("rmdir", path),)) if path else None

    def _remove_tree(self, folder: Folder) -> Work | None:
        path = self._some(folder.paths("dir"))
        if not path:
            return None
        below = sorted(folder.inside(path), reverse=True)
        calls = [("rmdir" if folder.at(name).kind == "dir" else "unlink", name) for name in below]
        return Work("rmtree", path, (*calls, ("rmdir", path)))

    def _unlink(self, folder: Folder) -> Work | None:
        path = self._some(folder.paths("file", "symlink"))
        return Work("unlink", path, (("unlink", path),)) if path else None

    def _rename(self, folder: Folder) -> Work | None:
        path, new = self._some(folder.paths("file", "symlink")), self._place(folder)
        return Work("rename", path, (("rename", path, new),), to=new) if path and new else None

    def _rename_folder(self, folder: Folder) -> Work | None:
        path = self._some(folder.paths("dir"))
        new = self._free(folder, but=path) if path else ""
        return Work("rename-folder", path, (("rename", path, new),), to=new) if new else None

    def _exchange(self, folder: Folder) -> Work | None:
        path, new = self._some(list(folder.names)), self._some(list(folder.names))
        if not path or path == new or f"{path}/".startswith(f"{new}/") or f"{new}/".startswith(f"{path}/"):
            return None
        return Work("exchange", path, (("exchange", path, new),), to=new)

    def _link(self, folder: Folder) -> Work | None:
        path, new = self._file(folder), self._free(folder)
        return Work("link", path, (("link", path, new),), to=new) if path and new else None

    def _symlink(self, folder: Folder) -> Work | None:
        path = self._free(folder)
        target = f"../{self._rng.choice(NAMES)}/{self._rng.randrange(1000)}"
        return Work("symlink", path, (("symlink", target, path),)) if path else None

    def _chmod(self, folder: Folder) -> Work | None:
        path = self._some(folder.paths("file", "dir"))
        is_dir = path and folder.at(path).kind == "dir"
        mode = self._rng.choice((0o700, 0o755, 0o750) if is_dir else (0o600, 0o644, 0o640, 0o755))
        return Work("chmod", path, (("chmod", path, mode),)) if path else None

    def _utime(self, folder: Folder) -> Work | None:
        path = self._file(folder)
        if not path or any(folder.names[path] == node for node, _ in folder.handles.values()):
            return None
        time_ns = self._rng.randrange(1_000_000_000, 1_900_000_000) * 1_000_000_000 + self._rng.randrange(10**9)
        return Work("utime", path, (("utime", path, time_ns),))

    # --- looking

    def _read(self, folder: Folder) -> Work | None:
        path = self._file(folder)
        return Work("read", path, (("read", path),)) if path else None

    def _list(self, folder: Folder) -> Work:
        path = self._rng.choice(["", *folder.paths("dir")])
        return Work("list", path, (("list", path),))

    def _absent(self, folder: Folder) -> Work | None:
        path = self._free(folder)
        return Work("read", path, (("read", path),)) if path else None


_WEIGHTS = {
    "write": 14,
    "save": 12,
    "append": 7,
    "overwrite": 8,
    "truncate": 3,
    "copy": 4,
    "create": 5,
    "hold": 4,
    "hold_write": 6,
    "hold_sync": 2,
    "hold_close": 3,
    "mkdir": 6,
    "rmdir": 3,
    "remove_tree": 1,
    "unlink": 7,
    "rename": 7,
    "rename_folder": 3,
    "exchange": 2,
    "link": 3,
    "symlink": 2,
    "chmod": 4,
    "utime": 3,
    "read": 14,
    "list": 5,
    "absent": 1,
}
