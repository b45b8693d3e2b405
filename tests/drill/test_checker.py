"""The checker: a clean ending has no finding, and each thing that is broken is found by the rule that speaks of it."""

from __future__ import annotations

import copy
import errno
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gdah_drill.checker import check, check_tables
from gdah_drill.content import line_of, make
from gdah_drill.final import RULES, FinalState, Server
from gdah_drill.history import CUT, FULL, KILL, LOAD_ENDED, POWER, STOOD_STILL, STOP, Event, History, Operation
from gdah_drill.log_check import key_of
from gdah_drill.report import for_people, report_of
from tests.drill.endings import Rows, final_of, rows_of, run_history
from tests.drill.plain import PlainHands


@dataclass
class Ending:
    history: History
    final: FinalState
    rows: Rows

    def rules(self) -> set[str]:
        return {finding.rule for finding in check(self.history, self.final)}

    def servers(self, change: Callable[[Server], Server], *, which: int = -1) -> None:
        """Change the second server, or another, or (None) all."""
        servers = list(self.final.servers)
        servers[which] = change(servers[which])
        self.final = replace(self.final, servers=servers)

    def trees(self, change: Callable[[dict[str, Any]], None]) -> None:
        """The same change of every replica's tree."""
        for replica in (*self.final.servers, *self.final.mounts):
            assert isinstance(replica.tree, dict)
            change(replica.tree)

    def last(self) -> Operation:
        return self.history.operations[-1]

    def tell(self, op: str, path: str = "", **more: Any) -> Operation:
        """Something that happened before the load ended."""
        (mark,) = [mark for mark in self.history.marks if mark.mark == LOAD_ENDED]
        defaults = {"worker": "w9", "mount": "two", "began": mark.at - 9, "ended": mark.at - 8.9, "outcome": "ok"}
        return self.history.operation(op=op, path=path, **{**defaults, **more})


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], FinalState, Rows]:
    root = tmp_path_factory.mktemp("plain")
    history = run_history(root)
    rows = rows_of(history, PlainHands(root).tree())
    return history.events, final_of(root, history, rows), rows


@pytest.fixture
def ending(clean: tuple[list[Event], FinalState, Rows]) -> Ending:
    """A copy; events are immutable, rows are shared by both servers."""
    events, final, rows = clean
    history, mine = History(), copy.deepcopy(rows)
    history.continue_from(events)
    tables = {table: getattr(mine, table) for table in ("operations", "versions", "nodes", "links")}
    servers = [
        replace(server, tree=dict(server.tree), chunks=dict(server.chunks), **tables) for server in final.servers
    ]
    mounts = [replace(mount, tree=dict(mount.tree)) for mount in final.mounts]
    return Ending(history, replace(final, servers=servers, mounts=mounts), mine)


def shared(ending: Ending, op: str, path: str, **more: Any) -> Operation:
    """By a worker of the history, whose looks are there already."""
    return ending.tell(op, path, worker="w1", mount="one", **more)


def written(ending: Ending, content: str, **more: Any) -> Operation:
    return shared(ending, "s-edit", "shared/n0", content=content, details={"size": 200, **more})


def key(content: str) -> Any:
    return key_of(make(content, 200))


def test_a_clean_ending_has_no_finding(ending: Ending) -> None:
    assert check(ending.history, ending.final) == []
    report = report_of(ending.history, ending.final, [], seed=1, commit="abc", took_s=2.0)
    assert report["passed"]
    assert report["acknowledged"] > 100
    assert "PASSED" in for_people(json.loads(json.dumps(report)))


# --- lost ---------------------------------------------------------------------------------------------------------


def test_a_write_that_is_in_no_log_is_lost(ending: Ending) -> None:
    written(ending, "w1.9001")
    assert ending.rules() == {"lost"}


def test_one_that_was_fsynced_too(ending: Ending) -> None:
    written(ending, "w1.9001", fsync=True)
    assert ending.rules() == {"fsync"}


def lose_power(ending: Ending, told: Operation) -> None:
    ending.history.fault(POWER, "one", began=told.ended + 1, ended=told.ended + 2)


def no_server(ending: Ending, told: Operation) -> None:
    for server in ("server-a", "server-b"):
        ending.history.fault(KILL, server, began=told.began - 1, ended=told.ended + 9)


def test_what_only_a_disk_had_that_lost_its_power_was_not_promised(ending: Ending) -> None:
    told = written(ending, "w1.9001")
    no_server(ending, told)
    assert "lost" in ending.rules()
    lose_power(ending, told)
    assert "lost" not in ending.rules()
    fsynced = written(ending, "w1.9002", fsync=True)
    no_server(ending, fsynced)
    lose_power(ending, fsynced)
    assert "fsync" in ending.rules(), "but what was fsynced was"


def test_what_a_server_could_have_been_told_survives_the_power_of_a_mount(ending: Ending) -> None:
    lose_power(ending, written(ending, "w1.9001"))
    assert "lost" in ending.rules()


def test_a_version_that_nobody_let_go_is_lost(ending: Ending) -> None:
    written(ending, "w1.9001")
    ending.rows.name(ending.rows.write(key("w1.9001")), "n0", live=False)
    add_chunks(ending, "w1.9001")
    assert ending.rules() == {"lost"}


@pytest.mark.parametrize("how", ["current", "written over", "removed", "replaced", "one of a set"])
def test_what_was_let_go_by_one_who_saw_it_is_not_lost(ending: Ending, how: str) -> None:
    written(ending, "w1.9001")
    add_chunks(ending, "w1.9001")
    version = ending.rows.write(key("w1.9001"))
    match how:
        case "current":
            ending.rows.name(version, "n0")
        case "written over":
            ending.rows.write(key_of(b""), base=version)
        case "one of a set":
            ending.rows.write(key_of(b""), base=f"{version}+zoe-abcdef-01234567-3")
        case "removed":
            ending.rows.log("unlink", link="x", rev="x", node="x", version=version, last=True)
            shared(ending, "s-remove", "shared/n0", seen="w1.9001")
        case "replaced":
            ending.rows.log("rename", link="x", node="x", parent="x", name="x", replaces={"version": version})
            shared(ending, "s-rename", "shared/n1", to="shared/n0")
    assert ending.rules() == set()


def add_chunks(ending: Ending, content: str) -> None:
    for server in ending.final.servers:
        assert isinstance(server.chunks, dict)
        server.chunks.update(dict.fromkeys(key(content)[1], b""))


def test_history_that_one_server_lacks(ending: Ending) -> None:
    written(ending, "w1.9001")
    version = ending.rows.write(key("w1.9001"))
    ending.rows.write(key_of(b""), base=version)
    assert ending.rules() == {"history"}
    add_chunks(ending, "w1.9001")
    assert ending.rules() == set()
    fewer = [row for row in ending.rows.versions if row["version"] != version]
    ending.servers(lambda server: replace(server, versions=fewer))
    assert ending.rules() == {"history"}


def test_a_line_that_is_in_no_file(ending: Ending) -> None:
    shared(ending, "s-append", "shared/log-0", content="w1.9001", details={"size": 24})
    assert ending.rules() == {"lost"}
    ending.trees(lambda tree: tree.update({"shared/log-9": line_of("w1.9001")}))
    assert ending.rules() == set()


def test_a_line_in_a_file_that_was_removed_by_a_mount_that_had_it(ending: Ending) -> None:
    """It came between the moment at which the program read the file and that at which it removed it."""
    shared(ending, "s-append", "shared/log-0", content="w1.9001", details={"size": 24})
    data = line_of("w1.9001")
    version = ending.rows.write(key_of(data))
    ending.servers(lambda server: replace(server, chunks={**server.chunks, key_of(data)[1][0]: data}))
    assert ending.rules() == {"lost"}
    shared(ending, "s-remove", "shared/log-0 (conflict one x)")
    ending.rows.log("unlink", link="x", rev="x", node="n", version=version, last=True)
    assert ending.rules() == set()


def test_a_removal_that_no_program_made(ending: Ending) -> None:
    for _ in range(200):
        ending.rows.log("unlink", link="x", rev="x", node="x", version=None, last=True)
    assert ending.rules() == {"deleted"}


# --- trees --------------------------------------------------------------------------------------------------------


def own(tree: dict[str, Any]) -> str:
    return next(path for path, data in tree.items() if path.startswith("alone-w1/") and data)


def test_a_file_that_is_missing_everywhere(ending: Ending) -> None:
    ending.trees(lambda tree: tree.pop(own(tree)))
    assert ending.rules() == {"deleted"}


def test_a_file_that_is_missing_in_one_place(ending: Ending) -> None:
    ending.servers(lambda server: replace(server, tree={k: v for k, v in server.tree.items() if k != "alone-w1"}))
    assert "unequal" in ending.rules()


def test_other_bytes_in_a_folder_of_one_worker(ending: Ending) -> None:
    ending.trees(lambda tree: tree.update({own(tree): b"other"}))
    assert ending.rules() == {"wrong"}


def test_a_conflict_copy_of_one_who_worked_alone(ending: Ending) -> None:
    ending.trees(lambda tree: tree.update({"alone-w1/a (conflict one 1-2).txt": make("w1.1", 100)}))
    assert "own-conflict" in ending.rules()
    assert ending.rules() - {"own-conflict"} <= {"conflicts"}


def test_more_conflict_copies_than_conflicting_writes(ending: Ending) -> None:
    ending.trees(lambda tree: tree.update({f"shared/n{n} (conflict one 1-2)": make("w1.1", 100) for n in range(500)}))
    assert ending.rules() == {"conflicts"}


def test_different_digests(ending: Ending) -> None:
    ending.servers(lambda server: replace(server, status={"volumes": {"v": {"digest": "other"}}}))
    assert ending.rules() == {"unequal"}


def test_a_name_that_only_the_tables_have(ending: Ending) -> None:
    tree: dict[str, Any] = {path: value for path, value in ending.final.servers[0].tree.items() if "/" not in path}
    links = [{"node": path, "parent": "root", "name": path.encode(), "live": 1} for path in tree]
    server = replace(ending.final.servers[0], tree=tree, links=links)
    assert list(check_tables(replace(ending.final, servers=[server]))) == []
    links.append({"node": "back", "parent": next(iter(tree)), "name": b"back", "live": 1})
    assert [finding.rule for finding in check_tables(replace(ending.final, servers=[server]))] == ["unequal"]


def test_a_mixture_in_the_shared_folder(ending: Ending) -> None:
    ending.trees(lambda tree: tree.update({"shared/n0": make("w1.1", 300)[:128] + make("w1.2", 300)[128:]}))
    assert ending.rules() == {"mixed"}


def test_a_part_of_what_was_written_whole(ending: Ending) -> None:
    ending.trees(lambda tree: tree.update({"shared/n0": make("w8.1", 5000)[:4096]}))
    assert ending.rules() == {"mixed"}
    ending.tell("s-edit", "shared/n0", worker="w1", mount="one", content="w8.1", outcome="fail", errno=errno.ENOENT)
    assert ending.rules() == set()


def test_a_cluster_that_does_not_come_to_rest(ending: Ending) -> None:
    ending.final = replace(ending.final, not_quiet="one: 3 pending")
    assert ending.rules() == {"restless"}


def test_a_traceback(ending: Ending) -> None:
    ending.final = replace(ending.final, tracebacks={"one": "Traceback ..."})
    assert ending.rules() == {"traceback"}


# --- answers ------------------------------------------------------------------------------------------------------


def change(ending: Ending, op: str, **more: Any) -> None:
    """The last operation of this kind had another answer."""
    events = ending.history.events
    at = max(n for n, event in enumerate(events) if isinstance(event, Operation) and event.op == op)
    event = events[at]
    assert isinstance(event, Operation)
    events[at] = replace(event, **more)


def test_a_read_of_other_bytes(ending: Ending) -> None:
    change(ending, "read", result=["ffff"], outcome="ok", errno=0, details={"calls": [["read", "none"]], "done": 1})
    assert ending.rules() == {"wrong"}


def test_a_listing_that_is_shorter(ending: Ending) -> None:
    change(ending, "list", result=[["only this"]])
    assert ending.rules() == {"wrong"}


def test_a_look_that_lacks_a_file(ending: Ending) -> None:
    result = dict(ending.last().result)
    result.pop(next(iter(result)))
    change(ending, "look", result=result)
    assert ending.rules() == {"wrong"}


def test_errors_that_a_program_must_not_see(ending: Ending) -> None:
    refused = shared(ending, "s-edit", "shared/n0", outcome="fail", errno=errno.EIO)
    assert ending.rules() == {"error"}
    ending.history.fault(FULL, "one", began=refused.began, ended=refused.ended)
    assert ending.rules() == set()


def test_a_refusal_that_was_not_expected(ending: Ending) -> None:
    details = {"calls": [["mkdir", "new-one"]], "done": 0}
    events = ending.history.events
    place = events.index(ending.last())
    told = shared(ending, "mkdir", "new-one", outcome="fail", errno=errno.EACCES, details=details, result=[])
    events.remove(told)
    events.insert(place, told)
    assert ending.rules() == {"error"}


def test_two_exclusive_creates(ending: Ending) -> None:
    for content in ("w1.9001", "w1.9002"):
        shared(ending, "s-create", "shared/n77", content=content, details={"size": 200})
        add_chunks(ending, content)
        ending.rows.name(ending.rows.write(key(content)), "n77")
    assert ending.rules() == {"exclusive"}
    made = ending.history.operations[-1]
    ending.history.fault(CUT, "server-a<>server-b", began=made.began - 1, ended=made.ended)
    ending.rows.name(ending.rows.write(key_of(b"")), "n77 (conflict one 1-2)")
    assert ending.rules() == set()


# --- time ---------------------------------------------------------------------------------------------------------


def slow(ending: Ending, took_s: float = 1.5, **more: Any) -> Operation:
    at = ending.last().began - 30
    return shared(ending, "s-read", "shared/n0", began=at, ended=at + took_s, **more)


def test_an_operation_that_took_too_long(ending: Ending) -> None:
    told = slow(ending)
    assert ending.rules() == {"deadline"}
    ending.history.fault(STOOD_STILL, "machine", began=told.began, ended=told.ended)
    assert ending.rules() == set()


def test_while_a_server_dies_the_deadline_holds(ending: Ending) -> None:
    told = slow(ending)
    ending.history.fault(STOP, "server-a", began=told.began, ended=told.ended)
    assert ending.rules() == {"deadline"}


def test_a_mount_that_is_stopped_itself_has_no_deadline(ending: Ending) -> None:
    told = slow(ending, 9.0)
    ending.history.fault(STOP, "one", began=told.began, ended=told.ended)
    assert ending.rules() == set()


def test_many_bytes_take_their_time(ending: Ending) -> None:
    slow(ending, details={"size": 20_000_000})
    assert ending.rules() == set()


def test_the_longest_call_counts_not_their_sum(ending: Ending) -> None:
    at = ending.last().began - 30
    slow(ending, details={"longest": ["bytes", at, at + 0.2]})
    assert ending.rules() == set()


# --- nothing proved -----------------------------------------------------------------------------------------------


def proved(ending: Ending) -> str:
    (finding,) = check(ending.history, ending.final)
    assert finding.rule == "proved-nothing"
    return finding.what


def test_a_kill_while_nothing_was_pending(ending: Ending) -> None:
    at = ending.history.operations[0].began - 100
    ending.history.fault(KILL, "server-a", began=at, ended=at + 1, pending=0)
    assert "pending" in proved(ending)
    ending.history.fault(KILL, "one", began=at, ended=at + 1, pending=3)
    assert ending.rules() == set()


def test_a_kill_in_the_middle_of_an_operation(ending: Ending) -> None:
    middle = ending.history.operations[100]
    ending.history.fault(KILL, "server-a", began=(middle.began + middle.ended) / 2, ended=middle.ended)
    assert ending.rules() == set()


def test_a_cut_that_provoked_no_conflict(ending: Ending) -> None:
    at = ending.history.operations[0].began
    ending.history.fault(CUT, "server-a<>server-b", began=at, ended=at + 1)
    assert "no conflict" in proved(ending)


def test_a_fault_that_did_not_happen(ending: Ending) -> None:
    ending.history.fault(FULL, "server-a", began=0.0, ended=0.0, happened=False, note="no disk to fill")
    assert "no disk to fill" in proved(ending)


def test_a_fault_that_was_planned_only(ending: Ending) -> None:
    ending.final = replace(ending.final, planned={FULL: 1})
    assert "planned" in proved(ending)


def test_too_few_operations(ending: Ending) -> None:
    ending.final = replace(ending.final, planned={"operations": 10_000})
    assert "10000 were planned" in proved(ending)


def test_no_fsync(ending: Ending) -> None:
    for number, event in enumerate(ending.history.events):
        if isinstance(event, Operation):
            calls = [call for call in event.details.get("calls", ()) if call[0] != "sync"]
            details = {**event.details, "fsync": False}
            if "calls" in event.details:
                result = [a for a, c in zip(event.result, event.details["calls"], strict=False) if c[0] != "sync"]
                details |= {"calls": calls, "done": len(result)}
                ending.history.events[number] = replace(event, details=details, result=result)
            else:
                ending.history.events[number] = replace(event, details=details)
    assert "fsync" in proved(ending)


def test_a_worker_that_never_came_back(ending: Ending) -> None:
    ending.history.events.remove(ending.last())
    assert "never looked" in proved(ending)


def test_a_worker_whose_last_call_was_cut_off(ending: Ending) -> None:
    shared(ending, "s-read", "shared/n0", outcome="info", errno=errno.ENOTCONN)
    assert "never looked" in proved(ending)


def test_every_rule_is_put_to_a_test_here() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert [rule for rule in RULES if f'"{rule}"' not in tested] == []
