"""A new revision by steps: worked examples, the rules of what the fields mean, and laws that hold in any world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from slipway.decide import rollout
from slipway.decide.commands import VERBS
from slipway.model.revision import Assignment
from slipway.model.rollout import Plan, Promotion, PromotionReason, Step, Target
from slipway.model.rollout_state import Rejection, RolloutState
from slipway.model.signals import OPEN, Cause, GateState, GateVerdict, InForce, Outcome, Signals, Verdict
from slipway.model.workload import Crash, Trouble, Workload
from tests.unit.canaries import (
    ALSO_GOOD,
    BAKE_SECONDS,
    DEADLINE_SECONDS,
    GOOD,
    NEVER_READY,
    NOW,
    REFUSED,
    REVISIONS,
    SILENT,
    World,
)

HOLD_SECONDS = 60
STEPS = (Step(25, 1, HOLD_SECONDS), Step(100, 4))
PAUSED = (Step(25, 1, HOLD_SECONDS), Step(25, 1, None, is_pause=True), Step(100, 4))
PASS = Verdict(Outcome.PASS, "Fine", "canary 0/500 errors")
FAIL = Verdict(Outcome.FAIL, "ErrorsRose", "canary 14/212 errors")
INCONCLUSIVE = Verdict(Outcome.INCONCLUSIVE, "TooFewRequests", "canary 0/3 errors")
ERROR = Verdict(Outcome.ERROR, "SourceSilent", "no router answers")


NO_ROOM = Trouble("Unschedulable", "pod new-1 finds no node: nvidia.com/gpu is missing on 3 of 3 nodes")


def wanted(revision: str = "new", replicas: int = 4, steps: tuple[Step, ...] = STEPS, **more: Any) -> Target:
    """Each revision has a workload of its own, called like it."""
    return Target(revision, more.pop("content", ""), replicas, DEADLINE_SECONDS, revision, BAKE_SECONDS, steps, **more)


def pods(count: int, ready: int | None = None, **more: Any) -> Workload:
    """So many are asked for and exist; all are ready, unless said otherwise."""
    return Workload("", count, count, count if ready is None else ready, **more)


def in_force(endpoints: Mapping[str, int] | None = None, *, is_latest: bool = True, **weights: int) -> InForce:
    """endpoints: those of all that are named, four each, unless said otherwise."""
    return InForce(weights, dict.fromkeys(weights, 4) if endpoints is None else endpoints, is_latest)


def step(
    memory: RolloutState,
    world: Mapping[str, Workload],
    split: InForce | None,
    asked: Target | None = None,
    *,
    later: float = 0,
    **signals: Any,
) -> Plan:
    """A step in a world whose workloads carry the revisions that they are called by."""
    workloads = {name: replace(here, revision=name) for name, here in world.items()}
    now = NOW + timedelta(seconds=later)
    return rollout.step(asked or wanted(), memory, workloads, now, Signals(in_force=split, **signals))


def at(index: int, weight: int, *, held: float | None = None, waited: float = 0, **more: Any) -> RolloutState:
    """The canary is in that step; its weight is in force since `held` seconds, and it made no progress for `waited`.

    It got its first requests a minute before that.
    """
    since = None if held is None else NOW - timedelta(seconds=held)
    begun = NOW - timedelta(seconds=max(waited, held or 0))
    memory = RolloutState("old", "new", 4, begun, step_index=index, step_since=since, weight_percent=weight, **more)
    return memory if index == 0 else replace(memory, traffic_since=begun - timedelta(seconds=60), ends_before={})


RESTS = RolloutState("old")
PREPARES = RolloutState("old", "new", 0, NOW)
BAKES = RolloutState(
    "new",
    canary_ready=4,
    progress_since=NOW,
    bake_until=NOW + timedelta(seconds=BAKE_SECONDS),
    previous="old",
    traffic_since=NOW - timedelta(seconds=300),
    ends_before={},
)
ONE = {"old": pods(4), "new": pods(1)}
BOTH = {"old": pods(4), "new": pods(4)}


def shown(plan: Plan) -> tuple[str | None, Mapping[str, int], Mapping[str, int] | None, int]:
    """Stable, pods, weights and step."""
    return plan.state.stable, plan.replicas, plan.weights, plan.state.step_index


# ---- each row of canary.py, and what stands between them

ROWS = [
    pytest.param(
        RESTS, {"old": pods(4)}, in_force(old=100), ("old", {"old": 4, "new": 1}, (100, 0), 0), id="it gets a pod"
    ),
    pytest.param(
        PREPARES,
        {"old": pods(4), "new": pods(1, ready=0)},
        in_force(old=100, new=0),
        ("old", {"old": 4, "new": 1}, (100, 0), 0),
        id="its pod isn't ready: do nothing",
    ),
    pytest.param(
        PREPARES,
        ONE,
        in_force({"old": 4}, old=100),
        ("old", {"old": 4, "new": 1}, (100, 0), 0),
        id="not known to those who split: do nothing",
    ),
    pytest.param(PREPARES, ONE, None, ("old", {"old": 4, "new": 1}, (100, 0), 0), id="nobody says: do nothing"),
    pytest.param(
        PREPARES,
        ONE,
        in_force(old=100, new=0),
        ("old", {"old": 4, "new": 1}, (75, 25), 1),
        id="ready and known: the first weight",
    ),
    pytest.param(
        at(1, 25), ONE, in_force(old=100, new=0), ("old", {"old": 4, "new": 1}, (75, 25), 1), id="not in force: wait"
    ),
    pytest.param(
        at(1, 25), ONE, in_force(old=75, new=25), ("old", {"old": 4, "new": 1}, (75, 25), 1), id="in force: it is held"
    ),
    pytest.param(
        at(1, 25, held=59),
        ONE,
        in_force(old=75, new=25),
        ("old", {"old": 4, "new": 1}, (75, 25), 1),
        id="the hold isn't over: do nothing",
    ),
    pytest.param(
        at(1, 25, held=60),
        ONE,
        in_force(old=75, new=25),
        ("old", {"old": 4, "new": 1}, (75, 25), 2),
        id="held: the next step, whose pods come first",
    ),
    pytest.param(
        at(2, 25), ONE, in_force(old=75, new=25), ("old", {"old": 4, "new": 4}, (75, 25), 2), id="its pods come"
    ),
    pytest.param(
        at(2, 25),
        {"old": pods(4), "new": pods(4, ready=3)},
        in_force(old=75, new=25),
        ("old", {"old": 4, "new": 4}, (75, 25), 2),
        id="one is missing: do nothing",
    ),
    pytest.param(
        at(2, 25), BOTH, in_force(old=75, new=25), ("old", {"old": 4, "new": 4}, (0, 100), 2), id="all ready: 100"
    ),
    pytest.param(
        at(2, 100),
        BOTH,
        in_force(old=75, new=25),
        ("old", {"old": 4, "new": 4}, (0, 100), 2),
        id="100 isn't in force: it isn't stable yet",
    ),
    pytest.param(
        at(2, 100), BOTH, in_force(old=0, new=100), ("new", {"old": 4, "new": 4}, (0, 100), 0), id="in force: promoted"
    ),
    pytest.param(BAKES, BOTH, in_force(old=0, new=100), ("new", {"old": 4, "new": 4}, (0, 100), 0), id="it bakes"),
    pytest.param(
        replace(BAKES, bake_until=NOW), BOTH, in_force(old=0, new=100), ("new", {"new": 4}, None, 0), id="bake is over"
    ),
    pytest.param(RolloutState("new"), {"new": pods(4)}, in_force(new=100), ("new", {"new": 4}, None, 0), id="at rest"),
]


@pytest.mark.parametrize(("memory", "world", "split", "expected"), ROWS)
def test_step_by_step(
    memory: RolloutState,
    world: Mapping[str, Workload],
    split: InForce | None,
    expected: tuple[str, dict[str, int], tuple[int, int] | None, int],
) -> None:
    plan = step(memory, world, split)
    stable, replicas, shares, index = expected
    weights = {"new": 100} if shares is None else dict(zip(("old", "new"), shares, strict=True))
    assert shown(plan) == (stable, replicas, weights, index)
    assert plan.newly_rejected is None
    assert plan.assignments == {name: Assignment(name) for name in replicas}


TAKEN_BACK = [
    pytest.param({}, {"abort": Cause("Aborted", "a person aborted it")}, "Aborted", id="a person says abort"),
    pytest.param({"is_refused": True}, {}, "", id="an agent refuses it: the agent's own words"),
    pytest.param(
        {},
        {"gates": GateVerdict(GateState.FAILED, "SignatureChanged", "input x is gone")},
        "SignatureChanged",
        id="a gate fails",
    ),
    pytest.param({"crashes": (Crash("pod", 1, "exit code 139"),)}, {}, "CanaryCrashed", id="its server ends by itself"),
    pytest.param({}, {"verdict": FAIL}, "ErrorsRose", id="the evidence says Fail"),
]


@pytest.mark.parametrize(("pod", "signals", "reason"), TAKEN_BACK)
@pytest.mark.parametrize(("index", "weight"), [(1, 25), (2, 100)])
def test_any_failure_takes_the_weight_back_first_and_then_the_pods(
    pod: dict[str, Any], signals: dict[str, Any], reason: str, index: int, weight: int
) -> None:
    world = {"old": pods(4), "new": pods(index, **pod)}
    asked = wanted(is_judged=True, content="c")
    plan = step(at(index, weight), world, in_force(old=100 - weight, new=weight), asked, **signals)
    assert shown(plan) == ("old", {"old": 4, "new": index}, {"old": 100, "new": 0}, 0)
    assert (plan.state.canary, plan.promotion) == (None, Promotion.ROLLED_BACK)
    assert plan.newly_rejected == Rejection("new", "c")
    assert plan.cause is not None
    assert plan.cause.reason == reason
    rejected = RolloutState("old", rejected=(Rejection("new", "c"),))
    told = step(rejected, world, in_force(old=100, new=0, is_latest=False), asked)
    assert told.replicas == {"old": 4, "new": index}  # something else may still be on its way to a router
    gone = step(rejected, world, in_force(old=100, new=0), asked)
    assert shown(gone) == ("old", {"old": 4}, {"old": 100}, 0)
    assert gone.newly_rejected is None


@pytest.mark.parametrize("verdict", [None, INCONCLUSIVE, ERROR, FAIL])
def test_where_evidence_is_only_shown_it_takes_nothing_back_and_holds_nothing_up(verdict: Verdict | None) -> None:
    plan = step(at(1, 25, held=60), ONE, in_force(old=75, new=25), wanted(is_judged=False), verdict=verdict)
    assert (plan.state.step_index, plan.newly_rejected) == (2, None)


def test_a_crash_from_before_its_first_requests_is_not_held_against_it() -> None:
    world = {"old": pods(4), "new": pods(1, crashes=(Crash("pod", 2, "exit code 1"),))}
    first = step(at(0, 0), world, in_force(old=100, new=0))
    assert first.state.ends_before == {"pod": 2}
    held = replace(at(1, 25, held=60), ends_before=first.state.ends_before)
    assert step(held, world, in_force(old=75, new=25)).newly_rejected is None
    once_more = {**world, "new": pods(1, crashes=(Crash("pod", 3, "exit code 0"),))}
    assert step(held, once_more, in_force(old=75, new=25)).cause == Cause("CanaryCrashed", "exit code 0")


def test_what_a_former_release_did_not_count_is_no_crash() -> None:
    world = {"old": pods(4), "new": pods(1, crashes=(Crash("pod", 2, "exit code 1"),))}
    plan = step(replace(at(1, 25, held=10), ends_before=None), world, in_force(old=75, new=25))
    assert (plan.newly_rejected, plan.state.ends_before) == (None, {"pod": 2})


def test_a_crash_that_is_told_after_the_next_step_began_or_bake_did_is_not_forgiven() -> None:
    world = {"old": pods(4), "new": pods(4, crashes=(Crash("pod", 1, "exit code 139"),))}
    told = step(at(2, 50, held=0), world, in_force(old=50, new=50))
    assert (told.newly_rejected, told.cause) == (Rejection("new", ""), Cause("CanaryCrashed", "exit code 139"))
    told = step(BAKES, world, in_force(old=0, new=100))
    assert told.cause == Cause("CanaryCrashed", "in bake, exit code 139")


def test_the_first_requests_are_remembered_through_steps_and_bake() -> None:
    first = step(at(0, 0), ONE, in_force(old=100, new=0))
    assert (first.state.step_index, first.state.traffic_since) == (1, NOW)
    later = step(at(1, 25, held=60), ONE, in_force(old=75, new=25))
    assert (later.state.step_index, later.state.traffic_since) == (2, NOW - timedelta(seconds=120))
    assert step(BAKES, BOTH, in_force(old=0, new=100)).state.traffic_since == BAKES.traffic_since
    assert step(replace(BAKES, bake_until=NOW), BOTH, in_force(old=0, new=100)).state.traffic_since is None


def test_a_crash_while_it_prepares_is_not_the_end_before_the_deadline() -> None:
    world = {"old": pods(4), "new": pods(1, ready=0, crashes=(Crash("pod", 1, "exit code 1"),))}
    assert step(PREPARES, world, in_force(old=100, new=0)).newly_rejected is None


# ---- bake

BAKE_ENDS = [
    pytest.param({"abort": Cause("Aborted", "a person aborted it")}, {}, "Aborted", id="a person says abort"),
    pytest.param({"verdict": FAIL}, {}, "ErrorsRose", id="the evidence says Fail"),
    pytest.param({}, {"crashes": (Crash("pod", 1, "exit code 139"),)}, "CanaryCrashed", id="its server ends by itself"),
]


@pytest.mark.parametrize(("signals", "pod", "reason"), BAKE_ENDS)
def test_a_bake_that_fails_is_back_at_what_is_warm_at_once(
    signals: dict[str, Any], pod: dict[str, Any], reason: str
) -> None:
    world = {"old": pods(4), "new": pods(4, **pod)}
    plan = step(BAKES, world, in_force(old=0, new=100), wanted(is_judged=True), **signals)
    assert shown(plan) == ("old", {"old": 4, "new": 4}, {"old": 100, "new": 0}, 0)
    assert (plan.promotion, plan.state.previous, plan.newly_rejected) == (
        Promotion.ROLLED_BACK,
        None,
        Rejection("new", ""),
    )
    assert plan.cause is not None
    assert plan.cause.reason == reason


@pytest.mark.parametrize(
    "there", [{"new": pods(4, ready=0)}, {}], ids=["its pods are drained", "its Deployment is gone"]
)
def test_in_bake_what_stable_cannot_answer_goes_to_what_is_warm_until_it_can(there: Mapping[str, Workload]) -> None:
    world = {"old": pods(4), **there}
    first = step(BAKES, world, in_force(old=0, new=100))
    assert shown(first)[:3] == ("new", {"old": 4, "new": 4}, {"old": 0, "new": 100})
    second = step(first.state, world, in_force(old=0, new=100), later=1)
    assert shown(second)[:3] == ("new", {"old": 4, "new": 4}, {"old": 100, "new": 0})
    last = step(second.state, world, in_force(old=100, new=0), later=BAKE_SECONDS + 100)
    assert shown(last)[:3] == ("new", {"old": 4, "new": 4}, {"old": 100, "new": 0})  # the bake waits
    back = step(last.state, BOTH, in_force(old=100, new=0), later=BAKE_SECONDS + 101)
    assert shown(back)[:3] == ("new", {"old": 4, "new": 4}, {"old": 0, "new": 100})
    assert back.state.bake_until == NOW + timedelta(seconds=2 * BAKE_SECONDS + 101)


def test_in_bake_pods_that_have_nodes_and_do_not_come_back_are_taken_back_at_the_deadline() -> None:
    world = {"old": pods(4), "new": pods(4, ready=0)}
    halted = step(BAKES, world, in_force(old=0, new=100)).state
    plan = step(halted, world, in_force(old=100, new=0), later=DEADLINE_SECONDS)
    assert plan.state.stable == "old"
    assert plan.cause == Cause("ProgressDeadlineExceeded", "in bake, none of its pods was ready for 600 s")
    room = {**world, "new": pods(4, ready=0, waits_for_room=NO_ROOM)}
    assert step(halted, room, in_force(old=100, new=0), later=DEADLINE_SECONDS).state.stable == "new"


def test_scaled_to_zero_in_bake_it_goes_on_where_it_was() -> None:
    asleep = step(BAKES, BOTH, in_force(old=0, new=100), wanted(replicas=0))
    assert (asleep.state.stable, asleep.replicas) == ("new", {"old": 0, "new": 0})
    woken = step(asleep.state, {"old": pods(0), "new": pods(0)}, None, later=9 * 3600)
    assert (woken.state.stable, woken.replicas, woken.newly_rejected) == ("new", {"old": 4, "new": 4}, None)
    assert woken.state.bake_until == NOW + timedelta(seconds=9 * 3600 + BAKE_SECONDS)


def test_a_bake_that_fails_while_the_spec_names_another_revision_tells_why() -> None:
    world = {**BOTH, "third": pods(0)}
    plan = step(BAKES, world, in_force(old=0, new=100), wanted("third", is_judged=True), verdict=FAIL)
    assert (plan.state.stable, plan.newly_rejected, plan.promotion) == ("old", None, Promotion.IN_PROGRESS)
    assert plan.cause == Cause("ErrorsRose", f"in bake, {FAIL.message}")


def test_pods_that_a_router_sends_its_last_requests_to_stay_until_it_is_gone() -> None:
    rejected = RolloutState("old", rejected=(Rejection("new", ""),))
    plan = step(rejected, ONE, replace(in_force(old=100, new=0), lingering=frozenset({"new"})))
    assert (plan.replicas, plan.weights) == ({"old": 4, "new": 1}, {"old": 100, "new": 0})
    assert plan.wake_at is not None
    assert step(rejected, ONE, in_force(old=100, new=0)).replicas == {"old": 4}


@pytest.mark.parametrize("signals", [{"verdict": FAIL}, {"abort": Cause("Aborted", "")}])
def test_there_is_no_way_back_to_what_has_no_ready_pod(signals: dict[str, Any]) -> None:
    world = {"old": pods(4, ready=0), "new": pods(4)}
    plan = step(BAKES, world, in_force(old=0, new=100), wanted(is_judged=True), **signals)
    assert (plan.state.stable, plan.weights) == ("new", {"new": 100, "old": 0})


def test_without_bake_the_old_pods_go_once_no_request_reaches_them() -> None:
    asked = replace(wanted(), bake_seconds=0)
    plan = step(at(2, 100), BOTH, in_force(old=0, new=100), asked)
    assert shown(plan) == ("new", {"new": 4, "old": 4}, {"new": 100, "old": 0}, 0)  # until status tells
    assert plan.promotion is Promotion.PROMOTED
    assert plan.wake_at is not None
    assert shown(step(RolloutState("new"), BOTH, in_force(old=0, new=100), asked)) == (
        "new",
        {"new": 4},
        {"new": 100},
        0,
    )


# ---- what the fields mean (semantics.md)


def test_a_new_version_is_never_loaded_into_a_stable_pod() -> None:
    for memory, world, split in [
        (PREPARES, ONE, in_force(old=100, new=0)),
        (at(2, 25), BOTH, in_force(old=75, new=25)),
    ]:
        assert step(memory, world, split).assignments["old"] == Assignment("old")


def test_the_first_revision_goes_straight_to_100_percent() -> None:
    plan = step(RolloutState(), {}, None)
    assert shown(plan) == (None, {"new": 4}, {"new": 100}, 0)
    plan = step(RolloutState(None, "new", 0, NOW), {"new": pods(4)}, None)
    assert (plan.state.stable, plan.promotion, plan.state.previous) == ("new", Promotion.PROMOTED, None)


@pytest.mark.parametrize(
    ("gates", "weight", "waits_for"),
    [
        (OPEN, 25, "weight 25 to be in force"),
        (GateVerdict(GateState.WAITING, message="the signature is read"), 0, "the gates: the signature is read"),
    ],
)
def test_a_canary_gets_its_first_weight_once_its_gates_have_passed(
    gates: GateVerdict, weight: int, waits_for: str
) -> None:
    plan = step(PREPARES, ONE, in_force(old=100, new=0), gates=gates)
    assert plan.weights == {"old": 100 - weight, "new": weight}
    assert plan.waits_for == waits_for
    assert plan.state.step_index == (1 if weight else 0)


@pytest.mark.parametrize(
    ("gates", "is_straight"), [(OPEN, True), (GateVerdict(GateState.WAITING, message="the signature is read"), False)]
)
def test_when_stable_has_no_ready_pod_a_revision_that_passes_its_gates_goes_straight(
    gates: GateVerdict, *, is_straight: bool
) -> None:
    world = {"old": pods(4, ready=0), "new": pods(4, ready=1)}
    asked = step(RESTS, {"old": pods(4, ready=0)}, in_force(old=100), wanted(is_judged=True))
    assert asked.replicas == {"old": 4, "new": 4}
    plan = step(asked.state, world, in_force(old=100, new=0), wanted(is_judged=True), gates=gates)
    assert plan.state.stable == ("new" if is_straight else "old")
    assert plan.weights == ({"new": 100, "old": 0} if is_straight else {"old": 100, "new": 0})


def test_where_stable_served_for_a_moment_since_the_new_one_was_asked_for_it_goes_by_its_steps() -> None:
    asked = step(RESTS, {"old": pods(4, ready=0)}, in_force(old=100)).state
    served = step(asked, {"old": pods(4, ready=1), "new": pods(4, ready=0)}, in_force(old=100), later=1).state
    plan = step(served, {"old": pods(4, ready=0), "new": pods(4)}, in_force(old=100, new=0), later=2)
    assert (plan.state.stable, plan.state.step_index) == ("old", 0)


PHASES = {
    "prepares": PREPARES,
    "in its first step": at(1, 25, held=10),
    "held, and judged well": at(1, 25, held=60),
    "in its last step": at(2, 100, held=1),
    "paused": at(1, 25, held=60, is_paused=True),
}


@pytest.mark.parametrize("phase", PHASES)
def test_while_stable_has_no_ready_pod_requests_go_to_the_canary_and_nothing_else_changes(phase: str) -> None:
    memory = PHASES[phase]
    world = {"old": pods(4, ready=0), "new": pods(4)}
    split = in_force(old=100 - memory.weight_percent, new=memory.weight_percent)
    asked = wanted(is_judged=True)
    first = step(memory, world, split, asked, verdict=PASS)
    second = step(first.state, world, split, asked, later=1, verdict=PASS)
    after = step(second.state, world, in_force(old=0, new=100), asked, later=9_999, verdict=FAIL)
    assert (second.weights, after.weights) == ({"old": 0, "new": 100}, {"old": 0, "new": 100})
    for plan in (first, second, after):
        assert (plan.state.stable, plan.state.canary, plan.promotion_reason) == ("old", "new", None)
        assert (plan.state.step_index, plan.state.step_since) == (memory.step_index, memory.step_since)
        assert (plan.state.is_paused, plan.newly_rejected) == (memory.is_paused, None)
    back = step(after.state, BOTH, in_force(old=0, new=100), asked, later=10_000)
    if memory.step_index == 1:
        assert (back.state.stable, back.state.step_index, back.weights) == ("old", 1, {"old": 75, "new": 25})
        assert memory.step_since is not None
        assert back.state.step_since == memory.step_since + timedelta(seconds=10_000)


def test_a_person_may_promote_while_stable_has_no_ready_pod() -> None:
    world = {"old": pods(4, ready=0), "new": pods(4)}
    said = replace(at(2, 100), is_promote_requested=True)
    plan = step(said, world, in_force(old=0, new=100))
    assert (plan.state.stable, plan.promotion_reason) == ("new", PromotionReason.PERSON)


def test_scaled_to_zero_in_mid_rollout_it_goes_on_where_it_was() -> None:
    asleep = step(at(1, 25, held=60), ONE, in_force(old=75, new=25), wanted(replicas=0, is_judged=True), verdict=PASS)
    assert (asleep.state.stable, asleep.state.canary, asleep.replicas) == ("old", "new", {"old": 0, "new": 0})
    none = {"old": pods(0), "new": pods(0)}
    night = step(asleep.state, none, None, wanted(replicas=0), later=9 * 3600)
    assert (night.state.stable, night.state.step_index, night.newly_rejected) == ("old", 1, None)
    woken = step(night.state, none, None, later=9 * 3600)
    assert woken.replicas == {"old": 4, "new": 0}  # stable comes first
    assert woken.newly_rejected is None
    one = {"old": pods(4, ready=1), "new": pods(0)}
    served = step(woken.state, one, in_force(old=100, new=0), later=9 * 3600 + 20)
    assert (served.replicas, served.weights) == ({"old": 4, "new": 1}, {"old": 100, "new": 0})
    ready = step(served.state, ONE, in_force(old=100, new=0), later=9 * 3600 + 40)
    assert (ready.weights, ready.state.step_index) == ({"old": 75, "new": 25}, 1)
    gated = GateVerdict(GateState.WAITING, message="the signature is read")
    held = step(served.state, ONE, in_force(old=100, new=0), later=9 * 3600 + 40, gates=gated)
    assert held.weights == {"old": 100, "new": 0}


@pytest.mark.parametrize("memory", [PREPARES, at(1, 25), at(2, 25)], ids=["prepares", "first step", "last step"])
def test_want_of_room_is_no_missed_deadline(memory: RolloutState) -> None:
    world = {"old": pods(4), "new": pods(4, ready=memory.step_index, waits_for_room=NO_ROOM)}
    split = in_force(old=100 - memory.weight_percent, new=memory.weight_percent)
    waiting = step(memory, world, split)
    assert "gpu" in waiting.waits_for
    late = step(waiting.state, world, split, later=10 * DEADLINE_SECONDS)
    assert (late.newly_rejected, late.state.canary) == (None, "new")
    assert late.state.progress_since == waiting.state.progress_since
    found = {"old": pods(4), "new": pods(4, ready=memory.step_index)}
    placed = step(late.state, found, split, later=10 * DEADLINE_SECONDS + 1)
    assert (placed.newly_rejected, placed.state.halt) == (None, None)


def test_after_its_time_for_room_stable_has_everything_and_it_is_tried_again() -> None:
    asked = wanted(capacity_seconds=900)
    world = {"old": pods(4), "new": pods(1, ready=0, waits_for_room=NO_ROOM)}
    waiting = step(PREPARES, world, in_force(old=100, new=0), asked).state
    assert step(waiting, world, in_force(old=100, new=0), asked, later=899).replicas == {"old": 4, "new": 1}
    over = step(waiting, world, in_force(old=100, new=0), asked, later=900)
    assert (over.replicas, over.newly_rejected, over.promotion) == ({"old": 4}, None, Promotion.IN_PROGRESS)
    rests = step(over.state, {"old": pods(4)}, in_force(old=100), asked, later=901)
    assert rests.replicas == {"old": 4}
    again = step(rests.state, {"old": pods(4)}, in_force(old=100), asked, later=900 + 300)
    assert again.replicas == {"old": 4, "new": 1}


def test_a_canary_whose_routers_cannot_come_is_not_rejected() -> None:
    trouble = Trouble("ImagePullFailed", "the node can't pull image nosuch:1 of container router")
    waiting = step(PREPARES, ONE, None, router_trouble=trouble)
    late = step(waiting.state, ONE, None, later=10 * DEADLINE_SECONDS, router_trouble=trouble)
    assert (late.newly_rejected, late.state.step_index) == (None, 0)
    assert "nosuch:1" in late.waits_for


def test_when_stable_has_no_ready_pod_a_revision_that_was_rejected_does_not_come_back() -> None:
    memory = RolloutState("old", rejected=(Rejection("new", ""),))
    plan = step(memory, {"old": pods(4, ready=0), "new": pods(4)}, in_force(old=100, new=0))
    assert (plan.state.stable, plan.weights) == ("old", {"old": 100})


@pytest.mark.parametrize(("ready", "reachable", "weight"), [(1, 2, 25), (2, 1, 25), (2, 2, 50), (4, 4, 50)])
def test_a_weight_waits_for_as_many_ready_canary_pods_as_it_takes(ready: int, reachable: int, weight: int) -> None:
    steps = (Step(25, 1, 0), Step(50, 2, 0), Step(100, 4))
    world = {"old": pods(4), "new": pods(4, ready=ready)}
    split = in_force({"old": 4, "new": reachable}, old=75, new=25)
    plan = step(at(2, 25), world, split, wanted(steps=steps))
    assert plan.weights == {"old": 100 - weight, "new": weight}


@pytest.mark.parametrize("was", [0, 5])
def test_a_skipped_or_hurried_step_gets_no_weight_without_its_pods(was: int) -> None:
    steps = (Step(5, 1, 60), Step(50, 2, 60), Step(100, 4))
    plan = step(at(3, was, is_promote_requested=True), ONE, in_force(old=100 - was, new=was), wanted(steps=steps))
    assert plan.weights == {"old": 100 - was, "new": was}
    assert plan.replicas == {"old": 4, "new": 4}


def test_a_weight_that_was_asked_stays_while_some_canary_pod_is_ready() -> None:
    world = {"old": pods(4), "new": pods(4, ready=1)}
    plan = step(at(2, 100, held=10), world, in_force(old=0, new=100))
    assert plan.weights == {"old": 0, "new": 100}
    none = step(at(1, 25, held=10), {"old": pods(4), "new": pods(1, ready=0)}, in_force(old=75, new=25))
    assert none.weights == {"old": 100, "new": 0}
    assert none.state.step_since is None


def test_stable_does_not_shrink_before_bake_ends() -> None:
    for memory, split in [
        (PREPARES, in_force(old=100, new=0)),
        (at(2, 25), in_force(old=75, new=25)),
        (at(2, 100), in_force(old=0, new=100)),
        (BAKES, in_force(old=0, new=100)),
    ]:
        assert step(memory, BOTH, split).replicas["old"] == 4


def test_with_swap_one_old_pod_makes_room_for_each_new_one_and_none_is_left_to_bake() -> None:
    swap = wanted(steps=(Step(50, 2, 0), Step(100, 3)), is_swap=True)
    found = [
        step(PREPARES, {"old": pods(4)}, in_force(old=100), swap),
        step(PREPARES, {"old": pods(3), "new": pods(2, ready=1)}, in_force(old=100, new=0), swap),
        step(at(2, 50), {"old": pods(2), "new": pods(3, ready=2)}, in_force(old=50, new=50), swap),
    ]
    assert [plan.replicas for plan in found] == [{"old": 3, "new": 2}, {"old": 2, "new": 2}, {"old": 1, "new": 3}]
    world, split = {"old": pods(1), "new": pods(3)}, in_force(old=0, new=100)
    told = step(at(2, 100), world, split, swap)
    assert shown(told) == ("new", {"new": 3, "old": 1}, {"new": 100, "old": 0}, 0)
    assert told.state.previous is None
    assert shown(step(RolloutState("new"), world, split, swap)) == ("new", {"new": 3}, {"new": 100}, 0)
    assert shown(step(RolloutState("new"), {"new": pods(3)}, split, swap)) == ("new", {"new": 4}, {"new": 100}, 0)


def test_with_swap_fewer_replicas_at_the_end_leave_what_serves() -> None:
    swap = wanted(replicas=1, steps=(Step(100, 1),), is_swap=True)
    plan = step(at(1, 100), {"old": pods(3), "new": pods(1)}, in_force(old=0, new=100), swap)
    assert plan.replicas["new"] == 1
    # scaled to zero, and up again before the old ones were gone
    assert step(RolloutState("new"), {"old": pods(3), "new": pods(0)}, None, swap).replicas["new"] == 1


@pytest.mark.parametrize("verdict", [None, INCONCLUSIVE, ERROR])
def test_with_enforce_nothing_advances_without_data(verdict: Verdict | None) -> None:
    asked = wanted(is_judged=True)
    plan = step(at(1, 25, held=600), ONE, in_force(old=75, new=25), asked, verdict=verdict)
    assert (plan.state.step_index, plan.state.stable, plan.newly_rejected) == (1, "old", None)
    assert plan.waits_for.startswith("evidence")
    assert step(at(1, 25, held=60), ONE, in_force(old=75, new=25), asked, verdict=PASS).state.step_index == 2


def test_at_weight_100_there_is_no_stable_traffic_to_compare_with() -> None:
    plan = step(at(2, 100), BOTH, in_force(old=0, new=100), wanted(is_judged=True), verdict=INCONCLUSIVE)
    assert plan.state.stable == "new"


@pytest.mark.parametrize(
    ("memory", "world", "seconds", "is_over"),
    [
        pytest.param(PREPARES, {"old": pods(4), "new": pods(1, ready=0)}, 599, False, id="it prepares"),
        pytest.param(PREPARES, {"old": pods(4), "new": pods(1, ready=0)}, 600, True, id="it prepares too long"),
        pytest.param(
            PREPARES, {"old": pods(4), "new": pods(1, ready=0, is_fetching=True)}, 900, False, id="it still downloads"
        ),
        pytest.param(at(1, 25, held=0), ONE, 659, False, id="a hold and the deadline after it"),
        pytest.param(at(1, 25, held=0), ONE, 660, True, id="evidence is missing at the deadline after the hold"),
        pytest.param(at(2, 25), ONE, 599, False, id="a step's pods"),
        pytest.param(at(2, 25), ONE, 600, True, id="a step's pods don't come"),
        pytest.param(at(1, 25, held=500), ONE, 159, False, id="hold and deadline count from the step's own begin"),
        pytest.param(at(1, 25, is_paused=True), ONE, 86_400, False, id="paused by a person"),
        pytest.param(at(2, 25, held=0), ONE, 86_400, False, id="a pause without an end"),
    ],
)
def test_the_deadline_starts_anew_at_each_step_and_pauses_and_holds_do_not_count(
    memory: RolloutState, world: Mapping[str, Workload], seconds: int, *, is_over: bool
) -> None:
    is_pause = memory.step_index == 2 and memory.step_since is not None
    asked = wanted(steps=PAUSED if is_pause else STEPS, is_judged=True)
    split = in_force(old=100 - memory.weight_percent, new=memory.weight_percent)
    plan = step(memory, world, split, asked, later=seconds)
    assert (plan.newly_rejected is not None) == is_over
    assert plan.promotion is (
        Promotion.ROLLED_BACK
        if is_over
        else Promotion.PAUSED
        if memory.is_paused or is_pause
        else Promotion.IN_PROGRESS
    )


@pytest.mark.parametrize("steps", [(Step(25, 1, 86_400), Step(100, 4)), (Step(25, 1, None, is_pause=True),)])
def test_a_moment_without_routers_late_in_a_long_hold_is_no_missed_deadline(steps: tuple[Step, ...]) -> None:
    plan = step(at(1, 25, held=3600), ONE, None, wanted(steps=steps))
    assert plan.newly_rejected is None
    assert plan.weights == {"old": 75, "new": 25}
    assert plan.state.step_since == NOW - timedelta(seconds=3600)


def test_a_pod_lost_late_in_a_long_hold_has_its_own_time_to_come_back() -> None:
    asked = wanted(steps=(Step(25, 1, 86_400), Step(100, 4)))
    world = {"old": pods(4), "new": pods(1, ready=0)}
    plan = step(at(1, 25, held=3600, waited=3610), world, in_force(old=75, new=25), asked)
    assert plan.newly_rejected is None
    assert plan.state.progress_since == NOW - timedelta(seconds=10)  # what it waited before it was held counts on


@pytest.mark.parametrize("split", [in_force(old=75, new=25), in_force(old=100), None], ids=["all", "some", "none"])
@pytest.mark.parametrize("verdict", [INCONCLUSIVE, PASS])
def test_what_holds_on_is_not_given_up_at_the_moment_a_router_does_not_say_the_weight(
    verdict: Verdict, split: InForce | None
) -> None:
    asked = wanted(is_judged=True, holds_on_inconclusive=True)
    plan = step(at(1, 25, held=86_400), ONE, split, asked, verdict=verdict)
    assert plan.newly_rejected is None
    assert plan.weights == {"old": 75, "new": 25}


def test_a_pause_is_told_as_one_while_routers_do_not_answer() -> None:
    plan = step(at(2, 25, held=60), ONE, None, wanted(steps=PAUSED))
    assert (plan.promotion, plan.waits_for) == (Promotion.PAUSED, "a person to resume")


@pytest.mark.parametrize("holds", [False, True])
def test_at_the_deadline_missing_evidence_follows_on_inconclusive(*, holds: bool) -> None:
    asked = wanted(is_judged=True, holds_on_inconclusive=holds)
    plan = step(at(1, 25, held=660), ONE, in_force(old=75, new=25), asked, verdict=INCONCLUSIVE)
    assert (plan.newly_rejected is None) == holds
    if not holds:
        assert plan.cause is not None
        assert plan.cause.reason == "Inconclusive"
        assert "canary 0/3 errors" in plan.cause.message


def test_a_weight_of_100_that_is_not_in_force_at_the_deadline_is_no_lack_of_evidence() -> None:
    steps = (Step(25, 1), Step(100, 4, HOLD_SECONDS))
    asked = wanted(steps=steps, is_judged=True)
    plan = step(at(2, 100, held=660), BOTH, None, asked, verdict=INCONCLUSIVE)
    assert plan.cause is not None
    assert (plan.cause.reason, "weight 100 to be in force" in plan.cause.message) == ("ProgressDeadlineExceeded", True)


def test_pods_that_do_not_come_are_not_held_by_on_inconclusive() -> None:
    asked = wanted(is_judged=True, holds_on_inconclusive=True)
    assert step(at(2, 25, waited=600), ONE, in_force(old=75, new=25), asked).newly_rejected is not None


def test_rejected_means_a_revision_with_its_bytes() -> None:
    memory = RolloutState("old", rejected=(Rejection("new", "c"),))
    split = in_force(old=100)
    assert shown(step(memory, {"old": pods(4)}, split, wanted(content="c")))[1] == {"old": 4}
    assert shown(step(memory, {"old": pods(4)}, split, wanted(content="d")))[1] == {"old": 4, "new": 1}


def test_a_change_of_replicas_never_retries_a_rejected_revision() -> None:
    memory = RolloutState("old", rejected=(Rejection("new", ""),))
    plan = step(memory, {"old": pods(4)}, in_force(old=100), wanted(replicas=8))
    assert (plan.replicas, plan.promotion) == ({"old": 8}, Promotion.ROLLED_BACK)


def test_a_spec_edit_replaces_a_canary_and_there_are_never_two_with_weight() -> None:
    world = {"old": pods(4), "mid": pods(1)}
    memory = replace(at(1, 25, held=10), canary="mid")
    plan = step(memory, world, in_force(old=75, mid=25))
    assert shown(plan) == ("old", {"old": 4, "mid": 1, "new": 1}, {"old": 100, "mid": 0, "new": 0}, 0)
    gone = step(PREPARES, {**world, "new": pods(1, ready=0)}, in_force(old=100, mid=0, new=0))
    assert gone.replicas == {"old": 4, "new": 1}


def test_a_new_spec_during_bake_waits() -> None:
    plan = step(BAKES, BOTH, in_force(old=0, new=100), wanted("newer"))
    assert shown(plan) == ("new", {"old": 4, "new": 4}, {"old": 0, "new": 100}, 0)
    assert plan.waits_for == "the bake of the stable revision to end"
    assert plan.promotion is Promotion.IN_PROGRESS


def test_the_old_stable_revision_set_back_during_bake_is_a_rollback_at_once() -> None:
    plan = step(BAKES, BOTH, in_force(old=0, new=100), wanted("old"))
    assert shown(plan) == ("old", {"old": 4, "new": 4}, {"old": 100, "new": 0}, 0)
    assert (plan.promotion, plan.newly_rejected) == (Promotion.IN_PROGRESS, None)
    there = step(RolloutState("old"), BOTH, in_force(old=100), wanted("old"))
    assert there.promotion is Promotion.PROMOTED, "it has all requests, as those who split say"


def test_the_stable_revision_set_back_in_mid_rollout_is_a_rollback_at_once() -> None:
    plan = step(at(1, 25, held=10), ONE, in_force(old=75, new=25), wanted("old"))
    assert shown(plan) == ("old", {"old": 4, "new": 1}, {"old": 100, "new": 0}, 0)
    assert (plan.promotion, plan.newly_rejected) == (Promotion.IN_PROGRESS, None)
    assert step(RolloutState("old"), ONE, in_force(old=100), wanted("old")).promotion is Promotion.PROMOTED


def test_a_rollback_of_a_person_is_no_promotion_and_nothing_bakes() -> None:
    back = wanted("older", steps=STEPS[-1:], is_rollback=True)
    plan = step(RolloutState("old"), {"old": pods(4)}, in_force(old=100), back)
    assert shown(plan) == ("old", {"old": 4, "older": 4}, {"old": 100, "older": 0}, 0)
    world, memory = {"old": pods(4), "older": pods(4)}, replace(at(1, 100), canary="older")
    there = step(memory, world, in_force(old=0, older=100), back)
    assert (there.state.stable, there.state.previous, there.promotion) == ("older", None, Promotion.ROLLED_BACK)
    rests = step(RolloutState("older"), {"older": pods(4)}, in_force(older=100), back)
    assert rests.promotion is Promotion.ROLLED_BACK


def test_rollout_settings_apply_at_once() -> None:
    split = in_force(old=75, new=25)
    assert step(at(1, 25, held=10), ONE, split, wanted(steps=(Step(25, 1, 5), Step(100, 4)))).state.step_index == 2
    lower = step(at(1, 25, held=10), ONE, split, wanted(steps=(Step(10, 1, 60), Step(100, 4))))
    assert lower.weights == {"old": 90, "new": 10}


def test_steps_edited_in_mid_rollout_begin_anew_at_the_first_with_no_larger_share_than_it_allows() -> None:
    second = at(2, 50, held=30, steps="before")
    split = in_force(old=50, new=50)
    lower = step(second, BOTH, split, wanted(steps=(Step(10, 1, 60), Step(100, 4)), steps_name="after"))
    assert (lower.state.step_index, lower.weights, lower.state.steps) == (1, {"old": 90, "new": 10}, "after")
    higher = step(second, BOTH, split, wanted(steps=(Step(75, 4, 60), Step(100, 4)), steps_name="after"))
    assert (higher.state.step_index, higher.state.step_since) == (1, None)
    promoted = replace(second, is_promote_requested=True)
    assert step(promoted, BOTH, split, wanted(steps_name="after")).state.step_index == 2


def test_fewer_steps_of_a_former_release_go_on_at_the_last_one() -> None:
    fewer = step(at(4, 50), BOTH, in_force(old=50, new=50))
    assert (fewer.state.step_index, fewer.weights) == (2, {"old": 0, "new": 100})


@pytest.mark.parametrize("replicas", [1, 8])
def test_replicas_apply_at_once_and_a_weight_in_force_stays(replicas: int) -> None:
    steps = (Step(25, max(1, replicas // 4), HOLD_SECONDS), Step(100, replicas))
    plan = step(at(1, 25, held=10), ONE, in_force(old=75, new=25), wanted(replicas=replicas, steps=steps))
    assert shown(plan) == ("old", {"old": replicas, "new": max(1, replicas // 4)}, {"old": 75, "new": 25}, 1)


def test_steps_that_come_in_mid_rollout_take_no_pod_that_stable_lacks() -> None:
    plan = step(at(0, 0), {"old": pods(2), "new": pods(3)}, in_force({"old": 2}, old=40, new=60))
    assert plan.replicas == {"old": 4, "new": 2}


def test_a_stable_deployment_that_was_deleted_is_made_anew_and_stays_stable() -> None:
    plan = step(at(1, 25), {"new": pods(1, ready=0)}, in_force(old=75, new=25))
    assert (plan.state.stable, plan.replicas["old"], plan.assignments["old"]) == ("old", 4, Assignment("old"))
    rejected = RolloutState("old", rejected=(Rejection("new", ""),))
    back = step(rejected, {"new": pods(1)}, in_force(old=100, new=0))
    assert shown(back) == ("old", {"old": 4}, {"old": 100}, 0)


@pytest.mark.parametrize("split", [None, in_force(old=75, new=25), in_force(old=100, new=0, is_latest=False)])
def test_pods_stay_until_all_who_split_are_known_to_give_them_nothing(split: InForce | None) -> None:
    plan = step(RolloutState("old", rejected=(Rejection("new", ""),)), ONE, split)
    assert plan.replicas == {"old": 4, "new": 1}
    assert plan.wake_at is not None


def test_by_the_ratio_of_pods_any_share_is_in_force() -> None:
    asked = wanted(steps=(Step(20, 1, 60), Step(100, 4)), is_exact=False)
    plan = step(at(1, 20), ONE, in_force(old=83, new=17), asked)
    assert plan.state.step_since == NOW
    assert step(at(1, 20), ONE, in_force(old=100), asked).state.step_since is None


@pytest.mark.parametrize("memory", [PREPARES, at(1, 25, held=10)])
def test_while_a_canary_is_on_it_is_looked_at_each_second(memory: RolloutState) -> None:
    assert step(memory, ONE, in_force(old=75, new=25)).wake_at == NOW + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("memory", "asked", "seconds"),
    [
        (at(1, 25, held=10), wanted(), 50),  # the hold's end
        (at(1, 25, held=70), wanted(), DEADLINE_SECONDS - 10),  # no evidence: the deadline, from the hold's end on
        (at(1, 25, held=70), wanted(is_judged=True, holds_on_inconclusive=True), None),  # as long as it takes
        (replace(at(1, 25, held=10), is_paused=True), wanted(), None),
        (RolloutState("new", previous="old", bake_until=NOW + timedelta(seconds=99)), wanted(), 99),
        (RolloutState("new"), wanted(), None),
    ],
)
def test_when_time_alone_changes_something_is_told(memory: RolloutState, asked: Target, seconds: int | None) -> None:
    signals = in_force(new=100) if memory.stable == "new" else in_force(old=75, new=25)
    plan = step(memory, {**ONE, "new": pods(4)}, signals, replace(asked, is_judged=True))
    assert plan.turns_at == (None if seconds is None else NOW + timedelta(seconds=seconds))


def test_at_rest_nothing_is_looked_at() -> None:
    assert step(RolloutState("new"), {"new": pods(4)}, in_force(new=100)).wake_at is None


# ---- laws, in a world that does what it likes

ANY = st.sampled_from(REVISIONS)
LIKELY = st.sampled_from([GOOD, ALSO_GOOD])
SPECS = st.builds(
    World,
    replicas=st.integers(2, 5),
    shares=st.sampled_from([(25, 50), (5,), (50, None), (None, 10), (0, 20, 20), ()]),
    is_judged=st.booleans(),
    holds=st.booleans(),
    is_swap=st.booleans(),
    bake_seconds=st.sampled_from([0, 300]),
)
EVENTS = st.one_of(
    st.tuples(st.just("control"), st.none()),
    st.tuples(st.just("start"), ANY),
    st.tuples(st.just("start all"), st.none()),
    st.tuples(st.just("die"), LIKELY),
    st.tuples(st.just("die all"), LIKELY),
    st.tuples(st.just("crash"), LIKELY),
    st.tuples(st.just("learn"), st.tuples(st.integers(0, 1), st.integers(1, 3))),
    st.tuples(st.just("learn all"), st.none()),
    st.tuples(st.just("silent"), st.booleans()),
    st.tuples(st.just("said"), st.tuples(LIKELY, st.sampled_from(list(Outcome)))),
    *[st.tuples(st.just("kind"), st.integers(1, 70))] * 5,
    st.tuples(st.just("gates"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([1, 60, 301, 601])),
    st.tuples(st.just("spec"), ANY),
    st.tuples(st.just("scale"), st.integers(0, 6)),
    st.tuples(st.just("correct"), st.sampled_from(["x", "y"])),
    st.tuples(st.just("command"), st.tuples(st.sampled_from(sorted(VERBS)), st.one_of(st.none(), ANY))),
    st.tuples(st.just("delete"), LIKELY),
    st.tuples(st.just("lose status"), st.none()),
    st.tuples(st.just("end before status"), st.none()),
    st.tuples(st.just("stand still"), st.none()),
)


def happen(world: World, what: str, argument: object) -> None:
    """One event, and the pass that follows it."""
    match what, argument:
        case "control", _:
            world.control()
        case "start", str(name):
            world.start(name)
        case "start all", _:
            for name in world.pods:
                for _ in range(world.replicas):
                    world.start(name)
        case "die", str(name):
            world.die(name)
        case "die all", str(name):
            for _ in range(6):
                world.die(name)
        case "crash", str(name):
            world.crash(name)
        case "learn", (int(router), int(count)):
            world.learn(router, count)
        case "learn all", _:
            for router in range(2):
                world.learn(router, 99)
        case "silent", bool(are_silent):
            world.are_silent = are_silent
        case "said", (str(name), Outcome() as outcome):
            world.said[name] = outcome
        case "kind", int(seconds):
            world.settle(seconds, passes=2)
        case "gates", bool(wait):
            world.gates_wait = wait
        case "wait", int(seconds):
            world.wait(seconds)
        case "spec", str(revision):
            world.revision = revision
        case "scale", int(replicas):
            world.replicas = 2 if world.is_swap and replicas == 1 else replicas
        case "correct", str(content):
            world.content = content
        case "command", (str(verb), revision):
            world.say(verb, str(revision or world.memory.canary or world.revision))
        case "delete", str(name):
            world.delete(name)
        case "lose status", _:
            world.memory = RolloutState()
        case "stand still", _:
            world.stand_still()
    world.operate(is_ended_before_status=what == "end before status")
    world.check_reached()


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@example(World(replicas=1, is_judged=False, bake_seconds=0), [("kind", 1), ("die all", "a"), ("delete", "b")])
@example(World(replicas=2, shares=(25, 50), is_judged=False, bake_seconds=0), [("kind", 1), ("kind", 1), ("scale", 0)])
@given(SPECS, st.lists(EVENTS, max_size=40))
def test_whatever_happens_the_laws_hold_and_an_end_is_reached(world: World, events: list[tuple[str, object]]) -> None:
    world.settle(passes=8)
    world.revision = ALSO_GOOD
    for what, argument in events:
        happen(world, what, argument)
    plan = world.settle()
    assert_ended(world, plan)
    again = world.operate()
    assert replace(again, wake_at=None) == replace(plan, wake_at=None)  # and it stays


def assert_ended(world: World, plan: Plan) -> None:
    """In a world that is kind and stands still, a rollout has one of four ends."""
    target, alone = world.revision, {plan.state.stable: world.replicas}
    match plan.promotion:
        case Promotion.PROMOTED:
            assert plan.state.stable == target
            assert plan.replicas == alone
            assert plan.weights == {target: 100}
        case Promotion.ROLLED_BACK:
            rejected = {each.revision for each in world.memory.rejected}
            assert world.wanted().revision in rejected if plan.state.stable != world.wanted().revision else world.pinned
            assert plan.replicas == alone
            assert plan.weights == {plan.state.stable: 100}
        case Promotion.PAUSED:
            assert plan.state.canary == world.wanted().revision
            assert world.replicas == 0 or plan.waits_for == "a person to resume"
        case Promotion.IN_PROGRESS if plan.state.stable is None:  # the first one, and nothing to go back to
            assert world.wanted().revision in (NEVER_READY, REFUSED)
        case Promotion.IN_PROGRESS if world.replicas == 0:  # it goes on once there are some
            assert plan.state.halt is not None
        case Promotion.IN_PROGRESS:
            assert target == SILENT
            assert world.is_judged
            assert world.holds
            assert plan.waits_for.startswith("evidence")
    if target in (GOOD, ALSO_GOOD) and world.replicas and not world.pinned and not world.memory.rejected:
        assert plan.promotion in (Promotion.PROMOTED, Promotion.PAUSED)


def test_a_weight_still_on_its_way_when_it_is_taken_back_finds_its_pods() -> None:
    world = World(shares=(25,))
    world.settle(passes=8)
    world.revision = ALSO_GOOD
    while not world.asked[-1].get(ALSO_GOOD):
        world.be_kind()
        world.operate()
    world.say("abort", ALSO_GOOD)
    for _ in range(3):
        world.operate()
    world.learn(0, 1)  # a kubelet was slow with the configuration that gives it a weight
    assert world.asked[world.loaded[0]][ALSO_GOOD] == 25
    assert world.scale[ALSO_GOOD] == 1
    assert world.settle().replicas == {GOOD: 2}
