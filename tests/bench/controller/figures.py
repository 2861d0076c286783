"""The benchmark's last page: each figure measured, its goal, whether it is met, and the same figure of others.

Goals and the others' figures are issue 3's, measured at 1,000 objects on this kind of machine; beside a shorter run
they stand for orientation only, and the table says so. Invariant: pure; must not import slipway.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.figures import NOTHING, Goal, table

GOALS_ARE_FOR = 1000


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
    return table(HEADINGS, [figure.cells() for figure in figures])
