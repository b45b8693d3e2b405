"""The volume's own parsers, without any process: what they are given becomes a value or a GdahError, and nothing else."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from gdah_volume import ids, names, settings
from gdah_volume.database import Database
from gdah_volume.errors import GdahError, StorageFailed
from gdah_volume.operations import Operation, check_operation, from_json, to_json
from gdah_volume.snapshot import load
from gdah_volume.snapshot_file import SnapshotFile, frame_of
from gdah_volume.wire import decode, encode
from tests.fuzz import hostile

JSON = st.recursive(
    st.none() | st.booleans() | hostile.NUMBERS | st.floats() | hostile.BAD_TEXTS | hostile.OPS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile.BAD_TEXTS, inner, max_size=3),
    max_leaves=8,
)
SURROGATES = st.text(st.characters(categories=["Cs", "L", "N", "P", "Cc"]), max_size=30)
LINES = st.sampled_from(
    [b"", b"server = 'x'\n", b"[mount]\n", b"[mount.deep]\n", b"x = [", b"\xff\n", b"a = " + b"[" * 3000, b"a = {" * 500, b"mount = 3\n", b"\0",
     b"cache-size = 99999999999999999999\n", b"a = 1979-13-45T99:99:99Z\n", b"a = 1e999\n", b"a = nan\n", b"a = '''", b"a.b.c = 1\n", b"mount = []\n"]
)  # fmt: skip


def _operation_json(kind: type[Operation]) -> st.SearchStrategy[str]:
    """JSON of an operation with a field or two exchanged or gone."""

    def with_faults(value: Any) -> st.SearchStrategy[str]:
        try:
            fields = json.loads(to_json(msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)))
        except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
            return JSON.map(json.dumps)
        changed = st.dictionaries(st.sampled_from([*fields, "x"]), JSON, max_size=2)
        return st.tuples(changed, st.sets(st.sampled_from([*fields]), max_size=1)).map(
            lambda both: json.dumps({key: item for key, item in (fields | both[0]).items() if key not in both[1]})
        )

    return hostile.wire_values(kind).flatmap(with_faults)


class Parsers:
    """Invariant: a text either parses, and then what comes of it can be written and read again, or is a GdahError."""

    name = "parsers"

    def __init__(self, folder: Path) -> None:
        self.tried = 0
        self._folder = folder
        kinds: dict[Callable[[Any], object], st.SearchStrategy[Any]] = {
            self._frame: hostile.frames(list(hostile.MESSAGES)),
            self._json: st.one_of(
                *(_operation_json(kind) for kind in Operation.__args__), JSON.map(json.dumps),
                st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "", "null", '"\\ud800"', "NaN"]),
            ),
            self._id: hostile.BAD_TEXTS | SURROGATES | hostile.OPS,
            self._name: hostile.NAMES | st.binary(max_size=300),
            self._size: SURROGATES | hostile.BAD_TEXTS | hostile.NUMBERS
            | st.from_regex(r"[0-9]{1,400}(\.[0-9]{1,400})? ?[kmgtKMGT]?i?b?", fullmatch=True),
            self._settings: st.lists(LINES | st.binary(max_size=20), max_size=5).map(b"".join),
            self._token: st.binary(max_size=60) | st.just(b"x" * 100_000),
            self._paths: SURROGATES | st.sampled_from(["a\0b", "~nobody-here/x", "x" * 5000, "/proc/self/mem", "/"]),
            self._snapshot: self._snapshots(),
        }  # fmt: skip
        self.inputs = st.one_of(
            *(strategy.map(lambda given, into=into: (into, given)) for into, strategy in kinds.items())
        )  # type: ignore[misc]

    def try_one(self, given: tuple[Callable[[Any], object], Any]) -> None:
        self.tried += 1
        parse, text = given
        try:
            parse(text)
        except GdahError as error:
            assert str(error)
            assert not isinstance(error, StorageFailed), "what is wrong in a text is no fault of a disk"

    def sound(self) -> None:
        pass

    @staticmethod
    def _frame(frame: bytes) -> None:
        assert decode(encode(message := decode(frame))) == message or "nan" in repr(message)

    @staticmethod
    def _json(text: str) -> None:
        op = from_json(text)
        check_operation(op)
        assert from_json(to_json(op)) == op

    @staticmethod
    def _id(text: str) -> None:
        for check in (
            ids.check_op_id,
            ids.check_author,
            ids.check_node_id,
            ids.check_server_id,
            ids.check_volume,
            ids.check_version,
        ):
            try:
                assert "\n" not in check(text)
                assert "/" not in text
            except GdahError:
                pass

    @staticmethod
    def _name(name: bytes) -> None:
        ids.check_name(name)
        made = names.conflict_name(name, ids.check_op_id("fuzz-a1b2c3-beef-1"))
        assert ids.check_name(made) == made
        assert names.is_conflict(made)

    @staticmethod
    def _size(text: str | int) -> None:
        assert settings.parse_size(text) >= 0

    def _settings(self, text: bytes) -> None:
        file = self._folder / "fuzz.toml"
        file.write_bytes(text)
        settings.load_file("mount", str(file), {})

    def _token(self, text: bytes) -> None:
        file = self._folder / "token"
        file.write_bytes(text)
        settings.read_token(str(file))

    @staticmethod
    def _paths(text: str) -> None:
        for read in (lambda: settings.read_token(text), lambda: settings.load_file("mount", text, {})):
            try:
                read()
            except GdahError as error:
                assert str(error)

    @staticmethod
    def _snapshots() -> st.SearchStrategy[bytes]:
        header = st.just({"server": "s1", "epoch": "e", "head": 1, "stable": [0, ""], "protocol": 2}) | JSON
        tables = st.sampled_from(
            [
                "nodes",
                "aliases",
                "links",
                "last",
                "versions",
                "undo",
                "operations",
                "authors",
                "counters",
                "meta",
                "x; --",
            ]
        )
        cell = st.none() | hostile.NUMBERS | hostile.BAD_TEXTS | hostile.NAMES | st.floats()
        rows = st.sampled_from([2, 2, 3, 4, 9, 10, 11, 14]).flatmap(
            lambda width: st.lists(st.lists(cell, min_size=width, max_size=width), max_size=3)
        )
        frames = st.lists(mostly_rows(tables, rows).map(frame_of), max_size=4)
        whole = st.tuples(header.map(frame_of), frames).map(lambda both: both[0] + b"".join(both[1]) + frame_of(None))
        return hostile.mostly(whole, whole.flatmap(hostile.damaged), 3)

    def _snapshot(self, data: bytes) -> None:
        found = SnapshotFile(io.BytesIO(data))
        database = Database(":memory:")
        try:
            with database.transaction():
                load(database, found.rows())
        finally:
            database.close()


def mostly_rows(tables: st.SearchStrategy[str], rows: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return hostile.mostly(st.tuples(tables, rows), JSON.filter(lambda value: value is not None), 6)


def make(folder: Path | None = None) -> Parsers:
    return Parsers(folder or Path(tempfile.mkdtemp(prefix="gdah-fuzz-")))
