"""What should exist for a plan: all children, what the agents are told, and whether they agree with it.

Invariant: a revision that is kept is rendered from its ControllerRevision, never from today's defaults; what an agent
is told of one place never comes from a listing of another.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from slipway.api import ModelDeployment
from slipway.api.status import ModelDeploymentStatus
from slipway.manifests import (
    Child,
    Images,
    child_name,
    new_revision,
    render_agent_config,
    render_config_map,
    render_controller_revision,
    render_deployment,
    render_service,
)
from slipway.observe import Observed
from slipway.revisions import Revision, hash_of, place_of, user_choice
from slipway.rollout import Plan
from slipway.versions import choose_versions, needs_listing

MAX_LISTED = 256
"""The newest; more would not fit into status."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """All children that should exist, and what the agents are told.

    load: revision → versions. configured: revision → generation of its agents' configuration. unreadable: revisions
    that get pods and whose ControllerRevision is gone: their objects stay as they are, but for the number of pods.
    """

    children: tuple[Child, ...]
    load: Mapping[str, tuple[int, ...]]
    configured: Mapping[str, str]
    unreadable: frozenset[str] = frozenset()


def desired_revision(deployment: ModelDeployment, observed: Observed, images: Images) -> Revision:
    """The revision that the spec asks for: the one that is kept, or a new one at the end of the history."""
    kept = observed.revisions.get(hash_of(user_choice(deployment.spec)))
    if kept is not None:
        return kept
    number = 1 + max((revision.number for revision in observed.revisions.values()), default=0)
    return new_revision(deployment, images, number)


def render(
    deployment: ModelDeployment, desired: Revision, plan: Plan, observed: Observed, listed: tuple[int, ...]
) -> Rendered:
    """All children. The Service and what serves come first, so that trouble with a new revision leaves them applied."""
    revisions = {**observed.revisions, desired.hash: desired}
    order = sorted(
        (name for name in {*plan.replicas, desired.hash} if name in revisions), key=lambda name: name != plan.stable
    )
    children = [render_service(deployment)]
    load, configured = {}, {}
    for name in order:
        revision = revisions[name]
        children.append(render_controller_revision(deployment, revision))
        if name not in plan.replicas:
            continue
        # What is listed at the spec's place says nothing of another place: there the orders stay what they are.
        is_same_place = place_of(revision) == deployment.spec.model.uri
        orders = observed.ordered.get(name) or (revision.version,)
        chosen = choose_versions(deployment.spec.version_policy, revision.version, listed)
        load[name] = chosen if is_same_place else orders
        agent_config = render_agent_config(deployment, revision, load[name])
        configured[name] = agent_config["generation"]
        children.append(render_config_map(deployment, revision, agent_config))
        children.append(render_deployment(deployment, revision, plan.replicas[name]))
    history = sorted(
        (revision for revision in revisions.values() if revision.hash not in order), key=lambda r: -r.number
    )
    limit = deployment.spec.rollout.revision_history_limit
    children += [render_controller_revision(deployment, revision) for revision in history[:limit]]
    unreadable = frozenset(name for name, count in plan.replicas.items() if count and name not in revisions)
    for name in unreadable:
        live = observed.live.get(("Deployment", child_name(deployment.name, name)))
        if live is not None:
            as_it_stands = Revision(name, 0, 0, {}, {}, live["spec"]["template"])
            children.append(render_deployment(deployment, as_it_stands, plan.replicas[name]))
    return Rendered(tuple(children), load, configured, unreadable)


def known_versions(deployment: ModelDeployment, observed: Observed, stored: ModelDeploymentStatus) -> tuple[int, ...]:
    """The versions known to exist at the spec's place. A shorter listing changes nothing: what was seen once stays."""
    mapped = {int(version) for version in deployment.spec.model.versions}
    if mapped:
        return tuple(sorted(mapped))
    if not needs_listing(deployment.spec.version_policy):
        return ()
    served = deployment.spec.model.version or 0
    here = of_same_place(deployment, observed)
    seen = {version for pod in observed.pods if pod.report and pod.revision in here for version in pod.report.listed}
    shown = stored.stable or stored.canary
    if shown is not None and shown.revision in here:
        seen |= set(stored.listed)
    return tuple(sorted(version for version in seen if version <= served)[-MAX_LISTED:])


def needs_agents_listing(deployment: ModelDeployment) -> bool:
    """Whether agents have to say which versions there are."""
    return needs_listing(deployment.spec.version_policy) and not deployment.spec.model.versions


def of_same_place(deployment: ModelDeployment, observed: Observed) -> set[str]:
    """The kept revisions whose model is where the spec says."""
    return {name for name, kept in observed.revisions.items() if place_of(kept) == deployment.spec.model.uri}


def settled_hash(observed: Observed) -> str | None:
    """Names the pods and what their agents were configured with; None while a pod is not ready."""
    pods = [pod for pod in observed.pods if not pod.is_ending]
    if not pods or not all(pod.is_ready for pod in pods):
        return None
    return hash_of(sorted([pod.uid, observed.configured.get(pod.revision, "")] for pod in pods))


def agreed_hash(rendered: Rendered, observed: Observed) -> str | None:
    """The settled hash if every agent has its configuration and all its versions are available, else None."""
    for pod in observed.pods:
        if pod.is_ending:
            continue
        wanted = rendered.configured.get(pod.revision)
        report = pod.report
        if report is None or report.generation != wanted or report.trouble is not None:
            return None
        available = {version.version for version in report.versions if version.state == "Available"}
        if not available.issuperset(rendered.load[pod.revision]):
            return None
    return settled_hash(replace(observed, configured={**observed.configured, **rendered.configured}))
