"""The operation lane as the server of the conversation speaks it: one WebSocket with a mount or a peer.

Checks the order of what is said, hands it to the volume and sends what comes back. Decides nothing about operations.
Whoever breaks the protocol is told how (`Failed`) and loses this connection; nobody else notices. Threading: the event
loop.
"""

from __future__ import annotations

import asyncio
import itertools
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect

from gdah_volume.errors import (
    BadMessage,
    GdahError,
    OutOfOrder,
    Retired,
    UnknownVolume,
    Unreachable,
)
from gdah_volume.ids import ServerId, check_author, check_op_id, check_server_id, check_volume
from gdah_volume.lock_messages import LockAgain, LockAsk, LockBeat, LockClaim, LockClients, LockGiven
from gdah_volume.operations import chunks_in
from gdah_volume.wire import (
    SILENCE_LIMIT_S,
    Ack,
    AskRange,
    Beat,
    Failed,
    HandedOver,
    Handover,
    Held,
    Hello,
    Message,
    Offer,
    RangeIs,
    Refused,
    Shown,
    SnapshotNeeded,
    Submit,
    Subscribe,
    Want,
    check_protocol,
    decode,
    encode,
)
from storage_server.config import check_url
from storage_server.feeds import Subscription
from storage_server.metrics import COUNTS
from storage_server.outlets import QueuedOutlet
from storage_server.ports import Submission, Watcher
from storage_server.replication import FOREVER
from storage_server.volume_store import retired_words
from storage_server.volumes import Volume

log = logging.getLogger("storage_server")

MOUNT_SILENCE_S = 5.0
"""A mount that says nothing for so long, not even Hello, is taken for dead; it comes back by itself."""
ON_THE_WAY_MAX = 4096
"""Unanswered operations of one connection; with more it is not read any further."""

_streams = itertools.count(1)


class LaneConversation:
    """Invariant: after `Failed` nothing more is sent or heard."""

    def __init__(self, volume: Volume, websocket: WebSocket) -> None:
        self.volume = volume
        self._websocket = websocket
        self._outlet = QueuedOutlet(self._write, self._broken, volume.monotonic)
        self._stream = next(_streams)
        self._hello: Hello | None = None
        self._subscription: Subscription | None = None
        self._watcher: Watcher | None = None
        self._unanswered = 0
        self._room = asyncio.Event()
        self._room.set()
        self._last_heard = volume.monotonic()
        self._end = asyncio.Event()
        self._reason: GdahError | None = None
        self._reader: asyncio.Task[None] | None = None

    # --- the connection

    async def run(self) -> None:
        """From the accepted WebSocket to its end."""
        sender = asyncio.create_task(self._outlet.run())
        watch = asyncio.create_task(self._watch())
        self._reader = asyncio.create_task(self._listen())
        self.volume.conversations.add(self)
        try:
            await asyncio.wait({sender, self._reader, watch}, return_when=asyncio.FIRST_COMPLETED)
            if self._reader.done() and not self._reader.cancelled():
                error = self._reader.exception()
                if isinstance(error, GdahError):
                    self._reason = error
                elif error is not None and not isinstance(error, WebSocketDisconnect | RuntimeError | OSError):
                    log.error("a conversation failed by a fault of ours", exc_info=error)
                    self._reason = GdahError("internal error; see the server's log")
        finally:
            self.volume.conversations.discard(self)
            for task in (sender, self._reader, watch):
                task.cancel()
            await asyncio.gather(sender, self._reader, watch, return_exceptions=True)
            self.volume.locks.gone(self._outlet)
            self._close_feed()
            await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        self._outlet.end()
        try:
            async with asyncio.timeout(1.0):
                if self._reason is not None:
                    COUNTS.refused(self._reason.code)
                    log.info("lane of %s ends: %s: %s", self._name(), self._reason.code, self._reason)
                    await self._write(encode(Failed(code=self._reason.code, message=str(self._reason))))
                await self._websocket.close()
        except (RuntimeError, OSError, TimeoutError, WebSocketDisconnect):
            pass  # it is gone already

    def _close_feed(self) -> None:
        if self._subscription is not None:
            self.volume.feeds.remove(self._subscription)
        if self._watcher is not None:
            self.volume.showing.waits.remove(self._watcher)
        hello = self._hello
        if hello is not None and hello.server is not None and self._subscription is not None:
            now = self.volume.monotonic()
            silent = now - self._last_heard > SILENCE_LIMIT_S and self.volume.hears(now)
            reason = "it fell silent" if silent else str(self._reason or "it closed its lane to us")
            self.volume.replication.feed_closed(hello.server, reason, self.volume.monotonic(), gone=silent)

    async def _write(self, frame: bytes) -> None:
        await self._websocket.send({"type": "websocket.send", "bytes": frame})

    def _broken(self, reason: str) -> None:
        self.drop(Unreachable(reason))

    @property
    def _is_retired(self) -> bool:
        """A server that is no member any more, and may have what nobody else has."""
        return self.server is not None and self.server in self.volume.membership.retired

    @property
    def is_peer(self) -> bool:
        return self._hello is not None and self._hello.role == "server"

    @property
    def server(self) -> ServerId | None:
        return self._hello.server if self._hello is not None else None

    def drop(self, error: GdahError) -> None:
        """End it from our side, for this reason."""
        if self._reason is None:
            self._reason = error
        self._end.set()

    async def _watch(self) -> None:
        """Returns when the other side is silent, does not read, or is dropped."""
        while not self._end.is_set():
            peer = self.is_peer
            limit = SILENCE_LIMIT_S if peer else MOUNT_SILENCE_S
            now = self.volume.monotonic()
            silent_s = now - self._last_heard
            if self._room.is_set() and silent_s > limit and self.volume.hears(now):
                self._reason = Unreachable(f"nothing heard for {silent_s:.1f} s")
                return
            if self._outlet.is_stuck():
                self._reason = Unreachable("it does not read what it is sent")
                return
            try:
                async with asyncio.timeout(0.05 if peer else 0.5):
                    await self._end.wait()
            except TimeoutError:
                continue

    def _name(self) -> str:
        if self._hello is None:
            return "somebody"
        return f"server {self._hello.server}" if self._hello.server else f"mount {self._hello.author}"

    # --- what it says

    async def _listen(self) -> None:
        while True:
            event = await self._websocket.receive()
            if self._end.is_set():
                return
            if event["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(event.get("code", 1005))
            self._last_heard = self.volume.monotonic()
            frame = event.get("bytes")
            message = decode(event.get("text", "") if frame is None else frame)
            if type(message) is Submit:
                await self._submit(message)
            else:
                await self._hear(message)

    async def _hear(self, message: Message) -> None:
        if self._hello is None:
            if not isinstance(message, Hello):
                raise OutOfOrder(f"{type(message).__name__} before Hello")
            await self._greet(message)
            return
        self._check_allowed(message)
        match message:
            case Beat():
                self._beat(message)
            case Held():
                self._held(message)
            case Shown():
                self._shown(message)
            case Subscribe():
                await self._subscribe(message)
            case Offer():
                for op, _ in message.stamped:
                    check_op_id(op)
                ids = await asyncio.to_thread(self.volume.readers.lacking, message.stamped)
                self._outlet.send(encode(Want(ids=ids)))
            case Handover():
                await self._handed_over(message)
            case AskRange():
                await self._range(message)
            case LockClaim() | LockAsk() | LockGiven() | LockBeat():
                self._lock(message)
            case LockAgain() if self.is_peer:
                self.volume.locks.again()
            case LockClients() if self.is_peer:
                self.volume.locks.clients_are(message.clients)
            case _:
                raise OutOfOrder(f"{type(message).__name__} is not for a dialler to say now")

    def _check_allowed(self, message: Message) -> None:
        """Raises Retired for what a retired server has no right to any more."""
        if self._is_retired and not isinstance(message, Beat | Offer | Handover):
            raise Retired(retired_words(self.server or self.volume.server))

    async def _greet(self, hello: Hello) -> None:
        check_protocol(hello.protocol, f"the {hello.role}")
        if check_volume(hello.volume) != self.volume.name:
            raise UnknownVolume(f"this lane is for volume {self.volume.name}, not {hello.volume}")
        check_author(hello.author)
        if self.volume.membership.is_retired:
            raise Retired(retired_words(self.volume.server))
        your_cursor = 0
        if hello.role == "server":
            your_cursor, _ = await self._greet_peer(hello)
        elif hello.server is not None:
            raise BadMessage("a mount has no server id")
        self._hello = hello
        if hello.locks and hello.server is None:
            self.volume.locks.mount_here(hello.author, self._outlet)
        COUNTS.conversation(hello.role)
        self._outlet.send(encode(self.volume.welcome(your_cursor)))

    async def _greet_peer(self, hello: Hello) -> tuple[int, str]:
        if hello.server is None or hello.epoch is None:
            raise BadMessage("a server says its id and its epoch")
        server, epoch = check_server_id(hello.server), hello.epoch
        if server == self.volume.server:
            raise BadMessage(f"this is server {server} itself: a --peer of it leads back to it")
        if server in self.volume.membership.retired:
            return 0, ""  # our Welcome says so; it hands over what nobody else has
        url = ""
        if hello.url:
            url = check_url(hello.url)
        self.volume.take_news(self.volume.membership.called(server, url))
        if server not in self.volume.replication.peers:
            self.volume.dial(url)
            raise Unreachable(f"{url} is known as another server; it is being asked who it is")
        return await self.volume.meet(server, epoch)

    def _beat(self, beat: Beat) -> None:
        assert self._hello is not None
        volume = self.volume
        read = 0
        if self._hello.server is not None:
            volume.retiring.heard(beat.retired)
            volume.replication.beat(self._hello.server, beat, "in", volume.monotonic())
            peer = volume.replication.peers.get(self._hello.server)
            read = peer.cursor if peer is not None else 0
        live = self._subscription is not None and self._subscription.live
        self._outlet.send(encode(volume.beat(sent_us=volume.now_us(), echo_us=beat.sent_us, read=read, live=live)))

    def _lock(self, message: LockClaim | LockAsk | LockGiven | LockBeat) -> None:
        assert self._hello is not None
        if not self.is_peer and message.client != self._hello.author:
            raise BadMessage("a mount speaks for itself alone")
        self.volume.locks.hear(message, self._outlet)

    # --- the feed

    async def _subscribe(self, message: Subscribe) -> None:
        assert self._hello is not None
        if self._subscription is not None:
            raise OutOfOrder("already subscribed on this connection")
        volume, server = self.volume, self._hello.server
        cursor, above = message.cursor, message.above
        if (cursor is not None and cursor < 0) or (cursor is None and above is None):
            raise BadMessage("subscribe after a cursor, or above a stamp")
        if cursor is not None and cursor > volume.figures.head:
            if server is not None:
                await volume.begin_epoch(f"{server} has read up to {cursor}, our log ends at {volume.figures.head}")
                return
            if above is None:
                raise OutOfOrder(f"cursor {cursor} lies beyond the end of the log, {volume.figures.head}")
            cursor = None
        if server is not None and cursor and message.last:
            last = check_op_id(message.last)
            if not await asyncio.to_thread(volume.readers.has_at, cursor, last):
                await volume.begin_epoch(f"{server} has read {last} at {cursor}, our log has another operation there")
                return
        if not await volume.reaches_back(cursor, above):
            self._outlet.send(encode(SnapshotNeeded(first=volume.figures.first)))
            return
        position = cursor if cursor is not None else volume.figures.first - 1
        self._subscription = Subscription(
            self._outlet,
            position=position,
            above=above if cursor is None else None,
            blobs=message.blobs,
            server=server,
        )
        if server is not None:
            volume.replication.feed_open(server, position, volume.monotonic())
        elif self._hello.shows:
            self._watcher = Watcher()
            volume.showing.waits.add(self._watcher)
        volume.subscribe(self._subscription)

    def _held(self, message: Held) -> None:
        assert self._hello is not None
        if self._hello.server is None:
            raise OutOfOrder("Held is for servers to say")
        if not 0 <= message.position <= self.volume.figures.head:
            raise BadMessage(f"position {message.position} is not in this log")
        self.volume.replication.held(self._hello.server, message.position, self.volume.monotonic())

    def _shown(self, message: Shown) -> None:
        if self._hello is None or self._hello.server is not None or not self._hello.shows:
            raise OutOfOrder("Shown is for mounts to say, that announced it")
        if self._watcher is None:
            return  # its Subscribe was answered by SnapshotNeeded
        if not 0 <= message.position <= self.volume.figures.head:
            raise BadMessage(f"position {message.position} is not in this log")
        self.volume.showing.told(self._watcher, message.position)

    # --- operations

    async def _submit(self, message: Submit) -> None:
        if self._hello is None:
            raise OutOfOrder("Submit before Hello")
        if message.floor.clock < 0:
            raise BadMessage("a floor below zero")
        self._check_allowed(message)
        submission = Submission(
            op=message.op,
            floor=message.floor,
            blobs=message.blobs,
            strict=message.strict,
            sync=message.sync,
            asker=self,
            stream=self._stream,
            giver=self._hello.server,
            watcher=self._watcher,
        )
        if submission.giver is None:
            self._unanswered += 1
        if self._unanswered >= ON_THE_WAY_MAX:  # of a mount: a peer's beats must be read, its mounts are bounded there
            self._room.clear()
        if submission.giver is None and len(chunks_in(message.op)) > len(message.blobs):
            await self._submit_checked(submission)
        else:
            self.volume.submit(submission)
        await self._room.wait()

    async def _submit_checked(self, submission: Submission) -> None:
        """It names content that is not in it: that must be here, also if another server is to stamp it."""
        try:
            await self.volume.check_content(submission)
        except GdahError:
            # The writer refuses it again, in its place among the others of this connection.
            await self._refuse_here(submission)
            return
        self.volume.submit(submission)

    async def _refuse_here(self, submission: Submission) -> None:
        try:
            await self.volume.do(
                lambda store: store.stamp(submission, strict=submission.strict, valid_until=FOREVER),
                line=submission.line,
            )
        except GdahError as error:
            self.answer(Refused(id=submission.op.id, code=error.code, message=str(error)))
        else:
            self.volume.submit(submission)  # known, or its content came in this moment

    def answer(self, message: Ack | Refused) -> None:
        if not self.is_peer:
            self._unanswered -= 1
        if self._unanswered < ON_THE_WAY_MAX // 2:
            self._room.set()
        if isinstance(message, Refused):
            COUNTS.refused(message.code)
            self._outlet.send(encode(message))
        elif self._subscription is not None:
            self._subscription.acknowledge(message)
        else:
            self._outlet.send(encode(message))

    async def _handed_over(self, message: Handover) -> None:
        head = self.volume.figures.head
        if message.entries:
            by_member = self.is_peer and not self._is_retired
            head = await self.volume.hand_over(message.entries, by_mount=not self.is_peer, by_member=by_member)
        if message.last:
            self._outlet.send(encode(HandedOver(head=head)))

    async def _range(self, message: AskRange) -> None:
        low, high = message.low, message.high
        if not 0 <= low < high:
            raise BadMessage(f"not a range: [{low}, {high})")
        count, digest, stamped = await asyncio.to_thread(self.volume.readers.range_is, low, high)
        self._outlet.send(encode(RangeIs(low=low, high=high, count=count, digest=digest, stamped=stamped)))


async def serve_lane(websocket: WebSocket, volumes: dict[str, Volume], name: str) -> None:
    """The endpoint: accept, talk, close."""
    await websocket.accept()
    try:
        volume = volumes.get(check_volume(name))
        if volume is None:
            raise UnknownVolume(f"there is no volume {name!r} here")
    except GdahError as error:
        COUNTS.refused(error.code)
        await websocket.send({"type": "websocket.send", "bytes": encode(Failed(code=error.code, message=str(error)))})
        await websocket.close()
        return
    await LaneConversation(volume, websocket).run()
