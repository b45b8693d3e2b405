"""A campaign of random programs over the replicated tree: `python -m tests.campaign --programs 20000 --seed 1`.

Program N of a campaign has the seed `--seed` + N, so that a campaign is resumed with `--first N`, split over processes,
and one failure is run again alone with `--programs 1 --first N`. Failing programs are shrunk and printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.model.programs import shrink
from tests.model.trial import Trial, random_trial
from tests.model.world import Counts, Program

ON_DISK_EVERY = 50
"""One program in so many runs on database files that are closed and opened again at every restart."""
SHRINK_AT_MOST = 3


def folder_for(seed: int, scratch: Path) -> Path | None:
    if seed % ON_DISK_EVERY:
        return None
    folder = scratch / str(seed)
    folder.mkdir()
    return folder


def failure_of(trial: Trial) -> str | None:
    try:
        trial.run()
    except Exception as error:
        kind = type(error).__name__
        where = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{kind} at {Path(where.filename).name}:{where.lineno} {str(error).splitlines()[0] if str(error) else ''}"
        )
    return None


def smallest(trial: Trial) -> Program:
    """The same kind of failure with as few steps as go."""
    first = failure_of(Trial(trial.seed, trial.servers, trial.clients, trial.program, deep=True))
    if first is None:
        return trial.program
    kind = first.partition(" at ")[2].partition(" ")[0]

    def fails(program: Program) -> bool:
        found = failure_of(Trial(trial.seed, trial.servers, trial.clients, program))
        return found is not None and kind in found

    return shrink(trial.program, fails)


def campaign(first: int, programs: int, seconds: float | None, report_every: int = 1000) -> int:
    total, failures, done = Counts(), 0, 0
    started = time.monotonic()
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as scratch:
        for seed in range(first, first + programs):
            if seconds is not None and time.monotonic() - started > seconds:
                break
            trial = random_trial(seed, folder_for(seed, Path(scratch)))
            try:
                total.add(trial.run())
            except Exception:
                failures += 1
                print(f"--- seed {seed} fails: {trial.servers} servers, {trial.clients} clients")
                print(traceback.format_exc(limit=-3))
                if failures <= SHRINK_AT_MOST:
                    for step in smallest(trial):
                        print("   ", step)
            done += 1
            if done % report_every == 0:
                print(table(total, done, failures, time.monotonic() - started), flush=True)
    print(table(total, done, failures, time.monotonic() - started))
    return failures


def table(total: Counts, done: int, failures: int, elapsed_s: float) -> str:
    rows = {
        "programs": done,
        **{name: getattr(total, name) for name in total.__dataclass_fields__},
        "failures": failures,
    }
    rate = f"{done / elapsed_s:.0f} programs/s" if elapsed_s else ""
    return " | ".join(f"{name} {count:,}" for name, count in rows.items() if count or name == "failures") + f" | {rate}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="added to the number of each program")
    parser.add_argument("--first", type=int, default=0, help="number of the first program, to go on there")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    options = parser.parse_args()
    return 1 if campaign(options.seed + options.first, options.programs, options.seconds) else 0


if __name__ == "__main__":
    sys.exit(main())
