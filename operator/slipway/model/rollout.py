"""What a rollout is to reach, and what is decided: the values between observation and rendering.

Invariant: replicas and assignments of a plan name the same workloads; values alone, `decide` makes them.
Must not import: anything but `model`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from slipway.model.revision import Assignment
from slipway.model.rollout_state import Rejection, RolloutState
from slipway.model.signals import Cause
from slipway.model.workload import Turn

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
    workload: the revision's, there or to be made (`decide.placement`): the stable revision's for InPlace.
    bake_seconds: how long the old version stays loaded after a promotion in place or by steps.
    steps: those of a canary, the last one at weight 100; empty: traffic isn't split.
    is_exact: requests are split by the desired weights; False: as the pods make them.
    is_judged: a step ends by evidence. holds_on_inconclusive: the deadline of one without evidence does nothing.
    is_swap: one old pod makes room for each new one. is_rollback: a person's; nothing is judged.
    steps_name: names the steps as the spec has them: other ones begin anew. capacity_seconds: how long it may wait for
    room; None: without an end.
    Fourteen fields: each is one setting of the spec.
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
    steps_name: str = ""
    capacity_seconds: int | None = None


class PromotionReason(StrEnum):
    """Why a revision became stable in this step. `decide.promotion` says when each holds."""

    FIRST = "First"
    SET_BACK = "SetBack"
    STEPS_DONE = "StepsDone"
    PERSON = "Person"
    LOADED_EVERYWHERE = "LoadedEverywhere"
    ROLLED_OVER = "RolledOver"
    STABLE_WAS_DOWN = "StableWasDown"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now.

    state: what to remember. replicas: workload → desired pods; those not named are pruned.
    assignments: the same workloads → their revisions.
    weights: workload → percent of the requests, the same workloads at least; None: all ready pods share them.
    promotion_reason: why `state.stable` became stable in this step; None: it was before.
    newly_rejected: set when this step gave a revision up; cause: why, where the pods themselves don't say it.
    waits_for: what the canary waits for, in words.
    wake_at: when to look again even if nothing happens; None: only when something does.
    turn: which pods of the canary's workload may take it up now; None: all, and none is held.
    turns_at: when time alone changes what is decided: a hold ends, a deadline passes, bake is over. None: it doesn't.
    """

    state: RolloutState
    replicas: Mapping[str, int]
    assignments: Mapping[str, Assignment]
    promotion: Promotion
    weights: Mapping[str, int] | None = None
    promotion_reason: PromotionReason | None = None
    newly_rejected: Rejection | None = None
    cause: Cause | None = None
    waits_for: str = ""
    wake_at: datetime | None = None
    turns_at: datetime | None = None
    turn: Turn | None = None

    def revision_on(self, workload: str) -> str | None:
        """The revision of a workload; None: it is not in the plan."""
        return self.assignments[workload].revision if workload in self.assignments else None
