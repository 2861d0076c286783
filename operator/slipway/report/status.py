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
    write_time,
)
from slipway.decide.discovery import MAX_LISTED
from slipway.decide.service_target import in_force_now
from slipway.model.names import selector_of
from slipway.model.rollout import Plan
from slipway.model.rollout_state import kept_time, read_rejections, read_state, write_state
from slipway.model.signals import Verdict
from slipway.model.workload import ABSENT, workload_of
from slipway.observe.service import ROUTER
from slipway.observe.snapshot import Snapshot
from slipway.report.agents import agents_status
from slipway.report.columns import columns
from slipway.report.conditions import (
    dated,
    degraded_condition,
    label_trouble,
    phase_of,
    promoted_condition,
    ready_condition,
    reconciling_condition,
    versions_ready_condition,
)
from slipway.report.events import transitions_after
from slipway.report.pass_result import CarriedOut, PassResult
from slipway.report.rejections import with_words
from slipway.report.versions import version_statuses
from slipway.report.waits import overdue, pull_of


def assess(
    result: PassResult, snapshot: Snapshot, stored: ModelDeploymentStatus, now: datetime
) -> ModelDeploymentStatus:
    """The status to show."""
    carried = result.carried_out
    kept = {each.revision for each in (stored.stable, stored.previous) if each is not None}
    state = (
        with_words(result, stored, snapshot, now)
        if carried is not None
        else read_state(stored, kept, read_rejections(stored))
    )
    stable, canary, rejected = state.stable, state.canary, state.rejected
    pods = [pod for pod in snapshot.pods if not pod.is_ending]
    ready = _ready_pods(carried, snapshot, stable, canary, result.replicas)
    shown = workload_of(stable or canary or "", snapshot.workloads) or stable or canary
    served = _version_of(stable or canary, result, snapshot, stored)
    own = [pod for pod in pods if pod.workload == shown]
    versions = version_statuses(result, own, served, stored)[-MAX_LISTED:]
    conditions = [
        ready_condition(result, snapshot, stable, canary, ready),
        promoted_condition(result, snapshot, canary, stable, rejected),
        versions_ready_condition(result, versions, label_trouble(result, own), pull_of(own)),
    ]
    late = overdue(result, snapshot, now)
    before = stored.condition("Degraded")
    conditions.append(degraded_condition(result, snapshot, conditions, stable, canary, late=late, before=before))
    conditions.append(reconciling_condition(result, snapshot, conditions, stable, canary))
    agents, outdated = agents_status(result, snapshot, stored)
    conditions.append(outdated)
    remembered = write_state(state, stored)
    remembered["step"] = _step(carried, remembered["step"]) if carried else stored.step
    stable_status = _revision_status(stable, result, snapshot, stored.stable or stored.previous)
    canary_status = _revision_status(canary, result, snapshot, stored.canary)
    return ModelDeploymentStatus(
        **remembered,
        **columns(result, snapshot, stored, stable_status, canary_status),
        observed_generation=result.generation,
        phase=phase_of(result, conditions, stable, canary),
        stable=stable_status,
        canary=canary_status,
        previous=_revision_status(state.previous, result, snapshot, stored.previous or stored.stable),
        verdict=_verdict(carried.signals.verdict) if carried else stored.verdict,
        evidence=carried.evidence if carried else stored.evidence,
        traffic=_traffic(carried) if carried else stored.traffic,
        last_command=_command(result, stored, now),
        transitions=transitions_after(result, stored, rejected, now),
        next_look=kept_time(carried.plan.turns_at, stored.next_look) if carried else stored.next_look,
        versions=versions,
        listed=sorted(result.listed)[-MAX_LISTED:],
        settled=result.settled,
        agents=agents,
        replicas=len(pods),
        ready_replicas=ready,
        ready=f"{ready}/{result.replicas}",
        selector=selector_of(result.name),
        conditions=[dated(condition, result.generation, stored, now) for condition in conditions],
    )


def _ready_pods(
    carried: CarriedOut | None, snapshot: Snapshot, stable: str | None, canary: str | None, replicas: int
) -> int:
    """Pods that serve all requests; where these are split, a canary's serve only its share."""
    if carried is None or carried.plan.weights is None or stable is None:
        return sum(pod.is_ready for pod in snapshot.pods if not pod.is_ending)
    home = workload_of(stable, snapshot.workloads) or ""
    ready = snapshot.workloads.get(home, ABSENT).ready
    reached = _reached(home, snapshot, is_split=canary is not None)
    if carried.rendered.service_target == ROUTER and reached is not None:
        ready = min(ready, reached)  # no request gets to the others yet
    return ready + _in_their_place(carried.plan, snapshot, home, replicas)


def _reached(home: str, snapshot: Snapshot, *, is_split: bool) -> int | None:
    """Pods of stable that each router which answers sends requests to; None: none answers.

    Once nothing is split, one that still sends them elsewhere reaches none: what is there may be gone.
    """
    ready = [pod.uid for pod in snapshot.routers.pods if pod.is_ready and not pod.is_ending]
    heard = [snapshot.routers.reports[uid] for uid in ready if uid in snapshot.routers.reports]
    return min(
        (each.endpoints.get(home, 0) if is_split or each.weights.get(home) else 0 for each in heard), default=None
    )


def _in_their_place(plan: Plan, snapshot: Snapshot, home: str, replicas: int) -> int:
    """Ready pods of the canary that, with Swap, stand where stable's stood: they were asked to make room."""
    instead = replicas - plan.replicas.get(home, replicas)
    canary = workload_of(plan.state.canary, snapshot.workloads) if plan.state.canary is not None else None
    return min(instead, snapshot.workloads[canary].ready) if canary is not None and canary != home else 0


def _revision_status(
    revision: str | None, result: PassResult, snapshot: Snapshot, stored: RevisionStatus | None
) -> RevisionStatus | None:
    if revision is None:
        return None
    home = workload_of(revision, snapshot.workloads)
    here = snapshot.workloads.get(home or "")
    plan, carried = result.plan, result.carried_out
    is_canary = plan is not None and plan.state.canary == revision
    shares = (
        is_canary
        and plan is not None
        and plan.state.stable
        and workload_of(plan.state.stable, snapshot.workloads) == home
    )
    before = stored if stored and stored.revision == revision else None
    if plan is None and before is not None:
        strategy, because = before.strategy, before.rolls_because
    elif is_canary:
        strategy = "InPlace" if shares else "RollingUpdate" if plan is None or plan.weights is None else "Canary"
        now_because = carried.inputs.placement.rolls_because if carried is not None else None
        because = (now_because or (before.rolls_because if before else None) or "")[:2048] or None
    else:
        strategy, because = None, None
    weight = in_force = None
    if plan is None and before is not None:  # nobody was asked
        weight, in_force = before.weight_percent, before.weight_in_force
    if plan is not None and plan.weights is not None and home is not None:
        weight = plan.weights.get(home, 0)
        split = in_force_now(
            snapshot.service_target,
            snapshot.routers.in_force,
            snapshot.workloads,
            wants_router=bool(snapshot.routers.pods),
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


def _step(carried: CarriedOut, step: StepStatus) -> StepStatus | None:
    """Where the canary is, with how many steps there are and what it waits for; None without a canary in steps."""
    plan = carried.plan
    if plan.state.canary is None or plan.weights is None or plan.state.stable is None:
        return None
    judging = "" if carried.inputs.target.is_rollback else carried.inputs.judging.message
    said = {"waits_for": plan.waits_for[:1024] or None, "judging": judging[:1024] or None}
    return step.model_copy(update={"count": len(carried.inputs.steps), **said})


def _verdict(verdict: Verdict | None) -> VerdictStatus | None:
    if verdict is None:
        return None
    return VerdictStatus.model_validate(
        {"result": verdict.outcome.value, "reason": verdict.reason, "message": verdict.message[:2048]}
    )


def _traffic(carried: CarriedOut) -> TrafficStatus | None:
    target = carried.rendered.service_target
    if carried.plan.weights is None:
        return None
    name = "Router" if target.is_router else target.workload or "Pods"
    return TrafficStatus(service_target=name, message=carried.unreachable[:1024])


def _command(result: PassResult, stored: ModelDeploymentStatus, now: datetime) -> CommandStatus | None:
    outcome = result.outcome
    if outcome is None or outcome.command is None:
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
