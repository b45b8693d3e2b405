"""Every combination on a plain folder and on a mount, with numbers. Needs root.

python -m tests.posix [FOLDER]      FOLDER: a plain one on the file system to compare with (default: /tmp's)
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from gdah_drill.cluster import Cluster
from tests.posix.bench import Bench, differences, report, run
from tests.posix.scenarios import SCENARIOS


def main() -> int:
    wrong = 0
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        with Cluster(Path(folder) / "cluster") as cluster:
            cluster.start_servers()
            mount = cluster.mount("one", None, "--allow-other", "--privileged")
            (Path(folder) / "plain").mkdir()
            here, there = Bench(Path(folder) / "plain", thorough=True), Bench(mount.root, thorough=True)
            started = time.monotonic()
            for scenario in SCENARIOS:
                before = there.checks
                run(here, scenario)
                run(there, scenario)
                found = differences(here, there)
                wrong += len(here.failures) + len(there.failures) + len(found)
                print(
                    f"{scenario.__name__:26} {there.checks - before:6} checks, on the plain folder"
                    f" {len(here.failures)} failed, on the mount {len(there.failures)}, {len(found)} differ"
                )
                print(*filter(None, (report(here), report(there), *found)), sep="\n", end="")
            took = time.monotonic() - started
            print(f"{here.checks} checks on the plain folder, {there.checks} on the mount, {wrong} wrong, {took:.0f} s")
            here.close()
            there.close()
            cluster.wait_settled()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
