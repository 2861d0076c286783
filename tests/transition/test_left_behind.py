"""A ModelDeployment deleted with --cascade=orphan and applied again: what it left serves on, and becomes its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.transition.operators import Operator, run, until, writes_of
from tests.transition.test_canary import (
    CANARY,
    LONG,
    NEW,
    OLD,
    VERSION_2,
    arriving,
    assert_rested,
    replaced,
    status,
    until_ready,
)
from tests.transition.test_transitions import assert_at_rest, assert_healthy, serving, stable_of
from tests.transition.world import World
from tests.unit.specs import NAME, merged

Json = dict[str, Any]

KINDS = ("ConfigMap", "ControllerRevision", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service")


def owners(world: World) -> set[str]:
    """The controllers of all objects but pods."""
    return {
        owner["uid"]
        for (kind, _), live in world.objects.items()
        if kind in KINDS
        for owner in live["metadata"]["ownerReferences"] or [{"uid": f"nobody has {kind}"}]
    }


def uids(world: World) -> set[str]:
    return {live["metadata"]["uid"] for (kind, _), live in world.objects.items() if kind in (*KINDS, "Pod")}


@pytest.mark.parametrize("is_another_operator", [True, False])
def test_applied_again_it_takes_over_what_it_left_and_no_pod_is_new(*, is_another_operator: bool) -> None:
    world, operator, _ = replaced()
    spec, before = world.deployment()["spec"], uids(world)
    world.orphan()
    run(operator, 5)
    assert uids(world) == before
    world.edit(spec)
    if is_another_operator:
        operator = Operator(world)
    run(operator, 20)
    assert uids(world) == before
    assert owners(world) == {world.deployment()["metadata"]["uid"]}
    assert "NameConflict" not in {event["reason"] for event in world.events}
    assert_rested(world, operator, NEW)


def test_applied_again_with_another_version_that_one_arrives_beside_what_serves() -> None:
    world, operator, _ = replaced()
    spec = world.deployment()["spec"]
    world.orphan()
    world.edit(merged(spec, {"model": {"version": 3}}))
    run(operator, 3)
    assert status(world)["stable"]["version"] == NEW
    until_ready(operator)
    assert_rested(world, operator, 3)


def test_left_behind_in_mid_canary_one_version_serves_in_the_end() -> None:
    world, operator = arriving(LONG)
    spec = world.deployment()["spec"]
    world.orphan()
    run(operator, 2)
    world.edit(merged(spec, {"rollout": {"steps": CANARY["rollout"]["steps"]}}))
    until_ready(operator, 120)
    assert_rested(world, operator, NEW)


def test_an_owner_reference_that_was_taken_off_comes_back() -> None:
    world, operator = serving()
    for kind, name in (("Service", NAME), ("Deployment", f"{NAME}-{stable_of(world)}")):
        world.tamper(kind, name, {"metadata": {"ownerReferences": []}})
    run(operator, 5)
    assert owners(world) == {world.deployment()["metadata"]["uid"]}
    assert_healthy(world, OLD)
    assert_at_rest(operator)


def test_the_watch_may_be_late_with_what_is_left_behind() -> None:
    world, operator = serving()
    spec, before = world.deployment()["spec"], uids(world)
    world.orphan()
    operator = Operator(world)
    operator.cache.drop("Service", world.objects["Service", NAME])
    world.edit(spec)
    run(operator, 20)
    assert uids(world) == before
    assert_healthy(world, OLD)
    assert_at_rest(operator)


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"managedFields": [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {}}]}, id="applied"),
        pytest.param({"managedFields": [{"manager": "slipway", "operation": "Update", "fieldsV1": {}}]}, id="touched"),
        pytest.param({"managedFields": []}, id="nobody says who"),
        pytest.param({"ownerReferences": [{"kind": "ConfigMap", "name": "chart", "controller": True}]}, id="owned"),
        pytest.param({"labels": {"slipway.dev/model": "another"}}, id="another's label"),
        pytest.param({"labels": {"slipway.dev/model": ""}}, id="no label"),
    ],
)
def test_what_is_not_only_ours_stays_a_conflict(metadata: Json) -> None:
    world, operator = serving()
    spec = world.deployment()["spec"]
    world.orphan()
    world.put_foreign("ConfigMap", "chart")
    for owner in metadata.get("ownerReferences", []):
        owner["uid"] = world.objects["ConfigMap", "chart"]["metadata"]["uid"]
    service = world.objects["Service", NAME]
    world._store({**service, "metadata": {**service["metadata"], **metadata}})
    before = world.objects["Service", NAME]
    operator = Operator(world)
    world.edit(spec)
    run(operator, 10)
    assert world.conditions()["Degraded"] == ("True", "NameConflict")
    assert world.objects["Service", NAME] == before
    assert writes_of(operator, 60) == []


def test_applied_again_with_a_mistake_it_goes_by_the_spec_that_was_left_too() -> None:
    world, operator = serving()
    spec, before = world.deployment()["spec"], uids(world)
    world.orphan()
    world.edit(merged(spec, {"modle": {}}))
    run(operator, 10)
    assert uids(world) == before
    assert world.conditions()["Promoted"] == ("False", "InvalidSpec")
    world.edit({"modle": None, **VERSION_2})
    until(operator, lambda: status(world)["stable"]["version"] == NEW)
    run(operator, 20)
    assert_healthy(world, NEW)
    assert_at_rest(operator)
