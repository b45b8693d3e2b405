"""Changes of attributes: chmod, chown, utimens, truncate, extended attributes, for files in any state.

A file with unsaved edits takes the time of its last write into them, so that closing keeps what utimens set.
A file without a name keeps its changes here alone.

Threading: any thread; lock order as in `openfile`.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from gdah_volume.errors import InvalidArgument, IsADirectory
from gdah_volume.ids import NodeId
from gdah_volume.operations import time_in_range
from gdah_volume.tree import NodeView
from mountfs.files import intents, xattrs
from mountfs.files.attributes import Described, GroupsOf, Nameless, Shown, allowed_mode, nameless, without_suid
from mountfs.files.handles import Handle, Handles
from mountfs.files.openfile import OpenFile, Parts
from mountfs.files.performing import Performer
from mountfs.files.saving import Saving
from mountfs.ports import AttrChange, Caller

Fields = dict[str, Any]
NO_CHANGE = AttrChange()
"""What the kernel makes of chown(path, -1, -1); it asks this of us before a write that takes set-user-id away, too."""
Time = int | Literal["now"] | None


class AttributeChanges:
    def __init__(
        self,
        parts: Parts,
        handles: Handles,
        performer: Performer,
        saving: Saving,
        groups_of: GroupsOf,
        shown: Shown,
    ) -> None:
        self._parts = parts
        self._handles = handles
        self._performer = performer
        self._saving = saving
        self._groups_of = groups_of
        self._shown = shown
        self._gone: dict[NodeId, Nameless] = {}
        """Attributes that were changed since the last name went, of what nobody has open as a file (folders, pipes).
        No more of them than the kernel holds inodes; under mirror.lock."""

    def described(self, node: NodeId) -> Described:
        """Under mirror.lock."""
        view = self._parts.mirror.tree.node(node)
        return view if view.nlink else self._gone.get(node, view)

    def forget(self, node: NodeId) -> None:
        """The kernel does not know it any more."""
        if self._gone:
            with self._parts.mirror.lock:
                self._gone.pop(node, None)

    def change(self, node: NodeId, change: AttrChange, handle: Handle | None, caller: Caller) -> None:
        """`node` is resolved."""
        change = self._shown.change(change)
        change = replace(change, atime_ns=_kept(change.atime_ns), mtime_ns=_kept(change.mtime_ns))
        if change.size is not None:
            self._resize(node, change.size, handle, caller)
        file = handle.file if handle is not None else self._handles.find(node)
        if not self._change_nameless(node, file, lambda view, now: self._fields(change, view, caller, now)):
            self._set(node, file, change, caller)

    def _change_nameless(self, node: NodeId, file: OpenFile | None, change: Callable[[Described, int], Fields]) -> bool:
        """Whether it has no name any more; then changes stay here."""
        if file is None:
            return self._change_gone(node, change)
        with file.lock:
            file.refresh()
            if file.orphan is None:
                return False
            now_ns = self._parts.now_ns()
            fields = change(file.orphan, now_ns)
            if fields:
                if file.draft is not None and "mtime_ns" in fields:
                    file.set_mtime(fields["mtime_ns"])
                file.orphan = file.orphan.changed(fields, now_ns)
            return True

    def _change_gone(self, node: NodeId, change: Callable[[Described, int], Fields]) -> bool:
        with self._parts.mirror.lock:
            view = self.described(node)
            if view.nlink:
                return False
            now_ns = self._parts.now_ns()
            fields = change(view, now_ns)
            known = view if isinstance(view, Nameless) else nameless(view)
            if fields:
                self._gone[node] = known.changed(fields, now_ns)
            return True

    def _set(self, node: NodeId, file: OpenFile | None, change: AttrChange, caller: Caller) -> None:
        in_edits = change.size is not None and change.mtime_ns == "now"
        edited = False
        if file is not None and file.draft is not None and change.mtime_ns is not None and not in_edits:
            now_ns = self._parts.now_ns() if change.mtime_ns == "now" else change.mtime_ns
            in_edits = edited = file.set_mtime(now_ns)

        def fields(view: NodeView, time_ns: int) -> Mapping[str, object]:
            found = self._fields(change, view, caller, time_ns)
            if in_edits:
                found.pop("mtime_ns", None)
            return found

        # While edits are unsaved, saving them waits for what comes before it in the log.
        build = intents.set_attributes(self._parts.mirror.tree, node, fields)
        self._performer.perform(build, node, wait=not edited)

    def _fields(self, change: AttrChange, view: Described, caller: Caller, time_ns: int) -> Fields:
        fields: Fields = {}
        gid = view.gid if change.gid is None else change.gid
        if change.mode is not None:
            group = gid if self._shown.gid is None else self._shown.gid
            mode = allowed_mode(change.mode, group, view.kind, caller, self._groups_of)
            fields["mode"] = self._shown.mode(mode, view.mode)
        gives_away = change.uid is not None or change.gid is not None
        if gives_away:
            fields["uid"] = view.uid if change.uid is None else change.uid
            fields["gid"] = gid
        if gives_away or (change == NO_CHANGE and caller.uid in (0, view.uid)):
            fields |= self._less_privileges(view, caller) if change.mode is None and view.kind != "dir" else {}
        if change.mtime_ns is not None:
            fields["mtime_ns"] = time_ns if change.mtime_ns == "now" else change.mtime_ns
        if change.atime_ns is not None:
            fields["atime_ns"] = time_ns if change.atime_ns == "now" else change.atime_ns
        return fields

    def _less_privileges(self, view: Described, caller: Caller, *, editing: bool = False) -> Fields:
        """Of a file that is edited or given away: set-user-id goes, unless root edits; capabilities always."""
        mode = view.mode if editing and caller.uid == 0 else without_suid(view, caller, self._groups_of)
        fields: Fields = {} if mode == view.mode else {"mode": mode}
        if xattrs.CAPABILITY in view.xattrs:
            fields["xattrs_gone"] = (xattrs.CAPABILITY,)
        return fields

    # --- size

    def _resize(self, node: NodeId, size: int, handle: Handle | None, caller: Caller) -> None:
        if size < 0:
            raise InvalidArgument("a negative size")
        if handle is not None:
            self.drop_privileges(handle.file, caller)
            handle.file.truncate(size, handle)
            return
        self.check_file(node)
        file = self._handles.acquire(node)
        try:
            self.drop_privileges(file, caller)
            file.truncate(size, None)
            self._saving.save(file, sync=False)
        finally:
            self._saving.let_go(file)

    def check_file(self, node: NodeId) -> None:
        """Raises IsADirectory, InvalidArgument for what has no content."""
        with self._parts.mirror.lock:
            kind = self._parts.mirror.tree.kind(node)
        if kind == "dir":
            raise IsADirectory("a folder has no content of its own")
        if kind != "file":
            raise InvalidArgument("not a regular file")

    def drop_privileges(self, file: OpenFile, caller: Caller) -> None:
        """Before an edit. Holds no lock."""
        view: Described | None = file.orphan
        if view is None:
            with self._parts.mirror.lock:
                view = self._parts.mirror.tree.node(file.node)
        if not (view.mode & (stat.S_ISUID | stat.S_ISGID) and caller.uid) and xattrs.CAPABILITY not in view.xattrs:
            return

        def change(view: Described, _time_ns: int) -> Fields:
            return self._less_privileges(view, caller, editing=True)

        if not self._change_nameless(file.node, file, change):
            self._performer.perform(intents.set_attributes(self._parts.mirror.tree, file.node, change), file.node)
        for ino in list(file.inos):
            self._parts.kernel.invalidate_inode(ino)  # it leaves this to us, and would run the file as before

    # --- extended attributes

    def set_xattr(self, node: NodeId, name: bytes, value: bytes, flags: int) -> None:
        def change(view: Described, _time_ns: int) -> Fields:
            xattrs.check_set(name, value, flags, view.xattrs)
            return {"xattrs": {name: bytes(value)}}

        self._change_xattrs(node, change)

    def remove_xattr(self, node: NodeId, name: bytes) -> None:
        def change(view: Described, _time_ns: int) -> Fields:
            xattrs.check_remove(name, view.xattrs)
            return {"xattrs_gone": (name,)}

        self._change_xattrs(node, change)

    def _change_xattrs(self, node: NodeId, change: Callable[[Described, int], Fields]) -> None:
        file = self._handles.find(node)
        if not self._change_nameless(node, file, change):
            build = intents.set_attributes(self._parts.mirror.tree, node, change)
            self._performer.perform(build, node)


def _kept(time: Time) -> Time:
    return time_in_range(time) if isinstance(time, int) else time
