"""A day of work by script: clone, build, edit, test, commit, branch, package, move away, on two mounts in turn, while
one server after the other is killed and started again. It has to come out as on a plain disk.

The steps of a day follow from its seed alone. First they are done on a plain folder, then each on the one or the other
mount; what every step says and the tree at the end have to be equal: bytes, modes, links, and mtimes where a step sets
them. A step begins when what the one before it did has arrived at its mount: a file that is written last tells it.

    python -m tests.cluster.day [--seed N] [--days N] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gdah_drill.cluster import Cluster, Mount, Server
from gdah_drill.processes import run_program
from gdah_drill.waiting import wait_until
from tests.cluster.sources import copy_sources

STEP_S = 300.0
ARRIVES_S = 60.0
BATON = ".step"
DATED = "dated"
"""Below folders of this name the mtimes are compared as well: steps set them."""

MAKEFILE = """\
OBJECTS := $(patsubst %.c,out/%.o,$(wildcard *.c))
app: $(OBJECTS)
	@gcc -o $@ $(OBJECTS) && echo linked
out/%.o: %.c common.h | out
	@gcc -O1 -c -o $@ $< && echo compiled $<
out:
	@mkdir out
"""

CHECK = """\
import pathlib, subprocess, unittest

class Check(unittest.TestCase):
    def test_app(self):
        want = sum(int(p.read_text().split("return ")[1].split(";")[0]) for p in pathlib.Path(".").glob("part*.c"))
        self.assertEqual(subprocess.check_output(["./app"], text=True), f"{want}\\n")

    def test_notes(self):
        for note in pathlib.Path("notes").rglob("*.txt"):
            self.assertTrue(note.read_text().endswith("\\n"), note)

unittest.main(verbosity=0)
"""


DATABASE = """
import sqlite3, sys
db = sqlite3.connect("db")
db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, x TEXT)")
db.execute("INSERT INTO t (x) VALUES (?)", sys.argv[1:])
db.commit()
print(db.execute("SELECT * FROM t").fetchall(), db.execute("PRAGMA integrity_check").fetchone())
"""


@dataclass(frozen=True)
class Step:
    """One command line for `sh`, in a folder of the tree."""

    what: str
    line: str
    inside: str = "work"


class Script:
    """The steps of a day: a project, and what one does with it."""

    def __init__(self, seed: int, rounds: int) -> None:
        self.chance = random.Random(seed)
        self.rounds = rounds
        self.parts = 6 if rounds else 2
        self.notes: list[str] = []
        self.branches = 0
        self.packages = 0
        self.clock = 1_767_000_000

    def steps(self) -> Iterator[Step]:
        yield from self.begin()
        acts: list[Callable[[], Iterator[Step]]] = [self.edit_code, self.edit_code, self.edit_notes, self.edit_notes]
        acts += [self.new_part, self.build, self.branch, self.branch, self.rebase, self.stash, self.package]
        acts += [self.clone, self.database, self.sync, self.tidy, self.links]
        for _ in range(self.rounds):
            yield from self.chance.choice(acts)()
            if self.chance.random() < 0.5:
                yield from self.build()
            yield from self.commit()
        yield from self.finish()

    # --- parts of a day

    def begin(self) -> Iterator[Step]:
        yield Step("init", "git init -q -b main origin.git --bare && git clone -q origin.git work 2>&1", "")
        yield Step("import", 'cp -r "$SOURCES" lib && find lib -type f | wc -l')
        for number in range(1, self.parts + 1):
            yield Step("write", f"printf 'int part{number}(void) {{ return {number}; }}\\n' > part{number}.c")
        yield Step("write", f"cat > Makefile <<'X'\n{MAKEFILE}X\ncat > check.py <<'X'\n{CHECK}X")
        yield Step("write", "echo '#define ONE 1' > common.h; printf 'out\\napp\\n*.pyc\\n' > .gitignore; mkdir notes")
        yield from self.edit_notes()
        yield from self.build()
        yield from self.commit()

    def finish(self) -> Iterator[Step]:
        yield from self.build()
        yield from self.commit()
        if self.rounds:
            yield from self.package()
        yield Step("gc", "git gc -q --prune=now && git fsck --full --strict && git count-objects | cut -d, -f1")
        yield Step("push", "git push -q origin --all 2>&1 && git for-each-ref --format='%(objectname) %(refname)'")
        yield Step(
            "move away",
            "mkdir -p archive && mv work archive/last-$(ls archive 2> /dev/null | wc -l) && ls -R archive | wc -l",
            "",
        )
        yield Step("fetch again", "git clone -q origin.git work && git -C work log --oneline | wc -l", "")
        yield Step("compare", "git -C work rev-parse HEAD && git -C work status --porcelain", "")

    def edit_code(self) -> Iterator[Step]:
        part, value = self.chance.randrange(1, self.parts + 1), self.chance.randrange(100)
        how = self.chance.choice((f"sed -i 's/return [0-9]*/return {value}/' part{part}.c", self._by_ed(part, value)))
        yield Step("edit", f"{how} && cat part{part}.c")

    @staticmethod
    def _by_ed(part: int, value: int) -> str:
        """As many editors save: a backup, a new file, renamed over."""
        name = f"part{part}.c"
        new = f"sed 's/return [0-9]*/return {value}/' {name} > .{name}.new && chmod --reference={name} .{name}.new"
        return f"{new} && ln -f {name} {name}~ && mv .{name}.new {name} && rm {name}~"

    def edit_notes(self) -> Iterator[Step]:
        for _ in range(self.chance.randrange(1, 4)):
            name = f"notes/{self.chance.choice('abc')}/{self.chance.choice('uvwxyz')}.txt"
            lines = self.chance.choice((1, 10, 1000))
            yield Step("note", f"mkdir -p {os.path.dirname(name)} && seq {lines} >> {name} && sha256sum {name}")
            self.notes.append(name)
        name = self.chance.choice(self.notes)
        act = self.chance.choice(
            ("mv {0} {0}.old.txt", "rm {0}", "sort -o {0} {0}", "truncate -s 2 {0}", "cp {0} {0}2.txt")
        )
        yield Step("note", f"[ -e {name} ] && {act.format(name)}; find notes -type f | sort | xargs -r sha256sum")

    def new_part(self) -> Iterator[Step]:
        self.parts += 1
        yield Step("new file", f"printf 'int part{self.parts}(void) {{ return 7; }}\\n' > part{self.parts}.c")

    def build(self) -> Iterator[Step]:
        numbers = range(1, self.parts + 1)
        heads = "".join(f"int part{number}(void);\n" for number in numbers)
        calls = " + ".join(f"part{number}()" for number in numbers)
        text = f'#include <stdio.h>\n{heads}int main(void) {{ printf("%d\\n", {calls}); }}'
        main = f"cat > main.new <<'X'\n{text}\nX\ncmp -s main.new main.c && rm main.new || mv main.new main.c"
        yield Step("generate", main)
        yield Step("build", "make -s -j2 2>&1 | sort && ./app")
        yield Step("build again", "make -s -j2; make -q && echo nothing to do")
        yield Step("test", "python3 check.py 2>&1 | tail -1")

    def commit(self) -> Iterator[Step]:
        self.clock += 60
        dates = f"GIT_AUTHOR_DATE='{self.clock} +0000' GIT_COMMITTER_DATE='{self.clock} +0000'"
        yield Step(
            "commit", f"git add -A && {dates} git commit -q --allow-empty -m 'At {self.clock}' && git rev-parse HEAD"
        )
        yield Step("status", "git status --porcelain && git show --stat --format=%s | tail -1")

    def branch(self) -> Iterator[Step]:
        self.branches += 1
        name = f"topic{self.branches}"
        yield Step("branch", f"git checkout -q -b {name} && ls | sort | sha256sum")
        yield from self.edit_code()
        yield from self.commit()
        yield Step("back", "git checkout -q main && git log --oneline | head -3")
        yield from self.edit_notes()
        yield from self.commit()
        self.clock += 60
        dates = f"GIT_AUTHOR_DATE='{self.clock} +0000' GIT_COMMITTER_DATE='{self.clock} +0000'"
        yield Step(
            "merge",
            f"{dates} git merge -q --no-edit {name} 2>&1 | sort; git rev-parse HEAD; git push -q origin main 2>&1",
        )

    def rebase(self) -> Iterator[Step]:
        self.branches += 1
        name = f"side{self.branches}"
        yield Step(
            "branch",
            f"git checkout -q -b {name} $(git rev-parse -q --verify HEAD~1 || echo HEAD) && echo {name} > {name}.md && git rev-parse HEAD",
        )
        yield from self.commit()
        self.clock += 60
        yield Step(
            "rebase",
            f"GIT_COMMITTER_DATE='{self.clock} +0000' git rebase -q main && git rev-parse HEAD && git log --oneline | wc -l",
        )
        yield Step(
            "fast forward",
            f"git checkout -q main && git merge -q --ff-only {name} && git branch -q -d {name} && git rev-parse HEAD",
        )

    def stash(self) -> Iterator[Step]:
        yield from self.edit_code()
        yield Step("stash", "git stash -q && git status --porcelain && git log --oneline | head -1")
        yield Step("pop", "git stash pop -q 2>&1; git status --porcelain")

    def package(self) -> Iterator[Step]:
        self.packages += 1
        name = f"p{self.packages}"
        tar = f"{DATED}/{name}.tar"
        made = f"git -C ../work archive --prefix={name}/ -o ../packages/{tar} HEAD && sha256sum {tar}"
        yield Step("package", f"mkdir -p ../packages/{DATED} && cd ../packages && {made}")
        yield Step(
            "unpack",
            f"tar xf {tar} -C {DATED} && gzip -n9 {tar} && touch -d @{self.clock} {tar}.gz",
            "packages",
        )
        yield Step(
            "try it",
            f"cd {DATED}/{name} && find . -type f | sort | xargs sha256sum | tee ../sums | wc -l && (cd ../../../work && sha256sum --quiet -c -) < ../sums && rm ../sums",
            "packages",
        )
        yield Step(
            "move away",
            f"mkdir -p ../archive && mv {DATED}/{name} ../archive/{name} && ls {DATED} ../archive",
            "packages",
        )

    def clone(self) -> Iterator[Step]:
        self.packages += 1
        name = f"clone{self.packages}"
        yield Step(
            "clone",
            f"git clone -q work {name} && git -C {name} status --porcelain && git -C {name} rev-parse HEAD && git -C {name} ls-files -s | sha256sum",
            "",
        )
        yield Step("remove", f"rm -rf {name} && ls", "")

    def database(self) -> Iterator[Step]:
        yield Step("database", f"python3 - {self.clock} <<'X'\n{DATABASE}X", "work/notes")
        yield Step(
            "look",
            "python3 -c \"import sqlite3; d = sqlite3.connect('db'); print(d.execute('SELECT count(*) FROM t').fetchall())\" && ls",
            "work/notes",
        )

    def sync(self) -> Iterator[Step]:
        yield Step(
            "date", f"mkdir -p backup/{DATED} && find work/notes work/*.c -exec touch -h -d @{self.clock} {{}} +", ""
        )
        yield Step("back up", f"cp -a work/notes work/*.c backup/{DATED}/ && find backup | wc -l", "")
        yield Step("mirror", "rm -rf mirror && cp -al backup mirror && find mirror -type f -links 2 | wc -l", "")

    def tidy(self) -> Iterator[Step]:
        yield Step(
            "move",
            "mv lib lib.moved && mkdir lib && mv lib.moved/* lib/ && rmdir lib.moved && find lib -type f | sort | xargs sha256sum | sha256sum",
        )
        yield Step("clean", "rm -rf out app && git clean -fdxq && git status --porcelain && ls")

    def links(self) -> Iterator[Step]:
        yield Step(
            "links",
            "mkdir -p notes/l && for i in 1 2 3; do ln -sfn ../$i notes/l/s$i; done; ls -l notes/l | awk 'NR > 1 {print $1, $9, $11}'",
        )
        yield Step(
            "modes",
            "chmod 600 notes/*/*.txt 2> /dev/null; chmod +x check.py; git status --porcelain; stat -c '%a %n' *.c *.py",
        )


@dataclass
class Figures:
    steps: int = 0
    kills: int = 0
    differences: list[str] = field(default_factory=list)
    longest_call_s: float = 0.0
    calls: int = 0
    longest_step_s: float = 0.0
    seconds: float = 0.0
    plain_seconds: float = 0.0


class Nemesis(threading.Thread):
    """Kills a server at a random moment and starts it again some time later; the other one always runs."""

    def __init__(self, servers: list[Server], seed: int) -> None:
        super().__init__(name="nemesis")
        self.servers = servers
        self.chance = random.Random(seed)
        self.kills = 0
        self.trouble: BaseException | None = None
        self._end = threading.Event()

    def run(self) -> None:
        try:
            while not self._end.wait(self.chance.uniform(0.2, 4.0)):
                server = self.chance.choice(self.servers)
                server.kill9()
                self.kills += 1
                self._end.wait(self.chance.choice((0.0, 0.3, 1.0, 4.0)))
                server.start()
        except BaseException as error:
            self.trouble = error

    def end(self) -> None:
        self._end.set()
        self.join()
        if self.trouble:
            raise self.trouble


class Pulse(threading.Thread):
    """Small calls on a mount all the time; how long the longest took."""

    def __init__(self, mount: Mount) -> None:
        super().__init__(name=f"pulse {mount.name}")
        self.hands = mount.more_hands()
        self.folder = f".pulse-{mount.name}"
        self.longest_s = 0.0
        self.calls = 0
        self.trouble: BaseException | None = None
        self._end = threading.Event()

    def run(self) -> None:
        try:
            self._timed("mkdir", self.folder)
            while not self._end.wait(0.2):
                self._timed("write", f"{self.folder}/a", b"pulse")
                self._timed("rename", f"{self.folder}/a", f"{self.folder}/b")
                self._timed("read", f"{self.folder}/b")
                self._timed("unlink", f"{self.folder}/b")
            self._timed("rmdir", self.folder)
        except BaseException as error:
            self.trouble = error

    def _timed(self, name: str, *args: object) -> None:
        began = time.monotonic()
        self.hands.call(name, *args)
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        self.calls += 1

    def end(self) -> None:
        self._end.set()
        self.join()
        if self.trouble:
            raise self.trouble


def environment(scratch: Path, sources: Path) -> dict[str, str]:
    return {
        "SOURCES": str(sources),
        "HOME": str(scratch),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_AUTHOR_NAME": "A Person",
        "GIT_AUTHOR_EMAIL": "person@example.org",
        "GIT_COMMITTER_NAME": "A Person",
        "GIT_COMMITTER_EMAIL": "person@example.org",
        "GIT_AUTHOR_DATE": "2026-01-02T03:04:05+0000",
        "GIT_COMMITTER_DATE": "2026-01-02T03:04:05+0000",
        "GIT_EDITOR": "true",
    }


def do(step: Step, root: Path, environ: dict[str, str]) -> str:
    done = run_program(["sh", "-c", step.line], cwd=root / step.inside, environ=environ, timeout_s=STEP_S, check=False)
    return f"{done.stdout.replace(str(root), 'ROOT')}exit {done.returncode}"


LISTING = f"""find . -name .git -prune -o -name '.pulse-*' -prune -o -path ./origin.git -prune -o -name {BATON} -o \\
    -path '*/{DATED}/*' -printf '%T@ ' -false -o -type d -printf '%y %m %p\\n' -o -printf '%y %m %n %s %p %l\\n' | sort -k 2
find . -name .git -prune -o -path ./origin.git -prune -o -name {BATON} -o -type f -print0 | sort -z | xargs -0 sha256sum"""


def listing(root: Path, environ: dict[str, str]) -> str:
    return run_program(["sh", "-c", LISTING], cwd=root, environ=environ, timeout_s=STEP_S).stdout


def day(folder: Path, sources: Path, seed: int, rounds: int, tell: Callable[[str], None]) -> Figures:
    """Raises AssertionError when something did not come out as on a plain disk."""
    steps = list(Script(seed, rounds).steps())
    figures = Figures(steps=len(steps))
    plain = folder / "plain"
    plain.mkdir()
    environ = environment(folder, sources)
    began = time.monotonic()
    wanted = []
    for step in steps:
        wanted.append(do(step, plain, environ))
        assert wanted[-1].endswith("exit 0"), f"fails on a plain disk: {step}: {wanted[-1]}"
    figures.plain_seconds = time.monotonic() - began
    tree = listing(plain, environ)
    with Cluster(folder / "cluster") as cluster:
        a, b = cluster.start_servers()
        mounts = [cluster.mount("one", [a, b]), cluster.mount("two", [b, a])]
        nemesis, pulses = Nemesis(cluster.servers, seed), [Pulse(mount) for mount in mounts if rounds]
        for thread in (nemesis, *pulses):
            thread.start()
        try:
            began = time.monotonic()
            for number, step in enumerate(steps):
                mount = mounts[number % 2]
                started = time.monotonic()
                said = do(step, mount.root, environ)
                took = time.monotonic() - started
                figures.longest_step_s = max(figures.longest_step_s, took)
                tell(f"{number} {step.what} on {mount.name}: {took:.2f} s, {nemesis.kills} kills")
                if said != wanted[number]:
                    figures.differences.append(f"step {number} ({step.what}) on {mount.name}: {step.line}\n"
                                               f"plain: {wanted[number]}\nmount: {said}")  # fmt: skip
                    break
                hand_over(number, mount, mounts[1 - number % 2])
            figures.seconds = time.monotonic() - began
        finally:
            nemesis.end()
            for pulse in pulses:
                pulse.end()
        figures.kills = nemesis.kills
        figures.longest_call_s = max((pulse.longest_s for pulse in pulses), default=0.0)
        figures.calls = sum(pulse.calls for pulse in pulses)
        cluster.wait_settled(ARRIVES_S * 3)
        if not figures.differences:
            for mount in (*mounts, cluster.mount("fresh")):
                if (seen := listing(mount.root, environ)) != tree:
                    figures.differences.append(f"tree of {mount.name}:\n{_difference(tree, seen)}")
                run_program(["git", "-C", "work", "fsck", "--full", "--strict"], cwd=mount.root, environ=environ)
        assert not figures.differences, "\n".join(figures.differences)
    return figures


def hand_over(number: int, done_by: Mount, next_by: Mount) -> None:
    text = f"{number}\n".encode()
    done_by.hands.write(BATON, text)
    wait_until(
        lambda: next_by.hands.read(BATON) == text, f"step {number} has arrived at {next_by.name}", ARRIVES_S, 0.005
    )


def _difference(plain: str, mount: str) -> str:
    one, two = set(plain.splitlines()), set(mount.splitlines())
    lines = [f"- {line}" for line in sorted(one - two)] + [f"+ {line}" for line in sorted(two - one)]
    return "\n".join(lines[:60])


def main() -> int:
    command = argparse.ArgumentParser(prog="python -m tests.cluster.day", description=__doc__)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--days", type=int, default=1, help="how many seeds, one after the other")
    command.add_argument("--rounds", type=int, default=40, help="pieces of work a day")
    command.add_argument("--files", type=int, default=60, help="source files that are brought in")
    command.add_argument("--in", dest="place", default=None, help="where to mount and to keep scratch files")
    command.add_argument("--verbose", action="store_true")
    flags = command.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    failed = 0
    for seed in range(flags.seed, flags.seed + flags.days):
        with tempfile.TemporaryDirectory(prefix="gdah-day-", dir=flags.place, ignore_cleanup_errors=True) as scratch:
            said: list[str] = []
            copy_sources(Path(scratch) / "sources", flags.files)
            try:
                found = day(
                    Path(scratch),
                    Path(scratch) / "sources",
                    seed,
                    flags.rounds,
                    print if flags.verbose else said.append,
                )
            except AssertionError as error:
                print("\n".join(said[-30:]), file=sys.stderr)
                print(f"seed {seed}: {error}", flush=True)
                failed += 1
                continue
        print(
            f"seed {seed}: {found.steps} steps in {found.seconds:.0f} s (plain disk {found.plain_seconds:.0f} s), "
            f"{found.kills} kills, no difference; of {found.calls} small calls the longest took "
            f"{found.longest_call_s:.2f} s; longest step {found.longest_step_s:.1f} s",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
