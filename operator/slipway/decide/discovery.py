"""Which versions there are at the spec's place, which one is served, and which are loaded.

Invariants: what was listed at one place says nothing of another; a shorter listing forgets nothing; the served version
is always among the loaded ones and their highest, because most servers answer an unversioned request with the highest
version that they have loaded.
Pure; this is the only place where versions are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from slipway.api import ModelDeployment
from slipway.api.status import ModelDeploymentStatus, RevisionStatus
from slipway.api.v1alpha1 import VersionPolicy
from slipway.model.revision import Revision, place_of
from slipway.model.workload import Trouble
from slipway.observe.snapshot import AgentOrders, Snapshot

MAX_LISTED = 256
"""The newest; more would not fit into status."""


def resolve_version(
    deployment: ModelDeployment, snapshot: Snapshot, stored: ModelDeploymentStatus, found: tuple[int, ...]
) -> ModelDeployment:
    """The deployment with its served version in the spec: the one named, or the newest found; none while none is.

    A person's rollback is no finding: what it serves, or is to serve, counts as the version that it serves instead of.
    Only a newer one than that ends it.
    """
    spec, pinned = deployment.spec, stored.pinned
    here = of_same_place(deployment, snapshot)

    def version_of(role: RevisionStatus | None) -> int | None:
        if role is None:
            return None
        revision = pinned.instead_of if pinned is not None and role.revision == pinned.revision else role.revision
        return snapshot.revisions[revision].version if revision in here else None

    version = resolve_served(spec.model.version, found, version_of(stored.stable), version_of(stored.canary))
    if version == spec.model.version:
        return deployment
    return deployment.model_copy(
        update={"spec": spec.model_copy(update={"model": spec.model.model_copy(update={"version": version})})}
    )


def known_versions(
    deployment: ModelDeployment,
    snapshot: Snapshot,
    stored: ModelDeploymentStatus,
    found: Mapping[int, str | None] | None = None,
) -> tuple[int, ...]:
    """The versions known to exist at the spec's place. A shorter listing changes nothing: what was seen once stays.

    found: what an agent of a pod of that place listed last.
    """
    mapped = {int(version) for version in deployment.spec.model.versions}
    if mapped:
        return tuple(sorted(mapped))
    if not needs_agents_listing(deployment):
        return ()
    here = of_same_place(deployment, snapshot)
    seen = set(found or {})
    for pod in snapshot.pods:
        if pod.report and snapshot.revision_of_pod(pod) in here:
            seen |= {*pod.report.listed, *pod.report.found}
    shown = stored.stable or stored.canary
    if shown is not None and shown.revision in here:
        seen |= set(stored.listed)
    served = deployment.spec.model.version
    return tuple(sorted(version for version in seen if served is None or version <= served)[-MAX_LISTED:])


def needs_agents_listing(deployment: ModelDeployment) -> bool:
    """Whether agents have to say which versions there are."""
    model = deployment.spec.model
    return not model.versions and (model.version is None or needs_listing(deployment.spec.version_policy))


def of_same_place(deployment: ModelDeployment, snapshot: Snapshot) -> set[str]:
    """The kept revisions whose model is where the spec says."""
    return {name for name, kept in snapshot.revisions.items() if place_of(kept) == deployment.spec.model.uri}


def listing_trouble(deployment: ModelDeployment, snapshot: Snapshot) -> Trouble | None:
    """Why the place can't be listed, where nothing can be done without a listing."""
    if not needs_agents_listing(deployment):
        return None
    here = of_same_place(deployment, snapshot)
    troubles = [
        pod.report.listing_trouble
        for pod in snapshot.pods
        if pod.report is not None and not pod.is_ending and snapshot.revision_of_pod(pod) in here
    ]
    return next((trouble for trouble in troubles if trouble is not None), None)


def choose_lister(snapshot: Snapshot, revisions: set[str]) -> str | None:
    """The address of an agent that lists the spec's place: always the same one while it is there."""
    ips = [
        (not pod.is_ready, pod.uid, pod.ip)
        for pod in snapshot.pods
        if pod.ip and not pod.is_ending and snapshot.revision_of_pod(pod) in revisions
    ]
    return min(ips)[2] if ips else None


def known_stamps(
    deployment: ModelDeployment, snapshot: Snapshot, found: Mapping[int, str | None], stable: str | None
) -> dict[int, str | None]:
    """Version → name of its bytes at the spec's place, as last heard: of the stable revision's pods where they tell it.

    Where each pod has a copy of its own, another pod's name for it would read as other bytes.
    """
    here = of_same_place(deployment, snapshot)
    stamps: dict[int, str | None] = {}
    for pod in sorted(snapshot.pods, key=lambda pod: snapshot.revision_of_pod(pod) == stable):
        if pod.report is not None and snapshot.revision_of_pod(pod) in here:
            stamps |= pod.report.found
    return {**stamps, **found}


def resolve_served(asked: int | None, found: Iterable[int], stable: int | None, canary: int | None) -> int | None:
    """The version that clients get: the one that the spec names, else the newest one found; None while none is.

    Discovery only moves up, and never in the middle of a rollout that has something to go back to.
    stable, canary: versions of the same place's revisions that serve and that take over, None without one.

    >>> resolve_served(None, [1, 2, 3], 2, None), resolve_served(None, [1], 2, None), resolve_served(None, [4], 2, 3)
    (3, 2, 3)
    >>> resolve_served(1, [1, 2, 3], 2, None)
    1
    """
    if asked is not None:
        return asked
    if canary and stable:
        return canary
    return max([*found, stable or 0]) or None


def choose_versions(policy: VersionPolicy | None, served: int, listed: Iterable[int]) -> tuple[int, ...]:
    """The versions to load, ascending.

    `listed` are the versions found at the URI; it may be empty while no agent has listed it yet: then the served
    version alone is loaded and the others follow.

    >>> choose_versions(VersionPolicy.model_validate({"latest": {"count": 2}}), 3, [1, 2, 3, 4])
    (2, 3)
    >>> choose_versions(VersionPolicy.model_validate({"all": {}}), 3, [1, 2, 3, 4])
    (1, 2, 3)
    """
    below = sorted({version for version in listed if version < served})
    match policy:
        case None:
            others: list[int] = []
        case VersionPolicy(latest=latest) if latest is not None:
            others = below[len(below) - (latest.count - 1) :] if latest.count - 1 < len(below) else below
        case VersionPolicy(specific=specific) if specific is not None:
            # Not limited to what is listed: a version that isn't there is reported by the agent, not skipped.
            others = sorted({version for version in specific.versions if version < served})
        case _:
            others = below
    return (*others, served)


def versions_to_load(
    deployment: ModelDeployment,
    revision: Revision,
    former: Revision | None,
    listed: Iterable[int],
    live: AgentOrders | None,
) -> tuple[int, ...]:
    """The versions that the agents of a revision's workload load, ascending; none while none was found.

    former: the revision before it in place, whose version stays loaded beside it. listed: the versions at the spec's
    place. live: the workload's ConfigMap as it stands, which a revision of another place keeps to: the listing says
    nothing of that place.
    """
    if revision.version == 0:
        load: tuple[int, ...] = ()
    elif place_of(revision) == deployment.spec.model.uri:
        load = choose_versions(deployment.spec.version_policy, revision.version, listed)
    elif live is not None and live.load and live.served == revision.version:
        load = live.load
    else:
        load = (revision.version,)
    if former is not None and 0 < former.version < revision.version:
        return tuple(sorted({*load, former.version}))
    return load


def needs_listing(policy: VersionPolicy | None) -> bool:
    """Whether the policy can only be applied to a listing of what is there."""
    if policy is None or policy.specific is not None:
        return False
    return policy.latest is None or policy.latest.count > 1
