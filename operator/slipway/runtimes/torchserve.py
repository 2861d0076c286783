"""TorchServe 0.12.0: `.mar` files, TorchScript and eager models with handlers, on CPUs and GPUs.

The agent writes config.properties and registers versions through the management API. Measured on 0.12.0
(serving-images/torchserve/README.md):
- The `torchserve` launcher starts Java as a child and passes no signal on, and as PID 1 it ignores SIGTERM itself. So
  the command is the launcher's own command line, put together by `LAUNCH` from whatever Python package the image has,
  and Java is PID 1.
- On SIGTERM Java ends 2.5 s later, and cuts each HTTP request in progress at once. So nothing may be in progress: the
  preStop hook (`DRAIN`) waits until endpoints are gone, and then until no client has been connected for QUIET_SECONDS,
  for DRAIN_SECONDS at the most. It never closes a kept connection itself; gRPC channels move on by their connection
  age, and calls in progress are not cut by it (its grace is infinite by default).
- `/ping` is unhealthy while the default version's workers restart, which is no reason to restart the server: liveness
  asks for the API's description, which is answered whatever became of the models.
- The management API can load code from anywhere (CVE-2023-43654, CVE-2024-35198, CVE-2024-35199). It listens on the
  pod's loopback, HTTP and gRPC, for the agent alone, and is given no URL to fetch from. Token authorization would be
  asked of the model's clients too, and is off. A `.mar` is code: who may write to the model's place runs it here.
- Torch starts a thread for each core of the node, in each worker, whatever the limit is.
Pure.
"""

from __future__ import annotations

import math
from typing import Any

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.runtimes.server import ENDPOINT_REMOVAL_SECONDS, Port, ServerRuntime, cpu_threads, fixed, gpu_count, probes

Json = dict[str, Any]

HTTP = Port("http", 8080, "http")
GRPC = Port("grpc", 7070, "kubernetes.io/h2c")
METRICS = Port("metrics", 8082, "http")
MANAGEMENT_PORT = 8083
"""Not TorchServe's own 8081, which is the agent's."""
GRPC_MANAGEMENT_PORT = 7071

LOG_FOLDER = "/tmp/torchserve"  # noqa: S108 — the mount of a volume
"""Where the workers' words are for the agent to read; agents of all releases look here."""

DRAIN_SECONDS = 30
QUIET_SECONDS = 2
"""A node that is busy learns late that a pod ends; and what a client sends anew (SYN) comes a second later."""
STOP_SECONDS = 10
"""From SIGTERM until Java has ended by itself, with room."""
GRPC_CONNECTION_AGE_MILLISECONDS = 2000

LAUNCH = """\
import sys
sys.path[:] = [folder for folder in sys.path if folder]
import importlib.util, os
home = os.path.dirname(os.path.dirname(importlib.util.find_spec("ts").origin))
folder = os.path.dirname(os.environ["TS_CONFIG_FILE"])
java = os.path.join(os.environ["JAVA_HOME"], "bin", "java") if os.environ.get("JAVA_HOME") else "java"
os.chdir("/tmp")
os.execvp(java, [
    java, "-Dmodel_server_home=" + home, "-Dlog4j2.configurationFile=file:" + folder + "/log4j2.xml",
    "-cp", home + "/ts/frontend/*", "org.pytorch.serve.ModelServer", "--python", sys.executable,
    "--model-store", os.path.dirname(folder), "--no-config-snapshot", *sys.argv[1:],
])
"""
"""Becomes Java, with the command line that the `torchserve` launcher would give it. Runs in any image that has the
package `ts`: ours and the project's, and others' that have it on PYTHONPATH (so not by -I, and -P is too new for some).
Nothing is imported from the working directory: a handler may have written there before a restart."""

DRAIN = """\
import sys, time
rest, quiet, limit = map(float, sys.argv[1:4])
ports = {int(port) for port in sys.argv[4:]}
def clients():
    count = 0
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = open(path).read().splitlines()[1:]
        except OSError:
            continue
        found = [row.split() for row in rows]
        count += sum(row[3] in ("01", "03") and int(row[1].rpartition(":")[2], 16) in ports for row in found)
    return count
time.sleep(rest)
now = time.monotonic()
end, alone_at = now + limit, now + quiet
while now < min(end, alone_at):
    time.sleep(0.1)
    now = time.monotonic()
    if clients():
        alone_at = now + quiet
"""
"""Waits until nobody has been connected to the ports for a while: the kernel's table of connections, states 01
(established) and 03 (about to be). Between two short connections nobody is for a moment."""


def _container(spec: ModelDeploymentSpec, model_name: str) -> Json:
    alive = {"httpGet": {"path": "/api-description", "port": "http"}}
    drain = [str(seconds) for seconds in (ENDPOINT_REMOVAL_SECONDS, QUIET_SECONDS, DRAIN_SECONDS)]
    drain += [str(port.number) for port in (HTTP, GRPC)]
    return {
        "command": ["python", "-c", LAUNCH],
        "args": list(spec.runtime.args),
        "env": [
            {"name": "TS_CONFIG_FILE", "value": f"/models/repository/{model_name}/config.properties"},
            # libraries of handlers keep caches at home, and ask whose: the project's image knows no such user
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 — the pod's own, an emptyDir
            {"name": "USER", "value": "torchserve"},
            *({"name": name, "value": str(threads)} for name, threads in _threads(spec).items()),
        ],
        **probes(alive),
        "lifecycle": {"preStop": {"exec": {"command": ["python", "-c", DRAIN, *drain]}}},
    }


def _threads(spec: ModelDeploymentSpec) -> dict[str, int]:
    """Threads of each worker, so that all workers of one version have the CPU limit's between them."""
    threads = cpu_threads(spec)
    if threads is None:
        return {}
    each = max(1, threads // _workers(spec))
    return {"OMP_NUM_THREADS": each, "MKL_NUM_THREADS": each}


def _workers(spec: ModelDeploymentSpec) -> int:
    """Workers of each version: `instances`, on each GPU where there is one."""
    return (spec.runtime.instances or 1) * max(1, gpu_count(spec))


def _agent_settings(spec: ModelDeploymentSpec) -> tuple[str, Json]:
    settings: Json = {
        "httpPort": HTTP.number,
        "metricsPort": METRICS.number,
        "managementPort": MANAGEMENT_PORT,
        "grpcPort": GRPC.number,
        "grpcManagementPort": GRPC_MANAGEMENT_PORT,
        "grpcConnectionAgeMilliseconds": GRPC_CONNECTION_AGE_MILLISECONDS,
        "gpuCount": gpu_count(spec),
        "defaultWorkers": _workers(spec),
    }
    if spec.runtime.instances is not None:
        settings["workers"] = _workers(spec)
    if spec.batching is not None:
        settings["maxBatchSize"] = spec.batching.max_batch_size
        # whole milliseconds, and 0 would mean TorchServe's own default of 100
        settings["maxBatchDelayMilliseconds"] = max(1, math.ceil(spec.batching.max_delay_microseconds / 1000))
    return "torchServe", settings


def _refusals(spec: ModelDeploymentSpec) -> tuple[str, ...]:
    refused = []
    if spec.runtime.gpu_memory_fraction is not None:
        refused.append(
            "spec.runtime.gpuMemoryFraction: TorchServe can't bound its workers' GPU memory. Remove it; a handler can "
            "call torch.cuda.set_per_process_memory_fraction"
        )
    if spec.model.labels:
        refused.append("spec.model.labels: TorchServe has no labels for versions. Remove them; name versions by number")
    if spec.model.name is not None and (".mar" in spec.model.name or ".model" in spec.model.name):
        refused.append(
            f"spec.model.name: {spec.model.name!r} has .mar or .model in it, and TorchServe 0.12.0 dies when it "
            "starts. Choose another name"
        )
    gates = spec.rollout.gates
    if gates is not None and gates.signature == "Compatible":
        refused.append(
            "spec.rollout.gates.signature: TorchServe doesn't tell what its models take and give, so there is nothing "
            "to compare. Remove it, or write Ignore; spec.rollout.gates.golden asks the model itself"
        )
    if spec.runtime.image is None and gpu_count(spec):
        refused.append(
            "spec.resources.limits: a GPU, and the operator's TorchServe image is for CPUs. Set runtime.image, as in "
            "pytorch/torchserve:0.12.0-gpu"
        )
    return tuple(refused)


def _predict_path(spec: ModelDeploymentSpec, model: str, version: int | None) -> str:
    return f"/predictions/{model}" if version is None else f"/predictions/{model}/{version}"


def _version_path(spec: ModelDeploymentSpec, model: str, version: str) -> str | None:
    return f"/predictions/{model}/{version}"


TORCHSERVE = ServerRuntime(
    name="TorchServe",
    ports=fixed(HTTP, GRPC, METRICS),
    container=_container,
    agent_settings=_agent_settings,
    predict_path=_predict_path,
    version_path=_version_path,
    grpc_package="org.pytorch.serve",
    # ts_inference_requests_total counts all requests by model and version; Requests5XX has no labels, counts the
    # agent's requests too, and leaves out gRPC: a failing canary would look well (measured).
    metrics=None,
    uncounted="counts no failed gRPC request, and its failed REST requests together with the agent's own",
    grace_seconds=ENDPOINT_REMOVAL_SECONDS + DRAIN_SECONDS + STOP_SECONDS,
    refusals=_refusals,
    tells_signatures=False,
    log_folder=LOG_FOLDER,
)
