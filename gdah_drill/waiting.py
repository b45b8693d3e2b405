"""Waiting for something to become true, with a deadline that says what it waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx

T = TypeVar("T")

NOT_YET = (AssertionError, OSError, httpx.HTTPError, KeyError, IndexError)
"""What a check may raise while things are still on their way."""


def wait_until(check: Callable[[], T | None], what: str, timeout_s: float = 30.0, every_s: float = 0.05) -> T:
    """The first truthy answer of `check`. The deadline is generous: it ends a hang, it measures nothing."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while True:
        try:
            answer = check()
            if answer:
                return answer
            last = answer
        except NOT_YET as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what} (last: {last!r:.2000})")
        time.sleep(every_s)
