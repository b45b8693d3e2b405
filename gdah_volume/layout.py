"""Where a replica lies on a disk: names of files, of servers' data folders and of mounts' cache folders alike. Words
only; opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gdah_volume.errors import InvalidArgument
from gdah_volume.ids import DEFAULT_VOLUME, VolumeName, check_volume

SERVER_LOCK = "lock"
VOLUMES = "volumes"
VOLUME_DATABASE = "volume.db"
VOLUME_CHUNKS = "chunks"
MOUNT_DATABASE = "mirror.db"
MOUNT_DIRTY = "dirty"
MOUNT_CACHE = "cache"
MOUNT_JOURNALS = "open"
MOUNT_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Place:
    """One replica. `chunks`: folders with `ab/<hex>` files; small chunks are rows of the database. Who holds `lock`
    (flock) has the replica in use."""

    folder: Path
    volume: VolumeName
    database: Path
    chunks: tuple[Path, ...]
    lock: Path


def server_volume(data: Path, volume: VolumeName) -> Path:
    return data / VOLUMES / volume


def of_server(data: Path, volume: VolumeName) -> Place:
    folder = server_volume(data, volume)
    return Place(folder, volume, folder / VOLUME_DATABASE, (folder / VOLUME_CHUNKS,), data / SERVER_LOCK)


def of_mount(cache_dir: Path, volume: VolumeName) -> Place:
    folder = cache_dir / volume
    chunks = (folder / MOUNT_DIRTY, folder / MOUNT_CACHE)
    return Place(folder, volume, folder / MOUNT_DATABASE, chunks, folder / MOUNT_LOCK)


def volumes_in(folder: Path, database: str) -> list[VolumeName]:
    """Those that have a database below a folder. Raises InvalidArgument if there is no such folder."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if (entry / database).exists())
    except OSError as error:
        raise InvalidArgument(f"{folder} cannot be listed: {error.strerror}; give the right folder") from error
    return [check_volume(name) for name in names]


def choose_volume(folder: Path, database: str, wanted: str | None) -> VolumeName:
    """The one that is named, or the only one, or the default one. Raises InvalidArgument."""
    there = volumes_in(folder, database)
    if wanted is not None:
        if wanted not in there:
            raise InvalidArgument(f"there is no volume {wanted!r} in {folder}; there are: {', '.join(there) or 'none'}")
        return check_volume(wanted)
    if not there:
        raise InvalidArgument(f"there is no volume in {folder}; give the folder of a server or of a mount's cache")
    if len(there) > 1 and DEFAULT_VOLUME not in there:
        raise InvalidArgument(f"several volumes are in {folder}; name one with --volume: {', '.join(there)}")
    return there[0] if len(there) == 1 else DEFAULT_VOLUME
