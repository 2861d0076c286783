"""By which steps a new revision gets its share: as asked, at their default, and as far as the provider can go."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.decide.steps import steps_of, unreachable_weights, wants_router
from slipway.model.rollout import Step
from tests.unit.specs import deployment

Json = dict[str, Any]


def steps(rollout: Json, replicas: int = 4, **more: Any) -> tuple[Step, ...]:
    return steps_of(deployment({"rollout": rollout, "replicas": replicas, **more}))


def shown(found: tuple[Step, ...]) -> list[tuple[int, int, int | None]]:
    """Weight, pods and hold of each."""
    return [(step.weight_percent, step.pods, step.hold_seconds) for step in found]


def test_where_no_steps_are_asked_for_there_are_none() -> None:
    assert steps({}) == steps({"strategy": "RollingUpdate"}) == ()


def test_a_canary_without_steps_has_some() -> None:
    assert shown(steps({"strategy": "Canary"})) == [(5, 1, 60), (25, 1, 60), (50, 2, 60), (100, 4, 0)]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param([{"weight": 20}, {"weight": 100}], [(20, 1, 0), (100, 4, 0)], id="as asked"),
        pytest.param([{"weight": 20, "holdSeconds": 9}], [(20, 1, 9), (100, 4, 0)], id="the last one is 100"),
        pytest.param(
            [{"weight": 50}, {"pause": {}}], [(50, 2, 0), (50, 2, None), (100, 4, 0)], id="a pause keeps the weight"
        ),
        pytest.param(
            [{"weight": 100}, {"pause": {"durationSeconds": 5}}],
            [(100, 4, 0), (100, 4, 5), (100, 4, 0)],
            id="a pause is no end",
        ),
        pytest.param([{"weight": 0}, {"weight": 51}], [(0, 0, 0), (51, 3, 0), (100, 4, 0)], id="pods are rounded up"),
    ],
)
def test_steps_lead_to_all_requests(asked: list[Json], found: list[tuple[int, int, int | None]]) -> None:
    assert shown(steps({"steps": asked})) == found


def test_with_swap_one_stable_pod_is_left_to_go_back_to() -> None:
    assert shown(steps({"steps": [{"weight": 50}], "surge": "Swap"}))[-1] == (100, 3, 0)


def test_by_the_ratio_of_pods_weights_are_what_pods_can_make() -> None:
    asked = {"steps": [{"weight": 5}, {"weight": 50}]}
    traffic = {"provider": "Replicas"}
    found = steps(asked, traffic=traffic)
    assert shown(found) == [(20, 1, 0), (50, 4, 0), (100, 4, 0)]
    whole = deployment({"rollout": asked, "replicas": 4, "traffic": traffic})
    assert "5" in unreachable_weights(whole)
    assert not wants_router(whole)
    assert unreachable_weights(deployment({"rollout": asked, "replicas": 4})) == ""
