"""How the revision that the spec asks for gets to its pods: in place, or in pods of its own.

Invariant: a revision that is kept is what it was when it was made; nothing here depends on today's defaults.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slipway.api import ModelDeployment
from slipway.api.status import ModelDeploymentStatus
from slipway.api.v1alpha1 import ModelDeploymentSpec, Storage
from slipway.decide.gates import compares_signatures
from slipway.decide.steps import wants_split
from slipway.model.revision import (
    Revision,
    differs_in_version_only,
    hash_of,
    is_same_template,
    served_version,
    user_choice,
    ways_of_fetching,
)
from slipway.model.workload import Workload, workload_of
from slipway.observe.agent_reports import TURN, VERIFY, AgentReport
from slipway.observe.pods import Pod
from slipway.observe.snapshot import AgentOrders, Snapshot
from slipway.runtimes import RUNTIMES

NOT_ENOUGH_MEMORY = "NotEnoughMemory"
"""An agent's reason: the version does not fit beside those that serve."""


AGENT_TOO_OLD = "AgentTooOld"
"""A pod that was made by an older release can't leave the Service for a load: it would be asked for the new version
while that loads, or all pods would be at once."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The revision and its workload.

    workload: the one that carries it or is to. rolls_because: it can't arrive in place although it would by the spec.
    """

    revision: Revision
    workload: str
    rolls_because: str | None = None


def place(
    deployment: ModelDeployment,
    snapshot: Snapshot,
    stored: ModelDeploymentStatus,
    instead: str | None = None,
) -> Placement:
    """The revision that the spec asks for, the kept one or a new one at the end of the history, and its workload.

    instead: a kept revision that a person wants in the place of the spec's.
    """
    name = instead or hash_of(user_choice(deployment.spec))
    kept = snapshot.revisions.get(name)
    number = 1 + max((revision.number for revision in snapshot.revisions.values()), default=0)
    asked = kept or new_revision(deployment, number)
    workloads = snapshot.workloads
    stable = stored.stable.revision if stored.stable else None
    if name == stable and (home := workload_of(name, workloads)):
        return Placement(asked, home)
    canary = stored.canary.revision if stored.canary else None
    homes = {workload for workload in workloads if stable and workload == workload_of(stable, workloads)}
    why = _why_it_rolls(asked, snapshot, stored) or _why_unverified(deployment, snapshot, stored, homes)
    carrying = [
        workload for workload, here in workloads.items() if here.revision == name and not (why and workload in homes)
    ]
    if carrying:
        return Placement(asked, max(carrying, key=lambda workload: (workload in homes, workloads[workload].ready)), why)
    for holder in dict.fromkeys((canary, stable, *_waiting(snapshot))):
        workload = workload_of(holder, workloads) if holder else None
        former = snapshot.revisions.get(holder or "")
        if workload is None or former is None or (why and workload in homes):
            continue
        if _may_take_over(deployment, asked, kept, former):
            if kept is None:
                asked = new_revision(deployment, number, former)
            return Placement(asked, workload)
    return Placement(asked, free_name(name, workloads), why)


def new_revision(deployment: ModelDeployment, number: int, former: Revision | None = None) -> Revision:
    """The revision that the spec asks for now; its pod template is yet to be rendered.

    former: the revision whose workload it takes over in place; its template stays then, to the letter.
    """
    choice = user_choice(deployment.spec)
    return Revision(
        hash=hash_of(choice),
        number=number,
        version=served_version(deployment.spec),
        choice=choice,
        fetching=ways_of_fetching(deployment.spec),
        template=former.pod_template if former is not None else {},
    )


def _waiting(snapshot: Snapshot) -> list[str]:
    """Revisions whose pods wait to be told a version."""
    return [
        here.revision
        for here in snapshot.workloads.values()
        if here.revision in snapshot.revisions and snapshot.revisions[here.revision].version == 0
    ]


def _may_take_over(deployment: ModelDeployment, asked: Revision, kept: Revision | None, former: Revision) -> bool:
    """Whether `former`'s pods can go over to `asked` with nothing but other orders."""
    spec = deployment.spec
    if not differs_in_version_only(asked, former):
        return False
    if spec.storage is not None and spec.storage.image_volume:  # the version is a part of the pods
        return False
    if kept is not None and not is_same_template(kept.pod_template, former.pod_template):
        return False
    if former.version == 0:
        return True
    if wants_split(deployment) or (_is_gated(spec) and (spec.rollout.strategy is None or spec.replicas == 1)):
        # What must be proven before it gets a request needs pods that get none: a pod that leaves the Service keeps the
        # connections that it has. And for a single one nobody could stand in.
        return False
    return spec.rollout.strategy != "RollingUpdate" and RUNTIMES[spec.runtime.name].loads_hot


def _is_gated(spec: ModelDeploymentSpec) -> bool:
    gates = spec.rollout.gates
    return compares_signatures(spec) or (gates is not None and gates.golden is not None)


def _why_it_rolls(asked: Revision, snapshot: Snapshot, stored: ModelDeploymentStatus) -> str | None:
    """Why the stable pods can't take the revision up: an agent found too little memory, now or in this rollout, or is
    too old to do it in turn."""
    if stored.canary is not None and stored.canary.revision == asked.hash and stored.canary.rolls_because:
        return stored.canary.rolls_because
    for pod in snapshot.pods:
        if pod.is_ending or pod.report is None or snapshot.revision_of_pod(pod) != asked.hash:
            continue
        if _knows_no_turns(pod.report, snapshot.agent_orders.get(pod.workload)):
            return f"{AGENT_TOO_OLD}: the agent of pod {pod.name} is of an older release, and knows of no turns"
        report = pod.report.version(asked.version)
        if report is not None and report.reason == NOT_ENOUGH_MEMORY and pod.report.serving is not None:
            return f"{report.reason}: {report.message}"
    return None


def _why_unverified(
    deployment: ModelDeployment, snapshot: Snapshot, stored: ModelDeploymentStatus, homes: set[str]
) -> str | None:
    """Why the stable pods mustn't take the revision up: an agent of theirs would load it, signed or not. One that
    doesn't answer for a moment reads its orders all the same."""
    storage = deployment.spec.storage
    if storage is None or not storage.trusted_keys:
        return None
    here = [pod.name for pod in unverifying_pods(storage, snapshot) if pod.workload in homes]
    if here:
        return f"{AGENT_TOO_OLD}: the agent of pod {here[0]} is of an older release, and can't verify signed models"
    silent = [pod.name for pod in silent_pods(snapshot) if pod.workload in homes]
    if silent and (stored.agents is None or stored.agents.outdated):
        return f"{AGENT_TOO_OLD}: the agent of pod {silent[0]} doesn't say now whether it can verify signed models"
    return None


def silent_pods(snapshot: Snapshot) -> list[Pod]:
    """Pods whose agents should be there and don't answer."""
    return [pod for pod in snapshot.pods if not pod.is_ending and pod.ip is not None and pod.report is None]


def unverifying_pods(storage: Storage, snapshot: Snapshot) -> list[Pod]:
    """Pods whose agents can't do what storage.verify asks of them; none where it asks nothing."""
    if not storage.trusted_keys:
        return []
    return [
        pod
        for pod in snapshot.pods
        if not pod.is_ending and pod.report is not None and VERIFY not in pod.report.abilities
    ]


def _knows_no_turns(report: AgentReport, orders: AgentOrders | None) -> bool:
    """Whether an agent that has orders to go over in turn is too old to understand them."""
    if orders is None or orders.turn is None or orders.turn.pods is None:
        return False
    return report.generation == orders.generation and TURN not in report.abilities


def free_name(revision: str, workloads: Mapping[str, Workload]) -> str:
    """The revision's own name, or another where a workload of that name carries something else by now."""
    name, count = revision, 0
    while name in workloads and workloads[name].revision != revision:
        count += 1
        name = hash_of([revision, count])
    return name
