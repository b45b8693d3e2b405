"""Where the mounts of this user are: one small JSON file per running mount, for `gdah` to find it by its folder.

A mount writes its file when it serves and removes it when it ends; after kill -9 the file stays and the process is
gone, which is how a dead mount is recognised. Nothing here ever touches a mounted folder: a dead or stopped mount would
block whoever does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gdah_volume.errors import InvalidArgument

DEFAULT_STATUS_ADDR = "127.0.0.1:7000"
RECORD_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class MountRecord:
    """`directory` is absolute; `status_url` without a slash at its end; `started` tells a process from a later one
    with the same pid (clock ticks since the boot)."""

    directory: str
    status_url: str
    pid: int
    started: int
    volume: str = "test_chamber"
    cache_dir: str = ""
    servers: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        return start_of(self.pid) == self.started


def record_here(
    directory: str | Path,
    status_url: str,
    *,
    volume: str = "test_chamber",
    cache_dir: str | Path = "",
    servers: tuple[str, ...] = (),
) -> MountRecord:
    """The record of this process, for `register`."""
    pid = os.getpid()
    return MountRecord(
        absolute(directory), status_url.rstrip("/"), pid, start_of(pid) or 0, volume, str(cache_dir), servers
    )


def register(record: MountRecord) -> Path:
    """Write the file of a mount that serves; atomic, readable by its user alone."""
    folder = _folders()[0]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / _file_name(record.directory)
    temporary = path.with_suffix(f".{record.pid}.tmp")
    temporary.write_text(json.dumps(asdict(record)), "utf-8")
    temporary.chmod(0o600)
    temporary.replace(path)
    return path


def unregister(directory: str | Path) -> None:
    """Remove the file, unless another process has taken the folder since."""
    record = find(directory)
    for folder in _folders():
        if record is None or record.pid == os.getpid() or not record.alive:
            (folder / _file_name(absolute(directory))).unlink(missing_ok=True)


def mounts() -> list[MountRecord]:
    """All that are written down, dead ones too (`alive`), by folder."""
    found = {record.directory: record for record in reversed(list(_records()))}
    return [found[directory] for directory in sorted(found)]


def find(directory: str | Path) -> MountRecord | None:
    name = _file_name(absolute(directory))
    for folder in _folders():
        record = _read(folder / name)
        if record is not None:
            return record
    return None


def absolute(directory: str | Path) -> str:
    """The folder's absolute path without asking the folder itself, which may hang: only its parent is resolved."""
    path = os.path.abspath(os.fspath(directory))  # noqa: PTH100  Path.resolve() would ask the folder
    parent, name = os.path.split(path)
    return os.path.join(os.path.realpath(parent), name) if name else path


def status_url(address: str) -> str:
    """`HOST:PORT`, `PORT` or a URL as a URL. Raises InvalidArgument."""
    text = address.strip().rstrip("/")
    if text.startswith(("http://", "https://")):
        return text
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"--status-addr {address!r}: give HOST:PORT, as in {DEFAULT_STATUS_ADDR}")
    return f"http://{host or '127.0.0.1'}:{port}"


def start_of(pid: int) -> int | None:
    """When a process began, in clock ticks since the boot; None if there is none (or only its corpse)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _folders() -> list[Path]:
    """The first that exists is written to; all are read: a mount from a login and a tool from cron see each other."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    places = [Path(runtime)] if runtime else []
    places.append(_system_runtime())
    folders = [place / "gdah" / "mounts" for place in places if place.is_dir() and os.access(place, os.W_OK)]
    folders.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gdah" / "mounts")
    return list(dict.fromkeys(folders))


def _system_runtime() -> Path:
    """Where XDG_RUNTIME_DIR of a login points; cron and sudo do not say it."""
    return Path(f"/run/user/{os.getuid()}")


def _file_name(directory: str) -> str:
    return hashlib.blake2b(directory.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest() + ".json"


def _records() -> Iterator[MountRecord]:
    for folder in _folders():
        for path in sorted(folder.glob("*.json")):
            record = _read(path)
            if record is not None:
                yield record


def _read(path: Path) -> MountRecord | None:
    try:
        if path.stat().st_size > RECORD_MAX_BYTES:
            return None
        raw = json.loads(path.read_text("utf-8"))
        return MountRecord(
            str(raw["directory"]),
            str(raw["status_url"]),
            int(raw["pid"]),
            int(raw["started"]),
            str(raw.get("volume", "")),
            str(raw.get("cache_dir", "")),
            tuple(str(url) for url in raw.get("servers", ())),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
