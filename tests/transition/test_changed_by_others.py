"""What somebody changes in an object of ours is put back, and an event says what it was and who it was."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.controller.kube import ClusterError
from slipway.controller.pacing import TOLD_SECONDS
from tests.transition.operators import Operator, run, until
from tests.transition.test_canary import VERSION_2, arriving, status, until_ready
from tests.transition.test_canary import serving as serving_by_steps
from tests.transition.test_transitions import assert_at_rest, assert_healthy, serving, stable_of
from tests.transition.world import World
from tests.unit.specs import NAME

Json = dict[str, Any]


def told(world: World) -> list[str]:
    """The messages of these events."""
    return [event["message"] for event in world.events if event["reason"] == "ChangePutBack"]


def change(world: World, replicas: int = 7, manager: str = "kubectl-edit") -> str:
    """Somebody scales the Deployment. Returns its name."""
    name = f"{NAME}-{stable_of(world)}"
    world.tamper("Deployment", name, {"spec": {"replicas": replicas}}, manager)
    return name


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("Deployment", {"spec": {"replicas": 7}}, ["spec.replicas", "kubectl-edit"]),
        ("Service", {"spec": {"selector": {"slipway.dev/model": "another"}}}, ["spec.selector", "kubectl-edit"]),
        ("ConfigMap", {"data": {"agent.json": "{}"}}, ["data.agent.json", "kubectl-edit"]),
        ("Service", {"metadata": {"labels": {"app.kubernetes.io/managed-by": "helm"}}}, ["metadata.labels.", "edit"]),
        ("Service", {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}, ["metadata.labels."]),
        ("Service", {"metadata": {"ownerReferences": []}}, ["metadata.ownerReferences"]),
        (
            "Deployment",
            {"spec": {"template": {"spec": {"containers": [{"name": "server", "image": "theirs"}]}}}},
            ["spec.template.spec.containers", "kubectl-edit"],
        ),
    ],
)
def test_a_change_that_is_put_back_is_told_with_its_field_and_its_manager(
    kind: str, changes: Json, words: list[str]
) -> None:
    world, operator = serving()
    name = NAME if kind == "Service" else f"{NAME}-{stable_of(world)}"
    world.tamper(kind, name, changes)
    run(operator, 20)
    [message] = told(world)
    assert message.startswith(f"{kind} {name}: ")
    for word in (*words, "is put back", "change that instead"):
        assert word in message
    assert_healthy(world, 1)
    assert_at_rest(operator)


def test_one_that_was_made_while_the_operator_was_away_is_told() -> None:
    world, operator = serving()
    name = change(world)
    operator = Operator(world)
    run(operator, 10)
    assert told(world) == [
        f"Deployment {name}: spec.replicas was changed by kubectl-edit and is put back. It follows from the "
        "ModelDeployment's spec: change that instead"
    ]
    assert_healthy(world, 1)
    assert_at_rest(operator)


def test_two_who_change_it_in_turn_do_not_fill_the_events() -> None:
    world, operator = serving()
    for number in range(int(TOLD_SECONDS) - 10):
        change(world, 7 + number % 2, "autoscaler")
        run(operator, 1)
    assert len(told(world)) == 1
    assert world.objects["Deployment", f"{NAME}-{stable_of(world)}"]["spec"]["replicas"] == 2
    run(operator, 10)
    change(world)
    run(operator, 5)
    assert ["autoscaler" in message for message in told(world)] == [True, False]


def test_who_asks_in_vain_puts_it_back_all_the_same() -> None:
    world, operator = serving()

    async def denied(kind: str, namespace: str, name: str) -> Json | None:
        raise ClusterError(f"read {kind}", 403, "forbidden")

    world.read = denied  # type: ignore[method-assign]
    change(world)
    run(operator, 10)
    assert told(world) == []
    assert_healthy(world, 1)
    assert_at_rest(operator)


@pytest.mark.parametrize("is_another_operator", [True, False])
def test_our_own_changes_are_nobodys(*, is_another_operator: bool) -> None:
    """A spec edit, a rollout by steps, a scaling, another service port: whatever a plan changes."""
    world, operator = serving_by_steps()
    for edit in ({"replicas": 3}, VERSION_2, {"replicas": 2}, {"runtime": {"name": "TensorFlowServing"}}):
        world.edit(edit)
        if is_another_operator:
            operator = Operator(world)
        run(operator, 60)
    assert told(world) == []


def test_what_others_add_beside_our_fields_is_not_told() -> None:
    world, operator = serving()
    name = f"{NAME}-{stable_of(world)}"
    world.tamper("Deployment", name, {"metadata": {"annotations": {"theirs": "1"}, "labels": {"team": "b"}}})
    world.edit({"replicas": 3})
    run(operator, 10)
    assert told(world) == []


def test_in_mid_canary_a_change_is_told_and_disturbs_nothing() -> None:
    world, operator = arriving()
    world.tamper("PodDisruptionBudget", f"{NAME}-router", {"spec": {"maxUnavailable": 2}})
    until(operator, lambda: bool(told(world)), 3)
    assert "spec.maxUnavailable" in told(world)[0]
    until_ready(operator)
    assert len(told(world)) == 1
    assert status(world).get("rejected", []) == []
