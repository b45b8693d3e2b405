"""Deliberate breakages of the product and of the protocol. Each must be caught by a check, or the check proves nothing.

A mutation is a function that patches with pytest's `monkeypatch`; `CATALOGUE` says which properties may catch it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from gdah_volume import engine, rules, undo
from gdah_volume.evaluation import Evaluation
from gdah_volume.ids import OpId, op_id
from gdah_volume.log import Log
from gdah_volume.replica import Changes, Replica
from gdah_volume.rows import MEMBERS, FileRow, VersionRow
from tests.model.clients import Client
from tests.model.servers import Server
from tests.model.stories import (
    ALIKE_THEN_REMOVED,
    ALIKE_THEN_WRITTEN,
    BEFORE_THE_BARRIER,
    FORKED_THEN_LINKED,
    IN_DOUBT,
    MADE_TWICE_AND_REMOVED,
    MADE_TWICE_MOVED_AND_REMOVED,
    MOVED_AND_REMOVED,
    REVIVED_INTO_A_CYCLE,
    SLOW_CLOCK,
    WRITTEN_TWICE,
    WRITTEN_TWICE_AND_EXCHANGED,
)
from tests.model.world import Program, World

Patch = pytest.MonkeyPatch
Rules = rules._Rules


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """What is broken on purpose may loop for ever: interrupt it after so much processor time."""

    def stop(*_: object) -> None:
        raise TimeoutError("a broken fold does not end")

    old = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)


@dataclass(frozen=True)
class Mutation:
    name: str
    apply: Callable[[Patch], None]
    caught_by: frozenset[int]
    """Property numbers; 0 stands for an assertion or refusal inside the code itself."""
    program: Program = ()
    """Two servers, two clients, where random programs would take long to meet it."""
    alone: bool = False
    """Looked for with programs of one client."""


# --- the engine -----------------------------------------------------------------------------------------


def _drops_undo_of(table: str) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        pack = undo.pack_undo

        def forgetful(before: Any, touched: Any) -> bytes:
            return pack(msgspec.structs.replace(before, **{table: {}}), touched)

        patch.setattr(engine, "pack_undo", forgetful)

    return apply


def order_of_arrival(patch: Patch) -> None:
    patch.setattr(Log, "top", lambda self: (0, "", OpId("")))


def no_clash_with_absent_rows(patch: Patch) -> None:
    """A read that finds nothing is not taken down."""

    def forgetting(method: str, table: str) -> None:
        read = getattr(Evaluation, method)

        def reading(self: Evaluation, name: Any) -> Any:
            before = self.touched.get((table, name))
            found = read(self, name)
            if found is None and before is None:
                del self.touched[table, name]
            return found

        patch.setattr(Evaluation, method, reading)

    for method in ("node", "alias", "link", "version", "last"):
        forgetting(method, method)


def no_clash_of_membership(patch: Patch) -> None:
    touch = Evaluation._touch

    def without(self: Evaluation, key: Any, mode: int) -> None:
        if mode != MEMBERS:
            touch(self, key, mode)

    patch.setattr(Evaluation, "_touch", without)


def first_stamp_stays(patch: Patch) -> None:
    accept_all = Replica.accept_all

    def stubborn(self: Replica, entries: Any) -> Changes:
        entries = list(entries)
        known = {op.id: self.stamp_of(op.id) for op, _ in entries}
        return accept_all(self, [e for e in entries if (old := known[e[0].id]) is None or old.is_pending])

    patch.setattr(Replica, "accept_all", stubborn)


# --- the rules ------------------------------------------------------------------------------------------


def _sees_in_drop(change: Callable[[Any, Any], Any]) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        drop = Rules.drop

        def changed(self: Any, seen: Any) -> Any:
            row = self.rows.link(seen.link)
            return drop(self, seen if row is None else change(seen, (self, row)))

        patch.setattr(Rules, "drop", changed)

    return apply


def _with_current_version(seen: Any, at: Any) -> Any:
    file = at[0].rows.file(at[1].node)
    return seen if file is None else msgspec.structs.replace(seen, version=file.version)


ignores_rev = _sees_in_drop(lambda seen, at: msgspec.structs.replace(seen, rev=at[1].rev))
ignores_last = _sees_in_drop(lambda seen, at: msgspec.structs.replace(seen, last=True))
ignores_version = _sees_in_drop(_with_current_version)


def overwrites_instead_of_forking(patch: Patch) -> None:
    def overwrite(self: Any, node: Any, op: Any, packed: bytes) -> None:
        self.rows.put_file(node, FileRow(op.id, op.content.size))
        self.rows.put_version(op.id, VersionRow(node, packed))

    patch.setattr(Rules, "fork", overwrite)


def no_cycle_check(patch: Patch) -> None:
    patch.setattr(Rules, "inside", lambda self, directory, node: False)


def edit_does_not_revive(patch: Patch) -> None:
    patch.setattr(Rules, "after_write", lambda self, node, op: None)


def same_content_takes_the_version(patch: Patch) -> None:
    def same(self: Any, node: Any, size: int, packed: bytes) -> None:
        self.rows.put_file(node, FileRow(self.op, size))
        self.rows.put_version(self.op, VersionRow(node, packed))

    patch.setattr(Rules, "same", same)


def folder_removed_with_its_entries(patch: Patch) -> None:
    class Blind:
        def __init__(self, rows: Any) -> None:
            self._rows = rows

        def __getattr__(self, name: str) -> Any:
            return getattr(self._rows, name)

        def has_entries(self, node: Any) -> bool:
            return False

    drop = Rules.drop

    def blind(self: Any, seen: Any) -> Any:
        rows, self.rows = self.rows, Blind(self.rows)
        try:
            return drop(self, seen)
        finally:
            self.rows = rows

    patch.setattr(Rules, "drop", blind)


def occupant_gives_way(patch: Patch) -> None:
    """A create takes the name of what is there."""
    free_name = Rules.free_name

    def taking(self: Any, parent: Any, name: bytes, want: bytes, mover: Any = None) -> bytes:
        occupant = self.rows.link_at(parent, name)
        if occupant is not None and occupant != mover:
            self.detach(occupant, self.rows.link(occupant))
            return name
        return free_name(self, parent, name, want, mover)

    patch.setattr(Rules, "free_name", taking)


def any_name_of_a_branch(patch: Patch) -> None:
    def first(self: Any, node: Any) -> Any:
        return self.first_or_last(node)

    patch.setattr(Rules, "branch_link", first)


def cycle_checked_once(patch: Patch) -> None:
    inside = Rules.inside

    def once(self: Any, directory: Any, node: Any) -> bool:
        first, self.asked = not getattr(self, "asked", False), True
        return bool(first and inside(self, directory, node))

    patch.setattr(Rules, "inside", once)


def merge_leaves_rev(patch: Patch) -> None:
    merge = Rules.merge

    def silent(self: Any, link: Any, row: Any, occupant: Any, other: Any) -> None:
        merge(self, link, row, occupant, other)
        self.rows.put_link(occupant, other)

    patch.setattr(Rules, "merge", silent)


def rename_leaves_rev(patch: Patch) -> None:
    rename = Rules.rename

    def silent(self: Any, op: Any) -> None:
        old = self.rows.link(op.link)
        rename(self, op)
        new = self.rows.link(op.link)
        if old is not None and new is not None and new != old:
            self.rows.put_link(op.link, msgspec.structs.replace(new, rev=old.rev))

    patch.setattr(Rules, "rename", silent)


def exchange_ignores_rev(patch: Patch) -> None:
    as_seen = Rules.as_seen

    def careless(self: Any, link: Any, rev: Any, version: Any) -> Any:
        row = self.rows.link(link)
        return as_seen(self, link, rev if row is None else row.rev, version)

    patch.setattr(Rules, "as_seen", careless)


def exchange_ignores_branches(patch: Patch) -> None:
    as_seen = Rules.as_seen
    patch.setattr(Rules, "as_seen", lambda self, link, rev, version: as_seen(self, link, rev, None))


def exchange_leaves_rev(patch: Patch) -> None:
    exchange = Rules.exchange

    def silent(self: Any, op: Any) -> None:
        exchange(self, op)
        for seen in (op, op.other):
            row = self.rows.link(seen.link)
            if row is not None and self.op in row.rev:
                self.rows.put_link(seen.link, msgspec.structs.replace(row, rev=seen.rev))

    patch.setattr(Rules, "exchange", silent)


def exchange_looks_for_one_circle(patch: Patch) -> None:
    would = Rules.would_hold_itself

    def once(self: Any, row: Any, at: Any) -> bool:
        first, self.looked = not getattr(self, "looked", False), True
        return bool(first and would(self, row, at))

    patch.setattr(Rules, "would_hold_itself", once)


def move_forgets_merges(patch: Patch) -> None:
    patch.setattr(Rules, "merged_parts", lambda self, rev: [])


def branches_not_followed(patch: Patch) -> None:
    patch.setattr(Rules, "target", lambda self, node, version: self.resolve(node))


# --- the protocol ---------------------------------------------------------------------------------------


def nothing_handed_over(patch: Patch) -> None:
    patch.setattr(Client, "hand_over", lambda self, server: None)


def strict_in_doubt(patch: Patch) -> None:
    send = Client.send

    def careless(self: Client, op: Any) -> Any:
        self.in_doubt.discard(op.id)
        return send(self, op)

    patch.setattr(Client, "send", careless)


def no_barrier(patch: Patch) -> None:
    patch.setattr(World, "met", lambda self, one, other: frozenset((one.name, other.name)) not in self.cuts)


def floor_ignored(patch: Patch) -> None:
    stamp = Server._stamp
    patch.setattr(Server, "_stamp", lambda self, op, floor, *, strict: stamp(self, op, 0, strict=strict))
    patch.setattr(Server, "take_over", _take_over_unseen)


def _take_over_unseen(self: Server, entries: Any) -> None:
    with self.database.transaction():
        self.take(entries)


def stable_by_own_clock(patch: Patch) -> None:
    hear = Server.hear

    def credulous(self: Server, peer: Server) -> None:
        hear(self, peer)
        self.promises = dict.fromkeys(self.network.members, self.clock.last)

    patch.setattr(Server, "hear", credulous)


def set_versions_unknown(patch: Patch) -> None:
    """A write on a set of versions is not recognised as one on the current version."""
    write = Rules.write

    def writing(self: Any, op: Any) -> None:
        write(self, msgspec.structs.replace(op, base=None) if op.base and "+" in op.base else op)

    patch.setattr(Rules, "write", writing)


def logs_again(patch: Patch) -> None:
    """What is known already is logged again when it is handed over."""
    take_over, want = Server.take_over, Server.want

    def again(self: Server, entries: Any) -> None:
        take_over(self, entries)
        with self.database.transaction():
            for op, stamp in entries:
                self.replica._log.restamp(op.id, stamp, stamp)

    patch.setattr(Server, "take_over", again)
    patch.setattr(Server, "want", lambda self, offered: [op for op, _ in offered if want(self, offered) or True])


def retries_are_new(patch: Patch) -> None:
    """An operation whose answer was lost is sent under a new id."""
    lose = Client.lose

    def renaming(self: Client, op: Any) -> None:
        lose(self, op)
        self.sequence += 1
        new = msgspec.structs.replace(op, id=op_id(self.author, self.sequence))
        with self.database.transaction():
            self.replica.drop_pending(op.id)
            self.replica.add_pending(new, strict=False)
        self.history[new.id] = replace(self.history[op.id], op=new)

    patch.setattr(Client, "lose", renaming)


def _m(
    name: str, apply: Callable[[Patch], None], *caught_by: int, program: Program = (), alone: bool = False
) -> Mutation:
    return Mutation(name, apply, frozenset(caught_by), program, alone)


TABLES = ("links", "last", "aliases", "files", "versions")
CATALOGUE = (
    *(_m(f"no undo of {table}", _drops_undo_of(table), 0, 1) for table in TABLES),
    _m("order of arrival", order_of_arrival, 0, 1),
    _m("no clash with absent rows", no_clash_with_absent_rows, 0, 1),
    _m("no clash of membership", no_clash_of_membership, 0, 1),
    _m("the first stamp stays", first_stamp_stays, 0, 1),
    _m("ignores rev", ignores_rev, 4),
    _m("ignores last", ignores_last, 4),
    _m("ignores version", ignores_version, 3, 4),
    _m("overwrites instead of forking", overwrites_instead_of_forking, 3),
    _m("no cycle check", no_cycle_check, 2),
    _m("an edit does not revive", edit_does_not_revive, 3),
    _m("same content takes the version", same_content_takes_the_version, 3, program=ALIKE_THEN_REMOVED),
    _m("a folder goes with its entries", folder_removed_with_its_entries, 2, 4),
    _m("the occupant gives way", occupant_gives_way, 4),
    _m("set versions are unknown", set_versions_unknown, 8, program=ALIKE_THEN_WRITTEN),
    _m("any name of a branch", any_name_of_a_branch, 4, program=FORKED_THEN_LINKED),
    _m("branches are not followed", branches_not_followed, 8, program=WRITTEN_TWICE),
    _m("a rename leaves rev", rename_leaves_rev, 4, program=MOVED_AND_REMOVED),
    _m("a merge leaves rev", merge_leaves_rev, 4, program=MADE_TWICE_AND_REMOVED),
    _m("an exchange ignores rev", exchange_ignores_rev, 4),
    _m("an exchange ignores where contents went", exchange_ignores_branches, 4, program=WRITTEN_TWICE_AND_EXCHANGED),
    _m("an exchange leaves rev", exchange_leaves_rev, 4),
    _m("an exchange looks for one circle", exchange_looks_for_one_circle, 0, 2),
    _m("a move forgets merges", move_forgets_merges, 4, program=MADE_TWICE_MOVED_AND_REMOVED),
    _m("a cycle is looked for once", cycle_checked_once, 0, 2, program=REVIVED_INTO_A_CYCLE),
    _m("nothing is handed over", nothing_handed_over, 0, 6),
    _m("strict in doubt", strict_in_doubt, 7, program=IN_DOUBT),
    _m("no barrier", no_barrier, 7, program=BEFORE_THE_BARRIER),
    _m("floor ignored", floor_ignored, 6, program=SLOW_CLOCK),
    _m("floor ignored, alone", floor_ignored, 0, 5, alone=True),
    _m("retries under a new id", retries_are_new, 0, 5, alone=True),
    _m("logs again what it knows", logs_again, 8),
    _m("stable by the own clock", stable_by_own_clock, 0, 1),
)
