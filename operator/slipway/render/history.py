"""The ControllerRevisions of a ModelDeployment: which revisions it keeps, and which digests each of them keeps.

Invariant: a digest that was recorded for a version of a place stays, unless a pin put another one there.
Must not import: report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from slipway.api import ModelDeployment
from slipway.decide.discovery import MAX_LISTED
from slipway.model.revision import Revision, place_of
from slipway.observe.snapshot import Snapshot
from slipway.render.objects import Child, render_controller_revision


def render_kept(
    deployment: ModelDeployment, revision: Revision, recorded: Mapping[int, str], *, is_newest: bool = False
) -> Child:
    """A revision's ControllerRevision. The newest in pods keeps all digests of its place, others those they have.

    recorded: `recorded_digests`. is_newest: the canary while there is one, else stable. What the others would still
    learn depends on how long they take, and each digest is kept already.
    """
    if place_of(revision) != deployment.spec.model.uri:
        return render_controller_revision(deployment, revision, revision.digests)
    known = {version: recorded.get(version, digest) for version, digest in revision.digests.items()}
    return render_controller_revision(deployment, revision, {**known, **recorded} if is_newest else known)


def render_history(
    deployment: ModelDeployment,
    revisions: Mapping[str, Revision],
    in_pods: Collection[str],
    recorded: Mapping[int, str],
) -> list[Child]:
    """The revisions beside those in pods, the newest first, as many as spec.rollout.revisionHistoryLimit says."""
    history = sorted((kept for kept in revisions.values() if kept.hash not in in_pods), key=lambda kept: -kept.number)
    limit = deployment.spec.rollout.revision_history_limit
    return [render_kept(deployment, kept, recorded) for kept in history[:limit]]


def recorded_digests(deployment: ModelDeployment, snapshot: Snapshot) -> dict[int, str]:
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
