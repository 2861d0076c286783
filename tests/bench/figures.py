"""What every bench prints: a measured value beside its goal, in a table.

Invariant: pure; must not import slipway.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Goal:
    bound: Literal["at most", "at least"]
    value: float

    def is_met_by(self, measured: float) -> bool:
        return measured <= self.value if self.bound == "at most" else measured >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.bound == 'at most' else '≥'} {self.value:g}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown, aligned for a terminal: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for first, *others in (headings, *rows):
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("| " + " | ".join(cells) + " |")
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed (nearest rank).

    percentile([1, 2, 3, 4], 50) = 2; percentile([1, 2, 3, 4], 99) = 4.
    """
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]
