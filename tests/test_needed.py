"""What is needed covers all that the folder has shown since the oldest operation in the log, and raises where it cannot
know."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdah_volume.content import ChunkHash
from gdah_volume.errors import GdahError
from gdah_volume.evaluation import Evaluation
from gdah_volume.needed import mentioned, needed, nodes_of, owners
from gdah_volume.operations import Operation, chunks_in
from gdah_volume.replica import Replica
from gdah_volume.rows import unpack_content
from gdah_volume.rules import fold
from tests.foldkit import Client, MemoryRows, World, data


def write(client: Client, path: str, text: str) -> Operation:
    assert client.tree.kind(client.at(path).node) == "file"  # bytes for a folder go nowhere
    return client.write(path, text)


NAMES = ["a", "b", "d/a", "d/b", "d", "e"]
VERBS: dict[str, Callable[[Client, str, str, str], Operation]] = {
    "create": lambda client, path, _, text: client.create(path, text),
    "mkdir": lambda client, path, _, __: client.mkdir(path),
    "write": lambda client, path, _, text: write(client, path, text),
    "unlink": lambda client, path, _, __: client.unlink(path),
    "rmdir": lambda client, path, _, __: client.rmdir(path),
    "link": lambda client, path, other, _: client.link(path, other),
    "rename": lambda client, path, other, _: client.rename(path, other),
    "exchange": lambda client, path, other, _: client.exchange(path, other),
    "chmod": lambda client, path, _, __: client.chmod(path, 0o600),
}
PAST = [
    ("one", "mkdir", "d", "", ""),
    *(("one", "create", path, "", f"first {path}") for path in ("a", "b", "d/a", "d/b")),
    ("one", "meet", "", "", ""),
]
STEP = st.tuples(
    st.sampled_from(["one", "two"]),
    st.sampled_from(["create", "write", "unlink", "meet", *VERBS]),
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.sampled_from(["", "1", "2", "3", "4", "5", "6", "7", "8"]),
)


def shown(rows: MemoryRows) -> set[ChunkHash]:
    """The oracle's view: chunks of every file that has a name."""
    found: set[ChunkHash] = set()
    for link in rows.rows.links.values():
        file = rows.file(link.node) if link is not None and link.live else None
        if file is not None:
            row = rows.version(file.version)
            assert row is not None
            found.update(chunk.hash for chunk in unpack_content(row.content).chunks)
    return found


def shown_since(log: list[Operation], pruned: int) -> set[ChunkHash]:
    """All that the folder showed from just before the first operation that is still in the log, and all that came in
    later, if only for a moment."""
    rows = MemoryRows()
    found: set[ChunkHash] = set()
    for count, op in enumerate(log):
        if count >= pruned:
            found |= shown(rows) | {chunk.hash for chunk in chunks_in(op)}
        evaluation = Evaluation(rows)
        fold(op, evaluation)
        rows.write(evaluation.new)
    return found | shown(rows)


EXAMPLES = int(os.environ.get("GDAH_NEEDED_EXAMPLES", "80"))


def test_nothing_that_the_retention_can_bring_back_is_ever_unneeded() -> None:
    collectable: list[int] = []
    search(collectable)
    assert sum(collectable) > EXAMPLES // 20, "hardly a program left anything behind that could be collected"


def search(collectable: list[int]) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(st.lists(STEP, min_size=4, max_size=30), st.integers(0, 30), st.booleans())
    def example(steps: list[tuple[str, str, str, str, str]], pruned: int, stable: bool) -> None:
        collectable.append(check(steps, pruned, stable=stable))

    example()


def check(steps: list[tuple[str, str, str, str, str]], pruned: int, *, stable: bool) -> int:
    """How many chunks were not needed."""
    with World("one", "two") as world:
        for site, verb, path, other, text in [*PAST, *steps]:
            if verb == "meet":
                world.meet()
                continue
            with contextlib.suppress(AssertionError, GdahError):  # nothing there: another step
                op = VERBS[verb](world.clients[site], path, other, text)
                world.do(site, msgspec.structs.replace(op, time_ns=(world.clock + 10) * 1_000_000))
        world.meet()
        log = sorted(world.log.values(), key=lambda each: (each[1].clock, each[1].server, each[0].id))
        replica = world.sites["one"]
        pruned = pruned % len(log)
        with replica.database.transaction():
            if stable or pruned:
                replica.stabilise(log[-1 if stable else pruned][1])
            if pruned:
                replica.prune(before_time_ns=log[pruned][0].time_ns, up_to_position=replica.head)
        found = needed(replica.database)
        assert shown_since([op for op, _ in log], pruned) <= found
        every = {chunk.hash for op, _ in log for chunk in chunks_in(op)}
        claims = owners(replica.database, every - found)
        for op, _ in log:  # who mentions it once more needs it again
            again = nodes_of(replica.database, set(mentioned(op)))
            lost = {chunk.hash for chunk in chunks_in(op)} - found
            assert lost <= {ChunkHash(name) for node in again for name in claims.get(node, ())}
        return len(every - found)


def plain_volume(world: World) -> Replica:
    """A file written over, and one removed, all of it long ago; then another file."""
    client = world.clients["one"]
    world.do("one", client.create("kept", "old"))
    world.do("one", client.write("kept", "new"))
    world.do("one", client.create("gone", "trash"))
    world.do("one", client.unlink("gone"))
    world.do("one", client.create("other", "else"))
    replica = world.sites["one"]
    with replica.database.transaction():
        replica.stabilise(max(at for _, at in world.log.values()))
    return replica


def hashes(*texts: str) -> set[ChunkHash]:
    return {chunk.hash for text in texts for chunk in data(text).chunks}


def test_history_and_trash_are_needed_as_long_as_the_log_has_them() -> None:
    with World("one") as world:
        replica = plain_volume(world)
        assert needed(replica.database) == hashes("old", "new", "trash", "else")
        with replica.database.transaction():
            replica.prune(before_time_ns=10**15, up_to_position=replica.head - 1)
        assert needed(replica.database) == hashes("new", "else")


def test_a_file_of_long_ago_that_was_removed_today_has_all_its_versions() -> None:
    with World("one") as world:
        replica = plain_volume(world)
        with replica.database.transaction():
            replica.prune(before_time_ns=10**15, up_to_position=replica.head)
        assert needed(replica.database) == hashes("new", "else")
        world.do("one", world.clients["one"].unlink("kept"))
        assert needed(replica.database) == hashes("old", "new", "else")


@pytest.mark.parametrize(
    "damage",
    [
        'UPDATE operations SET operation = \'{"type": "create"}\' WHERE position = 1',
        "UPDATE operations SET operation = replace(operation, 'create', 'cre') WHERE position = 1",
        "UPDATE operations SET id = 'x-1' WHERE position = 2",
        "UPDATE versions SET content = x'93' WHERE node = (SELECT node FROM links WHERE name = CAST('kept' AS BLOB))",
        "DELETE FROM versions WHERE version IN (SELECT version FROM nodes)",
        "INSERT INTO undo VALUES (1, 's1', 'x', x'c1')",
    ],
)
def test_what_cannot_be_read_is_an_error_and_never_nothing(damage: str) -> None:
    with World("one") as world:
        replica = plain_volume(world)
        assert replica.database.execute(damage).rowcount > 0
        with pytest.raises(GdahError):
            needed(replica.database)
