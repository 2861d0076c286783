"""What should exist for a plan: all children in the order in which they are applied.

    Service ─ what serves ─ who may reach it ─ routers ─ what is new ─ history ─ Deployments of lost revisions
    ─ Service for metrics

Invariant: what serves comes first, so that trouble with a new revision leaves it applied.
Must not import: report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from slipway.api import ModelDeployment
from slipway.decide.commands import CommandOutcome
from slipway.decide.inputs import Inputs
from slipway.decide.service_target import choose_service_target
from slipway.decide.steps import wants_router, wants_split
from slipway.decide.weights import provider_name
from slipway.model.names import child_name
from slipway.model.revision import Json, spec_of
from slipway.model.rollout import Plan
from slipway.model.workload import Trouble
from slipway.observe.pods import revision_of
from slipway.observe.service import ALL_PODS, ROUTER, ServiceTarget
from slipway.observe.snapshot import Snapshot
from slipway.render.agent_orders import trusted_names
from slipway.render.history import recorded_digests, render_history, render_kept
from slipway.render.network_policy import render_pods_policy, render_router_policy
from slipway.render.objects import Child, render_deployment, render_metrics_service, render_service
from slipway.render.pod_template import Images, with_template
from slipway.render.ports import live_ports, metrics_ports, predict_path, service_ports, specs_in_pods
from slipway.render.refresh import refresh
from slipway.render.router import render as render_router
from slipway.render.router import router_name
from slipway.render.routing import Backend, Routing, Split
from slipway.render.workload import RenderedWorkload, WorkloadInput, render_workload

ROUTINGS: Mapping[str, Callable[[ModelDeployment, Split, Mapping[tuple[str, str], Json], Images], Routing]] = {
    "Router": render_router
}
"""Provider → what it makes of a split, beside the live objects. One that isn't named here needs no objects."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """All children that should exist, and what their configuration says.

    load: workload → versions that its agents load. configured: workload → generation of its agents' configuration.
    unreadable: workloads that get pods and whose ControllerRevision is gone: their objects stay as they are, but for
    the number of pods.
    service_target: what the Service reaches. router_generation: of the routers' configuration; None without routers.
    apart: workloads that answer on other paths than stable's: requests follow their paths, not the weights.
    trusted: names of the keys of which one must have signed each version; none: nothing is verified.
    outcome: of a person's command, with what it made of the pod template; None: there was none to carry out.
    offer: what a refresh would change, in words; empty: nothing. to_replace: pods of what serves that a refresh, or its
    abort, replaces yet.
    once_made: Deployments that have very likely been there before, and with them the Secrets of their keys, which
    nobody may look up: of what serves, or of what a person rolls back to.
    """

    children: tuple[Child, ...]
    load: Mapping[str, tuple[int, ...]]
    configured: Mapping[str, str]
    unreadable: frozenset[str] = frozenset()
    service_target: ServiceTarget = ALL_PODS
    router_generation: str | None = None
    apart: frozenset[str] = frozenset()
    trusted: frozenset[str] = frozenset()
    outcome: CommandOutcome | None = None
    offer: str = ""
    to_replace: int = 0
    once_made: frozenset[str] = frozenset()


def render(
    inputs: Inputs, plan: Plan, snapshot: Snapshot, images: Images, golden: Json | Trouble | None = None
) -> Rendered:
    """All children.

    golden: the golden requests of the canary's agents, as in agent.json; Trouble: they can't be read, so that the
    canary's workload stays as it is. images: today's, for what is made anew.
    """
    deployment = inputs.deployment
    desired = with_template(deployment, inputs.placement.revision, images)
    refreshed = refresh(inputs, {**snapshot.revisions, desired.hash: desired}, snapshot, images)
    revisions, desired = refreshed.revisions, refreshed.revisions[desired.hash]
    shown = revisions.get(plan.state.stable or plan.state.canary or "")
    recorded = recorded_digests(deployment, snapshot)
    given = WorkloadInput(
        inputs=inputs, plan=plan, snapshot=snapshot, revisions=revisions, recorded=recorded, golden=golden
    )
    workloads = _render_workloads(given)
    unreadable = sorted(name for name, pods in plan.replicas.items() if pods and given.revision_on(name) is None)
    apart = _of_other_paths(given)
    target = _service_target(given, apart)
    live = dict(snapshot.live)
    if refreshed.are_routers_anew:  # beside none that are there, they are made with today's image
        live.pop(("Deployment", router_name(deployment.name)), None)
    routing = _render_routing(deployment, workloads, target, live, images)
    in_pods = {revision for workload in workloads for revision in workload.revisions}
    for_clients, for_metrics = _render_services(given, target)
    serving = [
        for_clients,
        *_children(each for each in workloads if given.is_stable(each.name)),
        *_render_policies(given, images, has_router=bool(routing.children)),
    ]
    others = _children(each for each in workloads if not given.is_stable(each.name))
    history = render_history(deployment, revisions, {*in_pods, desired.hash}, recorded)
    if desired.hash not in in_pods:
        history = [render_kept(deployment, desired, recorded), *history]
    lost = _render_unreadable(deployment, plan, snapshot, unreadable)
    return Rendered(
        children=_in_order(
            [*serving, *routing.children, *others, *history, *lost, for_metrics],
            first={child_name(deployment.name, revision) for revision in refreshed.first},
        ),
        load={each.name: each.load for each in workloads},
        configured={each.name: each.generation for each in workloads},
        unreadable=frozenset(unreadable),
        service_target=target,
        router_generation=routing.generation,
        apart=apart,
        trusted=trusted_names(deployment.spec),
        outcome=refreshed.outcome,
        offer=refreshed.offer,
        to_replace=snapshot.pods_to_replace(shown) if shown is not None else 0,
        once_made=frozenset(
            child_name(deployment.name, each.name)
            for each in workloads
            if given.is_stable(each.name) or inputs.target.is_rollback
        ),
    )


def _render_workloads(given: WorkloadInput) -> list[RenderedWorkload]:
    """Those that can be rendered, the stable one first."""
    names = sorted(given.plan.replicas, key=lambda name: (not given.is_stable(name), name))
    return [rendered for name in names if (rendered := render_workload(given, name)) is not None]


def _children(workloads: Iterable[RenderedWorkload]) -> list[Child]:
    return [child for workload in workloads for child in workload.children]


def _in_order(children: Iterable[Child], *, first: Collection[str]) -> tuple[Child, ...]:
    """Each object once, as it comes first: two workloads may keep one revision. first: names that go before all."""
    once: dict[tuple[str, str], Child] = {}
    for child in children:
        once.setdefault((child.kind, child.name), child)
    return tuple(sorted(once.values(), key=lambda child: child.kind != "ControllerRevision" or child.name not in first))


def _named(plan: Plan, snapshot: Snapshot) -> str | None:
    """The stable revision, where the Service names it: with one revision alone there is nothing to confuse it with.

    A new one is named once status tells why it is stable: by the Service alone nobody could tell any more.
    """
    if plan.promotion_reason is not None and snapshot.named_stable is not None:
        return snapshot.named_stable
    is_worth_a_write = plan.state.canary is not None or snapshot.named_stable is not None
    return plan.state.stable if is_worth_a_write else None


def _render_services(given: WorkloadInput, target: ServiceTarget) -> tuple[Child, Child]:
    """For clients, and for metrics."""
    deployment, live = given.inputs.deployment, given.snapshot.live
    specs = specs_in_pods(deployment, given.plan, given.revisions)
    ports = service_ports(specs, to_router=target.is_router) or live_ports(live.get(("Service", deployment.name)))
    return (
        render_service(
            deployment,
            target.workload,
            ports=ports,
            to_router=target.is_router,
            stable=_named(given.plan, given.snapshot),
        ),
        render_metrics_service(deployment, metrics_ports(specs or [deployment.spec])),
    )


def _of_other_paths(given: WorkloadInput) -> frozenset[str]:
    """The workloads that are there and answer on other paths than the stable revision's: another server, most often."""
    deployment, plan = given.inputs.deployment, given.plan
    stable = given.revisions.get(plan.state.stable or "")
    carried = {name: here.revision for name, here in given.snapshot.workloads.items()}
    carried |= {name: assignment.revision for name, assignment in plan.assignments.items()}
    others = {name: given.revisions[revision] for name, revision in carried.items() if revision in given.revisions}
    if stable is None or all(revision.hash == stable.hash for revision in others.values()):
        return frozenset()
    usual = predict_path(deployment, spec_of(deployment, stable))
    return frozenset(
        name for name, revision in others.items() if predict_path(deployment, spec_of(deployment, revision)) != usual
    )


def _service_target(given: WorkloadInput, apart: frozenset[str]) -> ServiceTarget:
    deployment, plan, snapshot = given.inputs.deployment, given.plan, given.snapshot
    return choose_service_target(
        plan.weights,
        plan.replicas,
        live=snapshot.service_target,
        by_router=snapshot.routers.in_force,
        ready_routers=sum(pod.is_ready for pod in snapshot.routers.pods if not pod.is_ending),
        workloads=snapshot.workloads,
        wants_router=wants_router(deployment),
        alone=next((name for name in plan.assignments if given.is_stable(name)), None) if apart else None,
    )


def _render_routing(
    deployment: ModelDeployment,
    workloads: Iterable[RenderedWorkload],
    target: ServiceTarget,
    live: Mapping[tuple[str, str], Json],
    images: Images,
) -> Routing:
    """The routers and what they need, where requests are split and the provider has objects.

    live: as in Snapshot. Routers to which the Service still leads are rendered, too, where the spec wants another
    provider by now.
    """
    backends: list[Backend] = [each.backend for each in workloads if each.backend is not None]
    if not backends or not (wants_split(deployment) or target == ROUTER):
        return Routing()
    provider = "Router" if target == ROUTER else provider_name(deployment.spec)
    if provider not in ROUTINGS:
        return Routing()
    return ROUTINGS[provider](deployment, Split(tuple(backends), images.cluster_domain), live, images)


def _render_policies(given: WorkloadInput, images: Images, *, has_router: bool) -> list[Child]:
    """Who may reach the pods and the routers, where the chart asks for it: before there are pods that it is for."""
    if images.peers is None:
        return []
    deployment = given.inputs.deployment
    live = [
        body for (kind, _), body in sorted(given.snapshot.live.items()) if kind == "Deployment" and revision_of(body)
    ]
    templates = [
        *(revision.pod_template for revision in given.revisions.values()),
        *(each["spec"]["template"] for each in live),
    ]
    pods = render_pods_policy(deployment, images.peers, templates)
    return [pods, render_router_policy(deployment, images.peers)] if has_router else [pods]


def _render_unreadable(
    deployment: ModelDeployment, plan: Plan, snapshot: Snapshot, workloads: Iterable[str]
) -> list[Child]:
    """Deployments whose revision is gone, with their live pod template and the plan's number of pods."""
    live = {name: snapshot.live.get(("Deployment", child_name(deployment.name, name))) for name in workloads}
    return [
        render_deployment(deployment, name, found["spec"]["template"], plan.replicas[name])
        for name, found in live.items()
        if found is not None
    ]
