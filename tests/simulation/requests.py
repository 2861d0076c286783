"""Requests of clients: how well a version answers, and what whoever counts the answers has seen.

Pure. Must not import slipway.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LATENCY_BOUNDS = (
    1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750,
    1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 20_000, 30_000, 60_000,
)  # fmt: skip
"""Milliseconds; the upper bounds of the buckets that routers count in."""
GOOD_MILLISECONDS = 10.0


@dataclass
class Answering:
    """How versions answer. error_rate: version → the share of errors, of 1; milliseconds: version → how long it takes.

    A version that neither names answers well.
    """

    error_rate: dict[int, float] = field(default_factory=dict)
    milliseconds: dict[int, float] = field(default_factory=dict)


@dataclass
class Tally:
    """Answers of one workload. within: for each of LATENCY_BOUNDS, those that took at most as long.

    Parts of a request add up; only whole ones are shown.
    """

    requests: float = 0
    errors: float = 0
    within: list[float] = field(default_factory=lambda: [0.0] * len(LATENCY_BOUNDS))

    def add(self, requests: float, version: int, answering: Answering) -> None:
        """So many requests more, answered by that version."""
        milliseconds = answering.milliseconds.get(version, GOOD_MILLISECONDS)
        self.requests += requests
        self.errors += requests * answering.error_rate.get(version, 0.0)
        for number, bound in enumerate(LATENCY_BOUNDS):
            self.within[number] += requests if milliseconds <= bound else 0
