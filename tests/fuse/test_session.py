"""How a mount begins, bears faults, and ends."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuse.conftest import ToyMount, in_mounts

pytestmark = pytest.mark.mount


def read(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def overwrite(path: Path) -> None:
    with open(path, "r+b", buffering=0) as file:
        file.write(b"C")


@pytest.mark.parametrize(
    ("operation", "attempt"),
    [
        ("lookup", lambda path: os.stat(path / "unseen")),
        ("mkdir", lambda path: os.mkdir(path / "d")),
        ("create", lambda path: (path / "new").touch()),
        ("open", lambda path: read(path / "file")),
        ("read", lambda path: read(path / "file")),
        ("write", lambda path: overwrite(path / "file")),
        ("opendir", os.listdir),
        ("readdir", os.listdir),
        ("statfs", os.statvfs),
        ("getxattr", lambda path: os.getxattr(path / "file", "user.x")),
        ("unlink", lambda path: os.unlink(path / "file")),
    ],
)
def test_a_fault_of_ours_is_an_io_error_and_the_mount_lives_on(
    toy: ToyMount, operation: str, attempt: Callable[[Path], object]
) -> None:
    (toy.path / "file").write_text("content")
    toy.control("told_inode", "file")  # or the kernel would answer a read by itself
    assert toy.control("flush")
    toy.control("break_", operation)
    with pytest.raises(OSError, match="Input/output") as caught:
        attempt(toy.path)
    assert caught.value.errno == errno.EIO
    toy.control("break_")
    assert (toy.path / "file").read_text() == "content"
    assert toy.control("failures") >= 1  # the kernel asks a second time for a page that it failed to read ahead
    toy.control("unmount", True)
    toy.wait()
    assert f"fuse handler failed op={operation}" in toy.errors()
    assert "broken on purpose" in toy.errors()


def test_a_clean_end(toy: ToyMount) -> None:
    (toy.path / "file").write_text("x")
    assert in_mounts(toy.path)
    assert toy.control("unmount") is True
    assert toy.wait() == 0
    assert not in_mounts(toy.path)
    assert os.listdir(toy.path) == []
    assert "Traceback" not in toy.errors()


def test_unmounted_by_somebody_else(toy: ToyMount) -> None:
    subprocess.run(["fusermount", "-u", str(toy.path)], check=True, timeout=30)
    assert toy.wait() == 0
    assert not in_mounts(toy.path)


def test_in_use_it_is_not_unmounted_and_says_by_whom(toy: ToyMount) -> None:
    with open(toy.path / "file", "w", buffering=1) as file:
        answer = toy.ask("unmount")
        assert answer["error"] == "MountBusy"
        assert f"pid {os.getpid()}" in answer["message"]
        file.write("still works\n")
    assert (toy.path / "file").read_text() == "still works\n"
    assert toy.control("unmount") is True
    assert toy.wait() == 0


def test_lazily_it_leaves_the_tree_and_its_users_finish(toy: ToyMount) -> None:
    with open(toy.path / "file", "w+b", buffering=0) as file:
        done: list[object] = []
        thread = threading.Thread(target=lambda: done.append(toy.control("unmount", True)))
        thread.start()
        for _ in range(100):
            if not in_mounts(toy.path):
                break
            threading.Event().wait(0.05)
        assert os.listdir(toy.path) == []
        file.write(b"finished")
        file.seek(0)
        assert file.read() == b"finished"
    thread.join(30)
    assert done == [True]
    assert toy.wait() == 0


def test_a_killed_mount_looks_dead_never_empty_and_is_replaced(toy: ToyMount, new_toy: Callable[..., ToyMount]) -> None:
    (toy.path / "file").write_text("x")
    toy.process.send_signal(signal.SIGKILL)
    toy.wait()
    assert in_mounts(toy.path)
    with pytest.raises(OSError, match="not connected") as caught:
        os.listdir(toy.path)
    assert caught.value.errno == errno.ENOTCONN
    again = new_toy("m")
    assert again.greeting == {"result": "serving"}
    (again.path / "new").write_text("alive")
    assert os.listdir(again.path) == ["new"]
    assert again.control("unmount") is True
    assert not in_mounts(again.path)


def test_what_is_mounted_already_is_left_alone(toy: ToyMount, new_toy: Callable[..., ToyMount]) -> None:
    second = new_toy("m")
    assert second.greeting["error"] == "MountFailed"
    assert "already mounted" in second.greeting["message"]
    assert second.wait() == 2
    (toy.path / "file").write_text("still served")


def test_a_stopped_mount_is_left_alone(toy: ToyMount, new_toy: Callable[..., ToyMount]) -> None:
    toy.process.send_signal(signal.SIGSTOP)
    try:
        second = new_toy("m")
    finally:
        toy.process.send_signal(signal.SIGCONT)
    assert second.greeting["error"] == "MountFailed"
    assert "does not answer" in second.greeting["message"]
    (toy.path / "file").write_text("served again")


def test_a_signal_handler_may_unmount(toy: ToyMount) -> None:
    (toy.path / "file").write_text("x")
    toy.process.send_signal(signal.SIGTERM)
    assert toy.wait() == 0
    assert not in_mounts(toy.path)


def test_programs_that_wait_leave_threads_for_the_others(toy: ToyMount) -> None:
    for number in range(40):
        (toy.path / f"f{number}").write_text("x")
        toy.control("told_inode", f"f{number}")
    assert toy.control("flush")
    few = toy.control("threads")
    toy.control("hold_reads", True)
    done: list[bytes] = []
    threads = [
        threading.Thread(target=lambda path=toy.path / f"f{number}": done.append(read(path))) for number in range(40)
    ]
    for thread in threads:
        thread.start()
    for _ in range(500):
        if toy.calls_of("read") >= 40:
            break
        threading.Event().wait(0.02)
    (toy.path / "new").write_text("not stopped by those who wait")
    assert len(os.listdir(toy.path)) == 41
    assert few < 40 < toy.control("threads") <= 65
    assert done == []
    toy.control("hold_reads", False)
    for thread in threads:
        thread.join(30)
    assert done == [b"x"] * 40


def test_a_program_that_is_killed_while_it_waits(toy: ToyMount) -> None:
    (toy.path / "file").write_text("x")
    toy.control("told_inode", "file")
    assert toy.control("flush")
    toy.control("hold_reads", True)
    waiting = [subprocess.Popen(["cat", str(toy.path / "file")], stdout=subprocess.DEVNULL) for _ in range(8)]
    for _ in range(200):
        if toy.calls_of("read"):
            break
        threading.Event().wait(0.02)
    for number, process in enumerate(waiting):
        process.send_signal(signal.SIGKILL if number % 2 else signal.SIGINT)
    assert os.listdir(toy.path) == ["file"]
    toy.control("hold_reads", False)
    assert {process.wait(30) for process in waiting} == {-signal.SIGKILL, -signal.SIGINT}
    assert (toy.path / "file").read_text() == "x"
    assert toy.control("failures") == 0
    assert toy.control("unmount") is True
    assert toy.wait() == 0


def test_who_does_not_let_go_is_cut_off_with_the_process(toy: ToyMount) -> None:
    with open(toy.path / "file", "w+b", buffering=0) as file:
        file.write(b"x")
        assert toy.control("unmount", True) is False  # it had its grace
        file.write(b"still served")
        toy.process.kill()
        toy.wait()
        with pytest.raises(OSError, match=r"not connected|aborted|Input/output"):
            file.write(b"too late")
        with pytest.raises(OSError, match="not connected"):  # and close, which has something to flush, says so
            file.close()
    assert os.listdir(toy.path) == []


def test_the_newer_library_serves_too(new_toy: Callable[..., ToyMount]) -> None:
    if ctypes.util.find_library("fuse3") is None or importlib.util.find_spec("mfusepy") is None:
        pytest.skip("libfuse3 or mfusepy is not installed")
    toy = new_toy("m3", environment={"FUSE_LIBRARY_NAME": "fuse3"})
    assert toy.control("library") == 3
    (toy.path / "a").write_text("content")
    (toy.path / "b").write_text("other")
    libc = ctypes.CDLL(None, use_errno=True)
    names = [os.fsencode(toy.path / name) for name in "ab"]
    assert libc.renameat2(-100, names[0], -100, names[1], ctypes.c_uint(1)) == -1
    assert ctypes.get_errno() == errno.EEXIST  # libfuse3 passes the flag on
    with open(toy.path / "a", "rb") as file:
        (toy.path / "a").unlink()
        assert os.fstat(file.fileno()).st_nlink == 0
        assert file.read() == b"content"
    toy.control("put", "b", "changed elsewhere")
    toy.control("told_inode", "b")
    assert toy.control("flush")
    assert (toy.path / "b").read_text() == "changed elsewhere"
    assert toy.control("unmount") is True
    assert toy.wait() == 0


def test_options_reach_the_kernel(new_toy: Callable[..., ToyMount]) -> None:
    toy = new_toy("with space", fsname="a,b\\c", read_only=True, allow_other=True)
    assert toy.greeting == {"result": "serving"}
    with open("/proc/self/mountinfo") as lines:
        line = next(line for line in lines if "with\\040space" in line)
    assert " fuse.gdah a,b\\134c " in line
    assert "allow_other" in line
    assert "default_permissions" in line
    with pytest.raises(OSError, match="Read-only") as caught:
        (toy.path / "file").write_text("x")
    assert caught.value.errno == errno.EROFS
    assert toy.control("unmount") is True
    assert toy.wait() == 0


def test_without_timeouts_the_kernel_always_asks(new_toy: Callable[..., ToyMount]) -> None:
    toy = new_toy(times=[0, 0, 0], keep_cache=False)
    (toy.path / "file").write_text("old")
    assert not (toy.path / "absent").exists()
    toy.control("put", "file", "newer")
    toy.control("put", "absent", "here")
    assert (toy.path / "file").read_text() == "newer"
    assert (toy.path / "absent").read_text() == "here"


@pytest.mark.parametrize(("how", "told"), [("will", "ENOTCONN"), ("unmounted", "ENOTCONN"), ("prepare", "nothing")])
def test_a_mount_that_is_killed_while_it_tells_the_kernel_hangs_nobody(
    tmp_path: Path, fuse: None, how: str, told: str
) -> None:
    """Neither its programs, where FUSE's connections can be reached, nor the next mount on the same folder."""
    argv = ["unshare", "-m", sys.executable, "-m", "tests.fuse.killed_while_telling", str(tmp_path / "m"), how]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=100, check=False)
    assert done.stdout.strip() == told
