"""`gdah fsck`: is a server's data folder, or a mount's cache folder, sound? Puts the parts together and speaks with
people; the checks are in `gdah_volume.fsck` and `tool_fsck_mount`.

Exit codes: 0 sound (or mended), 1 damage, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from gdah_volume.errors import GdahError, InvalidArgument
from gdah_volume.findings import Report
from gdah_volume.fsck import Checked, check_replica, compare_with_peer
from gdah_volume.fsck_repair import NotMended, in_use, mend_server, owned
from gdah_volume.ids import check_volume
from gdah_volume.layout import MOUNT_DATABASE, VOLUMES, Place, of_mount, of_server
from gdah_volume.settings import read_token
from mountfs import registry
from mountfs.tools.tool_fsck_mount import check_mount, mend_mount
from mountfs.tools.tool_peer import PeerClient
from mountfs.tools.tool_words import printable

SOUND, DAMAGED = 0, 1
SHOW_S = 0.2


def run(flags: argparse.Namespace) -> int:
    if flags.data and (flags.dir or flags.cache_dir):
        raise InvalidArgument("either a server (--data) or a mount (DIR or --cache-dir), not both")
    places = _servers(flags) if flags.data else _mounts(flags)
    results = [_one(place, flags, is_server=bool(flags.data)) for place in places]
    if flags.json:
        print(json.dumps({place.volume: report.as_dict() for place, report in zip(places, results, strict=True)}))
    return SOUND if all(report.sound for report in results) else DAMAGED


def _servers(flags: argparse.Namespace) -> list[Place]:
    data = Path(flags.data).absolute()
    if not (data / VOLUMES).is_dir():
        raise InvalidArgument(f"{data} is no data folder of a server: it has no folder {VOLUMES}")
    names = (
        [flags.volume] if flags.volume else sorted(path.name for path in (data / VOLUMES).iterdir() if path.is_dir())
    )
    if flags.volume and not (data / VOLUMES / check_volume(flags.volume)).is_dir():
        raise InvalidArgument(f"there is no volume {flags.volume!r} in {data}")
    return [of_server(data, check_volume(name)) for name in names]


def _mounts(flags: argparse.Namespace) -> list[Place]:
    folder = Path(flags.cache_dir).absolute() if flags.cache_dir else _cache_of(flags.dir)
    if not folder.is_dir():
        raise InvalidArgument(f"there is no folder {folder}; give the mount's with --cache-dir")
    names = [flags.volume] if flags.volume else sorted(path.parent.name for path in folder.glob(f"*/{MOUNT_DATABASE}"))
    if not names:
        raise InvalidArgument(f"{folder} is no cache folder of a mount: it has no VOLUME/{MOUNT_DATABASE}")
    return [of_mount(folder, check_volume(name)) for name in names]


def _cache_of(directory: str | None) -> Path:
    if directory is None:
        known = [record for record in registry.mounts() if record.cache_dir]
        if len(known) != 1:
            raise InvalidArgument(
                "say what to check: --data DIR of a server, the folder of a mount, or --cache-dir DIR"
            )
        return Path(known[0].cache_dir)
    record = registry.find(directory)
    if record is None or not record.cache_dir:
        raise InvalidArgument(f"gdah knows no mount on {directory}; give its folder with --cache-dir DIR")
    return Path(record.cache_dir)


def _one(place: Place, flags: argparse.Namespace, *, is_server: bool) -> Report:
    """Check, mend if that is wanted, check again."""
    with ExitStack() as stack:
        peer = None
        if flags.peer:
            peer = PeerClient(flags.peer, place.volume, read_token(flags.token_file))
            stack.callback(peer.close)
        return _checked_and_mended(place, flags, peer, is_server=is_server)


def _checked_and_mended(place: Place, flags: argparse.Namespace, peer: PeerClient | None, *, is_server: bool) -> Report:
    say = _Words(place, quiet=flags.json)
    running = in_use(place)
    if running and flags.repair:
        raise InvalidArgument(
            f"{place.folder} is in use; stop its {'server' if is_server else 'mount'} before --repair"
        )
    checked = _check(place, say, is_server=is_server)
    if peer is not None:
        try:
            compare_with_peer(checked.report, peer.status(), place.volume, flags.peer)
        except GdahError as error:
            checked.report.note("peer.silent", str(error))
    if running:
        say.line("it is in use: what is looked at is its state of this moment")
    say.findings(checked.report)
    if not flags.repair or (checked.report.sound and not checked.chunks.strangers and not checked.chunks.partial):
        return say.verdict(checked.report)
    try:
        with owned(place):
            done = mend_server(place, checked, peer, say.progress) if is_server else mend_mount(place, checked)
    except NotMended as error:
        for line in error.done:
            say.line(f"mended: {line}")
        say.line(f"not mended: {error}")
        done = []
    for line in done:
        say.line(f"mended: {line}")
    say.line("looking again")
    again = _check(place, say, is_server=is_server)
    say.findings(again.report)
    return say.verdict(again.report)


def _check(place: Place, say: _Words, *, is_server: bool) -> Checked:
    if is_server:
        return check_replica(place, Report(), say.progress, is_server=True)
    return check_mount(place, say.progress)


class _Words:
    """On a terminal a line of progress, five times a second."""

    def __init__(self, place: Place, *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._place = place
        self._quiet = quiet
        self._clock = clock
        self._shown_at = float("-inf")
        self._began = clock()
        self._tty = sys.stderr.isatty()

    def progress(self, what: str) -> None:
        if self._tty and self._clock() - self._shown_at > SHOW_S:
            self._shown_at = self._clock()
            sys.stderr.write(f"\r\x1b[K{self._place.volume}: {what}")

    def line(self, text: str) -> None:
        if self._tty:
            sys.stderr.write("\r\x1b[K")
        if not self._quiet:
            print(printable(f"{self._place.volume}: {text}"), flush=True)

    def findings(self, report: Report) -> None:
        for text in report.lines():
            self.line(text)

    def verdict(self, report: Report) -> Report:
        facts = report.facts
        figures = f"{facts.get('operations', '?')} operations, {facts.get('chunks', 0)} chunks"
        anew = f", {facts['folded_anew']} folded anew from {facts['folded_from']}" if facts.get("folded_from") else ""
        state = "sound" if report.sound else f"DAMAGED, {sum(report.counts[f] for f in _names(report))} findings"
        self.line(f"{state}: {figures}{anew}; {self._clock() - self._began:.1f} s")
        return report


def _names(report: Report) -> set[str]:
    return {finding.name for finding in report.damages}
