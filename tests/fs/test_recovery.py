"""After kill -9: what programs had written to files that were still open is there, once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gdah_volume.errors import NoSpace
from gdah_volume.operations import Operation
from mountfs.files import drafts, intents, records
from mountfs.files.openfile import OpenFile
from tests.fs.device import Device, Stranger
from tests.fs.targets import ObjectTarget, read_file, write_file

RW = os.O_RDWR
MIB = 1 << 20


def killed(device: Device) -> ObjectTarget:
    device.restart()
    return ObjectTarget(device)


def test_unsaved_bytes_come_back(device: Device) -> None:
    target = ObjectTarget(device)
    write_file(target, b"a", b"0123456789")
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"AB", 2)
    target.pwrite(fd, b"more", 10)
    target = killed(device)
    assert device.recovered == 1
    assert read_file(target, b"a") == b"01AB456789more"
    target = killed(device)
    assert device.recovered == 0
    assert target.listdir(b"") == [b"a"]


def test_a_new_file_that_was_never_closed(device: Device) -> None:
    target = ObjectTarget(device)
    fd = target.open(b"new", RW | os.O_CREAT)
    target.pwrite(fd, b"text", 0)
    target = killed(device)
    assert read_file(target, b"new") == b"text"


def test_truncation_and_times_come_back(device: Device) -> None:
    target = ObjectTarget(device)
    write_file(target, b"a", b"x" * 3000)
    fd = target.open(b"a", RW)
    target.ftruncate(fd, 10)
    target.ftruncate(fd, 20)
    target.futime(fd, 5, 7)
    target = killed(device)
    assert read_file(target, b"a") == b"x" * 10 + bytes(10)
    assert target.stat(b"a").mtime_ns == 7


def test_a_long_file_with_sealed_chunks_comes_back(device: Device) -> None:
    data = random.Random(1).randbytes(5 * MIB + 1234)
    target = ObjectTarget(device)
    fd = target.open(b"long", RW | os.O_CREAT)
    for at in range(0, len(data), 131_072):
        target.pwrite(fd, data[at : at + 131_072], at)
    target.pwrite(fd, b"over a sealed chunk", MIB + 5)
    wanted = bytearray(data)
    wanted[MIB + 5 : MIB + 24] = b"over a sealed chunk"
    target = killed(device)
    assert read_file(target, b"long") == wanted


def test_a_journal_that_was_rewritten_comes_back(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "GARBAGE_MAX_BYTES", 3 * MIB)
    rng = random.Random(2)
    target = ObjectTarget(device)
    write_file(target, b"a", rng.randbytes(2 * MIB))
    wanted = bytearray(read_file(target, b"a"))
    fd = target.open(b"a", RW)
    for _ in range(300):
        at, piece = rng.randrange(6 * MIB), rng.randbytes(rng.choice([100, 60_000]))
        wanted.extend(bytes(max(0, at - len(wanted))))
        wanted[at : at + len(piece)] = piece
        target.pwrite(fd, piece, at)
    for at in range(0, 8 * MIB, 200_000):
        piece = rng.randbytes(200_000)
        wanted.extend(bytes(max(0, at - len(wanted))))
        wanted[at : at + len(piece)] = piece
        target.pwrite(fd, piece, at)
    assert sum(path.stat().st_size for path in (device.folder / "open").iterdir()) < 16 * MIB
    target = killed(device)
    assert read_file(target, b"a") == wanted


def test_a_saving_that_failed_loses_nothing_when_the_kill_follows(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Composing replaces sealed chunks; until the operation is logged the journal still needs the old ones."""
    monkeypatch.setattr(drafts, "GARBAGE_MAX_BYTES", MIB)
    rng = random.Random(4)
    target = ObjectTarget(device)
    fd = target.open(b"a", RW | os.O_CREAT)
    wanted = bytearray(rng.randbytes(2 * MIB + 5000))
    for at in range(0, len(wanted), 100_000):
        target.pwrite(fd, bytes(wanted[at : at + 100_000]), at)
    add_pending = device.mirror.replica.add_pending

    def full(*_: object, **__: object) -> None:
        raise NoSpace("full")

    for n in range(12):
        at, piece = rng.randrange(2 * MIB), rng.randbytes(rng.choice([10, 150_000]))
        wanted.extend(bytes(max(0, at + len(piece) - len(wanted))))
        wanted[at : at + len(piece)] = piece
        target.pwrite(fd, piece, at)
        monkeypatch.setattr(device.mirror.replica, "add_pending", full)
        with pytest.raises(OSError, match="full"):
            target.fsync(fd)
        monkeypatch.setattr(device.mirror.replica, "add_pending", add_pending)
        assert target.pread(fd, len(wanted), 0) == wanted
        if n in (5, 11):
            target = killed(device)
            assert read_file(target, b"a") == wanted
            add_pending = device.mirror.replica.add_pending
            fd = target.open(b"a", RW)


def test_chunks_that_repeat_are_let_go_when_they_are_not_needed(device: Device) -> None:
    target = ObjectTarget(device)
    fd = target.open(b"a", RW | os.O_CREAT)
    same = b"\1" * MIB
    for n in range(6):
        target.pwrite(fd, same, n * MIB)
    target.fsync(fd)
    assert device.dirty.total_bytes == MIB
    for n in range(6):
        target.pwrite(fd, b"\2" * MIB, n * MIB)
    target.ftruncate(fd, 0)
    target.close(fd)
    assert [record.content_bytes for record in device.log.outbox.unacked()] == [0, MIB, 0]
    assert device.dirty.total_bytes == MIB, "only what an operation names is kept"


def test_many_tiny_writes_take_bounded_memory_and_come_back(device: Device) -> None:
    target = ObjectTarget(device)
    fd = target.open(b"lines", RW | os.O_CREAT)
    wanted = b""
    for n in range(3000):
        line = b"line %d\n" % n
        target.append(fd, line)
        wanted += line
    file = device.fs.handles.files()[0]
    assert file.draft is not None
    assert file.draft.extent_count <= drafts.EXTENTS_PER_CHUNK_MAX + 1
    assert target.pread(fd, len(wanted), 0) == wanted
    target = killed(device)
    assert read_file(target, b"lines") == wanted


def test_an_orphan_does_not_come_back(device: Device) -> None:
    target = ObjectTarget(device)
    write_file(target, b"a", b"1")
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"2", 0)
    target.unlink(b"a")
    target.pwrite(fd, b"3", 1)
    target = killed(device)
    assert target.listdir(b"") == []
    assert device.recovered == 0


def test_an_orphan_with_a_long_journal_does_not_come_back(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "GARBAGE_MAX_BYTES", 100_000)
    target = ObjectTarget(device)
    fd = target.open(b"tmp", RW | os.O_CREAT)
    target.unlink(b"tmp")
    for n in range(100):
        target.pwrite(fd, bytes([n]) * 10_000, 0)
    assert target.pread(fd, 10_000, 0) == bytes([99]) * 10_000
    assert sum(path.stat().st_size for path in (device.folder / "open").iterdir()) < 500_000
    target = killed(device)
    assert target.listdir(b"") == []
    assert device.recovered == 0


def test_edits_whose_operation_was_logged_are_not_saved_twice(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the commit of the operation and the end of the journal."""
    target = ObjectTarget(device)
    write_file(target, b"a", b"first")
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"FIRST", 0)
    monkeypatch.setattr(drafts.Draft, "finish", lambda self: None)
    target.fsync(fd)
    monkeypatch.undo()
    device.feed_own()
    phone = Stranger(device)
    node = phone.node(b"a")
    content = device.shelf.add(b"second, by another")
    device.feed(
        phone.does(intents.write(node, device.mirror.tree.seen_version(node), content, b"a", 1, clear_suid=False))
    )
    target = killed(device)
    assert device.recovered == 0
    assert target.listdir(b"") == [b"a"]
    assert read_file(target, b"a") == b"second, by another"


def test_edits_that_were_saved_before_a_disk_forgot_it_are_not_saved_again(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss of power took the end of the journal, and that it was deleted: a conflict with one's own work, twice."""
    target = ObjectTarget(device)
    write_file(target, b"a", b"first")
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"FIRST", 0)
    monkeypatch.setattr(drafts.Draft, "finish", lambda self: None)
    monkeypatch.setattr(drafts.Draft, "note_saving", lambda self, op, content: None)
    target.fsync(fd)
    monkeypatch.undo()
    write_file(target, b"a", b"what came after it")
    device.feed_own()
    target = killed(device)
    assert device.recovered == 0
    assert target.listdir(b"") == [b"a"]
    assert read_file(target, b"a") == b"what came after it"


def test_edits_whose_operation_was_announced_but_not_logged_are_saved(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the record in the journal and the commit."""
    target = ObjectTarget(device)
    write_file(target, b"a", b"first")
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"SECOND", 0)

    def killed_before_commit(self: OpenFile, draft: drafts.Draft, content: object, build: object) -> object:
        def fail(op: object, time_ns: int) -> Operation:
            draft.note_saving(op, content)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        return fail

    monkeypatch.setattr(OpenFile, "_noting", killed_before_commit)
    with pytest.raises(KeyboardInterrupt):
        target.fsync(fd)
    monkeypatch.undo()
    target = killed(device)
    assert device.recovered == 1
    assert read_file(target, b"a") == b"SECOND"
    assert target.listdir(b"") == [b"a"]


def test_an_announced_id_that_another_operation_took_proves_nothing(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving failed after it had been announced, the next operation got its id; then the kill."""
    target = ObjectTarget(device)
    write_file(target, b"a", b"first")
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"SECOND", 0)

    def full(*_: object, **__: object) -> None:
        raise NoSpace("full")

    monkeypatch.setattr(device.mirror.replica, "add_pending", full)
    with pytest.raises(OSError, match="full"):
        target.fsync(fd)
    monkeypatch.undo()
    target.mkdir(b"d")
    target = killed(device)
    assert device.recovered == 1
    assert read_file(target, b"a") == b"SECOND"


def test_edits_become_a_copy_when_the_base_has_moved_on(device: Device) -> None:
    target = ObjectTarget(device)
    write_file(target, b"a.txt", b"base")
    device.feed_own()
    phone = Stranger(device)
    node = phone.node(b"a.txt")
    base = device.mirror.tree.seen_version(node)
    theirs = phone.does(intents.write(node, base, device.shelf.add(b"theirs"), b"a", 1, clear_suid=False))
    fd = target.open(b"a.txt", RW)
    target.pwrite(fd, b"OURS", 0)
    device.feed(theirs)
    target = killed(device)
    names = target.listdir(b"")
    assert len(names) == 2
    assert read_file(target, b"a.txt") == b"theirs"
    assert read_file(target, next(name for name in names if b"conflict" in name)) == b"OURS"


def test_edits_of_a_file_removed_elsewhere_come_back(device: Device) -> None:
    target = ObjectTarget(device)
    write_file(target, b"a", b"base")
    device.feed_own()
    phone = Stranger(device)
    gone = phone.does(intents.unlink(device.mirror.tree, "root", b"a"))  # type: ignore[arg-type]
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"OURS", 0)
    device.feed(gone)
    target = killed(device)
    assert read_file(target, b"a") == b"OURS"


def test_edits_of_a_file_that_nobody_knows_any_more_are_found_in_lost(device: Device) -> None:
    """As after a snapshot from servers that never had the file."""
    target = ObjectTarget(device)
    journal = device.journals.begin()
    opening = records.Opening("laptop-000009-00000009-7", None, device.shelf.add(b""), b"letter.txt")  # type: ignore[arg-type]
    journal.append(records.OPENING, 0, records.pack(opening))
    journal.append(records.DATA, 0, b"unsaved")
    target = killed(device)
    assert device.recovered == 1
    assert read_file(target, b".lost/letter.txt") == b"unsaved"


def test_a_damaged_journal_keeps_what_came_before_the_damage(device: Device) -> None:
    target = ObjectTarget(device)
    write_file(target, b"a", b"0" * 100)
    fd = target.open(b"a", RW)
    target.pwrite(fd, b"11", 0)
    target.pwrite(fd, b"22", 50)
    (path,) = (device.folder / "open").iterdir()
    raw = path.read_bytes()
    device.kill()
    path.write_bytes(raw[: raw.index(b"22") + 1])
    device.start()
    target = ObjectTarget(device)
    assert read_file(target, b"a") == b"11" + b"0" * 98


def _write_until_killed(folder: Path, say: Callable[[int], None]) -> None:
    """In a process of its own: writes numbered blocks, says each number once the write has returned."""
    target = ObjectTarget(Device(folder))
    fds = [target.open(b"file%d" % n, RW | os.O_CREAT) for n in range(3)]
    block = 40_000
    for number in range(1, 100_000):
        fd = fds[number % 3]
        target.pwrite(fd, number.to_bytes(4, "big") * (block // 4), (number // 3) * block)
        if number % 50 == 0:
            target.fsync(fd)
        say(number)


def test_a_process_that_is_killed_loses_no_write_that_had_returned(tmp_path: Path) -> None:
    code = (
        "import os, pathlib; from tests.fs.test_recovery import _write_until_killed;"
        f"_write_until_killed(pathlib.Path({str(tmp_path / 'device')!r}),"
        " lambda n: os.write(1, n.to_bytes(4, 'big')))"
    )
    rng = random.Random(3)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        told = b""
        until = rng.randrange(100, 500) * 4
        while len(told) < until:
            piece = os.read(process.stdout.fileno(), 4096)
            assert piece, "the writer ended by itself"
            told += piece
        process.send_signal(signal.SIGKILL)
        while piece := os.read(process.stdout.fileno(), 4096):
            told += piece
        process.wait()
        process.stdout.close()
        last = int.from_bytes(told[-4:], "big")
        device = Device(tmp_path / "device")
        target = ObjectTarget(device)
        files = {n: read_file(target, b"file%d" % n) for n in range(3)}
        for number in range(1, last + 1):
            at = (number // 3) * 40_000
            assert files[number % 3][at : at + 4] == number.to_bytes(4, "big"), number
            assert files[number % 3][at + 39_996 : at + 40_000] == number.to_bytes(4, "big"), number
        assert target.listdir(b"") == [b"file0", b"file1", b"file2"]
        device.kill()


def everywhere_now(device: Device) -> None:
    """Every server holds all that was done here."""
    device.feed_own()
    device.log.outbox.keep_only(lambda _op: False)
    device.log.sweep()


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("source", ["kept", "removed", "unsaved"])
def test_copied_chunks_and_holes_come_back(device: Device, source: str, everywhere: bool) -> None:
    """Also where the file that they were copied from is gone, before any server had it or after."""
    data = random.Random(2).randbytes(4 * MIB + 100)
    target = ObjectTarget(device)
    write_file(target, b"a", data)
    if everywhere:
        device.shelf.add(data)
        everywhere_now(device)
        assert device.dirty.total_bytes == 0
    fd, to = target.open(b"a", RW), target.open(b"b", RW | os.O_CREAT)
    if source == "unsaved":
        target.pwrite(fd, b"edit", 5)
        data = data[:5] + b"edit" + data[9:]
    done = 0
    while done < len(data):
        done += target.copy_range(fd, done, to, done, len(data) - done)
    target.fallocate(to, 3, MIB, MIB)
    target.fallocate(to, 3, 3 * MIB - 5, 100)
    target.pwrite(to, b"last", 7)
    wanted = bytearray(data)
    wanted[MIB : 2 * MIB] = bytes(MIB)
    wanted[3 * MIB - 5 : 3 * MIB + 95] = bytes(100)
    wanted[7:11] = b"last"
    if source == "removed":
        target.close(fd)
        target.unlink(b"a")
        if everywhere:
            everywhere_now(device)
    assert target.pread(to, len(wanted), 0) == wanted
    target = killed(device)
    assert device.recovered == 1 + (source == "unsaved")
    assert read_file(target, b"b") == wanted
    assert target.stat(b"b").blocks * 512 <= 3 * MIB + 4096
    target = killed(device)
    assert read_file(target, b"b") == wanted


def test_nothing_stays_pinned_when_a_copy_is_given_up(device: Device) -> None:
    """A copy inside of the mount (`cp`, `copy_file_range`) names the chunks of its source again, and lets them go."""
    target = ObjectTarget(device)
    write_file(target, b"a", random.Random(3).randbytes(2 * MIB))
    for ending in ("saved", "removed"):
        before = device.dirty.total_bytes
        fd, to = target.open(b"a", RW), target.open(b"b", RW | os.O_CREAT)
        for _ in range(2):
            assert target.copy_range(fd, 0, to, 0, 2 * MIB) == 2 * MIB
        target.copy_range(fd, 0, to, 2 * MIB, 2 * MIB)
        target.close(fd)
        if ending == "removed":
            target.unlink(b"b")
        target.close(to)
        assert device.dirty.total_bytes == before, "the chunks are the same"
    assert read_file(target, b"a")
    everywhere_now(device)
    assert device.dirty.total_bytes == 0
