"""How a new revision takes over by steps: pods of its own, a share of the requests, judged; and how it is taken back.

    N = 4, steps 25, 100                  stable   canary   weight   index
    canary prepares                       4 pods   1 pod    0        0
    1 pod ready, gates passed             4        1        25       1     (in force: the hold begins)
    held, and the evidence says Pass      4        4        25 → 100 2     (100 once 4 pods are ready)
    in force                              4 warm   4        100      promoted; bakes
    bake is over                          0        4
    any failure before                    4        1        0        → in force, then the canary's pods go

Laws (each has a property test): weights sum to 100 and only stable and canary have any; a carrier that has a weight in
force keeps its pods; a canary gets its first weight only when it is known to those who split, with ready pods; a
rejected revision never has a weight; without data nothing that is judged advances; a step repeated on the world it
asked for changes nothing.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from slipway.decide.step_input import Scene, orders_for, progress_of
from slipway.model.revision import Orders
from slipway.model.rollout import NO_PROGRESS, Memory, Plan, Promotion, Rejection, Step
from slipway.model.signals import Cause, GateState, Outcome
from slipway.model.workload import ABSENT, CarrierPods, Crash, carrier_of, enough

LOOK_SECONDS = 1.0
"""While a canary or a bake is on."""


def step_canary(scene: Scene) -> Plan:
    """The next plan where the spec has steps."""
    wanted, memory = scene.wanted, scene.memory
    if scene.stable is None or scene.home is None:
        return _first(scene)
    previous = _previous_home(scene)
    if previous is not None and memory.previous == wanted.revision and scene.carriers[previous].ready > 0:
        return _take_over(scene, bakes=False)  # back to what still is warm
    if previous is not None or scene.stable == wanted.revision:
        return _keep(scene, previous)
    rejection = Rejection(wanted.revision, wanted.content)
    if rejection in memory.rejected:
        return _back(scene)
    if cause := _failure(scene):
        return _back(scene, rejection, cause)
    return _advance(scene)


def catch_up(
    memory: Memory,
    asked: Mapping[str, int],
    carriers: Mapping[str, CarrierPods],
    steps: Sequence[Step],
    wanted: str,
    *,
    is_commanded: bool,
) -> Memory:
    """The memory of an operator that asked for a weight and ended before status told of it.

    asked: carrier → percent, as those who split were told last. wanted: the revision that is to take over. Without this
    a successor would take the weight back while it isn't in force everywhere, only to ask for it again. A command that
    status doesn't tell of yet will be obeyed once more, on the step that status tells of; then only the weight counts.

        in status       told      goes on
        another canary  25 %      in step 1, at 25 %, where that is the wanted revision's
        no canary       25 %      in step 1, at 25 %
        step 1, 25 %    50 %      in step 2, at 50 %
        step 2, 50 %    0 %       in step 2: why it was taken back is found again
    """
    if memory.stable is None:
        return memory
    settled = (memory.stable, memory.previous)
    rising = {
        carriers[carrier].revision: weight
        for carrier, weight in asked.items()
        if weight and carrier in carriers and carriers[carrier].revision not in settled
    }
    if len(rising) != 1 or memory.previous is not None:
        return memory
    ((canary, weight),) = rising.items()
    if memory.canary not in (None, canary):
        if canary != wanted:
            return memory
        memory = Memory(memory.stable, rejected=memory.rejected)  # what is remembered of another says nothing of this
    if weight <= memory.weight_percent:
        return memory
    index = next((n for n, step in enumerate(steps, 1) if step.weight_percent >= weight), 0)
    if is_commanded or index <= memory.step_index:
        return replace(memory, canary=canary, weight_percent=weight)
    return replace(memory, canary=canary, weight_percent=weight, step_index=index, step_since=None, progress_since=None)


def _first(scene: Scene) -> Plan:
    """Nothing serves that could be compared with, or gone back to."""
    wanted, here = scene.wanted, scene.here
    if here.revision == wanted.revision and here.ready >= enough(wanted.replicas) and wanted.carrier in scene.carriers:
        return _take_over(scene, bakes=False)
    since, most = progress_of(scene)
    former = here.replaces if here.revision == wanted.revision else here.revision if here.ready else None
    return Plan(
        None,
        wanted.revision,
        {wanted.carrier: wanted.replicas},
        {wanted.carrier: Orders(wanted.revision, former)},
        Promotion.IN_PROGRESS,
        since,
        most,
        weights={wanted.carrier: 100},
    )


def _keep(scene: Scene, previous: str | None) -> Plan:
    """What serves goes on; the revision before it stays warm until its bake is over."""
    wanted, memory, stable, home = scene.wanted, scene.memory, scene.stable, scene.home
    assert stable is not None
    assert home is not None
    is_wanted = stable == wanted.revision
    here = scene.carriers.get(home, ABSENT)
    until = memory.bake_until
    if previous is not None and (cause := _bake_failure(scene, previous)):
        back = replace(scene, stable=memory.previous, home=previous)
        if not is_wanted:  # another revision waits; what failed isn't the spec's any more, and need not be remembered
            return replace(_back(back, cause=cause), promotion=Promotion.IN_PROGRESS)
        return _back(back, Rejection(wanted.revision, wanted.content), cause)
    is_baking = until is not None and scene.now < until
    replicas = {home: wanted.replicas}
    own = Orders(stable, here.replaces if is_baking else None)
    if previous is not None and is_baking:
        replicas[previous] = wanted.replicas
    shares_carrier = is_baking and previous is None and here.replaces not in (None, stable)
    is_on = is_baking and (previous in replicas or shares_carrier)
    everything = replicas | _leaving(scene, replicas) | {home: _room(scene, here, _others(scene, replicas))}
    return Plan(
        stable,
        None,
        everything,
        orders_for(everything, scene, {home: own}),
        _promotion(
            wanted.is_rollback and is_wanted,
            is_baking=not is_wanted or previous in replicas or _is_asked_of_others(scene, home),
        ),
        progress_since=memory.progress_since if is_on else None,
        weighted_since=memory.weighted_since if is_on else None,
        # Pods that a scale from zero asked for are not pods that were lost.
        canary_ready=max(memory.canary_ready, here.ready) if is_on and wanted.replicas else 0,
        bake_until=until if is_on else None,
        wake_at=min(until, _soon(scene)) if is_on and until is not None else _while_leaving(scene, replicas),
        turns_at=until if is_on else None,
        weights=_weights(scene, {home: 100}, everything),
        previous=memory.previous if previous in replicas else None,
        waits_for="" if is_wanted else "the bake of the stable revision to end",
    )


def _advance(scene: Scene) -> Plan:
    """The canary prepares, or goes through its steps."""
    wanted, memory, here, home = scene.wanted, scene.memory, scene.here, scene.home
    assert home is not None
    steps = wanted.steps
    serving = scene.carriers.get(home, ABSENT).ready
    is_known = here.revision == wanted.revision and wanted.carrier in scene.carriers
    passed = scene.scales.gates.state is GateState.PASSED
    if wanted.replicas == 0 or (serving == 0 and is_known and here.ready > 0 and passed):
        return _take_over(scene, bakes=False)  # nothing is served that a step could protect
    is_ours = memory.canary == wanted.revision
    index = min(memory.step_index, len(steps)) if is_ours else 0
    is_paused, is_hurried = is_ours and memory.is_paused, is_ours and memory.is_hurried
    since, most = progress_of(scene)
    step_since = memory.step_since if is_ours else None

    has_begun = is_ours and memory.weight_percent > 0  # an operator asked for it, and ended before status told
    if index == 0:
        waits_for = "" if has_begun else _waits_to_begin(scene, steps[0])
        if not waits_for and not is_paused:
            index, since, step_since = (len(steps) if is_hurried else 1), scene.now, None
    step = steps[index - 1] if index else steps[0]
    weight, waits_for_pods = _weight_now(scene, step, memory.weight_percent if is_ours else 0, index)
    is_set = index > 0 and weight == step.weight_percent and _is_in_force(scene, weight)
    if is_set:
        step_since = step_since or scene.now
    elif weight == 0 < step.weight_percent and step_since is not None:  # it lost its pods: what it was held is no delay
        since, step_since = min(scene.now, since + (scene.now - step_since)), None
    if index > 0:
        waits_for = waits_for_pods or ("" if is_set else f"weight {weight} to be in force")
    weighted_since = memory.weighted_since if is_ours else None
    if index > 0 and weight > 0:
        weighted_since = weighted_since or scene.now
    hold_ends = None if step_since is None else _hold_end(step, step_since, is_hurried=is_hurried)
    is_endless = is_paused or (step_since is not None and step.hold_seconds is None and not is_hurried)
    # Those who split may not answer for a moment: then nothing goes on, and nothing that was reached is lost.
    has_held = index > 0 and step_since is not None and weight == step.weight_percent
    if has_held:
        waits_for = _waits_to_leave(scene, step, hold_ends, is_paused=is_paused, is_hurried=is_hurried) or waits_for
        if not waits_for and index == len(steps):
            return _take_over(scene, bakes=not wanted.is_swap and not wanted.is_rollback)
        if not waits_for:
            index, since, step_since, hold_ends = index + 1, scene.now, None, None
            waits_for = f"step {index}"
    elif is_paused:
        waits_for = "a person to resume"

    deadline = max(since, hold_ends or since) + timedelta(seconds=wanted.deadline_seconds)
    is_held_on = has_held and wanted.holds_on_inconclusive  # then the deadline does nothing
    if scene.now >= deadline and not (is_endless or is_held_on or here.is_fetching):
        is_inconclusive = has_held and _lacks_evidence(scene, step, is_hurried=is_hurried)
        cause = _late(scene, waits_for, is_inconclusive=is_inconclusive)
        return _back(scene, Rejection(wanted.revision, wanted.content), cause)
    pods = max(1, step.pods, min(here.wanted, wanted.replicas - serving))  # what stable lacks isn't given up
    if memory.canary_ready == 0 and serving == 0:
        pods = wanted.replicas  # nothing to protect: no reason to go slowly
    replicas = {home: _stable_pods(scene, pods), wanted.carrier: pods}
    everything = replicas | _leaving(scene, replicas)
    return Plan(
        scene.stable,
        wanted.revision,
        everything,
        orders_for(everything, scene, {wanted.carrier: Orders(wanted.revision)}),
        Promotion.PAUSED if is_paused or (has_held and is_endless) else Promotion.IN_PROGRESS,
        since,
        most,
        weighted_since=weighted_since,
        wake_at=_soon(scene),
        turns_at=_turn(scene, None if is_paused else hold_ends, None if is_endless or is_held_on else deadline),
        weights=_weights(scene, {home: 100 - weight, wanted.carrier: weight}, everything),
        step_index=index,
        step_since=step_since,
        is_paused=is_paused,
        is_hurried=is_hurried,
        waits_for=waits_for,
    )


def _take_over(scene: Scene, *, bakes: bool) -> Plan:
    """The wanted revision is stable from now on; what others have goes once status tells so.

    Were it gone before that, an operator that starts then would ask the routers to know it again, the next one not.
    """
    wanted, stable, home = scene.wanted, scene.stable, scene.home
    stays = bakes and wanted.bake_seconds > 0 and home is not None and home != wanted.carrier
    until = scene.now + timedelta(seconds=wanted.bake_seconds) if stays else None
    replicas = {wanted.carrier: wanted.replicas}
    if stays and home is not None:
        replicas[home] = wanted.replicas
    others = _others(scene, replicas)
    everything = replicas | others | {wanted.carrier: _room(scene, scene.here, others)}
    return Plan(
        wanted.revision,
        None,
        everything,
        orders_for(everything, scene, {wanted.carrier: Orders(wanted.revision)}),
        _promotion(wanted.is_rollback, is_baking=stays or _is_asked_of_others(scene, wanted.carrier)),
        progress_since=scene.now if stays else None,
        weighted_since=scene.memory.weighted_since if stays else None,
        canary_ready=scene.here.ready if stays else 0,
        bake_until=until,
        wake_at=_soon(scene) if len(everything) > 1 else None,
        turns_at=until,
        weights=_weights(scene, {wanted.carrier: 100}, everything),
        previous=stable if stays else None,
    )


def _others(scene: Scene, replicas: Mapping[str, int]) -> dict[str, int]:
    """All that have pods beside these, as they are."""
    return {name: other.wanted for name, other in scene.carriers.items() if name not in replicas and other.wanted}


def _promotion(is_rollback: bool, *, is_baking: bool) -> Promotion:
    if is_rollback:
        return Promotion.ROLLED_BACK
    return Promotion.IN_PROGRESS if is_baking else Promotion.PROMOTED


def _back(scene: Scene, rejection: Rejection | None = None, cause: Cause | None = None) -> Plan:
    """Everything goes to the stable revision; the canary's pods go once no request can reach them and status tells why.

    Were it gone before that, and its counts with it, an operator that starts then would try it again.
    """
    home, stable = scene.home, scene.stable
    assert home is not None
    assert stable is not None
    replicas = {home: scene.wanted.replicas}
    is_news = rejection is not None or stable != scene.memory.stable
    everything = replicas | (_others(scene, replicas) if is_news else _leaving(scene, replicas))
    return Plan(
        stable,
        None,
        everything,
        orders_for(everything, scene, {home: Orders(stable)}),
        Promotion.ROLLED_BACK,
        newly_rejected=rejection,
        cause=cause,
        wake_at=_soon(scene) if len(everything) > 1 else None,
        weights=_weights(scene, {home: 100}, everything),
    )


# --- judgement ---


def _failure(scene: Scene) -> Cause | None:
    """What takes the canary back now, whatever step it is in."""
    here, memory, wanted = scene.here, scene.memory, scene.wanted
    gates, verdict = scene.scales.gates, scene.scales.verdict
    if scene.scales.abort is not None:
        return scene.scales.abort
    if here.revision == wanted.revision and here.is_refused:
        return Cause("", "")  # the agent's own words are the reason
    if gates.state is GateState.FAILED:
        return Cause(gates.reason, gates.message)
    if memory.canary != wanted.revision or memory.step_index == 0:
        return None
    if crash := _crash(here, memory):
        return Cause("CanaryCrashed", crash.message)
    if wanted.is_judged and verdict is not None and verdict.outcome is Outcome.FAIL:
        return Cause(verdict.reason, verdict.message)
    return None


def _crash(here: CarrierPods, memory: Memory) -> Crash | None:
    """The canary's last crash, since it got its first requests. Nodes tell it to the second."""
    since = memory.weighted_since
    is_new = here.crash is not None and since is not None and here.crash.at >= since.replace(microsecond=0)
    return here.crash if is_new else None


def _bake_failure(scene: Scene, previous: str) -> Cause | None:
    """What takes a promoted revision back while the one before it is warm."""
    here, memory, verdict = scene.carriers.get(scene.home or "", ABSENT), scene.memory, scene.scales.verdict
    if scene.carriers[previous].ready == 0 or scene.wanted.is_rollback:
        return None
    if scene.scales.abort is not None:
        return scene.scales.abort
    if here.ready == 0 and memory.canary_ready > 0 and scene.wanted.replicas > 0:
        return Cause("NoReadyPods", "in bake, none of its pods was ready any more")
    if crash := _crash(here, memory):
        return Cause("CanaryCrashed", f"in bake, {crash.message}")
    if scene.wanted.is_judged and verdict is not None and verdict.outcome is Outcome.FAIL:
        return Cause(verdict.reason, f"in bake, {verdict.message}")
    return None


def _late(scene: Scene, waits_for: str, *, is_inconclusive: bool) -> Cause:
    """What an expired deadline means."""
    verdict = scene.scales.verdict
    if is_inconclusive:
        said = verdict.message if verdict is not None else "no evidence came"
        return Cause("Inconclusive", f"{said}; spec.rollout.analysis.onInconclusive is RollBack")
    trouble = f"waited {scene.wanted.deadline_seconds} s for {waits_for}" if waits_for else ""
    is_preparing = scene.memory.step_index == 0 and scene.here.ready == 0
    return Cause("" if is_preparing else NO_PROGRESS, "" if is_preparing else trouble)


def _turn(scene: Scene, *moments: datetime | None) -> datetime | None:
    """The first of the moments that is yet to come."""
    return min((moment for moment in moments if moment is not None and moment > scene.now), default=None)


def _waits_to_begin(scene: Scene, step: Step) -> str:
    """What is missing before the first step; empty when nothing is."""
    wanted, here, scales = scene.wanted, scene.here, scene.scales
    pods = max(1, step.pods)
    if wanted.carrier not in scene.carriers or here.revision != wanted.revision or here.ready < pods:
        return f"{pods} ready canary pods, {here.ready} are"
    if scales.gates.state is not GateState.PASSED:
        return f"the gates: {scales.gates.message}"
    return "" if _is_reachable(scene, pods) else "those who split the requests to know the canary"


def _waits_to_leave(scene: Scene, step: Step, hold_ends: datetime | None, *, is_paused: bool, is_hurried: bool) -> str:
    """What is missing before the next step; empty when nothing is."""
    verdict = scene.scales.verdict
    if is_paused or (hold_ends is None and not is_hurried):
        return "a person to resume"
    if hold_ends is not None and scene.now < hold_ends:
        return f"its hold to end at {hold_ends:%H:%M:%S} UTC"
    if _lacks_evidence(scene, step, is_hurried=is_hurried):
        return "evidence" if verdict is None else f"evidence: {verdict.message}"
    return ""


def _lacks_evidence(scene: Scene, step: Step, *, is_hurried: bool) -> bool:
    """Whether the step is judged and the verdict isn't Pass. At 100 percent there is nothing to compare with."""
    verdict = scene.scales.verdict
    is_judged = scene.wanted.is_judged and not step.is_pause and 0 < step.weight_percent < 100 and not is_hurried
    return is_judged and (verdict is None or verdict.outcome is not Outcome.PASS)


def _hold_end(step: Step, since: datetime, *, is_hurried: bool) -> datetime | None:
    """None: there is none."""
    if is_hurried:
        return since
    return None if step.hold_seconds is None else since + timedelta(seconds=step.hold_seconds)


# --- weights and pods ---


def _weight_now(scene: Scene, step: Step, asked: int, index: int) -> tuple[int, str]:
    """The weight to ask for in this step, and why it isn't the step's own.

    A weight waits for the pods that it takes, and what was `asked` last stays until then. Once asked it stays while
    some pods are ready, whether routers answer or not: a pod that is lost is replaced. With none ready, requests go to
    stable.
    """
    here = scene.here
    if index == 0:
        return 0, ""
    if here.ready == 0:
        return 0, "a ready canary pod, none is"
    if asked >= step.weight_percent or (here.ready >= step.pods and _is_reachable(scene, step.pods)):
        return step.weight_percent, ""
    return asked, f"{step.pods} ready canary pods that requests can reach, {here.ready} are ready"


def _is_reachable(scene: Scene, pods: int) -> bool:
    """Whether those who split the requests know so many pods of the canary."""
    in_force = scene.scales.in_force
    return in_force is not None and in_force.endpoints.get(scene.wanted.carrier, 0) >= pods


def _is_in_force(scene: Scene, weight: int) -> bool:
    in_force = scene.scales.in_force
    if in_force is None:
        return False
    actual = in_force.weights.get(scene.wanted.carrier, 0)
    if scene.wanted.is_exact or weight in (0, 100):
        return actual == weight
    return 0 < actual < 100


def _weights(scene: Scene, decided: Mapping[str, int], carriers: Mapping[str, int]) -> dict[str, int]:
    return {carrier: decided.get(carrier, 0) for carrier in {**decided, **carriers}}


def _stable_pods(scene: Scene, canary_pods: int) -> int:
    """With Swap, a stable pod makes room for each canary pod that is about to come."""
    replicas = scene.wanted.replicas
    if not scene.wanted.is_swap:
        return replicas
    return max(1, replicas - min(canary_pods, scene.here.ready + 1))


def _leaving(scene: Scene, staying: Mapping[str, int]) -> dict[str, int]:
    """The other carriers, as long as requests can reach their pods: until all who split know that they get none.

    A router that ends splits as it was told last, for the clients that it still has. A carrier that routers aren't told
    of any more had none in force before: it doesn't come back.
    """
    in_force, told = scene.scales.in_force, scene.scales.told
    is_known = in_force is not None and in_force.is_latest
    return {
        name: other.wanted
        for name, other in scene.carriers.items()
        if name not in staying
        and other.wanted
        and (told is None or name in told)
        and not (is_known and in_force and not in_force.weights.get(name, 0) and name not in in_force.lingering)
    }


def _is_asked_of_others(scene: Scene, carrier: str) -> bool:
    """Whether some requests go to another carrier yet: what is promoted has them all."""
    in_force = scene.scales.in_force
    return in_force is not None and any(weight for name, weight in in_force.weights.items() if name != carrier)


def _while_leaving(scene: Scene, staying: Mapping[str, int]) -> datetime | None:
    return _soon(scene) if _leaving(scene, staying) else None


def _room(scene: Scene, here: CarrierPods, others: Mapping[str, int]) -> int:
    """Pods of what is stable: with Swap, no more than it has, or one, until the others are gone and have made room."""
    replicas = scene.wanted.replicas
    if not scene.wanted.is_swap:
        return replicas
    return max(replicas - sum(others.values()), min(max(1, here.wanted), replicas))


def _previous_home(scene: Scene) -> str | None:
    """The carrier of the revision that is kept warm; None when none is, or it is time to let it go."""
    memory = scene.memory
    if memory.previous is None or memory.bake_until is None or scene.now >= memory.bake_until:
        return None
    home = carrier_of(memory.previous, scene.carriers)
    return home if home != scene.home else None


def _soon(scene: Scene) -> datetime:
    return scene.now + timedelta(seconds=LOOK_SECONDS)
