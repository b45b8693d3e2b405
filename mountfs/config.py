"""Settings of a mount as one frozen value. Words only: reads the three layers, checks, starts nothing."""

from __future__ import annotations

import argparse
import grp
import hashlib
import os
import platform
import pwd
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

from gdah_volume.brake import BRAKE_DEFAULTS, BrakeLimits, brake_limits
from gdah_volume.errors import InvalidArgument
from gdah_volume.ids import DEFAULT_VOLUME, VolumeName, check_volume
from gdah_volume.settings import layered, parse_bool, parse_size, read_token

Durability = Literal["replicated", "local"]

NO_ID = 2**32 - 1
"""As a user or group it means: leave it."""

DEFAULTS: dict[str, object] = {
    "server": [],
    "volume": DEFAULT_VOLUME,
    "cache-dir": None,
    "cache-size": "10G",
    "min-free": "512M",
    "pending-max": "20G",
    "status-addr": "127.0.0.1:7000",
    "durability": "replicated",
    "token-file": None,
    "ca": None,
    "allow-other": False,
    "read-only": False,
    "uid": None,
    "gid": None,
    "umask": "0",
    "privileged": False,
    "device": None,
    "flush-timeout": "30",
    **BRAKE_DEFAULTS,
    "log-level": "info",
}


@dataclass(frozen=True, slots=True)
class MountSettings:
    """`servers`: base URLs in the order given. `cache_size_bytes` bounds clean content only; `pending_max_bytes` what
    is not yet on every server; `min_free_bytes` of the cache's disk are never used. `uid`, `gid` and `umask` are shown
    in place of what is stored."""

    mountpoint: Path
    servers: tuple[str, ...]
    volume: VolumeName
    cache_dir: Path
    cache_size_bytes: int
    min_free_bytes: int
    pending_max_bytes: int
    status_host: str
    status_port: int
    durability: Durability
    token: str | None
    ca: str | None
    allow_other: bool
    read_only: bool
    uid: int | None
    gid: int | None
    umask: int
    privileged: bool
    device: str
    flush_timeout_s: float
    brake: BrakeLimits
    log_level: str


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="gdah-mount",
        description="Mount a gdah volume as a folder. It keeps working when servers do not.",
        epilog="Every option is also a GDAH_* variable (GDAH_CACHE_DIR) and a key of [mount] in the settings file.",
    )
    command.add_argument("mountpoint", metavar="DIR", help="the folder; made when it is missing, refused if not empty")
    command.add_argument("--server", action="append", metavar="URL", default=[], help="a storage server; repeat it")
    command.add_argument("--volume", metavar="NAME", help=f"which volume (default {DEFAULT_VOLUME})")
    command.add_argument("--cache-dir", metavar="DIR", help="change log and cache (default: below ~/.cache/gdah)")
    command.add_argument("--cache-size", metavar="SIZE", help="limit of clean cached content (default 10G)")
    command.add_argument("--min-free", metavar="SIZE", help="free space to leave on the cache's disk (default 512M)")
    command.add_argument("--pending-max", metavar="SIZE", help="limit of what waits for servers (default 20G)")
    command.add_argument(
        "--status-addr", metavar="HOST:PORT", help="page and API (default 127.0.0.1:7000; '' for none)"
    )
    command.add_argument("--durability", choices=("replicated", "local"), help="what a call waits for")
    command.add_argument("--token-file", metavar="FILE", help="bearer token for the servers and for the page")
    command.add_argument("--ca", metavar="FILE", help="certificate that signed the servers' (PEM)")
    command.add_argument("--device", metavar="NAME", help="name in conflict copies (default: the host's)")
    command.add_argument("--allow-other", action="store_true", default=None, help="other users may use the folder")
    command.add_argument("--read-only", action="store_true", default=None, help="refuse every change")
    command.add_argument("--uid", metavar="USER", help="show everything as owned by USER (number or name)")
    command.add_argument("--gid", metavar="GROUP", help="show everything as of GROUP (number or name)")
    command.add_argument("--umask", metavar="OCTAL", help="show every mode without these bits (default 0)")
    command.add_argument(
        "--privileged", action="store_true", default=None, help="set-user-id programs and devices work (root only)"
    )
    command.add_argument("--flush-timeout", metavar="SECONDS", help="how long an unmount waits (default 30)")
    command.add_argument(
        "--brake-count",
        metavar="N",
        help="hold deletions beyond so many in the window until confirmed (5000, 0: none)",
    )
    command.add_argument("--brake-window", metavar="SECONDS", help="in which deletions are counted (default 60)")
    command.add_argument(
        "--brake-share", metavar="PERCENT", help="also beyond this share of the volume, from 1000 on (50; 0: not)"
    )
    command.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="default info")
    command.add_argument("--config", metavar="FILE", help="settings file (default ~/.config/gdah/gdah.toml)")
    command.add_argument("--daemon", action="store_true", help="return when the mount serves")
    return command


def default_cache_dir(mountpoint: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:12]
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "gdah" / f"{mountpoint.name}-{digest}"


def _server_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise InvalidArgument(f"not a server's URL: {text!r} (write http://HOST:PORT)")
    return text.rstrip("/")


def _address(text: str) -> tuple[str, int]:
    """Host and port; port 0 lets the system choose; an empty text (no page) gives port -1."""
    if not text:
        return "", -1
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"not an address: {text!r} (write 127.0.0.1:7000)")
    return host.strip("[]"), int(port)


def _owner(option: str, value: object, look_up: Callable[[str], int]) -> int | None:
    """A number, or the number of a name."""
    text = str(value).strip() if value is not None else ""
    if not text:
        return None
    if not text.isdigit():
        try:
            return look_up(text)
        except KeyError:
            raise InvalidArgument(f"--{option}: nobody is called {text!r} on this machine (a number will do)") from None
    if int(text) >= NO_ID:
        raise InvalidArgument(f"--{option}: {text} is too large")
    return int(text)


def _umask(value: object) -> int:
    text = str(value)
    if not re.fullmatch("0*[0-7]{1,3}", text):
        raise InvalidArgument(f"--umask: {text!r} is not an octal number like 022")
    return int(text, 8)


def settings(flags: argparse.Namespace, environ: Mapping[str, str] | None = None) -> MountSettings:
    """The settings that flags, variables and the file give. Raises InvalidArgument with the next step."""
    values = layered(DEFAULTS, flags, "mount", environ)
    mountpoint = Path(flags.mountpoint).expanduser().absolute()
    host, port = _address(str(values["status-addr"] or ""))
    durability = str(values["durability"])
    if durability not in ("replicated", "local"):
        raise InvalidArgument(f"durability is 'replicated' or 'local', not {durability!r}")
    servers = tuple(dict.fromkeys(_server_url(str(url)) for url in values["server"]))
    if not servers:
        raise InvalidArgument("no server given; add --server http://HOST:7001 (repeat it for each server)")
    token = read_token(values["token-file"])
    if port >= 0 and host not in ("127.0.0.1", "::1", "localhost") and not host.startswith("127.") and not token:
        raise InvalidArgument(f"the page at {host} would be open to the network; give --token-file or use 127.0.0.1")
    cache_dir = Path(values["cache-dir"]).expanduser() if values["cache-dir"] else default_cache_dir(mountpoint)
    try:
        flush_timeout_s = float(values["flush-timeout"])
    except (TypeError, ValueError):
        raise InvalidArgument(f"not a number of seconds: {values['flush-timeout']!r}") from None
    return MountSettings(
        mountpoint=mountpoint,
        servers=servers,
        volume=check_volume(str(values["volume"])),
        cache_dir=cache_dir.absolute(),
        cache_size_bytes=parse_size(values["cache-size"]),
        min_free_bytes=parse_size(values["min-free"]),
        pending_max_bytes=parse_size(values["pending-max"]),
        status_host=host,
        status_port=port,
        durability=cast("Durability", durability),
        token=token,
        ca=values["ca"],
        allow_other=parse_bool(values["allow-other"]),
        read_only=parse_bool(values["read-only"]),
        uid=_owner("uid", values["uid"], lambda name: pwd.getpwnam(name).pw_uid),
        gid=_owner("gid", values["gid"], lambda name: grp.getgrnam(name).gr_gid),
        umask=_umask(values["umask"]),
        privileged=parse_bool(values["privileged"]),
        device=str(values["device"] or platform.node() or "device"),
        flush_timeout_s=flush_timeout_s,
        brake=brake_limits(values),
        log_level=str(values["log-level"]),
    )
