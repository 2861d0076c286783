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
from slipway.model.workload import ABSENT, carrier_of
from slipway.observe.service import ROUTER
from slipway.observe.snapshot import Observed
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
from slipway.report.pass_result import Judged
from slipway.report.rejections import rejections_after
from slipway.report.versions import version_statuses


def assess(judged: Judged, observed: Observed, stored: ModelDeploymentStatus, now: datetime) -> ModelDeploymentStatus:
    """The status to show."""
    plan = judged.plan
    stable = plan.stable if plan else stored.stable.revision if stored.stable else None
    canary = plan.canary if plan else stored.canary.revision if stored.canary else None
    previous = plan.previous if plan else stored.previous.revision if stored.previous else None
    rejected = rejections_after(judged, stored, observed, now)
    pods = [pod for pod in observed.pods if not pod.is_ending]
    ready = sum(pod.is_ready for pod in pods)
    if plan is not None and plan.weights is not None and stable is not None:  # a canary's pods serve only its share
        home = carrier_of(stable, observed.carriers) or ""
        ready = observed.carriers.get(home, ABSENT).ready
        if judged.entry == ROUTER and (reached := _reached(home, observed, is_split=canary is not None)) is not None:
            ready = min(ready, reached)  # no request gets to the others yet
        ready += _in_their_place(plan, observed, home, judged.replicas)
    shown = carrier_of(stable or canary or "", observed.carriers) or stable or canary
    served = _version_of(stable or canary, judged, observed, stored)
    versions = version_statuses(judged, [pod for pod in pods if pod.carrier == shown], served, stored)[-MAX_LISTED:]
    conditions = [
        ready_condition(judged, observed, stable, canary, ready),
        promoted_condition(judged, observed, canary, stable, rejected),
        versions_ready_condition(
            judged, versions, label_trouble(judged, [pod for pod in pods if pod.carrier == shown])
        ),
    ]
    conditions.append(degraded_condition(judged, observed, conditions, stable, canary))
    return ModelDeploymentStatus(
        observed_generation=judged.generation,
        phase=phase_of(judged, conditions, stable, canary),
        stable=_revision_status(stable, judged, observed, stored.stable or stored.previous),
        canary=_revision_status(canary, judged, observed, stored.canary),
        previous=_revision_status(previous, judged, observed, stored.previous or stored.stable),
        step=_step(judged, stored),
        verdict=_verdict(judged) if plan else stored.verdict,
        evidence=judged.evidence if plan else stored.evidence,
        traffic=_traffic(judged) if plan else stored.traffic,
        pinned=judged.pinned if plan else stored.pinned,
        last_command=_command(judged, stored, now),
        transitions=transitions_after(judged, stored, rejected, now),
        progress_since=_kept_time(plan.progress_since, stored.progress_since) if plan else stored.progress_since,
        progress_ready=plan.canary_ready if plan else stored.progress_ready,
        weighted_since=_kept_time(plan.weighted_since, stored.weighted_since) if plan else stored.weighted_since,
        bake_until=_kept_time(plan.bake_until, stored.bake_until) if plan else stored.bake_until,
        next_look=_kept_time(plan.turns_at, stored.next_look) if plan else stored.next_look,
        rejected=rejected,
        versions=versions,
        listed=sorted(judged.listed)[-MAX_LISTED:],
        settled=judged.settled,
        replicas=len(pods),
        ready_replicas=ready,
        ready=f"{ready}/{judged.replicas}",
        selector=selector_of(judged.name),
        conditions=[dated(condition, judged.generation, stored, now) for condition in conditions],
    )


def _reached(home: str, observed: Observed, *, is_split: bool) -> int | None:
    """Pods of stable that each router which answers sends requests to; None: none answers.

    Once nothing is split, one that still sends them elsewhere reaches none: what is there may be gone.
    """
    ready = [pod.uid for pod in observed.routers if pod.is_ready and not pod.is_ending]
    heard = [observed.router_reports[uid] for uid in ready if uid in observed.router_reports]
    return min(
        (each.endpoints.get(home, 0) if is_split or each.weights.get(home) else 0 for each in heard), default=None
    )


def _in_their_place(plan: Plan, observed: Observed, home: str, replicas: int) -> int:
    """Ready pods of the canary that, with Swap, stand where stable's stood: they were asked to make room."""
    instead = replicas - plan.replicas.get(home, replicas)
    canary = carrier_of(plan.canary, observed.carriers) if plan.canary is not None else None
    return min(instead, observed.carriers[canary].ready) if canary is not None and canary != home else 0


def _kept_time(moment: datetime | None, text: str | None) -> str | None:
    """The stored text where it dates the same moment: what is written once is not written otherwise."""
    if moment is None:
        return None
    return text if read_time(text) == moment else write_time(moment)


def _revision_status(
    revision: str | None, judged: Judged, observed: Observed, stored: RevisionStatus | None
) -> RevisionStatus | None:
    if revision is None:
        return None
    home = carrier_of(revision, observed.carriers)
    here = observed.carriers.get(home or "")
    plan = judged.plan
    is_canary = plan is not None and plan.canary == revision
    shares = is_canary and plan is not None and plan.stable and carrier_of(plan.stable, observed.carriers) == home
    before = stored if stored and stored.revision == revision else None
    if plan is None and before is not None:
        strategy, because = before.strategy, before.rolls_because
    elif is_canary:
        strategy = "InPlace" if shares else "RollingUpdate" if plan is None or plan.weights is None else "Canary"
        because = (judged.rolls_because or (before.rolls_because if before else None) or "")[:2048] or None
    else:
        strategy, because = None, None
    weight = in_force = None
    if plan is not None and plan.weights is not None and home is not None:
        weight = plan.weights.get(home, 0)
        split = in_force_now(observed.entry, observed.by_router, observed.carriers, wants_router=bool(observed.routers))
        in_force = split.weights.get(home, 0) if split is not None else None
        if split is None and before is not None and (judged.are_settled or judged.settled is not None):
            in_force = before.weight_in_force
    return RevisionStatus(
        weight_percent=weight,
        weight_in_force=in_force,
        revision=revision,
        version=_version_known(revision, judged, observed, stored),
        ready_replicas=(here.switched if here.replaces and is_canary else here.ready) if here else 0,
        carrier=home,
        strategy=strategy,
        rolls_because=because,
    )


def _version_of(revision: str | None, judged: Judged, observed: Observed, stored: ModelDeploymentStatus) -> int:
    if revision is None:
        return judged.version
    before = stored.stable if stored.stable and stored.stable.revision == revision else stored.canary
    return _version_known(revision, judged, observed, before)


def _version_known(revision: str, judged: Judged, observed: Observed, stored: RevisionStatus | None) -> int:
    known = observed.revisions.get(revision)
    if known is not None:
        return known.version
    return stored.version if stored and stored.revision == revision else judged.version


def _step(judged: Judged, stored: ModelDeploymentStatus) -> StepStatus | None:
    plan = judged.plan
    if plan is None:
        return stored.step
    if plan.canary is None or plan.weights is None or plan.stable is None:
        return None
    return StepStatus(
        index=plan.step_index,
        count=len(judged.steps),
        since=_kept_time(plan.step_since, stored.step.since if stored.step else None),
        paused=plan.is_paused,
        hurried=plan.is_hurried,
        waits_for=plan.waits_for[:1024] or None,
    )


def _verdict(judged: Judged) -> VerdictStatus | None:
    verdict = judged.verdict
    if verdict is None:
        return None
    return VerdictStatus.model_validate(
        {"result": verdict.outcome.value, "reason": verdict.reason, "message": verdict.message[:2048]}
    )


def _traffic(judged: Judged) -> TrafficStatus | None:
    entry = judged.entry
    if entry is None or judged.plan is None or judged.plan.weights is None:
        return None
    name = "Router" if entry.is_router else entry.carrier or "Pods"
    return TrafficStatus(entry=name, message=judged.unreachable[:1024])


def _command(judged: Judged, stored: ModelDeploymentStatus, now: datetime) -> CommandStatus | None:
    obeyed = judged.obeyed
    if judged.plan is None or obeyed is None or obeyed.command is None:
        return stored.last_command
    command = obeyed.command
    return CommandStatus(
        id=command.id,
        verb=command.verb,
        revision=command.revision,
        at=write_time(now),
        accepted=obeyed.is_accepted,
        message=obeyed.message[:1024],
    )
