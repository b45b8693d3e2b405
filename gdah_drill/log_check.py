"""Nothing acknowledged is lost, by the rows of the servers: what each version held, who replaced or removed it, and
what he had seen.

The rule: the content of an acknowledged write is current under a live name; or it was the base of a later write, by
one who had it before him; or it was removed or replaced by an operation that names it as seen, and is in history or
trash then: a version of it and its chunks are on every server. Contents are found by their bytes, so nothing that a
mount said about versions is believed. Pure.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from blake3 import blake3

from gdah_drill.content import SMALLEST_BYTES, contents_in
from gdah_drill.final import FinalState, Finding, Server
from gdah_drill.folder import bytes_of
from gdah_drill.history import Operation
from gdah_drill.replay import Replayed

CHUNK_BYTES = 1 << 20
Key = tuple[int, tuple[str, ...]]
"""A content: its size and the names of its chunks. Contents of the drill hold no zeros, so there is one form of
each."""


def key_of(data: bytes) -> Key:
    return len(data), tuple(
        blake3(data[start : start + CHUNK_BYTES]).hexdigest() for start in range(0, len(data), CHUNK_BYTES)
    )


@dataclass
class Versions:
    """What all the servers' rows say together."""

    content: dict[str, Key] = field(default_factory=dict)
    """Of each version that an operation made."""
    known: dict[Key, list[str]] = field(default_factory=lambda: defaultdict(list))
    current: set[Key] = field(default_factory=set)
    """Under a live name."""
    seen: set[Key] = field(default_factory=set)
    """Replaced or removed by an operation that names it."""
    removed: set[Key] = field(default_factory=set)
    """Of these, what lost its name by it."""
    removals: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(device, type) of operations that removed names."""
    conflicts: int = 0
    """Links that ever got the name of a conflict copy and still have a row."""


def read_versions(servers: Sequence[Server]) -> Versions:
    told = Versions()
    operations: dict[str, dict[str, Any]] = {}
    for server in servers:
        for row in server.operations:
            if row["id"] not in operations:
                operations[row["id"]] = json.loads(row["operation"])
        for row in server.versions:
            told.content.setdefault(row["version"], _unpacked(row["content"]))
    for name, operation in operations.items():
        if "content" in operation:
            told.content[name] = _key_in(operation["content"])
    for version, key in told.content.items():
        told.known[key].append(version)
    for name, operation in operations.items():
        _note_seen(told, name, operation)
    told.seen |= told.removed
    for server in servers[:1]:
        _note_current(told, server)
    return told


def _unpacked(packed: bytes) -> Key:
    size, chunks = msgspec.msgpack.decode(packed)
    return size, tuple(chunk[1].hex() for chunk in chunks)


def _key_in(content: Mapping[str, Any]) -> Key:
    return content["size"], tuple(chunk[1] for chunk in content["chunks"])


def _keys(told: Versions, version: str | None) -> Iterator[Key]:
    for member in [version, *version.split("+")] if version else []:
        if member in told.content:
            yield told.content[member]


def _note_seen(told: Versions, name: str, operation: Mapping[str, Any]) -> None:
    device, kind = name.partition("-")[0], operation["type"]
    replaced = operation.get("replaces") or {}
    if kind == "write":
        told.seen.update(_keys(told, operation.get("base")))
    if kind in ("unlink", "rmdir"):
        told.removals[device, kind] += 1
    if kind == "unlink":
        told.removed.update(_keys(told, operation.get("version")))
    if replaced:
        told.removals[device, "replace"] += 1
        told.removed.update(_keys(told, replaced.get("version")))


def _note_current(told: Versions, server: Server) -> None:
    live = {row["node"] for row in server.links if row["live"]}
    for row in server.nodes:
        if row["id"] in live:
            told.current.update(_keys(told, row["version"]))
    names = (row["name"] for row in server.links)
    told.conflicts = sum(b"(conflict " in (name if isinstance(name, bytes) else str(name).encode()) for name in names)


# --- findings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Acknowledged:
    """Content that somebody was told is saved."""

    n: int
    what: str
    key: Key
    fsync: bool


def acknowledged(operations: Iterable[Operation], replayed: Iterable[Replayed]) -> list[Acknowledged]:
    """Every content that the history says was saved, but the lines of logs. What holds zeros is left to the comparison
    of bytes: it has several forms."""
    told = [
        Acknowledged(saved.n, f"{worker.worker}: {saved.path}", key_of(saved.data), saved.fsync)
        for worker in replayed
        for saved in worker.saved
        if saved.data and 0 not in saved.data
    ]
    for operation in operations:
        writing = operation.op in ("s-create", "s-edit", "s-save") and operation.outcome == "ok"
        if writing and operation.content and not operation.details.get("unlinked"):
            data = bytes_of((operation.content, operation.details["size"]))
            told.append(Acknowledged(operation.n, operation.path, key_of(data), bool(operation.details.get("fsync"))))
    return told


def check_acknowledged(told: Versions, wanted: Iterable[Acknowledged], servers: Sequence[Server]) -> list[Finding]:
    have = {server.name: {_unpacked(row["content"]) for row in server.versions} for server in servers}
    findings = []
    for content in wanted:
        where = f"{content.what} ({content.key[0]} bytes)"
        rule = "fsync" if content.fsync else "lost"
        if content.key not in told.known:
            findings.append(_finding(rule, f"{where} was acknowledged and is in no log", content))
        elif content.key not in told.current and content.key not in told.seen:
            what = f"{where} is current nowhere, and nobody who saw it replaced or removed it"
            findings.append(_finding(rule, f"{what}: {', '.join(told.known[content.key][:3])}", content))
        else:
            findings += _check_history(content, where, servers, have)
    return findings


def _check_history(
    content: Acknowledged, where: str, servers: Sequence[Server], have: Mapping[str, set[Key]]
) -> Iterator[Finding]:
    for server in servers:
        if content.key not in have[server.name]:
            yield _finding("history", f"{where}: {server.name} has no version of it", content)
        missing = [name for name in content.key[1] if name not in server.chunks]
        if missing:
            yield _finding("history", f"{where}: {server.name} lacks {len(missing)} of its chunks", content)


def _finding(rule: str, what: str, content: Acknowledged) -> Finding:
    return Finding(rule=rule, what=what, operations=(content.n,))


def check_lines(
    operations: Sequence[Operation], final: FinalState, told: Versions, forgotten: Collection[int] = ()
) -> list[Finding]:
    """Each line that was acknowledged is in a file, or in one that somebody removed who had seen the line: the program,
    or the mount on which it was removed (a line may come between reading and removing).
    `forgotten`: numbers of operations that a disk without power may have forgotten."""
    there = _lines_removed(final.servers, told)
    for server in final.servers[:1]:
        for data in server.tree.values():
            if isinstance(data, bytes) and len(data) % SMALLEST_BYTES == 0:
                there.update(contents_in(data))
    for operation in operations:
        gone = operation.op in ("s-remove", "s-save", "s-edit", "s-rename") and operation.outcome != "fail"
        if gone and isinstance(operation.result, dict):
            there.update(operation.result.get("contents", ()))
            there.update([operation.seen] if operation.seen else ())
    return [
        Finding(
            rule="fsync" if operation.details.get("fsync") else "lost",
            what=f"{operation.worker} appended a line to {operation.path}, and it is in no file",
            operations=(operation.n,),
        )
        for operation in operations
        if operation.op == "s-append" and operation.outcome == "ok" and operation.content not in there
        if operation.details.get("fsync") or operation.n not in forgotten
    ]


def _lines_removed(servers: Sequence[Server], told: Versions) -> set[str]:
    found: set[str] = set()
    for size, names in told.removed:
        if size and size % SMALLEST_BYTES == 0:
            for server in servers:
                if all(name in server.chunks for name in names):
                    found.update(contents_in(b"".join(server.chunks[name] for name in names)))
                    break
    return found


REMOVING = {"unlink": "unlink", "rmdir": "rmdir", "rename": "replace"}


def check_removals(told: Versions, operations: Iterable[Operation]) -> list[Finding]:
    """Every removal that a log has was made by a program of that device."""
    made: Counter[tuple[str, str]] = Counter()
    for operation in operations:
        calls = [call[0] for call in operation.details.get("calls", ())]
        if operation.op == "s-remove":
            calls = ["unlink"]
        if operation.op in ("s-save", "s-rename", "s-rename-folder"):
            calls = ["rename"]
        for call in calls:
            if call in REMOVING:
                made[operation.mount, REMOVING[call]] += 1
    return [
        Finding(
            rule="deleted", what=f"{device} logged {count} times {kind}, and its programs made {made[device, kind]}"
        )
        for (device, kind), count in sorted(told.removals.items())
        if count > made[device, kind]
    ]


def paths_in_tables(server: Server) -> set[str]:
    """Every path that the tables of a server name; a mount's tree is made from its log."""
    live = {row["node"]: row for row in server.links if row["live"] and row.get("parent")}
    paths: dict[str, str] = {"root": ""}

    def path_of(node: str) -> str | None:
        if node not in paths and node in live:
            above = path_of(live[node]["parent"])
            if above is None:
                return None
            paths[node] = f"{above}/{os.fsdecode(live[node]['name'])}".lstrip("/")
        return paths.get(node)

    found = set()
    for row in server.links:
        above = path_of(row["parent"]) if row["live"] and row.get("parent") else None
        if above is not None:
            found.add(f"{above}/{os.fsdecode(row['name'])}".lstrip("/"))
    return found
