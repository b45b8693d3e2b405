"""What is there when a drill has healed, as the runner found it, and what a checker says of it. Words only.

The runner reads trees through the mounts and through the servers' API, and rows by sqlite3 from the databases of
servers that were stopped for it. Nothing here asks the product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Tree = Mapping[str, bytes | str | None]
"""Relative path to the bytes of a file, the target of a symlink as text, None for a folder: as of `Hands.tree`."""
Row = Mapping[str, Any]
"""One row of a table by the names of its columns; `operation` of a row of `operations` as its JSON text."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that took part until the end. (One that was retired is not told of here.)"""

    name: str
    tree: Tree
    status: Mapping[str, Any]
    """`GET /status` after quiescence."""
    operations: Sequence[Row]
    """Tables of the volume's database, as they are: id, clock, server, author, type, operation ..."""
    versions: Sequence[Row]
    """version, node."""
    nodes: Sequence[Row]
    """id, kind, version."""
    links: Sequence[Row]
    """id, node, parent, name, live."""
    chunks: Mapping[str, bytes]
    """The bytes of each chunk that match its name, by that name in hex; a mapping that reads when asked will do."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    name: str
    tree: Tree
    status: Mapping[str, Any]
    conflicts: Sequence[str] = ()
    """Paths of conflict copies, as `gdah conflicts` or the status tells them."""


@dataclass(frozen=True, kw_only=True)
class FinalState:
    servers: Sequence[Server]
    mounts: Sequence[Mount]
    tracebacks: Mapping[str, str] = field(default_factory=dict)
    """Name of a node to the first traceback in its log."""
    deadline_s: float = 1.0
    """The longest that an operation may take while a server can be reached by its mount."""
    alone_deadline_s: float = 1.0
    """The same while no server can be reached."""
    bandwidth_bytes_per_s: float = 20e6
    """What an operation that moves bytes is given besides, where no link was made slower."""
    planned: Mapping[str, int] = field(default_factory=dict)
    """Faults by name that the plan had, and `operations`: how many at least."""
    unreadable: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By mount: what it showed and could not give while every server was in reach, path to errno."""
    not_quiet: str = ""
    """Why the cluster did not come to rest after healing, if it did not."""

    def trees(self) -> list[tuple[str, Tree]]:
        """Of every replica by its name: servers first."""
        servers = [(server.name, server.tree) for server in self.servers]
        return servers + [(mount.name, mount.tree) for mount in self.mounts]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that must not be. `rule` is one of RULES."""

    rule: str
    what: str
    operations: tuple[int, ...] = ()
    """Numbers of the operations that tell of it."""

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


RULES = {
    "lost": "an acknowledged write is neither there, nor replaced by one who saw it, nor removed by one who saw it",
    "history": "what was replaced or removed by one who saw it is not in history or trash any more",
    "wrong": "a file or an answer is not what it can be by the operations that were made",
    "mixed": "content that mixes two writes, or is a part of one that was not cut off",
    "unequal": "replicas disagree",
    "deadline": "an operation took longer than it may",
    "error": "a program was told an error that it must not see",
    "deleted": "something is gone that no program removed",
    "own-conflict": "a client that worked alone met a conflict copy",
    "conflicts": "more conflict copies than conflicting writes",
    "fsync": "an fsync that returned did not survive",
    "exclusive": "two exclusive creates of one name won while the servers saw each other",
    "restless": "the cluster did not come to rest after healing",
    "traceback": "a process logged a traceback",
    "proved-nothing": "the drill did not put to the test what it set out to",
}
