"""Whatever people, nodes and the network do, in any order and at any time: laws that hold meanwhile, and the end.

Drawn by hypothesis: a ModelDeployment, then things that happen to it, seconds apart; operators die among them. Then all
is well again, and a person wants what was there at first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.simulation.agents import LOAD_FAILED
from tests.transition.operators import Operator, live_on, run, writes_of
from tests.transition.test_canary import GOLDEN, RESULT, UNWRITTEN, canary_of, phase, serving, status
from tests.transition.test_transitions import assert_at_rest, assert_healthy
from tests.transition.world import World
from tests.unit.specs import IMAGES, NAME, merged

Json = dict[str, Any]

NOBODY = "0123456789"
STEPS: tuple[list[Json], ...] = (
    [{"weight": 25, "holdSeconds": 3}, {"weight": 50}],
    [{"weight": 25}, {"pause": {}}, {"weight": 100}],
    [{"weight": 10}, {"weight": 25}, {"weight": 75, "holdSeconds": 5}],
    [{"weight": 50}],
    [{"weight": 100}],
)
HOLDS: Json = merged(RESULT, {"rollout": {"analysis": {"onInconclusive": "Hold"}}})
EXTRA: tuple[Json, ...] = ({}, RESULT, GOLDEN, HOLDS, UNWRITTEN)
HEALS_SECONDS = 150

SPECS = st.builds(
    lambda replicas, steps, bake_seconds, provider, surge, extra: merged(
        {
            "replicas": replicas,
            "traffic": {"provider": provider},
            "rollout": {"steps": steps, "bakeSeconds": bake_seconds, "surge": surge if replicas > 1 else "Pods"},
        },
        extra,
    ),
    st.integers(1, 4),
    st.sampled_from(STEPS),
    st.sampled_from((0, 2, 8, 60)),
    st.sampled_from(("Router", "Router", "Replicas")),
    st.sampled_from(("Pods", "Pods", "Swap")),
    st.sampled_from(EXTRA),
)


def serve(number: int) -> Callable[[World], None]:
    return lambda world: world.edit({"model": {"version": number}})


def scale(replicas: int) -> Callable[[World], None]:
    """Swap needs two."""
    return lambda world: world.edit({"replicas": max(replicas, 2 if surges(world) == "Swap" else 1)})


def surges(world: World) -> str:
    return str(world.deployment()["spec"]["rollout"].get("surge"))


def say(verb: str) -> Callable[[World], None]:
    """About the revision that it would be about; the command's name is the moment, so that each is another."""

    def act(world: World) -> None:
        found = status(world)
        rejected = (found.get("rejected") or [{}])[-1]
        (about,) = {
            "retry": [rejected],
            "rollback": [found.get("previous") or rejected],
        }.get(verb, [found.get("canary") or found.get("stable") or {}])
        world.command(verb, about.get("revision", NOBODY), world.seconds)

    return act


def is_so(name: str, value: Any) -> Callable[[World], None]:
    return lambda world: setattr(world, name, value)


def errs(number: int, rate: float) -> Callable[[World], None]:
    return lambda world: world.error_rate.update({number: rate})


def a_router_goes(world: World) -> None:
    if len(routers := world.routers()) > 1:
        world.end(routers[0])


HAPPENINGS: dict[str, Callable[[World], None]] = {
    **{f"version {number}": serve(number) for number in (1, 2, 3)},
    **{f"{replicas} replicas": scale(replicas) for replicas in (1, 2, 5)},
    **{verb: say(verb) for verb in ("promote", "abort", "skip", "pause", "resume", "retry", "rollback", "refresh")},
    **dict.fromkeys(("this release", "another release"), lambda world: None),
    "by routers": lambda world: world.edit({"traffic": {"provider": "Router"}}),
    "by replicas": lambda world: world.edit({"traffic": {"provider": "Replicas"}}),
    "no steps": lambda world: world.edit({"rollout": {"steps": None, "surge": "Pods"}}),
    "other steps": lambda world: world.edit({"rollout": {"steps": [{"weight": 25}, {"weight": 50}]}}),
    "version 2 errs": errs(2, 0.5),
    "version 3 errs": errs(3, 0.05),
    "a router goes": a_router_goes,
    "routers are silent": is_so("are_silent", True),
    "routers answer": is_so("are_silent", False),
    "agents are silent": is_so("are_mute", True),
    "agents answer": is_so("are_mute", False),
    "a kubelet is late": is_so("is_deaf", True),
}
RELEASES = {"this release": IMAGES, "another release": replace(IMAGES, agent="agent:2", router="router:2")}
"""The images of the operator that comes then."""
STORIES = st.lists(
    st.tuples(st.sampled_from(list(HAPPENINGS)), st.sampled_from((1, 2, 3, 5, 10, 30)), st.integers(0, 8)),
    min_size=2,
    max_size=8,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spec=SPECS, story=STORIES)
def test_whatever_happens_no_request_is_lost_and_what_a_person_wants_serves_in_the_end(
    spec: Json, story: list[tuple[str, int, int]]
) -> None:
    world, operator = serving(spec)
    for name, seconds, death in story:
        HAPPENINGS[name](world)
        operator = Operator(world, RELEASES[name]) if name in RELEASES else operator
        if death:  # the operator ends at that write, if there are so many
            world.end_at = (world.requests + death, True)
        operator = live(operator, seconds)
    event(f"then: {phase(world)}")
    heal(world)
    operator = live(Operator(world), HEALS_SECONDS)
    if phase(world) == "RolledBack":
        revision = (status(world).get("pinned") or {}).get("insteadOf") or status(world)["rejected"][-1]["revision"]
        world.command("retry", revision, world.seconds)
        operator = live(operator, HEALS_SECONDS)

    assert phase(world) == "Ready", status(world)
    assert (status(world)["stable"]["version"], world.conditions()["Promoted"]) == (1, ("True", "Promoted"))
    assert {*world.named("Deployment")} - {f"{NAME}-router"} == {f"{NAME}-{status(world)['stable']['workload']}"}
    assert writes_of(Operator(world), 30) == []
    assert world.lost == 0


def live(operator: Operator, seconds: int) -> Operator:
    """Second by second, under the laws of weights. Returns the operator that lives."""
    world = operator.world
    for _ in range(seconds):
        before = len(world.routed)
        operator = live_on(operator, 1)
        for weights in world.routed[before:]:
            assert sum(weights.values()) == 100
            assert sum(weight > 0 for weight in weights.values()) <= 2, "two canaries have requests"
    return operator


def heal(world: World) -> None:
    """All answer and are well, and a person wants version 1 without a pause."""
    world.end_at, world.are_silent, world.are_mute, world.is_deaf = None, False, False, False
    world.error_rate.clear()
    world.edit({"model": {"version": 1}, "rollout": {"steps": [{"weight": 50}], "bakeSeconds": 1}})
    canary = canary_of(world) if status(world).get("canary") else NOBODY
    world.command("resume", canary, world.seconds)


# ---- without steps: in place and pod by pod


def asks(*edits: Json) -> Callable[[World], None]:
    def act(world: World) -> None:
        for edit in edits:
            world.edit(edit)

    return act


def lose(number: int) -> Callable[[World], None]:
    """Someone deletes one of our objects."""

    def act(world: World) -> None:
        if ours := [slot for slot in sorted(world.objects) if slot[0] != "ModelDeployment"]:
            world.lose(*ours[number % len(ours)])

    return act


SETS = [set(each) for size in range(4) for each in itertools.combinations((1, 2, 3), size)]
WITHOUT_STEPS: dict[str, Callable[[World], None]] = {
    **{f"version {number}": serve(number) for number in (1, 2, 3)},
    **{f"{replicas} replicas": asks({"replicas": replicas}) for replicas in (1, 2, 3, 4)},
    "the newest": asks({"versionPolicy": None}),
    "all versions": asks({"versionPolicy": None}, {"versionPolicy": {"all": {}}}),
    "two versions": asks({"versionPolicy": None}, {"versionPolicy": {"latest": {"count": 2}}}),
    **{
        f"from {place}": asks({"model": {"uri": place}})
        for place in ("pvc://models/digits", "pvc://models/others", "ftp://models")
    },
    **{f"object {number} goes": lose(number) for number in range(10)},
    "status is lost": World.lose_status,
    **{f"{versions} broken": is_so("broken", dict.fromkeys(versions, LOAD_FAILED)) for versions in SETS},
    **{f"{versions} without a node": is_so("unschedulable", versions) for versions in SETS},
    **{f"a quota of {quota}": is_so("quota", quota) for quota in (None, 2, 3)},
}
LAGS = st.sampled_from((None, None, None, None, 0, 3))
"""Another operator starts, with watches so many seconds late."""


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([None, "RollingUpdate"]),
    st.lists(
        st.tuples(st.sampled_from(list(WITHOUT_STEPS)), st.sampled_from([0, 1, 2, 5, 8, 30]), st.integers(0, 3), LAGS),
        max_size=12,
    ),
)
def test_whatever_happened_the_spec_serves_in_the_end_and_it_stays_so(
    strategy: str | None, story: list[tuple[str, int, int, int | None]]
) -> None:
    world = World()
    world.edit({"replicas": 2, "rollout": {"strategy": strategy, "progressDeadlineSeconds": 20, "bakeSeconds": 10}})
    operator = Operator(world)
    for name, seconds, death, lag_seconds in story:
        operator = operator if lag_seconds is None else Operator(world, lag_seconds=lag_seconds)
        WITHOUT_STEPS[name](world)
        if death:
            world.end_at = (world.requests + death, True)
        operator = live_on(operator, seconds)
    world.end_at, world.broken, world.unschedulable, world.quota = None, {}, set(), None
    world.edit({"model": {"uri": "pvc://models/digits"}})
    run(operator, 200)
    if world.conditions()["Promoted"] == ("False", "RolledBack"):
        assert sum(world.ready_by_version().values()) >= world.deployment()["spec"]["replicas"]
        assert_at_rest(operator)
        world.edit({"runtime": {"args": ["--another-revision"]}})
        run(operator, 200)
    spec = world.deployment()["spec"]
    assert_healthy(world, spec["model"]["version"], spec["replicas"])
    assert len(world.named("Deployment")) == len(world.named("ConfigMap")) == 1
    assert world.named("Service") == [NAME, f"{NAME}-metrics"]
    assert_at_rest(operator)
