"""One connection of the operation lane: sends messages, receives them, notices silence. An edge; decides
nothing.

The WebSocket protocol is that of `websockets` without its own threads: a message is sent straight from the
calling thread and received by one thread, which saves two changes of thread in each round trip.

Threading: `receive` belongs to one thread. Sending from any thread, under `_send_lock` (a leaf; a stopped
server may block its holder until `drop`, which never waits). `beat` never blocks.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode

from gdah_volume.errors import Unreachable
from gdah_volume.ids import Epoch, OpId, ServerId
from gdah_volume.lock_messages import OfMount
from gdah_volume.operations import Operation
from gdah_volume.stamps import Stamp
from gdah_volume.wire import Beat, Blob, Entry, Handover, Hello, Message, Offer, Shown, Submit, Subscribe, encode
from mountfs.lanes.tls import Stream
from mountfs.ports import ServerHealth

RECEIVE_BYTES = 256 << 10


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

    def subscribe(self, cursor: int | None, above: Stamp | None, last: str = "") -> None:
        self._send(Subscribe(cursor=cursor, above=above, last=last))

    def offer(self, stamped: tuple[tuple[OpId, Stamp], ...]) -> None:
        self._send(Offer(stamped=stamped))

    def hand_over(self, entries: tuple[Entry, ...], *, last: bool) -> None:
        self._send(Handover(entries=entries, last=last))

    def shown(self, position: int) -> None:
        self._send(Shown(position=position))

    def tell_lock(self, message: OfMount) -> None:
        self._send(message)

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
