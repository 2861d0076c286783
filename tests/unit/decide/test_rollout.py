"""How a new revision takes over: worked examples, and laws that hold in any world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.decide import rollout
from slipway.decide.catch_up import recall_stable
from slipway.model.revision import Assignment
from slipway.model.rollout import Plan, Promotion, Target
from slipway.model.rollout_state import Rejection, RolloutState
from slipway.model.workload import ABSENT, Workload, enough, workload_of
from tests.simulation.workloads import Counted

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DEADLINE_SECONDS = 600
RUNNING = {"existing": 0, "ready": 0}


def wanted(revision: str = "new", replicas: int = 2, content: str = "") -> Target:
    """Each revision has a workload of its own, called like it."""
    return Target(revision, content, replicas, DEADLINE_SECONDS, revision)


def pods(wanted: int, existing: int | None = None, ready: int | None = None, **more: Any) -> Workload:
    """All existing and ready, unless said otherwise."""
    there = wanted if existing is None else existing
    return Workload("", wanted, there, there if ready is None else ready, **more)


def step(wanted: Target, memory: RolloutState, world: Mapping[str, Workload], now: datetime) -> Plan:
    """A step in a world whose workloads carry the revisions that they are called by, unless said otherwise."""
    workloads = {name: replace(here, revision=here.revision or name) for name, here in world.items()}
    return rollout.step(wanted, memory, workloads, now)


def planned(plan: Plan) -> tuple[str | None, str | None, Mapping[str, int], Promotion]:
    """The plan without times; every workload carries what it is called by."""
    assert plan.assignments == {name: Assignment(name) for name in plan.replicas}
    return plan.state.stable, plan.state.canary, plan.replicas, plan.promotion


def since(seconds: float, ready: int = 0) -> RolloutState:
    """old is stable, new takes over and made its last progress so long ago."""
    return RolloutState("old", "new", ready, NOW - timedelta(seconds=seconds))


# ---- tables: a row is a world and the plan for it

ROLLING = [
    pytest.param({"old": pods(2)}, {"old": 2, "new": 1}, id="the first new pod comes on top"),
    pytest.param({"old": pods(2), "new": pods(1, ready=0)}, {"old": 2, "new": 1}, id="not ready yet: nothing goes"),
    pytest.param({"old": pods(2), "new": pods(1)}, {"old": 1, "new": 1}, id="one ready: one old goes"),
    pytest.param({"old": pods(1, existing=2), "new": pods(1)}, {"old": 1, "new": 1}, id="old pod still there: wait"),
    pytest.param({"old": pods(1), "new": pods(1)}, {"old": 1, "new": 2}, id="room: the next new pod"),
    pytest.param({"old": pods(1), "new": pods(2, ready=1)}, {"old": 1, "new": 2}, id="the second starts: do nothing"),
    pytest.param({"old": pods(2), "new": pods(1, existing=0)}, {"old": 2, "new": 1}, id="no pod made yet: do nothing"),
    pytest.param({"old": pods(1), "new": pods(1, ready=0)}, {"old": 2, "new": 1}, id="new one lost: old comes back"),
    pytest.param(
        {"old": pods(1), "new": pods(2, ready=0)}, {"old": 2, "new": 2}, id="a blip: old comes back, new pods go on"
    ),
    pytest.param({"old": pods(2, ready=1), "new": pods(1)}, {"old": 1, "new": 1}, id="an unready old pod goes first"),
    pytest.param(
        {"old": pods(2, ready=0), "new": pods(1, ready=0)}, {"old": 2, "new": 2}, id="nothing serves: no hurry"
    ),
    pytest.param(
        {"old": pods(2, ready=0), "new": pods(2, ready=0, is_blocked=True)},
        {"old": 0, "new": 2},
        id="nothing serves and new finds no room: old gives way",
    ),
    pytest.param({"old": pods(2, ready=0), "new": pods(2, ready=1)}, {"old": 0, "new": 2}, id="only new serves"),
    pytest.param(
        {"old": pods(2), "mid": pods(1)}, {"old": 2, "mid": 0, "new": 0}, id="a third revision: the second goes first"
    ),
    pytest.param(
        {"old": pods(1), "mid": pods(1)}, {"old": 2, "mid": 1, "new": 1}, id="but not while it is needed to serve"
    ),
    pytest.param(
        {"old": pods(2, ready=1), "mid": pods(1)},
        {"old": 2, "mid": 1, "new": 1},
        id="old can't do without the second: the third does not wait for it",
    ),
]


@pytest.mark.parametrize(("world", "replicas"), ROLLING)
def test_rolling_on(world: dict[str, Workload], replicas: dict[str, int]) -> None:
    plan = step(wanted(), since(10, ready=2), world, NOW)
    assert (plan.state.stable, plan.state.canary, plan.promotion) == ("old", "new", Promotion.IN_PROGRESS)
    assert plan.replicas == replicas
    assert plan.wake_at == NOW + timedelta(seconds=DEADLINE_SECONDS - 10)


STABLE = [
    pytest.param(2, {"new": pods(2)}, {"new": 2}, id="at rest: do nothing"),
    pytest.param(5, {"new": pods(2)}, {"new": 5}, id="scaled up at once"),
    pytest.param(1, {"new": pods(2)}, {"new": 1}, id="scaled down at once"),
    pytest.param(0, {"new": pods(2)}, {"new": 0}, id="to zero"),
    pytest.param(2, {}, {"new": 2}, id="its Deployment is gone"),
    pytest.param(2, {"new": pods(2), "old": pods(0)}, {"new": 2}, id="an empty old one is not named: it is pruned"),
    pytest.param(2, {"new": pods(2), "old": pods(0, existing=1)}, {"new": 2, "old": 0}, id="an old pod still there"),
    pytest.param(
        2, {"new": pods(2, ready=1), "old": pods(2)}, {"new": 2, "old": 1}, id="old pods fill what is missing"
    ),
    pytest.param(2, {"new": pods(2, ready=1), "old": pods(0)}, {"new": 2}, id="but never come back"),
]


@pytest.mark.parametrize(("replicas", "world", "expected"), STABLE)
def test_stable(replicas: int, world: dict[str, Workload], expected: dict[str, int]) -> None:
    plan = step(wanted(replicas=replicas), RolloutState("new"), world, NOW)
    assert planned(plan) == ("new", None, expected, Promotion.PROMOTED)


@pytest.mark.parametrize(
    ("replicas", "here", "is_stable"),
    [(1, 0, False), (1, 1, True), (2, 1, False), (4, 2, False), (4, 3, True), (8, 6, True), (0, 0, False)],
)
def test_the_first_revision_is_stable_once_enough_pods_are_ready(replicas: int, here: int, *, is_stable: bool) -> None:
    plan = step(wanted(replicas=replicas), RolloutState(), {"new": pods(replicas, ready=here)}, NOW)
    assert plan.replicas == {"new": replicas}
    assert (plan.state.stable, plan.state.canary) == (("new", None) if is_stable else (None, "new"))


def test_the_first_revision_starts_with_all_its_pods() -> None:
    plan = step(wanted(replicas=3), RolloutState(), {}, NOW)
    assert planned(plan) == (None, "new", {"new": 3}, Promotion.IN_PROGRESS)
    assert (plan.state.progress_since, plan.state.canary_ready) == (NOW, 0)


def test_a_first_revision_is_never_given_up() -> None:
    plan = step(wanted(), RolloutState(None, "new", 0, NOW - timedelta(days=3)), {"new": pods(2, ready=0)}, NOW)
    assert plan.replicas == {"new": 2}
    assert plan.newly_rejected is None


def test_a_first_revision_that_never_served_makes_room_for_the_next_at_once() -> None:
    plan = step(wanted("second"), RolloutState(None, "new", 0, NOW), {"new": pods(2, ready=0)}, NOW)
    assert plan.replicas == {"second": 2}
    assert plan.state.stable is None


def test_promoted_when_all_its_pods_are_ready() -> None:
    plan = step(wanted(), since(10), {"old": pods(0), "new": pods(2)}, NOW)
    assert planned(plan) == ("new", None, {"new": 2}, Promotion.PROMOTED)


def test_the_spec_set_back_is_a_rollback_at_once_and_new_pods_serve_until_old_ones_do() -> None:
    plan = step(wanted("old", 3), since(10, ready=2), {"old": pods(1), "new": pods(2)}, NOW)
    assert planned(plan) == ("old", None, {"old": 3, "new": 2}, Promotion.PROMOTED)


def test_pods_of_a_revision_that_never_became_stable_serve_until_the_next_one_does() -> None:
    world = {"first": pods(3, ready=1), "second": pods(3, ready=0)}
    assert step(wanted("second", 3), RolloutState(), world, NOW).replicas == {"second": 3, "first": 1}
    world["second"] = pods(3, ready=3)
    assert step(wanted("second", 3), RolloutState(), world, NOW).replicas == {"second": 3, "first": 0}


@pytest.mark.parametrize("workload", ["new", "old"], ids=["rolling", "in place"])
def test_scaled_to_zero_nothing_is_promoted_and_no_deadline_passes(workload: str) -> None:
    world = {"old": Workload("new", 0, 0, 0, replaces="old") if workload == "old" else pods(0), "new": pods(0)}
    target = replace(wanted(replicas=0), workload=workload)
    plan = step(target, since(DEADLINE_SECONDS - 1), world, NOW)
    assert (plan.state.stable, plan.state.canary, plan.newly_rejected) == ("old", "new", None)
    night = NOW + timedelta(hours=9)
    plan = step(target, plan.state, world, night)
    assert (plan.state.stable, plan.state.canary, plan.newly_rejected) == ("old", "new", None)
    plan = step(replace(target, replicas=2), plan.state, world, night)
    assert (plan.newly_rejected, plan.state.canary, plan.state.halt) == (None, "new", None)


# ---- the deadline


@pytest.mark.parametrize(("seconds", "is_over"), [(0, False), (599, False), (600, True), (10_000, True)])
def test_without_progress_until_the_deadline_it_is_taken_back(seconds: int, *, is_over: bool) -> None:
    plan = step(wanted(content="c"), since(seconds), {"old": pods(2), "new": pods(1, ready=0)}, NOW)
    assert plan.newly_rejected == (Rejection("new", "c") if is_over else None)
    assert plan.promotion is (Promotion.ROLLED_BACK if is_over else Promotion.IN_PROGRESS)
    assert plan.replicas == {"old": 2, "new": 0 if is_over else 1}
    assert plan.state.canary == (None if is_over else "new")


def test_more_ready_pods_than_ever_is_progress() -> None:
    plan = step(wanted(replicas=3), since(599, ready=1), {"old": pods(1), "new": pods(3, ready=2)}, NOW)
    assert (plan.state.progress_since, plan.state.canary_ready) == (NOW, 2)


def test_a_time_from_a_clock_ahead_gives_no_longer_deadline() -> None:
    plan = step(wanted(), since(-86_400), {"old": pods(2), "new": pods(1, ready=0)}, NOW)
    assert plan.state.progress_since == NOW


def test_losing_and_regaining_a_pod_is_no_progress() -> None:
    plan = step(wanted(replicas=3), since(500, ready=2), {"old": pods(1), "new": pods(3, ready=2)}, NOW)
    assert (plan.state.progress_since, plan.state.canary_ready) == (NOW - timedelta(seconds=500), 2)


def test_fetching_past_the_deadline_goes_on() -> None:
    world = {"old": pods(2), "new": pods(1, ready=0, is_fetching=True)}
    plan = step(wanted(), since(601), world, NOW)
    assert plan.promotion is Promotion.IN_PROGRESS
    assert plan.wake_at == NOW + timedelta(seconds=1)


def test_another_revision_has_a_deadline_of_its_own() -> None:
    plan = step(wanted("third"), since(601), {"old": pods(2), "new": pods(1, ready=0)}, NOW)
    assert plan.state.progress_since == NOW
    assert plan.newly_rejected is None


def test_taken_back_pods_that_serve_go_only_when_old_ones_do() -> None:
    plan = step(wanted(replicas=3), since(600, ready=2), {"old": pods(1), "new": pods(3, ready=2)}, NOW)
    assert plan.promotion is Promotion.ROLLED_BACK
    assert plan.replicas == {"old": 3, "new": 2}


def test_a_rejected_revision_gets_no_pod() -> None:
    memory = RolloutState("old", None, 0, None, (Rejection("new", "c"),))
    plan = step(wanted(content="c"), memory, {"old": pods(2)}, NOW)
    assert planned(plan) == ("old", None, {"old": 2}, Promotion.ROLLED_BACK)


def test_a_rejected_revision_with_other_bytes_is_tried_again() -> None:
    memory = RolloutState("old", None, 0, None, (Rejection("new", "c"),))
    plan = step(wanted(content="other"), memory, {"old": pods(2)}, NOW)
    assert plan.promotion is Promotion.IN_PROGRESS
    assert plan.replicas == {"old": 2, "new": 1}


@pytest.mark.parametrize("replicas", range(20))
def test_enough_is_at_least_three_quarters(replicas: int) -> None:
    assert replicas * 3 <= enough(replicas) * 4
    assert enough(replicas) <= replicas


# ---- laws, in a world that does what it likes

GOOD, ALSO_GOOD, BAD = "a", "b", "c"


@dataclass
class Anywhere(Counted):
    """Pods that start, die and stay behind; a controller that comes when it comes; an operator that may be ended.

    scale: revision → what its Deployment says. pods: revision → one True (ready) or False for each pod.
    named: the stable revision, as the Service names it.
    """

    never_ready = (BAD,)
    spec: Target
    scale: dict[str, int] = field(default_factory=dict)
    pods: dict[str, list[bool]] = field(default_factory=dict)
    memory: RolloutState = field(default_factory=RolloutState)
    named: str | None = None
    is_lost: bool = False
    now: datetime = NOW
    rejected: frozenset[Rejection] = frozenset()

    def snapshot(self) -> dict[str, Workload]:
        return {
            revision: Workload(revision, scale, len(self.pods.get(revision, [])), sum(self.pods.get(revision, [])))
            for revision, scale in self.scale.items()
        }

    def operate(self, *, is_ended_before_status: bool = False) -> Plan:
        """One pass: plan, check the laws, write the children, then the status unless the operator is ended."""
        world = self.snapshot()
        plan = step(self.spec, self.remembered(world), world, self.now)
        self.named = plan.state.stable
        self.check_capacity(plan, world)
        self.check_rejected(plan, world)
        self.scale = dict(plan.replicas)
        for gone in set(self.pods) - set(self.scale):
            del self.pods[gone]
        if is_ended_before_status:
            return plan
        kept = tuple(entry for entry in self.memory.rejected if entry.revision == self.spec.revision)
        newly = (plan.newly_rejected,) if plan.newly_rejected else ()
        self.memory = RolloutState(
            plan.state.stable, plan.state.canary, plan.state.canary_ready, plan.state.progress_since, kept + newly
        )
        self.is_lost = False
        self.check_repeated(plan)
        return plan

    def remembered(self, world: dict[str, Workload]) -> RolloutState:
        return recall_stable(self.memory, self.named, world, {}, self.spec.revision, is_lost=self.is_lost)

    def check_capacity(self, plan: Plan, world: dict[str, Workload]) -> None:
        """Of the pods that serve and were to stay, the plan gives none up that is needed.

        A Deployment that shrinks loses pods that are not ready first.
        """
        staying = sum(min(here.ready, here.replicas) for here in world.values())
        left = sum(min(here.ready, plan.replicas.get(revision, 0)) for revision, here in world.items())
        assert left >= min(self.spec.replicas, staying), (plan, world)

    def check_rejected(self, plan: Plan, world: dict[str, Workload]) -> None:
        """A rejected revision gets no new pod, and none at all once others serve."""
        if plan.promotion is not Promotion.ROLLED_BACK:
            return
        assert plan.state.stable is not None
        here = world.get(self.spec.revision, ABSENT)
        assert plan.replicas.get(self.spec.revision, 0) <= here.replicas
        stable = world.get(plan.state.stable, ABSENT)
        if stable.ready >= self.spec.replicas:
            assert plan.replicas.get(self.spec.revision, 0) == 0

    def check_repeated(self, plan: Plan) -> None:
        """The same world again, as far as we ask for it: nothing else is asked."""
        world = self.snapshot()
        again = step(self.spec, self.remembered(world), world, self.now)
        assert again.replicas == {
            revision: count
            for revision, count in plan.replicas.items()
            if count or self.pods.get(revision) or revision in again.replicas
        }

    def settle(self) -> Plan:
        """From now on the world is kind: controllers come, good pods start. Returns the plan that stays."""
        for _ in range(60):
            plan = self.operate()
            for revision in (GOOD, ALSO_GOOD, BAD):
                self.control(revision)
                for _ in range(self.spec.replicas + 2):
                    self.start(revision)
            self.now += timedelta(seconds=60)
        return plan


REVISIONS = st.sampled_from([GOOD, ALSO_GOOD, BAD])
EVENTS = st.one_of(
    st.tuples(st.just("control"), REVISIONS),
    st.tuples(st.just("start"), REVISIONS),
    st.tuples(st.just("die"), REVISIONS),
    st.tuples(st.just("wait"), st.sampled_from([1, 60, 601])),
    st.tuples(st.just("spec"), REVISIONS),
    st.tuples(st.just("scale"), st.integers(1, 6)),
    st.tuples(st.just("correct"), st.sampled_from(["x", "y"])),
    st.tuples(st.just("lose status"), st.none()),
    st.tuples(st.just("end before status"), st.none()),
)


def happen(world: Anywhere, what: str, argument: object) -> None:
    """One event, and the pass that follows it."""
    match what, argument:
        case "control", str(revision):
            world.control(revision)
        case "start", str(revision):
            world.start(revision)
        case "die", str(revision):
            world.die(revision)
        case "wait", int(seconds):
            world.now += timedelta(seconds=seconds)
        case "spec", str(revision):
            world.spec = Target(revision, world.spec.content, world.spec.replicas, DEADLINE_SECONDS, revision)
        case "scale", int(replicas):
            world.spec = Target(
                world.spec.revision, world.spec.content, replicas, DEADLINE_SECONDS, world.spec.revision
            )
        case "correct", str(content):
            world.spec = Target(
                world.spec.revision, content, world.spec.replicas, DEADLINE_SECONDS, world.spec.revision
            )
        case "lose status", _:
            world.memory, world.is_lost = RolloutState(), True
    world.operate(is_ended_before_status=what == "end before status")


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 6), st.lists(EVENTS, max_size=40))
def test_whatever_happens_capacity_is_kept_and_the_end_is_reached(
    replicas: int, events: list[tuple[str, object]]
) -> None:
    world = Anywhere(Target(GOOD, "", replicas, DEADLINE_SECONDS, GOOD))
    world.settle()
    for what, argument in events:
        happen(world, what, argument)
    plan = world.settle()
    target, count = world.spec.revision, world.spec.replicas
    match plan.promotion:
        case Promotion.PROMOTED:
            assert plan.replicas == {target: count}
            assert plan.state.stable == target
        case Promotion.ROLLED_BACK:
            assert plan.state.stable not in (None, target)
            assert plan.replicas == {plan.state.stable: count}
        case Promotion.IN_PROGRESS:  # a bad revision, and nothing that served before it
            assert target == BAD
            assert plan.state.stable is None
            assert plan.replicas == {BAD: count}
    if target != BAD and not world.memory.rejected:
        assert plan.promotion is Promotion.PROMOTED
    assert world.operate() == plan  # and it stays


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.booleans(), st.booleans())
def test_a_rollout_without_trouble_never_has_fewer_ready_pods(replicas: int, ends: bool, back: bool) -> None:
    world = Anywhere(Target(GOOD, "", replicas, DEADLINE_SECONDS, GOOD))
    world.settle()
    world.spec = Target(ALSO_GOOD, "", replicas, DEADLINE_SECONDS, ALSO_GOOD)
    for number in range(8 * replicas):
        if back and number == 3 * replicas:
            world.spec = Target(GOOD, "", replicas, DEADLINE_SECONDS, GOOD)
        world.operate(is_ended_before_status=ends and number % 3 == 0)
        for revision in (GOOD, ALSO_GOOD):
            world.control(revision)
        assert sum(sum(here) for here in world.pods.values()) >= replicas
        assert sum(len(here) for here in world.pods.values()) <= 2 * replicas + 2
        world.start(GOOD)
        world.start(ALSO_GOOD)
    world.settle()
    assert world.scale == {GOOD if back else ALSO_GOOD: replicas}


# ---- in place: one workload, called like the old revision


def home(revision: str = "old", replaces: str | None = None, ready: int = 2, **more: Any) -> dict[str, Workload]:
    """The stable revision's workload, with two pods."""
    return {"old": Workload(revision, 2, more.pop("existing", 2), ready, replaces, **more)}


def into(revision: str = "new", content: str = "", replicas: int = 2, bake_seconds: int = 300) -> Target:
    """A revision that arrives in the stable one's workload."""
    return Target(revision, content, replicas, DEADLINE_SECONDS, "old", bake_seconds)


IN_PLACE = [
    pytest.param(home(), Assignment("new", "old"), id="told"),
    pytest.param(home("new", "old"), Assignment("new", "old"), id="loading: do nothing"),
    pytest.param(home("new", "old", switched=1), Assignment("new", "old"), id="one of two: do nothing"),
    pytest.param(
        home("new", "old", ready=1, switched=1), Assignment("new", "old"), id="the other one is not ready: wait"
    ),
    pytest.param(
        home("new", "old", existing=3, ready=3, switched=2), Assignment("new", "old"), id="an extra pod: wait"
    ),
    pytest.param(home("mid", "old", switched=2), Assignment("new", "old"), id="another was on its way: told anew"),
]


@pytest.mark.parametrize(("world", "orders"), IN_PLACE)
def test_loading_in_place(world: dict[str, Workload], orders: Assignment) -> None:
    plan = rollout.step(into(), since(10, ready=2), world, NOW)
    assert (plan.state.stable, plan.state.canary, plan.promotion) == ("old", "new", Promotion.IN_PROGRESS)
    assert (plan.replicas, plan.assignments) == ({"old": 2}, {"old": orders})
    assert plan.wake_at == NOW + timedelta(seconds=DEADLINE_SECONDS - 10)


def test_a_pod_that_finds_no_node_holds_no_version_up() -> None:
    world = home("new", "old", existing=4, ready=3, switched=3)
    assert rollout.step(into(replicas=4), since(10), world, NOW).promotion is Promotion.PROMOTED


@pytest.mark.parametrize(("bake_seconds", "replaces"), [(300, "old"), (0, None)])
def test_when_all_pods_serve_it_it_is_stable_and_the_old_one_bakes(bake_seconds: int, replaces: str | None) -> None:
    world = home("new", "old", switched=2)
    plan = rollout.step(into(bake_seconds=bake_seconds), since(10), world, NOW)
    assert (plan.state.stable, plan.state.canary, plan.promotion) == ("new", None, Promotion.PROMOTED)
    assert plan.assignments == {"old": Assignment("new", replaces)}
    until = NOW + timedelta(seconds=bake_seconds) if bake_seconds else None
    assert (plan.state.bake_until, plan.wake_at) == (until, until)


@pytest.mark.parametrize(("seconds", "replaces"), [(1, "old"), (0, None), (-1, None)])
def test_bake_ends_at_its_time(seconds: int, replaces: str | None) -> None:
    memory = RolloutState("new", bake_until=NOW + timedelta(seconds=seconds))
    plan = rollout.step(into(), memory, home("new", "old", switched=2), NOW)
    assert plan.assignments == {"old": Assignment("new", replaces)}
    assert plan.state.bake_until == (memory.bake_until if replaces else None)


def test_set_back_in_place_is_a_switch_at_once() -> None:
    plan = rollout.step(into("old"), since(10), home("new", "old", switched=1), NOW)
    assert (plan.state.stable, plan.state.canary, plan.promotion) == ("old", None, Promotion.PROMOTED)
    assert plan.assignments == {"old": Assignment("old")}


def test_refused_by_a_pod_it_is_taken_back_at_once() -> None:
    world = home("new", "old", switched=1, is_refused=True)
    plan = rollout.step(into(content="c"), since(1), world, NOW)
    assert plan.promotion is Promotion.ROLLED_BACK
    assert plan.newly_rejected == Rejection("new", "c")
    assert (plan.replicas, plan.assignments) == ({"old": 2}, {"old": Assignment("old")})
    memory = RolloutState("old", None, 0, None, (Rejection("new", "c"),))
    again = rollout.step(into(content="c"), memory, home("old"), NOW)
    assert (again.promotion, again.newly_rejected, again.assignments) == (
        Promotion.ROLLED_BACK,
        None,
        {"old": Assignment("old")},
    )


@pytest.mark.parametrize(
    ("seconds", "more", "is_over"), [(599, {}, False), (600, {}, True), (900, {"is_fetching": True}, False)]
)
def test_the_deadline_holds_in_place_too(seconds: int, more: dict[str, bool], *, is_over: bool) -> None:
    plan = rollout.step(into(), since(seconds), home("new", "old", **more), NOW)
    assert plan.promotion is (Promotion.ROLLED_BACK if is_over else Promotion.IN_PROGRESS)


def test_from_in_place_to_pods_of_its_own_the_old_carrier_goes_back_to_the_old_revision() -> None:
    plan = rollout.step(wanted(), since(10), home("new", "old"), NOW)
    assert plan.replicas == {"old": 2, "new": 1}
    assert plan.assignments == {"old": Assignment("old"), "new": Assignment("new")}


def test_pods_that_waited_for_a_version_serve_when_they_are_ready() -> None:
    world = {"none": Workload("none", 2, 2, 0)}
    asked = Target("new", "", 2, DEADLINE_SECONDS, "none", 300)
    plan = rollout.step(asked, RolloutState(None, "none"), world, NOW)
    assert (plan.assignments, plan.promotion) == ({"none": Assignment("new")}, Promotion.IN_PROGRESS)
    ready = {"none": Workload("new", 2, 2, 2)}
    assert rollout.step(asked, RolloutState(None, "new"), ready, NOW).state.stable == "new"


def test_ready_pods_of_the_revision_before_are_no_arrival() -> None:
    """A canary's pods go over to the next revision: they are ready, and serve the one before."""
    old, canary = Workload("old", 1, 1, 1), Workload("mid", 2, 2, 2)
    asked = Target("new", "", 2, DEADLINE_SECONDS, "mid", 300)
    plan = rollout.step(asked, RolloutState("old", "mid"), {"old": old, "mid": canary}, NOW)
    assert plan.assignments["mid"] == Assignment("new", "mid")
    told = replace(canary, revision="new", replaces="mid")
    plan = rollout.step(asked, RolloutState("old", "new"), {"old": old, "mid": told}, NOW)
    assert plan.promotion is Promotion.IN_PROGRESS
    switched = replace(told, switched=2)
    plan = rollout.step(asked, RolloutState("old", "new"), {"old": old, "mid": switched}, NOW)
    assert (plan.state.stable, plan.assignments["mid"]) == ("new", Assignment("new"))


@pytest.mark.parametrize(("revision", "workload"), [("a", "one"), ("b", "two"), ("c", "one"), ("nowhere", None)])
def test_the_carrier_of_a_revision(revision: str, workload: str | None) -> None:
    workloads = {
        "one": Workload("a", 1, 1, 1, "c"),
        "two": Workload("b", 1, 1, 0),
        "three": Workload("d", 0, 0, 0),
    }
    assert workload_of(revision, workloads) == workload


PATHS = st.lists(
    st.one_of(
        st.tuples(st.just("spec"), st.sampled_from(["a", "b", "c"])),
        st.tuples(st.just("take up"), st.integers(0, 3)),
        st.tuples(st.just("die"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.sampled_from([1, 301, 601])),
        st.tuples(st.just("lose status"), st.none()),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4), PATHS)
def test_in_place_no_pod_is_ever_told_to_give_up_the_version_that_serves(
    replicas: int, path: list[tuple[str, Any]]
) -> None:
    """c can't be loaded by any pod. A pod that is told serves what it has until it has what it is told."""
    orders, memory, now, asked = Assignment("a"), RolloutState("a"), NOW, "a"
    named: str | None = "a"
    serving: list[str] = ["a"] * replicas

    def operate() -> Plan:
        nonlocal orders, memory, named
        here = Workload(
            orders.revision,
            replicas,
            replicas,
            sum(bool(each) for each in serving),
            orders.replaces,
            switched=serving.count(orders.revision),
            is_refused=orders.revision == "c",
        )
        wanted_now = Target(asked, "", replicas, DEADLINE_SECONDS, "a", 300)
        recalled = recall_stable(memory, named, {"a": here}, {}, asked, is_lost=memory == RolloutState())
        plan = rollout.step(wanted_now, recalled, {"a": here}, now)
        named = plan.state.stable
        assert plan.replicas == {"a": replicas}
        orders = plan.assignments["a"]
        rejected = tuple(entry for entry in memory.rejected if entry.revision == asked)
        newly = (plan.newly_rejected,) if plan.newly_rejected else ()
        memory = RolloutState(
            plan.state.stable,
            plan.state.canary,
            plan.state.canary_ready,
            plan.state.progress_since,
            rejected + newly,
            plan.state.bake_until,
        )
        assert orders.revision != "c" or plan.state.canary == "c"  # a bad revision is only ever on its way
        return plan

    def take_up(number: int) -> None:
        if number < replicas and orders.revision != "c":
            serving[number] = orders.revision

    for what, argument in path:
        match what:
            case "spec":
                asked = argument
            case "take up":
                take_up(argument)
            case "die" if argument < replicas:
                serving[argument] = ""
            case "wait":
                now += timedelta(seconds=argument)
            case "lose status":
                memory = RolloutState()
        operate()
    for _ in range(6):
        for number in range(replicas):
            take_up(number)
        now += timedelta(seconds=301)
        plan = operate()
    assert plan.assignments == {"a": Assignment(plan.state.stable or "")}
    assert serving == [plan.state.stable] * replicas
    assert plan.state.stable == asked or (asked == "c" and plan.promotion is Promotion.ROLLED_BACK) or memory.rejected
