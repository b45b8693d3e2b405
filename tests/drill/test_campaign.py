"""The table of a campaign adds up what its drills told, also of those that did not end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gdah_drill.report import report_of
from tests.drill.campaign import LAYOUTS, layout_of, parse_seeds, reports_in, spans, table
from tests.drill.endings import final_of, run_history


def told(tmp_path: Path, seed: int, **known: Any) -> dict[str, Any]:
    root = tmp_path / f"root-{seed}"
    root.mkdir()
    history = run_history(root, steps=60)
    history.fault("kill", "server-a", began=1.0, ended=2.0)
    history.fault("cut", "one<>server-a", began=1.0, ended=2.0, happened=False, note="not done")
    settings = {"seconds": 5.0, "servers": 2, "mounts": 2, "workers": 1}
    healed = {"bytes": 1_500_000, "entries": 3, "chunks": 1, "cached_chunks": 0}
    known = {"date": "2026-01-01T00:00:00+00:00", "commit": "abc", "took_s": 36.0, "findings": [], **known}
    return report_of(history, final_of(root, history), seed=seed, settings=settings, healed=healed, **known)


def test_the_table_adds_up_what_the_drills_told(tmp_path: Path) -> None:
    reports = [told(tmp_path, seed) for seed in (1, 2, 4)]
    for report in reports:
        (tmp_path / f"seed-{report['seed']}.json").write_text(json.dumps(report) + "\n")
    (tmp_path / "seed-9.json").write_text(
        json.dumps({"seed": 9, "settings": {"servers": 3, "mounts": 4}, "ended": None}) + "\n"
    )
    text = table(reports_in(tmp_path))
    acknowledged = sum(report["acknowledged"] for report in reports)
    assert acknowledged > 100
    (row,) = (line for line in text.splitlines() if line.startswith("| all |"))
    assert row.startswith(f"| all | 3 | 0.03 | 3 | {acknowledged:,} | 0 | 0 | ")
    assert row.endswith(" | 4.5 MB |")
    assert "commit abc, seeds 1..2, 4:" in text
    assert "Faults by kind: kill 3, cut 0." in text
    assert "| 9 | 3, 4 | no report, exit code None |" in text


def test_seeds_and_layouts() -> None:
    assert list(parse_seeds("3..5")) == [3, 4, 5]
    assert list(parse_seeds("7")) == [7]
    assert spans([1, 2, 3, 7, 9, 10]) == "1..3, 7, 9..10"
    assert {layout_of(seed, None, None) for seed in range(len(LAYOUTS))} == set(LAYOUTS)
    assert layout_of(1, 2, 4) == (2, 4)
