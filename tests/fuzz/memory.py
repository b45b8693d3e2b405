"""`python -m tests.fuzz.memory [--rounds N] [--inputs N] [--seed N]`: resident memory of a server and a mount while wrong input arrives.

Round after round of the same kind of load; after each the memory is read. What grows with the rounds is a leak; a plateau is none. Also
connections that open and never speak, and readers that subscribe and never read.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import tempfile
from pathlib import Path

from websockets.sync.client import connect

from gdah_drill.cluster import VOLUME, Cluster, Node
from gdah_drill.waiting import wait_until
from gdah_volume.wire import Subscribe, encode
from tests.fuzz.doors import Door, knock
from tests.fuzz.lane import Lane, hello
from tests.fuzz.web import Raw
from tests.server.lane_client import LaneClient

MUTE = 400
SLOW = 20
MIB = 1 << 20


def rss_mib(node: Node) -> float:
    with open(f"/proc/{node.process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def descriptors(node: Node) -> int:
    return len(list(Path(f"/proc/{node.process.pid}/fd").iterdir()))


def rounds(door: Door, node: Node, count: int, times: int, seed: int) -> None:
    figures = [rss_mib(node)]
    for number in range(count):
        knock(door, seed + number, times=times)
        figures.append(rss_mib(node))
    print(
        f"{door.name:12} {door.tried:6} inputs, MiB: {' '.join(f'{each:.0f}' for each in figures)}; {descriptors(node)} descriptors",
        flush=True,
    )


def mute(node: Node, limit: float) -> None:
    """Connections that say nothing, and some that say half a request: they cost little, and others are served."""
    before, files = rss_mib(node), descriptors(node)
    with contextlib.ExitStack() as stack:
        for number in range(MUTE):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", node.port), 10))
            with contextlib.suppress(OSError):
                one.sendall(b"PUT /x HTTP/1.1\r\nContent-Le" if number % 2 else b"")
        status = node.get("/healthz").status_code
        print(
            f"{node.name}: {MUTE} mute connections: {before:.0f} to {rss_mib(node):.0f} MiB, another one gets {status}",
            flush=True,
        )
    wait_until(lambda: descriptors(node) <= files + 5, "their descriptors are closed", limit)


def slow_readers(node: Node) -> None:
    """Feeds that nobody takes: the server drops them, and does not keep what they have not read."""
    before = rss_mib(node)
    with contextlib.ExitStack() as stack:
        for _ in range(SLOW):
            address = f"ws{node.url[4:]}/v1/volumes/{VOLUME}/lane"
            one = stack.enter_context(
                connect(address, compression=None, proxy=None, ping_interval=None, close_timeout=0.1, max_queue=1)
            )
            one.send(encode(hello()))
            one.send(encode(Subscribe(cursor=0, blobs=True)))
        with LaneClient(node.url, subscribe=False) as writer:
            for number in range(300):
                writer.create(b"slow-%d" % number, b"%05d" % number * 12_000, strict=False)
                if number % 100 == 99:
                    print(
                        f"{node.name}: {SLOW} readers that do not read, {(number + 1) * 60_000 / MIB:.0f} MiB written: {before:.0f} to {rss_mib(node):.0f} MiB",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.memory", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=300, help="in each round")
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gdah-fuzz-") as folder, Cluster(Path(folder), 1) as cluster:
        server = cluster.start_servers()[0]
        mount = cluster.mount()
        rounds(Lane(server), server, flags.rounds, flags.inputs, flags.seed)
        rounds(Raw("raw-server", server, server), server, flags.rounds, flags.inputs, flags.seed)
        rounds(Raw("raw-mount", mount, server), mount, flags.rounds, flags.inputs, flags.seed)
        mute(server, 60)
        mute(mount, 60)
        slow_readers(server)


if __name__ == "__main__":
    main()
