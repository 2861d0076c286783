"""What is told of a change: Kubernetes events, and the lines of status.transitions.

Invariant: nothing is told twice; no transition is without an event.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from slipway.api import GROUP, KIND, VERSION
from slipway.api.status import ModelDeploymentStatus, Transition, write_time
from slipway.model.revision import Json
from slipway.model.rollout import Plan
from slipway.model.rollout_state import Rejection
from slipway.report.conditions import ENDS, time_of_day
from slipway.report.pass_result import PassResult

MAX_TRANSITIONS = 10

STABLE_BECAUSE: Mapping[str, str] = {
    "First": "nothing served before it, and it passed its gates",
    "StepsDone": "each step's weight was in force, was held, and passed",
    "Person": "a person asked for it",
    "SetBack": "the spec names it again, and its pods were still warm",
    "RolledOver": "all its pods are ready",
    "LoadedEverywhere": "all pods serve it",
    "StableWasDown": "no pod of the stable revision has been ready since this one was asked for; it passed its gates",
}
"""Each `PromotionReason`, in words for a person. It is all that is said of why a revision is stable."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A Kubernetes event to be: something changed that a person wants to know."""

    is_warning: bool
    reason: str
    message: str


def transitions_after(
    result: PassResult, stored: ModelDeploymentStatus, rejected: Sequence[Rejection], now: datetime
) -> list[Transition]:
    """The story so far: each line once, told from what this pass changed."""
    told = list(stored.transitions)
    if result.carried_out is None:
        return told
    plan, steps = result.carried_out.plan, result.carried_out.inputs.steps

    def tell(revision: str, reason: str, message: str, because: str | None = None) -> None:
        at = write_time(now)
        told.append(Transition(at=at, revision=revision, reason=reason, message=message[:1024], because=because))

    outcome = result.outcome
    if outcome is not None and outcome.command is not None and outcome.is_accepted:
        tell(outcome.command.revision, "Command", f"{outcome.command.verb}: {outcome.message}")
    was_canary = stored.canary.revision if stored.canary else None
    was_stable = stored.stable.revision if stored.stable else None
    was_previous = stored.previous.revision if stored.previous else None
    before = stored.step.index if stored.step and was_canary == plan.state.canary else 0
    if plan.state.canary is not None and plan.state.canary != was_canary and plan.state.stable is not None:
        tell(plan.state.canary, "Started", f"revision {plan.state.canary} prepares beside {plan.state.stable}")
    if plan.state.canary is not None and plan.state.step_index > before and plan.weights is not None:
        step = steps[plan.state.step_index - 1]
        what = "a pause" if step.is_pause else f"weight {step.weight_percent}"
        tell(plan.state.canary, "Step", f"step {plan.state.step_index} of {len(steps)} begins: {what}")
    if plan.newly_rejected is not None:
        why = next((each.message for each in reversed(rejected) if each.revision == plan.newly_rejected.revision), "")
        tell(plan.newly_rejected.revision, "RolledBack", f"back to revision {plan.state.stable}: {why}")
    elif plan.cause is not None and plan.state.stable != was_stable:  # in bake, while the spec names another revision
        message = f"back to revision {plan.state.stable}: {plan.cause.reason}: {plan.cause.message}"
        tell(was_stable or "", "RolledBack", message)
    elif plan.state.stable is not None and plan.state.stable != was_stable:
        because = plan.promotion_reason.value if plan.promotion_reason is not None else None
        tell(
            plan.state.stable,
            "Promoted",
            f"revision {plan.state.stable} is stable{_why(because)}{_bake(plan)}",
            because,
        )
    is_over = stored.bake_until is not None and plan.state.bake_until is None
    if (is_over or (was_previous is not None and plan.state.previous is None)) and (
        plan.newly_rejected is None and plan.state.stable == was_stable
    ):
        goes = f"revision {was_previous} goes" if was_previous else "the version before is unloaded"
        tell(plan.state.stable or "", "Baked", f"the bake is over; {goes}")
    return told[-MAX_TRANSITIONS:]


def _bake(plan: Plan) -> str:
    """How long the one before is kept; empty where it is not."""
    if plan.state.bake_until is None:
        return ""
    kept = f"revision {plan.state.previous} stays warm" if plan.state.previous else "the version before stays loaded"
    return f"; {kept} until {time_of_day(plan.state.bake_until)}"


def _why(because: str | None) -> str:
    """The reason and what it means, to be put behind "is stable"."""
    if because is None:
        return ""
    words = STABLE_BECAUSE.get(because)
    return f" ({because}: {words})" if words else f" ({because})"


def notices(before: ModelDeploymentStatus, after: ModelDeploymentStatus) -> list[Notice]:
    """The events that a change of status is worth: one for each reason that is new."""
    found: dict[str, Notice] = {}
    for kind, good in (("Ready", "True"), ("Promoted", "True"), ("Degraded", "False")):
        old, new = before.condition(kind), after.condition(kind)
        if new is None or (old is not None and (old.status, old.reason) == (new.status, new.reason)):
            continue
        is_good = new.status == good
        if is_good and (old is None or kind == "Degraded"):
            continue
        if new.reason in ("Deploying", "InProgress", "ScaledToZero") and old is None:
            continue
        if is_good and kind == "Promoted" and before.stable is None:
            continue  # the first revision: Ready tells it
        found.setdefault(
            new.reason, Notice(not is_good and new.reason not in ("InProgress", "Paused"), new.reason, new.message)
        )
    told = before.transitions[-1] if before.transitions else None
    fresh = after.transitions[after.transitions.index(told) + 1 :] if told in after.transitions else after.transitions
    for transition in fresh:
        if transition.reason == "RolledBack":
            found.setdefault("RolledBack", Notice(True, "RolledBack", transition.message))
        if transition.reason == "Promoted" and (tells := _told_by(found, before)) is not None:
            found[tells.reason] = replace(tells, message=_both(tells, transition))
            continue
        if transition.reason in ("Started", "Step", "Promoted", "Baked", "Command"):
            found.setdefault(
                f"Rollout{transition.reason}", Notice(False, f"Rollout{transition.reason}", transition.message)
            )
    return list(found.values())


def _told_by(found: Mapping[str, Notice], before: ModelDeploymentStatus) -> Notice | None:
    """The event that tells a promotion already: Promoted or RolledBack without a bake; for the first, Ready."""
    reasons = (*ENDS, "MinimumReplicasReady") if before.stable is None else ENDS
    return next((found[reason] for reason in reasons if reason in found), None)


def _both(notice: Notice, transition: Transition) -> str:
    """What a condition says of a promotion, and why it was: condition Promoted says nothing that the line doesn't."""
    return transition.message if notice.reason == "Promoted" else f"{notice.message}; {transition.message}"


MAX_FIELDS_TOLD = 3


def change_put_back(child: str, fields: Sequence[tuple[str, ...]], managers: Sequence[str]) -> Notice:
    """That a change which somebody else made in an object of ours was taken back. child: its kind and name.

    managers: who made it, by the API server's word; empty where it doesn't say, as of a field that was taken out.
    """
    names = [".".join(field) for field in fields]
    told = ", ".join(names[:MAX_FIELDS_TOLD]) + (" and more" if len(names) > MAX_FIELDS_TOLD else "")
    by = f" by {', '.join(managers)}" if managers else ""
    return Notice(
        True,
        "ChangePutBack",
        f"{child}: {told} was changed{by} and is put back. It follows from the ModelDeployment's spec: change that "
        "instead",
    )


def event_of(notice: Notice, meta: Json, now: datetime) -> Json:
    """A notice as a Kubernetes event. meta: of the ModelDeployment."""
    stamp = write_time(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
        },
        "type": "Warning" if notice.is_warning else "Normal",
        "reason": notice.reason,
        "message": notice.message[:1024],
        "source": {"component": "slipway"},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
