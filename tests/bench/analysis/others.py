"""How Flagger, Argo Rollouts and Kayenta judge the same counts, as their documentation and code say.

Invariant: each rule sees the canary's and stable's counts of a minute, as Prometheus would give them at best.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from .traffic import CANARY, STABLE, Counts

Looks = NDArray[np.int64]


def flagger(requests: Counts, errors: Counts, *, success: float = 0.99, threshold: int = 5) -> Looks:
    """The look (from 1) at which each rollout is rolled back, 0 for never.

    `request-success-rate` with thresholdRange.min 99, interval 1m, threshold 5: that many failed checks in all. No
    value counts as a failed check (fluxcd.io/flagger/usage/metrics and /usage/how-it-works).
    """
    asked, failed = requests[:, :, CANARY], errors[:, :, CANARY]
    is_failed = (asked == 0) | (asked - failed < success * asked)
    return _first(is_failed.cumsum(axis=1) >= threshold)


def argo(requests: Counts, errors: Counts, *, success: float = 0.95, failure_limit: int = 3) -> Looks:
    """The same of an AnalysisRun with `successCondition: result[0] >= 0.95` and `failureLimit: 3`: more than three.

    The measurement of argo-rollouts' docs/features/analysis.md, each minute. NaN (no requests) fails the condition.
    """
    asked, failed = requests[:, :, CANARY], errors[:, :, CANARY]
    is_failed = (asked == 0) | (asked - failed < success * asked)
    return _first(is_failed.cumsum(axis=1) > failure_limit)


def kayenta(
    generator: np.random.Generator, requests: Counts, errors: Counts, *, tolerance: float = 0.25, sure: float = 0.98
) -> NDArray[np.bool_]:
    """Which rollouts fail: one judgement at the end, from the error rate of each minute.

    NetflixACAJudge: `High` when the lower end of the 98 % interval of the shift between canary and baseline
    (Mann-Whitney) is above 0.25 of its Hodges-Lehmann estimate. The baseline is fresh and of the canary's size, as
    its guide asks for: here as many of stable's requests, drawn from the same minute.
    """
    asked, of = requests[:, :, CANARY], requests[:, :, STABLE]
    drawn = np.minimum(asked, of)
    baseline = generator.hypergeometric(errors[:, :, STABLE], of - errors[:, :, STABLE], drawn) / np.maximum(drawn, 1)
    rates = errors[:, :, CANARY] / np.maximum(asked, 1)
    shift = np.median((rates[:, :, None] - baseline[:, None, :]).reshape(len(rates), -1), axis=1)
    return np.asarray(
        _rank_score(rates - tolerance * np.abs(shift)[:, None], baseline) > ndtri(1 - (1 - sure) / 2), bool
    )


def _rank_score(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """z of the Mann-Whitney test, corrected for ties and continuity; 0 where all values are the same."""
    size, other = first.shape[1], second.shape[1]
    ranks = rankdata(np.round(np.concatenate([first, second], axis=1), 12), axis=1)
    excess = ranks[:, :size].sum(axis=1) - size * (size + 1) / 2 - size * other / 2
    ordered = np.sort(ranks, axis=1)
    ties = np.zeros(len(first))
    for row, values in enumerate(ordered):
        _, counts = np.unique(values, return_counts=True)
        ties[row] = (counts.astype(float) ** 3 - counts).sum()
    both = size + other
    spread = np.sqrt(size * other / 12 * np.maximum(0, both + 1 - ties / (both * (both - 1))))
    return np.where(spread > 0, (excess - np.sign(excess) * 0.5) / np.where(spread > 0, spread, 1), 0.0)


def _first(is_over: NDArray[np.bool_]) -> Looks:
    return np.asarray(np.where(is_over.any(axis=1), is_over.argmax(axis=1) + 1, 0))
