"""A program that makes small calls in one folder until its input ends, and says how long each round's calls took.

Run as a script with nothing but the standard library: `python small_calls.py FOLDER`; one line of JSON at the end:
a list of [when it began (time.monotonic), name of the call, seconds], and the errors. Between two rounds it thinks.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any

THINKS_S = 0.02


def rounds(folder: str) -> dict[str, Any]:
    calls: list[tuple[float, str, float]] = []
    errors: list[str] = []

    def timed(name: str, call: Callable[..., Any], *args: Any) -> Any:
        began = time.monotonic()
        try:
            return call(*args)
        except OSError as error:
            errors.append(f"{name}: {error}")
            return None
        finally:
            calls.append((began, name, time.monotonic() - began))

    number = 0
    while not select.select([0], [], [], THINKS_S)[0]:
        number += 1
        path, moved = os.path.join(folder, f"small-{number}"), os.path.join(folder, f"moved-{number}")
        timed("write", _write, path, b"round %d" % number)
        if timed("read", _read, path) != b"round %d" % number:
            errors.append(f"{path} does not hold what was written")
        timed("rename", os.rename, path, moved)
        timed("list", os.listdir, folder)
        timed("append", _append, moved)
        timed("unlink", os.unlink, moved)
    return {"rounds": number, "calls": calls, "errors": errors}


def _write(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _append(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b", and more")


if __name__ == "__main__":
    print(json.dumps(rounds(sys.argv[1])), flush=True)
