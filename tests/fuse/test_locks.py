"""Locks through the kernel, between processes of one mount without any server."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gdah_drill.waiting import wait_until
from tests.fuse.conftest import ToyMount

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]

F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
PRELUDE = """
import errno, fcntl, os, signal, struct, sys, time
def flk(kind, start=0, length=0, pid=0):
    return struct.pack("hhqqi4x", kind, 0, start, length, pid)
fd = os.open(sys.argv[1], os.O_RDWR)
def say(text):
    print(text, flush=True)
"""


class Program:
    """A process with the file open as `fd`, that says something and then waits for its standard input to end."""

    def __init__(self, path: Path, code: str) -> None:
        code = PRELUDE + textwrap.dedent(code) + "\nsys.stdin.read()\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, fuse: None) -> Iterator[Path]:
    top = tmp_path_factory.mktemp("locks")
    mount = ToyMount(top / "m", device=str(top / "device"))
    assert mount.greeting == {"result": "serving"}
    (mount.path / "file").write_bytes(bytes(1000))
    yield mount.path / "file"
    mount.close()


@pytest.fixture
def program(path: Path) -> Iterator[Callable[[str], Program]]:
    running: list[Program] = []

    def begin(code: str) -> Program:
        running.append(Program(path, code))
        return running[-1]

    yield begin
    for each in running:
        each.kill()
        for pipe in (each.process.stdin, each.process.stdout):
            assert pipe is not None
            pipe.close()


def tries(path: Path, how: int = fcntl.LOCK_EX, *, call: Any = fcntl.lockf) -> int:
    """0, or the errno; the lock is given back."""
    fd = os.open(path, os.O_RDWR)
    try:
        call(fd, how | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno or errno.EIO
    else:
        return 0
    finally:
        os.close(fd)


def test_ranges_of_two_processes(path: Path, program: Callable[[str], Program]) -> None:
    holder = program("fcntl.lockf(fd, fcntl.LOCK_EX, 100, 50); fcntl.lockf(fd, fcntl.LOCK_SH, 0, 500); say('held')")
    assert holder.says() == "held"
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 50, 0)
    fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 0, 500)
    for how, length, start in ((fcntl.LOCK_SH, 1, 149), (fcntl.LOCK_EX, 0, 999), (fcntl.LOCK_EX, 101, 0)):
        with pytest.raises(BlockingIOError):
            fcntl.lockf(fd, how | fcntl.LOCK_NB, length, start)
    found = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 60, 0, 0))
    assert struct.unpack("hhqqi4x", found) == (fcntl.F_WRLCK, 0, 50, 100, holder.process.pid)
    found = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 600, 0, 0))
    kind, *_ = struct.unpack("hhqqi4x", found)
    assert kind == fcntl.F_UNLCK
    holder.end()
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_a_negative_length_lies_before_its_start(path: Path, program: Callable[[str], Program]) -> None:
    holder = program("fcntl.fcntl(fd, fcntl.F_SETLK, flk(fcntl.F_WRLCK, 100, -50)); say('held')")
    assert holder.says() == "held"
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 50, 0)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 0, 100)
    with pytest.raises(BlockingIOError):
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 99)
    os.close(fd)


def test_closing_any_descriptor_gives_back_the_locks(path: Path, program: Callable[[str], Program]) -> None:
    holder = program("fcntl.lockf(fd, fcntl.LOCK_EX); os.close(os.open(sys.argv[1], os.O_RDONLY)); say('closed')")
    assert holder.says() == "closed"
    assert tries(path) == 0


def test_flock_belongs_to_one_open(path: Path, program: Callable[[str], Program]) -> None:
    holder = program(
        """
        fcntl.flock(fd, fcntl.LOCK_SH)
        os.close(os.dup(fd))
        os.close(os.open(sys.argv[1], os.O_RDONLY))
        say('held')
        """
    )
    assert holder.says() == "held"
    assert tries(path, call=fcntl.flock) == errno.EWOULDBLOCK
    assert tries(path, fcntl.LOCK_SH, call=fcntl.flock) == 0
    assert tries(path) == 0, "the other kind of lock is another space"
    holder.end()
    assert tries(path, call=fcntl.flock) == 0


def test_an_flock_is_gone_when_its_close_has_returned(path: Path) -> None:
    one = os.open(path, os.O_RDWR)
    for _ in range(200):
        other = os.open(path, os.O_RDWR)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
    os.close(one)


def test_locks_of_an_open_file_description(path: Path) -> None:
    one, two = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    fcntl.fcntl(one, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(two, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
    os.close(os.open(path, os.O_RDWR))
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(two, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0))
    os.close(one)
    fcntl.fcntl(two, F_OFD_SETLKW, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
    os.close(two)


@pytest.mark.parametrize("call", ["fcntl.lockf", "fcntl.flock"])
def test_who_waits_gets_the_lock_of_who_is_killed(program: Callable[[str], Program], call: str) -> None:
    holder = program(f"{call}(fd, fcntl.LOCK_EX); say('held')")
    assert holder.says() == "held"
    waiters = [program(f"say('waits'); {call}(fd, fcntl.LOCK_EX); say('got it'); os.close(fd)") for _ in range(3)]
    for waiter in waiters:
        assert waiter.says() == "waits"
    time.sleep(0.2)
    holder.kill()
    for waiter in waiters:
        assert waiter.says() == "got it"


@pytest.mark.parametrize("call", ["fcntl.lockf", "fcntl.flock"])
def test_a_wait_ends_with_a_signal(program: Callable[[str], Program], call: str) -> None:
    """A program that waits for a lock can be interrupted and killed."""
    holder = program(f"{call}(fd, fcntl.LOCK_EX); say('held')")
    assert holder.says() == "held"
    waiter = program(f"say('waits')\ntry: {call}(fd, fcntl.LOCK_EX)\nexcept KeyboardInterrupt: say('interrupted')")
    assert waiter.says() == "waits"
    time.sleep(0.2)
    waiter.process.send_signal(signal.SIGINT)
    assert waiter.says() == "interrupted"
    dying = program(f"say('waits'); {call}(fd, fcntl.LOCK_EX)")
    assert dying.says() == "waits"
    time.sleep(0.2)
    dying.kill()
    holder.kill()
    after = program(f"{call}(fd, fcntl.LOCK_EX | fcntl.LOCK_NB); say('free')")
    assert after.says() == "free"


def test_a_deadlock_is_seen(program: Callable[[str], Program]) -> None:
    code = """
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, {mine}); say('held'); sys.stdin.readline()
        try: fcntl.lockf(fd, fcntl.LOCK_EX, 1, {other}); say('got it')
        except OSError as error: say('EDEADLK' if error.errno == errno.EDEADLK else str(error))
        os.close(fd)
        """
    one, two = program(code.format(mine=0, other=1)), program(code.format(mine=1, other=0))
    assert (one.says(), two.says()) == ("held", "held")
    for each in (one, two):
        assert each.process.stdin is not None
        each.process.stdin.write("\n")
        each.process.stdin.flush()
        time.sleep(0.2)
    assert {one.says(), two.says()} == {"got it", "EDEADLK"}


def test_many_waiters_leave_room_for_everybody_else(path: Path, program: Callable[[str], Program]) -> None:
    """Who waits for a lock occupies no thread of the mount: 64 of them are all that there are."""
    holder = program("fcntl.flock(fd, fcntl.LOCK_EX); say('held')")
    assert holder.says() == "held"
    crowd = program(
        """
        import threading
        got = []
        def wait():
            mine = os.open(sys.argv[1], os.O_RDWR)
            fcntl.flock(mine, fcntl.LOCK_EX); got.append(1); os.close(mine)
        threads = [threading.Thread(target=wait) for _ in range(100)]
        for each in threads: each.start()
        time.sleep(1); say('wait')
        for each in threads: each.join()
        say(str(len(got)))
        """
    )
    assert crowd.says() == "wait"
    path.with_name("other").write_text("others go on")
    assert path.with_name("other").read_text() == "others go on"
    holder.end()
    assert crowd.says() == "100"


def test_a_lock_follows_its_file_and_needs_no_name(path: Path, program: Callable[[str], Program]) -> None:
    moving = path.with_name("moving")
    moving.write_text("x")
    one, two = os.open(moving, os.O_RDWR), os.open(moving, os.O_RDWR)
    fcntl.flock(one, fcntl.LOCK_EX)
    moving.rename(path.with_name("moved"))
    assert tries(path.with_name("moved"), call=fcntl.flock) == errno.EWOULDBLOCK
    path.with_name("moved").unlink()
    with pytest.raises(BlockingIOError):
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(one)
    fcntl.flock(two, fcntl.LOCK_EX)
    os.close(two)


def test_a_write_lock_needs_a_descriptor_that_writes(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    fcntl.lockf(fd, fcntl.LOCK_SH)
    with pytest.raises(OSError, match="Bad file descriptor"):
        fcntl.lockf(fd, fcntl.LOCK_EX)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.close(fd)


def test_nothing_is_left(path: Path) -> None:
    wait_until(lambda: (tries(path), tries(path, call=fcntl.flock)) == (0, 0), "all locks are gone", 10)


PLAYER = """
import json
fds = {}
def act(what, slot, kind, start, length, whence):
    if what == "open":
        if slot in fds: return "open"
        fds[slot] = os.open(sys.argv[1], os.O_RDONLY if kind else os.O_RDWR)
    elif slot not in fds: return "closed"
    elif what == "close": os.close(fds.pop(slot))
    elif what == "dup": os.close(os.dup(fds[slot]))
    elif what == "flock": fcntl.flock(fds[slot], [fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN][kind] | fcntl.LOCK_NB)
    else:
        asked = struct.pack("hhqqi4x", kind, whence, start, length, 0)
        os.lseek(fds[slot], 40, os.SEEK_SET)
        if what == "ofd get" and kind == fcntl.F_UNLCK: return "a question about oneself (Linux 6.6), not asked here"
        command = {"get": fcntl.F_GETLK, "set": fcntl.F_SETLK, "ofd get": 36, "ofd set": 37}[what]
        answer = fcntl.fcntl(fds[slot], command, asked)
        if what.endswith("get"):  # which of several that are in the way is told is up to the system
            return "free" if struct.unpack("hhqqi4x", answer)[0] == fcntl.F_UNLCK else "in the way"
    return "done"
say("ready")
for line in sys.stdin:
    try: answer = act(*json.loads(line))
    except OSError as error: answer = errno.errorcode[error.errno]
    say(json.dumps(answer))
"""


def test_processes_see_what_they_see_on_a_local_file_system(path: Path, tmp_path: Path) -> None:
    """Three processes with three descriptors each, on the mount and beside it: the same answers to the same calls."""
    plain = tmp_path / "file"
    plain.write_bytes(bytes(1000))
    sides = [[Program(where, PLAYER) for _ in range(3)] for where in (plain, path)]
    chance = random.Random(4)
    acts = ["open", "close", "dup", "flock", "flock", "get", "set", "set", "ofd get", "ofd set"]
    told = []
    try:
        for side in sides:
            assert [each.says() for each in side] == ["ready"] * 3
        for _ in range(600):
            who, what = chance.randrange(3), chance.choice(acts)
            start, length = chance.randrange(0, 60, 10), chance.choice([0, 10, 10, 20, 50, -10])
            call = [what, chance.randrange(3), chance.randrange(3), start, length, chance.choice([0, 0, 1, 2])]
            answers = []
            for side in sides:
                process = side[who].process
                assert process.stdin is not None
                process.stdin.write(json.dumps(call) + "\n")
                process.stdin.flush()
                answers.append(side[who].says())
            told.append((who, call, answers))
            assert answers[0] == answers[1], "\n".join(map(str, told))
        assert len({answers[0] for _, _, answers in told}) > 5
    finally:
        for side in sides:
            for each in side:
                each.kill()
                for pipe in (each.process.stdin, each.process.stdout):
                    assert pipe is not None
                    pipe.close()
