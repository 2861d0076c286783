"""How far a canary is in its steps: what it waits for, which weight it may have, when its hold ends, if it is done.

    N = 4, steps 25, 100                  stable   canary   weight   index
    canary prepares                       4 pods   1 pod    0        0
    1 pod ready, gates passed             4        1        25       1     (in force: the hold begins)
    held, and the evidence says Pass      4        4        25 → 100 2     (100 once 4 pods are ready)
    in force                              4 warm   4        100      done

Laws (each has a property test): a canary gets its first weight only when the routers know it, with ready pods; without
data nothing that is judged advances, and in a halt (`halt`) nothing at all.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from slipway.decide.step_input import StepInput, progress_of
from slipway.model.rollout import Step
from slipway.model.rollout_state import HaltReason, RolloutState
from slipway.model.signals import Outcome
from slipway.model.workload import Trouble


@dataclass(frozen=True, slots=True)
class StepsProgress:
    """Where a canary is after this pass, unless it is promoted or given up.

    state: what to remember of it. step: the one that it was in when the pass began.
    has_held: its step's weight was in force, and is asked for. is_endless: a person has to resume.
    hold_ends: of the step that it is in; None: no hold is running. waits_for: in words; never empty unless it is done.
    deadline: when it is given up; None: it isn't, however long it takes.
    """

    state: RolloutState
    step: Step
    has_held: bool
    is_endless: bool
    hold_ends: datetime | None
    waits_for: str
    deadline: datetime | None
    is_done: bool = False


def progress_through_steps(given: StepInput) -> StepsProgress:
    """How far the target's revision gets in this pass."""
    state, waits_for = _begin(given)
    steps, index = given.target.steps, state.step_index
    step = steps[index - 1] if index else steps[0]
    if index > 0:
        state, waits_for = _weigh(given, state, step)
    is_promoted = state.is_promote_requested
    hold_ends = None if state.step_since is None else _hold_end(step, state.step_since, is_promoted=is_promoted)
    is_endless = state.is_paused or (state.step_since is not None and step.hold_seconds is None and not is_promoted)
    # The routers may not answer for a moment: then nothing goes on, and nothing that was reached is lost.
    has_held = index > 0 and state.step_since is not None and state.weight_percent == step.weight_percent
    if still := stands_still(given):
        waits_for = still
    elif has_held:
        waits_for = _waits_to_leave(given, state, step, hold_ends) or waits_for
        if not waits_for and index < len(steps):
            state = replace(state, step_index=index + 1, progress_since=given.now, step_since=None)
            hold_ends, waits_for = None, f"step {index + 1}"
    elif state.is_paused:
        waits_for = "a person to resume"
    is_held_on = has_held and given.target.holds_on_inconclusive  # then the deadline does nothing
    is_timeless = is_endless or is_held_on or given.halt is not None
    since = state.progress_since or given.now
    deadline = max(since, hold_ends or since) + timedelta(seconds=given.target.deadline_seconds)
    return StepsProgress(
        state=state,
        step=step,
        has_held=has_held,
        is_endless=is_endless,
        hold_ends=hold_ends,
        waits_for=waits_for,
        deadline=None if is_timeless else deadline,
        is_done=has_held and not waits_for,
    )


def _begin(given: StepInput) -> tuple[RolloutState, str]:
    """The canary's state, with its first step where that begins now; and what is missing before it."""
    target, state = given.target, given.state
    since, most = progress_of(given)
    ours = replace(
        given.lasting,
        stable=given.stable,
        canary=target.revision,
        canary_ready=most,
        progress_since=since,
        was_stable_down=given.was_stable_down,
        steps=target.steps_name,
    )
    if state.canary == target.revision:
        ours = replace(
            ours,
            step_index=min(state.step_index, len(target.steps)),
            step_since=state.step_since,
            is_paused=state.is_paused,
            is_promote_requested=state.is_promote_requested,
            weight_percent=state.weight_percent if target.replicas else 0,
            traffic_since=state.traffic_since,
            ends_before=state.ends_before,
        )
        if ours.step_index > 0 and state.steps not in ("", target.steps_name) and not ours.is_promote_requested:
            ours = _at_first_step(given, ours)
    if ours.step_index > 0:
        return ours, ""
    if still := stands_still(given):
        return replace(ours, weight_percent=0), still
    # Where it has a weight, an operator asked for that, and ended before status told.
    waits_for = "" if ours.weight_percent > 0 else _waits_to_begin(given, target.steps[0])
    if waits_for or ours.is_paused:
        return replace(ours, weight_percent=0), waits_for
    index = len(target.steps) if ours.is_promote_requested else 1
    return replace(ours, step_index=index, progress_since=given.now, step_since=None), waits_for


def _at_first_step(given: StepInput, state: RolloutState) -> RolloutState:
    """The steps were edited: it begins anew at the first one, with no larger share than that one allows."""
    weight = min(state.weight_percent, given.target.steps[0].weight_percent)
    return replace(state, step_index=1, step_since=None, progress_since=given.now, weight_percent=weight)


def _weigh(given: StepInput, state: RolloutState, step: Step) -> tuple[RolloutState, str]:
    """The state with the weight to ask for in this step, and since when it is in force; and what that waits for."""
    weight, waits_for_pods = _weight_now(given, step, state.weight_percent)
    is_set = weight == step.weight_percent and _is_in_force(given, weight)
    since, step_since = state.progress_since or given.now, state.step_since
    if is_set:
        step_since = step_since or given.now
    elif weight == 0 < step.weight_percent and step_since is not None:  # it lost its pods: what it was held is no delay
        since, step_since = min(given.now, since + (given.now - step_since)), None
    traffic_since, ends_before = state.traffic_since, state.ends_before
    if weight > 0 or given.is_diverted:
        traffic_since = traffic_since or given.now
        ends_before = given.here.ends if ends_before is None else ends_before
    waits_for = waits_for_pods or ("" if is_set else f"weight {weight} to be in force")
    state = replace(
        state,
        weight_percent=weight,
        progress_since=since,
        step_since=step_since,
        traffic_since=traffic_since,
        ends_before=ends_before,
    )
    return state, waits_for


def _waits_to_begin(given: StepInput, step: Step) -> str:
    """What is missing before the first step; empty when nothing is."""
    pods = max(1, step.pods)
    if not given.is_carried or given.here.ready < pods:
        return f"{pods} canary pods to be ready ({given.here.ready} now)"
    if not given.has_passed_gates:
        return f"the gates: {given.signals.gates.message}"
    return "" if _is_reachable(given, pods) else f"the routers to see {pods} ready canary endpoints"


def _waits_to_leave(given: StepInput, state: RolloutState, step: Step, hold_ends: datetime | None) -> str:
    """What is missing before the next step; empty when nothing is."""
    verdict = given.signals.verdict
    if state.is_paused or (hold_ends is None and not state.is_promote_requested):
        return "a person to resume"
    if hold_ends is not None and given.now < hold_ends:
        return f"its hold to end at {hold_ends:%H:%M:%S} UTC"
    if lacks_evidence(given, step, is_promote_requested=state.is_promote_requested):
        return "evidence" if verdict is None else f"evidence: {verdict.message}"
    return ""


def lacks_evidence(given: StepInput, step: Step, *, is_promote_requested: bool) -> bool:
    """Whether the step is judged and the verdict isn't Pass. At 100 percent there is nothing to compare with."""
    verdict = given.signals.verdict
    is_weighed = given.target.is_judged and not step.is_pause and 0 < step.weight_percent < 100
    return is_weighed and not is_promote_requested and (verdict is None or verdict.outcome is not Outcome.PASS)


def _hold_end(step: Step, since: datetime, *, is_promoted: bool) -> datetime | None:
    """When the step's hold ends, in force since then; None: a person ends it. A person's promote ends it at once."""
    if is_promoted:
        return since
    return None if step.hold_seconds is None else since + timedelta(seconds=step.hold_seconds)


def _weight_now(given: StepInput, step: Step, sent: int) -> tuple[int, str]:
    """The weight to ask for in this step, and why it isn't the step's own.

    A weight waits for the pods that it takes, and what was `sent` last stays until then. Once sent it stays while some
    pods are ready, whether routers answer or not: a pod that is lost is replaced. With none ready, requests go to
    stable.
    """
    here = given.here
    if here.ready == 0:
        return 0, "a ready canary pod, none is"
    if given.is_last_look:
        return min(sent, step.weight_percent), ""
    if sent == 0 < step.weight_percent and not given.has_passed_gates:
        return 0, f"the gates: {given.signals.gates.message}"
    if sent >= step.weight_percent or (here.ready >= step.pods and _is_reachable(given, step.pods)):
        return step.weight_percent, ""
    return sent, f"{step.pods} canary pods to be ready and reachable ({here.ready} ready now)"


HALT_WORDS: Mapping[HaltReason, Callable[[StepInput], str]] = {
    HaltReason.SCALED_TO_ZERO: lambda _: "spec.replicas to be more than 0",
    HaltReason.STABLE_UNAVAILABLE: lambda given: f"a ready pod of the stable revision {given.stable}, none is",
    HaltReason.OUT_OF_CAPACITY: lambda _: (
        "room for its pods: there was none until spec.rollout.capacityDeadlineSeconds, and it is tried again"
    ),
    HaltReason.WAITING_FOR_CAPACITY: lambda given: _words_of(given.here.waits_for_room or given.signals.unmade),
    HaltReason.ROUTERS_UNAVAILABLE: lambda given: f"the routers: {_words_of(given.signals.router_trouble)}",
}
"""What a rollout waits for in a halt."""


def stands_still(given: StepInput) -> str:
    """What a rollout in a halt, or at its last look, waits for; empty: it goes on."""
    if given.is_last_look:
        return f"requests to go back to the stable revision {given.stable}, which is ready again"
    return HALT_WORDS[given.halt.reason](given) if given.halt is not None else ""


def _words_of(trouble: Trouble | None) -> str:
    return trouble.message if trouble is not None else ""


def _is_reachable(given: StepInput, pods: int) -> bool:
    """Whether the routers know so many pods of the canary."""
    in_force = given.signals.in_force
    return in_force is not None and in_force.endpoints.get(given.target.workload, 0) >= pods


def _is_in_force(given: StepInput, weight: int) -> bool:
    in_force = given.signals.in_force
    if in_force is None:
        return False
    actual = in_force.weights.get(given.target.workload, 0)
    if given.target.is_exact or weight in (0, 100):
        return actual == weight
    return 0 < actual < 100
