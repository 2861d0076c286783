"""What differs between two revisions: the user's choices as YAML, line by line.

Pure.
"""

from __future__ import annotations

import difflib
from typing import Any

import yaml

Json = dict[str, Any]

CONTEXT_LINES = 3


def unified(before: Json, after: Json, before_name: str, after_name: str) -> list[str]:
    """A unified diff, without line ends; empty when nothing differs.

    >>> unified({"version": 1}, {"version": 2}, "a", "b")
    ['--- a', '+++ b', '@@ -1 +1 @@', '-version: 1', '+version: 2']
    """
    old, new = (as_yaml(choice, sorts=True).splitlines() if choice else [] for choice in (before, after))
    return list(difflib.unified_diff(old, new, before_name, after_name, n=CONTEXT_LINES, lineterm=""))


def style_of(line: str) -> str:
    """The colour of a line of a diff."""
    for start, style in (("---", "bold"), ("+++", "bold"), ("@@", "cyan"), ("-", "red"), ("+", "green")):
        if line.startswith(start):
            return style
    return ""


def as_yaml(value: object, *, sorts: bool = False) -> str:
    """Block style, no line folded. sorts: keys in alphabetical order, else as they stand."""
    return yaml.safe_dump(value, sort_keys=sorts, allow_unicode=True, width=1_000_000)
