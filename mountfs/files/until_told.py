"""What programs read of an open file that somebody else has written, until the kernel was told.

The kernel takes a short answer for the end of the file only if it has learned nothing of the file since it asked; so an
answer from the new content, on its way while the kernel is being told, would be the new bytes and zeros up to the old
size. And pages of both contents would meet in one read. So until the kernel was told, reads and looks are answered from
the content BEFORE; then from the new one.

The kernel, when it is told, waits for the reads that are on their way and drops what they bring. What came later
than that and was answered from before would stay: then the kernel is told again. So who comes while the kernel is being
told waits a moment first (and not longer: the kernel may be waiting for him).

Threading: any thread; `_lock` is a leaf.
"""

from __future__ import annotations

import threading

from gdah_volume.content import Content
from mountfs.files.attributes import Unsaved

READ_WAIT_S = 0.01
LOOK_WAIT_S = 0.1
OPEN_WAIT_S = 0.5
"""Opening a file that was written elsewhere waits so long for the kernel to be told."""
TRIES = 5
"""After so many notifications in which reads were answered from before, the new content is shown all the same."""


class UntilTold:
    """Implements `ports.Telling`. Invariant: `_before` is None or the content that the kernel's pages show."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = threading.Condition(self._lock)
        self._before: Content | None = None
        self._round = 0
        self._telling = False
        self._again = False
        self._more = False
        self._tries = 0
        self._shown: Unsaved | None = None
        """Size and times of `_before`."""

    def hold(self, before: Content, shown: Unsaved) -> None:
        """The file was written, and the kernel will be told. Under the lock of the tree, in which it was seen."""
        with self._lock:
            self._more = True
            if self._before is None:
                self._before, self._shown, self._again, self._tries = before, shown, False, 0

    def arrive(self, wait_s: float) -> int:
        """Somebody wants to read or look: when that was, for `before` and `shown`."""
        if not self._telling:
            return self._round
        with self._lock:
            arrived = self._round
            self._over.wait_for(lambda: self._before is None, wait_s)
            return arrived

    def before(self, arrived: int) -> Content | None:
        """What a read is to be answered from; None: from what the file shows."""
        if self._before is None:
            return None
        with self._lock:
            self._note(arrived)
            return self._before

    def shown(self, arrived: int | None = None) -> Unsaved | None:
        """The size and times to be shown; None: those of the file."""
        if self._before is None:
            return None
        with self._lock:
            self._note(self._round if arrived is None else arrived)
            return self._shown

    def _note(self, arrived: int) -> None:
        if self._before is not None and arrived == self._round:
            self._again = True

    def telling(self) -> None:
        with self._lock:
            self._round += 1
            self._telling = True
            self._again = self._more = False

    def told(self) -> bool:
        with self._lock:
            self._tries += 1
            self._telling = False
            again, last = self._again, self._tries >= TRIES
            if last or not (again or self._more):  # with more, the kernel will be told once more
                self._before, self._shown, self._again = None, None, False
                self._over.notify_all()
            return not again
