"""When the collector of cycles may stop a process: not while much is done, but not never."""

from __future__ import annotations

from gdah_volume.cycles import FORCED_S, LOOK_EVERY_S, NEVER, PAUSE_S, QUIET_LOOKS, WORTH, Cycles


class Room:
    """A collector and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.done: list[str] = []
        self.count = 0
        self.younger = 0
        self.thresholds = (0, 0, 0)
        self.cycles = Cycles(self, lambda: self.now)

    def collect(self) -> int:
        self.done.append("collect")
        self.count = 0
        return 0

    def freeze(self) -> None:
        self.done.append("freeze")

    def set_threshold(self, young: int, middle: int, old: int, /) -> None:
        self.thresholds = (young, middle, old)

    def get_count(self) -> tuple[int, int, int]:
        return 5, self.younger, self.count

    def pass_time(self, seconds: float, grows: int = 0) -> int:
        """How many collections there were."""
        before = len(self.done)
        for _ in range(int(seconds / LOOK_EVERY_S)):
            self.now += LOOK_EVERY_S
            self.count += grows
            self.cycles.look()
        return len(self.done) - before


def test_what_is_there_at_the_start_is_never_looked_at_again() -> None:
    room = Room()
    room.cycles.begin()
    assert room.done == ["collect", "freeze"]
    assert room.thresholds[2] == NEVER


def test_a_process_without_work_is_left_alone() -> None:
    room = Room()
    room.count = WORTH - 1
    assert room.pass_time(10 * FORCED_S) == 0


def test_work_is_not_interrupted_but_followed() -> None:
    room = Room()
    assert room.pass_time(2 * PAUSE_S, grows=3) == 0
    for _ in range(20):  # a little is done, time and again
        room.younger = (room.younger + 1) % 10
        assert room.pass_time((QUIET_LOOKS - 1) * LOOK_EVERY_S) == 0
    assert room.pass_time((QUIET_LOOKS + 1) * LOOK_EVERY_S) == 1
    assert room.pass_time(PAUSE_S, grows=0) == 0


def test_work_without_end_is_interrupted_in_the_end() -> None:
    room = Room()
    assert room.pass_time(3 * FORCED_S + 10, grows=3) == 3
