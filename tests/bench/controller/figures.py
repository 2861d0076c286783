"""The benchmark's last page: each figure measured, its goal, whether it is met, and the same figure of others.

Goals and the others' figures are issue 3's, measured at 1,000 objects on this kind of machine; beside a shorter run
they stand for orientation only, and the table says so. Invariant: pure; must not import slipway.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

GOALS_ARE_FOR = 1000
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Goal:
    bound: Literal["at most", "at least"]
    value: float

    def is_met_by(self, measured: float) -> bool:
        return measured <= self.value if self.bound == "at most" else measured >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.bound == 'at most' else '≥'} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value; None means that this run left it out."""

    title: str
    measured: float | None
    digits: int = 1
    goal: Goal | None = None
    kserve: str = NOTHING
    argo: str = NOTHING
    bare_kopf: str = NOTHING

    def cells(self) -> tuple[str, ...]:
        measured = "not run" if self.measured is None else f"{self.measured:,.{self.digits}f}"
        met = NOTHING
        if self.goal is not None and self.measured is not None:
            met = "yes" if self.goal.is_met_by(self.measured) else "NO"
        goal = NOTHING if self.goal is None else str(self.goal)
        return (self.title, measured, goal, met, self.kserve, self.argo, self.bare_kopf)


HEADINGS = ("figure", "measured", "goal", "met", "KServe 0.20", "Argo Rollouts 1.9", "bare kopf")


def render_table(figures: Sequence[Figure]) -> str:
    """A Markdown table, aligned for a terminal."""
    rows = [HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
        if number == 0:
            lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed (nearest rank).

    percentile([1, 2, 3, 4], 50) = 2; percentile([1, 2, 3, 4], 99) = 4.
    """
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]
