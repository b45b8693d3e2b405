"""Programs of two servers and two clients that random ones take long to meet; each shows a mutation of `mutations`."""

from __future__ import annotations

from tests.model.world import Program

APART = ("cut", 0, 1)
IN_DOUBT: Program = (
    APART,
    ("do", 0, 0, "answer", "create", 0, 0, 1),
    ("do", 1, 1, "none", "create", 0, 0, 4),
    ("push", 0, 1, 1000, "none"),
)
BEFORE_THE_BARRIER: Program = (
    APART,
    ("do", 1, 1, "none", "create", 0, 0, 4),
    ("heal", 0, 1),
    ("do", 0, 0, "none", "create", 0, 0, 4),
)
ALIKE: Program = (
    ("do", 0, 0, "none", "create", 0, 0, 4),
    ("pull", 1, 1, 1000),
    APART,
    ("do", 1, 1, "none", "write", 0, 1),
    ("issue", 0, "write", 0, 1),
)
ALIKE_THEN_REMOVED: Program = (*ALIKE, ("issue", 0, "unlink", 0))
ALIKE_THEN_WRITTEN: Program = (
    *ALIKE,
    ("heal", 0, 1),
    ("meet", 0, 1),
    ("push", 0, 0, 1000, "none"),
    ("do", 0, 0, "none", "write", 0, 4),
)
SEEN_BY_BOTH: Program = (("do", 0, 0, "none", "create", 0, 0, 4), ("pull", 1, 1, 1000))
FORKED_THEN_LINKED: Program = (
    *SEEN_BY_BOTH,
    ("issue", 0, "write", 0, 4),
    ("issue", 1, "write", 0, 4),
    ("issue", 1, "rename", 0, 0, 2),
    ("push", 0, 0, 1000, "none"),
    ("push", 1, 1, 1, "none"),
    ("pull", 0, 0, 1000),
    ("do", 0, 0, "none", "link", 0, 0, 1),
    ("push", 1, 1, 1000, "none"),
)
WRITTEN_TWICE: Program = (
    *SEEN_BY_BOTH,
    ("issue", 0, "write", 0, 4),
    ("issue", 1, "write", 0, 4),
    ("issue", 1, "write", 0, 4),
)
WRITTEN_TWICE_AND_EXCHANGED: Program = (
    *SEEN_BY_BOTH,
    ("issue", 0, "write", 0, 4),
    ("issue", 1, "write", 0, 4),
    ("issue", 1, "swap_save", 0, 0, 4),
    ("push", 0, 0, 1000, "none"),
    ("push", 1, 1, 1000, "none"),
)
MOVED_AND_REMOVED: Program = (
    *SEEN_BY_BOTH,
    ("issue", 1, "unlink", 0),
    ("do", 0, 0, "none", "rename", 0, 0, 2),
    ("push", 1, 1, 1000, "none"),
)
MADE_TWICE_AND_REMOVED: Program = (
    ("issue", 0, "mkdir", 0, 1),
    ("issue", 0, "rmdir", 0),
    ("issue", 1, "mkdir", 0, 1),
    ("push", 0, 0, 1, "none"),
    ("push", 1, 1, 1000, "none"),
    ("push", 0, 0, 1000, "none"),
)
MADE_TWICE_MOVED_AND_REMOVED: Program = (
    ("issue", 0, "mkdir", 0, 1),
    ("issue", 0, "rename", 0, 0, 2),
    ("issue", 0, "rmdir", 0),
    ("push", 0, 0, 1, "none"),
    ("issue", 1, "mkdir", 0, 1),
    ("push", 1, 1, 1000, "none"),
    ("push", 0, 0, 1000, "none"),
)
REVIVED_INTO_A_CYCLE: Program = (
    ("do", 0, 0, "none", "mkdir", 0, 0),
    ("do", 0, 0, "none", "mkdir", 0, 2),
    ("pull", 1, 1, 1000),
    ("issue", 1, "rename", 0, 2, 1),
    ("do", 0, 0, "none", "rmdir", 1),
    ("do", 0, 0, "none", "rename", 0, 0, 2),
    ("push", 1, 1, 1000, "none"),
)
SLOW_CLOCK: Program = (
    ("skew", 1, -4000),
    APART,
    ("do", 0, 0, "none", "create", 0, 0, 4),
    ("do", 0, 1, "none", "write", 0, 4),
)
