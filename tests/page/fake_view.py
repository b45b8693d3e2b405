"""A mount in memory, for tests of the web app and to look at the page: `python -m tests.page.fake_view`."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from gdah_volume.errors import (
    ContentUnavailable,
    Exists,
    IsADirectory,
    NotADirectory,
    NotFound,
    Unreachable,
)
from gdah_volume.ids import OpId
from mountfs import registry
from mountfs.ports import Event, FileItem, PendingItem
from mountfs.web.status import StatusServer, StatusSettings

PIECE_BYTES = 1 << 16
START_NS = 1_748_697_027_793_686_000


class FakeView:
    """Implements MountView. `up` says whether a server answers; while it does not, changes stay pending."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.unmounted = threading.Event()
        self.listeners: list[Callable[[Event], None]] = []
        self.reset()

    def reset(self) -> None:
        self.items: dict[str, FileItem] = {}
        self.contents: dict[str, bytes] = {}
        self.waiting: list[PendingItem] = []
        self.held: dict[str, tuple[FileItem, bytes]] = {}
        """Files whose removal the brake holds."""
        self.up = True
        self.lost: set[str] = set()
        self.unmounted.clear()
        self.status_error: Exception | None = None
        self.largest_piece = 0
        self.writes_begun = 0
        self.clock_ns = START_NS
        self.down_since = 0.0
        self.sequence = 0

    # --- what tests turn

    def connect(self, up: bool) -> None:
        with self.lock:
            self.up = up
            self.down_since = time.time()
            if up:
                self.waiting.clear()
                for path, item in self.items.items():
                    if item.state == "pending":
                        self.items[path] = replace(item, state="synced")
        self.tell(Event("peer_status", {"connected": up}))
        self.tell(Event("pending", {}))

    def tell(self, event: Event) -> None:
        for listener in list(self.listeners):
            listener(event)

    def add(self, path: str, data: bytes | None, *, state: Any = "synced", mtime_ns: int | None = None) -> None:
        """Something that another device made; `data` None: a folder."""
        self._put(path, data, state, mtime_ns or self.clock_ns)
        self.tell(Event("conflict" if state == "conflict" else "change", {"paths": [path]}))

    # --- MountView

    def status(self) -> dict[str, Any]:
        if self.status_error is not None:
            raise self.status_error
        with self.lock:
            age = time.time() - self.down_since if self.waiting else 0.0
            servers = [
                self._server("http://127.0.0.1:7001", 0.42),
                self._server("http://127.0.0.1:7002", 0.61),
            ]
            return {
                "role": "mount",
                "version": "0.1.0",
                "mount": "/home/ana/test_chamber",
                "volume": "test_chamber",
                "device": "laptop",
                "connected": self.up,
                "server": servers[0]["url"] if self.up else None,
                "why": "answers in 0.4 ms" if self.up else "no server answers",
                "servers": servers,
                "pending": {
                    "operations": len(self.waiting),
                    "bytes": sum(item.bytes for item in self.waiting),
                    "oldest_age_s": age,
                    "tries": 3 if self.waiting else 0,
                    "last_error": "connection refused" if self.waiting else None,
                },
                "held": self._held(),
                "copies": "2/2" if self.up else "0/2",
                "conflicts": len(self.conflicts()),
                "cache": {"bytes": 48_230_112, "limit_bytes": 10 << 30},
            }

    def _held(self) -> dict[str, Any]:
        folders = Counter(path.rpartition("/")[0] for path in self.held)
        return {
            "operations": len(self.held),
            "deletions": len(self.held),
            "bytes": 0,
            "since": START_NS / 1e9 if self.held else None,
            "age_s": 90.0 if self.held else None,
            "why": "more than 5000 deletions within 60 s" if self.held else None,
            "bringing_back": False,
            "folders": [{"path": path, "deletions": count} for path, count in folders.most_common(10)],
            "limits": {"count": 5000, "window_s": 60.0, "share": 50.0},
        }

    def hold(self, path: str) -> None:
        """A program removes it, and the brake holds that."""
        with self.lock:
            self.held[path] = self.items.pop(path), self.contents.pop(path)
        self.tell(Event("pending", {}))

    def confirm_held(self) -> int:
        with self.lock:
            count = len(self.held)
            self.held.clear()
        self.tell(Event("pending", {}))
        return count

    def discard_held(self) -> int:
        with self.lock:
            count = len(self.held)
            for path, (item, data) in self.held.items():
                self.items[path], self.contents[path] = item, data
            self.held.clear()
        self.tell(Event("change", {"paths": []}))
        return count

    def _server(self, url: str, latency_ms: float) -> dict[str, Any]:
        return {
            "url": url,
            "healthy": self.up,
            "latency_ms": latency_ms if self.up else None,
            "last_error": None if self.up else "connection refused",
            "lag_operations": 0,
            "free_bytes": 61 << 30,
        }

    def files(self, path: str = "", *, recursive: bool = False) -> list[FileItem]:
        with self.lock:
            if path and not self._item(path).is_dir:
                raise NotADirectory(f"{path!r} is a file")
            prefix = path + "/" if path else ""
            return [
                item
                for name, item in sorted(self.items.items())
                if name.startswith(prefix) and (recursive or "/" not in name[len(prefix) :])
            ]

    def pending(self) -> list[PendingItem]:
        with self.lock:
            return list(self.waiting)

    def conflicts(self) -> list[FileItem]:
        with self.lock:
            return [item for item in self.items.values() if item.state == "conflict"]

    def read_file(self, path: str) -> tuple[FileItem, Iterator[bytes]]:
        with self.lock:
            item = self._item(path)
            if item.is_dir:
                raise IsADirectory(f"{path!r} is a folder")
            data = self.contents[path]
        return item, self._pieces(path, data)

    def _pieces(self, path: str, data: bytes) -> Iterator[bytes]:
        if path in self.lost:
            raise ContentUnavailable(f"the content of {path!r} is in no copy that can be reached")
        for start in range(0, len(data), PIECE_BYTES):
            yield data[start : start + PIECE_BYTES]

    def write_file(self, path: str, pieces: Iterator[bytes]) -> FileItem:
        with self.lock:
            if path in self.items and self.items[path].is_dir:
                raise IsADirectory(f"{path!r} is a folder")
            self.writes_begun += 1
        data = bytearray()
        for piece in pieces:
            self.largest_piece = max(self.largest_piece, len(piece))
            data += piece
        parent = path.rpartition("/")[0]
        if parent and parent not in self.items:
            self._put(parent, None, self._state(), time.time_ns())
        kind = "modified" if path in self.items else "created"
        self._put(path, bytes(data), self._state(), time.time_ns())
        self._log(kind, path, size=len(data))
        return self.items[path]

    def make_dir(self, path: str) -> None:
        with self.lock:
            if path in self.items:
                raise Exists(f"{path!r} exists already")
            self._put(path, None, self._state(), time.time_ns())
        self._log("created", path, is_dir=True)

    def remove(self, path: str) -> None:
        with self.lock:
            item = self._item(path)
            for name in [name for name in self.items if name == path or name.startswith(path + "/")]:
                del self.items[name]
                self.contents.pop(name, None)
        self._log("deleted", path, is_dir=item.is_dir)

    def move(self, path: str, new_path: str) -> None:
        with self.lock:
            moved = self._item(path)
            if new_path in self.items:
                raise Exists(f"{new_path!r} exists already")
            for name in [name for name in self.items if name == path or name.startswith(path + "/")]:
                to = new_path + name[len(path) :]
                self.items[to] = replace(self.items.pop(name), path=to)
                if name in self.contents:
                    self.contents[to] = self.contents.pop(name)
        self._log("moved", path, is_dir=moved.is_dir, dest=new_path)

    def pull(self, timeout_s: float = 10.0) -> str:
        if not self.up:
            raise Unreachable("no server answers; what is here stays as it is, and it is tried again by itself")
        return "up to date with http://127.0.0.1:7001"

    def push(self, timeout_s: float = 30.0) -> str:
        if not self.up:
            raise Unreachable("no server answers; nothing is lost, it is tried again by itself")
        return "everything is on both servers"

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    # --- inside

    def _state(self) -> Any:
        return "synced" if self.up else "pending"

    def _item(self, path: str) -> FileItem:
        try:
            return self.items[path]
        except KeyError:
            raise NotFound(f"{path!r} does not exist") from None

    def _put(self, path: str, data: bytes | None, state: Any, mtime_ns: int) -> None:
        with self.lock:
            kind: Any = "dir" if data is None else "file"
            self.items[path] = FileItem(path, data is None, kind, len(data or b""), mtime_ns, state)
            if data is not None:
                self.contents[path] = data

    def _log(self, kind: Any, path: str, *, is_dir: bool = False, size: int = 0, dest: str | None = None) -> None:
        if not self.up:
            with self.lock:
                self.sequence += 1
                op = OpId(f"laptop-a1b2c3-9f3c0000-{self.sequence}")
                now = time.time_ns()
                error = "connection refused"
                self.waiting.append(PendingItem(op, now, kind, path, is_dir, size, 3, error, dest))
            self.tell(Event("pending", {}))
        self.tell(Event("change", {"paths": [path] if dest is None else [path, dest]}))


def sample(view: FakeView) -> FakeView:
    """A folder that looks like somebody's."""
    hour = 3600 * 10**9
    now = time.time_ns()
    for path, data, age in (
        ("Fotos", None, 30 * hour),
        ("Fotos/praia.jpg", b"\xff\xd8" + b"x" * 2_345_678, 50 * hour),
        ("Fotos/família.jpg", b"\xff\xd8" + b"x" * 1_945_678, 49 * hour),
        ("projects", None, 5 * hour),
        ("projects/gdah", None, 5 * hour),
        ("projects/gdah/README.md", b"# gdah\n" * 200, 4 * hour),
        ("budget 2025.ods", b"z" * 48_120, 3 * hour),
        ("notes.txt", b"remember the milk\n" * 12, 0.2 * hour),
        ("relatório final.pdf", b"%PDF" + b"y" * 812_000, 26 * hour),
        (
            "a very long name that somebody gave to a file so that it does not fit in any column at all.txt",
            b"",
            900 * hour,
        ),
    ):
        view.add(path, data, mtime_ns=int(now - age))
    return view


def serve(directory: str | None) -> None:
    """A process like a mount: prints its URL, is registered for `directory`, ends when it is asked to unmount.

    Lines on stdin: "down", "up", "hold" (the brake holds the removal of a file).
    """
    shown = sample(FakeView())
    server = StatusServer(shown, StatusSettings(port=0, unmount=shown.unmounted.set))
    server.start()
    if directory:
        registry.register(registry.record_here(directory, server.url, cache_dir="/where/the/cache/is"))
    print(server.url, flush=True)

    def obey() -> None:
        for line in sys.stdin:
            if line.strip() == "hold":
                shown.hold("Fotos/praia.jpg")
            else:
                shown.connect(line.strip() != "down")
            print("done", flush=True)

    threading.Thread(target=obey, daemon=True).start()
    shown.unmounted.wait()
    server.stop()
    if directory:
        registry.unregister(directory)


if __name__ == "__main__":
    serve(sys.argv[1] if len(sys.argv) > 1 else None)
