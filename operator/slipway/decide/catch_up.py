"""The state of an operator that ended between asking the routers for a weight and writing the status that tells of it.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from slipway.model.rollout import Step
from slipway.model.rollout_state import RolloutState
from slipway.model.workload import Workload


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
