"""A worker's own folder, judged call by call from the history: answers, what was found after each death, what was
saved.

Pure: from operations to findings and to the folder as it has to be in the end.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gdah_drill.content import digest
from gdah_drill.final import Finding
from gdah_drill.folder import Call, Folder, Refused, after, find, folder_of
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


class Judge(Protocol):
    """What faults excuse (`reach`)."""

    def may_refuse(self, operation: Operation) -> bool:
        """Whether it may be told EIO or ENOSPC."""

    def lost_power(self, mount: str, since: float, until: float) -> bool | None:
        """Whether a server could be reached then; None: the mount's disk has lost nothing."""


def replay(worker: str, operations: Sequence[Operation], judge: Judge) -> Replayed:
    """Only the worker's operations, in their order."""
    told = Replayed(worker)
    walk = _Walk(told, judge)
    for operation in operations:
        walk.take(operation)
    return told


class _Walk:
    def __init__(self, told: Replayed, judge: Judge) -> None:
        self._told = told
        self._judge = judge
        self._dirty: set[int] = set()
        """Files with edits that nobody saved yet."""
        self._firm: dict[int, bytes] = {}
        """Files as they were fsynced, until they are edited again."""
        self._certain_at = 0.0
        self._lost_track = False
        """The folder is not what it has to be, that was said, and what is there was not adopted yet."""

    def take(self, operation: Operation) -> None:
        told = self._told
        if operation.op == "look":
            self._look(operation)
        elif operation.op == "adopt":
            told.folder, told.uncertain = folder_of(operation.result), None
            self._lost_track = False
        elif operation.outcome == "info":
            if told.uncertain is None:
                private = "calls" in operation.details
                told.uncertain = (operation.details["calls"], operation.details["done"]) if private else ((), 0)
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
        self._certain_at = operation.ended
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
        if operation.errno not in REFUSING or not self._judge.may_refuse(operation):
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
                self._firm.pop(folder.handles[handle][0], None)
            case ["sync", handle]:
                self._save(operation, folder.handles[handle][0], fsync=True)
            case ["close", _]:
                for node in self._dirty - {node for node, _ in folder.handles.values()}:
                    self._save(operation, node, fsync=False)

    def _save(self, operation: Operation, node: int, *, fsync: bool) -> None:
        folder = self._told.folder
        path = next((name for name, at in folder.names.items() if at == node), "")
        if fsync:
            self._firm[node] = folder.nodes[node].data
        if node in self._dirty and path:
            self._told.saved.append(Saved(operation.n, path, folder.nodes[node].data, fsync))
        self._dirty.discard(node)

    # --- looks

    def _look(self, operation: Operation) -> None:
        told = self._told
        if operation.outcome != "ok":
            if told.uncertain is None:
                told.uncertain = ((), 0)
            if operation.outcome == "fail" and not self._judge.may_refuse(operation):
                self._say("error", f"looking was refused: {operation.details.get('note', operation.errno)}", operation)
            return
        told.looks += 1
        told.last_look = operation.ended
        if self._lost_track:
            told.uncertain = None
            return
        told.answers += len(operation.result)
        found = find(told.candidates(), operation.result)
        powerless = self._judge.lost_power(operation.mount, self._certain_at, operation.ended)
        if found is None and powerless is not None:
            self._after_power(operation, saved=powerless)
        elif found is None:
            self._say("wrong", self._difference(operation), operation)
        self._lost_track = found is None
        told.folder = found or told.folder
        if told.uncertain is not None or found is None:
            self._dirty.clear()
            self._firm.clear()
        told.uncertain = None
        self._certain_at = operation.ended

    def _after_power(self, operation: Operation, *, saved: bool) -> None:
        """The mount's disk forgot what was not synced. What was fsynced is there; what was saved too, if a server
        could be reached."""
        there = {told[2] for told in operation.result.values() if told[0] == "file"}
        folder = self._told.folder
        kept = set(folder.nodes)
        for (
            candidate
        ) in self._told.candidates():  # what a call that was cut off may have removed or changed is not asked
            kept &= {
                n for n in candidate.names.values() if n in kept and candidate.nodes[n].data is folder.nodes[n].data
            }
        for path, node in sorted(folder.names.items()):
            data = folder.nodes[node].data
            firm = self._firm.get(node) is data
            asked = firm or (saved and node not in self._dirty)
            if node in kept and asked and folder.nodes[node].kind == "file" and digest(data) not in there:
                self._say("fsync" if firm else "lost", f"{path} was lost with the power", operation)

    def _difference(self, operation: Operation) -> str:
        differences = list(dict.fromkeys(folder.difference(operation.result) for folder in self._told.candidates()))
        when = "after a death" if self._told.uncertain else "while nothing had died"
        return f"looked {when}: " + " | or: ".join(differences[:4])
