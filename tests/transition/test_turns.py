"""One pod first: a version that arrives in place, and gates that hold however a version arrives.

What is watched second by second: how many pods are out of the Service, which pods the new version was loaded in, and
which versions clients got answers of.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.agents import LOAD_FAILED, SIGNATURE
from tests.transition.operators import Operator, begin, run
from tests.transition.test_transitions import assert_at_rest, assert_healthy, stable_of
from tests.transition.world import World
from tests.unit.specs import NAME

OTHER_SIGNATURE: dict[str, Any] = {**SIGNATURE, "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1, 10]}]}
COMPATIBLE = {"signature": "Compatible"}
GOLDEN: Any = {"golden": {"requests": [{"request": {"inputs": []}, "response": {"outputs": []}}]}}


def serving(replicas: int, spec: dict[str, Any] | None = None, **rollout: Any) -> tuple[World, Operator]:
    """Version 1 serves, clients ask, and the next version comes in place unless `rollout` says otherwise."""
    asked = {"replicas": replicas, "rollout": {"bakeSeconds": 60, "progressDeadlineSeconds": 120, **rollout}}
    world, operator = begin({**asked, **(spec or {})}, World(at_source={1, 2, 3}), 30)
    assert_healthy(world, 1, replicas)
    world.requests_per_second = 100
    return world, operator


def holders(world: World, version: int) -> set[str]:
    """The pods in which a version is loaded, or was asked for and ended the server."""
    return {name for name, agent in world._agents.items() if version in agent.loaded | agent.died_of}


def watch(world: World, operator: Operator, seconds: int) -> tuple[int, int]:
    """The fewest ready pods meanwhile, and in how many pods version 2 was when it came first."""
    fewest, first = len(world.pods()), 0
    for _ in range(seconds):
        run(operator, 1)
        fewest, first = min(fewest, world.least_ready), first or len(holders(world, 2))
        assert world.deadly or world.conditions()["Ready"][0] == "True"
    return fewest, first


@pytest.mark.parametrize(("replicas", "fewest"), [(2, 1), (3, 2), (4, 3), (8, 6)])
def test_one_pod_goes_first_and_then_a_quarter_at_a_time(replicas: int, fewest: int) -> None:
    world, operator = serving(replicas)
    world.edit({"model": {"version": 2}})
    seen, first = watch(world, operator, 140)
    assert seen == fewest
    assert first == 1
    assert_healthy(world, 2, replicas)
    assert world.lost == 0
    assert_at_rest(operator)


@pytest.mark.parametrize("replicas", [2, 4])
def test_the_way_back_to_a_lower_version_is_the_same(replicas: int) -> None:
    world, operator = serving(replicas)
    world.edit({"model": {"version": 3}})
    run(operator, 160)
    world.edit({"model": {"version": 2}})
    seen, first = watch(world, operator, 100)
    assert seen == replicas - 1
    assert first == 1
    assert_healthy(world, 2, replicas)


@pytest.mark.parametrize("replicas", [2, 4, 8])
def test_a_version_that_ends_its_server_costs_one_pod_once(replicas: int) -> None:
    world, operator = serving(replicas)
    world.deadly = {2}
    world.edit({"model": {"version": 2}})
    seen, _ = watch(world, operator, 60)
    assert seen == replicas - 1
    assert len(holders(world, 2)) == 1
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert "the server ended during the load" in world.message("Promoted")
    assert set(world.answered) == {1}
    assert world.lost == 0
    assert world.ready_by_version() == {1: replicas}
    assert_at_rest(operator)


@pytest.mark.parametrize("replicas", [2, 4])
def test_a_version_that_ends_its_server_when_it_is_asked_is_taken_back_before_the_others_have_it(replicas: int) -> None:
    world, operator = serving(replicas)
    world.edit({"model": {"version": 2}})
    while not world.ready_by_version().get(2):
        run(operator, 1)
    run(operator, 3)
    world.crash(2)
    run(operator, 5)
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert "CanaryCrashed" in world.message("Promoted")
    assert len(holders(world, 2)) <= 1
    run(operator, 30)
    assert world.ready_by_version() == {1: replicas}
    assert_at_rest(operator)


def test_a_version_that_is_refused_is_asked_of_one_pod_alone() -> None:
    world, operator = serving(4)
    world.broken = {2: LOAD_FAILED}
    world.edit({"model": {"version": 2}})
    run(operator, 40)
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert world.least_ready >= 3
    assert set(world.answered) == {1}


def test_an_operator_that_is_restarted_at_every_second_lets_no_more_pods_go() -> None:
    world, operator = serving(4)
    world.edit({"model": {"version": 2}})
    fewest, said = 4, set()
    for _ in range(120):
        operator = Operator(world)
        run(operator, 1)
        fewest = min(fewest, world.least_ready)
        said.add(world.message("Promoted").partition("; ")[2])
    assert fewest == 3
    assert {f"it waits for {left} of 4 pods to go over, in turn" for left in (4, 3, 2, 1)} <= said
    assert_healthy(world, 2, 4)


def test_a_pod_that_is_lost_counts_as_out() -> None:
    world, operator = serving(4)
    world.edit({"model": {"version": 2}})
    while not world.ready_by_version().get(2):
        run(operator, 1)
    world.end(world.pods()[-1])
    run(operator, 1)
    going = sum(agent.left_at is not None for agent in world._agents.values())
    ready = sum(world.ready_by_version().values())
    assert ready + going <= 3
    run(operator, 140)
    assert_healthy(world, 2, 4)


def test_set_back_on_the_way_the_pods_that_have_gone_go_back_at_once() -> None:
    world, operator = serving(4)
    world.edit({"model": {"version": 2}})
    while not world.ready_by_version().get(2):
        run(operator, 1)
    world.edit({"model": {"version": 1}})
    run(operator, 5)
    assert world.least_ready >= 3
    assert world.ready_by_version() == {1: 4}
    run(operator, 30)
    assert_at_rest(operator)


def test_a_single_pod_without_a_gate_loads_beside_and_stays() -> None:
    world, operator = serving(1)
    pods = [pod["metadata"]["name"] for pod in world.pods()]
    world.edit({"model": {"version": 2}})
    run(operator, 20)
    assert world.least_ready == 1
    assert [pod["metadata"]["name"] for pod in world.pods()] == pods
    assert_healthy(world, 2, 1)


def test_pods_of_an_older_release_know_of_no_turns_and_are_replaced() -> None:
    world, operator = serving(2)
    old = [pod["metadata"]["name"] for pod in world.pods()]
    for name in old:
        world._agents[name].is_old = True
    world.edit({"model": {"version": 2}})
    seen = set()
    for _ in range(60):
        run(operator, 1)
        seen.add(world.message("Promoted"))
    assert any("AgentTooOld" in message for message in seen), seen
    assert not set(old) & {pod["metadata"]["name"] for pod in world.pods()}
    assert_healthy(world, 2)
    assert_at_rest(operator)


# ---- gates


WAYS = [
    ("in place", 2, "InPlace"),
    ("in place", 4, "InPlace"),
    ("rolling", 2, "RollingUpdate"),
    ("in pods of its own", 2, None),
    ("of one pod", 1, "InPlace"),
]


@pytest.mark.parametrize(("way", "replicas", "strategy"), WAYS)
def test_another_signature_is_never_served(way: str, replicas: int, strategy: str | None) -> None:
    world, operator = serving(replicas, strategy=strategy, gates=COMPATIBLE)
    first, pods = stable_of(world), [pod["metadata"]["name"] for pod in world.pods()]
    world.signatures = {2: OTHER_SIGNATURE}
    world.edit({"model": {"version": 2}})
    run(operator, 60)
    assert set(world.answered) == {1}, way
    assert world.lost == 0
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert "SignatureChanged" in world.message("Promoted")
    assert "output y is FP64, was FP32" in world.message("Promoted")
    assert stable_of(world) == first
    assert [pod["metadata"]["name"] for pod in world.pods()] == pods
    assert world.ready_by_version() == {1: replicas}
    assert_at_rest(operator)


@pytest.mark.parametrize(("way", "replicas", "strategy"), WAYS)
def test_the_same_signature_goes_over(way: str, replicas: int, strategy: str | None) -> None:
    world, operator = serving(replicas, strategy=strategy, gates=COMPATIBLE)
    pods = {pod["metadata"]["name"] for pod in world.pods()}
    world.edit({"model": {"version": 2}})
    seen, _ = watch(world, operator, 100)
    assert seen >= max(1, replicas - 1)
    assert_healthy(world, 2, replicas)
    assert (pods == {pod["metadata"]["name"] for pod in world.pods()}) is (way == "in place")
    run(operator, 70)
    assert_at_rest(operator)


@pytest.mark.parametrize("strategy", [None, "RollingUpdate"])
def test_a_wrong_golden_answer_is_never_served(strategy: str | None) -> None:
    world, operator = serving(2, strategy=strategy, gates=GOLDEN)
    world.wrong = {2}
    world.edit({"model": {"version": 2}})
    run(operator, 60)
    assert set(world.answered) == {1}
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert "GoldenFailed" in world.message("Promoted")
    assert world.ready_by_version() == {1: 2}


@pytest.mark.parametrize("strategy", ["InPlace", "RollingUpdate"])
def test_what_was_let_go_stays_so_while_agents_do_not_answer(strategy: str | None) -> None:
    world, operator = serving(4, strategy=strategy, gates=COMPATIBLE)
    world.edit({"model": {"version": 2}})
    while not world.ready_by_version().get(2):
        run(operator, 1)
    world.are_mute = True
    run(Operator(world), 20)
    assert world.least_ready >= 3
    assert world.ready_by_version().get(2)
    world.are_mute = False
    run(operator, 120)
    assert world.ready_by_version() == {2: 4}


def test_while_no_agent_answers_nothing_is_let_go() -> None:
    world, operator = serving(2, strategy="InPlace", gates=COMPATIBLE)
    world.edit({"model": {"version": 2}})
    world.are_mute = True
    run(operator, 40)
    assert set(world.answered) == {1}
    assert sum(world.ready_by_version().values()) >= 1
    world.are_mute = False
    run(operator, 60)
    assert_healthy(world, 2)


def test_what_is_set_back_in_bake_is_a_rollback_and_no_gate_stands_in_its_way() -> None:
    world, operator = serving(2, strategy="InPlace")
    world.signatures = {2: OTHER_SIGNATURE}
    world.edit({"model": {"version": 2}})
    run(operator, 45)
    assert_healthy(world, 2)
    world.edit({"model": {"version": 1}, "rollout": {"gates": COMPATIBLE}})
    run(operator, 4)
    assert world.least_ready == 2
    assert_healthy(world, 1)


def test_a_person_who_waits_reads_what_a_held_version_waits_for() -> None:
    world, operator = serving(2, strategy="InPlace", gates=COMPATIBLE)
    world.slow = {2}
    world.edit({"model": {"version": 2}})
    run(operator, 20)
    assert "it waits for the gates: version 2 isn't loaded in any pod yet" in world.message("Promoted")


# ---- labels


def test_each_label_leads_to_a_version_in_every_pod_that_serves() -> None:
    world, operator = serving(
        2, {"runtime": {"name": "TensorFlowServing"}, "model": {"version": 1, "labels": {"prod": 1}}}
    )
    world.edit({"model": {"version": 2, "labels": {"prod": 2, "new": 2}}})
    for _ in range(60):
        run(operator, 1)
        for pod in world.pods():
            agent = world._agents[pod["metadata"]["name"]]
            orders = agent.orders or {}
            if agent.left_at is None and agent.served == orders["served"]:
                assert set(orders["labels"]) >= {"stable", "prod"}
                assert set(orders["labels"].values()) <= agent.loaded, orders
    assert_healthy(world, 2)
    config = world.agent_config(world.named("ConfigMap")[0].removeprefix(f"{NAME}-"))
    assert config["labels"] == {"stable": 2, "prod": 2, "new": 2}
