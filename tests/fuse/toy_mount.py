"""The process that mounts the toy: commands as JSON lines on standard input, answers on standard output.

    python -m tests.fuse.toy_mount DIR [OPTIONS-JSON]

With the option `device`, a folder, the file system of that name there is served instead of the toy: the real one, on a
device without any server. Commands name a method of `Control` and its arguments; paths and names travel as text with
surrogate escapes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from gdah_volume.errors import GdahError
from mountfs.fuse import mountpoint
from mountfs.fuse.binding import MountOptions
from mountfs.fuse.fuse_session import Session, mount
from mountfs.fuse.kernel_cache import LIMIT, NotifyingKernelCache
from mountfs.fuse_ops import CacheTimes, FuseOps
from tests.fs.device import Device
from tests.fuse.toy import Node, ToyFileSystem


class Control:
    """What a test may do behind the kernel's back, and what it may ask."""

    def __init__(self, toy: ToyFileSystem, operations: FuseOps, session: Session) -> None:
        self.toy, self.operations, self.session = toy, operations, session

    def find(self, path: str) -> Node:
        node = self.toy.node(1)
        for name in os.fsencode(path).split(b"/"):
            node = self.toy.child(node.ino, name) if name else node
        return node

    def place(self, path: str) -> tuple[int, bytes]:
        folder, name = os.path.split(path)
        return self.find(folder).ino, os.fsencode(name)

    def put(self, path: str, text: str) -> None:
        parent, name = self.place(path)
        if name not in self.toy.folder(parent).entries:
            self.toy.add(parent, name, 0o100644, None)
        self.find(path).data[:] = text.encode()

    def remove(self, path: str) -> None:
        self.toy.drop(*self.place(path))

    def move(self, path: str, new_path: str) -> None:
        self.toy.rename(*self.place(path), *self.place(new_path))

    def chmod(self, path: str, mode: int) -> None:
        node = self.find(path)
        node.mode = node.mode & ~0o7777 | mode

    def told_inode(self, path: str) -> None:
        self.session.kernel_cache.invalidate_inode(self.find(path).ino)

    def told_entry(self, path: str) -> None:
        self.session.kernel_cache.invalidate_entry(*self.place(path))

    def told_everything(self) -> None:
        self.session.kernel_cache.invalidate_everything()

    def flush(self) -> bool:
        return self.session.kernel_cache.flush(10)

    def told(self) -> int:
        return self.session.kernel_cache.told

    def break_(self, *operations: str) -> None:
        self.toy.broken = set(operations)

    def hold_reads(self, hold: bool) -> None:
        (self.toy.gate.clear if hold else self.toy.gate.set)()

    def threads(self) -> int:
        return sum(thread.name.startswith("fuse-") for thread in threading.enumerate())

    def failures(self) -> int:
        return self.operations.failures

    def calls(self) -> dict[str, int]:
        return dict(self.toy.calls)

    def nodes(self) -> int:
        return len(self.toy.nodes)

    def library(self) -> int:
        return self.session.library.major

    def overflow(self) -> None:
        number, ino = 0, self.find("dir").ino
        while self.session.kernel_cache.overflows == 0:
            self.session.kernel_cache.invalidate_entry(ino, b"name%d" % number)
            number += 1

    def has_no_will(self) -> None:
        """As where FUSE's connections cannot be reached."""
        assert self.session._last_will is not None
        self.session._last_will.cancel()

    def unmount(self, lazy: bool = False) -> bool:
        return self.session.unmount(lazy=lazy)


def answer(control: Control, line: str) -> dict[str, Any]:
    name, *args = json.loads(line)
    try:
        return {"result": getattr(control, name)(*args)}
    except GdahError as error:
        return {"error": error.code, "message": str(error)}


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    given = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    kernel_cache = NotifyingKernelCache(limit=given.pop("limit", LIMIT))
    keep_cache = given.pop("keep_cache", True)
    times = CacheTimes(*given.pop("times")) if "times" in given else CacheTimes()
    toy = ToyFileSystem(keep_cache=keep_cache)
    device = Device(Path(given.pop("device"))) if "device" in given else None
    if device is not None:
        device.parts.kernel = kernel_cache
    operations = FuseOps(toy if device is None else device.fs, times)
    try:
        path = mountpoint.prepare(Path(sys.argv[1]))
        session = mount(path, operations, MountOptions(**given), kernel_cache)
    except GdahError as error:
        print(json.dumps({"error": error.code, "message": str(error)}), flush=True)
        sys.exit(2)
    control = Control(toy, operations, session)
    answering = threading.Lock()

    def listen() -> None:
        for line in sys.stdin:
            with answering:
                print(json.dumps(answer(control, line)), flush=True)

    threading.Thread(target=listen, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: session.unmount(lazy=True))
    print(json.dumps({"result": "serving"}), flush=True)
    session.run()
    if device is not None:
        device.unmount()
    with answering:  # who asked for the end hears of it
        pass


if __name__ == "__main__":
    main()
