"""The routers' counters over time: errors and latencies of each revision, as small curves for `--watch`.

Nothing is judged by these; verdicts come from the operator. Each point covers the few seconds before it.

    counter of requests  100, 150, 150, 210    one reading a second
    gains                     50,   0,  60     a router's first reading gives no gain

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts

Readings = Mapping[str, Mapping[str, Counts]]
"""Source (a router's pod) → workload → its counts since that pod started."""

KEPT = 60
WINDOW = 5
"""Readings that one point covers: one second of a slow model has too few requests for a quantile."""
LEVELS = " ▁▂▃▄▅▆▇█"
ASCII_LEVELS = " ._-=+*#@"


@dataclass(frozen=True, slots=True)
class Track:
    """The readings so far. gains: for each span between two readings, its seconds and the gain of each workload."""

    at: float | None = None
    last: Readings = field(default_factory=dict)
    gains: tuple[tuple[float, Mapping[str, Counts]], ...] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """One workload's points, the oldest first. None: no request in that time.

    error_shares: 0 to 1. latencies: a quantile, in milliseconds. requests_per_second: of the newest point.
    """

    error_shares: tuple[float | None, ...]
    latencies: tuple[float | None, ...]
    requests_per_second: float


def add_readings(track: Track, readings: Readings, at_seconds: float) -> Track:
    """The track with one more reading."""
    if track.at is None:
        return Track(at_seconds, readings)
    gained: dict[str, Counts] = {}
    for source, workloads in readings.items():
        before = track.last.get(source)
        if before is None:
            continue
        for workload, counts in workloads.items():
            gain = _gain(before.get(workload, Counts()), counts)
            gained[workload] = _sum((gained.get(workload, Counts()), gain))
    gains = (*track.gains, (max(1e-3, at_seconds - track.at), gained))
    return Track(at_seconds, {**track.last, **readings}, gains[-(KEPT + WINDOW) :])


def curve_of(track: Track, workload: str, quantile: float) -> Curve:
    """The curve of a workload. quantile: with 0.99, 99 of 100 requests were as fast as the latency or faster."""
    shares: list[float | None] = []
    latencies: list[float | None] = []
    rate = 0.0
    for end in range(1, len(track.gains) + 1):
        window = track.gains[max(0, end - WINDOW) : end]
        counts = _sum([gained[workload] for _, gained in window if workload in gained])
        shares.append(counts.errors / counts.requests if counts.requests else None)
        latencies.append(quantile_of(counts.within, quantile))
        rate = counts.requests / sum(seconds for seconds, _ in window)
    return Curve(tuple(shares[-KEPT:]), tuple(latencies[-KEPT:]), rate)


def quantile_of(within: Sequence[int], quantile: float) -> float | None:
    """Milliseconds: the upper bound of the bucket that holds the quantile; None without requests.

    >>> quantile_of((0, 0, 9, 10, *[10] * 23), 0.5), quantile_of((0, 0, 9, 10, *[10] * 23), 0.99), quantile_of((), 0.5)
    (3.0, 5.0, None)
    """
    if not within or not within[-1]:
        return None
    rank = quantile * within[-1]
    bounds = zip(LATENCY_BOUNDS_MILLISECONDS, within, strict=False)
    return next((float(bound) for bound, count in bounds if count >= rank), None)


def spark(points: Sequence[float | None], top: float, width: int, *, is_unicode: bool = True) -> str:
    """The last `width` points as a line of bars; a point of `top` is a full bar, None a blank.

    >>> spark((0, None, 0.5, 1), 1.0, 4)
    '▁ ▅█'
    """
    levels = LEVELS if is_unicode else ASCII_LEVELS
    steps = len(levels) - 2
    shown = [
        " " if point is None else levels[1 + min(steps, round(steps * point / top) if top > 0 else 0)]
        for point in points[-width:]
    ]
    return "".join(shown).rjust(width)


def _gain(before: Counts, after: Counts) -> Counts:
    if after.requests < before.requests:  # the router restarted
        before = Counts()
    pairs = zip(after.within, before.within or (0,) * len(after.within), strict=False)
    return Counts(
        requests=after.requests - before.requests,
        errors=max(0, after.errors - before.errors),
        refusals=max(0, after.refusals - before.refusals),
        within=tuple(max(0, later - earlier) for later, earlier in pairs),
    )


def _sum(many: Sequence[Counts]) -> Counts:
    length = max((len(each.within) for each in many), default=0)
    return Counts(
        requests=sum(each.requests for each in many),
        errors=sum(each.errors for each in many),
        refusals=sum(each.refusals for each in many),
        within=tuple(sum(each.within[place] for each in many if each.within) for place in range(length)),
    )
