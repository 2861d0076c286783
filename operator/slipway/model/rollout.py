"""What a rollout is decided on, and what is decided: the values between observation and rendering.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from slipway.model.revision import Orders
from slipway.model.signals import Cause

NO_PROGRESS = "ProgressDeadlineExceeded"


class Promotion(StrEnum):
    """How far the spec's revision is; the reasons of condition Promoted."""

    PROMOTED = "Promoted"
    IN_PROGRESS = "InProgress"
    PAUSED = "Paused"
    ROLLED_BACK = "RolledBack"


@dataclass(frozen=True, slots=True)
class Step:
    """A share of the requests, held.

    pods: ready canary pods that it takes. hold_seconds: None: until a person resumes.
    is_pause: it waits at the weight that is there; nothing is judged to leave it.
    """

    weight_percent: int
    pods: int
    hold_seconds: int | None = 0
    is_pause: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What the spec asks for.

    content: names what it says about the served version's bytes (`content_hash`).
    workload: the one that carries the revision, or is to (`children.arrive`): the stable revision's for InPlace.
    bake_seconds: how long the old version stays loaded after a promotion in place or by steps.
    steps: those of a canary, the last one at weight 100; empty: traffic isn't split.
    is_exact: weights are split as wanted; False: as the pods make them.
    is_judged: a step ends by evidence. holds_on_inconclusive: the deadline of one without evidence does nothing.
    is_swap: one old pod makes room for each new one. is_rollback: a person's; nothing is judged.
    """

    revision: str
    content: str
    replicas: int
    deadline_seconds: int
    workload: str
    bake_seconds: int = 0
    steps: tuple[Step, ...] = ()
    is_exact: bool = True
    is_judged: bool = False
    holds_on_inconclusive: bool = False
    is_swap: bool = False
    is_rollback: bool = False


@dataclass(frozen=True, slots=True)
class Rejection:
    """A revision that failed with these bytes."""

    revision: str
    content: str


@dataclass(frozen=True, slots=True)
class RolloutState:
    """What earlier passes decided and no pass can observe; kept in status.

    stable: trusted: the shell leaves it out when that revision is not kept anywhere any more.
    canary_ready: the most ready pods that the canary ever had: losing and regaining one is no progress.
    bake_until: when the version before the stable one unloads. previous: that revision, where it has pods of its own.
    step_index: 0 while the canary prepares, then the number of its step. step_since: when that step's weight was in
    force first. weight_percent: what was asked for the canary last. is_paused, is_promote_requested: a person said
    pause, or promote. traffic_since: when the canary got its first weight; kept through its bake.
    """

    stable: str | None = None
    canary: str | None = None
    canary_ready: int = 0
    progress_since: datetime | None = None
    rejected: tuple[Rejection, ...] = ()
    bake_until: datetime | None = None
    previous: str | None = None
    step_index: int = 0
    step_since: datetime | None = None
    is_paused: bool = False
    is_promote_requested: bool = False
    weight_percent: int = 0
    traffic_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now.

    replicas: workload → pods wanted; those not named are pruned. orders: the same workloads → what they carry.
    weights: workload → percent of the requests, the same workloads at least; None: all ready pods share them.
    newly_rejected: set when this step gave a revision up; cause: why, where the pods themselves don't say it.
    waits_for: what the canary waits for, in words.
    wake_at: when to look again even if nothing happens; None: only when something does.
    turns_at: when time alone changes what is decided: a hold ends, a deadline passes, bake is over. None: it doesn't.
    """

    stable: str | None
    canary: str | None
    replicas: Mapping[str, int]
    orders: Mapping[str, Orders]
    promotion: Promotion
    progress_since: datetime | None = None
    canary_ready: int = 0
    newly_rejected: Rejection | None = None
    cause: Cause | None = None
    bake_until: datetime | None = None
    wake_at: datetime | None = None
    turns_at: datetime | None = None
    weights: Mapping[str, int] | None = None
    previous: str | None = None
    step_index: int = 0
    step_since: datetime | None = None
    is_paused: bool = False
    is_promote_requested: bool = False
    waits_for: str = ""
    traffic_since: datetime | None = None

    def orders_revision(self, workload: str) -> str | None:
        """The revision that a workload of the plan carries."""
        return self.orders[workload].revision if workload in self.orders else None
