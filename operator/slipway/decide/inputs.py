"""What a pass works with: the spec made whole, what earlier passes remember, a person's command, where pods would be.

    spec ─ versions found ─ what is held against them ─ state ─ command ─ revision and its workload ─ target

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from slipway.api import ModelDeployment
from slipway.api.status import ModelDeploymentStatus
from slipway.decide.analysis.settings import NOBODY, Judging, judging_of
from slipway.decide.catch_up import catch_up, recall_stable
from slipway.decide.commands import CommandOutcome, carry_out
from slipway.decide.discovery import known_stamps, known_versions, resolve_version
from slipway.decide.placement import Placement, place
from slipway.decide.steps import steps_name, steps_of
from slipway.decide.weights import provider_of
from slipway.model.revision import content_hash, hash_of, spec_of, user_choice
from slipway.model.rollout import Promotion, Step, Target
from slipway.model.rollout_state import Rejection, RolloutState, read_rejections, read_state
from slipway.model.signals import Command
from slipway.model.workload import ABSENT, workload_of
from slipway.observe.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Inputs:
    """What there is to work with.

    asked: the spec as it stands. deployment: with its served version in it. listed: the versions known to be there.
    stamps: version → name of its bytes at the source.
    steps: of the canary; with a person's rollback, the last one alone. judging: how what arrives is judged.
    """

    asked: ModelDeployment
    deployment: ModelDeployment
    listed: tuple[int, ...]
    stamps: Mapping[int, str | None]
    outcome: CommandOutcome
    steps: tuple[Step, ...]
    placement: Placement
    target: Target
    judging: Judging = NOBODY

    @property
    def state(self) -> RolloutState:
        """What is remembered, the command carried out."""
        return self.outcome.state


def gather_inputs(
    asked: ModelDeployment,
    snapshot: Snapshot,
    stored: ModelDeploymentStatus,
    found: Mapping[int, str | None],
    command: Command | None,
) -> Inputs:
    """All of it. found: version → name of its bytes, as an agent listed them last. command: not carried out yet."""
    listed = known_versions(asked, snapshot, stored, found)
    deployment = resolve_version(asked, snapshot, stored, listed)
    stamps = known_stamps(deployment, snapshot, found, stored.stable.revision if stored.stable else None)
    named = hash_of(user_choice(deployment.spec))
    held = still_rejected(stored, named, deployment.spec.model.version or 0, stamps)
    carried = {here.revision for here in snapshot.workloads.values()}
    steps = steps_of(deployment)
    state = read_state(stored, {*snapshot.revisions, *carried}, held)
    is_lost = not stored.phase
    state = recall_stable(state, snapshot.named_stable, snapshot.workloads, snapshot.revisions, named, is_lost=is_lost)
    state = _told_down(_hold_pause(state, stored, steps), stored)
    pinned = state.pinned
    going = pinned.revision if pinned is not None and pinned.instead_of == named else named
    is_new = command is not None and not is_lost  # else what it led to is what was sent
    state = catch_up(state, snapshot.routers.sent_weights, snapshot.workloads, steps, going, is_commanded=is_new)
    warm = _warm(state, snapshot)
    outcome = carry_out(
        command,
        state,
        named,
        snapshot.revisions,
        steps,
        warm=warm,
        is_refreshing=_is_refreshing(command, state, snapshot),
        is_lost=is_lost,
    )
    pinned = outcome.state.pinned
    placement = place(deployment, snapshot, stored, pinned.revision if pinned is not None else None)
    steps = steps if pinned is None else steps[-1:]
    judging = judging_of(deployment, _servers_beside(deployment, snapshot, outcome.state))
    return Inputs(
        asked=asked,
        deployment=deployment,
        listed=listed,
        stamps=stamps,
        outcome=outcome,
        steps=steps,
        placement=placement,
        target=_target(deployment, placement, steps, judging, is_rollback=pinned is not None),
        judging=judging,
    )


def _hold_pause(state: RolloutState, stored: ModelDeploymentStatus, steps: tuple[Step, ...]) -> RolloutState:
    """A canary at a pause whose steps were taken out of the spec waits on for a person: an edit is no resume."""
    promoted = stored.condition("Promoted")
    is_at_pause = promoted is not None and promoted.reason == Promotion.PAUSED.value
    is_cut_short = not steps and state.canary is not None and state.step_index > 0
    return replace(state, is_paused=True) if is_cut_short and is_at_pause else state


def _told_down(state: RolloutState, stored: ModelDeploymentStatus) -> RolloutState:
    """Before status tells of a canary, it tells whether stable served: an operator may have ended between both."""
    told = stored.stable is not None and stored.stable.ready_replicas == 0 and stored.phase != "ScaledToZero"
    return replace(state, was_stable_down=True) if told and stored.canary is None else state


def _is_refreshing(command: Command | None, state: RolloutState, snapshot: Snapshot) -> bool:
    """Whether pods of what serves are being replaced, or are to be by this very command, which an operator that ended
    had begun."""
    kept = snapshot.revisions.get(state.stable or state.canary or "")
    if kept is None or kept.refresh is None:
        return False
    return snapshot.pods_to_replace(kept) > 0 or (command is not None and kept.refresh.by == command.id)


def _warm(state: RolloutState, snapshot: Snapshot) -> str | None:
    """What is still warm of the revision before the stable one, while that bakes; None: nothing."""
    if state.previous is not None:
        here = snapshot.workloads.get(workload_of(state.previous, snapshot.workloads) or "", ABSENT)
        return state.previous if here.ready > 0 else None
    here = snapshot.workloads.get(workload_of(state.stable or "", snapshot.workloads) or "", ABSENT)
    return here.other_than(state.stable) if state.bake_until is not None else None


def still_rejected(
    stored: ModelDeploymentStatus, revision: str, version: int, stamps: Mapping[int, str | None]
) -> list[Rejection]:
    """What counts against revisions. Another one in the spec clears it, and so do other bytes at the source.

    What a person's rollback led to is remembered as long as the rollback stands. Bytes that no agent named when the
    revision was rejected have the name that they are given first.
    """
    stamp = stamps.get(version)
    pinned = stored.pinned.revision if stored.pinned is not None and stored.pinned.instead_of == revision else None
    return [
        replace(each, stamp=stamp) if each.revision == revision and each.stamp is None else each
        for each in read_rejections(stored)
        if (each.revision == revision and (stamp is None or each.stamp is None or stamp == each.stamp))
        or each.revision == pinned
    ]


def _servers_beside(deployment: ModelDeployment, snapshot: Snapshot, state: RolloutState) -> Iterator[str]:
    """The servers of the revisions that a canary, or what bakes, is compared with."""
    for name in (state.stable, state.previous):
        if name is not None and name in snapshot.revisions:
            yield spec_of(deployment, snapshot.revisions[name]).runtime.name


def _target(
    deployment: ModelDeployment, placement: Placement, steps: tuple[Step, ...], judging: Judging, *, is_rollback: bool
) -> Target:
    rollout = deployment.spec.rollout
    return Target(
        revision=placement.revision.hash,
        content=content_hash(deployment.spec),
        replicas=deployment.spec.replicas,
        deadline_seconds=rollout.progress_deadline_seconds,
        workload=placement.workload,
        bake_seconds=rollout.bake_seconds,
        steps=steps,
        is_exact=provider_of(deployment.spec).is_exact,
        is_judged=judging.is_enforced and not is_rollback,
        holds_on_inconclusive=judging.holds_on_inconclusive,
        is_swap=rollout.surge == "Swap",
        is_rollback=is_rollback,
        steps_name=steps_name(deployment) if steps else "",
        capacity_seconds=rollout.capacity_deadline_seconds,
    )
