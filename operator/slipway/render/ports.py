"""Which ports Services have: those of the revisions that have pods, never those of today's spec.

    runtime Triton → TensorFlowServing    Service <name>
    before                                http 8000, grpc 8001
    canary, or rolling                    http 8000, grpc 8001, http-8501, grpc-8500
    bake                                  http 8501, grpc 8500, http-8000, grpc-8001
    rolled back                           http 8000, grpc 8001

Invariant: stable's ports are always there and have the plain names. A port that changes its name is without endpoints
until they are known under it, and stable's never do: the plain name has endpoints all the time.
Must not import: report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from slipway.api.v1alpha1 import ModelDeployment, ModelDeploymentSpec
from slipway.model.names import AGENT_PORT
from slipway.model.revision import Json, Revision, spec_of
from slipway.model.rollout import Plan
from slipway.runtimes import RUNTIMES

CLIENT_PORTS = ("http", "grpc")
"""Those that a router takes requests for."""


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service. target: the name that the pods' port has, whatever its number."""

    name: str
    number: int
    target: str
    app_protocol: str


def specs_in_pods(
    deployment: ModelDeployment, plan: Plan, revisions: Mapping[str, Revision]
) -> list[ModelDeploymentSpec]:
    """What the revisions with pods were made from, stable first; before anything serves, the one that starts.

    Empty: the stable revision's ControllerRevision is gone.
    """
    state = plan.state
    if state.stable is not None and state.stable not in revisions:
        return []
    with_pods = sorted(plan.assignments[name].revision for name, pods in plan.replicas.items() if pods)
    order = dict.fromkeys(name for name in (state.stable or "", state.canary or "", *with_pods) if name in revisions)
    shown = [name for name in order if name == state.stable or name in with_pods] or list(order)
    return [spec_of(deployment, revisions[name]) for name in shown] or [deployment.spec]


def service_ports(specs: Iterable[ModelDeploymentSpec], *, to_router: bool) -> tuple[ServicePort, ...]:
    """The ports of Service `<name>`. A router answers for metrics of its own alone, so that port is not there then."""
    found = [
        ServicePort(port.name, port.number, port.name, port.app_protocol)
        for spec in specs
        for port in RUNTIMES[spec.runtime.name].ports(spec)
        if port.name in CLIENT_PORTS or not to_router
    ]
    return _together(found)


def metrics_ports(specs: Iterable[ModelDeploymentSpec]) -> tuple[ServicePort, ...]:
    """The ports of Service `<name>-metrics`: the agent's, and where each server tells what it counts."""
    found = [ServicePort("agent", AGENT_PORT, "agent", "http")]
    for spec in specs:
        numbers = {port.name: port.number for port in RUNTIMES[spec.runtime.name].ports(spec)}
        target = "metrics" if "metrics" in numbers else "http"
        found.append(ServicePort("metrics", numbers[target], target, "http"))
    return _together(found)


def _together(ports: Iterable[ServicePort]) -> tuple[ServicePort, ...]:
    """Each number once, as it comes first; a name that is taken gets the number behind it.

    >>> one, other = ServicePort("http", 8000, "http", "http"), ServicePort("http", 8501, "http", "http")
    >>> [port.name for port in _together([one, other, one])]
    ['http', 'http-8501']
    """
    found: dict[int, ServicePort] = {}
    names: set[str] = set()
    for port in ports:
        if port.number in found:
            continue
        name = port.name if port.name not in names else f"{port.name}-{port.number}"
        names.add(name)
        found[port.number] = ServicePort(name, port.number, port.target, port.app_protocol)
    return tuple(found.values())


def live_ports(service: Json | None) -> tuple[ServicePort, ...]:
    """The ports of a Service as it stands: they stay while nobody knows what serves."""
    ports = ((service or {}).get("spec") or {}).get("ports") or []
    return tuple(
        ServicePort(port["name"], port["port"], port["name"].partition("-")[0], port.get("appProtocol", "http"))
        for port in ports
        if port.get("name", "").partition("-")[0] in (*CLIENT_PORTS, "metrics")
    )


def predict_path(deployment: ModelDeployment, spec: ModelDeploymentSpec) -> str:
    """Where a revision that was made from `spec` is asked for predictions: two that differ in it are of two APIs."""
    return RUNTIMES[spec.runtime.name].predict_path(spec, spec.model.name or deployment.name, None)


def own_path(path: str, others: Sequence[str]) -> str:
    """The shortest beginning of a path with which none of the others begins; all of it where there is none.

    >>> own_path("/v2/models/a/infer", ["/v1/models/a:predict"])
    '/v2'
    >>> own_path("/v1/models/a:predict", ["/v1/models/b:predict"])
    '/v1/models/a'
    """
    ends = [place for place, sign in enumerate(path) if sign in "/:" and place > 0]
    for end in ends:
        begins = path[:end]
        if not any(other == begins or other.startswith((f"{begins}/", f"{begins}:")) for other in others):
            return begins
    return path
