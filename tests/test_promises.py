"""Every promise of docs/SEMANTICS.md (what is set in bold) is quoted by a test that proves it."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
SEMANTICS = TESTS.parent / "docs" / "SEMANTICS.md"


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_every_promise_is_quoted_by_a_test() -> None:
    promises = re.findall(r"\*\*(.+?)\*\*", flat(SEMANTICS.read_text(encoding="utf-8")))
    assert len(promises) > 15
    quoted = flat(" ".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")))
    assert [promise for promise in promises if promise.rstrip(".:") not in quoted] == []


def test_every_call_of_the_table_names_tests_that_there_are() -> None:
    text = SEMANTICS.read_text(encoding="utf-8")
    rows = text.partition("## Every call")[2].partition("\n## ")[0].splitlines()
    rows = [row for row in rows if row.startswith("| ")][1:]
    rows = [row for row in rows if not row.startswith("| ---")]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", row)
        assert named, f"no test in: {row[:60]}"
        for path, name in named:
            assert f"def {name}(" in (TESTS / path).read_text(encoding="utf-8"), f"{path} has no {name}"
