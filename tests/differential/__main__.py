"""A campaign of the differential machine: `python -m tests.differential --steps 20000 --seed 1`.

Prints the calls and faults by kind. Stops at the first difference, makes its program shorter and prints it, ready to be
pasted into tests/differential/test_found.py. `--replay FILE` runs such a list again.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tempfile
import time
from pathlib import Path

from tests.differential.machine import Counts, Found, drive, lines, replay, shorten
from tests.differential.steps import HANDS, Step
from tests.differential.world import Difference, World, filesystem_of

STEPS_OF_A_PROGRAM = 80
SHORTEN_AT_MOST_S = 900.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=1, help="leave out the programs of this seed before that one")
    parser.add_argument("--calm", action="store_true", help="no faults")
    parser.add_argument("--hands", default=",".join(HANDS), help="who takes part")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="go on after a difference; programs are kept there")
    parser.add_argument("--replay", type=Path, help="a program kept by --all, made shorter if it still differs")
    parser.add_argument("--folder", type=Path, help="where to work; ext4 for the comparison to mean something")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gdah-differential-", dir=options.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)
        print(f"the plain folder is on {filesystem_of(folder)}", flush=True)
        if options.replay:
            return again(folder, [tuple(step) for step in ast.literal_eval(options.replay.read_text())])
        return campaign(folder, options)


def again(folder: Path, program: list[Step]) -> int:
    world = World(folder / "replay")
    try:
        replay(world, program)
    except Difference as difference:
        world.close()
        print_short(folder, Found(program, difference))
        return 1
    finally:
        world.close()
    print("no difference")
    return 0


def campaign(folder: Path, options: argparse.Namespace) -> int:
    counts = Counts()
    started = time.monotonic()
    world = World(folder / "campaign")
    last = 0

    def differs(program: list[Step], difference: Difference) -> None:
        if not options.all:
            raise Found(program, difference)
        keep(options.all, program, difference)

    def progress() -> None:
        nonlocal last
        if counts.steps // 1000 > last:
            last = counts.steps // 1000
            print(f"{counts.steps} steps, {world.programs} programs, {time.monotonic() - started:.0f} s", flush=True)

    try:
        drive(
            world,
            counts,
            options.steps,
            seed=options.seed,
            hands=[hand for hand in options.hands.split(",") if hand in world.hands],
            faults=not options.calm,
            differs=differs,
            progress=progress,
            first=options.first,
        )
        print(table(world, counts, time.monotonic() - started))
        return everywhere(world)
    except Found as found:
        print(table(world, counts, time.monotonic() - started))
        print("DIFFERENCE:", found)
        print(*lines(found.program), sep="\n", flush=True)
        world.close()
        print_short(folder, found)
        return 1
    finally:
        world.close()


def keep(folder: Path, program: list[Step], difference: Difference) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.iterdir())) + 1
    print(f"DIFFERENCE {number}: {difference}", flush=True)
    text = "\n".join([*(f"# {line}" for line in str(difference).splitlines()), "[", *lines(program), "]"])
    (folder / f"{number}.txt").write_text(text)


def everywhere(world: World) -> int:
    """What each server holds is what the plain folder holds."""
    found = world.differences_at_the_end()
    print("both servers hold what the plain folder holds" if not found else "\n".join(found[:20]))
    return len(found) > 0


def print_short(folder: Path, found: Found) -> None:
    worlds: list[World] = []
    end = time.monotonic() + SHORTEN_AT_MOST_S
    said = ""

    def fails(program: list[Step]) -> bool:
        nonlocal said
        if time.monotonic() > end:
            return False
        if not worlds:
            worlds.append(World(folder / f"short-{time.monotonic_ns()}"))
        try:
            replay(worlds[0], program)
        except Difference as difference:
            said = str(difference)
            return True
        except Exception as error:  # a world that cannot go on
            print("while shortening:", repr(error)[:300])
            worlds.pop().close()
        return False

    try:
        if fails(found.program):
            short = shorten(found.program, fails)
            print("SHORT:", said)
            print(*lines(short), sep="\n", flush=True)
        else:
            print("it did not happen again")
    finally:
        for world in worlds:
            world.close()


def table(world: World, counts: Counts, took_s: float) -> str:
    rows = [f"{counts.steps} steps in {world.programs} programs, {took_s:.0f} s"]
    rows += [f"  looks {counts.looks}, turns {counts.turns}, bursts {counts.bursts}"]
    rows += [f"  {count:6} {name}" for name, count in sorted(counts.calls.items())]
    rows += [f"  {count:6} fault: {name}" for name, count in sorted(world.faults.items())]
    rows += [f"  {count:6} permitted: {name}" for name, count in sorted(counts.permitted.items())]
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
