"""Gathers what a step is decided on: gates, what was counted, how requests are split now.

The accumulators of the analysis are read from status, fed with this look's counts and given back to be kept there, so
that an operator that is restarted at every look reaches the same verdict. What speaks against a revision is kept for as
long as it is on its way: through every step, back to an earlier one, to other steps, to no weight at all and into its
bake. What a step needs to pass counts anew whenever another step is entered, or the same number of other steps.
Pure.
"""

from __future__ import annotations

from datetime import datetime

from slipway.api.status import ModelDeploymentStatus
from slipway.decide.analysis import verdict as analysis
from slipway.decide.gates import judge_gates
from slipway.decide.inputs import Inputs
from slipway.decide.service_target import in_force_now
from slipway.decide.steps import steps_name, wants_router
from slipway.model.revision import Json
from slipway.model.signals import OPEN, GateVerdict, Reading, Signals, Verdict
from slipway.model.workload import Trouble, workload_of
from slipway.observe.snapshot import Snapshot

REVISION, STEP, STEPS, COUNTED = "revision", "step", "steps", "counted"
OF_THE_CLUSTER = ("SecretRefused", "QuotaExceeded")
"""Why an object isn't made although nothing is wrong with it."""
BAKE = -1
"""The step that a bake is to the analysis."""


def gather_signals(
    inputs: Inputs, snapshot: Snapshot, stored: ModelDeploymentStatus, reading: Reading | None, now: datetime
) -> Signals:
    """The signals for this pass. reading: what was counted; None where nothing counts."""
    target, routers = snapshot.service_target, snapshot.routers
    verdict, accumulators = None, None
    if reading is not None and is_judged_now(inputs, stored):
        verdict, accumulators = _judge(inputs, snapshot, stored, reading, now)
    return Signals(
        gates=_gates(inputs, snapshot),
        verdict=verdict,
        in_force=in_force_now(
            target, routers.in_force, snapshot.workloads, wants_router=wants_router(inputs.deployment)
        ),
        abort=inputs.outcome.abort,
        sent_weights=routers.sent_weights if target is not None and target.is_router and routers.sent_weights else None,
        accumulators=accumulators,
        unmade=_unmade(stored),
        router_trouble=None if any(pod.is_ready and not pod.is_ending for pod in routers.pods) else routers.trouble,
    )


def _unmade(stored: ModelDeploymentStatus) -> Trouble | None:
    """What the pass before said that keeps a workload from being made, where the cluster has to give way."""
    said = stored.condition("Promoted")
    return Trouble(said.reason, said.message) if said is not None and said.reason in OF_THE_CLUSTER else None


def is_judged_now(inputs: Inputs, stored: ModelDeploymentStatus) -> bool:
    """Whether counts are wanted: a canary has requests, or had some before it lost its weight; or one bakes."""
    state = inputs.state
    if inputs.judging.settings is None or stored.pinned is not None:
        return False
    if state.previous is not None:
        return True
    has_had_requests = state.step_index > 0 or (stored.evidence or {}).get(REVISION) == state.canary
    return state.canary is not None and has_had_requests


def _judge(
    inputs: Inputs, snapshot: Snapshot, stored: ModelDeploymentStatus, reading: Reading, now: datetime
) -> tuple[Verdict | None, Json | None]:
    settings, state = inputs.judging.settings, inputs.state
    assert settings is not None
    bakes = state.previous is not None
    old, new = (state.previous, state.stable) if bakes else (state.stable, state.canary)
    stable, canary = (workload_of(revision or "", snapshot.workloads) for revision in (old, new))
    if stable is None or canary is None:
        return None, stored.evidence
    kept = stored.evidence or {}
    counted = analysis.read(kept.get(COUNTED)) if kept.get(REVISION) == new else None
    weight = stored.canary.weight_percent if stored.canary is not None else None
    is_divert = not bakes and weight == 100 and _weight_of_step(inputs) < 100
    if counted is None:
        counted = analysis.begin(reading, stable, canary, now)
    elif is_divert:
        counted = analysis.skip(counted, reading, now)
    else:
        counted = analysis.look(counted, reading, now)
    step, steps = BAKE if bakes else state.step_index, steps_name(inputs.deployment)
    if kept.get(STEP) != step or (not bakes and kept.get(STEPS, steps) != steps):
        pods = (max(1, snapshot.workloads[each].ready) for each in (canary, stable))
        counted = analysis.enter_step(counted, *pods)
    is_split = not bakes and (is_divert or weight not in (None, 0, 100))
    verdict = analysis.judge(counted, settings, is_split=is_split)
    return verdict, {REVISION: new, STEP: step, STEPS: steps, COUNTED: analysis.write(counted)}


def _weight_of_step(inputs: Inputs) -> int:
    """Of the step that the canary is in; 100 where it is in none. With more in force, it stands in for stable."""
    index = inputs.state.step_index
    return inputs.steps[index - 1].weight_percent if 0 < index <= len(inputs.steps) else 100


def _gates(inputs: Inputs, snapshot: Snapshot) -> GateVerdict:
    state, desired = inputs.state, inputs.placement.revision
    if state.stable is None or state.stable == desired.hash or inputs.target.is_rollback:
        return OPEN  # a person who goes back knows what clients get; what came since then is what they want rid of
    stable = snapshot.revisions.get(state.stable)
    home = workload_of(state.stable, snapshot.workloads)
    pods = [pod for pod in snapshot.pods if not pod.is_ending]
    return judge_gates(
        inputs.deployment.spec,
        stable.version if stable is not None else None,
        [pod for pod in pods if pod.workload == home],
        desired.version,
        [pod for pod in pods if pod.workload == inputs.placement.workload],
        is_held=not inputs.target.steps,
    )
