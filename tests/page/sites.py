"""A mount behind the page, for tests that use the page: in memory, or a real one on two real servers."""

from __future__ import annotations

from typing import Protocol

from gdah_drill.cluster import Cluster, Mount
from mountfs.web.status import StatusServer
from tests.page.fake_view import FakeView


class Site(Protocol):
    url: str

    def write(self, path: str, data: bytes) -> None:
        """As a program does that knows nothing of the page."""
        ...

    def read(self, path: str) -> bytes | None:
        """None: it is not there."""
        ...

    def servers_go(self) -> None: ...
    def servers_return(self) -> None: ...


class FakeSite:
    def __init__(self, view: FakeView, server: StatusServer) -> None:
        self.url = server.url
        self._view = view

    def write(self, path: str, data: bytes) -> None:
        self._view.add(path, data)

    def read(self, path: str) -> bytes | None:
        return self._view.contents.get(path)

    def servers_go(self) -> None:
        self._view.connect(False)

    def servers_return(self) -> None:
        self._view.connect(True)


class RealSite:
    def __init__(self, cluster: Cluster, mount: Mount) -> None:
        self.url = mount.url
        self._cluster = cluster
        self._hands = mount.hands

    def write(self, path: str, data: bytes) -> None:
        self._hands.write(path, data)

    def read(self, path: str) -> bytes | None:
        try:
            content: bytes = self._hands.read(path)
        except FileNotFoundError:
            return None
        return content

    def servers_go(self) -> None:
        for server in self._cluster.servers:
            server.kill9()

    def servers_return(self) -> None:
        for server in self._cluster.servers:
            server.start()
