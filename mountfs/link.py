"""The operation lane to one server, over a WebSocket: dials, says hello, beats, receives, and dials again. An
edge.

Decides nothing: what arrives is told to `LinkEvents`, what is to be sent comes from there. A connection that
is down stays down; the dialler brings up a new one, with a backoff, for ever.

The WebSocket protocol is that of `websockets` without its own threads: a message is sent straight from the
calling thread and received by one thread, which saves two changes of thread in each round trip.

Threading: one receiving thread for each server calls all of LinkEvents, in order of arrival. Sending from any
thread, under `_send_lock` (a leaf; a stopped server may block its holder until `drop`). `tick` belongs to the
timer's thread and never blocks.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from gdah_volume.errors import (
    BadMessage,
    GdahError,
    Unauthorized,
    UnknownVolume,
    Unreachable,
    VersionFromTheFuture,
    from_code,
)
from gdah_volume.ids import Author, Epoch, OpId, ServerId, VolumeName
from gdah_volume.operations import Operation
from gdah_volume.stamps import Stamp
from gdah_volume.wire import (
    MESSAGE_MAX_BYTES,
    PROTOCOL,
    SILENCE_LIMIT_S,
    Ack,
    Beat,
    Blob,
    Entry,
    Failed,
    Feed,
    HandedOver,
    Handover,
    Hello,
    Message,
    Offer,
    Refused,
    SnapshotNeeded,
    Submit,
    Subscribe,
    Want,
    Welcome,
    decode,
    encode,
)
from mountfs.ports import LinkEvents, ServerHealth
from mountfs.tls import Stream, open_stream

log = logging.getLogger("mountfs.link")

DIAL_TIMEOUT_S = 3.0
"""For each of: connecting, the upgrade, the welcome."""
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 1.0
RECEIVE_BYTES = 256 << 10
SMOOTHING = 0.2
ERROR_SMOOTHING = 0.3
ERROR_DECAY = 0.97
"""A beat that comes back: the error rate halves in about 2 s."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    volume: VolumeName
    author: Author
    device: str
    software: str
    token: str | None = None
    tls: ssl.SSLContext | None = None


class Connection:
    """One connection of the lane; implements `ports.ServerLink`."""

    def __init__(self, url: str, stream: Stream, protocol: ClientProtocol, health: ServerHealth) -> None:
        self.url = url
        self.server: ServerId | None = None
        self.epoch: Epoch | None = None
        self.health = health
        self._stream = stream
        self._writable = select.poll()
        self._writable.register(stream.socket, select.POLLOUT)
        self._protocol = protocol
        self._send_lock = threading.Lock()
        self._down = False
        self._reason: str | None = None
        self._parts: list[bytes] = []
        self._heard = time.monotonic()
        self._reading = True

    # --- sending

    def submit(self, op: Operation, floor: Stamp, blobs: tuple[Blob, ...], *, strict: bool, sync: bool) -> None:
        self._send(Submit(op=op, floor=floor, blobs=blobs, strict=strict, sync=sync))

    def subscribe(self, cursor: int | None, above: Stamp | None) -> None:
        self._send(Subscribe(cursor=cursor, above=above))

    def offer(self, stamped: tuple[tuple[OpId, Stamp], ...]) -> None:
        self._send(Offer(stamped=stamped))

    def hand_over(self, entries: tuple[Entry, ...], *, last: bool) -> None:
        self._send(Handover(entries=entries, last=last))

    def hello(self, hello: Hello) -> None:
        self._send(hello)

    def _send(self, message: Message) -> None:
        frame = Frame(Opcode.BINARY, encode(message)).serialize(mask=True)
        with self._send_lock:
            if self._down:
                raise Unreachable(f"the link to {self.url} is down ({self._reason})")
            try:
                self._stream.send(frame)
            except OSError as error:
                self.drop(f"sending failed: {error}")
                raise Unreachable(f"the link to {self.url} failed: {error}") from error

    def beat(self) -> None:
        """Never blocks: while somebody is sending, or the server does not read, there is no beat to send."""
        if not self._send_lock.acquire(blocking=False):
            return
        try:
            if not self._down and self._writable.poll(0):
                beat = encode(Beat(sent_us=time.monotonic_ns() // 1000))
                self._stream.send(Frame(Opcode.BINARY, beat).serialize(mask=True))
        except (OSError, ValueError) as error:
            self.drop(f"sending failed: {error}")
        finally:
            self._send_lock.release()

    def drop(self, reason: str) -> None:
        """Give it up; the receiving thread and any sender wake up."""
        if not self._down:
            self._down = True
            self._reason = reason
            self._stream.shut()

    def listen(self) -> None:
        """From now on no socket timeout: `silence_s` tells."""
        self._stream.blocking()

    def close(self) -> None:
        self.drop("closed")
        self._stream.close()

    @property
    def reason(self) -> str:
        return self._reason or "closed by the server"

    # --- silence

    def silence_s(self, now: float) -> float:
        """How long nothing was heard although the receiving thread was listening."""
        return now - self._heard if self._reading else 0.0

    def forgive_silence(self, now: float) -> None:
        """This process itself did not run: what the server said meanwhile is still to be read."""
        self._heard = now

    # --- receiving, in the receiving thread

    def receive(self) -> list[bytes] | None:
        """The next whole messages; None at the end."""
        messages: list[bytes] = []
        while not messages:
            self._heard, self._reading = time.monotonic(), True
            try:
                data = self._stream.receive(RECEIVE_BYTES)
            except OSError as error:
                self.drop(f"the connection broke: {error}")
                return None
            finally:
                self._reading = False
            if self._down or not data:
                self.drop("the server closed the connection")
                return None
            self.health.last_heard = time.monotonic()
            self._protocol.receive_data(data)
            for event in self._protocol.events_received():
                if isinstance(event, Frame):
                    self._take(event, messages)
            self._answer_pings()
            if self._protocol.parser_exc is not None:
                self.drop(f"not a WebSocket any more: {self._protocol.parser_exc}")
                return None
        return messages

    def _take(self, frame: Frame, messages: list[bytes]) -> None:
        if frame.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
            self._parts.append(bytes(frame.data))
            if frame.fin:
                messages.append(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
                self._parts.clear()

    def _answer_pings(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                with self._send_lock, contextlib.suppress(OSError):
                    self._stream.send(data)


class Dialler:
    """Keeps a connection to one server up. `health` lives as long as this, over all connections."""

    def __init__(self, url: str, settings: LinkSettings, events: LinkEvents) -> None:
        self.url = url
        self.health = ServerHealth()
        self._settings = settings
        self._events = events
        self._connection: Connection | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"link {url}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        connection = self._connection
        if connection is not None:
            connection.drop("this mount ends")
        self._thread.join(timeout=2 * DIAL_TIMEOUT_S)

    def tick(self, now: float, *, forgive: bool) -> None:
        """About every 0.1 s: a sign of life, and a look whether the server gives one. `forgive`: we were not
        running."""
        connection = self._connection
        if connection is None:
            return
        if forgive:
            connection.forgive_silence(now)
        if connection.silence_s(now) > SILENCE_LIMIT_S:
            connection.drop(f"nothing heard for {SILENCE_LIMIT_S:.1f} s")
        connection.beat()

    # --- the receiving thread

    def _run(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while not self._stop.is_set():
            try:
                self._converse()
                backoff_s = BACKOFF_FIRST_S
            except (GdahError, OSError, WebSocketException) as error:
                self._failed(str(error) or type(error).__name__)
            except Exception as error:
                log.exception("link failed url=%s", self.url)
                self._failed(f"a fault of this mount: {error}")
            self._stop.wait(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)

    def _failed(self, reason: str) -> None:
        health = self.health
        health.connected = False
        health.errors += 1
        health.error_rate += ERROR_SMOOTHING * (1.0 - health.error_rate)
        if health.last_error != reason:
            log.info("no link url=%s reason=%s", self.url, reason)
        health.last_error = reason

    def _converse(self) -> None:
        connection = self._dial()
        welcomed = False
        try:
            welcome, rest = self._greet(connection)
            self.health.connected = True
            connection.forgive_silence(time.monotonic())
            self._connection = connection
            welcomed = True
            log.info("link up url=%s server=%s epoch=%s", self.url, welcome.server, welcome.epoch)
            self._events.on_up(connection, welcome)
            messages: list[bytes] | None = rest
            while messages is not None:
                for message in messages:
                    self._dispatch(connection, decode(message))
                messages = connection.receive()
        except GdahError as error:
            connection.drop(f"{error.code}: {error}")
            if not welcomed:
                raise
        finally:
            self._connection = None
            self.health.connected = False
            connection.close()
            if welcomed:
                if not self._stop.is_set():
                    self._failed(connection.reason)
                self._events.on_down(connection, connection.reason)

    def _dial(self) -> Connection:
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        address = (parts.hostname or "", parts.port or (443 if secure else 80))
        raw = socket.create_connection(address, timeout=DIAL_TIMEOUT_S)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = (self._settings.tls or ssl.create_default_context()) if secure else None
            stream = open_stream(raw, context, address[0])
            lane = f"{'wss' if secure else 'ws'}://{parts.netloc}/v1/volumes/{self._settings.volume}/lane"
            protocol = ClientProtocol(parse_uri(lane), max_size=MESSAGE_MAX_BYTES)
            self._upgrade(stream, protocol)
        except BaseException:
            raw.close()
            raise
        return Connection(self.url, stream, protocol, self.health)

    def _upgrade(self, stream: Stream, protocol: ClientProtocol) -> None:
        request = protocol.connect()
        if self._settings.token:
            request.headers["Authorization"] = f"Bearer {self._settings.token}"
        protocol.send_request(request)
        stream.send(b"".join(protocol.data_to_send()))
        while True:
            data = stream.receive(RECEIVE_BYTES)
            if data:
                protocol.receive_data(data)
            else:
                protocol.receive_eof()
            for event in protocol.events_received():
                if isinstance(event, Response):
                    self._check_upgrade(protocol.handshake_exc)
                    return
            if not data:
                self._check_upgrade(protocol.handshake_exc or InvalidHandshake("the server hung up"))

    def _check_upgrade(self, error: Exception | None) -> None:
        if isinstance(error, InvalidStatus):
            status = error.response.status_code
            if status in (401, 403):
                raise Unauthorized(f"{self.url} refuses this mount's token ({status}); check --token-file")
            if status == 404:
                raise UnknownVolume(f"{self.url} has no volume {self._settings.volume}")
            raise Unreachable(f"{self.url} answered {status}")
        if error is not None:
            raise Unreachable(f"{self.url} is no storage server: {error}")

    def _greet(self, connection: Connection) -> tuple[Welcome, list[bytes]]:
        """Hello and Welcome; and what has arrived behind it already."""
        settings = self._settings
        connection.hello(
            Hello(
                protocol=PROTOCOL,
                volume=settings.volume,
                role="mount",
                software=settings.software,
                author=settings.author,
                device=settings.device,
            )
        )
        messages = connection.receive()
        if messages is None:
            raise Unreachable(f"{self.url} closed the link before its welcome")
        welcome = decode(messages[0])
        if isinstance(welcome, Failed):
            raise from_code(welcome.code, welcome.message)
        if not isinstance(welcome, Welcome):
            raise BadMessage(f"{self.url} began with {type(welcome).__name__}, not with a welcome")
        if welcome.protocol > PROTOCOL:
            raise VersionFromTheFuture(f"{self.url} speaks protocol {welcome.protocol}; update this mount")
        connection.server, connection.epoch = welcome.server, welcome.epoch
        connection.listen()
        return welcome, messages[1:]

    def _dispatch(self, link: Connection, message: Message) -> None:
        events = self._events
        match message:
            case Beat():
                self._note(message)
                events.on_beat(link)
            case Feed():
                events.on_feed(link, message.entries, message.everywhere, message.stable)
            case Ack():
                events.on_ack(link, message.id, message.stamp, message.position, message.copies, message.of)
            case Refused():
                events.on_refused(link, message.id, message.code, message.message)
            case Want():
                events.on_want(link, message.ids)
            case HandedOver():
                events.on_handed_over(link, message.head)
            case SnapshotNeeded():
                events.on_snapshot_needed(link, message.first)
            case Failed():
                raise from_code(message.code, message.message)
            case _:
                raise BadMessage(f"{self.url} sent a {type(message).__name__}, which a mount does not expect")

    def _note(self, beat: Beat) -> None:
        health = self.health
        health.head = beat.head
        health.operations = beat.operations
        health.digest = beat.digest.hex()
        health.everywhere = beat.everywhere
        if beat.stable is not None:
            health.stable = beat.stable
        health.lag_operations = beat.lag
        health.free_bytes = beat.free_bytes
        health.busy = beat.busy
        if beat.echo_us:
            latency_ms = max(0.0, time.monotonic_ns() // 1000 - beat.echo_us) / 1000
            seen = health.latency_ms
            health.latency_ms = seen + SMOOTHING * (latency_ms - seen) if seen else latency_ms
            health.error_rate *= ERROR_DECAY
