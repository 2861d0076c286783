"""How a new revision takes over: `step(wanted, memory, carriers, now) → Plan`.

A carrier is a Deployment; it carries one revision at a time. Two ways are known:

RollingUpdate: new pods beside old ones, an old pod goes when a new one is ready. The new revision has a carrier of its
own.

    N = 2, surge = 1                     old wanted   new wanted
    old ready 2, new ready 0             2            1
    old ready 2, new ready 1             1            1    (an old pod still ends: 2 + 1 exist)
    old ready 1, new ready 1             1            2
    old ready 1, new ready 2             0            2    → new is stable
    or a new pod can't load it           2            0    → RolledBack

InPlace: the new revision takes over the stable one's carrier. Its pods load the new version beside the old one; when
all of them serve it, it is stable, and the old version stays loaded through bake. Back is the same, the other way.

    N = 2                                carrier a carries       replaces
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
from slipway.decide.step_input import Scene, orders_for, progress_of
from slipway.model.revision import Orders
from slipway.model.rollout import Memory, Plan, Promotion, Rejection, Wanted
from slipway.model.signals import NO_EVIDENCE, Scales
from slipway.model.workload import ABSENT, CarrierPods, arrived, carrier_of, enough

SURGE_SHARE = 0.25


def step(
    wanted: Wanted,
    memory: Memory,
    carriers: Mapping[str, CarrierPods],
    now: datetime,
    scales: Scales = NO_EVIDENCE,
) -> Plan:
    """The next plan. `carriers` holds every Deployment that is there."""
    stable = memory.stable or _serving_without_memory(wanted.revision, carriers)
    home = carrier_of(stable, carriers) if stable else None
    if home is None and stable is not None:  # its Deployment was deleted, and is made anew
        home = wanted.carrier if stable == wanted.revision else stable if stable not in carriers else None
    scene = Scene(wanted, memory, carriers, now, stable, home, scales)
    if wanted.steps and (home != wanted.carrier or stable == wanted.revision):
        return step_canary(scene)
    if stable is None:
        return _first(scene)
    if stable == wanted.revision:
        return _keep(scene)
    plan = _in_place(scene) if home == wanted.carrier else _rolling(scene)
    if wanted.steps:  # it was on its way in place when the steps came
        return replace(plan, weights={carrier: 100 if carrier == home else 0 for carrier in plan.replicas})
    return plan


def _first(scene: Scene) -> Plan:
    """The first revision, or one after others that never served: nothing to protect, nothing to go back to."""
    wanted, here = scene.wanted, scene.here
    has_arrived = here.revision == wanted.revision and wanted.carrier in scene.carriers
    if has_arrived and arrived(here) >= enough(wanted.replicas):
        return _promote(scene, bakes=False)
    since, most = progress_of(scene)
    orders = {wanted.carrier: Orders(wanted.revision, _former(scene))}
    replicas = {wanted.carrier: wanted.replicas}
    return Plan(None, wanted.revision, replicas, orders, Promotion.IN_PROGRESS, since, most)


def _keep(scene: Scene) -> Plan:
    """The spec's revision is stable."""
    wanted, here = scene.wanted, scene.here
    until = scene.memory.bake_until
    bakes = here.replaces not in (None, wanted.revision) and until is not None and scene.now < until
    replicas = _shift(wanted.carrier, wanted.replicas, scene.carriers)
    orders = orders_for(replicas, scene, {wanted.carrier: Orders(wanted.revision, here.replaces if bakes else None)})
    ends = until if bakes else None
    promotion = Promotion.ROLLED_BACK if wanted.is_rollback else Promotion.PROMOTED
    return Plan(wanted.revision, None, replicas, orders, promotion, bake_until=ends, wake_at=ends, turns_at=ends)


def _promote(scene: Scene, *, bakes: bool) -> Plan:
    """The spec's revision becomes stable now."""
    wanted = scene.wanted
    bakes = bakes and wanted.bake_seconds > 0
    until = scene.now + timedelta(seconds=wanted.bake_seconds) if bakes else None
    replicas = _shift(wanted.carrier, wanted.replicas, scene.carriers)
    own = Orders(wanted.revision, scene.here.replaces if bakes else None)
    orders = orders_for(replicas, scene, {wanted.carrier: own})
    promotion = Promotion.ROLLED_BACK if wanted.is_rollback else Promotion.PROMOTED
    return Plan(wanted.revision, None, replicas, orders, promotion, bake_until=until, wake_at=until, turns_at=until)


def _in_place(scene: Scene) -> Plan:
    """The stable revision's pods take the new one up."""
    wanted, here, stable = scene.wanted, scene.here, scene.stable
    assert stable is not None
    rejection = Rejection(wanted.revision, wanted.content)
    if rejection in scene.memory.rejected:
        return _go_back(scene)
    is_told = here.revision == wanted.revision
    if wanted.replicas == 0 or (is_told and here.switched >= max(here.ready, enough(wanted.replicas))):
        return _promote(scene, bakes=True)
    since, most = progress_of(scene)
    deadline = since + timedelta(seconds=wanted.deadline_seconds)
    if is_told and scene.scales.abort is not None:
        return _go_back(scene, rejection)
    if is_told and (here.is_refused or (scene.now >= deadline and not here.is_fetching)):
        return _go_back(scene, rejection)
    replicas = _shift(wanted.carrier, wanted.replicas, scene.carriers)
    orders = orders_for(replicas, scene, {wanted.carrier: Orders(wanted.revision, stable)})
    return _until(deadline, scene, Plan(stable, wanted.revision, replicas, orders, Promotion.IN_PROGRESS, since, most))


def _rolling(scene: Scene) -> Plan:
    """Pods of the new revision's own take over, one by one."""
    wanted, here, stable = scene.wanted, scene.here, scene.stable
    assert stable is not None
    rejection = Rejection(wanted.revision, wanted.content)
    if rejection in scene.memory.rejected:
        return _go_back(scene)
    is_there = wanted.carrier in scene.carriers and here.revision == wanted.revision
    if is_there and here.wanted >= wanted.replicas and arrived(here) >= wanted.replicas:
        return _promote(scene, bakes=False)
    since, most = progress_of(scene)
    deadline = since + timedelta(seconds=wanted.deadline_seconds)
    if scene.scales.abort is not None:
        return _go_back(scene, rejection)
    if (is_there and here.is_refused) or (scene.now >= deadline and not here.is_fetching):
        return _go_back(scene, rejection)
    replicas = _shift(wanted.carrier, wanted.replicas, scene.carriers, scene.home or stable)
    orders = orders_for(replicas, scene, {wanted.carrier: Orders(wanted.revision, _former(scene))})
    return _until(deadline, scene, Plan(stable, wanted.revision, replicas, orders, Promotion.IN_PROGRESS, since, most))


def _until(deadline: datetime, scene: Scene, plan: Plan) -> Plan:
    return replace(plan, wake_at=max(deadline, scene.now + timedelta(seconds=1)), turns_at=deadline)


def _former(scene: Scene) -> str | None:
    """What the target's ready pods served before they got these orders; while it is set, readiness says nothing."""
    here = scene.here
    if here.revision == scene.wanted.revision:
        return here.replaces
    return here.revision if here.ready else None


def _serving_without_memory(new: str, carriers: Mapping[str, CarrierPods]) -> str | None:
    """The revision that serves although status was lost (a restore from a backup): the one with most ready pods.

    One that another was replacing in place counts even without: its pods would come back with it.
    """
    serving = {
        here.replaces or here.revision: here.ready
        for here in carriers.values()
        if (here.ready > 0 or here.replaces) and (here.replaces or here.revision) != new
    }
    return max(serving, key=lambda revision: (serving[revision], revision)) if serving else None


def _go_back(scene: Scene, rejection: Rejection | None = None) -> Plan:
    """The stable revision gets everything back."""
    assert scene.stable is not None
    home = scene.home or scene.stable
    replicas = _shift(home, scene.wanted.replicas, scene.carriers)
    orders = orders_for(replicas, scene, {home: Orders(scene.stable)})
    cause = scene.scales.abort if rejection is not None else None
    return Plan(scene.stable, None, replicas, orders, Promotion.ROLLED_BACK, newly_rejected=rejection, cause=cause)


def _shift(
    target: str, replicas: int, carriers: Mapping[str, CarrierPods], fallback: str | None = None
) -> dict[str, int]:
    """Pods for each carrier so that `target` ends with all of them and no ready pod is given up too early.

    `fallback` (the stable revision's while another takes over) is given what `target` does not serve yet, even if that
    means more than it has; every other carrier only loses pods.
    """
    others = {name: here for name, here in carriers.items() if name != target}
    here = carriers.get(target, ABSENT)
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
        kept = min(other.wanted, max(0, replicas - ready))
        if kept or other.existing or other.wanted:
            plan[name] = kept
        if kept:
            plan[target] = max(1, plan[target])  # it can't go before this one serves: waiting would be for ever
    return plan
