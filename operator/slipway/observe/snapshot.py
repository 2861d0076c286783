"""The world as one frozen value: owned objects and agents' reports, read into types.

Invariant: nothing here decides anything; what can't be read is absent, never an error.
Pure: the objects come in as JSON, from the shell's cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from slipway.api.v1alpha1 import KIND, MAX_VERSION
from slipway.decide.service_target import Entry, read_entry
from slipway.model.names import (
    AGENT_CONFIG_KEY,
    CARRIES_ANNOTATION,
    CONFIG_ANNOTATION,
    MODEL_LABEL,
    RECORDED_KEY,
    REPLACES_ANNOTATION,
    REVISION_LABEL,
    ROUTED_ANNOTATION,
)
from slipway.model.revision import Json, Revision, read_digests, read_revision
from slipway.model.rollout import CarrierPods, Crash
from slipway.model.signals import InForce
from slipway.model.signature import GoldenReport, Signature, read_golden, read_signatures
from slipway.observe.router_reports import RouterPod, RouterReport, in_force, is_of_router, read_asked, read_router_pod

MANY_RESTARTS = 3

REFUSALS = frozenset(
    {
        "LoadFailed",
        "WarmupFailed",
        "GoldenFailed",
        "GoldenUnreadable",
        "DigestMismatch",
        "ContentChanged",
        "NoModelFile",
        "ModelInvalid",
        "UnsupportedArchive",
        "UnsafePath",
    }
)
"""An agent's reasons that speak of the version's bytes: more of the same will not help."""

LOADED = ("Available", "Unloading")

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
    since: str | None = None


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What an agent says: GET /status, schema 1.

    found: version → stamp, a name for its bytes at the source; None where the source can't tell.
    listing_trouble: why the source can't be listed. serving: what an unversioned request gets.
    labels: one trouble for each label that can't stand where it should.
    signatures: loaded version → what it takes and gives; None: the server doesn't tell. tells_signatures: one that is
    missing is about to come; False: the agent is too old for that. golden: how the golden requests went.
    """

    generation: str
    listed: tuple[int, ...]
    versions: tuple[VersionReport, ...]
    trouble: Trouble | None
    found: Mapping[int, str | None] = field(default_factory=dict)
    listing_trouble: Trouble | None = None
    serving: int | None = None
    labels: tuple[Trouble, ...] = ()
    signatures: Mapping[int, Signature | None] = field(default_factory=dict)
    tells_signatures: bool = False
    golden: GoldenReport | None = None

    def version(self, number: int) -> VersionReport | None:
        """What it says of that version."""
        return next((report for report in self.versions if report.version == number), None)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a model. carrier: the Deployment that it belongs to, by the revision label of both.

    ip: set once its agent can be asked. told: the agent configuration that was last pushed to it, if any.
    preparing_since: it has a node since then, and no address yet: its volumes and network are being prepared.
    crash: the last time that its server ended by itself.
    """

    name: str
    uid: str
    carrier: str
    is_ready: bool
    is_ending: bool
    ip: str | None
    told: str | None
    trouble: Trouble | None
    report: AgentReport | None = None
    preparing_since: datetime | None = None
    crash: Crash | None = None


@dataclass(frozen=True, slots=True)
class Ordered:
    """What a carrier's ConfigMap says.

    generation: of the agents' configuration; empty when it can't be read. load, served: as in agent.json.
    revision: the one it carries; replaces: the one before it in place, while that counts.
    recorded: version → sha256, as its agents read it. golden: the requests that its agents ask first, if any.
    """

    generation: str
    revision: str
    load: tuple[int, ...] = ()
    served: int | None = None
    replaces: str | None = None
    recorded: Mapping[int, str] = field(default_factory=dict)
    golden: Json | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything a pass decides on, beside spec and status.

    live: (kind, name) → the object as it stands. foreign: those under our label that another owner has.
    carriers: Deployments by their revision label; troubles likewise. ordered: carrier → what its ConfigMap orders.
    left_over: carriers without a Deployment that have pods yet: the garbage collector is about to come to these.
    entry: what Service <name> reaches. routers: the routers' pods; router_reports: pod uid → what one says; by_router:
    what all ready ones say. routed: generation of the routers' configuration as it stands; asked: its weights.
    """

    live: Mapping[tuple[str, str], Json]
    foreign: frozenset[tuple[str, str]]
    revisions: Mapping[str, Revision]
    carriers: Mapping[str, CarrierPods]
    troubles: Mapping[str, Trouble]
    pods: tuple[Pod, ...]
    ordered: Mapping[str, Ordered]
    left_over: frozenset[str] = frozenset()
    entry: Entry | None = None
    routers: tuple[RouterPod, ...] = ()
    router_reports: Mapping[str, RouterReport] = field(default_factory=dict)
    by_router: InForce | None = None
    routed: str | None = None
    asked: Mapping[str, int] = field(default_factory=dict)

    def revision_of_pod(self, pod: Pod) -> str:
        """The revision that the pod's agent has orders for."""
        return self.ordered[pod.carrier].revision if pod.carrier in self.ordered else pod.carrier


def observe(
    uid: str,
    children: Iterable[Json],
    reports: Mapping[str, AgentReport],
    now: datetime | None = None,
    router_reports: Mapping[str, RouterReport] | None = None,
) -> Observed:
    """Read a ModelDeployment's children.

    uid: the ModelDeployment's own. children: all objects under its label. reports: pod uid → its agent's report.
    now: without it, nothing is said of pods that take long to start.
    """
    live: dict[tuple[str, str], Json] = {}
    foreign: set[tuple[str, str]] = set()
    revisions: dict[str, Revision] = {}
    pods: list[Pod] = []
    routers: list[RouterPod] = []
    ordered: dict[str, Ordered] = {}
    entry, routed = None, None
    asked: Mapping[str, int] = {}
    for child in children:
        kind, name = child["kind"], child["metadata"]["name"]
        if kind == "Pod":
            if is_of_router(child):
                routers.append(read_router_pod(child))
            else:
                pods.append(read_pod(child, reports, now))
            continue
        if not is_owned(child, uid):
            foreign.add((kind, name))
            continue
        live[kind, name] = child
        if kind == "ControllerRevision" and (revision := read_revision(child)):
            revisions[revision.hash] = revision
        elif kind == "ConfigMap" and revision_of(child):
            ordered[revision_of(child)] = _read_orders(child)
        elif kind == "ConfigMap":
            routed = (child["metadata"].get("annotations") or {}).get(ROUTED_ANNOTATION)
            asked = read_asked(child)
        elif kind == "Service" and not revision_of(child):
            entry = read_entry(child, child["metadata"]["labels"][MODEL_LABEL])
    carriers: dict[str, CarrierPods] = {}
    troubles: dict[str, Trouble] = {}
    for (kind, _), child in live.items():
        if kind != "Deployment" or not revision_of(child) or child["metadata"].get("deletionTimestamp"):
            continue
        carrier = revision_of(child)
        orders = ordered.get(carrier) or Ordered("", carrier)
        own = [pod for pod in pods if pod.carrier == carrier and not pod.is_ending]
        if trouble := _trouble_of(child, own):
            troubles[carrier] = trouble
        carriers[carrier] = CarrierPods(
            revision=orders.revision,
            wanted=child["spec"].get("replicas", 1),
            existing=len(own),
            ready=sum(pod.is_ready for pod in own),
            replaces=orders.replaces,
            switched=sum(_has_switched(pod, orders) for pod in own),
            is_fetching=any(_is_fetching(pod) for pod in own),
            is_blocked=trouble is not None and trouble.reason == "Unschedulable",
            is_refused=any(_is_refused(pod, orders) for pod in own),
            crash=max((pod.crash for pod in own if pod.crash), key=lambda crash: crash.at, default=None),
        )
    left_over = frozenset(pod.carrier for pod in pods if pod.carrier not in carriers and not pod.is_ending)
    for carrier in left_over:
        names = ", ".join(sorted(pod.name for pod in pods if pod.carrier == carrier and not pod.is_ending))
        troubles[carrier] = Trouble(
            "FormerPodsLeft",
            f"pods of a Deployment that was deleted are still there ({names}); new ones come once these end. Should "
            f"nothing end them, delete them: kubectl delete pod {names.replace(',', '')}",
            needs_person=False,
        )
    theirs = next((one for (kind, _), one in live.items() if kind == "Deployment" and not revision_of(one)), None)
    if theirs is None or theirs["metadata"].get("deletionTimestamp"):
        # The garbage collector has not come to them yet.
        routers = [replace(pod, is_ending=True) for pod in routers]
    heard = router_reports or {}
    ready = [pod for pod in routers if pod.is_ready and not pod.is_ending]
    said = [heard[pod.uid] for pod in ready if pod.uid in heard]
    by_router = in_force(said, len(ready))
    # One that is about to be ready counts too: it may have mounted what was there before.
    running = [heard.get(pod.uid) for pod in routers if not pod.is_ending and (pod.is_ready or pod.ip is not None)]
    if by_router is not None and any(report is None or report.generation != routed for report in running):
        by_router = replace(by_router, is_latest=False)
    if by_router is not None:
        ending = [heard[pod.uid] for pod in routers if pod.is_ending and pod.uid in heard]
        lingering = {carrier for report in ending for carrier, weight in report.weights.items() if weight}
        by_router = replace(by_router, lingering=frozenset(lingering))
    return Observed(
        live,
        frozenset(foreign),
        revisions,
        carriers,
        troubles,
        tuple(pods),
        ordered,
        left_over,
        entry,
        tuple(routers),
        heard,
        by_router,
        routed,
        asked,
    )


def is_owned(child: Json, uid: str) -> bool:
    """Whether the ModelDeployment with that uid is the object's controller."""
    owners = child["metadata"].get("ownerReferences") or []
    return any(owner.get("uid") == uid and owner.get("controller") for owner in owners)


def was_owned(child: Json, name: str) -> bool:
    """Whether a ModelDeployment of that name is or was the object's controller: made anew, it has another uid."""
    owners = child["metadata"].get("ownerReferences") or []
    return any(owner.get("kind") == KIND and owner.get("name") == name and owner.get("controller") for owner in owners)


def revision_of(child: Json) -> str:
    """The revision that an object's label names: of pods, Deployments and ConfigMaps, their carrier's."""
    return str((child["metadata"].get("labels") or {}).get(REVISION_LABEL, ""))


def _read_orders(config_map: Json) -> Ordered:
    """What a ConfigMap of ours says; of one that a person has broken, only whose it is."""
    carrier = revision_of(config_map)
    annotations = config_map["metadata"].get("annotations") or {}
    data = config_map.get("data") or {}
    revision = annotations.get(CARRIES_ANNOTATION) or carrier
    try:
        config = json.loads(data[AGENT_CONFIG_KEY])
        return Ordered(
            generation=str(config["generation"]),
            revision=revision,
            load=tuple(int(version) for version in config["load"]),
            served=None if config.get("served") is None else int(config["served"]),
            replaces=annotations.get(REPLACES_ANNOTATION) or None,
            recorded=read_digests(data.get(RECORDED_KEY)),
            golden=config.get("golden"),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return Ordered("", revision)


def _has_switched(pod: Pod, orders: Ordered) -> bool:
    report = pod.report
    return (
        pod.is_ready
        and report is not None
        and report.generation == orders.generation
        and report.serving is not None
        and report.serving == orders.served
    )


def _is_refused(pod: Pod, orders: Ordered) -> bool:
    """Whether the pod can't use the version that it is to serve, for a reason that stays."""
    if pod.report is None or pod.report.generation != orders.generation or orders.served is None:
        return False
    report = pod.report.version(orders.served)
    return report is not None and report.state == "Failed" and report.reason in REFUSALS


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
        carrier=revision_of(body),
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        is_ending="deletionTimestamp" in meta or status.get("phase") in ("Succeeded", "Failed"),
        ip=status.get("podIP") if agent_runs else None,
        told=(meta.get("annotations") or {}).get(CONFIG_ANNOTATION),
        trouble=trouble,
        report=report,
        preparing_since=preparing_since,
        crash=_last_crash(meta["name"], containers),
    )


def _last_crash(pod: str, containers: list[Json]) -> Crash | None:
    """When the server of a pod ended with an error last, and what it said."""
    for container in containers:
        if container["name"] != "server":
            continue
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            ended = state.get("terminated") or {}
            if not ended.get("exitCode"):
                continue
            try:
                at = datetime.fromisoformat(str(ended.get("finishedAt")))
            except ValueError:
                continue
            return Crash(at, f"the server of pod {pod} ended with exit code {ended['exitCode']} ({_why_ended(ended)})")
    return None


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
            return Trouble(
                "CrashLoop",
                f"pod {name}: container {container['name']} ended {count} times, last with "
                f"exit code {last.get('exitCode')} ({_why_ended(last)}). Read it with: kubectl logs {name} -c "
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


def _why_ended(terminated: Json) -> str:
    """Kubernetes' reason, where it says more than that there was an error (OOMKilled), and the last words."""
    reason = str(terminated.get("reason") or "")
    said = _last_words(str(terminated.get("message") or ""))
    parts = [reason if reason != "Error" or not said else "", said]
    return ": ".join(part for part in parts if part) or "no message"


def _last_words(text: str) -> str:
    """Of a program's last lines, the one that says why it ended: the last that is no line of a stack."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith((" ", "\t", "at "))] or lines or [""]
    return said[-1][:1000]


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:1000]


def read_report(answer: Any) -> AgentReport | None:
    """An agent's answer to GET /status, or None when it can't be read."""
    try:
        signatures = read_signatures(answer)
        return AgentReport(
            generation=str(answer["generation"]),
            listed=tuple(each for version in answer.get("listed") or () if (each := int(version)) <= MAX_VERSION),
            versions=tuple(
                VersionReport(
                    version=int(version["version"]),
                    state=str(version["state"]),
                    reason=str(version.get("reason") or "")[:64],
                    message=str(version.get("message") or "")[:2000],
                    sha256=str(version["sha256"])[:64] if version.get("sha256") else None,
                    since=str(version["since"])[:64] if version.get("since") else None,
                )
                for version in answer.get("versions") or ()
            ),
            trouble=_read_trouble(answer.get("error")),
            found=read_found(answer.get("found")),
            listing_trouble=_read_trouble(answer.get("listError")),
            serving=_read_serving(answer),
            labels=tuple(trouble for each in answer.get("labels") or () if (trouble := _read_trouble(each))),
            signatures=signatures or {},
            tells_signatures=signatures is not None,
            golden=read_golden(answer),
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None


def _read_trouble(error: Any) -> Trouble | None:
    if not error:
        return None
    return Trouble(str(error["reason"])[:64], str(error["message"])[:2000], bool(error.get("permanent")))


def _read_serving(answer: Any) -> int | None:
    """What an unversioned request gets: as the agent says, or, of one that is too old to say, the highest loaded."""
    if "serving" in answer:
        return None if answer["serving"] is None else int(answer["serving"])
    loaded = [int(version["version"]) for version in answer.get("versions") or () if version["state"] in LOADED]
    return max(loaded, default=None)


def read_found(found: Any) -> dict[int, str | None]:
    """Version → stamp, as agents list them. Raises ValueError, TypeError or AttributeError for anything else."""
    read = {int(version): None if stamp is None else str(stamp)[:128] for version, stamp in (found or {}).items()}
    return {version: stamp for version, stamp in read.items() if version <= MAX_VERSION}
