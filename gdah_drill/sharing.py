"""Which operations in the shared folder did not know of each other, by what their workers had read before. Pure."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterator, Sequence

from gdah_drill.final import Finding
from gdah_drill.history import Operation
from gdah_drill.reach import Reach

CHANGING = ("s-create", "s-edit", "s-save", "s-append", "s-remove", "s-rename", "s-mkdir", "s-rename-folder")


def changes(operations: Sequence[Operation]) -> list[Operation]:
    """What changed the shared folder, or may have."""
    return [operation for operation in operations if operation.op in CHANGING and operation.outcome != "fail"]


def conflicting_writes(operations: Sequence[Operation]) -> int:
    """How many operations met one of another mount, at the same name, of which their worker did not know.

    A name is that of the file without its folder, as folders are renamed. One who had read what another wrote, or what
    was written over that, knew of it.
    """
    by_name: dict[str, list[Operation]] = defaultdict(list)
    before = {operation.content: operation.seen for operation in operations if operation.content}
    for operation in changes(operations):
        names = {_plain(operation.path), _plain(operation.to)} - {""}
        for name in names:
            by_name[name].append(operation)
    met: set[int] = set()
    for those in by_name.values():
        known = {operation.n: _ancestors(operation, before) for operation in those}
        for number, one in enumerate(those):
            for other in those[number + 1 :]:
                if one.mount != other.mount and not _ordered(one, other, known):
                    met.update((one.n, other.n))
    return len(met)


def _plain(path: str) -> str:
    return posixpath.basename(path).partition(" (conflict ")[0]


def _ancestors(operation: Operation, before: dict[str, str]) -> set[str]:
    found: set[str] = set()
    seen = operation.seen
    while seen and seen not in found:
        found.add(seen)
        seen = before.get(seen, "")
    return found


def _ordered(one: Operation, other: Operation, known: dict[int, set[str]]) -> bool:
    return (bool(one.content) and one.content in known[other.n]) or (
        bool(other.content) and other.content in known[one.n]
    )


def check_exclusive(operations: Sequence[Operation], reach: Reach) -> Iterator[Finding]:
    """Of two exclusive creates of one name one succeeds, if nothing was wrong anywhere and nobody took the name
    away."""
    made: dict[str, Operation] = {}
    for operation in sorted(changes(operations), key=lambda it: it.began):
        if operation.op == "s-rename-folder":
            made.clear()
        if operation.op in ("s-remove", "s-rename"):
            made.pop(operation.path, None)
            made.pop(operation.to, None)
        if operation.op != "s-create" or operation.outcome != "ok":
            continue
        first = made.get(operation.path)
        if first and reach.was_calm(first.began, operation.ended) and not _taken_away(operations, first, operation):
            yield Finding(
                rule="exclusive",
                what=f"{first.worker} and {operation.worker} both created {operation.path}",
                operations=(first.n, operation.n),
            )
        made[operation.path] = operation


def _taken_away(operations: Sequence[Operation], first: Operation, second: Operation) -> bool:
    """Somebody was about to remove or move the name at that time."""
    return any(
        operation.op in ("s-remove", "s-rename", "s-rename-folder")
        and operation.outcome != "fail"
        and operation.began <= second.ended
        and operation.ended >= first.began
        and (operation.op == "s-rename-folder" or first.path in (operation.path, operation.to))
        for operation in operations
    )
