"""Rollouts in trouble that isn't theirs: nothing becomes stable without a named reason, nothing is rejected for it.

A matrix: every phase of a rollout, by everything that may happen to it but for its own faults, each lived through by
one operator, and by operators in turn that each end at their first write. One replica: a single pod that goes is
all there is. The same on a real API server: tests/crash/judged.py; both are summed up by `make judgement`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

from slipway.api.v1alpha1 import KIND
from tests.judgement import IN_MEMORY, Story, Trial, keep
from tests.simulation import pods
from tests.simulation.pods import is_ready, is_router
from tests.transition.api_server import OperatorEndedError
from tests.transition.operators import Operator, run, until
from tests.transition.test_canary import NEW, OLD, VERSION_2, canary_of, phase, pods_of, status, weights
from tests.transition.test_transitions import stable_of
from tests.transition.world import World

Json = dict[str, Any]

HOLD_SECONDS, BAKE_SECONDS, DEADLINE_SECONDS = 8, 8, 20
TROUBLE_SECONDS = DEADLINE_SECONDS + 4
"""Longer than any deadline."""
ENDS_WITHIN_SECONDS = 240
ROLLOUT: Json = {
    "analysis": {"mode": "Off"},
    "bakeSeconds": BAKE_SECONDS,
    "progressDeadlineSeconds": DEADLINE_SECONDS,
}
HELD: Json = {"weight": 100, "holdSeconds": HOLD_SECONDS}
BY_STEPS: Json = {"steps": [{"weight": 25, "holdSeconds": HOLD_SECONDS}, HELD]}
WITH_A_PAUSE: Json = {"steps": [{"weight": 25}, {"pause": {}}, HELD]}
RETURNS_WITHIN_SECONDS = 60
ASTRAY_SECONDS = {False: 4, True: 8}
"""How long it may take in all until requests go to what is ready; where operators end all the time, each write costs
one. A canary that prepares gets none before its gates have passed."""


@dataclass
class Watched(World):
    """Every status that was ever written is heard."""

    story: Story = field(default_factory=Story)

    def _store(self, body: Json) -> Json:
        stored = super()._store(body)
        if stored["kind"] == KIND and stored.get("status"):
            self.story.hear(stored["status"])
        return stored


# ---- where a rollout is


def served(rollout: Json) -> Watched:
    """Version 1 serves in one pod, and clients ask."""
    world = Watched(requests_per_second=50)
    world.edit({"replicas": 1, "rollout": {**ROLLOUT, **rollout}})
    run(Operator(world), 15)
    assert world.conditions()["Promoted"] == ("True", "Promoted")
    assert world.story.promotions == ["First"]
    world.lost = 0
    return world


def arriving(rollout: Json, is_there: Callable[[World], bool]) -> Watched:
    """The same, and version 2 has come that far."""
    world = served(rollout)
    world.edit(VERSION_2)
    operator = Operator(world)
    until(operator, lambda: is_there(world))
    return world


def preparing() -> Watched:
    return arriving(BY_STEPS, lambda world: bool(status(world).get("canary")))


def at_first_step() -> Watched:
    return arriving(BY_STEPS, lambda world: weights(world)[1] == 25)


def paused() -> Watched:
    world = at_first_step()
    world.command("pause", canary_of(world))
    until(Operator(world), lambda: phase(world) == "Paused")
    return world


def at_pause_step() -> Watched:
    return arriving(WITH_A_PAUSE, lambda world: phase(world) == "Paused")


def at_last_step() -> Watched:
    return arriving(BY_STEPS, lambda world: weights(world)[1] == 100)


def baking() -> Watched:
    world = arriving(BY_STEPS, lambda world: phase(world) == "Baking")
    run(Operator(world), 1)  # the Service names it, too
    return world


def in_place() -> Watched:
    """Its pod loads version 2 beside version 1."""
    world = arriving({}, lambda world: bool(status(world).get("canary")))
    assert status(world)["canary"]["strategy"] == "InPlace"
    return world


def rolling() -> Watched:
    return arriving({"strategy": "RollingUpdate"}, lambda world: len(world.pods()) > 1)


@dataclass(frozen=True, slots=True)
class Phase:
    """because: of what becomes stable once all is well; empty: nothing does. is_split: stable and canary have pods of
    their own, and requests are split. is_waiting: for a person, who says resume in the end."""

    begin: Callable[[], Watched]
    because: str = "StepsDone"
    is_split: bool = True
    is_waiting: bool = False


PHASES: dict[str, Phase] = {
    "preparing": Phase(preparing),
    "first step": Phase(at_first_step),
    "a person's pause": Phase(paused, is_waiting=True),
    "a pause step": Phase(at_pause_step, is_waiting=True),
    "last step": Phase(at_last_step),
    "bake": Phase(baking, because=""),
    "in place": Phase(in_place, because="LoadedEverywhere", is_split=False),
    "rolling": Phase(rolling, because="RolledOver", is_split=False),
}


@cache
def _begun(name: str) -> Watched:
    world = PHASES[name].begin()
    world.waiting.clear()
    return world


# ---- what happens to it


def stable_pod(world: World) -> Json:
    """The only pod of what is stable."""
    [name] = pods_of(world, status(world)["stable"]["workload"])
    return world.objects["Pod", name]


def newest_pod(world: World) -> Json:
    """The only pod of version 2: the canary's, or in bake stable's."""
    workload = (status(world).get("canary") or status(world)["stable"])["workload"]
    [name] = pods_of(world, workload)
    return world.objects["Pod", name]


def its_pod_is_deleted(world: World) -> None:
    world.end(stable_pod(world))


def its_node_is_drained(world: World) -> None:
    """And no other takes its pod."""
    world.unschedulable = {status(world)["stable"]["version"]}
    its_pod_is_deleted(world)


def its_agent_starts_anew(world: World) -> None:
    name = stable_pod(world)["metadata"]["name"]
    world.starting_anew, world.quiet = {name}, {name}


def no_room(**lacks: Any) -> Callable[[World], None]:
    """The new revision's pod goes, and another one waits for that."""

    def happens(world: World) -> None:
        for name, value in lacks.items():
            setattr(world, name, value)
        world.end(newest_pod(world))

    return happens


def routers_go(world: World) -> None:
    world.are_routers_unschedulable = True


def is_well(world: World) -> None:
    """What nodes, quotas and kubelets did is over."""
    world.unschedulable, world.held, world.quota = set(), {}, None
    world.starting_anew, world.quiet = set(), set()
    world.are_routers_unschedulable = False


def asks_for(changes: Json) -> Callable[[World], None]:
    return lambda world: world.edit(changes)


def gets_its_steps_back(world: World) -> None:
    world.edit({"rollout": {**ROLLOUT, **BY_STEPS}})


@dataclass(frozen=True, slots=True)
class Trouble:
    """ends: how all is well again. is_away: there is no operator as long as it lasts. phases: those in which it can
    happen. is_anew: the rollout begins anew after it."""

    happens: Callable[[World], None]
    ends: Callable[[World], None] = is_well
    seconds: int = TROUBLE_SECONDS
    is_away: bool = False
    is_anew: bool = False
    phases: tuple[str, ...] = tuple(PHASES)


OWN_PODS = tuple(name for name in PHASES if name != "in place")
SPLIT = tuple(name for name, phase in PHASES.items() if phase.is_split)
TROUBLES: dict[str, Trouble] = {
    "stable's pod is deleted": Trouble(its_pod_is_deleted, seconds=6),
    "stable's node is drained": Trouble(its_node_is_drained, phases=OWN_PODS),
    "stable's agent starts anew": Trouble(its_agent_starts_anew, seconds=6),
    "replicas are 0": Trouble(asks_for({"replicas": 0}), asks_for({"replicas": 1})),
    "the operator is away": Trouble(its_pod_is_deleted, seconds=8, is_away=True),
    "status is lost": Trouble(World.lose_status, seconds=2, is_anew=True),
    "no node": Trouble(no_room(unschedulable={NEW}), phases=OWN_PODS),
    "a queue": Trouble(no_room(held={NEW: pods.gated()}), phases=("preparing", "bake", "rolling")),
    "no quota": Trouble(no_room(quota=0)),
    "routers find no node": Trouble(routers_go, phases=SPLIT),
    "an unreadable spec": Trouble(asks_for({"modle": {}}), asks_for({"modle": None}), seconds=6),
    "its steps are removed": Trouble(asks_for({"rollout": None}), gets_its_steps_back, is_anew=True, phases=SPLIT),
}
HALTS = ("stable's node is drained", "replicas are 0", "no node", "a queue", "no quota", "routers find no node")
"""The rollout stands still as long as they last."""


# ---- and what comes of it


@dataclass
class Life:
    """One operator, or many of which each ends at its first write.

    astray_seconds: in how many requests went to pods that weren't there although others were ready all the while.
    """

    world: Watched
    ends: bool
    operator: Operator
    deaths: int = 0
    astray_seconds: int = 0

    def go_on(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            lost, ready = self.world.lost, ready_pods(self.world)
            self._live_a_second()
            self.astray_seconds += self.world.lost > lost and bool(ready and ready_pods(self.world))

    def go_on_until(self, is_so: Callable[[], bool], seconds: int) -> None:
        for _ in range(seconds):
            if is_so():
                return
            self.go_on()
        raise AssertionError(f"not within {seconds} s: {status(self.world)}, {self.world.writes[-6:]}")

    def _live_a_second(self) -> None:
        world = self.world
        if self.ends:
            world.end_at = (world.requests + 1, True)
        try:
            run(self.operator, 1)
        except OperatorEndedError:
            self.deaths += 1
            self.operator = Operator(world)
            world.play()

    def be_away(self, seconds: int) -> None:
        """There is no operator; then there is another one."""
        for _ in range(seconds):
            self.world.play()
        self.operator = Operator(self.world)

    def is_over(self, *, is_its_own_fault: bool = False) -> None:
        """Nothing was promoted without a named reason, or rejected for no fault of its own; `make judgement` tells."""
        story = self.world.story
        rejections = [] if is_its_own_fault else story.rejections
        keep(Trial(IN_MEMORY, self.deaths, story.promotions, rejections))
        assert rejections == []
        assert "" not in story.promotions


def begun(name: str, *, ends: bool) -> Life:
    world = copy.deepcopy(_begun(name))
    return Life(world, ends, Operator(world))


def ready_pods(world: World) -> int:
    """Of the model, whatever their version."""
    return sum(is_ready(pod) and not is_router(pod) for pod in world.pods())


def step_of(world: World) -> tuple[int, tuple[int | None, int | None], str]:
    """Where a rollout is: its step, the weights in force, its phase."""
    return status(world)["step"]["index"], weights(world), phase(world)


def go_to_the_end(life: Life) -> None:
    """A person resumes what waits for one, and version 2 serves alone."""
    world = life.world

    def has_ended() -> bool:
        if phase(world) == "Paused" and status(world)["canary"]["readyReplicas"]:
            world.command("resume", canary_of(world), world.seconds)
        return phase(world) == "Ready" and status(world)["stable"]["version"] == NEW

    life.go_on_until(has_ended, ENDS_WITHIN_SECONDS)


CELLS = [(where, what) for what, trouble in TROUBLES.items() for where in trouble.phases]
IDS = [f"{where}-{what}" for where, what in CELLS]
LIVES = pytest.mark.parametrize("ends", [False, True], ids=["one operator", "operators in turn"])


@LIVES
@pytest.mark.parametrize(("where", "what"), CELLS, ids=IDS)
def test_trouble_that_is_not_its_own_promotes_nothing_and_rejects_nothing(where: str, what: str, *, ends: bool) -> None:
    place, trouble = PHASES[where], TROUBLES[what]
    life = begun(where, ends=ends)
    world, before = life.world, list(life.world.story.promotions)
    at = step_of(world) if place.is_split and place.because else None
    trouble.happens(world)
    (life.be_away if trouble.is_away else life.go_on)(trouble.seconds)
    if what == "stable's node is drained" and place.is_split:
        assert world.conditions()["Degraded"] == ("True", "StableUnavailable")
    if at is not None and what in HALTS:
        assert world.story.promotions == before, "nothing becomes stable while it lasts"
        assert status(world)["step"]["index"] == at[0]
    trouble.ends(world)
    if place.is_waiting and not trouble.is_anew:
        life.go_on_until(lambda: step_of(world) == at, RETURNS_WITHIN_SECONDS)
    go_to_the_end(life)
    allowed = {place.because} | ({"RolledOver"} if what == "its steps are removed" and not place.is_waiting else set())
    assert set(world.story.promotions[len(before) :]) | {""} <= allowed | {""}
    assert place.because == "" or len(world.story.promotions) == len(before) + 1
    assert where == "preparing" or life.astray_seconds <= ASTRAY_SECONDS[ends]
    life.is_over()


# ---- seen on a live cluster: nobody had asked for any of these, and no evidence had come

UNJUDGED: Json = {
    "steps": [{"weight": 20, "holdSeconds": 3600}, {"pause": {}}, {"weight": 100}],
    "analysis": {"mode": "Enforce"},
}
GOLDEN: Json = {"gates": {"golden": {"requests": [{"request": {"x": 1}, "response": {"y": 2}}]}}}


def at_20_percent() -> Watched:
    return arriving(UNJUDGED, lambda world: weights(world)[1] == 20)


def paused_before_a_golden_request_that_fails() -> Watched:
    world = paused()
    world.wrong = {NEW}
    world.edit({"rollout": GOLDEN})
    run(Operator(world), 2)
    return world


def rolling_without_its_image() -> Watched:
    world = served({"strategy": "RollingUpdate"})
    world.held = {NEW: pods.unpulled("server", "registry.example/nope:1")}
    world.edit(VERSION_2)
    run(Operator(world), 5)
    return world


def its_server_is_killed(world: World) -> None:
    """It restarts, and its pod is unready meanwhile."""
    world.crash(OLD)
    world.starting_anew = {stable_pod(world)["metadata"]["name"]}


SEEN: dict[str, tuple[Callable[[], Watched], Callable[[World], None], Callable[[World], None]]] = {
    "its only pod is deleted": (at_20_percent, its_pod_is_deleted, is_well),
    "its server is killed": (at_20_percent, its_server_is_killed, is_well),
    "only its agent starts anew": (at_20_percent, its_agent_starts_anew, is_well),
    "nobody wants pods for a night": (at_20_percent, asks_for({"replicas": 0}), asks_for({"replicas": 1})),
    "the same while a golden request would fail": (
        paused_before_a_golden_request_that_fails, asks_for({"replicas": 0}), asks_for({"replicas": 1}),
    ),
    "the same while no image comes": (
        rolling_without_its_image, asks_for({"replicas": 0}), asks_for({"replicas": 1}),
    ),
    "steps and analysis are removed while paused": (
        paused, asks_for({"rollout": None}), lambda world: world.edit({"replicas": 2}),
    ),
}  # fmt: skip


@LIVES
@pytest.mark.parametrize("name", list(SEEN))
def test_what_made_a_canary_stable_for_good_leaves_stable_what_is(name: str, *, ends: bool) -> None:
    begin, happens, is_over = SEEN[name]
    world = begin()
    life, first = Life(world, ends, Operator(world)), stable_of(world)
    happens(world)
    life.go_on(10)
    is_over(world)
    life.go_on(25)
    assert stable_of(world) == first
    assert world.ready_by_version().get(OLD) == world.deployment()["spec"]["replicas"]
    if begin is at_20_percent:
        assert step_of(world) == (1, (80, 20), "RollingOut")
    life.is_over(is_its_own_fault="the same" in name)


# ---- every way to become stable


def paused_and_promoted() -> Watched:
    world = paused()
    world.command("promote", canary_of(world), 2)
    return world


def rolled_back_to() -> Watched:
    world = at_the_end("bake")
    former = world.story.first_stable
    world.command("rollback", former, 2)
    return world


def at_the_end(name: str) -> Watched:
    life = begun(name, ends=False)
    go_to_the_end(life)
    return life.world


def set_back_in_bake() -> Watched:
    world = baking()
    world.edit({"model": {"version": OLD}})
    return world


def asked_for_while_stable_is_down() -> Watched:
    world = served(BY_STEPS)
    world.unschedulable = {OLD}
    run(Operator(world), 2)
    world.edit(VERSION_2)
    return world


WAYS: dict[str, tuple[Callable[[], Watched], str]] = {
    "nothing served before it": (lambda: served(BY_STEPS), "First"),
    "its steps are done": (at_last_step, "StepsDone"),
    "a person promotes it": (paused_and_promoted, "Person"),
    "a person rolls back to it": (rolled_back_to, "Person"),
    "the spec names it again in bake": (set_back_in_bake, "SetBack"),
    "its pods have replaced the others": (rolling, "RolledOver"),
    "all pods have loaded it": (in_place, "LoadedEverywhere"),
    "stable was down when it was asked for": (asked_for_while_stable_is_down, "StableWasDown"),
}


@LIVES
@pytest.mark.parametrize("name", list(WAYS))
def test_each_way_to_become_stable_is_named(name: str, *, ends: bool) -> None:
    begin, because = WAYS[name]
    world = begin()
    life = Life(world, ends, Operator(world))
    life.go_on_until(lambda: world.story.promotions[-1] == because, ENDS_WITHIN_SECONDS)
    life.go_on(5)
    told = [each for each in status(world)["transitions"] if each["reason"] == "Promoted"]
    assert told[-1]["because"] == because
    assert f"({because}: " in told[-1]["message"]
    assert told[-1]["revision"] == stable_of(world)
    life.is_over()
