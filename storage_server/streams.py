"""Connections whose next operation is known: after a refusal that the author will mend, nothing may overtake it.

A refusal for want of room, of content, of sense is followed by the same operation again; operations that the author had
already sent behind it would otherwise be logged first. Threading: the writer's thread.
"""

from __future__ import annotations

from gdah_volume.errors import OutOfOrder
from gdah_volume.ids import author_of, sequence_of
from storage_server.ports import Submission

KEPT_MAX = 4096


class Streams:
    def __init__(self) -> None:
        self._stands_at: dict[tuple[int, str], int] = {}

    def check(self, submission: Submission) -> None:
        """Raises OutOfOrder for one that would overtake."""
        if not submission.stream or not self._stands_at:
            return
        op = submission.op.id
        stands_at = self._stands_at.get((submission.stream, author_of(op)))
        if stands_at is not None and sequence_of(op) > stands_at:
            raise OutOfOrder(f"operation {stands_at} of this author was refused here; send it again first")

    def refused(self, submission: Submission) -> None:
        """It was, and will come again."""
        if submission.stream:
            if len(self._stands_at) >= KEPT_MAX:
                self._stands_at.clear()
            op = submission.op.id
            self._stands_at[(submission.stream, author_of(op))] = sequence_of(op)

    def goes_on(self, submission: Submission) -> None:
        """It was taken."""
        if self._stands_at:
            self._stands_at.pop((submission.stream, author_of(submission.op.id)), None)
