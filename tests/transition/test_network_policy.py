"""Who may reach the pods: switched on and off by the operator's own setting, with no pod restarted, and kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slipway.controller.kube import ClusterError
from slipway.render.network_policy import Peers
from tests.transition.operators import Operator, run, until
from tests.transition.test_canary import VERSION_2, until_ready
from tests.transition.test_canary import serving as serving_by_steps
from tests.transition.test_transitions import assert_at_rest, assert_healthy, serving
from tests.transition.world import World
from tests.unit.specs import IMAGES, NAME

Json = dict[str, Any]

PEERS = Peers(
    clients=({"namespaceSelector": {"matchLabels": {"team": "web"}}},),
    operator=({"podSelector": {"matchLabels": {"app": "operator"}}},),
    metrics=(),
)
LOCKING = replace(IMAGES, peers=PEERS)


def policies(world: World) -> dict[str, Json]:
    return {name: live for (kind, name), live in world.objects.items() if kind == "NetworkPolicy"}


def uids(world: World) -> set[str]:
    return {pod["metadata"]["uid"] for pod in world.pods()}


def locked(operator: Operator, world: World) -> Operator:
    """The next operator, with policies; at rest."""
    following = Operator(world, LOCKING)
    run(following, 10)
    return following


def test_without_the_setting_there_is_none() -> None:
    world, _ = serving()
    assert policies(world) == {}


def test_switched_on_and_off_it_comes_and_goes_and_no_pod_is_new() -> None:
    world, operator = serving()
    before = uids(world)
    operator = locked(operator, world)
    assert set(policies(world)) == {f"{NAME}-pods"}
    assert_at_rest(operator)
    following = Operator(world, IMAGES)
    run(following, 10)
    assert policies(world) == {}
    assert uids(world) == before
    assert_healthy(world, 1)
    assert_at_rest(following)


def test_routers_have_one_as_long_as_there_are_routers() -> None:
    world, operator = serving_by_steps()
    operator = locked(operator, world)
    before = set(policies(world))
    world.edit(VERSION_2)
    until(operator, lambda: f"{NAME}-router" in policies(world), 60)
    until_ready(operator)
    assert before <= set(policies(world))
    has_router = ("Deployment", f"{NAME}-router") in world.objects
    assert (f"{NAME}-router" in policies(world)) == has_router


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"podSelector": {"matchLabels": {"nobody": "1"}}}},
        {"spec": {"ingress": [{}]}},
        {"spec": {"policyTypes": ["Egress"]}},
    ],
)
def test_one_that_somebody_opens_is_put_back_and_told(changes: Json) -> None:
    world, operator = serving()
    operator = locked(operator, world)
    wanted = policies(world)[f"{NAME}-pods"]["spec"]
    world.tamper("NetworkPolicy", f"{NAME}-pods", changes)
    run(operator, 10)
    assert policies(world)[f"{NAME}-pods"]["spec"] == wanted
    told = [event["message"] for event in world.events if event["reason"] == "ChangePutBack"]
    assert [f"NetworkPolicy {NAME}-pods: spec." in message for message in told] == [True]
    assert_at_rest(operator)


def test_one_that_somebody_deletes_is_made_again() -> None:
    world, operator = serving()
    operator = locked(operator, world)
    world.lose("NetworkPolicy", f"{NAME}-pods")
    run(operator, 10)
    assert set(policies(world)) == {f"{NAME}-pods"}


def test_it_goes_with_its_model_deployment() -> None:
    world, operator = serving()
    locked(operator, world)
    world.lose("ModelDeployment", NAME)
    assert policies(world) == {}


def test_anothers_policy_of_that_name_is_left_alone_and_told() -> None:
    world, _ = serving()
    world.put_foreign("NetworkPolicy", f"{NAME}-pods", spec={"podSelector": {}})
    operator = Operator(world, LOCKING)
    run(operator, 10)
    assert policies(world)[f"{NAME}-pods"]["spec"] == {"podSelector": {}}
    assert world.conditions()["Degraded"] == ("True", "NameConflict")
    assert world.conditions()["Ready"][0] == "True"


def test_one_that_the_api_server_refuses_is_told_as_the_charts() -> None:
    world, _ = serving()
    error = ClusterError("create", 422, "spec.ingress[0].from[0].podSelector: Invalid value")
    world.refuse = {("create", "NetworkPolicy"): lambda name: error}
    run(Operator(world, LOCKING), 10)
    assert world.conditions()["Degraded"] == ("True", "Refused")
    assert "networkPolicy.models in the values of the operator's chart" in world.message("Degraded")
    assert world.conditions()["Ready"][0] == "True"
