"""The mathematics of slipway.analysis for many rollouts at once, with numpy.

Invariant: the same verdicts and the same evidence as slipway.analysis gives one rollout after the other; the bench and
tests/unit/bench/test_analysis.py compare them on samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slipway.api.v1alpha1 import Analysis
from slipway.decide.analysis import accumulator as tallies
from slipway.decide.analysis import eprocess as statistics
from slipway.decide.analysis import verdict as analysis

from .traffic import CANARY, CELLS, FIRST, STABLE, Traces

Numbers = NDArray[np.float64]

KINDS = ("errors", "refusals", "slow", "slowest")
RISKS = np.array(statistics.RELATIVE_RISKS)
LN_RISKS = np.log(RISKS)
LAST_BOUND = tallies.BUCKETS - 1


@dataclass(frozen=True)
class Failures:
    """For each rollout the look (from 1) at which it failed, 0 for never; the kind; the highest evidence it had."""

    look: NDArray[np.int64]
    kind: NDArray[np.int64]
    highest: NDArray[np.float64]


class Purse(Protocol):
    """How much evidence a look may add, for all rollouts and kinds at once: slipway.analysis' way, or another."""

    def refill(self, pods: tuple[int, int], bad: Numbers, look_seconds: float) -> Numbers:
        """What there is for this look. bad: rollout, kind, revision."""

    def pay(self, left: Numbers, bad: Numbers, of: Numbers, pods: tuple[int, int], look_seconds: float) -> None:
        """After the look: what it left, and what was seen in it."""


def judge(traces: Traces, settings: Analysis, purses: Callable[[int], Purse] | None = None) -> Failures:
    """What slipway.analysis says of each rollout, at every look: `Fail`, and of what kind. purses: by rollouts."""
    rollouts, looks = traces.errors.shape[:2]
    purse = (purses or Outages)(rollouts)
    needed = 1 / settings.alpha
    weights = np.array([kind_weight(kind) for kind in range(4)])
    bets = np.full((rollouts, 4, len(RISKS)), 0.5)
    seconds = np.zeros(rollouts)
    step_seconds = np.zeros(rollouts)
    bounds = np.full((rollouts, 2), -1)
    step, recent = _Tallies(rollouts), _Tallies(rollouts)
    failed_look, failed_kind = np.zeros(rollouts, np.int64), np.full(rollouts, -1)
    highest = np.zeros(rollouts)
    rows = np.arange(rollouts)
    keep = np.exp(-traces.look_seconds / tallies.RECENT_SECONDS)
    cold_requests, pods = 0, (1, 1)
    for look in range(looks):
        if look in traces.enters:
            pods = traces.stable_pods, traces.enters[look]
            cold_requests = tallies.COLD_REQUESTS * pods[1]
            if look:
                chosen = _choose_bounds(step.cells[:, STABLE])
                bounds = np.where(chosen >= 0, chosen, bounds)
            step_seconds[:] = 0
            step = _Tallies(rollouts)
        cells, errors = traces.cells[:, look].astype(float), traces.errors[:, look].astype(float)
        refusals = traces.refusals[:, look].astype(float)
        requests = cells.sum(axis=2)
        step_seconds += np.where(requests[:, CANARY] > 0, traces.look_seconds, 0)
        is_cold = (step.requests[:, CANARY] < cold_requests) | (step_seconds < tallies.COLD_SECONDS)
        timed = np.where(is_cold[:, None, None], 0, cells)
        look_seconds = np.where((requests > 0).all(axis=1), traces.look_seconds, 0)
        bad = np.stack(
            [errors, refusals, _slower(timed, bounds[:, 0]), _slower(timed, bounds[:, 1])], axis=1
        )  # rollout, kind, revision
        of = np.stack([requests, requests, timed.sum(axis=2), timed.sum(axis=2)], axis=1)
        bad[:, 2:] = np.where((bounds >= 0)[:, :, None], bad[:, 2:], 0)
        held = purse.refill(pods, bad, traces.look_seconds)
        bets, left = _gather(bets, held, bad, of, seconds, look_seconds)
        purse.pay(left, bad, of, pods, traces.look_seconds)
        seconds = seconds + look_seconds
        step.add(requests, errors, refusals, timed)
        recent.keep(keep)
        recent.add(requests, errors, refusals, timed)
        chosen = _choose_bounds(step.cells[:, STABLE])
        bounds = np.where(bounds >= 0, bounds, chosen)
        worth = _unbet(seconds)[:, None] + bets.mean(axis=2)
        worth[:, 2:] = np.where(bounds >= 0, worth[:, 2:], 0)
        total = worth @ weights
        highest = np.maximum(highest, total)
        suspects = rows[(total >= needed) & (failed_look == 0)]
        if len(suspects):
            shown = _surpassing(step, recent, bounds, suspects, settings.margin)
            counted = np.where(shown, worth[suspects] * weights, 0)
            fails = counted.sum(axis=1) >= needed
            failed_look[suspects[fails]] = look + 1
            failed_kind[suspects[fails]] = counted[fails].argmax(axis=1)
    return Failures(failed_look, failed_kind, highest)


def kind_weight(kind: int) -> float:
    """The part of alpha that errors, refusals, slow and slowest answers have."""
    return (analysis.ERRORS, analysis.REFUSALS)[kind] if kind < 2 else analysis.LATENCY / tallies.BOUNDS


class _Tallies:
    """What analysis.Arms is for one rollout."""

    def __init__(self, rollouts: int) -> None:
        self.requests, self.errors, self.refusals = (np.zeros((rollouts, 2)) for _ in range(3))
        self.cells = np.zeros((rollouts, 2, CELLS))

    def add(self, *more: NDArray[np.float64]) -> None:
        for mine, other in zip((self.requests, self.errors, self.refusals, self.cells), more, strict=True):
            mine += other

    def keep(self, part: float) -> None:
        for mine in (self.requests, self.errors, self.refusals, self.cells):
            mine *= part


def _unbet(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * statistics.START_SECONDS / (statistics.START_SECONDS + seconds)


class Outages:
    """As in slipway.analysis: nothing comes in while a canary's pod is out no longer than stable's are."""

    def __init__(self, rollouts: int) -> None:
        self.held = np.full((rollouts, 4), statistics.PURSE)
        self.seconds, self.well = np.zeros((rollouts, 4, 2)), np.zeros((rollouts, 4, 2))
        self.longest, self.stable_bad, self.stable_of = (np.zeros((rollouts, 4)) for _ in range(3))

    def refill(self, pods: tuple[int, int], bad: Numbers, look_seconds: float) -> Numbers:
        learned = statistics.LONGER_THAN_STABLE * self.longest + statistics.BESIDES_SECONDS
        least, most = statistics.BURST_SECONDS, statistics.MOST_BURST_SECONDS
        burst = np.where(self.longest > 0, np.clip(learned, least, most), least)
        out = self.seconds[:, :, CANARY]
        later = np.maximum(0, look_seconds - np.maximum(0, burst - out))
        gain = statistics.GAIN_AFTER_BURST * later
        rested = np.minimum(statistics.PURSE, self.held + statistics.REFILL_PER_SECOND * look_seconds)
        return np.where(
            out > 0,
            np.minimum(np.maximum(statistics.PURSE, gain), self.held + gain),
            rested + statistics.REFILL_PER_SECOND * later,
        )

    def pay(self, left: Numbers, bad: Numbers, of: Numbers, pods: tuple[int, int], look_seconds: float) -> None:
        self.held = left
        usual = np.divide(self.stable_bad, self.stable_of, out=np.zeros_like(left), where=self.stable_of > 0)
        expected = usual[:, :, None] * of
        enough = np.maximum(of / (2 * np.array(pods)), 2 * np.sqrt(expected))
        is_hit = (bad > 0) & (bad >= expected + enough)
        well = np.where(is_hit, 0, self.well + of)
        is_on = is_hit | ((self.seconds > 0) & (well < statistics.ENOUGH_WELL))
        self.seconds = np.where(is_on, self.seconds + look_seconds, 0)
        self.well = np.where(is_on, well, 0)
        seen = np.where(is_hit[:, :, STABLE], self.seconds[:, :, STABLE], 0)
        self.longest = np.maximum(self.longest, seen)
        self.stable_bad = self.stable_bad + bad[:, :, STABLE]
        self.stable_of = self.stable_of + of[:, :, STABLE]


class Clock:
    """As in release 0.1: what came within five seconds since the purse was full was a burst, whoever's it was."""

    FULL, BURST_SECONDS, GAIN_IN_BURST, GAIN_PER_SECOND = 2.5, 5.0, 0.3, 1.5

    def __init__(self, rollouts: int) -> None:
        self.held, self.short_seconds = np.full((rollouts, 4), self.FULL), np.zeros((rollouts, 4))

    def refill(self, pods: tuple[int, int], bad: Numbers, look_seconds: float) -> Numbers:
        left = np.minimum(look_seconds, np.maximum(0, self.BURST_SECONDS - self.short_seconds))
        in_burst = np.where(bad.sum(axis=2) > 0, left, 0)
        gain = self.GAIN_IN_BURST * in_burst + self.GAIN_PER_SECOND * (look_seconds - in_burst)
        return np.asarray(np.minimum(np.maximum(self.FULL, gain), self.held + gain))

    def pay(self, left: Numbers, bad: Numbers, of: Numbers, pods: tuple[int, int], look_seconds: float) -> None:
        self.held = left
        self.short_seconds = np.where(left >= self.FULL, 0, self.short_seconds + look_seconds)


def _gather(
    bets: NDArray[np.float64],
    purse: NDArray[np.float64],
    bad: NDArray[np.float64],
    of: NDArray[np.float64],
    seconds: NDArray[np.float64],
    look_seconds: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    fresh = _unbet(seconds) - _unbet(seconds + look_seconds)
    both, bad_both = of.sum(axis=2), bad.sum(axis=2)
    share = np.divide(of[:, :, CANARY], both, out=np.zeros_like(both), where=both > 0)
    counts = (bad_both > 0) & (share > 0) & (share < 1)
    price = np.log(RISKS[-1] / (1 - share + share * RISKS[-1]), where=counts, out=np.ones_like(share))
    price *= bad_both
    counted = np.where(counts, np.minimum(1, np.divide(purse, price, out=np.ones_like(purse), where=counts)), 0)
    purse = np.maximum(0, purse - np.where(counts, counted * price, 0))
    bets = bets + fresh[:, None, None]
    hits = np.nonzero(counts)
    gain = bad[:, :, CANARY][hits][:, None] * LN_RISKS - bad_both[hits][:, None] * np.log(
        1 - share[hits][:, None] * (1 - RISKS)
    )
    bets[hits] = np.clip(bets[hits] * np.exp(counted[hits][:, None] * gain), 1e-300, 1e300)
    return bets, purse


def _slower(cells: NDArray[np.float64], bound: NDArray[np.int64]) -> NDArray[np.float64]:
    """Answers above that bound (an index of LATENCY_BOUNDS_MILLISECONDS), by rollout and revision."""
    above = np.arange(CELLS)[None, :] + FIRST > bound[:, None]
    return np.asarray((cells * above[:, None, :]).sum(axis=2))


def _choose_bounds(cells: NDArray[np.float64]) -> NDArray[np.int64]:
    timed = cells.sum(axis=1)
    slower = timed[:, None] - cells.cumsum(axis=1)
    chosen = [
        np.minimum(LAST_BOUND, 1 + FIRST + (slower <= share * timed[:, None]).argmax(axis=1))
        for share in tallies.SLOW_SHARES
    ]
    return np.where((timed >= tallies.ENOUGH_FOR_BOUNDS)[:, None], np.stack(chosen, axis=1), -1)


def _surpassing(
    step: _Tallies, recent: _Tallies, bounds: NDArray[np.int64], rows: NDArray[np.int64], margin: float
) -> NDArray[np.bool_]:
    """Of which kinds the difference is above the margin, in the step or surely so lately."""
    above = np.zeros((len(rows), 4), bool)
    for counted, is_sure in ((step, False), (recent, True)):
        timed = counted.cells[rows].sum(axis=2)
        for kind in range(4):
            if kind < 2:
                bad, of = (counted.errors, counted.refusals)[kind][rows], counted.requests[rows]
            else:
                bad, of = _slower(counted.cells[rows], bounds[rows, kind - 2]), timed
            known = (of > 0).all(axis=1)
            if kind >= 2:
                known &= bounds[rows, kind - 2] >= 0
            safe = np.where(of > 0, of, 1)
            lower, snapshot, _ = differences(bad[:, CANARY], safe[:, CANARY], bad[:, STABLE], safe[:, STABLE])
            above[:, kind] |= known & ((lower if is_sure else snapshot) > margin)
    return above


def wilsons(
    bad: NDArray[np.float64], of: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    z = statistics.SURE
    rate = np.minimum(1, bad / of)
    centre = rate + z * z / (2 * of)
    spread = z * np.sqrt(np.maximum(0, rate * (1 - rate) / of + z * z / (4 * of * of)))
    scale = 1 + z * z / of
    lower = np.where(bad <= 0, 0, np.maximum(0, (centre - spread) / scale))
    upper = np.where(bad >= of, 1, np.minimum(1, (centre + spread) / scale))
    return lower, rate, upper


def differences(
    bad: NDArray[np.float64], of: NDArray[np.float64], stable_bad: NDArray[np.float64], stable_of: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    lower, rate, upper = wilsons(bad, of)
    stable_lower, stable_rate, stable_upper = wilsons(stable_bad, stable_of)
    snapshot = bad / of - stable_bad / stable_of
    return (
        snapshot - np.hypot(rate - lower, stable_upper - stable_rate),
        snapshot,
        snapshot + np.hypot(upper - rate, stable_rate - stable_lower),
    )


def passes(traces: Traces, settings: Analysis, *, hold_looks: int) -> NDArray[np.int64]:
    """The look (from 1) at which each rollout's only step passes, after its hold; 0 for never."""
    bad = traces.errors.cumsum(axis=1).astype(float)
    of = traces.requests.cumsum(axis=1).astype(float)
    safe = np.maximum(of, 1)
    _, _, upper = differences(bad[:, :, CANARY], safe[:, :, CANARY], bad[:, :, STABLE], safe[:, :, STABLE])
    is_good = (upper < settings.margin) & (of[:, :, CANARY] >= settings.min_requests) & (of[:, :, STABLE] > 0)
    is_good[:, :hold_looks] = False
    return np.asarray(np.where(is_good.any(axis=1), is_good.argmax(axis=1) + 1, 0))
