"""The judge of a drill: from the history and from what is there in the end to findings. No finding: nothing was lost,
as far as this drill could tell, and it was put to the test. Pure.

The rules are `final.RULES`. Each worker's own folder is judged by `replay`, what servers logged by `log_check`, time by
`reach`, and whether the drill proved anything by `proof`.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gdah_drill.content import parse
from gdah_drill.final import FinalState, Finding, Tree
from gdah_drill.generator import home_of
from gdah_drill.history import History, Operation
from gdah_drill.log_check import (
    acknowledged,
    check_acknowledged,
    check_lines,
    check_removals,
    paths_in_tables,
    read_versions,
)
from gdah_drill.proof import check_proof
from gdah_drill.reach import Reach
from gdah_drill.replay import Replayed, replay
from gdah_drill.shared_load import lines_that_are_none
from gdah_drill.sharing import check_exclusive, conflicting_writes

MOST_OF_ONE_RULE = 30
"""Findings of one rule that are told; the rest is counted."""
ORDINARY = {"ENOENT", "EEXIST", "ENOTEMPTY", "ENOTDIR", "EISDIR"}
"""What may be told to programs that share a folder."""


def check(history: History, final: FinalState) -> list[Finding]:
    reach = Reach(history, final)
    operations = history.operations
    replayed = replay_all(operations, reach)
    versions = read_versions(final.servers)
    findings = [finding for worker in replayed for finding in worker.findings]
    findings += check_rest(final)
    findings += check_trees(final)
    findings += check_tables(final)
    findings += check_own_folders(replayed, final)
    if final.servers:
        forgotten = {operation.n for operation in operations if reach.may_be_forgotten(operation)}
        wanted = [each for each in acknowledged(operations, replayed) if each.fsync or each.n not in forgotten]
        findings += check_acknowledged(versions, wanted, final.servers)
        findings += check_lines(operations, final, versions, forgotten)
        findings += check_removals(versions, operations)
    findings += check_shared(operations, final, reach)
    findings += check_conflicts(operations, final)
    findings += check_exclusive(operations, reach)
    findings += check_time(operations, reach)
    findings += check_proof(history, final, replayed, versions)
    return _bounded(findings)


def replay_all(operations: Iterable[Operation], reach: Reach) -> list[Replayed]:
    by_worker: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_worker[operation.worker].append(operation)
    return [replay(worker, by_worker[worker], reach) for worker in sorted(by_worker)]


def _bounded(findings: Sequence[Finding]) -> list[Finding]:
    by_rule: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_rule[finding.rule].append(finding)
    told = []
    for rule, those in by_rule.items():
        told += those[:MOST_OF_ONE_RULE]
        if len(those) > MOST_OF_ONE_RULE:
            told.append(Finding(rule=rule, what=f"and {len(those) - MOST_OF_ONE_RULE} more"))
    return told


# --- the end ------------------------------------------------------------------------------------------------------


def check_rest(final: FinalState) -> Iterator[Finding]:
    if final.not_quiet:
        yield Finding(rule="restless", what=final.not_quiet)
    for name, trace in final.tracebacks.items():
        yield Finding(rule="traceback", what=f"{name}: {trace}")
    digests = {server.name: digest_in(server.status) for server in final.servers}
    if len(set(digests.values())) > 1:
        yield Finding(rule="unequal", what=f"digests of the logs: {digests}")


def digest_in(status: Mapping[str, object]) -> str:
    volumes = status.get("volumes")
    assert isinstance(volumes, Mapping)
    return ", ".join(f"{volume['digest']}" for _, volume in sorted(volumes.items()))


def check_trees(final: FinalState) -> Iterator[Finding]:
    """Every mount and every server hold the same, byte for byte."""
    trees = final.trees()
    for name, tree in trees[1:]:
        differences = tree_differences(trees[0][1], tree)
        if differences:
            what = f"{trees[0][0]} and {name} differ in {len(differences)} paths: {'; '.join(differences[:5])}"
            yield Finding(rule="unequal", what=what)


def check_tables(final: FinalState) -> Iterator[Finding]:
    """The tables of a server name what its log makes, no more and no less."""
    for server in final.servers:
        named = paths_in_tables(server)
        other = sorted(named ^ set(server.tree))
        if named and other:
            what = f"the tables of {server.name} and its log differ in {len(other)} paths: {', '.join(other[:5])}"
            yield Finding(rule="unequal", what=what)


def tree_differences(one: Tree, other: Tree) -> list[str]:
    return [
        f"{path}: {_short(one, path)} and {_short(other, path)}"
        for path in sorted(one.keys() | other.keys())
        if path not in one or path not in other or one[path] != other[path]
    ]


def _short(tree: Tree, path: str) -> str:
    if path not in tree:
        return "absent"
    value = tree[path]
    if value is None:
        return "a folder"
    if isinstance(value, str):
        return f"a link to {value}"
    parsed = parse(value)
    return f"{len(value)} bytes ({parsed.kind} {parsed.content})"


def check_own_folders(replayed: Iterable[Replayed], final: FinalState) -> Iterator[Finding]:
    for replica, whole in final.trees():
        for worker in replayed:
            home = home_of(worker.worker) + "/"
            tree = {path.removeprefix(home): value for path, value in whole.items() if path.startswith(home)}
            copies = [path for path in tree if "(conflict " in path]
            if copies:
                what = f"{replica}: {worker.worker} worked alone and has {copies[:3]}"
                yield Finding(rule="own-conflict", what=what)
            elif not any(finding.rule == "wrong" for finding in worker.findings):
                yield from _check_own(replica, worker, tree)


def _check_own(replica: str, worker: Replayed, tree: Tree) -> Iterator[Finding]:
    differences: list[list[str]] = []
    for folder in worker.candidates():
        differences.append(tree_differences(folder.tree(), tree))
        if not differences[-1]:
            return
    least = min(differences, key=len)
    gone = [text for text in least if text.endswith(" and absent")]
    rule = "deleted" if gone and len(gone) == len(least) else "wrong"
    what = (
        f"{replica}: {worker.worker}'s folder differs in {len(least)} paths (expected, found): {'; '.join(least[:5])}"
    )
    yield Finding(rule=rule, what=what)


# --- what was shared ------------------------------------------------------------------------------------------------


def check_shared(operations: Sequence[Operation], final: FinalState, reach: Reach) -> Iterator[Finding]:
    cut_off = {operation.content for operation in operations if operation.content and operation.outcome != "ok"}
    for operation in operations:
        if not operation.op.startswith("s-"):
            continue
        result = operation.result if isinstance(operation.result, dict) else {}
        if result.get("kind") == "mixed":
            yield _about("mixed", operation, f"{operation.path}: {result['note']}")
        if result.get("kind") == "prefix" and result["content"] not in cut_off:
            yield _about(
                "mixed", operation, f"{operation.path}: a part of {result['content']}, which was written whole"
            )
        if operation.outcome == "fail" and not _may_fail(operation, reach):
            yield _about("error", operation, f"{operation.op} {operation.path}: {_errno_name(operation.errno)}")
    for name, tree in final.trees():
        yield from _check_shared_tree(name, tree, cut_off)


def _may_fail(operation: Operation, reach: Reach) -> bool:
    name = _errno_name(operation.errno)
    return name in ORDINARY or (name in ("EIO", "ENOSPC") and reach.may_refuse(operation))


def _errno_name(number: int) -> str:
    return errno.errorcode.get(number, str(number))


def _check_shared_tree(name: str, tree: Tree, cut_off: set[str]) -> Iterator[Finding]:
    for path, data in tree.items():
        if not path.startswith("shared/") or not isinstance(data, bytes) or not lines_that_are_none(data):
            continue
        parsed = parse(data)
        if parsed.kind == "mixed" or (parsed.kind == "prefix" and parsed.content not in cut_off):
            what = f"{name}: {path}: {parsed.note or f'a part of {parsed.content}, which was written whole'}"
            yield Finding(rule="mixed", what=what)


def _about(rule: str, operation: Operation, what: str) -> Finding:
    return Finding(rule=rule, what=f"{operation.worker}: {what}", operations=(operation.n,))


def check_conflicts(operations: Sequence[Operation], final: FinalState) -> Iterator[Finding]:
    copies = conflict_copies(final)
    limit = conflicting_writes(operations)
    if len(copies) > limit:
        yield Finding(
            rule="conflicts",
            what=f"{len(copies)} conflict copies of {limit} conflicting operations: {', '.join(copies[:5])}",
        )


def conflict_copies(final: FinalState) -> list[str]:
    return sorted({path for _, tree in final.trees() for path in tree if "(conflict " in path.rpartition("/")[2]})


# --- time -----------------------------------------------------------------------------------------------------------


def check_time(operations: Iterable[Operation], reach: Reach) -> Iterator[Finding]:
    for operation in operations:
        stall = reach.stall(operation)
        if stall.took_s > stall.may_take_s and not stall.exempt:
            where = "a server could be reached" if stall.reachable else "no server could be reached"
            yield _about(
                "deadline",
                operation,
                f"{operation.op} {operation.path}: {stall.call} took {stall.took_s:.2f} s of {stall.may_take_s:.2f}, "
                f"{where}; during: {', '.join(stall.during) or 'nothing'}",
            )
