"""A revision arrives by steps: pods of its own, a share of the requests, judged (`progress`).

Any failure gives everything back to stable: weight 0 first, seen in force; only then the canary pods go (`split.back`).
Pure.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from slipway.decide import split
from slipway.decide.progress import StepsProgress, progress_through_steps
from slipway.decide.promotion import promoted_by
from slipway.decide.step_input import StepInput, assignments_for
from slipway.decide.take_back import given_up_by, taken_back_by
from slipway.model.revision import Assignment
from slipway.model.rollout import Plan, Promotion
from slipway.model.rollout_state import HaltReason


def take_up(given: StepInput) -> Plan:
    """The next plan for a revision that arrives by steps."""
    if given.is_rejected:
        return split.back(given)
    if given.is_halted_by(HaltReason.OUT_OF_CAPACITY):
        return _stand_back(given, progress_through_steps(given))
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
    weight, is_paused = 100 if given.is_diverted else at.state.weight_percent, at.state.is_paused
    pods = _canary_pods(given, at)
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


def _stand_back(given: StepInput, at: StepsProgress) -> Plan:
    """There was no room for the canary for too long: stable has everything, and the canary is no worse for it."""
    home = given.stable_workload
    assert home is not None
    replicas = {home: given.target.replicas}
    everything = replicas | split.leaving(given, replicas)
    return Plan(
        replace(at.state, weight_percent=0),
        everything,
        assignments_for(everything, given, {}),
        Promotion.IN_PROGRESS,
        split.weights({home: 100}, everything),
        waits_for=at.waits_for,
        wake_at=split.soon(given) if len(everything) > 1 else None,
    )


def _canary_pods(given: StepInput, at: StepsProgress) -> int:
    target, serving = given.target, given.stable_here.ready
    if target.replicas == 0:
        return 0
    if given.was_stable_down and serving == 0:
        return target.replicas  # nothing to protect: no reason to go slowly
    is_asleep = target.workload in given.workloads and given.here.replicas == 0
    if given.is_halted_by(HaltReason.STABLE_UNAVAILABLE) and is_asleep:
        return 0  # scaled up from zero, stable comes first
    return max(1, at.step.pods, min(given.here.replicas, target.replicas - serving))  # what stable lacks isn't given up


def _stable_pods(given: StepInput, canary_pods: int) -> int:
    """With Swap, a stable pod makes room for each canary pod that is about to come."""
    replicas = given.target.replicas
    if not given.target.is_swap or replicas == 0:
        return replicas
    return max(1, replicas - min(canary_pods, given.here.ready + 1))


def _first_to_come(now: datetime, *moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None and moment > now), default=None)
