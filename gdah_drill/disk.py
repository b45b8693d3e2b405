"""The other side of `faulty_disk`: starts it over a folder, commands it, cuts its power, takes it away.

Where it cannot be mounted, `Disk.start` says so, and the faults of disks are reported as not done.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from gdah_drill.hands import abandon
from gdah_drill.processes import REPOSITORY
from gdah_drill.waiting import wait_until

START_S = 10.0


class CannotMount(Exception):
    """This machine gives no FUSE mount to this user."""


class Disk:
    """Invariant: `folder` is only used while it runs. Threading: commands from any one thread at a time."""

    def __init__(self, home: Path, name: str) -> None:
        self.backing = home / f"{name}-platter"
        self.mountpoint = home / f"{name}-disk"
        self.folder = self.mountpoint / "data"
        self._socket = home / f"{name}.disk"
        self._log = home / "logs" / f"{name}-disk.log"
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raises CannotMount."""
        for folder in (self.backing / "data", self.mountpoint, self._log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with open(self._log, "ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "gdah_drill.faulty_disk", self.backing, self.mountpoint, self._socket],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.backing.parent,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
                start_new_session=True,
            )
        try:
            wait_until(self._ready, f"{self.mountpoint} is mounted", START_S)
        except AssertionError as error:
            self.close()
            raise CannotMount(f"{error}; {self._log.read_text(errors='replace')[-500:]}") from None

    def _ready(self) -> bool:
        assert self._popen is not None
        if self._popen.poll() is not None:
            raise CannotMount(self._log.read_text(errors="replace")[-500:])
        return self.is_mounted() and self.figures() is not None

    def is_mounted(self) -> bool:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as table:
            return any(line.split()[1] == str(self.mountpoint) for line in table)

    def order(self, order: dict[str, Any]) -> dict[str, int]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30.0)
            connection.connect(str(self._socket))
            with connection.makefile("rwb") as stream:
                stream.write(json.dumps(order).encode() + b"\n")
                stream.flush()
                answer: dict[str, int] = json.loads(stream.readline())
                return answer

    def set(self, **faults: Any) -> None:
        self.order({"set": faults})

    def heal(self) -> None:
        self.set(full=False, read_error=None, write_error=None, fsync_error=False)

    def figures(self) -> dict[str, int]:
        """How often each fault has answered a program."""
        return self.order({"figures": 1})

    def cut_power(self, seed: int | None = None) -> dict[str, int]:
        """What was not synced is gone. Those who used it are dead already; they may be started again after it."""
        lost = self.order({"lose": seed})
        self.close()
        self.start()
        return lost

    def close(self) -> None:
        """Idempotent. Lazily: a process that is just dying may still hold a file."""
        for argv in (["fusermount", "-u", "-z"], ["umount", "-l"]):
            if self.is_mounted():
                subprocess.run(
                    [*argv, str(self.mountpoint)],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=10,
                    check=False,
                )
        if self._popen is not None:
            abandon(self._popen)
            self._popen = None
