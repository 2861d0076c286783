"""What the operator has to know of a model server: plain values and pure functions of the spec.

Invariant: a function of the spec alone, so that a revision's pod template is always made the same.
Must not import: the servers' own modules. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from slipway.api.quantity import parse_quantity
from slipway.api.v1alpha1 import ModelDeploymentSpec

Json = dict[str, Any]

ENDPOINT_REMOVAL_SECONDS = 7
"""How long a pod that ends goes on serving while kube-proxies, routers and clients learn that it does (the preStop
sleep). Routers learn it last: CoreDNS answers from its cache for 5 s, and they ask it once a second."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the server, by the name that the Service gives it: http, grpc, metrics."""

    name: str
    number: int
    app_protocol: str


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of a metric whose labels fit, summed.

    only: label → the values that it must have one of. without: label → the values that it must not have.
    """

    metric: str
    only: Mapping[str, frozenset[str]] = field(default_factory=dict)
    without: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where and under which names a server counts its requests, in Prometheus' text form.

    port: the Port's name. requests: all of them, well answered or not; errors: what the server failed; refusals:
    what it refused; each the sum of these samples (`model.signals.Counts` says what belongs where).
    latency: a histogram, without the suffix of its samples, in `latency_unit_seconds`; None: there is none. Requests
    that it leaves out count as quick.
    model_label, version_label: those that name model and version, where it has them.
    """

    port: str
    path: str
    requests: tuple[Samples, ...]
    errors: tuple[Samples, ...]
    refusals: tuple[Samples, ...] = ()
    latency: Samples | None = None
    latency_unit_seconds: float = 1.0
    model_label: str | None = None
    version_label: str | None = None


def _no_refusals(spec: ModelDeploymentSpec) -> tuple[str, ...]:
    return ()


def _no_such_path(spec: ModelDeploymentSpec, model: str, name: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class ServerRuntime:
    """One model server.

    ports: spec → its ports; one is called http.
    container: (spec, model name) → the server's container without image, env, resources, ports and what every
        container gets. May bring `env` of the server's own: the user's comes after it and wins.
    agent_settings: spec → (key in agent.json, the settings under it).
    predict_path: (spec, model, version) → the REST path of a prediction; None as version: the served one.
    grace_seconds: the pod's whole grace period: preStop, then the server's own drain.
    refusals: what the spec asks and this server can't do, each a sentence that names the field and what to write.
    loads_hot: versions come and go in a running server. False: another version needs another pod.
    metrics: what it counts by itself; None: too little to judge by, as `uncounted` says in a clause.
    tells_signatures: the server can say what a version takes and gives; of a Custom container, only it knows.
    version_path, label_path: (spec, model, version or label) → what every REST path begins with that names it, up to
        the end, a `/` or a `:`; None: no path does.
    grpc_package: what the names of its gRPC services begin with, up to a dot; empty: not known, or it has no gRPC.
    log_folder: where the server writes those of its words that the agent reads: a volume for that alone; None: the
        agent reads nothing that the server writes.
    asks_for_key: an API of its own answers to the pod's agent alone, by the key that both containers get.
    Sixteen fields: the table that a new server fills in, each on its own; the last nine have defaults.
    """

    name: str
    ports: Callable[[ModelDeploymentSpec], tuple[Port, ...]]
    container: Callable[[ModelDeploymentSpec, str], Json]
    agent_settings: Callable[[ModelDeploymentSpec], tuple[str, Json]]
    predict_path: Callable[[ModelDeploymentSpec, str, int | None], str]
    metrics: Metrics | None
    grace_seconds: int
    refusals: Callable[[ModelDeploymentSpec], tuple[str, ...]] = _no_refusals
    loads_hot: bool = True
    uncounted: str = ""
    tells_signatures: bool = True
    version_path: Callable[[ModelDeploymentSpec, str, str], str | None] = _no_such_path
    label_path: Callable[[ModelDeploymentSpec, str, str], str | None] = _no_such_path
    grpc_package: str = ""
    log_folder: str | None = None
    asks_for_key: bool = False


def fixed(*ports: Port) -> Callable[[ModelDeploymentSpec], tuple[Port, ...]]:
    """The ports of a server whose ports no spec changes."""
    return lambda spec: ports


def open_inference_path(spec: ModelDeploymentSpec, model: str, version: int | None) -> str:
    """Where the Open Inference Protocol answers predictions."""
    return f"/v2/models/{model}/infer" if version is None else f"/v2/models/{model}/versions/{version}/infer"


def open_inference_version_path(spec: ModelDeploymentSpec, model: str, version: str) -> str | None:
    """What the Open Inference Protocol's paths begin with that name a version."""
    return f"/v2/models/{model}/versions/{version}"


def probes(alive: Json) -> Json:
    """Startup and liveness by one question that says nothing of models.

    A start takes as long as it takes: the rollout's deadline speaks then, not a probe.
    """
    probe = {**alive, "timeoutSeconds": 5}
    return {
        "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": 3600},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 3},
    }


def cpu_threads(spec: ModelDeploymentSpec) -> int | None:
    """Whole threads that the CPU limit pays for: 1500m is 2. None without a limit: the server's own default."""
    limit = spec.resources.limits.get("cpu") if spec.resources else None
    return None if limit is None else max(1, math.ceil(parse_quantity(limit)))


GPU_RESOURCE = re.compile(r"/(gpu(\..+)?|mig-.+)$")


def gpu_count(spec: ModelDeploymentSpec) -> int:
    """GPUs of the server container: whole ones (…/gpu), shares of one (…/gpu.shared) and MIG slices (…/mig-1g.5gb)."""
    limits = spec.resources.limits if spec.resources else {}
    return sum(int(parse_quantity(amount)) for name, amount in limits.items() if GPU_RESOURCE.search(name))
