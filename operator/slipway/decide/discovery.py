"""Which versions there are at the spec's place, as far as agents told: by number, by the name of their bytes.

Invariant: what was listed at one place says nothing of another; a shorter listing forgets nothing.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from slipway.api import ModelDeployment
from slipway.api.status import ModelDeploymentStatus
from slipway.decide.versions import needs_listing, resolve_served
from slipway.model.revision import place_of
from slipway.observe.problems import Trouble
from slipway.observe.snapshot import Observed

MAX_LISTED = 256
"""The newest; more would not fit into status."""


def resolve_version(
    deployment: ModelDeployment, observed: Observed, stored: ModelDeploymentStatus, found: tuple[int, ...]
) -> ModelDeployment:
    """The deployment with its served version in the spec: the one named, or the newest found; none while none is."""
    spec = deployment.spec
    here = of_same_place(deployment, observed)
    stable = stored.stable.version if stored.stable and stored.stable.revision in here else None
    canary = stored.canary.version if stored.canary and stored.canary.revision in here else None
    version = resolve_served(spec.model.version, found, stable, canary)
    if version == spec.model.version:
        return deployment
    return deployment.model_copy(
        update={"spec": spec.model_copy(update={"model": spec.model.model_copy(update={"version": version})})}
    )


def known_versions(
    deployment: ModelDeployment,
    observed: Observed,
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
    here = of_same_place(deployment, observed)
    seen = set(found or {})
    for pod in observed.pods:
        if pod.report and observed.revision_of_pod(pod) in here:
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


def of_same_place(deployment: ModelDeployment, observed: Observed) -> set[str]:
    """The kept revisions whose model is where the spec says."""
    return {name for name, kept in observed.revisions.items() if place_of(kept) == deployment.spec.model.uri}


def listing_trouble(deployment: ModelDeployment, observed: Observed) -> Trouble | None:
    """Why the place can't be listed, where nothing can be done without a listing."""
    if not needs_agents_listing(deployment):
        return None
    here = of_same_place(deployment, observed)
    troubles = [
        pod.report.listing_trouble
        for pod in observed.pods
        if pod.report is not None and not pod.is_ending and observed.revision_of_pod(pod) in here
    ]
    return next((trouble for trouble in troubles if trouble is not None), None)


def choose_lister(observed: Observed, revisions: set[str]) -> str | None:
    """The address of an agent that lists the spec's place: always the same one while it is there."""
    ips = [
        (not pod.is_ready, pod.uid, pod.ip)
        for pod in observed.pods
        if pod.ip and not pod.is_ending and observed.revision_of_pod(pod) in revisions
    ]
    return min(ips)[2] if ips else None


def known_stamps(
    deployment: ModelDeployment, observed: Observed, found: Mapping[int, str | None], stable: str | None
) -> dict[int, str | None]:
    """Version → name of its bytes at the spec's place, as last heard: of the stable revision's pods where they tell it.

    Where each pod has a copy of its own, another pod's name for it would read as other bytes.
    """
    here = of_same_place(deployment, observed)
    stamps: dict[int, str | None] = {}
    for pod in sorted(observed.pods, key=lambda pod: observed.revision_of_pod(pod) == stable):
        if pod.report is not None and observed.revision_of_pod(pod) in here:
            stamps |= pod.report.found
    return {**stamps, **found}
