"""What differs between two revisions: the user's choices as YAML, line by line.

Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import yaml

Json = dict[str, Any]

CONTEXT_LINES = 3


def unified(before: Json, after: Json, before_name: str, after_name: str) -> list[str]:
    """A unified diff, without line ends; empty when nothing differs.

    >>> unified({"version": 1}, {"version": 2}, "a", "b")
    ['--- a', '+++ b', '@@ -1 +1 @@', '-version: 1', '+version: 2']
    """
    return list(
        difflib.unified_diff(
            _lines(before), _lines(after), fromfile=before_name, tofile=after_name, n=CONTEXT_LINES, lineterm=""
        )
    )


def style_of(line: str) -> str:
    """The colour of a line of a diff."""
    for start, style in (("---", "bold"), ("+++", "bold"), ("@@", "cyan"), ("-", "red"), ("+", "green")):
        if line.startswith(start):
            return style
    return ""


def as_yaml(value: object) -> str:
    """Block style, keys as they stand, no line folded."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1_000_000, default_flow_style=False)


def _lines(choice: Json) -> Sequence[str]:
    return as_yaml(_sorted(choice)).splitlines() if choice else []


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
