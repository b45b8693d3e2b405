"""The dialling side of a lane between servers: reads a peer's log, passes operations on to it, hears its beats.

One link a URL. It dials for ever, after 0.1 to 1 s; a peer that is silent, or does not hear us, is given up within the
silence limit. Decides nothing: what it hears goes to the volume. Threading: the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from gdah_volume.errors import (
    BadMessage,
    GdahError,
    OutOfOrder,
    Unauthorized,
    Unreachable,
    from_code,
)
from gdah_volume.ids import Epoch, OpId, ServerId, check_server_id
from gdah_volume.lock_messages import LockAgain, LockBeat, LockRecall, LockTold
from gdah_volume.stamps import PENDING_CLOCK, Stamp
from gdah_volume.wire import (
    BEAT_INTERVAL_S,
    MESSAGE_MAX_BYTES,
    OFFER_MAX_IDS,
    PROTOCOL,
    SILENCE_LIMIT_S,
    Ack,
    Beat,
    Failed,
    Feed,
    HandedOver,
    Handover,
    Hello,
    Message,
    Offer,
    RangeIs,
    Refused,
    Shown,
    SnapshotNeeded,
    Subscribe,
    Want,
    Welcome,
    check_protocol,
    decode,
    encode,
)
from storage_server.config import check_url
from storage_server.digest_watch import DigestWatch
from storage_server.feeds import entry_bytes, in_batches
from storage_server.outlets import QueuedOutlet
from storage_server.volumes import SOFTWARE, Volume

log = logging.getLogger("storage_server")

RETRY_FIRST_S = 0.1
RETRY_LAST_S = 1.0
OPEN_TIMEOUT_S = 1.0
UNHEARD_LIMIT_S = SILENCE_LIMIT_S + 2 * BEAT_INTERVAL_S
"""It talks, but has echoed no beat of ours for so long: it does not hear us."""
ON_THE_WAY_MAX_BYTES = 4 << 20
"""Of its feed that may wait for our writer before we read no further: some seconds of its work. (With 32 MiB both
servers read, packed and unpacked whole logs as fast as they could, and did nothing else.)"""


HANDED_AT_ONCE = 64
"""Operations that are read with their content before they are sent."""


@dataclass(frozen=True, slots=True)
class Credentials:
    token: str | None = None
    tls: ssl.SSLContext | None = None


class _Lost(Exception):
    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone


class PeerLink:
    def __init__(self, volume: Volume, url: str, credentials: Credentials) -> None:
        self.volume = volume
        self.url = url
        self.last_error: str | None = "not reached yet"
        self._credentials = credentials
        self._outlet: QueuedOutlet | None = None
        self._server: ServerId | None = None
        self._last_heard = 0.0
        self._last_echo = 0.0
        self._their_sent_us = 0
        self._dropped: asyncio.Event = asyncio.Event()
        self._reason = ""
        self._again = asyncio.Event()
        self._digests = DigestWatch(volume, url)
        self._on_the_way = 0
        self._room = asyncio.Event()
        self._reads = True
        self._asked_above = False
        self._handed = False
        """We are retired, and this one has all that we have: there is nothing left to say."""

    # --- life

    async def run(self) -> None:
        """Dial for ever; ends only by cancellation, or when the URL leads back to ourselves."""
        delay_s = RETRY_FIRST_S
        while True:
            self._dropped.clear()
            self._again.clear()
            started = self.volume.monotonic()
            gone = False
            try:
                await self._converse()
            except _Lost as lost:
                self.last_error, gone = str(lost), lost.gone
            except GdahError as error:
                self.last_error = f"{error.code}: {error}"
            except (OSError, TimeoutError, WebSocketException, EOFError) as error:
                self.last_error, gone = _in_words(error), True
            finally:
                self._lost(gone=gone)
            if self._handed:
                return
            if self._server == self.volume.server:
                log.warning("peer %s is this server itself: not dialled any more", self.url)
                self.volume.replication.forget(self.url, self.volume.monotonic())
                return
            delay_s = (
                RETRY_FIRST_S if self.volume.monotonic() - started > RETRY_LAST_S else min(delay_s * 2, RETRY_LAST_S)
            )
            try:
                async with asyncio.timeout(delay_s):
                    await self._again.wait()
            except TimeoutError:
                pass

    def _lost(self, *, gone: bool) -> None:
        now = self.volume.monotonic()
        self.volume.replication.unreachable(self.url, now)
        if self._outlet is not None:
            self._outlet.end()
            if self._server is not None and self.volume.lanes.get(self._server) is self._outlet:
                del self.volume.lanes[self._server]
            self._outlet = None
            if self.last_error:
                log.warning("peer %s (%s): %s", self.url, self._server, self.last_error)
        if self._server is not None:
            self.volume.showing.peer_lost(self._server)
            self.volume.replication.link_down(self._server, self.last_error or "lost", now, gone=gone)

    def drop(self, reason: str) -> None:
        """Give this connection up; it is dialled again at once."""
        self._reason = reason
        self._dropped.set()
        self._again.set()

    # --- one conversation

    async def _converse(self) -> None:
        headers = {"Authorization": f"Bearer {self._credentials.token}"} if self._credentials.token else {}
        address = f"ws{self.url.removeprefix('http')}/v1/volumes/{self.volume.name}/lane"
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            socket = await connect(
                address,
                additional_headers=headers,
                compression=None,
                max_size=MESSAGE_MAX_BYTES,
                ping_interval=None,
                close_timeout=0.2,
                proxy=None,
                ssl=self._credentials.tls if self.url.startswith("https") else None,
            )
        try:
            await self._talk(socket)
        finally:
            socket.transport.abort()

    async def _talk(self, socket: ClientConnection) -> None:
        volume = self.volume
        outlet = QueuedOutlet(socket.send, self.drop, volume.monotonic)
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            await socket.send(encode(self._hello()))
            welcome = await self._heard(socket)
        if not isinstance(welcome, Welcome):
            raise OutOfOrder(f"{type(welcome).__name__} instead of Welcome")
        if volume.server in dict(welcome.retired) or volume.membership.is_retired:
            await self._leave(socket, welcome)
        await self._take_welcome(welcome)
        if await self._has_void(socket, welcome):
            log.warning("%s cannot take what was stamped here before we met: starting from a snapshot of it", self.url)
            await volume.load_snapshot(welcome.server, self.url)
            raise _Lost("a snapshot was loaded")
        self._outlet = outlet
        self._on_the_way, self._reads, self._asked_above = 0, True, False
        self._last_heard = self._last_echo = volume.monotonic()
        self._their_sent_us = 0
        self._digests.begin()
        volume.lanes[welcome.server] = outlet
        tasks = [
            asyncio.create_task(outlet.run()),
            asyncio.create_task(self._beats()),
            asyncio.create_task(self._listen(socket, welcome)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise _Lost(self._reason or "the connection ended")

    def _hello(self) -> Hello:
        volume = self.volume
        return Hello(
            protocol=PROTOCOL,
            volume=volume.name,
            role="server",
            software=SOFTWARE,
            author=volume.author,
            server=volume.server,
            epoch=volume.epoch,
            url=volume.membership.own_url or None,
            head=volume.figures.head,
            device=str(volume.server),
            locks=True,
        )

    async def _heard(self, socket: ClientConnection) -> Message:
        frame = await socket.recv(decode=False)
        message = decode(frame)
        self._last_heard = self.volume.monotonic()
        if isinstance(message, Failed):
            raise from_code(message.code, message.message)
        return message

    async def _take_welcome(self, welcome: Welcome) -> None:
        volume = self.volume
        server = check_server_id(welcome.server)
        self._server = server
        if server == volume.server:
            raise _Lost("this server itself")
        check_protocol(welcome.protocol, self.url)
        volume.retiring.heard(welcome.retired)
        if server in volume.membership.retired:
            volume.replication.forget(self.url, volume.monotonic())
            raise _Lost("it was retired; give it an empty --data folder to make it a member again")
        volume.locks.peer_is_able(server, welcome.locks)
        volume.take_news(volume.membership.answered(server, self.url))
        volume.replication.forget(self.url, volume.monotonic())
        volume.take_news(volume.membership.told((member, url and check_url(url)) for member, url in welcome.members))
        if welcome.your_cursor > volume.figures.head:
            await volume.begin_epoch(
                f"{server} has read our log up to {welcome.your_cursor}, and it ends at {volume.figures.head}"
            )
            raise _Lost("this server begins a new epoch")

    async def _beats(self) -> None:
        """A sign of life every so often; raises when there is none from the other side."""
        volume = self.volume
        while True:
            now = volume.monotonic()
            if self._dropped.is_set():
                raise _Lost(self._reason)
            judges = self._reads and volume.hears(now)
            if judges and now - self._last_heard > SILENCE_LIMIT_S:
                raise _Lost(f"silent for {now - self._last_heard:.1f} s", gone=True)
            if judges and now - self._last_echo > UNHEARD_LIMIT_S:
                raise _Lost(f"it has not heard us for {now - self._last_echo:.1f} s", gone=True)
            self.beat_now()
            try:
                async with asyncio.timeout(BEAT_INTERVAL_S):
                    await self._dropped.wait()
            except TimeoutError:
                pass

    def beat_now(self) -> None:
        if self._outlet is not None and self._server is not None:
            peer = self.volume.replication.peers.get(self._server)
            read = peer.cursor if peer is not None else 0
            self._outlet.send(
                encode(self.volume.beat(sent_us=self.volume.now_us(), echo_us=self._their_sent_us, read=read))
            )

    # --- what the peer says

    async def _listen(self, socket: ClientConnection, welcome: Welcome) -> None:
        volume, server, epoch = self.volume, welcome.server, welcome.epoch
        cursor, last = await volume.meet(server, epoch)
        assert self._outlet is not None
        if cursor > welcome.head:
            # It has lost the end of its log. It learns so from our cursor, and calls again in a new epoch.
            self._outlet.send(encode(Subscribe(cursor=cursor, blobs=True, last=last)))
            await asyncio.sleep(OPEN_TIMEOUT_S)
            raise _Lost(f"its log ends at {welcome.head} and was read up to {cursor}")
        volume.incoming.begin(server, cursor)
        volume.replication.link_up(server, welcome, cursor, volume.monotonic())
        self.last_error = None
        log.info("peer %s (%s) is there; its log ends at %d, read up to %d", self.url, server, welcome.head, cursor)
        self._outlet.send(encode(Subscribe(cursor=cursor, blobs=True, last=last)))
        volume.incoming.say_held(server, cursor)
        while True:
            message = await self._heard(socket)
            if isinstance(message, Feed):
                self._take_feed(server, epoch, message)
                await asyncio.sleep(0)  # a message that is here already comes without: others would not have their turn
                if self._on_the_way > ON_THE_WAY_MAX_BYTES or volume.wanted.is_full:
                    await self._wait_for_room()
            else:
                await self._hear(message, server)

    def _take_feed(self, server: ServerId, epoch: Epoch, message: Feed) -> None:
        size = sum(entry_bytes(entry) for entry in message.entries)
        self._on_the_way += size

        def applied() -> None:
            self._on_the_way -= size
            if self._on_the_way <= ON_THE_WAY_MAX_BYTES:
                self._room.set()

        self.volume.incoming.feed(server, epoch, message, applied)

    async def _wait_for_room(self) -> None:
        """We read no further for a while, so silence means nothing meanwhile."""
        self._reads = False
        try:
            while self._on_the_way > ON_THE_WAY_MAX_BYTES:
                self._room.clear()
                await self._room.wait()
            await self.volume.wanted.room()
        finally:
            self._reads = True
            self._last_heard = self._last_echo = self.volume.monotonic()

    async def _hear(self, message: Message, server: ServerId) -> None:
        volume, now = self.volume, self.volume.monotonic()
        match message:
            case Ack():
                volume.replication.peer_acked(server, message.id, message.copies, now)
            case Refused():
                volume.replication.peer_refused(server, message.id, message.code, message.message, now)
            case Shown():
                volume.showing.peer_shows(server, message.position)
            case Beat():
                self._their_sent_us = message.sent_us
                if message.echo_us:
                    self._last_echo = max(self._last_echo, min(message.echo_us / 1e6, now))
                volume.retiring.heard(message.retired)
                volume.replication.beat(server, message, "out", now)
                assert self._outlet is not None
                self._digests.look(message, server, self._outlet, now)
                if self._digests.must_give_way(server):
                    self._digests = DigestWatch(volume, self.url)
                    await self._take_snapshot(server)
            case RangeIs():
                assert self._outlet is not None
                await self._digests.answered(message, self._outlet)
            case SnapshotNeeded():
                if self._asked_above:
                    await self._take_snapshot(server)
                # We have all up to our stable point, whatever the positions are; above it its log may reach back.
                self._asked_above = True
                assert self._outlet is not None
                self._outlet.send(encode(Subscribe(above=volume.figures.stable, blobs=True)))
            case LockTold() | LockRecall() | LockAgain() | LockBeat():
                volume.locks.heard_back(server, message)
            case HandedOver() | Want():
                pass
            case _:
                raise BadMessage(f"{type(message).__name__} is not for a server to say now")

    async def _take_snapshot(self, server: ServerId) -> None:
        log.warning("nothing but a snapshot of %s brings us together: fetching it", self.url)
        self._reads = False  # silence means nothing meanwhile
        try:
            await self.volume.load_snapshot(server, self.url)
        finally:
            self._reads = True
            self._last_heard = self._last_echo = self.volume.monotonic()
        raise _Lost("a snapshot was loaded")

    async def _leave(self, socket: ClientConnection, welcome: Welcome) -> None:
        """We were retired: hand over what nobody else has. Ends with _Lost in any case."""
        volume = self.volume
        volume.retiring.heard(welcome.retired)
        if volume.server not in dict(welcome.retired):
            raise _Lost("this server was retired, and that one does not know it yet")
        await volume.retiring.settled()
        stamped = await asyncio.to_thread(volume.readers.stamped_up_to, Stamp(PENDING_CLOCK - 2, volume.server))
        count = 0
        for start in range(0, len(stamped), OFFER_MAX_IDS):
            part = stamped[start : start + OFFER_MAX_IDS]
            await socket.send(encode(Offer(stamped=tuple(part))))
            while not isinstance(answer := await self._heard(socket), Want):
                pass
            wanted = set(answer.ids)
            for batch in in_slices([each for each in part if each[0] in wanted], HANDED_AT_ONCE):
                entries = await asyncio.to_thread(volume.readers.entries_of, batch, with_blobs=True)
                await volume.retiring.lend(entries, self.url)
                for few in in_batches(entries):
                    await socket.send(encode(Handover(entries=few)))
                count += len(entries)
        await socket.send(encode(Handover(entries=(), last=True)))
        while not isinstance(await self._heard(socket), HandedOver):
            pass
        self._handed = True
        log.warning("this server was retired; %s has got the %d operations that it did not have", self.url, count)
        raise _Lost("this server was retired, and has handed over everything")

    async def _has_void(self, socket: ClientConnection, welcome: Welcome) -> bool:
        """Operations that we stamped before this peer knew us, below its stable point: nobody can insert them there
        any more. True if it lacks one: then we become what it is, and offer ours again with new stamps."""
        if welcome.your_cursor or not welcome.stable.clock or not self.volume.figures.head:
            return False
        void = await asyncio.to_thread(self.volume.readers.stamped_up_to, welcome.stable)
        for start in range(0, len(void), OFFER_MAX_IDS):
            await socket.send(encode(Offer(stamped=tuple(void[start : start + OFFER_MAX_IDS]))))
            while not isinstance(answer := await self._heard(socket), Want):
                pass
            if answer.ids:
                return True
        return False


def in_slices(stamped: list[tuple[OpId, Stamp]], size: int) -> list[list[tuple[OpId, Stamp]]]:
    return [stamped[at : at + size] for at in range(0, len(stamped), size)]


def _in_words(error: BaseException) -> str:
    """What went wrong, for people."""
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        if status == 401:
            return str(Unauthorized("it does not take our token: give both servers the same --token-file"))
        return f"it answered with HTTP status {status}"
    if isinstance(error, TimeoutError):
        return str(Unreachable("no answer in time"))
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: no server listens there"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error} (give --ca with the certificate of the authority)"
    return f"{error or type(error).__name__}"
