"""A revision arrives by steps: pods of its own, a share of the requests, judged (`progress`).

Any failure gives everything back to stable: weight 0 first, seen in force; only then the canary pods go (`split.back`).
Pure.
"""

from __future__ import annotations

from datetime import datetime

from slipway.decide import split
from slipway.decide.progress import StepsProgress, progress_through_steps
from slipway.decide.promotion import promoted_by
from slipway.decide.step_input import StepInput, assignments_for
from slipway.decide.take_back import given_up_by, taken_back_by
from slipway.model.revision import Assignment
from slipway.model.rollout import Plan, Promotion


def take_up(given: StepInput) -> Plan:
    """The next plan for a revision that arrives by steps."""
    if given.is_rejected:
        return split.back(given)
    if cause := taken_back_by(given):
        return split.back(given, given.rejection, cause)
    if reason := promoted_by(given):
        return split.promote(given, reason)
    if cause := given_up_by(given):
        return split.back(given, given.rejection, cause)
    return _advance(given, progress_through_steps(given))


def _advance(given: StepInput, at: StepsProgress) -> Plan:
    """The canary prepares, or goes through its steps."""
    target, home = given.target, given.stable_workload
    assert home is not None
    serving, weight, is_paused = given.stable_here.ready, at.state.weight_percent, at.state.is_paused
    pods = max(1, at.step.pods, min(given.here.replicas, target.replicas - serving))  # what stable lacks isn't given up
    if given.state.canary_ready == 0 and serving == 0:
        pods = target.replicas  # nothing to protect: no reason to go slowly
    replicas = {home: _stable_pods(given, pods), target.workload: pods}
    everything = replicas | split.leaving(given, replicas)
    return Plan(
        at.state,
        everything,
        assignments_for(everything, given, {target.workload: Assignment(target.revision)}),
        Promotion.PAUSED if is_paused or (at.has_held and at.is_endless) else Promotion.IN_PROGRESS,
        split.weights({home: 100 - weight, target.workload: weight}, everything),
        waits_for=at.waits_for,
        wake_at=split.soon(given),
        turns_at=_first_to_come(given.now, None if is_paused else at.hold_ends, at.deadline),
    )


def _stable_pods(given: StepInput, canary_pods: int) -> int:
    """With Swap, a stable pod makes room for each canary pod that is about to come."""
    replicas = given.target.replicas
    if not given.target.is_swap:
        return replicas
    return max(1, replicas - min(canary_pods, given.here.ready + 1))


def _first_to_come(now: datetime, *moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None and moment > now), default=None)
