"""When the edits of open files become operations: at each close, at fsync, at the last release, later if it
can not be now.

Edits that could not be saved are PARKED: they stay in their journal and are tried again, also in the next
run. What one file shows and how it is saved is decided in `openfile`.

Threading: any thread; one more (`save-again`) while something is parked. Holds no lock while it waits.
"""

from __future__ import annotations

import logging
import threading

from gdah_volume.errors import GdahError
from gdah_volume.ids import NodeId, Version
from mountfs.files.drafts import EXTENTS_MAX, EXTENTS_TOTAL_MAX
from mountfs.files.handles import Handles, unsaved
from mountfs.files.inodes import Inodes
from mountfs.files.openfile import OpenFile, Parts
from mountfs.files.synced import SyncLedger

log = logging.getLogger("mountfs.files")

PARKED_RETRY_S = 5.0
LOOK_EVERY_EXTENTS = 256
"""How often the memory of unsaved edits is looked at."""


class Saving:
    def __init__(self, parts: Parts, handles: Handles, inodes: Inodes, ledger: SyncLedger) -> None:
        self._parts = parts
        self._handles = handles
        self._inodes = inodes
        self._ledger = ledger
        self._ended = threading.Event()
        self._retrying: threading.Thread | None = None

    def save(self, file: OpenFile, *, sync: bool) -> bool:
        """False: there was nothing to save. Raises what stopped it; the edits are kept."""
        if file.draft is None and not file.is_being_saved:
            return False
        before, base, nameless = file.node, file.version, file.nameless
        if not sync:
            self._ledger.note(before)  # before it happens: an fsync that comes in between must not miss it
        with self._ledger.syncing(sync=sync):
            if not file.save(sync=sync):
                return False
        if not sync and file.node != before:
            self._ledger.note(file.node)
        self._pages_follow(file, base)
        if file.node != before or nameless:
            self._show_new_name(file, before)
        return True

    def _pages_follow(self, file: OpenFile, base: Version | None) -> None:
        """The kernel knows what was written through it, by one number: under another it has what was there before."""
        numbers = {*file.inos, *self._inodes.known([file.node])}
        for ino in numbers:
            if len(numbers) == 1:
                self._inodes.pages_follow(ino, base, file.version)
            else:
                self._inodes.pages_are(ino, None)
                self._parts.kernel.invalidate_inode(ino)

    def save_if_heavy(self, file: OpenFile) -> None:
        """Edits that take too much memory are saved before their file is closed. Raises what stops that; the
        edits are kept all the same."""
        draft = file.draft
        count = 0 if draft is None else draft.extent_count
        if count < LOOK_EVERY_EXTENTS or count % LOOK_EVERY_EXTENTS:
            return
        if count > EXTENTS_MAX or self._handles.extents() > EXTENTS_TOTAL_MAX:
            self.save(file, sync=False)

    def _show_new_name(self, file: OpenFile, before: NodeId) -> None:
        """Saving gave the file a place of its own that the kernel has not asked for."""
        kernel = self._parts.kernel
        with self._parts.mirror.lock:
            links = self._parts.mirror.tree.links(file.node)
        for ino in {*self._inodes.known([before, file.node]), *file.inos}:
            kernel.invalidate_inode(ino)
        for link in links:
            for ino in self._inodes.known([link.parent]):
                kernel.invalidate_entry(ino, link.name)
                kernel.invalidate_inode(ino)

    def let_go(self, file: OpenFile) -> None:
        """One user less; with the last one edits are saved or parked, and those of a file without a name forgotten."""
        if not self._handles.release(file):
            return
        if file.draft is not None:
            with file.lock:
                file.refresh()
                if file.orphan is not None:
                    file.drop_edits()
            try:
                self.save(file, sync=False)
            except GdahError as error:
                log.warning("edits are kept until they can be saved: %s", error)
                self.park()
        self._handles.drop(file)

    def park(self) -> None:
        if self._retrying is None and not self._ended.is_set():
            self._retrying = threading.Thread(target=self._retry, name="save-again", daemon=True)
            self._retrying.start()

    def _retry(self) -> None:
        while not self._ended.wait(PARKED_RETRY_S):
            self.save_parked()

    def save_parked(self) -> int:
        """Try to save the edits of files that nobody has open; returns how many are left."""
        left = 0
        for file in self.parked():
            try:
                self.save(file, sync=False)
                self._handles.drop(file)
            except GdahError as error:
                left += 1
                log.debug("edits still can not be saved: %s", error)
        return left

    def parked(self) -> list[OpenFile]:
        return [file for file in unsaved(self._handles.files()) if file.handles == 0]

    def flush_all(self) -> None:
        """Save the edits of every file, open or not. Raises the first error, after all were tried."""
        failed: GdahError | None = None
        for file in unsaved(self._handles.files()):
            try:
                self.save(file, sync=False)
            except GdahError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Unsaved edits stay in their journals."""
        self._ended.set()
        if self._retrying is not None:
            self._retrying.join(10)
