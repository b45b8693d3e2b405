"""What a check of a replica finds: words for people and programs. Vocabulary only.

A finding has a name (`log.digest`, `chunk.missing`), what is wrong, the next step, and what would mend it. A NOTE is
no damage: it is said because somebody who looks for trouble wants to know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Mending = Literal["chunks", "tree", "log", "database", "mirror", "cache", "nothing"]
"""chunks: fetched again. tree: the rows are a function of the log. log: another copy of it is needed. database: SQLite
cannot read it. mirror: fetched anew by the mount. cache: dropped, fetched when it is read. nothing: by a person."""

SHOWN_MAX = 50
"""Findings of one name that are kept; the others are counted."""

NEXT: dict[Mending, str] = {
    "chunks": "--repair --peer URL fetches it from another server",
    "tree": "--repair folds the tree anew from the log",
    "log": "--repair --peer URL takes the log from another server and puts on top what only this one has",
    "database": "--repair --peer URL sets the database aside and takes everything from another server",
    "mirror": "--repair makes an empty mirror that keeps what is pending; the next mount fetches the rest",
    "cache": "--repair removes it; it is fetched again when it is read",
    "nothing": "",
}


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    what: str
    mending: Mending
    is_note: bool = False
    next: str = ""

    def line(self) -> str:
        step = self.next or NEXT[self.mending]
        mark = "note" if self.is_note else "DAMAGE"
        return f"{mark} {self.name}: {self.what}" + (f"; {step}" if step else "")


@dataclass
class Report:
    """`facts`: figures of what was looked at, for people."""

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    instead: dict[Mending, Mending] = field(default_factory=dict)
    """Of a mount's mirror: what would take a log or a peer there is mended in another way."""

    def damage(self, name: str, what: str, mending: Mending, step: str = "") -> None:
        self._add(Finding(name, what, self.instead.get(mending, mending), next=step))

    def note(self, name: str, what: str, step: str = "") -> None:
        self._add(Finding(name, what, "nothing", is_note=True, next=step))

    def _add(self, finding: Finding) -> None:
        count = self.counts.get(finding.name, 0) + 1
        self.counts[finding.name] = count
        if count <= SHOWN_MAX:
            self.findings.append(finding)

    @property
    def damages(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.is_note]

    @property
    def sound(self) -> bool:
        return not self.damages

    def needs(self, *mendings: Mending) -> bool:
        return any(finding.mending in mendings for finding in self.damages)

    def lines(self) -> list[str]:
        lines = [finding.line() for finding in self.findings]
        lines += [f"and {count - SHOWN_MAX} more of {name}" for name, count in self.counts.items() if count > SHOWN_MAX]
        return lines

    def as_dict(self) -> dict[str, Any]:
        return {
            "sound": self.sound,
            "findings": [
                {"name": f.name, "what": f.what, "note": f.is_note, "mending": f.mending} for f in self.findings
            ],
            "counts": self.counts,
            **self.facts,
        }
