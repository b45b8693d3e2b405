"""Who could reach whom, and how long an operation may take: what faults excuse, in one place. Pure.

The deadline holds while one server could be reached by the mount all the time from SETTLE_S before the call to its
end, and nothing was done to the mount itself. What is added to it: * the time in which the machine ran nothing
(STOOD_STILL), once more for good measure; * for bytes that are moved: their number over the bandwidth, and over that
of a link that was made to drip; * for a link that was made slow: its delay, for each message that one call may need
(SLOW_MESSAGES).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gdah_drill.final import FinalState
from gdah_drill.history import (
    AWAY,
    CUT,
    DRIP,
    FSYNC_ERROR,
    FULL,
    IO_ERROR,
    LOST_ACK,
    PEER_ADDED,
    POWER,
    ROT,
    SLOW,
    STOOD_STILL,
    TORN,
    Fault,
    History,
    Operation,
)

SETTLE_S = 3.0
"""A server or link that comes back is used again within this time."""
LOOK_EVERY_S = 0.25
CAUGHT_UP_S = 60.0
"""After a fault servers may be catching up for so long; until then they do not decide together."""
OWN_SLACK_S = 2.0
"""For so long after a fault of the mount itself nothing is asked of it."""
SLOW_MESSAGES = 6
UNREAD_S = 5.0
"""Reading what is in no cache may wait so long for some server to come back."""
LINKS = (CUT, LOST_ACK, TORN, SLOW, DRIP)
DISKS = (FULL, IO_ERROR, FSYNC_ERROR, ROT)


@dataclass(frozen=True)
class Stall:
    """The longest call of an operation."""

    operation: Operation
    call: str
    took_s: float
    may_take_s: float
    reachable: bool
    exempt: bool
    during: tuple[str, ...]


class Reach:
    def __init__(self, history: History, final: FinalState) -> None:
        self._final = final
        self._servers = [server.name for server in final.servers]
        self._mounts = {mount.name for mount in final.mounts}
        self._faults = [fault for fault in history.faults if fault.happened]

    def during(self, began: float, ended: float, slack_s: float = 0.0) -> list[Fault]:
        return [fault for fault in self._faults if fault.began <= ended and fault.ended + slack_s >= began]

    def is_exempt(self, mount: str, began: float, ended: float) -> bool:
        """Something was done to the mount itself."""
        touching = self.during(began, ended, OWN_SLACK_S)
        return any(fault.target == mount and fault.fault in (*AWAY, *DISKS) for fault in touching)

    def is_reachable(self, mount: str, began: float, ended: float) -> bool:
        """Some server could be reached by the mount all the time."""
        touching = self.during(began, ended, SETTLE_S)
        away = {fault.target for fault in touching if fault.fault in AWAY}
        away |= {f.target for f in self._faults if f.fault == PEER_ADDED and f.ended + SETTLE_S > began}
        cut = {fault.target for fault in touching if fault.fault in (CUT, LOST_ACK, TORN)}
        return any(
            server not in away and not any(set(_ends(link)) == {mount, server} for link in cut)
            for server in self._servers
        )

    def may_refuse(self, operation: Operation) -> bool:
        """Whether it may be told EIO or ENOSPC."""
        began, ended = operation.began, operation.ended
        own = any(f.target == operation.mount and f.fault in DISKS for f in self.during(began, ended, OWN_SLACK_S))
        return own or not self.is_reachable(operation.mount, began, ended)

    def lost_power(self, mount: str, since: float, until: float) -> bool | None:
        """Whether a server could be reached from SETTLE_S before the mount's disk forgot what was not synced; None: it
        did not forget."""
        for fault in self._faults:
            if fault.fault == POWER and fault.target == mount and since <= fault.began <= until:
                return self.is_reachable(mount, fault.began - SETTLE_S, fault.began)
        return None

    def may_be_forgotten(self, operation: Operation) -> bool:
        """Whether the mount's disk forgot what was not synced before any server could be reached for a while after the
        operation: then only this disk had it, and without an fsync nothing more was promised."""
        for fault in self._faults:
            if fault.fault == POWER and fault.target == operation.mount and fault.began >= operation.began:
                looks = max(1, int((fault.began - operation.ended) / LOOK_EVERY_S))
                times = [operation.ended + LOOK_EVERY_S * number for number in range(looks)]
                return not any(self.is_reachable(operation.mount, at, at + LOOK_EVERY_S) for at in times)
        return False

    def was_calm(self, began: float, ended: float) -> bool:
        """Nothing was wrong anywhere, and had not been for so long that the servers had told each other everything."""
        return not self.during(began, ended, CAUGHT_UP_S)

    def stall(self, operation: Operation) -> Stall:
        call, began, ended = operation.details.get("longest") or (operation.op, operation.began, operation.ended)
        if operation.outcome == "info" and operation.ended - operation.began > ended - began:
            call, began, ended = operation.op, operation.began, operation.ended
        reachable = self.is_reachable(operation.mount, began, ended)
        touching = self.during(began, ended)
        limit = self._final.deadline_s if reachable else self._final.alone_deadline_s
        if not reachable:
            limit = max(limit, UNREAD_S)
        return Stall(
            operation,
            call,
            ended - began,
            limit + self._allowance(operation, began, ended, touching),
            reachable,
            self.is_exempt(operation.mount, began, ended),
            tuple(dict.fromkeys(f"{fault.fault} {fault.target}" for fault in touching)),
        )

    def _allowance(self, operation: Operation, began: float, ended: float, touching: Sequence[Fault]) -> float:
        still = sum(
            min(ended, fault.ended) - max(began, fault.began) for fault in touching if fault.fault == STOOD_STILL
        )
        moved = bytes_moved(operation)
        slow = sum(fault.details.get("delay_s", 0.0) * SLOW_MESSAGES for fault in touching if fault.fault == SLOW)
        drip = sum(moved / fault.details["bytes_per_s"] for fault in touching if fault.details.get("bytes_per_s"))
        return float(2 * still + moved / self._final.bandwidth_bytes_per_s + slow + drip)

    def links_between(self, *kinds: str) -> list[Fault]:
        """Faults of links between two servers."""
        return [f for f in self._faults if f.fault in kinds and set(_ends(f.target)) <= set(self._servers)]


def bytes_moved(operation: Operation) -> int:
    """How many bytes the operation writes, by what its calls say."""
    calls = operation.details.get("calls", ())
    return sum(int(call[2][1]) for call in calls if call[0] in ("put", "add")) + int(operation.details.get("size", 0))


def _ends(link: str) -> list[str]:
    return link.replace("<>", ">").split(">") if ">" in link else [link]
