"""Ways of lock messages: from mounts to the sequencer, over a peer if that is not us, and the answers back.

A server hears a mount, or a peer that passes on what a mount said. If it is the sequencer (and can be sure of it, see
`replication`), its `LockService` decides. If not, the message goes on over the lane that it dialled to the sequencer,
and the answer comes back on the same lane; a grant is held back until what the sequencer's log held then is in ours,
and gets the position of our log, because that is the one that the mount reads.

Threading: the event loop.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

import msgspec

from gdah_volume.ids import Author, ServerId
from gdah_volume.lock_messages import (
    LOCK_CLIENTS_MAX,
    LockAgain,
    LockAsk,
    LockBeat,
    LockClients,
    LockTold,
    OfMount,
    ToMount,
)
from gdah_volume.wire import encode
from storage_server.lock_service import LockService
from storage_server.ports import Outlet
from storage_server.replication import PassOn, Replication, StampHere

log = logging.getLogger("storage_server")

WAITING_MAX = 10_000
"""Messages that wait until it is known who the sequencer is; above it the oldest is dropped, and asked again."""
TELL_CLIENTS_S = 1.0


class LockLanes:
    """Invariant: the service knows something only while this server is the sequencer."""

    def __init__(
        self,
        replication: Replication,
        lanes: dict[ServerId, Outlet],
        head: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        """`lanes`: those that we dialled, by server."""
        self._replication = replication
        self._lanes = lanes
        self._head = head
        self._monotonic = monotonic
        self.service = LockService(self._tell, head)
        self._routes: dict[Author, tuple[int, Outlet]] = {}
        """The newest session of a mount, and where it is heard."""
        self._mounts: dict[Author, Outlet] = {}
        """Those that talk to us, and know about locks."""
        self._able: set[ServerId] = set()
        """Peers that know about locks."""
        self._waiting: deque[OfMount] = deque()
        self._relays: dict[ServerId, deque[ToMount]] = {}
        self._known: set[Author] = set()
        """Who holds locks, as the sequencer has told."""
        self._told: set[Author] = set()
        self._told_at = 0.0
        self._reigns = False
        self._joined: set[ServerId] = set()

    # --- who is there

    def mount_here(self, client: Author, outlet: Outlet) -> None:
        self._mounts[client] = outlet

    def gone(self, outlet: Outlet) -> None:
        """Its connection ended. What the mount holds lasts for its term."""
        for client in [client for client, way in self._mounts.items() if way is outlet]:
            del self._mounts[client]
        for client in [client for client, (_, way) in self._routes.items() if way is outlet]:
            del self._routes[client]

    def peer_is_able(self, server: ServerId, able: bool) -> None:  # noqa: FBT001
        (self._able.add if able else self._able.discard)(server)

    # --- from mounts to the sequencer

    def hear(self, message: OfMount, outlet: Outlet) -> None:
        """From a mount, or passed on by a peer."""
        known = self._routes.get(message.client)
        if (
            known is None or message.session >= known[0]
        ):  # else it was under way when the mount turned to another server
            self._routes[message.client] = (message.session, outlet)
        self._waiting.append(message)
        if len(self._waiting) > WAITING_MAX:
            self._waiting.popleft()
        self.pump(self._monotonic())

    def pump(self, now: float) -> None:
        while self._waiting:
            way = self._way(now)
            if way is None:
                return
            message = self._waiting.popleft()
            if way == self._replication.own:
                self._reign(now)
                self.service.hear(message, now)
            else:
                self._pass_on(way, message)

    def _way(self, now: float) -> ServerId | None:
        """Whom to ask; None: it will turn out soon."""
        replication = self._replication
        if replication.is_full:  # it refuses operations itself then, but it does not decide about locks
            return replication.sequencer
        route = replication.route(now)
        if isinstance(route, PassOn):
            return route.server
        return replication.own if isinstance(route, StampHere) and now < route.valid_until else None

    def _pass_on(self, server: ServerId, message: OfMount) -> None:
        lane = self._lanes.get(server)
        if lane is not None and server in self._able:
            lane.send(encode(message))
        elif isinstance(message, LockAsk):
            told = LockTold(client=message.client, session=message.session, ask=message.ask, result="local")
            self._tell(message.client, told)

    # --- and back

    def _tell(self, client: Author, message: ToMount) -> None:
        known = self._routes.get(client)
        if known is not None and not known[1].closed:
            known[1].send(encode(message))

    def heard_back(self, server: ServerId, message: ToMount) -> None:
        """On the lane that we dialled to the sequencer."""
        if isinstance(message, LockAgain) and not message.client:
            self._everybody_again()
            return
        self._relays.setdefault(server, deque()).append(message)
        self._relay(server)

    def applied(self, server: ServerId) -> None:
        """More of its log is in ours."""
        if self._relays.get(server):
            self._relay(server)

    def _relay(self, server: ServerId) -> None:
        relays, peer = self._relays[server], self._replication.peers.get(server)
        while relays:
            message = relays[0]
            if isinstance(message, LockTold | LockBeat) and message.position:
                if peer is not None and peer.cursor < message.position:
                    return
                message = msgspec.structs.replace(message, position=self._head())
            relays.popleft()
            self._tell(Author(message.client), message)

    # --- reigns

    def sequencer_changed(self) -> None:
        if self._replication.sequencer == self._replication.own:
            self._begin(self._monotonic())
        else:
            self._reigns = False
            self.service.end()
            self._everybody_again()

    def _reign(self, now: float) -> None:
        joined = self._now_joined()
        if not self._reigns:
            self._begin(now)
        elif joined - self._joined:
            # Who joins may have reigned over others meanwhile: they have to claim what they hold.
            self._known.clear()
            self._begin(now)
        self._joined = joined

    def _begin(self, now: float) -> None:
        self._reigns = True
        self._joined = self._now_joined()
        self.service.begin(now, set(self._known) or None)
        self._everybody_again()
        for server in self._able:
            lane = self._lanes.get(server)
            if lane is not None:
                lane.send(encode(LockAgain()))

    def _everybody_again(self) -> None:
        self._relays.clear()
        for outlet in self._mounts.values():
            outlet.send(encode(LockAgain()))

    def again(self) -> None:
        """A peer begins its reign."""
        if not self._reigns:
            self._everybody_again()

    def clients_are(self, clients: tuple[Author, ...]) -> None:
        if not self._reigns:
            self._known = set(clients)

    def _now_joined(self) -> set[ServerId]:
        return {peer.server for peer in self._replication.joined()}

    def has_stood_still(self, seconds: float) -> None:
        self.service.shift(seconds)

    def tick(self, now: float) -> None:
        replication = self._replication
        if replication.sequencer == replication.own:
            self._reign(now)
            if self._is_sure(now):
                self.service.tick(now)
                self._tell_clients(now)
        self.pump(now)
        for server in list(self._relays):
            self._relay(server)

    def _is_sure(self, now: float) -> bool:
        """Whether all that joined certainly still ask us."""
        own = self._replication.own
        return all(peer.sequencer == own and now < peer.lease_until() for peer in self._replication.joined())

    def _tell_clients(self, now: float) -> None:
        clients = set(self.service.clients)
        if clients == self._told and (not clients or now - self._told_at < TELL_CLIENTS_S):
            return
        self._told, self._told_at = clients, now
        frame = encode(LockClients(clients=tuple(sorted(clients))[:LOCK_CLIENTS_MAX]))
        for server in self._able:
            lane = self._lanes.get(server)
            if lane is not None:
                lane.send(frame)
