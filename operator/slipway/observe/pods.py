"""A model's pods, each from its object and its agent's report.

Invariant: a pod is read on its own; what its workload makes of it is `observe.snapshot`'s.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from slipway.model.names import CONFIG_ANNOTATION, REVISION_LABEL
from slipway.model.revision import Json
from slipway.model.workload import Crash, Trouble
from slipway.observe.agent_reports import AgentReport
from slipway.observe.problems import first_line, pod_trouble, why_ended

PREPARING_SECONDS = 30
"""A pod with a node has its volumes and its network sooner; images are pulled after that and don't count here."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a model. workload: the Deployment that it belongs to, by the revision label of both.

    ip: set once its agent can be asked. sent: the agent configuration that was last pushed to it, if any.
    preparing_since: it has a node since then, and no address yet: its volumes and network are being prepared.
    crash: how often its server has ended by itself; None: never.
    """

    name: str
    uid: str
    workload: str
    is_ready: bool
    is_ending: bool
    ip: str | None
    sent: str | None
    trouble: Trouble | None
    report: AgentReport | None = None
    preparing_since: datetime | None = None
    crash: Crash | None = None


def revision_of(child: Json) -> str:
    """The revision that an object's label names: of pods, Deployments and ConfigMaps, their workload's."""
    return str((child["metadata"].get("labels") or {}).get(REVISION_LABEL, ""))


def read_pod(body: Json, reports: Mapping[str, AgentReport], now: datetime | None = None) -> Pod:
    """A pod, from its object and its agent's report; `now` as in `observe`."""
    meta, status = body["metadata"], body.get("status") or {}
    report = reports.get(meta["uid"])
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    agent_runs = any(c["name"] == "agent" and "running" in (c.get("state") or {}) for c in containers)
    preparing_since = None if status.get("podIP") else _scheduled_at(conditions)
    trouble = pod_trouble(meta["name"], conditions, containers, report)
    if trouble is None and preparing_since and now and now - preparing_since >= timedelta(seconds=PREPARING_SECONDS):
        trouble = Trouble(
            "VolumesNotReady",
            f"pod {meta['name']} has had a node for {PREPARING_SECONDS} s, and its containers don't start. Most often "
            "a volume can't be mounted, or a ConfigMap or Secret does not exist (spec.storage.caBundle, the volumes of "
            f"spec.podTemplate). See which: kubectl describe pod {meta['name']}",
        )
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        workload=revision_of(body),
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        is_ending="deletionTimestamp" in meta or status.get("phase") in ("Succeeded", "Failed"),
        ip=status.get("podIP") if agent_runs else None,
        sent=(meta.get("annotations") or {}).get(CONFIG_ANNOTATION),
        trouble=trouble,
        report=report,
        preparing_since=preparing_since,
        crash=_read_crash(meta["name"], meta["uid"], containers),
    )


def _read_crash(pod: str, uid: str, containers: list[Json]) -> Crash | None:
    """How often the server of a pod has ended, with whatever exit code, and its last words. None: never.

    Kubernetes counts the starts: one that has ended and is yet to be started again isn't in `restartCount`.
    """
    server = next((container for container in containers if container["name"] == "server"), None)
    if server is None:
        return None
    state = server.get("state") or {}
    ended = state.get("terminated") or (server.get("lastState") or {}).get("terminated")
    if not ended:
        return None
    ends = int(server.get("restartCount") or 0) + (0 if "running" in state else 1)
    words = f"the server of pod {pod} ended with exit code {ended.get('exitCode')} ({why_ended(ended)})"
    return Crash(uid, ends, words) if ends else None


def _scheduled_at(conditions: Mapping[str, Json]) -> datetime | None:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") != "True":
        return None
    try:
        return datetime.fromisoformat(str(scheduled.get("lastTransitionTime")))
    except ValueError:
        return None


class MayBeTroubled(Protocol):
    """A pod of a model, or of its routers."""

    @property
    def trouble(self) -> Trouble | None:
        """What keeps it from being ready."""

    @property
    def is_ready(self) -> bool:
        """Whether it is."""


def deployment_trouble(deployment: Json, pods: Iterable[MayBeTroubled]) -> Trouble | None:
    """What keeps a Deployment from having ready pods: its own trouble, else that of the first pod that has one."""
    for condition in (deployment.get("status") or {}).get("conditions") or []:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            text = str(condition.get("message", ""))
            if "exceeded quota" in text:
                return Trouble(
                    "QuotaExceeded",
                    f"the namespace's quota allows no more pods of this size: {first_line(text)}. Raise the "
                    "ResourceQuota, or ask for less in spec.resources or spec.replicas",
                )
            return Trouble(
                "PodsRefused",
                f"the API server refuses the pods: {first_line(text)}. Correct the part of spec.podTemplate or "
                "spec.resources that it names, or the namespace's policy",
            )
    return next((pod.trouble for pod in pods if pod.trouble and not pod.is_ready), None)
