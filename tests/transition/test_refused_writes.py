"""Children that the API server will not have, or fails to take: that is told, and nothing else stops for it."""

from __future__ import annotations

from slipway.controller.kube import ClusterError, TransientError
from tests.transition.api_server import Refusal
from tests.transition.operators import run, until
from tests.transition.test_canary import (
    LONG,
    NEW,
    OLD,
    RESULT,
    VERSION_2,
    arriving,
    assert_rested,
    canary_of,
    phase,
    serving,
    status,
    weights,
)
from tests.transition.test_unreadable_spec import assert_says_so
from tests.unit.specs import NAME

DOUBLED = "failed to create typed patch object (models/x; apps/v1, Kind=Deployment): .spec: duplicate entries for key"


def test_a_manifest_that_cannot_be_used_is_told_and_its_revision_aborted() -> None:
    world, operator = serving(LONG)
    world.refuse = {("create", "Deployment"): lambda name: ClusterError(f"create {name}", 500, DOUBLED)}
    world.edit(VERSION_2)
    run(operator, 5)
    assert_says_so(world, "Refused")
    assert DOUBLED in world.message("Promoted")
    assert weights(world)[0] == 100
    world.edit({"rollout": {"bakeSeconds": 60}})
    run(operator, 3)
    assert_says_so(world, "Refused")
    world.command("abort", canary_of(world))
    until(operator, lambda: phase(world) == "RolledBack", 3)
    assert_rested(world, operator, OLD)


def test_while_a_child_is_refused_a_bad_canary_is_judged_and_taken_back() -> None:
    world, operator = arriving(RESULT, LONG)
    world.refuse = {("apply", "PodDisruptionBudget"): lambda name: ClusterError(f"apply {name}", 422, "no such field")}
    world.tamper("PodDisruptionBudget", f"{NAME}-router", {"spec": {"maxUnavailable": 0}})
    run(operator, 3)
    assert_says_so(world, "Refused")
    world.error_rate = {NEW: 0.5}
    until(operator, lambda: bool(status(world).get("rejected")), 40)
    until(operator, lambda: weights(world)[0] == 100, 6)
    world.refuse = {}
    run(operator, 20)
    assert_rested(world, operator, OLD)


WEBHOOK = 'Internal error occurred: failed calling webhook "policy.example"'


def failing(times: int) -> Refusal:
    """So many answers of a webhook that is down."""
    left = [times]

    def answer(name: str) -> Exception | None:
        left[0] -= 1
        return TransientError(f"apply {name}", 500, WEBHOOK) if left[0] >= 0 else None

    return answer


def test_a_write_that_fails_for_long_is_told_and_a_bad_canary_taken_back() -> None:
    world, operator = arriving(RESULT, LONG)
    world.refuse = {("apply", "PodDisruptionBudget"): failing(1_000)}
    world.tamper("PodDisruptionBudget", f"{NAME}-router", {"spec": {"maxUnavailable": 0}})
    until(operator, lambda: phase(world) == "WriteFailed", 20)
    assert_says_so(world, "WriteFailed")
    assert WEBHOOK in world.message("Degraded")
    world.error_rate = {NEW: 0.5}
    until(operator, lambda: bool(status(world).get("rejected")), 30)
    until(operator, lambda: weights(world)[0] == 100, 6)
    world.refuse = {}
    run(operator, 20)
    assert_rested(world, operator, OLD)


def test_a_write_that_fails_for_a_moment_is_not_told() -> None:
    world, operator = arriving(LONG)
    world.refuse = {("apply", "PodDisruptionBudget"): failing(4)}
    world.tamper("PodDisruptionBudget", f"{NAME}-router", {"spec": {"maxUnavailable": 0}})
    run(operator, 30)
    assert world.objects["PodDisruptionBudget", f"{NAME}-router"]["spec"]["maxUnavailable"] == 1
    assert "WriteFailed" not in {event["reason"] for event in world.events}
    assert phase(world) == "RollingOut"


def test_where_a_policy_forbids_to_touch_pods_a_bad_canary_is_taken_back_all_the_same() -> None:
    world, operator = arriving(RESULT, LONG)
    world.refuse = {("annotate", "Pod"): lambda name: ClusterError(f"annotate {name}", 403, "denied by policy")}
    world.error_rate = {NEW: 0.5}
    until(operator, lambda: bool(status(world).get("rejected")), 30)
    until(operator, lambda: weights(world)[0] == 100, 90)  # routers read their configuration by themselves
