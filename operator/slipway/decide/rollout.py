"""How a new revision takes over: `step(target, state, workloads, now, signals) → Plan`.

A workload is a Deployment; it carries one revision at a time. A revision arrives (`StepInput.arrival`)

- first: nothing serves before it, so all its pods come at once;
- by steps: pods of its own get a share of the requests, and are judged (`canary`);
- in place: the stable revision's pods load it beside the old one (`in_place`);
- rolling: pods of its own replace the old ones one by one (`rolling`);
- set back: it was stable before, and its pods are still warm;

and while it is stable, or waits for another's bake, what serves is kept.
Every way to become stable is in `promotion.WAYS`, every way to lose a place in `take_back.WAYS`, every reason to stand
still in `halt.REASONS`.

Laws (each has a property test): ready pods never fall below what was ready and wanted; weights sum to 100; a step
repeated on the world that it asked for changes nothing; a rejected revision gets no pod while something else can serve.
Pure: time comes in as `now`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from slipway.decide import canary, in_place, rolling, split, unsplit
from slipway.decide.halt import halted, remembered
from slipway.decide.placement import free_name
from slipway.decide.promotion import promoted_by
from slipway.decide.step_input import Arrival, StepInput
from slipway.decide.take_back import taken_back_by
from slipway.model.rollout import Plan, Target
from slipway.model.rollout_state import HaltReason, RolloutState
from slipway.model.signals import NO_EVIDENCE, Signals
from slipway.model.workload import Workload, workload_of


def step(
    target: Target,
    state: RolloutState,
    workloads: Mapping[str, Workload],
    now: datetime,
    signals: Signals = NO_EVIDENCE,
) -> Plan:
    """The next plan. `workloads` holds every Deployment that is there."""
    given = _look_at(target, state, workloads, now, signals)
    plan = _plan(given)
    if target.steps and not given.is_split and plan.weights is None and given.arrival is Arrival.IN_PLACE:
        home = given.stable_workload  # it was on its way in place when the steps came
        weights = {workload: 100 if workload == home else 0 for workload in plan.replicas}
        weight = 100 if plan.state.canary is not None else 0
        plan = replace(plan, weights=weights, state=replace(plan.state, weight_percent=weight))
    return remembered(plan, given)


def _look_at(
    target: Target, state: RolloutState, workloads: Mapping[str, Workload], now: datetime, signals: Signals
) -> StepInput:
    stable = state.stable
    home = workload_of(stable, workloads) if stable else None
    if home is None and stable is not None:  # its Deployment was deleted, and is made anew
        home = target.workload if stable == target.revision else free_name(stable, workloads)
    clocks = state.without_halt(now)
    given = StepInput(target, clocks, workloads, now, stable=stable, stable_workload=home, signals=signals)
    return halted(given, state.halt)


def _plan(given: StepInput) -> Plan:
    match given.arrival:
        case Arrival.KEPT:
            return split.keep(given) if given.is_split else unsplit.keep(given)
        case Arrival.FIRST | Arrival.SET_BACK if (reason := promoted_by(given)) is not None:
            return split.promote(given, reason) if given.is_split else unsplit.promote(given, reason)
        case Arrival.FIRST | Arrival.SET_BACK:
            return split.first(given) if given.is_split else unsplit.first(given)
        case Arrival.BY_STEPS:
            return canary.take_up(given)
        case Arrival.IN_PLACE | Arrival.ROLLING:
            return _take_up(given)


def _take_up(given: StepInput) -> Plan:
    """The next plan for a revision that arrives in place or rolling."""
    if given.is_rejected:
        return unsplit.back(given)
    if given.is_halted_by(HaltReason.OUT_OF_CAPACITY):
        return unsplit.stand_back(given)
    if reason := promoted_by(given):
        return unsplit.promote(given, reason)
    if cause := taken_back_by(given):
        return unsplit.back(given, given.rejection, cause)
    if given.is_paused:
        return split.pause(given)
    return in_place.go_on(given) if given.arrival is Arrival.IN_PLACE else rolling.go_on(given)
