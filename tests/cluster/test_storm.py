"""Two people work on while everything around them fails in turn; see `storm`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import storm

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.mark.parametrize("seed", [11])
def test_everybodys_work_survives_a_storm(tmp_path: Path, fuse: None, seed: int) -> None:
    """What a call accepted is not lost by the failure of one machine, and not by `kill -9` of any or all
    processes.
    """
    storm.run(tmp_path, seed, 90, print)
