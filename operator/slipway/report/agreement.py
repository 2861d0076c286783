"""Whether agents and routers have what they were given: then nobody needs to be asked until something changes.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from slipway.api import ModelDeployment
from slipway.api.status import ModelDeploymentStatus
from slipway.decide.discovery import known_versions, needs_agents_listing
from slipway.model.revision import hash_of
from slipway.model.rollout import Plan
from slipway.observe.agent_reports import AGENT_FLOOR
from slipway.observe.router_reports import RouterReport
from slipway.observe.snapshot import Snapshot
from slipway.render.desired import Rendered


def _reaches_all(heard: RouterReport, snapshot: Snapshot) -> bool:
    """Whether a router knows all ready pods that it is to send requests to."""
    return all(
        heard.endpoints.get(workload, 0) >= here.ready
        for workload, here in snapshot.workloads.items()
        if heard.weights.get(workload, 0)
    )


def settled_now(
    asked: ModelDeployment, snapshot: Snapshot, stored: ModelDeploymentStatus, found: Mapping[int, str | None]
) -> str | None:
    """The settled hash while it is the stored one, so that nobody needs to be asked; None when agents must be."""
    settled = _settled_hash(snapshot)
    if settled is None or settled != stored.settled or stored.canary is not None or stored.previous is not None:
        return None
    if stored.agents is None or stored.agents.floor != AGENT_FLOOR:
        return None  # another operator wrote that, which didn't ask how old they are, or vouched for others
    return None if needs_agents_listing(asked) and not known_versions(asked, snapshot, stored, found) else settled


def _settled_hash(snapshot: Snapshot) -> str | None:
    """Names the pods and what their agents were configured with; None while a pod is not ready."""
    pods = [pod for pod in snapshot.pods if not pod.is_ending]
    if not pods or not all(pod.is_ready for pod in pods):
        return None
    routers = [pod for pod in snapshot.routers.pods if not pod.is_ending]
    if not all(pod.is_ready for pod in routers):
        return None
    generations = {workload: orders.generation for workload, orders in snapshot.agent_orders.items()}
    names = sorted([pod.uid, generations.get(pod.workload, "")] for pod in pods)
    return hash_of(
        [*names, *sorted([pod.uid, snapshot.routers.generation or ""] for pod in routers)] if routers else names
    )


def is_told_anew(rendered: Rendered, snapshot: Snapshot) -> bool:
    """Whether agents' orders are others than those that they were given before."""
    return any(
        workload not in snapshot.agent_orders or snapshot.agent_orders[workload].generation != generation
        for workload, generation in rendered.configured.items()
    )


def agreement(rendered: Rendered, plan: Plan, snapshot: Snapshot, settled: str | None, known: str | None) -> str | None:
    """The settled hash if all have what is rendered now and nothing is on its way, else None.

    settled: that hash, where it is known already that all agree with what they were told before.
    known: the hash at which all agreed before, whatever is so now.
    """
    # While a workload leaves, routers are asked at every look: its pods go once none of them sends it requests.
    is_leaving = (
        plan.weights is not None and {plan.state.canary, plan.state.previous} == {None} and len(plan.replicas) > 1
    )
    if is_told_anew(rendered, snapshot) or is_leaving or snapshot.routers.generation != rendered.router_generation:
        return None
    return settled or _agreed_hash(rendered, snapshot, known)


def _agreed_hash(rendered: Rendered, snapshot: Snapshot, known: str | None) -> str | None:
    """The settled hash if every agent has its configuration and all its versions are available, else None.

    known: the hash at which all agreed before. One that doesn't answer for a moment agrees with it still.
    """
    are_all_heard = True
    for pod in snapshot.pods:
        if pod.is_ending:
            continue
        wanted = rendered.configured.get(pod.workload)
        report = pod.report
        if report is None:
            are_all_heard = False
            continue
        if report.generation != wanted or report.trouble is not None or report.labels:
            return None
        if report.probe is not None and report.probe.error:
            return None
        if rendered.trusted and any(version.signed_by not in rendered.trusted for version in report.versions):
            return None  # it serves, and what its agent finds out about it is still to come, or to be told on and on
        loaded = {version.version for version in report.versions if version.state in ("Available", "Unloading")}
        if loaded != set(rendered.load[pod.workload]) or any(v.state == "Unloading" for v in report.versions):
            return None
    for router_pod in snapshot.routers.pods:
        heard = snapshot.routers.reports.get(router_pod.uid)
        if router_pod.is_ending:
            continue
        if heard is None:
            are_all_heard = False
            continue
        if heard.generation != rendered.router_generation or not _reaches_all(heard, snapshot):
            return None
    ordered = {
        workload: replace(snapshot.agent_orders[workload], generation=generation)
        for workload, generation in rendered.configured.items()
        if workload in snapshot.agent_orders
    }
    routers = replace(snapshot.routers, generation=rendered.router_generation)
    agreed = _settled_hash(replace(snapshot, agent_orders={**snapshot.agent_orders, **ordered}, routers=routers))
    return agreed if are_all_heard or agreed == known else None
