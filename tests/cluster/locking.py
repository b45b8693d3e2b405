"""Programs that lock files on a mount, for tests: run as `python locking.py WHAT FOLDER ...`, standard library only.

counter FOLDER TIMES KIND     add one, so often, to the number in `count`, each time under a lock of it
append FOLDER TIMES NAME      append a line to `lines`, each time under flock, through one open file
sqlite FOLDER TIMES           add one to a row of `base.db` and make one of its own, each time in a transaction
hold FOLDER KIND NAME         lock NAME, say `held`, wait for the end of standard input
wait FOLDER KIND NAME         say `waits`, lock NAME, say `got it`, wait for the end of standard input
try FOLDER KIND NAME          say `free` or `taken`
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS: dict[str, Callable[..., Any]] = {"posix": fcntl.lockf, "flock": fcntl.flock}


def say(text: str) -> None:
    print(text, flush=True)


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def counter(folder: Path, times: str, kind: str) -> None:
    lock = CALLS[kind]
    for _ in range(int(times)):
        fd = opened(folder / "count")
        lock(fd, fcntl.LOCK_EX)
        number = int(os.pread(fd, 100, 0) or b"0")
        os.pwrite(fd, b"%d" % (number + 1), 0)
        lock(fd, fcntl.LOCK_UN)
        os.close(fd)


def append(folder: Path, times: str, name: str) -> None:
    fd = os.open(folder / "lines", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    for number in range(int(times)):
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, f"{name} {number}\n".encode())
        fcntl.flock(fd, fcntl.LOCK_UN)


def sqlite(folder: Path, times: str, name: str) -> None:
    base = sqlite3.connect(folder / "base.db", timeout=120, isolation_level=None)
    for number in range(int(times)):
        base.execute("BEGIN IMMEDIATE")
        base.execute("UPDATE counter SET number = number + 1")
        base.execute("INSERT INTO made VALUES (?, ?)", (name, number))
        base.execute("COMMIT")
    base.close()


def hold(folder: Path, kind: str, name: str) -> None:
    fd = opened(folder / name)
    CALLS[kind](fd, fcntl.LOCK_EX)
    say("held")
    sys.stdin.read()


def wait(folder: Path, kind: str, name: str) -> None:
    fd = opened(folder / name)
    say("waits")
    CALLS[kind](fd, fcntl.LOCK_EX)
    say("got it")
    sys.stdin.read()


def try_(folder: Path, kind: str, name: str) -> None:
    fd = opened(folder / name)
    try:
        CALLS[kind](fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("taken")
    else:
        say("free")


if __name__ == "__main__":
    globals()[sys.argv[1].replace("try", "try_")](Path(sys.argv[2]), *sys.argv[3:])
