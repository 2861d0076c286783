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
from slipway.observe.router_reports import RouterReport
from slipway.observe.snapshot import Observed
from slipway.render.desired import Rendered


def _reaches_all(heard: RouterReport, observed: Observed) -> bool:
    """Whether a router knows all ready pods that it is to send requests to."""
    return all(
        heard.endpoints.get(carrier, 0) >= here.ready
        for carrier, here in observed.carriers.items()
        if heard.weights.get(carrier, 0)
    )


def settled_now(
    asked: ModelDeployment, observed: Observed, stored: ModelDeploymentStatus, found: Mapping[int, str | None]
) -> str | None:
    """The settled hash while it is the stored one, so that nobody needs to be asked; None when agents must be."""
    settled = _settled_hash(observed)
    if settled is None or settled != stored.settled or stored.canary is not None or stored.previous is not None:
        return None
    return None if needs_agents_listing(asked) and not known_versions(asked, observed, stored, found) else settled


def _settled_hash(observed: Observed) -> str | None:
    """Names the pods and what their agents were configured with; None while a pod is not ready."""
    pods = [pod for pod in observed.pods if not pod.is_ending]
    if not pods or not all(pod.is_ready for pod in pods):
        return None
    routers = [pod for pod in observed.routers if not pod.is_ending]
    if not all(pod.is_ready for pod in routers):
        return None
    generations = {carrier: orders.generation for carrier, orders in observed.ordered.items()}
    names = sorted([pod.uid, generations.get(pod.carrier, "")] for pod in pods)
    return hash_of([*names, *sorted([pod.uid, observed.routed or ""] for pod in routers)] if routers else names)


def is_told_anew(rendered: Rendered, observed: Observed) -> bool:
    """Whether agents' orders are others than those that they were given before."""
    return any(
        carrier not in observed.ordered or observed.ordered[carrier].generation != generation
        for carrier, generation in rendered.configured.items()
    )


def agreement(rendered: Rendered, plan: Plan, observed: Observed, settled: str | None, known: str | None) -> str | None:
    """The settled hash if all have what is rendered now and nothing is on its way, else None.

    settled: that hash, where it is known already that all agree with what they were told before.
    known: the hash at which all agreed before, whatever is so now.
    """
    # While a carrier leaves, routers are asked at every look: its pods go once none of them sends it requests.
    is_leaving = plan.weights is not None and {plan.canary, plan.previous} == {None} and len(plan.replicas) > 1
    if is_told_anew(rendered, observed) or is_leaving or observed.routed != rendered.routed:
        return None
    return settled or _agreed_hash(rendered, observed, known)


def _agreed_hash(rendered: Rendered, observed: Observed, known: str | None) -> str | None:
    """The settled hash if every agent has its configuration and all its versions are available, else None.

    known: the hash at which all agreed before. One that doesn't answer for a moment agrees with it still.
    """
    are_all_heard = True
    for pod in observed.pods:
        if pod.is_ending:
            continue
        wanted = rendered.configured.get(pod.carrier)
        report = pod.report
        if report is None:
            are_all_heard = False
            continue
        if report.generation != wanted or report.trouble is not None or report.labels:
            return None
        loaded = {version.version for version in report.versions if version.state in ("Available", "Unloading")}
        if loaded != set(rendered.load[pod.carrier]) or any(v.state == "Unloading" for v in report.versions):
            return None
    for router_pod in observed.routers:
        heard = observed.router_reports.get(router_pod.uid)
        if router_pod.is_ending:
            continue
        if heard is None:
            are_all_heard = False
            continue
        if heard.generation != rendered.routed or not _reaches_all(heard, observed):
            return None
    ordered = {
        carrier: replace(observed.ordered[carrier], generation=generation)
        for carrier, generation in rendered.configured.items()
        if carrier in observed.ordered
    }
    agreed = _settled_hash(replace(observed, ordered={**observed.ordered, **ordered}, routed=rendered.routed))
    return agreed if are_all_heard or agreed == known else None
