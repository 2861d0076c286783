"""Others' words as a message quotes them.

Must not import: other parts of slipway. Pure.
"""

from __future__ import annotations


def first_line(text: str) -> str:
    """As a message quotes it, 1,000 characters at most."""
    return text.strip().partition("\n")[0][:1000]


def last_words(text: str) -> str:
    """Of a program's last lines, the one that says why it ended: the last that is no line of a stack."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith((" ", "\t", "at "))] or lines or [""]
    return own[-1][:1000]
