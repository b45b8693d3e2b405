"""A property that does not hold, by its number (see `checks`)."""

from __future__ import annotations


class Violation(AssertionError):
    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"property {number}: {what}")
        self.number = number


def require(number: int, holds: object, what: str) -> None:
    if not holds:
        raise Violation(number, what)
