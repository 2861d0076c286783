"""The two tables that a reader must be able to trust: every way to become stable, every way to lose one's place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from slipway.decide import promotion
from slipway.decide.rollout import step
from slipway.model.rollout import Plan, PromotionReason, Step, Target
from slipway.model.rollout_state import Halt, HaltReason, Rejection, RolloutState
from slipway.model.signals import Cause, GateState, GateVerdict, InForce, Outcome, Signals, Verdict
from slipway.model.workload import Crash, Trouble, Workload
from tests.unit.canaries import NOW

STEPS = (Step(50, 1, 60), Step(100, 2))
LONG_AGO = NOW - timedelta(hours=1)
BY_STEPS = Target("new", "c", 2, 600, "new", 300, STEPS, is_judged=True)
ROLLING = Target("new", "c", 2, 600, "new", 300)
IN_PLACE = replace(ROLLING, workload="old")
PREPARES = RolloutState("old", "new", 2, NOW)
AT_50 = replace(PREPARES, step_index=1, step_since=LONG_AGO, weight_percent=50, traffic_since=LONG_AGO, ends_before={})
AT_100 = replace(AT_50, step_index=2, weight_percent=100)
BAKES = RolloutState(
    "new",
    previous="old",
    bake_until=NOW + timedelta(seconds=99),
    canary_ready=2,
    traffic_since=LONG_AGO,
    ends_before={},
)
FAIL = Verdict(Outcome.FAIL, "ErrorsRose", "14 of 212")
NO_ROOM = Trouble("Unschedulable", "no node has a free nvidia.com/gpu")
ABORT = Cause("Aborted", "a person aborted it")


def pods(of: str, count: int = 2, ready: int | None = None, **more: object) -> Workload:
    here = Workload(of, count, count, count if ready is None else ready)
    return replace(here, **more)  # type: ignore[arg-type]  # fields of the row


def both(ready: int = 2, **more: object) -> dict[str, Workload]:
    return {"old": pods("old"), "new": pods("new", 2, ready, **more)}


def split(old: int, new: int) -> Signals:
    return Signals(in_force=InForce({"old": old, "new": new}, {"old": 2, "new": 2}))


BECOMES_STABLE: dict[PromotionReason, tuple[Target, RolloutState, Mapping[str, Workload], Signals]] = {
    PromotionReason.FIRST: (ROLLING, RolloutState(), {"new": pods("new")}, Signals()),
    PromotionReason.SET_BACK: (
        replace(BY_STEPS, revision="old", workload="old"), BAKES, both(), split(0, 100),
    ),
    PromotionReason.STEPS_DONE: (BY_STEPS, AT_100, both(), split(0, 100)),
    PromotionReason.PERSON: (BY_STEPS, replace(AT_100, is_promote_requested=True), both(), split(0, 100)),
    PromotionReason.LOADED_EVERYWHERE: (
        IN_PLACE, PREPARES, {"old": pods("new", replaces="old", switched=2)}, Signals(),
    ),
    PromotionReason.ROLLED_OVER: (ROLLING, PREPARES, both(), Signals()),
    PromotionReason.STABLE_WAS_DOWN: (
        BY_STEPS, replace(PREPARES, was_stable_down=True), {"old": pods("old", 2, 0), "new": pods("new")},
        split(100, 0),
    ),
}  # fmt: skip
"""Reason → the smallest world in which it holds."""

NOT_YET: dict[str, tuple[Target, RolloutState, Mapping[str, Workload], Signals]] = {
    "a pod of the first is missing": (ROLLING, RolloutState(), {"new": pods("new", 2, 1)}, Signals()),
    "the hold is on": (BY_STEPS, replace(AT_50, step_since=NOW), both(), split(50, 50)),
    "held, without evidence": (BY_STEPS, AT_50, both(), split(50, 50)),
    "the last weight isn't in force": (BY_STEPS, replace(AT_100, step_since=None), both(), split(50, 50)),
    "a person paused": (BY_STEPS, replace(AT_100, is_paused=True), both(), split(0, 100)),
    "a pod serves the old version": (
        IN_PLACE, PREPARES, {"old": pods("new", replaces="old", switched=1)}, Signals(),
    ),
    "a new pod isn't ready": (ROLLING, PREPARES, both(ready=1), Signals()),
    "scaled to zero": (replace(BY_STEPS, replicas=0), AT_50, both(), split(50, 50)),
    "scaled to zero at its end": (replace(BY_STEPS, replicas=0), AT_100, both(), split(0, 100)),
    "scaled to zero, in place": (
        replace(IN_PLACE, replicas=0), PREPARES, {"old": pods("new", 0, replaces="old")}, Signals(),
    ),
    "scaled to zero, rolling": (replace(ROLLING, replicas=0), PREPARES, {"old": pods("old", 0)}, Signals()),
    "scaled to zero, the first one": (replace(ROLLING, replicas=0), RolloutState(), {"new": pods("new", 0)}, Signals()),
    "stable's pods are gone": (BY_STEPS, AT_50, {"old": pods("old", 2, 0), "new": pods("new")}, split(50, 50)),
    "stable was down, and a person paused": (
        BY_STEPS, replace(PREPARES, was_stable_down=True, is_paused=True),
        {"old": pods("old", 2, 0), "new": pods("new")}, split(100, 0),
    ),
    "the steps went while a person paused": (ROLLING, replace(AT_50, is_paused=True), both(), split(50, 50)),
    "it was rejected": (BY_STEPS, RolloutState("old", rejected=(Rejection("new", "c"),)), both(), split(100, 0)),
}  # fmt: skip

LOSES_ITS_PLACE: dict[str, tuple[Target, RolloutState, Mapping[str, Workload], Signals, str]] = {
    "aborted by steps": (BY_STEPS, AT_50, both(), replace(split(50, 50), abort=ABORT), "Aborted"),
    "aborted in place": (IN_PLACE, PREPARES, {"old": pods("new", replaces="old")}, Signals(abort=ABORT), "Aborted"),
    "aborted rolling": (ROLLING, PREPARES, both(ready=1), Signals(abort=ABORT), "Aborted"),
    "aborted in bake": (BY_STEPS, BAKES, both(), replace(split(0, 100), abort=ABORT), "Aborted"),
    "no ready pod in bake until its deadline": (
        BY_STEPS, replace(BAKES, halt=Halt(HaltReason.STABLE_UNAVAILABLE, LONG_AGO)), both(ready=0), split(0, 100),
        "ProgressDeadlineExceeded",
    ),
    "refused by steps": (BY_STEPS, PREPARES, both(is_refused=True), split(100, 0), ""),
    "refused in place": (IN_PLACE, PREPARES, {"old": pods("new", replaces="old", is_refused=True)}, Signals(), ""),
    "refused rolling": (ROLLING, PREPARES, both(ready=1, is_refused=True), Signals(), ""),
    "a gate says no": (
        BY_STEPS, PREPARES, both(), replace(split(100, 0), gates=GateVerdict(GateState.FAILED, "Golden", "9 is not 7")),
        "Golden",
    ),
    "crashed under traffic": (BY_STEPS, AT_50, both(crashes=(Crash("pod", 1, "139"),)), split(50, 50), "CanaryCrashed"),
    "crashed in bake": (BY_STEPS, BAKES, both(crashes=(Crash("pod", 1, "139"),)), split(0, 100), "CanaryCrashed"),
    "judged worse": (BY_STEPS, AT_50, both(), replace(split(50, 50), verdict=FAIL), "ErrorsRose"),
    "judged worse in bake": (BY_STEPS, BAKES, both(), replace(split(0, 100), verdict=FAIL), "ErrorsRose"),
    "late in preparing": (BY_STEPS, replace(PREPARES, progress_since=LONG_AGO), both(ready=0), split(100, 0), ""),
    "late for evidence": (BY_STEPS, replace(AT_50, progress_since=LONG_AGO), both(), split(50, 50), "Inconclusive"),
    "late for its weight": (
        BY_STEPS, replace(AT_50, progress_since=LONG_AGO, step_since=None), both(), split(80, 20),
        "ProgressDeadlineExceeded",
    ),
    "late in place": (
        IN_PLACE, replace(PREPARES, progress_since=LONG_AGO), {"old": pods("new", replaces="old")}, Signals(), "",
    ),
    "late rolling": (ROLLING, replace(PREPARES, progress_since=LONG_AGO), both(ready=1), Signals(), ""),
}  # fmt: skip


def planned(row: tuple[Target, RolloutState, Mapping[str, Workload], Signals]) -> Plan:
    target, state, workloads, signals = row
    return step(target, state, workloads, NOW, signals)


@pytest.mark.parametrize("reason", PromotionReason)
def test_each_way_to_become_stable_has_a_world_in_which_it_holds(reason: PromotionReason) -> None:
    plan = planned(BECOMES_STABLE[reason])
    assert plan.promotion_reason == reason
    assert plan.state.stable != BECOMES_STABLE[reason][1].stable


@pytest.mark.parametrize("row", NOT_YET.values(), ids=NOT_YET)
def test_until_then_nothing_is_promoted(row: tuple[Target, RolloutState, Mapping[str, Workload], Signals]) -> None:
    plan = planned(row)
    assert plan.promotion_reason is None
    assert plan.state.stable == row[1].stable


@pytest.mark.parametrize("row", LOSES_ITS_PLACE.values(), ids=LOSES_ITS_PLACE)
def test_each_way_to_lose_ones_place_gives_everything_back(
    row: tuple[Target, RolloutState, Mapping[str, Workload], Signals, str],
) -> None:
    target, state, workloads, signals, reason = row
    plan = step(target, state, workloads, NOW, signals)
    assert (plan.state.stable, plan.state.canary) == ("old", None)
    assert plan.newly_rejected == Rejection("new", "c")
    assert plan.newly_rejected in plan.state.rejected
    assert plan.cause is not None
    assert plan.cause.reason == reason


def test_the_table_names_each_reason_once() -> None:
    assert sorted(way.reason for way in promotion.WAYS) == sorted(PromotionReason)


STANDS_STILL: dict[str, tuple[Target, RolloutState, Mapping[str, Workload], Signals]] = {
    "no room, by steps": (
        BY_STEPS, replace(PREPARES, progress_since=LONG_AGO), both(ready=0, waits_for_room=NO_ROOM), split(100, 0),
    ),
    "no room, rolling": (
        ROLLING, replace(PREPARES, progress_since=LONG_AGO), both(ready=1, waits_for_room=NO_ROOM), Signals(),
    ),
    "no room, in place": (
        IN_PLACE, replace(PREPARES, progress_since=LONG_AGO),
        {"old": pods("new", replaces="old", waits_for_room=NO_ROOM)}, Signals(),
    ),
    "no router": (
        BY_STEPS, replace(PREPARES, progress_since=LONG_AGO), both(), Signals(router_trouble=NO_ROOM),
    ),
    "scaled to zero, late": (
        replace(BY_STEPS, replicas=0), replace(PREPARES, progress_since=LONG_AGO), both(ready=0), split(100, 0),
    ),
    "scaled to zero, crashed": (
        replace(BY_STEPS, replicas=0), AT_50, both(ready=0, crashes=(Crash("pod", 1, "139"),)), split(50, 50),
    ),
    "stable is down, late": (
        BY_STEPS, replace(AT_50, progress_since=LONG_AGO, step_since=None),
        {"old": pods("old", 2, 0), "new": pods("new")}, split(80, 20),
    ),
    "a drain takes its only pod in bake": (BY_STEPS, BAKES, both(ready=0), split(0, 100)),
}  # fmt: skip
"""What is not the revision's own fault."""


@pytest.mark.parametrize("row", STANDS_STILL.values(), ids=STANDS_STILL)
def test_what_the_revision_has_not_done_takes_nothing_back(
    row: tuple[Target, RolloutState, Mapping[str, Workload], Signals],
) -> None:
    plan = planned(row)
    assert (plan.newly_rejected, plan.cause, plan.promotion_reason) == (None, None, None)
    assert (plan.state.stable, plan.state.canary) == (row[1].stable, row[1].canary)
    assert plan.state.halt is not None


# ---- the look at which stable is ready again, and a bake without room

BACK_AGAIN = replace(AT_50, halt=Halt(HaltReason.STABLE_UNAVAILABLE, NOW - timedelta(seconds=9)))
ROUTERS_DIFFER = Signals()
PREPARED = replace(PREPARES, halt=BACK_AGAIN.halt)


@pytest.mark.parametrize(
    ("state", "signals", "weights"),
    [
        pytest.param(replace(BACK_AGAIN, step_since=LONG_AGO), split(0, 100), {"old": 50, "new": 50}, id="held"),
        pytest.param(BACK_AGAIN, ROUTERS_DIFFER, {"old": 50, "new": 50}, id="routers differ"),
        pytest.param(replace(BACK_AGAIN, step_index=2), split(0, 100), {"old": 50, "new": 50}, id="a person resumed"),
        pytest.param(PREPARED, split(0, 100), {"old": 100, "new": 0}, id="prepared"),
    ],
)
def test_once_stable_is_ready_again_requests_go_back_and_nothing_advances_before_status_tells(
    state: RolloutState, signals: Signals, weights: dict[str, int]
) -> None:
    plan = planned((replace(BY_STEPS, is_judged=False), state, both(), signals))
    assert plan.weights == weights
    assert (plan.state.step_index, plan.promotion_reason, plan.state.halt) == (state.step_index, None, None)


def test_in_bake_the_deadline_begins_when_its_pods_have_room_and_the_old_version_answers_all_the_while() -> None:
    without_room = both(ready=0, waits_for_room=NO_ROOM)
    first = step(BY_STEPS, BAKES, without_room, NOW, split(0, 100))
    later = NOW + timedelta(seconds=BY_STEPS.deadline_seconds + 60)
    waits = step(BY_STEPS, first.state, without_room, later, split(0, 100))
    assert waits.state == first.state, "nothing is written again and again"
    assert waits.weights == {"old": 100, "new": 0}
    on_a_node = step(BY_STEPS, waits.state, both(ready=0), later, split(100, 0))
    assert (on_a_node.cause, on_a_node.weights) == (None, {"old": 100, "new": 0})
    over = later + timedelta(seconds=BY_STEPS.deadline_seconds)
    given_up = step(BY_STEPS, on_a_node.state, both(ready=0), over, split(100, 0))
    assert given_up.cause is not None
    back = step(BY_STEPS, on_a_node.state, both(), over - timedelta(seconds=1), split(100, 0))
    assert back.state.bake_until is not None
    assert back.state.bake_until > over, "it bakes as long as it had yet"
