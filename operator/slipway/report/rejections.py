"""What is remembered against a revision that was taken back, and why in words.

Pure.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from slipway.api.status import ModelDeploymentStatus, write_time
from slipway.model.rollout import NO_PROGRESS, Promotion
from slipway.model.rollout_state import RolloutState
from slipway.model.workload import Trouble, workload_of
from slipway.observe.agent_reports import REFUSALS
from slipway.observe.snapshot import Snapshot
from slipway.report.pass_result import PassResult

UNREADY = "its pods did not become ready"


def with_words(result: PassResult, stored: ModelDeploymentStatus, snapshot: Snapshot, now: datetime) -> RolloutState:
    """The plan's state, with reason and message of the revision that this pass gave up."""
    assert result.carried_out is not None
    plan, stamps = result.carried_out.plan, result.carried_out.inputs.stamps
    state, gone = plan.state, plan.newly_rejected
    if gone is None:
        return state
    home = workload_of(gone.revision, snapshot.workloads) or gone.revision
    refusal = _refusal(snapshot, home, result.version)
    trouble = refusal or snapshot.troubles.get(home) or _stood_in_the_way(result, stored)
    last = f"{trouble.reason}: {trouble.message}" if trouble else _last_known(snapshot, home)
    is_final = refusal is not None and refusal.reason in REFUSALS  # else the deadline decided
    late = "" if is_final else "no progress within spec.rollout.progressDeadlineSeconds; "
    why = last if trouble else "; ".join(filter(None, (UNREADY, last or _waited(stored, gone.revision))))
    reason, message = trouble.reason if trouble else NO_PROGRESS, f"{late}{why}"
    if (cause := plan.cause) is not None and cause.reason:
        reason, message = cause.reason, f"{cause.reason}: {cause.message}"
        if reason == NO_PROGRESS and last:
            message = f"{message}; {last}" if cause.message else f"{reason}: {last}"
    said = replace(gone, reason=reason, message=message[:2048], at=write_time(now), stamp=stamps.get(result.version))
    return replace(state, rejected=tuple(said if each == gone else each for each in state.rejected))


def _last_known(snapshot: Snapshot, workload: str) -> str:
    """What is known of pods that nothing troubles now: how a server ended last, and what agents do; empty: nothing."""
    here = snapshot.workloads.get(workload)
    doing = {
        f"version {version.version} is {version.state}"
        for pod in snapshot.pods
        if pod.workload == workload and pod.report is not None and not pod.is_ready and not pod.is_ending
        for version in pod.report.versions
        if version.state not in ("Available", "Pending")
    }
    crash = [here.crashes[0].message] if here is not None and here.crashes else []
    return "; ".join([*crash, *sorted(doing)])


def _waited(stored: ModelDeploymentStatus, revision: str) -> str:
    """What the revision waited for when status was written last; empty: nothing is known."""
    is_its = stored.canary is not None and stored.canary.revision == revision
    waits_for = stored.step.waits_for if is_its and stored.step is not None else None
    return f"it waited for {waits_for}" if waits_for else ""


def _refusal(snapshot: Snapshot, workload: str, version: int) -> Trouble | None:
    """What an agent says against a version that it was to serve, while the one before goes on serving."""
    for pod in snapshot.pods:
        report = pod.report.version(version) if pod.report and pod.workload == workload else None
        if report is not None and report.state == "Failed":
            told = snapshot.troubles.get(workload)
            # An agent sees a server that was ended for want of memory as one that couldn't load.
            why = f"; {told.message}" if told is not None and told.reason == "OutOfMemory" else ""
            return Trouble(report.reason or "Failed", f"version {version}: {report.message}{why}")
    return None


def _stood_in_the_way(result: PassResult, stored: ModelDeploymentStatus) -> Trouble | None:
    """What kept this generation from being carried out until now: the API server refused a child, a name was taken."""
    before = stored.condition("Promoted")
    if before is None or before.observed_generation != result.generation or before.reason in set(Promotion):
        return None
    return Trouble(before.reason, before.message)
