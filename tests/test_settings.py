"""Flag over variable over file; bad values name the cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdah_volume.brake import BrakeLimits
from gdah_volume.errors import GdahError, InvalidArgument
from gdah_volume.settings import parse_size, read_token
from mountfs import config
from storage_server import cli as server_cli
from storage_server import config as server_config

URL = "http://127.0.0.1:7001"


def settings(*argv: str, environ: dict[str, str] | None = None) -> config.MountSettings:
    return config.settings(config.parser().parse_args(list(argv)), environ or {})


def test_flag_wins_over_variable_over_file(tmp_path: Path) -> None:
    file = tmp_path / "gdah.toml"
    file.write_text('[mount]\ncache-size = "1G"\ndurability = "local"\ndevice = "desk"\nserver = ["http://h:1"]\n')
    environ = {"GDAH_CACHE_SIZE": "2G", "GDAH_DURABILITY": "replicated", "GDAH_CONFIG": str(file)}
    got = settings("m", "--cache-size", "3G", environ=environ)
    assert got.cache_size_bytes == 3 << 30
    assert got.durability == "replicated"
    assert got.device == "desk"
    assert got.servers == ("http://h:1",)


def test_server_list_in_a_variable() -> None:
    assert settings("m", environ={"GDAH_SERVER": "http://a:1/,http://b:2"}).servers == ("http://a:1", "http://b:2")


@pytest.mark.parametrize(
    "argv",
    [
        ["m"],
        ["m", "--server", "ftp://x"],
        ["m", "--server", "http://x:1/path"],
        ["m", "--server", URL, "--volume", "../x"],
        ["m", "--server", URL, "--cache-size", "lots"],
        ["m", "--server", URL, "--status-addr", "7000"],
        ["m", "--server", URL, "--status-addr", "0.0.0.0:7000"],
        ["m", "--server", URL, "--token-file", "/nonexistent"],
        ["m", "--server", URL, "--config", "/nonexistent"],
        ["m", "--server", URL, "--flush-timeout", "soon"],
    ],
)
def test_bad_values_are_refused(argv: list[str]) -> None:
    with pytest.raises(GdahError):
        settings(*argv)


def test_unknown_key_in_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "gdah.toml"
    file.write_text("[mount]\ncache_sise = 1\n")
    with pytest.raises(InvalidArgument, match="cache_sise"):
        settings("m", "--server", URL, "--config", str(file))


@pytest.mark.parametrize(("text", "size"), [("4096", 4096), ("1k", 1024), ("1.5 GiB", 3 << 29), ("2TB", 2 << 40)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_a_weak_token_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("short\n")
    with pytest.raises(InvalidArgument, match="token_urlsafe"):
        read_token(str(file))


def test_every_option_is_explained() -> None:
    for parser, defaults in ((config.parser(), config.DEFAULTS), (server_cli.make_parser(), server_config.DEFAULTS)):
        said = {word: action.help for action in parser._actions for word in action.option_strings}
        for name in defaults:
            assert said.get(f"--{name}"), f"{parser.prog} --{name}"


def test_the_brake_is_set_like_everything_else(tmp_path: Path) -> None:
    file = tmp_path / "gdah.toml"
    file.write_text('[mount]\nbrake-share = "20%"\nbrake-window = 30\n')
    environ = {"GDAH_BRAKE_WINDOW": "10", "GDAH_CONFIG": str(file)}
    got = settings("m", "--server", URL, "--brake-count", "7", environ=environ)
    assert got.brake == BrakeLimits(7, 10.0, 20.0)
    assert settings("m", "--server", URL).brake == BrakeLimits(5000, 60.0, 50.0)
    for bad in ("-1", "2.5", "lots", "1000001"):
        with pytest.raises(InvalidArgument, match="--brake-count"):
            settings("m", "--server", URL, "--brake-count", bad)


def test_whose_everything_is_may_be_said_by_name_or_number() -> None:
    got = settings("m", "--server", URL, "--uid", "root", "--gid", "65534", "--umask", "0027")
    assert (got.uid, got.gid, got.umask) == (0, 65534, 0o27)
    got = settings("m", "--server", URL, environ={"GDAH_UID": "7", "GDAH_UMASK": "77", "GDAH_PRIVILEGED": "yes"})
    assert (got.uid, got.gid, got.umask, got.privileged) == (7, None, 0o77, True)
    for bad in (("--uid", "nobody by that name"), ("--gid", "4294967295"), ("--umask", "8"), ("--umask", "77777")):
        with pytest.raises(InvalidArgument, match=bad[0]):
            settings("m", "--server", URL, *bad)
