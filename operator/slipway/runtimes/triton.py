"""NVIDIA Triton Inference Server: ONNX and every other format that it reads.

Models are loaded explicitly: `--load-model` names the one model at boot, its config.pbtxt (written by the agent) names
the versions. Facts read from Triton 2.51 and checked against it in e2e:
- `/v2/health/ready` answers 400 during every load and for good after one failed version, so it is no probe here.
- `--exit-on-error=false`: the server stays up after a failed load, so that the agent can report its words.
- `default-max-batch-size=0`: without spec.batching there is none; Triton's own default for ONNX models would be 4.
- The model-control API can run code (CVE-2026-24207), so it answers only to the agent: a restricted API whose key is
  the pod's UID, which both containers get from the downward API.
- On SIGTERM it refuses new connections and waits `--exit-timeout-secs` for open ones. Endpoints must be gone before:
  that is what the preStop sleep waits for. gRPC channels stay on the pod that they know, endpoint or not; the
  connection age has them move on within the sleep: 0 of 1,053 requests lost with it, 35 of 35 without (measured,
  serving-images/triton/README.md). Streams in progress are not cut: the age's grace is infinite by default.
Pure.
"""

from __future__ import annotations

from typing import Any

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.runtimes.server import Port, ServerRuntime

Json = dict[str, Any]

HTTP = Port("http", 8000, "http")
GRPC = Port("grpc", 8001, "kubernetes.io/h2c")
METRICS = Port("metrics", 8002, "http")

ENDPOINT_REMOVAL_SECONDS = 5
"""How long a pod that ends goes on serving while kube-proxies and clients learn that it does."""
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
        # Starting with a large model takes as long as it takes: the agent's deadline speaks, not a probe.
        "startupProbe": {
            "httpGet": {"path": "/v2/health/live", "port": "http"},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 3600,
        },
        "livenessProbe": {
            "httpGet": {"path": "/v2/health/live", "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": ENDPOINT_REMOVAL_SECONDS}}},
    }


def _agent_settings(spec: ModelDeploymentSpec) -> tuple[str, Json]:
    limits = spec.resources.limits if spec.resources else {}
    settings: Json = {
        "httpPort": HTTP.number,
        "gpu": any(name.endswith("/gpu") and str(amount) != "0" for name, amount in limits.items()),
    }
    if spec.batching is not None:
        settings["maxBatchSize"] = spec.batching.max_batch_size
        settings["maxQueueDelayMicroseconds"] = spec.batching.max_delay_microseconds
    return "triton", settings


TRITON = ServerRuntime(
    name="Triton",
    ports=(HTTP, GRPC, METRICS),
    container=_container,
    agent_settings=_agent_settings,
    grace_seconds=ENDPOINT_REMOVAL_SECONDS + DRAIN_SECONDS + 10,
)
