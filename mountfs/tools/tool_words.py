"""Words that more than one command of `gdah` uses."""

from __future__ import annotations


def printable(name: str) -> str:
    """A name that cannot command the terminal: everything that is no plain character is written as an escape."""
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else _escape(char) for char in name)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
