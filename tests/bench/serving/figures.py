"""What the serving bench prints: one line a figure, with its goal, and what a load's records say.

Invariant: pure. Must not import: anything of Kubernetes or Slipway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.figures import NOTHING, Goal, percentile, table
from tests.e2e.traffic import Record

HEADINGS = ("figure", "measured", "goal", "met")


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value; None means that this run could not measure it, and `note` says why."""

    title: str
    measured: float | None
    unit: str
    goal: Goal | None = None
    digits: int = 1
    note: str = ""

    def cells(self) -> tuple[str, str, str, str]:
        measured = f"not run{': ' + self.note if self.note else ''}"
        met = NOTHING
        if self.measured is not None:
            measured = f"{self.measured:,.{self.digits}f} {self.unit}".rstrip() + (
                f" ({self.note})" if self.note else ""
            )
            if self.goal is not None:
                met = "yes" if self.goal.is_met_by(round(self.measured, 6)) else "NO"
        return self.title, measured, NOTHING if self.goal is None else f"{self.goal} {self.unit}".rstrip(), met


def render_table(figures: Sequence[Figure]) -> str:
    return table(HEADINGS, [figure.cells() for figure in figures])


@dataclass(frozen=True, slots=True)
class Span:
    """Two moments of time.monotonic()."""

    begin: float
    end: float

    def holds(self, moment: float) -> bool:
        return self.begin <= moment < self.end


@dataclass(frozen=True, slots=True)
class Window:
    """A client's requests that were due within some spans: latencies in seconds, of the answered ones.

    late: by how many seconds each was sent after it was due.
    """

    asked: int
    seconds: list[float]
    failures: list[str]
    reconnected: int
    late: list[float]

    @property
    def p99_milliseconds(self) -> float | None:
        return percentile(self.seconds, 99) * 1000 if self.seconds else None


def requests_within(record: Record, spans: Sequence[Span]) -> Window:
    """Of one client, what was due in one of the spans."""

    def is_in(moment: float) -> bool:
        return any(span.holds(moment) for span in spans)

    chosen = [place for place, due in enumerate(record.due) if is_in(due)]
    return Window(
        asked=len(chosen),
        seconds=[record.seconds[place] for place in chosen if record.answers[place] is not None],
        failures=[words for due, words in record.failures if is_in(due)],
        reconnected=sum(is_in(due) for due in record.reconnected),
        late=[record.late[place] for place in chosen],
    )


def last_old_answer(record: Record, before: Span, after: Span) -> float | None:
    """When the last answer came within `after` that was as one of those within `before`; None where no other came.

    The answers before are those of the old version; an answer that is unlike them is the new one's. Where no old one
    came at all, the begin of `after`.
    """
    asked = list(zip(record.due, record.seconds, record.answers, strict=True))
    old = {answer for due, _, answer in asked if before.holds(due) and answer is not None}
    answered = [(due + seconds, answer) for due, seconds, answer in asked if after.holds(due) and answer is not None]
    if all(answer in old for _, answer in answered):
        return None
    return max((moment for moment, answer in answered if answer in old), default=after.begin)
