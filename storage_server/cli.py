"""The command `storage-server`: settings, first checks, exit codes. Errors are one line: cause and next step."""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import signal
import socket
import sys
from collections.abc import Sequence

from gdah_volume.cycles import keep_out_of_the_way
from gdah_volume.errors import GdahError
from gdah_volume.settings import layered, read_token
from storage_server.config import DEFAULT_PORT, DEFAULTS, Config, is_loopback, make_config

EXIT_USAGE = 2
OPEN_FILES = 65_536
"""Files and connections that the server may have open, if the system lets it: a shell's usual 1,024 would be used up by
as many connections that never speak, and then the disk could not be used either."""

_EXAMPLES = """\
two servers on one machine:
  storage-server --data /srv/a --port 7001 --peer http://127.0.0.1:7002
  storage-server --data /srv/b --port 7002 --peer http://127.0.0.1:7001

on two machines (the same secret on both, and on every mount):
  storage-server --data /srv/gdah --host 0.0.0.0 --url http://10.0.0.1:7001 \\
                 --peer http://10.0.0.2:7001 --token-file /etc/gdah/token

Every option can also be a GDAH_* variable (--token-file is GDAH_TOKEN_FILE) or a key of the section
[server] in ~/.config/gdah/gdah.toml (or --config FILE); a flag wins over a variable, a variable over the file.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="storage-server",
        description="Keeps volumes of gdah on this machine's disk, replicated with its peers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", metavar="DIR", help="where to keep everything; made when missing, one server each")
    add("--host", help="address to listen on (default 127.0.0.1: this machine only; others need --token-file)")
    add("--port", help=f"port to listen on (default {DEFAULT_PORT})")
    add("--peer", action="append", metavar="URL", help="another server of the same volumes; repeat for more")
    add("--url", help="where peers and mounts reach this server, when that is not http://HOST:PORT")
    add("--token-file", metavar="FILE", help="first line: the secret that mounts and peers must show")
    add("--tls-cert", metavar="FILE", help="certificate (PEM) to serve HTTPS with; needs --tls-key")
    add("--tls-key", metavar="FILE", help="its private key (PEM)")
    add("--ca", metavar="FILE", help="certificate of the authority that signed the peers' certificates")
    add("--volume", action="append", metavar="NAME", help="a volume to keep besides test_chamber; repeat for more")
    add("--log-retention-days", metavar="N", help="how long operations that all servers have stay in the log (30)")
    add("--scrub-days", metavar="N", help="verify every stored chunk so often (7; 0: only when told to)")
    add("--collect-days", metavar="N", help="look so often for content that nothing needs any more (1; 0: never)")
    add("--collect-grace-hours", metavar="N", help="how long nothing must have needed it (24)")
    add("--collect-keep-days", metavar="N", help="how long it is kept out of the way before it is deleted (7)")
    add("--min-free", metavar="SIZE", help="refuse operations with less free disk than this (default 16M)")
    add("--brake-count", metavar="N", help="refuse more deletions by path than this in the window (5000, 0: never)")
    add("--brake-window", metavar="SECONDS", help="in which deletions of one source are counted (default 60)")
    add("--brake-share", metavar="PERCENT", help="also beyond this share of the volume, from 1000 on (50; 0: not)")
    add("--log-level", metavar="LEVEL", help="debug, info, warning or error (default info)")
    add("--config", metavar="FILE", help="settings file (TOML)")
    return parser


def read_config(argv: Sequence[str] | None = None) -> Config:
    """Raises InvalidArgument; exits with 2 on unknown flags, as argparse does."""
    values = layered(DEFAULTS, make_parser().parse_args(argv), "server")
    return make_config(values, read_token(values["token-file"]))


def check_address(config: Config) -> str | None:
    """Why it cannot be listened on, or None."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            return f"cannot listen on {config.host} port {config.port}: {error.strerror}; choose another --port"
    return None


def allow_open_files(wanted: int = OPEN_FILES) -> int:
    """Raise this process's limit; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def cut_off_is_one_line(record: logging.LogRecord) -> bool:
    """A filter: a request that was under way when the server stopped is no fault, and needs no traceback."""
    if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
        record.msg, record.args, record.exc_info = "a request was under way when the server stopped", (), None
    return True


def main(argv: Sequence[str] | None = None) -> int:
    try:
        config = read_config(argv)
    except GdahError as error:
        print(f"storage-server: {error}", file=sys.stderr)
        return EXIT_USAGE
    logging.basicConfig(
        level=config.log_level.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("httpx", "httpcore", "websockets", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.ERROR if config.log_level != "debug" else logging.INFO)
    logging.getLogger("uvicorn.error").addFilter(cut_off_is_one_line)
    if not is_loopback(config.host):
        open_token = "" if config.tls_cert else ", which travels unencrypted without --tls-cert"
        where = config.own_url or config.host
        print(f"storage-server: other machines can reach {where}; they need the token{open_token}", file=sys.stderr)
    problem = check_address(config)
    if problem:
        print(f"storage-server: {problem}", file=sys.stderr)
        return EXIT_USAGE
    return run(config)


def run(config: Config) -> int:
    """Construct and serve; every expected failure is one line."""
    from storage_server.app import Application  # noqa: PLC0415 - --help and bad settings need not load the web server

    try:
        application = Application(config)
    except GdahError as error:
        print(f"storage-server: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        print(f"storage-server: --data {config.data} cannot be used: {error}", file=sys.stderr)
        return EXIT_USAGE
    # Two busy threads (the event loop and a writer) that hand the interpreter over at each statement of SQLite: with
    # the usual 5 ms a flood of operations was written at 700 a second, with this at 2,700.
    sys.setswitchinterval(0.0001)
    keep_out_of_the_way()
    allow_open_files()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn stops on the signal, and raises it again when all is closed
    try:
        return application.serve()
    except OSError as error:
        print(f"storage-server: cannot serve on {config.host}:{config.port}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
