"""Every way in which a revision becomes stable: one table, in order; the first that holds is the plan's reason.

Nothing else makes one stable: not stable's pods going away in mid-rollout, not `replicas: 0`, not a restart, not a lost
status (semantics, what may never happen). The reason goes into the plan, the transition and the event.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slipway.decide.progress import progress_through_steps
from slipway.decide.step_input import Arrival, StepInput
from slipway.model.rollout import PromotionReason
from slipway.model.workload import enough, serving_pods


@dataclass(frozen=True, slots=True)
class Way:
    """One way to become stable."""

    reason: PromotionReason
    holds: Callable[[StepInput], bool]


def promoted_by(given: StepInput) -> PromotionReason | None:
    """Why the target's revision becomes stable now; None: it doesn't.

    Where no pods are wanted, or all answer their own request with server errors, nothing is proven.
    """
    if given.target.replicas == 0 or _answers_nothing(given):
        return None
    return next((way.reason for way in WAYS if way.holds(given)), None)


def _answers_nothing(given: StepInput) -> bool:
    """All its pods answer their own request with server errors, and no person went back to it."""
    is_wish = given.target.is_rollback or given.arrival is Arrival.SET_BACK
    return given.is_carried and given.here.server_error != "" and not is_wish


def first_serves(given: StepInput) -> bool:
    """Nothing served before it, and enough of its pods serve."""
    if given.arrival is not Arrival.FIRST or not given.is_carried:
        return False
    ready = given.here.ready if given.is_split else serving_pods(given.here)
    return given.has_passed_gates and ready >= enough(given.target.replicas)


def stable_was_down(given: StepInput) -> bool:
    """By steps, stable had no ready pod when it was asked for and none since; it has one, and passed its gates."""
    is_on = given.arrival is Arrival.BY_STEPS and given.was_stable_down and not given.is_paused
    return is_on and given.is_carried and given.here.ready > 0 and given.has_passed_gates


def is_set_back(given: StepInput) -> bool:
    """The spec names the former stable revision again, whose pods are warm: a rollback."""
    return given.arrival is Arrival.SET_BACK and not given.target.is_rollback


def is_loaded_everywhere(given: StepInput) -> bool:
    """In place, all ready pods serve it, and enough of them; none is out of the Service to go over."""
    here = given.here
    is_loading = given.arrival is Arrival.IN_PLACE and here.revision == given.target.revision
    if any(each.is_out and each.is_in_turn and not each.server_error for each in here.members):
        return False
    return is_loading and here.switched >= max(here.ready, enough(given.target.replicas))


def has_rolled_over(given: StepInput) -> bool:
    """Rolling, all its pods are there and serve it, and no person paused it."""
    here, replicas = given.here, given.target.replicas
    is_there = given.arrival is Arrival.ROLLING and given.is_carried and not given.is_paused
    return is_there and here.replicas >= replicas and serving_pods(here) >= replicas


def is_a_persons_wish(given: StepInput) -> bool:
    """A person said promote, or rolled back to it, and it has arrived: all requests can go to it."""
    if given.state.is_promote_requested and given.state.canary == given.target.revision:
        return are_steps_done(given)
    is_warm = given.arrival is Arrival.SET_BACK
    has_arrived = is_warm or are_steps_done(given) or is_loaded_everywhere(given) or has_rolled_over(given)
    return given.target.is_rollback and has_arrived


def are_steps_done(given: StepInput) -> bool:
    """Each step's weight was in force, held, and passed."""
    return given.arrival is Arrival.BY_STEPS and progress_through_steps(given).is_done


WAYS: tuple[Way, ...] = (
    Way(PromotionReason.FIRST, first_serves),
    Way(PromotionReason.SET_BACK, is_set_back),
    Way(PromotionReason.STABLE_WAS_DOWN, stable_was_down),
    Way(PromotionReason.PERSON, is_a_persons_wish),
    Way(PromotionReason.LOADED_EVERYWHERE, is_loaded_everywhere),
    Way(PromotionReason.ROLLED_OVER, has_rolled_over),
    Way(PromotionReason.STEPS_DONE, are_steps_done),
)
