"""A worker's own folder, judged call by call from the history: answers, what was found after each death, what was
saved.

Pure: from operations to findings and to the folder as it has to be in the end.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gdah_drill.final import Finding
from gdah_drill.folder import Call, Folder, Refused, after, find
from gdah_drill.history import Operation

REFUSING = {errno.EIO, errno.ENOSPC}
"""What a disk says; whether it may, is judged elsewhere (`reach`)."""


@dataclass(frozen=True)
class Saved:
    """Content that a `close` or `fsync` was acknowledged for."""

    n: int
    path: str
    data: bytes
    fsync: bool


@dataclass
class Replayed:
    worker: str
    folder: Folder = field(default_factory=Folder)
    uncertain: tuple[Sequence[Call], int] | None = None
    findings: list[Finding] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    answers: int = 0
    """How many were compared."""
    looks: int = 0
    last_look: float = 0.0

    def candidates(self) -> Iterator[Folder]:
        """What the folder may be in the end."""
        if self.uncertain is None:
            return iter([self.folder])
        return after(self.folder, *self.uncertain)


def replay(worker: str, operations: Sequence[Operation], may_refuse: Callable[[Operation], bool]) -> Replayed:
    """`may_refuse`: whether this operation may be told EIO or ENOSPC. Only the worker's operations, in their order."""
    told = Replayed(worker)
    walk = _Walk(told, may_refuse)
    for operation in operations:
        walk.take(operation)
    return told


class _Walk:
    def __init__(self, told: Replayed, may_refuse: Callable[[Operation], bool]) -> None:
        self._told = told
        self._may_refuse = may_refuse
        self._dirty: set[int] = set()
        self._lost_track = False
        """The folder is not what it has to be, that was said, and the history does not tell the bytes that are
        there."""

    def take(self, operation: Operation) -> None:
        told = self._told
        if operation.op == "look":
            self._look(operation)
        elif operation.outcome == "info":
            if told.uncertain is None:
                private = "calls" in operation.details
                told.uncertain = (operation.details["calls"], operation.details["done"]) if private else ((), 0)
                self._dirty.clear()
        elif "calls" in operation.details and not self._lost_track:
            try:
                self._calls(operation)
            except KeyError as missing:  # a descriptor that must not be open any more
                self._say("wrong", f"{operation.details['calls']}: there is no {missing}", operation)
                self._lost_track = True

    def _say(self, rule: str, what: str, operation: Operation) -> None:
        self._told.findings.append(Finding(rule=rule, what=f"{self._told.worker}: {what}", operations=(operation.n,)))

    # --- calls

    def _calls(self, operation: Operation) -> None:
        calls, done = operation.details["calls"], operation.details["done"]
        for number, call in enumerate(calls[:done]):
            self._call(operation, call, operation.result[number])
        if operation.outcome != "fail":
            return
        try:
            self._told.folder.copy().apply(calls[done])
            expected = 0
        except Refused as refused:
            expected = refused.errno
        if operation.errno == expected:
            self._told.answers += 1
            return
        self._told.uncertain = (calls[done:], 0)
        self._dirty.clear()
        if operation.errno not in REFUSING or not self._may_refuse(operation):
            name = errno.errorcode.get(operation.errno, str(operation.errno))
            rightly = f", not {errno.errorcode[expected]}" if expected else ""
            self._say("error", f"{calls[done]} was told {name}{rightly}", operation)

    def _call(self, operation: Operation, call: Call, answer: object) -> None:
        folder = self._told.folder
        try:
            expected = folder.apply(call)
        except Refused as refused:
            self._say("wrong", f"{call} was done, should be {errno.errorcode[refused.errno]}", operation)
            self._told.uncertain = ((), 0)
            return
        match call:
            case ["read" | "list", *_]:
                self._told.answers += 1
                if answer != expected:
                    self._say("wrong", f"{call} gave {answer!r:.200}, should be {expected!r:.200}", operation)
            case ["open", handle, _, "w"] | ["put" | "add" | "cut", handle, *_]:
                self._dirty.add(folder.handles[handle][0])
            case ["sync", handle]:
                self._save(operation, folder.handles[handle][0], fsync=True)
            case ["close", _]:
                for node in self._dirty - {node for node, _ in folder.handles.values()}:
                    self._save(operation, node, fsync=False)

    def _save(self, operation: Operation, node: int, *, fsync: bool) -> None:
        folder = self._told.folder
        path = next((name for name, at in folder.names.items() if at == node), "")
        if node in self._dirty and path:
            self._told.saved.append(Saved(operation.n, path, folder.nodes[node].data, fsync))
        self._dirty.discard(node)

    # --- looks

    def _look(self, operation: Operation) -> None:
        told = self._told
        if operation.outcome != "ok":
            if told.uncertain is None:
                told.uncertain = ((), 0)
            if operation.outcome == "fail" and not self._may_refuse(operation):
                self._say("error", f"looking was refused: {operation.details.get('note', operation.errno)}", operation)
            return
        told.looks += 1
        told.last_look = operation.ended
        if self._lost_track:
            told.uncertain = None
            return
        told.answers += len(operation.result)
        found = find(told.candidates(), operation.result)
        if found is None:
            self._say("wrong", self._difference(operation), operation)
            self._lost_track = True
        else:
            told.folder = found
        told.uncertain = None

    def _difference(self, operation: Operation) -> str:
        differences = list(dict.fromkeys(folder.difference(operation.result) for folder in self._told.candidates()))
        missing = "after a death" if self._told.uncertain else "while nothing had died"
        return f"looked {missing}: " + " | or: ".join(differences[:4])
