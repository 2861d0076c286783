"""Gathers what a step is decided on: gates, what was counted, how requests are split now.

The accumulators of the analysis are read from status, fed with this look's counts and given back to be kept there, so
that an operator that is restarted at every look reaches the same verdict.
Pure.
"""

from __future__ import annotations

from datetime import datetime

from slipway.api.status import ModelDeploymentStatus
from slipway.decide.analysis import verdict as analysis
from slipway.decide.gates import judge_gates
from slipway.decide.inputs import Inputs
from slipway.decide.service_target import in_force_now
from slipway.decide.steps import wants_router
from slipway.model.revision import Json
from slipway.model.signals import OPEN, GateVerdict, Reading, Signals, Verdict
from slipway.model.workload import workload_of
from slipway.observe.snapshot import Snapshot

REVISION, STEP, COUNTED = "revision", "step", "counted"


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
    )


def is_judged_now(inputs: Inputs, stored: ModelDeploymentStatus) -> bool:
    """Whether counts are wanted: a canary has requests, or bakes."""
    settings, state = inputs.deployment.spec.rollout.analysis, inputs.state
    if settings is None or settings.mode == "Off" or stored.pinned is not None:
        return False
    return state.previous is not None or (state.canary is not None and state.step_index > 0)


def _judge(
    inputs: Inputs, snapshot: Snapshot, stored: ModelDeploymentStatus, reading: Reading, now: datetime
) -> tuple[Verdict | None, Json | None]:
    settings, state = inputs.deployment.spec.rollout.analysis, inputs.state
    assert settings is not None
    bakes = state.previous is not None
    old, new = (state.previous, state.stable) if bakes else (state.stable, state.canary)
    stable, canary = (workload_of(revision or "", snapshot.workloads) for revision in (old, new))
    if stable is None or canary is None:
        return None, stored.evidence
    kept = stored.evidence or {}
    counted = analysis.read(kept.get(COUNTED)) if kept.get(REVISION) == new else None
    counted = analysis.begin(reading, stable, canary, now) if counted is None else analysis.look(counted, reading, now)
    step = -1 if bakes else state.step_index
    if kept.get(STEP) != step:
        counted = analysis.enter_step(counted, max(1, snapshot.workloads[canary].ready))
    weight = stored.canary.weight_percent if stored.canary is not None else None
    verdict = analysis.judge(counted, settings, is_split=not bakes and weight not in (None, 0, 100))
    return verdict, {REVISION: new, STEP: step, COUNTED: analysis.write(counted)}


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
