"""What a rollout remembers, and how it stands in status.

Invariant: read_state and write_state are each other's inverse, but for what isn't kept any more; what can't be read is
absent.
Must not import: anything but `api` and `model`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from slipway.api.status import HaltStatus, ModelDeploymentStatus, Pinned, Rejected, StepStatus, read_time, write_time

MAX_REJECTED = 10
"""As many fit into status; the newest stay."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A revision that failed with these bytes. Two of them are one if revision and content are.

    reason, message: why, for a person. at: when, as status writes times; empty in the step that rejects.
    stamp: the name of its bytes at their source; None while no agent has named them.
    """

    revision: str
    content: str
    reason: str = field(default="", compare=False)
    message: str = field(default="", compare=False)
    at: str = field(default="", compare=False)
    stamp: str | None = field(default=None, compare=False)


class HaltReason(StrEnum):
    """Why a rollout stands still: nothing of it is the new revision's fault. `decide.halt` says when each holds."""

    SCALED_TO_ZERO = "ScaledToZero"
    STABLE_UNAVAILABLE = "StableUnavailable"
    WAITING_FOR_CAPACITY = "WaitingForCapacity"
    OUT_OF_CAPACITY = "OutOfCapacity"
    ROUTERS_UNAVAILABLE = "RoutersUnavailable"


@dataclass(frozen=True, slots=True)
class Halt:
    """A rollout stands still since then. Its clocks (deadline, hold, bake) do, too: `RolloutState.without_halt`."""

    reason: HaltReason
    since: datetime


@dataclass(frozen=True, slots=True)
class RolloutState:
    """What a rollout remembers: what earlier passes decided and no pass can observe.

    Read from status by `read_state` alone, written there by `write_state` alone; `decide.rollout.step` returns it anew,
    in the plan. The accumulators of the analysis are no part of it: they are what was counted, not what was decided.

    stable: None as well if that revision is not kept anywhere any more.
    canary_ready: the most ready pods that the canary ever had: losing and regaining one is no progress.
    bake_until: when the version before the stable one unloads. previous: that revision, where it has pods of its own.
    step_index: 0 while the canary prepares, then the number of its step. step_since: when that step's weight was in
    force first. weight_percent: what was last sent to the routers for the canary. is_paused, is_promote_requested: a
    person said pause, or promote. traffic_since: when the canary got its first weight; kept through its bake.
    pinned: a person's rollback that stands.
    halt: why nothing advances now; None: it does. was_stable_down: stable had no ready pod when the canary was asked
    for, and none since. ends_before: pod uid → how often its server had ended before the canary got its first request,
    in place before it was asked for; None: not yet. steps: which steps the canary goes through (`Target.steps_name`);
    empty: not known.
    Eighteen fields: they are the columns of the status, and each is read and changed on its own.
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
    pinned: Pinned | None = None
    halt: Halt | None = None
    was_stable_down: bool = False
    ends_before: Mapping[str, int] | None = None
    steps: str = ""

    def without_halt(self, now: datetime) -> RolloutState:
        """As if the time of the halt had not passed: its clocks are that much later."""
        if self.halt is None or self.halt.since >= now:
            return replace(self, halt=None)
        passed = now - self.halt.since
        late = {name: at + passed for name in CLOCKS if (at := getattr(self, name)) is not None}
        return replace(self, halt=None, **late)


CLOCKS = ("progress_since", "step_since", "bake_until")
"""The fields of a state that say when something is over."""


def read_state(stored: ModelDeploymentStatus, kept: Iterable[str], rejected: Iterable[Rejection]) -> RolloutState:
    """What the stored status remembers. kept: revisions that still have a ControllerRevision or a Deployment.

    rejected: of those in status (`read_rejections`), the ones that still count.
    """
    known = set(kept)
    step = stored.step or StepStatus()
    return RolloutState(
        stable=stored.stable.revision if stored.stable and stored.stable.revision in known else None,
        canary=stored.canary.revision if stored.canary else None,
        canary_ready=stored.progress_ready,
        progress_since=read_time(stored.progress_since),
        traffic_since=read_time(stored.traffic_since),
        rejected=tuple(rejected),
        bake_until=read_time(stored.bake_until),
        previous=stored.previous.revision if stored.previous and stored.previous.revision in known else None,
        step_index=step.index,
        step_since=read_time(step.since),
        is_paused=step.paused,
        is_promote_requested=step.promote_requested,
        weight_percent=_weight_of(stored, step),
        pinned=stored.pinned,
        halt=_read_halt(stored.halt),
        was_stable_down=step.was_stable_down,
        ends_before=stored.ends_before,
        steps=step.steps,
    )


def _weight_of(stored: ModelDeploymentStatus, step: StepStatus) -> int:
    """Of the canary. While stable is down it has more in force than its step gives it. 0.1 wrote one of them alone."""
    if step.weight_percent is not None:
        return step.weight_percent
    return (stored.canary.weight_percent or 0) if stored.canary else 0


def _read_halt(stored: HaltStatus | None) -> Halt | None:
    since = read_time(stored.since) if stored is not None else None
    if stored is None or since is None or stored.reason not in set(HaltReason):
        return None
    return Halt(HaltReason(stored.reason), since)


def read_rejections(stored: ModelDeploymentStatus) -> tuple[Rejection, ...]:
    """All that status holds against revisions, the oldest first."""
    return tuple(
        Rejection(
            revision=each.revision,
            content=each.content,
            reason=each.reason,
            message=each.message,
            at=each.at,
            stamp=each.stamp,
        )
        for each in stored.rejected
    )


def write_state(state: RolloutState, stored: ModelDeploymentStatus) -> dict[str, Any]:
    """The fields of ModelDeploymentStatus that are this state's alone. stored: the status before.

    The revisions' own part (stable, canary with its weight, previous) is written with what is observed of them.
    """
    since = stored.step.since if stored.step is not None else None
    halt = state.halt
    return {
        "progress_since": kept_time(state.progress_since, stored.progress_since),
        "progress_ready": state.canary_ready,
        "traffic_since": kept_time(state.traffic_since, stored.traffic_since),
        "bake_until": kept_time(state.bake_until, stored.bake_until),
        "pinned": state.pinned,
        "halt": HaltStatus(reason=halt.reason.value, since=write_time(halt.since)) if halt is not None else None,
        "ends_before": None if state.ends_before is None else dict(state.ends_before),
        "step": StepStatus(
            index=state.step_index,
            since=kept_time(state.step_since, since),
            paused=state.is_paused,
            promote_requested=state.is_promote_requested,
            weight_percent=state.weight_percent,
            was_stable_down=state.was_stable_down,
            steps=state.steps,
        ),
        "rejected": [
            Rejected(
                revision=each.revision,
                content=each.content,
                reason=each.reason,
                message=each.message,
                at=each.at,
                stamp=each.stamp,
            )
            for each in state.rejected[-MAX_REJECTED:]
        ],
    }


def kept_time(moment: datetime | None, text: str | None) -> str | None:
    """The stored text where it dates the same moment: what is written once is not written otherwise."""
    if moment is None:
        return None
    return text if read_time(text) == moment else write_time(moment)
