"""Plans where requests are split: each workload has its weight, and keeps its pods until no request can reach them.

Laws (each has a property test): weights sum to 100 and only stable and canary have any; a workload that has a weight in
force keeps its pods; a rejected revision never has a weight.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from slipway.decide.step_input import StepInput, assignments_for, back_in_place, former_of, progress_of
from slipway.decide.take_back import bake_failed_by, bake_in_place_failed_by
from slipway.decide.unsplit import deadline_ahead, serving_meanwhile
from slipway.model.revision import Assignment
from slipway.model.rollout import Plan, Promotion, PromotionReason
from slipway.model.rollout_state import Rejection
from slipway.model.signals import Cause
from slipway.model.workload import Workload

LOOK_SECONDS = 1.0
"""While a canary or a bake is on."""


def first(given: StepInput) -> Plan:
    """Nothing serves that could be compared with, or gone back to."""
    target = given.target
    since, most = progress_of(given)
    meanwhile = serving_meanwhile(given)
    replicas = {target.workload: target.replicas} | meanwhile
    reached = target.workload if given.here.ready or not meanwhile else max(meanwhile, key=lambda name: meanwhile[name])
    return Plan(
        replace(given.lasting, canary=target.revision, canary_ready=most, progress_since=since, weight_percent=100),
        replicas,
        assignments_for(replicas, given, {target.workload: Assignment(target.revision, former_of(given))}),
        Promotion.IN_PROGRESS,
        weights({reached: 100}, replicas),
        wake_at=deadline_ahead(given),
        turns_at=deadline_ahead(given),
    )


def keep(given: StepInput) -> Plan:
    """What serves goes on; the revision before it stays warm until its bake is over."""
    target, state, stable, home = given.target, given.state, given.stable, given.stable_workload
    assert stable is not None
    assert home is not None
    is_targets = stable == target.revision
    here, until, previous = given.stable_here, state.bake_until, given.previous_workload
    if cause := bake_failed_by(given):
        before = replace(given, stable=state.previous, stable_workload=previous)
        if not is_targets:  # another revision waits; what failed isn't the spec's any more, and need not be remembered
            return replace(back(before, cause=cause), promotion=Promotion.IN_PROGRESS)
        return back(before, given.rejection, cause)
    if cause := bake_in_place_failed_by(given):
        return back(replace(given, stable=given.replaced_in_place), given.rejection, cause)
    is_baking = until is not None and given.now < until
    replicas = {home: target.replicas}
    if previous is not None and is_baking:
        replicas[previous] = target.replicas
    shares_workload = is_baking and previous is None and here.replaces not in (None, stable)
    is_on = is_baking and (previous in replicas or shares_workload)
    everything = replicas | leaving(given, replicas) | {home: _room(given, here, _others(given, replicas))}
    is_unfinished = not is_targets or previous in replicas or _is_sent_elsewhere(given, home)
    return Plan(
        replace(
            given.lasting,
            stable=stable,
            progress_since=state.progress_since if is_on else None,
            traffic_since=state.traffic_since if is_on else None,
            ends_before=state.ends_before if is_on else None,
            canary_ready=max(state.canary_ready, here.ready) if is_on else 0,
            bake_until=until if is_on else None,
            previous=state.previous if previous in replicas else None,
        ),
        everything,
        assignments_for(everything, given, {home: Assignment(stable, here.replaces if is_baking else None)}),
        _promotion(is_rollback=target.is_rollback and is_targets, is_unfinished=is_unfinished),
        weights({previous if given.is_diverted and previous else home: 100}, everything),
        wake_at=min(until, soon(given)) if is_on and until is not None else _while_leaving(given, replicas),
        turns_at=until if is_on else None,
        waits_for="" if is_targets else "the bake of the stable revision to end",
    )


def pause(given: StepInput) -> Plan:
    """A person paused a canary, and then the spec's steps went: nothing splits any more, so stable has the requests."""
    target, home = given.target, given.stable_workload
    assert home is not None
    replicas = {home: target.replicas, target.workload: given.here.replicas}
    since, most = progress_of(given)
    state = given.state
    kept = replace(state, canary_ready=most, progress_since=since, step_since=None, weight_percent=0)
    return Plan(
        kept,
        replicas,
        assignments_for(replicas, given, {target.workload: Assignment(target.revision)}),
        Promotion.PAUSED,
        weights({home: 100}, replicas),
        waits_for="a person to resume. spec.rollout.steps are gone: resumed, it takes over pod by pod",
        wake_at=soon(given),
    )


def promote(given: StepInput, reason: PromotionReason) -> Plan:
    """The target's revision is stable from now on; what others have goes once status tells so.

    Were it gone before that, an operator that starts then would ask the routers to know it again, the next one not.
    """
    target, stable, home = given.target, given.stable, given.stable_workload
    bakes = reason in BAKES and not target.is_swap and not target.is_rollback and target.bake_seconds > 0
    stays = bakes and home is not None and home != target.workload
    until = given.now + timedelta(seconds=target.bake_seconds) if stays else None
    replicas = {target.workload: target.replicas}
    if stays and home is not None:
        replicas[home] = target.replicas
    others = _others(given, replicas)
    everything = replicas | others | {target.workload: _room(given, given.here, others)}
    is_unfinished = stays or _is_sent_elsewhere(given, target.workload)
    return Plan(
        replace(
            given.lasting,
            stable=target.revision,
            progress_since=given.now if stays else None,
            traffic_since=given.state.traffic_since if stays else None,
            ends_before=given.state.ends_before if stays else None,
            canary_ready=given.here.ready if stays else 0,
            bake_until=until,
            previous=stable if stays else None,
        ),
        everything,
        assignments_for(everything, given, {target.workload: Assignment(target.revision)}),
        _promotion(is_rollback=target.is_rollback, is_unfinished=is_unfinished),
        weights({target.workload: 100}, everything),
        promotion_reason=reason,
        wake_at=soon(given) if len(everything) > 1 else None,
        turns_at=until,
    )


BAKES = frozenset({PromotionReason.STEPS_DONE, PromotionReason.PERSON})
"""Only what was promoted by its steps has something warm to go back to."""


def back(given: StepInput, rejection: Rejection | None = None, cause: Cause | None = None) -> Plan:
    """Everything goes to the stable revision; the canary's pods go once no request can reach them and status tells why.

    Were it gone before that, and its counts with it, an operator that starts then would try it again.
    """
    home, stable = given.stable_workload, given.stable
    assert home is not None
    assert stable is not None
    replicas = {home: given.target.replicas}
    is_news = rejection is not None or stable != given.state.stable
    everything = replicas | (_others(given, replicas) if is_news else leaving(given, replicas))
    rejected = given.state.rejected if rejection is None else (*given.state.rejected, rejection)
    return Plan(
        replace(given.lasting, stable=stable, rejected=rejected),
        everything,
        assignments_for(everything, given, {home: back_in_place(given)}),
        Promotion.ROLLED_BACK,
        weights({home: 100}, everything),
        newly_rejected=rejection,
        cause=cause,
        wake_at=soon(given) if len(everything) > 1 else None,
    )


def weights(decided: Mapping[str, int], workloads: Mapping[str, int]) -> dict[str, int]:
    """Workload → percent: as decided, for all others of the plan 0."""
    return {workload: decided.get(workload, 0) for workload in {**decided, **workloads}}


def leaving(given: StepInput, staying: Mapping[str, int]) -> dict[str, int]:
    """The other workloads, as long as requests can reach their pods: until all routers know that they get none.

    A router that ends splits as it was last configured, for the clients that it still has. A workload that isn't in
    what was sent to the routers had none in force before: it doesn't come back.
    """
    in_force, sent = given.signals.in_force, given.signals.sent_weights
    is_known = in_force is not None and in_force.is_latest
    return {
        name: other.replicas
        for name, other in given.workloads.items()
        if name not in staying
        and other.replicas
        and (sent is None or name in sent)
        and not (is_known and in_force and not in_force.weights.get(name, 0) and name not in in_force.lingering)
    }


def soon(given: StepInput) -> datetime:
    """When to look again while a canary or a bake is on."""
    return given.now + timedelta(seconds=LOOK_SECONDS)


def _others(given: StepInput, replicas: Mapping[str, int]) -> dict[str, int]:
    """All that have pods beside these, as they are."""
    return {name: other.replicas for name, other in given.workloads.items() if name not in replicas and other.replicas}


def _promotion(*, is_rollback: bool, is_unfinished: bool) -> Promotion:
    if is_rollback:
        return Promotion.ROLLED_BACK
    return Promotion.IN_PROGRESS if is_unfinished else Promotion.PROMOTED


def _is_sent_elsewhere(given: StepInput, workload: str) -> bool:
    """Whether some requests go to another workload yet: what is promoted has them all."""
    in_force = given.signals.in_force
    return in_force is not None and any(weight for name, weight in in_force.weights.items() if name != workload)


def _while_leaving(given: StepInput, staying: Mapping[str, int]) -> datetime | None:
    return soon(given) if leaving(given, staying) else None


def _room(given: StepInput, here: Workload, others: Mapping[str, int]) -> int:
    """Pods of what is stable: with Swap, no more than it has, or one, until the others are gone and have made room."""
    replicas = given.target.replicas
    if not given.target.is_swap:
        return replicas
    return max(replicas - sum(others.values()), min(max(1, here.replicas), replicas))
