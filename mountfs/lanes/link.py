"""The operation lane to one server, over a WebSocket: dials, says hello, beats, receives, and dials again. An
edge.

Decides nothing: what arrives is told to `LinkEvents`, what is to be sent comes from there. A connection that
is down stays down; the dialler brings up a new one, with a backoff, for ever.

Threading: one receiving thread for each server calls all of LinkEvents, in order of arrival. `tick` belongs
to the timer's thread and never blocks.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
from websockets.http11 import Response
from websockets.uri import parse_uri

from gdah_volume.errors import (
    BadMessage,
    GdahError,
    Retired,
    Unauthorized,
    UnknownVolume,
    Unreachable,
    from_code,
)
from gdah_volume.ids import Author, VolumeName
from gdah_volume.lock_messages import LockAgain, LockBeat, LockRecall, LockTold
from gdah_volume.wire import (
    MESSAGE_MAX_BYTES,
    PROTOCOL,
    SILENCE_LIMIT_S,
    Ack,
    Beat,
    Failed,
    Feed,
    HandedOver,
    Hello,
    Message,
    Refused,
    SnapshotNeeded,
    Want,
    Welcome,
    check_protocol,
    decode,
)
from mountfs.lanes.connection import RECEIVE_BYTES, Connection
from mountfs.lanes.tls import Stream, open_stream
from mountfs.ports import LinkEvents, ServerHealth

log = logging.getLogger("mountfs.lanes.link")

DIAL_TIMEOUT_S = 3.0
"""For each of: connecting, the upgrade, the welcome."""
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 1.0
SETTLED_S = 5.0
"""A connection that lived so long was a good one: after it the first backoff is the short one again."""
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

    def tick(self, now: float, *, beat: bool, forgive: bool) -> None:
        """About every 0.1 s: a sign of life, and a look whether the server gives one. `forgive`: we were not
        running."""
        connection = self._connection
        if connection is None:
            return
        if forgive:
            connection.forgive_silence(now)
        if connection.silence_s(now) > SILENCE_LIMIT_S:
            connection.drop(f"nothing heard for {SILENCE_LIMIT_S:.1f} s")
        if beat:
            connection.beat()

    # --- the receiving thread

    def _run(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._converse()
            except (GdahError, OSError, WebSocketException) as error:
                self.health.is_retired |= isinstance(error, Retired)
                self._failed(str(error) or type(error).__name__)
            except Exception as error:
                log.exception("link failed url=%s", self.url)
                self._failed(f"a fault of this mount: {error}")
            if time.monotonic() - began > SETTLED_S:
                backoff_s = BACKOFF_FIRST_S
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
            self.health.is_retired = False
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
                shows=True,
                locks=True,
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
        check_protocol(welcome.protocol, self.url)
        connection.server, connection.epoch = welcome.server, welcome.epoch
        self.health.operations, self.health.behind = welcome.operations, welcome.behind
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
            case LockTold() | LockRecall() | LockAgain() | LockBeat():
                events.on_lock(link, message)
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
        health.trouble = beat.trouble
        health.behind = beat.behind
        health.retired = beat.retired
        if beat.echo_us:
            latency_ms = max(0.0, time.monotonic_ns() // 1000 - beat.echo_us) / 1000
            seen = health.latency_ms
            health.latency_ms = seen + SMOOTHING * (latency_ms - seen) if seen else latency_ms
            health.error_rate *= ERROR_DECAY
