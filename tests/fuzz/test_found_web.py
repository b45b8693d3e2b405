"""What the fuzzer found in HTTP, each by its name."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gdah_drill.cluster import Cluster
from gdah_drill.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(60)]


def test_percent_signs_that_hide_the_address_of_a_file(tmp_path: Path) -> None:
    """`%2f` for a slash, or `%66` for the f of `files`, led to the route and then to a 500."""
    with Cluster(tmp_path, 1) as cluster:
        server = cluster.start_servers()[0]
        for path in ("test_chamber%2ffiles/a", "test_chamber/%66iles/a", "test_chamber%2ffiles/b/files/a"):
            for method in ("GET", "PUT", "DELETE"):
                answer = cluster.http.request(method, f"{server.url}/v1/volumes/{path}", content=b"x")
                assert answer.status_code in (400, 404), (path, answer.text)
                assert answer.json()["message"]
        assert server.volume()["operations"] == 0
        assert (
            cluster.http.put(f"{server.url}/v1/volumes/test_chamber/files/d%2ffiles/a", content=b"x").status_code == 201
        )
        assert server.full_state() == {"d": None, "d/files": None, "d/files/a": b"x"}


@pytest.mark.mount
def test_an_upload_to_a_mount_that_is_cut_short(tmp_path: Path, fuse: None) -> None:
    """Nothing is stored and nothing is logged as a fault of ours (it was, when the end came while a worker waited for it)."""
    with Cluster(tmp_path, 1) as cluster:
        cluster.start_servers()
        mount = cluster.mount()
        form = b"--b\r\nContent-Disposition: form-data; name=f; filename=a\r\n\r\nx"
        for request in (
            b"PUT /api/file?path=a HTTP/1.1",
            b"POST /api/upload HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b",
        ):
            with socket.create_connection(("127.0.0.1", mount.port), 10) as half:
                half.sendall(request + b"\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n" + form)
                half.shutdown(socket.SHUT_WR)
                while half.recv(1000):
                    pass
        wait_until(lambda: mount.get("/api/files").json()["items"] == [], "nothing of it is stored", 10)
