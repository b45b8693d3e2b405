"""What the sequencer knows of one mount and of the locks of one file, and its limits. Vocabulary of `lock_service`."""

from __future__ import annotations

from dataclasses import dataclass, field

from gdah_volume.ids import Author, NodeId
from gdah_volume.lock_messages import LockAsk
from gdah_volume.locks import FILE_LOCKS_MAX, LockQueue

TERM_S = 2.0
"""A mount that was not heard for so long is dead: longer than a turn to another server takes."""
LOCK_GRACE_S = 1.5
"""Longer than a mount that is cut off goes on judging by a lease (LEASE_S there)."""
COUNT_S = 0.3
QUIET_S = 1.0
"""A file in which nobody else was interested for so long may be leased again."""
RECALL_AGAIN_S = 1.0
CLIENT_LOCKS_MAX = 65_536
CLIENT_FILES_MAX = 16_384
CLIENT_ASKS_MAX = 1024
"""Of one mount: locks here, files that it manages or holds locks of, calls that wait. At the limit a call is told
`full`, which programs see as ENOLCK."""
HELD_MAX = 16_384
"""Calls that wait for the grace to be over, of all mounts."""
GONE_KEPT = 1000


@dataclass(eq=False, slots=True)
class Client:
    session: int
    heard_at: float
    nodes: set[NodeId] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class ServedFile:
    """Invariant: with a lease, or while a lease is owed back, nothing is granted to anybody here."""

    queue: LockQueue = field(default_factory=LockQueue)
    lease: Author | None = None
    owing: dict[Author, float] = field(default_factory=dict)
    """Who was told to give its lease back, and when."""
    pending: list[LockAsk] = field(default_factory=list)
    asked: dict[Author, float] = field(default_factory=dict)
    """When whom was last interested."""

    @property
    def empty(self) -> bool:
        return not (self.queue or self.lease or self.owing or self.pending)


assert LOCK_GRACE_S < TERM_S
assert CLIENT_LOCKS_MAX > FILE_LOCKS_MAX
