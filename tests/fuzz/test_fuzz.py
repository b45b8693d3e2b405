"""The fuzzer in short: some inputs at each door, the same each time. `python -m tests.fuzz` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdah_drill.cluster import Cluster
from tests.fuzz import parsers
from tests.fuzz.doors import knock
from tests.fuzz.lane import Lane
from tests.fuzz.web import Published, Raw

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


def test_the_parsers(tmp_path: Path) -> None:
    knock(parsers.make(tmp_path), 1, times=60)


def test_a_server(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        server = cluster.start_servers()[0]
        for door in (Lane(server), Raw("raw-server", server, server), Published("server", server, server)):
            knock(door, 1, times=30)
        knock(Lane(server, peer=True), 1, times=30)


@pytest.mark.mount
def test_a_mount(tmp_path: Path, fuse: None) -> None:
    with Cluster(tmp_path, 1) as cluster:
        server = cluster.start_servers()[0]
        mount = cluster.mount()
        for door in (Raw("raw-mount", mount, server), Published("mount", mount, server)):
            knock(door, 1, times=30)
