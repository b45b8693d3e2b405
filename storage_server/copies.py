"""Which acknowledgements wait for how many copies. Pure; asked by `replication`, which knows the peers."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gdah_volume.ids import ServerId
from gdah_volume.stamps import Stamp
from storage_server.peer_state import Peer, Phase
from storage_server.ports import Submission


@dataclass(order=True, slots=True)
class Waiting:
    """In our log at `position`, not yet at all who are waited for. `exempt`: a peer that is known to have it. `lacks`:
    of its content something is still missing here."""

    position: int
    serial: int
    submission: Submission = field(compare=False)
    stamp: Stamp = field(compare=False)
    exempt: ServerId | None = field(compare=False)
    at: float = field(compare=False)
    lacks: bool = field(compare=False, default=False)


class Copies:
    """Invariant: what is waiting here is lacked by a joined peer, or stands behind one that is."""

    def __init__(self, peers: Callable[[], Iterable[Peer]]) -> None:
        self._peers = peers
        self._heap: list[Waiting] = []

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def oldest(self) -> Waiting | None:
        """The one with the smallest position."""
        return self._heap[0] if self._heap else None

    def wait(self, waiting: Waiting) -> None:
        heapq.heappush(self._heap, waiting)

    def is_complete(self, waiting: Waiting) -> bool:
        """Nobody who is joined lacks it."""
        return all(
            peer.held >= waiting.position or peer.server == waiting.exempt or peer.phase is not Phase.JOINED
            for peer in self._peers()
        )

    def pop_complete(self) -> Iterable[Waiting]:
        while self._heap and self.is_complete(self._heap[0]):
            yield heapq.heappop(self._heap)

    def count(self, waiting: Waiting) -> int:
        """Servers that hold it with its content, ourselves included."""
        return (not waiting.lacks) + sum(
            peer.held >= waiting.position or peer.server == waiting.exempt for peer in self._peers()
        )
