"""The bench of the analysis, small: both ways to calculate agree, and some hundred rollouts of each kind hold alpha."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, mannwhitneyu, norm

from slipway.api.v1alpha1 import Analysis
from tests.bench.analysis import many, one, others
from tests.bench.analysis.__main__ import OUT, REASONS, print_without_data
from tests.bench.analysis.traffic import CANARY, HEALTHY, STABLE, Kind

SHORT = 40
ROLLOUTS = 100


def short(kind: Kind) -> Kind:
    return replace(kind, looks_per_step=SHORT)


@pytest.mark.parametrize("kind", HEALTHY, ids=lambda kind: kind.name)
def test_a_healthy_canary_is_not_rolled_back_more_often_than_alpha(kind: Kind) -> None:
    failed = (many.judge(short(kind).draw(np.random.default_rng(1), ROLLOUTS), Analysis()).look > 0).sum()
    assert failed <= binom(ROLLOUTS, Analysis().alpha).ppf(0.999)


@pytest.mark.parametrize("strict", [Analysis(), Analysis(alpha=0.5, margin=0.002)], ids=["default", "strict"])
@pytest.mark.parametrize(
    "kind", [*HEALTHY, Kind("worse", error_factor=20), Kind("slower", slower_buckets=3)], ids=lambda kind: kind.name
)
def test_many_rollouts_at_once_are_judged_as_one_after_the_other(kind: Kind, strict: Analysis) -> None:
    traces = short(kind).draw(np.random.default_rng(2), 2)
    found = many.judge(traces, strict)
    for rollout in range(2):
        reason = REASONS[found.kind[rollout]] if found.look[rollout] else ""
        assert one.failed_at(traces, rollout, strict, is_restarted=bool(rollout)) == (found.look[rollout], reason)


def test_pods_of_both_that_are_out_now_and_then_take_a_healthy_canary_back_in_two_alpha_at_most() -> None:
    """Each pod for 3-8 s each ten minutes. Release 0.1, which held every burst against whoever had it, is far above."""
    base = next(kind for kind in HEALTHY if kind.name == "bursts of one pod in 4")
    traces = replace(base, name="out", **OUT).draw(np.random.default_rng(6), 300)
    most = binom(300, 2 * Analysis().alpha).ppf(0.99)
    assert (many.judge(traces, Analysis()).look > 0).sum() <= most
    assert (many.judge(traces, Analysis(), many.Clock).look > 0).sum() > most


def test_a_bad_canary_is_rolled_back() -> None:
    traces = Kind("bad", looks_per_step=20, weights=(5,), canary_error_rate=1).draw(np.random.default_rng(3), ROLLOUTS)
    assert (many.judge(traces, Analysis()).look > 0).all()


def test_nothing_is_promoted_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_without_data(20, Analysis()) == 0
    assert "0 of 160" in capsys.readouterr().out


@pytest.mark.parametrize("kind", HEALTHY, ids=lambda kind: kind.name)
def test_a_healthy_canary_fails_as_often_as_stable_does(kind: Kind) -> None:
    """What the bench calls healthy is: the mean error rates of both are the same, but for chance."""
    traces = short(kind).draw(np.random.default_rng(4), 400)
    rates = traces.errors.sum(axis=(0, 1)) / traces.requests.sum(axis=(0, 1))
    per_rollout = traces.errors.sum(axis=1) / np.maximum(traces.requests.sum(axis=1), 1)
    noise = np.std(per_rollout[:, CANARY] - per_rollout[:, STABLE]) / np.sqrt(len(per_rollout))
    assert abs(rates[CANARY] - rates[STABLE]) <= 4 * noise + 1e-4


def test_flaggers_rule_counts_five_failed_checks() -> None:
    requests = np.full((2, 10, 2), 100, np.int32)
    errors = np.zeros_like(requests)
    errors[0, ::2, CANARY] = 2
    errors[1, :4, CANARY] = 2
    assert list(others.flagger(requests, errors)) == [9, 0]


def test_argos_rule_fails_at_the_fourth_failed_measurement() -> None:
    requests = np.full((2, 10, 2), 100, np.int32)
    errors = np.zeros_like(requests)
    errors[0, :4, CANARY] = 6
    errors[1, :3, CANARY] = 6
    assert list(others.argo(requests, errors)) == [4, 0]


def test_kayentas_score_is_that_of_mann_and_whitney() -> None:
    generator = np.random.default_rng(5)
    first, second = generator.integers(0, 5, (1, 60)) / 7, generator.integers(0, 4, (1, 60)) / 7
    p = mannwhitneyu(first[0], second[0], alternative="greater", method="asymptotic").pvalue
    assert norm.sf(others._rank_score(first, second)[0]) == pytest.approx(p)
