"""A storm: two people at work on two mounts while servers and mounts are killed, stopped, cut off, brought back.

Each works in a folder of his own, whose content is known at every moment, and now and then in a shared one. When
the weather clears, everybody's own folder is exactly what he made of it, on both mounts and both servers, without a
conflict; and the shared folder is the same everywhere.

    python -m tests.cluster.storm [--seed N] [--steps N] [--rounds N]
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gdah_drill.cluster import Cluster, Mount, Server
from gdah_drill.waiting import wait_until

Content = bytes | str | None
NAMES = ("a", "b", "c", "d.txt", "e")
SHARED = "shared"
CALM_S = 90.0


class Person:
    """One mount, and what its own folder has to be: path to bytes, a symlink's target, or None for a folder."""

    def __init__(self, mount: Mount, chance: random.Random) -> None:
        self.mount = mount
        self.home = mount.name
        self.chance = chance
        self.tree: dict[str, Content] = {}
        self.count = 0

    def start(self) -> None:
        self.mount.hands.makedirs(self.home)

    # --- one step of work

    def work(self) -> str:
        acts: list[Callable[[], str]] = [self.write, self.write, self.save, self.append, self.rename, self.unlink]
        acts += [self.exchange, self.swap, self.copy, self.punch]
        acts += [self.mkdir, self.rmtree, self.link, self.share, self.check]
        act = self.chance.choice(acts)
        return f"{self.home}: {act.__name__} {act()}"

    def write(self) -> str:
        path = self._free_or_file()
        data = self._data()
        self.mount.hands.write(self._at(path), data, self.chance.random() < 0.2)
        self.tree[path] = data
        return path

    def save(self) -> str:
        """As editors do: a new file renamed over the old one."""
        path = self._free_or_file()
        data = self._data()
        self.mount.hands.write(self._at(path + ".new"), data, True)
        self.mount.hands.rename(self._at(path + ".new"), self._at(path))
        self.tree[path] = data
        return path

    def swap(self) -> str:
        """As careful editors do: the new file takes the place of the old one, which then goes."""
        path = self._pick(lambda content: isinstance(content, bytes))
        if path:
            data = self._data()
            self.mount.hands.write(self._at(path + ".new"), data)
            self.mount.hands.renameat2(self._at(path + ".new"), self._at(path), 2)
            self.mount.hands.unlink(self._at(path + ".new"))
            self.tree[path] = data
        return path

    def exchange(self) -> str:
        one, two = self._pick(lambda _: True), self._pick(lambda _: True)
        if one == two or one.startswith(two + "/") or two.startswith(one + "/"):
            return ""
        self.mount.hands.renameat2(self._at(one), self._at(two), 2)
        moved = {}
        for old, new in ((one, two), (two, one)):
            for path in [each for each in self.tree if each == old or each.startswith(old + "/")]:
                moved[new + path[len(old) :]] = self.tree.pop(path)
        self.tree |= moved
        return f"{one} <-> {two}"

    def copy(self) -> str:
        path, to = self._pick(lambda content: isinstance(content, bytes)), self._free_or_file()
        if not path or path == to:
            return ""
        self.mount.hands.copy_range(self._at(path), self._at(to))
        self.tree[to] = self.tree[path]
        return f"{path} -> {to}"

    def punch(self) -> str:
        path = self._pick(lambda content: isinstance(content, bytes) and len(content) > 0)
        if path:
            old = self.tree[path]
            assert isinstance(old, bytes)
            start = self.chance.randrange(len(old))
            end = min(len(old), start + self.chance.choice((10, 5000, 1 << 20)))
            self.mount.hands.fallocate(self._at(path), 3, start, end - start)
            self.tree[path] = old[:start] + bytes(end - start) + old[end:]
        return path

    def append(self) -> str:
        path = self._pick(lambda content: isinstance(content, bytes))
        if path:
            data = self._data()[:1000]
            self.mount.hands.append(self._at(path), data)
            old = self.tree[path]
            assert isinstance(old, bytes)
            self.tree[path] = old + data
        return path

    def rename(self) -> str:
        path = self._pick(lambda _: True)
        to = self._free()
        if not path or to.startswith(path + "/") or to in self.tree:
            return ""
        self.mount.hands.rename(self._at(path), self._at(to))
        for old in [one for one in self.tree if one == path or one.startswith(path + "/")]:
            self.tree[to + old[len(path) :]] = self.tree.pop(old)
        return f"{path} -> {to}"

    def unlink(self) -> str:
        path = self._pick(lambda content: content is not None)
        if path:
            self.mount.hands.unlink(self._at(path))
            del self.tree[path]
        return path

    def mkdir(self) -> str:
        path = self._free()
        if path in self.tree:
            return ""
        self.mount.hands.mkdir(self._at(path))
        self.tree[path] = None
        return path

    def rmtree(self) -> str:
        path = self._pick(lambda content: content is None) if self.chance.random() < 0.3 else ""
        if path:
            self.mount.hands.rmtree(self._at(path))
            self.tree = {one: c for one, c in self.tree.items() if one != path and not one.startswith(path + "/")}
        return path

    def link(self) -> str:
        path = self._free()
        if path in self.tree:
            return ""
        self.mount.hands.symlink("elsewhere", self._at(path))
        self.tree[path] = "elsewhere"
        return path

    def share(self) -> str:
        """In the shared folder anything may have happened meanwhile; only the outcome is compared."""
        path = f"{SHARED}/{self.chance.choice(NAMES)}"
        try:
            if self.chance.random() < 0.7:
                self.mount.hands.write(path, self._data()[:500])
            else:
                self.mount.hands.unlink(path)
        except FileNotFoundError:
            return f"{path} (is not there)"
        return path

    def check(self) -> str:
        self.compare(self.mount)
        return f"{len(self.tree)} entries"

    def compare(self, mount: Mount) -> None:
        seen = mount.hands.tree(self.home)
        assert seen == self.tree, (
            f"{self.home}'s folder as {mount.name} shows it: "
            f"missing {sorted(set(self.tree) - set(seen))}, too many {sorted(set(seen) - set(self.tree))}, "
            f"different {sorted(path for path in set(seen) & set(self.tree) if seen[path] != self.tree[path])}"
        )

    # --- choices

    def _at(self, path: str) -> str:
        return f"{self.home}/{path}"

    def _data(self) -> bytes:
        self.count += 1
        size = self.chance.choice(
            (10, 300, 5_000, 70_000, 70_000, 1_500_000) if self.chance.random() < 0.3 else (10, 300)
        )
        return f"{self.home} {self.count} ".encode() * (size // 10)

    def _pick(self, wanted: Callable[[Content], bool]) -> str:
        found = sorted(path for path, content in self.tree.items() if wanted(content))
        return self.chance.choice(found) if found else ""

    def _free(self) -> str:
        folders = ["", *(path + "/" for path in sorted(self.tree) if self.tree[path] is None)]
        return self.chance.choice(folders) + self.chance.choice(NAMES)

    def _free_or_file(self) -> str:
        path = self._free()
        while not isinstance(self.tree.get(path, b""), bytes):
            path = self._free() + str(self.count)
        return path


class Weather:
    """What happens to machines and cables. At most one server is away for good at a time or both; anything heals."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.cluster = cluster
        self.chance = chance
        self.stopped: set[Server] = set()

    def strike(self) -> str:
        acts: list[Callable[[], str]] = [self.kill_server, self.stop_server, self.cut_peers, self.cut_mount]
        acts += [self.reset, self.kill_mount, self.sleep_mount, self.bring_back, self.bring_back, self.bring_back]
        act = self.chance.choice(acts)
        return f"weather: {act.__name__} {act()}"

    def kill_server(self) -> str:
        server = self.chance.choice(self.cluster.servers)
        if server.process.running:
            server.kill9()
            self.stopped.discard(server)
        return server.name

    def stop_server(self) -> str:
        server = self.chance.choice(self.cluster.servers)
        if server.process.running:
            server.stop()
            self.stopped.add(server)
        return server.name

    def cut_peers(self) -> str:
        self.cluster.cut(*self.cluster.servers)
        return ""

    def cut_mount(self) -> str:
        mount, server = self.chance.choice(self.cluster.mounts), self.chance.choice(self.cluster.servers)
        mount.cut(server)
        return f"{mount.name} from {server.name}"

    def reset(self) -> str:
        """Connections break in the middle of messages."""
        for proxy in self.cluster.proxies:
            proxy.stop_after(self.chance.randrange(4000), self.chance.choice(("in", "out")))
        for mount in self.cluster.mounts:
            mount.hands.write(f"{mount.name}/.during", b"a reset")
            mount.hands.unlink(f"{mount.name}/.during")
        for proxy in self.cluster.proxies:
            proxy.reset()
            proxy.heal()
        return ""

    def kill_mount(self) -> str:
        mount = self.chance.choice(self.cluster.mounts)
        mount.kill9()
        mount.start()
        return mount.name

    def sleep_mount(self) -> str:
        """A laptop's lid closed for a moment; everybody takes it for dead meanwhile."""
        mount = self.chance.choice(self.cluster.mounts)
        mount.stop()
        time.sleep(1.0)
        mount.cont()
        return mount.name

    def bring_back(self) -> str:
        for server in self.cluster.servers:
            if server in self.stopped:
                server.cont()
            elif not server.process.running:
                server.start(wait=False)
        self.stopped.clear()
        self.cluster.heal()
        for server in self.cluster.servers:
            server.wait_ready()
        return ""


def run(folder: Path, seed: int, steps: int, tell: Callable[[str], None]) -> None:
    chance = random.Random(seed)
    with Cluster(folder, cables=True) as cluster:
        cluster.start_servers()
        people = [Person(cluster.mount(name), chance) for name in ("ann", "bob")]
        people[0].mount.hands.mkdir(SHARED)
        wait_until(lambda: people[1].mount.hands.exists(SHARED), "the shared folder is there")
        for person in people:
            person.start()
        weather = Weather(cluster, chance)
        for number in range(steps):
            tell(f"{number} {weather.strike() if chance.random() < 0.12 else chance.choice(people).work()}")
        tell(weather.bring_back())
        cluster.wait_settled(CALM_S)
        one, two = (person.mount for person in people)
        wait_until(lambda: one.hands.tree() == two.hands.tree(), "both mounts show the same", CALM_S)
        for person in people:
            person.compare(one)
            person.compare(two)
        tree = {path: content for path, content in one.hands.tree().items() if not isinstance(content, str)}
        for server in cluster.servers:
            assert server.full_state() == tree, server.name


def main() -> None:
    command = argparse.ArgumentParser(prog="python -m tests.cluster.storm", description=__doc__)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--steps", type=int, default=300)
    command.add_argument("--rounds", type=int, default=1)
    flags = command.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    for seed in range(flags.seed, flags.seed + flags.rounds):
        with tempfile.TemporaryDirectory(prefix="gdah-storm-") as scratch:
            said: list[str] = []
            try:
                run(Path(scratch), seed, flags.steps, said.append)
            except BaseException:
                print("\n".join(said), file=sys.stderr)
                raise
        print(f"seed {seed}: calm after {flags.steps} steps", flush=True)


if __name__ == "__main__":
    main()
