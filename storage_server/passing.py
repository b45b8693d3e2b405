"""Operations that were passed on to the sequencer and are not yet both acknowledged there and in our log. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gdah_volume.ids import OpId, ServerId
from storage_server.ports import Stamped, Submission

LOOK_UP_AFTER_S = 0.05
"""Acknowledged there and not heard of for so long: it may have been in our log already."""


@dataclass(slots=True)
class Passed:
    """One operation, and all who asked for it. `copies`: what the sequencer acknowledged (None: nothing yet)."""

    submissions: list[Submission]
    server: ServerId
    at: float
    stamped: Stamped | None = None
    copies: int | None = None
    looked_up: bool = False

    @property
    def is_content_in_doubt(self) -> bool:
        """Nobody has looked whether that is here: a mount's is looked for when it comes, not that of a peer."""
        return any(submission.giver is not None and not submission.is_whole for submission in self.submissions)


class Passing:
    def __init__(self) -> None:
        self._passed: dict[OpId, Passed] = {}

    def __len__(self) -> int:
        return len(self._passed)

    def get(self, op: OpId) -> Passed | None:
        return self._passed.get(op)

    def add(self, submission: Submission, server: ServerId, now: float) -> bool:
        """False: it is on its way there already; whoever asks again is answered together with the first."""
        passed = self._passed.get(submission.op.id)
        if passed is not None and passed.server == server:
            passed.submissions.append(submission)
            return False
        self._passed[submission.op.id] = Passed([submission], server, now)
        return True

    def remove(self, op: OpId) -> None:
        del self._passed[op]

    def is_asked(self, server: ServerId) -> bool:
        """Whether that server owes an answer."""
        return any(passed.server == server for passed in self._passed.values())

    def take_back(self, server: ServerId) -> Iterator[Submission]:
        """All that was passed on there and not answered: it may be logged there, so it is in doubt now."""
        for op, passed in list(self._passed.items()):
            if passed.server == server:
                del self._passed[op]
                for submission in passed.submissions:
                    submission.doubt = True
                    yield submission

    def unheard(self, now: float) -> Iterator[Submission]:
        """Those that are acknowledged, and should have come by the feed by now; each once."""
        for passed in self._passed.values():
            late = passed.copies is not None and passed.stamped is None and now - passed.at > LOOK_UP_AFTER_S
            if late and not passed.looked_up:
                passed.looked_up = True
                yield passed.submissions[0]
