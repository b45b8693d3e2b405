"""Random programs: a generator with a seed for campaigns, and a Hypothesis strategy over the same steps."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tests.model.world import FAULTS, Program, Step

INTENTS: list[tuple[str, int, tuple[int, int, int]]] = [
    # word, weight, upper bounds of its numbers
    ("create", 16, (3, 3, 5)),
    ("mkdir", 12, (3, 3, 0)),
    ("symlink", 2, (3, 3, 2)),
    ("write", 14, (4, 5, 0)),
    ("save", 8, (3, 3, 5)),
    ("unlink", 10, (4, 0, 0)),
    ("rmdir", 7, (3, 0, 0)),
    ("rename", 20, (6, 4, 3)),
    ("exchange", 10, (6, 6, 0)),
    ("swap_save", 4, (3, 3, 5)),
    ("link", 8, (4, 3, 3)),
    ("chmod", 3, (5, 3, 0)),
    ("open", 4, (2, 4, 0)),
    ("write_handle", 5, (2, 5, 0)),
    ("opendir", 3, (3, 4, 0)),
]
MAKING = ("create", "mkdir", "link")
CONTENT_AT = {"create": 2, "save": 2, "swap_save": 2, "write": 1, "write_handle": 1}
CONTENTS = (1, 1, 2, 2, 3, 4, 4, 0)
SKEWS_US = (0, 0, -40, 40, -400, 400, 7200 * 1_000_000)
STEPS: list[tuple[str, int]] = [
    ("do", 26),
    ("issue", 30),
    ("push", 10),
    ("pull", 7),
    ("sync", 5),
    ("meet", 5),
    ("cut", 5),
    ("heal", 3),
    ("restart", 2),
    ("reboot", 2),
    ("beat", 4),
    ("prune", 1),
    ("snapshot", 2),
    ("tick", 2),
    ("skew", 1),
    ("wipe", 1),
    ("torn", 2),
]
ALWAYS = ("do", "issue", "push")


class Maker:
    """Draws the steps of one program. Each program uses a part of the words only, and sometimes fewer names and
    folders: then what it does use meets more often."""

    def __init__(self, rng: random.Random, servers: int, clients: int) -> None:
        self.rng = rng
        self.servers = servers
        self.clients = clients
        self.intents = rng.sample(INTENTS, rng.randrange(3, len(INTENTS) + 1))
        if not any(word in MAKING for word, _, _ in self.intents):
            self.intents += [entry for entry in INTENTS if entry[0] in MAKING]
        self.steps = [entry for entry in STEPS if entry[0] in ALWAYS or rng.random() < 0.7]
        self.narrow = rng.choice((1, 2, 9, 9))
        self.faulty = rng.choice((0.0, 0.2, 0.5))

    def program(self, length: int) -> Program:
        """Most begin with something that everybody sees: conflicts need a common past."""
        made = [entry for entry in INTENTS if entry[0] in MAKING]
        common: list[Step] = [("do", 0, 0, "none", *self.intent(made)) for _ in range(self.rng.choice((0, 2, 3, 5)))]
        common += [("pull", client, client, 1000) for client in range(self.clients) if common]
        while len(common) < length:
            common += self.episode()
        return common

    def episode(self) -> list[Step]:
        rng = self.rng
        kind = rng.random()
        if kind < 0.1:
            # The same wish of several, each through another server.
            intent = self.intent(self.intents)
            word = rng.choice(("do", "issue"))
            return [self.want(word, client, client, intent) for client in range(self.clients)]
        if kind < 0.2:
            # Everybody for himself, then all together.
            apart = [self.want("issue", rng.randrange(self.clients), 0, self.intent(self.intents)) for _ in range(4)]
            return apart + [("push", client, client, 1000, self.fault()) for client in range(self.clients)]
        if kind < 0.23:
            return self.quiet_time()
        return [self.step()]

    def quiet_time(self) -> list[Step]:
        """Everybody meets, time passes, promises are heard: logs are pruned, and who comes late finds the log gone."""
        pairs: list[Step] = [("meet", a, b) for a in range(self.servers) for b in range(a)]
        steps = [*pairs, *pairs, ("tick", 1000), ("beat",), *pairs, ("beat",)]
        return steps + [("prune", server) for server in range(self.servers) if self.rng.random() < 0.6]

    def want(self, word: str, client: int, server: int, intent: Step) -> Step:
        return (word, client, *intent) if word == "issue" else (word, client, server, self.fault(), *intent)

    def intent(self, among: list[tuple[str, int, tuple[int, int, int]]]) -> Step:
        rng = self.rng
        word, _, bounds = rng.choices(among, [weight for _, weight, _ in among])[0]
        numbers = [rng.randrange(min(bound, self.narrow)) if bound else 0 for bound in bounds]
        if word in CONTENT_AT:
            numbers[CONTENT_AT[word]] = rng.choice(CONTENTS)
        if word in ("create", "mkdir") and rng.random() < 0.1:
            numbers[0] = -rng.randrange(1, 3)
        return (word, *numbers)

    def fault(self) -> str:
        return self.rng.choice(FAULTS) if self.rng.random() < self.faulty else "none"

    def step(self) -> Step:
        rng = self.rng
        word = rng.choices([name for name, _ in self.steps], [weight for _, weight in self.steps])[0]
        client, server, other = rng.randrange(self.clients), rng.randrange(self.servers), rng.randrange(self.servers)
        count = rng.choice((1, 2, 1000))
        match word:
            case "do" | "issue":
                return self.want(word, client, server, self.intent(self.intents))
            case "push":
                return ("push", client, server, count, self.fault())
            case "pull":
                return ("pull", client, server, count)
            case "sync":
                return ("sync", server, other, count)
            case "meet":
                return ("meet", server, other)
            case "cut" | "heal":
                return (word, server, rng.randrange(self.servers + self.clients))
            case "restart" | "prune" | "wipe":
                return (word, server)
            case "reboot":
                return (word, client)
            case "torn":
                return (word, rng.randrange(self.servers + self.clients), server, rng.randrange(2))
            case "snapshot":
                return (word, client, server)
            case "tick":
                return (word, rng.choice((1, 50, 1000)))
            case "skew":
                return (word, server, rng.choice(SKEWS_US))
        return (word,)


@st.composite
def programs(draw: st.DrawFn, servers: int = 2, clients: int = 2) -> Program:
    """The same steps for Hypothesis, an early alternative being a simpler one: some things that everybody sees, then
    episodes as those of `Maker`."""
    making = st.one_of(*(_intent_strategy(word, bounds) for word, _, bounds in INTENTS if word in MAKING))
    made = draw(st.lists(making, min_size=1, max_size=4))
    common: list[Step] = [("do", 0, 0, "none", *intent) for intent in made]
    common += [("pull", client, client, 1000) for client in range(clients)]
    for episode in draw(st.lists(_episodes(servers, clients), min_size=2, max_size=12)):
        common += episode
    return common


def _episodes(servers: int, clients: int) -> st.SearchStrategy[list[Step]]:
    intent = st.one_of(*(_intent_strategy(word, bounds) for word, _, bounds in INTENTS))
    issue = st.tuples(st.integers(0, clients - 1), intent).map(lambda found: ("issue", *_flatten(found)))
    everybody = [("push", client, client, 1000, "none") for client in range(clients)]
    return st.one_of(
        intent.map(lambda wish: [("issue", client, *wish) for client in range(clients)]),
        st.lists(issue, min_size=2, max_size=4).map(lambda apart: [*apart, *everybody]),
        _steps(servers, clients).map(lambda step: [step]),
    )


def _steps(servers: int, clients: int) -> st.SearchStrategy[Step]:
    client, server = st.integers(0, clients - 1), st.integers(0, servers - 1)
    end = st.integers(0, servers + clients - 1)
    count = st.sampled_from((1000, 1, 2))
    fault = st.sampled_from(FAULTS)
    intent = st.one_of(*(_intent_strategy(word, bounds) for word, _, bounds in INTENTS))

    def flat(word: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
        return st.tuples(*parts).map(lambda found: (word, *_flatten(found)))

    often = [flat("issue", client, intent), flat("do", client, server, fault, intent)]
    alternatives: list[st.SearchStrategy[Step]] = [
        *often,
        *often,
        flat("push", client, server, count, fault),
        flat("pull", client, server, count),
        flat("cut", end, end),
        flat("heal", end, end),
        flat("meet", server, server),
        flat("sync", server, server, count),
        flat("restart", server),
        flat("reboot", client),
        flat("snapshot", client, server),
        flat("skew", server, st.sampled_from(SKEWS_US)),
        flat("wipe", server),
        st.just(("beat",)),
        flat("prune", server),
        flat("torn", end, server, st.integers(0, 1)),
    ]
    return st.one_of(*alternatives)


def _intent_strategy(word: str, bounds: tuple[int, int, int]) -> st.SearchStrategy[Step]:
    numbers = [st.integers(0, max(0, bound - 1)) for bound in bounds]
    if word in CONTENT_AT:
        numbers[CONTENT_AT[word]] = st.sampled_from((4, 1, 2, 0))
    return st.tuples(*numbers).map(lambda found: (word, *found))


def _flatten(parts: tuple[Any, ...]) -> list[int | str]:
    flat: list[int | str] = []
    for part in parts:
        if isinstance(part, tuple):
            flat.extend(part)
        else:
            flat.append(part)
    return flat


def shrink(program: Program, fails: Callable[[Program], bool]) -> Program:
    """Leave out what is not needed for the failure: halves first, then single steps, until nothing more goes."""
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
