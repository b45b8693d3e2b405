"""A file that others write changes for programs here when the kernel was told, and not in between."""

from __future__ import annotations

import os
import threading

import pytest

from gdah_volume.content import EMPTY, Content
from mountfs.files.attributes import Unsaved
from mountfs.files.until_told import TRIES, UntilTold
from tests.fs.device import ROOT_CALLER, Device
from tests.fs.targets import write_file
from tests.fs.test_remote import Two

BEFORE = Content(3, ())
SHOWN = Unsaved(3, 0, 1, 1)


class TestUntilTold:
    def test_nothing_is_held_at_first(self) -> None:
        until = UntilTold()
        assert until.before(until.arrive(0)) is None
        assert until.shown() is None

    def test_what_was_before_until_it_was_told(self) -> None:
        until = UntilTold()
        until.hold(BEFORE, SHOWN)
        assert until.before(until.arrive(0)) == BEFORE
        assert until.shown() == SHOWN
        until.telling()
        assert until.told()
        assert until.before(until.arrive(0)) is None
        assert until.shown() is None

    @pytest.mark.parametrize("what", ["read", "look"])
    def test_what_came_while_the_kernel_was_told_asks_for_another_time(self, what: str) -> None:
        until = UntilTold()
        until.hold(BEFORE, SHOWN)
        until.telling()
        arrived = until.arrive(0)
        assert (until.before(arrived) if what == "read" else until.shown()) is not None
        assert not until.told()
        until.telling()
        assert until.before(arrived) == BEFORE  # on its way already: the kernel waits for it
        assert until.told()

    def test_a_second_change_is_shown_after_its_own_notification(self) -> None:
        """The kernel asks with what it knows of the first: to a shorter answer it would add zeros."""
        until = UntilTold()
        until.hold(BEFORE, SHOWN)
        until.telling()
        until.hold(EMPTY, Unsaved(0, 0, 2, 2))
        assert until.told()
        assert until.before(until.arrive(0)) == BEFORE
        until.telling()
        assert until.told()
        assert until.before(until.arrive(0)) is None

    def test_who_reads_without_end_does_not_keep_it_for_ever(self) -> None:
        until = UntilTold()
        until.hold(BEFORE, SHOWN)
        answers = []
        for _ in range(TRIES):
            until.telling()
            assert until.before(until.arrive(0)) == BEFORE
            answers.append(until.told())
        assert not any(answers)
        assert until.before(until.arrive(0)) is None
        until.telling()
        assert until.told()

    def test_who_comes_while_the_kernel_is_told_waits_for_the_new_content(self) -> None:
        until = UntilTold()
        until.hold(BEFORE, SHOWN)
        until.telling()
        answers: list[Content | None] = []
        reader = threading.Thread(target=lambda: answers.append(until.before(until.arrive(60))))
        reader.start()
        assert until.told()
        reader.join(30)
        assert answers == [None]


class TestAFile:
    @pytest.fixture
    def two(self, device: Device) -> Two:
        two = Two(device)
        two.settled(b"f", b"what was before")
        device.kernel.slow = True
        return two

    def test_an_open_file_is_whole_in_between(self, two: Two, device: Device) -> None:
        ino = device.fs.lookup(1, b"f").ino
        handle = device.fs.open(ino, os.O_RDONLY, ROOT_CALLER).handle
        assert device.fs.read(ino, handle, 0, 100) == b"what was before"
        device.feed(two.edit(b"f", b"new"))
        assert device.fs.read(ino, handle, 0, 100) == b"what was before"
        assert device.fs.getattr(ino).size == len(b"what was before")
        assert device.fs.getattr(ino, handle).size == len(b"what was before")
        assert device.kernel.tell() == 1
        assert device.fs.read(ino, handle, 0, 100) == b"new"
        assert device.fs.getattr(ino, handle).size == 3

    def test_a_read_while_the_kernel_is_told(self, two: Two, device: Device) -> None:
        ino = device.fs.lookup(1, b"f").ino
        handle = device.fs.open(ino, os.O_RDONLY, ROOT_CALLER).handle
        device.feed(two.edit(b"f", b"new"))
        kernel, read = device.kernel, []

        def while_telling() -> None:
            if not read:
                read.append(device.fs.read(ino, handle, 0, 100))

        kernel.while_telling = while_telling
        assert kernel.tell() == 2
        assert read == [b"what was before"]
        assert device.fs.read(ino, handle, 0, 100) == b"new"

    def test_own_edits_are_shown_at_once(self, two: Two, device: Device) -> None:
        ino = device.fs.lookup(1, b"f").ino
        handle = device.fs.open(ino, os.O_RDWR, ROOT_CALLER).handle
        device.feed(two.edit(b"f", b"new"))
        device.fs.write(ino, handle, 0, b"mine")
        assert device.fs.read(ino, handle, 0, 4) == b"mine"
        device.fs.release(ino, handle)
        device.kernel.tell()

    def test_a_kernel_that_is_told_at_once(self, device: Device) -> None:
        two = Two(device)
        write_file(two.target, b"g", b"what was before")
        device.feed_own()
        ino = device.fs.lookup(1, b"g").ino
        handle = device.fs.open(ino, os.O_RDONLY, ROOT_CALLER).handle
        device.feed(two.edit(b"g", b"new"))
        assert device.fs.read(ino, handle, 0, 100) == b"new"
