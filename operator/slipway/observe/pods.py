"""A model's pods, each from its object and its agent's report.

Invariant: a pod is read on its own; what its workload makes of it is `observe.snapshot`'s.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from slipway.model.names import CONFIG_ANNOTATION, REFRESHED_BY_ANNOTATION, REVISION_LABEL
from slipway.model.revision import Json
from slipway.model.workload import Crash, Trouble
from slipway.observe.agent_reports import AgentReport
from slipway.observe.lost_keys import key_trouble, said_at
from slipway.observe.pod_object import PodObject, changed_at, read_pod_object, since_words
from slipway.observe.problems import pod_trouble, why_ended
from slipway.observe.quoting import first_line
from slipway.observe.room import PULLING, ROOM, pull_under_way

PREPARING_SECONDS = 30
"""A pod with a node has its volumes and its network sooner; images are pulled after that and don't count here."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a model. workload: the Deployment that it belongs to, by the revision label of both.

    ip: set once its agent can be asked. sent: the agent configuration that was last pushed to it, if any.
    trouble: why it isn't ready, or will not be; a pull that goes on is one, too (`room.ROOM` says which are waits).
    turns_at: when time alone changes what is said of it; None: it doesn't.
    crash: how often its server has ended by itself; None: never. node: None: nowhere yet.
    refreshed_by: the refresh that made its template; None: none did.
    Thirteen fields: they are the object's own.
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
    turns_at: datetime | None = None
    crash: Crash | None = None
    node: str | None = None
    refreshed_by: str | None = None


def revision_of(child: Json) -> str:
    """The revision that an object's label names: of pods, Deployments and ConfigMaps, their workload's."""
    return str((child["metadata"].get("labels") or {}).get(REVISION_LABEL, ""))


def read_pod(body: Json, reports: Mapping[str, AgentReport], now: datetime | None = None) -> Pod:
    """A pod, from its object and its agent's report; `now` as in `observe`."""
    meta, status, seen = body["metadata"], body.get("status") or {}, read_pod_object(body)
    report = reports.get(meta["uid"])
    containers = [*seen.starting, *seen.main]
    agent_runs = any(c["name"] == "agent" and "running" in (c.get("state") or {}) for c in containers)
    trouble, turns_at = key_trouble(seen, meta.get("labels") or {}), None
    if trouble is not None and now is not None:
        late_from = said_at(seen)
        turns_at = late_from if late_from is not None and now < late_from else None
    trouble = trouble or pod_trouble(seen, report)
    if trouble is None and now is not None:
        trouble, turns_at = _slow_start(seen, now)
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        workload=revision_of(body),
        is_ready=seen.holds("Ready"),
        is_ending="deletionTimestamp" in meta or status.get("phase") in ("Succeeded", "Failed"),
        ip=status.get("podIP") if agent_runs else None,
        sent=(meta.get("annotations") or {}).get(CONFIG_ANNOTATION),
        trouble=trouble,
        report=report,
        turns_at=turns_at,
        crash=_read_crash(meta["name"], meta["uid"], containers),
        node=seen.node,
        refreshed_by=(meta.get("annotations") or {}).get(REFRESHED_BY_ANNOTATION),
    )


def _slow_start(pod: PodObject, now: datetime) -> tuple[Trouble | None, datetime | None]:
    """What takes long before a pod's containers run; and while it is too soon to say so, when to look again."""
    since = pod.holds_since("PodScheduled")
    if pod.has_sandbox or since is None:
        return pull_under_way(pod, now)
    said_at = since + timedelta(seconds=PREPARING_SECONDS)
    if now < said_at:
        return None, said_at
    return Trouble(
        "VolumesNotReady",
        f"pod {pod.name} has had a node for {PREPARING_SECONDS} s, and its containers don't start. Most often "
        "a volume can't be mounted, or a ConfigMap or Secret does not exist (spec.storage.caBundle, the volumes of "
        f"spec.podTemplate). See which: kubectl describe pod {pod.name}",
    ), None


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


class MayBeTroubled(Protocol):
    """A pod of a model, or of its routers."""

    @property
    def trouble(self) -> Trouble | None:
        """What keeps it from being ready."""

    @property
    def is_ready(self) -> bool:
        """Whether it is."""


def deployment_trouble(
    deployment: Json, pods: Iterable[MayBeTroubled], of_nodes: Iterable[Trouble] = ()
) -> Trouble | None:
    """What keeps a Deployment from having ready pods. of_nodes: of pods that fail for their node's sake.

    What counts against the revision comes first: a wait must not hide it. Then waits, then what passes.
    """
    failures = (_replica_failure(each) for each in (deployment.get("status") or {}).get("conditions") or [])
    of_pods = (pod.trouble for pod in pods if not pod.is_ready)
    found = [trouble for trouble in (*failures, *of_nodes, *of_pods) if trouble is not None]
    return min(found, key=_how_far, default=None)


def _how_far(trouble: Trouble) -> int:
    """The less, the more it has to be said."""
    if trouble.reason == PULLING:
        return 4
    if trouble.reason in ROOM:
        return 1 if trouble.needs_person else 2
    return 0 if trouble.needs_person else 3


def _replica_failure(condition: Json) -> Trouble | None:
    """Why the API server makes no pod, from a Deployment's condition."""
    if condition["type"] != "ReplicaFailure" or condition["status"] != "True":
        return None
    text = str(condition.get("message", ""))
    if "exceeded quota" in text:
        return Trouble(
            "QuotaExceeded",
            f"the namespace's quota allows no more pods of this size{since_words(changed_at(condition))}: "
            f"{first_line(text)}. Raise the ResourceQuota, or ask for less in spec.resources or spec.replicas",
        )
    return Trouble(
        "PodsRefused",
        f"the API server refuses the pods: {first_line(text)}. Correct the part of spec.podTemplate or "
        "spec.resources that it names, or the namespace's policy",
    )
