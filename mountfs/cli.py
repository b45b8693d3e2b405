"""`gdah-mount`: reads the settings, becomes a daemon if asked, runs the mount, and says what a person must know.

Stands above all layers together with `mount`, which puts the parts together.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
from pathlib import Path

from gdah_volume.errors import GdahError
from mountfs.config import MountSettings, parser, settings
from mountfs.mount import EXIT_ONLY_LOCAL, Mount

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
READY_FD_VARIABLE = "GDAH_READY_FD"
DAEMON_START_S = 60.0


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 unmounted with everything on a server, 1 could not mount, 2 bad settings, 3 unmounted while some
    changes were only on this device (they are kept, and go on with the next mount)."""
    arguments = sys.argv[1:] if argv is None else argv
    flags = parser().parse_args(arguments)
    try:
        wanted = settings(flags)
    except GdahError as error:
        print(f"gdah-mount: {error}", file=sys.stderr)
        return EXIT_USAGE
    if flags.daemon:
        return _start_daemon(arguments, wanted)
    return _run(wanted)


def _run(wanted: MountSettings) -> int:
    ready_fd = os.environ.pop(READY_FD_VARIABLE, None)
    _log_to(wanted)
    mount = Mount(wanted)
    try:
        mount.start()
    except (GdahError, OSError) as error:
        logging.getLogger("gdah.mount").warning("could not mount: %s", error)
        print(f"gdah-mount: {error}", file=sys.stderr)
        mount.abandon()
        return EXIT_FAILED
    if ready_fd is not None:
        with os.fdopen(int(ready_fd), "w") as stream:
            stream.write("ready\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
    else:
        print(mount.greeting(), flush=True)
    left = mount.run(status_line=sys.stdout.isatty() and ready_fd is None)
    if left:
        print(left, file=sys.stderr, flush=True)
        return EXIT_ONLY_LOCAL
    return EXIT_OK


def _log_to(wanted: MountSettings) -> None:
    """To a file in the cache folder: the terminal is for the status line, and a daemon has none."""
    wanted.cache_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    logging.basicConfig(
        filename=wanted.cache_dir / "mount.log",
        level=wanted.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    logging.raiseExceptions = False  # on a full disk the log is what can be done without
    for noisy in ("httpx", "httpcore", "websockets", "uvicorn", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _start_daemon(arguments: list[str], wanted: MountSettings) -> int:
    """Start the same command without a terminal and wait until it serves. A new process, not a fork: threads and
    databases start after it, in the process that keeps them."""
    reader, writer = os.pipe()
    words = [word for word in arguments if word != "--daemon"]
    child = subprocess.Popen(
        [sys.executable, "-m", "mountfs.cli", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[writer],
        env={**os.environ, READY_FD_VARIABLE: str(writer)},
        start_new_session=True,
    )
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], DAEMON_START_S)
    if ready and os.read(reader, 16):
        print(f"gdah serves {wanted.mountpoint} (pid {child.pid}); end it with: gdah unmount {wanted.mountpoint}")
        return EXIT_OK
    if not ready:
        print(f"gdah-mount: it does not serve after {DAEMON_START_S:.0f} s; see {_log_file(wanted)}", file=sys.stderr)
        return EXIT_FAILED
    assert child.stderr is not None
    sys.stderr.write(child.stderr.read().decode(errors="replace"))
    return child.wait() or EXIT_FAILED


def _log_file(wanted: MountSettings) -> Path:
    return wanted.cache_dir / "mount.log"


if __name__ == "__main__":
    sys.exit(main())
