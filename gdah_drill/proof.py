"""Whether a drill put anything to the test. One that did not is a failure, however clean its cluster is. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from gdah_drill.final import FinalState, Finding
from gdah_drill.history import CUT, DEATHS, LOAD_ENDED, Fault, History, Operation
from gdah_drill.log_check import Versions
from gdah_drill.replay import Replayed


def check_proof(
    history: History, final: FinalState, replayed: Sequence[Replayed], versions: Versions
) -> Iterator[Finding]:
    for what in _missing(history, final, replayed, versions):
        yield Finding(rule="proved-nothing", what=what)


def _missing(history: History, final: FinalState, replayed: Sequence[Replayed], versions: Versions) -> Iterator[str]:
    operations, faults = history.operations, history.faults
    yield from _faults_missing(faults, final)
    kills = [fault for fault in faults if fault.fault in DEATHS and fault.happened]
    if kills and not any(was_pending(fault, operations) for fault in kills):
        yield "no operation was pending at any kill"
    parted = [fault for fault in faults if fault.fault == CUT and fault.happened]
    if parted and final.servers and not versions.conflicts:
        yield "links were cut and no conflict was provoked"
    wanted = final.planned.get("operations", 0)
    done = sum(operation.outcome == "ok" for operation in operations)
    if done < wanted or not done:
        yield f"{done} operations were acknowledged, {wanted} were planned"
    if not any(is_fsync(operation) for operation in operations):
        yield "no fsync was acknowledged"
    if not sum(worker.answers for worker in replayed):
        yield "no answer was compared with what it has to be"
    load_ended = max((mark.at for mark in history.marks if mark.mark == LOAD_ENDED), default=0.0)
    for worker in replayed:
        if worker.uncertain is not None or worker.last_look < load_ended or not worker.looks:
            yield f"worker {worker.worker} never looked at what was there in the end"


def _faults_missing(faults: Sequence[Fault], final: FinalState) -> Iterator[str]:
    for fault in faults:
        if not fault.happened:
            yield f"the fault {fault.fault} of {fault.target} did not happen: {fault.note}"
    happened = Counter(fault.fault for fault in faults if fault.happened)
    failed = Counter(fault.fault for fault in faults if not fault.happened)
    for name, count in sorted(final.planned.items()):
        if name != "operations" and happened[name] + failed[name] < count:
            yield f"{count} faults {name} were planned, {happened[name]} happened"


def was_pending(kill: Fault, operations: Sequence[Operation]) -> bool:
    """At the time of the kill an operation was under way, at this mount or (for a server) anywhere, or a backlog was
    there."""
    if kill.details.get("pending"):
        return True
    mounts = {operation.mount for operation in operations}
    return any(
        operation.began <= kill.began <= operation.ended
        for operation in operations
        if kill.target == operation.mount or kill.target not in mounts
    )


def is_fsync(operation: Operation) -> bool:
    calls = operation.details.get("calls", ())
    synced = operation.details.get("fsync") or any(call[0] == "sync" for call in calls)
    return bool(synced) and operation.outcome == "ok"
