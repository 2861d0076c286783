"""Servers that look well and answer every request with an error: which pods leave the Service, and what is taken back.

Where there is a golden or warm-up request, agents ask it of their own servers; the operator sees who fails alone.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.transition.operators import Operator, begin, run, writes_of
from tests.transition.test_transitions import assert_at_rest, assert_healthy, stable_of
from tests.transition.world import World

WARMUP: Any = {"warmup": {"requests": [{"inputs": []}]}}
GOLDEN: Any = {"golden": {"requests": [{"request": {"inputs": [1]}, "response": {"outputs": []}}]}}
STEPS: Any = [{"weight": 50, "holdSeconds": 60}, {"weight": 100}]
LOOK_SECONDS = 40
"""All agree: agents are asked every half minute."""


def serving(replicas: int = 2, **spec: Any) -> tuple[World, Operator]:
    """Version 1 serves, and its servers are asked a warm-up request now and then."""
    return begin({"replicas": replicas, **WARMUP, **spec}, World(at_source={1, 2, 3}), 30)


def names(world: World) -> list[str]:
    return [pod["metadata"]["name"] for pod in world.pods()]


def out(world: World) -> list[str]:
    """The pods that orders keep out of the Service."""
    workloads = [each for name in world.named("ConfigMap") if (each := name.partition("-")[2]) != "router"]
    return sorted(pod for each in workloads for pod in world.agent_config(each).get("out", []))


def test_a_pod_whose_backend_is_dead_leaves_the_service_and_comes_back_when_it_answers() -> None:
    world, operator = serving()
    assert_healthy(world, 1)
    dead = names(world)[0]
    world.dead_backends = {dead}
    run(operator, LOOK_SECONDS)
    assert world.ready_by_version() == {1: 1}
    assert out(world) == [dead]
    assert world.conditions()["Degraded"] == ("True", "ServerErrors")
    assert f"pod {dead} answers its own golden or warm-up request with server errors: stub process" in world.message(
        "Degraded"
    )
    assert "it is out of the Service until that is answered well" in world.message("Degraded")
    assert_at_rest(operator)
    world.dead_backends = set()
    run(operator, 20)
    assert out(world) == []
    assert_healthy(world, 1)
    assert_at_rest(operator)


@pytest.mark.parametrize("replicas", [1, 3])
def test_where_all_pods_fail_alike_none_leaves_and_a_person_is_told(replicas: int) -> None:
    world, operator = serving(replicas)
    world.dead_backends = set(names(world))
    run(operator, LOOK_SECONDS)
    assert world.ready_by_version() == {1: replicas}
    assert out(world) == []
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert world.conditions()["Degraded"] == ("True", "ServerErrors")
    assert "nothing is taken out of the Service" in world.message("Degraded")
    assert_at_rest(operator)
    world.dead_backends = set()
    run(operator, 20)
    assert_healthy(world, 1, replicas)
    assert_at_rest(operator)


def test_the_last_that_fails_lets_the_others_in_again() -> None:
    world, operator = serving(3)
    first, second, third = names(world)
    world.dead_backends = {first, second}
    run(operator, LOOK_SECONDS)
    assert out(world) == [first, second]
    world.dead_backends = {first, second, third}
    run(operator, 20)
    assert out(world) == []
    assert world.ready_by_version() == {1: 3}


def test_silence_is_no_good_answer() -> None:
    world, operator = serving()
    dead = names(world)[0]
    world.dead_backends = {dead}
    run(operator, LOOK_SECONDS)
    world.quiet = {dead}
    run(operator, 60)
    assert out(world) == [dead]
    assert world.conditions()["Degraded"] == ("True", "ServerErrors")
    assert "its agent doesn't answer now" in world.message("Degraded")
    assert writes_of(Operator(world)) == [], "an operator that starts knows no more, and takes nothing back"
    assert world.ready_by_version() == {1: 1}


def test_without_a_request_to_ask_nothing_is_known_and_nothing_done() -> None:
    world, operator = begin({"replicas": 2}, World(at_source={1, 2, 3}), 30)
    world.dead_backends = {names(world)[0]}
    run(operator, LOOK_SECONDS)
    assert_healthy(world, 1)
    assert_at_rest(operator)


def test_the_golden_request_that_a_revision_passed_is_asked_on_once_it_is_stable() -> None:
    world, operator = begin({"replicas": 2, "rollout": {"gates": GOLDEN}}, World(at_source={1, 2, 3}), 30)
    assert_healthy(world, 1)
    assert world.agent_config(stable_of(world))["probe"] == {"request": {"inputs": [1]}}
    dead = names(world)[1]
    world.dead_backends = {dead}
    run(operator, LOOK_SECONDS)
    assert out(world) == [dead]
    other: Any = {"golden": {"requests": [{"request": {"inputs": [2]}, "response": {"outputs": []}}]}}
    world.dead_backends = set()
    world.edit({"rollout": {"gates": other}})
    run(operator, LOOK_SECONDS)
    assert world.agent_config(stable_of(world))["probe"] == {"request": {"inputs": [1]}}, "what it has passed"
    assert_at_rest(operator)


WAYS = [
    ("by steps", {"steps": STEPS, "analysis": {"mode": "Off"}}, 2),
    ("in place", {"strategy": None}, 2),
    ("in place", {"strategy": None}, 4),
    ("rolling", {"strategy": "RollingUpdate"}, 2),
]


@pytest.mark.parametrize(("way", "rollout", "replicas"), WAYS)
def test_a_revision_whose_pods_all_fail_is_taken_back_and_never_promoted(
    way: str, rollout: dict[str, Any], replicas: int
) -> None:
    world, operator = serving(replicas, rollout={"bakeSeconds": 60, **rollout})
    first = stable_of(world)
    world.erring = {2}
    world.edit({"model": {"version": 2}})
    for _ in range(200):
        run(operator, 1)
        assert stable_of(world) == first, way
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert "ServerErrors: all its pods answer their own golden or warm-up request" in world.message("Promoted")
    assert "stub process is not healthy" in world.message("Promoted")
    assert world.ready_by_version() == {1: replicas}
    assert_at_rest(operator)


def test_where_stable_fails_alike_it_is_no_fault_of_the_revision_and_nothing_is_promoted() -> None:
    world, operator = serving(rollout={"steps": STEPS, "analysis": {"mode": "Off"}, "bakeSeconds": 0})
    first = stable_of(world)
    world.erring = {1, 2}
    world.edit({"model": {"version": 2}})
    run(operator, 150)
    assert world.conditions()["Promoted"] == ("False", "InProgress")
    assert stable_of(world) == first
    world.erring = set()
    run(operator, 150)
    assert_healthy(world, 2)


def test_one_canary_pod_that_fails_leaves_and_the_others_go_on() -> None:
    world, operator = serving(4, rollout={"steps": STEPS, "analysis": {"mode": "Off"}, "bakeSeconds": 0})
    first = stable_of(world)
    world.edit({"model": {"version": 2}})
    run(operator, 30)
    canaries = [pod for pod in names(world) if first not in pod and "router" not in pod]
    assert len(canaries) >= 2
    world.dead_backends = {canaries[0]}
    run(operator, 10)
    assert out(world) == [canaries[0]]
    assert world.conditions()["Promoted"][1] == "InProgress"


def test_in_bake_a_revision_whose_pods_all_fail_gives_its_place_back() -> None:
    world, operator = serving(rollout={"steps": STEPS, "analysis": {"mode": "Off"}, "bakeSeconds": 300})
    first = stable_of(world)
    world.edit({"model": {"version": 2}})
    run(operator, 150)
    assert stable_of(world) != first
    world.erring = {2}
    run(operator, 60)
    assert stable_of(world) == first
    assert "ServerErrors: in bake, all its pods answer their own" in world.message("Promoted")
    assert world.ready_by_version() == {1: 2}
    assert_at_rest(operator)


def test_a_version_in_place_is_not_asked_what_the_one_before_has_passed() -> None:
    world, operator = begin({"replicas": 2, "rollout": {"gates": GOLDEN}}, World(at_source={1, 2, 3}), 30)
    world.slow = {2}
    world.edit({"model": {"version": 2}, "rollout": {"gates": None, "strategy": None}})
    run(operator, 20)
    orders, passed = world.agent_config(stable_of(world)), {"request": {"inputs": [1]}}
    assert orders["turn"]["served"] == 2
    assert "probe" not in orders["turn"]
    assert orders["probe"] == passed
    world.edit({"model": {"version": 1}})
    run(operator, 20)
    assert world.agent_config(stable_of(world))["probe"] == passed
    world.slow = set()
    world.edit({"model": {"version": 3}})
    run(operator, 100)
    assert_healthy(world, 3)
    [name] = world.named("ConfigMap")
    assert "probe" not in world.agent_config(name.partition("-")[2])
