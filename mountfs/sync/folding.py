"""Folds the write-ahead log of a mount's database back into the file, beside whoever writes.

SQLite would do it inside a commit: then every program that needs the mirror waits for copying 16 MiB, and for the disk.
Here a connection of its own does the most of it, while others write; only the rest, a moment's work, is done under the
lock, so that the log begins anew instead of growing.

Threading: a thread of its own; takes the lock of the mirror for that rest only.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from gdah_volume.database import Database
from gdah_volume.errors import GdahError

log = logging.getLogger("mountfs.sync.mirror")

LOOK_EVERY_S = 0.5
ROWS = 10_000
"""Changed since the last time: some 10 MiB of log."""
FOLD_EVERY_S = 60.0
"""What is less than that is folded now and then, so that a next start has little to read."""
STOP_S = 10.0


class Folding:
    def __init__(self, database: Database, lock: Any) -> None:
        """`database`: the connection that writes, guarded by `lock`. It folds nothing by itself from now on."""
        self._database = database
        self._lock = lock
        self._beside = Database(Path(database.path), create=False)
        database.execute("PRAGMA wal_autocheckpoint = 0")
        self._beside.execute("PRAGMA wal_autocheckpoint = 0")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="folding", daemon=True)
        self._folded_at = 0
        self.folds = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Before the database is closed, which folds the rest."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        self._beside.close()

    def _run(self) -> None:
        waited_s = 0.0
        while not self._stopping.wait(LOOK_EVERY_S):
            waited_s += LOOK_EVERY_S
            rows = self._database.connection.total_changes - self._folded_at
            if rows >= ROWS or (rows and waited_s >= FOLD_EVERY_S):
                waited_s = 0.0
                self.fold()

    def fold(self) -> None:
        changes = self._database.connection.total_changes
        try:
            self._beside.checkpoint()
            with self._lock:
                self._database.checkpoint()
        except GdahError as error:
            log.warning("the write-ahead log of this device could not be folded back: %s", error)
            return
        self._folded_at = changes
        self.folds += 1
