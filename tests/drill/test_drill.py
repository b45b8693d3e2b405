"""The fire drill in short, on real processes and mounts: nothing may be found; and with the product broken, something.

Every kind of fault comes, as a script: scenes that need the same node or link wait for each other, so it is as dense as
it can be. How long calls took is not asked here: other tests run beside it. `gdah drill` asks it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gdah_drill import history as words
from gdah_drill.final import Finding
from gdah_drill.generator import Profile
from gdah_drill.runner import Drill, Settings
from gdah_drill.scenes import Step
from tests.drill.sabotage import CASES, ROOT, both, caught, parted, scene, seed_with_disks

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.usefixtures("fuse")]

CABLES = (
    scene(1.0, Step(words.LOST_ACK, "one<>server-a", 0, 0, {"for_s": 0.3})),
    scene(1.5, Step(words.TORN, "two<>server-a", 0, 0, {"after_bytes": 3000, "way": "out", "for_s": 3.0})),
    scene(2.0, Step(words.DRIP, "one<>server-b", 0, 2.0, {"bytes_per_s": 2000})),
    scene(2.5, Step(words.SLOW, "two<>server-b", 0, 2.0, {"delay_s": 0.03})),
    scene(3.0, Step(words.CLOCK, "server-a", 0, 3.0, {"by_s": 86_400.0})),
)
"""With which the others meet."""
SCRIPT = (
    *CABLES,
    scene(1.0, Step(words.OLD_COPY, "server-b", 0, 0, {"older_s": 0.7})),
    scene(1.2, Step(words.POWER, "two", 0, 0, {"seed": None})),
    scene(2.0, Step(words.KILL, "one", 0, 0.1)),
    scene(3.0, Step(words.LOST_FOLDER, "server-b", 0, 0)),
    scene(3.2, Step(words.ROT, "one", 0, 0, {"files": 3, "seed": 1})),
    scene(4.0, Step(words.FULL, "two", 0, 0.7)),
    scene(4.5, Step(words.PEER_ADDED, "", 0, 0), Step(words.PEER_RETIRED, "", 0.1, 0)),
    scene(6.0, Step(words.FULL, "server-b", 0, 0.7)),
    scene(7.0, Step(words.IO_ERROR, "server-b", 0, 0.5, {"on": "write", "files": "volume.db"})),
    scene(8.0, Step(words.FSYNC_ERROR, "server-b", 0, 0.5)),
    scene(9.0, *parted(2.0)),
    scene(9.5, Step(words.ROT, "server-b", 0, 0, {"files": 3, "seed": 2})),
    scene(10.0, *both(words.STOP, 1.2), Step(words.KILL, "one", 0.8, 0.1)),
    scene(11.0, Step(words.UNMOUNT, "two", 0, 0.1)),
    scene(12.0, Step(words.SHUTDOWN, "server-a", 0, 0.2)),
)


def but_for_time(findings: list[Finding]) -> list[str]:
    return [str(finding) for finding in findings if finding.rule != "deadline"]


def test_a_short_drill_finds_nothing(tmp_path: Path) -> None:
    kinds = frozenset(step.kind for part in SCRIPT for step in part.steps)
    assert kinds == set(words.FAULTS)
    settings = Settings(
        home=tmp_path / "drill",
        seed=seed_with_disks("server-b", "two"),
        seconds=13,
        workers=4,
        kinds=kinds,
        scenes=SCRIPT,
        profile=Profile(shared_share=0.4, fsync_share=0.3, large_share=0.08),
    )
    result = Drill(settings).run()
    assert but_for_time(result.findings) == []


def test_a_drill_catches_swapped_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = Drill(CASES["swap_two_chunks"].settings(tmp_path / "drill", broken=True)).run()
    assert {"wrong"} <= {finding.rule for finding in caught(result.findings)}
