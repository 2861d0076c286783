"""What status doesn't tell: the state of an operator that ended between asking the routers for a weight and writing it
down, and the stable revision of a ModelDeployment whose status was lost.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from slipway.model.revision import Revision
from slipway.model.rollout import Step
from slipway.model.rollout_state import HaltReason, RolloutState
from slipway.model.workload import Workload


def recall_stable(
    state: RolloutState,
    named: str | None,
    workloads: Mapping[str, Workload],
    revisions: Mapping[str, Revision],
    spec_revision: str,
    *,
    is_lost: bool,
) -> RolloutState:
    """The state with its stable revision, where status doesn't tell it.

    named: as Service `<name>` says. is_lost: there is no status at all (a restore). Where the Service names none, too,
    there was no rollout yet, or release 0.1 wrote it. Then the oldest revision that serves and isn't the spec's was
    stable: what is younger was on its way, and one that another was replacing in place is older than that.
    """
    if state.stable is not None:
        return state
    carried = {revision for here in workloads.values() for revision in (here.revision, here.replaces)}
    if named is not None and (named in revisions or named in carried):
        return replace(state, stable=named)
    if not is_lost:
        return state
    serving = {
        here.replaces or here.revision
        for here in workloads.values()
        if (here.ready > 0 or here.replaces) and (here.replaces or here.revision) != spec_revision
    }
    numbers = {revision: revisions[revision].number if revision in revisions else 0 for revision in serving}
    oldest = min(serving, key=lambda revision: (numbers[revision], revision), default=None)
    return replace(state, stable=oldest)


def catch_up(
    state: RolloutState,
    sent: Mapping[str, int],
    workloads: Mapping[str, Workload],
    steps: Sequence[Step],
    spec_revision: str,
    *,
    is_commanded: bool,
) -> RolloutState:
    """The state of an operator that asked for a weight and ended before status told of it.

    sent: workload → percent, as the routers were last configured. spec_revision: the one that is to take over. Without
    this a successor would take the weight back while it isn't in force everywhere, only to ask for it again. A command
    that status doesn't tell of yet will be carried out once more, on the step that status tells of; then only the
    weight counts.

        in status       sent      goes on
        another canary  25 %      in step 1, at 25 %, where that is the spec's revision
        no canary       25 %      in step 1, at 25 %
        step 1, 25 %    50 %      in step 2, at 50 %
        step 2, 50 %    0 %       in step 2: why it was taken back is found again
    """
    if state.stable is None:
        return state
    if state.halt is not None and state.halt.reason is HaltReason.STABLE_UNAVAILABLE:
        return state  # what was sent beyond the step's weight is what stable couldn't answer
    settled = (state.stable, state.previous)
    rising = {
        workloads[workload].revision: weight
        for workload, weight in sent.items()
        if weight and workload in workloads and workloads[workload].revision not in settled
    }
    if len(rising) != 1 or state.previous is not None:
        return state
    ((canary, weight),) = rising.items()
    if state.canary not in (None, canary):
        if canary != spec_revision:
            return state
        # What is remembered of another says nothing of this one.
        state = RolloutState(state.stable, rejected=state.rejected, pinned=state.pinned)
    if weight <= state.weight_percent:
        return state
    index = next((n for n, step in enumerate(steps, 1) if step.weight_percent >= weight), 0)
    if is_commanded or index <= state.step_index:
        return replace(state, canary=canary, weight_percent=weight)
    return replace(state, canary=canary, weight_percent=weight, step_index=index, step_since=None, progress_since=None)
