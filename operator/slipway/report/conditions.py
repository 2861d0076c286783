"""The conditions: Ready, Promoted, VersionsReady, Degraded, Reconciling; and the phase, one word for a person.
AgentsOutdated is `report.agents`'.

Ready: stable serves. Promoted: the spec's revision is the stable one. VersionsReady: the policy's other versions too.
Degraded: something needs a person. Reconciling: a revision is on its way, bakes or is paused, or waits for room.
Invariant: every reason is stable API (docs/conditions.md lists them); every message says what, where and what to do.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from slipway.api.status import Condition, ModelDeploymentStatus, VersionStatus, write_time
from slipway.api.urls import credential_in, show_url
from slipway.decide.placement import AGENT_TOO_OLD, silent_pods, unverifying_pods
from slipway.model.names import selector_of
from slipway.model.rollout import Promotion
from slipway.model.rollout_state import HaltReason, Rejection
from slipway.model.workload import ABSENT, Trouble, enough, workload_of
from slipway.observe.pods import Pod
from slipway.observe.room import ROOM
from slipway.observe.snapshot import Snapshot
from slipway.report.pass_result import CarriedOut, PassResult
from slipway.report.versions import OTHER_BYTES
from slipway.report.waits import doings, room_for, trouble_of

ENDS = frozenset({Promotion.PROMOTED, Promotion.ROLLED_BACK})


def ready_condition(
    result: PassResult, snapshot: Snapshot, stable: str | None, canary: str | None, ready: int
) -> Condition:
    if result.replicas == 0:
        return _condition("Ready", False, "ScaledToZero", "spec.replicas is 0: nothing serves")
    if stable is not None and ready >= enough(result.replicas):
        serve = min(ready, result.replicas)  # while some go, or stand in for others, there are more
        return _condition("Ready", True, "MinimumReplicasReady", f"{serve} of {result.replicas} pods serve")
    away = _going_over(snapshot, stable)
    if away and ready > 0 and ready + away >= enough(result.replicas):
        words = f"{ready} of {result.replicas} pods serve; {away} more out of the Service while going over in turn"
        return _condition("Ready", True, "MinimumReplicasReady", words)
    trouble = trouble_of(snapshot, stable) or trouble_of(snapshot, canary) or snapshot.routers.trouble
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
            f"(1, 2, 3 …); it is served as soon as it is found{doings(snapshot)}",
        )
    if trouble:
        return _condition("Ready", False, trouble.reason, trouble.message)
    ready = min(ready, result.replicas)
    return _condition("Ready", False, "Deploying", f"{ready} of {result.replicas} pods are ready{doings(snapshot)}")


def _going_over(snapshot: Snapshot, stable: str | None) -> int:
    """Pods of the stable revision's that were told to leave the Service for a new version, and whose servers serve."""
    here = snapshot.workloads.get(workload_of(stable or "", snapshot.workloads) or "", ABSENT)
    if here.turn is None or here.turn.pods is None:
        return 0
    return sum(each.is_in_turn and each.is_out and not each.is_ready for each in here.members)


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
                f"a person rolled back to revision {pinned.revision}; the spec's, {pinned.instead_of}, is not tried "
                "again until the spec asks for another revision, a newer version is found, or kubectl slipway retry",
            )
        case Promotion.ROLLED_BACK:
            why = next((entry.message for entry in reversed(rejected) if entry.revision == result.revision), "")
            return _condition(
                "Promoted",
                False,
                "RolledBack",
                f"revision {result.revision} was taken back and {_serves(result, snapshot, stable)}: {why}. It is not "
                "tried again until the spec asks for another revision, or kubectl slipway retry",
            )
        case Promotion.IN_PROGRESS:
            trouble = trouble_of(snapshot, canary) or room_for(snapshot, canary) or snapshot.routers.trouble
            text = f"revision {result.revision} takes over"
            if plan.state.previous is not None:
                text = f"revision {result.revision} is stable and bakes until {time_of_day(plan.state.bake_until)}"
            elif plan.waits_for:
                text += f"; it waits for {plan.waits_for}"
            if rolls_because:
                text += f" in pods of its own: {rolls_because}"
            if plan.state.canary is not None and plan.weights is not None and plan.state.stable is not None:
                text += _judging(result.carried_out)
            return _condition(
                "Promoted", False, "InProgress", f"{text}; {trouble.reason}: {trouble.message}" if trouble else text
            )


def _judging(carried_out: CarriedOut) -> str:
    """That nobody judges the canary, or by what where the spec doesn't say it."""
    message = carried_out.inputs.judging.message
    return f"; {message}" if message and not carried_out.inputs.target.is_rollback else ""


def _serves(result: PassResult, snapshot: Snapshot, stable: str | None) -> str:
    """That the stable revision serves, or that it is to."""
    if stable is None:
        return "nothing serves"
    if result.replicas == 0:
        return f"{stable} is to serve once spec.replicas is above 0"
    home = snapshot.workloads.get(workload_of(stable, snapshot.workloads) or "", ABSENT)
    return f"{stable} serves" if home.ready else f"{stable} is to serve; 0 of {result.replicas} pods are ready"


def label_trouble(result: PassResult, pods: list[Pod]) -> Trouble | None:
    """A label that can't stand where it should, in any pod."""
    if result.plan is None or result.are_settled:
        return None
    return next((trouble for pod in pods if pod.report for trouble in pod.report.labels), None)


def versions_ready_condition(
    result: PassResult, versions: list[VersionStatus], label: Trouble | None, pull: str = ""
) -> Condition:
    """pull: that an image of their pods is being pulled: until then no server is there that could load them."""
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
        if pull:
            text = f"{', '.join(str(version.version) for version in waiting)}: {pull}"
        return _condition("VersionsReady", False, "Loading", f"version {text}")
    loaded = ", ".join(str(version.version) for version in versions)
    return _condition("VersionsReady", True, "AllAvailable", f"loaded: {loaded}")


def degraded_condition(
    result: PassResult,
    snapshot: Snapshot,
    conditions: list[Condition],
    stable: str | None,
    canary: str | None,
    *,
    late: Trouble | None = None,
    before: Condition | None = None,
) -> Condition:
    """late: that a first revision is past its deadline. before: as it was said last; it stands where it is of agents
    that don't answer for a moment."""
    pods = (trouble_of(snapshot, canary), trouble_of(snapshot, stable), snapshot.routers.trouble)
    unverified = _unverified(result, snapshot, before)
    troubles = (result.problem, _stable_unavailable(result, snapshot, stable), *pods, result.listing, late, unverified)
    found = next((trouble for trouble in troubles if trouble is not None and trouble.needs_person), None)
    if found:
        return _condition("Degraded", True, found.reason, found.message)
    for condition in conditions:
        has_bad_version = (
            condition.type == "VersionsReady" and condition.status == "False" and condition.reason != "Loading"
        )
        if condition.reason == "RolledBack" or has_bad_version:
            return _condition("Degraded", True, condition.reason, condition.message)
    if exposed := _credential_in_spec(result):
        return _condition("Degraded", True, "CredentialInSpec", exposed)
    return _condition("Degraded", False, "AsExpected", "nothing needs a person")


def _credential_in_spec(result: PassResult) -> str | None:
    """That a URL of the spec opens by itself, without what opens it. It is served all the same."""
    model = result.carried_out.inputs.asked.spec.model if result.carried_out is not None else None
    if model is None or not model.uri.startswith("https://"):
        return None
    if name := credential_in(model.uri):
        return (
            f"spec.model.uri has {name} in it ({show_url(model.uri)}): whoever may read this object, its Service or "
            "its ConfigMaps can use it. Write the URL without that, and put username and password into a Secret "
            "(spec.storage.secretRef)"
        )
    for version, url in model.versions.items():
        if name := credential_in(url):
            return (
                f"spec.model.versions names for version {version} a URL that opens by itself ({name} in "
                f"{show_url(url)}): whoever may read this object, its Service or its ConfigMaps can use it. Write the "
                f"URL without that, and put it into a Secret: query.{version} for what is behind the question mark, "
                "username and password for these (spec.storage.secretRef)"
            )
    return None


def _stable_unavailable(result: PassResult, snapshot: Snapshot, stable: str | None) -> Trouble | None:
    """In a rollout or a bake, no pod of the stable revision is ready."""
    halt = result.plan.state.halt if result.plan is not None else None
    if result.plan is None or halt is None:
        return None
    bakes = result.plan.state.canary is None and result.plan.state.previous is not None
    is_for_room = bakes and halt.reason is HaltReason.WAITING_FOR_CAPACITY
    if not is_for_room and halt.reason is not HaltReason.STABLE_UNAVAILABLE:
        return None
    beside = result.plan.state.canary or result.plan.state.previous
    cause = trouble_of(snapshot, stable)
    return Trouble(
        HaltReason.STABLE_UNAVAILABLE.value,
        f"no pod of the stable revision {stable} is ready since {time_of_day(halt.since)}: requests go to revision "
        f"{beside} where it has ready pods, until stable has one again. The rollout stands still meanwhile. "
        + (cause.message if cause is not None else f"See why: kubectl describe pods -l {selector_of(result.name)}"),
    )


def _unverified(result: PassResult, snapshot: Snapshot, before: Condition | None) -> Trouble | None:
    """Pods whose agents load whatever they are told, although the spec has signed models verified."""
    storage = result.carried_out.inputs.deployment.spec.storage if result.carried_out is not None else None
    pods = sorted(pod.name for pod in unverifying_pods(storage, snapshot)) if storage is not None else []
    is_asked = storage is not None and bool(storage.trusted_keys)
    if not pods and is_asked and before is not None and before.reason == AGENT_TOO_OLD and silent_pods(snapshot):
        return Trouble(before.reason, before.message)
    if not pods:
        return None
    others = f" and {len(pods) - 3} others" if len(pods) > 3 else ""
    return Trouble(
        AGENT_TOO_OLD,
        f"spec.storage.verify is Require, and the agents of pods {', '.join(pods[:3])}{others} are of an older release,"
        " which can't verify: what these fetch is loaded as it is. Pods of a new revision have an agent that can; to "
        f"replace these before, one by one: kubectl slipway refresh {result.name}",
    )


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


def reconciling_condition(
    result: PassResult, snapshot: Snapshot, conditions: list[Condition], stable: str | None, canary: str | None
) -> Condition:
    """Whether something goes on without a person's doing, and what it waits for. conditions: Ready, Promoted, …

    False where the rollout was taken back, and where something stands in the way that isn't want of room.
    """
    ready, promoted = conditions[0], conditions[1]
    plan, problem = result.plan, result.problem
    to_replace = result.carried_out.rendered.to_replace if result.carried_out is not None else 0
    is_hindered = problem is not None and problem.reason not in ROOM
    is_alone = plan is not None and plan.promotion not in (Promotion.IN_PROGRESS, Promotion.PAUSED)
    if is_hindered and is_alone and to_replace and result.replicas > 0:
        return _condition("Reconciling", True, "Refreshing", _refreshing(result, snapshot, stable, to_replace))
    if plan is None or is_hindered:
        return _condition("Reconciling", False, promoted.reason, promoted.message)
    if plan.promotion is Promotion.ROLLED_BACK and not to_replace:
        return _condition("Reconciling", False, promoted.reason, promoted.message)
    waits = problem or room_for(snapshot, canary)
    if waits is None and (ready.status == "False" or to_replace):
        waits = room_for(snapshot, stable)
    if waits is not None and result.replicas > 0:
        reason = "NodeCannotLoad" if waits.reason == "NodeCannotLoad" else "WaitingForCapacity"
        return _condition("Reconciling", True, reason, waits.message)
    if plan.state.halt is not None and plan.state.halt.reason is HaltReason.OUT_OF_CAPACITY:
        return _condition("Reconciling", True, "WaitingForCapacity", promoted.message)
    if plan.promotion in (Promotion.IN_PROGRESS, Promotion.PAUSED):
        return _condition("Reconciling", True, promoted.reason, promoted.message)
    if to_replace and result.replicas > 0:
        return _condition("Reconciling", True, "Refreshing", _refreshing(result, snapshot, stable, to_replace))
    if plan.state.bake_until is not None:
        until = time_of_day(plan.state.bake_until)
        return _condition("Reconciling", True, "InProgress", f"revision {stable} is stable and bakes until {until}")
    return _condition("Reconciling", False, "AsExpected", "nothing is on its way")


def _refreshing(result: PassResult, snapshot: Snapshot, stable: str | None, to_replace: int) -> str:
    """How far a refresh is, what keeps its new pods from being made or ready, and the way back."""
    trouble = result.problem or trouble_of(snapshot, stable)
    why = f"; {trouble.reason}: {trouble.message.rstrip('.')}" if trouble is not None else ""
    return (
        f"pods of revision {stable} are replaced one by one after a refresh: {to_replace} still to go, which serve "
        f"until then{why}. To go back to the pods before: kubectl slipway abort {result.name}"
    )


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
