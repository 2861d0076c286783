"""Every way in which a revision loses its place: one table, in order; the first that holds is why.

While it takes over it is rejected with that cause; in its bake, the revision before it gets everything back. What was
rejected before (`StepInput.is_rejected`) isn't tried at all.
Only what its own bytes, image or configuration did counts. Want of room, of stable's pods or of routers is a halt
(`halt`), in which no deadline passes.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Flag, auto

from slipway.decide.halt import stayed_down_at
from slipway.decide.progress import StepsProgress, lacks_evidence, progress_through_steps
from slipway.decide.step_input import Arrival, StepInput, progress_of
from slipway.model.rollout import NO_PROGRESS
from slipway.model.rollout_state import HaltReason
from slipway.model.signals import Cause, GateState, Outcome
from slipway.model.workload import Crash
from slipway.observe.server_errors import SERVER_ERRORS

SAID_BY_ITS_PODS = Cause("", "")
"""The pods' own trouble, or the agent's own words, are the reason."""


class When(Flag):
    """What of a rollout a way speaks of. STEPS: a canary before and in its steps. DEADLINE: one that isn't done yet."""

    STEPS = auto()
    DEADLINE = auto()
    IN_PLACE = auto()
    ROLLING = auto()
    BAKE = auto()
    BAKE_IN_PLACE = auto()


@dataclass(frozen=True, slots=True)
class Way:
    """One way to lose one's place. cause_of: why; None: it doesn't hold."""

    when: When
    cause_of: Callable[[StepInput], Cause | None]


def taken_back_by(given: StepInput) -> Cause | None:
    """Why the target's revision, which takes over, is taken back now; None: it isn't. At zero, by a person alone."""
    if given.is_halted_by(HaltReason.SCALED_TO_ZERO):
        return aborted(given)
    return _first_cause(given, ARRIVALS[given.arrival])


def given_up_by(given: StepInput) -> Cause | None:
    """Why a canary that is neither taken back nor done is given up now; None: it isn't."""
    return _first_cause(given, When.DEADLINE)


def bake_failed_by(given: StepInput) -> Cause | None:
    """Why the stable revision, which bakes, is taken back now; None: it isn't.

    Nobody can go back to pods that aren't there, and what a person rolled back to isn't judged.
    """
    previous = given.previous_workload
    if previous is None or given.workloads[previous].ready == 0 or given.target.is_rollback:
        return None
    return _first_cause(given, When.BAKE)


def bake_in_place_failed_by(given: StepInput) -> Cause | None:
    """Why the stable revision, which bakes in the pods of the one before it, is taken back now; None: it isn't."""
    if given.replaced_in_place is None or given.stable != given.target.revision or given.target.is_rollback:
        return None
    return _first_cause(given, When.BAKE_IN_PLACE)


def _first_cause(given: StepInput, when: When) -> Cause | None:
    found = (way.cause_of(given) for way in WAYS if when in way.when)
    return next((cause for cause in found if cause is not None), None)


def aborted(given: StepInput) -> Cause | None:
    """A person said abort."""
    is_begun = given.arrival is not Arrival.IN_PLACE or given.is_carried
    return given.signals.abort if is_begun else None


def stayed_down(given: StepInput) -> Cause | None:
    """In bake, none of its pods got ready again until its deadline, though they had nodes. A drain is no such thing."""
    halt = given.halt
    if halt is None or halt.reason is not HaltReason.STABLE_UNAVAILABLE:
        return None
    waited = f"in bake, none of its pods was ready for {given.target.deadline_seconds} s"
    return Cause(NO_PROGRESS, waited) if given.now >= stayed_down_at(given, halt) else None


def refused(given: StepInput) -> Cause | None:
    """An agent or a server can't use its version, and waiting will not help."""
    is_refused = given.here.revision == given.target.revision and given.here.is_refused
    return SAID_BY_ITS_PODS if is_refused else None


def gate_failed(given: StepInput) -> Cause | None:
    """A gate says no before any live traffic. A revision that the spec is set back to in place had some."""
    if given.arrival is Arrival.IN_PLACE and given.goes_at_once:
        return None
    gates = given.signals.gates
    return Cause(gates.reason, gates.message) if gates.state is GateState.FAILED else None


def answers_with_errors(given: StepInput) -> Cause | None:
    """All its pods answer their own golden or warm-up request with server errors, and those of what serves don't."""
    if not given.server_error or given.is_halted_by(HaltReason.STABLE_UNAVAILABLE):
        return None
    said = f"all its pods answer their own golden or warm-up request with server errors: {given.server_error}"
    return Cause(SERVER_ERRORS, f"in bake, {said}" if given.arrival is Arrival.KEPT else said)


def crashed_under_traffic(given: StepInput) -> Cause | None:
    """Its server ended by itself since it got its first requests."""
    if given.is_stable_unavailable:
        return None  # nothing else could answer; it counts once stable can
    if given.arrival is not Arrival.KEPT:
        crash = _crash(given, given.here.crashes) if _has_begun(given) else None
        return Cause("CanaryCrashed", crash.message) if crash else None
    crash = _crash(given, given.stable_here.crashes)
    return Cause("CanaryCrashed", f"in bake, {crash.message}") if crash else None


def crashed_in_its_turn(given: StepInput) -> Cause | None:
    """In place, the server of a pod that goes over or has gone ended by itself since the revision was asked for."""
    if not given.is_carried or given.goes_at_once or given.state.canary != given.target.revision:
        return None
    crashes = [each.crash for each in given.here.members if each.is_in_turn and each.crash is not None]
    crash = _crash(given, crashes)
    return Cause("CanaryCrashed", crash.message) if crash is not None else None


def judged_worse(given: StepInput) -> Cause | None:
    """The evidence says that it is worse."""
    verdict, bakes = given.signals.verdict, given.arrival is Arrival.KEPT
    if given.is_stable_unavailable:
        return None
    if not given.target.is_judged or verdict is None or verdict.outcome is not Outcome.FAIL:
        return None
    if bakes:
        return Cause(verdict.reason, f"in bake, {verdict.message}")
    return Cause(verdict.reason, verdict.message) if _has_begun(given) else None


def made_no_progress(given: StepInput) -> Cause | None:
    """Nothing went on until the deadline, though it waits for no person and no room, and downloads nothing."""
    if given.halt is not None or given.is_paused:
        return None
    if given.arrival is Arrival.BY_STEPS:
        return _late_in_steps(given, progress_through_steps(given))
    if given.arrival is Arrival.IN_PLACE and not given.is_carried:
        return None
    is_late = given.now >= deadline_of(given) and not given.here.is_fetching
    return SAID_BY_ITS_PODS if is_late else None


WAYS: tuple[Way, ...] = (
    Way(When.STEPS | When.IN_PLACE | When.ROLLING | When.BAKE | When.BAKE_IN_PLACE, aborted),
    Way(When.BAKE, stayed_down),
    Way(When.STEPS | When.IN_PLACE | When.ROLLING, refused),
    Way(When.STEPS | When.IN_PLACE | When.ROLLING, gate_failed),
    Way(When.STEPS | When.IN_PLACE | When.ROLLING | When.BAKE, answers_with_errors),
    Way(When.STEPS | When.BAKE, crashed_under_traffic),
    Way(When.IN_PLACE, crashed_in_its_turn),
    Way(When.STEPS | When.BAKE, judged_worse),
    Way(When.DEADLINE | When.IN_PLACE | When.ROLLING, made_no_progress),
)
ARRIVALS = {Arrival.BY_STEPS: When.STEPS, Arrival.IN_PLACE: When.IN_PLACE, Arrival.ROLLING: When.ROLLING}


def deadline_of(given: StepInput) -> datetime:
    """When a revision that arrives in place or rolling is given up."""
    since, _ = progress_of(given)
    return since + timedelta(seconds=given.target.deadline_seconds)


def _late_in_steps(given: StepInput, at: StepsProgress) -> Cause | None:
    if at.deadline is None or given.now < at.deadline or given.here.is_fetching:
        return None
    if at.has_held and lacks_evidence(given, at.step, is_promote_requested=at.state.is_promote_requested):
        verdict = given.signals.verdict
        said = verdict.message if verdict is not None else "no evidence came"
        return Cause("Inconclusive", f"{said}; spec.rollout.analysis.onInconclusive is RollBack")
    if given.state.step_index == 0 and given.here.ready == 0:
        return SAID_BY_ITS_PODS
    waited = f"waited {given.target.deadline_seconds} s for {at.waits_for}" if at.waits_for else ""
    return Cause(NO_PROGRESS, waited)


def _has_begun(given: StepInput) -> bool:
    """Whether the canary is in its steps, as status tells."""
    return given.state.canary == given.target.revision and given.state.step_index > 0


def _crash(given: StepInput, crashes: Iterable[Crash]) -> Crash | None:
    """One that counts: of a server that has ended more often than when `RolloutState.ends_before` was written."""
    before = given.state.ends_before
    if before is None:
        return None
    return next((crash for crash in crashes if crash.ends > before.get(crash.pod, 0)), None)
