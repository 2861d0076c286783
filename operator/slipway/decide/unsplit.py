"""Plans where requests aren't split: all ready pods share them, and pods move from one workload to the other.

Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from slipway.decide.progress import stands_still
from slipway.decide.step_input import Arrival, StepInput, assignments_for, back_in_place, former_of, progress_of
from slipway.decide.take_back import bake_in_place_failed_by, deadline_of
from slipway.model.revision import Assignment
from slipway.model.rollout import Plan, Promotion, PromotionReason
from slipway.model.rollout_state import Rejection
from slipway.model.signals import Cause, GateState
from slipway.model.workload import ABSENT, Turn

SURGE_SHARE = 0.25


def first(given: StepInput) -> Plan:
    """The first revision, or one after others that never served: nothing to protect, nothing to go back to."""
    target = given.target
    since, most = progress_of(given)
    state = replace(given.lasting, canary=target.revision, canary_ready=most, progress_since=since)
    replicas = {target.workload: target.replicas} | serving_meanwhile(given)
    decided = {target.workload: Assignment(target.revision, former_of(given))}
    deadline = deadline_ahead(given)
    return Plan(
        state,
        replicas,
        assignments_for(replicas, given, decided),
        Promotion.IN_PROGRESS,
        wake_at=deadline,
        turns_at=deadline,
    )


def deadline_ahead(given: StepInput) -> datetime | None:
    """When a first revision that makes no progress is told as late; None: it is."""
    deadline = deadline_of(given)
    return deadline if deadline > given.now else None


def serving_meanwhile(given: StepInput) -> dict[str, int]:
    """Ready pods of others, none of which became stable, until the target's are ready: they serve somebody."""
    missing = given.target.replicas - given.here.ready
    kept = {}
    for name, other in given.workloads.items():
        if name != given.target.workload and other.ready > 0 and missing > 0:
            kept[name] = min(other.ready, missing)
            missing -= kept[name]
    return kept


def keep(given: StepInput) -> Plan:
    """The target's revision is stable; until its bake ends, the one before it is a switch away."""
    if cause := bake_in_place_failed_by(given):
        return back(replace(given, stable=given.replaced_in_place), given.rejection, cause)
    until, replaces = given.state.bake_until, given.here.replaces
    bakes = replaces not in (None, given.target.revision) and until is not None and given.now < until
    return _stands(given, replaces if bakes else None, until if bakes else None, None)


def promote(given: StepInput, reason: PromotionReason) -> Plan:
    """The target's revision becomes stable now. What it replaced in place stays loaded through the bake."""
    target = given.target
    bakes = given.arrival is Arrival.IN_PLACE and target.bake_seconds > 0
    until = given.now + timedelta(seconds=target.bake_seconds) if bakes else None
    return _stands(given, given.here.replaces if bakes else None, until, reason)


def _stands(given: StepInput, replaces: str | None, until: datetime | None, reason: PromotionReason | None) -> Plan:
    """The target's revision serves; what it replaces stays loaded until its bake ends."""
    target = given.target
    replicas = shift(given)
    return Plan(
        replace(given.lasting, stable=target.revision, bake_until=until),
        replicas,
        assignments_for(replicas, given, {target.workload: Assignment(target.revision, replaces)}),
        Promotion.ROLLED_BACK if target.is_rollback else Promotion.PROMOTED,
        promotion_reason=reason,
        wake_at=until,
        turns_at=until,
    )


def go_on(given: StepInput, replicas: Mapping[str, int], replaces: str | None, turn: Turn | None = None) -> Plan:
    """The target's revision takes over, in place or in pods of its own, until its deadline."""
    target, deadline = given.target, deadline_of(given)
    since, most = progress_of(given)
    state = replace(
        given.lasting,
        stable=given.stable,
        canary=target.revision,
        canary_ready=most,
        progress_since=since,
        ends_before=_ends_before(given) if given.arrival is Arrival.IN_PLACE else None,
    )
    return Plan(
        state,
        replicas,
        assignments_for(replicas, given, {target.workload: Assignment(target.revision, replaces)}),
        Promotion.IN_PROGRESS,
        wake_at=max(deadline, given.now + timedelta(seconds=1)),
        turns_at=deadline,
        turn=turn,
        waits_for=_waits_for(given, turn),
    )


def _ends_before(given: StepInput) -> Mapping[str, int]:
    """How often the pods' servers had ended when the target was asked for."""
    if given.state.canary == given.target.revision and given.state.ends_before is not None:
        return given.state.ends_before
    return given.here.ends


def stand_back(given: StepInput) -> Plan:
    """There was no room for the target's pods for too long: stable has everything, and it isn't rejected."""
    since, most = progress_of(given)
    plan = back(given)
    state = replace(plan.state, canary=given.target.revision, canary_ready=most, progress_since=since)
    return replace(plan, state=state, promotion=Promotion.IN_PROGRESS, waits_for=stands_still(given))


def _waits_for(given: StepInput, turn: Turn | None) -> str:
    """What pods that are held or go over in turn wait for, in words."""
    if turn is not None and turn.is_held:
        return f"the gates: {given.signals.gates.message}"
    if turn is None or turn.pods is None:
        return ""
    replicas = given.target.replicas
    gone = sum(each.has_switched for each in given.here.members) if given.is_carried else 0
    return f"{replicas - gone} of {replicas} pods to go over, in turn"


def holds(given: StepInput) -> bool:
    """Whether pods that are ready with the target's version stay out of the Service: its signature isn't judged yet.

    What was let go once stays so, as its orders tell: an agent that doesn't answer for a moment must cost no pod.
    """
    turn = given.here.turn
    if given.is_carried and not (turn is not None and turn.is_held):
        return False
    return given.signals.gates.state is GateState.WAITING


def back(given: StepInput, rejection: Rejection | None = None, cause: Cause | None = None) -> Plan:
    """The stable revision gets everything back."""
    assert given.stable is not None
    home = given.stable_workload or given.stable
    replicas = shift(given, home)
    rejected = given.state.rejected if rejection is None else (*given.state.rejected, rejection)
    return Plan(
        replace(given.lasting, stable=given.stable, rejected=rejected),
        replicas,
        assignments_for(replicas, given, {home: back_in_place(given)}),
        Promotion.ROLLED_BACK,
        newly_rejected=rejection,
        cause=cause,
    )


def shift(given: StepInput, target: str | None = None, *, fallback: str | None = None) -> dict[str, int]:
    """Pods for each workload so that `target`, or the spec's, ends with all and no ready pod is given up too early.

    `fallback` (the stable revision's while another takes over) is given what `target` does not serve yet, even if that
    means more than it has; every other workload only loses pods.
    """
    workloads, replicas = given.workloads, given.target.replicas
    target = target or given.target.workload
    others = {name: here for name, here in workloads.items() if name != target}
    here = workloads.get(target, ABSENT)
    if fallback is not None and others.get(fallback, ABSENT).ready == 0:
        # Stable serves nothing: no reason to go slowly, and if it holds what the new pods need, it gives way.
        plan = {target: replicas, fallback: 0 if here.is_blocked or here.ready > 0 else replicas}
    else:
        plan = {target: replicas}
        if fallback is not None:
            back = max(0, replicas - here.ready)
            surge = max(1, math.ceil(replicas * SURGE_SHARE))
            taken = max(back, sum(other.existing for other in others.values()))
            # Pods that exist stay: one that loses its readiness for a moment must not cost another one its start.
            plan = {target: min(replicas, max(0, here.existing, replicas + surge - taken)), fallback: back}
    ready = here.ready + (others[fallback].ready if fallback in others else 0)
    for name, other in others.items():
        if name == fallback:
            continue
        kept = min(other.replicas, max(0, replicas - ready))
        if kept or other.existing or other.replicas:
            plan[name] = kept
        if kept:
            plan[target] = max(1, plan[target])  # it can't go before this one serves: waiting would be for ever
    return plan
