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
from slipway.model.names import (
    AGENT_CONFIG_KEY,
    FIELD_MANAGER,
    MODEL_LABEL,
    RECORDED_KEY,
    REPLACES_ANNOTATION,
    REVISION_ANNOTATION,
    STABLE_ANNOTATION,
)
from slipway.model.revision import Json, Revision, read_digests, read_revision
from slipway.model.workload import Member, Trouble, Turn, Workload, workload_of
from slipway.observe.agent_reports import OF_GATES, OF_SIGNING, REFUSALS, AgentReport
from slipway.observe.lost_keys import lost_key
from slipway.observe.pods import Pod, deployment_trouble, read_pod, revision_of
from slipway.observe.quoting import first_line
from slipway.observe.room import NODE_WANTED, PULLING, ROOM
from slipway.observe.router_reports import RouterPod, RouterReport, is_of_router, read_router_pod
from slipway.observe.routers import ObservedRouters, observe_routers
from slipway.observe.server_errors import server_errors
from slipway.observe.service import ServiceTarget, read_service_target

OF_ONE_NODE = (REFUSALS - OF_GATES - OF_SIGNING) | {"DiskFull"}
"""An agent's reasons that a pod may have for its node alone. A gate holds whatever other pods answer."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What a workload's servers are asked now and then, as in agent.json.

    kept: the golden request that the revision passes or has passed; before: likewise, of the pods that don't have its
    orders yet. is_asked: there is one, or a warm-up request.
    """

    kept: Json | None = None
    before: Json | None = None
    is_asked: bool = False


@dataclass(frozen=True, slots=True)
class AgentOrders:
    """The configuration of a workload's agents, as its ConfigMap stands.

    generation: names all of it; empty when it can't be read. load, served: as in agent.json, of the pods that have the
    revision's orders. revision: the one that they serve; replaces: the one before it in place, while that counts.
    recorded: version → sha256 that its bytes must have. golden: the golden requests, None without any.
    turn: which pods have these orders; None: all, and none is held. labels: of the pods that don't have them yet.
    questions: what the servers are asked. out: the pods that leave the Service until theirs is answered well.
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
    questions: Questions = field(default_factory=Questions)
    out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a pass decides on, beside spec and status.

    live: (kind, name) → the object as it stands: ours, and what is left behind by a namesake, which becomes ours.
    foreign: those under our label that another owner has.
    workloads: Deployments by their revision label; troubles likewise. agent_orders: likewise, from the ConfigMaps.
    left_over: workloads without a Deployment that have pods yet: the garbage collector is about to come to these.
    service_target: what Service <name> reaches; None without that Service. named_stable: the stable revision as that
    Service names it; None: it doesn't.
    lost_keys: Secrets with the key between agent and server that pods wait for in vain.
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
    named_stable: str | None = None
    routers: ObservedRouters = field(default_factory=ObservedRouters)
    lost_keys: frozenset[str] = frozenset()

    def revision_of_pod(self, pod: Pod) -> str:
        """The revision that the pod's agent serves, or is to."""
        return self.agent_orders[pod.workload].revision if pod.workload in self.agent_orders else pod.workload

    def pods_to_replace(self, revision: Revision) -> int:
        """Pods of a revision's workload that are made of another template than it has by now: a refresh, or its abort,
        replaces them."""
        home = workload_of(revision.hash, self.workloads)
        own = [pod for pod in self.pods if pod.workload == home and not pod.is_ending]
        return sum(pod.refreshed_by != revision.refreshed_by for pod in own)


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
    lost_keys: set[str | None] = set()
    for child in children:
        kind, name = child["kind"], child["metadata"]["name"]
        if kind == "Pod" and is_of_router(child):
            router_pods.append(read_router_pod(child))
        elif kind == "Pod":
            pods.append(read_pod(child, reports, now))
            lost_keys.add(lost_key(child, now))
        elif is_owned(child, uid) or is_left_behind(child):
            live[kind, name] = child
        else:
            foreign.add((kind, name))
    # The Services for clients and metrics and the routers' objects have no revision label; all others have one.
    labelled = {key: child for key, child in live.items() if revision_of(child)}
    unlabelled = {kind: child for (kind, _), child in live.items() if not revision_of(child)}
    service = next((each for (kind, name), each in live.items() if kind == "Service" and name == _model(each)), None)
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
        named_stable=(service["metadata"].get("annotations") or {}).get(STABLE_ANNOTATION) if service else None,
        service_target=read_service_target(service, _model(service)) if service else None,
        routers=observe_routers(
            router_pods, router_reports or {}, unlabelled.get("Deployment"), unlabelled.get("ConfigMap")
        ),
        lost_keys=frozenset(secret for secret in lost_keys if secret is not None),
    )


def _model(child: Json) -> str:
    """The name of the ModelDeployment that it belongs to."""
    return str((child["metadata"].get("labels") or {}).get(MODEL_LABEL, ""))


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
        orders = agent_orders.get(workload) or AgentOrders("", workload)
        of_nodes = {pod.uid: at_fault for pod in own if (at_fault := _trouble_of_its_node(pod, own, orders))}
        trouble = deployment_trouble(deployment, [pod for pod in own if pod.uid not in of_nodes], of_nodes.values())
        here = workloads[workload] = _read_workload(deployment, own, orders, trouble)
        if trouble is None or trouble.reason in ROOM or trouble.reason == PULLING:
            trouble = server_errors(here, orders.out) or trouble
        if trouble is not None and trouble.reason != PULLING:
            troubles[workload] = trouble
    return workloads, troubles


def _trouble_of_its_node(pod: Pod, pods: list[Pod], orders: AgentOrders) -> Trouble | None:
    """That a pod can't serve what others of its workload do; None: it can, or none of them does.

    Bytes, image and configuration are the same in all of them: what differs is the node.
    """
    if not any(_serves(other, orders) for other in pods if other is not pod):
        return None
    is_heard = pod.report is not None and pod.report.generation == orders.generation
    said = pod.report.version(orders.served) if is_heard and pod.report and orders.served is not None else None
    if said is not None and said.state == "Failed" and said.reason in OF_ONE_NODE:
        why = f"{said.reason}: {said.message}"
    elif pod.trouble is not None and pod.trouble.reason == "ContainerFailed" and not pod.is_ready:
        why = pod.trouble.message
    else:
        return None
    return Trouble(
        "NodeCannotLoad",
        f"pod {pod.name} on node {pod.node or 'unknown'} can't serve what other pods of the same revision serve: "
        f"{first_line(why).rstrip('.')}. Look at that node (disk, drivers), or have another one take the pod: kubectl "
        f"cordon {pod.node or 'NODE'}, then kubectl delete pod {pod.name}",
    )


def _read_workload(deployment: Json, pods: list[Pod], orders: AgentOrders, trouble: Trouble | None) -> Workload:
    """A workload, from its Deployment and its pods that are not ending. trouble: what keeps these from being ready."""
    return Workload(
        revision=orders.revision,
        replicas=deployment["spec"].get("replicas", 1),
        existing=len(pods),
        ready=sum(pod.is_ready for pod in pods),
        replaces=orders.replaces,
        switched=sum(_has_switched(pod, orders) for pod in pods),
        is_fetching=any(_is_fetching(pod) for pod in pods),
        is_blocked=trouble is not None and trouble.reason in NODE_WANTED,
        waits_for_room=trouble if trouble is not None and trouble.reason in ROOM else None,
        is_refused=any(_is_refused(pod, pods, orders) for pod in pods),
        crashes=tuple(pod.crash for pod in pods if pod.crash),
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


def is_left_behind(child: Json) -> bool:
    """Whether an object is a ModelDeployment's that has no owner any more: our label, applied by us, no controller.

    `kubectl delete --cascade=orphan` leaves them so, pods that serve behind them.
    """
    meta = child["metadata"]
    if not (meta.get("labels") or {}).get(MODEL_LABEL):
        return False
    return not has_controller(child) and any(
        entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
        for entry in meta.get("managedFields") or []
    )


def has_controller(child: Json) -> bool:
    """Whether some object is this one's controller."""
    return any(owner.get("controller") for owner in child["metadata"].get("ownerReferences") or [])


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
            questions=_read_questions(former),
            out=tuple(str(pod) for pod in former.get("out") or ()),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return AgentOrders("", revision)


def _read_questions(config: Json) -> Questions:
    own = config.get("turn") or config
    before, kept = (_question_of(each.get("golden")) or each.get("probe") for each in (config, own))
    return Questions(kept, before, is_asked=bool(kept or before or config.get("warmup")))


def _question_of(golden: Json | None) -> Json | None:
    """The first golden request, as a question of its own."""
    if not golden:
        return None
    if golden.get("file"):
        return {"file": golden["file"]}
    return next(({"request": each["request"]} for each in golden.get("requests") or ()), None)


def _read_turn(config: Json) -> Turn | None:
    turn = config.get("turn")
    if turn is None:
        return Turn(is_held=True) if config.get("held") else None
    return Turn(tuple(str(pod) for pod in turn["pods"]), turn.get("drainSeconds") is not None, bool(turn.get("held")))


def _read_member(pod: Pod, orders: AgentOrders) -> Member:
    report, is_in_turn = pod.report, _is_in_turn(pod, orders)
    serves = is_in_turn and report is not None and report.serving is not None and report.serving == orders.served
    keeps_out = report is not None and report.wants_traffic is False
    return Member(
        pod.name,
        is_ready=pod.is_ready,
        is_in_turn=is_in_turn,
        has_switched=pod.is_ready and serves and not keeps_out,
        is_out=report is not None and report.serving is not None and (keeps_out or not pod.is_ready),
        crash=pod.crash,
        server_error=report.probe.error if report is not None and report.probe is not None else None,
    )


def _is_in_turn(pod: Pod, orders: AgentOrders) -> bool:
    """Whether the pod has the workload's own orders, and not yet those of before."""
    return orders.turn is None or orders.turn.pods is None or pod.name in orders.turn.pods


def _has_switched(pod: Pod, orders: AgentOrders) -> bool:
    report = pod.report
    return (
        pod.is_ready
        and report is not None
        and report.generation == orders.generation
        and report.serving is not None
        and report.serving == orders.served
    )


def _serves(pod: Pod, orders: AgentOrders) -> bool:
    """Whether a pod is known to serve what its workload is to serve.

    In place, its agent has to say so: it is ready with what was there before as well.
    """
    is_heard = pod.report is not None and pod.report.generation == orders.generation
    return _has_switched(pod, orders) if is_heard or orders.replaces is not None else pod.is_ready


def _is_refused(pod: Pod, pods: list[Pod], orders: AgentOrders) -> bool:
    """Whether the pod can't use the version that it is to serve, for a reason that stays and is not its node's.

    While another one serves it, or may yet (it starts, loads, or doesn't answer for a moment), the revision is not
    refused: a broken node says no before a sound one has loaded. The deadline ends what loads for ever.
    """
    if pod.report is None or pod.report.generation != orders.generation or orders.served is None:
        return False
    said = pod.report.version(orders.served)
    if said is None or said.state != "Failed" or said.reason not in REFUSALS:
        return False
    if said.reason not in OF_ONE_NODE:
        return True
    others = [other for other in pods if other is not pod and _is_in_turn(other, orders)]
    return not any(_serves(other, orders) or _may_serve(other, orders) for other in others)


def _may_serve(pod: Pod, orders: AgentOrders) -> bool:
    """Whether a pod is on its way to what its workload is to serve, and nothing is known that keeps it from that."""
    if pod.trouble is not None and pod.trouble.reason != PULLING:
        return False
    if pod.report is None or pod.report.generation != orders.generation or orders.served is None:
        return True
    said = pod.report.version(orders.served)
    return said is None or said.state != "Failed"


def _is_fetching(pod: Pod) -> bool:
    return (
        pod.report is not None
        and pod.report.trouble is None
        and any(version.state == "Fetching" for version in pod.report.versions)
    )
