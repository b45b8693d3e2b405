"""Programs of the differential machine: made step by step from what Hypothesis draws, or replayed from a list of steps;
run on both sides, compared, and made shorter when they show a difference.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.differential import compare
from tests.differential.compare import Snapshot
from tests.differential.steps import GENES, HANDS, PLAN_GENES, Genes, Plan, State, Step, choose
from tests.differential.world import Closed, Difference, World

LOOK_ONE_IN = 3
FULL_LOOK_EVERY = 12
STEPS_OF_A_PROGRAM = 80

BEGINNING: list[Step] = [
    ("r", "mkdir", "d", 0o777),
    ("r", "open", 0, "a", "RDWR|CREAT", 0o666),
    ("r", "write", 0, 1, 5000),
    ("r", "open", 1, "d/b", "RDWR|CREAT", 0o666),
    ("r", "mkdir", "d/c", 0o755),
    ("r", "symlink", "d/b", "c"),
    ("r", "close", 0),
]
"""So that there is something to work with."""


@dataclass
class Counts:
    steps: int = 0
    looks: int = 0
    turns: int = 0
    bursts: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    permitted: Counter[str] = field(default_factory=Counter)


class Run:
    """One program. `trace`: its steps so far, to replay it. Looking at everything is a step, too, since it changes what
    the kernel keeps."""

    def __init__(self, world: World, counts: Counts | None = None, trace: list[Step] | None = None) -> None:
        self.world = world
        self.counts = counts or Counts()
        self.trace = [] if trace is None else trace
        world.begin()
        self.state = State(world.plain / world.inside)
        self._before: tuple[Snapshot, Snapshot] | None = None
        self._mapped = False

    def step(self, step: Step) -> None:
        """Raises Difference."""
        self.trace.append(step)
        if step[0] == "fault":
            self.counts.calls[f"fault: {step[1]}"] += 1
            self._closed(self.world.happen(*step[1:]))
        elif step[0] == "burst":
            self._burst(step)
        elif step[0] == "look":
            self.look(step[1])
        else:
            self._call(step)

    def _call(self, step: Step) -> None:
        hand, name, *args = step
        self.counts.steps += 1
        if HANDS[hand].mount != self.world.current:
            self.counts.turns += 1
            self._closed(self.world.turn_to(HANDS[hand].mount))
        ours, plain = self.world.both(hand, name, *args)
        kind = ours[0] if ours[0] != "error" else ours[1]
        self.counts.calls[f"{name}: {kind}"] += 1
        allowed = compare.agree(step, ours, plain)
        if allowed is None:
            raise Difference(f"{step!r}: {_short(ours)} on the mount, {_short(plain)} in the folder")
        if allowed:
            self.counts.permitted[allowed] += 1
            if ours[0] == "ok" or plain[0] == "ok":
                self.world.both(hand, "close_all")
                self._closed({hand: None})
        self._mapped = self._mapped or name == "mmap"
        self.state.note(step, ours)

    def _burst(self, step: Step) -> None:
        parts = {hand: list(steps) for hand, steps in step[1:] if hand in self.world.hands}
        if self.world.down:
            parts = {hand: steps for hand, steps in parts.items() if HANDS[hand].mount == self.world.current}
        self.counts.bursts += 1
        self._closed(self.world.prepare_burst(list(parts)))
        for hand, (ours, plain) in self.world.all_at_once(parts).items():
            self.counts.steps += len(parts[hand])
            for one, mine, theirs in zip(parts[hand], ours, plain, strict=True):
                self.counts.calls[f"{one[0]}: {mine[0] if mine[0] != 'error' else mine[1]}"] += 1
                if compare.agree((hand, *one), mine, theirs) is None:
                    raise Difference(
                        f"at once, {hand} {one!r}: {_short(mine)} on the mount, {_short(theirs)} in the folder"
                    )
        self._closed(self.world.end_burst(list(parts)))

    def _closed(self, closed: Closed) -> None:
        for hand, slots in closed.items():
            for slot in list(self.state.slots[hand]) if slots is None else slots:
                self.state.slots[hand].pop(slot, None)
                self.state.maps[hand].discard(slot)

    def look(self, content: bool) -> None:
        """Stores through a map move times when they are written on a mount, and at once in a folder."""
        self.counts.looks += 1
        ours, plain = self.world.look(self.world.current, content)
        found = compare.trees(ours, plain, self._before, times=not self._mapped)
        self._before = ours, plain
        if found:
            raise Difference("\n".join(found[:10]))

    def finish(self) -> None:
        """Everything closed, the servers back: both mounts show what the folder shows."""
        self.look(True)
        self.world.restore()
        seen = []
        for mount in ("A", "B") if self.world.current == "B" else ("B", "A"):
            self._closed(self.world.turn_to(mount))
            self.look(True)
            seen.append(self.last)
        if found := compare.mounts(*seen):
            raise Difference("\n".join(found[:10]))

    @property
    def last(self) -> Snapshot:
        """What the last look saw on the mount."""
        assert self._before is not None
        return self._before[0]


def replay(world: World, program: Iterable[Step]) -> None:
    """Raises Difference. Steps of users that this process cannot be are left out."""
    run = Run(world)
    for step in program:
        if step[0] in ("fault", "look", "burst") or step[0] in world.hands:
            run.step(step)
    run.finish()


def grow(run: Run, genes: Sequence[bytes], plan: Plan) -> None:
    """Choose and make the steps of one program. Raises Difference."""
    for step in BEGINNING:
        run.step(step)
    for number, data in enumerate(genes, 1):
        found = Genes(stirred(data, run.world.programs, number))
        run.step(choose(found, run.state, plan))
        if found.byte() % LOOK_ONE_IN == 0:
            run.step(("look", number % FULL_LOOK_EVERY == 0))
    run.finish()


class Found(BaseException):
    """A difference, to be shown and shortened. No exception that Hypothesis would try again."""

    def __init__(self, program: list[Step], difference: Difference) -> None:
        super().__init__(str(difference))
        self.program = program


class Broken(BaseException):
    """The machine cannot go on."""


class Enough(BaseException):
    """All steps are made."""


def drive(
    world: World,
    counts: Counts,
    steps: int,
    *,
    seed: int,
    hands: Sequence[str],
    faults: bool,
    differs: Callable[[list[Step], Difference], None],
    progress: Callable[[], None] = lambda: None,
    steps_of_a_program: int = STEPS_OF_A_PROGRAM,
    first: int = 1,
) -> None:
    """Programs that Hypothesis draws, from number `first` on, until so many steps were made. `differs` is told of each
    difference."""
    gene = st.binary(min_size=GENES, max_size=GENES)
    genes = st.lists(gene, min_size=steps_of_a_program, max_size=steps_of_a_program)

    @hypothesis.seed(seed)
    @settings(
        max_examples=10**9,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=PLAN_GENES, max_size=PLAN_GENES), genes)
    def one_program(words: bytes, drawn: list[bytes]) -> None:
        if counts.steps >= steps:
            raise Enough
        if world.programs + 1 < first:
            world.programs += 1
            return
        trace: list[Step] = []
        try:
            plan = Plan.of(Genes(stirred(words, world.programs, 0)), hands=hands, faults=faults)
            grow(Run(world, counts, trace), drawn, plan)
        except Difference as difference:
            differs(trace, difference)
        except Exception as error:
            raise Broken(f"the machine itself: {error!r}") from error
        progress()

    with contextlib.suppress(Enough):
        one_program()


def stirred(data: bytes, program: int, number: int) -> bytes:
    """Hypothesis likes zeros, and to say things twice. Nothing is made smaller by it here (see `shorten`), so every
    step of a campaign may be another one."""
    return hashlib.blake2b(
        data, digest_size=len(data), salt=f"{program}".encode(), person=f"{number}".encode()
    ).digest()


def shorten(program: Sequence[Step], fails: Callable[[list[Step]], bool]) -> list[Step]:
    """Leave out what is not needed for the difference: halves first, then single steps, until nothing more goes."""
    current = list(program)
    size = max(1, len(current) // 2)
    while size:
        start, shorter = 0, False
        while start < len(current):
            trial = current[:start] + current[start + size :]
            if fails(trial):
                current, shorter = trial, True
            else:
                start += size
        if not shorter or size > 1:
            size //= 2
    return current


def lines(program: Iterable[Step]) -> Iterator[str]:
    """To be pasted into a test."""
    for step in program:
        yield f"    {step!r},"


def _short(answer: compare.Answer) -> str:
    return f"{answer[0]} {answer[1]!r:.300}" if answer[1] is not None else answer[0]
