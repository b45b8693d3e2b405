"""Many programs at once, while a feed arrives: nothing is lost, nothing hangs, nothing unexpected is raised."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable

from gdah_volume.content import Content
from mountfs.files import intents
from tests.fs.device import Device, Stranger
from tests.fs.targets import ObjectTarget, read_file, write_file

RW = os.O_RDWR
JOIN_S = 100.0


def together(*jobs: Callable[[], None]) -> None:
    """Run each in a thread of its own; the first error of any is raised here."""
    errors: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_S)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def test_appends_to_one_file_are_all_there(device: Device) -> None:
    write_file(ObjectTarget(device), b"log", b"")

    def appender(who: int) -> Callable[[], None]:
        def run() -> None:
            target = ObjectTarget(device)
            for n in range(40):
                fd = target.open(b"log", os.O_WRONLY | os.O_APPEND)
                target.pwrite(fd, b"%d:%02d\n" % (who, n), 0)
                target.close(fd)

        return run

    together(*(appender(who) for who in range(5)))
    lines = read_file(ObjectTarget(device), b"log").splitlines()
    assert sorted(lines) == sorted(b"%d:%02d" % (who, n) for who in range(5) for n in range(40))
    assert ObjectTarget(device).listdir(b"") == [b"log"]


def test_exclusive_creation_has_one_winner(device: Device) -> None:
    won: list[tuple[int, int]] = []

    def contender(who: int) -> Callable[[], None]:
        def run() -> None:
            target = ObjectTarget(device)
            for n in range(30):
                try:
                    target.close(target.open(b"lock%d" % n, RW | os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                won.append((n, who))

        return run

    together(*(contender(who) for who in range(4)))
    assert sorted(n for n, _ in won) == list(range(30))


def test_work_in_folders_of_their_own_while_a_feed_arrives(device: Device) -> None:
    done = threading.Event()

    def worker(who: int) -> Callable[[], None]:
        def run() -> None:
            rng = random.Random(who)
            target = ObjectTarget(device)
            home = b"home%d" % who
            target.mkdir(home)
            kept: dict[bytes, bytes] = {}
            for n in range(60):
                path = home + b"/f%d" % rng.randrange(8)
                match rng.randrange(5):
                    case 0 | 1:
                        kept[path] = rng.randbytes(rng.choice([10, 5000, 100_000]))
                        write_file(target, path, kept[path])
                    case 2 if path in kept:
                        target.unlink(path)
                        del kept[path]
                    case 3 if path in kept:
                        new = home + b"/r%d" % n
                        target.rename(path, new)
                        kept[new] = kept.pop(path)
                    case _ if path in kept:
                        fd = target.open(path, RW)
                        target.pwrite(fd, b"edit", 3)
                        kept[path] = kept[path][:3] + b"edit" + kept[path][7:]
                        target.close(fd)
            for path, data in kept.items():
                assert read_file(target, path) == data
            assert target.listdir(home) == sorted(path.rpartition(b"/")[2] for path in kept)

        return run

    def feeder() -> None:
        phone = Stranger(device)
        count = 0
        while not done.wait(0.002):
            device.feed_own()
            count += 1
            name = b"theirs%d" % (count % 20)
            tree = device.mirror.tree
            with device.mirror.lock:
                link = tree.lookup("root", name)  # type: ignore[arg-type]
            content: Content = device.shelf.add(b"%d" % count)
            if link is None:
                build = intents.create(tree, "root", name, "file", 0o600, ObjectTarget(device).caller, content=content)  # type: ignore[arg-type]
            else:
                base = tree.seen_version(link.node)
                build = intents.write(link.node, base, content, name, count, clear_suid=False)
            device.feed(phone.does(build))

    def workers() -> None:
        try:
            together(*(worker(who) for who in range(4)))
        finally:
            done.set()

    together(workers, feeder)
    device.feed_own()
    target = ObjectTarget(device)
    assert not [name for name in target.listdir(b"") if b"conflict" in name]
    assert device.fs.unsaved_files() == 0


def test_one_file_written_read_and_saved_by_many(device: Device) -> None:
    blocks, size = 16, 20_000
    write_file(ObjectTarget(device), b"shared", bytes(blocks * size))

    def writer(who: int) -> Callable[[], None]:
        def run() -> None:
            target = ObjectTarget(device)
            fd = target.open(b"shared", RW)
            for n in range(15):
                for block in range(who, blocks, 4):
                    target.pwrite(fd, bytes([who * 16 + n]) * size, block * size)
                    data = target.pread(fd, size, block * size)
                    assert data == bytes([who * 16 + n]) * size
                if n % 5 == who:
                    target.fsync(fd)
            target.close(fd)

        return run

    together(*(writer(who) for who in range(4)))
    device.feed_own()
    target = ObjectTarget(device)
    assert target.listdir(b"") == [b"shared"]
    data = read_file(target, b"shared")
    for block in range(blocks):
        assert data[block * size : (block + 1) * size] == bytes([block % 4 * 16 + 14]) * size
