"""A clock that is set under a running process, and the hook by which the drill's tests break the product."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from gdah_drill.launch import ShiftedClock

DAY_S = 86_400


def test_a_clock_jumps_and_says_that_it_was_seen(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    file.write_text("0")
    now = [0.0]
    clock = ShiftedClock(file, lambda: 1_000_000_000, lambda: now[0])
    assert clock.time_ns() == 1_000_000_000
    file.write_text(str(-3 * DAY_S))
    assert clock.time() == 1.0, "it is read every 0.1 s only"
    now[0] = 0.2
    assert clock.time() == 1.0 - 3 * DAY_S
    assert Path(f"{file}.seen").read_text() == f"{-3 * DAY_S}\n"
    file.write_text("")
    now[0] = 0.4
    assert clock.time() == 1.0
    file.write_text("half a num")
    now[0] = 0.6
    assert clock.time() == 1.0


def test_a_command_runs_with_its_clock_and_its_sabotage(tmp_path: Path) -> None:
    (tmp_path / "clock").write_text(str(DAY_S))
    (tmp_path / "broken.py").write_text(
        "import sys, time\ndef it():\n    print(time.time(), *sys.argv)\n    sys.exit(7)\n"
    )
    before = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "gdah_drill.launch", "gdah", "status"],
        env={
            "PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}",
            "GDAH_DRILL_CLOCK": str(tmp_path / "clock"),
            "GDAH_DRILL_SABOTAGE": "broken:it",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    told, *arguments = done.stdout.split()
    assert float(told) > before + DAY_S - 1
    assert arguments == ["gdah", "status"]
