"""The operation lane of a server, as a hostile mount and as a hostile peer: whole conversations in any order.

Each ends with a question that is always answered, so that all before it was heard; or the server ends it. Either way within
seconds, with nothing stored that it did not acknowledge.
"""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from gdah_drill.cluster import VOLUME, Server
from gdah_volume.errors import GdahError
from gdah_volume.ids import Author, Epoch, OpId, ServerId, VolumeName
from gdah_volume.wire import (
    PROTOCOL,
    Ack,
    AskRange,
    Entry,
    Failed,
    Handover,
    Hello,
    RangeIs,
    Refused,
    Submit,
    Subscribe,
    decode,
    encode,
)
from tests.fuzz import hostile
from tests.fuzz.watched import Log, state_of
from tests.server.lane_client import LaneClient

AUTHOR = Author("fuzz-a1b2c3-00000001")
ANSWER_LIMIT_S = 20.0
PROBE = AskRange(low=3, high=7)


def hello(role: Any = "mount", **more: Any) -> Hello:
    return Hello(
        protocol=PROTOCOL,
        volume=VolumeName(VOLUME),
        role=role,
        software="fuzz",
        author=AUTHOR,
        locks=True,
        shows=True,
        **more,
    )


def openings(*, peer: bool) -> st.SearchStrategy[tuple[bytes, ...]]:
    if peer:
        greeting = encode(hello("server", server=ServerId("sfuzz"), epoch=Epoch("e1")))
        return st.sampled_from([(greeting,), (greeting, encode(Subscribe(cursor=0, blobs=True)))])
    greeting = encode(hello())
    return st.sampled_from(
        [(), (greeting,), (greeting, encode(Subscribe(cursor=0))), (greeting, encode(Subscribe(cursor=0)))]
    )


class Lane:
    """`peer`: says hello as a server (whose id and URL stay the same: what it may add to the members is no part of this)."""

    def __init__(self, server: Server, *, peer: bool = False) -> None:
        self.name = "peer-lane" if peer else "lane"
        self.tried = 0
        self.server = server
        self._log = Log(server)
        self._told: set[str] = set()
        """Operations that the server may have stored: it acknowledged them, or they were handed over."""
        self._open: set[str] = set()
        """Submitted in this conversation and not refused."""
        self._before = state_of(server)
        self._head = server.volume()["head"]
        kinds = [kind for kind in hostile.MESSAGES if not (peer and kind is Hello)]
        self.inputs = st.tuples(
            openings(peer=peer),
            st.lists(hostile.frames(kinds) | hostile.frames(hostile.FROM_DIALLER), min_size=1, max_size=5),
        )

    def try_one(self, given: tuple[tuple[bytes, ...], list[bytes]]) -> None:
        opening, frames = given
        self._open.clear()
        address = f"ws{self.server.url[4:]}/v1/volumes/{VOLUME}/lane"
        with connect(
            address, compression=None, max_size=64 << 20, proxy=None, ping_interval=None, close_timeout=1
        ) as socket:
            try:
                for frame in (*opening, *frames, encode(PROBE)):
                    self.tried += 1
                    self._sent(frame)
                    socket.send(frame)
                self._listen(socket)
            except ConnectionClosed:
                with contextlib.suppress(WebSocketException, TimeoutError):
                    self._listen(socket)
        self._told |= self._open  # the conversation ended before their answers
        self._log.check()

    def _sent(self, frame: bytes) -> None:
        try:
            message = decode(frame)
        except GdahError:
            return
        if isinstance(message, Handover):
            self._told |= {entry.op.id for entry in message.entries}
        if isinstance(message, Submit):
            self._open.add(message.op.id)

    def _listen(self, socket: ClientConnection) -> None:
        while True:
            message = decode(socket.recv(timeout=ANSWER_LIMIT_S, decode=False))
            if isinstance(message, Ack):
                self._told.add(message.id)
            if isinstance(message, Refused):
                self._open.discard(message.id)
            if isinstance(message, Failed):
                assert not message.message.startswith("internal error"), message
                return
            if isinstance(message, RangeIs) and (message.low, message.high) == (PROBE.low, PROBE.high):
                return

    def sound(self) -> None:
        """Every operation in the log was acknowledged; if none is new, the state is what it was; others are served."""
        self._log.check()
        operations, digest = state_of(self.server)
        new = self._new_entries(operations)
        assert {entry.op.id for entry in new} <= self._told, sorted({entry.op.id for entry in new} - self._told)
        assert new or self._before == (operations, digest)
        self._before = (operations, digest)

    def _new_entries(self, operations: int) -> list[Entry]:
        with LaneClient(self.server.url, cursor=self._head) as bystander:
            ack = bystander.create(b"bystander", strict=False)
            bystander.wait_fed(OpId(ack.id))
            entries = list(bystander.feed)
        self._told.add(ack.id)
        self._head = entries[-1].position
        return entries
