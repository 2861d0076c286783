"""The status that a pass leaves: what a person and a script read, and what the next pass goes on from.

Invariant: a status is a function of what was observed and planned; assessed twice, it is the same, so nothing is
written when nothing changed. Times change only with what they date.
Pure.
"""

from __future__ import annotations

from datetime import datetime

from slipway.api.status import (
    CommandStatus,
    ModelDeploymentStatus,
    RevisionStatus,
    StepStatus,
    TrafficStatus,
    VerdictStatus,
    read_time,
    write_time,
)
from slipway.decide.discovery import MAX_LISTED
from slipway.decide.service_target import in_force_now
from slipway.model.names import selector_of
from slipway.model.rollout import Plan
from slipway.model.workload import ABSENT, workload_of
from slipway.observe.service import ROUTER
from slipway.observe.snapshot import Snapshot
from slipway.report.conditions import (
    dated,
    degraded_condition,
    label_trouble,
    phase_of,
    promoted_condition,
    ready_condition,
    versions_ready_condition,
)
from slipway.report.events import transitions_after
from slipway.report.pass_result import PassResult
from slipway.report.rejections import rejections_after
from slipway.report.versions import version_statuses


def assess(
    result: PassResult, snapshot: Snapshot, stored: ModelDeploymentStatus, now: datetime
) -> ModelDeploymentStatus:
    """The status to show."""
    plan = result.plan
    stable = plan.stable if plan else stored.stable.revision if stored.stable else None
    canary = plan.canary if plan else stored.canary.revision if stored.canary else None
    previous = plan.previous if plan else stored.previous.revision if stored.previous else None
    rejected = rejections_after(result, stored, snapshot, now)
    pods = [pod for pod in snapshot.pods if not pod.is_ending]
    ready = sum(pod.is_ready for pod in pods)
    if plan is not None and plan.weights is not None and stable is not None:  # a canary's pods serve only its share
        home = workload_of(stable, snapshot.workloads) or ""
        ready = snapshot.workloads.get(home, ABSENT).ready
        if (
            result.service_target == ROUTER
            and (reached := _reached(home, snapshot, is_split=canary is not None)) is not None
        ):
            ready = min(ready, reached)  # no request gets to the others yet
        ready += _in_their_place(plan, snapshot, home, result.replicas)
    shown = workload_of(stable or canary or "", snapshot.workloads) or stable or canary
    served = _version_of(stable or canary, result, snapshot, stored)
    versions = version_statuses(result, [pod for pod in pods if pod.workload == shown], served, stored)[-MAX_LISTED:]
    conditions = [
        ready_condition(result, snapshot, stable, canary, ready),
        promoted_condition(result, snapshot, canary, stable, rejected),
        versions_ready_condition(
            result, versions, label_trouble(result, [pod for pod in pods if pod.workload == shown])
        ),
    ]
    conditions.append(degraded_condition(result, snapshot, conditions, stable, canary))
    return ModelDeploymentStatus(
        observed_generation=result.generation,
        phase=phase_of(result, conditions, stable, canary),
        stable=_revision_status(stable, result, snapshot, stored.stable or stored.previous),
        canary=_revision_status(canary, result, snapshot, stored.canary),
        previous=_revision_status(previous, result, snapshot, stored.previous or stored.stable),
        step=_step(result, stored),
        verdict=_verdict(result) if plan else stored.verdict,
        evidence=result.evidence if plan else stored.evidence,
        traffic=_traffic(result) if plan else stored.traffic,
        pinned=result.pinned if plan else stored.pinned,
        last_command=_command(result, stored, now),
        transitions=transitions_after(result, stored, rejected, now),
        progress_since=_kept_time(plan.progress_since, stored.progress_since) if plan else stored.progress_since,
        progress_ready=plan.canary_ready if plan else stored.progress_ready,
        traffic_since=_kept_time(plan.traffic_since, stored.traffic_since) if plan else stored.traffic_since,
        bake_until=_kept_time(plan.bake_until, stored.bake_until) if plan else stored.bake_until,
        next_look=_kept_time(plan.turns_at, stored.next_look) if plan else stored.next_look,
        rejected=rejected,
        versions=versions,
        listed=sorted(result.listed)[-MAX_LISTED:],
        settled=result.settled,
        replicas=len(pods),
        ready_replicas=ready,
        ready=f"{ready}/{result.replicas}",
        selector=selector_of(result.name),
        conditions=[dated(condition, result.generation, stored, now) for condition in conditions],
    )


def _reached(home: str, snapshot: Snapshot, *, is_split: bool) -> int | None:
    """Pods of stable that each router which answers sends requests to; None: none answers.

    Once nothing is split, one that still sends them elsewhere reaches none: what is there may be gone.
    """
    ready = [pod.uid for pod in snapshot.routers if pod.is_ready and not pod.is_ending]
    heard = [snapshot.router_reports[uid] for uid in ready if uid in snapshot.router_reports]
    return min(
        (each.endpoints.get(home, 0) if is_split or each.weights.get(home) else 0 for each in heard), default=None
    )


def _in_their_place(plan: Plan, snapshot: Snapshot, home: str, replicas: int) -> int:
    """Ready pods of the canary that, with Swap, stand where stable's stood: they were asked to make room."""
    instead = replicas - plan.replicas.get(home, replicas)
    canary = workload_of(plan.canary, snapshot.workloads) if plan.canary is not None else None
    return min(instead, snapshot.workloads[canary].ready) if canary is not None and canary != home else 0


def _kept_time(moment: datetime | None, text: str | None) -> str | None:
    """The stored text where it dates the same moment: what is written once is not written otherwise."""
    if moment is None:
        return None
    return text if read_time(text) == moment else write_time(moment)


def _revision_status(
    revision: str | None, result: PassResult, snapshot: Snapshot, stored: RevisionStatus | None
) -> RevisionStatus | None:
    if revision is None:
        return None
    home = workload_of(revision, snapshot.workloads)
    here = snapshot.workloads.get(home or "")
    plan = result.plan
    is_canary = plan is not None and plan.canary == revision
    shares = is_canary and plan is not None and plan.stable and workload_of(plan.stable, snapshot.workloads) == home
    before = stored if stored and stored.revision == revision else None
    if plan is None and before is not None:
        strategy, because = before.strategy, before.rolls_because
    elif is_canary:
        strategy = "InPlace" if shares else "RollingUpdate" if plan is None or plan.weights is None else "Canary"
        because = (result.rolls_because or (before.rolls_because if before else None) or "")[:2048] or None
    else:
        strategy, because = None, None
    weight = in_force = None
    if plan is not None and plan.weights is not None and home is not None:
        weight = plan.weights.get(home, 0)
        split = in_force_now(
            snapshot.service_target, snapshot.by_router, snapshot.workloads, wants_router=bool(snapshot.routers)
        )
        in_force = split.weights.get(home, 0) if split is not None else None
        if split is None and before is not None and (result.are_settled or result.settled is not None):
            in_force = before.weight_in_force
    return RevisionStatus(
        weight_percent=weight,
        weight_in_force=in_force,
        revision=revision,
        version=_version_known(revision, result, snapshot, stored),
        ready_replicas=(here.switched if here.replaces and is_canary else here.ready) if here else 0,
        workload=home,
        strategy=strategy,
        rolls_because=because,
    )


def _version_of(revision: str | None, result: PassResult, snapshot: Snapshot, stored: ModelDeploymentStatus) -> int:
    if revision is None:
        return result.version
    before = stored.stable if stored.stable and stored.stable.revision == revision else stored.canary
    return _version_known(revision, result, snapshot, before)


def _version_known(revision: str, result: PassResult, snapshot: Snapshot, stored: RevisionStatus | None) -> int:
    known = snapshot.revisions.get(revision)
    if known is not None:
        return known.version
    return stored.version if stored and stored.revision == revision else result.version


def _step(result: PassResult, stored: ModelDeploymentStatus) -> StepStatus | None:
    plan = result.plan
    if plan is None:
        return stored.step
    if plan.canary is None or plan.weights is None or plan.stable is None:
        return None
    return StepStatus(
        index=plan.step_index,
        count=len(result.steps),
        since=_kept_time(plan.step_since, stored.step.since if stored.step else None),
        paused=plan.is_paused,
        promote_requested=plan.is_promote_requested,
        waits_for=plan.waits_for[:1024] or None,
    )


def _verdict(result: PassResult) -> VerdictStatus | None:
    verdict = result.verdict
    if verdict is None:
        return None
    return VerdictStatus.model_validate(
        {"result": verdict.outcome.value, "reason": verdict.reason, "message": verdict.message[:2048]}
    )


def _traffic(result: PassResult) -> TrafficStatus | None:
    target = result.service_target
    if target is None or result.plan is None or result.plan.weights is None:
        return None
    name = "Router" if target.is_router else target.workload or "Pods"
    return TrafficStatus(service_target=name, message=result.unreachable[:1024])


def _command(result: PassResult, stored: ModelDeploymentStatus, now: datetime) -> CommandStatus | None:
    outcome = result.outcome
    if result.plan is None or outcome is None or outcome.command is None:
        return stored.last_command
    command = outcome.command
    return CommandStatus(
        id=command.id,
        verb=command.verb,
        revision=command.revision,
        at=write_time(now),
        accepted=outcome.is_accepted,
        message=outcome.message[:1024],
    )
