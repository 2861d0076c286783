"""TensorFlow Serving: SavedModels, by the official image.

The agent writes the model config file, which the server polls. Facts (2.20 and 2.21: sources, docs, and the official
image's entrypoint):
- The image's PID 1 is a bash that runs the server as a child and passes no signal on: the binary is named here.
- It has no SIGTERM handler, and as PID 1 it doesn't even die of one. Draining is therefore time alone: the preStop
  sleep lasts until endpoints are gone (ENDPOINT_REMOVAL_SECONDS) and what came before has been answered
  (REQUEST_SECONDS, the REST API's own time-out here); the grace period ends a moment later, and the kill finds nothing
  in flight. gRPC channels stay on the pod that they know, endpoint or not; the connection age has them move on long
  before, and cuts no call in progress (its grace is infinite). Kept REST connections can't be moved on: the server
  never closes one.
- The ports open once the model has one loaded version, however long that takes: the agent's deadline speaks, not a
  probe. gRPC health speaks for the server and not for a version, which is what liveness asks; REST status would count
  as a request in its metrics, and its thread pool is the predictions'.
- Versions are found in two polls, of the model config file and of the folders. The second must not be turned off: a
  changed file is acted on by the next poll of the folders.
- `HandleReloadConfigRequest` answers on the gRPC port to whoever reaches it, and no flag turns it off. What it changes
  is undone by the next poll of the file, within a second.
- With `--max_num_load_retries` at its default a broken version stays LOADING for five minutes.
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
    probes,
)

Json = dict[str, Any]

GRPC = Port("grpc", 8500, "kubernetes.io/h2c")
HTTP = Port("http", 8501, "http")

REQUEST_SECONDS = 30
"""The longest that a request may take: the server's own default for REST."""
KILL_SECONDS = 2
"""Between the end of the preStop sleep and the kill."""
GRPC_CONNECTION_AGE_MILLISECONDS = 2000
POLL_SECONDS = 1
METRICS_PATH = "/monitoring/prometheus/metrics"
SERVER_FAULTS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
OWN_LABELS = ("stable", "canary")


def _container(spec: ModelDeploymentSpec, model_name: str) -> Json:
    folder = f"/models/repository/{model_name}"
    args = [
        f"--port={GRPC.number}",
        f"--rest_api_port={HTTP.number}",
        f"--rest_api_timeout_in_ms={REQUEST_SECONDS * 1000}",
        f"--model_config_file={folder}/models.config",
        f"--model_config_file_poll_wait_seconds={POLL_SECONDS}",
        f"--file_system_poll_wait_seconds={POLL_SECONDS}",
        "--max_num_load_retries=0",
        # at a start no version is available yet for a label to stand on
        "--allow_version_labels_for_unavailable_models=true",
        f"--monitoring_config_file={folder}/monitoring.config",
        "--enable_grpc_healthcheck_service=true",
        f"--grpc_channel_arguments=grpc.max_connection_age_ms={GRPC_CONNECTION_AGE_MILLISECONDS}",
    ]
    threads = cpu_threads(spec)
    if threads is not None:
        # left to itself it starts a thread for each core of the node, whatever the limit is
        args += [
            f"--tensorflow_intra_op_parallelism={threads}",
            f"--tensorflow_inter_op_parallelism={threads}",
            f"--rest_api_num_threads={max(8, 4 * threads)}",
        ]
    if spec.runtime.gpu_memory_fraction is not None:
        args.append(f"--per_process_gpu_memory_fraction={spec.runtime.gpu_memory_fraction:g}")
    if spec.batching is not None:
        args += ["--enable_batching=true", f"--batching_parameters_file={folder}/batching.config"]
    alive = {"grpc": {"port": GRPC.number}}
    return {
        "command": ["tensorflow_model_server"],
        "args": [*args, *spec.runtime.args],
        **probes(alive),
        "lifecycle": {"preStop": {"sleep": {"seconds": ENDPOINT_REMOVAL_SECONDS + REQUEST_SECONDS}}},
    }


def _agent_settings(spec: ModelDeploymentSpec) -> tuple[str, Json]:
    settings: Json = {"httpPort": HTTP.number}
    if spec.batching is not None:
        settings["maxBatchSize"] = spec.batching.max_batch_size
        settings["maxDelayMicroseconds"] = spec.batching.max_delay_microseconds
        settings["batchThreads"] = cpu_threads(spec)
    return "tensorflowServing", settings


def _refusals(spec: ModelDeploymentSpec) -> tuple[str, ...]:
    refused = []
    if spec.runtime.instances is not None:
        refused.append(
            "spec.runtime.instances: TensorFlow Serving runs one copy of each version, with the threads that the CPU "
            "limit pays for. Remove it; set replicas or resources.limits.cpu"
        )
    if spec.runtime.image is None and gpu_count(spec):
        refused.append(
            "spec.resources.limits: a GPU, and the image tensorflow/serving:2.20.0 has none of its libraries. Set "
            "runtime.image, as in tensorflow/serving:2.20.0-gpu"
        )
    if spec.runtime.gpu_memory_fraction is not None and not gpu_count(spec):
        refused.append("spec.runtime.gpuMemoryFraction: there is no GPU in resources.limits. Remove it, or add one")
    if taken := sorted(set(OWN_LABELS) & set(spec.model.labels)):
        refused.append(
            f"spec.model.labels: {', '.join(taken)} is Slipway's own and follows the rollout. Choose another name"
        )
    if odd := sorted(label for label in spec.model.labels if not label or set(label) & set("/:")):
        refused.append(f"spec.model.labels: {odd[0]!r} can't stand in a URL. Write a name without / and :")
    return tuple(refused)


def _predict_path(spec: ModelDeploymentSpec, model: str, version: int | None) -> str:
    return f"/v1/models/{model}:predict" if version is None else f"/v1/models/{model}/versions/{version}:predict"


def _version_path(spec: ModelDeploymentSpec, model: str, version: str) -> str | None:
    return f"/v1/models/{model}/versions/{version}"


def _label_path(spec: ModelDeploymentSpec, model: str, label: str) -> str | None:
    return f"/v1/models/{model}/labels/{label}"


TENSORFLOW_SERVING = ServerRuntime(
    name="TensorFlowServing",
    ports=fixed(HTTP, GRPC),
    container=_container,
    agent_settings=_agent_settings,
    predict_path=_predict_path,
    version_path=_version_path,
    label_path=_label_path,
    grpc_package="tensorflow.serving",
    # Neither metric has a version's label. request_count counts every REST request, the agent's questions for status
    # too, with `status` OK or a code's name; request_latency counts what was answered well, those with an empty `API`.
    metrics=Metrics(
        port="http",
        path=METRICS_PATH,
        requests=(
            Samples(":tensorflow:serving:request_latency_count", without={"API": frozenset({""})}),
            Samples(":tensorflow:serving:request_count", without={"status": frozenset({"OK"})}),
        ),
        errors=(Samples(":tensorflow:serving:request_count", {"status": SERVER_FAULTS}),),
        refusals=(Samples(":tensorflow:serving:request_count", without={"status": SERVER_FAULTS | {"OK"}}),),
        latency=Samples(":tensorflow:serving:request_latency", without={"API": frozenset({""})}),
        latency_unit_seconds=1e-6,
        model_label="model_name",
    ),
    grace_seconds=ENDPOINT_REMOVAL_SECONDS + REQUEST_SECONDS + KILL_SECONDS,
    refusals=_refusals,
)
