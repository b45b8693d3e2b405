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
