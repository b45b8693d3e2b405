"""Workers: each is a program that uses a mount, and tells the history what it did and what it was answered.

A worker makes one call after the other through hands of its own. What it does next is drawn from its seed. That its
mount dies under it, it survives: it waits until the runner says that the mount serves again, looks at what is there and
goes on.

Its own folder is `alone-NAME`; nobody else writes there, so what it holds is known to the byte. `shared` is
everybody's.
"""

from __future__ import annotations

import base64
import errno
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gdah_drill.folder import Call, Folder, Refused, Survey, after, bytes_of, find, folder_of
from gdah_drill.hands import Stuck
from gdah_drill.history import History, Operation, Outcome
from gdah_drill.private_load import PrivateLoad, Profile, Work
from gdah_drill.shared_load import SHARED, SharedLoad

__all__ = ["Profile", "Worker", "home_of"]

DEAD = {errno.ENOTCONN, errno.ECONNABORTED, errno.ESHUTDOWN, errno.ENODEV}
"""What a call says whose mount died."""
PATHS = {
    "open": (1,), "symlink": (1,), "rename": (0, 1), "exchange": (0, 1), "link": (0, 1), "copy": (0, 1),
    "put": (), "add": (), "cut": (), "sync": (), "close": (), "get": (),
}  # fmt: skip
"""Which values of a call are paths; of those not named here the first."""
RETRY_LOOK_S = 0.2


def home_of(worker: str) -> str:
    return f"alone-{worker}"


class HandsLike(Protocol):
    def call(self, name: str, *args: Any, deadline_s: float = ...) -> Any: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Batch:
    """What came of a list of calls. `done`: how many returned well; -1: unknown, the mount or the hands died."""

    outcome: Outcome
    done: int
    errno: int
    answers: Sequence[Any]
    began: float
    ended: float
    longest: Sequence[Any] = field(default_factory=list)
    note: str = ""


class Worker:
    """Threading: `step` and `finish` from one thread; `lock` is shared by the workers of one mount.

    Invariant: unless `uncertain`, `folder` is what the worker's own folder holds by all that was answered.
    """

    def __init__(
        self,
        name: str,
        mount: str,
        hands: Callable[[], HandsLike],
        seed: int,
        history: History,
        *,
        serves: Callable[[], bool],
        lock: threading.Lock,
        profile: Profile | None = None,
    ) -> None:
        """`serves`: waits until the mount serves; False when the drill is over. `hands`: new ones on the mount."""
        self.name = name
        self.mount = mount
        self.folder = Folder()
        self.uncertain: tuple[Sequence[Call], int] | None = None
        """Calls that were cut off, and how many of them had returned."""
        self._profile = profile or Profile()
        self._new_hands = hands
        self._serves = serves
        self._history = history
        self._rng = random.Random(f"{seed} {name}")
        self._contents = 0
        self._hands: HandsLike | None = None
        self._begun = False
        self._private = PrivateLoad(self._rng, self._profile, self.new_content)
        self._shared = SharedLoad(self._rng, self._profile, self.new_content, self.batch, self.tell, lock)

    def new_content(self) -> str:
        self._contents += 1
        return f"{self.name}.{self._contents}"

    def step(self) -> None:
        """One operation, or a look after a death. Never raises for what the mount does."""
        if self._hands is None:
            if not self._serves():
                return
            self._hands = self._new_hands()
        if not self._begun:
            self._begin()
        elif self.uncertain is not None:
            self._look()
        elif self._rng.random() < self._profile.shared_share:
            self._shared.step()
        elif self._rng.random() < 0.02:
            self._look()
        else:
            self._work(self._private.next(self.folder))

    def finish(self, limit_s: float = 60.0) -> None:
        """After the load and healing: close what is open, look once more. Call from the same thread."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if self._hands is None:
                if not self._serves():
                    return
                self._hands = self._new_hands()
            if self.uncertain is None and self.folder.handles:
                handle = min(self.folder.handles)
                self._work(Work("hold-close", handle, (("close", handle),)))
            elif self._begun and self._look():
                break
        self.close()

    def close(self) -> None:
        if self._hands is not None:
            self._hands.close()
            self._hands = None

    # --- one operation

    def batch(self, calls: Sequence[Call], home: str = "") -> Batch:
        """Make calls below `home`. After the death of the mount the hands are gone, and everything is uncertain."""
        began = time.monotonic()
        if self._hands is None:
            return Batch("info", 0, errno.ENOTCONN, [], began, began, note="the mount had died")
        try:
            told = self._hands.call(
                "timed", [_for_hands(call, home) for call in calls], deadline_s=self._profile.call_deadline_s
            )
        except (EOFError, OSError, Stuck) as error:
            self._died()
            return Batch("info", -1, errno.ENOTCONN, [], began, time.monotonic(), note=f"{error}"[:200])
        outcome: Outcome = "ok" if not told["errno"] else "fail"
        if told["errno"] in DEAD or not told["mounted"]:
            outcome = "info"
            self._died()
        answers = told["answers"]
        return Batch(outcome, len(answers), told["errno"], answers, began, time.monotonic(), told["longest"])

    def tell(self, op: str, path: str, batches: Sequence[Batch], **more: Any) -> Operation:
        """Tell the history of an operation that was made in one or more batches."""
        last = batches[-1]
        details = {"done": last.done, **more.pop("details", {})}
        longest = max((batch.longest for batch in batches if batch.longest), key=lambda it: it[2] - it[1], default=None)
        if longest:
            details["longest"] = list(longest)
        if last.note:
            details["note"] = last.note
        return self._history.operation(
            self.name,
            self.mount,
            op,
            path,
            began=batches[0].began,
            ended=last.ended,
            outcome=last.outcome,
            errno=last.errno,
            details=details,
            **more,
        )

    def _died(self) -> None:
        self.close()
        if self.uncertain is None:
            self.uncertain = ((), 0)

    def _begin(self) -> None:
        assert self._hands is not None
        done = [self.batch([("makedirs", path)]) for path in (SHARED, home_of(self.name))]
        self.tell("begin", home_of(self.name), done)
        self._begun = all(batch.outcome == "ok" for batch in done)
        if not self._begun:
            self.uncertain = None
            time.sleep(RETRY_LOOK_S)

    def _work(self, work: Work) -> None:
        batch = self.batch(work.calls, home_of(self.name))
        details = {**work.details, "calls": [list(call) for call in work.calls]}
        self.tell(
            work.op,
            work.path,
            [batch],
            to=work.to,
            content=work.content,
            details=details,
            result=list(batch.answers),
        )
        if batch.outcome == "info":
            self.uncertain = (work.calls, batch.done)
            return
        known = [self._apply(call) for call in work.calls[: batch.done]]
        if not all(known):
            self.uncertain = ((), 0)
        elif batch.outcome == "fail" and self._refusal(work.calls[batch.done]) != batch.errno:
            self.uncertain = (work.calls[batch.done :], 0)

    def _apply(self, call: Call) -> bool:
        """False: it was done and should have been refused. The checker will say so; here a look says what is there."""
        try:
            self.folder.apply(call)
        except (Refused, KeyError):  # or it uses a descriptor that an earlier one should not have got
            return False
        return True

    def _refusal(self, call: Call) -> int:
        try:
            self.folder.copy().apply(call)
        except Refused as refused:
            return refused.errno
        return 0

    # --- looking

    def _look(self) -> bool:
        """Compare everything with what is known; afterwards nothing is uncertain. False: it has to be done again."""
        assert self._hands is not None
        began = time.monotonic()
        home = home_of(self.name)
        try:
            if self.uncertain is not None:
                self._hands.call("forget")
            survey, longest = self._hands.call("survey", home, deadline_s=self._profile.call_deadline_s)
        except (EOFError, Stuck, OSError) as error:
            self._failed_look(began, error)
            return False
        calls, done = self.uncertain or ((), 0)
        known = after(self.folder, calls, done) if self.uncertain else iter([self.folder])
        details = {"longest": longest}
        now = time.monotonic()
        self._history.operation(
            self.name, self.mount, "look", "", began=began, ended=now, outcome="ok", result=survey, details=details
        )
        found = find(known, survey)
        if found is None:
            return self._adopt(survey)
        self.folder, self.uncertain = found, None
        return True

    def _failed_look(self, began: float, error: Exception) -> None:
        number = error.errno or 0 if isinstance(error, OSError) else errno.ENOTCONN
        if number in DEAD or number == errno.ENOENT:
            self._died()
        self._history.operation(
            self.name,
            self.mount,
            "look",
            "",
            began=began,
            ended=time.monotonic(),
            outcome="info" if number in DEAD else "fail",
            errno=number,
            details={"note": f"{error}"[:200]},
        )
        if self.uncertain is None:
            self.uncertain = ((), 0)
        time.sleep(RETRY_LOOK_S)

    def _adopt(self, survey: Survey) -> bool:
        """What is there is not what may be there: the checker judges that. Here the work goes on from what there is."""
        assert self._hands is not None
        try:
            self._hands.call("forget")
            tree = self._hands.call("tree", home_of(self.name))
        except (EOFError, Stuck, OSError) as error:
            self._failed_look(time.monotonic(), error)
            return False
        now = time.monotonic()
        result = {path: _adopted(value, survey[path]) for path, value in tree.items() if path in survey}
        self._history.operation(self.name, self.mount, "adopt", "", began=now, ended=now, outcome="ok", result=result)
        self.folder, self.uncertain = folder_of(result), None
        return True


def _adopted(value: bytes | str | None, told: Sequence[Any]) -> list[Any]:
    """As `folder_of` understands it."""
    if isinstance(value, bytes):
        return ["file", base64.b64encode(value).decode(), told[5]]
    return ["dir"] if value is None else ["symlink", value]


def _for_hands(call: Call, home: str) -> tuple[Any, ...]:
    """A call as the helper makes it: with bytes in the place of contents, and paths below `home`."""
    name, *args = call
    if name in ("put", "add") and not isinstance(args[1], bytes):
        args[1] = bytes_of(args[1])
    if home:
        for at in PATHS.get(name, (0,)):
            args[at] = f"{home}/{args[at]}" if args[at] else home
    return (name, *args)
