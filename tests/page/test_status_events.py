"""Live events: what happens is told, gathered, without anybody asking."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mountfs.ports import Event
from mountfs.web.status import StatusServer
from mountfs.web.status_events import BACKLOG_MAX, CLIENTS_MAX, PATHS_MAX, EventHub, message
from tests.page.fake_view import FakeView


def events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    kind = ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def until(stream: Iterator[tuple[str, Any]], kind: str) -> Any:
    for found, data in stream:
        if found == kind:
            return data
    raise AssertionError(f"the stream ended before {kind}")


def test_the_state_comes_first_and_then_what_changes(http: httpx.Client, view: FakeView) -> None:
    with http.stream("GET", "/api/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        stream = events(response)
        assert until(stream, "status")["connected"] is True
        view.add("new\nevent: evil\n.txt", b"1")
        while "new\nevent: evil\n.txt" not in until(stream, "change")["paths"]:
            pass
        view.connect(False)
        while until(stream, "peer_status")["connected"] is not False:
            pass
        assert until(stream, "status")["connected"] is False


def test_the_state_comes_again_by_itself(http: httpx.Client, view: FakeView) -> None:
    with http.stream("GET", "/api/events") as response:
        stream = events(response)
        until(stream, "status")
        until(stream, "status")


def test_thousands_of_changes_are_few_messages(http: httpx.Client, view: FakeView) -> None:
    with http.stream("GET", "/api/events") as response:
        stream = events(response)
        until(stream, "status")

        def work() -> None:
            for number in range(3000):
                view.tell(Event("change", {"paths": [f"f{number}"]}))
            view.tell(Event("conflict", {"paths": ["end"]}))

        threading.Thread(target=work).start()
        seen: list[dict[str, Any]] = []
        for kind, data in stream:
            if kind == "change":
                seen.append(data)
            if kind == "conflict":
                break
        assert 1 <= len(seen) < 100
        assert all(len(data["paths"]) <= PATHS_MAX for data in seen)
        assert any(data["truncated"] for data in seen) or len(seen) > 1


def test_a_change_without_paths_means_everything(http: httpx.Client, view: FakeView) -> None:
    with http.stream("GET", "/api/events") as response:
        stream = events(response)
        until(stream, "status")
        view.tell(Event("change"))
        while until(stream, "change")["truncated"] is not True:
            pass


def test_a_page_that_goes_is_forgotten(http: httpx.Client, server: StatusServer, view: FakeView) -> None:
    for _ in range(CLIENTS_MAX + 5):
        with httpx.stream("GET", server.url + "/api/events", timeout=20) as response:
            if response.status_code != 503:
                next(response.iter_raw())
    for _ in range(200):
        with http.stream("GET", "/api/events") as response:
            if response.status_code == 200:
                return
    pytest.fail("pages that have gone still count")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_slow_page_is_told_to_ask_again(view: FakeView) -> None:
    async def run() -> list[bytes]:
        hub = EventHub(view)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(BACKLOG_MAX)
        for number in range(BACKLOG_MAX + 1):
            hub._put(queue, message("change", {"number": number}))
        return [queue.get_nowait() or b"" for _ in range(queue.qsize())]

    left = asyncio.run(run())
    assert left[0].startswith(b"event: resync")
    assert b'"number":64' in left[-1]
    assert len(left) == 2
