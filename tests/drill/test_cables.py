"""Cables of a drill: each caller of a server has one of his own, and what a fault says it did to bytes, it did."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from gdah_drill.callers import caller
from gdah_drill.processes import free_port
from gdah_drill.proxy import FaultProxy
from gdah_drill.waiting import wait_until


@pytest.fixture
def callers() -> dict[int, str]:
    """Ports that were dialled from, and who that is."""
    return {}


@pytest.fixture
def door(echo: int, callers: dict[int, str]) -> Iterator[FaultProxy]:
    proxy = FaultProxy(free_port(), echo, who=lambda port, _to: callers.get(port, ""))
    yield proxy
    proxy.close()


def dial(door: FaultProxy, callers: dict[int, str], name: str) -> socket.socket:
    client = socket.socket()
    client.bind(("127.0.0.1", 0))
    callers[client.getsockname()[1]] = name
    client.settimeout(5)
    client.connect(("127.0.0.1", door.port))
    return client


def test_one_caller_is_cut_off_and_the_other_goes_on(door: FaultProxy, callers: dict[int, str]) -> None:
    with dial(door, callers, "one") as one, dial(door, callers, "two") as two:
        one.sendall(b"hi")
        assert one.recv(10) == b"hi"
        door.cable("one").cut()
        one.sendall(b"lost in the dark")
        two.sendall(b"hello")
        assert two.recv(10) == b"hello"
        wait_until(lambda: door.cable("one").withheld["out"] == 16, "the bytes came to the gate")
        door.cable("one").heal()
        assert one.recv(20) == b"lost in the dark"


def test_answers_can_be_lost_after_the_work_was_done(door: FaultProxy, callers: dict[int, str]) -> None:
    cable = door.cable("one")
    with dial(door, callers, "one") as one:
        one.sendall(b"a")
        assert one.recv(1) == b"a"
        cable.cut("in")
        one.sendall(b"work")
        wait_until(lambda: cable.withheld["in"] == 4, "the answer came to the closed gate")
        cable.reset()
        cable.heal()
        with pytest.raises(ConnectionResetError):
            one.recv(10)
    assert (cable.passed["out"], cable.lost["in"], cable.resets) == (5, 4, 1)


def test_a_trickle_lets_few_bytes_through_until_it_is_healed(door: FaultProxy, callers: dict[int, str]) -> None:
    cable = door.cable("one")
    with dial(door, callers, "one") as one:
        cable.drip(20)
        one.sendall(b"x" * 10_000)
        wait_until(lambda: cable.passed["out"] > 0, "something came through")
        assert cable.passed["out"] < 1_000
        cable.heal()
        got = 0
        while got < 10_000:
            got += len(one.recv(65536))


def test_a_message_that_was_cut_in_two_is_counted(door: FaultProxy, callers: dict[int, str]) -> None:
    cable = door.cable("one")
    with dial(door, callers, "one") as one:
        cable.stop_after(3)
        one.sendall(b"abcdef")
        assert one.recv(10) == b"abc"
        assert cable.halved == 1


def test_the_process_at_the_other_end_is_found(echo: int) -> None:
    with socket.create_connection(("127.0.0.1", echo)) as client:
        pids = {"init": 1, "me": os.getpid()}
        assert caller(pids, client.getsockname()[1], echo) == "me"
        assert caller(pids, echo, 1) == ""
