"""Membership, comparison of logs, the differences that the original interface tells: pure decisions."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from gdah_volume.chunk_store import ChunkStore
from gdah_volume.database import Database
from gdah_volume.errors import StorageFailed
from gdah_volume.ids import OpId, ServerId
from gdah_volume.replica import Replica
from gdah_volume.stamps import Stamp
from gdah_volume.wire import OFFER_MAX_IDS, RangeIs
from storage_server.answers import install_errors
from storage_server.comparison import Comparison
from storage_server.membership import Membership
from storage_server.original_diff import Item, differences
from storage_server.readers import Readers

A, B, C = ServerId("a"), ServerId("b"), ServerId("c")


def membership(*configured: str) -> Membership:
    return Membership(A, "http://a", configured)


class TestMembership:
    def test_who_answers_at_a_configured_url_is_a_member(self) -> None:
        it = membership("http://b")
        assert it.start() == ("http://b",)
        assert it.answered(B, "http://b").added == (B,)
        assert it.answered(B, "http://b").changed is False
        assert it.listed() == ((A, "http://a"), (B, "http://b"))

    def test_another_that_answers_there_takes_its_place(self) -> None:
        it = membership("http://b")
        it.answered(B, "http://b")
        news = it.answered(C, "http://b")
        assert (news.added, news.retired) == ((C,), (B,))
        assert it.told([(B, "http://b2")]).added == (), "who is gone is not taken back on hearsay"
        assert it.answered(B, "http://b").added == (B,)
        assert it.urls == {B: "http://b"}

    def test_who_calls_is_a_member_unless_another_is_known_there(self) -> None:
        it = membership()
        assert it.called(B, "http://b").added == (B,)
        news = it.called(C, "http://b")
        assert (news.added, news.dial) == ((), ("http://b",))
        assert it.called(A, "http://x").added == ()

    def test_members_are_learned_from_others(self) -> None:
        it = membership("http://b")
        it.answered(B, "http://b")
        news = it.told([(A, "http://a"), (B, "http://other"), (C, "http://c")])
        assert (news.added, news.dial) == ((C,), ("http://c",))

    def test_ourselves_is_no_member(self) -> None:
        it = membership("http://a2")
        assert it.answered(A, "http://a2").added == ()
        assert it.urls == {}

    def test_the_configured_url_is_kept(self) -> None:
        it = membership("http://door-of-b")
        it.called(B, "http://b")
        it.answered(B, "http://door-of-b")
        it.answered(B, "http://b")
        assert it.urls == {B: "http://door-of-b"}


def _compare(ours: dict[OpId, Stamp], theirs: dict[OpId, Stamp]) -> dict[OpId, Stamp]:
    """Run one side's comparison to its end; what it would hand over."""

    def of(log: dict[OpId, Stamp], low: int, high: int) -> list[tuple[OpId, Stamp]]:
        return [(op, stamp) for op, stamp in log.items() if low <= stamp.clock < high]

    it = Comparison(1 << 62)
    lacking: dict[OpId, Stamp] = {}
    while (asked := it.next()) is not None:
        mine, other = of(ours, *asked), of(theirs, *asked)
        told = tuple(other) if len(other) <= OFFER_MAX_IDS else None
        answer = RangeIs(low=asked[0], high=asked[1], count=len(other), digest=b"", stamped=told)
        lacking.update(it.answer(answer, mine if len(mine) <= OFFER_MAX_IDS else None, same=mine == other))
    return lacking


def test_a_comparison_finds_exactly_what_the_other_lacks() -> None:
    dice = random.Random(7)
    log = {OpId(f"op-{number}"): Stamp(dice.randrange(1 << 51), A) for number in range(20_000)}
    theirs = dict(log)
    gone = dice.sample(list(theirs), 37)
    for op in gone:
        del theirs[op]
    later = dice.sample(list(theirs), 5)
    for op in later:
        theirs[op] = Stamp(theirs[op].clock + 1, B)
    extra = {OpId(f"extra-{number}"): Stamp(dice.randrange(1 << 51), B) for number in range(9)}
    assert set(_compare(log, theirs | extra)) == {*gone, *later}
    assert set(_compare(theirs | extra, log)) == set(extra)
    assert _compare(log, log) == {}


NAMES = ("a", "b", "c")


def _apply(tree: dict[str, Item], old: dict[str, Item], new: dict[str, Item]) -> dict[str, Item]:
    """What a program of the original system does with the changes, one after the other."""
    tree = dict(tree)
    for change in differences(old, new):
        match change.type:
            case "created" | "modified":
                depth = change.path.count("/")
                if depth:
                    assert tree[change.path.rpartition("/")[0]].is_dir
                assert change.type == "created" or change.path in tree
                tree[change.path] = new[change.path]
            case "deleted":
                assert change.path in tree
                tree = {p: i for p, i in tree.items() if p != change.path and not p.startswith(change.path + "/")}
            case "moved":
                assert change.dest not in tree
                parts = change.dest.split("/")[:-1]
                for end in range(1, len(parts) + 1):
                    above = "/".join(parts[:end])
                    tree.setdefault(above, new.get(above, Item("made", is_dir=True)))
                    assert tree[above].is_dir, "nothing moves into a file"
                moved = {p: i for p, i in tree.items() if p == change.path or p.startswith(change.path + "/")}
                assert moved
                for path in moved:
                    del tree[path]
                tree |= {change.dest + path[len(change.path) :]: item for path, item in moved.items()}
    return tree


@st.composite
def trees(draw: Any) -> dict[str, Item]:
    """Small trees over few names and few nodes, so that moves, swaps and replacements are common."""
    tree: dict[str, Item] = {}
    nodes = draw(st.permutations(range(12)))
    for depth_one in NAMES:
        if not draw(st.booleans()):
            continue
        is_dir = draw(st.booleans())
        tree[depth_one] = Item(("d" if is_dir else "f") + str(nodes.pop()), is_dir, "" if is_dir else draw(VERSIONS))
        if is_dir:
            for below in NAMES[:2]:
                if draw(st.booleans()):
                    inner_dir = draw(st.booleans())
                    kind = "d" if inner_dir else "f"
                    version = "" if inner_dir else draw(VERSIONS)
                    tree[f"{depth_one}/{below}"] = Item(kind + str(nodes.pop()), inner_dir, version)
    return tree


VERSIONS = st.sampled_from(["1", "2"])


@settings(max_examples=400, deadline=None)
@given(trees(), trees())
def test_differences_applied_one_after_the_other_make_the_new_tree(old: dict[str, Item], new: dict[str, Item]) -> None:
    made = _apply(old, old, new)
    assert {path: (item.is_dir, item.version) for path, item in made.items()} == {
        path: (item.is_dir, item.version) for path, item in new.items()
    }
    assert list(differences(new, new)) == []


def test_a_folder_that_was_moved_is_told_as_one_move() -> None:
    old = {"a": Item("1", is_dir=True), "a/x": Item("2", is_dir=False, version="1")}
    new = {"b": Item("1", is_dir=True), "b/x": Item("2", is_dir=False, version="1")}
    assert [(change.type, change.path, change.dest) for change in differences(old, new)] == [("moved", "a", "b")]


def test_a_file_and_a_folder_that_changed_places() -> None:
    """What is in the folder does not move into the file that was there before."""
    old = {"a": Item("1", is_dir=True), "a/x": Item("2", is_dir=False, version="1"), "b": Item("3", is_dir=False)}
    new = {"b": Item("1", is_dir=True), "b/x": Item("2", is_dir=False, version="1"), "a": Item("3", is_dir=False)}
    made = _apply(old, old, new)
    assert {path: item.is_dir for path, item in made.items()} == {"b": True, "b/x": False, "a": False}


class TestReaders:
    """Found by the fire drill (seed 500): a server whose disk gave EIO logged a traceback for every reader."""

    def test_a_log_that_the_disk_does_not_give_is_a_failed_disk(self, tmp_path: Path) -> None:
        path = tmp_path / "volume.db"
        with closing(Database(path)) as database:
            Replica(database)
            database.checkpoint()
        readers = Readers(Database(path), ChunkStore(tmp_path / "chunks", Database(":memory:")))
        with readers.replica() as replica:
            assert replica.head == 0
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:100] + b"\xff" * (size - 100))
        for read in (lambda: readers.has_at(1, "x"), lambda: readers.lacking([(OpId("x"), Stamp(1, A))])):
            with pytest.raises(StorageFailed):
                read()
        readers.close()


def test_a_disk_that_cannot_be_read_is_an_answer_in_words(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    install_errors(app)

    @app.get("/")
    async def read() -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    async def story() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as http:
            return await http.get("/")

    answer = asyncio.run(story())
    assert answer.status_code == 503
    assert "cannot be read now" in answer.json()["message"]
    assert "Traceback" not in caplog.text
