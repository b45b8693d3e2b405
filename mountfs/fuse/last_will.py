"""What breaks the connection to the kernel when this process was killed.

The kernel breaks it by itself when the last thread of the process is gone. But a thread that tells the kernel to forget
pages cannot be killed while it waits for one that is being read; and who was to answer that read is dead. Programs
would hang then, and nothing could be mounted there again.

So a shell sleeps until this process is killed, and then breaks the connection from outside. (The kernel sends it a
signal when the thread ends that began it; it would not see that a file is closed.) It holds the kernel's file for that
open, so it never breaks another mount's, and takes next to no memory. Where the file system of these files is not
mounted, as in containers, root opens it without mounting it anywhere.

Threading: the main thread begins it, any ends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import subprocess
from pathlib import Path

log = logging.getLogger("gdah.fuse")

CONNECTIONS = Path("/sys/fs/fuse/connections")
COMMAND = ("setpriv", "--pdeathsig", "TERM", "sh", "-c")
SCRIPT = 'exec 3>"/proc/self/fd/$0"; trap "echo 1 >&3; exit" TERM; read -r _; echo 1 >&3'
STOP_S = 5.0
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
"""Calls of Linux 5.2, by their numbers, which are the same on all processors."""
_CLOEXEC = 1
_CREATE = 6


class LastWill:
    """Without the file system of FUSE's connections, or the right to use it, there is none."""

    def __init__(self, device: str) -> None:
        """`device` of the mount, as in "0:57"."""
        self._shell: subprocess.Popen[bytes] | None = None
        try:
            abort = _abort_file(device.rpartition(":")[2])
        except OSError as error:
            log.debug("a mount that is killed is left to the kernel: its connection cannot be reached: %s", error)
            return
        try:
            self._shell = subprocess.Popen(
                [*COMMAND, SCRIPT, str(abort)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                pass_fds=(abort,),
            )
        except OSError as error:
            log.debug("a mount that is killed is left to the kernel: %s", error)
        finally:
            os.close(abort)

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


def _abort_file(connection: str) -> int:
    """What breaks that connection when something is written to it. Raises OSError."""
    try:
        return os.open(CONNECTIONS / connection / "abort", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        folder = _unmounted_connections()
    try:
        return os.open(f"{connection}/abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)


def _unmounted_connections() -> int:
    """The root of that file system, which is in no one's tree of mounts. For root only. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(*arguments: object) -> int:
        result: int = libc.syscall(*arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    made = call(_FSOPEN, b"fusectl", _CLOEXEC)
    try:
        call(_FSCONFIG, made, _CREATE, None, None, 0)
        return call(_FSMOUNT, made, _CLOEXEC, 0)
    finally:
        os.close(made)
