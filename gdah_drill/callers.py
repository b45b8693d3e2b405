"""Who dialled: the process at the other end of a connection on this machine, from the kernel's tables.

So a proxy tells mounts and servers apart though all of them come from 127.0.0.1, and one URL of a server is right for
all of them, also when they learn it from each other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

TCP_TABLE = "/proc/net/tcp"


def caller(pids: Mapping[str, int], port: int, to_port: int) -> str:
    """The name whose process holds the socket from `port` to `to_port` on 127.0.0.1; '' when none does."""
    inode = _inode(port, to_port)
    if inode is None:
        return ""
    wanted = f"socket:[{inode}]"
    for name, pid in pids.items():
        folder = f"/proc/{pid}/fd"
        with contextlib.suppress(OSError):
            for fd in os.listdir(folder):
                with contextlib.suppress(OSError):
                    if os.readlink(f"{folder}/{fd}") == wanted:
                        return name
    return ""


def _inode(port: int, to_port: int) -> str | None:
    here, there = f"0100007F:{port:04X}", f"0100007F:{to_port:04X}"
    with open(TCP_TABLE, encoding="ascii") as table:
        for line in table:
            if here in line:
                columns = line.split()
                if columns[1] == here and columns[2] == there:
                    return columns[9]
    return None
