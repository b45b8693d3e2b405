"""Builds the server from its settings: volumes, lanes, routes. The one room where all parts are known.

`serve` runs it until told to stop, or until its disk fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, Any

import uvicorn
from fastapi import FastAPI, WebSocket

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.database import Database
from gdah_volume.errors import GdahError, InvalidArgument, StorageFailed
from gdah_volume.ids import VolumeName
from gdah_volume.layout import SERVER_LOCK, VOLUME_CHUNKS, VOLUME_DATABASE, server_volume
from gdah_volume.wire import MESSAGE_MAX_BYTES, PROTOCOL
from storage_server.answers import install_errors
from storage_server.api import make_router
from storage_server.auth import TokenDoor
from storage_server.authoring import Editor
from storage_server.braking import Brakes
from storage_server.channel import serve_lane
from storage_server.collector import Collector
from storage_server.config import Config
from storage_server.files_api import make_files_router
from storage_server.membership import Membership
from storage_server.metrics import COUNTS
from storage_server.original import OriginalView, make_original_router
from storage_server.peers import Credentials, PeerLink
from storage_server.readers import Readers
from storage_server.scrub import Scrub
from storage_server.served import Care, Served
from storage_server.transfer import PeerTransfer
from storage_server.upkeep import Upkeep
from storage_server.volume_store import VolumeStore
from storage_server.volumes import SOFTWARE, Volume, VolumeParts

log = logging.getLogger("storage_server")

STOP_TIMEOUT_S = 5
DAY_S = 86400.0
FATAL_EXIT_S = 3.0
"""After its disk has failed a server does not outlive this, whatever hangs."""


class DataFolder:
    """The folder of one running server. Raises InvalidArgument, StorageFailed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / SERVER_LOCK).open("w", encoding="ascii")
        except OSError as error:
            raise InvalidArgument(f"--data {path}: cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InvalidArgument(f"--data {path} is in use by another storage-server: give each its own") from None
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self.spool = path / "spool"
        self.spool.mkdir(exist_ok=True)

    def of(self, volume: VolumeName) -> Path:
        folder = server_volume(self.path, volume)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def close(self) -> None:
        self._lock.close()


class Application:
    """Invariant: everything that is open is closed by `close`, in the reverse order."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.failed: GdahError | None = None
        self._stop: Callable[[], None] = lambda: None
        self._folder = DataFolder(config.data)
        tls = _client_tls(config)
        self._credentials = Credentials(config.token, tls)
        self._transfer = PeerTransfer(config.token, tls if tls is not None else True, self._folder.spool)
        self._databases: list[Database] = []
        self._folders: dict[str, Database] = {}
        """A connection for each volume on which its write-ahead log is folded back."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.volumes: dict[str, Volume] = {name: self._open(name) for name in config.volumes}
        self._care: dict[str, Care] = {name: self._care_for(volume) for name, volume in self.volumes.items()}
        self.app = self._build()

    def _open(self, name: VolumeName) -> Volume:
        folder = self._folder.of(name)
        database = Database(folder / VOLUME_DATABASE)
        self._databases.append(database)
        # The write-ahead log is folded back by `upkeep`, beside the writer: inside a commit it would stop the loop.
        database.execute("PRAGMA wal_autocheckpoint = 0")
        self._folders[name] = Database(folder / VOLUME_DATABASE)
        self._databases.append(self._folders[name])
        lock = threading.RLock()
        reader = database.reader()
        self._databases.append(reader)
        chunks = ChunkStore(folder / VOLUME_CHUNKS, database, lock=lock, reader=reader)
        store = VolumeStore(database, chunks, monotonic=time.monotonic)
        urls, replaced = store.members()
        own_url, peers = self.config.own_url, self.config.peers
        membership = Membership(store.server, own_url, peers, urls, replaced, dict(store.retired))
        parts = VolumeParts(name, store, chunks, Readers(database, chunks), lock)
        volume = Volume(parts, membership, self._transfer, self._fatal, COUNTS.repaired)
        volume.dial = lambda url: self._dial(volume, url)
        return volume

    def _care_for(self, volume: Volume) -> Care:
        config = self.config
        scrub = Scrub(volume, every_s=config.scrub_days * DAY_S)
        collector = Collector(
            volume,
            every_s=config.collect_days * DAY_S,
            grace_s=config.collect_grace_hours * 3600.0,
            keep_s=config.collect_keep_days * DAY_S,
            sound=scrub.database_damage,
        )
        return Care(scrub, collector)

    # --- routes

    def _build(self) -> FastAPI:
        @contextlib.asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            self._start()
            yield
            await self._end()

        app = FastAPI(title="gdah storage server", version=SOFTWARE.rpartition(" ")[2], lifespan=lifespan)
        install_errors(app)
        editors = {
            name: Editor(volume, Brakes(name, self.config.brake, volume.monotonic))
            for name, volume in self.volumes.items()
        }
        about = {
            "version": app.version,
            "protocol": PROTOCOL,
            "url": self.config.own_url,
            "data": str(self.config.data),
            "started": time.time(),
        }
        served = Served(self.volumes, editors, self._care, about)
        app.include_router(make_router(served))
        app.include_router(make_files_router(served))
        views = {
            name: OriginalView(volume, editors[name], self._folder.of(volume.name) / "original.db")
            for name, volume in self.volumes.items()
        }
        app.include_router(make_original_router(served, views))

        @app.websocket("/v1/volumes/{volume}/lane")
        async def lane(websocket: WebSocket, volume: str) -> None:
            await serve_lane(websocket, self.volumes, volume)

        app.add_middleware(TokenDoor, token=self.config.token)
        return app

    # --- life

    def _start(self) -> None:
        for name, volume in self.volumes.items():
            volume.start()
            upkeep = Upkeep(
                volume,
                self._folder.of(VolumeName(name)),
                self._folders[name],
                min_free_bytes=self.config.min_free_bytes,
                log_retention_days=self.config.log_retention_days,
            )
            self._run(upkeep.run(), f"upkeep of {name}")
            self._run(self._care[name].scrub.run(), f"scrub of {name}")
            self._run(self._care[name].collector.run(), f"collector of {name}")
            for url in volume.membership.start():
                self._dial(volume, url)
        names = ", ".join(self.volumes)
        server = next(iter(self.volumes.values())).server
        peers = ", ".join(self.config.peers) or "no peers: one copy only"
        log.info("storage server %s keeps %s in %s; %s", server, names, self.config.data, peers)

    def _dial(self, volume: Volume, url: str) -> None:
        if not url or url in volume.links or url == self.config.own_url:
            return
        link = PeerLink(volume, url, self._credentials)
        volume.links[url] = link
        self._run(link.run(), f"link to {url}")

    def _run(self, work: Any, name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s ended by a fault of ours", task.get_name(), exc_info=task.exception())
            self._fatal(StorageFailed(f"{task.get_name()} ended: {task.exception()}"))

    async def _end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.failed is None:
            for volume in self.volumes.values():
                await volume.stop()
        await self._transfer.close()
        self.close()

    def close(self) -> None:
        if self.failed is None:
            for database in reversed(self._databases):
                with contextlib.suppress(GdahError):
                    database.close()
        self._folder.close()

    def _fatal(self, error: GdahError) -> None:
        """The disk cannot be trusted: stop, and answer nothing that has not been answered."""
        if self.failed is not None:
            return
        self.failed = error
        log.critical("the server stops: %s. Check the disk, then start it again; the other servers go on", error)
        timer = threading.Timer(FATAL_EXIT_S, lambda: os._exit(1))
        timer.daemon = True
        timer.start()
        self._stop()

    def serve(self) -> int:
        """Until SIGTERM or SIGINT, or a failed disk. The exit code."""
        server = uvicorn.Server(
            uvicorn.Config(
                self.app,
                host=self.config.host,
                port=self.config.port,
                loop="uvloop",
                http="httptools",
                ws="websockets-sansio",
                ws_max_size=MESSAGE_MAX_BYTES,
                ws_per_message_deflate=False,
                ws_ping_interval=None,
                ws_ping_timeout=None,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
                ssl_certfile=str(self.config.tls_cert) if self.config.tls_cert else None,
                ssl_keyfile=str(self.config.tls_key) if self.config.tls_key else None,
                server_header=False,
            )
        )

        def stop() -> None:
            server.should_exit = True

        self._stop = stop
        server.run()
        return 1 if self.failed is not None or not server.started else 0


def _client_tls(config: Config) -> ssl.SSLContext | None:
    """For lanes that we dial; None: the system's authorities."""
    if config.ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(config.ca))
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument(f"--ca {config.ca}: not a certificate of an authority: {error}") from error
