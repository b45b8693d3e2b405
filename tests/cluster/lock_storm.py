"""Counters under locks on two mounts while servers are killed and stopped at random; by hand, not in the test run.

    python -m tests.cluster.lock_storm [SECONDS] [SEED]

Two processes on each mount add one to a number, under fcntl.lockf or flock, and one adds to a table of an SQLite
database. One server at a time is killed with -9 and started again, or stopped and continued, and the next one not
before both are joined again and seen by both mounts. At the end the number must be the sum of what the processes say
that they did: no increment is lost, and there is no conflict copy.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gdah_drill.cluster import Cluster, Mount, Server
from gdah_drill.waiting import wait_until

WORKER = """
import fcntl, os, sys, time
path, kind, until = sys.argv[1], sys.argv[2], float(sys.argv[3])
lock = fcntl.lockf if kind == "posix" else fcntl.flock
done = longest = 0
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
while time.time() < until:
    began = time.monotonic()
    lock(fd, fcntl.LOCK_EX)
    try:
        number = int(os.pread(fd, 100, 0) or b"0")
    except OSError:  # no server could be reached at this moment, and only one had what the other mount wrote
        lock(fd, fcntl.LOCK_UN)
        continue
    os.pwrite(fd, b"%d" % (number + 1), 0)
    lock(fd, fcntl.LOCK_UN)
    done += 1
    longest = max(longest, time.monotonic() - began)
print(done, round(longest, 2))
"""


DATABASE = """
import sqlite3, sys, time
path, name, until = sys.argv[1], sys.argv[2], float(sys.argv[3])
base = sqlite3.connect(path, timeout=60, isolation_level=None)
done = longest = 0
while time.time() < until:
    began = time.monotonic()
    base.execute("BEGIN IMMEDIATE")
    base.execute("UPDATE counter SET number = number + 1")
    base.execute("INSERT INTO made VALUES (?, ?)", (name, done))
    base.execute("COMMIT")
    done += 1
    longest = max(longest, time.monotonic() - began)
print(done, round(longest, 2))
"""


def database(mount: Mount, until: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", DATABASE, str(mount.root / "base.db"), mount.name, str(until)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def in_database(mount: Mount) -> tuple[str, int, int]:
    base = sqlite3.connect(mount.root / "base.db")
    (health,), (number,), (rows,) = (
        base.execute(question).fetchone()
        for question in (
            "PRAGMA integrity_check",
            "SELECT number FROM counter",
            "SELECT count(DISTINCT name || number) FROM made",
        )
    )
    base.close()
    return health, number, rows


def worker(mount: Mount, kind: str, until: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", WORKER, str(mount.root / f"count-{kind}"), kind, str(until)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def disturb(chance: random.Random, server: Server) -> str:
    if chance.random() < 0.5:
        server.kill9()
        time.sleep(chance.uniform(0.2, 4.0))
        server.start()
        return f"kill -9 {server.name}"
    server.stop()
    time.sleep(chance.uniform(0.1, 4.0))
    server.cont()
    return f"stopped {server.name}"


def joined(cluster: Cluster) -> bool:
    """And seen by the mounts: else reading what is only on the other one may fail."""
    peers = [peer["state"] == "joined" for server in cluster.servers for peer in server.volume()["peers"]]
    return all(peers) and all(seen["healthy"] for mount in cluster.mounts for seen in mount.status()["servers"])


def storm(folder: Path, seconds: float, seed: int) -> bool:
    chance = random.Random(seed)
    with Cluster(folder, servers=2) as cluster:
        a, b = cluster.start_servers()
        mounts = [cluster.mount("one", [a, b]), cluster.mount("two", [b, a])]
        base = sqlite3.connect(mounts[0].root / "base.db")
        base.executescript("CREATE TABLE counter (number); INSERT INTO counter VALUES (0)")
        base.executescript("CREATE TABLE made (name, number)")
        base.close()
        until = time.time() + seconds
        workers = [
            (kind, worker(mount, kind, until)) for kind in ("posix", "flock") for mount in mounts for _ in (1, 2)
        ]
        workers += [("sqlite", database(mount, until)) for mount in mounts]
        disturbed: list[str] = []
        while time.time() < until - 8:
            time.sleep(chance.uniform(0.5, 3.0))
            disturbed.append(disturb(chance, chance.choice(cluster.servers)))
            wait_until(lambda: joined(cluster), "the servers are joined", 60)
        done = {"posix": 0, "flock": 0, "sqlite": 0}
        longest = 0.0
        for kind, each in workers:
            words = each.communicate(timeout=120)[0].split()
            done[kind] += int(words[0])
            longest = max(longest, float(words[1]))
        cluster.wait_settled()
        whole = True
        for kind, times in done.items():
            if kind == "sqlite":
                shown = [in_database(mount) for mount in mounts]
                whole = whole and shown == [("ok", times, times)] * 2
                print(f"sqlite: {times} transactions, the database says {shown}")
                continue
            found = [int(mount.hands.read(f"count-{kind}")) for mount in mounts]
            whole = whole and found == [times, times]
            print(f"{kind}: {times} increments, the number is {found}")
        names = [name for name in mounts[0].hands.listdir() if "(conflict" in name]
        print(f"{len(disturbed)} disturbances, longest increment {longest} s, conflict copies {names}")
        print(*(mount.status()["locks"] for mount in mounts), *(s.volume()["locks"] for s in (a, b)), sep="\n")
        return whole and not names


if __name__ == "__main__":
    length = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    start = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    print("seed", start)
    with tempfile.TemporaryDirectory() as place:
        sys.exit(0 if storm(Path(place), length, start) else 1)
