"""Two real servers: one folder is damaged in several ways, mended from the other, and both are equal again; a flush
that waits until every server has everything."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from gdah_drill.cluster import VOLUME, Cluster, Server
from gdah_drill.waiting import wait_until
from mountfs import tool

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(240)]
GDAH = (sys.executable, "-m", "mountfs.tool")


def gdah(*argv: str | Path) -> tuple[int, str]:
    """In this process: starting Python so often would take longer than the work."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = tool.main([*map(str, argv)])
    return code, said.getvalue()


def volume_of(server: Server) -> Path:
    return server.data / "volumes" / VOLUME


def damage(server: Server, *statements: str) -> None:
    with closing(sqlite3.connect(volume_of(server) / "volume.db")) as database, database:
        for statement in statements:
            database.execute(statement)


def chunk_files(server: Server) -> list[Path]:
    return sorted(path for path in (volume_of(server) / "chunks").glob("??/*") if len(path.name) == 64)


def mended(server: Server, peer: Server) -> str:
    code, said = gdah("fsck", "--data", server.data)
    assert code == 1, said
    code, said = gdah("fsck", "--data", server.data, "--repair", "--peer", peer.url)
    assert code == 0, said
    return said


def test_a_damaged_folder_is_mended_from_the_other_server(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster()
    a, b = cluster.start_servers()
    mount = cluster.mount("laptop")
    hands = mount.hands
    hands.makedirs("folder/deep")
    for number in range(4):
        hands.write(f"folder/large {number}", os.urandom(200_000))
        hands.write(f"folder/deep/{number}", b"small %d" % number)
    hands.rename("folder/large 0", "folder/deep/moved")
    hands.unlink("folder/deep/0")
    tree = hands.tree()
    cluster.wait_settled()
    assert gdah("fsck", "--data", a.data)[0] == 0  # beside the server that runs
    code, said = gdah("fsck", "--data", b.data, "--peer", a.url)
    assert (code, "holds the same" in said) == (0, True), said

    b.process.terminate()
    gone, flipped, short, _ = chunk_files(b)
    gone.unlink()
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"?")
    short.write_bytes(b"")
    damage(
        b,
        "DELETE FROM links WHERE name = x'64656570'",
        "UPDATE operations SET operation = '{}' WHERE position = 4",
        "DELETE FROM operations WHERE position = 6",
        "DELETE FROM chunks",
    )
    hands.write("folder/meanwhile", b"the other one goes on")
    said = mended(b, a)
    assert "everything was taken from" in said
    b.start()
    cluster.wait_settled()
    assert a.full_state() == b.full_state()

    b.kill9()
    (volume_of(b) / "volume.db").write_bytes(os.urandom(100_000))
    assert gdah("fsck", "--data", b.data, "--repair")[0] == 1
    assert gdah("fsck", "--data", b.data, "--repair", "--peer", "http://127.0.0.1:9")[0] == 1
    mended(b, a)
    b.start()
    hands.write("folder/at the end", b"works")
    cluster.wait_settled()
    assert a.full_state() == b.full_state()
    assert hands.tree().items() >= tree.items()
    expected = hands.tree()
    mount.terminate()
    code, said = gdah("fsck", "--cache-dir", mount.cache)
    assert code == 0, said
    for server in (a, b):
        server.process.terminate()
        code, said = gdah("fsck", "--data", server.data)
        assert code == 0, said
    assert gdah("export", "--data", b.data, cluster.folder / "out")[0] == 0
    for path, what in expected.items():
        found = cluster.folder / "out" / path
        assert found.is_dir() if what is None else found.exists(), path


def test_a_flush_that_waits_returns_when_every_server_has_everything(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster()
    a, b = cluster.start_servers()
    mount = cluster.mount("laptop")
    hands = mount.hands
    hands.write("before", b"on both")
    cluster.wait_settled()
    b.kill9()
    wait_until(lambda: mount.uses(a), "the mount uses the other server", 20)
    hands.write("file", b"on one server")
    told = cluster.folder / "told"
    with told.open("wb") as output:
        argv = [*GDAH, "flush", "--wait", "--status-addr", f"127.0.0.1:{mount.port}"]
        flush = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: b"not on every one" in told.read_bytes(), "it says what it waits for", 20)
            assert b.url.encode() in told.read_bytes()
            a.kill9()
            hands.write("later", b"on no server")
            hands.write("later, large", os.urandom(200_000))
            code, said = gdah("fsck", "--cache-dir", mount.cache)  # beside the mount that runs
            assert (code, "it is in use" in said) == (0, True), said
            assert gdah("fsck", "--cache-dir", mount.cache, "--repair")[0] == 2
            wait_until(lambda: b"only on this device" in told.read_bytes(), "it says so", 20)
            assert flush.poll() is None
            a.start()
            wait_until(lambda: mount.status()["pending"]["operations"] == 0, "one server has all", 40)
            assert flush.poll() is None
            b.start()
            assert flush.wait(60) == 0
        finally:
            flush.kill()
            flush.wait()
    assert b"on every server" in told.read_bytes()
    assert a.full_state() == b.full_state()
    assert b.full_state()["later"] == b"on no server"
