"""Operators in turn, each of which ends at its first write: what one began, the next one goes on with.

Were one to take back what the one before it sent to the routers, they would flap for ever: an operator that is short
of memory, or a node that fails again and again, does this to a rollout. The same on a real API server, with writes
whose answer never came: tests/crash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.simulation.agents import LOAD_FAILED
from tests.transition.api_server import OperatorEndedError
from tests.transition.operators import Operator, run, until
from tests.transition.test_canary import (
    GOLDEN,
    LONG,
    NEW,
    NEWER,
    OLD,
    RESULT,
    SHORT,
    arriving,
    canary_of,
    phase,
    serving,
    status,
)
from tests.transition.test_in_place import following
from tests.transition.test_transitions import stable_of
from tests.transition.world import World
from tests.unit.specs import NAME

Json = dict[str, Any]

PAUSES: Json = {"rollout": {"steps": [{"weight": 25}, {"pause": {}}, {"weight": 100}], "bakeSeconds": 2}}
BAKES: Json = {"rollout": {"steps": [{"weight": 25}, {"weight": 100}], "bakeSeconds": 600}}
BY_REPLICAS: Json = {"traffic": {"provider": "Replicas"}}
ENOUGH_SECONDS = 45
LIVES_AT_MOST = 90


def served(*specs: Json) -> World:
    return serving(*specs)[0]


def paused() -> World:
    """The new version has 25 percent, and waits for a person."""
    world, operator = serving(PAUSES)
    world.edit({"model": {"version": NEW}})
    until(operator, lambda: phase(world) == "Paused" and "settled" in status(world))
    return world


def baking() -> World:
    world, operator = serving(BAKES)
    world.edit({"model": {"version": NEW}})
    until(operator, lambda: phase(world) == "Baking" and "settled" in status(world))
    return world


def baking_in_place() -> World:
    world, operator = following(1, bakeSeconds=600)
    world.at_source = {1, 2}
    until(operator, lambda: "bakeUntil" in status(world) and "settled" in status(world))
    return world


def former_of(world: World) -> str:
    """The revision that was stable before."""
    return str(next(each["revision"] for each in status(world)["transitions"] if each["reason"] == "Promoted"))


def rejected() -> World:
    world = paused()
    world.command("abort", canary_of(world))
    until(Operator(world), lambda: phase(world) == "RolledBack" and "settled" in status(world))
    return world


def asks_for(changes: Json) -> Callable[[World], None]:
    return lambda world: world.edit(changes)


def says(verb: str, whose: Callable[[World], str]) -> Callable[[World], None]:
    return lambda world: world.command(verb, whose(world), 2)


def breaks(world: World) -> None:
    world.broken[NEW] = LOAD_FAILED
    world.edit({"model": {"version": NEW}})


CASES: dict[str, tuple[Callable[[], World], Callable[[World], None]]] = {
    "a new version": (lambda: served(SHORT), asks_for({"model": {"version": NEW}})),
    "one with analysis": (lambda: served(RESULT), asks_for({"model": {"version": NEW}})),
    "one with golden requests": (lambda: served(SHORT, GOLDEN), asks_for({"model": {"version": NEW}})),
    "one that swaps": (lambda: served(SHORT, {"rollout": {"surge": "Swap"}}), asks_for({"model": {"version": NEW}})),
    "one by replicas": (lambda: served(SHORT, BY_REPLICAS), asks_for({"model": {"version": NEW}})),
    "one that swaps by replicas": (
        lambda: served(SHORT, BY_REPLICAS, {"rollout": {"surge": "Swap"}}),
        asks_for({"model": {"version": NEW}}),
    ),
    "a broken one": (lambda: served(SHORT), breaks),
    "another in mid-rollout": (paused, asks_for({"model": {"version": NEWER}})),
    "set back": (paused, asks_for({"model": {"version": OLD}})),
    "set back in bake": (baking, asks_for({"model": {"version": OLD}})),
    "scaled in mid-rollout": (paused, asks_for({"replicas": 4})),
    "without steps": (paused, asks_for({"rollout": {"steps": None}})),
    "to replicas": (paused, asks_for(BY_REPLICAS)),
    "to routers": (lambda: served(BY_REPLICAS), asks_for({"traffic": {"provider": "Router"}})),
    "pause": (lambda: arriving(LONG)[0], says("pause", canary_of)),
    "resume": (paused, says("resume", canary_of)),
    "skip": (paused, says("skip", canary_of)),
    "promote": (paused, says("promote", canary_of)),
    "abort": (paused, says("abort", canary_of)),
    "retry": (rejected, says("retry", lambda world: str(status(world)["rejected"][-1]["revision"]))),
    "abort in bake": (baking, says("abort", stable_of)),
    "promote in bake": (baking, says("promote", stable_of)),
    "rollback": (baking, says("rollback", lambda world: str(status(world)["previous"]["revision"]))),
    "abort in bake in place": (baking_in_place, says("abort", stable_of)),
    "promote in bake in place": (baking_in_place, says("promote", stable_of)),
    "rollback of a found version": (baking_in_place, says("rollback", former_of)),
    "a crash": (paused, lambda world: world.crash(NEW)),
    "a crash in bake": (baking, lambda world: world.crash(NEW)),
    "status is lost": (paused, World.lose_status),
}


@pytest.mark.parametrize("name", list(CASES))
def test_operators_that_each_end_at_their_first_write_come_to_the_undisturbed_end(name: str) -> None:
    begin, happens = CASES[name]
    undisturbed = begin()
    happens(undisturbed)
    run(Operator(undisturbed), ENOUGH_SECONDS)
    assert phase(undisturbed) in ("Ready", "RolledBack", "Paused", "Baking")

    world = begin()
    happens(world)
    lives = live_in_turn(world)
    assert lives < LIVES_AT_MOST, world.writes[-4:]
    run(Operator(world), ENOUGH_SECONDS)
    assert ending(world) == ending(undisturbed)
    assert world.lost == 0


def live_in_turn(world: World) -> int:
    """How many died before one had nothing to write for some seconds."""
    for lives in range(LIVES_AT_MOST):
        world.end_at = (world.requests + 1, True)
        try:
            run(Operator(world), 4)
        except OperatorEndedError:
            world.play()
            continue
        world.end_at = None
        return lives
    return LIVES_AT_MOST


def ending(world: World) -> Json:
    """What must not depend on the lives that it took. Those who never wrote status told no story."""
    state = world.state()
    for field in ("transitions", "progressSince", "trafficSince", "nextLook"):
        state[f"ModelDeployment/{NAME}"]["status"].pop(field, None)
    return state
