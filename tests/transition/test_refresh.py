"""A person's refresh: the same revision on today's agent and images, pod by pod; and what an upgrade does without one.

In the transition tests' world the Deployments' controller rolls a changed template as Kubernetes does (world.py).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from prometheus_client import REGISTRY

from slipway.render.pod_template import Images
from tests.simulation.agents import LOAD_FAILED
from tests.simulation.pods import is_router
from tests.transition.api_server import OperatorEndedError
from tests.transition.operators import Operator, begin, run, until, writes_of
from tests.transition.test_canary import BAKE_SECONDS, RESULT, arriving, status
from tests.transition.world import World
from tests.unit.specs import IMAGES, NAME, NAMESPACE

Json = dict[str, Any]

TODAY = replace(IMAGES, agent="registry.invalid/agent:next", router="registry.invalid/router:next")
BROKEN = replace(IMAGES, agent="registry.invalid/agent:broken")
TWO: Json = {"replicas": 2}
IN_PLACE: Json = {"replicas": 2, "rollout": {"bakeSeconds": 20}}


def upgraded(spec: Json = TWO, images: Images = TODAY) -> tuple[World, Operator, str]:
    """A model that serves, an operator of another release, and the stable revision."""
    world, _ = begin(spec)
    world.requests_per_second = 10
    operator = Operator(world, images)
    run(operator, 5)
    return world, operator, stable(world)


def stable(world: World) -> str:
    return str(status(world)["stable"]["revision"])


def agents(world: World) -> list[str]:
    """The agent's image in each of the model's pods."""
    return sorted(pod["images"][0] for pod in world.pods() if not is_router(pod))


def said(world: World) -> tuple[bool, str]:
    last = status(world).get("lastCommand") or {}
    return bool(last.get("accepted")), str(last.get("message", ""))


def is_refreshed(world: World, images: Images = TODAY, count: int = 2) -> bool:
    is_over = world.conditions()["Reconciling"] == ("False", "AsExpected")
    return agents(world) == [images.agent] * count and is_over


def test_a_new_operator_restarts_no_pod_and_says_what_a_refresh_would_change() -> None:
    world, operator, _ = upgraded()
    pods = [pod["metadata"]["uid"] for pod in world.pods()]
    run(operator, 60)
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods
    assert world.conditions()["AgentsOutdated"] == ("False", "RefreshAvailable")
    assert f"image of agent {IMAGES.agent} becomes {TODAY.agent}" in world.message("AgentsOutdated")
    assert writes_of(operator) == []


def test_a_refresh_replaces_pods_one_by_one_and_loses_nothing() -> None:
    world, operator, revision = upgraded()
    number = len(world.named("ControllerRevision"))
    world.command("refresh", revision)
    run(operator, 1)
    accepted, words = said(world)
    assert accepted
    assert f"image of agent {IMAGES.agent} becomes {TODAY.agent}" in words
    assert world.conditions()["Reconciling"] == ("True", "Refreshing")
    run(operator, 40)
    assert world.least_ready >= 2
    assert is_refreshed(world)
    assert world.lost == 0
    assert stable(world) == revision
    assert len(world.named("ControllerRevision")) == number
    assert world.conditions()["AgentsOutdated"] == ("False", "AsExpected")
    assert writes_of(operator) == []


def test_with_one_replica_the_new_pod_is_ready_first() -> None:
    world, operator, revision = upgraded({"replicas": 1})
    world.command("refresh", revision)
    run(operator, 40)
    assert world.least_ready >= 1
    assert is_refreshed(world, count=1)
    assert world.lost == 0


def test_it_is_carried_out_once_whatever_operator_comes_after() -> None:
    world, operator, revision = upgraded()
    world.command("refresh", revision)
    until(operator, lambda: is_refreshed(world))
    successor = Operator(world, replace(TODAY, agent="registry.invalid/agent:after-next"))
    run(successor, 60)
    assert agents(world) == [TODAY.agent] * 2


def test_where_nothing_differs_no_pod_is_restarted_and_that_is_said() -> None:
    world, operator = begin(TWO)
    pods = [pod["metadata"]["uid"] for pod in world.pods()]
    world.command("refresh", stable(world))
    run(operator, 20)
    accepted, words = said(world)
    assert accepted
    assert "nothing to refresh" in words
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods


def test_what_a_revision_is_stays_in_its_controller_revision_and_the_template_beside_it() -> None:
    world, operator, revision = upgraded()
    before = world.objects["ControllerRevision", f"{NAME}-{revision}"]["data"]
    world.command("refresh", revision)
    until(operator, lambda: is_refreshed(world))
    kept = world.objects["ControllerRevision", f"{NAME}-{revision}"]
    assert kept["data"] == before
    assert "slipway.dev/refreshed" in kept["metadata"]["annotations"]


# ---- in each phase


def test_beside_a_canary_it_is_refused_in_words_and_nothing_moves() -> None:
    world, _ = arriving({"rollout": {"steps": [{"weight": 25, "holdSeconds": 600}]}})
    operator = Operator(world, TODAY)
    run(operator, 5)
    pods = [pod["metadata"]["uid"] for pod in world.pods()]
    for number, revision in enumerate((stable(world), status(world)["canary"]["revision"]), 1):
        world.command("refresh", revision, number)
        run(operator, 5)
        assert not said(world)[0]
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods
    assert world.lost == 0


def test_beside_a_paused_canary_it_is_refused_too() -> None:
    world, operator = arriving({"rollout": {"steps": [{"weight": 25}, {"pause": {}}]}})
    until(operator, lambda: status(world)["phase"] == "Paused")
    world.command("refresh", stable(world))
    run(operator, 5)
    accepted, words = said(world)
    assert not accepted
    assert "is taking over" in words


def test_in_bake_it_is_refused_and_after_it_works() -> None:
    world, operator = arriving({"rollout": {"bakeSeconds": 4 * BAKE_SECONDS}})
    until(operator, lambda: "previous" in status(world))
    operator = Operator(world, TODAY)
    world.command("refresh", stable(world))
    run(operator, 2)
    accepted, words = said(world)
    assert not accepted
    assert "bakes" in words
    until(operator, lambda: "previous" not in status(world), 200)
    world.command("refresh", stable(world), 2)
    until(operator, lambda: set(agents(world)) == {TODAY.agent}, 120)
    assert world.lost == 0


def test_said_together_with_an_edit_the_edit_goes_first() -> None:
    world, operator, revision = upgraded()
    world.edit({"model": {"version": 2}})
    world.command("refresh", revision)
    run(operator, 2)
    assert not said(world)[0]


def test_routers_are_made_anew_with_it() -> None:
    world, operator = arriving(RESULT)
    until(operator, lambda: world.conditions()["Promoted"] == ("True", "Promoted"), 300)
    operator = Operator(world, TODAY)
    run(operator, 10)
    assert {image for pod in world.routers() for image in pod["images"]} == {IMAGES.router}
    world.command("refresh", stable(world))
    until(operator, lambda: {image for pod in world.routers() for image in pod["images"]} == {TODAY.router})
    run(operator, 30)
    assert world.lost == 0
    assert writes_of(operator) == []


def test_while_the_specs_revision_is_rejected_stable_is_refreshed_and_nothing_is_tried_again() -> None:
    world, _ = begin({"replicas": 2, "rollout": {"strategy": "RollingUpdate"}})
    world.broken = {2: LOAD_FAILED}
    operator = Operator(world, TODAY)
    world.edit({"model": {"version": 2}})
    until(operator, lambda: world.conditions()["Promoted"] == ("False", "RolledBack"))
    world.command("refresh", stable(world))
    run(operator, 1)
    assert world.conditions()["Reconciling"] == ("True", "Refreshing")
    until(operator, lambda: agents(world) == [TODAY.agent] * 2)
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert world.ready_by_version() == {1: 2}
    assert world.lost == 0


def test_at_zero_replicas_the_next_pods_have_it() -> None:
    world, _ = begin({"replicas": 2})
    world.edit({"replicas": 0})
    operator = Operator(world, TODAY)
    run(operator, 20)
    world.command("refresh", stable(world))
    run(operator, 5)
    assert said(world)[0]
    assert world.conditions()["Ready"] == ("False", "ScaledToZero")
    world.edit({"replicas": 2})
    until(operator, lambda: is_refreshed(world))


def test_what_arrived_in_place_goes_back_in_place_after_a_refresh() -> None:
    """Both revisions share their pods, so they share the template."""
    world, operator, first = upgraded(IN_PLACE)
    world.edit({"model": {"version": 2}})
    until(operator, lambda: stable(world) != first and "bakeUntil" not in status(world), 120)
    assert agents(world) == [IMAGES.agent] * 2
    world.command("refresh", stable(world))
    until(operator, lambda: is_refreshed(world))
    pods = [pod["metadata"]["uid"] for pod in world.pods()]
    world.command("rollback", first, 2)
    until(operator, lambda: world.ready_by_version() == {1: 2} and stable(world) == first, 120)
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods
    assert world.lost == 0


def test_a_revision_that_comes_in_place_after_it_takes_the_new_pods_over() -> None:
    world, operator, revision = upgraded(IN_PLACE)
    world.command("refresh", revision)
    until(operator, lambda: is_refreshed(world))
    pods = [pod["metadata"]["uid"] for pod in world.pods()]
    world.edit({"model": {"version": 2}})
    until(operator, lambda: world.ready_by_version() == {2: 2}, 120)
    run(operator, 60)
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods
    assert world.lost == 0


def test_an_edit_while_pods_are_being_replaced_is_carried_out_and_loses_nothing() -> None:
    world, operator, revision = upgraded({"replicas": 4})
    world.command("refresh", revision)
    run(operator, 4)
    world.edit({"model": {"version": 2}})
    until(operator, lambda: world.ready_by_version() == {2: 4} and set(agents(world)) == {TODAY.agent}, 200)
    assert world.lost == 0


def test_a_rollback_by_pods_comes_back_to_what_that_revision_was_refreshed_to() -> None:
    world, operator, first = upgraded({"replicas": 2, "rollout": {"strategy": "RollingUpdate"}})
    world.command("refresh", first)
    until(operator, lambda: is_refreshed(world))
    world.edit({"model": {"version": 2}})
    until(operator, lambda: world.ready_by_version() == {2: 2}, 120)
    world.command("rollback", first, 2)
    until(operator, lambda: world.ready_by_version() == {1: 2} and len(world.pods()) == 2, 120)
    assert agents(world) == [TODAY.agent] * 2


# ---- what goes wrong


def broken(spec: Json = TWO) -> tuple[World, Operator, str]:
    """A refresh onto an agent's image that no node can pull."""
    world, operator, revision = upgraded(spec, BROKEN)
    world.unpullable.add(BROKEN.agent)
    world.command("refresh", revision)
    run(operator, 20)
    return world, operator, revision


def test_an_image_that_cannot_be_pulled_costs_no_old_pod_and_is_told_with_the_way_back() -> None:
    world, operator, _ = broken()
    run(operator, 60)
    assert world.ready_by_version() == {1: 2}
    assert world.lost == 0
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert world.conditions()["Degraded"] == ("True", "ImagePullFailed")
    assert world.conditions()["Reconciling"] == ("True", "Refreshing")
    assert f"kubectl slipway abort {NAME}" in world.message("Reconciling")


def test_an_abort_goes_back_to_the_pods_before() -> None:
    world, operator, revision = broken()
    serving = {pod["metadata"]["uid"] for pod in world.pods() if BROKEN.agent not in pod["images"]}
    world.command("abort", revision, 2)
    until(operator, lambda: is_refreshed(world, IMAGES))
    assert {pod["metadata"]["uid"] for pod in world.pods()} == serving
    assert world.conditions()["Degraded"] == ("False", "AsExpected")
    assert said(world)[0]
    assert world.lost == 0
    world.command("abort", revision, 3)
    run(operator, 3)
    assert not said(world)[0]


def test_once_the_operator_has_the_right_image_another_refresh_goes_on() -> None:
    world, _, revision = broken()
    operator = Operator(world, TODAY)
    world.command("refresh", revision, 2)
    until(operator, lambda: is_refreshed(world))
    assert world.lost == 0


def test_an_abort_of_the_second_refresh_goes_back_to_what_served_not_to_the_first() -> None:
    world, _, revision = broken()
    other = replace(IMAGES, agent="registry.invalid/agent:broken-too")
    world.unpullable.add(other.agent)
    operator = Operator(world, other)
    world.command("refresh", revision, 2)
    run(operator, 10)
    world.command("abort", revision, 3)
    until(operator, lambda: is_refreshed(world, IMAGES))
    assert world.lost == 0


def test_a_refresh_back_to_the_images_before_restarts_none_of_the_pods_that_have_them() -> None:
    world, _, revision = broken()
    serving = {pod["metadata"]["uid"] for pod in world.pods() if BROKEN.agent not in pod["images"]}
    operator = Operator(world, IMAGES)
    world.command("refresh", revision, 2)
    until(operator, lambda: is_refreshed(world, IMAGES))
    assert {pod["metadata"]["uid"] for pod in world.pods()} == serving


def test_a_first_revision_that_never_came_up_is_mended_by_a_refresh() -> None:
    world = World()
    world.unpullable.add(BROKEN.agent)
    world.edit(TWO)
    run(Operator(world, BROKEN), 20)
    operator = Operator(world, TODAY)
    run(operator, 5)
    world.command("refresh", status(world)["canary"]["revision"])
    until(operator, lambda: is_refreshed(world))


def test_without_a_free_gpu_it_waits_and_says_so() -> None:
    world, operator, revision = upgraded()
    world.command("refresh", revision)
    until(operator, lambda: len(world.pods()) == 3)
    world.homeless = {pod["metadata"]["name"] for pod in world.pods() if TODAY.agent in pod["images"]}
    run(operator, 30)
    assert world.ready_by_version() == {1: 2}
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert world.conditions()["Reconciling"] == ("True", "WaitingForCapacity")
    world.homeless = set()
    until(operator, lambda: is_refreshed(world))
    assert world.lost == 0


def test_after_a_lost_status_a_standing_refresh_restarts_nothing() -> None:
    world, operator, revision = upgraded()
    world.command("refresh", revision)
    until(operator, lambda: is_refreshed(world))
    pods = [pod["metadata"]["uid"] for pod in world.pods()]
    world.lose_status()
    successor = Operator(world, replace(TODAY, agent="registry.invalid/agent:after-next"))
    run(successor, 60)
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods
    accepted, words = said(world)
    assert not accepted
    assert "status was lost" in words


# ---- agents that are too old


def test_agents_of_an_older_release_are_named_once_asked_and_a_refresh_ends_that() -> None:
    world, _ = begin(TWO)
    for agent in world._agents.values():
        agent.is_old = True
    for part in ("agents", "conditions"):  # as the operator before wrote it, which didn't ask
        kept = status(world)[part]
        status(world)[part] = (
            [each for each in kept if each["type"] != "AgentsOutdated"] if part == "conditions" else None
        )
    operator = Operator(world, TODAY)
    assert {write.kind for write in writes_of(operator, 60)} == {"ModelDeployment"}
    assert world.conditions()["AgentsOutdated"] == ("True", "AgentsTooOld")
    assert all(pod["metadata"]["name"] in world.message("AgentsOutdated") for pod in world.pods())
    assert world.conditions()["Degraded"] == ("False", "AsExpected")
    assert outdated() == 2
    assert writes_of(operator) == []
    world.command("refresh", stable(world))
    until(operator, lambda: is_refreshed(world))
    assert world.conditions()["AgentsOutdated"] == ("False", "AsExpected")
    assert outdated() is None


def test_what_is_known_of_agents_stands_while_an_operator_has_nothing_to_ask() -> None:
    world, _ = begin(TWO)
    for agent in world._agents.values():
        agent.is_old = True
    status(world)["agents"] = None
    run(Operator(world), 30)
    world.are_mute = True
    successor = Operator(world)
    run(successor, 30)
    assert world.conditions()["AgentsOutdated"] == ("True", "AgentsTooOld")
    assert outdated() == 2
    world.lose("ModelDeployment", NAME)
    run(successor, 5)
    assert outdated() is None


def outdated() -> float | None:
    """The gauge; None: there is no series."""
    return REGISTRY.get_sample_value("slipway_agents_outdated", {"namespace": NAMESPACE, "name": NAME})


# ---- an operator that ends


def ended_after(number: int, verb: str, *, is_answered: bool = True) -> Json | None:
    """What comes of a command when the operator ends at that write; None: it makes fewer.

    is_answered: after the write; else before it.
    """
    images = BROKEN if verb == "abort" else TODAY
    world = copy.deepcopy(_before(verb))
    operator = Operator(world, images)
    run(operator, 1)
    world.command(verb, stable(world), 9)
    world.end_at = (world.requests + number, is_answered) if number else None
    try:
        run(operator, 30)
        if number:
            return None
    except OperatorEndedError:
        run(Operator(world, images), 30)
    assert world.lost == 0
    kept = {name: live["metadata"] for (kind, name), live in world.objects.items() if kind == "ControllerRevision"}
    refreshed = {name: meta.get("annotations", {}).get("slipway.dev/refreshed") for name, meta in kept.items()}
    return {**world.state(), "refreshed": refreshed}


@cache
def _before(verb: str) -> World:
    """Where the command is said: two revisions share their pods."""
    world, operator, _ = broken(IN_PLACE) if verb == "abort" else upgraded(IN_PLACE)
    if verb == "refresh":
        world.edit({"model": {"version": 2}})
        until(operator, lambda: status(world)["version"] == 2 and "bakeUntil" not in status(world), 120)
        assert len(world.named("ControllerRevision")) == 2
    return world


@pytest.mark.parametrize("verb", ["refresh", "abort"])
@pytest.mark.parametrize("is_answered", [True, False])
def test_whenever_the_operator_ends_the_next_one_arrives_at_the_same(verb: str, *, is_answered: bool) -> None:
    undisturbed = ended_after(0, verb)
    number = 1
    while (found := ended_after(number, verb, is_answered=is_answered)) is not None:
        assert found == undisturbed, number
        number += 1
    assert number > 3
