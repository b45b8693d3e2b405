"""The fire drill in short, on real processes and mounts: nothing may be found; and with the product broken, something.

How long calls took is not asked here: other tests run beside it. `gdah drill` asks it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gdah_drill import history as words
from gdah_drill.final import Finding
from gdah_drill.generator import Profile
from gdah_drill.runner import Drill, Settings
from gdah_drill.scenes import Step
from tests.drill.sabotage import CASES, ROOT, both, caught, parted, scene

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.usefixtures("fuse")]

SHORT = (
    scene(1.0, Step(words.KILL, "server-a", 0, 0.5)),
    scene(3.0, Step(words.STOP, "server-b", 0, 0.8), Step(words.SLOW, "one<>server-a", 0, 1.0, {"delay_s": 0.02})),
    scene(5.0, *parted(3.0)),
    scene(9.0, *both(words.STOP, 1.5), Step(words.KILL, "one", 1.0, 0.2)),
    scene(12.0, Step(words.CLOCK, "server-a", 0, 1.0, {"by_s": 86_400.0}), Step(words.UNMOUNT, "two", 0.5, 0.2)),
    scene(14.0, Step(words.SHUTDOWN, "server-b", 0, 0.3)),
)


def but_for_time(findings: list[Finding]) -> list[str]:
    return [str(finding) for finding in findings if finding.rule != "deadline"]


def test_a_short_drill_finds_nothing(tmp_path: Path) -> None:
    kinds = frozenset(step.kind for part in SHORT for step in part.steps)
    settings = Settings(
        home=tmp_path / "drill",
        seed=1,
        seconds=16,
        workers=4,
        kinds=kinds,
        scenes=SHORT,
        profile=Profile(shared_share=0.6),
    )
    result = Drill(settings).run()
    assert but_for_time(result.findings) == []


def test_a_drill_catches_swapped_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = Drill(CASES["swap_two_chunks"].settings(tmp_path / "drill", broken=True)).run()
    assert {"wrong"} <= {finding.rule for finding in caught(result.findings)}
