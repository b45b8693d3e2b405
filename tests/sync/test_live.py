"""The sync side against two real servers: failover under load, outage and return, restart with work left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gdah_volume.content import CHUNK_SIZE, hash_of
from gdah_volume.errors import ContentUnavailable
from mountfs.syncside import SyncSide
from tests.sync.live import Server, eventually, servers, side
from tests.sync.worlds import Through

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

WRITERS = 4


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[Server]]:
    with servers(tmp_path) as found:
        eventually(lambda: all(peer["connected"] for one in found for peer in one.status()["peers"]))
        yield found


def urls(pair: list[Server]) -> list[str]:
    return [one.url for one in pair]


def programs(one: SyncSide) -> Through:
    return Through(one.mirror, one.changelog)


def in_use(one: SyncSide, pair: list[Server]) -> Server:
    url = eventually(lambda: one.status()["server"])
    return next(server for server in pair if server.url == url)


def agree(one: SyncSide, pair: list[Server]) -> None:
    """2/2, and three equal logs."""
    eventually(lambda: one.status()["copies"] == "2/2", what="2/2")
    eventually(
        lambda: len({server.status()["digest"] for server in pair} | {one.mirror.replica.digest.hex()}) == 1,
        what="equal digests",
    )


class Load:
    """Programs that create files as fast as they can, and what they met."""

    def __init__(self, one: SyncSide) -> None:
        self._programs = programs(one)
        self._stop = threading.Event()
        self.names: list[str] = []
        self.errors: list[BaseException] = []
        self.slow: list[float] = []
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def _run(self, which: int) -> None:
        number = 0
        while not self._stop.is_set():
            name = f"w{which}-{number}"
            number += 1
            before = time.monotonic()
            try:
                self._programs.create(name)
                self._programs.write(name, name.encode() * 50)
            except BaseException as error:
                self.errors.append(error)
                return
            self.names.append(name)
            self.slow.append(time.monotonic() - before)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_failover_under_load(tmp_path: Path, pair: list[Server], fault: signal.Signals) -> None:
    with side(tmp_path / "c", urls(pair)) as one:
        first = in_use(one, pair)
        eventually(lambda: all(entry["healthy"] for entry in one.status()["servers"]))
        load = Load(one)
        eventually(lambda: len(load.names) > 100)
        if fault == signal.SIGKILL:
            first.kill()
        else:
            first.signal(fault)
        eventually(lambda: one.status()["server"] not in (None, first.url), what="the other server is in use")
        reached = len(load.names)
        eventually(lambda: len(load.names) > reached + 100, what="programs go on")
        assert first.url in one.status()["why"]
        if fault == signal.SIGKILL:
            first.start()
        else:
            first.signal(signal.SIGCONT)
        reached = len(load.names)
        eventually(lambda: len(load.names) > reached + 100)
        load.end()
        print(f"longest pause {max(load.slow):.3f} s of {len(load.slow)} files")
        assert load.errors == []
        assert one.changelog.flush(30)
        agree(one, pair)
        assert sorted(programs(one).names()) == sorted(load.names), "nothing lost, no conflict copies"


def test_outage_and_return(tmp_path: Path, pair: list[Server]) -> None:
    large = os.urandom(3 * CHUNK_SIZE)[:CHUNK_SIZE]
    with side(tmp_path / "c", urls(pair)) as one:
        in_use(one, pair)
        run = programs(one)
        run.create("before")
        eventually(lambda: not one.status()["pending"]["not_everywhere_operations"])
        for server in pair:
            server.kill()
        eventually(lambda: not one.connected)
        for i in range(200):
            run.create(f"f{i}")
        run.write("f0", large)
        run.rename("f1", "g1")
        run.unlink("f2")
        status = one.status()
        assert (status["connected"], status["server"], status["copies"]) == (False, None, "0/2")
        assert status["disconnected_since"] is not None
        assert status["pending"]["operations"] == 203
        assert status["pending"]["bytes"] == CHUNK_SIZE
        assert one.pending()[0].path == "f0"
        assert one.pending()[-1].type == "deleted"
        assert one.pending()[-2].dest == "g1"
        with pytest.raises(ContentUnavailable):
            one.transfer.fetch(hash_of(b"in no cache"), 11)
        for server in pair:
            server.start()
        assert one.changelog.flush(60)
        agree(one, pair)
        assert one.status()["pending"]["operations"] == 0
        assert one.transfer.fetch(hash_of(large), CHUNK_SIZE) == large


CLIENT = """
import sys
from pathlib import Path
from tests.sync.live import side
from tests.sync.worlds import Through
with side(Path(sys.argv[1]), sys.argv[2:]) as one:
    run = Through(one.mirror, one.changelog)
    for i in range(50):
        run.create(f"f{i}")
        run.write(f"f{i}", b"%d" % i * 1000)
    print("made", flush=True)
    sys.stdin.read()
"""


def test_killed_with_work_left_over_and_started_again(tmp_path: Path, pair: list[Server]) -> None:
    for server in pair:
        server.kill()
    command = [sys.executable, "-c", CLIENT, str(tmp_path / "c"), *urls(pair)]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert client.stdout is not None
        assert client.stdin is not None
        assert client.stdout.readline() == b"made\n"
    finally:
        client.kill()
        client.wait(10)
        client.stdout.close()
        client.stdin.close()
    with side(tmp_path / "c", urls(pair)) as one:
        run = programs(one)
        assert one.status()["recovered_operations"] == 100
        assert len(run.names()) == 50
        assert one.changelog.dirty_chunk(hash_of(b"7" * 1000)) == b"7" * 1000
        for server in pair:
            server.start()
        assert one.changelog.flush(60)
        agree(one, pair)
        assert len(run.names()) == 50


def test_two_mounts_see_each_other_and_agree_about_exclusive_creates(tmp_path: Path, pair: list[Server]) -> None:
    with side(tmp_path / "c1", urls(pair)) as one, side(tmp_path / "c2", urls(pair)[::-1]) as two:
        in_use(one, pair)
        in_use(two, pair)
        first, second = programs(one), programs(two)
        first.create("a")
        eventually(lambda: "a" in second.names())
        for i in range(30):
            outcomes = [
                run.in_thread(lambda run=run, name=f"x{i}": run.create(name))  # type: ignore[misc]
                for run in (first, second)
            ]
            for outcome in outcomes:
                outcome.join()
            assert sum(outcome.error is None for outcome in outcomes) == 1, [o.error for o in outcomes]
        agree(one, pair)
        agree(two, pair)
        assert first.names() == second.names() == sorted(["a", *(f"x{i}" for i in range(30))])


def test_an_empty_mirror_reads_everything(tmp_path: Path, pair: list[Server]) -> None:
    with side(tmp_path / "c1", urls(pair)) as one:
        in_use(one, pair)
        run = programs(one)
        for i in range(50):
            run.create(f"f{i}")
        run.write("f0", b"content")
        agree(one, pair)
    with side(tmp_path / "c2", urls(pair)) as two:
        eventually(lambda: len(programs(two).names()) == 50)
        assert two.upstream.wait_caught_up(30)
        assert two.transfer.fetch(hash_of(b"content"), 7) == b"content"
