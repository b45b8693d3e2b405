"""What a mount knows of the locks of one file, of one call about them, and what locking asks of the rest of the mount.
Vocabulary of `locking`; decides nothing.

Threading: guarded by the lock of `locking`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from gdah_volume.errors import GdahError
from gdah_volume.ids import NodeId
from gdah_volume.lock_messages import FileLock, LockHold
from gdah_volume.locks import LockQueue, Owner, Range, Space

Act = Literal["set", "wait", "test", "unset"]
Done = Callable[[Range | GdahError | None], None]
"""The answer to a call: None: done; a Range: it stands in the way (of a test); an error."""


@dataclass(eq=False, slots=True)
class Ask:
    """One call of a program. `said`: nothing yet; sent; the server has put it in line; it is granted, and the tree is
    being brought up to date."""

    name: int
    node: NodeId
    act: Act
    space: Space
    owner: Owner
    wanted: Range
    done: Done | None
    at: float
    granted: Callable[[], None] | None = None
    """Called before `done` when a lock is held."""
    sent_at: float = 0.0
    saved: bool = False
    """Of an unset: what was written under it is."""
    mark: int = 0
    """Of an unset: the changes that have to be on a server before it is told."""
    tries: int = 0
    """How often it was looked at again, see BRIEFLY_S."""
    ended: bool = False
    """A signal ended the wait; the server is told."""
    said: Literal["", "sent", "waits", "granted"] = ""


@dataclass(eq=False, slots=True)
class LockedFile:
    """`mode`: what the server knows. "alone": nothing (or there is none); "leased": this mount manages the locks of
    this file; "shared": the server does, and `queue.table` is what our programs hold of it."""

    node: NodeId
    queue: LockQueue = field(default_factory=LockQueue)
    mode: Literal["alone", "leased", "shared"] = "alone"
    asks: dict[int, Ask] = field(default_factory=dict)
    """Undecided, or in line at the server."""
    local: dict[int, Ask] = field(default_factory=dict)
    """In line here."""
    recalled: bool = False
    fences: int = 0
    """The tree is being brought up to date before the lease is used."""
    pids: set[int] = field(default_factory=set)
    """Whose other files have to be saved before somebody else gets a lock here."""
    used_at: float = 0.0

    @property
    def idle(self) -> bool:
        return not (self.queue or self.asks or self.local or self.recalled or self.fences)

    def hold(self) -> LockHold:
        locks = tuple(
            FileLock(space, owner.key, held.write, held.start, held.end, held.pid)
            for space, owner, held in self.queue.table.all()
        )
        return LockHold(self.node, locks, self.mode == "leased")


class Surroundings(Protocol):
    """What locking asks of the rest of the mount."""

    def save(self, node: NodeId, pids: set[int]) -> None:
        """Save the unsaved edits of a file, and of what those processes have open."""
        ...

    def mark(self) -> int:
        """Of the changes made so far."""
        ...

    def settled(self, mark: int) -> bool:
        """Whether a server has acknowledged them."""
        ...

    def fence(self, position: int, then: Callable[[], None]) -> None:
        """Call `then`, in any thread, when the tree has all of the server's log up to `position` and the kernel was
        told. Never, if the server is lost before."""
        ...


class Alone:
    """The surroundings of a mount that has no server."""

    def save(self, node: NodeId, pids: set[int]) -> None: ...

    def mark(self) -> int:
        return 0

    def settled(self, mark: int) -> bool:  # noqa: ARG002
        return True

    def fence(self, position: int, then: Callable[[], None]) -> None:  # noqa: ARG002
        then()
