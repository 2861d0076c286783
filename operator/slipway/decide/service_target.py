"""What clients reach through Service `<name>`: the routers, one workload's ready pods, or all ready pods.

Invariant: the Service changes from one to the other only when the other takes the requests as they are wanted now, so
that adding, removing or changing the traffic provider loses none; and while no router is ready, clients reach the pods.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from slipway.decide.weights import PROVIDERS
from slipway.decide.weights.provider import Standing
from slipway.model.signals import InForce
from slipway.model.workload import Workload, enough
from slipway.observe.service import ALL_PODS, ROUTER, ServiceTarget


def in_force_now(
    live: ServiceTarget | None, by_router: InForce | None, workloads: Mapping[str, Workload], *, wants_router: bool
) -> InForce | None:
    """How requests are split now. Before the routers have them, nothing counts as reachable through them."""
    if live is None:
        return None
    ready = {name: here.ready for name, here in workloads.items()}
    found = PROVIDERS["Router" if live.is_router else "Replicas"].in_force(Standing(live.workload, ready, by_router))
    if found is None or live.is_router or not wants_router:
        return found
    return InForce(found.weights, {name: count for name, count in found.endpoints.items() if name == live.workload})


def choose_service_target(
    weights: Mapping[str, int] | None,
    replicas: Mapping[str, int],
    live: ServiceTarget | None,
    by_router: InForce | None,
    *,
    ready_routers: int,
    workloads: Mapping[str, Workload],
    wants_router: bool,
    alone: str | None = None,
) -> ServiceTarget:
    """What the Service should select now.

    weights, replicas: as planned, by workload; no weights: requests aren't split. by_router: as all ready routers say.
    alone: the stable revision's workload where others answer on other paths, so that its clients would get their 404s.
    """
    if weights is None:
        is_there = alone is not None and alone in workloads and workloads[alone].ready > 0
        return ServiceTarget(workload=alone) if is_there else ALL_PODS
    shares = {workload: weight for workload, weight in weights.items() if weight}
    first = max(weights, key=lambda workload: weights[workload])
    if wants_router:
        is_first = live in (None, ROUTER) and not any(here.ready for here in workloads.values())
        if is_first or (live == ROUTER and ready_routers > 0):
            return ROUTER  # of a new model, too: a connection to a pod would stay there, whatever is split later
        if by_router is not None and _takes_all(by_router, shares, workloads):
            return ROUTER
        return _pods_of(first, replicas[first], live, workloads)
    if len(shares) == 1:
        return _pods_of(first, replicas[first], live, workloads)
    is_reached = all(workloads[workload].ready > 0 for workload in shares if workload in workloads)
    return ALL_PODS if is_reached or live is None else live


def _takes_all(by_router: InForce, shares: Mapping[str, int], workloads: Mapping[str, Workload]) -> bool:
    """Whether the routers split as wanted, and reach the pods that are ready: a name's address comes late to them."""
    if {name: share for name, share in by_router.weights.items() if share} != shares:
        return False
    return all(
        by_router.endpoints.get(name, 0) >= max(1, workloads[name].ready) for name in shares if name in workloads
    )


def _pods_of(
    workload: str, replicas: int, live: ServiceTarget | None, workloads: Mapping[str, Workload]
) -> ServiceTarget:
    """That workload's pods alone, once they can take what all of them take now."""
    ready = sum(here.ready for here in workloads.values())
    own = workloads[workload].ready if workload in workloads else 0
    if live not in (None, ServiceTarget(workload=workload)) and own < min(enough(replicas), ready):
        assert live is not None
        return ALL_PODS if live == ROUTER else live
    return ServiceTarget(workload=workload)
