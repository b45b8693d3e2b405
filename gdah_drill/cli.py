"""`gdah drill`: a fire drill on this machine, for whoever wants to see whether something can be lost.

It works on a scratch cluster of its own: a new folder, ports of its own on 127.0.0.1, processes that it starts itself.
The command has no option that names a server, a mount or a data folder, so it can never touch real ones.

Exit codes: 0 nothing was found, 1 something was, 2 wrong usage, 3 the drill proved nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

from gdah_drill import history as words
from gdah_drill.processes import REPOSITORY
from gdah_drill.report import for_people, report_of
from gdah_drill.runner import Drill, Result, Settings

FOUND_NOTHING, FOUND, USAGE, PROVED_NOTHING = 0, 1, 2, 3
PROVED_NOTHING_RULE = "proved-nothing"


def run(flags: argparse.Namespace) -> int:
    if flags.faults == "help":
        print("\n".join(words.FAULTS))
        return FOUND_NOTHING
    kinds = parse_kinds(flags.faults)
    if isinstance(kinds, str):
        print(f"gdah: {kinds}", file=sys.stderr)
        return USAGE
    if flags.keep and Path(flags.keep).exists() and any(Path(flags.keep).iterdir()):
        print(f"gdah: --keep {flags.keep} is not empty: give a new folder", file=sys.stderr)
        return USAGE
    signal.signal(signal.SIGTERM, _interrupt)
    seed = flags.seed if flags.seed is not None else secrets.randbelow(1_000_000)
    worst = FOUND_NOTHING
    reports: list[dict[str, Any]] = []
    for number in range(flags.rounds):
        folder = _folder(flags.keep, number, flags.rounds)
        print(f"drill on a scratch cluster in {folder}, which nobody else uses", flush=True)
        settings = Settings(
            home=folder, seed=seed + number, seconds=flags.seconds, servers=flags.servers, mounts=flags.mounts,
            workers=flags.workers, kinds=kinds,
        )  # fmt: skip
        date = datetime.now(UTC).isoformat(timespec="seconds")
        result = Drill(settings, lambda line: print(line, flush=True)).run()
        report = _report(result, date)
        print(for_people(report), flush=True)
        reports.append(report)
        if flags.json:
            Path(flags.json).write_text("".join(json.dumps(report) + "\n" for report in reports))
        worst = _worse(worst, code_of(result))
        if not flags.keep:
            if code_of(result) == FOUND_NOTHING:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                print(f"everything is kept in {folder}: history.jsonl, logs, data; seed {settings.seed}")
    return worst


def _report(result: Result, date: str) -> dict[str, Any]:
    settings = result.settings
    return report_of(
        result.history,
        result.final,
        result.findings,
        seed=settings.seed,
        date=date,
        commit=code_in_use(),
        settings={
            "seconds": settings.seconds,
            "servers": settings.servers,
            "mounts": settings.mounts,
            "workers": settings.workers,
        },
        took_s=round(result.took_s, 1),
        healed=result.healed,
    )


def code_in_use() -> str:
    """The commit of the tree from which this runs, or the version that is installed."""
    if (REPOSITORY / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run(
                ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=True,
            )  # fmt: skip
            return told.stdout.strip()
    with contextlib.suppress(PackageNotFoundError):
        return version("gdah")
    return "unknown"


def parse_kinds(text: str) -> frozenset[str] | str:
    """The faults, or what is wrong with the words."""
    if text == "all":
        return frozenset(words.FAULTS)
    kinds = frozenset(part.strip() for part in text.split(",") if part.strip())
    unknown = kinds - set(words.FAULTS)
    if unknown:
        return f"--faults {', '.join(sorted(unknown))}: choose of {', '.join(words.FAULTS)}"
    return kinds


def code_of(result: Result) -> int:
    rules = {finding.rule for finding in result.findings}
    if rules - {PROVED_NOTHING_RULE}:
        return FOUND
    return PROVED_NOTHING if rules else FOUND_NOTHING


def _worse(one: int, other: int) -> int:
    return max(one, other, key=[FOUND_NOTHING, PROVED_NOTHING, FOUND].index)


def _folder(keep: str | None, number: int, rounds: int) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="gdah-drill-"))
    folder = Path(keep).absolute() / (f"round-{number + 1}" if rounds > 1 else "")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
