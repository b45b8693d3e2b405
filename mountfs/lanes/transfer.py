"""The data lane: chunks by hash and snapshots, over HTTP with httpx. An edge.

What is fetched is verified against its name; a server that is slow, lacks a chunk or sends wrong bytes is
passed over for the next one. Which servers there are, best first, is asked each time.

Threading: any thread; calls block, each for a bounded time. httpx's pool is shared.
"""

from __future__ import annotations

import logging
import math
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from gdah_volume.content import ChunkHash, hash_of
from gdah_volume.errors import (
    BadMessage,
    ContentUnavailable,
    GdahError,
    NoSpace,
    StorageFailed,
    Unauthorized,
    Unreachable,
    from_code,
)
from gdah_volume.ids import VolumeName
from gdah_volume.snapshot_file import Rows, SnapshotFile, SnapshotHeader

log = logging.getLogger("mountfs.lanes.transfer")

CONNECT_TIMEOUT_S = 0.4
QUICK_TIMEOUT_S = 0.6
"""Without a byte for so long, the next server is asked; a program that reads waits meanwhile."""
PATIENT_TIMEOUT_S = 3.0
"""When no server was quick: one more round."""
COMES_S = 4.0
"""Content that some server held a moment ago is waited for: one that has just come back may not have it yet, and
between the loss of one server and the link to the next there is a moment without any. Then it is EIO."""
AGAIN_S = 0.1
STORE_TIMEOUT_S = 3.0
SNAPSHOT_TIMEOUT_S = 10.0
POOL_CONNECTIONS = 16


class _WrongBytes(ContentUnavailable):
    """A server that gives them is not asked again for this chunk; one that lacks it may get it."""


@dataclass(frozen=True, slots=True)
class TransferSettings:
    volume: VolumeName
    token: str | None = None
    tls: ssl.SSLContext | None = None


class HttpTransfer:
    """`servers` gives the base URLs of those that answer now, best first; `alone_s` for how long there has been none.
    `damaged` counts chunks that came with wrong bytes."""

    def __init__(
        self,
        settings: TransferSettings,
        servers: Callable[[], Sequence[str]],
        alone_s: Callable[[], float] = lambda: math.inf,
    ) -> None:
        headers = {"Authorization": f"Bearer {settings.token}"} if settings.token else {}
        self._volume = settings.volume
        self._servers = servers
        self._alone_s = alone_s
        self._client = httpx.Client(
            headers=headers,
            verify=settings.tls or True,
            trust_env=False,  # a proxy for the web is no way to a server at home
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=POOL_CONNECTIONS),
            timeout=httpx.Timeout(PATIENT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        )
        self._lock = threading.Lock()
        self.damaged = 0
        self.last_error: str | None = None

    def close(self) -> None:
        self._client.close()

    # --- chunks

    def fetch(self, chunk: ChunkHash, length: int) -> bytes:
        """The verified bytes. Raises ContentUnavailable (EIO): at once when no server was reachable for a while."""
        until = time.monotonic() + COMES_S
        wrong: set[str] = set()
        while True:
            try:
                return self._ask_all(chunk, length, wrong)
            except ContentUnavailable as error:
                reachable = self._servers()
                may_come = not wrong.issuperset(reachable) if reachable else self._alone_s() < COMES_S
                if not may_come or time.monotonic() > until:
                    self.last_error = str(error)
                    raise
            time.sleep(AGAIN_S)

    def _ask_all(self, chunk: ChunkHash, length: int, wrong: set[str]) -> bytes:
        """`wrong`: those that gave wrong bytes for it."""
        reason = "no server is reachable"
        lacking = set(wrong)
        for timeout_s in (QUICK_TIMEOUT_S, PATIENT_TIMEOUT_S):
            for url in self._servers():
                if url in lacking:
                    continue
                try:
                    return self._get(url, chunk, length, timeout_s)
                except _WrongBytes as error:
                    reason = f"{url}: {error}"
                    wrong.add(url)
                    lacking.add(url)
                except GdahError as error:
                    reason = f"{url}: {error}"
                    if not isinstance(error, Unreachable):
                        lacking.add(url)
        raise ContentUnavailable(f"chunk {chunk.hex()[:16]} is in no copy that can be reached ({reason})")

    def _get(self, url: str, chunk: ChunkHash, length: int, timeout_s: float) -> bytes:
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            answer = self._client.get(self._chunk_url(url, chunk), timeout=timeout)
        except httpx.TransportError as error:
            raise Unreachable(str(error) or type(error).__name__) from error
        if answer.status_code != 200:
            raise _refusal(answer)
        data = answer.content
        if len(data) != length or hash_of(data) != chunk:
            with self._lock:
                self.damaged += 1
            log.warning("wrong bytes for a chunk url=%s chunk=%s", url, chunk.hex()[:16])
            raise _WrongBytes("wrong bytes came for its name")
        return data

    def store(self, server_url: str, chunk: ChunkHash, data: bytes, *, sync: bool) -> int:
        """PUT one chunk to a server, which forwards it to its peers; the copies it counts. Raises Unreachable
        (try again, or elsewhere), NoSpace, or what else the server answered."""
        try:
            answer = self._client.put(
                self._chunk_url(server_url, chunk),
                content=data,
                params={"sync": "1"} if sync else None,
                timeout=httpx.Timeout(STORE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            )
        except httpx.TransportError as error:
            raise Unreachable(str(error) or type(error).__name__) from error
        if answer.status_code not in (200, 201):
            raise _refusal(answer)
        try:
            return int(answer.json()["copies"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadMessage(f"{server_url} answered a stored chunk with {answer.text[:80]!r}") from error

    def _chunk_url(self, url: str, chunk: ChunkHash) -> str:
        return f"{url}/v1/volumes/{self._volume}/chunks/{chunk.hex()}"

    # --- snapshots

    def save_snapshot(self, server_url: str, path: Path) -> None:
        """Download a server's snapshot into a file. Raises Unreachable, StorageFailed, or what the server
        answered."""
        try:
            with self._client.stream(
                "GET",
                f"{server_url}/v1/volumes/{self._volume}/snapshot",
                timeout=httpx.Timeout(SNAPSHOT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            ) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _refusal(answer)
                with path.open("wb") as file:
                    for piece in answer.iter_bytes():
                        file.write(piece)
        except httpx.TransportError as error:
            raise Unreachable(str(error) or type(error).__name__) from error
        except OSError as error:
            raise StorageFailed(f"cannot keep a snapshot at {path}: {error}") from error


def read_snapshot(path: Path) -> tuple[SnapshotHeader, Iterator[tuple[str, Rows]]]:
    """The header and the batches of rows of a downloaded snapshot. Raises BadMessage when it is damaged or
    cut short, before any row is given out."""
    with path.open("rb") as file:
        header = SnapshotFile(file).header
    return header, _rows(path)


def _rows(path: Path) -> Iterator[tuple[str, Rows]]:
    with path.open("rb") as file:
        yield from SnapshotFile(file).rows()


def _refusal(answer: httpx.Response) -> GdahError:
    """The error that a server's answer means: its code if it names one, else by status."""
    try:
        body = answer.json()
        code = body.get("code") or body.get("error") if isinstance(body, dict) else None
        message = str(body.get("message") or body.get("detail") or "") if isinstance(body, dict) else ""
    except ValueError:
        code, message = None, answer.text[:200]
    if isinstance(code, str):
        return from_code(code, message)
    message = f"the server answered {answer.status_code} {message}".strip()
    if answer.status_code == 507:
        return NoSpace(message)
    if answer.status_code in (401, 403):
        return Unauthorized(f"{message}; check --token-file")
    if answer.status_code >= 500 or answer.status_code == 429:
        return Unreachable(message)
    return BadMessage(message) if answer.status_code != 404 else ContentUnavailable(message)
