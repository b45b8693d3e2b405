"""Every scenario on a plain folder and on a mount: both as POSIX and ext4 say, and no difference between them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from gdah_drill.cluster import Cluster
from tests.posix.bench import Bench, Scenario, differences, report, run
from tests.posix.scenarios import SCENARIOS

pytestmark = [
    pytest.mark.mount,
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users, which only root may"),
]


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory, fuse: None) -> Iterator[tuple[Bench, Bench]]:
    """A plain folder and a mount."""
    plain = tmp_path_factory.mktemp("plain")
    with Cluster(tmp_path_factory.mktemp("posix")) as cluster:
        cluster.start_servers()
        mount = cluster.mount("one", None, "--allow-other", "--privileged")
        here, there = Bench(plain), Bench(mount.root)
        try:
            yield here, there
        finally:
            here.close()
            there.close()
        cluster.wait_settled()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_as_on_ext4(benches: tuple[Bench, Bench], scenario: Scenario) -> None:
    """The folder behaves like a local file system to any program on one mount."""
    here, there = benches
    run(here, scenario)
    assert not here.failures, f"on the plain folder, so the suite is wrong:\n{report(here)}"
    run(there, scenario)
    assert not there.failures, f"on the mount:\n{report(there)}"
    assert not (found := differences(here, there)), "\n".join(found)
