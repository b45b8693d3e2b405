"""The brake on real mounts: what a burst of deletions reaches, and what two decisions make of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gdah_drill.cluster import Cluster, Mount
from gdah_drill.processes import run_program
from gdah_drill.waiting import wait_until

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(120)]

FILES = 12
COUNT = 4


@pytest.fixture
def cluster(tmp_path: Path, fuse: None) -> Iterator[Cluster]:
    with Cluster(tmp_path / "brake") as made:
        made.start_servers()
        yield made


def names(mount: Mount, folder: str = "keep") -> list[str]:
    return sorted(path.name for path in (mount.root / folder).iterdir())


def held(mount: Mount) -> dict[str, Any]:
    found: dict[str, Any] = mount.status()["held"]
    return found


def gdah(mount: Mount, *words: str) -> str:
    argv = [sys.executable, "-m", "mountfs.tool", *words, "--status-addr", f"127.0.0.1:{mount.port}"]
    return run_program(argv, cwd=Path.cwd()).stdout


def test_a_burst_is_held_until_somebody_decides(cluster: Cluster) -> None:
    """What a device deletes beyond the limit does not reach the others before a person confirms it. Nobody is stopped
    by the brake, and everything else goes on."""
    one = cluster.mount("one", None, "--brake-count", str(COUNT))
    two = cluster.mount("two")
    all_names = [f"f{number:02}" for number in range(FILES)]
    (one.root / "keep").mkdir()
    for name in all_names:
        (one.root / "keep" / name).write_text(name)
    one.run("rm", "-rf", "keep")
    assert not (one.root / "keep").exists()
    wait_until(lambda: len(names(two)) == FILES - COUNT, "the first deletions are there", 15)
    assert held(one)["deletions"] == FILES - COUNT + 1

    (one.root / "flows").write_text("past it")
    wait_until((two.root / "flows").exists, "everything else flows", 15)
    assert one.status()["pending"]["operations"] == 0
    assert one.status()["copies"] == "2/2"
    assert "but for 9 that the brake holds" in gdah(one, "flush", "--wait")

    one.kill9()
    one.unmount_lazily()
    one.start("--brake-count", str(COUNT))
    assert held(one)["deletions"] == FILES - COUNT + 1
    assert not (one.root / "keep").exists()
    assert len(names(two)) == FILES - COUNT

    left = names(two)
    assert "9 deletions were taken back" in gdah(one, "brake", "--discard")
    assert names(one) == left == names(two)
    assert [(one.root / "keep" / name).read_text() for name in left] == left

    for name in left[:-1]:
        (two.root / "keep" / name).unlink()  # this one has no reason to brake
    one.run("rm", "-rf", "keep")  # a burst of two
    wait_until(lambda: not (two.root / "keep").exists(), "both are gone there", 15)
    assert held(one)["operations"] == 0


def test_a_confirmed_burst_goes_on(cluster: Cluster) -> None:
    one = cluster.mount("one", None, "--brake-count", str(COUNT))
    two = cluster.mount("two")
    (one.root / "keep").mkdir()
    for number in range(FILES):
        (one.root / "keep" / f"f{number:02}").write_text("x")
    one.run("rm", "-rf", "keep")
    (one.root / "keep").mkdir()
    (one.root / "keep" / "new").write_text("made anew")
    (two.root / "keep" / names(two)[0]).write_text("edited meanwhile")
    edited = names(two)[0]
    assert "confirmed: 12 changes" in gdah(one, "brake", "--confirm")
    wait_until(lambda: names(two) == names(one) and len(names(two)) <= 2, "it is done everywhere", 20)
    cluster.wait_equal()
    assert (two.root / "keep" / edited).read_text() == "edited meanwhile"
    assert (two.root / "keep" / "new").read_text() == "made anew"
