"""What breaks the connection to the kernel when this process was killed.

The kernel breaks it by itself when the last thread of the process is gone. But a thread that tells the kernel to forget
pages cannot be killed while it waits for one that is being read; and who was to answer that read is dead. Programs
would hang then, and nothing could be mounted there again.

So a shell sleeps until this process is killed, and then breaks the connection from outside. (The kernel sends it a
signal when the thread ends that began it; it would not see that a file is closed.) It holds the kernel's file for that
open, so it never breaks another mount's, and takes next to no memory.

Threading: the main thread begins it, any ends it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from pathlib import Path

log = logging.getLogger("gdah.fuse")

CONNECTIONS = Path("/sys/fs/fuse/connections")
COMMAND = ("setpriv", "--pdeathsig", "TERM", "sh", "-c")
SCRIPT = 'exec 3>"$0"; trap "echo 1 >&3; exit" TERM; read -r _; echo 1 >&3'
STOP_S = 5.0


class LastWill:
    """Without the file system of FUSE's connections, or the right to use it, there is none."""

    def __init__(self, device: str) -> None:
        """`device` of the mount, as in "0:57"."""
        self._shell: subprocess.Popen[bytes] | None = None
        abort = CONNECTIONS / device.rpartition(":")[2] / "abort"
        if not os.access(abort, os.W_OK):
            log.debug("a mount that is killed is left to the kernel: %s cannot be written", abort)
            return
        try:
            self._shell = subprocess.Popen(
                [*COMMAND, SCRIPT, str(abort)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            log.debug("a mount that is killed is left to the kernel: %s", error)

    def cancel(self) -> None:
        """The session has ended."""
        shell, self._shell = self._shell, None
        if shell is None:
            return
        shell.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            shell.wait(STOP_S)
        if shell.stdin is not None:
            shell.stdin.close()
