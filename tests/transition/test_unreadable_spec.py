"""A spec that can't be read: what runs is judged, steered and taken back by the last one that could be.

Each world has a canary at a quarter of the requests, and then a person makes a mistake.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from slipway.controller.kube import ClusterError
from tests.transition.api_server import Write
from tests.transition.operators import Operator, begin, run, until, writes_of
from tests.transition.test_canary import (
    BAKE_SECONDS,
    ELSEWHERE,
    LONG,
    NEW,
    OLD,
    RESULT,
    VERSION_2,
    arriving,
    assert_rested,
    canary_of,
    phase,
    replaced,
    serving,
    status,
    until_ready,
)
from tests.transition.test_transitions import stable_of
from tests.transition.world import World
from tests.unit.specs import NAME

Json = dict[str, Any]

FALLING: Json = {"rollout": {"steps": [{"weight": 20}, {"weight": 10}]}}
UNREADABLE = [
    pytest.param(FALLING, "InvalidSpec", id="a rule is broken"),
    pytest.param({"modle": {"version": 3}}, "InvalidSpec", id="no such field"),
    pytest.param({"model": {"uri": None}}, "InvalidSpec", id="a field is missing"),
    pytest.param({"replicas": "many"}, "InvalidSpec", id="no number"),
    pytest.param({"runtime": {"gpuMemoryFraction": 0.5}}, "NotSupportedByRuntime", id="not for this server"),
    pytest.param(
        {"traffic": {"provider": "Replicas", "router": {}}}, "NotSupportedByProvider", id="not for this provider"
    ),
    pytest.param({"podTemplate": {"spec": {"volumes": [{"name": "a"}, {"name": "a"}]}}}, "InvalidSpec", id="doubled"),
]


def told(world: World) -> Json:
    """The condition Promoted, whole."""
    found: Json = next(each for each in status(world)["conditions"] if each["type"] == "Promoted")
    return found


def assert_says_so(world: World, reason: str) -> None:
    """Whoever looks sees that today's spec isn't carried out."""
    assert world.conditions()["Promoted"] == ("False", reason)
    assert world.conditions()["Degraded"] == ("True", reason)
    assert told(world)["observedGeneration"] == world.deployment()["metadata"]["generation"]
    assert status(world)["observedGeneration"] == world.deployment()["metadata"]["generation"]


@pytest.mark.parametrize(("mistake", "reason"), UNREADABLE)
def test_a_bad_canary_is_judged_and_taken_back(mistake: Json, reason: str) -> None:
    world, operator = arriving(RESULT, LONG)
    bad = canary_of(world)
    world.edit(mistake)
    run(operator, 2)
    assert_says_so(world, reason)
    assert f"revision {bad} goes on taking over by the last spec that could be read" in world.message("Promoted")
    assert f"kubectl slipway abort {NAME}" in world.message("Promoted")
    world.error_rate = {NEW: 0.5}
    until(operator, lambda: bool(status(world).get("rejected")), 30)
    assert status(world)["rejected"][0]["revision"] == bad
    assert_rested(world, operator, OLD)
    assert_says_so(world, reason)
    assert "was taken back" in world.message("Promoted")
    assert "abort" not in world.message("Promoted")
    assert [event["reason"] for event in world.events].count("RolledBack") == 1


@pytest.mark.parametrize(("mistake", "reason"), UNREADABLE)
def test_a_person_aborts(mistake: Json, reason: str) -> None:
    world, operator = arriving(LONG)
    bad = canary_of(world)
    world.edit(mistake)
    run(operator, 2)
    world.command("abort", bad)
    until(operator, lambda: (status(world).get("lastCommand") or {}).get("accepted") is True, 3)
    assert status(world)["rejected"][0]["reason"] == "Aborted"
    assert_rested(world, operator, OLD)
    assert_says_so(world, reason)


def test_a_person_promotes_pauses_and_goes_back() -> None:
    world, operator = arriving(LONG)
    first = stable_of(world)
    world.edit(FALLING)
    run(operator, 2)
    world.command("pause", canary_of(world), 1)
    run(operator, 3)
    assert status(world)["step"]["paused"] is True
    world.command("promote", canary_of(world), 2)
    until(operator, lambda: status(world)["stable"]["version"] == NEW)
    run(operator, BAKE_SECONDS + 6)
    assert_rested(world, operator, NEW)
    assert_says_so(world, "InvalidSpec")
    world.command("rollback", first, 3)
    until(operator, lambda: stable_of(world) == first)
    run(operator, BAKE_SECONDS + 6)
    assert_rested(world, operator, OLD)


def test_a_good_canary_goes_through_its_steps() -> None:
    world, operator = arriving()
    world.edit({"modle": {}})
    until(operator, lambda: status(world)["stable"]["version"] == NEW)
    run(operator, BAKE_SECONDS + 6)
    assert_rested(world, operator, NEW)
    assert_says_so(world, "InvalidSpec")


def test_what_else_stands_in_the_unreadable_spec_counts_once_it_can_be_read() -> None:
    world, operator = replaced()[:2]
    world.edit({"modle": {}, "replicas": 3, "model": {"version": 3}})
    run(operator, 20)
    assert world.ready_by_version() == {NEW: 2}
    assert status(world)["ready"] == "2/2"
    world.edit({"modle": None})
    until(operator, lambda: status(world)["stable"]["version"] == 3, 90)
    until_ready(operator)
    assert_rested(world, operator, 3, 3)


def test_one_mistake_after_another_is_told_with_its_generation_and_writes_nothing_else() -> None:
    world, operator = replaced()[:2]
    mistakes: list[Json] = [{"modle": {}}, {"replicas": -1}, FALLING]
    for mistake in mistakes:
        world.edit(mistake)
        assert writes_of(operator, 30) == [Write("status", "ModelDeployment", NAME)]
        assert_says_so(world, "InvalidSpec")


def test_lost_pods_and_objects_are_made_anew_and_a_restart_changes_nothing() -> None:
    world, operator = replaced()[:2]
    before = world.state()
    world.edit(FALLING)
    run(operator, 2)
    operator = Operator(world)
    world.lose("Deployment", f"{NAME}-{stable_of(world)}")
    world.tamper("Deployment", f"{NAME}-router", {"spec": {"replicas": 5}})
    run(operator, 20)
    assert world.ready_by_version() == {NEW: 2}
    assert len(world.routers()) == 2
    after = world.state()
    del before[f"ModelDeployment/{NAME}"], after[f"ModelDeployment/{NAME}"]
    assert after == before


def test_the_last_spec_is_kept_as_it_was_written_and_written_once() -> None:
    world, operator = begin({"replicas": 2, "rollout": {"bakeSeconds": 0}})

    def kept() -> Json:
        found: Json = json.loads(world.objects["Service", NAME]["metadata"]["annotations"]["slipway.dev/last-spec"])
        return found

    assert kept() == world.deployment()["spec"]
    world.edit({"replicas": 3})
    assert [write for write in writes_of(operator, 20) if write.kind == "Service"] == [Write("apply", "Service", NAME)]
    assert kept() == world.deployment()["spec"]
    world.edit({"modle": {}})
    assert [write for write in writes_of(operator, 20) if write.kind == "Service"] == []
    assert kept()["replicas"] == 3


@pytest.mark.parametrize(
    "annotation",
    [
        pytest.param(None, id="of a former release"),
        pytest.param("{", id="broken"),
        pytest.param("null", id="of no spec"),
        pytest.param('{"gone": 1}', id="not for this operator"),
    ],
)
def test_without_an_earlier_spec_what_serves_goes_on_as_it_is(annotation: str | None) -> None:
    world, operator = replaced()[:2]
    world.edit({"modle": {}})
    service = world.objects["Service", NAME]
    annotations = {} if annotation is None else {"slipway.dev/last-spec": annotation}
    world._store({**service, "metadata": {**service["metadata"], "annotations": annotations}})
    assert writes_of(operator, 20) == [Write("status", "ModelDeployment", NAME)]
    assert_says_so(world, "InvalidSpec")
    assert "last spec" not in world.message("Promoted")
    assert world.ready_by_version() == {NEW: 2}
    world.command("retry", stable_of(world))
    run(operator, 2)
    assert status(world)["lastCommand"]["accepted"] is False
    assert "correct it first" in status(world)["lastCommand"]["message"]
    world.edit({"modle": None})
    run(operator, 20)
    assert_rested(world, operator, NEW)


def test_a_spec_too_long_to_be_kept_leaves_no_older_one_in_its_place() -> None:
    world, operator = replaced()[:2]
    long = [{"name": f"LONG_{number}", "value": "x" * 8192} for number in range(30)]
    sidecar = {"name": "x", "image": "registry.example/x:1", "env": long}
    world.edit({"podTemplate": {"spec": {"containers": [sidecar]}}})
    run(operator, 60)
    assert world.objects["Service", NAME]["metadata"]["annotations"]["slipway.dev/last-spec"] == ""
    world.edit({"modle": {}})
    assert writes_of(operator, 20) == [Write("status", "ModelDeployment", NAME)]
    assert "last spec" not in world.message("Promoted")


# ---- golden requests that can't be read


@pytest.mark.parametrize("is_denied", [True, False])
def test_a_canary_whose_golden_requests_cannot_be_read_is_aborted(*, is_denied: bool) -> None:
    world, operator = serving(LONG, {"rollout": {"progressDeadlineSeconds": 300}})

    async def denied(kind: str, namespace: str, name: str) -> Json | None:
        raise ClusterError(f"read {kind}", 403, f'configmaps "{name}" is forbidden')

    if is_denied:
        world.read = denied  # type: ignore[method-assign]
    world.edit({**ELSEWHERE, **VERSION_2})
    run(operator, 10)
    assert world.conditions()["Promoted"] == ("False", "GoldenUnreadable")
    assert "ConfigMap questions" in world.message("Promoted")
    world.command("abort", canary_of(world))
    until(operator, lambda: phase(world) == "RolledBack", 3)
    assert status(world)["rejected"][0]["reason"] == "Aborted"
    assert_rested(world, operator, OLD)
