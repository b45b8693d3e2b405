"""The sync side of a mount as one object: mirror, change log, links and transfers, constructed from settings.

The only module of the sync side that knows folders: everything of a mount lies in `cache_dir/volume`.

Threading: `start` and `stop` belong to one thread; the parts say for themselves.
"""

from __future__ import annotations

import fcntl
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from gdah_volume.brake import BrakeLimits
from gdah_volume.chunk_store import ChunkStore
from gdah_volume.content import ChunkHash
from gdah_volume.database import Database
from gdah_volume.errors import GdahError, HashMismatch, InvalidArgument, StorageFailed
from gdah_volume.ids import VolumeName, new_author, new_client_id
from gdah_volume.replica import Replica
from gdah_volume.snapshot_file import Rows, SnapshotHeader
from mountfs.lanes.link import Dialler, LinkSettings
from mountfs.lanes.transfer import HttpTransfer, TransferSettings, read_snapshot
from mountfs.ports import PendingItem, ServerHealth
from mountfs.sync.changelog import ChangeLog
from mountfs.sync.dirty import DirtyChunks, Limits, free_bytes
from mountfs.sync.folding import Folding
from mountfs.sync.mirror import Mirror
from mountfs.sync.people import PENDING_SHOWN_MAX, pending_items, status_of
from mountfs.sync.uploads import Uploads
from mountfs.sync.upstream import Upstream

log = logging.getLogger("mountfs.syncside")

SOFTWARE = "gdah 0.1.0"
BEAT_S = 0.1
TIMER_S = 0.05
PAUSE_S = 0.25
ENDED_WELL = "ended-well"
"""A file in the cache folder: nothing that was told is missing on this disk."""
"""The timer came so much too late: this process did not run, so silence of the servers means nothing."""


@dataclass(frozen=True, slots=True)
class SyncSettings:
    cache_dir: Path
    volume: VolumeName
    servers: tuple[str, ...]
    durability: Literal["replicated", "local"] = "replicated"
    token: str | None = None
    ca: str | None = None
    device: str = "device"
    pending_max_bytes: int = 20 << 30
    min_free_bytes: int = 512 << 20
    brake: BrakeLimits = field(default_factory=BrakeLimits)


class Settings(Protocol):
    """What of a mount's settings matters here; `MountSettings` has it all, `SyncSettings` nothing else."""

    @property
    def cache_dir(self) -> Path: ...
    @property
    def volume(self) -> VolumeName: ...
    @property
    def servers(self) -> tuple[str, ...]: ...
    @property
    def durability(self) -> Literal["replicated", "local"]: ...
    @property
    def token(self) -> str | None: ...
    @property
    def ca(self) -> str | None: ...
    @property
    def device(self) -> str: ...
    @property
    def pending_max_bytes(self) -> int: ...
    @property
    def min_free_bytes(self) -> int: ...
    @property
    def brake(self) -> BrakeLimits: ...


class _Client(msgspec.Struct):
    """client.json: who this cache folder is, for as long as it exists."""

    client: str
    device: str


class SyncSide:
    def __init__(self, settings: Settings, keep: Iterable[ChunkHash] = ()) -> None:
        """Opens what is on disk and recovers it; needs no server. `keep`: dirty chunks that no operation
        names yet but the journals of files that were open. Raises InvalidArgument when another mount uses the
        folder, StorageFailed when the disk does not work."""
        folder = settings.cache_dir / settings.volume
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_fd = _lock(folder / "lock")
            client = _client(folder / "client.json", settings.device)
        except OSError as error:
            raise StorageFailed(f"cannot use the cache folder {folder}: {error}") from error
        self.folder = folder
        self.ended_well = _take_mark(folder)
        """The last run ended as it should. Otherwise the disk may have forgotten (with the power) what the servers
        were told, and what this device shows may be older than what its programs were told."""
        self.client = client
        self.author = new_author(client)
        self.database = Database(folder / "mirror.db")
        self.mirror = Mirror(Replica(self.database))
        self._folding = Folding(self.database, self.mirror.lock)
        store = ChunkStore(folder / "dirty", self.database, lock=self.mirror.lock)
        self.dirty = DirtyChunks(
            store,
            Limits(settings.pending_max_bytes, settings.min_free_bytes),
            lambda: free_bytes(folder),
            self.mirror.changing,
        )
        for name in keep:
            with suppress(HashMismatch):  # set aside, and said by whoever reads it
                kept = store.get(name)
                if kept is not None:
                    self.dirty.store(kept)  # before the change log forgets what it does not know
        replicated = settings.durability == "replicated"
        self.changelog = ChangeLog(self.mirror, self.dirty, self.author, replicated=replicated, brake=settings.brake)
        tls = _tls(settings.ca)
        link_settings = LinkSettings(settings.volume, self.author, settings.device, SOFTWARE, settings.token, tls)
        self._cached: Callable[[ChunkHash], bytes | None] = lambda name: None  # noqa: ARG005
        self.transfer = HttpTransfer(
            TransferSettings(settings.volume, settings.token, tls),
            self._servers_for_reading,
            self._alone_s,
        )
        self.uploads = Uploads(
            self._content,
            lambda url, name, data: self.transfer.store(url, name, data, sync=False),
            lambda: self.upstream.sending.pump(),  # noqa: PLW0108 - made below,
        )
        self.upstream = Upstream(
            self.mirror,
            self.changelog,
            self.uploads,
            _SnapshotFiles(self.transfer, folder),
            content=self._content,
        )
        self._diallers = [Dialler(url, link_settings, self.upstream) for url in settings.servers]
        for dialler in self._diallers:
            self.upstream.add_server(dialler.url, dialler.health)
        self._stopping = threading.Event()
        self._timer = threading.Thread(target=self._run_timer, name="timer", daemon=True)

    def use_cache(self, adopt: Callable[[ChunkHash, bytes], None], peek: Callable[[ChunkHash], bytes | None]) -> None:
        """The cache of clean chunks: takes those that have left the change log, and may know one that a
        server lacks."""
        self.dirty.on_gone = adopt
        self._cached = peek

    # --- life

    def start(self) -> None:
        self._folding.start()
        self.upstream.start()
        for dialler in self._diallers:
            dialler.start()
        self._timer.start()

    def stop(self, flush_timeout_s: float = 0.0) -> bool:
        """Hand over what is only on this device, as far as it goes in time, and end. True: nothing is here
        only."""
        clean = self.changelog.flush(flush_timeout_s)
        self.close()
        return clean

    def close(self) -> None:
        """End at once; what is not on the servers is kept for the next start. Idempotent."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self.upstream.stop()
        for dialler in self._diallers:
            dialler.stop()
        self.uploads.stop()
        if self._timer.is_alive():
            self._timer.join(5.0)
        self.transfer.close()
        self._folding.stop()
        with self.mirror.lock:
            self.database.close()
        with suppress(OSError):
            (self.folder / ENDED_WELL).touch()
        os.close(self._lock_fd)

    @property
    def connected(self) -> bool:
        """A server is in use."""
        return self.upstream.url is not None

    def _run_timer(self) -> None:
        last = time.monotonic()
        beaten_at = 0.0
        while not self._stopping.wait(TIMER_S):
            now = time.monotonic()
            forgive = now - last > TIMER_S + PAUSE_S
            last = now
            beat = now - beaten_at >= BEAT_S
            if beat:
                beaten_at = now
            for dialler in self._diallers:
                dialler.tick(now, beat=beat, forgive=forgive)

    # --- content

    def _content(self, name: ChunkHash) -> bytes | None:
        data = self.dirty.read(name)
        return self._cached(name) if data is None else data

    def _servers_for_reading(self) -> Sequence[str]:
        """Those that answer now, the one in use first."""
        usable = [dialler for dialler in self._diallers if self.upstream.usable(dialler.url)]
        current = self.upstream.url
        usable.sort(key=lambda dialler: (dialler.url != current, dialler.health.latency_ms))
        return [dialler.url for dialler in usable]

    def _alone_s(self) -> float:
        since = self.upstream.disconnected_since
        return 0.0 if since is None else time.time() - since

    @property
    def healths(self) -> list[tuple[str, ServerHealth]]:
        return [(dialler.url, dialler.health) for dialler in self._diallers]

    # --- for people

    def status(self) -> dict[str, Any]:
        """The keys of the mount's status that are about servers and the change log."""
        return status_of(self.upstream, self.changelog, self.dirty, self.healths)

    def pending(self, at_most: int = PENDING_SHOWN_MAX) -> list[PendingItem]:
        """What is only on this device, oldest first."""
        return pending_items(self.mirror, self.changelog.outbox, at_most)


class _SnapshotFiles:
    """Snapshots are downloaded into a file first: nobody holds the mirror's lock while waiting for the
    network."""

    def __init__(self, transfer: HttpTransfer, folder: Path) -> None:
        self._transfer = transfer
        self._path = folder / "snapshot.part"

    def fetch(self, url: str, done: Callable[[Path | GdahError], None]) -> None:
        def run() -> None:
            try:
                self._transfer.save_snapshot(url, self._path)
            except GdahError as error:
                done(error)
            else:
                done(self._path)

        threading.Thread(target=run, name="snapshot", daemon=True).start()

    def read(self, path: Path) -> tuple[SnapshotHeader, Iterator[tuple[str, Rows]]]:
        return read_snapshot(path)


def _lock(path: Path) -> int:
    """One mount for each cache folder. The lock goes with the process, however it ends."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise InvalidArgument(
            f"another mount uses the cache folder {path.parent}; unmount it, or give another --cache-dir"
        ) from None
    return fd


def _client(path: Path, device: str) -> str:
    """The identity of this cache folder, made once and kept: written aside, synced, renamed."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Client).client
    except FileNotFoundError:
        pass
    except msgspec.DecodeError as error:
        raise StorageFailed(f"{path} is damaged ({error}); restore it, or move the cache folder away") from error
    client = _Client(new_client_id(device), device)
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(msgspec.json.encode(client))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    return client.client


def _tls(ca: str | None) -> ssl.SSLContext | None:
    """Raises InvalidArgument for a certificate file that cannot be used."""
    if ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument(f"cannot use the certificate {ca}: {error}") from error


def _take_mark(folder: Path) -> bool:
    """Whether the mark of a good end is there; it is gone afterwards, also if the power goes a moment later."""
    try:
        (folder / ENDED_WELL).unlink()
    except FileNotFoundError:
        return False
    synced = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(synced)
    finally:
        os.close(synced)
    return True
