#: what    LMDB, LevelDB and RocksDB (memory maps, locks, rename of CURRENT): several processes, kill -9, reopen,
#: what    compact, all acknowledged keys are there
#: needs   python:lmdb python:plyvel python:rocksdict
#: limit   300
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

WRITE = """
import sys
kind, first = sys.argv[1], int(sys.argv[2])
if kind == "lmdb":
    import lmdb
    env = lmdb.open("lmdb", map_size=64 << 20, max_dbs=2)
    def put(k, v):
        with env.begin(write=True) as txn: txn.put(k, v)
elif kind == "lmdb-writemap":
    import lmdb
    env = lmdb.open("lmdb-writemap", map_size=64 << 20, writemap=True)
    def put(k, v):
        with env.begin(write=True) as txn: txn.put(k, v)
elif kind == "leveldb":
    import plyvel
    db = plyvel.DB("leveldb", create_if_missing=True, write_buffer_size=64 << 10)
    def put(k, v): db.put(k, v, sync=True)
else:
    import rocksdict
    db = rocksdict.Rdict("rocksdb", rocksdict.Options(raw_mode=True))
    options = rocksdict.WriteOptions()
    options.sync = True
    db.set_write_options(options)
    def put(k, v): db[k] = v
for number in range(first, first + 10**6):
    put(str(number).encode(), (str(number) * 50).encode())
    sys.stdout.write(f"{number}\\n"); sys.stdout.flush()
"""


def count(kind: str) -> dict[bytes, bytes]:
    if kind.startswith("lmdb"):
        import lmdb

        env = lmdb.open(kind, map_size=64 << 20, max_dbs=2)
        with env.begin() as txn:
            found = dict(txn.cursor())
        copy = f"{os.environ['SCRATCH']}/{kind}-{len(found)}"
        os.makedirs(copy)
        env.copy(copy)
        env.close()
    elif kind == "leveldb":
        import plyvel

        db = plyvel.DB("leveldb", paranoid_checks=True)
        found = dict(db.iterator())
        db.compact_range()
        db.close()
    else:
        import rocksdict

        db = rocksdict.Rdict("rocksdb", rocksdict.Options(raw_mode=True))
        found = dict(db.items())
        db.close()
    return found


for kind in ("lmdb", "lmdb-writemap", "leveldb", "rocksdb"):
    acknowledged: set[int] = set()
    for round_number in range(3):
        ways = 2 if kind.startswith("lmdb") else 1
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITE, kind, str((round_number * 2 + way) * 10**7)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for way in range(ways)
        ]
        time.sleep(2.5)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            out = writer.communicate()[0]
            acknowledged.update(int(line) for line in out.splitlines()[: out.count("\n")])
        found = count(kind)
        missing = {n for n in acknowledged if found.get(str(n).encode()) != (str(n) * 50).encode()}
        assert not missing, (kind, len(missing), len(acknowledged))
    assert len(acknowledged) > 5, (kind, len(acknowledged))
    print(kind, "ok")
    print(len(acknowledged), file=open(os.environ["SCRATCH"] + "/n-" + kind, "w"))
