"""The settings of a server, frozen, and the rules about them that need no network and no disk."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gdah_volume.brake import BRAKE_DEFAULTS, BrakeLimits, brake_limits
from gdah_volume.errors import GdahError, InvalidArgument
from gdah_volume.ids import DEFAULT_VOLUME, VolumeName, check_volume
from gdah_volume.settings import parse_size

DEFAULT_PORT = 7001
LOG_LEVELS = ("debug", "info", "warning", "error")

DEFAULTS: dict[str, Any] = {
    "data": None,
    "host": "127.0.0.1",
    "port": DEFAULT_PORT,
    "peer": [],
    "url": "",
    "token-file": None,
    "tls-cert": None,
    "tls-key": None,
    "ca": None,
    "volume": [],
    "log-retention-days": 30,
    "scrub-days": 7,
    "collect-days": 1,
    "collect-grace-hours": 24,
    "collect-keep-days": 7,
    "min-free": "16M",
    **BRAKE_DEFAULTS,
    "log-level": "info",
}
"""Every setting by its name in flags, GDAH_* variables and the [server] section of the file, with its default."""


@dataclass(frozen=True, slots=True)
class Config:
    """Invariant: a bind that others can reach has a token; certificate and key come together."""

    data: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    peers: tuple[str, ...] = ()
    url: str = ""
    token: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    ca: Path | None = None
    volumes: tuple[VolumeName, ...] = (DEFAULT_VOLUME,)
    log_retention_days: float = 30.0
    scrub_days: float = 7.0
    """A pass over all chunks begins so often; 0: never by itself."""
    collect_days: float = 1.0
    """What nothing needs is looked for so often; 0: never by itself."""
    collect_grace_hours: float = 24.0
    """For so long nothing must have needed a chunk, and nobody stored it, before it is put out of the way."""
    collect_keep_days: float = 7.0
    """Out of the way it is kept so long before it is deleted."""
    min_free_bytes: int = 16 << 20
    """Below it operations are refused with NoSpace, before the disk is full to the last byte."""
    brake: BrakeLimits = field(default_factory=BrakeLimits)
    log_level: str = "info"

    @property
    def scheme(self) -> str:
        return "https" if self.tls_cert else "http"

    @property
    def own_url(self) -> str:
        """Where others reach this server: what was said, else the address of the bind if it names one."""
        if self.url:
            return self.url
        if is_wildcard(self.host):
            return ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


URL_MAX_CHARS = 300


def check_url(text: str) -> str:
    """The form in which URLs are compared: scheme, host, port. Raises InvalidArgument."""
    if len(text) > URL_MAX_CHARS:
        raise InvalidArgument(f"a URL of {len(text)} characters; at most {URL_MAX_CHARS} are possible")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"not a URL of a server: {text!r} ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise InvalidArgument(f"not a URL of a server: {text!r} (write http://HOST:PORT)")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or (443 if parts.scheme == 'https' else 80)}"


def make_config(values: Mapping[str, Any], token: str | None) -> Config:
    """The settings from their layered values. Raises InvalidArgument with the cause and the next step."""
    if not values["data"]:
        raise InvalidArgument("say where to keep the data: --data DIR (or GDAH_DATA)")
    host = str(values["host"])
    if not is_loopback(host) and token is None:
        raise InvalidArgument(
            f"--host {host} can be reached by other machines: give --token-file FILE with a secret that mounts and"
            " peers share, or bind to 127.0.0.1"
        )
    cert, key = values["tls-cert"], values["tls-key"]
    if bool(cert) != bool(key):
        raise InvalidArgument("--tls-cert and --tls-key go together: give both or neither")
    for option in ("tls-cert", "tls-key", "ca"):
        if values[option] and not Path(values[option]).expanduser().is_file():
            raise InvalidArgument(f"--{option}: there is no file {values[option]}")
    level = str(values["log-level"]).lower()
    if level not in LOG_LEVELS:
        raise InvalidArgument(f"--log-level {level}: choose one of {', '.join(LOG_LEVELS)}")
    return Config(
        data=Path(values["data"]).expanduser().absolute(),
        host=host,
        port=_number(values["port"], "port", 1, 65535),
        peers=tuple(dict.fromkeys(check_url(str(url)) for url in _list(values["peer"]))),
        url=check_url(str(values["url"])) if values["url"] else "",
        token=token,
        tls_cert=_path(cert),
        tls_key=_path(key),
        ca=_path(values["ca"]),
        volumes=_volumes(_list(values["volume"])),
        log_retention_days=_number(values["log-retention-days"], "log-retention-days", 0, 36500),
        scrub_days=_number(values["scrub-days"], "scrub-days", 0, 36500),
        collect_days=_number(values["collect-days"], "collect-days", 0, 36500),
        collect_grace_hours=_number(values["collect-grace-hours"], "collect-grace-hours", 0, 876000),
        collect_keep_days=_number(values["collect-keep-days"], "collect-keep-days", 0, 36500),
        min_free_bytes=parse_size(values["min-free"]),
        brake=brake_limits(values),
        log_level=level,
    )


def _volumes(names: list[Any]) -> tuple[VolumeName, ...]:
    try:
        return tuple(dict.fromkeys((DEFAULT_VOLUME, *(check_volume(str(name)) for name in names))))
    except GdahError as error:
        raise InvalidArgument(f"--volume: {error}") from error


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _path(value: Any) -> Path | None:
    return Path(value).expanduser() if value else None


def _number(value: Any, name: str, low: int, high: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise InvalidArgument(f"--{name}: not a number: {value!r}") from None
    if not low <= number <= high:
        raise InvalidArgument(f"--{name} {number}: choose a number from {low} to {high}")
    return number
