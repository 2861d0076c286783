"""The conditions: Ready, Promoted, VersionsReady and Degraded; and the phase, one word for a person.

Ready: stable serves. Promoted: the spec's revision is the stable one. VersionsReady: the policy's other versions too.
Degraded: something needs a person.
Invariant: every reason is stable API (docs/conditions.md lists them); every message says what, where and what to do.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from slipway.api.status import Condition, ModelDeploymentStatus, VersionStatus, write_time
from slipway.model.rollout import Promotion
from slipway.model.rollout_state import Rejection
from slipway.model.workload import ABSENT, Trouble, enough, workload_of
from slipway.observe.pods import Pod
from slipway.observe.snapshot import Snapshot
from slipway.report.pass_result import PassResult
from slipway.report.versions import OTHER_BYTES

ENDS = frozenset({Promotion.PROMOTED, Promotion.ROLLED_BACK})


def ready_condition(
    result: PassResult, snapshot: Snapshot, stable: str | None, canary: str | None, ready: int
) -> Condition:
    if result.replicas == 0:
        return _condition("Ready", False, "ScaledToZero", "spec.replicas is 0: nothing serves")
    if stable is not None and ready >= enough(result.replicas):
        return _condition("Ready", True, "MinimumReplicasReady", f"{ready} of {result.replicas} pods serve")
    away = _going_over(snapshot, stable)
    if away and ready > 0 and ready + away >= enough(result.replicas):
        words = f"{ready} of {result.replicas} pods serve; {away} more out of the Service while going over in turn"
        return _condition("Ready", True, "MinimumReplicasReady", words)
    trouble = _trouble(snapshot, stable) or _trouble(snapshot, canary)
    if stable is None and result.problem is not None:
        trouble = result.problem
    if stable is None and trouble is None and result.version == 0 and result.plan is not None:
        if result.listing is not None:
            return _condition("Ready", False, result.listing.reason, result.listing.message)
        return _condition(
            "Ready",
            False,
            "NoVersionFound",
            "spec.model.uri holds no version yet. Put one there as a folder that is called like its number "
            f"(1, 2, 3 …); it is served as soon as it is found{_waits(snapshot)}",
        )
    if trouble:
        return _condition("Ready", False, trouble.reason, trouble.message)
    return _condition("Ready", False, "Deploying", f"{ready} of {result.replicas} pods are ready{_waits(snapshot)}")


def _going_over(snapshot: Snapshot, stable: str | None) -> int:
    """Pods of the stable revision's that were told to leave the Service for a new version, and whose servers serve."""
    here = snapshot.workloads.get(workload_of(stable or "", snapshot.workloads) or "", ABSENT)
    if here.turn is None or here.turn.pods is None:
        return 0
    return sum(each.is_in_turn and each.is_out and not each.is_ready for each in here.members)


def _trouble(snapshot: Snapshot, revision: str | None) -> Trouble | None:
    """What keeps a revision's pods from being ready."""
    return snapshot.troubles.get(workload_of(revision, snapshot.workloads) or revision) if revision else None


def _waits(snapshot: Snapshot) -> str:
    """What the agents of pods that are not ready do, for a person who waits."""
    doing = {
        f"version {version.version} is {version.state}"
        for pod in snapshot.pods
        if pod.report is not None and not pod.is_ready and not pod.is_ending
        for version in pod.report.versions
        if version.state not in ("Available", "Pending")
    }
    return f"; {', '.join(sorted(doing))}" if doing else ""


def promoted_condition(
    result: PassResult, snapshot: Snapshot, canary: str | None, stable: str | None, rejected: Sequence[Rejection]
) -> Condition:
    if result.problem is not None:
        return _condition("Promoted", False, result.problem.reason, result.problem.message)
    assert result.carried_out is not None  # a spec error is a problem
    plan, rolls_because = result.carried_out.plan, result.carried_out.inputs.placement.rolls_because
    pinned = plan.state.pinned
    match plan.promotion:
        case Promotion.PROMOTED:
            return _condition("Promoted", True, "Promoted", f"revision {result.revision} is stable")
        case Promotion.PAUSED:
            return _condition("Promoted", False, "Paused", f"revision {result.revision} waits for {plan.waits_for}")
        case Promotion.ROLLED_BACK if pinned is not None and stable == pinned.revision:
            return _condition(
                "Promoted",
                False,
                "RolledBack",
                f"a person rolled back to revision {pinned.revision}; the spec's, {pinned.instead_of}, "
                "is not tried again until the spec asks for another revision, or kubectl slipway retry",
            )
        case Promotion.ROLLED_BACK:
            why = next((entry.message for entry in reversed(rejected) if entry.revision == result.revision), "")
            return _condition(
                "Promoted",
                False,
                "RolledBack",
                f"revision {result.revision} was taken back and {stable} serves: {why}. It is not tried again until "
                "the spec asks for another revision, or kubectl slipway retry",
            )
        case Promotion.IN_PROGRESS:
            trouble = _trouble(snapshot, canary)
            text = f"revision {result.revision} takes over"
            if plan.state.previous is not None:
                text = f"revision {result.revision} is stable and bakes until {time_of_day(plan.state.bake_until)}"
            elif plan.waits_for:
                text += f"; it waits for {plan.waits_for}"
            if rolls_because:
                text += f" in pods of its own: {rolls_because}"
            return _condition(
                "Promoted", False, "InProgress", f"{text}; {trouble.reason}: {trouble.message}" if trouble else text
            )


def label_trouble(result: PassResult, pods: list[Pod]) -> Trouble | None:
    """A label that can't stand where it should, in any pod."""
    if result.plan is None or result.are_settled:
        return None
    return next((trouble for pod in pods if pod.report for trouble in pod.report.labels), None)


def versions_ready_condition(result: PassResult, versions: list[VersionStatus], label: Trouble | None) -> Condition:
    bad = [version for version in versions if version.state == "Failed" or version.reason == OTHER_BYTES]
    if bad:
        text = "; ".join(f"version {version.version}: {version.reason}: {version.message}" for version in bad)
        return _condition("VersionsReady", False, bad[0].reason or "Failed", text)
    if label is not None:
        return _condition("VersionsReady", False, label.reason, label.message)
    waiting = [version for version in versions if version.state != "Available"]
    if not versions or all(version.state == "Unknown" for version in versions):
        return Condition(
            type="VersionsReady", status="Unknown", reason="NotReported", message="no agent has reported yet"
        )
    if waiting:
        text = ", ".join(f"{version.version} is {version.state}" for version in waiting)
        return _condition("VersionsReady", False, "Loading", f"version {text}")
    loaded = ", ".join(str(version.version) for version in versions)
    return _condition("VersionsReady", True, "AllAvailable", f"loaded: {loaded}")


def degraded_condition(
    result: PassResult, snapshot: Snapshot, conditions: list[Condition], stable: str | None, canary: str | None
) -> Condition:
    troubles = (result.problem, _trouble(snapshot, canary), _trouble(snapshot, stable), result.listing)
    found = next((trouble for trouble in troubles if trouble is not None and trouble.needs_person), None)
    if found:
        return _condition("Degraded", True, found.reason, found.message)
    for condition in conditions:
        has_bad_version = (
            condition.type == "VersionsReady" and condition.status == "False" and condition.reason != "Loading"
        )
        if condition.reason == "RolledBack" or has_bad_version:
            return _condition("Degraded", True, condition.reason, condition.message)
    return _condition("Degraded", False, "AsExpected", "nothing needs a person")


def phase_of(result: PassResult, conditions: list[Condition], stable: str | None, canary: str | None) -> str:
    is_ready = conditions[0].status == "True"
    if result.problem is not None:
        return result.problem.reason
    if result.replicas == 0:
        return "ScaledToZero"
    if conditions[1].reason == "RolledBack":
        return "RolledBack"
    if result.plan is not None and result.plan.promotion is Promotion.PAUSED:
        return "Paused"
    if stable is not None and canary is not None:
        return "RollingOut"
    if result.plan is not None and result.plan.state.previous is not None and is_ready:
        return "Baking"
    if is_ready:
        return "Ready"
    return conditions[0].reason


def _condition(kind: str, is_true: bool, reason: str, message: str) -> Condition:
    return Condition(type=kind, status="True" if is_true else "False", reason=reason, message=message[:4096])


def dated(condition: Condition, generation: int, stored: ModelDeploymentStatus, now: datetime) -> Condition:
    before = stored.condition(condition.type)
    same = before is not None and before.status == condition.status and before.last_transition_time
    return condition.model_copy(
        update={
            "observed_generation": generation,
            "last_transition_time": before.last_transition_time if before and same else write_time(now),
        }
    )


def time_of_day(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%H:%M:%S} UTC" if moment else "its end"
