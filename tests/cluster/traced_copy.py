"""`cp -r` that notes how long each of its calls took. A program of its own, standard library only.

python traced_copy.py FROM TO     prints JSON: calls, files, seconds, and the slowest calls of each kind in ms
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

PIECE_BYTES = 128 << 10
SLOWEST = 3


def copy_tree(source: str, target: str) -> dict[str, Any]:
    took: dict[str, list[tuple[float, float, str]]] = {}
    files = 0
    started = time.monotonic()

    def timed(kind: str, path: str, call: Callable[[], Any]) -> Any:
        before = time.monotonic()
        try:
            return call()
        finally:
            took.setdefault(kind, []).append(((time.monotonic() - before) * 1000, before - started, path))

    for folder, folders, names in os.walk(source):
        folders.sort()
        here = os.path.normpath(os.path.join(target, os.path.relpath(folder, source)))
        timed("mkdir", here, lambda here=here: os.mkdir(here))  # type: ignore[misc]
        for name in sorted(names):
            to = os.path.join(here, name)
            with open(os.path.join(folder, name), "rb") as file:
                fd = timed("open", to, lambda to=to: os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL))  # type: ignore[misc]
                while piece := file.read(PIECE_BYTES):
                    timed("write", to, lambda fd=fd, piece=piece: os.write(fd, piece))  # type: ignore[misc]
                timed("close", to, lambda fd=fd: os.close(fd))  # type: ignore[misc]
            files += 1
    return {
        "files": files,
        "seconds": round(time.monotonic() - started, 3),
        "calls": sum(len(times) for times in took.values()),
        "longest_ms": round(max(entry[0] for times in took.values() for entry in times), 1),
        "slowest": {
            kind: [
                f"{ms:.1f} ms at {at_s:.2f} s: {os.path.relpath(path, target)}"
                for ms, at_s, path in sorted(times, reverse=True)[:SLOWEST]
            ]
            for kind, times in took.items()
        },
    }


if __name__ == "__main__":
    print(json.dumps(copy_tree(sys.argv[1], sys.argv[2])))
