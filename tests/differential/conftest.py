"""One cluster, two mounts and a plain folder for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.differential.world import World, filesystem_of


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory, fuse: None) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("differential")
    print(f"the plain folder is on {filesystem_of(folder)}")
    world = World(folder)
    yield world
    world.close()
    world.cluster.check_logs()
