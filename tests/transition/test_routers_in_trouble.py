"""Routers that don't come: which condition says it, and what is served meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.transition.operators import begin, run, until, writes_of
from tests.transition.test_canary import CANARY, LONG, OLD, VERSION_2, phase, status, weights
from tests.transition.world import World
from tests.unit.specs import merged

Json = dict[str, Any]

NO_SUCH = "registry.example/nosuch:1"
PATIENT: Json = merged(merged(CANARY, LONG), {"rollout": {"progressDeadlineSeconds": 600}})


def no_image(world: World) -> None:
    world.unpullable = {NO_SUCH}


def no_node(world: World) -> None:
    world.are_routers_unschedulable = True


def no_quota(world: World) -> None:
    world.quota = 3  # for the canary's pod, and none for routers


@pytest.mark.parametrize(
    ("happens", "reason", "words"),
    [
        (no_image, "ImagePullFailed", [NO_SUCH, "container envoy", "spec.podTemplate.spec.imagePullSecrets"]),
        (no_node, "Unschedulable", ["nvidia.com/gpu", "spec.traffic.router.resources"]),
        (no_quota, "QuotaExceeded", ["exceeded quota: small", "spec.traffic.router.replicas"]),
    ],
)
def test_routers_that_do_not_come_are_told_and_the_canary_comes_once_they_do(
    happens: Callable[[World], None], reason: str, words: list[str]
) -> None:
    world, operator = begin({"replicas": 2, "rollout": {"strategy": "RollingUpdate"}})
    world.requests_per_second = 50
    happens(world)
    world.edit({**PATIENT, "traffic": {"router": {"image": NO_SUCH}}, **VERSION_2})
    run(operator, 20)
    assert world.conditions()["Degraded"] == ("True", reason)
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert world.conditions()["Promoted"] == ("False", "InProgress")
    for text in (world.message("Degraded"), world.message("Promoted")):
        assert "routers: " in text
        for word in words:
            assert word in text
    assert [event["reason"] for event in world.events].count(reason) == 1
    assert status(world).get("rejected", []) == []
    assert world.ready_by_version().keys() <= {OLD, 2}
    world.unpullable, world.are_routers_unschedulable, world.quota = set(), False, None
    until(operator, lambda: weights(world)[1] == 25, 90)
    assert world.conditions()["Degraded"] == ("False", "AsExpected")
    assert world.lost == 0


def test_a_model_serves_without_its_routers_and_says_so() -> None:
    world, operator = begin({**PATIENT, "traffic": {"router": {"image": NO_SUCH}}}, World(unpullable={NO_SUCH}), 60)
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert world.conditions()["Degraded"] == ("True", "ImagePullFailed")
    assert writes_of(operator, 30) == []
    world.unpullable = set()
    run(operator, 30)
    assert world.conditions()["Degraded"] == ("False", "AsExpected")
    assert phase(world) == "Ready"
    assert weights(world) == (100, None)


def test_routers_that_nothing_needs_any_more_trouble_nobody() -> None:
    world, operator = begin({**PATIENT, "traffic": {"router": {"image": NO_SUCH}}}, World(unpullable={NO_SUCH}), 30)
    world.edit({"rollout": {"steps": None}, "traffic": None})
    run(operator, 30)
    assert world.conditions()["Degraded"] == ("False", "AsExpected")
    assert world.routers() == []
