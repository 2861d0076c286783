"""What should exist for a plan: all children, what the agents are told, and whether they agree with it.

Invariant: a revision that is kept is rendered from its ControllerRevision, never from today's defaults; what an agent
is told of one place never comes from a listing of another.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from slipway.api import ModelDeployment, SpecError
from slipway.api.status import ModelDeploymentStatus
from slipway.api.v1alpha1 import Golden, GoldenRequest
from slipway.decide.discovery import MAX_LISTED, known_versions, needs_agents_listing
from slipway.decide.service_target import choose_entry
from slipway.decide.steps import wants_router, wants_split
from slipway.decide.versions import choose_versions
from slipway.decide.weights import provider_name
from slipway.model.names import child_name
from slipway.model.revision import Json, Revision, hash_of, place_of, spec_of
from slipway.model.rollout import Plan
from slipway.observe.problems import Trouble
from slipway.observe.router_reports import RouterReport
from slipway.observe.service import ALL_PODS, ROUTER, Entry
from slipway.observe.snapshot import Observed
from slipway.render.agent_orders import render_agent_config
from slipway.render.objects import (
    Child,
    render_config_map,
    render_controller_revision,
    render_deployment,
    render_service,
)
from slipway.render.pod_template import Images
from slipway.render.router import render as render_router
from slipway.render.routing import Backend, Routing, Split
from slipway.runtimes import RUNTIMES

ROUTINGS: Mapping[str, Callable[[ModelDeployment, Split, Mapping[tuple[str, str], Json], Images], Routing]] = {
    "Router": render_router
}
"""Provider → what it makes of a split, beside the live objects. One that isn't named here needs no objects of its own: of
`Replicas`, Service `<name>` and the pods are there anyway."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """All children that should exist, and what the agents are told.

    load: carrier → versions. configured: carrier → generation of its agents' configuration. unreadable: carriers that
    get pods and whose ControllerRevision is gone: their objects stay as they are, but for the number of pods.
    entry: what the Service reaches. routed: generation of the routers' configuration; None without routers.
    """

    children: tuple[Child, ...]
    load: Mapping[str, tuple[int, ...]]
    configured: Mapping[str, str]
    unreadable: frozenset[str] = frozenset()
    entry: Entry = ALL_PODS
    routed: str | None = None


# --- what exists for it ---


def render(
    deployment: ModelDeployment,
    desired: Revision,
    plan: Plan,
    observed: Observed,
    listed: tuple[int, ...],
    images: Images,
    golden: Json | Trouble | None = None,
) -> Rendered:
    """All children. The Service and what serves come first, so that trouble with a new revision leaves them applied.

    golden: what agents of a revision that isn't stable ask it first, as in agent.json; Trouble: nobody knows, so that
    revision's carrier is left as it is.
    """
    revisions = {**observed.revisions, desired.hash: desired}
    recorded = _recorded(deployment, observed)
    entry = choose_entry(
        plan.weights,
        plan.replicas,
        observed.entry,
        observed.by_router,
        sum(pod.is_ready for pod in observed.routers if not pod.is_ending),
        observed.carriers,
        wants_router=wants_router(deployment),
    )
    serving = [render_service(deployment, entry.carrier, to_router=entry.is_router)]
    others: list[Child] = []
    load: dict[str, tuple[int, ...]] = {}
    configured = {}
    backends: list[Backend] = []
    unreadable = set()
    kept: set[str] = set()
    for carrier in sorted(plan.replicas, key=lambda name: (plan.orders[name].revision != plan.stable, name)):
        orders = plan.orders[carrier]
        revision = revisions.get(orders.revision)
        if revision is None:
            if plan.replicas[carrier]:
                unreadable.add(carrier)
            continue
        asks = golden if plan.stable != revision.hash and plan.canary == revision.hash else None
        if isinstance(asks, Trouble):
            continue
        children = serving if orders.revision == plan.stable else others
        for name in (orders.revision, orders.replaces):
            if name in revisions and name not in kept:
                kept.add(name)
                is_newest = name == orders.revision and name == (plan.canary or plan.stable)
                children.append(_keep(deployment, revisions[name], recorded, is_newest=is_newest))
        # What is listed at the spec's place says nothing of another place: there the orders stay what they are.
        is_same_place = place_of(revision) == deployment.spec.model.uri
        load[carrier] = (
            _load(deployment, revision, listed) if is_same_place else _ordered_load(observed, carrier, revision)
        )
        former = revisions.get(orders.replaces or "")
        if former is not None and 0 < former.version < revision.version:
            load[carrier] = tuple(sorted({*load[carrier], former.version}))
        labels = _labels(deployment, plan, revision, former)
        agent_config = render_agent_config(deployment, revision, load[carrier], labels, asks)
        configured[carrier] = agent_config["generation"]
        known = recorded if is_same_place else revision.digests
        children.append(render_config_map(deployment, carrier, orders, agent_config, known))
        # Made anew beside pods that are about to end, it would count these as its own, and they would get requests.
        if orders.revision == plan.stable or carrier not in observed.left_over:
            children.append(render_deployment(deployment, carrier, revision.template, plan.replicas[carrier]))
        if plan.weights is not None:
            backends.append(_backend(deployment, carrier, revision, plan.weights.get(carrier, 0), load[carrier]))
    routing = Routing()
    if backends and (wants_split(deployment) or entry == ROUTER):
        # Routers to which the Service still leads are rendered, too, where the spec wants another provider by now.
        provider = "Router" if entry == ROUTER else provider_name(deployment.spec)
        if provider in ROUTINGS:
            split = Split(tuple(backends), images.cluster_domain)
            routing = ROUTINGS[provider](deployment, split, observed.live, images)
    children = [*serving, *routing.children, *others]
    if desired.hash not in kept:
        kept.add(desired.hash)
        children.append(_keep(deployment, desired, recorded))
    history = sorted(
        (revision for revision in revisions.values() if revision.hash not in kept), key=lambda r: -r.number
    )
    limit = deployment.spec.rollout.revision_history_limit
    children += [_keep(deployment, revision, recorded) for revision in history[:limit]]
    for carrier in unreadable:
        live = observed.live.get(("Deployment", child_name(deployment.name, carrier)))
        if live is not None:
            children.append(render_deployment(deployment, carrier, live["spec"]["template"], plan.replicas[carrier]))
    return Rendered(tuple(children), load, configured, frozenset(unreadable), entry, routing.generation)


def golden_kept(plan: Plan, observed: Observed) -> Json | None:
    """The golden requests that the canary's agents were told; None: none."""
    for carrier, orders in plan.orders.items():
        here = observed.ordered.get(carrier)
        if here is not None and here.revision == orders.revision == plan.canary:
            return here.golden
    return None


GOLDEN_REQUESTS = TypeAdapter(Annotated[list[GoldenRequest], Field(min_length=1, max_length=64)])
"""As many as the spec and agents take."""


def golden_orders(golden: Golden, data: Mapping[str, str] | None = None) -> Json:
    """What agents are told of golden requests. data: of the ConfigMap, where they stand in one; None: there is none.

    Raises SpecError(GoldenUnreadable) for a ConfigMap that isn't there, or doesn't hold what it should.
    """
    tolerance = {"absolute": golden.tolerance.absolute, "relative": golden.tolerance.relative}
    place = golden.config_map
    if place is None:
        return {"requests": [_golden(each) for each in golden.requests], "file": golden.file, "tolerance": tolerance}
    where = f"spec.rollout.gates.golden.configMap: ConfigMap {place.name}"
    if data is None:
        raise SpecError("GoldenUnreadable", f"{where} does not exist in this namespace. Create it, or correct its name")
    if place.key not in data:
        raise SpecError(
            "GoldenUnreadable", f"{where} has no key {place.key}; it has {', '.join(sorted(data)) or 'none'}"
        )
    try:
        requests = GOLDEN_REQUESTS.validate_json(data[place.key])
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        raise SpecError(
            "GoldenUnreadable",
            f"{where}, key {place.key}: {at + ': ' if at else ''}{first['msg']}. It must be a JSON list of objects "
            "with request and response",
        ) from None
    return {"requests": [_golden(each) for each in requests], "file": None, "tolerance": tolerance}


def _golden(request: GoldenRequest) -> Json:
    return request.model_dump(mode="json", by_alias=True, exclude_none=True)


def _backend(
    deployment: ModelDeployment, carrier: str, revision: Revision, weight: int, load: tuple[int, ...]
) -> Backend:
    own = spec_of(deployment, revision)
    ports = {port.name: port.number for port in RUNTIMES[own.runtime.name].ports(own)}
    return Backend(carrier, weight, load, ports["http"], ports.get("grpc"))


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


def _load(deployment: ModelDeployment, revision: Revision, listed: tuple[int, ...]) -> tuple[int, ...]:
    if revision.version == 0:
        return ()
    return choose_versions(deployment.spec.version_policy, revision.version, listed)


def _ordered_load(observed: Observed, carrier: str, revision: Revision) -> tuple[int, ...]:
    orders = observed.ordered.get(carrier)
    if orders is not None and orders.load and orders.served == revision.version:
        return orders.load
    return (revision.version,) if revision.version else ()


def _labels(deployment: ModelDeployment, plan: Plan, revision: Revision, former: Revision | None) -> dict[str, int]:
    """TensorFlow Serving's labels. In every pod `stable` leads somewhere; `canary` only while there is one."""
    if revision.version == 0:
        return {}
    own = {"stable": revision.version}
    if plan.canary == revision.hash and plan.stable is not None and former is not None and former.version:
        own = {"stable": former.version, "canary": revision.version}
    elif plan.canary == revision.hash and plan.stable is not None and plan.weights is not None:
        own["canary"] = revision.version
    return {**deployment.spec.model.labels, **own}


def _recorded(deployment: ModelDeployment, observed: Observed) -> dict[int, str]:
    """Version → the sha256 that was first served under that number at the spec's place, or that a pin put there."""
    here = [kept for kept in observed.revisions.values() if place_of(kept) == deployment.spec.model.uri]
    recorded: dict[int, str] = {}
    for kept in sorted(here, key=lambda kept: -kept.number):
        recorded = {**kept.digests, **recorded}
    names, pins = {kept.hash for kept in here}, deployment.spec.model.sha256
    for pod in observed.pods:
        if pod.report is None or observed.revision_of_pod(pod) not in names:
            continue
        for version in pod.report.versions:
            if version.state != "Available" or not version.sha256:
                continue
            if version.version not in recorded or pins.get(str(version.version)) == version.sha256:
                recorded[version.version] = version.sha256
    return {version: recorded[version] for version in sorted(recorded)[-MAX_LISTED:]}


# --- whether they agree ---


def _reaches_all(heard: RouterReport, observed: Observed) -> bool:
    """Whether a router knows all ready pods that it is to send requests to."""
    return all(
        heard.endpoints.get(carrier, 0) >= here.ready
        for carrier, here in observed.carriers.items()
        if heard.weights.get(carrier, 0)
    )


def settled_now(
    asked: ModelDeployment, observed: Observed, stored: ModelDeploymentStatus, found: Mapping[int, str | None]
) -> str | None:
    """The settled hash while it is the stored one, so that nobody needs to be asked; None when agents must be."""
    settled = _settled_hash(observed)
    if settled is None or settled != stored.settled or stored.canary is not None or stored.previous is not None:
        return None
    return None if needs_agents_listing(asked) and not known_versions(asked, observed, stored, found) else settled


def _settled_hash(observed: Observed) -> str | None:
    """Names the pods and what their agents were configured with; None while a pod is not ready."""
    pods = [pod for pod in observed.pods if not pod.is_ending]
    if not pods or not all(pod.is_ready for pod in pods):
        return None
    routers = [pod for pod in observed.routers if not pod.is_ending]
    if not all(pod.is_ready for pod in routers):
        return None
    generations = {carrier: orders.generation for carrier, orders in observed.ordered.items()}
    names = sorted([pod.uid, generations.get(pod.carrier, "")] for pod in pods)
    return hash_of([*names, *sorted([pod.uid, observed.routed or ""] for pod in routers)] if routers else names)


def is_told_anew(rendered: Rendered, observed: Observed) -> bool:
    """Whether agents' orders are others than those that they were given before."""
    return any(
        carrier not in observed.ordered or observed.ordered[carrier].generation != generation
        for carrier, generation in rendered.configured.items()
    )


def agreement(rendered: Rendered, plan: Plan, observed: Observed, settled: str | None, known: str | None) -> str | None:
    """The settled hash if all have what is rendered now and nothing is on its way, else None.

    settled: that hash, where it is known already that all agree with what they were told before.
    known: the hash at which all agreed before, whatever is so now.
    """
    # While a carrier leaves, routers are asked at every look: its pods go once none of them sends it requests.
    is_leaving = plan.weights is not None and {plan.canary, plan.previous} == {None} and len(plan.replicas) > 1
    if is_told_anew(rendered, observed) or is_leaving or observed.routed != rendered.routed:
        return None
    return settled or _agreed_hash(rendered, observed, known)


def _agreed_hash(rendered: Rendered, observed: Observed, known: str | None) -> str | None:
    """The settled hash if every agent has its configuration and all its versions are available, else None.

    known: the hash at which all agreed before. One that doesn't answer for a moment agrees with it still.
    """
    are_all_heard = True
    for pod in observed.pods:
        if pod.is_ending:
            continue
        wanted = rendered.configured.get(pod.carrier)
        report = pod.report
        if report is None:
            are_all_heard = False
            continue
        if report.generation != wanted or report.trouble is not None or report.labels:
            return None
        loaded = {version.version for version in report.versions if version.state in ("Available", "Unloading")}
        if loaded != set(rendered.load[pod.carrier]) or any(v.state == "Unloading" for v in report.versions):
            return None
    for router_pod in observed.routers:
        heard = observed.router_reports.get(router_pod.uid)
        if router_pod.is_ending:
            continue
        if heard is None:
            are_all_heard = False
            continue
        if heard.generation != rendered.routed or not _reaches_all(heard, observed):
            return None
    ordered = {
        carrier: replace(observed.ordered[carrier], generation=generation)
        for carrier, generation in rendered.configured.items()
        if carrier in observed.ordered
    }
    agreed = _settled_hash(replace(observed, ordered={**observed.ordered, **ordered}, routed=rendered.routed))
    return agreed if are_all_heard or agreed == known else None
