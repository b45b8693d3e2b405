"""Plays the scenes of a plan against an environment, and tells the history of each fault: when, how long, and whether
it was seen to happen.

Two scenes never work on the same node or link at once: the later waits. A scene that was planned is played, late if
need be, unless the drill is interrupted.

Threading: one thread a scene, and one for each fault that ends; `play` from the runner's.
"""

from __future__ import annotations

import heapq
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from gdah_drill import history as words
from gdah_drill.environment import Environment, pair
from gdah_drill.fault_cables import Cut, Drip, LostAck, Slow, Torn
from gdah_drill.fault_disks import FsyncError, Full, IoError, Losing, LostFolder, OldCopy, Power, Rot
from gdah_drill.faults import Clock, Fault, Kill, PeerAdded, PeerRetired, Stop, Terminate
from gdah_drill.history import History
from gdah_drill.scenes import Scene, Step

KINDS: dict[str, type[Fault]] = {
    words.KILL: Kill,
    words.STOP: Stop,
    words.UNMOUNT: Terminate,
    words.SHUTDOWN: Terminate,
    words.CUT: Cut,
    words.SLOW: Slow,
    words.DRIP: Drip,
    words.LOST_ACK: LostAck,
    words.TORN: Torn,
    words.CLOCK: Clock,
    words.FULL: Full,
    words.IO_ERROR: IoError,
    words.FSYNC_ERROR: FsyncError,
    words.POWER: Power,
    words.OLD_COPY: OldCopy,
    words.LOST_FOLDER: LostFolder,
    words.ROT: Rot,
    words.PEER_ADDED: PeerAdded,
    words.PEER_RETIRED: PeerRetired,
}
LATE_MAX_S = 300.0
"""What waits for its node longer than this after the time of the plan is over is left out, and told of."""


@dataclass(order=True)
class _Turn:
    at_s: float
    number: int
    fault: Fault = field(compare=False)
    ends: bool = field(compare=False, default=False)


class Nemesis:
    def __init__(self, env: Environment, history: History) -> None:
        self.env = env
        self.history = history
        self._over = threading.Event()

    def play(self, scenes: Sequence[Scene], seconds: float) -> None:
        """Returns when the time is over and the last scene has ended."""
        began = time.monotonic()
        threads = []
        for scene in scenes:
            if self._over.wait(max(0.0, began + scene.at_s - time.monotonic())):
                break
            thread = threading.Thread(target=self._scene, args=(scene,), name=f"scene-{scene.name}", daemon=True)
            thread.start()
            threads.append(thread)
        self._over.wait(max(0.0, began + seconds - time.monotonic()))
        until = time.monotonic() + LATE_MAX_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._over.set()
        for thread in threads:
            thread.join(LATE_MAX_S)

    def interrupt(self) -> None:
        """No further fault begins; those that last are ended."""
        self._over.set()

    def _scene(self, scene: Scene) -> None:
        faults = [(step, KINDS[step.kind](self.env, step.target, **step.details)) for step in scene.steps]
        wanted = {resource for step, fault in faults for resource in self._resources(step, fault)}
        with self.env.holding(*wanted):
            try:
                self._acts(faults)
            except Exception:
                self.env.troubles.append(f"scene {scene.name} of the drill failed: {traceback.format_exc()}"[-3000:])

    def _resources(self, step: Step, fault: Fault) -> tuple[str, ...]:
        if step.kind == words.CLOCK:
            return (f"clock of {step.target}",)
        if isinstance(fault, Losing | PeerAdded | PeerRetired):  # needs servers that see each other
            names = [server.name for server in self.env.servers]
            links = [pair(one, other) for one in names for other in names if one < other]
            return (*fault.resources, *names, *links)
        return fault.resources

    def _acts(self, faults: list[tuple[Step, Fault]]) -> None:
        """A fault that takes its time to end (a mount that starts, a server that catches up) holds up no other: it may
        need that the others end."""
        began = time.monotonic()
        turns = [_Turn(step.after_s, number, fault) for number, (step, fault) in enumerate(faults)]
        lasts = [step.for_s for step, _ in faults]
        since: dict[int, float] = {}
        ends: list[threading.Thread] = []
        heapq.heapify(turns)
        while turns:
            turn = heapq.heappop(turns)
            over = self._over.wait(max(0.0, began + turn.at_s - time.monotonic()))
            if turn.ends:
                name = f"end-{turn.fault.kind}-{turn.fault.target}"
                ends.append(
                    threading.Thread(target=self._end, args=(turn.fault, since[turn.number]), name=name, daemon=True)
                )
                ends[-1].start()
            elif over:
                self._tell(turn.fault, time.monotonic(), "not done: the drill ended before its turn")
            else:
                since[turn.number] = time.monotonic()
                if self._begin(turn.fault):
                    heapq.heappush(turns, _Turn(turn.at_s + lasts[turn.number], turn.number, turn.fault, ends=True))
        for thread in ends:
            thread.join()

    def _begin(self, fault: Fault) -> bool:
        began = time.monotonic()
        try:
            fault.begin()
        except Exception as error:
            fault.not_done(f"{type(error).__name__}: {error}"[:500])
            self._end(fault, began)
            return False
        return True

    def _end(self, fault: Fault, began: float) -> None:
        try:
            fault.end()
        except Exception as error:
            self.env.troubles.append(f"{fault.kind} of {fault.target} could not be ended: {error}"[:2000])
        self._tell(fault, began, fault.note)

    def _tell(self, fault: Fault, began: float, note: str) -> None:
        self.history.fault(
            fault.kind,
            fault.target,
            began=began,
            ended=time.monotonic(),
            happened=fault.happened,
            note=note,
            **fault.details,
        )
