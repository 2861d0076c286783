"""What one step of a rollout is decided on, and what follows from it at once.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto

from slipway.model.revision import Assignment
from slipway.model.rollout import Target
from slipway.model.rollout_state import Halt, HaltReason, Rejection, RolloutState
from slipway.model.signals import NO_EVIDENCE, GateState, Signals
from slipway.model.workload import ABSENT, Workload, serving_pods, workload_of


class Arrival(Enum):
    """How the target's revision arrives.

    KEPT: it is stable, or waits until another's bake is over. FIRST: nothing serves that it could be compared with.
    SET_BACK: it was stable before, and its pods are warm yet.
    """

    KEPT = auto()
    FIRST = auto()
    SET_BACK = auto()
    BY_STEPS = auto()
    IN_PLACE = auto()
    ROLLING = auto()


@dataclass(frozen=True, slots=True)
class StepInput:
    """The arguments of a step, and what follows from them at once.

    stable: the revision that serves. stable_workload: where its pods are, or are to be; None: nothing serves.
    is_split: requests are split between workloads; False: all ready pods share them.
    halt: why nothing advances now; the state's clocks are as if it had not been. is_new_halt: at the first look at it.
    was_stable_unavailable: at the look before, stable had no ready pod.
    """

    target: Target
    state: RolloutState
    workloads: Mapping[str, Workload]
    now: datetime
    stable: str | None
    stable_workload: str | None = None
    signals: Signals = field(default=NO_EVIDENCE)
    halt: Halt | None = None
    is_new_halt: bool = False
    was_stable_unavailable: bool = False

    @property
    def is_split(self) -> bool:
        """Where steps came while a revision was on its way in place, it arrives so; requests are split after that."""
        target = self.target
        return bool(target.steps) and (self.stable_workload != target.workload or self.stable == target.revision)

    @property
    def arrival(self) -> Arrival:
        """How the target's revision arrives."""
        target, previous = self.target, self.previous_workload
        if self.stable is None:
            return Arrival.FIRST
        if self.is_split and previous is not None and self.state.previous == target.revision:
            return Arrival.SET_BACK if self.workloads[previous].ready > 0 else Arrival.KEPT
        if self.stable == target.revision or (self.is_split and previous is not None):
            return Arrival.KEPT
        if self.is_split:
            return Arrival.BY_STEPS
        return Arrival.IN_PLACE if self.stable_workload == target.workload else Arrival.ROLLING

    @property
    def here(self) -> Workload:
        """The target's workload."""
        return self.workloads.get(self.target.workload, ABSENT)

    @property
    def is_carried(self) -> bool:
        """Whether the target's workload is there and carries its revision."""
        return self.target.workload in self.workloads and self.here.revision == self.target.revision

    @property
    def goes_at_once(self) -> bool:
        """In place: the spec is set back to what the workload still holds, or all its pods were told already."""
        here = self.here
        return here.turn is None if self.is_carried else here.replaces == self.target.revision

    @property
    def stable_here(self) -> Workload:
        """The stable revision's workload."""
        return self.workloads.get(self.stable_workload or "", ABSENT)

    @property
    def previous_workload(self) -> str | None:
        """Where the revision before the stable one is kept warm; None: none is, or it is time to let it go."""
        state = self.state
        if state.previous is None or state.bake_until is None or self.now >= state.bake_until:
            return None
        home = workload_of(state.previous, self.workloads)
        return home if home != self.stable_workload else None

    @property
    def was_stable_down(self) -> bool:
        """Stable had no ready pod when the target was asked for, and none since; pods were wanted all the while."""
        is_down = self.stable_here.ready == 0 and self.target.replicas > 0
        if self.state.canary == self.target.revision:
            return is_down and self.state.was_stable_down
        return is_down and (self.here.existing == 0 or self.state.was_stable_down)

    def is_halted_by(self, reason: HaltReason) -> bool:
        """Whether nothing advances, for that reason."""
        return self.halt is not None and self.halt.reason is reason

    @property
    def is_stable_unavailable(self) -> bool:
        """Whether nothing advances because stable has no ready pod; in bake that may be for want of room."""
        bakes = self.arrival is Arrival.KEPT and self.is_halted_by(HaltReason.WAITING_FOR_CAPACITY)
        return bakes or self.is_halted_by(HaltReason.STABLE_UNAVAILABLE)

    @property
    def is_last_look(self) -> bool:
        """Whether stable is ready again, which status doesn't tell yet: requests go back to it, and no more.

        Until it tells, what the routers were sent is no trace of a step (`catch_up`).
        """
        return self.was_stable_unavailable and self.halt is None and self.stable_here.ready > 0

    @property
    def is_diverted(self) -> bool:
        """Whether what stable can't answer goes to the workload beside it: to the canary, or in bake to the one before.

        From the second look on. A canary that hasn't begun its steps needs gates that are known to have passed.
        """
        if not self.is_stable_unavailable or not self.was_stable_unavailable:
            return False
        if self.arrival is Arrival.KEPT:
            return self.workloads.get(self.previous_workload or "", ABSENT).ready > 0
        is_proven = self.state.step_index > 0 or (self.has_passed_gates and not self.signals.gates.message)
        return self.is_carried and self.here.ready > 0 and is_proven

    @property
    def replaced_in_place(self) -> str | None:
        """What the stable revision replaced in its own pods, where it stays loaded through the bake; None: nothing.

        A person's abort that came in time counts though the bake ends in this very step.
        """
        until, is_aborted = self.state.bake_until, self.signals.abort is not None
        if until is None or self.state.previous is not None or (self.now >= until and not is_aborted):
            return None
        return self.stable_here.other_than(self.stable)

    @property
    def has_passed_gates(self) -> bool:
        """Whether the target's revision may get its first request."""
        return self.signals.gates.state is GateState.PASSED

    @property
    def server_error(self) -> str:
        """What all pods of the target's revision answer to their own request, a server error; empty: not all do.

        Where those of what serves do so, too, it isn't the revision's fault. What a person went back to isn't judged.
        """
        here, bakes = self.here, self.arrival is Arrival.KEPT
        if not self.is_carried or self.target.is_rollback:
            return ""
        other = self.workloads.get(self.previous_workload or "", ABSENT) if bakes else self.stable_here
        before = other.server_error if other is not here else ""
        in_place = any(each.server_error for each in here.members if not each.is_in_turn)
        return "" if before or in_place else here.server_error

    @property
    def is_paused(self) -> bool:
        """Whether a person paused the target's rollout."""
        return self.state.is_paused and self.state.canary == self.target.revision

    @property
    def rejection(self) -> Rejection:
        """What is remembered if the target is given up."""
        return Rejection(self.target.revision, self.target.content)

    @property
    def is_rejected(self) -> bool:
        """Whether the target was given up before."""
        return self.rejection in self.state.rejected

    @property
    def lasting(self) -> RolloutState:
        """What every step hands on: what only a person, the spec or other bytes forgive."""
        return RolloutState(rejected=self.state.rejected, pinned=self.state.pinned)


def progress_of(given: StepInput) -> tuple[datetime, int]:
    """Since when there was no progress, and the most pods so far that serve the new revision."""
    state, here, now = given.state, given.here, given.now
    served = serving_pods(here) if here.revision == given.target.revision else 0
    if state.canary != given.target.revision or state.progress_since is None or served > state.canary_ready:
        return now, served
    if state.progress_since > now:  # another node's clock: no deadline may lie as far ahead as that one was
        return now, state.canary_ready
    return state.progress_since, state.canary_ready


def former_of(given: StepInput) -> str | None:
    """What the target's ready pods served before they got these orders; while it is set, readiness says nothing."""
    here = given.here
    if here.revision == given.target.revision:
        return here.replaces
    return here.revision if here.ready else None


def back_in_place(given: StepInput) -> Assignment:
    """What the stable revision's workload carries when it gets everything back.

    What was stable until now, in the same pods, is named until status tells of the change: an operator that starts
    before that finds out by it where both are.
    """
    assert given.stable is not None
    here, until_now = given.stable_here, given.state.stable
    is_both = until_now not in (None, given.stable) and until_now in (here.revision, here.replaces)
    return Assignment(given.stable, until_now if is_both else None)


def assignments_for(
    replicas: Mapping[str, int], given: StepInput, decided: Mapping[str, Assignment]
) -> dict[str, Assignment]:
    """What each workload of the plan carries: as decided, else what it carries; the stable one's workload, stable."""
    assignments = {}
    for name in replicas:
        here = given.workloads.get(name, ABSENT)
        kept = given.stable if name == given.stable_workload and given.stable else here.revision
        assignments[name] = decided.get(name) or Assignment(kept or name)
    return assignments
