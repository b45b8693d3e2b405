"""A hostile server: who dials it, a mount or another server, gets a welcome and then frames that are wrong, or a snapshot that is none.

Conversations are drawn when the door is knocked at, and held with whoever calls next. Threading: `websockets` calls in a thread for each
connection; the queue is between.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from http import HTTPStatus
from typing import Any

from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.exceptions import WebSocketException
from websockets.http11 import Request, Response
from websockets.sync.server import Server as WebSocketServer
from websockets.sync.server import ServerConnection, serve

from gdah_drill.cluster import Mount, Server
from gdah_drill.processes import free_port
from gdah_drill.waiting import wait_until
from gdah_volume.ids import Epoch, ServerId
from gdah_volume.snapshot_file import frame_of
from gdah_volume.stamps import ZERO
from gdah_volume.wire import PROTOCOL, Feed, SnapshotNeeded, Welcome, encode
from tests.fuzz import hostile
from tests.fuzz.watched import Log

DIALLED_LIMIT_S = 30.0
LISTENERS = 4
"""Each is dialled about once a second."""


class Impostor:
    """One hostile server on a port of its own."""

    def __init__(self, number: int, talks: queue.Queue[tuple[list[bytes], bytes, threading.Event]]) -> None:
        self.server = ServerId(f"sfuzz{number}")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._talks = talks
        self._snapshot = b""
        self._server: WebSocketServer = serve(
            self._talk, "127.0.0.1", self.port, compression=None, process_request=self._http, max_size=64 << 20
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _http(self, _connection: ServerConnection, request: Request) -> Response | None:
        if request.path.endswith("/lane"):
            return None
        return Response(
            HTTPStatus.OK,
            "OK",
            Headers({"content-type": "application/octet-stream", "connection": "close"}),
            self._snapshot,
        )

    def _talk(self, connection: ServerConnection) -> None:
        try:
            frames, self._snapshot, done = self._talks.get_nowait()
        except queue.Empty:
            return
        with contextlib.suppress(WebSocketException, OSError, TimeoutError):
            connection.recv(timeout=2)
            welcome = Welcome(
                protocol=PROTOCOL,
                server=self.server,
                epoch=Epoch("e1"),
                software="fuzz",
                head=0,
                first=1,
                stable=ZERO,
                members=(),
                locks=True,
                shows=True,
            )
            for frame in [encode(welcome), *frames] if frames[0:1] != [b"no welcome"] else frames[1:]:
                connection.send(frame)
            while True:
                connection.recv(timeout=0.2)
        done.set()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)


def _snapshots() -> st.SearchStrategy[bytes]:
    header = {"server": "sfuzz0", "epoch": "e1", "head": 1, "stable": [0, ""], "protocol": 2}
    rows = st.lists(
        st.tuples(
            st.sampled_from(["nodes", "last", "operations", "x"]),
            st.lists(st.lists(hostile.NUMBERS, min_size=2, max_size=2), max_size=2),
        ),
        max_size=2,
    )
    whole = rows.map(lambda tables: frame_of(header) + b"".join(frame_of(table) for table in tables) + frame_of(None))
    return hostile.mostly(whole, whole.flatmap(hostile.damaged), 2)


class Dialled:
    """Of a mount or of a server that was started with the impostors' URLs."""

    batch = 10

    def __init__(self, name: str) -> None:
        self.name = name
        self.tried = 0
        self._talks: queue.Queue[tuple[list[bytes], bytes, threading.Event]] = queue.Queue()
        self.impostors = [Impostor(number, self._talks) for number in range(LISTENERS)]
        self._log: Log | None = None
        self._dialler: Mount | Server | None = None
        frames = st.lists(
            hostile.frames(hostile.FROM_SERVER) | hostile.frames(list(hostile.MESSAGES)), min_size=1, max_size=6
        )
        needed = st.just([encode(SnapshotNeeded(first=5))])
        feed = st.just([encode(Feed(entries=(), everywhere=0, stable=ZERO))])
        talk = st.one_of(
            frames,
            frames.map(lambda rest: [b"no welcome", *rest]),
            st.tuples(feed, frames).map(lambda two: two[0] + two[1]),
            needed,
        )
        self.inputs: st.SearchStrategy[Any] = st.lists(
            st.tuples(talk, _snapshots()), min_size=LISTENERS, max_size=LISTENERS
        )

    def aim(self, dialler: Mount | Server) -> None:
        self._dialler = dialler
        self._log = Log(dialler)

    def try_one(self, given: list[tuple[list[bytes], bytes]]) -> None:
        assert self._log is not None
        waiting = []
        for frames, snapshot in given:
            done = threading.Event()
            self._talks.put((frames, snapshot, done))
            waiting.append(done)
            self.tried += len(frames) + 1
        for done in waiting:
            assert done.wait(DIALLED_LIMIT_S), "nobody dials any more"
        self._log.check()

    def sound(self) -> None:
        """It still serves; a mount's folder takes a file and shows it."""
        assert self._log is not None
        assert self._dialler is not None
        self._log.check()
        wait_until(lambda: self._dialler.get("/healthz").status_code == 200, "it answers", 10)  # type: ignore[union-attr]
        if isinstance(self._dialler, Mount):
            self._dialler.hands.write("sound", b"%d" % self.tried)
            assert self._dialler.hands.read("sound") == b"%d" % self.tried

    def close(self) -> None:
        for impostor in self.impostors:
            impostor.close()
