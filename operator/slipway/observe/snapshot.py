"""The world as one frozen value: owned objects and agents' reports, read into types.

Invariant: nothing here decides anything; what can't be read is absent, never an error.
Must not import: decide, render, report, controller. Pure: the objects come in as JSON, from the shell's cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from slipway.api.v1alpha1 import KIND
from slipway.model.names import AGENT_CONFIG_KEY, MODEL_LABEL, RECORDED_KEY, REPLACES_ANNOTATION, REVISION_ANNOTATION
from slipway.model.revision import Json, Revision, read_digests, read_revision
from slipway.model.workload import Member, Trouble, Turn, Workload
from slipway.observe.agent_reports import REFUSALS, AgentReport
from slipway.observe.pods import Pod, deployment_trouble, read_pod, revision_of
from slipway.observe.router_reports import RouterPod, RouterReport, is_of_router, read_router_pod
from slipway.observe.routers import ObservedRouters, observe_routers
from slipway.observe.service import ServiceTarget, read_service_target


@dataclass(frozen=True, slots=True)
class AgentOrders:
    """The configuration of a workload's agents, as its ConfigMap stands.

    generation: names all of it; empty when it can't be read. load, served: as in agent.json, of the pods that have the
    revision's orders. revision: the one that they serve; replaces: the one before it in place, while that counts.
    recorded: version → sha256 that its bytes must have. golden: the golden requests, None without any.
    turn: which pods have these orders; None: all, and none is held. labels: of the pods that don't have them yet.
    """

    generation: str
    revision: str
    load: tuple[int, ...] = ()
    served: int | None = None
    replaces: str | None = None
    recorded: Mapping[int, str] = field(default_factory=dict)
    golden: Json | None = None
    turn: Turn | None = None
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a pass decides on, beside spec and status.

    live: (kind, name) → the object as it stands. foreign: those under our label that another owner has.
    workloads: Deployments by their revision label; troubles likewise. agent_orders: likewise, from the ConfigMaps.
    left_over: workloads without a Deployment that have pods yet: the garbage collector is about to come to these.
    service_target: what Service <name> reaches; None without that Service.
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
    routers: ObservedRouters = field(default_factory=ObservedRouters)

    def revision_of_pod(self, pod: Pod) -> str:
        """The revision that the pod's agent serves, or is to."""
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
    pods: list[Pod] = []
    router_pods: list[RouterPod] = []
    for child in children:
        kind, name = child["kind"], child["metadata"]["name"]
        if kind == "Pod" and is_of_router(child):
            router_pods.append(read_router_pod(child))
        elif kind == "Pod":
            pods.append(read_pod(child, reports, now))
        elif is_owned(child, uid):
            live[kind, name] = child
        else:
            foreign.add((kind, name))
    # Service <name> and the routers' objects, one of each kind, have no revision label; all others have one.
    labelled = {key: child for key, child in live.items() if revision_of(child)}
    unlabelled = {kind: child for (kind, _), child in live.items() if not revision_of(child)}
    service = unlabelled.get("Service")
    agent_orders = {revision_of(child): _read_orders(child) for child in _of_kind("ConfigMap", labelled)}
    workloads, troubles = _observe_workloads(_of_kind("Deployment", labelled), pods, agent_orders)
    left_over = frozenset(pod.workload for pod in pods if pod.workload not in workloads and not pod.is_ending)
    revisions = [read_revision(child) for child in _of_kind("ControllerRevision", labelled)]
    return Snapshot(
        live=live,
        foreign=frozenset(foreign),
        revisions={revision.hash: revision for revision in revisions if revision is not None},
        workloads=workloads,
        troubles=troubles | {workload: _left_over(workload, pods) for workload in left_over},
        pods=tuple(pods),
        agent_orders=agent_orders,
        left_over=left_over,
        service_target=read_service_target(service, service["metadata"]["labels"][MODEL_LABEL]) if service else None,
        routers=observe_routers(
            router_pods, router_reports or {}, unlabelled.get("Deployment"), unlabelled.get("ConfigMap")
        ),
    )


def _of_kind(kind: str, objects: Mapping[tuple[str, str], Json]) -> list[Json]:
    return [child for (its_kind, _), child in objects.items() if its_kind == kind]


def _observe_workloads(
    deployments: Iterable[Json], pods: Iterable[Pod], agent_orders: Mapping[str, AgentOrders]
) -> tuple[dict[str, Workload], dict[str, Trouble]]:
    """The workloads whose Deployment is not about to be deleted, and what troubles them."""
    workloads: dict[str, Workload] = {}
    troubles: dict[str, Trouble] = {}
    for deployment in deployments:
        workload = revision_of(deployment)
        if deployment["metadata"].get("deletionTimestamp"):
            continue
        own = [pod for pod in pods if pod.workload == workload and not pod.is_ending]
        trouble = deployment_trouble(deployment, own)
        if trouble is not None:
            troubles[workload] = trouble
        is_blocked = trouble is not None and trouble.reason == "Unschedulable"
        orders = agent_orders.get(workload) or AgentOrders("", workload)
        workloads[workload] = _read_workload(deployment, own, orders, is_blocked=is_blocked)
    return workloads, troubles


def _read_workload(deployment: Json, pods: list[Pod], orders: AgentOrders, *, is_blocked: bool) -> Workload:
    """A workload, from its Deployment and its pods that are not ending."""
    return Workload(
        revision=orders.revision,
        replicas=deployment["spec"].get("replicas", 1),
        existing=len(pods),
        ready=sum(pod.is_ready for pod in pods),
        replaces=orders.replaces,
        switched=sum(_has_switched(pod, orders) for pod in pods),
        is_fetching=any(_is_fetching(pod) for pod in pods),
        is_blocked=is_blocked,
        is_refused=any(_is_refused(pod, orders) for pod in pods),
        crash=max((pod.crash for pod in pods if pod.crash), key=lambda crash: crash.at, default=None),
        turn=orders.turn,
        members=tuple(_read_member(pod, orders) for pod in pods),
    )


def _left_over(workload: str, pods: Iterable[Pod]) -> Trouble:
    """Why a workload without a Deployment gets none yet."""
    names = sorted(pod.name for pod in pods if pod.workload == workload and not pod.is_ending)
    return Trouble(
        "FormerPodsLeft",
        f"pods of a deleted Deployment still run ({', '.join(names)}). New pods start once these have ended. If they "
        f"don't end, delete them: kubectl delete pod {' '.join(names)}",
        needs_person=False,
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
        former = json.loads(data[AGENT_CONFIG_KEY])
        turn, config = _read_turn(former), former | (former.get("turn") or {})
        return AgentOrders(
            generation=str(config["generation"]),
            revision=revision,
            load=tuple(int(version) for version in config["load"]),
            served=None if config.get("served") is None else int(config["served"]),
            replaces=annotations.get(REPLACES_ANNOTATION) or None,
            recorded=read_digests(data.get(RECORDED_KEY)),
            golden=config.get("golden"),
            turn=turn,
            labels={str(label): int(version) for label, version in (former.get("labels") or {}).items()},
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return AgentOrders("", revision)


def _read_turn(config: Json) -> Turn | None:
    turn = config.get("turn")
    if turn is None:
        return Turn(is_held=True) if config.get("held") else None
    return Turn(tuple(str(pod) for pod in turn["pods"]), turn.get("drainSeconds") is not None, bool(turn.get("held")))


def _read_member(pod: Pod, orders: AgentOrders) -> Member:
    report, turn = pod.report, orders.turn
    is_in_turn = turn is None or turn.pods is None or pod.name in turn.pods
    serves = is_in_turn and report is not None and report.serving is not None and report.serving == orders.served
    keeps_out = report is not None and report.wants_traffic is False
    return Member(
        pod.name,
        is_ready=pod.is_ready,
        is_in_turn=is_in_turn,
        has_switched=pod.is_ready and serves and not keeps_out,
        is_out=report is not None and report.serving is not None and (keeps_out or not pod.is_ready),
        crash=pod.crash,
    )


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
