"""`gdah`: what a person asks of a mount from a terminal. Stands above all layers; asks the mount over HTTP.

Exit codes: 0 done, 1 it did not work, 2 wrong usage, 3 done, but some changes are only on this device.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gdah_volume.errors import GdahError, InvalidArgument, NotFound, Unreachable
from gdah_volume.ids import DEFAULT_VOLUME
from gdah_volume.settings import read_token
from mountfs import registry
from mountfs.fuse import mountpoint
from mountfs.registry import MountRecord
from mountfs.tools import tool_flush, tool_offline, tool_up
from mountfs.tools.tool_client import MountClient, choose
from mountfs.tools.tool_words import printable

OK, FAILED, USAGE, ONLY_HERE = 0, 1, 2, 3
FLUSH_ONCE_S = 30.0
UNMOUNT_LIMIT_S = 120.0
BRAKE_LIMIT_S = 3600.0
"""Bringing back very many files takes its time."""

_ERRNO = re.compile(r"\[Errno -?\d+\] ")

Command = Callable[[argparse.Namespace], int]


def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    run: Command = flags.run
    try:
        return run(flags)
    except InvalidArgument as error:
        print(f"gdah: {error}", file=sys.stderr)
        return USAGE
    except (GdahError, OSError) as error:
        print(f"gdah: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return OK


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="gdah",
        description="Ask a gdah mount how it is, hand over what is only here, unmount.",
        epilog="Without DIR and --status-addr the one mount that runs is meant. "
        "Mounting is done by gdah-mount, serving by storage-server; 'gdah up' does all of it on this machine.",
    )
    command.add_argument("--version", action="version", version=f"gdah {_version()}")
    commands = command.add_subparsers(title="commands", required=True, metavar="COMMAND")
    status = _command(commands, "status", status_of, "how the mount is: connection, copies, pending, servers")
    status.add_argument("--json", action="store_true", help="everything that it knows, as JSON")
    pending = _command(commands, "pending", pending_of, "changes that not every server has yet")
    pending.add_argument("--json", action="store_true", help="as JSON")
    conflicts = _command(commands, "conflicts", conflicts_of, "files that two sides changed at once")
    conflicts.add_argument("--json", action="store_true", help="as JSON")
    flush = _command(commands, "flush", flush_of, "hand over what is only on this device")
    flush.add_argument("--wait", action="store_true", help="as long as it takes, until every server has it")
    brake = _command(commands, "brake", brake_of, "deletions that are held until somebody confirms them")
    brake.add_argument("--json", action="store_true", help="as JSON")
    decision = brake.add_mutually_exclusive_group()
    decision.add_argument("--confirm", action="store_true", help="they are meant: let them go to the other devices")
    decision.add_argument("--discard", action="store_true", help="they are not: bring the files back")
    unmount = _command(commands, "unmount", unmount_of, "hand over, say what is still only here, unmount")
    unmount.add_argument("--force", action="store_true", help="end a mount that does not answer; nothing is lost")
    retire = commands.add_parser("retire", help="take a server out of a volume for good")
    retire.add_argument("target", metavar="URL_OR_ID", help="the server that goes")
    retire.add_argument("--server", required=True, metavar="URL", help="one that stays")
    retire.add_argument("--volume", default=DEFAULT_VOLUME, metavar="NAME", help="(default %(default)s)")
    retire.add_argument("--force", action="store_true", help="also the only other one that has everything")
    retire.add_argument("--token-file", metavar="FILE", default=os.environ.get("GDAH_TOKEN_FILE"))
    retire.set_defaults(run=retire_of)
    up = commands.add_parser("up", help="two servers and a mount on this machine, until Ctrl-C")
    up.add_argument("--dir", default="./test_chamber", metavar="DIR", help="the folder (default ./test_chamber)")
    up.add_argument("--data", default=".gdah", metavar="DIR", help="where servers and cache keep theirs (.gdah)")
    up.add_argument("--status-addr", default=registry.DEFAULT_STATUS_ADDR, metavar="HOST:PORT", help="of the page")
    up.add_argument("--ports", default="7001,7002", metavar="A,B", help="of the servers (default 7001,7002)")
    up.set_defaults(run=up_of)
    tool_offline.add_parsers(commands)
    return command


def _command(commands: Any, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    made.add_argument("dir", nargs="?", metavar="DIR", help="the mounted folder")
    made.add_argument("--status-addr", metavar="HOST:PORT", default=os.environ.get("GDAH_STATUS_ADDR"))
    made.add_argument("--token-file", metavar="FILE", default=os.environ.get("GDAH_TOKEN_FILE"))
    made.set_defaults(run=run)
    return made


def _client(flags: argparse.Namespace) -> MountClient:
    url, _ = choose(flags.dir, flags.status_addr)
    return MountClient(url, read_token(flags.token_file))


# --- asking


def status_of(flags: argparse.Namespace) -> int:
    with _client(flags) as client:
        status = client.get("/status")
    if flags.json:
        print(json.dumps(status, indent=2))
    else:
        print("\n".join(status_lines(status, client.url)))
    return OK


def status_lines(status: dict[str, Any], url: str) -> list[str]:
    """The state for people, one fact a line."""
    pending = status.get("pending", {})
    connected = f"yes, to {status.get('server')}" if status.get("connected") else "no server answers"
    lines = [
        f"folder     {printable(str(status.get('mount') or status.get('volume') or '?'))}",
        f"connected  {connected} ({status.get('why', '')})",
        f"copies     {status.get('copies', '?')}",
        f"pending    {_pending_words(pending)}",
        *_held_lines(status.get("held", {})),
        f"conflicts  {_count(status.get('conflicts', 0))}",
        f"cache      {size_words(status.get('cache', {}).get('bytes', 0))}",
        f"page       {url}",
    ]
    for server in status.get("servers", ()):
        error = _ERRNO.sub("", printable(str(server.get("last_error") or "no answer")))
        health = "healthy" if server.get("healthy") else f"DOWN ({error})"
        latency = f", {server['latency_ms']:.1f} ms" if server.get("healthy") and server.get("latency_ms") else ""
        used = ", in use" if server.get("url") == status.get("server") else ""
        lines.append(f"server     {server.get('url')}  {health}{latency}{used}")
    return lines


def _pending_words(pending: dict[str, Any]) -> str:
    count = pending.get("operations", 0)
    if not count:
        behind = pending.get("not_everywhere_operations", 0)
        return f"nothing only here; {behind} changes are not on every server yet" if behind else "nothing"
    words = (
        f"{count} changes, {size_words(pending.get('bytes', 0))}, the oldest {age_words(pending['oldest_age_s'])} old"
    )
    if pending.get("last_error"):
        words += f" (tried {pending.get('tries', '?')} times: {printable(str(pending['last_error']))})"
    return words


def _held_lines(held: dict[str, Any]) -> list[str]:
    if not held.get("operations"):
        return []
    return [f"HELD       {_held_words(held)}; see: gdah brake"]


def _held_words(held: dict[str, Any]) -> str:
    count, deletions = held.get("operations", 0), held.get("deletions", 0)
    what = f"{deletions} deletions" if count == deletions else f"{count} changes, {deletions} of them deletions"
    return f"{what}, held for {age_words(held.get('age_s') or 0)} ({held.get('why')})"


def pending_of(flags: argparse.Namespace) -> int:
    with _client(flags) as client:
        answer = client.get("/api/pending", limit=100_000)
    if flags.json:
        print(json.dumps(answer, indent=2))
        return OK
    for item in answer["items"]:
        to = f" -> {printable(item['dest'])}" if "dest" in item else ""
        size = f"  {size_words(item['bytes'])}" if item["bytes"] else ""
        error = f"  ({printable(item['last_error'])})" if item["last_error"] else ""
        print(f"{_clock(item['time_ms'])}  {item['type']:<8}  {printable(item['path'])}{to}{size}{error}")
    if not answer["items"]:
        with _client(flags) as client:
            print(f"pending: {_pending_words(client.get('/status').get('pending', {}))}")
    return OK


def conflicts_of(flags: argparse.Namespace) -> int:
    with _client(flags) as client:
        answer = client.get("/api/conflicts", limit=100_000)
    if flags.json:
        print(json.dumps(answer, indent=2))
        return OK
    for item in answer["items"]:
        print(f"{_clock(item['mtime_ms'])}  {size_words(item['size']):>9}  {printable(item['path'])}")
    if answer["items"]:
        print("Both versions are kept. Compare them, then delete or rename one, as any file.")
    else:
        print("no conflicts")
    return OK


# --- doing


def flush_of(flags: argparse.Namespace) -> int:
    with _client(flags) as client:
        if flags.wait:
            held = tool_flush.wait(client).get("held", {}).get("operations", 0)
            print(f"every change from this device is on every server{_but_held(held)}")
            return OK
        try:
            done = client.post("/api/flush", timeout_s=FLUSH_ONCE_S, limit_s=FLUSH_ONCE_S + 15)
        except Unreachable as error:
            pending = client.get("/status").get("pending", {})  # raises if the mount itself is gone
            print(f"gdah: {error}; still only here: {_pending_words(pending)}", file=sys.stderr)
            return ONLY_HERE
        print(f"every change from this device is on a server{_but_held(done.get('held', 0))}")
        return OK


def _but_held(held: int) -> str:
    return f", but for {held} that the brake holds; see: gdah brake" if held else ""


def brake_of(flags: argparse.Namespace) -> int:
    with _client(flags) as client:
        if flags.confirm or flags.discard:
            done = client.post("/api/brake", do="confirm" if flags.confirm else "discard", limit_s=BRAKE_LIMIT_S)
        held = client.get("/status").get("held", {})
    if flags.json:
        print(json.dumps(held, indent=2))
    elif flags.confirm:
        print(f"confirmed: {done['operations']} changes go to the servers" if done["operations"] else "nothing is held")
    elif flags.discard:
        print(f"{done['operations']} deletions were taken back" if done["operations"] else "nothing is held")
    else:
        print("\n".join(brake_lines(held)))
    return OK


def brake_lines(held: dict[str, Any]) -> list[str]:
    """What the brake holds, where, and what to do about it."""
    limits = held.get("limits", {})
    if not held.get("operations"):
        if not limits.get("count"):
            return ["nothing is held: the brake is off (--brake-count 0)"]
        share = f", or {limits['share']:g} % of all" if limits.get("share") else ""
        return [f"nothing is held; the limit is {limits['count']} deletions in {limits['window_s']:g} s{share}"]
    folders = [(folder["deletions"], printable(folder["path"])) for folder in held.get("folders", ())]
    return [
        f"held       {_held_words(held)}",
        *(f"           {deletions:>8}  {path or '(the top)'}" for deletions, path in folders),
        "They are done on this device only; the servers and the other devices still have these files.",
        "Meant?     gdah brake --confirm   lets them go to the others",
        "Not meant? gdah brake --discard   brings the files back",
    ]


def unmount_of(flags: argparse.Namespace) -> int:
    if flags.dir is None:
        url, record = choose(None, flags.status_addr)
        if record is None:
            with MountClient(url, read_token(flags.token_file)) as client:
                return _left(client.post("/api/unmount", limit_s=UNMOUNT_LIMIT_S), None)
        return _unmount(record, flags)
    known = registry.find(flags.dir)
    if known is not None and known.alive:
        return _unmount(known, flags)
    return _take_away(Path(registry.absolute(flags.dir)), known)


def _unmount(record: MountRecord, flags: argparse.Namespace) -> int:
    left: dict[str, Any] = {}
    try:
        if not record.status_url:
            raise Unreachable("it has no status address")
        with MountClient(record.status_url, read_token(flags.token_file)) as client:
            left = client.post("/api/unmount", limit_s=UNMOUNT_LIMIT_S)
    except Unreachable as error:
        if not flags.force and record.status_url:
            raise Unreachable(
                f"{error}; end it with 'gdah unmount --force {record.directory}', nothing is lost"
            ) from error
        os.kill(record.pid, signal.SIGKILL if flags.force else signal.SIGTERM)
    deadline = time.monotonic() + UNMOUNT_LIMIT_S
    while record.alive:
        if time.monotonic() > deadline:
            raise Unreachable(
                f"the mount on {record.directory} (pid {record.pid}) has not ended within {UNMOUNT_LIMIT_S:.0f} s; "
                f"'gdah unmount --force {record.directory}' ends it, nothing is lost"
            )
        time.sleep(0.05)
    if mountpoint.is_mounted(Path(record.directory)):
        return _take_away(Path(record.directory), record)
    print(f"{record.directory} is unmounted")
    return _left(left, record)


def _left(left: dict[str, Any], record: MountRecord | None) -> int:
    """`left`: the mount's answer when it ended."""
    pending, held = left.get("pending", 0), left.get("held", 0)
    where = f" in {record.cache_dir}" if record and record.cache_dir else ""
    if pending:
        print(
            f"{pending} changes are only on this device; they are kept{where} and handed over after the next mount",
            file=sys.stderr,
        )
    if held:
        print(
            f"{held} changes are held by the brake on deletions; they are kept{where}: mount again, then decide with"
            " gdah brake --confirm or gdah brake --discard",
            file=sys.stderr,
        )
    return ONLY_HERE if pending or held else OK


def _take_away(path: Path, record: MountRecord | None) -> int:
    """What a mount that died left: the kernel still has it, and every call there says ENOTCONN."""
    found = mountpoint.find_mount(path)
    if found is None:
        registry.unregister(path)
        if record is not None:
            print(f"{path} was not mounted any more")
            return OK
        raise NotFound(f"nothing is mounted on {path}")
    if not found.type.startswith("fuse"):
        raise InvalidArgument(f"{path} is a mount of another kind ({found.type}); unmount it with: umount {path}")
    if mountpoint.probe(path) == "alive":
        raise NotFound(f"gdah has no mount on {path}; somebody else's is there, try: fusermount -u {path}")
    mountpoint.unmount(path, lazy=True)
    registry.unregister(path)
    print(f"{path} is unmounted; its mount had died, and what it had not handed over goes on with the next mount")
    return OK


def retire_of(flags: argparse.Namespace) -> int:
    from mountfs.tools import tool_retire  # noqa: PLC0415 - of no use to the others

    tool_retire.retire(flags.server, flags.volume, flags.target, read_token(flags.token_file), force=flags.force)
    print(f"{flags.target} is retired: nobody waits for it any more; what only it has is taken over when it comes back")
    return OK


def up_of(flags: argparse.Namespace) -> int:
    directory, data = Path(registry.absolute(flags.dir)), Path(flags.data).absolute()
    wanted = tool_up.Wanted(directory, data, flags.status_addr, tool_up.parse_ports(flags.ports))
    return tool_up.Up(wanted, tool_up.Terminal(sys.stdout)).run()


# --- words


def size_words(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def age_words(seconds: float) -> str:
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def _clock(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000).strftime("%Y-%m-%d %H:%M:%S")


def _count(value: Any) -> int:
    return len(value) if isinstance(value, list) else int(value or 0)


def _version() -> str:
    try:
        return version("gdah")
    except PackageNotFoundError:
        return "(from its source folder)"


if __name__ == "__main__":
    sys.exit(main())
