"""Whatever people, nodes and the network do, in any order and at any time: laws that hold meanwhile, and the end.

Drawn by hypothesis: a ModelDeployment, then things that happen to it, seconds apart; operators die among them. Then all
is well again, and a person wants what was there at first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.transition.api_server import OperatorEndedError
from tests.transition.operators import Operator, run, writes_of
from tests.transition.test_canary import GOLDEN, RESULT, canary_of, phase, serving, status
from tests.transition.world import World
from tests.unit.specs import NAME, merged

Json = dict[str, Any]

NOBODY = "0123456789"
STEPS: tuple[list[Json], ...] = (
    [{"weight": 25, "holdSeconds": 3}, {"weight": 50}],
    [{"weight": 25}, {"pause": {}}, {"weight": 100}],
    [{"weight": 10}, {"weight": 25}, {"weight": 75, "holdSeconds": 5}],
    [{"weight": 50}],
    [{"weight": 100}],
)
EXTRA: tuple[Json, ...] = ({}, RESULT, GOLDEN, merged(RESULT, {"rollout": {"analysis": {"onInconclusive": "Hold"}}}))
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
        told = status(world)
        rejected = (told.get("rejected") or [{}])[-1]
        (about,) = {
            "retry": [rejected],
            "rollback": [told.get("previous") or rejected],
        }.get(verb, [told.get("canary") or told.get("stable") or {}])
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
    **{verb: say(verb) for verb in ("promote", "abort", "skip", "pause", "resume", "retry", "rollback")},
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
    """Second by second; who ends is followed by another. Returns the one that lives."""
    world = operator.world
    for _ in range(seconds):
        told = len(world.routed)
        try:
            run(operator, 1)
        except OperatorEndedError:
            world.end_at, operator = None, Operator(world)
        for weights in world.routed[told:]:
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
