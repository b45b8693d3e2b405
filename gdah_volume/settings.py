"""Settings in three layers: flag, then ``GDAH_*`` variable, then TOML file. Words for both commands; decides nothing.

A setting has one name everywhere: ``--cache-dir`` is ``GDAH_CACHE_DIR`` and ``cache-dir`` in the file. Lists are given
by repeating the flag, by commas in the variable, by an array in the file.
"""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdah_volume.errors import InvalidArgument

_UNREADABLE = (OSError, ValueError, RuntimeError)
"""Of a file that somebody named; RuntimeError: nested too deeply, or `~name` of nobody."""

CONFIG_FILE_VARIABLE = "GDAH_CONFIG"
DEFAULT_CONFIG_FILE = Path("~/.config/gdah/gdah.toml")

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
SIZE_MAX_BYTES = 1 << 60
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Bytes of ``10G``, ``512 MiB``, ``4096``. Raises InvalidArgument."""
    found = _SIZE.fullmatch(str(text).strip())
    if not found:
        raise InvalidArgument(f"not a size: {text!r} (write 4096, 512M or 10G)")
    size = float(found[1]) * _UNITS[found[2].lower()]
    if size > SIZE_MAX_BYTES:
        raise InvalidArgument(
            f"too large a size: {text[:40] if isinstance(text, str) else text!r} (at most {SIZE_MAX_BYTES} bytes)"
        )
    return int(size)


def parse_bool(text: str | bool) -> bool:  # noqa: FBT001 - a value, not a switch
    if isinstance(text, bool):
        return text
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise InvalidArgument(f"not yes or no: {text!r}")


def load_file(section: str, path: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """The table `section` of the TOML file; an absent default file is empty, an absent named one an error."""
    named = path or environ.get(CONFIG_FILE_VARIABLE)
    file = Path(named) if named else DEFAULT_CONFIG_FILE
    try:
        file = file.expanduser()
        with file.open("rb") as stream:
            table = tomllib.load(stream).get(section, {})
    except FileNotFoundError:
        if named:
            raise InvalidArgument(f"the settings file {file} does not exist") from None
        return {}
    except _UNREADABLE as error:  # no TOML is a ValueError, as is text that is no UTF-8 and a path with a NUL
        raise InvalidArgument(f"cannot read the settings file {str(file)!r}: {error}") from error
    if not isinstance(table, dict):
        raise InvalidArgument(f"[{section}] in {file} is not a table")
    return table


def layered(
    names: Mapping[str, Any], flags: argparse.Namespace, section: str, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """One value for each setting in `names` (name with dashes -> default). A list default makes a list setting.

    `flags` holds None (or an empty list) for what was not said. Raises InvalidArgument on an unknown key of the file.
    """
    environ = os.environ if environ is None else environ
    file = load_file(section, getattr(flags, "config", None), environ)
    unknown = sorted(set(file) - set(names))
    if unknown:
        raise InvalidArgument(f"unknown setting in the file, section [{section}]: {', '.join(unknown)}")
    values: dict[str, Any] = {}
    for name, default in names.items():
        said = getattr(flags, name.replace("-", "_"), None)
        variable = environ.get("GDAH_" + name.replace("-", "_").upper())
        if said is not None and said != []:
            values[name] = said
        elif variable is not None:
            values[name] = [v for v in variable.split(",") if v] if isinstance(default, list) else variable
        else:
            values[name] = file.get(name, default)
    return values


def read_token(path: str | None) -> str | None:
    """The bearer token of a file: its first line, at least 16 characters. Raises InvalidArgument."""
    if not path:
        return None
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except _UNREADABLE as error:
        raise InvalidArgument(f"cannot read the token file {path!r}: {error}") from error
    token = lines[0].strip() if lines else ""
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidArgument(
            f"the token in {path} must be at least 16 printable characters without spaces; make one with:"
            f" python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > {path}"
        )
    return token
