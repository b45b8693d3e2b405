"""The machine of `test_machine` with the calls of Linux on ranges of files and on pairs of names."""

from __future__ import annotations

import fcntl
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from gdah_volume.content import CHUNK_SIZE
from mountfs.files.ranges import MODES
from tests.fs.test_machine import Comparison, Place, _writable, lengths, offsets, open_files, picks, places

borders = st.sampled_from([0, CHUNK_SIZE, 2 * CHUNK_SIZE])


class Ranges(Comparison):
    @rule(handle=open_files, mode=st.sampled_from(MODES), offset=st.one_of(offsets, borders), length=lengths)
    def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        self.each(handle, lambda target, fd: target.fallocate(fd, mode, offset, length))

    @rule(
        handle=open_files,
        other=open_files,
        offset=st.one_of(borders, offsets),
        to_offset=st.one_of(borders, offsets),
        length=st.one_of(lengths, st.just(4 * CHUNK_SIZE)),
    )
    def copy_range(self, handle: int, other: int, offset: int, to_offset: int, length: int) -> None:
        if (
            not self.open
            or not self._readable(handle)
            or not self._may_receive(handle, other, offset, to_offset, length)
        ):
            return
        ours, plain = self.open[handle % len(self.open)]
        our_other, plain_other = self.open[other % len(self.open)]

        def copy(fd: int, to: int, of_ours: bool) -> int:
            target, done = self.ours if of_ours else self.plain, 0
            while count := target.copy_range(fd, offset + done, to, to_offset + done, length - done):
                done += count
                if done == length:
                    break
            return done

        assert copy(ours, our_other, True) == copy(plain, plain_other, False)

    def _may_receive(self, handle: int, other: int, offset: int, to_offset: int, length: int) -> bool:
        """What the kernel refuses never comes to us."""
        source, to = self.plain_of(handle), self.plain_of(other)
        if not _writable(to) or fcntl.fcntl(to, fcntl.F_GETFL) & os.O_APPEND:
            return False
        same = os.path.samestat(os.fstat(source), os.fstat(to))
        return not same or abs(offset - to_offset) >= length

    @rule(pick=picks, to=places, flags=st.sampled_from([1, 2, 2]))
    def rename_with_flags(self, pick: int, to: Place, flags: int) -> None:
        old, new = self.picked(pick), self.place(to)
        self.same(lambda target: target.rename(old, new, flags), old, new)

    @rule(pick=picks, other=picks)
    def exchange(self, pick: int, other: int) -> None:
        old, new = self.picked(pick), self.picked(other)
        self.same(lambda target: target.rename(old, new, 2), old, new)

    @rule(handle=open_files)
    def holes_are_zeros(self, handle: int) -> None:
        if not self.open or not self._readable(handle):
            return
        fd, plain = self.open[handle % len(self.open)]
        size, at = os.fstat(plain).st_size, 0
        while at < size:
            start = self._sought(fd, at, os.SEEK_DATA, size)
            hole = self.ours.pread(fd, start - at, at)
            assert hole == bytes(start - at), f"data in the hole at {at}"
            at = self._sought(fd, start, os.SEEK_HOLE, size) if start < size else size
            assert start < at <= size or start == size

    def _sought(self, fd: int, at: int, whence: int, size: int) -> int:
        try:
            return self.ours.seek(fd, at, whence)
        except OSError as error:
            assert whence == os.SEEK_DATA, error  # noqa: PT017
            return size


def test_ranges_and_pairs_of_names_are_as_in_a_plain_folder() -> None:
    run_state_machine_as_test(
        Ranges,
        settings=settings(
            max_examples=int(os.environ.get("GDAH_MACHINE_EXAMPLES", "4")),
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
