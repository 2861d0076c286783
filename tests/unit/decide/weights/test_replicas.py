"""Splitting by the ratio of ready pods: what weights pods can make, what is said of the others, what is in force."""

from __future__ import annotations

import doctest
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.v1alpha1 import SpecError
from slipway.decide.weights import provider_of, refuse_what_it_cant
from slipway.decide.weights import replicas as by_replicas
from slipway.decide.weights.provider import Reached
from slipway.decide.weights.replicas import explain, in_force, reach, refusals
from slipway.model.signals import InForce
from slipway.runtimes import RUNTIMES
from tests.unit.specs import deployment

WEIGHTS = st.integers(0, 100)
COUNTS = st.integers(1, 1000)
PODS = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 200))


def test_the_examples_in_the_module_are_true() -> None:
    assert doctest.testmod(by_replicas).failed == 0


@pytest.mark.parametrize(
    ("weight", "replicas", "expected"),
    [
        (0, 2, Reached(0, 0)),
        (5, 1, Reached(1, 50)),
        (5, 2, Reached(1, 33)),
        (5, 19, Reached(1, 5)),
        (10, 9, Reached(1, 10)),
        (25, 3, Reached(1, 25)),
        (25, 2, Reached(1, 33)),
        (50, 2, Reached(2, 50)),
        # 1 pod makes 25 %, 2 make 40 %: 32 is nearer to 25, 33 to 40
        (32, 3, Reached(1, 25)),
        (33, 3, Reached(2, 40)),
        # 3 pods make 30 %, 4 make 36.4 %
        (33, 7, Reached(3, 30)),
        (34, 7, Reached(4, 36)),
        (51, 4, Reached(4, 50)),
        (99, 4, Reached(4, 50)),
        (100, 4, Reached(4, 100)),
        (50, 0, Reached(0, 0)),
    ],
)
def test_a_weight_is_made_by_the_pods_that_come_nearest(weight: int, replicas: int, expected: Reached) -> None:
    assert reach(weight, replicas) == expected


@pytest.mark.parametrize("weight", [-1, 101])
def test_what_is_no_percentage_is_refused(weight: int) -> None:
    with pytest.raises(ValueError, match="0 to 100"):
        reach(weight, 2)


def distance(weight: int, replicas: int, pods: int) -> Fraction:
    return abs(Fraction(pods, replicas + pods) - Fraction(weight, 100))


@given(st.integers(1, 99), COUNTS)
def test_no_other_number_of_pods_comes_nearer(weight: int, replicas: int) -> None:
    chosen = reach(weight, replicas)
    assert 1 <= chosen.pods <= replicas
    best = min(distance(weight, replicas, pods) for pods in range(1, replicas + 1))
    assert distance(weight, replicas, chosen.pods) == best
    share = Fraction(100 * chosen.pods, replicas + chosen.pods)
    assert abs(share - chosen.weight_percent) <= Fraction(1, 2)


@given(st.integers(1, 99), st.integers(1, 100), st.integers(2, 9))
def test_several_times_the_replicas_never_reach_a_weight_worse(weight: int, replicas: int, times: int) -> None:
    few, many = reach(weight, replicas), reach(weight, replicas * times)
    assert distance(weight, replicas * times, many.pods) <= distance(weight, replicas, few.pods)


@given(st.integers(1, 50), COUNTS)
def test_more_replicas_bound_the_error_ever_more_tightly(weight: int, replicas: int) -> None:
    """One pod more or less is at most 1/(replicas + 1) of the traffic."""
    assert distance(weight, replicas, reach(weight, replicas).pods) <= Fraction(1, replicas + 1)


@given(WEIGHTS, WEIGHTS, COUNTS)
def test_a_higher_weight_never_gets_fewer_pods(one: int, other: int, replicas: int) -> None:
    low, high = sorted((one, other))
    assert reach(low, replicas).pods <= reach(high, replicas).pods
    assert reach(low, replicas).weight_percent <= reach(high, replicas).weight_percent


def test_weights_that_pods_make_need_no_word() -> None:
    assert explain([25, 50, 100], 3) == ""
    assert explain([], 3) == ""
    assert explain([5, 25], 0) == ""


def test_what_a_weight_becomes_is_said_with_numbers_and_with_what_to_write() -> None:
    said = explain([5, 25, 50], 2)
    assert said == (
        "5 % beside 2 replicas becomes 33 %: 1 pod of 3; 25 % becomes 33 %: 1 pod of 3. "
        "Write spec.replicas: 18, or spec.traffic.provider: Router, which splits exactly"
    )
    assert explain([5, 25, 50], 18) == ""


def test_one_replica_is_said_in_the_singular() -> None:
    assert explain([5], 1).startswith("5 % beside 1 replica becomes 50 %: 1 pod of 2. ")


def test_a_weight_above_a_half_takes_a_router() -> None:
    said = explain([25, 80, 80, 100], 3)
    assert said.startswith("80 % beside 3 replicas becomes 50 %: 3 pods of 6. ")
    assert "provider: Router" in said
    assert "spec.replicas" not in said


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4), st.integers(1, 30))
def test_the_replicas_that_it_asks_for_are_enough(weights: list[int], replicas: int) -> None:
    said = explain(weights, replicas)
    missed = [weight for weight in weights if reach(weight, replicas).weight_percent != weight]
    assert bool(said) == bool(missed)
    if "spec.replicas: " in said:
        asked = int(said.rpartition("spec.replicas: ")[2].partition(",")[0])
        assert explain(weights, asked) == ""


@pytest.mark.parametrize(
    ("selected", "ready", "expected"),
    [
        (None, {}, None),
        (None, {"old": 0, "new": 0}, None),
        ("old", {"old": 0, "new": 2}, None),
        ("gone", {"old": 2}, None),
        (None, {"old": 2, "new": 0}, InForce({"old": 100}, {"old": 2})),
        (None, {"old": 2, "new": 1}, InForce({"old": 67, "new": 33}, {"old": 2, "new": 1})),
        ("old", {"old": 2, "new": 1}, InForce({"old": 100}, {"old": 2, "new": 1})),
        ("new", {"old": 2, "new": 1}, InForce({"new": 100}, {"old": 2, "new": 1})),
        (None, {"a": 1, "b": 1, "c": 1}, InForce({"a": 34, "b": 33, "c": 33}, {"a": 1, "b": 1, "c": 1})),
    ],
)
def test_the_service_s_selector_and_the_ready_pods_are_the_split(
    selected: str | None, ready: dict[str, int], expected: InForce | None
) -> None:
    assert in_force(selected, ready) == expected


@given(st.one_of(st.none(), st.sampled_from("abcde")), PODS)
def test_weights_in_force_sum_to_100_and_no_carrier_without_ready_pods_has_one(
    selected: str | None, ready: dict[str, int]
) -> None:
    found = in_force(selected, ready)
    if found is None:
        assert not ready.get(selected, 0) if selected else not any(ready.values())
        return
    assert sum(found.weights.values()) == 100
    assert all(ready[workload] > 0 for workload in found.weights)
    total = sum(ready.values())
    if selected is None:
        assert all(abs(weight - 100 * ready[name] / total) < 1 for name, weight in found.weights.items())


@given(st.integers(1, 99), COUNTS)
def test_what_is_reached_is_what_is_in_force_once_the_pods_are_ready(weight: int, replicas: int) -> None:
    wanted = reach(weight, replicas)
    found = in_force(None, {"old": replicas, "new": wanted.pods})
    assert found is not None
    # of two halves only one can be rounded up
    assert abs(found.weights["new"] - wanted.weight_percent) <= 1


# --- refusals


def asked(provider: str = "Replicas", runtime: str = "Triton", **analysis: Any) -> Any:
    image = {"image": "example/server:1"} if runtime == "Custom" else {}
    rollout: dict[str, Any] = {"steps": [{"weight": 50}]}
    if analysis:
        rollout["analysis"] = {"mode": "Enforce"} | analysis
    return deployment(
        {"runtime": {"name": runtime, **image}, "rollout": rollout, "traffic": {"provider": provider}}
    ).spec


@pytest.mark.parametrize("runtime", ["TorchServe", "Custom"])
@pytest.mark.parametrize("mode", ["Enforce", "Observe"])
def test_replicas_refuses_analysis_where_the_server_counts_no_failures(runtime: str, mode: str) -> None:
    (sentence,) = refusals(asked(runtime=runtime, mode=mode))
    assert sentence.startswith("spec.rollout.analysis: provider Replicas judges by what the servers count, and ")
    assert runtime in sentence
    assert "write spec.traffic.provider: Router" in sentence
    with pytest.raises(SpecError) as refused:
        refuse_what_it_cant(asked(runtime=runtime, mode=mode))
    assert (refused.value.reason, refused.value.message) == ("NotSupportedByProvider", sentence)


@pytest.mark.parametrize("runtime", ["Triton", "TensorFlowServing", "ONNXRuntime"])
def test_replicas_judges_by_servers_that_count(runtime: str) -> None:
    assert refusals(asked(runtime=runtime, mode="Enforce")) == ()


def test_a_bound_on_latency_needs_a_server_that_counts_latencies() -> None:
    (sentence,) = refusals(asked(maxLatencyMilliseconds=200))
    assert sentence.startswith("spec.rollout.analysis.maxLatencyMilliseconds: ")
    assert "Triton" in sentence
    assert refusals(asked(runtime="ONNXRuntime", maxLatencyMilliseconds=200)) == ()
    assert refusals(asked(runtime="TensorFlowServing", maxLatencyMilliseconds=200)) == ()


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_nothing_is_refused_of_a_router_or_where_nothing_is_judged(runtime: str) -> None:
    assert provider_of(routed := asked("Router", runtime, maxLatencyMilliseconds=200)).refusals(routed) == ()
    assert refusals(asked(runtime=runtime, mode="Off", maxLatencyMilliseconds=200)) == ()
    assert refusals(asked(runtime=runtime)) == ()
    assert provider_of(deployment().spec).refusals(deployment().spec) == ()


def test_what_only_a_router_has_is_refused_of_replicas() -> None:
    traffic = {"provider": "Replicas", "timeoutSeconds": 20, "router": {"replicas": 3}}
    found = refusals(deployment({"rollout": {"steps": [{"weight": 50}]}, "traffic": traffic}).spec)
    assert [sentence.partition(":")[0] for sentence in found] == ["spec.traffic.timeoutSeconds", "spec.traffic.router"]
