"""The routers' counters, followed for a person who watches: errors and latencies of each revision, as small curves.

Nothing is judged by these: verdicts come from the operator. Each point speaks of the few seconds before it.

    counter of requests  100, 150, 150, 210    one reading a second
    in between                50,   0,  60     a source that was seen for the first time gives nothing yet

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts

Readings = Mapping[str, Mapping[str, Counts]]
"""Source (a router's pod) → carrier → its counts since the source began."""

KEPT = 60
WINDOW = 5
"""Readings that one point speaks of: a second of a slow model has no quantile."""
LEVELS = " ▁▂▃▄▅▆▇█"
ASCII_LEVELS = " ._-=+*#@"


@dataclass(frozen=True, slots=True)
class Track:
    """What was read so far. gains: for each span between two readings, its seconds and what each carrier gained."""

    at: float | None = None
    last: Readings = field(default_factory=dict)
    gains: tuple[tuple[float, Mapping[str, Counts]], ...] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """One carrier's points, the oldest first. None: no request in that time.

    error_shares: 0 to 1. latencies: milliseconds that the asked share of answers took at most. requests_per_second:
    now.
    """

    error_shares: tuple[float | None, ...]
    latencies: tuple[float | None, ...]
    requests_per_second: float


def follow(track: Track, readings: Readings, at_seconds: float) -> Track:
    """The track with one more reading."""
    if track.at is None:
        return Track(at_seconds, readings)
    gained: dict[str, Counts] = {}
    for source, carriers in readings.items():
        before = track.last.get(source)
        if before is None:
            continue
        for carrier, counts in carriers.items():
            gain = _gain(before.get(carrier, Counts()), counts)
            gained[carrier] = _sum((gained.get(carrier, Counts()), gain))
    gains = (*track.gains, (max(1e-3, at_seconds - track.at), gained))
    return Track(at_seconds, {**track.last, **readings}, gains[-(KEPT + WINDOW) :])


def curve_of(track: Track, carrier: str, quantile: float) -> Curve:
    """The curve of a carrier. quantile: 0.99 is the latency that 99 of 100 answers kept."""
    shares: list[float | None] = []
    latencies: list[float | None] = []
    rate = 0.0
    for end in range(1, len(track.gains) + 1):
        window = track.gains[max(0, end - WINDOW) : end]
        counts = _sum([gained[carrier] for _, gained in window if carrier in gained])
        shares.append(counts.errors / counts.requests if counts.requests else None)
        latencies.append(quantile_of(counts.within, quantile))
        rate = counts.requests / sum(seconds for seconds, _ in window)
    return Curve(tuple(shares[-KEPT:]), tuple(latencies[-KEPT:]), rate)


def quantile_of(within: Sequence[int], quantile: float) -> float | None:
    """Milliseconds: the upper bound of the bucket that holds the quantile; None without answers.

    >>> quantile_of((0, 0, 9, 10, *[10] * 23), 0.5), quantile_of((0, 0, 9, 10, *[10] * 23), 0.99), quantile_of((), 0.5)
    (3.0, 5.0, None)
    """
    if not within or not within[-1]:
        return None
    wanted = quantile * within[-1]
    bounds = zip(LATENCY_BOUNDS_MILLISECONDS, within, strict=False)
    return next((float(bound) for bound, count in bounds if count >= wanted), None)


def spark(points: Sequence[float | None], top: float, width: int, *, is_unicode: bool = True) -> str:
    """The last `width` points as a line of little bars, `top` being a full one; a blank where there is none.

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
    if after.requests < before.requests:  # it began anew
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
