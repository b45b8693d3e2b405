"""What a drill came to, as data and for people. Decides nothing: the findings are the checker's."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from gdah_drill.checker import conflict_copies
from gdah_drill.final import FinalState, Finding
from gdah_drill.history import LOAD_ENDED, QUIET, STARTED, History
from gdah_drill.log_check import read_versions
from gdah_drill.proof import is_fsync
from gdah_drill.reach import Reach, Stall, bytes_moved
from gdah_drill.sharing import conflicting_writes

LOST = ("lost", "fsync", "history", "deleted")
WRONG = ("wrong", "mixed", "unequal", "own-conflict", "conflicts", "exclusive")


def report_of(history: History, final: FinalState, findings: Sequence[Finding], **known: Any) -> dict[str, Any]:
    """As JSON. `known`: what the runner knows besides (seed, date, commit, settings, took_s, healed). The plan is in
    the mark STARTED."""
    operations = history.operations
    acknowledged = sum(operation.outcome == "ok" for operation in operations)
    load_s = _load_s(history)
    stalls = sorted(map(Reach(history, final).stall, operations), key=lambda stall: stall.took_s, reverse=True)
    counted = [stall for stall in stalls if not stall.exempt]
    rules = Counter(finding.rule for finding in findings)
    plan = next((mark.details for mark in history.marks if mark.mark == STARTED), {})
    return {
        **known,
        "plan": plan,
        "passed": not findings,
        "findings": [{"rule": f.rule, "what": f.what, "operations": list(f.operations)} for f in findings],
        "lost": sum(rules[rule] for rule in LOST),
        "wrong": sum(rules[rule] for rule in WRONG),
        "operations": len(operations),
        "acknowledged": acknowledged,
        "load_s": round(load_s, 1),
        "acknowledged_per_s": round(acknowledged / load_s, 1) if load_s else 0.0,
        "fsyncs": sum(is_fsync(operation) for operation in operations),
        "bytes_written": sum(bytes_moved(operation) for operation in operations),
        "operations_by_kind": _by_kind([(operation.op, operation.outcome) for operation in operations]),
        "faults": sum(fault.happened for fault in history.faults),
        "faults_by_kind": _by_kind(
            [(fault.fault, "happened" if fault.happened else "not done") for fault in history.faults]
        ),
        "worst_stall": _told(counted[0]) if counted else None,
        "worst_stall_with_a_server": _told(next((stall for stall in counted if stall.reachable), None)),
        "worst_stall_of_all": _told(stalls[0]) if stalls else None,
        "conflicts": {
            "copies": len(conflict_copies(final)),
            "conflicting_operations": conflicting_writes(operations),
            "names_that_were_made": read_versions(final.servers).conflicts if final.servers else 0,
        },
        "healed_in_s": next((mark.details.get("took_s") for mark in history.marks if mark.mark == QUIET), None),
    }


def _load_s(history: History) -> float:
    """For how long programs wrote."""
    began, ended = (next((m.at for m in history.marks if m.mark == name), 0.0) for name in (STARTED, LOAD_ENDED))
    return max(0.0, ended - began)


def _by_kind(pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, int]]:
    told: dict[str, dict[str, int]] = defaultdict(dict)
    for (kind, outcome), count in sorted(Counter(pairs).items()):
        told[kind][outcome] = count
    return dict(told)


def _told(stall: Stall | None) -> dict[str, Any] | None:
    if stall is None:
        return None
    operation = stall.operation
    return {
        "took_s": round(stall.took_s, 3),
        "may_take_s": round(stall.may_take_s, 3),
        "call": stall.call,
        "operation": f"{operation.op} {operation.path}",
        "n": operation.n,
        "mount": operation.mount,
        "reachable": stall.reachable,
        "during": list(stall.during),
    }


def for_people(report: dict[str, Any]) -> str:
    conflicts = report["conflicts"]
    acknowledged = f"{report['acknowledged']} ({report['acknowledged_per_s']} a second)"
    rows = {
        **{name: report[name] for name in ("seed", "date", "commit", "took_s") if report.get(name) is not None},
        "operations": f"{report['operations']}, acknowledged {acknowledged}, with fsync {report['fsyncs']}",
        "written": f"{report['bytes_written'] / 1e6:.1f} MB",
        "lost, wrong": f"{report['lost']}, {report['wrong']}",
        "conflicts": f"{conflicts['copies']} copies in the end, {conflicts['names_that_were_made']} made, "
        f"{conflicts['conflicting_operations']} operations that met one they did not know of",
        "healed": _healed_line(report.get("healed")),
        "healed in": f"{report['healed_in_s']} s",
        "longest stall": _stall_line(report["worst_stall_with_a_server"], "with a server in reach"),
        "": _stall_line(report["worst_stall"], "with or without one"),
        "of any mount": _stall_line(report["worst_stall_of_all"], "stopped and broken mounts too"),
    }
    lines = [
        "PASSED: nothing was lost and nothing was wrong" if report["passed"] else "FAILED",
        *(f"  {finding['rule']}: {finding['what']}" for finding in report["findings"]),
        "",
        *(f"{name:14} {value}" for name, value in rows.items()),
        "",
        f"{report['faults']} faults",
        *_table(report["faults_by_kind"]),
        "operations",
        *_table(report["operations_by_kind"]),
    ]
    return "\n".join(lines)


def _healed_line(healed: dict[str, int] | None) -> str:
    if healed is None:
        return "not counted"
    return (
        f"{healed['bytes'] / 1e6:.1f} MB: {healed['entries']} operations and {healed['chunks']} chunks that a server "
        f"lacked, {healed['cached_chunks']} damaged chunks in caches"
    )


def _stall_line(stall: dict[str, Any] | None, which: str) -> str:
    if stall is None:
        return f"none {which}"
    during = ", ".join(stall["during"]) or "no fault"
    return f"{stall['took_s']:.2f} s {which}: {stall['call']} of {stall['operation']}, during {during}"


def _table(counts: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"  {sum(told.values()):6} {kind}: " + ", ".join(f"{name} {count}" for name, count in told.items())
        for kind, told in counts.items()
    ]
