"""What should exist for a plan: all children, what the agents are told, and whether they agree with it.

Invariant: a revision that is kept is rendered from its ControllerRevision, never from today's defaults; what an agent
is told of one place never comes from a listing of another.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slipway.api import ModelDeployment
from slipway.decide.discovery import MAX_LISTED, loaded_elsewhere, versions_to_load
from slipway.decide.service_target import choose_service_target
from slipway.decide.steps import wants_router, wants_split
from slipway.decide.weights import provider_name
from slipway.model.names import child_name
from slipway.model.revision import Json, Revision, place_of, spec_of
from slipway.model.rollout import Plan
from slipway.model.workload import Trouble
from slipway.observe.service import ALL_PODS, ROUTER, ServiceTarget
from slipway.observe.snapshot import Snapshot
from slipway.render.agent_orders import render_agent_config, version_labels
from slipway.render.objects import (
    Child,
    render_config_map,
    render_controller_revision,
    render_deployment,
    render_service,
)
from slipway.render.pod_template import Images, with_template
from slipway.render.router import render as render_router
from slipway.render.routing import Backend, Routing, Split
from slipway.runtimes import RUNTIMES

ROUTINGS: Mapping[str, Callable[[ModelDeployment, Split, Mapping[tuple[str, str], Json], Images], Routing]] = {
    "Router": render_router
}
"""Provider → what it makes of a split, beside the live objects. One that isn't named here needs no objects."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """All children that should exist, and what the agents are told.

    load: workload → versions. configured: workload → generation of its agents' configuration. unreadable: workloads
    that get pods and whose ControllerRevision is gone: their objects stay as they are, but for the number of pods.
    service_target: what the Service reaches. router_generation: of the routers' configuration; None without routers.
    """

    children: tuple[Child, ...]
    load: Mapping[str, tuple[int, ...]]
    configured: Mapping[str, str]
    unreadable: frozenset[str] = frozenset()
    service_target: ServiceTarget = ALL_PODS
    router_generation: str | None = None


def render(
    deployment: ModelDeployment,
    desired: Revision,
    plan: Plan,
    snapshot: Snapshot,
    listed: tuple[int, ...],
    images: Images,
    golden: Json | Trouble | None = None,
) -> Rendered:
    """All children. The Service and what serves come first, so that trouble with a new revision leaves them applied.

    golden: what agents of a revision that isn't stable ask it first, as in agent.json; Trouble: nobody knows, so that
    revision's workload is left as it is.
    """
    desired = with_template(deployment, desired, images)
    revisions = {**snapshot.revisions, desired.hash: desired}
    recorded = _recorded(deployment, snapshot)
    service_target = choose_service_target(
        plan.weights,
        plan.replicas,
        snapshot.service_target,
        snapshot.by_router,
        sum(pod.is_ready for pod in snapshot.routers if not pod.is_ending),
        snapshot.workloads,
        wants_router=wants_router(deployment),
    )
    serving = [render_service(deployment, service_target.workload, to_router=service_target.is_router)]
    others: list[Child] = []
    load: dict[str, tuple[int, ...]] = {}
    configured = {}
    backends: list[Backend] = []
    unreadable = set()
    kept: set[str] = set()
    for workload in sorted(
        plan.replicas, key=lambda name: (plan.assignments[name].revision != plan.state.stable, name)
    ):
        orders = plan.assignments[workload]
        revision = revisions.get(orders.revision)
        if revision is None:
            if plan.replicas[workload]:
                unreadable.add(workload)
            continue
        asks = golden if plan.state.stable != revision.hash and plan.state.canary == revision.hash else None
        if isinstance(asks, Trouble):
            continue
        children = serving if orders.revision == plan.state.stable else others
        for name in (orders.revision, orders.replaces):
            if name in revisions and name not in kept:
                kept.add(name)
                is_newest = name == orders.revision and name == (plan.state.canary or plan.state.stable)
                children.append(_keep(deployment, revisions[name], recorded, is_newest=is_newest))
        # What is listed at the spec's place says nothing of another place: there the orders stay what they are.
        is_same_place = place_of(revision) == deployment.spec.model.uri
        load[workload] = (
            versions_to_load(deployment, revision, listed)
            if is_same_place
            else loaded_elsewhere(snapshot, workload, revision)
        )
        former = revisions.get(orders.replaces or "")
        if former is not None and 0 < former.version < revision.version:
            load[workload] = tuple(sorted({*load[workload], former.version}))
        labels = version_labels(deployment, plan, revision, former)
        agent_config = render_agent_config(deployment, revision, load[workload], labels, asks)
        configured[workload] = agent_config["generation"]
        known = recorded if is_same_place else revision.digests
        children.append(render_config_map(deployment, workload, orders, agent_config, known))
        # Made anew beside pods that are about to end, it would count these as its own, and they would get requests.
        if orders.revision == plan.state.stable or workload not in snapshot.left_over:
            children.append(render_deployment(deployment, workload, revision.template, plan.replicas[workload]))
        if plan.weights is not None:
            backends.append(_backend(deployment, workload, revision, plan.weights.get(workload, 0), load[workload]))
    routing = Routing()
    if backends and (wants_split(deployment) or service_target == ROUTER):
        # Routers to which the Service still leads are rendered, too, where the spec wants another provider by now.
        provider = "Router" if service_target == ROUTER else provider_name(deployment.spec)
        if provider in ROUTINGS:
            split = Split(tuple(backends), images.cluster_domain)
            routing = ROUTINGS[provider](deployment, split, snapshot.live, images)
    children = [*serving, *routing.children, *others]
    if desired.hash not in kept:
        kept.add(desired.hash)
        children.append(_keep(deployment, desired, recorded))
    history = sorted(
        (revision for revision in revisions.values() if revision.hash not in kept), key=lambda r: -r.number
    )
    limit = deployment.spec.rollout.revision_history_limit
    children += [_keep(deployment, revision, recorded) for revision in history[:limit]]
    for workload in unreadable:
        live = snapshot.live.get(("Deployment", child_name(deployment.name, workload)))
        if live is not None:
            children.append(render_deployment(deployment, workload, live["spec"]["template"], plan.replicas[workload]))
    return Rendered(tuple(children), load, configured, frozenset(unreadable), service_target, routing.generation)


def _backend(
    deployment: ModelDeployment, workload: str, revision: Revision, weight: int, load: tuple[int, ...]
) -> Backend:
    own = spec_of(deployment, revision)
    ports = {port.name: port.number for port in RUNTIMES[own.runtime.name].ports(own)}
    return Backend(workload, weight, load, ports["http"], ports.get("grpc"))


def _keep(
    deployment: ModelDeployment, revision: Revision, recorded: Mapping[int, str], *, is_newest: bool = False
) -> Child:
    """A revision's ControllerRevision. The newest in pods keeps all digests of its place, others those they have.

    is_newest: the canary while there is one, else stable. What the others would still learn depends on how long they
    take, and each digest is kept already.
    """
    if place_of(revision) != deployment.spec.model.uri:
        return render_controller_revision(deployment, revision, revision.digests)
    known = {version: recorded.get(version, digest) for version, digest in revision.digests.items()}
    return render_controller_revision(deployment, revision, {**known, **recorded} if is_newest else known)


def _recorded(deployment: ModelDeployment, snapshot: Snapshot) -> dict[int, str]:
    """Version → the sha256 that was first served under that number at the spec's place, or that a pin put there."""
    here = [kept for kept in snapshot.revisions.values() if place_of(kept) == deployment.spec.model.uri]
    recorded: dict[int, str] = {}
    for kept in sorted(here, key=lambda kept: -kept.number):
        recorded = {**kept.digests, **recorded}
    names, pins = {kept.hash for kept in here}, deployment.spec.model.sha256
    for pod in snapshot.pods:
        if pod.report is None or snapshot.revision_of_pod(pod) not in names:
            continue
        for version in pod.report.versions:
            if version.state != "Available" or not version.sha256:
                continue
            if version.version not in recorded or pins.get(str(version.version)) == version.sha256:
                recorded[version.version] = version.sha256
    return {version: recorded[version] for version in sorted(recorded)[-MAX_LISTED:]}
