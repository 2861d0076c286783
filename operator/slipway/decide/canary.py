"""How a new revision takes over by steps: pods of its own, a share of the requests, judged; and how it is taken back.

    N = 4, steps 25, 100                  stable   canary   weight   index
    canary prepares                       4 pods   1 pod    0        0
    1 pod ready, gates passed             4        1        25       1     (in force: the hold begins)
    held, and the evidence says Pass      4        4        25 → 100 2     (100 once 4 pods are ready)
    in force                              4 warm   4        100      promoted; bakes
    bake is over                          0        4
    any failure before                    4        1        0        → in force, then the canary's pods go

Laws (each has a property test): weights sum to 100 and only stable and canary have any; a workload that has a weight in
force keeps its pods; a canary gets its first weight only when it is known to those who split, with ready pods; a
rejected revision never has a weight; without data nothing that is judged advances; a step repeated on the world it
asked for changes nothing.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from slipway.decide.step_input import StepInput, orders_for, progress_of
from slipway.model.revision import Orders
from slipway.model.rollout import NO_PROGRESS, Plan, Promotion, Rejection, RolloutState, Step
from slipway.model.signals import Cause, GateState, Outcome
from slipway.model.workload import ABSENT, Crash, Workload, enough, workload_of

LOOK_SECONDS = 1.0
"""While a canary or a bake is on."""


def step_canary(given: StepInput) -> Plan:
    """The next plan where the spec has steps."""
    target, state = given.target, given.state
    if given.stable is None or given.home is None:
        return _first(given)
    previous = _previous_home(given)
    if previous is not None and state.previous == target.revision and given.workloads[previous].ready > 0:
        return _take_over(given, bakes=False)  # back to what still is warm
    if previous is not None or given.stable == target.revision:
        return _keep(given, previous)
    rejection = Rejection(target.revision, target.content)
    if rejection in state.rejected:
        return _back(given)
    if cause := _failure(given):
        return _back(given, rejection, cause)
    return _advance(given)


def catch_up(
    state: RolloutState,
    asked: Mapping[str, int],
    workloads: Mapping[str, Workload],
    steps: Sequence[Step],
    spec_revision: str,
    *,
    is_commanded: bool,
) -> RolloutState:
    """The state of an operator that asked for a weight and ended before status told of it.

    asked: workload → percent, as those who split were told last. spec_revision: the one that is to take over. Without
    this a successor would take the weight back while it isn't in force everywhere, only to ask for it again. A command
    that status doesn't tell of yet will be carried out once more, on the step that status tells of; then only the
    weight counts.

        in status       told      goes on
        another canary  25 %      in step 1, at 25 %, where that is the wanted revision's
        no canary       25 %      in step 1, at 25 %
        step 1, 25 %    50 %      in step 2, at 50 %
        step 2, 50 %    0 %       in step 2: why it was taken back is found again
    """
    if state.stable is None:
        return state
    settled = (state.stable, state.previous)
    rising = {
        workloads[workload].revision: weight
        for workload, weight in asked.items()
        if weight and workload in workloads and workloads[workload].revision not in settled
    }
    if len(rising) != 1 or state.previous is not None:
        return state
    ((canary, weight),) = rising.items()
    if state.canary not in (None, canary):
        if canary != spec_revision:
            return state
        state = RolloutState(
            state.stable, rejected=state.rejected
        )  # what is remembered of another says nothing of this
    if weight <= state.weight_percent:
        return state
    index = next((n for n, step in enumerate(steps, 1) if step.weight_percent >= weight), 0)
    if is_commanded or index <= state.step_index:
        return replace(state, canary=canary, weight_percent=weight)
    return replace(state, canary=canary, weight_percent=weight, step_index=index, step_since=None, progress_since=None)


def _first(given: StepInput) -> Plan:
    """Nothing serves that could be compared with, or gone back to."""
    target, here = given.target, given.here
    if (
        here.revision == target.revision
        and here.ready >= enough(target.replicas)
        and target.workload in given.workloads
    ):
        return _take_over(given, bakes=False)
    since, most = progress_of(given)
    former = here.replaces if here.revision == target.revision else here.revision if here.ready else None
    return Plan(
        None,
        target.revision,
        {target.workload: target.replicas},
        {target.workload: Orders(target.revision, former)},
        Promotion.IN_PROGRESS,
        since,
        most,
        weights={target.workload: 100},
    )


def _keep(given: StepInput, previous: str | None) -> Plan:
    """What serves goes on; the revision before it stays warm until its bake is over."""
    target, state, stable, home = given.target, given.state, given.stable, given.home
    assert stable is not None
    assert home is not None
    is_wanted = stable == target.revision
    here = given.workloads.get(home, ABSENT)
    until = state.bake_until
    if previous is not None and (cause := _bake_failure(given, previous)):
        back = replace(given, stable=state.previous, home=previous)
        if not is_wanted:  # another revision waits; what failed isn't the spec's any more, and need not be remembered
            return replace(_back(back, cause=cause), promotion=Promotion.IN_PROGRESS)
        return _back(back, Rejection(target.revision, target.content), cause)
    is_baking = until is not None and given.now < until
    replicas = {home: target.replicas}
    own = Orders(stable, here.replaces if is_baking else None)
    if previous is not None and is_baking:
        replicas[previous] = target.replicas
    shares_carrier = is_baking and previous is None and here.replaces not in (None, stable)
    is_on = is_baking and (previous in replicas or shares_carrier)
    everything = replicas | _leaving(given, replicas) | {home: _room(given, here, _others(given, replicas))}
    return Plan(
        stable,
        None,
        everything,
        orders_for(everything, given, {home: own}),
        _promotion(
            target.is_rollback and is_wanted,
            is_baking=not is_wanted or previous in replicas or _is_asked_of_others(given, home),
        ),
        progress_since=state.progress_since if is_on else None,
        traffic_since=state.traffic_since if is_on else None,
        # Pods that a scale from zero asked for are not pods that were lost.
        canary_ready=max(state.canary_ready, here.ready) if is_on and target.replicas else 0,
        bake_until=until if is_on else None,
        wake_at=min(until, _soon(given)) if is_on and until is not None else _while_leaving(given, replicas),
        turns_at=until if is_on else None,
        weights=_weights(given, {home: 100}, everything),
        previous=state.previous if previous in replicas else None,
        waits_for="" if is_wanted else "the bake of the stable revision to end",
    )


def _advance(given: StepInput) -> Plan:
    """The canary prepares, or goes through its steps."""
    target, state, here, home = given.target, given.state, given.here, given.home
    assert home is not None
    steps = target.steps
    serving = given.workloads.get(home, ABSENT).ready
    is_known = here.revision == target.revision and target.workload in given.workloads
    passed = given.signals.gates.state is GateState.PASSED
    if target.replicas == 0 or (serving == 0 and is_known and here.ready > 0 and passed):
        return _take_over(given, bakes=False)  # nothing is served that a step could protect
    is_ours = state.canary == target.revision
    index = min(state.step_index, len(steps)) if is_ours else 0
    is_paused, is_promote_requested = is_ours and state.is_paused, is_ours and state.is_promote_requested
    since, most = progress_of(given)
    step_since = state.step_since if is_ours else None

    has_begun = is_ours and state.weight_percent > 0  # an operator asked for it, and ended before status told
    if index == 0:
        waits_for = "" if has_begun else _waits_to_begin(given, steps[0])
        if not waits_for and not is_paused:
            index, since, step_since = (len(steps) if is_promote_requested else 1), given.now, None
    step = steps[index - 1] if index else steps[0]
    weight, waits_for_pods = _weight_now(given, step, state.weight_percent if is_ours else 0, index)
    is_set = index > 0 and weight == step.weight_percent and _is_in_force(given, weight)
    if is_set:
        step_since = step_since or given.now
    elif weight == 0 < step.weight_percent and step_since is not None:  # it lost its pods: what it was held is no delay
        since, step_since = min(given.now, since + (given.now - step_since)), None
    if index > 0:
        waits_for = waits_for_pods or ("" if is_set else f"weight {weight} to be in force")
    traffic_since = state.traffic_since if is_ours else None
    if index > 0 and weight > 0:
        traffic_since = traffic_since or given.now
    hold_ends = None if step_since is None else _hold_end(step, step_since, is_promote_requested=is_promote_requested)
    is_endless = is_paused or (step_since is not None and step.hold_seconds is None and not is_promote_requested)
    # Those who split may not answer for a moment: then nothing goes on, and nothing that was reached is lost.
    has_held = index > 0 and step_since is not None and weight == step.weight_percent
    if has_held:
        waits_for = (
            _waits_to_leave(given, step, hold_ends, is_paused=is_paused, is_promote_requested=is_promote_requested)
            or waits_for
        )
        if not waits_for and index == len(steps):
            return _take_over(given, bakes=not target.is_swap and not target.is_rollback)
        if not waits_for:
            index, since, step_since, hold_ends = index + 1, given.now, None, None
            waits_for = f"step {index}"
    elif is_paused:
        waits_for = "a person to resume"

    deadline = max(since, hold_ends or since) + timedelta(seconds=target.deadline_seconds)
    is_held_on = has_held and target.holds_on_inconclusive  # then the deadline does nothing
    if given.now >= deadline and not (is_endless or is_held_on or here.is_fetching):
        is_inconclusive = has_held and _lacks_evidence(given, step, is_promote_requested=is_promote_requested)
        cause = _late(given, waits_for, is_inconclusive=is_inconclusive)
        return _back(given, Rejection(target.revision, target.content), cause)
    pods = max(1, step.pods, min(here.replicas, target.replicas - serving))  # what stable lacks isn't given up
    if state.canary_ready == 0 and serving == 0:
        pods = target.replicas  # nothing to protect: no reason to go slowly
    replicas = {home: _stable_pods(given, pods), target.workload: pods}
    everything = replicas | _leaving(given, replicas)
    return Plan(
        given.stable,
        target.revision,
        everything,
        orders_for(everything, given, {target.workload: Orders(target.revision)}),
        Promotion.PAUSED if is_paused or (has_held and is_endless) else Promotion.IN_PROGRESS,
        since,
        most,
        traffic_since=traffic_since,
        wake_at=_soon(given),
        turns_at=_turn(given, None if is_paused else hold_ends, None if is_endless or is_held_on else deadline),
        weights=_weights(given, {home: 100 - weight, target.workload: weight}, everything),
        step_index=index,
        step_since=step_since,
        is_paused=is_paused,
        is_promote_requested=is_promote_requested,
        waits_for=waits_for,
    )


def _take_over(given: StepInput, *, bakes: bool) -> Plan:
    """The wanted revision is stable from now on; what others have goes once status tells so.

    Were it gone before that, an operator that starts then would ask the routers to know it again, the next one not.
    """
    target, stable, home = given.target, given.stable, given.home
    stays = bakes and target.bake_seconds > 0 and home is not None and home != target.workload
    until = given.now + timedelta(seconds=target.bake_seconds) if stays else None
    replicas = {target.workload: target.replicas}
    if stays and home is not None:
        replicas[home] = target.replicas
    others = _others(given, replicas)
    everything = replicas | others | {target.workload: _room(given, given.here, others)}
    return Plan(
        target.revision,
        None,
        everything,
        orders_for(everything, given, {target.workload: Orders(target.revision)}),
        _promotion(target.is_rollback, is_baking=stays or _is_asked_of_others(given, target.workload)),
        progress_since=given.now if stays else None,
        traffic_since=given.state.traffic_since if stays else None,
        canary_ready=given.here.ready if stays else 0,
        bake_until=until,
        wake_at=_soon(given) if len(everything) > 1 else None,
        turns_at=until,
        weights=_weights(given, {target.workload: 100}, everything),
        previous=stable if stays else None,
    )


def _others(given: StepInput, replicas: Mapping[str, int]) -> dict[str, int]:
    """All that have pods beside these, as they are."""
    return {name: other.replicas for name, other in given.workloads.items() if name not in replicas and other.replicas}


def _promotion(is_rollback: bool, *, is_baking: bool) -> Promotion:
    if is_rollback:
        return Promotion.ROLLED_BACK
    return Promotion.IN_PROGRESS if is_baking else Promotion.PROMOTED


def _back(given: StepInput, rejection: Rejection | None = None, cause: Cause | None = None) -> Plan:
    """Everything goes to the stable revision; the canary's pods go once no request can reach them and status tells why.

    Were it gone before that, and its counts with it, an operator that starts then would try it again.
    """
    home, stable = given.home, given.stable
    assert home is not None
    assert stable is not None
    replicas = {home: given.target.replicas}
    is_news = rejection is not None or stable != given.state.stable
    everything = replicas | (_others(given, replicas) if is_news else _leaving(given, replicas))
    return Plan(
        stable,
        None,
        everything,
        orders_for(everything, given, {home: Orders(stable)}),
        Promotion.ROLLED_BACK,
        newly_rejected=rejection,
        cause=cause,
        wake_at=_soon(given) if len(everything) > 1 else None,
        weights=_weights(given, {home: 100}, everything),
    )


# --- judgement ---


def _failure(given: StepInput) -> Cause | None:
    """What takes the canary back now, whatever step it is in."""
    here, state, target = given.here, given.state, given.target
    gates, verdict = given.signals.gates, given.signals.verdict
    if given.signals.abort is not None:
        return given.signals.abort
    if here.revision == target.revision and here.is_refused:
        return Cause("", "")  # the agent's own words are the reason
    if gates.state is GateState.FAILED:
        return Cause(gates.reason, gates.message)
    if state.canary != target.revision or state.step_index == 0:
        return None
    if crash := _crash(here, state):
        return Cause("CanaryCrashed", crash.message)
    if target.is_judged and verdict is not None and verdict.outcome is Outcome.FAIL:
        return Cause(verdict.reason, verdict.message)
    return None


def _crash(here: Workload, state: RolloutState) -> Crash | None:
    """The canary's last crash, since it got its first requests. Nodes tell it to the second."""
    since = state.traffic_since
    is_new = here.crash is not None and since is not None and here.crash.at >= since.replace(microsecond=0)
    return here.crash if is_new else None


def _bake_failure(given: StepInput, previous: str) -> Cause | None:
    """What takes a promoted revision back while the one before it is warm."""
    here, state, verdict = given.workloads.get(given.home or "", ABSENT), given.state, given.signals.verdict
    if given.workloads[previous].ready == 0 or given.target.is_rollback:
        return None
    if given.signals.abort is not None:
        return given.signals.abort
    if here.ready == 0 and state.canary_ready > 0 and given.target.replicas > 0:
        return Cause("NoReadyPods", "in bake, none of its pods was ready any more")
    if crash := _crash(here, state):
        return Cause("CanaryCrashed", f"in bake, {crash.message}")
    if given.target.is_judged and verdict is not None and verdict.outcome is Outcome.FAIL:
        return Cause(verdict.reason, f"in bake, {verdict.message}")
    return None


def _late(given: StepInput, waits_for: str, *, is_inconclusive: bool) -> Cause:
    """What an expired deadline means."""
    verdict = given.signals.verdict
    if is_inconclusive:
        said = verdict.message if verdict is not None else "no evidence came"
        return Cause("Inconclusive", f"{said}; spec.rollout.analysis.onInconclusive is RollBack")
    trouble = f"waited {given.target.deadline_seconds} s for {waits_for}" if waits_for else ""
    is_preparing = given.state.step_index == 0 and given.here.ready == 0
    return Cause("" if is_preparing else NO_PROGRESS, "" if is_preparing else trouble)


def _turn(given: StepInput, *moments: datetime | None) -> datetime | None:
    """The first of the moments that is yet to come."""
    return min((moment for moment in moments if moment is not None and moment > given.now), default=None)


def _waits_to_begin(given: StepInput, step: Step) -> str:
    """What is missing before the first step; empty when nothing is."""
    target, here, signals = given.target, given.here, given.signals
    pods = max(1, step.pods)
    if target.workload not in given.workloads or here.revision != target.revision or here.ready < pods:
        return f"{pods} ready canary pods, {here.ready} are"
    if signals.gates.state is not GateState.PASSED:
        return f"the gates: {signals.gates.message}"
    return "" if _is_reachable(given, pods) else "those who split the requests to know the canary"


def _waits_to_leave(
    given: StepInput, step: Step, hold_ends: datetime | None, *, is_paused: bool, is_promote_requested: bool
) -> str:
    """What is missing before the next step; empty when nothing is."""
    verdict = given.signals.verdict
    if is_paused or (hold_ends is None and not is_promote_requested):
        return "a person to resume"
    if hold_ends is not None and given.now < hold_ends:
        return f"its hold to end at {hold_ends:%H:%M:%S} UTC"
    if _lacks_evidence(given, step, is_promote_requested=is_promote_requested):
        return "evidence" if verdict is None else f"evidence: {verdict.message}"
    return ""


def _lacks_evidence(given: StepInput, step: Step, *, is_promote_requested: bool) -> bool:
    """Whether the step is judged and the verdict isn't Pass. At 100 percent there is nothing to compare with."""
    verdict = given.signals.verdict
    is_judged = (
        given.target.is_judged and not step.is_pause and 0 < step.weight_percent < 100 and not is_promote_requested
    )
    return is_judged and (verdict is None or verdict.outcome is not Outcome.PASS)


def _hold_end(step: Step, since: datetime, *, is_promote_requested: bool) -> datetime | None:
    """None: there is none."""
    if is_promote_requested:
        return since
    return None if step.hold_seconds is None else since + timedelta(seconds=step.hold_seconds)


# --- weights and pods ---


def _weight_now(given: StepInput, step: Step, asked: int, index: int) -> tuple[int, str]:
    """The weight to ask for in this step, and why it isn't the step's own.

    A weight waits for the pods that it takes, and what was `asked` last stays until then. Once asked it stays while
    some pods are ready, whether routers answer or not: a pod that is lost is replaced. With none ready, requests go to
    stable.
    """
    here = given.here
    if index == 0:
        return 0, ""
    if here.ready == 0:
        return 0, "a ready canary pod, none is"
    if asked >= step.weight_percent or (here.ready >= step.pods and _is_reachable(given, step.pods)):
        return step.weight_percent, ""
    return asked, f"{step.pods} ready canary pods that requests can reach, {here.ready} are ready"


def _is_reachable(given: StepInput, pods: int) -> bool:
    """Whether those who split the requests know so many pods of the canary."""
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


def _weights(given: StepInput, decided: Mapping[str, int], workloads: Mapping[str, int]) -> dict[str, int]:
    return {workload: decided.get(workload, 0) for workload in {**decided, **workloads}}


def _stable_pods(given: StepInput, canary_pods: int) -> int:
    """With Swap, a stable pod makes room for each canary pod that is about to come."""
    replicas = given.target.replicas
    if not given.target.is_swap:
        return replicas
    return max(1, replicas - min(canary_pods, given.here.ready + 1))


def _leaving(given: StepInput, staying: Mapping[str, int]) -> dict[str, int]:
    """The other workloads, as long as requests can reach their pods: until all who split know that they get none.

    A router that ends splits as it was told last, for the clients that it still has. A workload that routers aren't
    told
    of any more had none in force before: it doesn't come back.
    """
    in_force, told = given.signals.in_force, given.signals.sent_weights
    is_known = in_force is not None and in_force.is_latest
    return {
        name: other.replicas
        for name, other in given.workloads.items()
        if name not in staying
        and other.replicas
        and (told is None or name in told)
        and not (is_known and in_force and not in_force.weights.get(name, 0) and name not in in_force.lingering)
    }


def _is_asked_of_others(given: StepInput, workload: str) -> bool:
    """Whether some requests go to another workload yet: what is promoted has them all."""
    in_force = given.signals.in_force
    return in_force is not None and any(weight for name, weight in in_force.weights.items() if name != workload)


def _while_leaving(given: StepInput, staying: Mapping[str, int]) -> datetime | None:
    return _soon(given) if _leaving(given, staying) else None


def _room(given: StepInput, here: Workload, others: Mapping[str, int]) -> int:
    """Pods of what is stable: with Swap, no more than it has, or one, until the others are gone and have made room."""
    replicas = given.target.replicas
    if not given.target.is_swap:
        return replicas
    return max(replicas - sum(others.values()), min(max(1, here.replicas), replicas))


def _previous_home(given: StepInput) -> str | None:
    """The workload of the revision that is kept warm; None when none is, or it is time to let it go."""
    state = given.state
    if state.previous is None or state.bake_until is None or given.now >= state.bake_until:
        return None
    home = workload_of(state.previous, given.workloads)
    return home if home != given.home else None


def _soon(given: StepInput) -> datetime:
    return given.now + timedelta(seconds=LOOK_SECONDS)
