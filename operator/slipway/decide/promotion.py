"""Every way in which a revision becomes stable: one table, in order; the first that holds is the plan's reason.

A row marked FORBIDDEN is one that `semantics` (what may never happen) rules out and that still stands: what it does is
what this release does. The reason goes into the plan.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slipway.decide.progress import progress_through_steps
from slipway.decide.step_input import Arrival, StepInput
from slipway.model.rollout import PromotionReason
from slipway.model.workload import Workload, enough, serving_pods

FORBIDDEN = True


@dataclass(frozen=True, slots=True)
class Way:
    """One way to become stable. is_forbidden: it is to go."""

    reason: PromotionReason
    holds: Callable[[StepInput], bool]
    is_forbidden: bool = False


def promoted_by(given: StepInput) -> PromotionReason | None:
    """Why the target's revision becomes stable now; None: it doesn't."""
    return next((way.reason for way in WAYS if way.holds(given)), None)


def no_pods_are_wanted(given: StepInput) -> bool:
    """`spec.replicas` is 0, so there is nothing that could be proven, or lost."""
    if given.target.replicas > 0:
        return False
    if given.arrival in (Arrival.BY_STEPS, Arrival.IN_PLACE):
        return True
    return given.arrival in (Arrival.FIRST, Arrival.ROLLING) and given.is_carried


def first_serves(given: StepInput) -> bool:
    """Nothing served before it, and enough of its pods serve."""
    return given.arrival is Arrival.FIRST and given.stable is None and _serves_enough(given)


def stable_cannot_serve(given: StepInput) -> bool:
    """By steps, no pod of the stable revision is ready, and the canary has one and passed its gates."""
    if given.arrival is Arrival.FIRST:
        return given.stable is not None and _serves_enough(given)
    is_down = given.arrival is Arrival.BY_STEPS and given.stable_here.ready == 0
    return is_down and given.is_carried and given.here.ready > 0 and given.has_passed_gates


def is_set_back(given: StepInput) -> bool:
    """The spec names the former stable revision again, whose pods are warm: a rollback."""
    return given.arrival is Arrival.SET_BACK


def is_loaded_everywhere(given: StepInput) -> bool:
    """In place, all ready pods serve it, and enough of them; none is out of the Service to go over."""
    here = given.here
    is_loading = given.arrival is Arrival.IN_PLACE and here.revision == given.target.revision
    if any(each.is_out and each.is_in_turn for each in here.members):
        return False
    return is_loading and here.switched >= max(here.ready, enough(given.target.replicas))


def has_rolled_over(given: StepInput) -> bool:
    """Rolling, all its pods are there and serve it."""
    here, replicas = given.here, given.target.replicas
    is_there = given.arrival is Arrival.ROLLING and given.is_carried
    return is_there and here.replicas >= replicas and serving_pods(here) >= replicas


def is_a_persons_wish(given: StepInput) -> bool:
    """A person said promote, or rolled back to it, and the last step's weight is in force."""
    is_wish = given.target.is_rollback or given.state.is_promote_requested
    return is_wish and are_steps_done(given)


def are_steps_done(given: StepInput) -> bool:
    """Each step's weight was in force, held, and passed."""
    return given.arrival is Arrival.BY_STEPS and progress_through_steps(given).is_done


WAYS: tuple[Way, ...] = (
    Way(PromotionReason.SCALED_TO_ZERO, no_pods_are_wanted, FORBIDDEN),
    Way(PromotionReason.FIRST, first_serves),
    Way(PromotionReason.SET_BACK, is_set_back),
    Way(PromotionReason.STABLE_UNAVAILABLE, stable_cannot_serve, FORBIDDEN),
    Way(PromotionReason.LOADED_EVERYWHERE, is_loaded_everywhere),
    Way(PromotionReason.ROLLED_OVER, has_rolled_over),
    Way(PromotionReason.PERSON, is_a_persons_wish),
    Way(PromotionReason.STEPS_DONE, are_steps_done),
)


def found_serving(target: str, workloads: Mapping[str, Workload]) -> str | None:
    """FORBIDDEN too, as `FoundServing`: without a status (a restore), what has the most ready pods counts as stable.

    One that another was replacing in place counts even without: its pods would come back with it.
    """
    serving = {
        here.replaces or here.revision: here.ready
        for here in workloads.values()
        if (here.ready > 0 or here.replaces) and (here.replaces or here.revision) != target
    }
    return max(serving, key=lambda revision: (serving[revision], revision)) if serving else None


def _serves_enough(given: StepInput) -> bool:
    ready = given.here.ready if given.is_split else serving_pods(given.here)
    return given.is_carried and ready >= enough(given.target.replicas)
