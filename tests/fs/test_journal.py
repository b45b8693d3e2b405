"""Journals: what was appended is read back after a kill, torn tails and old uses of a file are not."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from gdah_volume.errors import NoSpace
from mountfs.journal import HEADER_BYTES, POOL_FILE_MAX_BYTES, POOL_MAX_FILES, Journals


def reopened(folder: Path) -> list[list[tuple[int, int, bytes]]]:
    """What a new run finds."""
    journals = Journals(folder)
    try:
        return [
            [(r.kind, r.offset, left.journal.read(r.at, r.length)) for r in left.records]
            for left in journals.leftovers()
        ]
    finally:
        journals.close()


def test_records_survive_a_kill(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    journal = journals.begin()
    records = [(1, 0, b"opening"), (2, 4096, b"x" * 70_000), (3, 1 << 50, b""), (2, 0, b"y")]
    for kind, offset, payload in records:
        at = journal.append(kind, offset, payload)
        assert journal.read(at, len(payload)) == payload
    assert reopened(tmp_path) == [records]
    journals.close()


def test_a_finished_journal_leaves_nothing(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    journal = journals.begin()
    journal.append(1, 0, b"data")
    journal.finish()
    assert reopened(tmp_path) == []
    journals.close()


@pytest.mark.parametrize("cut", [1, 5, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 3, HEADER_BYTES + 9])
def test_a_torn_tail_ends_the_reading(tmp_path: Path, cut: int) -> None:
    journals = Journals(tmp_path)
    journal = journals.begin()
    journal.append(1, 0, b"first")
    whole = journal.length
    journal.append(2, 7, b"0123456789")
    (path,) = tmp_path.iterdir()
    os.truncate(path, whole + cut)
    assert reopened(tmp_path) == [[(1, 0, b"first")]]
    journals.close()


def test_damaged_bytes_end_the_reading(tmp_path: Path) -> None:
    for damaged in range(60):
        folder = tmp_path / str(damaged)
        journals = Journals(folder)
        journal = journals.begin()
        journal.append(1, 0, b"first")
        whole = journal.length
        journal.append(2, 7, b"0123456789" * 3)
        (path,) = folder.iterdir()
        raw = bytearray(path.read_bytes())
        raw[whole + damaged] ^= 0x40
        path.write_bytes(raw)
        assert reopened(folder) == [[(1, 0, b"first")]], damaged
        journals.close()


def test_files_are_used_again_and_old_records_never_come_back(tmp_path: Path) -> None:
    rng = random.Random(5)
    journals = Journals(tmp_path)
    for _ in range(200):
        journal = journals.begin()
        kept = []
        for _ in range(rng.randrange(1, 5)):
            kept.append((rng.randrange(1, 9), rng.randrange(100), rng.randbytes(rng.choice([0, 3, 32, 500]))))
            journal.append(*kept[-1])
        assert reopened(tmp_path) == [kept]
        journal.finish()
    assert len(list(tmp_path.iterdir())) == 1
    journals.close()


def test_the_pool_is_bounded(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    several = [journals.begin() for _ in range(POOL_MAX_FILES + 5)]
    several[0].append(1, 0, bytes(2 * POOL_FILE_MAX_BYTES))
    for journal in several:
        journal.finish()
    files = list(tmp_path.iterdir())
    assert len(files) == POOL_MAX_FILES
    assert max(path.stat().st_size for path in files) <= POOL_FILE_MAX_BYTES
    journals.close()


def test_new_files_do_not_take_the_place_of_left_ones(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    journals.begin().append(1, 0, b"kept")
    journals.close()
    journals = Journals(tmp_path)
    assert len(journals.leftovers()) == 1
    journals.begin().append(1, 0, b"new")
    journals.close()
    assert sorted(reopened(tmp_path)) == [[(1, 0, b"kept")], [(1, 0, b"new")]]


def test_asking_twice_what_is_left_hands_no_file_to_two(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    journals.begin().append(1, 0, b"kept")
    journals.begin().finish()
    journals.close()
    journals = Journals(tmp_path)
    assert journals.leftovers() is journals.leftovers()
    numbers = [journals.leftovers()[0].journal.number, *(journals.begin().number for _ in range(3))]
    assert len(set(numbers)) == 4
    journals.close()


def test_the_disk_is_never_filled(tmp_path: Path) -> None:
    free = [1 << 30]
    journals = Journals(tmp_path, min_free_bytes=1 << 20, free_bytes=lambda _: free[0])
    journal = journals.begin()
    journal.append(1, 0, b"fine")
    free[0] = 1000
    with pytest.raises(NoSpace):  # noqa: PT012 - the disk is looked at now and then
        for _ in range(40):
            journal.append(2, 0, bytes(1 << 20))
    length = journal.length
    free[0] = 1 << 30
    journal.append(2, 0, b"room again")
    assert journal.length > length
    (records,) = reopened(tmp_path)
    assert records[-1] == (2, 0, b"room again")
    journals.close()
