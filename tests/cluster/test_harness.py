"""The harness itself: what it says a link or a helper does, it does."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gdah_drill.hands import Hands, Stuck
from gdah_drill.processes import free_port, run_program
from gdah_drill.proxy import FaultProxy


@pytest.fixture
def proxy(echo: int) -> Iterator[FaultProxy]:
    proxy = FaultProxy(free_port(), echo)
    yield proxy
    proxy.close()


def dial(proxy: FaultProxy, timeout_s: float = 5.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout_s)


def test_a_cut_is_silence_and_loses_nothing(proxy: FaultProxy) -> None:
    with dial(proxy) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        proxy.cut("in")
        client.sendall(b"two")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(10)
        client.settimeout(5)
        proxy.heal()
        assert client.recv(10) == b"two"


def test_new_connections_over_a_cut_link_are_silent_until_it_heals(proxy: FaultProxy) -> None:
    proxy.cut()
    with dial(proxy) as client:
        client.sendall(b"hello")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(10)
        client.settimeout(5)
        proxy.heal()
        assert client.recv(10) == b"hello"


def test_a_message_can_be_cut_in_the_middle_and_the_connection_reset(proxy: FaultProxy) -> None:
    with dial(proxy) as client:
        proxy.stop_after(3)
        client.sendall(b"abcdef")
        assert client.recv(10) == b"abc"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_refused_then_healed(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        dial(proxy)
    proxy.heal()
    with dial(proxy) as client:
        client.sendall(b"x" * 300_000)
        got = 0
        while got < 300_000:
            got += len(client.recv(65536))


def test_the_end_of_one_direction_is_passed_on(proxy: FaultProxy) -> None:
    with dial(proxy) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"last words"
        assert client.recv(100) == b""


def test_hands_bring_results_and_errors_and_end_when_stuck(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.write("a", b"text")
    assert hands.tree() == {"a": b"text"}
    with pytest.raises(FileNotFoundError):
        hands.read("absent")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Stuck):
        hands.call("read", "pipe", deadline_s=0.2)


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="did not end"):
        run_program(["sleep", "60"], cwd=tmp_path, timeout_s=0.2)
    assert run_program(["pwd"], cwd=tmp_path).stdout.strip() == str(tmp_path)
