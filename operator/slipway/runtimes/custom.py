"""Any container that serves one version of a model over HTTP; the Open Inference Protocol's paths are its default.

The contract with the container:
- The served version is published before it starts, at SLIPWAY_MODEL_PATH (a link that doesn't name the version, so that
  the pod template doesn't either). SLIPWAY_MODEL_NAME is the name that clients put into the URL.
- `paths.live` answers 200 while it lives, `paths.ready` when it can answer predictions: that is the pod's readiness.
- It serves that one version; another version is another pod.
- At SIGTERM nothing new comes any more (the preStop sleep has passed), and it finishes what it has begun.
Pure.
"""

from __future__ import annotations

from typing import Any

from slipway.api.v1alpha1 import CUSTOM_HTTP_PORT, ModelDeploymentSpec, Paths, Runtime
from slipway.runtimes.server import ENDPOINT_REMOVAL_SECONDS, Port, ServerRuntime, open_inference_version_path, probes

Json = dict[str, Any]

MODEL_PATH = "/models/current"
DRAIN_SECONDS = 30


def _ports(spec: ModelDeploymentSpec) -> tuple[Port, ...]:
    http = Port("http", spec.runtime.http_port or CUSTOM_HTTP_PORT, "http")
    if spec.runtime.grpc_port is None:
        return (http,)
    return http, Port("grpc", spec.runtime.grpc_port, "kubernetes.io/h2c")


def _paths(runtime: Runtime) -> Paths:
    return runtime.paths or Paths()


def _container(spec: ModelDeploymentSpec, model_name: str) -> Json:
    live = {"path": _paths(spec.runtime).live.replace("{model}", model_name), "port": "http"}
    container: Json = {
        "args": list(spec.runtime.args),
        "env": [
            {"name": "SLIPWAY_MODEL_NAME", "value": model_name},
            {"name": "SLIPWAY_MODEL_PATH", "value": MODEL_PATH},
        ],
        **probes({"httpGet": live}),
        "lifecycle": {"preStop": {"sleep": {"seconds": ENDPOINT_REMOVAL_SECONDS}}},
    }
    return ({"command": list(spec.runtime.command)} if spec.runtime.command else {}) | container


def _agent_settings(spec: ModelDeploymentSpec) -> tuple[str, Json]:
    paths = _paths(spec.runtime)
    http, *_ = _ports(spec)
    return "custom", {"httpPort": http.number, "readyPath": paths.ready, "predictPath": paths.predict}


def _refusals(spec: ModelDeploymentSpec) -> tuple[str, ...]:
    refusals = []
    policy = spec.version_policy
    names_others = policy is not None and (
        policy.all is not None
        or (policy.latest is not None and policy.latest.count > 1)
        or (policy.specific is not None and len(policy.specific.versions) > 1)
    )
    if names_others:
        refusals.append(
            "spec.versionPolicy names other versions, and a Custom container serves one; leave it out, or use another "
            "runtime"
        )
    if spec.batching is not None:
        refusals.append("spec.batching: a Custom container batches by itself; tell it by runtime.args or runtime.env")
    if spec.model.labels:
        refusals.append("spec.model.labels: only TensorFlowServing has labels; leave them out")
    if spec.runtime.instances is not None:
        refusals.append("spec.runtime.instances: tell a Custom container by runtime.args or runtime.env")
    if spec.runtime.gpu_memory_fraction is not None:
        refusals.append("spec.runtime.gpuMemoryFraction: tell a Custom container by runtime.args or runtime.env")
    if "{version}" in _paths(spec.runtime).live:
        refusals.append("spec.runtime.paths.live is a probe of the whole server; write it without {version}")
    return tuple(refusals)


def _predict_path(spec: ModelDeploymentSpec, model: str, version: int | None) -> str:
    return _paths(spec.runtime).predict.replace("{model}", model)


def _version_path(spec: ModelDeploymentSpec, model: str, version: str) -> str | None:
    is_open_inference = _paths(spec.runtime).predict == Paths().predict
    return open_inference_version_path(spec, model, version) if is_open_inference else None


CUSTOM = ServerRuntime(
    name="Custom",
    ports=_ports,
    container=_container,
    agent_settings=_agent_settings,
    predict_path=_predict_path,
    version_path=_version_path,
    metrics=None,
    uncounted="counts in a way of its own, if it does",
    grace_seconds=ENDPOINT_REMOVAL_SECONDS + DRAIN_SECONDS + 10,
    refusals=_refusals,
    loads_hot=False,
)
