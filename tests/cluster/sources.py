"""A tree of real source files for programs to work on: the Python standard library of this interpreter."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

SOURCE_FILES = 1100
_LEFT_OUT = {"__pycache__", "lib2to3"}


def copy_sources(to: Path, count: int = SOURCE_FILES) -> int:
    """Copy the first `count` .py files, in a fixed order and in their folders; returns how many there were."""
    copied = 0
    for place in dict.fromkeys((sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))):
        base = Path(place)
        for folder, folders, files in os.walk(base):
            folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and name != "site-packages")
            for name in sorted(files):
                if not name.endswith(".py") or copied >= count:
                    continue
                target = to / Path(folder).relative_to(base) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(folder) / name, target)
                copied += 1
    return copied
