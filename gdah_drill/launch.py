"""Starts the main of a server or a mount in a process whose clock can be set, as the machine's own can.

    GDAH_DRILL_CLOCK=FILE python -m gdah_drill.launch storage-server --data ...

FILE holds the number of seconds that `time.time` and `time.time_ns` are ahead, or behind when it is negative; it is
read anew at most every 0.1 s, so a clock can jump under a running process. Each shift that took effect is noted in
FILE.seen. The monotonic clock is left alone, as no one sets that. GDAH_DRILL_SABOTAGE=module:function is called
before main: the hook by which the tests of the drill break the product on purpose. Nothing else reads either.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

CLOCK, SABOTAGE = "GDAH_DRILL_CLOCK", "GDAH_DRILL_SABOTAGE"
READ_EVERY_S = 0.1
MAINS = {"storage-server": "storage_server.cli", "gdah-mount": "mountfs.cli", "gdah": "mountfs.tool"}


class ShiftedClock:
    """Threading: any; a race reads the file once more."""

    def __init__(self, file: Path, real_ns: Callable[[], int], monotonic: Callable[[], float]) -> None:
        self._file = file
        self._real_ns = real_ns
        self._monotonic = monotonic
        self._shift_ns = 0
        self._read_at = -READ_EVERY_S

    def time_ns(self) -> int:
        now = self._monotonic()
        if now - self._read_at >= READ_EVERY_S:
            self._read_at = now
            self._read()
        return self._real_ns() + self._shift_ns

    def time(self) -> float:
        return self.time_ns() / 1e9

    def _read(self) -> None:
        try:
            shift_ns = int(float(self._file.read_text() or "0") * 1e9)
        except (OSError, ValueError):
            return  # the file is just being written: next time
        if shift_ns != self._shift_ns:
            self._shift_ns = shift_ns
            with open(f"{self._file}.seen", "a", encoding="ascii") as seen:
                seen.write(f"{shift_ns / 1e9:g}\n")


def prepare(environ: Mapping[str, str]) -> None:
    """Before main, in the process that runs it."""
    if environ.get(CLOCK):
        clock = ShiftedClock(Path(environ[CLOCK]), time.time_ns, time.monotonic)
        time.time_ns, time.time = clock.time_ns, clock.time
    if environ.get(SABOTAGE):
        module, _, function = environ[SABOTAGE].partition(":")
        getattr(importlib.import_module(module), function)()


def main() -> int | None:
    sys.argv = sys.argv[1:]
    module = importlib.import_module(MAINS[Path(sys.argv[0]).name])
    prepare(os.environ)
    code: int | None = module.main()
    return code


if __name__ == "__main__":
    sys.exit(main())
