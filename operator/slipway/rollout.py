"""How a new revision takes over: `step(wanted, memory, pods, now) → Plan`.

This release knows RollingUpdate: new pods beside old ones, an old pod goes when a new one is ready. The plan says for
every revision that may have pods how many it gets; a revision that the plan does not name gets none and is pruned.

    N = 2, surge = 1                     old wanted   new wanted
    old ready 2, new ready 0             2            1
    old ready 2, new ready 1             1            1    (an old pod still ends: 2 + 1 exist)
    old ready 1, new ready 1             1            2
    old ready 1, new ready 2             0            2    → new is stable

Laws (each has a property test): ready pods never fall below what was ready and wanted; a step repeated on the world it
asked for changes nothing; a rejected revision gets no pod while something else can serve.
Pure: time comes in as `now`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

SURGE_SHARE = 0.25
NO_PROGRESS = "ProgressDeadlineExceeded"


class Promotion(StrEnum):
    """How far the spec's revision is; the reasons of condition Promoted."""

    PROMOTED = "Promoted"
    IN_PROGRESS = "InProgress"
    ROLLED_BACK = "RolledBack"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the spec asks for. `content` names what it says about the served version's bytes (`content_hash`)."""

    revision: str
    content: str
    replicas: int
    deadline_seconds: int


@dataclass(frozen=True, slots=True)
class RevisionPods:
    """The pods of a revision, as observed.

    wanted: the Deployment's replicas. existing: its pods that are not ending. ready: of these, the ready ones.
    is_fetching: a pod's agent is downloading, without error: that is progress.
    is_blocked: a pod can't be scheduled for want of resources.
    """

    wanted: int
    existing: int
    ready: int
    is_fetching: bool = False
    is_blocked: bool = False


ABSENT = RevisionPods(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A revision that failed with these bytes."""

    revision: str
    content: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What earlier passes decided and no pass can observe; kept in status.

    stable: trusted: the shell leaves it out when that revision is not kept anywhere any more.
    canary_ready: the most ready pods that the canary ever had: losing and regaining one is no progress.
    """

    stable: str | None = None
    canary: str | None = None
    canary_ready: int = 0
    progress_since: datetime | None = None
    rejected: tuple[Rejection, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now.

    replicas: revision → pods wanted; those not named are pruned.
    newly_rejected: set when this step gave a revision up; the reason is NO_PROGRESS.
    wake_at: when to look again even if nothing happens; None: only when something does.
    """

    stable: str | None
    canary: str | None
    replicas: Mapping[str, int]
    promotion: Promotion
    progress_since: datetime | None
    canary_ready: int = 0
    newly_rejected: Rejection | None = None
    wake_at: datetime | None = None


def enough(replicas: int) -> int:
    """Ready pods that count as serving: a quarter may be missing, as in a Deployment.

    >>> [enough(n) for n in (1, 2, 3, 4, 8)]
    [1, 2, 3, 3, 6]
    """
    return replicas - replicas // 4


def step(wanted: Wanted, memory: Memory, pods: Mapping[str, RevisionPods], now: datetime) -> Plan:
    """The next plan. `pods` holds every revision that has a Deployment."""
    new = wanted.revision
    stable = memory.stable or _serving_without_memory(new, pods)
    here = pods.get(new, ABSENT)
    if stable is None:
        if here.ready < enough(wanted.replicas) or new not in pods:
            # The first revision, or one after others that never served: nothing to protect, nothing to go back to.
            since, most = _progress(new, here, memory, now)
            return Plan(None, new, {new: wanted.replicas}, Promotion.IN_PROGRESS, since, most)
        stable = new
    if stable == new:
        replicas = _shift(new, wanted.replicas, pods)
        return Plan(stable, None, replicas, Promotion.PROMOTED, None)
    rejection = Rejection(new, wanted.content)
    if rejection in memory.rejected:
        return _go_back(stable, wanted.replicas, pods)
    if here.ready >= wanted.replicas and new in pods and here.wanted >= wanted.replicas:
        return Plan(new, None, _shift(new, wanted.replicas, pods), Promotion.PROMOTED, None)
    since, most = _progress(new, here, memory, now)
    deadline = since + timedelta(seconds=wanted.deadline_seconds)
    if now >= deadline and not here.is_fetching:
        plan = _go_back(stable, wanted.replicas, pods)
        return Plan(plan.stable, None, plan.replicas, plan.promotion, None, newly_rejected=rejection)
    replicas = _shift(new, wanted.replicas, pods, stable)
    wake_at = max(deadline, now + timedelta(seconds=1))
    return Plan(stable, new, replicas, Promotion.IN_PROGRESS, since, most, wake_at=wake_at)


def _serving_without_memory(new: str, pods: Mapping[str, RevisionPods]) -> str | None:
    """The revision that serves although status was lost (a restore from a backup): the one with most ready pods."""
    serving = {revision: here.ready for revision, here in pods.items() if here.ready > 0 and revision != new}
    return max(serving, key=lambda revision: (serving[revision], revision)) if serving else None


def _progress(new: str, here: RevisionPods, memory: Memory, now: datetime) -> tuple[datetime, int]:
    """Since when there was no progress, and the most ready pods so far."""
    if memory.canary != new or memory.progress_since is None or here.ready > memory.canary_ready:
        return now, here.ready
    if memory.progress_since > now:  # another node's clock: no deadline may lie as far ahead as that one was
        return now, memory.canary_ready
    return memory.progress_since, memory.canary_ready


def _go_back(stable: str, replicas: int, pods: Mapping[str, RevisionPods]) -> Plan:
    return Plan(stable, None, _shift(stable, replicas, pods), Promotion.ROLLED_BACK, None)


def _shift(target: str, replicas: int, pods: Mapping[str, RevisionPods], fallback: str | None = None) -> dict[str, int]:
    """Pods for each revision so that `target` ends with all of them and no ready pod is given up too early.

    `fallback` (the stable revision while another takes over) is given what `target` does not serve yet, even if that
    means more than it has; every other revision only loses pods.
    """
    others = {revision: here for revision, here in pods.items() if revision != target}
    here = pods.get(target, ABSENT)
    if fallback is not None and others.get(fallback, ABSENT).ready == 0:
        # Stable serves nothing: no reason to go slowly, and if it holds what the new pods need, it gives way.
        plan = {target: replicas, fallback: 0 if here.is_blocked or here.ready > 0 else replicas}
    else:
        plan = {target: replicas}
        if fallback is not None:
            back = max(0, replicas - here.ready)
            surge = max(1, math.ceil(replicas * SURGE_SHARE))
            taken = max(back, sum(other.existing for other in others.values()))
            # Pods that exist stay: one that loses its readiness for a moment must not cost another one its start.
            plan = {target: min(replicas, max(0, here.existing, replicas + surge - taken)), fallback: back}
    ready = here.ready + (others[fallback].ready if fallback in others else 0)
    for revision, other in others.items():
        if revision == fallback:
            continue
        kept = min(other.wanted, max(0, replicas - ready))
        if kept or other.existing or other.wanted:
            plan[revision] = kept
        if kept:
            plan[target] = max(1, plan[target])  # it can't go before this one serves: waiting would be for ever
    return plan
