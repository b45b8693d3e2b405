"""One process of the system under test: started, stopped, continued, killed by pid, with its log kept.

Every child leads a process group of its own, so that nothing of it outlives a test.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gdah_drill import nursery
from gdah_drill.hands import abandon

KILL_S = 30.0
"""A process that was killed may wait for a slow disk."""
REPOSITORY = Path(__file__).resolve().parents[1]
TERMINATE_S = 20.0
_GIVEN: set[int] = set()


def free_port() -> int:
    """A port below the ephemeral range, so that no outgoing connection takes it between two starts, and out of the part
    of it that belongs to this worker of a parallel run."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 6
    while True:
        port = random.randrange(20_000 + 2_000 * worker, 22_000 + 2_000 * worker)
        if port in _GIVEN:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _GIVEN.add(port)
            return port


def command_line(script: str, module: str) -> list[str]:
    """The console script of this interpreter's environment, or the same by its module where it is not installed.
    Servers and mounts are not started by it but forked (see `nursery`)."""
    if script in nursery.MAINS:
        return [script]
    installed = Path(sys.executable).with_name(script)
    if installed.exists():
        return [str(installed)]
    return [sys.executable, "-c", f"import sys; sys.argv[0] = {script!r}; from {module} import main; sys.exit(main())"]


class Ended(Exception):
    """A process that has to run has ended. No AssertionError: waiting for it to come back would be in vain."""


class Process:
    """`own_log`: a file that the process writes itself, shown after what it printed."""

    def __init__(self, name: str, logs: Path, own_log: Path | None = None) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self.own_log = own_log
        self._popen: subprocess.Popen[bytes] | nursery.Child | None = None
        self._stopped = False

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        return None if self._popen is None else self._popen.poll()

    def start(self, argv: Sequence[str], home: Path, environ: dict[str, str] | None = None) -> None:
        assert not self.running, f"{self.name} runs already"
        env = {key: value for key, value in os.environ.items() if not key.startswith("GDAH_")}
        env |= {"HOME": str(home), "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"} | (environ or {})
        with open(self.log, "ab") as log:
            log.write(f"--- {' '.join(argv)}\n".encode())
        if Path(argv[0]).name in nursery.MAINS:
            self._popen = nursery.start(argv, log=self.log, cwd=home, env=env)
        else:
            self._popen = self._start_command(argv, home, env)
        self._stopped = False

    def _start_command(self, argv: Sequence[str], home: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=home,
                env=env,
                start_new_session=True,
            )

    def must_run(self) -> None:
        if not self.running:
            raise Ended(f"{self.name} ended with exit code {self.returncode}: {self.log_tail(15)}")

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """SIGSTOP: alive for the kernel, silent for everybody else."""
        self.send(signal.SIGSTOP)
        self._stopped = True

    def cont(self) -> None:
        self.send(signal.SIGCONT)
        self._stopped = False

    def kill9(self, timeout_s: float = KILL_S) -> None:
        """Raises subprocess.TimeoutExpired for one that the kernel keeps."""
        assert self._popen is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait(timeout_s)

    def terminate(self, number: int = signal.SIGTERM, timeout_s: float = TERMINATE_S) -> int:
        """Ask it to end; returns its exit code. Raises AssertionError when it does not."""
        assert self._popen is not None
        if self._stopped:
            self.cont()
        if self.running:
            self.send(number)
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout_s:.0f} s of signal {number}") from None

    def make_sure_it_is_gone(self) -> None:
        if self._popen is not None:
            abandon(self._popen)

    def log_text(self) -> str:
        logs = [log for log in (self.log, self.own_log) if log is not None and log.exists()]
        return "\n".join(log.read_text(errors="replace") for log in logs)

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])


def run_program(
    argv: Sequence[str | Path],
    *,
    cwd: Path | str = "/",
    timeout_s: float = 120.0,
    environ: dict[str, str] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """A program on a mount, under a deadline that holds even if it gets stuck in the kernel.

    Its working folder is entered by the child alone. Raises AssertionError with its output unless it exits with 0.
    """
    popen = begin_program(argv, cwd=cwd, environ=environ)
    return finish_program(popen, timeout_s=timeout_s, check=check)


def begin_program(
    argv: Sequence[str | Path], *, cwd: Path | str = "/", environ: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd), *map(str, argv)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | (environ or {}),
        start_new_session=True,
    )


def finish_program(
    popen: subprocess.Popen[bytes], *, timeout_s: float = 120.0, check: bool = True
) -> subprocess.CompletedProcess[str]:
    assert popen.stdout is not None
    try:
        output, _ = popen.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        abandon(popen)
        popen.stdout.close()
        so_far = (error.output or b"").decode(errors="replace")
        raise AssertionError(f"{popen.args!r} did not end within {timeout_s:.0f} s: {so_far[-2000:]}") from None
    text = output.decode(errors="replace")
    if check:
        assert popen.returncode == 0, f"{popen.args!r} exited with {popen.returncode}: {text[-4000:]}"
    return subprocess.CompletedProcess(popen.args, popen.returncode, text, "")
