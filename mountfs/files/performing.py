"""One way to the log for everything that programs change, and the tries again when others were faster.

Threading: any thread; holds no lock while it waits.
"""

from __future__ import annotations

import time

from gdah_volume.errors import FileSystemError, NotAsSeen
from gdah_volume.ids import NodeId, OpId
from gdah_volume.operations import Operation, Rename, Unlink
from mountfs.files.handles import Handles
from mountfs.files.intents import Builder, NothingToDo, touch_nothing
from mountfs.files.openfile import Parts
from mountfs.files.synced import SyncLedger

TRIES = 12
TRY_AGAIN_S = 0.03
TRY_FOR_S = 0.5
"""What a server refused because its author had not seen what others did is tried again: the feed brings that."""


def removed_node(operation: Operation) -> NodeId | None:
    """The node that loses a name by it."""
    if isinstance(operation, Unlink):
        return operation.node
    if isinstance(operation, Rename) and operation.replaces is not None:
        return operation.replaces.node
    return None


class Performer:
    def __init__(self, parts: Parts, handles: Handles) -> None:
        self._parts = parts
        self._handles = handles
        self.ledger = SyncLedger()

    def perform(
        self,
        build: Builder,
        *nodes: NodeId,
        sync: bool = False,
        wait: bool = True,
        again: tuple[type[FileSystemError], ...] = (),
        exactly: bool = False,
    ) -> Operation | None:
        """The operation, logged and (if `wait`) acknowledged as the durability says; None: there was nothing
        to do. `nodes` are those that it changes. `again`: what a server may refuse it for although the program would
        not fail on a tree that has what others did; when that does not come in time, it is done as if no server had
        been in reach, and the rules decide what becomes of it, unless the program wants it `exactly` so or not at all.
        Raises what the program shall see."""
        not_as_seen: tuple[type[FileSystemError], ...] = (NotAsSeen, *again)
        began, tentative = time.monotonic(), False
        while True:
            built: list[Operation] = []
            try:
                ticket = self._parts.log.perform(
                    self._watching(build, built), sync=sync, wait=False, tentative=tentative, since=began
                )
                if not sync:
                    self.ledger.note(*nodes)
                if wait:
                    ticket.wait()
            except NothingToDo:
                return None
            except not_as_seen:
                if not built or tentative:
                    raise
                if time.monotonic() - began < TRY_FOR_S:
                    time.sleep(TRY_AGAIN_S)
                elif exactly:
                    raise
                else:
                    tentative = True
                continue
            finally:
                self._handles.stale(nodes)
            operation = built[-1]  # who holds it back has it built twice
            self._note_removal(operation)
            return operation

    def _note_removal(self, operation: Operation) -> None:
        """Before the program hears of it: unsaved edits of a file without a name say so in their journal, or they would
        bring it back if this process were killed now."""
        gone = removed_node(operation)
        file = None if gone is None else self._handles.find(gone)
        if file is not None and file.draft is not None:
            with file.lock:
                file.refresh()

    def _watching(self, build: Builder, built: list[Operation]) -> Builder:
        """Under mirror.lock, before it happens: whoever sees the file without a name then knows that it was
        done here."""

        def watching(op: OpId, time_ns: int) -> Operation:
            operation = build(op, time_ns)
            built.append(operation)
            gone = removed_node(operation)
            file = None if gone is None else self._handles.find(gone)
            if file is not None:
                file.removed_here = True
                file.stale = True
            return operation

        return watching

    def sync(self, node: NodeId) -> None:
        """What was done to a node before is on disk when this returns: an operation that changes nothing
        carries the wish to every server, in order after all others."""
        if self.ledger.is_synced(node):
            return

        def build(op: OpId, time_ns: int) -> Operation:  # noqa: ARG001
            view = self._parts.mirror.tree.node(node)
            if view.nlink == 0:
                raise NothingToDo
            return touch_nothing(op, view)

        with self.ledger.syncing(sync=True):
            self.perform(build, node, sync=True)
