"""Writes an exported tree as plain files, in a folder that is empty, and nowhere else.

Every name is checked, every folder is entered by its descriptor and never through a symlink, no file is ever opened
that was there before. What cannot be written is told and the rest goes on. An edge to the file system; decides
nothing about the tree.

Threading: one thread. One descriptor for the folder that is written, however deep it lies.
"""

# Everything is relative to an open folder, which pathlib cannot do.
# ruff: noqa: PTH103

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gdah_volume.content import CHUNK_SIZE, ChunkHash, Content
from gdah_volume.errors import GdahError, InvalidArgument
from gdah_volume.export import BROKEN, Entry, ExportSource, Gone
from gdah_volume.ids import NAME_MAX_BYTES, ROOT, NodeId, check_name
from gdah_volume.store import NodeRecord

Chunks = Callable[[ChunkHash], tuple[bytes | None, str]]
"""The verified bytes of a chunk, or None and why there are none."""
FOUND_NAME = b".found"
TRASH_NAME = b".trash"
INCOMPLETE = b".incomplete"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TYPES = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "chardev": stat.S_IFCHR, "blockdev": stat.S_IFBLK}


@dataclass
class Exported:
    """What was written, and what was not and why."""

    files: int = 0
    folders: int = 0
    others: int = 0
    bytes: int = 0
    removed: int = 0
    forgotten: int = 0
    """Things of the trash whose content is no longer kept."""
    failures: list[str] = field(default_factory=list)


class Incomplete(GdahError):
    """Some of a file's content is in no copy."""


def prepare_target(target: Path) -> None:
    """Make it, or see that it is an empty folder. Raises InvalidArgument."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        if os.listdir(target):
            raise InvalidArgument(f"{target} is not empty; export into a new folder")
    except OSError as error:
        raise InvalidArgument(f"{target} cannot be used: {error.strerror}; give another folder") from error


class Exporter:
    def __init__(
        self, source: ExportSource, chunks: Chunks, target: Path, progress: Callable[[Exported], None]
    ) -> None:
        self.done = Exported()
        self._source = source
        self._chunks = chunks
        self._target = target
        self._progress = progress
        self._is_root = os.geteuid() == 0
        self._visited: set[NodeId] = set()
        self._first_names: dict[NodeId, bytes] = {}

    def run(self, *, trash: bool) -> Exported:
        self._visited.add(ROOT)
        self._tree(ROOT, b"")
        self._unreached()
        if trash:
            name = self._free_name(TRASH_NAME)
            for gone in self._source.gone():
                self._one_gone(name, gone)
        self.done.failures += self._source.trouble
        return self.done

    def _failed(self, path: bytes, why: object) -> None:
        text = why.strerror if isinstance(why, OSError) and why.strerror else str(why)
        self.done.failures.append(f"{os.fsdecode(path) or '.'}: {text}")

    # --- the tree

    def _tree(self, top: NodeId, above: bytes) -> None:
        """All below a folder that is at the path `above`. Depth first; a folder gets its mode and times when all in it
        is written."""
        folder = os.open(os.fsencode(self._target), _FOLDER)
        try:
            for part in above.split(b"/") if above else ():
                folder = self._enter(folder, part)
            stack: list[tuple[NodeId, bytes, Iterator[Entry]]] = [(top, above, iter(self._children(top)))]
            while stack:
                node, path, entries = stack[-1]
                entry = next(entries, None)
                if entry is not None:
                    if self._write(folder, path, entry):
                        folder = self._enter(folder, entry.name)
                        below = path + b"/" + entry.name if path else entry.name
                        stack.append((entry.node, below, iter(self._children(entry.node))))
                    continue
                stack.pop()
                written = folder
                if stack:  # before its mode may forbid to look for what is above it
                    folder = os.open(b"..", _FOLDER, dir_fd=written)
                self._finish_folder(written, node, path)
                if stack:
                    os.close(written)
        finally:
            os.close(folder)

    @staticmethod
    def _enter(folder: int, name: bytes) -> int:
        below = os.open(name, _FOLDER, dir_fd=folder)
        os.close(folder)
        return below

    def _children(self, node: NodeId) -> list[Entry]:
        return self._source.children.get(node, [])

    def _write(self, folder: int, path: bytes, entry: Entry) -> bool:
        """One name; True: it is a folder, to be entered."""
        here = path + b"/" + entry.name if path else entry.name
        try:
            check_name(entry.name)
            record = self._source.record(entry.node)
            if record.node.kind == "dir":
                return self._make_folder(folder, here, entry)
            first = self._first_names.get(entry.node)
            if first is not None and self._linked(folder, first, entry.name):
                self.done.files += 1
                return False
            self._make(folder, here, entry.name, entry.node, record)
            if self._source.names.get(entry.node, 0) > 1:
                self._first_names[entry.node] = here
        except (*BROKEN, OSError) as error:
            self._failed(here, error)
        self._progress(self.done)
        return False

    def _make_folder(self, folder: int, here: bytes, entry: Entry) -> bool:
        if entry.node in self._visited:
            self._failed(here, "this folder has two names, or lies in itself; it was written once")
            return False
        os.mkdir(entry.name, 0o700, dir_fd=folder)
        self._visited.add(entry.node)
        self.done.folders += 1
        return True

    def _linked(self, folder: int, first: bytes, name: bytes) -> bool:
        """Another name of a file that was written; where the disk takes no more, it becomes a file of its own."""
        root = os.open(os.fsencode(self._target), _FOLDER)
        try:
            os.link(first, name, src_dir_fd=root, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:
            return False
        finally:
            os.close(root)
        return True

    def _make(self, folder: int, here: bytes, name: bytes, node: NodeId, record: NodeRecord) -> None:
        kind = record.node.kind
        if kind == "file":
            self._file(folder, here, name, node, record, self._source.content_of(record))
            self.done.files += 1
            return
        if kind == "symlink":
            os.symlink(record.node.target, name, dir_fd=folder)
        else:
            os.mknod(name, _TYPES[kind] | 0o600, record.node.rdev, dir_fd=folder)
        self.done.others += 1
        self._dress(folder, name, here, node, record)

    # --- files

    def _file(self, folder: int, here: bytes, name: bytes, node: NodeId, record: NodeRecord, content: Content) -> None:
        """Under its own name only when it is whole; else what there is of it goes beside, and Incomplete is raised."""
        file = os.open(name, _NEW, 0o600, dir_fd=folder)
        try:
            missing = self._fill(file, content)
        except BaseException:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
            os.close(file)
            raise
        self._attributes(file, here, node, record)
        os.close(file)
        if missing:
            beside = self._set_beside(folder, name)
            where = f"; the rest is in {os.fsdecode(beside)!r}" if beside else ""
            raise Incomplete(f"{len(missing)} of {len(content.chunks)} pieces are in no copy: {missing[0]}{where}")
        self.done.bytes += content.size

    def _fill(self, file: int, content: Content) -> list[str]:
        """Holes stay holes. What is missing, in words."""
        missing: list[str] = []
        for chunk in content.chunks:
            data, why = self._chunks(chunk.hash)
            at = chunk.index * CHUNK_SIZE
            if data is None:
                missing.append(f"bytes {at} to {at + chunk.length}, chunk {chunk.hash.hex()} ({why or 'not here'})")
                continue
            view = memoryview(data)[: chunk.length]
            while view:
                written = os.pwrite(file, view, at)
                view, at = view[written:], at + written
        os.ftruncate(file, content.size)
        return missing

    @staticmethod
    def _set_beside(folder: int, name: bytes) -> bytes:
        """Away from the name that promises a whole file; "" when there is no place for it, then it is gone."""
        beside = name[: NAME_MAX_BYTES - len(INCOMPLETE)] + INCOMPLETE
        try:
            os.link(name, beside, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError:
            beside = b""
        os.unlink(name, dir_fd=folder)
        return beside

    # --- attributes

    def _attributes(self, file: int, here: bytes, node: NodeId, record: NodeRecord) -> None:
        """Of an open file or folder; owners first, as changing them takes bits away."""
        attrs = record.attrs
        assert attrs is not None
        xattrs = {name: value for name, value in attrs.xattrs.items() if self._is_root or name.startswith(b"user.")}
        steps: list[Callable[[], None]] = [partial(os.setxattr, file, name, value) for name, value in xattrs.items()]
        if self._is_root:
            steps.append(partial(os.fchown, file, attrs.uid, attrs.gid))
        steps.append(partial(os.fchmod, file, attrs.mode))
        steps.append(partial(os.utime, file, ns=self._source.times(node, record)))
        self._all_of(here, steps)

    def _dress(self, folder: int, name: bytes, here: bytes, node: NodeId, record: NodeRecord) -> None:
        """The same of what is not opened."""
        attrs = record.attrs
        assert attrs is not None
        steps: list[Callable[[], None]] = []
        if self._is_root:
            steps.append(partial(os.chown, name, attrs.uid, attrs.gid, dir_fd=folder, follow_symlinks=False))
        if record.node.kind != "symlink":
            steps.append(partial(os.chmod, name, attrs.mode, dir_fd=folder))
        times = self._source.times(node, record)
        steps.append(partial(os.utime, name, ns=times, dir_fd=folder, follow_symlinks=False))
        self._all_of(here, steps)

    def _all_of(self, here: bytes, steps: list[Callable[[], None]]) -> None:
        for step in steps:
            try:
                step()
            except (OSError, ValueError, OverflowError) as error:
                self._failed(here, f"written, but without all of its attributes: {error}")

    def _finish_folder(self, folder: int, node: NodeId, path: bytes) -> None:
        try:
            self._attributes(folder, path, node, self._source.record(node))
        except BROKEN as error:
            self._failed(path, f"written, but without its attributes: {error}")

    # --- beside the tree

    def _free_name(self, name: bytes) -> bytes:
        taken = {entry.name for entry in self._children(ROOT)}
        while name in taken:
            name += b"_"
        return name

    def _unreached(self) -> None:
        """Names in folders that damage has cut off from the tree."""
        reached = self._visited
        tops = [node for node in self._source.children if node not in reached and not self._is_below(node)]
        for node in tops:
            if node in reached:
                continue
            where = self._free_name(FOUND_NAME) + b"/" + os.fsencode(node.replace("/", "_") or "_")
            self._failed(where, "a folder that is in no folder any more; what was in it is here")
            try:
                os.makedirs(os.path.join(os.fsencode(self._target), where))
                reached.add(node)
                self._tree(node, where)
            except OSError as error:
                self._failed(where, error)

    def _is_below(self, node: NodeId) -> bool:
        """Another one that is cut off has it: it comes with that one."""
        place = self._source.places.get(node)
        seen = {node}
        while place is not None and place[0] not in seen:
            if place[0] not in self._visited and place[0] not in self._source.places:
                return place[0] in self._source.children
            seen.add(place[0])
            place = self._source.places.get(place[0])
        return False

    def _one_gone(self, top: bytes, gone: Gone) -> None:
        kind = b"removed" if gone.version is None else b"versions"
        when = gone.when[:19].replace(":", ".").replace("T", " ")
        words = " ".join(part for part in ("removed" if gone.version is None else "version", when, gone.by) if part)
        suffix = f" ({words})".encode("utf-8", "surrogateescape")
        name = gone.name[: NAME_MAX_BYTES - len(suffix)] + suffix
        path = b"/".join((top, kind, *self._folders_of(gone.parent)))
        try:
            record = self._source.record(gone.node)
            if record.node.kind == "dir":
                return  # what was in it has its path
            check_name(name)
            version = gone.version or (record.file.version if record.file is not None else None)
            if version and self._is_forgotten(self._source.content(version)):
                self.done.forgotten += 1
                return
            folder = self._deep(path)
            try:
                if gone.version is None:
                    self._make(folder, path + b"/" + name, name, gone.node, record)
                else:
                    self._file(folder, path + b"/" + name, name, gone.node, record, self._source.content(gone.version))
                self.done.removed += 1
            finally:
                os.close(folder)
        except (*BROKEN, OSError) as error:
            self._failed(path + b"/" + name, error)
        self._progress(self.done)

    def _is_forgotten(self, content: Content) -> bool:
        """Nothing of it is anywhere, not even damaged: the retention is over."""
        return bool(content.chunks) and all(self._chunks(chunk.hash) == (None, "") for chunk in content.chunks)

    def _folders_of(self, node: NodeId) -> list[bytes]:
        """The names above, live or last ones; only those that can be names of folders."""
        names: list[bytes] = []
        seen: set[NodeId] = set()
        while node != ROOT and node not in seen:
            seen.add(node)
            place = self._source.places.get(node) or self._source.dead.get(node)
            if place is None:
                break
            try:
                names.append(check_name(place[1]))
            except GdahError:
                names.append(b"_")
            node = place[0]
        return names[::-1]

    def _deep(self, path: bytes) -> int:
        folder = os.open(os.fsencode(self._target), _FOLDER)
        try:
            for part in path.split(b"/"):
                with suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=folder)
                folder = self._enter(folder, part)
        except BaseException:
            os.close(folder)
            raise
        return folder
