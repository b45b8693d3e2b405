"""What the refusals of a disk and of the database on it mean, in the words of `errors`; and fsync of a path."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator

from gdah_volume.errors import NoSpace, StorageFailed


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """A full disk is NoSpace, any other refusal of the disk StorageFailed."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"no space left for {what}") from error
        raise StorageFailed(f"cannot store {what}: {error}") from error
    except sqlite3.OperationalError as error:
        if "disk is full" in str(error):
            raise NoSpace(f"no space left for {what}") from error
        raise StorageFailed(f"cannot store {what}: {error}") from error


@contextlib.contextmanager
def database_errors(what: str) -> Iterator[None]:
    """Of reading: whatever the database says is StorageFailed."""
    try:
        yield
    except sqlite3.Error as error:
        raise StorageFailed(f"{what} cannot be read: {error}") from error


def fsync(path: str, *, missing_ok: bool = False) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if missing_ok:
            return  # deleted meanwhile
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
