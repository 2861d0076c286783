"""The world as one frozen value: owned objects and agents' reports, read into types.

Invariant: nothing here decides anything; what can't be read is absent, never an error.
Pure: the objects come in as JSON, from the shell's cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from slipway.api.v1alpha1 import KIND
from slipway.manifests import AGENT_CONFIG_KEY, CONFIG_ANNOTATION, REVISION_LABEL
from slipway.revisions import Json, Revision, read_revision
from slipway.rollout import RevisionPods

MANY_RESTARTS = 3

PREPARING_SECONDS = 30
"""A pod with a node has its volumes and its network sooner; images are pulled after that and don't count here."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something is not ready: a CamelCase reason and a message in words for a person.

    needs_person: waiting alone will not end it.
    """

    reason: str
    message: str
    needs_person: bool = True


@dataclass(frozen=True, slots=True)
class VersionReport:
    """What an agent says of one version."""

    version: int
    state: str
    reason: str
    message: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What an agent says: GET /status, schema 1."""

    generation: str
    listed: tuple[int, ...]
    versions: tuple[VersionReport, ...]
    trouble: Trouble | None


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a model.

    ip: set once its agent can be asked. told: the agent configuration that was last pushed to it, if any.
    preparing_since: it has a node since then, and no address yet: its volumes and network are being prepared.
    """

    name: str
    uid: str
    revision: str
    is_ready: bool
    is_ending: bool
    ip: str | None
    told: str | None
    trouble: Trouble | None
    report: AgentReport | None = None
    preparing_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything a pass decides on, beside spec and status.

    live: (kind, name) → the object as it stands. foreign: those under our label that another owner has.
    configured: revision → generation of the agent configuration in its ConfigMap. ordered: the versions it orders.
    """

    live: Mapping[tuple[str, str], Json]
    foreign: frozenset[tuple[str, str]]
    revisions: Mapping[str, Revision]
    deployments: Mapping[str, RevisionPods]
    troubles: Mapping[str, Trouble]
    pods: tuple[Pod, ...]
    configured: Mapping[str, str]
    ordered: Mapping[str, tuple[int, ...]]


def observe(
    uid: str, children: Iterable[Json], reports: Mapping[str, AgentReport], now: datetime | None = None
) -> Observed:
    """Read a ModelDeployment's children.

    uid: the ModelDeployment's own. children: all objects under its label. reports: pod uid → its agent's report.
    now: without it, nothing is said of pods that take long to start.
    """
    live: dict[tuple[str, str], Json] = {}
    foreign: set[tuple[str, str]] = set()
    revisions: dict[str, Revision] = {}
    pods: list[Pod] = []
    configured: dict[str, str] = {}
    ordered: dict[str, tuple[int, ...]] = {}
    for child in children:
        kind, name = child["kind"], child["metadata"]["name"]
        if kind == "Pod":
            pods.append(read_pod(child, reports, now))
            continue
        if not is_owned(child, uid):
            foreign.add((kind, name))
            continue
        live[kind, name] = child
        if kind == "ControllerRevision" and (revision := read_revision(child)):
            revisions[revision.hash] = revision
        elif kind == "ConfigMap":
            configured[revision_of(child)], ordered[revision_of(child)] = _orders(child)
    deployments: dict[str, RevisionPods] = {}
    troubles: dict[str, Trouble] = {}
    for (kind, _), child in live.items():
        if kind != "Deployment" or child["metadata"].get("deletionTimestamp"):
            continue
        revision_hash = revision_of(child)
        own = [pod for pod in pods if pod.revision == revision_hash and not pod.is_ending]
        if trouble := _trouble_of(child, own):
            troubles[revision_hash] = trouble
        deployments[revision_hash] = RevisionPods(
            wanted=child["spec"].get("replicas", 1),
            existing=len(own),
            ready=sum(pod.is_ready for pod in own),
            is_fetching=any(_is_fetching(pod) for pod in own),
            is_blocked=trouble is not None and trouble.reason == "Unschedulable",
        )
    return Observed(live, frozenset(foreign), revisions, deployments, troubles, tuple(pods), configured, ordered)


def is_owned(child: Json, uid: str) -> bool:
    """Whether the ModelDeployment with that uid is the object's controller."""
    owners = child["metadata"].get("ownerReferences") or []
    return any(owner.get("uid") == uid and owner.get("controller") for owner in owners)


def was_owned(child: Json, name: str) -> bool:
    """Whether a ModelDeployment of that name is or was the object's controller: made anew, it has another uid."""
    owners = child["metadata"].get("ownerReferences") or []
    return any(owner.get("kind") == KIND and owner.get("name") == name and owner.get("controller") for owner in owners)


def revision_of(child: Json) -> str:
    """The revision that an object's label names; empty when none does."""
    return str((child["metadata"].get("labels") or {}).get(REVISION_LABEL, ""))


def _orders(config_map: Json) -> tuple[str, tuple[int, ...]]:
    """Generation and versions of the agent configuration in a ConfigMap; empty when it can't be read."""
    try:
        config = json.loads((config_map.get("data") or {})[AGENT_CONFIG_KEY])
        return str(config["generation"]), tuple(int(version) for version in config["load"])
    except (KeyError, TypeError, ValueError):
        return "", ()


def _is_fetching(pod: Pod) -> bool:
    return (
        pod.report is not None
        and pod.report.trouble is None
        and any(version.state == "Fetching" for version in pod.report.versions)
    )


def read_pod(body: Json, reports: Mapping[str, AgentReport], now: datetime | None = None) -> Pod:
    """A pod, from its object and its agent's report; `now` as in `observe`."""
    meta, status = body["metadata"], body.get("status") or {}
    report = reports.get(meta["uid"])
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    agent_runs = any(c["name"] == "agent" and "running" in (c.get("state") or {}) for c in containers)
    preparing_since = None if status.get("podIP") else _scheduled_at(conditions)
    trouble = _pod_trouble(meta["name"], conditions, containers, report)
    if trouble is None and preparing_since and now and now - preparing_since >= timedelta(seconds=PREPARING_SECONDS):
        trouble = Trouble(
            "VolumesNotReady",
            f"pod {meta['name']} has a node and can't start there for {PREPARING_SECONDS} s: most often a volume that "
            "can't be mounted, or a ConfigMap or Secret that does not exist (spec.storage.caBundle, the volumes of "
            f"spec.podTemplate). The node says which: kubectl describe pod {meta['name']}",
        )
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        revision=revision_of(body),
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        is_ending="deletionTimestamp" in meta or status.get("phase") in ("Succeeded", "Failed"),
        ip=status.get("podIP") if agent_runs else None,
        told=(meta.get("annotations") or {}).get(CONFIG_ANNOTATION),
        trouble=trouble,
        report=report,
        preparing_since=preparing_since,
    )


def _scheduled_at(conditions: Mapping[str, Json]) -> datetime | None:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") != "True":
        return None
    try:
        return datetime.fromisoformat(str(scheduled.get("lastTransitionTime")))
    except ValueError:
        return None


def _pod_trouble(
    name: str, conditions: Mapping[str, Json], containers: list[Json], report: AgentReport | None
) -> Trouble | None:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return _unschedulable(name, scheduled)
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
            return Trouble(
                "ImagePullFailed",
                f"pod {name}: image {container.get('image')!r} of container {container['name']} can't be pulled: "
                f"{_first_line(waiting.get('message') or waiting['reason'])}. Check its name, and "
                "spec.podTemplate.spec.imagePullSecrets",
            )
        if waiting.get("reason") in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            return Trouble(
                "ContainerFailed",
                f"pod {name}: container {container['name']} can't start: {_first_line(waiting.get('message') or '')}",
            )
    if report is not None and report.trouble is not None:
        return report.trouble
    for container in containers:
        state, count = container.get("state") or {}, container.get("restartCount") or 0
        is_waiting = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
        # Between two ends the container runs for a moment: what is said of it must not come and go.
        if is_waiting or count >= MANY_RESTARTS:
            last = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
            why = last.get("message") or last.get("reason") or "no message"
            return Trouble(
                "CrashLoop",
                f"pod {name}: container {container['name']} ended {count} times, last with "
                f"exit code {last.get('exitCode')} ({_first_line(why)}). Read it with: kubectl logs {name} -c "
                f"{container['name']} --previous",
            )
    return None


def _unschedulable(name: str, scheduled: Json) -> Trouble:
    """PodScheduled=False in words. Kubernetes' own: `0/3 nodes are available: 1 Insufficient cpu, 3 Insufficient …`."""
    message = re.split(
        r"[.,]? (?:no new claims to deallocate, |still not schedulable, )?preemption:",
        str(scheduled.get("message") or ""),
    )[0].strip()
    if claim := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        return Trouble(
            "ClaimNotFound",
            f"pod {name} waits for PersistentVolumeClaim {claim[1]}, which does not exist in this namespace. Create "
            "it, or correct spec.model.uri or the volumes of spec.podTemplate",
        )
    total = message.partition("/")[2].partition(" ")[0]
    lacking = [
        f"{resource.rstrip('.')} is missing on {count} of {total} nodes"
        for count, resource in re.findall(r"\b(\d+) Insufficient ([^\s,]+)", message)
    ]
    if lacking:
        what = "; ".join(lacking)
        return Trouble(
            "Unschedulable",
            f"pod {name} finds no node: {what}. Free some, add a node that has it, or ask for less in spec.resources "
            f"({message})",
        )
    return Trouble("Unschedulable", f"pod {name} finds no node: {message or 'no reason given'}", needs_person=True)


def _trouble_of(deployment: Json, pods: list[Pod]) -> Trouble | None:
    for condition in (deployment.get("status") or {}).get("conditions") or []:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            text = str(condition.get("message", ""))
            if "exceeded quota" in text:
                return Trouble(
                    "QuotaExceeded",
                    f"the namespace's quota allows no more pods of this size: {_first_line(text)}. Raise the "
                    "ResourceQuota, or ask for less in spec.resources or spec.replicas",
                )
            return Trouble("PodsRefused", f"the API server refuses the pods: {_first_line(text)}")
    return next((pod.trouble for pod in pods if pod.trouble and not pod.is_ready), None)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:1000]


def read_report(answer: Any) -> AgentReport | None:
    """An agent's answer to GET /status, or None when it can't be read."""
    try:
        error = answer.get("error")
        trouble = None
        if error:
            trouble = Trouble(str(error["reason"])[:64], str(error["message"])[:2000], bool(error.get("permanent")))
        return AgentReport(
            generation=str(answer["generation"]),
            listed=tuple(int(version) for version in answer.get("listed") or ()),
            versions=tuple(
                VersionReport(
                    version=int(version["version"]),
                    state=str(version["state"]),
                    reason=str(version.get("reason") or "")[:64],
                    message=str(version.get("message") or "")[:2000],
                    sha256=str(version["sha256"])[:64] if version.get("sha256") else None,
                )
                for version in answer.get("versions") or ()
            ),
            trouble=trouble,
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None
