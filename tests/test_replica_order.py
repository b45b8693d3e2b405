"""Two replicas with the same operations and smallest stamps hold the same rows, for every order, duplicate and
re-stamping.

A small generator: a few clients work on replicas that see only part of the log, so that their operations concern what
others changed; then the whole log arrives elsewhere in another order. The reference is a plain sort
(`foldkit.sorted_fold`).
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdah_volume.database import Database
from gdah_volume.errors import FileSystemError
from gdah_volume.ids import LOST, ROOT, LinkId, NodeId, OpId, Version
from gdah_volume.operations import (
    Create,
    Exchange,
    Kind,
    Link,
    Operation,
    Rename,
    Replaced,
    Rmdir,
    SeenLink,
    SetAttr,
    Unlink,
    Write,
)
from gdah_volume.replica import Replica
from gdah_volume.stamps import Stamp
from tests.foldkit import ATTRS, Client, cached_rows, check_tree, data, rows_of, sorted_fold, stamp

NAMES = ["a", "b", "c"]
TEXTS = ["", "one", "two"]


class Program:
    """Clients with their own partial views; every operation gets a stamp, sometimes first a larger one."""

    def __init__(self, rng: random.Random, clients: int) -> None:
        self.rng = rng
        self.log: dict[OpId, tuple[Operation, Stamp]] = {}
        self.arrivals: list[tuple[Operation, Stamp]] = []
        self.views = [Replica(Database(":memory:")) for _ in range(clients)]
        self.clients = [Client(f"c{i}", view.tree) for i, view in enumerate(self.views)]
        self.clocks = [0] * clients

    def close(self) -> None:
        for view in self.views:
            view.database.close()

    def step(self) -> None:
        who = self.rng.randrange(len(self.clients))
        if self.arrivals and self.rng.random() < 0.35:
            with self.views[who].database.transaction():
                for op, at in self.rng.sample(self.arrivals, min(len(self.arrivals), self.rng.randint(1, 6))):
                    self.views[who].accept(op, at)
                    self.clocks[who] = max(self.clocks[who], at.clock)
            return
        op = self.make(self.clients[who])
        if op is None:
            return
        self.clocks[who] += self.rng.randint(1, 3)
        at = stamp(self.clocks[who], f"s{who}")
        with self.views[who].database.transaction():
            self.views[who].accept(op, at)
        self.arrivals.append((op, at))
        if self.rng.random() < 0.2:
            at = stamp(max(1, at.clock - self.rng.randint(1, 8)), f"s{self.rng.randrange(3)}")
            self.arrivals.append((op, at))
        for one, its in self.arrivals:
            known = self.log.get(one.id)
            if known is None or its < known[1]:
                self.log[one.id] = (one, its)

    def make(self, client: Client) -> Operation | None:
        rng, tree = self.rng, client.tree
        paths = [path.decode("utf-8", "replace") for path, _ in tree.walk()]
        folders = [p.decode() for p, view in tree.walk() if view.kind == "dir"]
        at = rng.choice(["", *folders])
        new = f"{at}/{rng.choice(NAMES)}" if at else rng.choice(NAMES)
        what = rng.choice(["create", "mkdir", "write", "chmod", "link", "unlink", "rename", "rename"])
        if what == "create":
            return client.create(new, rng.choice(TEXTS))
        if what == "mkdir":
            return client.mkdir(new)
        if not paths:
            return None
        path = rng.choice(paths)
        is_dir = path in folders
        if what == "write" and not is_dir:
            return client.write(path, rng.choice(TEXTS))
        if what == "chmod":
            return client.chmod(path, rng.choice([0o600, 0o755]))
        if what == "link" and not is_dir:
            return client.link(path, new)
        if what == "unlink":
            return client.rmdir(path) if is_dir else client.unlink(path)
        if what == "rename":
            return client.rename(path, new, replace=rng.random() < 0.8)
        return None


def deliver(replica: Replica, arrivals: list[tuple[Operation, Stamp]], rng: random.Random) -> None:
    left = list(arrivals)
    while left:
        size = rng.randint(1, 8)
        batch, left = left[:size], left[size:]
        with replica.database.transaction():
            if rng.random() < 0.5:
                replica.accept_all(batch)
            else:
                for op, at in batch:
                    replica.accept(op, at)


def run(seed: int, steps: int, clients: int = 3) -> None:
    rng = random.Random(seed)
    program = Program(rng, clients)
    replica = Replica(Database(":memory:"))
    try:
        for _ in range(steps):
            program.step()
        arrivals = program.arrivals + rng.sample(program.arrivals, len(program.arrivals) // 4)
        rng.shuffle(arrivals)
        deliver(replica, arrivals, rng)
        rows = rows_of(replica)
        expected = sorted_fold(program.log).rows
        assert rows == expected
        assert cached_rows(replica, rows) == rows
        check_tree(rows)
        assert replica.operations == len(program.log)
    finally:
        program.close()
        replica.database.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), steps=st.integers(2, 40))
def test_any_order_of_arrival_gives_the_sorted_fold(seed: int, steps: int) -> None:
    run(seed, steps)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), steps=st.integers(2, 40))
def test_pending_operations_on_top_are_those_of_the_sorted_fold(seed: int, steps: int) -> None:
    """Own operations stay above whatever arrives, some are refused, some get their stamps; restarts in between."""
    rng = random.Random(seed)
    program = Program(rng, 2)
    replica = Replica(Database(":memory:"))
    me = Client("me", replica.tree)
    own: list[Operation] = []
    stamped: dict[OpId, tuple[Operation, Stamp]] = {}
    arrived: list[tuple[Operation, Stamp]] = []
    try:
        for turn in range(steps):
            program.step()
            fresh = [item for item in program.arrivals if item not in arrived]
            with replica.database.transaction():
                batch = fresh[: rng.randint(0, 4)]
                replica.accept_all(batch)
                for op, at in batch:
                    arrived.append((op, at))
                    known = stamped.get(op.id)
                    if known is None or at < known[1]:
                        stamped[op.id] = (op, at)
            choice = rng.random()
            with replica.database.transaction():
                if choice < 0.5:
                    op2 = program.make(me)
                    if op2 is not None:
                        try:
                            replica.add_pending(op2, strict=rng.random() < 0.5)
                            own.append(op2)
                        except FileSystemError:
                            assert replica.stamp_of(op2.id) is None
                elif choice < 0.65 and own:
                    gone = own.pop(rng.randrange(len(own)))
                    replica.drop_pending(gone.id)
                elif choice < 0.9 and own:
                    done = [own.pop(0) for _ in range(min(len(own), rng.randint(1, 3)))]
                    acks = [(one, stamp(rng.randint(1, 40), f"q{turn:03}")) for one in done]
                    replica.accept_all(acks)
                    stamped.update({one.id: (one, at) for one, at in acks})
            assert [op.id for op in replica.pending()] == [op.id for op in own]
            if rng.random() < 0.1:
                replica = Replica(replica.database)
                me.tree = replica.tree
        expected = dict(stamped)
        expected.update({op.id: (op, stamp((1 << 62) + i, "~")) for i, op in enumerate(own)})
        rows = rows_of(replica)
        assert rows == sorted_fold(expected).rows
        assert cached_rows(replica, rows) == rows
        check_tree(rows)
    finally:
        program.close()
        replica.database.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_transaction_that_is_rolled_back_leaves_nothing(seed: int) -> None:
    rng = random.Random(seed)
    program = Program(rng, 2)
    replica = Replica(Database(":memory:"))
    for _ in range(60):
        program.step()
    half = len(program.arrivals) // 2
    deliver(replica, program.arrivals[:half], rng)
    before, head, digest = rows_of(replica), replica.head, replica.digest

    def pull_the_plug() -> None:
        with replica.database.transaction():
            for op, at in program.arrivals[half:]:
                replica.accept(op, at)
            raise RuntimeError("pulled")

    with pytest.raises(RuntimeError, match="pulled"):
        pull_the_plug()
    assert (rows_of(replica), replica.head, replica.digest) == (before, head, digest)
    assert cached_rows(replica, before) == before
    deliver(replica, program.arrivals[half:], rng)
    assert rows_of(replica) == sorted_fold(program.log).rows
    assert replica.tree.alive(ROOT)
    program.close()
    replica.database.close()


def garbage(rng: random.Random, sequence: int, ids: list[str]) -> Operation:
    """An operation that names any ids at all: well-formed, and otherwise senseless."""
    base = {"id": OpId(f"g-a1b2c3-9f3c-{sequence}"), "time_ns": sequence}

    def node() -> NodeId:
        return NodeId(rng.choice([*ids, ROOT, LOST, str(base["id"])]))

    def version() -> Version | None:
        return rng.choice([None, Version(rng.choice(ids)), Version("+".join(sorted(rng.sample(ids, 2))))])

    def replaced() -> Replaced:
        link, rev = LinkId(rng.choice(ids)), Version(rng.choice(ids))
        return Replaced(link, rev, node(), version(), rng.random() < 0.7, rng.random() < 0.5, (node(),))

    name, seen = rng.choice(NAMES).encode(), replaced()
    match rng.randrange(9):
        case 0 | 1:
            kind: Kind = rng.choice(["file", "dir", "dir", "symlink"])
            text = rng.choice(TEXTS) if kind == "file" else ""
            target = b"t" if kind == "symlink" else b""
            content = data(text)
            return Create(**base, kind=kind, parent=node(), name=name, attrs=ATTRS, content=content, target=target)
        case 2:
            return Write(**base, node=node(), base=version(), content=data(rng.choice(TEXTS)), name=name, mtime_ns=1)
        case 3:
            return SetAttr(**base, node=node(), version=version(), mode=rng.randrange(0o1000))
        case 4:
            return Link(**base, node=node(), version=version(), parent=node(), name=name)
        case 5:
            last, also = seen.last, seen.also
            return Unlink(**base, link=seen.link, rev=seen.rev, node=seen.node, version=version(), last=last, also=also)
        case 6:
            return Rmdir(**base, link=seen.link, rev=seen.rev, node=seen.node, also=seen.also)
        case 7:
            other = replaced()
            there = SeenLink(other.link, other.rev, other.node, version())
            return Exchange(**base, link=seen.link, rev=seen.rev, node=seen.node, version=version(), other=there)
        case _:
            return Rename(
                **base,
                link=seen.link,
                node=seen.node,
                version=version(),
                parent=node(),
                name=name,
                also=seen.also,
                replaces=rng.choice([None, replaced()]),
            )


def run_garbage(seed: int, sensible: int, senseless: int) -> None:
    rng = random.Random(seed)
    program = Program(rng, 2)
    replica = Replica(Database(":memory:"))
    try:
        for _ in range(sensible):
            program.step()
        log = dict(program.log)
        ids = [str(op) for op in log] + [f"g-a1b2c3-9f3c-{n}" for n in range(1, senseless + 3)]
        for n in range(1, senseless + 1):
            op = garbage(rng, n, ids)
            log[op.id] = (op, stamp(rng.randrange(1, 60), f"s{rng.randrange(3)}"))
        arrivals = list(log.values())
        rng.shuffle(arrivals)
        deliver(replica, arrivals, rng)
        rows = rows_of(replica)
        assert rows == sorted_fold(log).rows
        assert cached_rows(replica, rows) == rows
        check_tree(rows)
    finally:
        program.close()
        replica.database.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), sensible=st.integers(2, 30), senseless=st.integers(1, 30))
def test_the_fold_is_total_and_a_tree_whatever_ids_operations_name(seed: int, sensible: int, senseless: int) -> None:
    run_garbage(seed, sensible, senseless)
