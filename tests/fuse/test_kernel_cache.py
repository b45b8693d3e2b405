"""With long timeouts the kernel answers by itself, until it is told; and the queue of what it is to be told."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from mountfs.fuse.kernel_cache import TELL_AT_MOST, NotifyingKernelCache
from tests.fuse.conftest import ToyMount


@pytest.mark.mount
class TestOnAMount:
    def test_unchanged_files_cost_no_call(self, toy: ToyMount) -> None:
        (toy.path / "file").write_text("content")
        (toy.path / "file").read_text()
        (toy.path / "file").stat()  # after a read the kernel asks once for the time of access
        before = toy.control("calls")
        for _ in range(100):
            (toy.path / "file").stat()
            assert not (toy.path / "absent").exists()
        (toy.path / "file").read_text()
        after = toy.control("calls")
        assert after.get("getattr", 0) == before.get("getattr", 0)
        assert after["lookup"] == before["lookup"] + 1  # the absent name, once
        assert after["read"] == before["read"]

    def test_content_changed_elsewhere(self, toy: ToyMount) -> None:
        path = toy.path / "file"
        path.write_text("old content")
        assert path.read_text() == "old content"
        with open(path, "rb", buffering=0) as held:
            toy.control("put", "file", "new")
            assert path.read_text() == "old content"  # the kernel was not told: this is what it is for
            toy.control("told_inode", "file")
            assert toy.control("flush")
            assert path.read_text() == "new"
            assert held.read() == b"new"
            assert os.fstat(held.fileno()).st_size == 3

    def test_content_of_the_same_size(self, toy: ToyMount) -> None:
        path = toy.path / "file"
        path.write_text("aaaa")
        assert path.read_text() == "aaaa"
        toy.control("put", "file", "bbbb")
        toy.control("told_inode", "file")
        assert toy.control("flush")
        assert path.read_text() == "bbbb"

    def test_attributes_changed_elsewhere(self, toy: ToyMount) -> None:
        path = toy.path / "file"
        path.write_text("x")
        path.stat()
        toy.control("chmod", "file", 0o600)
        assert path.stat().st_mode & 0o777 == 0o644
        toy.control("told_inode", "file")
        assert toy.control("flush")
        assert path.stat().st_mode & 0o777 == 0o600

    def test_a_name_that_was_absent(self, toy: ToyMount) -> None:
        (toy.path / "d").mkdir()
        path = toy.path / "d" / "file"
        assert not path.exists()
        toy.control("put", "d/file", "here")
        assert not path.exists()
        toy.control("told_entry", "d/file")
        assert toy.control("flush")
        assert path.read_text() == "here"

    def test_a_name_that_went(self, toy: ToyMount) -> None:
        path = toy.path / "file"
        path.write_text("x")
        path.stat()
        toy.control("remove", "file")
        assert path.exists()
        toy.control("told_entry", "file")
        assert toy.control("flush")
        assert not path.exists()

    def test_a_name_that_leads_elsewhere(self, toy: ToyMount) -> None:
        (toy.path / "d").mkdir()
        for name in ("d/a", "d/b"):
            (toy.path / name).write_text(name)
            assert (toy.path / name).read_text() == name
        toy.control("move", "d/a", "d/b")
        for name in ("d/a", "d/b"):
            toy.control("told_entry", name)
        assert toy.control("flush")
        assert not (toy.path / "d/a").exists()
        assert (toy.path / "d/b").read_text() == "d/a"

    def test_a_folder_that_moved_takes_its_users_along(self, toy: ToyMount) -> None:
        (toy.path / "old").mkdir()
        (toy.path / "old" / "file").write_text("x")
        descriptor = os.open(toy.path / "old", os.O_RDONLY | os.O_DIRECTORY)
        try:
            toy.control("move", "old", "new")
            for name in ("old", "new"):
                toy.control("told_entry", name)
            assert toy.control("flush")
            assert os.listdir(toy.path) == ["new"]
            assert os.listdir(descriptor) == ["file"]
            assert (toy.path / "new" / "file").read_text() == "x"
        finally:
            os.close(descriptor)

    def test_listings(self, toy: ToyMount) -> None:
        (toy.path / "d").mkdir()
        (toy.path / "d" / "one").write_text("1")
        assert os.listdir(toy.path / "d") == ["one"]
        calls = toy.calls_of("readdir")
        assert os.listdir(toy.path / "d") == ["one"]
        assert toy.calls_of("readdir") == calls  # kept by the kernel
        toy.control("put", "d/two", "2")
        toy.control("told_entry", "d/two")
        assert toy.control("flush")
        assert os.listdir(toy.path / "d") == ["one", "two"]
        (toy.path / "d" / "three").write_text("3")
        assert os.listdir(toy.path / "d") == ["one", "two", "three"]
        (toy.path / "d" / "one").rename(toy.path / "one")
        (toy.path / "d" / "two").unlink()
        assert os.listdir(toy.path / "d") == ["three"]

    def test_the_kernel_may_never_have_heard_of_it(self, toy: ToyMount) -> None:
        toy.control("put", "unseen", "x")
        before = toy.control("told")
        toy.control("told_inode", "unseen")
        toy.control("told_entry", "unseen")
        assert toy.control("flush")
        assert toy.control("told") == before + 1  # the folder
        assert (toy.path / "unseen").read_text() == "x"

    def test_telling_while_everybody_works(self, toy: ToyMount) -> None:
        """No wait for oneself, and no error for programs."""
        stop, failures = threading.Event(), []

        def work(number: int) -> None:
            path = toy.path / f"f{number}"
            try:
                while not stop.is_set():
                    path.write_text("x" * 5000)
                    assert path.read_text() == "x" * 5000
                    path.unlink()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for turn in range(300):
            toy.ask("told_entry", f"f{turn % 6}")
            toy.ask("told_inode", f"f{turn % 6}")
        assert toy.control("flush")
        stop.set()
        for thread in threads:
            thread.join(30)
        assert not failures

    def test_everything_at_once(self, toy: ToyMount) -> None:
        (toy.path / "d" / "sub").mkdir(parents=True)
        for name in ("top", "d/gone"):
            (toy.path / name).write_text("x")
        for name in ("absent", "d/sub/absent"):
            assert not (toy.path / name).exists()
        toy.control("remove", "top")
        toy.control("remove", "d/gone")
        toy.control("put", "absent", "here")
        toy.control("put", "d/sub/absent", "here")
        toy.control("told_everything")
        assert toy.control("flush")
        assert not (toy.path / "top").exists()
        assert not (toy.path / "d" / "gone").exists()
        assert (toy.path / "absent").exists()
        assert (toy.path / "d" / "sub" / "absent").exists()
        assert sorted(os.listdir(toy.path)) == ["absent", "d"]

    def test_at_the_limit_everything_is_forgotten(self, new_toy: Callable[..., ToyMount]) -> None:
        toy = new_toy(limit=50)
        (toy.path / "dir").mkdir()
        (toy.path / "dir" / "sub").mkdir()
        assert not (toy.path / "dir" / "sub" / "absent").exists()
        (toy.path / "dir" / "gone").write_text("x")
        toy.control("put", "dir/sub/absent", "here")
        toy.control("remove", "dir/gone")
        toy.control("overflow")
        assert toy.control("flush")
        assert (toy.path / "dir" / "sub" / "absent").read_text() == "here"
        assert not (toy.path / "dir" / "gone").exists()


class Kernel:
    """Takes notifications, one at a time when `gate` is given."""

    def __init__(self) -> None:
        self.inodes: list[int] = []
        self.entries: list[tuple[int, bytes]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.unknown: set[int] = set()

    def notify_inode(self, ino: int) -> int:
        self.reached.set()
        self.gate.wait(10)
        self.inodes.append(ino)
        return -errno.ENOENT if ino in self.unknown else 0

    def notify_entry(self, parent: int, name: bytes) -> int:
        self.reached.set()
        self.gate.wait(10)
        self.entries.append((parent, name))
        return 0


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def new_cache(kernel: Kernel) -> Iterator[Callable[..., NotifyingKernelCache]]:
    made: list[NotifyingKernelCache] = []

    def make(limit: int = 1000, changing: frozenset[int] = frozenset()) -> NotifyingKernelCache:
        cache = NotifyingKernelCache(limit=limit)
        cache.start(kernel, lambda: [b"top", b"second"], changing.__contains__)
        made.append(cache)
        return cache

    yield make
    kernel.gate.set()
    for cache in made:
        assert cache.stop()


Make = Callable[..., NotifyingKernelCache]


def block(cache: NotifyingKernelCache, kernel: Kernel) -> None:
    """The kernel makes the notifying thread wait, as it may."""
    kernel.gate.clear()
    cache.invalidate_inode(99)
    assert kernel.reached.wait(10)


def test_the_same_thing_is_told_once(new_cache: Make, kernel: Kernel) -> None:
    cache = new_cache()
    block(cache, kernel)
    for _ in range(50):
        cache.invalidate_inode(7)
        cache.invalidate_entry(1, b"name")
    kernel.gate.set()
    assert cache.flush(10)
    assert kernel.inodes == [99, 7, 1]  # the folder with its name
    assert kernel.entries == [(1, b"name")]
    assert cache.told == 4


def test_what_changes_while_it_is_told_is_told_again(new_cache: Make, kernel: Kernel) -> None:
    cache = new_cache()
    block(cache, kernel)
    cache.invalidate_inode(99)
    kernel.gate.set()
    assert cache.flush(10)
    assert kernel.inodes == [99, 99]


def test_asking_never_waits_for_the_kernel(new_cache: Make, kernel: Kernel) -> None:
    cache = new_cache()
    block(cache, kernel)
    for number in range(500):
        cache.invalidate_inode(number)
    assert not cache.flush(0.01)


def test_the_queue_is_bounded(new_cache: Make, kernel: Kernel) -> None:
    cache = new_cache(limit=100)
    block(cache, kernel)
    cache.invalidate_entry(1, b"in the root")
    for number in range(10_000):
        cache.invalidate_entry(2, b"%d" % number)
    assert len(cache._entries) <= 100
    assert cache.overflows == 1
    kernel.gate.set()
    assert cache.flush(10)
    assert kernel.entries == [(1, b"in the root"), (1, b"top"), (1, b"second")]


def test_after_all_waits_for_names_in_folders_that_are_being_changed_here(kernel: Kernel) -> None:
    """A lock that is granted has to show them; who only says what was seen must not wait for them."""
    cache = NotifyingKernelCache()
    told: list[str] = []
    both = threading.Event()
    cache.start(kernel, lambda: (), lambda ino: ino == 2)
    kernel.gate.clear()
    cache.invalidate_entry(2, b"name")
    cache.after(lambda: told.append("after"))
    cache.after_all(lambda: (told.append("all"), both.set()))
    assert not both.wait(0.1)
    kernel.gate.set()
    assert both.wait(10)
    assert (2, b"name") in kernel.entries
    assert told[-1] == "all"
    cache.after_all(lambda: told.append("at once"))
    assert cache.stop()
    assert told[-1] == "at once"


def test_an_unknown_inode_is_told_again_because_it_may_be_on_its_way(new_cache: Make, kernel: Kernel) -> None:
    cache = new_cache()
    kernel.unknown = {5}
    cache.invalidate_inode(5)
    assert cache.flush(10)
    assert kernel.inodes[0] == 5
    pause = threading.Event()
    for _ in range(100):
        if kernel.inodes == [5] * 4:
            break
        pause.wait(0.1)
    pause.wait(1.5)
    assert kernel.inodes == [5] * 4
    assert not cache._unknown


def test_an_unknown_inode_is_told_at_once_when_it_is_opened(new_cache: Make, kernel: Kernel) -> None:
    """A lookup had brought it to the kernel, with the size that the file had before: reads ended there for 0.1 s."""
    cache = new_cache()
    cache._clock = lambda: 0.0  # it is never time to tell it again
    kernel.unknown = {5}
    cache.invalidate_inode(5)
    assert cache.flush(10)
    kernel.unknown = set()
    assert cache.wait_told(5, 10)
    assert kernel.inodes == [5, 5]
    assert cache.wait_told(5, 10)
    assert kernel.inodes == [5, 5]


def test_who_asks_to_be_called_is_called_after_what_was_asked_before(new_cache: Make, kernel: Kernel) -> None:
    cache = new_cache()
    told: list[list[int]] = []
    cache.after(lambda: told.append(list(kernel.inodes)))
    assert told == [[]]  # nothing to wait for
    block(cache, kernel)
    cache.invalidate_inode(7)
    cache.after(lambda: told.append(list(kernel.inodes)))
    assert len(told) == 1
    kernel.gate.set()
    assert cache.flush(10)
    assert told[1] == [99, 7]


def test_a_name_in_a_folder_that_is_being_changed_here_holds_nobody_up(new_cache: Make, kernel: Kernel) -> None:
    """The kernel holds that folder's lock until the change is acknowledged, which may wait for us."""
    cache = new_cache(changing=frozenset([5]))
    called = threading.Event()
    free, stuck = threading.Event(), threading.Event()
    working = kernel.notify_entry

    def notify_entry(parent: int, name: bytes) -> int:
        if parent == 5:
            stuck.set()
            free.wait(10)
        return working(parent, name)

    kernel.notify_entry = notify_entry  # type: ignore[method-assign]
    cache.invalidate_entry(5, b"locked")
    cache.invalidate_entry(6, b"other")
    cache.after(called.set)
    assert called.wait(10)
    assert stuck.wait(10)
    assert kernel.entries == [(6, b"other")]
    assert not cache.flush(0.01)
    free.set()
    assert cache.flush(10)
    assert kernel.entries == [(6, b"other"), (5, b"locked")]
    assert kernel.inodes[-1] == 5


def test_before_the_start_and_after_the_end_there_is_nothing_to_tell(kernel: Kernel) -> None:
    cache = NotifyingKernelCache()
    cache.invalidate_inode(1)
    cache.start(kernel, tuple)
    assert cache.stop()
    cache.invalidate_entry(1, b"x")
    assert cache.flush(1)
    assert kernel.inodes == []
    assert kernel.entries == []


def test_a_failing_notification_does_not_end_the_thread(
    new_cache: Make, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    cache = new_cache()

    def fail(ino: int) -> int:
        raise RuntimeError("broken on purpose")

    working, kernel.notify_inode = kernel.notify_inode, fail  # type: ignore[method-assign]
    cache.invalidate_inode(1)
    assert cache.flush(10)
    assert "broken on purpose" in caplog.text
    kernel.notify_inode = working  # type: ignore[method-assign]
    cache.invalidate_inode(2)
    assert cache.flush(10)
    assert kernel.inodes == [2]


class Listener:
    """Implements `Telling`: wants it so many times."""

    def __init__(self, times: int = 1) -> None:
        self.left = times
        self.said: list[str] = []

    def telling(self) -> None:
        self.said.append("telling")

    def told(self) -> bool:
        self.said.append("told")
        self.left -= 1
        return self.left <= 0


class TestWhoWantsToHear:
    def test_is_called_around_the_notification(self, new_cache: Make, kernel: Kernel) -> None:
        cache, listener = new_cache(), Listener()
        cache.invalidate_inode(7, listener)
        assert cache.wait_told(7, 30)
        assert listener.said == ["telling", "told"]
        assert kernel.inodes == [7]

    def test_and_may_ask_for_another_time(self, new_cache: Make, kernel: Kernel) -> None:
        cache = new_cache()
        cache.invalidate_inode(7, Listener(3))
        assert cache.flush(30)
        assert kernel.inodes == [7, 7, 7]

    def test_but_not_for_ever(self, new_cache: Make, kernel: Kernel) -> None:
        cache = new_cache()
        cache.invalidate_inode(7, Listener(1_000_000))
        assert cache.flush(30)
        assert len(kernel.inodes) == TELL_AT_MOST

    def test_waiting_has_an_end(self, new_cache: Make, kernel: Kernel) -> None:
        cache = new_cache()
        block(cache, kernel)
        cache.invalidate_inode(7)
        assert not cache.wait_told(7, 0.01)
        assert cache.wait_told(8, 0)
        kernel.gate.set()
        assert cache.wait_told(7, 30)

    def test_without_a_kernel_it_is_told_at_once(self) -> None:
        cache, listener = NotifyingKernelCache(), Listener(2)
        cache.invalidate_inode(7, listener)
        assert listener.said == ["telling", "told"] * 2
        assert cache.wait_told(7, 0)

    def test_a_notification_that_fails_holds_nobody(self, new_cache: Make, kernel: Kernel) -> None:
        def fail(ino: int) -> int:
            raise RuntimeError("for the test")

        kernel.notify_inode = fail  # type: ignore[method-assign]
        cache, listener = new_cache(), Listener()
        cache.invalidate_inode(7, listener)
        assert cache.flush(30)
        assert listener.left == 0
