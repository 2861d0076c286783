"""Whether a canary is worse than stable, said from counts.

Invariant: `Fail` from a comparison means that the evidence e reached 1/alpha, over the whole rollout, however often it
was looked at; `Pass` means that enough was seen to exclude a difference as large as the margin; no data never passes.
What e and the bounds are: `eprocess.py`. What is counted: `accumulator.py`.

**The margin.** A difference that nobody cares about is no failure: evidence counts only where the difference that was
observed in the step is above the margin, or its lower bound in about the last minute is. That is one condition more,
so alpha holds. Example 1: canary 30/2,000 errors, stable 90/18,000: 1.0 % more, at a margin of 1 % no failure whatever
e is. Example 2: 40/2,000: 1.5 % more.

**Kinds.** Errors, refusals and two bounds of latency are bet on side by side, each with a part of the stake: the
weighted mean of their e is what must reach 1/alpha. Example 1: e = 260 for errors, 1 for the others: 0.5*260 + 0.5 =
130.5. Example 2: e = 150 for errors alone: 75.5, no failure at alpha = 1 %.
Must not import: anything that does I/O. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum

from slipway.api.v1alpha1 import Analysis
from slipway.decide.analysis.accumulator import (
    BOUNDS,
    BUCKETS,
    ENOUGH_FOR_BOUNDS,
    Accumulated,
    Arms,
    Tally,
    begin,
    enter_step,
    look,
    read,
    skip,
    write,
)
from slipway.decide.analysis.eprocess import above, difference, wilson
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Outcome, Verdict

__all__ = ["Accumulated", "Reason", "begin", "enter_step", "judge", "look", "read", "skip", "write"]


class Reason(StrEnum):
    """Why a verdict is what it is. Stable API."""

    ERRORS_ROSE = "ErrorsRose"
    REFUSALS_ROSE = "RefusalsRose"
    SLOWER_THAN_STABLE = "SlowerThanStable"
    ERROR_RATE_ABOVE_LIMIT = "ErrorRateAboveLimit"
    LATENCY_ABOVE_LIMIT = "LatencyAboveLimit"
    ERRORS_ABOVE_STABLE = "ErrorsAboveStable"
    NOT_WORSE = "NotWorse"
    WITHIN_LIMITS = "WithinLimits"
    NO_TRAFFIC = "NoTraffic"
    TOO_FEW_REQUESTS = "TooFewRequests"
    DIFFERENCE_NOT_SURELY_SMALL = "DifferenceNotSurelySmall"
    LIMIT_NOT_SURELY_MET = "LimitNotSurelyMet"
    LATENCY_UNKNOWN = "LatencyUnknown"
    SOURCE_SILENT = "SourceSilent"


ERRORS, REFUSALS, LATENCY = 0.5, 0.2, 0.3
"""The parts of alpha; a later kind takes its part from these."""
ENOUGH_FOR_LIMITS = 20
"""Answers before an absolute limit is judged."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of bad answer: how its failure is called, its evidence, its part in alpha, how it is counted."""

    reason: Reason
    what: str
    e: float
    weight: float
    bound: int | None = None

    def count(self, tally: Tally) -> tuple[float, float]:
        """Bad answers, and of how many."""
        if self.bound is not None:
            return tally.slower(self.bound), tally.timed
        return (tally.errors if self.what == "errors" else tally.refusals), tally.requests


def judge(accumulated: Accumulated, settings: Analysis, *, is_split: bool) -> Verdict:
    """What the evidence says now.

    is_split: stable gets traffic too. Without it nothing is compared: absolute limits, and errors against what stable
    showed during the steps; no alpha is claimed then.
    """
    canary = accumulated.step.canary
    failed = (_worse(accumulated, settings) if is_split else None) or _beyond_limits(accumulated, settings, is_split)
    if failed is not None:
        return failed
    last = accumulated.last
    if last.missing or not last.counts:
        trouble = f": {last.trouble}" if last.trouble else ""
        what = (
            f"{last.missing} of the sources of counts did not answer"
            if last.missing
            else "there is no source of counts"
        )
        return Verdict(Outcome.ERROR, Reason.SOURCE_SILENT, f"{what}{trouble}; nothing is concluded until it does")
    if canary.requests < settings.min_requests:
        return _too_few(accumulated, settings, is_split)
    return _doubted_limit(canary, settings) or (
        _small_enough(accumulated, settings) if is_split else _within_limits(accumulated, settings)
    )


def _too_few(accumulated: Accumulated, settings: Analysis, is_split: bool) -> Verdict:
    """How many requests there are and how many are needed: at least, and to exclude a difference with these errors."""
    canary, stable = accumulated.step.canary, accumulated.step.stable
    there, least = canary.requests, settings.min_requests
    reason = Reason.TOO_FEW_REQUESTS if there else Reason.NO_TRAFFIC
    answered = f"{_n(there)} of" if there else "none of"
    message = (
        f"too little traffic: canary answered {answered} the {_n(least)} requests that a step needs; "
        f"needs {_n(least - there)} more"
    )
    if is_split and stable.requests:
        seen, errors = max(there, 1.0), canary.errors
        in_all = seen
        if errors / seen - stable.errors / stable.requests < settings.margin:
            in_all += _more(errors, seen, stable.errors, stable.requests, settings.margin)
        if in_all > least:
            message += f", and about {_n(in_all)} in all to exclude a difference of {settings.margin:.2%}"
    return Verdict(Outcome.INCONCLUSIVE, reason, message)


def _kinds(accumulated: Accumulated) -> list[_Kind]:
    against, seconds = accumulated.against, accumulated.seconds
    kinds = [
        _Kind(Reason.ERRORS_ROSE, "errors", against.errors.worth(seconds), ERRORS),
        _Kind(Reason.REFUSALS_ROSE, "refusals", against.refusals.worth(seconds), REFUSALS),
    ]
    for evidence, bound in zip(against.slow, accumulated.bounds, strict=False):
        what = f"slower than {LATENCY_BOUNDS_MILLISECONDS[bound]:,} ms"
        kinds.append(_Kind(Reason.SLOWER_THAN_STABLE, what, evidence.worth(seconds), LATENCY / BOUNDS, bound))
    return kinds


def _worse(accumulated: Accumulated, settings: Analysis) -> Verdict | None:
    e, worst, numbers = 0.0, None, ""
    for kind in _kinds(accumulated):
        shown = _surpassing(kind, accumulated, settings.margin)
        if shown is not None:
            e += kind.weight * kind.e
            if worst is None or kind.weight * kind.e > worst.weight * worst.e:
                worst, numbers = kind, shown
    if worst is None or e < 1 / settings.alpha:
        return None
    return Verdict(Outcome.FAIL, worst.reason, f"{numbers}; e = {_e(e)} ≥ {_n(1 / settings.alpha)}")


def _surpassing(kind: _Kind, accumulated: Accumulated, margin: float) -> str | None:
    """The numbers of a difference above the margin, in this step or surely so lately; None without one."""
    for arms, scope in ((accumulated.step, ""), (accumulated.recent, " in about the last minute")):
        (bad, of), (stable_bad, stable_of) = kind.count(arms.canary), kind.count(arms.stable)
        if of > 0 and stable_of > 0:
            lower, snapshot, _ = difference(bad, of, stable_bad, stable_of)
            if (lower if scope else snapshot) > margin:
                return _numbers(kind, arms) + scope
    return None


def _beyond_limits(accumulated: Accumulated, settings: Analysis, is_split: bool) -> Verdict | None:
    canary = accumulated.step.canary
    if canary.requests < ENOUGH_FOR_LIMITS:
        return None
    needed = 1 / settings.alpha
    if settings.max_error_rate is not None:
        e = above(settings.max_error_rate, canary.errors, canary.requests)
        if e >= needed:
            return Verdict(
                Outcome.FAIL,
                Reason.ERROR_RATE_ABOVE_LIMIT,
                f"canary {_n(canary.errors)}/{_n(canary.requests)} errors, maxErrorRate {settings.max_error_rate:g}; "
                f"e = {_e(e)} ≥ {_n(needed)}",
            )
    bound = _limit_bound(settings)
    if bound is not None and canary.timed >= ENOUGH_FOR_LIMITS:
        slow, allowed = canary.slower(bound), 1 - settings.latency_quantile
        e = above(allowed, slow, canary.timed)
        if e >= needed:
            return Verdict(
                Outcome.FAIL,
                Reason.LATENCY_ABOVE_LIMIT,
                f"canary {_n(slow)}/{_n(canary.timed)} slower than {LATENCY_BOUNDS_MILLISECONDS[bound]:,} ms, "
                f"{allowed:.2%} allowed (latencyQuantile {settings.latency_quantile:g}); e = {_e(e)} ≥ {_n(needed)}",
            )
    ceiling = None if is_split else error_ceiling(accumulated, settings.margin)
    if ceiling is not None:
        e = above(ceiling, canary.errors, canary.requests)
        if e >= needed:
            return Verdict(
                Outcome.FAIL,
                Reason.ERRORS_ABOVE_STABLE,
                f"canary {_n(canary.errors)}/{_n(canary.requests)} errors; stable had at most "
                f"{ceiling - settings.margin:.2%} during the steps, margin {settings.margin:.2%}; "
                f"e = {_e(e)} ≥ {_n(needed)}",
            )
    return None


def error_ceiling(accumulated: Accumulated, margin: float) -> float | None:
    """The upper bound of stable's error rate during the steps, and the margin; None where it had no traffic."""
    stable = accumulated.rollout.stable
    return min(1.0, wilson(stable.errors, stable.requests)[1] + margin) if stable.requests else None


def _doubted_limit(canary: Tally, settings: Analysis) -> Verdict | None:
    """What speaks against passing: a limit that is passed by what was seen, though not surely, or can't be judged."""
    if settings.max_error_rate is not None and canary.errors > settings.max_error_rate * canary.requests:
        return Verdict(
            Outcome.INCONCLUSIVE,
            Reason.LIMIT_NOT_SURELY_MET,
            f"canary {_n(canary.errors)}/{_n(canary.requests)} errors: above maxErrorRate "
            f"{settings.max_error_rate:g}, not surely yet",
        )
    if settings.max_latency_milliseconds is None:
        return None
    bound = _limit_bound(settings)
    if bound is None or not canary.timed:
        why = "the source has no latencies yet" if bound is not None else "latencies are counted up to 60,000 ms"
        return Verdict(
            Outcome.INCONCLUSIVE,
            Reason.LATENCY_UNKNOWN,
            f"maxLatencyMilliseconds {settings.max_latency_milliseconds:,} can't be judged: {why}",
        )
    slow = canary.slower(bound)
    if slow > (1 - settings.latency_quantile) * canary.timed:
        return Verdict(
            Outcome.INCONCLUSIVE,
            Reason.LIMIT_NOT_SURELY_MET,
            f"canary {_n(slow)}/{_n(canary.timed)} slower than {LATENCY_BOUNDS_MILLISECONDS[bound]:,} ms: more than "
            f"latencyQuantile {settings.latency_quantile:g} allows, not surely yet",
        )
    return None


def _limit_bound(settings: Analysis) -> int | None:
    """Index of the smallest counted latency that is not below the limit: slower ones are surely above it."""
    if settings.max_latency_milliseconds is None:
        return None
    bound = bisect_left(LATENCY_BOUNDS_MILLISECONDS, settings.max_latency_milliseconds)
    return bound if bound < BUCKETS else None


def _small_enough(accumulated: Accumulated, settings: Analysis) -> Verdict:
    step = accumulated.step
    if not step.stable.requests:
        return Verdict(
            Outcome.INCONCLUSIVE, Reason.NO_TRAFFIC, "stable answered no request in this step: nothing to compare"
        )
    kinds = _kinds(accumulated)
    latency = "" if accumulated.bounds else "; latency is not judged: the source has none"
    if not accumulated.bounds and (step.canary.timed or step.stable.timed):
        return Verdict(
            Outcome.INCONCLUSIVE,
            Reason.TOO_FEW_REQUESTS,
            f"stable answered {_n(step.stable.timed)} of the {ENOUGH_FOR_BOUNDS} requests that bounds of slowness need",
        )
    shown = []
    for kind in kinds:
        (bad, of), (stable_bad, stable_of) = kind.count(step.canary), kind.count(step.stable)
        if not of or not stable_of:
            return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_REQUESTS, "no request was timed in this step yet")
        lower, snapshot, upper = difference(bad, of, stable_bad, stable_of)
        # Refusals are mostly the clients' doing, and many answers pass the lower bound of slowness: to exclude a small
        # difference there would take thousands of requests. It is enough that they aren't surely more.
        is_common = kind.what == "refusals" or (kind.bound is not None and kind.bound != accumulated.bounds[-1])
        if (lower if is_common else upper) >= settings.margin:
            more = (
                f"; needs about {_n(_more(bad, of, stable_bad, stable_of, settings.margin))} more requests"
                if (snapshot < settings.margin)
                else ""
            )
            return Verdict(
                Outcome.INCONCLUSIVE,
                Reason.DIFFERENCE_NOT_SURELY_SMALL,
                f"{_numbers(kind, step)}; the difference may be {upper:.2%}, margin {settings.margin:.2%}{more}",
            )
        if not is_common:
            shown.append(f"{_numbers(kind, step)} (at most {max(0.0, upper):.2%} more)")
    return Verdict(Outcome.PASS, Reason.NOT_WORSE, "; ".join(shown) + f"; margin {settings.margin:.2%}" + latency)


def _within_limits(accumulated: Accumulated, settings: Analysis) -> Verdict:
    canary = accumulated.step.canary
    ceiling = error_ceiling(accumulated, settings.margin)
    numbers = f"canary {_n(canary.errors)}/{_n(canary.requests)} errors"
    upper = wilson(canary.errors, canary.requests)[1]
    if ceiling is not None and upper > ceiling:
        return Verdict(
            Outcome.INCONCLUSIVE,
            Reason.DIFFERENCE_NOT_SURELY_SMALL,
            f"{numbers}, maybe {upper:.2%}; stable's during the steps and the margin: {ceiling:.2%}",
        )
    return Verdict(Outcome.PASS, Reason.WITHIN_LIMITS, f"{numbers}; nothing to compare with at 100 %")


def _more(bad: float, of: float, stable_bad: float, stable_of: float, margin: float) -> float:
    """About how many more canary requests, at the rates seen so far, bring the upper bound below the margin."""
    low, high = 1.0, 1.0
    while high < 1e9 and difference(bad * high, of * high, stable_bad * high, stable_of * high)[2] >= margin:
        low, high = high, high * 2
    for _ in range(20):
        middle = (low + high) / 2
        if difference(bad * middle, of * middle, stable_bad * middle, stable_of * middle)[2] >= margin:
            low = middle
        else:
            high = middle
    return math.ceil(of * (high - 1))


def _numbers(kind: _Kind, arms: Arms) -> str:
    (bad, of), (stable_bad, stable_of) = kind.count(arms.canary), kind.count(arms.stable)
    return f"canary {_n(bad)}/{_n(of)} {kind.what}, stable {_n(stable_bad)}/{_n(stable_of)}"


def _n(number: float) -> str:
    return f"{round(number):,}"


def _e(number: float) -> str:
    return f"{number:,.0f}" if number < 1e7 else "over 10,000,000"
