"""The drill proves that it would see: each breakage of `sabotages` in a drill that has to catch it.

    python -m tests.drill.sabotage                  all of them, some 20 s each; a table in the end
    python -m tests.drill.sabotage skip_an_fsync    one
    python -m tests.drill.sabotage --whole [NAME]   the same drills with nothing broken: nothing may be found

Each has a small plan and a seed. What counts as caught is a finding of a rule about content or names, not that a call
was slow, that nothing came to rest (a breakage that breaks something else does that, too) or that the drill proved too
little.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from gdah_drill import history as words
from gdah_drill import runner
from gdah_drill.final import Finding
from gdah_drill.generator import Profile
from gdah_drill.runner import Drill, Result, Settings
from gdah_drill.scenes import Scene, Step

RULES = ("lost", "history", "wrong", "mixed", "unequal", "deleted", "own-conflict", "fsync", "error")
ROOT = Path(__file__).parents[2]
"""What the processes of a broken drill have to import from."""
SERVERS = ("server-a", "server-b")
REST_S = 60.0
"""A cluster that was broken may never come to rest; whole ones of this size take 2 s on an idle machine."""


@dataclass(frozen=True)
class Case:
    name: str
    scenes: tuple[Scene, ...]
    seconds: float
    disk: str = ""
    """The node whose disk has to fail."""
    profile: Profile = field(default_factory=Profile)

    def settings(self, home: Path, *, broken: bool) -> Settings:
        kinds = frozenset(step.kind for scene in self.scenes for step in scene.steps)
        return Settings(
            home=home,
            seed=self.seed,
            seconds=self.seconds,
            workers=4,
            kinds=kinds,
            sabotage=f"tests.drill.sabotages:{self.name}" if broken else None,
            profile=self.profile,
            scenes=self.scenes,
        )

    @property
    def seed(self) -> int:
        return seed_with_disks(*filter(None, [self.disk]))


def seed_with_disks(*nodes: str) -> int:
    """The first seed with which these nodes get disks that can fail."""
    for seed in range(1, 100):
        settings = Settings(home=Path(), seed=seed, kinds=frozenset({words.FULL}))
        if set(nodes) <= set(Drill._disks(SimpleNamespace(settings=settings))):  # type: ignore[arg-type]
            return seed
    raise AssertionError(f"no seed gives {nodes} disks")


def scene(at_s: float, *steps: Step) -> Scene:
    return Scene("sabotage", steps, at_s)


def both(kind: str, for_s: float) -> list[Step]:
    return [Step(kind, server, 0.0, for_s) for server in SERVERS]


def parted(for_s: float) -> list[Step]:
    """Two sides, a server and a mount on each."""
    links = ("server-a<>server-b", "one<>server-b", "two<>server-a")
    return [Step(words.CUT, link, 0.0, for_s) for link in links]


LARGE = Profile(shared_share=0.1, large_share=0.3)
CASES = {
    case.name: case
    for case in (
        Case("drop_an_acknowledged_operation", (scene(1, Step(words.KILL, "server-a", 0, 1)),), 6),
        Case(
            "skip_an_fsync",
            tuple(
                scene(at, *both(words.STOP, 4.0), Step(words.POWER, "one", 2.0, 0.5, {"seed": None})) for at in (2, 10)
            ),
            16,
            disk="one",
            profile=Profile(fsync_share=0.7, shared_share=0.1, large_share=0.0),
        ),
        Case("apply_in_order_of_arrival", (scene(1, *parted(5)),), 9, profile=Profile(shared_share=0.7)),
        Case(
            "coalesce_a_sent_operation",
            tuple(scene(at, *both(words.STOP, 2.5)) for at in (1, 5, 9, 13)),
            17,
            profile=Profile(shared_share=0.5),
        ),
        Case("evict_dirty_data", (scene(1, *both(words.STOP, 4)),), 7, profile=LARGE),
        Case(
            "ignore_a_failed_write",
            (scene(2, Step(words.FULL, "one", 0, 3)), scene(7, Step(words.FULL, "one", 0, 3))),
            12,
            disk="one",
            profile=LARGE,
        ),
        Case("reset_a_counter", (scene(2, Step(words.KILL, "one", 0, 0.5)),), 6),
        Case("delete_on_absence", (scene(3, *both(words.STOP, 3)), scene(8, *both(words.KILL, 3))), 14),
        Case("forget_a_tombstone", (scene(4, Step(words.KILL, "server-a", 0, 0.5)),), 7),
        Case("swap_two_chunks", (scene(1, Step(words.KILL, "server-b", 0, 1)),), 8, profile=LARGE),
    )
}


def caught(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.rule in RULES]


def run(case: Case, *, broken: bool = True) -> Result:
    with tempfile.TemporaryDirectory(prefix="gdah-sabotage-") as name:
        return Drill(case.settings(Path(name) / "drill", broken=broken)).run()


def main() -> int:
    runner.REST_S = REST_S
    os.environ["PYTHONPATH"] = str(ROOT)
    parser = argparse.ArgumentParser(prog="python -m tests.drill.sabotage", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--whole", action="store_true", help="with nothing broken")
    options = parser.parse_args()
    failed = 0
    for name in options.names or CASES:
        result = run(CASES[name], broken=not options.whole)
        found = caught(result.findings)
        failed += bool(found) == options.whole
        rules = ", ".join(f"{rule} {count}" for rule, count in Counter(finding.rule for finding in found).items())
        nothing = "nothing found" if options.whole else "NOT CAUGHT"
        print(f"{name:32} seed {CASES[name].seed}: {rules or nothing}")
        for finding in found[:3]:
            print(f"    {finding}"[:300])
        print(f"    {len(result.history.operations)} operations, {result.took_s:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
