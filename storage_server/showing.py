"""`shown` at work for a volume: its timer, the mounts that are connected here, and what peers say of theirs.

The promise: what is acknowledged, every mount that is connected to a joined server shows already. An operation that
was passed on comes back with the word that the peer's mounts lack it (`shown_later`), and then its Shown. What a peer's
feed brings is held (`Held`) when our mounts show it. Threading: the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from gdah_volume.ids import OpId, ServerId
from gdah_volume.wire import Ack, Entry, Shown, encode
from storage_server.ports import Outlet, Submission, Watcher
from storage_server.shown import LIMIT_S, PEER_LIMIT_S, Need
from storage_server.shown import Shown as Waits


class Showing:
    def __init__(self, head: Callable[[], int], monotonic: Callable[[], float]) -> None:
        """`head`: of our own log."""
        self.waits = Waits()
        self._head = head
        self._monotonic = monotonic
        self._peers: dict[ServerId, Watcher] = {}
        self._unshown: dict[OpId, Need] = {}
        self._timer: asyncio.TimerHandle | None = None

    # --- the mounts here

    def told(self, watcher: Watcher, position: int) -> None:
        self.waits.told(watcher, position, self._head(), self._monotonic())

    def lacks(self, position: int) -> bool:
        """Whether some mount here is going to show `position`, and does not yet."""
        self.waits.pass_by(position)
        return bool(self.waits.lacking(position))

    def when_shown(self, done: Callable[[], None]) -> None:
        """Call `done` when the mounts here show all that is in our log now."""
        self.waits.pass_by(self._head())
        self._wait(self.waits.lacking(self._head()), done)

    def tell(self, outlet: Outlet, position: int) -> None:
        """Say Shown to a peer when it is so."""
        self._wait(self.waits.lacking(position), lambda: outlet.send(encode(Shown(position=position))))

    # --- peers

    def comes_back(self, server: ServerId, entries: Iterable[Entry]) -> None:
        """What we passed on is in that peer's log, and its mounts do not show it yet."""
        watcher = self._peers.setdefault(server, Watcher())
        for entry in entries:
            self._unshown[entry.op.id] = (watcher, entry.position)

    def peer_shows(self, server: ServerId, position: int) -> None:
        watcher = self._peers.get(server)
        if watcher is not None:
            self.waits.told(watcher, position, position, self._monotonic())

    def peer_lost(self, server: ServerId) -> None:
        """Its positions may begin anew; nobody waits for it."""
        watcher = self._peers.pop(server, None)
        if watcher is not None:
            self._unshown = {op: need for op, need in self._unshown.items() if need[0] is not watcher}
            self.waits.remove(watcher)

    # --- answers

    def acknowledge(self, submission: Submission, ack: Ack) -> None:
        self.waits.pass_by(ack.position, submission.watcher)
        needs = self.waits.lacking(ack.position, submission.watcher)
        there = self._unshown.pop(ack.id, None)
        if there is not None:
            needs.append(there)
        if needs:
            self._wait(needs, lambda: submission.asker.answer(ack), PEER_LIMIT_S if there else LIMIT_S)
        else:
            submission.asker.answer(ack)

    def _wait(self, needs: list[Need], done: Callable[[], None], limit_s: float = LIMIT_S) -> None:
        if not needs:
            done()
            return
        self.waits.wait(needs, done, self._monotonic(), limit_s)
        self._set_timer()

    def _set_timer(self) -> None:
        due = self.waits.due
        if due is not None and self._timer is None:
            delay_s = max(0.0, due - self._monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.waits.tick(self._monotonic())
        self._set_timer()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
