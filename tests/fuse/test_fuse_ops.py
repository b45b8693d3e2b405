"""The translator without a kernel: one request, one answer, whatever happens."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from gdah_volume.errors import NotFound, ReadOnly, StaleHandle, WouldBlock
from gdah_volume.locks import EOF, Range
from mountfs import fuse_ops
from mountfs.fuse.binding import FLock
from mountfs.fuse.stat_layout import StatLayout
from mountfs.fuse_ops import CacheTimes, FuseOps
from mountfs.ports import Caller, FileSystemCalls, Opened, Stat

STAT = Stat(7, 0o100644, 1, 0, 0, 5, 1, 1, 2, 3)


class Time(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


class CStat(ctypes.Structure):
    """As on x86_64."""

    _fields_ = [
        ("st_dev", ctypes.c_ulong),
        ("st_ino", ctypes.c_ulong),
        ("st_nlink", ctypes.c_ulong),
        ("st_mode", ctypes.c_uint),
        ("st_uid", ctypes.c_uint),
        ("st_gid", ctypes.c_uint),
        ("__pad0", ctypes.c_uint),
        ("st_rdev", ctypes.c_ulong),
        ("st_size", ctypes.c_long),
        ("st_blksize", ctypes.c_long),
        ("st_blocks", ctypes.c_long),
        ("st_atimespec", Time),
        ("st_mtimespec", Time),
        ("st_ctimespec", Time),
    ]


class FakeLibrary:
    """Records answers; `refuse` is what the kernel says to each."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, int, tuple[Any, ...]]] = []
        self.refuse = 0
        self.interrupt: Any = None
        self.stat_layout = StatLayout.of(CStat, "x86_64")
        for name in (
            "err",
            "none",
            "entry",
            "create",
            "attr",
            "readlink",
            "write",
            "buf",
            "data",
            "statfs",
            "xattr",
            "lock",
        ):
            setattr(self, f"reply_{name}", self._reply(name))
        self.info = SimpleNamespace(flags=0, fh=0, keep_cache=0, direct_io=0)
        self.c_file_info = SimpleNamespace(from_address=lambda address: self.info)

    def _reply(self, name: str) -> Any:
        def reply(request: int, *args: Any) -> int:
            if any(isinstance(arg, BadValue) for arg in args):
                raise ctypes.ArgumentError("not what libfuse takes")
            self.answers.append((name, request, args))
            return self.refuse

        return reply

    def handle(self, file_info: int) -> int:
        return file_info

    def lock_owner(self, file_info: int) -> int:
        return 77

    def caller(self, request: int) -> tuple[int, int, int, int]:
        return 0, 0, 1, 0o22

    def interrupt_callback(self, note: Any) -> Any:
        return note

    def on_interrupt(self, request: int, callback: Any, key: int) -> None:
        self.interrupt = lambda: callback(key)


class BadValue:
    def __len__(self) -> int:
        return 3


class Calls:
    """Answers what it was given for a call, or raises it; records what is called."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.called: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **_more: Any) -> Any:
            self.called.append((name, *args))
            answer = self.answers.get(name)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return call


def served(calls: Calls, times: CacheTimes | None = None) -> tuple[FuseOps, FakeLibrary, dict[str, Any]]:
    library = FakeLibrary()
    operations = FuseOps(calls, times)  # type: ignore[arg-type]
    return operations, library, operations.callbacks(library)  # type: ignore[arg-type]


def test_every_operation_of_the_port_is_handled() -> None:
    wanted = {name for name in vars(FileSystemCalls) if not name.startswith("_")}
    raw = {"rename", "seek", "copy_range"}
    assert set(FuseOps(Calls()).raw.names()) == raw
    assert set(fuse_ops.HANDLED) | raw == wanted - {"allocate"} | {"fallocate", "forget_multi"}


@pytest.mark.parametrize("error", [ReadOnly("no"), StaleHandle("gone")])
def test_an_error_answers_with_its_errno(error: Any) -> None:
    operations, library, callbacks = served(Calls(unlink=error))
    callbacks["unlink"](11, 1, b"name")
    assert library.answers == [("err", 11, (error.errno,))]
    assert operations.failures == 0


@pytest.mark.parametrize("error", [RuntimeError("a fault"), OSError(errno.ENOSPC, "full"), SystemExit(), MemoryError()])
def test_any_other_exception_is_an_io_error_and_counted(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    operations, library, callbacks = served(Calls(unlink=error))
    callbacks["unlink"](11, 1, b"name")
    assert library.answers == [("err", 11, (errno.EIO,))]
    assert operations.failures == 1
    assert "fuse handler failed op=unlink" in caplog.text


def test_an_answer_that_cannot_be_sent_is_replaced_once() -> None:
    operations, library, callbacks = served(Calls(read=BadValue()))
    callbacks["read"](11, 7, 100, 0, 3)
    assert library.answers == [("err", 11, (errno.EIO,))]
    assert operations.failures == 1


@pytest.mark.parametrize(
    ("name", "args", "answer", "given_back"),
    [
        ("lookup", (1, b"n"), STAT, [("forget", 7, 1)]),
        ("mkdir", (1, b"n", 0o755), STAT, [("forget", 7, 1)]),
        ("link", (7, 1, b"n"), STAT, [("forget", 7, 1)]),
        ("create", (1, b"n", 0o644, 5), (STAT, Opened(5)), [("release", 7, 5), ("forget", 7, 1)]),
        ("open", (7, 99), Opened(5), [("release", 7, 5)]),
        ("opendir", (7, 99), 6, [("releasedir", 7, 6)]),
        ("unlink", (1, b"n"), None, []),
        ("getattr", (7, None), STAT, []),
        ("read", (7, 10, 0, 5), b"data", []),
    ],
)
def test_what_the_kernel_did_not_take_is_given_back(
    name: str, args: tuple[Any, ...], answer: Any, given_back: list[tuple[Any, ...]]
) -> None:
    calls = Calls(**{name: answer})
    operations, library, callbacks = served(calls)
    library.refuse = -errno.ENOENT
    callbacks[name](11, *args)
    assert len(library.answers) == 1
    assert calls.called[1:] == given_back
    assert operations.failures == 0


def test_a_fault_while_giving_back_answers_nothing_more() -> None:
    operations, library, callbacks = served(Calls(lookup=STAT, forget=RuntimeError("a fault")))
    library.refuse = -errno.ENOENT
    callbacks["lookup"](11, 1, b"n")
    assert [answer[0] for answer in library.answers] == ["entry"]
    assert operations.failures == 1


def test_an_absent_name_is_an_answer_that_may_be_kept() -> None:
    _, library, callbacks = served(Calls(lookup=NotFound("no")))
    callbacks["lookup"](11, 1, b"n")
    assert library.answers == [("entry", 11, (library.stat_layout.pack_absent(3600.0),))]
    _, library, callbacks = served(Calls(lookup=NotFound("no")), CacheTimes(absent_s=0))
    callbacks["lookup"](11, 1, b"n")
    assert library.answers == [("err", 11, (errno.ENOENT,))]


def test_names_of_the_root_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_ops, "ROOT_NAMES_MAX", 2)
    calls = Calls(lookup=STAT)
    operations, library, callbacks = served(calls)
    for name in (b"a", b"b", b"c", b"a"):
        callbacks["lookup"](11, 1, name)
    callbacks["lookup"](11, 5, b"elsewhere")
    assert operations.root_names() == [b"a", b"b"]
    kept = library.stat_layout.pack_entry(STAT, 3600.0, 3600.0)
    asked_again = library.stat_layout.pack_entry(STAT, 3600.0, 0.0)
    assert [answer[2][0] for answer in library.answers] == [kept, kept, asked_again, kept, kept]
    calls.answers["lookup"] = NotFound("no")
    callbacks["lookup"](12, 1, b"d")
    assert library.answers[-1] == ("err", 12, (errno.ENOENT,))


def test_the_caller_is_passed_on() -> None:
    calls = Calls(mkdir=STAT)
    _, _, callbacks = served(calls)
    callbacks["mkdir"](11, 1, b"d", 0o755)
    assert calls.called == [("mkdir", 1, b"d", 0o755, Caller(0, 0, 1, 0o22))]


def test_references_come_back_one_by_one_or_many_at_once() -> None:
    calls = Calls()
    _, library, callbacks = served(calls)
    callbacks["forget"](11, 7, 3)
    many = (fuse_ops.ForgetData * 2)((8, 1), (9, 2))
    callbacks["forget_multi"](12, 2, ctypes.addressof(many))
    assert calls.called == [("forget", 7, 3), ("forget", 8, 1), ("forget", 9, 2)]
    assert library.answers == [("none", 11, ()), ("none", 12, ())]


def test_tracebacks_do_not_fill_a_disk(caplog: pytest.LogCaptureFixture) -> None:
    operations, _, callbacks = served(Calls(unlink=RuntimeError("a fault")))
    for _ in range(1000):
        callbacks["unlink"](11, 1, b"n")
    assert operations.failures == 1000
    assert len(caplog.records) == 100 + 9


class Locks:
    """A lock call that is decided when the test says so."""

    def __init__(self) -> None:
        self.done: Any = None
        self.cancelled = threading.Event()

    def flock(self, ino: int, handle: int, owner: int, wanted: Range, *, done: Any, **how: Any) -> Any:
        self.asked = (ino, handle, owner, wanted, how)
        self.done = done
        return self.cancelled.set

    def getlk(self, ino: int, handle: int, owner: int, wanted: Range, done: Any) -> Any:
        done(self.found)
        return self.cancelled.set


def test_a_lock_is_answered_later_and_once() -> None:
    calls = Locks()
    _, library, callbacks = served(calls)  # type: ignore[arg-type]
    callbacks["flock"](11, 7, 5, fcntl.LOCK_EX)
    assert library.answers == []
    assert calls.asked == (7, 5, 77, Range(True, pid=1), {"frees": False, "wait": True, "pid": 1})
    calls.done(None)
    calls.done(WouldBlock("too late"))
    assert library.answers == [("err", 11, (0,))]
    callbacks["flock"](12, 7, 5, fcntl.LOCK_SH | fcntl.LOCK_NB)
    calls.done(WouldBlock("somebody else has it"))
    assert library.answers[1:] == [("err", 12, (errno.EAGAIN,))]


def test_an_interrupt_ends_the_wait_in_another_thread() -> None:
    calls = Locks()
    operations, library, callbacks = served(calls)  # type: ignore[arg-type]
    callbacks["flock"](11, 7, 5, fcntl.LOCK_EX)
    library.interrupt()
    assert calls.cancelled.wait(30)
    assert library.answers == []
    operations.waits.abandon()
    assert library.answers == [("err", 11, (errno.EINTR,))]
    library.interrupt()


def test_the_lock_in_the_way_is_told_as_fcntl_has_it() -> None:
    calls = Locks()
    _, library, callbacks = served(calls)  # type: ignore[arg-type]
    asked = FLock(fcntl.F_WRLCK, 0, 10, 0, 1)
    for found in (Range(True, 10, 19, 99), Range(False, 5, EOF, 98), None):
        calls.found = found  # type: ignore[attr-defined]
        callbacks["getlk"](11, 7, 5, ctypes.addressof(asked))
    told = [answer[2][0]._obj for answer in library.answers]
    assert [(each.l_type, each.l_start, each.l_len, each.l_pid) for each in told] == [
        (fcntl.F_WRLCK, 10, 10, 99),
        (fcntl.F_RDLCK, 5, 0, 98),
        (fcntl.F_UNLCK, 0, 0, 0),
    ]
