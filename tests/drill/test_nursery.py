"""What a harness started does not outlive it, however it ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from gdah_drill.processes import free_port

SCRIPT = """
import os, sys, pathlib
from gdah_drill import nursery
folder = pathlib.Path(sys.argv[1])
argv = ["storage-server", "--data", str(folder / "data"), "--port", sys.argv[2]]
child = nursery.start(argv, log=folder / "log", cwd=folder, env=dict(os.environ))
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_server_ends_with_the_harness_that_was_killed(tmp_path: Path) -> None:
    harness = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(free_port())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    with harness:
        assert harness.stdout is not None
        pid = int(harness.stdout.readline())
        os.kill(pid, 0)
        harness.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "the server runs on"
        time.sleep(0.02)
