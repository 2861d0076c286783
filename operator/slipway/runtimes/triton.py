"""NVIDIA Triton Inference Server: ONNX and every other format that it reads.

Models are loaded explicitly: `--load-model` names the one model at boot, its config.pbtxt (written by the agent) names
the versions. Facts read from Triton 2.51 and checked against it in e2e:
- `/v2/health/ready` answers 400 during every load and for good after one failed version, so it is no probe here.
- `--exit-on-error=false`: the server stays up after a failed load, so that the agent can report its words.
- `default-max-batch-size=0`: without spec.batching there is none; Triton's own default for ONNX models would be 4.
- The model-control API can run code (CVE-2026-24207), so it answers only to the agent: a restricted API whose key
  both containers get from the workload's Secret.
- On SIGTERM it refuses new connections and waits `--exit-timeout-secs` for open ones. Endpoints must be gone before:
  that is what the preStop sleep waits for. gRPC channels stay on the pod that they know, endpoint or not; the
  connection age has them move on within the sleep: 0 of 1,053 requests lost with it, 35 of 35 without (measured,
  serving-images/triton/README.md). Streams in progress are not cut: the age's grace is infinite by default.
- Instances are `instance_group`'s count (on each GPU, where there are some), threads the CPU limit's share of each;
  warm-up is Triton's own `model_warmup`: the agent writes all three into config.pbtxt.
Pure.
"""

from __future__ import annotations

from typing import Any

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.runtimes.server import (
    ENDPOINT_REMOVAL_SECONDS,
    Metrics,
    Port,
    Samples,
    ServerRuntime,
    cpu_threads,
    fixed,
    gpu_count,
    open_inference_path,
    open_inference_version_path,
    probes,
)

Json = dict[str, Any]

HTTP = Port("http", 8000, "http")
GRPC = Port("grpc", 8001, "kubernetes.io/h2c")
METRICS = Port("metrics", 8002, "http")

DRAIN_SECONDS = 30
GRPC_CONNECTION_AGE_MILLISECONDS = 2000
KEY_HEADER = "slipway-agent"
RESTRICTED = "model-repository,logging,trace,shared-memory"


def _container(spec: ModelDeploymentSpec, model_name: str) -> Json:
    return {
        "command": ["tritonserver"],
        "args": [
            "--model-repository=/models/repository",
            "--model-control-mode=explicit",
            f"--load-model={model_name}",
            "--exit-on-error=false",
            "--backend-config=default-max-batch-size=0",
            f"--exit-timeout-secs={DRAIN_SECONDS}",
            f"--http-port={HTTP.number}",
            f"--grpc-port={GRPC.number}",
            f"--metrics-port={METRICS.number}",
            f"--grpc-max-connection-age={GRPC_CONNECTION_AGE_MILLISECONDS}",
            f"--http-restricted-api={RESTRICTED}:{KEY_HEADER}=$(SLIPWAY_SERVER_KEY)",
            f"--grpc-restricted-protocol={RESTRICTED}:{KEY_HEADER}=$(SLIPWAY_SERVER_KEY)",
            *spec.runtime.args,
        ],
        **probes({"httpGet": {"path": "/v2/health/live", "port": "http"}}),
        "lifecycle": {"preStop": {"sleep": {"seconds": ENDPOINT_REMOVAL_SECONDS}}},
    }


def _agent_settings(spec: ModelDeploymentSpec) -> tuple[str, Json]:
    settings: Json = {"httpPort": HTTP.number, "grpcPort": GRPC.number, "gpu": gpu_count(spec) > 0}
    if spec.runtime.instances is not None:
        settings["instanceCount"] = spec.runtime.instances
    if (threads := cpu_threads(spec)) is not None and not settings["gpu"]:
        settings["threads"] = threads
    if spec.batching is not None:
        settings["maxBatchSize"] = spec.batching.max_batch_size
        settings["maxQueueDelayMicroseconds"] = spec.batching.max_delay_microseconds
    return "triton", settings


def _refusals(spec: ModelDeploymentSpec) -> tuple[str, ...]:
    refusals = []
    if spec.runtime.gpu_memory_fraction is not None:
        refusals.append(
            "spec.runtime.gpuMemoryFraction: Triton has no such setting for all of its backends; leave it out, and for "
            'ONNX write a limit in bytes into the model\'s config.pbtxt: parameters { key: "gpu_mem_limit" … }'
        )
    if spec.model.labels:
        refusals.append("spec.model.labels: only TensorFlowServing has labels; address versions by number")
    return tuple(refusals)


TRITON = ServerRuntime(
    name="Triton",
    ports=fixed(HTTP, GRPC, METRICS),
    container=_container,
    agent_settings=_agent_settings,
    predict_path=open_inference_path,
    version_path=open_inference_version_path,
    grpc_package="inference",
    asks_for_key=True,
    # Refused requests (a wrong shape, no such name) never reach a counter. An error that a python backend returns
    # counts as a success (triton#7713, and measured on 2.51); the backend of our image says so in the second metric.
    metrics=Metrics(
        port="metrics",
        path="/metrics",
        requests=(Samples("nv_inference_request_success"), Samples("nv_inference_request_failure")),
        errors=(
            Samples("nv_inference_request_failure", without={"reason": frozenset({"CANCELED"})}),
            Samples("slipway_returned_errors", only={"fault": frozenset({"server"})}),
        ),
        refusals=(
            Samples("nv_inference_request_failure", only={"reason": frozenset({"CANCELED"})}),
            Samples("slipway_returned_errors", only={"fault": frozenset({"caller"})}),
        ),
        model_label="model",
        version_label="version",
    ),
    grace_seconds=ENDPOINT_REMOVAL_SECONDS + DRAIN_SECONDS + 10,
    refusals=_refusals,
)
