"""Why a rollout stands still although its revision has done nothing wrong, and what its clocks show meanwhile.

One table, in order; the first reason that holds counts. While one does, nothing advances, and deadline, hold and bake
are as far as they were: a pass sees the state as if the time of the halt had not passed (`RolloutState.without_halt`),
and what it leaves unchanged is remembered as it stood, so that nothing is written again and again.

    scaled to zero         nobody wants pods. Scaled up, stable gets pods first, then the canary, then its step goes on
    stable unavailable     no pod of it is ready. From the second look on, requests go to the canary, or in bake to the
                           revision before (`is_diverted`); they come back with the first ready pod, and once status
                           tells so the rollout goes on (`is_last_look`)
    out of capacity        it waited as long as it may (`rollout.capacityDeadlineSeconds`): stable has everything, and
                           the canary is tried again after a while
    waiting for capacity   a pod has no node, no quota, no volume, or its image is on the way; the pod stays. Or the
                           workload can't be made, for want of a right or of quota (`Signals.unmade`). In bake
                           it is stable's: requests go as if it were unavailable; its deadline begins once it has room
    routers unavailable    no request can be split

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from slipway.decide.step_input import Arrival, StepInput
from slipway.model.rollout import Plan
from slipway.model.rollout_state import CLOCKS, Halt, HaltReason

RETRY_SECONDS = 300
"""After that a revision that found no room is tried again: nobody tells when there is some."""


def halted(given: StepInput, before: Halt | None) -> StepInput:
    """The input with the halt that counts now. before: of the pass before."""
    reason = next((reason for reason, holds in REASONS if holds(given, before)), None)
    given = replace(given, was_stable_unavailable=_was_stable_unavailable(given, before))
    if reason is None:
        return replace(given, halt=None)
    is_old = before is not None and before.reason is reason
    return replace(given, halt=before if is_old else Halt(reason, given.now), is_new_halt=not is_old)


def remembered(plan: Plan, given: StepInput) -> Plan:
    """The plan with its halt in the state, and with the clocks as they stood when it began, where it goes on."""
    state, halt = plan.state, given.halt
    has_ended = plan.promotion_reason is not None or plan.cause is not None
    if halt is None or has_ended or (state.canary is None and state.bake_until is None):
        return plan
    if not given.is_new_halt:
        passed = max(given.now - halt.since, timedelta())
        clocks = {name: at - passed for name in CLOCKS if (at := getattr(state, name)) is not None}
        state = replace(state, **clocks)
    turns_at = _ends_at(given, halt)
    wakes_at = min((at for at in (plan.wake_at, turns_at) if at is not None), default=None)
    return replace(plan, state=replace(state, halt=halt), wake_at=wakes_at, turns_at=turns_at)


def stayed_down_at(given: StepInput, halt: Halt) -> datetime:
    """When a revision that bakes and has no ready pod any more is given up."""
    return halt.since + timedelta(seconds=given.target.deadline_seconds)


def _ends_at(given: StepInput, halt: Halt) -> datetime | None:
    """When time alone ends the halt, or the rollout; None: it doesn't."""
    most = given.target.capacity_seconds
    match halt.reason:
        case HaltReason.OUT_OF_CAPACITY:
            return halt.since + timedelta(seconds=RETRY_SECONDS)
        case HaltReason.WAITING_FOR_CAPACITY if most is not None and _needs_room(given):
            return halt.since + timedelta(seconds=most)
        case HaltReason.STABLE_UNAVAILABLE if given.arrival is Arrival.KEPT:
            return stayed_down_at(given, halt)
    return None


def _is_scaled_to_zero(given: StepInput, _before: Halt | None) -> bool:
    return _is_under_way(given) and given.target.replicas == 0


def _is_stable_unavailable(given: StepInput, _before: Halt | None) -> bool:
    """Of a canary that was asked for while stable served, unless a person said what is to serve."""
    if given.stable_here.ready > 0 or given.target.replicas == 0:
        return False
    if given.arrival is Arrival.KEPT:
        return _bakes_apart(given) and given.stable_here.waits_for_room is None
    is_wish = given.state.is_promote_requested or given.target.is_rollback
    return given.arrival is Arrival.BY_STEPS and not (given.is_rejected or is_wish or given.was_stable_down)


def _is_out_of_capacity(given: StepInput, before: Halt | None) -> bool:
    if before is None or not _needs_room(given):
        return False
    waited_seconds = (given.now - before.since).total_seconds()
    if before.reason is HaltReason.OUT_OF_CAPACITY:
        return waited_seconds < RETRY_SECONDS
    most = given.target.capacity_seconds
    is_waiting = before.reason is HaltReason.WAITING_FOR_CAPACITY and given.here.waits_for_room is not None
    return is_waiting and most is not None and waited_seconds >= most


def _waits_for_capacity(given: StepInput, _before: Halt | None) -> bool:
    if _bakes_apart(given) and given.stable_here.ready == 0:
        return given.stable_here.waits_for_room is not None
    if _needs_room(given) and not given.is_carried and given.signals.unmade is not None:
        return True
    is_first = given.arrival is Arrival.FIRST
    return (is_first or _needs_room(given)) and given.is_carried and given.here.waits_for_room is not None


def _are_routers_unavailable(given: StepInput, _before: Halt | None) -> bool:
    is_on = given.arrival is Arrival.BY_STEPS and not given.is_rejected
    return is_on and given.signals.router_trouble is not None


REASONS: Sequence[tuple[HaltReason, Callable[[StepInput, Halt | None], bool]]] = (
    (HaltReason.SCALED_TO_ZERO, _is_scaled_to_zero),
    (HaltReason.STABLE_UNAVAILABLE, _is_stable_unavailable),
    (HaltReason.OUT_OF_CAPACITY, _is_out_of_capacity),
    (HaltReason.WAITING_FOR_CAPACITY, _waits_for_capacity),
    (HaltReason.ROUTERS_UNAVAILABLE, _are_routers_unavailable),
)


def _is_under_way(given: StepInput) -> bool:
    """A revision arrives or bakes."""
    if given.arrival is Arrival.KEPT:
        return given.state.bake_until is not None and given.now < given.state.bake_until
    return not given.is_rejected


def _bakes_apart(given: StepInput) -> bool:
    """Stable bakes, and the revision before it is warm in pods of its own."""
    return given.arrival is Arrival.KEPT and given.previous_workload is not None and given.is_split


def _was_stable_unavailable(given: StepInput, before: Halt | None) -> bool:
    """At the look before."""
    if before is None:
        return False
    is_for_room = _bakes_apart(given) and before.reason is HaltReason.WAITING_FOR_CAPACITY
    return is_for_room or before.reason is HaltReason.STABLE_UNAVAILABLE


def _needs_room(given: StepInput) -> bool:
    """A revision arrives beside one that serves, and isn't rejected."""
    return given.arrival in (Arrival.BY_STEPS, Arrival.ROLLING, Arrival.IN_PLACE) and not given.is_rejected
