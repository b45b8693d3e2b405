"""What may go wrong in a drill, singly and combined, and the plan of when: pure, drawn from a seed.

A scene is a few faults that belong together. What it may destroy is bounded here: only one server of a drill (the
`victim`) and one mount ever lose data or get a disk that fails, so another copy of everything is always whole.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gdah_drill import history as words

DAY_S = 86_400.0


@dataclass(frozen=True)
class Step:
    """`kind` is a word of the history, or "terminate" for the one of both that fits the target."""

    kind: str
    target: str
    after_s: float = 0.0
    for_s: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    name: str
    steps: tuple[Step, ...]
    at_s: float = 0.0

    @property
    def lasts_s(self) -> float:
        return max(step.after_s + step.for_s for step in self.steps)


@dataclass(frozen=True)
class Layout:
    """The nodes of a drill and what they can do. `kinds`: the words of the faults that are wanted."""

    servers: Sequence[str]
    mounts: Sequence[str]
    kinds: frozenset[str] = frozenset(words.FAULTS)
    disks: frozenset[str] = frozenset()
    can_retire: bool = False
    can_scrub: bool = False

    @property
    def nodes(self) -> list[str]:
        return [*self.servers, *self.mounts]


class Author:
    """Draws scenes. Each `make_` gives the steps of one, or none where the layout does not allow it."""

    def __init__(self, seed: int, layout: Layout) -> None:
        self.chance = random.Random(seed)
        self.layout = layout
        on_disk = [server for server in layout.servers if server in layout.disks]
        self.victim = on_disk[0] if on_disk else self.chance.choice(list(layout.servers))

    # --- processes

    def kill_server(self) -> list[Step]:
        return [Step(words.KILL, self._one(self.layout.servers), for_s=self._s(0.2, 4))]

    def kill_mount(self) -> list[Step]:
        return [Step(words.KILL, self._one(self.layout.mounts), for_s=self._s(0, 1))]

    def kill_servers(self) -> list[Step]:
        return [Step(words.KILL, server, self._s(0, 0.3), self._s(0.5, 3)) for server in self.layout.servers]

    def kill_all(self) -> list[Step]:
        return [Step(words.KILL, node, self._s(0, 0.2), self._s(0.3, 2)) for node in self.layout.nodes]

    def stop_server(self) -> list[Step]:
        return [Step(words.STOP, self._one(self.layout.servers), for_s=self._s(0.2, 4))]

    def stop_mount(self) -> list[Step]:
        return [Step(words.STOP, self._one(self.layout.mounts), for_s=self._s(0.2, 4))]

    def stop_servers(self) -> list[Step]:
        return [Step(words.STOP, server, self._s(0, 0.2), self._s(0.5, 3)) for server in self.layout.servers]

    def stop_all(self) -> list[Step]:
        return [Step(words.STOP, node, self._s(0, 0.2), self._s(0.3, 2)) for node in self.layout.nodes]

    def end_server(self) -> list[Step]:
        return [Step(words.SHUTDOWN, self._one(self.layout.servers), for_s=self._s(0, 2))]

    def end_mount(self) -> list[Step]:
        return [Step(words.UNMOUNT, self._one(self.layout.mounts), for_s=self._s(0, 1))]

    def restart_all(self) -> list[Step]:
        servers = [Step(words.SHUTDOWN, server, self._s(0, 0.5), 1.0) for server in self.layout.servers]
        return servers + [Step(words.UNMOUNT, mount, self._s(0, 0.5), 0.5) for mount in self.layout.mounts]

    # --- processes while there is a backlog

    def kill_mount_alone(self) -> list[Step]:
        """With no server in reach: what it accepted is on its disk only."""
        mount = self._one(self.layout.mounts)
        kill = Step(words.KILL, mount, 1.5, self._s(0, 1))
        if self._coin():
            return [*self._away(mount, 3.0), kill]
        return [*(Step(words.STOP, server, 0, 3.0) for server in self.layout.servers), kill]

    def kill_all_servers_and_mount(self) -> list[Step]:
        kills = [Step(words.KILL, server, 0, 3.0) for server in self.layout.servers]
        return [*kills, Step(words.KILL, self._one(self.layout.mounts), 1.5, self._s(0, 1))]

    def end_mount_alone(self) -> list[Step]:
        mount = self._one(self.layout.mounts)
        return [*self._away(mount, 3.0), Step(words.UNMOUNT, mount, 1.0, 0.5)]

    def end_server_parted(self) -> list[Step]:
        """A shutdown with a backlog: its peer has not heard of what it took last."""
        one, other = self._two_servers()
        return [Step(words.CUT, f"{one}<>{other}", 0, 3.0), Step(words.SHUTDOWN, one, 1.0, self._s(0, 1))]

    def kill_in_turn(self) -> list[Step]:
        """One server dies, comes back, and the other dies at that moment."""
        one, other = self._two_servers()
        back = self._s(0.5, 2)
        return [Step(words.KILL, one, 0, back), Step(words.KILL, other, back + self._s(0, 0.4), self._s(0.5, 2))]

    # --- cables

    def cut(self) -> list[Step]:
        one, other = self._link()
        return [Step(words.CUT, f"{one}<>{other}", for_s=self._s(0.5, 5))]

    def cut_one_way(self) -> list[Step]:
        one, other = self._link()
        return [Step(words.CUT, f"{one}>{other}", for_s=self._s(0.5, 5))]

    def isolate(self) -> list[Step]:
        return self._away(self._one(self.layout.mounts), self._s(1, 4))

    def split(self) -> list[Step]:
        """Two sides, a server and a part of the mounts on each: both go on, and conflict."""
        lasts = self._s(2, 5)
        servers, mounts = list(self.layout.servers), list(self.layout.mounts)
        self.chance.shuffle(servers)
        here, there = servers[:1], servers[1:]
        left, right = mounts[::2], mounts[1::2]
        parted = [(a, b) for a in here for b in there]
        parted += [(mount, server) for mount in left for server in there]
        parted += [(mount, server) for mount in right for server in here]
        return [Step(words.CUT, f"{a}<>{b}", self._s(0, 0.2), lasts) for a, b in parted]

    def slow(self) -> list[Step]:
        one, other = self._link()
        return [Step(words.SLOW, f"{one}<>{other}", 0, self._s(1, 5), {"delay_s": round(self._s(0.01, 0.4), 3)})]

    def drip(self) -> list[Step]:
        one, other = self._link()
        speed = int(10 ** self._s(1.5, 4.5))
        return [Step(words.DRIP, f"{one}<>{other}", 0, self._s(1, 5), {"bytes_per_s": speed})]

    def lost_ack(self) -> list[Step]:
        one, other = self._link()
        return [Step(words.LOST_ACK, f"{one}<>{other}", 0, 0, {"for_s": round(self._s(0.1, 0.5), 2)})]

    def torn(self) -> list[Step]:
        one, other = self._link()
        small = self._coin()
        after = self.chance.randrange(1, 2_000) if small else self.chance.randrange(50_000, 1_500_000)
        way = self.chance.choice(("out", "in"))
        return [Step(words.TORN, f"{one}<>{other}", 0, 0, {"after_bytes": after, "way": way, "for_s": 6.0})]

    # --- clocks, disks, data

    def clock(self) -> list[Step]:
        by = self.chance.choice((1, -1)) * self.chance.choice((90.0, DAY_S, 3 * DAY_S, 20 * DAY_S))
        return [Step(words.CLOCK, self._one(self.layout.nodes), 0, self._s(1, 6), {"by_s": by})]

    def full(self) -> list[Step]:
        return self._on_disk(words.FULL)

    def io_error(self) -> list[Step]:
        if not self.layout.disks:
            return []
        target = self._one(sorted(self.layout.disks))
        on = self.chance.choice(("write", "write", "read"))
        files = ("chunks/", "volume.db", "") if target in self.layout.servers else ("dirty/", "mirror.db", "")
        return [Step(words.IO_ERROR, target, 0, self._s(1, 3), {"on": on, "files": self.chance.choice(files)})]

    def fsync_error(self) -> list[Step]:
        return self._on_disk(words.FSYNC_ERROR)

    def power(self) -> list[Step]:
        seed = None if self._coin() else self.chance.randrange(1 << 30)
        return self._on_disk(words.POWER, seed=seed)

    def old_copy(self) -> list[Step]:
        return [Step(words.OLD_COPY, self.victim, 0, 0, {"older_s": round(self._s(1, 4), 1)})]

    def lost_folder(self) -> list[Step]:
        return [Step(words.LOST_FOLDER, self.victim, 0, 0)]

    def rot(self) -> list[Step]:
        target = self._one(self.layout.mounts)
        if self.layout.can_scrub and self._coin():
            target = self.victim
        return [Step(words.ROT, target, 0, 0, {"files": 5, "seed": self.chance.randrange(1 << 30)})]

    def third_server(self) -> list[Step]:
        if not self.layout.can_retire:
            return []
        return [Step(words.PEER_ADDED, "", 0, 0), Step(words.PEER_RETIRED, "", 3.0, 0)]

    # --- drawing

    def _on_disk(self, kind: str, **details: Any) -> list[Step]:
        if not self.layout.disks:
            return []
        return [Step(kind, self._one(sorted(self.layout.disks)), 0, self._s(1, 3), details)]

    def _away(self, mount: str, lasts: float) -> list[Step]:
        return [Step(words.CUT, f"{mount}<>{server}", 0, lasts) for server in self.layout.servers]

    def _link(self) -> tuple[str, str]:
        servers = self.layout.servers
        pairs = list(itertools.permutations(servers, 2))
        pairs += [(mount, server) for mount in self.layout.mounts for server in servers]
        one, other = self.chance.choice(pairs)
        return (one, other) if self._coin() else (other, one)

    def _two_servers(self) -> tuple[str, str]:
        one, other = self.chance.sample(list(self.layout.servers), 2)
        return one, other

    def _one(self, names: Sequence[str]) -> str:
        return self.chance.choice(list(names))

    def _s(self, least: float, most: float) -> float:
        return round(self.chance.uniform(least, most), 2)

    def _coin(self) -> bool:
        return self.chance.random() < 0.5


def deck(author: Author) -> list[Callable[[], list[Step]]]:
    """All scenes; each comes once before any comes again."""
    return [
        getattr(author, name) for name, value in vars(Author).items() if callable(value) and not name.startswith("_")
    ]


def plan(seed: int, seconds: float, layout: Layout) -> list[Scene]:
    """What happens when. Half of the scenes come alone, the others before the last one has ended."""
    author = Author(seed, layout)
    scenes: list[Scene] = []
    at_s = 1.0
    empty_rounds = 0
    while at_s < seconds and empty_rounds < 3:
        cards = deck(author)
        author.chance.shuffle(cards)
        drawn = len(scenes)
        for card in cards:
            steps = tuple(card())
            if not steps or not all(step.kind in layout.kinds for step in steps):
                continue
            scene = Scene(card.__name__, steps, round(at_s, 2))
            scenes.append(scene)
            alone = author.chance.random() < 0.5
            at_s += scene.lasts_s + 1.0 if alone else author.chance.uniform(0.2, 1.5)
            if at_s >= seconds:
                break
        empty_rounds = empty_rounds + 1 if len(scenes) == drawn else 0
    return scenes
