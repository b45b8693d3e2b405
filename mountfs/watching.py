"""What happens in a mount, as events for who watches it: changes by path, the server in use, what waits, conflicts.

Changes that others made come with their paths; own ones are noticed by their effect, a moment later. Nothing
is looked at while nobody listens.

Threading: any thread subscribes; one thread (`events`) looks and tells. The lock is a leaf.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from gdah_volume.disk_errors import database_errors
from gdah_volume.errors import GdahError
from gdah_volume.ids import NodeId
from gdah_volume.names import is_conflict
from gdah_volume.replica import Changes
from mountfs.ports import Event
from mountfs.syncside import SyncSide

log = logging.getLogger("mountfs.view")

LOOK_EVERY_S = 0.2
PATHS_MAX = 256
"""Paths in one event; with more, the event names none, and who listens looks at everything."""

Listener = Callable[[Event], None]


class Watcher:
    def __init__(self, sync: SyncSide) -> None:
        self._sync = sync
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._entries: set[tuple[NodeId, bytes]] = set()
        self._watching = False
        sync.mirror.add_listener(self._on_changes)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        with self._lock:
            self._listeners.append(listener)
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="events", daemon=True).start()

        def end() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def _on_changes(self, changes: Changes) -> None:
        with self._lock:
            if self._listeners and len(self._entries) <= PATHS_MAX:
                self._entries |= changes.entries

    def _watch(self) -> None:
        """Until nobody listens any more."""
        before = self._state()
        while True:
            time.sleep(LOOK_EVERY_S)
            with self._lock:
                listeners = list(self._listeners)
                entries, self._entries = self._entries, set()
                if not listeners:
                    self._watching = False
                    return
            now = self._state()
            if entries or now != before:
                for event in self._events(before, now, entries):
                    _tell(listeners, event)
            before = now

    def _state(self) -> tuple[int, str | None, int]:
        """(the tree's generation, the server in use, operations that wait); read without locks."""
        return (
            self._sync.mirror.tree.store.generation,
            self._sync.upstream.url,
            self._sync.changelog.pending_operations,
        )

    def _events(
        self, before: tuple[int, str | None, int], now: tuple[int, str | None, int], entries: set[tuple[NodeId, bytes]]
    ) -> list[Event]:
        events = []
        if entries or now[0] != before[0]:
            paths = self._paths(entries)
            data: dict[str, Any] = {"paths": paths} if paths else {}
            events.append(Event("change", data))
            if any(is_conflict(name) for _, name in entries):
                events.append(Event("conflict", {}))
        if now[1] != before[1]:
            events.append(Event("peer_status", {"connected": now[1] is not None, "server": now[1]}))
        if now[2] != before[2]:
            events.append(Event("pending", {"operations": now[2]}))
        return events

    def _paths(self, entries: set[tuple[NodeId, bytes]]) -> list[str]:
        if len(entries) > PATHS_MAX:
            return []
        found = []
        mirror = self._sync.mirror
        with mirror.lock:
            for parent, name in entries:
                try:
                    with database_errors("the mirror of this device"):
                        above = mirror.tree.path(parent)
                except GdahError:
                    continue
                if above is not None:
                    raw = above + b"/" + name if above else name
                    found.append(raw.decode("utf-8", "surrogateescape"))
        return sorted(found)


def _tell(listeners: list[Listener], event: Event) -> None:
    for listener in listeners:
        try:
            listener(event)
        except Exception:  # one that fails must not keep the others from hearing
            log.exception("a listener failed")
