"""Puts on the scales what a step is decided on: gates, what was counted, how requests are split now.

The accumulators of the analysis are read from status, fed with this look's counts and given back to be kept there, so
that an operator that is restarted at every look reaches the same verdict.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from slipway.api.status import ModelDeploymentStatus
from slipway.decide.analysis import verdict as analysis
from slipway.decide.gates import judge_gates
from slipway.decide.inputs import Stock
from slipway.decide.service_target import in_force_now
from slipway.decide.steps import wants_router
from slipway.model.revision import Json
from slipway.model.signals import OPEN, GateVerdict, Reading, Scales, Verdict
from slipway.model.workload import carrier_of
from slipway.observe.snapshot import Observed

REVISION, STEP, COUNTED = "revision", "step", "counted"


@dataclass(frozen=True, slots=True)
class Weighed:
    """scales: for `rollout.step`. evidence: what to keep for the next look; None: nothing is judged now."""

    scales: Scales
    verdict: Verdict | None = None
    evidence: Json | None = None


def weigh(
    stock: Stock, observed: Observed, stored: ModelDeploymentStatus, reading: Reading | None, now: datetime
) -> Weighed:
    """The scales for this pass. reading: what was counted; None where nothing counts."""
    deployment = stock.deployment
    in_force = in_force_now(
        observed.entry, observed.by_router, observed.carriers, wants_router=wants_router(deployment)
    )
    verdict, evidence = None, None
    if reading is not None and is_judged_now(stock, stored):
        verdict, evidence = _judge(stock, observed, stored, reading, now)
    is_routed = observed.entry is not None and observed.entry.is_router and bool(observed.asked)
    told = observed.asked if is_routed else None
    return Weighed(Scales(_gates(stock, observed), verdict, in_force, stock.obeyed.abort, told), verdict, evidence)


def is_judged_now(stock: Stock, stored: ModelDeploymentStatus) -> bool:
    """Whether counts are wanted: a canary has requests, or bakes."""
    settings, memory = stock.deployment.spec.rollout.analysis, stock.memory
    if settings is None or settings.mode == "Off" or stored.pinned is not None:
        return False
    return memory.previous is not None or (memory.canary is not None and memory.step_index > 0)


def _judge(
    stock: Stock, observed: Observed, stored: ModelDeploymentStatus, reading: Reading, now: datetime
) -> tuple[Verdict | None, Json | None]:
    settings, memory = stock.deployment.spec.rollout.analysis, stock.memory
    assert settings is not None
    bakes = memory.previous is not None
    old, new = (memory.previous, memory.stable) if bakes else (memory.stable, memory.canary)
    stable, canary = (carrier_of(revision or "", observed.carriers) for revision in (old, new))
    if stable is None or canary is None:
        return None, stored.evidence
    kept = stored.evidence or {}
    counted = analysis.read(kept.get(COUNTED)) if kept.get(REVISION) == new else None
    counted = analysis.begin(reading, stable, canary, now) if counted is None else analysis.look(counted, reading, now)
    step = -1 if bakes else memory.step_index
    if kept.get(STEP) != step:
        counted = analysis.enter_step(counted, max(1, observed.carriers[canary].ready))
    weight = stored.canary.weight_percent if stored.canary is not None else None
    verdict = analysis.judge(counted, settings, is_split=not bakes and weight not in (None, 0, 100))
    return verdict, {REVISION: new, STEP: step, COUNTED: analysis.write(counted)}


def _gates(stock: Stock, observed: Observed) -> GateVerdict:
    memory, desired = stock.memory, stock.arrival.revision
    if memory.stable is None or memory.stable == desired.hash or stock.wanted.is_rollback:
        return OPEN  # a person who goes back knows what clients get; what came since then is what they want rid of
    stable = observed.revisions.get(memory.stable)
    home = carrier_of(memory.stable, observed.carriers)
    pods = [pod for pod in observed.pods if not pod.is_ending]
    return judge_gates(
        stock.deployment.spec,
        stable.version if stable is not None else None,
        [pod for pod in pods if pod.carrier == home],
        desired.version,
        [pod for pod in pods if pod.carrier == stock.arrival.carrier],
    )
