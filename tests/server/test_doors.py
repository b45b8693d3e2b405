"""Who may talk to a server, where it may listen, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import logging
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from gdah_drill.cluster import Cluster
from gdah_drill.processes import free_port
from gdah_drill.waiting import wait_until
from storage_server.cli import cut_off_is_one_line
from tests.server.conftest import Connect, wait_joined

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
Servers = Callable[..., Cluster]
TOKEN = "a-secret-of-enough-length"


def _refused(*argv: str) -> str:
    """What the command says when it does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "storage_server.cli", *argv], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_bind_that_others_can_reach_needs_a_token(tmp_path: Path) -> None:
    assert "--token-file" in _refused("--data", str(tmp_path), "--host", "0.0.0.0")


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "d"))
    assert "--data" in _refused()
    assert "not a URL" in _refused(*data, "--peer", "localhost:7001")
    assert "--port" in _refused(*data, "--port", "many")
    assert "--tls-key" in _refused(*data, "--tls-cert", "/dev/null")
    assert "token" in _refused(*data, "--token-file", str(tmp_path / "absent"))
    assert "volume" in _refused(*data, "--volume", "../x")
    (tmp_path / "file").write_text("x")
    assert "cannot be used" in _refused("--data", str(tmp_path / "file"))


def test_two_servers_do_not_share_a_folder_or_a_port(servers: Servers) -> None:
    server = servers(1).servers[0]
    assert "in use by another" in _refused("--data", str(server.data), "--port", str(free_port()))
    assert "choose another --port" in _refused("--data", str(server.data) + "2", "--port", str(server.port))


def test_a_damaged_database_is_said_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "volumes" / "test_chamber"
    folder.mkdir(parents=True)
    (folder / "volume.db").write_bytes(b"this is no database" * 1000)
    said = _refused("--data", str(tmp_path / "data"), "--port", str(free_port()))
    assert "volume.db" in said
    assert "not a database" in said


def test_volumes_are_kept_apart(servers: Servers) -> None:
    cluster = servers(1, start=False)
    server = cluster.servers[0]
    server.start("--volume", "second")
    address = f"{server.url}/v1/volumes"
    assert cluster.http.get(address).json() == {"volumes": ["test_chamber", "second"]}
    assert cluster.http.put(f"{address}/second/files/x", content=b"data").status_code == 201
    assert cluster.http.get(f"{address}/second/files/x").content == b"data"
    assert cluster.http.get(f"{address}/test_chamber/files/x").status_code == 404
    assert cluster.http.get(f"{address}/third/files/x").json()["error"] == "UnknownVolume"


def test_the_token_is_asked_for_on_every_route_and_between_servers(
    servers: Servers, lane: Connect, tmp_path: Path
) -> None:
    secret = tmp_path / "token"
    secret.write_text(TOKEN + "\n")
    cluster = servers(2, start=False)
    for server in cluster.servers:
        server.start("--token-file", str(secret), wait=False)
    for server in cluster.servers:
        server.wait_ready()
    bare = cluster.http
    cluster.http = httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10, trust_env=False)
    try:
        wait_joined(cluster)
        a = cluster.servers[0]
        routes = ["/status", "/metrics", "/readyz", "/docs", "/openapi.json", "/get_full_state", "/get_changes",
                  "/v1/volumes", "/v1/volumes/test_chamber/tree", "/v1/volumes/test_chamber/snapshot",
                  "/v1/volumes/test_chamber/files/x", "/nowhere"]  # fmt: skip
        for route in routes:
            for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
                answer = bare.get(a.url + route, headers=header)
                assert answer.status_code == 401, route
                assert answer.json()["error"] == "Unauthorized"
        assert bare.post(a.url + "/push_change", json={}).status_code == 401
        assert bare.get(a.url + "/healthz").status_code == 200
        for token in (None, "wrong"):
            with pytest.raises(InvalidStatus) as refused:
                lane(a, token=token)
            assert refused.value.response.status_code == 401
        assert lane(a, token=TOKEN).create(b"x", b"data").copies == 2
    finally:
        cluster.http.close()
        cluster.http = bare


def test_a_peer_with_another_token_is_not_taken_in_and_says_why(servers: Servers, tmp_path: Path) -> None:
    cluster = servers(2, start=False)
    for number, server in enumerate(cluster.servers):
        secret = tmp_path / f"token{number}"
        secret.write_text(f"{TOKEN}-{number}")
        server.start("--token-file", str(secret), wait=False)
    for server in cluster.servers:
        server.wait_ready()
    headers = {"Authorization": f"Bearer {TOKEN}-0"}

    def error() -> str:
        peers = cluster.servers[0].get("/status", headers=headers).json()["volumes"]["test_chamber"]["peers"]
        assert not peers[0]["connected"]
        return str(peers[0]["last_error"])

    wait_until(lambda: "token" in error(), "the reason names the token")


def test_servers_and_mounts_over_tls(servers: Servers, tmp_path: Path) -> None:
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("no openssl command to make a certificate with")
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    cluster = servers(2, start=False)
    plain = cluster.http
    context = ssl.create_default_context(cafile=cert)
    cluster.http = httpx.Client(verify=context, timeout=10, trust_env=False)
    try:
        for server in cluster.servers:
            server.url = server.url.replace("http", "https")
        for server in cluster.servers:
            server.start("--tls-cert", cert, "--tls-key", key, "--ca", cert, wait=False)
        for server in cluster.servers:
            server.wait_ready()
        wait_joined(cluster)
        a = cluster.servers[0]
        answer = cluster.http.put(f"{a.url}/v1/volumes/test_chamber/files/secret", content=b"x" * 200_000)
        assert answer.json()["copies"] == 2
        cluster.wait_equal()
    finally:
        cluster.http.close()
        cluster.http = plain
        for server in cluster.servers:
            server.process.make_sure_it_is_gone()


def test_a_shells_limit_of_open_files_is_raised_as_far_as_the_system_lets_it() -> None:
    code = "import storage_server.cli as cli; print(cli.allow_open_files(500), cli.allow_open_files(10_000))"
    limited = ["sh", "-c", 'ulimit -Sn 256; ulimit -Hn 1000; exec "$@"', "sh", sys.executable, "-c", code]
    assert subprocess.run(limited, capture_output=True, text=True, check=True).stdout == "500 1000\n"


def test_a_request_that_is_under_way_when_the_server_stops_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("gdah-test-cut-off")
    log.addFilter(cut_off_is_one_line)
    for error in (asyncio.CancelledError("Task cancelled"), ValueError("a fault of ours")):
        log.error("Exception in ASGI application", exc_info=error)
    assert "a request was under way when the server stopped" in caplog.text
    assert "CancelledError" not in caplog.text
    assert "ValueError: a fault of ours" in caplog.text
