"""What the parts of the server ask of each other. Vocabulary only: frozen values and protocols.

The core (`replication`, `feeds`, `store`, `writer`, `volumes`) is written against these; the edges (`channel`, `peers`,
`transfer`, `api`, `original`) implement or call them; `app` puts them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gdah_volume.content import ChunkHash
from gdah_volume.errors import GdahError
from gdah_volume.ids import Epoch, OpId, ServerId, VolumeName, client_of
from gdah_volume.operations import Operation, chunks_in
from gdah_volume.stamps import ZERO, Stamp
from gdah_volume.wire import Ack, Blob, Entry, Refused


class Asker(Protocol):
    """Who waits for the answer to an operation: a connection, or a request on the data lane."""

    def answer(self, message: Ack | Refused) -> None:
        """Called once per submission, on the event loop; returns at once, also when the connection is gone."""
        ...


@dataclass(slots=True, eq=False)
class Watcher:
    """One who shows a log to others, up to `position`. A mount that is not `prompt` is not waited for."""

    position: int = 0
    prompt: bool = False
    late_at: float = float("-inf")
    """When it was last not there in time."""
    pause_s: float = 0.0
    """Since then it is not waited for so long."""


@dataclass(eq=False, slots=True)
class Submission:
    """A new operation on its way into the log.

    `doubt`: it was passed on and may be logged elsewhere, so it must not be refused any more.
    `giver`: the peer that passed it on (None: a mount, or this server itself).
    """

    op: Operation
    floor: Stamp
    blobs: tuple[Blob, ...]
    strict: bool
    sync: bool
    asker: Asker
    stream: int = 0
    """Which connection it came on: after a refusal that its author will mend, what follows on it must not overtake."""
    giver: ServerId | None = None
    doubt: bool = False
    serial: int = 0
    watcher: Watcher | None = None
    """The mount that made it, which shows it already."""

    @property
    def line(self) -> str:
        """What keeps its order on the way into the log: what one client sends, over whatever connection. (Not what one
        author made: operations of a run that was killed are sent by the next one, whose own build on them.)"""
        return client_of(self.op.id)

    @property
    def is_whole(self) -> bool:
        """All its content is in it. Between servers the feed that brings it back is then its acknowledgement."""
        return len(chunks_in(self.op)) <= len(self.blobs)


@dataclass(frozen=True, slots=True)
class Stamped:
    """A submission is in the log. `missing`: chunks that it names and that are not here. `is_new`: it came into the log
    by this, so every feed tells of it."""

    stamp: Stamp
    position: int
    missing: tuple[ChunkHash, ...] = ()
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """A new position in the log of this server. `origin`: the peer whose feed brought it with this stamp; `giver`: the
    peer that passed it on and so has its content."""

    entry: Entry
    origin: ServerId | None = None
    giver: ServerId | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What the writer knows of its log after a batch."""

    head: int = 0
    first: int = 1
    operations: int = 0
    digest: bytes = b""
    max_clock: int = 0
    stable: Stamp = ZERO
    promise: int = 0
    """This server stamps nothing at or below this clock any more."""


class StaleLease(Exception):
    """The time in which this server could be sure to be the sequencer ran out before the writer came to it, or to one
    that came before it."""


class Deeds(Protocol):
    """What the decisions of `replication` make happen. Called on the event loop; each returns at once."""

    def stamp(self, submission: Submission, *, strict: bool, valid_until: float, turn: int) -> None:
        """Put it into the own log; `Replication.stamped` is told the result. After a StaleLease all that follows in the
        same turn is one, too: nothing may overtake what will come again."""
        ...

    def pass_on(self, server: ServerId, submission: Submission, *, strict: bool) -> None: ...

    def acknowledge(self, submission: Submission, ack: Ack) -> None:
        """Answer it, as soon as other mounts show it."""
        ...

    def look_up(self, submission: Submission) -> None:
        """Is it in the own log already? `Replication.found` is told."""
        ...

    def sequencer_changed(self) -> None:
        """Peers should hear of it before the next beat is due."""
        ...


class Outlet(Protocol):
    """The sending side of a connection: bounded, never waited for by others."""

    def send(self, frame: bytes) -> None: ...
    @property
    def queued_bytes(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    async def drain(self) -> None:
        """Returns when little is queued, or the connection is closed."""
        ...

    def close(self, reason: str) -> None: ...


class Snapshot(Protocol):
    """Invariant: whole, and of the epoch that it names."""

    epoch: Epoch
    head: int

    def rows(self) -> Iterator[tuple[str, list[tuple[Any, ...]]]]: ...
    def close(self) -> None: ...


class ChunkSource(Protocol):
    """The data lane to other servers."""

    async def fetch(self, volume: VolumeName, name: ChunkHash, urls: Sequence[str]) -> bytes:
        """Raises UnknownChunk if every one of them answered that it does not have it, Unreachable otherwise."""
        ...

    async def store(self, volume: VolumeName, name: ChunkHash, data: bytes, urls: Sequence[str], *, sync: bool) -> int:
        """Store a chunk at other servers too; how many took it."""
        ...

    async def snapshot(self, volume: VolumeName, url: str) -> Snapshot:
        """A copy of what that server holds, on our disk. Raises Unreachable."""
        ...


class Conversation(Protocol):
    """A connection that somebody dialled to us. `server`: who it is, if it is a peer."""

    @property
    def server(self) -> ServerId | None: ...
    def drop(self, error: GdahError) -> None: ...


class Link(Protocol):
    """A lane that we dialled."""

    last_error: str | None

    def drop(self, reason: str) -> None: ...
    def beat_now(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a batch of a peer's feed."""

    missing: tuple[ChunkHash, ...]
    skipped: tuple[OpId, ...]
    """Entries that our code could not apply: a fault of ours, said loudly; the others of the batch are in."""
