"""`python -m tests.fuzz [--seconds N] [--seed N] [DOOR...]`: each door for so long, with real processes; ends at the first finding.

Doors: parsers, lane, peer-lane, server, mount, mount-token (what their OpenAPI says), raw-server, raw-mount, raw-mount-token (bytes),
dialling-mount, dialling-server (a hostile server that they call).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gdah_drill.cluster import Cluster, Mount
from tests.fuzz import parsers
from tests.fuzz.dialled import Dialled
from tests.fuzz.doors import Door, knock_for
from tests.fuzz.lane import Lane
from tests.fuzz.web import Published, Raw

TOKEN = "t" * 32


def with_token(cluster: Cluster) -> Mount:
    """A mount whose page is not on loopback alone, so that it wants a token."""
    file = cluster.folder / "token"
    file.write_text(TOKEN)
    mount = Mount(cluster, "two", cluster.servers)
    cluster.mounts.append(mount)
    return mount.start("--token-file", str(file), "--status-addr", f"0.0.0.0:{mount.port}")


def _web(kind: type[Published | Raw], name: str, cluster: Cluster) -> Door:
    server = cluster.start_servers()[0]
    if name.endswith("server"):
        return kind(name, server, server)
    if name.endswith("token"):
        return kind(name, with_token(cluster), server, TOKEN)
    return kind(name, cluster.mount(), server)


@contextmanager
def opened(name: str, folder: Path) -> Iterator[Door]:
    """The door of that name, with the processes behind it; closed, with their logs checked, at the end."""
    with ExitStack() as stack:
        if name == "parsers":
            yield parsers.make(folder)
            return
        cluster = stack.enter_context(Cluster(folder, 1))
        if name in ("lane", "peer-lane"):
            yield Lane(cluster.start_servers()[0], peer=name == "peer-lane")
        elif name.startswith("dialling"):
            door = Dialled(name)
            stack.callback(door.close)
            urls = [impostor.url for impostor in door.impostors]
            if name == "dialling-server":
                door.aim(cluster.servers[0].start(*(argument for url in urls for argument in ("--peer", url))))
            else:
                cluster.start_servers()
                door.aim(cluster.mount("one", None, *(argument for url in urls for argument in ("--server", url))))
            yield door
        else:
            yield _web(Raw if name.startswith("raw") else Published, name, cluster)


NAMES = (
    "parsers",
    "lane",
    "peer-lane",
    "server",
    "mount",
    "mount-token",
    "raw-server",
    "raw-mount",
    "raw-mount-token",
    "dialling-mount",
    "dialling-server",
)


def main(argv: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each door")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("doors", nargs="*", choices=[*NAMES, []], metavar="DOOR")
    flags = parser.parse_args(argv)
    for name in flags.doors or NAMES:
        began = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="gdah-fuzz-", ignore_cleanup_errors=True) as folder,
            opened(name, Path(folder)) as door,
        ):
            knock_for(door, flags.seed, flags.seconds)
            say(
                f"{name:16} seed {flags.seed}: {door.tried:7} inputs in {time.monotonic() - began:.0f} s, nothing found"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
