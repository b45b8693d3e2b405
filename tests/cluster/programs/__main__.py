"""`python -m tests.cluster.programs`: all stories, or those named, and a table of what came out."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from gdah_drill.cluster import Cluster
from tests.cluster.programs import Result, Story, stories, tell


def main() -> int:
    command = argparse.ArgumentParser(prog="python -m tests.cluster.programs", description=__doc__)
    command.add_argument("--list", action="store_true", help="say which there are")
    command.add_argument("--fast", action="store_true", help="only those that the test suite runs")
    command.add_argument("--in", dest="place", default=None, help="where to mount and to keep scratch files")
    command.add_argument("names", nargs="*", help="stories; all without any")
    flags = command.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    chosen = [s for s in stories() if (not flags.names or s.name in flags.names) and (s.fast or not flags.fast)]
    unknown = set(flags.names) - {story.name for story in chosen}
    if unknown:
        command.error(f"no such story: {' '.join(sorted(unknown))}")
    if flags.list:
        for story in chosen:
            print(f"{story.name:14} {story.what}")
        return 0
    with tempfile.TemporaryDirectory(prefix="gdah-programs-", dir=flags.place) as scratch:
        Path(scratch).chmod(0o755)
        results = run_all(Path(scratch), chosen)
    print("\n| program | what | result | mount | plain disk |\n| --- | --- | --- | --- | --- |")
    for one in results:
        print(f"| {one.story.name} | {one.story.what} | {one.word} | {one.mount_s:.1f} s | {one.plain_s:.1f} s |")
    return 1 if any(one.differences for one in results) else 0


def run_all(scratch: Path, chosen: list[Story]) -> list[Result]:
    results = []
    with Cluster(scratch / "cluster") as cluster:
        a, b = cluster.start_servers()
        mount, there = cluster.mount("one", [a, b], "--allow-other"), cluster.mount("two", [b, a], "--allow-other")
        for story in chosen:
            result = tell(story, mount, there, scratch)
            results.append(result)
            print(f"{story.name:14} {result.word:10} {result.mount_s:7.1f} s {result.plain_s:7.1f} s", flush=True)
            for line in result.differences:
                print("    " + line, flush=True)
        cluster.wait_settled()
    return results


if __name__ == "__main__":
    sys.exit(main())
