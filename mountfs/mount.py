"""One mount from start to end, as a list of steps: what is built in which order, and taken down in which.

Start: mountpoint, sync side (it locks the cache folder), a first look at a server, what the file system recovers, page,
kernel. Stop, the other way round, with what is not yet on every server handed over first. Nothing is decided here but
the order.

Threading: everything here runs on the main thread; signal handlers only set an event.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from contextlib import ExitStack
from types import FrameType

from gdah_volume import __version__
from gdah_volume.cycles import keep_out_of_the_way
from gdah_volume.errors import GdahError, MountBusy
from mountfs import registry
from mountfs.config import MountSettings
from mountfs.fileside import FileSide
from mountfs.fuse import fuse_session, mountpoint
from mountfs.fuse.binding import MountOptions
from mountfs.fuse.kernel_cache import NotifyingKernelCache
from mountfs.fuse_ops import FuseOps
from mountfs.syncside import SyncSide
from mountfs.view import MountedView
from mountfs.web.status import StatusServer, StatusSettings

log = logging.getLogger("gdah.mount")

EXIT_ONLY_LOCAL = 3
STATUS_LINE_S = 0.5
UNMOUNT_GRACE_S = 5.0
AGAIN_VIEW_S = 2.0
"""After a kill or a loss of power: so long a mount waits for a server to tell what this disk may have forgotten."""
FIRST_VIEW_S = 5.0
"""A new cache folder knows nothing yet: so long the first mount waits for a server's tree, if there is a server."""
SWITCH_INTERVAL_S = 0.0005
"""How long one Python thread may make the others wait: with the default of 5 ms a busy one delays every reply."""


class Mount:
    """`start`, then `run`, which returns after the end. `abandon` takes down what a failed start left."""

    def __init__(self, settings: MountSettings) -> None:
        self.settings = settings
        self._down = ExitStack()
        self._stop = threading.Event()
        self._impatient = False
        self._recovered = 0

    # --- up

    def start(self) -> None:
        """Raises GdahError with the cause and the next step; what was built is then taken down by `abandon`."""
        settings = self.settings
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        keep_out_of_the_way()
        mountpoint.check_rights(allow_other=settings.allow_other, privileged=settings.privileged)
        before = registry.find(settings.mountpoint)
        self._path = mountpoint.prepare(settings.mountpoint, abandoned=before is not None and not before.alive)
        self.files = FileSide(settings)
        self._down.callback(self.files.close)
        self.sync = SyncSide(settings, self.files.kept_chunks())
        self._down.callback(self.sync.close)
        self.kernel_cache = NotifyingKernelCache()
        self.sync.changelog.read_only = settings.read_only
        self.files.open(self.sync, self.kernel_cache)
        self.sync.upstream.when_told(self.kernel_cache.after)
        self.sync.start()
        limit_s = FIRST_VIEW_S if self.sync.mirror.empty else AGAIN_VIEW_S
        self.sync.upstream.wait_first_view(limit_s, doubt=not self.sync.ended_well)
        if not settings.read_only:  # edits of an earlier run wait in their journals for a mount that may change things
            # Only now: a disk that forgot that they were saved would make a conflict out of them.
            self._recovered = self.files.recover()
        facts: dict[str, object] = {
            "mount": str(self._path),
            "volume": settings.volume,
            "device": settings.device,
            "version": __version__,
            "read_only": settings.read_only,
        }
        self.view = MountedView(self.sync, self.files.filesystem, self.files.cache, facts)
        self._start_page()
        options = MountOptions(
            allow_other=settings.allow_other, read_only=settings.read_only, privileged=settings.privileged
        )
        self.session = fuse_session.mount(self._path, FuseOps(self.files.filesystem), options, self.kernel_cache)
        self._register()

    def _start_page(self) -> None:
        settings = self.settings
        self.page: StatusServer | None = None
        if settings.status_port < 0:
            return
        self.page = StatusServer(
            self.view,
            StatusSettings(settings.status_host, settings.status_port, settings.token, settings.volume, self._stop.set),
        )
        self.page.start()
        self._down.callback(self.page.stop)

    def _register(self) -> None:
        settings = self.settings
        url = self.page.url if self.page else ""
        registry.register(
            registry.record_here(
                self._path, url, volume=settings.volume, cache_dir=settings.cache_dir, servers=settings.servers
            )
        )
        self._down.callback(registry.unregister, self._path)

    def greeting(self) -> str:
        lines = [f"gdah serves {self._path} (volume {self.settings.volume}, log {self.settings.cache_dir}/mount.log)"]
        if self.page:
            lines.append(f"page and status: {self.page.url}")
        if self._recovered:
            lines.append(f"recovered {self._recovered} files that were open when the last mount ended")
        return "\n".join(lines)

    def abandon(self) -> None:
        self._down.close()

    # --- serving

    def run(self, *, status_line: bool) -> str | None:
        """Serve until a signal, `gdah unmount` or an unmount from outside; then take everything down. Returns what a
        person must know at the end: what is only on this device."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        while not self._stop.is_set() and not self.session.stopped():
            if status_line:
                _show(status_words(self.view.status()))
            self._stop.wait(STATUS_LINE_S)
        if status_line:
            _show("unmounting ...")
        try:
            self._hand_over()
            self._leave_kernel()
            self._hand_over()
            return self._only_here()
        finally:
            self._down.close()
            if status_line:
                _show("")

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._impatient = self._stop.is_set()
        self._stop.set()

    def _hand_over(self) -> None:
        """Open files first: what programs wrote but did not close yet."""
        try:
            self.files.filesystem.flush_all()
        except GdahError as error:
            log.warning("some open files could not be flushed: %s", error)
        deadline = time.monotonic() + self.settings.flush_timeout_s
        while not self.sync.changelog.flush(0.2) and time.monotonic() < deadline:
            if self._impatient or not self.sync.connected:
                return

    def _leave_kernel(self) -> None:
        try:
            ended = self.session.unmount(grace_s=UNMOUNT_GRACE_S)
        except MountBusy as error:
            log.warning("%s; leaving it lazily", error)
            _warn(f"{error}; its programs lose it now")
            ended = self.session.unmount(lazy=True, grace_s=UNMOUNT_GRACE_S)
        except GdahError as error:
            log.warning("could not unmount: %s", error)
            _warn(str(error))
            ended = False
        if ended:
            self.session.run()

    def _only_here(self) -> str | None:
        log_ = self.sync.changelog
        held = len(log_.holding)
        lines = []
        if log_.pending_operations:
            lines.append(
                f"gdah: {log_.pending_operations} changes ({log_.pending_bytes} bytes) are only on this device or on"
                f" one server; they are kept in {self.settings.cache_dir} and go on with the next mount"
            )
        if held:
            lines.append(
                f"gdah: {held} changes are held by the brake on deletions and kept in {self.settings.cache_dir}; mount"
                " again and decide: gdah brake --confirm, or gdah brake --discard"
            )
        return "\n".join(lines) or None


def status_words(status: dict[str, object]) -> str:
    """One line for the terminal."""
    pending = status["pending"]
    assert isinstance(pending, dict)
    where = f"using {status['server']}" if status["connected"] else "NO SERVER - working on this device"
    waiting = f", {pending['operations']} changes waiting" if pending["operations"] else ""
    held = status.get("held")
    brake = f", {held['operations']} HELD (gdah brake)" if isinstance(held, dict) and held.get("operations") else ""
    return f"{where}, copies {status['copies']}{waiting}{brake}, conflicts {status['conflicts']}"


def _show(line: str) -> None:
    sys.stdout.write("\r\x1b[K" + line)
    sys.stdout.flush()


def _warn(line: str) -> None:
    sys.stderr.write(f"\rgdah-mount: {line}\n")
