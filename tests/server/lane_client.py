"""A mount as simple as can be, for tests of the server: one operation lane, its feed kept, operations by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from gdah_volume.content import content_of
from gdah_volume.ids import ROOT, NodeId, OpId, VolumeName, new_author, new_client_id, op_id
from gdah_volume.operations import Attrs, Create, Operation, Write
from gdah_volume.stamps import ZERO, Stamp
from gdah_volume.wire import (
    PROTOCOL,
    Ack,
    Beat,
    Blob,
    Entry,
    Failed,
    Feed,
    Hello,
    Message,
    Refused,
    Submit,
    Subscribe,
    Welcome,
    decode,
    encode,
)

TIMEOUT_S = 20.0
VOLUME = VolumeName("test_chamber")


class Identity:
    """Of a client, over all its connections."""

    def __init__(self, device: str = "tester") -> None:
        self.author = new_author(new_client_id(device))
        self.sequence = 0

    def next_id(self) -> OpId:
        self.sequence += 1
        return op_id(self.author, self.sequence)

    def create(
        self, name: bytes, data: bytes = b"", *, parent: NodeId = ROOT, kind: Any = "file"
    ) -> tuple[Create, tuple[Blob, ...]]:
        content, chunks = content_of(data)
        now = time.time_ns()
        op = Create(
            id=self.next_id(),
            time_ns=now,
            kind=kind,
            parent=parent,
            name=name,
            attrs=Attrs(mode=0o644, uid=0, gid=0, mtime_ns=now, atime_ns=now),
            content=content,
        )
        return op, tuple(Blob(name, piece) for name, piece in chunks.items() if len(piece) <= 65536)

    def write(self, node: NodeId, base: Any, data: bytes, name: bytes = b"x") -> tuple[Write, tuple[Blob, ...]]:
        content, chunks = content_of(data)
        now = time.time_ns()
        op = Write(id=self.next_id(), time_ns=now, node=node, base=base, content=content, name=name, mtime_ns=now)
        return op, tuple(Blob(name, piece) for name, piece in chunks.items() if len(piece) <= 65536)


class LaneClient:
    """Threading: the test's thread, and one that receives."""

    def __init__(
        self,
        url: str,
        identity: Identity | None = None,
        *,
        subscribe: bool = True,
        above: Stamp | None = ZERO,
        cursor: int | None = None,
        token: str | None = None,
        hello: bool = True,
    ) -> None:
        self.identity = identity or Identity()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._context = connect(
            f"ws{url.removeprefix('http')}/v1/volumes/{VOLUME}/lane",
            additional_headers=headers,
            compression=None,
            max_size=64 << 20,
            proxy=None,
            ping_interval=None,
            open_timeout=TIMEOUT_S,
            close_timeout=1,
        )
        self._socket: ClientConnection = self._context.__enter__()
        self._changed = threading.Condition()
        self.order: list[Message] = []
        self.feed: list[Entry] = []
        self.answers: dict[OpId, Ack | Refused] = {}
        self.beat: Beat | None = None
        self.failed: Failed | None = None
        self.closed = False
        self.fault: Exception | None = None
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()
        self.welcome: Welcome | None = None
        if hello:
            self.send(self.hello())
            self.welcome = self.wait(lambda: next((m for m in self.order if isinstance(m, Welcome)), None), "a welcome")
            if subscribe:
                self.send(Subscribe(cursor=cursor, above=None if cursor is not None else above))

    def hello(self, **changed: Any) -> Hello:
        said: dict[str, Any] = {
            "protocol": PROTOCOL,
            "volume": VOLUME,
            "role": "mount",
            "software": "test",
            "author": self.identity.author,
            "device": "tester",
        }
        return Hello(**(said | changed))

    def send(self, message: Message) -> None:
        self._socket.send(encode(message))

    def send_raw(self, frame: bytes | str) -> None:
        self._socket.send(frame)

    def submit(
        self, op: Operation, blobs: tuple[Blob, ...] = (), *, strict: bool = True, sync: bool = False,
        floor: Stamp = ZERO,
    ) -> OpId:  # fmt: skip
        self.send(Submit(op=op, floor=floor, blobs=blobs, strict=strict, sync=sync))
        return op.id

    def create(self, name: bytes, data: bytes = b"", **named: Any) -> Ack:
        """Create a file or folder and wait: it must be acknowledged."""
        submit = {key: named.pop(key) for key in ("strict", "sync") if key in named}
        op, blobs = self.identity.create(name, data, **named)
        answer = self.answer(self.submit(op, blobs, **submit))
        assert isinstance(answer, Ack), answer
        return answer

    def answer_again(self, op: Operation, blobs: tuple[Blob, ...] = (), *, strict: bool = True) -> Ack | Refused:
        """Submit under an id that was answered before."""
        self.answers.pop(op.id, None)
        return self.answer(self.submit(op, blobs, strict=strict))

    def answer(self, op: OpId, timeout_s: float = TIMEOUT_S) -> Ack | Refused:
        return self.wait(lambda: self.answers.get(op), f"the answer to {op}", timeout_s)

    def wait_fed(self, op: OpId, timeout_s: float = TIMEOUT_S) -> Entry:
        return self.wait(
            lambda: next((entry for entry in self.feed if entry.op.id == op), None), f"{op} in the feed", timeout_s
        )

    def wait_failed(self) -> Failed:
        return self.wait(lambda: self.failed, "the conversation fails")

    def wait(self, check: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not (found := check()):
                left = deadline - time.monotonic()
                assert left > 0, (
                    f"not within {timeout_s:.0f} s: {what}; {self.failed}, {self.fault!r}, closed: {self.closed}"
                )
                assert self.fault is None, repr(self.fault)
                self._changed.wait(min(left, 0.5))
                if not self.closed and self.welcome is not None:
                    self._beat()
        return found

    def _beat(self) -> None:
        try:
            self.send(Beat(sent_us=int(time.monotonic() * 1e6)))
        except (WebSocketException, OSError):
            pass

    def _receive(self) -> None:
        try:
            while True:
                message = decode(self._socket.recv(decode=False))
                with self._changed:
                    self._take(message)
                    self._changed.notify_all()
        except (WebSocketException, OSError, EOFError):
            pass
        except Exception as error:
            self.fault = error
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _take(self, message: Message) -> None:
        if isinstance(message, Beat):
            self.beat = message
            return
        self.order.append(message)
        if isinstance(message, Feed):
            self.feed.extend(message.entries)
        elif isinstance(message, Ack | Refused):
            self.answers[message.id] = message
        elif isinstance(message, Failed):
            self.failed = message

    def close(self) -> None:
        try:
            self._context.__exit__(None, None, None)
        except (WebSocketException, OSError):
            pass
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
