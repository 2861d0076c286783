"""The world as one frozen value: owned objects and agents' reports, read into types.

Invariant: nothing here decides anything; what can't be read is absent, never an error.
Pure: the objects come in as JSON, from the shell's cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from slipway.api.v1alpha1 import KIND
from slipway.model.names import (
    AGENT_CONFIG_KEY,
    MODEL_LABEL,
    RECORDED_KEY,
    REPLACES_ANNOTATION,
    REVISION_ANNOTATION,
    ROUTED_ANNOTATION,
)
from slipway.model.revision import Json, Revision, read_digests, read_revision
from slipway.model.signals import InForce
from slipway.model.workload import Trouble, Workload
from slipway.observe.agent_reports import REFUSALS, AgentReport
from slipway.observe.pods import Pod, deployment_trouble, read_pod, revision_of
from slipway.observe.router_reports import RouterPod, RouterReport, in_force, is_of_router, read_asked, read_router_pod
from slipway.observe.service import ServiceTarget, read_service_target


@dataclass(frozen=True, slots=True)
class AgentOrders:
    """What a workload's ConfigMap says.

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
class Snapshot:
    """Everything a pass decides on, beside spec and status.

    live: (kind, name) → the object as it stands. foreign: those under our label that another owner has.
    workloads: Deployments by their revision label; troubles likewise. agent_orders: workload → what its ConfigMap says.
    left_over: workloads without a Deployment that have pods yet: the garbage collector is about to come to these.
    service_target: what Service <name> reaches. routers: the routers' pods; router_reports: pod uid → what one says;
    by_router: what all ready ones say. router_generation, sent_weights: of the routers' configuration as it stands.
    """

    live: Mapping[tuple[str, str], Json]
    foreign: frozenset[tuple[str, str]]
    revisions: Mapping[str, Revision]
    workloads: Mapping[str, Workload]
    troubles: Mapping[str, Trouble]
    pods: tuple[Pod, ...]
    agent_orders: Mapping[str, AgentOrders]
    left_over: frozenset[str] = frozenset()
    service_target: ServiceTarget | None = None
    routers: tuple[RouterPod, ...] = ()
    router_reports: Mapping[str, RouterReport] = field(default_factory=dict)
    by_router: InForce | None = None
    router_generation: str | None = None
    sent_weights: Mapping[str, int] = field(default_factory=dict)

    def revision_of_pod(self, pod: Pod) -> str:
        """The revision that the pod's agent has orders for."""
        return self.agent_orders[pod.workload].revision if pod.workload in self.agent_orders else pod.workload


def observe(
    uid: str,
    children: Iterable[Json],
    reports: Mapping[str, AgentReport],
    now: datetime | None = None,
    router_reports: Mapping[str, RouterReport] | None = None,
) -> Snapshot:
    """Read a ModelDeployment's children.

    uid: the ModelDeployment's own. children: all objects under its label. reports: pod uid → its agent's report.
    now: without it, nothing is said of pods that take long to start.
    """
    live: dict[tuple[str, str], Json] = {}
    foreign: set[tuple[str, str]] = set()
    revisions: dict[str, Revision] = {}
    pods: list[Pod] = []
    routers: list[RouterPod] = []
    ordered: dict[str, AgentOrders] = {}
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
            entry = read_service_target(child, child["metadata"]["labels"][MODEL_LABEL])
    workloads: dict[str, Workload] = {}
    troubles: dict[str, Trouble] = {}
    for (kind, _), child in live.items():
        if kind != "Deployment" or not revision_of(child) or child["metadata"].get("deletionTimestamp"):
            continue
        workload = revision_of(child)
        orders = ordered.get(workload) or AgentOrders("", workload)
        own = [pod for pod in pods if pod.workload == workload and not pod.is_ending]
        if trouble := deployment_trouble(child, own):
            troubles[workload] = trouble
        workloads[workload] = Workload(
            revision=orders.revision,
            replicas=child["spec"].get("replicas", 1),
            existing=len(own),
            ready=sum(pod.is_ready for pod in own),
            replaces=orders.replaces,
            switched=sum(_has_switched(pod, orders) for pod in own),
            is_fetching=any(_is_fetching(pod) for pod in own),
            is_blocked=trouble is not None and trouble.reason == "Unschedulable",
            is_refused=any(_is_refused(pod, orders) for pod in own),
            crash=max((pod.crash for pod in own if pod.crash), key=lambda crash: crash.at, default=None),
        )
    left_over = frozenset(pod.workload for pod in pods if pod.workload not in workloads and not pod.is_ending)
    for workload in left_over:
        names = ", ".join(sorted(pod.name for pod in pods if pod.workload == workload and not pod.is_ending))
        troubles[workload] = Trouble(
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
        lingering = {workload for report in ending for workload, weight in report.weights.items() if weight}
        by_router = replace(by_router, lingering=frozenset(lingering))
    return Snapshot(
        live,
        frozenset(foreign),
        revisions,
        workloads,
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


def _read_orders(config_map: Json) -> AgentOrders:
    """What a ConfigMap of ours says; of one that a person has broken, only whose it is."""
    workload = revision_of(config_map)
    annotations = config_map["metadata"].get("annotations") or {}
    data = config_map.get("data") or {}
    revision = annotations.get(REVISION_ANNOTATION) or workload
    try:
        config = json.loads(data[AGENT_CONFIG_KEY])
        return AgentOrders(
            generation=str(config["generation"]),
            revision=revision,
            load=tuple(int(version) for version in config["load"]),
            served=None if config.get("served") is None else int(config["served"]),
            replaces=annotations.get(REPLACES_ANNOTATION) or None,
            recorded=read_digests(data.get(RECORDED_KEY)),
            golden=config.get("golden"),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return AgentOrders("", revision)


def _has_switched(pod: Pod, orders: AgentOrders) -> bool:
    report = pod.report
    return (
        pod.is_ready
        and report is not None
        and report.generation == orders.generation
        and report.serving is not None
        and report.serving == orders.served
    )


def _is_refused(pod: Pod, orders: AgentOrders) -> bool:
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
