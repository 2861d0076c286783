"""The judge of a canary: what it concludes from counts, and the mathematics under it against other people's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product
from math import comb, exp, isclose
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom, norm
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from slipway.api.v1alpha1 import Analysis
from slipway.decide.analysis import accumulator as tallies
from slipway.decide.analysis import eprocess as statistics
from slipway.decide.analysis import verdict as analysis
from slipway.decide.analysis.accumulator import Accumulated, Tally, begin, enter_step, look, read, write
from slipway.decide.analysis.eprocess import Evidence, Outage, above, difference, unbet, watch, weigh, wilson
from slipway.decide.analysis.verdict import Reason, judge
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts, Outcome, Reading, Verdict

START = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)
SETTINGS = Analysis()
WHOLE = 1 / SETTINGS.alpha


def within(milliseconds: float, requests: int) -> tuple[int, ...]:
    """Counts of a source where every answer took that long."""
    return tuple(requests if bound >= milliseconds else 0 for bound in LATENCY_BOUNDS_MILLISECONDS)


def counts(requests: int, errors: int = 0, refusals: int = 0, milliseconds: float = 10) -> Counts:
    return Counts(requests, errors, refusals, within(milliseconds, requests))


def plus(one: Counts, more: Counts) -> Counts:
    added = tuple(a + b for a, b in zip(one.within, more.within, strict=True)) if one.within else more.within
    return Counts(one.requests + more.requests, one.errors + more.errors, one.refusals + more.refusals, added)


@dataclass
class Rollout:
    """A rollout that is looked at: `traffic` adds counts of one source, looks, and gives the verdict."""

    settings: Analysis = SETTINGS
    is_split: bool = True
    now: datetime = START
    is_restarted: bool = False
    counted: dict[str, dict[str, Counts]] = field(default_factory=lambda: {"router": {}})
    accumulated: Accumulated = field(init=False)

    def __post_init__(self) -> None:
        self.accumulated = enter_step(begin(self.reading(), "stable", "canary", self.now))

    def reading(self, missing: int = 0) -> Reading:
        return Reading({source: dict(workloads) for source, workloads in self.counted.items()}, missing)

    def traffic(
        self, stable: Counts | None, canary: Counts | None, *, seconds: float = 1, source: str = "router"
    ) -> Verdict:
        for workload, more in (("stable", stable), ("canary", canary)):
            if more is not None:
                workloads = self.counted.setdefault(source, {})
                workloads[workload] = plus(workloads.get(workload, Counts()), more)
        return self.look(seconds)

    def look(self, seconds: float = 1, missing: int = 0) -> Verdict:
        self.now += timedelta(seconds=seconds)
        if self.is_restarted:
            stored = read(json.loads(json.dumps(write(self.accumulated), allow_nan=False)))
            assert stored is not None
            self.accumulated = stored
        self.accumulated = look(self.accumulated, self.reading(missing), self.now)
        return judge(self.accumulated, self.settings, is_split=self.is_split)

    def warm(self, stable: int = 2_000, canary: int = 100, milliseconds: float = 10) -> Verdict:
        """Healthy traffic for ten seconds: latencies are compared from then on."""
        verdict = None
        for _ in range(10):
            verdict = self.traffic(
                counts(stable // 10, milliseconds=milliseconds), counts(canary // 10, milliseconds=milliseconds)
            )
        assert verdict is not None
        return verdict

    def evidence(self) -> float:
        """e of the whole comparison."""
        return sum(kind.weight * kind.e for kind in analysis._kinds(self.accumulated))


# --- the mathematics


def test_normal_quantile_is_that_of_one_sided_95_percent() -> None:
    assert isclose(statistics.SURE, norm.ppf(0.95), rel_tol=1e-12)


@pytest.mark.parametrize(("bad", "of"), [(0, 1), (0, 268), (1, 1), (3, 1000), (14, 212), (499, 500), (7, 20)])
def test_bounds_of_a_rate_are_wilsons(bad: int, of: int) -> None:
    lower, upper = proportion_confint(bad, of, alpha=0.1, method="wilson")
    assert list(wilson(bad, of)) == pytest.approx([lower, upper], abs=1e-12)


@pytest.mark.parametrize(
    ("bad", "of", "stable_bad", "stable_of"),
    [(0, 268, 0, 5000), (3, 1000, 20, 10000), (14, 212, 3, 1904), (1, 30, 1, 270), (5, 5, 0, 100), (9, 10, 3, 10)],
)
def test_bounds_of_a_difference_are_newcombes(bad: int, of: int, stable_bad: int, stable_of: int) -> None:
    lower, upper = confint_proportions_2indep(bad, of, stable_bad, stable_of, method="newcomb", alpha=0.1)
    found = difference(bad, of, stable_bad, stable_of)
    assert [found[0], found[2]] == pytest.approx([lower, upper], abs=1e-12)
    assert found[1] == pytest.approx(bad / of - stable_bad / stable_of)


def test_rate_without_data_is_unknown() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("canary_errors", "expected"), [(4, 6988), (1, 1.71), (0, 0.1066)])
def test_evidence_of_four_errors_at_five_percent_for_sixteenfold_risk(canary_errors: int, expected: float) -> None:
    after = weigh(Evidence(), 4 - canary_errors, canary_errors, 0.05, look_seconds=3600)
    assert exp(after.bets[-1]) / 0.5 == pytest.approx(expected, rel=0.01)


def test_a_tenfold_burst_is_worth_the_purse() -> None:
    after = weigh(Evidence(), 0, 10, 0.05)
    assert exp(after.bets[-1]) / 0.5 == pytest.approx(exp(2.5))
    assert after.purse == pytest.approx(0)


def test_one_error_is_counted_as_one() -> None:
    assert exp(weigh(Evidence(), 0, 1, 0.05).bets[-1]) / 0.5 == pytest.approx(16 / 1.75)


@pytest.mark.parametrize(("seconds", "expected"), [(0, 0.5), (300, 0.25), (3300, 0.5 / 12)])
def test_part_of_the_stake_that_is_left_to_bet(seconds: float, expected: float) -> None:
    assert unbet(seconds) == pytest.approx(expected)


def test_new_evidence_is_worth_one() -> None:
    assert Evidence().worth(0) == pytest.approx(1)


def test_waiting_is_worth_nothing() -> None:
    after = weigh(Evidence(), 0, 0, 0.1, traffic_seconds=777, look_seconds=777)
    assert after.worth(777) == pytest.approx(1)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_is_learned_where_only_one_revision_answers(share: float) -> None:
    assert weigh(Evidence(), 5, 0, share).bets == weigh(Evidence(), 0, 0, share).bets
    assert weigh(Evidence(), 0, 5, 1.0).bets == Evidence().bets


def enumerated(
    start: Evidence, canary: int, stable: int, bad: int, shares: Callable[[int], float], look_seconds: float = 1
) -> float:
    """The mean of what one look multiplies a stake by, over all ways in which the bad answers may have fallen."""
    share = canary / (canary + stable)
    return sum(
        shares(hit) * weigh(start, bad - hit, hit, share, look_seconds=look_seconds).worth(0)
        for hit in range(max(0, bad - stable), min(bad, canary) + 1)
    )


@pytest.mark.parametrize("look_seconds", [1, 3600])
@pytest.mark.parametrize(
    "start",
    [
        Evidence(purse=0.0),
        Evidence(purse=0.4),
        Evidence(purse=2.5),
        Evidence(purse=1.0, canary_out=Outage(3.0)),
        Evidence(purse=1.0, canary_out=Outage(20.0)),
        Evidence(purse=1.0, canary_out=Outage(9.0), longest_seconds=8.0),
    ],
)
@pytest.mark.parametrize(("canary", "stable"), [(1, 9), (5, 95), (50, 50), (3, 4), (20, 1)])
def test_mean_evidence_against_a_healthy_canary_is_at_most_one(
    start: Evidence, canary: int, stable: int, look_seconds: float
) -> None:
    for bad in range(1, min(8, canary + stable) + 1):
        drawn = hypergeom(canary + stable, canary, bad)
        assert enumerated(start, canary, stable, bad, drawn.pmf, look_seconds) <= 1 + 1e-12
        share = canary / (canary + stable)
        if bad <= min(canary, stable):
            assert enumerated(start, canary, stable, bad, binom(bad, share).pmf, look_seconds) <= 1 + 1e-12


def test_mean_evidence_is_exactly_one_where_nothing_is_capped() -> None:
    assert enumerated(Evidence(), 30, 270, 4, binom(4, 0.1).pmf, look_seconds=3600) == pytest.approx(1, abs=1e-12)


@given(
    shares=st.lists(st.floats(0.02, 0.98), min_size=3, max_size=3),
    bads=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    seconds=st.lists(st.floats(0.1, 60), min_size=3, max_size=3),
)
def test_mean_evidence_stays_at_most_one_while_weights_change(
    shares: list[float], bads: list[int], seconds: list[float]
) -> None:
    """Three looks, weights and times as they come: every way in which the bad answers may have fallen."""
    total = 0.0
    for hits in product(*(range(bad + 1) for bad in bads)):
        evidence, chance, elapsed = Evidence(), 1.0, 0.0
        for share, bad, hit, passed in zip(shares, bads, hits, seconds, strict=True):
            chance *= comb(bad, hit) * share**hit * (1 - share) ** (bad - hit)
            evidence = weigh(
                evidence, bad - hit, hit, share, seconds=elapsed, traffic_seconds=passed, look_seconds=passed
            )
            elapsed += passed
        total += chance * evidence.worth(elapsed)
    assert total <= 1 + 1e-9


@pytest.mark.parametrize("limit", [0.001, 0.01, 0.3])
@pytest.mark.parametrize("of", [1, 20, 60])
def test_mean_evidence_against_a_rate_within_its_limit_is_at_most_one(limit: float, of: int) -> None:
    for rate in (limit, limit / 3):
        mean = sum(binom(of, rate).pmf(bad) * above(limit, bad, of) for bad in range(of + 1))
        assert mean <= 1 + 1e-9


@pytest.mark.parametrize(("bad", "expected"), [(5, 970), (1, 0.51)])
def test_evidence_that_a_rate_is_above_one_percent(bad: int, expected: float) -> None:
    assert above(0.01, bad, 40) == pytest.approx(expected, rel=0.01)


def test_a_limit_of_nothing_is_passed_by_one() -> None:
    assert above(0.0, 1, 1000) > 1e9
    assert above(0.0, 0, 1000) == 1
    assert above(1.0, 5, 5) == 1


# --- failing


@pytest.mark.parametrize("look_seconds", [1, 2])
@pytest.mark.parametrize("weight", [5, 10, 25, 50])
def test_a_canary_that_answers_only_5xx_fails_within_ten_seconds(weight: int, look_seconds: int) -> None:
    rollout = Rollout()
    rollout.warm(stable=10_000, canary=500)
    seconds, carried = 0, 0.0
    while seconds < 60:
        seconds += look_seconds
        carried += 50 * look_seconds * weight / 100
        canary, carried = int(carried), carried % 1
        verdict = rollout.traffic(counts(50 * look_seconds - canary), counts(canary, canary), seconds=look_seconds)
        if verdict.outcome is Outcome.FAIL:
            break
    assert verdict.reason == "ErrorsRose"
    assert seconds <= 10


def test_a_burst_of_a_few_seconds_is_no_failure() -> None:
    rollout = Rollout()
    rollout.warm()
    for _ in range(4):
        assert rollout.traffic(counts(48), counts(3, 3)).outcome is not Outcome.FAIL
    for _ in range(30):
        assert rollout.traffic(counts(48), counts(3)).outcome is not Outcome.FAIL


def out_for(rollout: Rollout, seconds: int, *, stable: int = 0, canary: int = 0) -> list[Verdict]:
    """That many seconds in which so many pods of each are out: a quarter of stable's answers each, all of the canary's;
    then all is well for ten."""
    verdicts = [rollout.traffic(counts(48, 12 * stable), counts(3, 3 * canary)) for _ in range(seconds)]
    return verdicts + [rollout.traffic(counts(48), counts(3)) for _ in range(10)]


def failed(verdicts: list[Verdict]) -> bool:
    return any(verdict.outcome is Outcome.FAIL for verdict in verdicts)


@pytest.mark.parametrize(
    ("stable_seconds", "canary_seconds", "fails"),
    [
        ((), 6, False),
        ((), 11, True),
        ((8,), 11, False),
        ((8,), 17, True),
        ((2,), 11, True),  # it says nothing: that short they are everywhere
        ((8, 2), 11, False),  # the longest counts
        ((60,), 30, False),
        ((60,), 34, True),  # but stable that was ill for a minute excuses no canary for longer than half of one
    ],
)
def test_a_pod_of_the_canary_may_be_out_for_half_as_long_again_as_stables_own_were(
    stable_seconds: tuple[int, ...], canary_seconds: int, fails: bool
) -> None:
    rollout = Rollout()
    rollout.accumulated = enter_step(rollout.accumulated, 1, 4)
    rollout.warm()
    for seconds in stable_seconds:
        assert not failed(out_for(rollout, seconds, stable=1))
    assert failed(out_for(rollout, canary_seconds, canary=1)) == fails


def test_what_a_canary_fails_here_and_there_is_no_outage_whatever_stables_pods_do() -> None:
    rollout = Rollout()
    rollout.accumulated = enter_step(rollout.accumulated, 1, 4)
    rollout.warm()
    out_for(rollout, 20, stable=1)
    verdicts = [rollout.traffic(counts(37), counts(13, 2)) for _ in range(25)]
    assert failed(verdicts)
    assert rollout.accumulated.against.errors.canary_out == Outage()


@pytest.mark.parametrize(
    ("bad", "of", "pods", "is_out"),
    [(0, 0, 1, False), (1, 2, 1, True), (1, 3, 1, False), (12, 48, 4, True), (5, 48, 4, False), (5, 100, 20, True)],
)
def test_a_pod_is_out_when_half_of_what_one_pod_gets_is_bad(bad: int, of: int, pods: int, is_out: bool) -> None:
    after = watch(Evidence(), (bad, of), (bad, of), (pods, pods), look_seconds=1)
    assert (after.stable_out.seconds, after.canary_out.seconds, after.longest_seconds) == (is_out, is_out, is_out)


def test_what_stable_always_does_is_no_outage() -> None:
    usual = Evidence(stable_bad=300, stable_of=1_000)
    assert watch(usual, (15, 50), (15, 50), (4, 4), look_seconds=1).stable_out == Outage()
    assert watch(usual, (30, 50), (15, 50), (4, 4), look_seconds=1).stable_out == Outage(1)


def test_an_outage_is_over_when_three_were_answered_well() -> None:
    evidence = watch(Evidence(), (0, 50), (1, 1), (4, 1), look_seconds=5)
    for answered, seconds in ((0, 10), (2, 15), (1, 0)):
        evidence = watch(evidence, (0, 50), (0, answered), (4, 1), look_seconds=5)
        assert evidence.canary_out.seconds == seconds


def test_a_burst_that_a_look_hides_is_worth_no_more_than_one() -> None:
    after = weigh(Evidence(), 0, 50, 0.05, look_seconds=5)
    assert exp(after.bets[-1]) / 0.5 == pytest.approx(exp(2.5))


def test_a_burst_counts_as_much_in_one_look_as_in_one_error() -> None:
    small, large = Rollout(), Rollout()
    for rollout, errors in ((small, 2), (large, 200)):
        rollout.warm()
        rollout.traffic(counts(9_500), counts(500, errors))
    assert large.evidence() == pytest.approx(small.evidence())


def test_a_canary_that_breaks_after_an_hour_fails_soon() -> None:
    rollout = Rollout()
    for _ in range(360):
        rollout.traffic(counts(475, 2), counts(25), seconds=10)
    verdicts = [rollout.traffic(counts(47), counts(3, 3)) for _ in range(20)]
    assert verdicts[-1].reason == "ErrorsRose"


def test_message_has_the_numbers_that_a_person_can_check() -> None:
    rollout = Rollout()
    rollout.warm(canary=200)
    verdicts = [rollout.traffic(counts(20), counts(2, 1)) for _ in range(30)]
    failed = next(verdict for verdict in verdicts if verdict.outcome is Outcome.FAIL)
    assert failed.message.startswith("canary ")
    canary = rollout.accumulated.step.canary
    assert canary.errors == 30
    assert " errors, stable 0/" in failed.message
    assert "≥ 100" in failed.message
    assert float(failed.message.split("e = ")[1].split(" ")[0].replace(",", "")) >= WHOLE


def test_equal_error_rates_are_no_failure() -> None:
    rollout = Rollout()
    for number in range(300):
        verdict = rollout.traffic(counts(90, 9 if number % 2 else 0), counts(10, 1 if number % 2 else 0))
        assert verdict.outcome is not Outcome.FAIL
    assert rollout.evidence() < 1.5


def test_a_difference_that_nobody_cares_about_is_no_failure() -> None:
    rollout = Rollout()
    for _ in range(600):
        verdict = rollout.traffic(counts(5_000, 10), counts(5_000, 30))
        assert verdict.outcome is not Outcome.FAIL
    assert rollout.evidence() > WHOLE
    assert rollout.settings.margin > 30 / 5_000 - 10 / 5_000


def test_the_same_difference_fails_with_a_smaller_margin() -> None:
    rollout = Rollout(Analysis(margin=0.001))
    verdicts = [rollout.traffic(counts(5_000, 10), counts(5_000, 30)) for _ in range(60)]
    assert verdicts[-1].reason == "ErrorsRose"


def test_refusals_that_rise_fail() -> None:
    rollout = Rollout()
    rollout.warm()
    verdicts = [rollout.traffic(counts(45, refusals=1), counts(5, refusals=5)) for _ in range(30)]
    assert verdicts[-1].reason == "RefusalsRose"


def test_a_canary_three_times_as_slow_fails() -> None:
    rollout = Rollout()
    rollout.warm(milliseconds=40)
    verdicts = [rollout.traffic(counts(45, milliseconds=40), counts(5, milliseconds=120)) for _ in range(30)]
    assert verdicts[-1].reason == "SlowerThanStable"
    assert "slower than 75 ms" in verdicts[-1].message


@pytest.mark.parametrize(("stable", "canary"), [(40, 48), (2, 4), (1, 2.5)])
def test_a_little_slower_is_no_failure(stable: float, canary: float) -> None:
    rollout = Rollout()
    rollout.warm(milliseconds=stable)
    for _ in range(100):
        verdict = rollout.traffic(counts(450, milliseconds=stable), counts(50, milliseconds=canary))
        assert verdict.outcome is not Outcome.FAIL


def test_the_first_answers_of_cold_pods_are_not_timed() -> None:
    rollout = Rollout()
    rollout.warm(milliseconds=40)
    rollout.accumulated = enter_step(rollout.accumulated, pods=10)
    for _ in range(10):
        verdict = rollout.traffic(counts(180, milliseconds=40), counts(20, milliseconds=900))
        assert verdict.outcome is not Outcome.FAIL
    assert rollout.accumulated.step.canary.timed == 0
    rollout.traffic(counts(180, milliseconds=40), counts(20, milliseconds=40))
    assert rollout.accumulated.step.canary.timed == 20


def test_errors_of_cold_pods_count() -> None:
    rollout = Rollout()
    rollout.warm()
    rollout.accumulated = enter_step(rollout.accumulated, pods=100)
    verdicts = [rollout.traffic(counts(45), counts(5, 5)) for _ in range(10)]
    assert verdicts[-1].reason == "ErrorsRose"


def test_a_proven_failure_stands_though_a_source_is_silent_now() -> None:
    rollout = Rollout()
    rollout.warm()
    for _ in range(12):
        verdict = rollout.traffic(counts(45), counts(5, 5))
    assert verdict.outcome is Outcome.FAIL
    assert rollout.look(missing=1).outcome is Outcome.FAIL


def test_what_speaks_against_the_canary_outlasts_its_step() -> None:
    rollout = Rollout()
    rollout.warm()
    rollout.traffic(counts(45), counts(5, 5))
    before = rollout.evidence()
    rollout.accumulated = enter_step(rollout.accumulated)
    assert rollout.evidence() == before
    assert rollout.accumulated.step.canary.requests == 0


# --- passing


def test_a_healthy_canary_passes_when_enough_was_seen() -> None:
    rollout = Rollout()
    verdict = rollout.warm(stable=9_000, canary=1_000)
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, "NotWorse")
    assert "canary 0/1,000 errors, stable 0/9,000" in verdict.message


@pytest.mark.parametrize(
    ("canary", "reason", "says"),
    [
        (0, "NoTraffic", "too little traffic: canary answered none of the 100 requests that a step needs; needs 100"),
        (0, "NoTraffic", "about 268 in all to exclude a difference of 1.00%"),
        (99, "TooFewRequests", "99 of the 100 requests that a step needs; needs 1 more, and about 268 in all"),
        (150, "DifferenceNotSurelySmall", "needs about 118 more requests"),
        (267, "DifferenceNotSurelySmall", "needs about 1 more"),
    ],
)
def test_too_little_is_inconclusive_and_says_what_is_missing(canary: int, reason: str, says: str) -> None:
    rollout = Rollout(counted={"untimed": {}})
    verdict = rollout.traffic(Counts(5_000), Counts(canary), source="untimed")
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, reason)
    assert says in verdict.message


def test_268_requests_without_an_error_exclude_one_percent() -> None:
    rollout = Rollout(counted={"untimed": {}})
    assert rollout.traffic(Counts(5_000), Counts(268), source="untimed").outcome is Outcome.PASS


def test_where_the_source_has_no_latencies_the_message_says_so() -> None:
    rollout = Rollout(counted={"untimed": {}})
    assert "latency is not judged" in rollout.traffic(Counts(5_000), Counts(500), source="untimed").message


def test_each_step_needs_its_own_requests() -> None:
    rollout = Rollout()
    assert rollout.warm(stable=9_000, canary=1_000).outcome is Outcome.PASS
    rollout.accumulated = enter_step(rollout.accumulated)
    assert rollout.traffic(counts(90), counts(10)).reason == "TooFewRequests"


def test_a_canary_that_refuses_surely_more_does_not_pass() -> None:
    rollout = Rollout(Analysis(alpha=1e-9))
    rollout.warm(stable=9_000, canary=1_000)
    verdict = rollout.traffic(counts(900), counts(100, refusals=60))
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, "DifferenceNotSurelySmall")


def test_stable_without_traffic_is_nothing_to_compare_with() -> None:
    rollout = Rollout()
    verdict = rollout.traffic(None, counts(5_000), seconds=60)
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, "NoTraffic")


# --- absolute limits, and where there is nothing to compare with


def test_errors_above_the_limit_fail_though_stable_has_them_too() -> None:
    rollout = Rollout(Analysis(max_error_rate=0.01))
    rollout.warm()
    verdicts = [rollout.traffic(counts(450, 45), counts(50, 5)) for _ in range(5)]
    assert verdicts[-1].reason == "ErrorRateAboveLimit"
    assert "maxErrorRate 0.01" in verdicts[-1].message


def test_an_error_among_few_is_not_yet_above_the_limit() -> None:
    rollout = Rollout(Analysis(max_error_rate=0.01))
    assert rollout.traffic(counts(900), counts(40, 1)).outcome is Outcome.INCONCLUSIVE


def test_a_rate_that_may_be_above_the_limit_does_not_pass() -> None:
    rollout = Rollout(Analysis(max_error_rate=0.01, margin=0.2), counted={"untimed": {}})
    verdict = rollout.traffic(Counts(5_000), Counts(250, 3), source="untimed")
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, "LimitNotSurelyMet")


def test_slow_answers_above_the_limit_fail_though_stable_is_as_slow() -> None:
    rollout = Rollout(Analysis(max_latency_milliseconds=250))
    rollout.warm(milliseconds=400)
    verdicts = [rollout.traffic(counts(450, milliseconds=400), counts(50, milliseconds=400)) for _ in range(3)]
    assert verdicts[-1].reason == "LatencyAboveLimit"
    assert "slower than 300 ms" in verdicts[-1].message


def test_a_latency_limit_that_can_not_be_judged_does_not_pass() -> None:
    rollout = Rollout(Analysis(max_latency_milliseconds=250), counted={"untimed": {}})
    verdict = rollout.traffic(Counts(9_000), Counts(1_000), source="untimed")
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, "LatencyUnknown")


def test_at_all_traffic_errors_are_held_against_what_stable_showed() -> None:
    rollout = Rollout()
    rollout.warm(stable=20_000, canary=1_000)
    rollout.is_split = False
    rollout.accumulated = enter_step(rollout.accumulated)
    good = [rollout.traffic(None, counts(100, 1 if number % 4 == 0 else 0)) for number in range(10)]
    assert good[-1].reason == "WithinLimits"
    bad = [rollout.traffic(None, counts(100, 30)) for _ in range(3)]
    assert bad[-1].reason == "ErrorsAboveStable"
    assert "stable had at most 0.01%" in bad[-1].message


def test_at_all_traffic_nothing_is_compared() -> None:
    rollout = Rollout(Analysis(margin=0.2), is_split=False)
    rollout.warm()
    verdicts = [rollout.traffic(counts(100), counts(100, 5)) for _ in range(60)]
    assert rollout.evidence() > WHOLE
    assert verdicts[-1].outcome is Outcome.PASS


def test_all_traffic_without_any_does_not_pass() -> None:
    rollout = Rollout(is_split=False)
    rollout.warm()
    rollout.accumulated = enter_step(rollout.accumulated)
    assert rollout.look(600).reason == "NoTraffic"


# --- sources


def test_a_silent_source_is_an_error_that_says_so() -> None:
    rollout = Rollout()
    rollout.warm(stable=9_000, canary=1_000)
    verdict = rollout.look(missing=1)
    assert (verdict.outcome, verdict.reason) == (Outcome.ERROR, "SourceSilent")


def test_no_source_is_an_error() -> None:
    accumulated = look(begin(Reading({}), "stable", "canary", START), Reading({}), START + timedelta(seconds=60))
    assert judge(accumulated, SETTINGS, is_split=True).outcome is Outcome.ERROR
    assert judge(accumulated, SETTINGS, is_split=False).outcome is Outcome.ERROR


def test_what_a_source_counted_while_it_was_silent_is_added_when_it_answers() -> None:
    rollout = Rollout(counted={"a": {"stable": counts(10), "canary": counts(1)}, "b": {}})
    hidden = rollout.counted.pop("a")
    rollout.look(missing=1)
    rollout.counted["a"] = {name: plus(before, counts(100)) for name, before in hidden.items()}
    rollout.look()
    assert rollout.accumulated.rollout.canary.requests == 100


def test_a_carrier_that_one_reading_leaves_out_is_not_counted_twice() -> None:
    rollout = Rollout(counted={"router": {"stable": counts(10), "canary": counts(500)}})
    hidden = rollout.counted["router"].pop("canary")
    rollout.look()
    rollout.counted["router"]["canary"] = plus(hidden, counts(7))
    rollout.look()
    assert rollout.accumulated.rollout.canary.requests == 7


def test_a_source_that_restarts_over_and_over_does_not_fill_status() -> None:
    rollout = Rollout()
    for number in range(100):
        rollout.counted = {f"router-{number}": {"stable": counts(10), "canary": counts(1)}}
        rollout.look(missing=1)
    assert len(rollout.accumulated.last.counts) == 1 + tallies.MOST_SILENT
    rollout.look()
    assert len(rollout.accumulated.last.counts) == 1


def test_a_source_that_is_seen_for_the_first_time_begins_there() -> None:
    rollout = Rollout()
    rollout.counted["new"] = {"stable": counts(1_000, 500), "canary": counts(1_000, 900)}
    rollout.look()
    assert rollout.accumulated.rollout.canary.requests == 0
    rollout.traffic(counts(10), counts(3, 1), source="new")
    assert rollout.accumulated.rollout.canary == Tally(3, 1)


def test_a_canary_that_is_new_to_a_known_source_counts_from_nothing() -> None:
    rollout = Rollout(counted={"router": {"stable": counts(1_000)}})
    rollout.traffic(counts(95), counts(5, 2))
    assert rollout.accumulated.rollout.canary == Tally(5, 2)


@pytest.mark.parametrize(
    "now", [Counts(5, 0), Counts(2_000, 4), Counts(2_000, 10, 1), replace(Counts(0), requests=0), Counts(999, 99, 9)]
)
def test_counters_that_fell_begin_anew(now: Counts) -> None:
    rollout = Rollout(counted={"router": {"stable": counts(10), "canary": Counts(1_000, 5, 2)}})
    rollout.counted["router"]["canary"] = now
    rollout.look()
    assert rollout.accumulated.rollout.canary.requests == 0 or now.requests > 1_000
    rollout.counted["router"]["canary"] = replace(now, requests=now.requests + 10, errors=now.errors + 1)
    before = rollout.accumulated.rollout.canary
    rollout.look()
    after = rollout.accumulated.rollout.canary
    assert (after.requests - before.requests, after.errors - before.errors) == (10, 1)


def test_answers_that_were_not_timed_are_not_slow() -> None:
    rollout = Rollout()
    rollout.warm()
    rollout.traffic(counts(45), Counts(5, 5, 0, (0,) * len(LATENCY_BOUNDS_MILLISECONDS)))
    assert rollout.accumulated.step.canary.timed == rollout.accumulated.step.canary.within[-1]


# --- laws


small = st.integers(0, 60)


@st.composite
def looks(draw: st.DrawFn) -> list[tuple[Counts, Counts, float, str]]:
    """Increments of both revisions, seconds and source, look after look."""
    found = []
    for _ in range(draw(st.integers(1, 12))):
        arms = []
        for _ in range(2):
            requests = draw(small)
            errors = draw(st.integers(0, requests))
            refusals = draw(st.integers(0, requests - errors))
            arms.append(counts(requests, errors, refusals, draw(st.sampled_from([0.5, 9, 80, 700, 70_000]))))
        found.append((arms[0], arms[1], draw(st.sampled_from([0.5, 1, 2, 30])), draw(st.sampled_from("ab"))))
    return found


def run(steps: list[tuple[Counts, Counts, float, str]], rollout: Rollout) -> Iterator[Verdict]:
    for number, (stable, canary, seconds, source) in enumerate(steps):
        if number == 6:
            rollout.accumulated = enter_step(rollout.accumulated, 2)
        yield rollout.traffic(stable, canary, seconds=seconds, source=source)


@settings(max_examples=50)
@given(looks(), st.booleans())
def test_an_operator_restarted_at_every_look_reaches_the_same_verdicts(
    steps: list[tuple[Counts, Counts, float, str]], is_split: bool
) -> None:
    one, other = Rollout(is_split=is_split), Rollout(is_split=is_split, is_restarted=True)
    assert list(run(steps, one)) == list(run(steps, other))
    assert one.accumulated == other.accumulated


@settings(max_examples=50)
@given(looks(), st.sampled_from([0.5, 0.05, 0.01]))
def test_a_failed_comparison_has_the_evidence(steps: list[tuple[Counts, Counts, float, str]], alpha: float) -> None:
    rollout = Rollout(Analysis(alpha=alpha))
    for verdict in run(steps, rollout):
        if verdict.outcome is Outcome.FAIL:
            assert rollout.evidence() >= 1 / alpha


@settings(max_examples=50)
@given(looks())
def test_a_pass_has_the_requests_and_a_difference_below_the_margin(
    steps: list[tuple[Counts, Counts, float, str]],
) -> None:
    rollout = Rollout(Analysis(min_requests=30, margin=0.2))
    for verdict in run(steps, rollout):
        if verdict.outcome is Outcome.PASS:
            stable, canary = rollout.accumulated.step.stable, rollout.accumulated.step.canary
            assert canary.requests >= 30
            assert canary.errors / canary.requests - stable.errors / stable.requests < 0.2


@settings(max_examples=50)
@given(looks())
def test_the_order_of_sources_does_not_matter(steps: list[tuple[Counts, Counts, float, str]]) -> None:
    one, other = Rollout(counted={"a": {}, "b": {}}), Rollout(counted={"b": {}, "a": {}})
    assert list(run(steps, one)) == list(run(steps, other))
    assert one.accumulated.against == other.accumulated.against


@settings(max_examples=50)
@given(looks())
def test_it_does_not_matter_which_router_counted(steps: list[tuple[Counts, Counts, float, str]]) -> None:
    split, whole = Rollout(counted={"a": {}, "b": {}}), Rollout(counted={"a": {}, "b": {}})
    list(run(steps, split))
    list(run([(stable, canary, seconds, "a") for stable, canary, seconds, _ in steps], whole))
    assert split.evidence() == pytest.approx(whole.evidence())
    assert split.accumulated.rollout == whole.accumulated.rollout


def test_what_release_0_1_wrote_goes_on_and_it_can_read_what_is_written() -> None:
    rollout = Rollout()
    rollout.accumulated = enter_step(rollout.accumulated, 3, 4)
    rollout.warm()
    rollout.traffic(counts(45, 12), counts(5, 5))
    written = json.loads(json.dumps(write(rollout.accumulated)))
    assert [len(row) for row in written["evidence"]] == [2 + len(statistics.RELATIVE_RISKS)] * 4
    former = {name: value for name, value in written.items() if name not in ("pods", "watched")}
    found = read(former)
    assert found is not None
    assert found.pods == (3, 3)
    assert found.step == rollout.accumulated.step
    for now, before in ((found.against.errors, rollout.accumulated.against.errors),):
        assert (now.bets, now.purse, now.canary_out) == (before.bets, before.purse, Outage())


anything = st.dictionaries(
    st.sampled_from(["router", "other"]),
    st.dictionaries(
        st.sampled_from(["stable", "canary", "third"]),
        st.builds(
            Counts, small, small, small, st.sampled_from([(), (1, 2), within(10, 40), within(900, 7), within(0.5, 60)])
        ),
        max_size=3,
    ),
    max_size=2,
)


@settings(max_examples=50)
@given(st.lists(st.tuples(anything, st.integers(0, 1), st.floats(-5, 100)), min_size=1, max_size=8))
def test_whatever_is_read_nothing_negative_is_counted(
    readings: list[tuple[dict[str, dict[str, Counts]], int, float]],
) -> None:
    accumulated, now = begin(Reading(readings[0][0]), "stable", "canary", START), START
    for read_now, missing, seconds in readings:
        now += timedelta(seconds=seconds)
        accumulated = look(accumulated, Reading(read_now, missing), now)
        for arms in (accumulated.step, accumulated.rollout):
            for tally in (arms.stable, arms.canary):
                assert min(tally.requests, tally.errors, tally.refusals, tally.timed, *tally.within) >= 0
                assert tally.errors + tally.refusals <= tally.requests
                assert tally.timed <= tally.requests
        stored = json.loads(json.dumps(write(accumulated), allow_nan=False))
        assert read(stored) == accumulated
        judge(accumulated, Analysis(max_error_rate=0.0, max_latency_milliseconds=20), is_split=True)


@given(st.lists(st.tuples(small, st.floats(0, 1000), st.booleans()), max_size=10), st.booleans(), st.booleans())
def test_without_requests_of_the_canary_nothing_passes(
    steps: list[tuple[int, float, bool]], is_split: bool, is_known: bool
) -> None:
    rollout = Rollout(Analysis(min_requests=1, margin=0.99), is_split=is_split)
    if is_known:
        rollout.counted["router"]["canary"] = counts(10_000)
        rollout.look()
        rollout.accumulated = enter_step(begin(rollout.reading(), "stable", "canary", rollout.now))
    for requests, seconds, is_missing in steps:
        rollout.counted["router"]["stable"] = plus(rollout.counted["router"].get("stable", Counts()), counts(requests))
        assert rollout.look(seconds, int(is_missing)).outcome in (Outcome.INCONCLUSIVE, Outcome.ERROR)


# --- between two looks


@cache
def filled() -> Accumulated:
    """As large as it gets with two routers after much traffic."""
    rollout = Rollout(counted={f"8a1f2c3d-4e5f-6071-8293-a4b5c6d7e8f{n}/2026-11-21T06:00:0{n}Z": {} for n in (1, 2)})
    for number in range(40):
        for source in list(rollout.counted):
            rollout.traffic(
                counts(9_876_543 + number, 1_234, 987, 300), counts(987_654, 123, 45, 180), source=source, seconds=1.37
            )
    return rollout.accumulated


def test_what_is_kept_in_status_is_small() -> None:
    assert len(json.dumps(write(filled()))) < 6_000


def test_what_was_written_is_read_as_it_was() -> None:
    assert read(json.loads(json.dumps(write(filled())))) == filled()


def test_whole_numbers_that_lost_their_point_are_read() -> None:
    """The API server writes 3.0 as 3."""

    def pointless(value: Any) -> Any:
        match value:
            case dict():
                return {key: pointless(item) for key, item in value.items()}
            case list():
                return [pointless(item) for item in value]
            case float() if value.is_integer():
                return int(value)
        return value

    assert read(pointless(write(filled()))) == filled()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from([*write(filled()), "x"]), json_values) | st.none())
def test_what_can_not_be_read_begins_anew(stored: dict[str, Any] | None) -> None:
    read(stored)
    assert read(None) is None
    assert read({}) is None


@settings(max_examples=50)
@given(st.sampled_from(sorted(write(filled()))), json_values)
def test_a_part_that_was_changed_is_no_traceback(key: str, value: Any) -> None:
    found = read({**write(filled()), key: value})
    if found is not None:
        again = look(found, Reading({}), START + timedelta(days=1))
        judge(again, SETTINGS, is_split=True)


def test_every_reason_is_explained() -> None:
    explained = (Path(__file__).resolve().parents[4] / "docs" / "analysis.md").read_text()
    assert [reason for reason in Reason if f"`{reason}`" not in explained] == []
