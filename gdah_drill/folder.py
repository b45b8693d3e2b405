"""What a folder holds in which one program works alone: a plain file system in memory, and what may be after a cut.

The same code follows a worker while it works and judges it afterwards, from the calls in the history. Pure; bytes are
shared between copies. Only what the generator makes is known: no locks, no times but those that were set.

A CALL is a tuple of a word and plain values, as it stands in the history:
    mkdir P, rmdir P, unlink P, rename P Q, exchange P Q, link P Q, symlink TARGET P, chmod P MODE, utime P NS,
    truncate P SIZE, copy P Q, open H P HOW, put H [CONTENT, SIZE] OFFSET, add H [CONTENT, SIZE], cut H SIZE, sync H,
    close H, read P, list P
H is the worker's name of a descriptor. HOW: r, + (write, must exist), w (create, empty it), x (create, must not
exist), a (create, append).
"""

from __future__ import annotations

import base64
import errno
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gdah_drill.content import digest, make

Call = Sequence[Any]
Survey = Mapping[str, Sequence[Any]]
"""Path to [kind, size, digest or target, mode, mtime_ns, inode]; kinds: file, dir, symlink."""
PAGE_BYTES = 4096
"""The kernel hands a large write over in pieces that end at pages: it may have come that far."""


class Refused(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


@dataclass(frozen=True)
class Node:
    kind: str
    data: bytes = b""
    target: str = ""
    mode: int | None = None
    """None: nobody has set it."""
    mtime_ns: int | None = None


def bytes_of(spec: Sequence[Any]) -> bytes:
    return make(spec[0], spec[1])


@dataclass
class Folder:
    nodes: dict[int, Node] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    handles: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """Name to node, and whether writes go to the end."""
    last: int = 0

    def copy(self) -> Folder:
        return Folder(dict(self.nodes), dict(self.names), dict(self.handles), self.last)

    # --- asking

    def at(self, path: str) -> Node:
        return self.nodes[self.names[path]]

    def paths(self, *kinds: str) -> list[str]:
        return [path for path in sorted(self.names) if self.at(path).kind in kinds]

    def inside(self, path: str) -> list[str]:
        """All paths below one, deepest last."""
        return sorted(name for name in self.names if name.startswith(path + "/"))

    def size(self) -> int:
        return sum(len(self.nodes[node].data) for node in set(self.names.values()))

    def tree(self) -> dict[str, bytes | str | None]:
        def value(node: Node) -> bytes | str | None:
            return {"file": node.data, "symlink": node.target, "dir": None}[node.kind]

        return {path: value(self.nodes[node]) for path, node in self.names.items()}

    def difference(self, survey: Survey) -> str:
        """Empty, or what is not as it should be."""
        for path in self.names.keys() | survey.keys():
            if path not in survey:
                return f"{path} is missing"
            if path not in self.names:
                return f"{path} should not be there ({survey[path][0]}, {survey[path][1]} bytes)"
            found = _unlike(self.at(path), survey[path])
            if found:
                return f"{path}: {found}"
        return ""

    # --- calls

    def apply(self, call: Call) -> Any:
        """The answer, or Refused with the errno; then nothing has changed."""
        name, *args = call
        method: Callable[..., Any] = getattr(self, f"_{name}")
        return method(*args)

    def _find(self, path: str) -> int:
        if path not in self.names:
            above = posixpath.dirname(path)
            while above and above not in self.names:
                above = posixpath.dirname(above)
            raise Refused(errno.ENOTDIR if above and self.at(above).kind == "file" else errno.ENOENT)
        return self.names[path]

    def _parent(self, path: str) -> None:
        parent = posixpath.dirname(path)
        if parent and self.nodes[self._find(parent)].kind != "dir":
            raise Refused(errno.ENOTDIR)

    def _new(self, path: str, node: Node) -> int:
        self._parent(path)
        if path in self.names:
            raise Refused(errno.EEXIST)
        self.last += 1
        self.nodes[self.last] = node
        self.names[path] = self.last
        return self.last

    def _mkdir(self, path: str) -> None:
        self._new(path, Node("dir"))

    def _symlink(self, target: str, path: str) -> None:
        self._new(path, Node("symlink", target=target))

    def _rmdir(self, path: str) -> None:
        if self.nodes[self._find(path)].kind != "dir":
            raise Refused(errno.ENOTDIR)
        if self.inside(path):
            raise Refused(errno.ENOTEMPTY)
        del self.names[path]

    def _unlink(self, path: str) -> None:
        if self.nodes[self._find(path)].kind == "dir":
            raise Refused(errno.EISDIR)
        del self.names[path]

    def _link(self, path: str, new: str) -> None:
        node = self._find(path)
        self._parent(new)
        if new in self.names:
            raise Refused(errno.EEXIST)
        self.names[new] = node

    def _rename(self, path: str, new: str) -> None:
        node = self._find(path)
        self._parent(new)
        is_dir = self.nodes[node].kind == "dir"
        if new.startswith(path + "/"):
            raise Refused(errno.EINVAL)
        if new in self.names:
            there = self.names[new]
            if there == node:
                return
            if self.nodes[there].kind == "dir":
                if not is_dir:
                    raise Refused(errno.EISDIR)
                if self.inside(new):
                    raise Refused(errno.ENOTEMPTY)
            elif is_dir:
                raise Refused(errno.ENOTDIR)
        self._move({path: new})

    def _exchange(self, path: str, new: str) -> None:
        self._find(path)
        self._find(new)
        if new.startswith(path + "/") or path.startswith(new + "/"):
            raise Refused(errno.EINVAL)
        self._move({path: new, new: path})

    def _move(self, moves: dict[str, str]) -> None:
        taken: dict[str, int] = {}
        for old, new in moves.items():
            for name in [old, *self.inside(old)]:
                taken[new + name[len(old) :]] = self.names[name]
        for old in moves:
            for name in [old, *self.inside(old)]:
                del self.names[name]
        self.names.update(taken)

    def _chmod(self, path: str, mode: int) -> None:
        node = self._find(path)
        self.nodes[node] = replace(self.nodes[node], mode=mode)

    def _utime(self, path: str, time_ns: int) -> None:
        node = self._find(path)
        self.nodes[node] = replace(self.nodes[node], mtime_ns=time_ns)

    def _file(self, path: str) -> int:
        node = self._find(path)
        if self.nodes[node].kind == "dir":
            raise Refused(errno.EISDIR)
        return node

    def _set(self, node: int, data: bytes) -> None:
        self.nodes[node] = replace(self.nodes[node], data=data, mtime_ns=None)

    def _resized(self, node: int, size: int) -> None:
        self._set(node, self.nodes[node].data[:size].ljust(size, b"\0"))

    def _truncate(self, path: str, size: int) -> None:
        self._resized(self._file(path), size)

    def _copy(self, path: str, new: str) -> None:
        data = self.nodes[self._file(path)].data
        self._open("copy", new, "w")
        node, _ = self.handles.pop("copy")
        self._set(node, data)

    def _open(self, handle: str, path: str, how: str) -> None:
        if how in ("w", "a", "x") and path not in self.names:
            self._new(path, Node("file"))
        elif how == "x":
            raise Refused(errno.EEXIST)
        node = self._file(path)
        if how == "w":
            self._set(node, b"")
        self.handles[handle] = (node, how == "a")

    def _put(self, handle: str, spec: Sequence[Any], offset: int) -> None:
        node, _ = self.handles[handle]
        self._set(node, _patched(self.nodes[node].data, bytes_of(spec), offset))

    def _add(self, handle: str, spec: Sequence[Any]) -> None:
        node, _ = self.handles[handle]
        self._set(node, self.nodes[node].data + bytes_of(spec))

    def _cut(self, handle: str, size: int) -> None:
        self._resized(self.handles[handle][0], size)

    def _sync(self, handle: str) -> None:
        assert handle in self.handles

    def _close(self, handle: str) -> None:
        del self.handles[handle]

    def _read(self, path: str) -> str:
        return digest(self.nodes[self._file(path)].data)

    def _list(self, path: str) -> list[str]:
        if path and self.nodes[self._find(path)].kind != "dir":
            raise Refused(errno.ENOTDIR)
        return sorted(posixpath.basename(name) for name in self.names if posixpath.dirname(name) == path)


def _patched(data: bytes, new: bytes, offset: int) -> bytes:
    return data[:offset].ljust(offset, b"\0") + new + data[offset + len(new) :]


def _unlike(node: Node, told: Sequence[Any]) -> str:
    kind, size, what, mode, mtime_ns, _ = told
    if kind != node.kind:
        return f"is a {kind}, should be a {node.kind}"
    if kind == "symlink":
        return "" if what == node.target else f"points to {what}, should to {node.target}"
    if kind == "file" and size != len(node.data):
        return f"has {size} bytes, should have {len(node.data)}"
    if kind == "file" and what != digest(node.data):
        return f"has other bytes than it should ({size})"
    if node.mode is not None and mode != node.mode:
        return f"has the mode {mode:o}, should have {node.mode:o}"
    if node.mtime_ns is not None and mtime_ns != node.mtime_ns:
        return f"has the time {mtime_ns}, should have {node.mtime_ns}"
    return ""


def after(folder: Folder, calls: Sequence[Call], done: int) -> Iterator[Folder]:
    """Everything that may be there when `calls` were cut off: `done` of them had returned, -1: it is not known how
    many.

    Descriptors are gone in each of them.
    """
    state = folder.copy()
    for number, call in enumerate(calls):
        if number >= done:
            yield _without_handles(state)
            yield from map(_without_handles, _parts(state, call))
        try:
            state.apply(call)
        except Refused:
            break
        if number == done:
            break
    yield _without_handles(state)


def _without_handles(folder: Folder) -> Folder:
    copy = folder.copy()
    copy.handles.clear()
    return copy


def _parts(folder: Folder, call: Call) -> Iterator[Folder]:
    """What a call may leave that got a part of its way."""
    match call:
        case ["put" | "add", handle, spec, *offset] if handle in folder.handles:
            node, to_the_end = folder.handles[handle]
            old, data = folder.nodes[node].data, bytes_of(spec)
            at = len(old) if to_the_end or not offset else offset[0]
            for size in range(PAGE_BYTES - at % PAGE_BYTES, len(data), PAGE_BYTES):
                part = folder.copy()
                part._set(node, _patched(old, data[:size], at))
                yield part
        case ["copy", path, new] if path in folder.names:
            data = folder.at(path).data
            for size in range(0, len(data), PAGE_BYTES):
                part = folder.copy()
                part.apply(("open", "copy", new, "w"))
                part._set(part.handles["copy"][0], data[:size])
                yield part


def find(candidates: Iterator[Folder], survey: Survey) -> Folder | None:
    """The first that is what was seen."""
    return next((folder for folder in candidates if not folder.difference(survey)), None)


def folder_of(adopted: Mapping[str, Sequence[Any]]) -> Folder:
    """From what a worker adopted: path to ["file", bytes in base 64, inode], ["symlink", target] or ["dir"]."""
    folder = Folder()
    inodes: dict[int, int] = {}
    for number, (path, (kind, *what)) in enumerate(sorted(adopted.items()), 1):
        node = inodes.setdefault(what[1], number) if kind == "file" else number
        data = base64.b64decode(what[0]) if kind == "file" else b""
        folder.nodes.setdefault(node, Node(kind, data, what[0] if kind == "symlink" else ""))
        folder.names[path] = node
    folder.last = len(adopted)
    return folder
