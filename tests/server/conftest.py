"""Server processes on free ports, without any mount."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gdah_drill.cluster import Cluster, Server
from gdah_drill.waiting import wait_until
from gdah_volume.wire import Ack
from tests.server.lane_client import Identity, LaneClient

Connect = Callable[..., LaneClient]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Make clusters of servers: `servers(2, cables=False)`; closed, with their logs checked, when the test ends."""
    with ExitStack() as stack:

        def make(count: int = 2, *, cables: bool = False, start: bool = True) -> Cluster:
            cluster = stack.enter_context(Cluster(tmp_path / "cluster", count, cables=cables))
            if start:
                cluster.start_servers()
                wait_joined(cluster)
            return cluster

        yield make


@pytest.fixture
def lane() -> Iterator[Connect]:
    """Connect simple mounts: `lane(server)`; closed when the test ends."""
    with ExitStack() as stack:

        def connect(server: Server | str, identity: Identity | None = None, **named: object) -> LaneClient:
            url = server if isinstance(server, str) else server.url
            return stack.enter_context(LaneClient(url, identity, **named))  # type: ignore[arg-type]

        yield connect


def wait_joined(cluster: Cluster, servers: list[Server] | None = None) -> None:
    """The given servers (all by default) rely on each other."""
    for server in servers or cluster.servers:
        wait_until(
            lambda server=server: all(peer["state"] == "joined" for peer in server.volume()["peers"]),  # type: ignore[misc]
            f"{server.name} has joined its peers",
        )


def assert_copies(cluster: Cluster, ack: Ack, copies: int, of: int) -> None:
    """As many copies as servers that see each other; fewer only if one of them really stood still for a moment."""
    assert ack.of == of
    assert ack.copies == copies or (ack.copies < copies and cluster.lost_sight()), ack
