"""How far each loaded version is: the least advanced state among the pods of what serves.

Pure.
"""

from __future__ import annotations

from slipway.api.status import ModelDeploymentStatus, VersionStatus
from slipway.observe.pods import Pod
from slipway.report.pass_result import PassResult

STATE_ORDER = ("Failed", "Unknown", "Pending", "Fetching", "Verified", "Loading", "Unloading", "Available")

OTHER_BYTES = "ContentChanged"


def version_statuses(
    result: PassResult, pods: list[Pod], served: int, stored: ModelDeploymentStatus
) -> list[VersionStatus]:
    """Each version to load, with its least advanced state among the pods."""
    if result.carried_out is None or result.are_settled:
        return stored.versions
    before = {version.version: version for version in stored.versions}
    found = []
    for version in result.carried_out.load:
        reports = [
            report
            for pod in pods
            if pod.report is not None
            for report in pod.report.versions
            if report.version == version
        ]
        digests = sorted({report.sha256 for report in reports if report.state == "Available" and report.sha256})
        worst = min(reports, key=lambda report: STATE_ORDER.index(known_state(report.state)), default=None)
        digest = next((report.sha256 for report in reports if report.sha256), None)
        was = before.get(version)
        unheard = "Available" if result.settled is not None else "Unknown"
        state = known_state(worst.state) if worst else unheard
        since = was.since if was and was.since and was.state == state else worst.since if worst else None
        found.append(
            VersionStatus.model_validate(
                {
                    "version": version,
                    "state": state,
                    "served": version == served,
                    "reason": OTHER_BYTES if len(digests) > 1 else (worst.reason or None) if worst else None,
                    "message": _differing(digests) or ((worst.message[:2048] or None) if worst else None),
                    "sha256": digest or (was.sha256 if was else None),
                    "since": since,
                }
            )
        )
    return found


def _differing(digests: list[str]) -> str | None:
    """What to say when pods hold different bytes under one number: they fetched while these changed."""
    if len(digests) < 2:
        return None
    return (
        f"pods hold different bytes: {', '.join(digest[:12] for digest in digests)}. Pin the right ones in "
        "spec.model.sha256: the others are fetched again"
    )


def known_state(state: str) -> str:
    """A state that an agent reports, or Unknown: agents may be newer than the operator."""
    return state if state in STATE_ORDER else "Unknown"
