"""Splits by the ratio of ready pods: Service `<name>` selects the pods of both workloads, and no router is needed.

What it can do follows from that: beside N stable pods, c canary pods get about c/(N + c) of the connections, so weights
are coarse, never above 50 %, and right on average only (a client that keeps its connection stays on its pod). Stable
keeps all of its pods until bake is over; weight 100 is reached by the Service's selector alone.

    5 % beside 2 pods     1 canary pod, the least there is, makes 1/3   → 33 %
    25 % beside 4 pods    1 canary pod makes 1/5, 2 would make 2/6      → 20 %

Must not import: I/O. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.decide.weights.provider import Provider, Reached
from slipway.model.signals import InForce
from slipway.runtimes import RUNTIMES

MAX_REPLICAS = 1000
"""As in the CRD."""


def reach(weight_percent: int, replicas: int) -> Reached:
    """The canary pods beside `replicas` stable ones whose share comes nearest to the wanted weight; of two, the fewer.

    >>> reach(5, 2), reach(25, 3), reach(25, 4), reach(80, 4)
    (Reached(pods=1, weight_percent=33), Reached(pods=1, weight_percent=25), Reached(pods=1, weight_percent=20), \
Reached(pods=4, weight_percent=50))
    >>> reach(0, 4), reach(100, 4), reach(5, 0)
    (Reached(pods=0, weight_percent=0), Reached(pods=4, weight_percent=100), Reached(pods=0, weight_percent=0))
    """
    if not 0 <= weight_percent <= 100:
        raise ValueError(f"a weight is 0 to 100 percent, and {weight_percent} isn't")
    if weight_percent == 100:
        return Reached(replicas, 100)
    if weight_percent == 0 or replicas == 0:
        return Reached(0, 0)
    below = replicas * weight_percent // (100 - weight_percent)
    candidates = {min(replicas, max(1, pods)) for pods in (below, below + 1)}
    wanted = Fraction(weight_percent, 100)
    nearest = min(candidates, key=lambda pods: (abs(Fraction(pods, replicas + pods) - wanted), pods))
    return Reached(nearest, _rounded(nearest, replicas + nearest))


def explain(weights_percent: Iterable[int], replicas: int) -> str:
    """What becomes of the weights that pods can't make, and what to write instead; empty when they make them all.

    >>> explain([5, 50, 100], 2)
    '5 % beside 2 replicas becomes 33 %: 1 pod of 3. Write spec.replicas: 18, or spec.traffic.provider: Router, which \
splits exactly'
    >>> explain([75], 4)
    '75 % beside 4 replicas becomes 50 %: 4 pods of 8. Weights between 50 and 100 take spec.traffic.provider: Router, \
which splits exactly'
    >>> explain([25, 50, 100], 3)
    ''
    """
    weights = [weight for weight in dict.fromkeys(weights_percent) if 0 < weight < 100]
    missed = [weight for weight in weights if reach(weight, replicas).weight_percent != weight]
    if not missed or replicas == 0:
        return ""
    beside = f" beside {replicas} {'replica' if replicas == 1 else 'replicas'}"
    told = "; ".join(_becomes(weight, replicas, beside if weight == missed[0] else "") for weight in missed)
    enough = _enough_replicas(weights)
    if enough is None:
        return f"{told}. Weights between 50 and 100 take spec.traffic.provider: Router, which splits exactly"
    return f"{told}. Write spec.replicas: {enough}, or spec.traffic.provider: Router, which splits exactly"


def refusals(spec: ModelDeploymentSpec) -> tuple[str, ...]:
    """What the spec asks and only a router has, or no server of that kind counts."""
    traffic, analysis = spec.traffic, spec.rollout.analysis
    refused = []
    if traffic is not None and traffic.timeout_seconds is not None:
        refused.append(
            "spec.traffic.timeoutSeconds: provider Replicas has no one to keep the time; write provider: Router, or "
            "remove it"
        )
    if traffic is not None and traffic.router is not None:
        refused.append("spec.traffic.router: provider Replicas has no router; write provider: Router, or remove it")
    if analysis is None or analysis.mode == "Off":
        return tuple(refused)
    server = spec.runtime.name
    if why := uncounted(server):
        refused.append(
            f"spec.rollout.analysis: {why}; write spec.traffic.provider: Router, which counts for every server, or "
            "remove analysis"
        )
    elif analysis.max_latency_milliseconds is not None and not _times_each(server):
        refused.append(
            f"spec.rollout.analysis.maxLatencyMilliseconds: provider Replicas judges by what the servers count, and "
            f"{server} has sums of latencies, not how many were longer; write spec.traffic.provider: Router, or "
            "remove it"
        )
    return tuple(refused)


def uncounted(server: str) -> str:
    """Why such a server's pods don't say how many requests they failed, in a clause; empty where they do.

    >>> uncounted("Custom"), uncounted("Triton")
    ('provider Replicas judges by what the servers count, and Custom counts in a way of its own, if it does', '')
    """
    runtime = RUNTIMES[server]
    if runtime.metrics is not None:
        return ""
    return f"provider Replicas judges by what the servers count, and {runtime.name} {runtime.uncounted}"


def _times_each(server: str) -> bool:
    """Whether such servers say how many answers took longer than a bound."""
    metrics = RUNTIMES[server].metrics
    return metrics is not None and metrics.latency is not None


def in_force(selected: str | None, ready: Mapping[str, int]) -> InForce | None:
    """What Service `<name>` makes of the ready pods (workload → how many); None while there is none that it selects.

    selected: the workload whose pods alone it selects; None: all of them. endpoints: every ready pod, for the Service
    reaches it as soon as it selects it.

    >>> (found := in_force(None, {"one": 4, "two": 1})).weights, found.endpoints
    ({'one': 80, 'two': 20}, {'one': 4, 'two': 1})
    >>> (found := in_force("one", {"one": 4, "two": 1})).weights, found.endpoints
    ({'one': 100}, {'one': 4, 'two': 1})
    """
    endpoints = {workload: count for workload, count in ready.items() if count > 0}
    if selected is not None:
        return InForce({selected: 100}, endpoints) if selected in endpoints else None
    total = sum(endpoints.values())
    if not total:
        return None
    weights = {workload: 100 * count // total for workload, count in endpoints.items()}
    # What rounding down left over goes to those that lost most by it, so that the sum is 100.
    by_loss = sorted(endpoints, key=lambda workload: (-(100 * endpoints[workload] % total), workload))
    for workload in by_loss[: 100 - sum(weights.values())]:
        weights[workload] += 1
    return InForce(weights, endpoints)


def _rounded(pods: int, total: int) -> int:
    """Percent, half up.

    >>> _rounded(1, 8), _rounded(1, 3)
    (13, 33)
    """
    return (200 * pods + total) // (2 * total)


def _becomes(weight: int, replicas: int, where: str) -> str:
    reached = reach(weight, replicas)
    pods = "1 pod" if reached.pods == 1 else f"{reached.pods} pods"
    return f"{weight} %{where} becomes {reached.weight_percent} %: {pods} of {replicas + reached.pods}"


def _enough_replicas(weights: list[int]) -> int | None:
    """The fewest replicas that reach all of the weights; None when no number does."""
    if max(weights) > 50:
        return None
    for replicas in range(1, MAX_REPLICAS + 1):
        if all(reach(weight, replicas).weight_percent == weight for weight in weights):
            return replicas
    return None


PROVIDER = Provider(
    has_routers=False,
    is_exact=False,
    reach=reach,
    explain=explain,
    refusals=refusals,
    in_force=lambda standing: in_force(standing.selected, standing.ready),
    uncounted=uncounted,
)
