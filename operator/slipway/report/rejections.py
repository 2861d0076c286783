"""What is remembered against a revision that was taken back, and why in words.

Pure.
"""

from __future__ import annotations

from datetime import datetime

from slipway.api.status import (
    ModelDeploymentStatus,
    Rejected,
    write_time,
)
from slipway.model.rollout import NO_PROGRESS, Promotion
from slipway.model.workload import Trouble, carrier_of
from slipway.observe.agent_reports import REFUSALS
from slipway.observe.snapshot import Observed
from slipway.report.pass_result import Judged

MAX_REJECTED = 10


def rejections_after(
    judged: Judged, stored: ModelDeploymentStatus, observed: Observed, now: datetime
) -> list[Rejected]:
    if judged.plan is None:
        return stored.rejected
    kept = list(judged.remembered)
    gone = judged.plan.newly_rejected
    if gone is None:
        return kept
    home = carrier_of(gone.revision, observed.carriers) or gone.revision
    refusal = _refusal(observed, home, judged.version)
    trouble = refusal or observed.troubles.get(home) or _stood_in_the_way(judged, stored)
    why = f"{trouble.reason}: {trouble.message}" if trouble else "its pods did not become ready"
    is_final = refusal is not None and refusal.reason in REFUSALS  # else the deadline decided
    late = "" if is_final else "no progress within spec.rollout.progressDeadlineSeconds; "
    reason, message = trouble.reason if trouble else NO_PROGRESS, f"{late}{why}"
    if (cause := judged.plan.cause) is not None and cause.reason:
        reason, message = cause.reason, f"{cause.reason}: {cause.message}"
    entry = Rejected(
        revision=gone.revision,
        content=gone.content,
        reason=reason,
        message=message[:2048],
        at=write_time(now),
        stamp=judged.stamps.get(judged.version),
    )
    return [*kept, entry][-MAX_REJECTED:]


def _refusal(observed: Observed, carrier: str, version: int) -> Trouble | None:
    """What an agent says against a version that it was to serve, while the one before goes on serving."""
    for pod in observed.pods:
        report = pod.report.version(version) if pod.report and pod.carrier == carrier else None
        if report is not None and report.state == "Failed":
            return Trouble(report.reason or "Failed", f"version {version}: {report.message}")
    return None


def _stood_in_the_way(judged: Judged, stored: ModelDeploymentStatus) -> Trouble | None:
    """What kept this generation from being carried out until now: the API server refused a child, a name was taken."""
    before = stored.condition("Promoted")
    if before is None or before.observed_generation != judged.generation or before.reason in set(Promotion):
        return None
    return Trouble(before.reason, before.message)
