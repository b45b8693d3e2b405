"""What happened in a drill, told from outside the system under test: operations, faults, marks; one JSON line each.

The words in which the parts of a drill speak to each other; decides nothing. A history is complete without the cluster:
the checker works on one that was loaded from a file as well as on one in memory.

Nodes are named as in the cluster: `server-a`, and a mount by its name. A link is `one>server-a` (what flows from the
first to the second) or `one<>server-a` (both ways).

Threading: any thread may tell; lines are written under a lock, in the order in which they were told.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

Outcome = Literal["ok", "fail", "info"]
"""`info`: it may or may not have happened, or a part of it did (the mount died in the middle, a disk refused)."""

# --- faults: the words that the checker knows. `began` to `ended` is the time in which it could be felt -----------

KILL = "kill"
"""kill -9 of a node; `ended` when it serves again. details: {"pending": operations in the mount's backlog then}"""
STOP = "stop"
"""SIGSTOP of a node until SIGCONT."""
CUT = "cut"
"""Silence on a link."""
SLOW = "slow"
"""A link with delay. details: {"delay_s": each way}"""
DRIP = "drip"
"""A link with little bandwidth. details: {"bytes_per_s": n}"""
LOST_ACK = "lost-ack"
"""A link whose answers vanish after the work was done, then is cut off."""
TORN = "torn"
"""A link cut in the middle of a message or of a chunk."""
FULL = "full"
"""No room on a node's disk: the data of a server, the cache of a mount."""
IO_ERROR = "io-error"
FSYNC_ERROR = "fsync-error"
POWER = "power"
"""kill -9 of a node, and its disk forgets what was not synced."""
CLOCK = "clock"
"""A node's clock is set. details: {"by_s": seconds from the true time}"""
OLD_COPY = "old-copy"
"""A server came back with an older copy of its folder."""
LOST_FOLDER = "lost-folder"
"""A server came back without its folder."""
ROT = "rot"
"""Bits changed in a chunk file of a server, or in the cache of a mount. details: {"files": n}"""
PEER_ADDED = "peer-added"
PEER_RETIRED = "peer-retired"
UNMOUNT = "unmount"
"""SIGTERM to a mount until it serves again. details: {"pending": ...}"""
SHUTDOWN = "shutdown"
"""SIGTERM to a server until it serves again."""
STOOD_STILL = "stood-still"
"""Not done by anybody: the machine did not run the drill itself for this time. Every deadline is longer by it."""

FAULTS = (
    KILL, STOP, CUT, SLOW, DRIP, LOST_ACK, TORN, FULL, IO_ERROR, FSYNC_ERROR, POWER, CLOCK, OLD_COPY, LOST_FOLDER, ROT,
    PEER_ADDED, PEER_RETIRED, UNMOUNT, SHUTDOWN,
)  # fmt: skip
DEATHS = (KILL, POWER)
AWAY = (
    KILL,
    STOP,
    POWER,
    OLD_COPY,
    LOST_FOLDER,
    SHUTDOWN,
    UNMOUNT,
    PEER_ADDED,
    PEER_RETIRED,
    FULL,
    IO_ERROR,
    FSYNC_ERROR,
)
"""While one of these lasts its node may answer nobody."""

# --- marks ---------------------------------------------------------------------------------------------------

STARTED = "started"
"""The load begins. details: the plan as data."""
LOAD_ENDED = "load-ended"
"""Workers have stopped; what comes now are their last looks."""
HEALED = "healed"
"""Every fault has ended."""
QUIET = "quiet"
"""Nothing is pending and all servers say the same. details: {"took_s": n}"""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One thing that a worker did. `began` and `ended` by time.monotonic()."""

    n: int
    worker: str
    mount: str
    op: str
    path: str = ""
    began: float
    ended: float
    outcome: Outcome
    errno: int = 0
    to: str = ""
    content: str = ""
    """The id of what was written."""
    seen: str = ""
    """Shared files: the id of what this worker had read there before."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the operation needs besides (size, offset, mode, target, fsync)."""
    result: Any = None
    """What it answered, as far as a checker wants to know."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    fault: str
    target: str
    began: float
    ended: float
    happened: bool = True
    """False: it was planned and could not be done, as `note` says: the drill has not proved what it set out to."""
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Mark:
    mark: str
    at: float
    details: dict[str, Any] = field(default_factory=dict)


Event = Operation | Fault | Mark
_KINDS: dict[str, type[Operation | Fault | Mark]] = {"op": Operation, "fault": Fault, "mark": Mark}


class History:
    """Invariant: `events` holds what the file holds, in the same order."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: each event is appended to this file at once."""
        self._lock = threading.Lock()
        self._file: TextIO | None = path.open("a", encoding="utf-8") if path else None
        self._number = 0
        self.events: list[Event] = []

    # --- telling

    def operation(
        self, worker: str, mount: str, op: str, path: str, *, began: float, ended: float, outcome: Outcome, **more: Any
    ) -> Operation:
        """Tell of an operation; it gets the next number."""
        with self._lock:
            self._number += 1
            event = Operation(
                n=self._number,
                worker=worker,
                mount=mount,
                op=op,
                path=path,
                began=began,
                ended=ended,
                outcome=outcome,
                **more,
            )
            self._tell(event)
        return event

    def fault(
        self,
        fault: str,
        target: str,
        *,
        began: float,
        ended: float,
        happened: bool = True,
        note: str = "",
        **details: Any,
    ) -> Fault:
        assert fault in (*FAULTS, STOOD_STILL), fault
        event = Fault(
            fault=fault, target=target, began=began, ended=ended, happened=happened, note=note, details=details
        )
        with self._lock:
            self._tell(event)
        return event

    def mark(self, mark: str, **details: Any) -> Mark:
        event = Mark(mark=mark, at=time.monotonic(), details=details)
        with self._lock:
            self._tell(event)
        return event

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        if self._file:
            self._file.write(to_line(event) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    # --- asking

    @property
    def operations(self) -> list[Operation]:
        return [event for event in list(self.events) if isinstance(event, Operation)]

    @property
    def faults(self) -> list[Fault]:
        return [event for event in list(self.events) if isinstance(event, Fault)]

    @property
    def marks(self) -> list[Mark]:
        return [event for event in list(self.events) if isinstance(event, Mark)]

    def __iter__(self) -> Iterator[Event]:
        return iter(list(self.events))

    @classmethod
    def load(cls, path: Path) -> History:
        history = cls()
        with path.open(encoding="utf-8") as lines:
            history.continue_from(from_line(line) for line in lines)
        return history

    def continue_from(self, events: Iterable[Event]) -> None:
        """Take over what was told elsewhere; nothing of it is written."""
        with self._lock:
            self.events = list(events)
            self._number = max((event.n for event in self.operations), default=0)


def to_line(event: Event) -> str:
    (kind,) = (name for name, known in _KINDS.items() if type(event) is known)
    return json.dumps(
        {"kind": kind, **{name: value for name, value in asdict(event).items() if value not in ("", None, {})}}
    )


def from_line(line: str) -> Event:
    raw = json.loads(line)
    return _KINDS[raw.pop("kind")](**raw)


class Steadiness:
    """Tells the history when the machine did not run this process (and so perhaps nobody): a thread that
    sleeps for TICK_S and sees how long that took."""

    TICK_S = 0.02
    TELL_FROM_S = 0.1

    def __init__(self, history: History) -> None:
        self._history = history
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steadiness", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(self.TICK_S):
            now = time.monotonic()
            if now - before - self.TICK_S > self.TELL_FROM_S:
                self._history.fault(STOOD_STILL, "machine", began=before, ended=now)
            before = now

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
