"""ONNX Runtime on CPUs, behind the Open Inference Protocol: MLServer with one model class (serving-images/onnxruntime).

The same ports, paths and answers as Triton's, so that switching is one word. Facts (of that image, and measured):
- It starts with the versions that it can load and stays up without the others: the agent reports their words.
- Versions load and unload hot; an unversioned request gets the highest that is ready.
- The repository API answers to the pod's agent alone: its key is in the workload's Secret, and gRPC has none of it.
- SIGTERM: every REST answer says `Connection: close` for 3 s, then it listens no more and finishes what is in flight.
  gRPC channels move on by the connection age within the preStop sleep, as they do from Triton.
- Threads are the CPU limit's; `instances` are requests computed side by side over one copy of the weights.
Pure.
"""

from __future__ import annotations

from typing import Any

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.runtimes.server import (
    ENDPOINT_REMOVAL_SECONDS,
    Metrics,
    Samples,
    ServerRuntime,
    cpu_threads,
    fixed,
    gpu_count,
    open_inference_path,
    open_inference_version_path,
    probes,
)
from slipway.runtimes.triton import GRPC, HTTP, METRICS

Json = dict[str, Any]

DRAIN_SECONDS = 30
GRPC_CONNECTION_AGE_SECONDS = 2
ANSWERS = "slipway_inference_requests_total"
UNVERSIONED = {"asked": frozenset({"unversioned"})}


def _container(spec: ModelDeploymentSpec, model_name: str) -> Json:
    return {
        "command": ["python", "-m", "slipway_onnxruntime"],
        "args": [
            "--model-repository=/models/repository",
            f"--http-port={HTTP.number}",
            f"--grpc-port={GRPC.number}",
            f"--metrics-port={METRICS.number}",
            f"--drain-seconds={DRAIN_SECONDS}",
            f"--grpc-max-connection-age-seconds={GRPC_CONNECTION_AGE_SECONDS}",
            *spec.runtime.args,
        ],
        **probes({"httpGet": {"path": "/v2/health/live", "port": "http"}}),
        "lifecycle": {"preStop": {"sleep": {"seconds": ENDPOINT_REMOVAL_SECONDS}}},
    }


def _agent_settings(spec: ModelDeploymentSpec) -> tuple[str, Json]:
    settings: Json = {"httpPort": HTTP.number}
    if spec.batching is not None:
        settings["maxBatchSize"] = spec.batching.max_batch_size
        settings["maxBatchDelayMicroseconds"] = spec.batching.max_delay_microseconds
    if spec.runtime.instances is not None:
        settings["instances"] = spec.runtime.instances
    if (threads := cpu_threads(spec)) is not None:
        settings["threads"] = threads
    return "onnxRuntime", settings


def _refusals(spec: ModelDeploymentSpec) -> tuple[str, ...]:
    refusals = []
    if gpu_count(spec):
        refusals.append(
            "spec.resources.limits asks for a GPU, and ONNXRuntime computes on CPUs; write runtime.name Triton, which "
            "serves the same files on GPUs, or leave the GPU out"
        )
    if spec.runtime.gpu_memory_fraction is not None:
        refusals.append("spec.runtime.gpuMemoryFraction: ONNXRuntime uses no GPU; leave it out")
    if spec.model.labels:
        refusals.append("spec.model.labels: only TensorFlowServing has labels; address versions by number")
    return tuple(refusals)


ONNX_RUNTIME = ServerRuntime(
    name="ONNXRuntime",
    ports=fixed(HTTP, GRPC, METRICS),
    container=_container,
    agent_settings=_agent_settings,
    predict_path=open_inference_path,
    version_path=open_inference_version_path,
    grpc_package="inference",
    asks_for_key=True,
    # Of the image's own server: MLServer's failures are the callers' too, and it has no latencies of gRPC.
    metrics=Metrics(
        port="metrics",
        path="/metrics",
        requests=(Samples(ANSWERS, UNVERSIONED),),
        errors=(Samples(ANSWERS, {**UNVERSIONED, "outcome": frozenset({"error"})}),),
        refusals=(Samples(ANSWERS, {**UNVERSIONED, "outcome": frozenset({"refused"})}),),
        latency=Samples("slipway_inference_seconds", UNVERSIONED),
        model_label="model",
        version_label="version",
    ),
    grace_seconds=ENDPOINT_REMOVAL_SECONDS + DRAIN_SECONDS + 10,
    refusals=_refusals,
)
