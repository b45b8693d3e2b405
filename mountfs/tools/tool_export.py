"""`gdah export`: the tree of a data folder as plain files, without any server. Puts the parts together; the work is
done by `gdah_volume.export` and `export_files`.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from gdah_volume.chunk_reading import ChunkReader
from gdah_volume.content import ChunkHash
from gdah_volume.errors import GdahError, InvalidArgument, StorageFailed
from gdah_volume.export import ExportSource, opened
from gdah_volume.export_files import Exported, Exporter, prepare_target
from gdah_volume.layout import MOUNT_DATABASE, VOLUME_DATABASE, VOLUMES, Place, choose_volume, of_mount, of_server
from gdah_volume.reading import reading
from mountfs.tools.tool_words import printable

OK, FAILED = 0, 1
SHOW_S = 0.5


def places_of(flags: argparse.Namespace) -> list[Place]:
    """Servers first. Raises InvalidArgument."""
    places = []
    for text in flags.data:
        data = Path(text).absolute()
        places.append(of_server(data, choose_volume(data / VOLUMES, VOLUME_DATABASE, flags.volume)))
    for text in flags.cache_dir:
        cache_dir = Path(text).absolute()
        places.append(of_mount(cache_dir, choose_volume(cache_dir, MOUNT_DATABASE, flags.volume)))
    if not places:
        raise InvalidArgument("say from where: --data DIR of a server, or --cache-dir DIR of a mount")
    return places


class _Copies:
    """A chunk from the first place that has it whole."""

    def __init__(self, readers: list[ChunkReader]) -> None:
        self._readers = readers

    def __call__(self, name: ChunkHash) -> tuple[bytes | None, str]:
        trouble = ""
        for reader in self._readers:
            data, why = reader.read(name)
            if data is not None:
                return data, ""
            trouble = trouble or why
        return None, trouble


def run(flags: argparse.Namespace) -> int:
    places = places_of(flags)
    target = Path(flags.target).absolute()
    for place in places:
        if target.resolve().is_relative_to(place.folder.resolve()):
            raise InvalidArgument(f"{target} lies in {place.folder}, which is exported; give a folder elsewhere")
    prepare_target(target)
    with ExitStack() as stack:
        source, chosen = _first_readable(stack, places)
        exporter = Exporter(source, _Copies(_readers(stack, places)), target, Progress())
        done = exporter.run(trash=flags.trash)
    return _told(done, target, chosen)


def _first_readable(stack: ExitStack, places: list[Place]) -> tuple[ExportSource, Place]:
    trouble: list[str] = []
    for place in places:
        try:
            source = stack.enter_context(opened(place))
        except GdahError as error:
            trouble.append(str(error))
            continue
        source.trouble += trouble
        return source, place
    raise StorageFailed("; ".join(trouble) + "; give the folder of another server with --data")


def _readers(stack: ExitStack, places: list[Place]) -> list[ChunkReader]:
    readers = []
    for place in places:
        try:
            database = stack.enter_context(reading(place.database))
        except GdahError:
            database = None  # said already; its larger chunks are files
        readers.append(ChunkReader(place.chunks, database))
    return readers


class Progress:
    """One line on a terminal, twice a second."""

    def __init__(self) -> None:
        self._at = 0.0
        self._tty = sys.stderr.isatty()

    def __call__(self, done: Exported) -> None:
        if self._tty and time.monotonic() - self._at > SHOW_S:
            self._at = time.monotonic()
            sys.stderr.write(f"\r\x1b[K{done.files} files, {done.bytes >> 20} MiB")


def _told(done: Exported, target: Path, place: Place) -> int:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    for failure in done.failures:
        print(f"gdah: {printable(failure)}", file=sys.stderr)
    beside = f", {done.removed} removed files and earlier versions" if done.removed else ""
    if done.forgotten:
        beside += f" ({done.forgotten} more are no longer kept)"
    words = f"{done.files} files ({done.bytes} bytes), {done.folders} folders, {done.others} others{beside}"
    print(f"{words} from {place.folder} are in {target}")
    if done.failures:
        print(f"gdah: {len(done.failures)} things could not be written as they should be; they are listed above. "
              "Another server's folder may have them: --data DIR --data OTHER", file=sys.stderr)  # fmt: skip
        return FAILED
    return OK
