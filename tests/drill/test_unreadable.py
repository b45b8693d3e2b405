"""Content that a mount shows and cannot give is lost, also when nothing comes to rest."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gdah_drill.final import FinalState
from gdah_drill.hands import Calls
from gdah_drill.unreadable import check_readable


def test_what_cannot_be_read_is_told_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("whole", "gone", "folder/hurt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"data")
    (tmp_path / "link").symlink_to("nowhere")
    errors = {"gone": errno.ENOENT, "hurt": errno.EIO}

    def failing(fd: int, *_: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{fd}")).name
        if name in errors:
            raise OSError(errors[name], os.strerror(errors[name]))

    monkeypatch.setattr(os, "posix_fadvise", failing)
    found = Calls(str(tmp_path)).unreadable()
    assert found == {"folder/hurt": errno.EIO}
    final = FinalState(servers=[], mounts=[], unreadable={"one": found})
    assert [str(finding) for finding in check_readable(final)] == [
        "lost: one: folder/hurt cannot be read, with every server in reach: EIO"
    ]
