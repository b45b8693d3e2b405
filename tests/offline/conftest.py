"""A folder with something of everything in it, made once and copied."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.foldkit import rows_of
from tests.offline.folders import Folder, fill, told_tree


def told(data: Path) -> Any:
    with Folder(data) as folder:
        return told_tree(folder), rows_of(folder.replica), folder.replica.digest


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("template") / "data"
    with Folder(data) as folder:
        fill(folder)
    return data


@pytest.fixture(scope="session")
def sound_state(template: Path) -> Any:
    """What `told` says of it."""
    return told(template)


@pytest.fixture
def filled(tmp_path: Path, template: Path) -> Path:
    shutil.copytree(template, tmp_path / "data")
    return tmp_path / "data"
