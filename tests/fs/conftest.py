"""Targets of the suite: the object, a plain folder (which shows that the suite is right), and a mount."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gdah_drill.cluster import Cluster
from tests.fs.device import Device
from tests.fs.targets import FolderTarget, MountTarget, ObjectTarget, Target


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "device")
    yield made
    made.kill()


@pytest.fixture(params=["object", "folder", pytest.param("mount", marks=[pytest.mark.mount, pytest.mark.cluster])])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    if request.param == "object":
        device = Device(tmp_path / "device")
        yield ObjectTarget(device)
        device.kill()
    elif request.param == "folder":
        folder = tmp_path / "folder"
        folder.mkdir()
        yield FolderTarget(folder)
    else:
        yield request.getfixturevalue("mounted")


@pytest.fixture(scope="module")
def shared_mount(tmp_path_factory: pytest.TempPathFactory, fuse: None) -> Iterator[Callable[[], MountTarget]]:
    """One cluster for all tests of a module; each gets a folder of its own."""
    with Cluster(tmp_path_factory.mktemp("cluster"), 2) as cluster:
        cluster.start_servers()
        mount = cluster.mount("one")
        count = 0

        def make() -> MountTarget:
            nonlocal count
            count += 1
            mount.hands.mkdir(f"t{count}")
            return MountTarget(mount.root / f"t{count}")

        yield make


@pytest.fixture
def mounted(shared_mount: Callable[[], MountTarget]) -> Iterator[MountTarget]:
    made = shared_mount()
    yield made
    made.shut()
