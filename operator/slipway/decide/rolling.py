"""How a new revision takes over: `step(target, state, workloads, now) → Plan`.

A workload is a Deployment; it carries one revision at a time. Two ways are known:

RollingUpdate: new pods beside old ones, an old pod goes when a new one is ready. The new revision has a workload of its
own.

    N = 2, surge = 1                     old wanted   new wanted
    old ready 2, new ready 0             2            1
    old ready 2, new ready 1             1            1    (an old pod still ends: 2 + 1 exist)
    old ready 1, new ready 1             1            2
    old ready 1, new ready 2             0            2    → new is stable
    or a new pod can't load it           2            0    → RolledBack

InPlace: the new revision takes over the stable one's workload. Its pods load the new version beside the old one; when
all of them serve it, it is stable, and the old version stays loaded through bake. Back is the same, the other way.

    N = 2                                workload a carries       replaces
    stable one, spec says two            two                     one     (pods load version 2 beside 1)
    1 of 2 pods serve version 2          two                     one
    2 of 2 pods serve version 2          two → stable            one     until bake is over, then nothing
    or a pod can't load version 2        one → RolledBack        nothing

Laws (each has a property test): ready pods never fall below what was ready and wanted; a step repeated on the world it
asked for changes nothing; a rejected revision gets no pod while something else can serve.
Canary (`canary.py`) is the third way, where the spec has steps.
Pure: time comes in as `now`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from slipway.decide.canary import step_canary
from slipway.decide.step_input import StepInput, orders_for, progress_of
from slipway.model.revision import Orders
from slipway.model.rollout import Plan, Promotion, Rejection, RolloutState, Target
from slipway.model.signals import NO_EVIDENCE, Signals
from slipway.model.workload import ABSENT, Workload, enough, serving_pods, workload_of

SURGE_SHARE = 0.25


def step(
    target: Target,
    state: RolloutState,
    workloads: Mapping[str, Workload],
    now: datetime,
    signals: Signals = NO_EVIDENCE,
) -> Plan:
    """The next plan. `workloads` holds every Deployment that is there."""
    stable = state.stable or _serving_without_memory(target.revision, workloads)
    home = workload_of(stable, workloads) if stable else None
    if home is None and stable is not None:  # its Deployment was deleted, and is made anew
        home = target.workload if stable == target.revision else stable if stable not in workloads else None
    given = StepInput(target, state, workloads, now, stable, home, signals)
    if target.steps and (home != target.workload or stable == target.revision):
        return step_canary(given)
    if stable is None:
        return _first(given)
    if stable == target.revision:
        return _keep(given)
    plan = _in_place(given) if home == target.workload else _rolling(given)
    if target.steps:  # it was on its way in place when the steps came
        return replace(plan, weights={workload: 100 if workload == home else 0 for workload in plan.replicas})
    return plan


def _first(given: StepInput) -> Plan:
    """The first revision, or one after others that never served: nothing to protect, nothing to go back to."""
    target, here = given.target, given.here
    has_arrived = here.revision == target.revision and target.workload in given.workloads
    if has_arrived and serving_pods(here) >= enough(target.replicas):
        return _promote(given, bakes=False)
    since, most = progress_of(given)
    orders = {target.workload: Orders(target.revision, _former(given))}
    replicas = {target.workload: target.replicas}
    return Plan(None, target.revision, replicas, orders, Promotion.IN_PROGRESS, since, most)


def _keep(given: StepInput) -> Plan:
    """The spec's revision is stable."""
    target, here = given.target, given.here
    until = given.state.bake_until
    bakes = here.replaces not in (None, target.revision) and until is not None and given.now < until
    replicas = _shift(target.workload, target.replicas, given.workloads)
    orders = orders_for(replicas, given, {target.workload: Orders(target.revision, here.replaces if bakes else None)})
    ends = until if bakes else None
    promotion = Promotion.ROLLED_BACK if target.is_rollback else Promotion.PROMOTED
    return Plan(target.revision, None, replicas, orders, promotion, bake_until=ends, wake_at=ends, turns_at=ends)


def _promote(given: StepInput, *, bakes: bool) -> Plan:
    """The spec's revision becomes stable now."""
    target = given.target
    bakes = bakes and target.bake_seconds > 0
    until = given.now + timedelta(seconds=target.bake_seconds) if bakes else None
    replicas = _shift(target.workload, target.replicas, given.workloads)
    own = Orders(target.revision, given.here.replaces if bakes else None)
    orders = orders_for(replicas, given, {target.workload: own})
    promotion = Promotion.ROLLED_BACK if target.is_rollback else Promotion.PROMOTED
    return Plan(target.revision, None, replicas, orders, promotion, bake_until=until, wake_at=until, turns_at=until)


def _in_place(given: StepInput) -> Plan:
    """The stable revision's pods take the new one up."""
    target, here, stable = given.target, given.here, given.stable
    assert stable is not None
    rejection = Rejection(target.revision, target.content)
    if rejection in given.state.rejected:
        return _go_back(given)
    is_told = here.revision == target.revision
    if target.replicas == 0 or (is_told and here.switched >= max(here.ready, enough(target.replicas))):
        return _promote(given, bakes=True)
    since, most = progress_of(given)
    deadline = since + timedelta(seconds=target.deadline_seconds)
    if is_told and given.signals.abort is not None:
        return _go_back(given, rejection)
    if is_told and (here.is_refused or (given.now >= deadline and not here.is_fetching)):
        return _go_back(given, rejection)
    replicas = _shift(target.workload, target.replicas, given.workloads)
    orders = orders_for(replicas, given, {target.workload: Orders(target.revision, stable)})
    return _until(deadline, given, Plan(stable, target.revision, replicas, orders, Promotion.IN_PROGRESS, since, most))


def _rolling(given: StepInput) -> Plan:
    """Pods of the new revision's own take over, one by one."""
    target, here, stable = given.target, given.here, given.stable
    assert stable is not None
    rejection = Rejection(target.revision, target.content)
    if rejection in given.state.rejected:
        return _go_back(given)
    is_there = target.workload in given.workloads and here.revision == target.revision
    if is_there and here.replicas >= target.replicas and serving_pods(here) >= target.replicas:
        return _promote(given, bakes=False)
    since, most = progress_of(given)
    deadline = since + timedelta(seconds=target.deadline_seconds)
    if given.signals.abort is not None:
        return _go_back(given, rejection)
    if (is_there and here.is_refused) or (given.now >= deadline and not here.is_fetching):
        return _go_back(given, rejection)
    replicas = _shift(target.workload, target.replicas, given.workloads, given.home or stable)
    orders = orders_for(replicas, given, {target.workload: Orders(target.revision, _former(given))})
    return _until(deadline, given, Plan(stable, target.revision, replicas, orders, Promotion.IN_PROGRESS, since, most))


def _until(deadline: datetime, given: StepInput, plan: Plan) -> Plan:
    return replace(plan, wake_at=max(deadline, given.now + timedelta(seconds=1)), turns_at=deadline)


def _former(given: StepInput) -> str | None:
    """What the target's ready pods served before they got these orders; while it is set, readiness says nothing."""
    here = given.here
    if here.revision == given.target.revision:
        return here.replaces
    return here.revision if here.ready else None


def _serving_without_memory(new: str, workloads: Mapping[str, Workload]) -> str | None:
    """The revision that serves although status was lost (a restore from a backup): the one with most ready pods.

    One that another was replacing in place counts even without: its pods would come back with it.
    """
    serving = {
        here.replaces or here.revision: here.ready
        for here in workloads.values()
        if (here.ready > 0 or here.replaces) and (here.replaces or here.revision) != new
    }
    return max(serving, key=lambda revision: (serving[revision], revision)) if serving else None


def _go_back(given: StepInput, rejection: Rejection | None = None) -> Plan:
    """The stable revision gets everything back."""
    assert given.stable is not None
    home = given.home or given.stable
    replicas = _shift(home, given.target.replicas, given.workloads)
    orders = orders_for(replicas, given, {home: Orders(given.stable)})
    cause = given.signals.abort if rejection is not None else None
    return Plan(given.stable, None, replicas, orders, Promotion.ROLLED_BACK, newly_rejected=rejection, cause=cause)


def _shift(
    target: str, replicas: int, workloads: Mapping[str, Workload], fallback: str | None = None
) -> dict[str, int]:
    """Pods for each workload so that `target` ends with all of them and no ready pod is given up too early.

    `fallback` (the stable revision's while another takes over) is given what `target` does not serve yet, even if that
    means more than it has; every other workload only loses pods.
    """
    others = {name: here for name, here in workloads.items() if name != target}
    here = workloads.get(target, ABSENT)
    if fallback is not None and others.get(fallback, ABSENT).ready == 0:
        # Stable serves nothing: no reason to go slowly, and if it holds what the new pods need, it gives way.
        plan = {target: replicas, fallback: 0 if here.is_blocked or here.ready > 0 else replicas}
    else:
        plan = {target: replicas}
        if fallback is not None:
            back = max(0, replicas - here.ready)
            surge = max(1, math.ceil(replicas * SURGE_SHARE))
            taken = max(back, sum(other.existing for other in others.values()))
            # Pods that exist stay: one that loses its readiness for a moment must not cost another one its start.
            plan = {target: min(replicas, max(0, here.existing, replicas + surge - taken)), fallback: back}
    ready = here.ready + (others[fallback].ready if fallback in others else 0)
    for name, other in others.items():
        if name == fallback:
            continue
        kept = min(other.replicas, max(0, replicas - ready))
        if kept or other.existing or other.replicas:
            plan[name] = kept
        if kept:
            plan[target] = max(1, plan[target])  # it can't go before this one serves: waiting would be for ever
    return plan
