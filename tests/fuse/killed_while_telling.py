"""A mount that is killed while it tells the kernel to forget a page that somebody is reading: no thread of it can end,
and nobody answers the read. In a namespace of its own, as root:

    unshare -m python -m tests.fuse.killed_while_telling DIR will|unmounted|prepare

Prints what a program is told then: by itself with `will`, and with `unmounted`, where the system has not mounted FUSE's
connections; with `prepare`, where they cannot be reached, after that room was asked to mount there.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

from gdah_volume.errors import GdahError
from mountfs.fuse import mountpoint
from mountfs.fuse.last_will import CONNECTIONS
from tests.fuse.conftest import ToyMount

WAIT_S = 30.0


def become_hopeless(toy: ToyMount) -> None:
    (toy.path / "file").write_text("content")
    toy.control("told_inode", "file")
    assert toy.control("flush")
    toy.control("hold_reads", True)
    reader = subprocess.Popen([sys.executable, "-c", "import sys; open(sys.argv[1]).read()", toy.path / "file"])
    asked = toy.calls_of("read")
    while toy.calls_of("read") == asked:
        threading.Event().wait(0.02)
    toy.control("told_inode", "file")
    while not any("D (" in stat.read_text() for stat in Path(f"/proc/{toy.process.pid}/task").glob("*/status")):
        threading.Event().wait(0.02)
    toy.process.kill()
    threading.Thread(target=reader.wait, daemon=True).start()


def told(path: Path) -> str:
    answers: list[str] = []

    def ask() -> None:
        try:
            os.statvfs(path)
            answers.append("nothing")
        except OSError as error:
            answers.append(errno.errorcode[error.errno or 0])

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    return answers[0] if answers else "it waits"


def main() -> None:
    path, how = Path(sys.argv[1]), sys.argv[2]
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    if how == "will":
        subprocess.run(["mount", "-t", "fusectl", "fusectl", str(CONNECTIONS)], check=False)
    elif os.path.ismount(CONNECTIONS):
        subprocess.run(["umount", "-l", str(CONNECTIONS)], check=True)
    toy = ToyMount(path)
    if how == "prepare":
        toy.control("has_no_will")
    try:
        become_hopeless(toy)
        if how == "prepare":
            mountpoint.prepare(path, abandoned=True)
        print(told(path), flush=True)
    except GdahError as error:
        print(error, flush=True)
    finally:
        subprocess.run(["umount", "-f", str(path)], capture_output=True, check=False)
        os._exit(0)


if __name__ == "__main__":
    main()
