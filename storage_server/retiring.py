"""Taking a server out of a volume for good, and what each of the others, and that one itself, makes of it.

That a server is RETIRED is written down by every server before it is said to others; it travels in welcomes and beats,
and is never taken back. From then on nobody waits for that server, and its stamps are VOID where no member had them:
whoever is handed such an operation, by that server or by a mount, gives it a stamp of its own. The promises of a peer
that does not know it yet do not count: it may still take over what the retired one stamps. So no stamp can reach one
member below its stable point while another has it.

Threading: the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gdah_volume.errors import GdahError, InvalidArgument, NotFound, Retired, Unreachable
from gdah_volume.ids import ServerId
from gdah_volume.operations import chunks_in
from gdah_volume.wire import Entry
from storage_server.peer_state import Phase
from storage_server.volume_store import retired_words

if TYPE_CHECKING:
    from storage_server.volumes import Volume

log = logging.getLogger("storage_server")


class Retiring:
    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._tasks: dict[ServerId, asyncio.Task[None]] = {}

    async def retire(self, target: str, *, force: bool) -> ServerId:
        """By id or URL. Written down here when it returns; the others learn of it. Raises InvalidArgument, NotFound."""
        membership, replication = self._volume.membership, self._volume.replication
        if target.rstrip("/") in (membership.own, membership.own_url.rstrip("/")):
            raise InvalidArgument(f"{target} is this server itself: ask another one to retire it")
        server = membership.find(target)
        if server is None:
            known = ", ".join(f"{each} ({url or 'URL unknown'})" for each, url in membership.urls.items()) or "none"
            raise NotFound(f"{target} is no member of volume {self._volume.name}; members besides this one: {known}")
        others = [peer for peer in replication.peers.values() if peer.server != server and peer.phase is Phase.JOINED]
        peer = replication.peers.get(server)
        if not force and not others and peer is not None and peer.phase is Phase.JOINED:
            raise InvalidArgument(
                f"{target} is the only other server that has everything: without it there is one copy; "
                "add another server first, or say force=1 (gdah retire --force)"
            )
        await self._learn({server: membership.urls.get(server, membership.retired.get(server, ""))})
        return server

    def heard(self, retired: Iterable[tuple[ServerId, str]]) -> None:
        """What another server says; a no-op but for the first time."""
        known = self._volume.membership.retired
        for server, url in retired:
            if server not in known and server not in self._tasks:
                task = asyncio.get_running_loop().create_task(self._hear({server: url}))
                self._tasks[server] = task
                task.add_done_callback(lambda _task, server=server: self._tasks.pop(server, None))  # type: ignore[misc]

    async def _hear(self, servers: dict[ServerId, str]) -> None:
        try:
            await self._learn(servers)
        except GdahError as error:
            log.warning("cannot write down that %s is retired: %s; it is heard again", ", ".join(servers), error)

    async def settled(self) -> None:
        """Everything that was heard is written down, or is to be heard again."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _learn(self, servers: dict[ServerId, str]) -> None:
        """Bulk, so that it comes after all that was read of their logs before."""
        await self._volume.do(lambda store: store.retire(servers), sync=True, is_bulk=True)
        for server, url in servers.items():
            self._take_out(server, url)

    def _take_out(self, server: ServerId, url: str) -> None:
        volume = self._volume
        if server in volume.membership.retired and server not in volume.membership.urls:
            return
        url = volume.membership.retire(server, url)
        volume.save_members()
        volume.replication.retired.add(server)
        if server == volume.server:
            log.warning("%s; it takes no more operations and hands over what nobody else has", retired_words(server))
            for conversation in list(volume.conversations):
                conversation.drop(Retired(retired_words(server)))
            volume.reset_links("this server was retired")
            return
        log.warning("server %s (%s) of volume %s is retired", server, url, volume.name)
        now = volume.monotonic()
        volume.replication.retire(server, now)
        volume.replication.forget(url, now)
        for conversation in list(volume.conversations):
            if conversation.server == server:
                conversation.drop(Retired(retired_words(server)))
        link = volume.links.get(url)
        if link is not None:
            link.drop("it was retired")

    async def lend(self, entries: Sequence[Entry], url: str) -> None:
        """Put larger content of operations to a server that is about to get them. Raises Unreachable."""
        volume = self._volume
        for entry in entries:
            brought = {blob.hash for blob in entry.blobs}
            for chunk in chunks_in(entry.op):
                if chunk.hash in brought:
                    continue
                try:
                    data = await volume.content.read(chunk.hash, here_only=True)
                except GdahError as error:
                    log.warning("content of %s is not here and cannot be handed over: %s", entry.op.id, error)
                    continue
                if not await volume.source.store(volume.name, chunk.hash, data, [url], sync=False):
                    raise Unreachable(f"{url} does not take a chunk now")
