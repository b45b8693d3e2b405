"""Faults: what is done to processes and clocks, how it ends, and the observation that it happened.

A fault is begun, lasts, and is ended by whoever schedules it. `happened` is never assumed: it is a signal that was
delivered, a state in /proc, bytes that a cable withheld, an error that a disk gave. Words of the history name them.
Faults of cables are in `fault_cables`, of disks and data in `fault_disks`.

Threading: each from one thread; whoever schedules holds the `resources`.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from gdah_drill import history as words
from gdah_drill.cluster import Mount, Node, Server
from gdah_drill.environment import UNDER_WAY, Environment
from gdah_drill.waiting import NOT_YET, wait_until

TERMINATE_S = 90.0
CALLS_END_S = 0.3
"""Programs finish the call that they are in before their mount goes away under them."""


class Fault(ABC):
    """One fault of one target. `details` go into the history."""

    kind: ClassVar[str]

    def __init__(self, env: Environment, target: str, **details: Any) -> None:
        self.env = env
        self.target = target
        self.details: dict[str, Any] = details
        self.happened = False
        self.note = ""

    @property
    def resources(self) -> tuple[str, ...]:
        """What nobody else may work on meanwhile."""
        return (self.target,)

    @abstractmethod
    def begin(self) -> None: ...

    @abstractmethod
    def end(self) -> None: ...

    @property
    def node(self) -> Node:
        return self.env.node(self.target)

    def not_done(self, why: str) -> None:
        self.note = f"not done: {why}"

    def bring_back(self) -> None:
        """The node serves again; that it does not is a finding, not an accident of the drill."""
        start_again(self.env, self.node)


def start_again(env: Environment, node: Node) -> None:
    for last in (False, True):
        try:
            if isinstance(node, Mount):
                env.shut(node)
                env.start_mount(node)
            else:
                assert isinstance(node, Server)
                node.start()
            return
        except Exception as error:
            env.troubles.append(f"{node.name} did not come back: {error}"[:3000])
            node.process.make_sure_it_is_gone()
            if last:
                return


class Kill(Fault):
    """kill -9."""

    kind = words.KILL

    def begin(self) -> None:
        if isinstance(self.node, Mount):
            self.details["pending"] = self.env.pending(self.target)
        if not self.node.process.running:
            return self.not_done("it had ended before")
        self.node.kill9()
        self.happened = self.node.process.returncode == -9
        return None

    def end(self) -> None:
        self.bring_back()


class Stop(Fault):
    """SIGSTOP, then SIGCONT."""

    kind = words.STOP

    def begin(self) -> None:
        if not self.node.process.running:
            return self.not_done("it had ended before")
        self.node.stop()
        with contextlib.suppress(AssertionError):
            self.happened = wait_until(lambda: state(self.node.process.pid) == "T", "stopped", 2.0)
        return None

    def end(self) -> None:
        if self.node.process.running:
            self.node.cont()


class Terminate(Fault):
    """SIGTERM: a server's shutdown, a mount's unmount, with whatever is in the backlog."""

    def __init__(self, env: Environment, target: str, **details: Any) -> None:
        super().__init__(env, target, **details)
        self.kind = words.UNMOUNT if isinstance(self.node, Mount) else words.SHUTDOWN  # type: ignore[misc]

    def begin(self) -> None:
        node = self.node
        if not node.process.running:
            return self.not_done("it had ended before")
        if isinstance(node, Mount):
            self.details["pending"] = self.env.pending(self.target)
            node.let_go()
            self.env.shut(node)
            time.sleep(CALLS_END_S)
        try:
            code = node.process.terminate(timeout_s=TERMINATE_S)
        except AssertionError as error:
            self.env.troubles.append(str(error))
            node.kill9()
            return None
        self.details["exit"] = code
        self.happened = code in ((0, 3) if isinstance(node, Mount) else (0,))
        if not self.happened:
            self.env.troubles.append(f"{node.name} ended with {code} after SIGTERM: {node.process.log_tail(15)}"[:3000])
        return None

    def end(self) -> None:
        self.bring_back()


class Clock(Fault):
    """The clock jumps while the process runs, and back again. details: by_s."""

    kind = words.CLOCK

    def begin(self) -> None:
        self._set(self.details["by_s"])

    def end(self) -> None:
        self._set(0)

    def _set(self, by_s: float) -> None:
        file = self.env.clock_file(self.target)
        seen = Path(f"{file}.seen")
        before = _size(seen)
        part = file.with_suffix(".part")
        part.write_text(str(by_s))
        part.replace(file)
        if by_s:
            with contextlib.suppress(*NOT_YET):
                self.happened = wait_until(lambda: _size(seen) > before, "the process sees its new clock", 40.0)


class PeerAdded(Fault):
    """A further server joins while everybody writes, later it is retired; `end` is the retirement."""

    kind = words.PEER_ADDED

    @property
    def resources(self) -> tuple[str, ...]:
        return ("membership", "loss", *(server.name for server in self.env.servers))

    def begin(self) -> None:
        server = self.env.add_server()
        self.target = server.name
        try:
            self.happened = wait_until(
                lambda: self.env.servers_agree(lag=UNDER_WAY), f"{server.name} has everything", 60.0
            )
        except NOT_YET as error:
            self.env.troubles.append(f"{server.name} was added and did not catch up: {error}"[:2000])

    def end(self) -> None:
        """Nothing: who retires it is another fault."""


class PeerRetired(Fault):
    """The server that was added is retired for good."""

    kind = words.PEER_RETIRED

    @property
    def resources(self) -> tuple[str, ...]:
        return ("membership", "loss", *(server.name for server in self.env.servers))

    def begin(self) -> None:
        server, first = self.env.servers[-1], self.env.servers[0]
        self.target = server.name
        number = server.status()["server"]
        answer = self.env.cluster.http.post(
            f"{first.url}/v1/volumes/test_chamber/retire", params={"server": number}, timeout=30.0
        )
        if answer.status_code != 200:
            self.env.troubles.append(f"retiring {server.name} was refused: {answer.status_code} {answer.text[:500]}")
            return
        self.env.servers.remove(server)
        server.process.terminate()

        def gone() -> bool:
            return all(
                number not in [peer["server"] for peer in self.env.volume_status(other)["peers"]]
                for other in self.env.servers
            )

        try:
            self.happened = wait_until(gone, f"{server.name} is not counted any more", 30.0)
        except NOT_YET as error:
            self.env.troubles.append(str(error))

    def end(self) -> None:
        """It is gone for good."""


def state(pid: int) -> str:
    """R, S, D, T ... of a process, as /proc says; '' when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
