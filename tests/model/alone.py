"""A client alone: whatever happens to its messages and to the servers, its tree is that of a plain file system."""

from __future__ import annotations

import random
from copy import deepcopy

from gdah_volume.content import Content
from gdah_volume.operations import Kind, Operation
from gdah_volume.tree import Tree
from tests.model.clients import Client
from tests.model.intents import Builder, Desk
from tests.model.plain_tree import PlainTree
from tests.model.programs import Maker
from tests.model.violation import require
from tests.model.world import Step, World

TWO_HANDLES = ("write_handle", "open")
"""Not for the plain tree: two versions of one file in the hands of programs."""


def listing(tree: Tree) -> dict[bytes, tuple[Kind, int, Content, bytes]]:
    return {path: (view.kind, view.mode, view.content, view.target) for path, view in tree.walk() if path}


class Beside:
    """Lets a plain tree do what the client's programs do, and compares the outcome of each call."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.plain = PlainTree()
        self._issue = client.issue
        client.issue = self.issue  # type: ignore[method-assign]

    def issue(self, build: Builder, time_ns: int, *, strict: bool = False) -> Operation | None:
        built: list[Operation] = []

        def spy(tree: Tree, desk: Desk, op_id: object, at_ns: int) -> Operation | None:
            op = build(tree, desk, op_id, at_ns)  # type: ignore[arg-type]
            if op is not None:
                built.append(op)
            return op

        done = self._issue(spy, time_ns, strict=strict)
        if built:
            trial = deepcopy(self.plain)
            expected = trial.apply(built[0])
            if done is None:
                got = type(self.client.last_error)
                require(5, expected is got, f"{built[0]} got {self.client.last_error!r}, not {expected}")
            else:
                require(5, expected is None, f"{built[0]} was done, a plain file system says {expected}")
                self.plain = trial
        return done

    def compare(self, after: Step) -> None:
        mine, plain = listing(self.client.replica.tree), self.plain.listing()
        if mine != plain:
            differing = sorted(path for path in {*mine, *plain} if mine.get(path) != plain.get(path))
            told = [f"{path!r}: {mine.get(path)}, plain {plain.get(path)}" for path in differing]
            require(5, False, f"after {after} the tree differs: " + "; ".join(told))


def run_alone(seed: int) -> World:
    """One random program of one client. The caller closes the world."""
    rng = random.Random(seed)
    servers = rng.choice((1, 2, 2, 3))
    world = World(servers, 1)
    beside = Beside(world.clients[0])
    for step in Maker(rng, servers, 1).program(rng.randrange(5, 40)):
        if any(word in step for word in TWO_HANDLES):
            continue
        world.step(step)
        beside.compare(step)
    world.settle()
    beside.compare(("settle",))
    require(5, not world.refused, f"a server refused {world.refused}")
    for server in world.servers:
        require(5, listing(server.replica.tree) == beside.plain.listing(), f"{server.name} shows another tree")
    return world
