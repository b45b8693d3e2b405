"""What was accepted is on both servers, and each of them alone can give all of it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gdah_drill.cluster import Cluster
from gdah_drill.waiting import wait_until
from tests.cluster import copies

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(300)]


def test_each_server_alone_serves_every_byte_to_an_empty_cache(
    new_cluster: Callable[..., Cluster], sources: Path, tmp_path: Path
) -> None:
    """Two replicas that hold the same operations show the same tree."""
    cluster = new_cluster()
    a, b = cluster.start_servers()
    first = cluster.mount("first")
    first.run("cp", "-r", sources, "lib")
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 12_000)
    first.run("cp", large, "large")
    cluster.wait_settled()
    assert a.volume()["digest"] == b.volume()["digest"]
    assert a.volume()["operations"] == b.volume()["operations"] > 200
    assert first.status()["copies"] == "2/2"
    assert first.terminate() == 0
    assert not first.is_mounted()
    for server in (a, b):
        assert server.process.terminate() == 0

    for alone, other in ((a, b), (b, a)):
        aside = other.data.rename(other.data.with_name("aside"))
        alone.start()
        reader = cluster.mount(f"reader-{alone.name}", [alone])
        wait_until(lambda reader=reader: reader.hands.exists("large"), "the mirror is filled")  # type: ignore[misc]
        assert reader.run("diff", "-r", sources, "lib").stdout == ""
        reader.run("cmp", large, "large")
        assert reader.terminate() == 0
        assert alone.process.terminate() == 0
        aside.rename(other.data)


def test_a_server_that_comes_back_empty_receives_everything_again(new_cluster: Callable[..., Cluster]) -> None:
    """Absence is never deletion: only an operation that somebody made removes something."""
    cluster = new_cluster()
    a, b = cluster.start_servers()
    mount = cluster.mount()
    for number in range(50):
        mount.hands.write(f"file-{number}", f"content {number}".encode() * 10)
    mount.hands.write("large", b"0123456789" * 200_000)
    cluster.wait_settled()
    before = mount.hands.tree()

    b.kill9()
    mount.hands.write("meanwhile", b"written to one")
    b.wipe()
    b.start()
    cluster.wait_settled()
    expected = before | {"meanwhile": b"written to one"}
    assert mount.hands.tree() == expected
    assert b.full_state() == expected

    a.kill9()
    a.wipe()
    a.start()
    cluster.wait_settled()
    assert a.full_state() == expected
    assert mount.hands.tree() == expected


def test_what_is_said_to_be_on_both_survives_the_loss_of_either_in_the_middle_of_work(
    tmp_path: Path, fuse: None
) -> None:
    """More rounds: `python -m tests.cluster.copies`."""
    result = copies.Result()
    copies.play(tmp_path, 6, 1, result)
    assert result.findings == []
    assert result.claimed > 6 * 8 / 2
    assert result.claimed_large > 6


def test_a_lost_or_wrong_file_that_was_claimed_is_seen() -> None:
    steps = [copies.Step({"a": b"1"}), copies.Step({"a": b"2"}), copies.Step({"a": None, "b": b"2"})]
    assert copies.Claim(steps, 2).findings({"a": b"2"}) == []
    assert copies.Claim(steps, 2).findings({"b": b"2"}) == []
    assert len(copies.Claim(steps, 2).findings({"a": b"1"})) == 1
    assert len(copies.Claim(steps, 3).findings({"a": b"2"})) == 2
    assert len(copies.Claim(steps, 3).findings({})) == 1
    assert copies.Claim(steps, 0).findings({}) == []


def test_the_log_reads_as_what_people_did(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster()
    a, _ = cluster.start_servers()
    mount = cluster.mount("laptop")
    mount.hands.write("shopping list.txt", b"milk")
    mount.hands.rename("shopping list.txt", "list.txt")
    cluster.wait_settled()
    databases = [path for path in a.data.rglob("*") if path.is_file() and path.read_bytes()[:15] == b"SQLite format 3"]
    assert databases
    shown = "".join(
        mount.cluster.tool("sqlite-utils", "rows", str(path), "operations", "--limit", "3") for path in databases
    )
    for word in ("create", "rename", "shopping list.txt", "laptop"):
        assert word in shown
