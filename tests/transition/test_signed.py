"""`storage.verify: Require` while models serve: what serves goes on, what isn't signed never comes to serve."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.simulation import agents
from tests.transition.operators import Operator, begin, run
from tests.transition.test_transitions import assert_at_rest, assert_healthy, stable_of
from tests.transition.world import World
from tests.unit.public_keys import P256

REQUIRE: dict[str, Any] = {"storage": {"verify": "Require", "publicKeys": [P256]}}


def serving(**rollout: Any) -> tuple[World, Operator]:
    world, operator = begin({"replicas": 2, "rollout": {"bakeSeconds": 60, **rollout}}, World(at_source={1, 2}), 30)
    assert_healthy(world, 1)
    world.requests_per_second = 100
    return world, operator


def names(world: World) -> set[str]:
    return {pod["metadata"]["name"] for pod in world.pods()}


def test_switched_on_it_restarts_nothing_and_what_isnt_signed_serves_on_and_is_told() -> None:
    world, operator = serving()
    pods, stable = names(world), stable_of(world)
    world.verifying = {1}
    world.edit(REQUIRE)
    run(operator, 90)
    world.verifying, world.unsigned = set(), {1}  # which agents find out a while after they have their orders
    for _ in range(60):
        run(operator, 1)
        assert world.conditions()["Ready"][0] == "True"
    assert (names(world), stable_of(world), world.lost) == (pods, stable, 0)
    assert world.conditions()["Degraded"] == ("True", "NotSigned")
    assert world.conditions()["VersionsReady"] == ("False", "NotSigned")
    world.unsigned = set()
    run(operator, 60)
    assert_healthy(world, 1)
    assert_at_rest(operator)


def test_what_is_signed_comes_to_rest() -> None:
    world, operator = serving()
    world.edit(REQUIRE)
    run(operator, 60)
    assert_healthy(world, 1)
    assert_at_rest(operator)


@pytest.mark.parametrize("strategy", ["InPlace", "RollingUpdate"])
def test_a_version_that_isnt_signed_is_taken_back_however_it_arrives(strategy: str) -> None:
    world, operator = serving(strategy=strategy)
    stable = stable_of(world)
    world.unsigned = {2}
    world.edit({**REQUIRE, "model": {"version": 2}})
    run(operator, 120)
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert "NotSigned: version 2" in world.message("Promoted")
    assert (stable_of(world), world.lost) == (stable, 0)
    assert world.ready_by_version() == {1: 2}


def test_pods_of_an_older_release_are_named_and_the_next_version_gets_pods_that_verify() -> None:
    world, operator = serving()
    old = names(world)
    for name in old:
        world._agents[name].is_old = True
    world.edit(REQUIRE)
    run(operator, 60)
    assert world.conditions()["Degraded"] == ("True", "AgentTooOld")
    assert all(name in world.message("Degraded") for name in old)
    world.edit({"model": {"version": 2}})
    run(operator, 160)
    assert not old & names(world)
    assert_healthy(world, 2)
    assert world.lost == 0


def test_a_pod_that_comes_later_says_why_it_cant_serve_and_the_others_serve_on() -> None:
    world, operator = serving()
    world.edit({**REQUIRE})
    world.unsigned = {1}
    run(operator, 30)
    world.end(world.pods()[-1])
    run(operator, 60)
    assert world.ready_by_version() == {1: 1}
    assert world.conditions()["Degraded"] == ("True", "NotSigned")
    assert world.conditions()["Ready"] == ("False", "NotSigned")
    world.unsigned = set()
    run(operator, 60)
    assert_healthy(world, 1)


@pytest.mark.parametrize("is_fresh", [True, False])
def test_pods_of_an_older_release_take_nothing_up_and_stay_named_while_their_agents_are_silent(
    monkeypatch: pytest.MonkeyPatch, *, is_fresh: bool
) -> None:
    """They take turns, as those of the release before do; and whoever is silent to the operator reads its orders."""
    with monkeypatch.context() as before:
        before.setattr(agents, "AGENT", {})
        world, operator = serving()
        old = names(world)
        world.edit(REQUIRE)
        run(operator, 60)
    if is_fresh:
        world.deployment()["status"]["agents"] = None  # as an operator of the release before left it
    world.quiet = set(old)
    operator = Operator(world)
    run(operator, 20)
    assert world.conditions()["Degraded"] == ("True", "AgentTooOld")
    (orders,) = [live for (kind, _), live in world.objects.items() if kind == "ConfigMap"]
    name = orders["metadata"]["name"]
    world.edit({"model": {"version": 2}})
    for _ in range(20):
        run(operator, 1)
        orders = world.objects.get(("ConfigMap", name), orders)
        told = json.loads(orders["data"]["agent.json"])
        assert told["load"] == [1]
        assert "turn" not in told
    run(operator, 160)
    assert not old & names(world)
    assert_healthy(world, 2)
    assert world.lost == 0
