"""What should exist for a plan: all children in the order in which they are applied.

    Service ─ what serves ─ routers ─ what is new ─ history ─ Deployments of lost revisions

Invariant: what serves comes first, so that trouble with a new revision leaves it applied.
Must not import: report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from slipway.api import ModelDeployment
from slipway.decide.inputs import Inputs
from slipway.decide.service_target import choose_service_target
from slipway.decide.steps import wants_router, wants_split
from slipway.decide.weights import provider_name
from slipway.model.names import child_name
from slipway.model.revision import Json
from slipway.model.rollout import Plan
from slipway.model.workload import Trouble
from slipway.observe.service import ALL_PODS, ROUTER, ServiceTarget
from slipway.observe.snapshot import Snapshot
from slipway.render.history import recorded_digests, render_history, render_kept
from slipway.render.objects import Child, render_deployment, render_service
from slipway.render.pod_template import Images, with_template
from slipway.render.router import render as render_router
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
    """

    children: tuple[Child, ...]
    load: Mapping[str, tuple[int, ...]]
    configured: Mapping[str, str]
    unreadable: frozenset[str] = frozenset()
    service_target: ServiceTarget = ALL_PODS
    router_generation: str | None = None


def render(
    inputs: Inputs, plan: Plan, snapshot: Snapshot, images: Images, golden: Json | Trouble | None = None
) -> Rendered:
    """All children.

    golden: the golden requests of the canary's agents, as in agent.json; Trouble: they can't be read, so that the
    canary's workload stays as it is. images: today's, for what is made anew.
    """
    deployment = inputs.deployment
    desired = with_template(deployment, inputs.placement.revision, images)
    revisions = {**snapshot.revisions, desired.hash: desired}
    recorded = recorded_digests(deployment, snapshot)
    given = WorkloadInput(
        inputs=inputs, plan=plan, snapshot=snapshot, revisions=revisions, recorded=recorded, golden=golden
    )
    workloads = _render_workloads(given)
    unreadable = sorted(name for name, pods in plan.replicas.items() if pods and given.revision_on(name) is None)
    target = _service_target(deployment, plan, snapshot)
    routing = _render_routing(deployment, workloads, target, snapshot, images)
    in_pods = {revision for workload in workloads for revision in workload.revisions}
    serving = [
        render_service(deployment, target.workload, to_router=target.is_router, stable=_named(plan, snapshot)),
        *_children(each for each in workloads if given.is_stable(each.name)),
    ]
    others = _children(each for each in workloads if not given.is_stable(each.name))
    history = render_history(deployment, revisions, {*in_pods, desired.hash}, recorded)
    if desired.hash not in in_pods:
        history = [render_kept(deployment, desired, recorded), *history]
    lost = _render_unreadable(deployment, plan, snapshot, unreadable)
    return Rendered(
        children=_once([*serving, *routing.children, *others, *history, *lost]),
        load={each.name: each.load for each in workloads},
        configured={each.name: each.generation for each in workloads},
        unreadable=frozenset(unreadable),
        service_target=target,
        router_generation=routing.generation,
    )


def _render_workloads(given: WorkloadInput) -> list[RenderedWorkload]:
    """Those that can be rendered, the stable one first."""
    names = sorted(given.plan.replicas, key=lambda name: (not given.is_stable(name), name))
    return [rendered for name in names if (rendered := render_workload(given, name)) is not None]


def _children(workloads: Iterable[RenderedWorkload]) -> list[Child]:
    return [child for workload in workloads for child in workload.children]


def _once(children: Iterable[Child]) -> tuple[Child, ...]:
    """Each object once, as it comes first: two workloads may keep one revision."""
    first: dict[tuple[str, str], Child] = {}
    for child in children:
        first.setdefault((child.kind, child.name), child)
    return tuple(first.values())


def _named(plan: Plan, snapshot: Snapshot) -> str | None:
    """The stable revision, where the Service names it: with one revision alone there is nothing to confuse it with."""
    is_worth_a_write = plan.state.canary is not None or snapshot.named_stable is not None
    return plan.state.stable if is_worth_a_write else None


def _service_target(deployment: ModelDeployment, plan: Plan, snapshot: Snapshot) -> ServiceTarget:
    return choose_service_target(
        plan.weights,
        plan.replicas,
        live=snapshot.service_target,
        by_router=snapshot.routers.in_force,
        ready_routers=sum(pod.is_ready for pod in snapshot.routers.pods if not pod.is_ending),
        workloads=snapshot.workloads,
        wants_router=wants_router(deployment),
    )


def _render_routing(
    deployment: ModelDeployment,
    workloads: Iterable[RenderedWorkload],
    target: ServiceTarget,
    snapshot: Snapshot,
    images: Images,
) -> Routing:
    """The routers and what they need, where requests are split and the provider has objects.

    Routers to which the Service still leads are rendered, too, where the spec wants another provider by now.
    """
    backends: list[Backend] = [each.backend for each in workloads if each.backend is not None]
    if not backends or not (wants_split(deployment) or target == ROUTER):
        return Routing()
    provider = "Router" if target == ROUTER else provider_name(deployment.spec)
    if provider not in ROUTINGS:
        return Routing()
    return ROUTINGS[provider](deployment, Split(tuple(backends), images.cluster_domain), snapshot.live, images)


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
