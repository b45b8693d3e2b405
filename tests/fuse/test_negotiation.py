"""What is agreed with the kernel in INIT: with one that knows everything, with old ones, and seen from programs."""

from __future__ import annotations

import mmap
import os
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mountfs.fuse.negotiation import (
    CACHE_SYMLINKS,
    HANDLE_KILLPRIV_V2,
    MAX_PAGES,
    MAX_WRITE_BYTES,
    PARALLEL_DIROPS,
    PLAIN_WRITE_BYTES,
    RECEIVE_BYTES,
    TAKEN,
    agreed,
)
from tests.fuse.conftest import ToyMount

BIG_WRITES, WRITEBACK_CACHE = 1 << 5, 1 << 16
EVERYTHING = (1 << 32) - 1


def asked(minor: int, offered: int, size: int = 64) -> bytes:
    body = struct.pack("=IIII", 7, minor, 1 << 17, offered).ljust(size, b"\0")
    return struct.pack("=IIQQIIII", 40 + len(body), 26, 1, 0, 0, 0, 0, 0) + body


def answered(flags: int = BIG_WRITES, error: int = 0, unique: int = 1) -> bytes:
    """As libfuse2 does."""
    body = struct.pack("=IIIIHHI", 7, 19, 1 << 17, flags, 48, 36, MAX_WRITE_BYTES)
    return struct.pack("=IiQ", 16 + len(body), error, unique) + body


def parsed(answer: bytes) -> tuple[int, ...]:
    """minor, flags, max_write, max_pages"""
    length, error, unique = struct.unpack_from("=IiQ", answer)
    assert (length, error, unique) == (len(answer), 0, 1)
    major, minor, readahead, flags, background, congestion, write = struct.unpack_from("=IIIIHHI", answer, 16)
    assert (major, readahead, background, congestion) == (7, 1 << 17, 48, 36)
    pages = struct.unpack_from("=IH", answer, 40)[1] if len(answer) > 40 else 0
    return minor, flags, write, pages


def test_a_kernel_of_today_takes_large_requests_and_no_flag_that_is_not_kept() -> None:
    answer = agreed(asked(45, EVERYTHING), answered())
    assert len(answer) == 16 + 64
    minor, flags, write, pages = parsed(answer)
    assert (minor, write, pages) == (38, 1 << 20, (1 << 20) // mmap.PAGESIZE)
    assert flags == BIG_WRITES | TAKEN
    assert not flags & WRITEBACK_CACHE
    assert write + 4096 <= RECEIVE_BYTES, "the kernel refuses a shorter buffer"


def test_only_what_the_kernel_offers_is_taken() -> None:
    minor, flags, write, pages = parsed(agreed(asked(31, PARALLEL_DIROPS | WRITEBACK_CACHE, 16), answered()))
    assert (minor, flags, write, pages) == (31, BIG_WRITES | PARALLEL_DIROPS, PLAIN_WRITE_BYTES, 0)


@pytest.mark.parametrize("minor", [12, 19, 22])
def test_an_old_kernel_hears_what_libfuse2_says(minor: int) -> None:
    answer = agreed(asked(minor, EVERYTHING, 16), answered())
    assert len(answer) == 16 + 24
    assert parsed(answer) == (19, BIG_WRITES, PLAIN_WRITE_BYTES, 0)


def test_the_long_answer_of_libfuse3_gets_flags_and_keeps_the_rest() -> None:
    rest = struct.pack("=IHHI28x", 1, 256, 0, 7)
    long = struct.pack("=IiQ", 16 + 64, 0, 1) + answered()[16:] + rest
    answer = agreed(asked(45, EVERYTHING), long)
    assert answer[40:] == rest
    assert parsed(answer)[1] == BIG_WRITES | TAKEN & ~MAX_PAGES


def test_a_refusal_passes_as_it_is() -> None:
    refused = struct.pack("=IiQ", 16, -71, 1)
    assert agreed(asked(45, EVERYTHING), refused) == refused
    assert agreed(asked(45, EVERYTHING), answered(error=-71)) == answered(error=-71)
    assert agreed(b"", answered()) == answered()


def test_taken_flags_are_those_of_the_kernel_header() -> None:
    assert TAKEN & (MAX_PAGES | CACHE_SYMLINKS | HANDLE_KILLPRIV_V2) == 1 << 22 | 1 << 23 | 1 << 28


@pytest.mark.mount
def test_a_mebibyte_travels_in_one_request(toy: ToyMount) -> None:
    data = os.urandom(1 << 20)
    with open(toy.path / "big", "w+b", buffering=0) as file:
        before = toy.calls_of("write")
        assert file.write(data) == len(data)
        assert toy.calls_of("write") == before + 1
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        assert file.read(1 << 20) == data


@pytest.mark.mount
def test_small_writes_are_not_preceded_by_a_question_each(toy: ToyMount) -> None:
    with open(toy.path / "log", "wb", buffering=0) as file:
        file.writelines(b"line\n" for _ in range(50))
    assert toy.calls_of("write") == 50
    assert toy.calls_of("getxattr") <= 2


@pytest.mark.mount
def test_a_symlink_is_read_once(toy: ToyMount) -> None:
    (toy.path / "link").symlink_to("anywhere")
    assert [os.readlink(toy.path / "link") for _ in range(5)] == ["anywhere"] * 5
    assert toy.calls_of("readlink") == 1


@pytest.mark.mount
def test_a_write_by_somebody_without_the_right_takes_set_user_id_away(
    new_toy: Callable[..., ToyMount], tmp_path: Path
) -> None:
    """The kernel leaves that to us: also where root has opened the file and hands it down."""
    path = new_toy(device=str(tmp_path / "device"), allow_other=True).path / "program"
    for writer, left in ((0, 0o6755), (65534, 0o755)):
        path.write_bytes(b"#!/bin/sh\n")
        path.chmod(0o6755)
        with open(path, "ab", buffering=0) as file:
            subprocess.run(["/bin/echo", "true"], stdout=file, user=writer, check=True, timeout=30)
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == left
        assert stat.S_IMODE(path.stat().st_mode) == left
    for command in (["fallocate", "-l", "100"], ["truncate", "-s", "5"], ["fallocate", "-pl", "4"]):
        path.chmod(0o6777)
        with open(path, "rb") as file:  # which nobody can reach by its path
            subprocess.run([*command, "/proc/self/fd/0"], stdin=file, user=65534, check=True, timeout=30)
        assert stat.S_IMODE(path.stat().st_mode) == 0o777, command
    path.chmod(0o4755)
    os.chown(path, 1, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
