"""The short form of a day of work on two mounts in turn while servers are killed; see `day`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import day
from tests.cluster.sources import copy_sources

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(300)]


def test_a_day_of_work_comes_out_as_on_a_plain_disk(tmp_path: Path, fuse: None) -> None:
    """No program sees an error because a server was killed, stopped or cut off."""
    copy_sources(tmp_path / "sources", 10)
    figures = day.day(tmp_path, tmp_path / "sources", 5, 0, print)
    assert figures.kills > 0
