"""Fixtures that all tests share, the report of a failed cluster test, and the rule that mount tests are never lost."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gdah_drill.cluster import LIVE, Cluster
from tests.cluster.sources import copy_sources

_ran_on_mounts = 0


@pytest.fixture(scope="session")
def fuse() -> None:
    """The machine can mount. Where it cannot, tests are skipped aloud; with CI=true that is a failure."""
    if not os.path.exists("/dev/fuse"):
        reason = "no /dev/fuse on this machine"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def new_cluster(tmp_path: Path, fuse: None) -> Iterator[Callable[..., Cluster]]:
    """Make clusters: `new_cluster(servers=2, cables=False)`; closed when the test ends."""
    with ExitStack() as stack:
        count = 0

        def make(servers: int = 2, *, cables: bool = False) -> Cluster:
            nonlocal count
            count += 1
            return stack.enter_context(Cluster(tmp_path / f"c{count}", servers, cables=cables))

        yield make


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while piece := connection.recv(65536):
                connection.sendall(piece)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 real source files in their folders, on the local disk. Read only. `tests.cluster.measure` takes 1,100."""
    folder = tmp_path_factory.mktemp("sources") / "lib"
    copy_sources(folder, int(os.environ.get("GDAH_TEST_SOURCES", "200")))
    return folder


@pytest.fixture(scope="session")
def some_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 of them, where the number is not the point."""
    folder = tmp_path_factory.mktemp("some-sources") / "lib"
    copy_sources(folder, 150)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A long file that comes last keeps one worker busy while the other has nothing left to do."""
    items.sort(key=lambda item: item.path.name != "test_model.py")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" and report.failed:
        for cluster in list(LIVE):
            report.sections.append((f"cluster in {cluster.folder}", cluster.report()))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Called in the process that sums up, also for tests that ran in a worker."""
    global _ran_on_mounts
    if report.when == "call" and "mount" in report.keywords and report.outcome != "skipped":
        _ran_on_mounts += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"tests that ran on a real mount: {_ran_on_mounts}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A whole run in CI that touched no mount proves nothing, so it fails."""
    if hasattr(session.config, "workerinput"):
        return
    whole = session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if os.environ.get("CI") == "true" and whole and not session.config.option.collectonly and _ran_on_mounts == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
