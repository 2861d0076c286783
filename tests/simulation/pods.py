"""Pods as the API server holds them, in each state of their lives; and what a pod sees of its ConfigMap, and when.

Pure: time comes in. Must not import slipway: what Kubernetes, kubelets and labels look like is said here once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

MODEL_LABEL, REVISION_LABEL = "slipway.dev/model", "slipway.dev/revision"
CONFIG_ANNOTATION, ROUTER_CONFIG_ANNOTATION = "slipway.dev/agent-config", "slipway.dev/router-config"
"""What the operator changes on a pod so that its kubelet reads the ConfigMap anew."""
ROUTER_SUFFIX = ".router"

REFRESH_SECONDS = 60
"""After which a kubelet reads a ConfigMap anew by itself."""
ENDING_NEEDS_SECONDS = 3
AGENT_NEEDS_SECONDS = 1
READY_NEEDS_SECONDS = 2
ROUTER_NEEDS_SECONDS = 3

NO_GPU = (
    "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available: 1 No preemption "
    "victims found for incoming pod."
)


# ---- objects


def labels_of(model: str, revision: str = "") -> dict[str, str]:
    """Of a model's pod; without a revision, of its router's."""
    return {MODEL_LABEL: model, REVISION_LABEL: revision} if revision else {MODEL_LABEL: model + ROUTER_SUFFIX}


def pod(
    name: str, labels: Mapping[str, str], status: Mapping[str, Any], namespace: str = "models", **meta: Any
) -> Json:
    """A pod's object. meta: other fields of its metadata."""
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "labels": dict(labels), **meta}
    return {"kind": "Pod", "metadata": metadata, "status": status}


def condition(kind: str, *, holds: bool = True, at: str | None = None, **words: str) -> Json:
    """at: since when; None: it doesn't say."""
    return {"type": kind, "status": str(holds), **words} | ({"lastTransitionTime": at} if at else {})


def container(name: str = "server", *, restarts: int = 0, last: Json | None = None, **state: Any) -> Json:
    """A container's status. state: `running={}`, `waiting={...}` or `terminated={...}`; last: the state before."""
    return {
        "name": name,
        "image": "registry.invalid/x:1",
        "imageID": "",
        "ready": "running" in state,
        "started": "running" in state,
        "restartCount": restarts,
        "state": state,
        "lastState": last or {},
    }


def crashed(message: str, ends: int = 1) -> Json:
    """The status of a server that ended by itself so often and runs again."""
    words = {"exitCode": 139, "message": message, "finishedAt": "2026-03-01T00:00:00Z"}
    return container(restarts=ends, last={"terminated": words}, running={})


# ---- statuses


def pending(*conditions: Json) -> Json:
    return {"phase": "Pending", "conditions": list(conditions)}


def unscheduled(message: str = NO_GPU) -> Json:
    """No node takes it."""
    return pending(condition("PodScheduled", holds=False, reason="Unschedulable", message=message))


def unpulled(name: str, image: str) -> Json:
    """It has a node, which can't pull its image."""
    words = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}": not found'}
    waiting = container(name, waiting=words) | {"image": image}
    return pending(condition("PodScheduled")) | {"containerStatuses": [waiting]}


def keyless(secret: str, at: str | None = None) -> Json:
    """It has a node, volumes and network, since `at`, and its containers wait for a Secret that isn't there."""
    missing = {"reason": "CreateContainerConfigError", "message": f'secret "{secret}" not found'}
    return pending(condition("PodScheduled", at=at), condition("PodReadyToStartContainers", at=at)) | {
        "podIP": "198.18.64.3",
        "initContainerStatuses": [container("agent", waiting=missing)],
        "containerStatuses": [container("server", waiting={"reason": "PodInitializing"})],
    }


def gated() -> Json:
    """A queue holds it back."""
    words = "Scheduling is blocked due to non-empty scheduling gates"
    return pending(condition("PodScheduled", holds=False, reason="SchedulingGated", message=words))


def pulling(at: str | None = None, *, agent_runs: bool = False) -> Json:
    """It has a node and its network, and the image of its agent, or else of its server, is being pulled; since `at`."""
    waiting = {"reason": "PodInitializing"}
    agent = container("agent", running={}) if agent_runs else container("agent", waiting=waiting)
    kinds = ["PodScheduled", "PodReadyToStartContainers", *(["Initialized"] if agent_runs else [])]
    return pending(*(condition(kind, at=at) for kind in kinds)) | {
        "podIP": "198.18.64.2",
        "initContainerStatuses": [agent],
        "containerStatuses": [container("server", waiting=waiting)],
    }


def starting(ip: str) -> Json:
    """It has a node and its agent runs; its server doesn't yet."""
    return pending(condition("PodScheduled")) | {
        "podIP": ip,
        "initContainerStatuses": [container("agent", running={})],
    }


def running(
    *containers: str, ip: str, agents: Iterable[str] = (), is_ready: bool = True, at: str | None = None
) -> Json:
    """All of its containers run. agents: the init containers that go on beside them. at: since when; None: unsaid."""
    began = {"startedAt": at} if at else {}
    holds = {"PodScheduled": True, "Initialized": True, "ContainersReady": is_ready, "Ready": is_ready}
    return {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [condition(kind, holds=holds[kind], at=at) for kind in holds],
        "initContainerStatuses": [container(name, running=began) for name in agents],
        "containerStatuses": [container(name, running=began) for name in containers],
    } | ({"startTime": at} if at else {})


# ---- lives


def is_ready(body: Json) -> bool:
    """Whether the condition Ready is True."""
    found = body.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in found)


def is_ending(body: Json) -> bool:
    return "deletionTimestamp" in body["metadata"]


def is_router(body: Json) -> bool:
    return str(body["metadata"]["labels"].get(MODEL_LABEL, "")).endswith(ROUTER_SUFFIX)


def nudge_of(body: Json, annotation: str) -> str | None:
    """The annotation by which the operator nudges the pod's kubelet."""
    return (body["metadata"].get("annotations") or {}).get(annotation)


def model_pod_status(age_seconds: float, *, has_orders: bool, is_served: bool) -> Json:
    """Of a pod with a node. has_orders: its ConfigMap is mounted; is_served: its agent says that it may get traffic."""
    if age_seconds >= READY_NEEDS_SECONDS and has_orders:
        return running("server", ip="198.18.0.1", agents=["agent"], is_ready=is_served)
    if age_seconds >= AGENT_NEEDS_SECONDS and has_orders:
        return starting("198.18.0.1")
    return pending(condition("PodScheduled"))


def router_status(age_seconds: float, *, has_config: bool) -> Json:
    if age_seconds >= ROUTER_NEEDS_SECONDS and has_config:
        return running("envoy", ip="198.18.0.2")
    return pending(condition("PodScheduled"))


@dataclass
class Mount:
    """A ConfigMap as a pod sees it: read when it starts, when the pod is nudged, and after a while in any case.

    nudge: the pod's annotation when it was read last. Times are in seconds, of any clock.
    """

    refresh_seconds: float = REFRESH_SECONDS
    data: Json | None = None
    nudge: str | None = None
    read_at: float = -math.inf
    nudged_at: float | None = None

    def is_due(self, nudge: str | None, now: float, late_seconds: float | None = 0) -> bool:
        """Whether the kubelet reads it now. late_seconds: what it takes to see a nudge; None: it sees none."""
        is_nudged = False
        if nudge != self.nudge and late_seconds is not None:
            self.nudged_at = now if self.nudged_at is None else self.nudged_at
            is_nudged = now - self.nudged_at >= late_seconds
        return is_nudged or now - self.read_at >= self.refresh_seconds

    def read(self, data: Json, nudge: str | None, now: float) -> None:
        self.data, self.nudge, self.read_at, self.nudged_at = data, nudge, now, None
