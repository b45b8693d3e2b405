"""Many drills, one after the other, and the table of what they came to.

    python -m tests.drill.campaign --seeds 1..40 --seconds 120 --into DIR
    python -m tests.drill.campaign --into DIR          only the table, of what is in DIR

Each seed is a `gdah drill` of its own, in a process of its own. Where they are not given, the number of servers and of
mounts follow from the seed. DIR keeps the report of each seed as JSON (a seed that has one is not run again) and the
whole folder of each drill that found something. It can be interrupted at any time: what was written stays, the drill
that was under way is forgotten.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

LATE_S = 1500.0
"""What a drill may take besides its seconds: scenes that wait for each other, healing, looking, judging."""
END_S = 90.0
LAYOUTS = ((2, 2), (3, 3), (2, 3), (2, 4), (3, 2), (2, 2), (3, 4), (2, 3))
"""Servers and mounts, by the seed."""
Report = dict[str, Any]


def layout_of(seed: int, servers: int | None, mounts: int | None) -> tuple[int, int]:
    of_servers, of_mounts = LAYOUTS[seed % len(LAYOUTS)]
    return servers or of_servers, mounts or of_mounts


# --- running


def run_one(seed: int, seconds: float, servers: int, mounts: int, workers: int, into: Path) -> Report:
    """Raises KeyboardInterrupt, with nothing of it left."""
    keep, file = into / f"seed-{seed}", into / f"seed-{seed}.json"
    shutil.rmtree(keep, ignore_errors=True)
    options = ["--seed", seed, "--seconds", seconds, "--servers", servers, "--mounts", mounts]
    options += ["--workers", workers]
    part = into / f"seed-{seed}.part"
    argv = [sys.executable, "-m", "mountfs.tool", "drill", *map(str, options), "--keep", str(keep), "--json", str(part)]
    with open(into / f"seed-{seed}.txt", "w", encoding="utf-8") as told:
        drill = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=told, stderr=told, start_new_session=True)
    try:
        code = drill.wait(seconds + LATE_S)
    except subprocess.TimeoutExpired:
        code = None
        end(drill)
    except KeyboardInterrupt:
        end(drill)
        shutil.rmtree(keep, ignore_errors=True)
        part.unlink(missing_ok=True)
        raise
    if part.exists():
        part.replace(file)
    else:
        settings = {"seconds": seconds, "servers": servers, "mounts": mounts, "workers": workers}
        file.write_text(json.dumps({"seed": seed, "settings": settings, "ended": code}) + "\n")
    report = load(file)
    if code == 0 and report.get("passed"):
        shutil.rmtree(keep, ignore_errors=True)
    return report


def end(drill: subprocess.Popen[bytes]) -> None:
    drill.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        drill.wait(END_S)
        return
    drill.kill()
    drill.wait()


def load(file: Path) -> Report:
    report: Report = json.loads(file.read_text(encoding="utf-8").splitlines()[-1])
    return report


def run(
    seeds: Iterable[int], seconds: float, servers: int | None, mounts: int | None, workers: int, into: Path
) -> None:
    for seed in seeds:
        if (into / f"seed-{seed}.json").exists():
            continue
        began = time.monotonic()
        report = run_one(seed, seconds, *layout_of(seed, servers, mounts), workers, into)
        print(f"seed {seed}: {verdict(report)} ({time.monotonic() - began:.0f} s)", flush=True)


def verdict(report: Report) -> str:
    if "findings" not in report:
        return f"no report, exit code {report['ended']}"
    rules = Counter(finding["rule"] for finding in report["findings"])
    return ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items())) or "nothing found"


# --- the table


HEAD = (
    "drills of", "number", "hours", "faults", "acknowledged operations", "lost", "wrong",
    "worst stall with a server in reach", "conflict copies made", "there in the end", "healed",
)  # fmt: skip


def table(reports: Sequence[Report]) -> str:
    """Markdown, for docs/RELIABILITY.md."""
    whole = [report for report in reports if "findings" in report]
    if not whole:
        return "No drill has ended."
    groups: dict[str, list[Report]] = {}
    for report in whole:
        settings = report["settings"]
        groups.setdefault(f"{settings['servers']} servers, {settings['mounts']} mounts", []).append(report)
    rows = [row(name, groups[name]) for name in sorted(groups)] + [row("all", whole)]
    dates, commits = sorted(report["date"] for report in whole), sorted({report["commit"] for report in whole})
    seeds = sorted(report["seed"] for report in whole)
    return "\n".join(
        [
            f"{dates[0]} to {dates[-1]}, commit {', '.join(commits)}, seeds {spans(seeds)}:",
            "",
            f"| {' | '.join(HEAD)} |",
            f"| {' | '.join('---' for _ in HEAD)} |",
            *rows,
            "",
            "Faults by kind: " + ", ".join(f"{kind} {count}" for kind, count in faults(whole).most_common()) + ".",
            "",
            *found(reports),
        ]
    )


def row(name: str, reports: Sequence[Report]) -> str:
    stalls = [(report["worst_stall_with_a_server"] or {}).get("took_s", 0.0) for report in reports]
    cells = [
        name,
        f"{len(reports)}",
        f"{sum(report['took_s'] for report in reports) / 3600:.2f}",
        f"{sum(report['faults'] for report in reports):,}",
        f"{sum(report['acknowledged'] for report in reports):,}",
        f"{sum(report['lost'] for report in reports)}",
        f"{sum(report['wrong'] for report in reports)}",
        f"{max(stalls):.2f} s",
        f"{sum(report['conflicts']['names_that_were_made'] for report in reports)}",
        f"{sum(report['conflicts']['copies'] for report in reports)}",
        f"{sum(report['healed']['bytes'] for report in reports) / 1e6:,.1f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def faults(reports: Iterable[Report]) -> Counter[str]:
    """Those that were seen to happen; what the machine did by itself is none."""
    kinds: Counter[str] = Counter()
    for report in reports:
        for kind, told in report["faults_by_kind"].items():
            if kind != "stood-still":
                kinds[kind] += told.get("happened", 0)
    return kinds


def found(reports: Sequence[Report]) -> list[str]:
    failed = [report for report in reports if not report.get("passed")]
    if not failed:
        return ["No seed found anything."]
    lines = ["| seed | servers, mounts | found |", "| --- | --- | --- |"]
    for report in failed:
        settings = report["settings"]
        lines.append(f"| {report['seed']} | {settings['servers']}, {settings['mounts']} | {verdict(report)} |")
    return lines


def spans(numbers: Sequence[int]) -> str:
    """As `1..4, 7`."""
    told: list[list[int]] = []
    for number in numbers:
        if told and number == told[-1][1] + 1:
            told[-1][1] = number
        else:
            told.append([number, number])
    return ", ".join(f"{first}..{last}" if last > first else f"{first}" for first, last in told)


def reports_in(into: Path) -> list[Report]:
    return sorted((load(file) for file in into.glob("seed-*.json")), key=lambda report: int(report["seed"]))


# --- the command


def parse_seeds(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drill.campaign", description=__doc__)
    parser.add_argument("--seeds", type=parse_seeds, default=range(0), metavar="A..B")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="N", help="how long faults come in each (120)")
    parser.add_argument("--servers", type=int, choices=(2, 3), help="default: by the seed")
    parser.add_argument("--mounts", type=int, choices=(2, 3, 4), help="default: by the seed")
    parser.add_argument("--workers", type=int, default=10, metavar="N", help="programs that write at once (10)")
    parser.add_argument("--into", type=lambda text: Path(text).absolute(), required=True, metavar="DIR")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, interrupted)
    try:
        run(options.seeds, options.seconds, options.servers, options.mounts, options.workers, options.into)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    reports = reports_in(options.into)
    print(table(reports))
    return 0 if all(report.get("passed") for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
