"""The web app on a free port, in front of a mount in memory."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from mountfs.web.status import StatusServer, StatusSettings
from tests.page.fake_view import FakeView


@pytest.fixture(scope="session")
def running() -> Iterator[tuple[FakeView, StatusServer]]:
    view = FakeView()
    server = StatusServer(view, StatusSettings(port=0, unmount=view.unmounted.set))
    server.start()
    yield view, server
    server.stop()


@pytest.fixture
def view(running: tuple[FakeView, StatusServer]) -> FakeView:
    running[0].reset()
    return running[0]


@pytest.fixture
def server(running: tuple[FakeView, StatusServer]) -> StatusServer:
    return running[1]


@pytest.fixture
def http(server: StatusServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client
