#: what    all journal modes (delete, truncate, persist, memory, wal, off): four writers and a reader, one writer
#: what    killed with -9 again and again; integrity, nothing acknowledged lost; vacuum, backup API and CLI
#: needs   python:sqlite3 sqlite3
#: limit   300
"""A row is acknowledged by a line in a pipe after its commit; each acknowledged row must be there."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

WRITER = """
import sqlite3, sys
path, mode, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
db = sqlite3.connect(path, isolation_level=None, timeout=60)
db.execute(f"PRAGMA journal_mode={mode}")
db.execute("PRAGMA synchronous=NORMAL")
number = first
while True:
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO t VALUES (?, ?)", (number, str(number) * (number % 300)))
    db.execute("UPDATE counts SET n = n + 1")
    db.execute("COMMIT")
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
"""


def writers(path: str, mode: str, kills: int, seconds: float) -> set[int]:
    acknowledged: set[int] = set()
    first = 0
    running: list[subprocess.Popen[str]] = []

    def begin() -> None:
        nonlocal first
        first += 1_000_000
        argv = [sys.executable, "-c", WRITER, path, mode, str(first)]
        running.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))

    def end(one: subprocess.Popen[str]) -> None:
        one.send_signal(signal.SIGKILL)
        out, _ = one.communicate()
        acknowledged.update(
            int(line) for line in out.splitlines() if out.endswith("\n") or line != out.splitlines()[-1]
        )
        running.remove(one)

    for _ in range(4):
        begin()
    for _ in range(kills):
        time.sleep(seconds)
        check = sqlite3.connect(path, timeout=60)
        assert check.execute("PRAGMA quick_check").fetchone()[0] == "ok"
        check.close()
        end(random.Random(len(acknowledged)).choice(running))
        begin()
    while running:  # `end` takes it out
        end(running[0])
    return acknowledged


def main() -> None:
    for mode in ("delete", "truncate", "persist", "wal"):
        path = f"{mode}.db"
        db = sqlite3.connect(path)
        db.execute(f"PRAGMA journal_mode={mode}")
        db.executescript(
            "CREATE TABLE t (n INTEGER PRIMARY KEY, x TEXT); CREATE TABLE counts (n); INSERT INTO counts VALUES (0)"
        )
        db.close()
        acknowledged = writers(path, mode, 4, 0.7)
        db = sqlite3.connect(path)
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok", mode
        there = {row[0] for row in db.execute("SELECT n FROM t")}
        assert acknowledged <= there, f"{mode}: {len(acknowledged - there)} acknowledged rows are lost"
        assert db.execute("SELECT n FROM counts").fetchone()[0] == len(there), mode
        assert len(acknowledged) > 20, len(acknowledged)
        db.execute("VACUUM")
        copy = sqlite3.connect(f"{mode}.copy")
        db.backup(copy)
        assert copy.execute("SELECT count(*) FROM t").fetchone()[0] == len(there)
        copy.close()
        db.close()
        subprocess.run(
            ["sqlite3", path, f".backup {mode}.backup", f".clone {mode}.clone"], check=True, stdout=subprocess.DEVNULL
        )
        answer = subprocess.run(
            ["sqlite3", f"{mode}.backup", "PRAGMA integrity_check; SELECT count(*) FROM t"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert answer.stdout.split() == ["ok", str(len(there))], answer.stdout
        print(mode, "ok", sorted(name for name in os.listdir() if name.startswith(mode)))
        print(len(acknowledged), "acknowledged", file=open(os.environ["SCRATCH"] + "/" + mode, "w"))
    for mode in ("memory", "off"):  # these promise nothing after a kill
        db = sqlite3.connect(f"{mode}.db", isolation_level=None)
        print(db.execute(f"PRAGMA journal_mode={mode}").fetchone())
        db.execute("PRAGMA mmap_size=100000000")
        db.execute("CREATE TABLE t (n)")
        for number in range(100):
            db.execute("INSERT INTO t VALUES (?)", (number,))
        print(mode, db.execute("PRAGMA integrity_check").fetchone(), db.execute("SELECT sum(n) FROM t").fetchone())
        db.close()


main()
