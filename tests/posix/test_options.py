"""What the options of a mount about rights do: whose everything is, read-only, what only root may ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gdah_drill.cluster import Cluster, Mount
from gdah_volume.errors import MountFailed
from mountfs.fuse import mountpoint
from tests.posix.bench import OTHER, ROOT, USER, Bench, report

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.timeout(120)]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users, which only root may")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, fuse: None) -> Iterator[Mount]:
    """A mount without any of the options, beside those with one."""
    with Cluster(tmp_path_factory.mktemp("options"), 1) as cluster:
        cluster.start_servers()
        yield cluster.mount("plain", None, "--allow-other")


@contextmanager
def bench_on(mount: Mount) -> Iterator[Bench]:
    """All its checks must hold."""
    bench = Bench(mount.root)
    try:
        yield bench
    finally:
        bench.close()
    assert not bench.failures, report(bench)


@contextmanager
def another(plain: Mount, name: str, *more: str) -> Iterator[tuple[Mount, Bench]]:
    """A mount of the same volume with options; it shows all that was done on the other one."""
    plain.cluster.wait_settled()
    mount = plain.cluster.mount(name, None, "--allow-other", *more)
    with bench_on(mount) as bench:
        yield mount, bench
    plain.cluster.wait_settled()
    mount.terminate()


def flags_of(mount: Mount) -> set[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return set(next(line for line in lines if line.split()[1] == str(mount.root)).split()[3].split(","))


@as_root
def test_owners_groups_and_a_mask_are_a_view(plain: Mount) -> None:
    """`--uid`, `--gid` and `--umask` are a view: nothing that is stored becomes another by them."""
    with bench_on(plain) as bench:
        assert {"nosuid", "nodev", "default_permissions", "allow_other"} <= flags_of(plain)
        bench.make("file", "f", None, (1, 2))
        bench.ok("chmod", "f", 0o4777)
        bench.make("dir", "d", 0o777, (65534, 65534))
        bench.make("symlink", "s", None, (3, 4))
        bench.ok("mknod", "null", "char", 0o666, 1, 3)
        bench.fails("EACCES", "open", "null", os.O_RDONLY)  # nodev
    with another(plain, "view", "--uid", "65534", "--gid", "65530", "--umask", "027") as (_, bench):
        bench.shows(".", uid=65534, gid=65530, mode=0o750)
        bench.shows("f", uid=65534, gid=65530, mode=0o4750)
        bench.shows("d", uid=65534, gid=65530, mode=0o750)
        bench.shows("s", uid=65534, gid=65530, mode=0o777)
        bench.fails("EACCES", "stat", "f", by=OTHER)
        bench.ok("create", "made", 0o666, by=USER)
        bench.shows("made", uid=65534, gid=65530, mode=0o640)
        bench.ok("chmod", "f", 0o600, by=USER)
        bench.shows("f", mode=0o600)
        for owner in ((0, -1), (-1, 0), (0, 0), (65534, 0)):
            bench.fails("EPERM", "chown", "f", *owner)
        for owner in ((65534, 65530), (65534, -1), (-1, 65530), (-1, -1)):
            bench.ok("chown", "f", *owner, by=USER)
        bench.ok("unlink", "s", by=USER)
    with bench_on(plain) as bench:
        bench.shows("f", uid=1, gid=2, mode=0o627)  # what the mask hid has stayed
        bench.shows("made", uid=USER.uid, gid=USER.gid, mode=0o666)
        bench.shows("d", uid=65534, gid=65534, mode=0o777)
        bench.gone("s")


@as_root
def test_a_read_only_mount_logs_nothing(plain: Mount) -> None:
    """A mount that is read-only refuses every change with EROFS and logs nothing."""
    with bench_on(plain) as bench:
        bench.ok("put", "kept", b"content")
        bench.make("dir", "folder")
    server = plain.cluster.servers[0]
    with another(plain, "reader", "--read-only") as (mount, bench):
        operations = server.volume()["operations"]
        bench.gives(b"content", "get", "kept")
        for name, *args in (
            ("open", "kept", os.O_WRONLY), ("open", "kept", os.O_RDONLY | os.O_TRUNC), ("create", "new"),
            ("open", "new", os.O_RDONLY | os.O_CREAT), ("mkdir", "new"), ("mkfifo", "new"), ("mknod", "new", "char"),
            ("symlink", b"x", "new"), ("link", "kept", "new"), ("rename", "kept", "new"), ("unlink", "kept"),
            ("rmdir", "folder"), ("chmod", "kept", 0o600), ("chown", "kept", 1, 1), ("lchown", "kept", 1, 1),
            ("truncate", "kept", 1), ("utimens", "kept", None), ("setxattr", "kept", b"user.x", b""),
            ("removexattr", "kept", b"user.x"), ("bind", "new"),
        ):  # fmt: skip
            bench.fails("EROFS", name, *args, by=ROOT)
        bench.gone("new")
        answer = mount.cluster.http.put(f"{mount.url}/api/file", params={"path": "new"}, content=b"x")
        assert answer.status_code == 403, answer.text
        assert "read-only" in answer.text
        assert mount.status()["read_only"] is True
    assert server.volume()["operations"] == operations


def test_what_only_root_may_ask_for_is_refused_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "fuse.conf"
    monkeypatch.setattr(mountpoint.os, "geteuid", lambda: 1000)
    for text in (None, "", "#user_allow_other\nmount_max = 7\n"):
        if text is not None:
            conf.write_text(text)
        with pytest.raises(MountFailed, match="no line 'user_allow_other'; add it as root"):
            mountpoint.check_rights(allow_other=True, privileged=False, fuse_conf=conf)
    conf.write_text("mount_max = 7\n user_allow_other  # for all\n")
    mountpoint.check_rights(allow_other=True, privileged=False, fuse_conf=conf)
    with pytest.raises(MountFailed, match="--privileged needs root"):
        mountpoint.check_rights(allow_other=False, privileged=True, fuse_conf=conf)
    mountpoint.check_rights(allow_other=False, privileged=False, fuse_conf=tmp_path / "absent")
