"""What a pass works with: the spec made whole, what earlier passes remember, a person's command, where pods would be.

    spec ─ versions found ─ what is held against them ─ state ─ command ─ revision and its workload ─ target

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slipway.api import ModelDeployment
from slipway.api.status import ModelDeploymentStatus, Rejected, read_time
from slipway.decide.canary import catch_up
from slipway.decide.commands import CommandOutcome, carry_out
from slipway.decide.discovery import known_stamps, known_versions, resolve_version
from slipway.decide.placement import Placement, place
from slipway.decide.steps import steps_of
from slipway.decide.weights import provider_of
from slipway.model.revision import content_hash, hash_of, user_choice
from slipway.model.rollout import Rejection, RolloutState, Step, Target
from slipway.model.signals import Command
from slipway.model.workload import ABSENT, workload_of
from slipway.observe.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Inputs:
    """What there is to work with.

    asked: the spec as it stands. deployment: with its served version in it. listed: the versions known to be there.
    stamps: version → name of its bytes at the source. remembered: what is held against revisions.
    steps: of the canary; with a person's rollback, the last one alone.
    """

    asked: ModelDeployment
    deployment: ModelDeployment
    listed: tuple[int, ...]
    stamps: Mapping[int, str | None]
    remembered: tuple[Rejected, ...]
    outcome: CommandOutcome
    steps: tuple[Step, ...]
    placement: Placement
    target: Target

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
    pinned = stored.pinned
    going = pinned.revision if pinned is not None and pinned.instead_of == named else named
    state = catch_up(state, snapshot.sent_weights, snapshot.workloads, steps, going, is_commanded=command is not None)
    warm = snapshot.workloads.get(workload_of(state.previous or "", snapshot.workloads) or "", ABSENT)
    outcome = carry_out(command, state, stored.pinned, named, snapshot.revisions, steps, is_warm=warm.ready > 0)
    pinned = outcome.pinned
    placement = place(deployment, snapshot, stored, pinned.revision if pinned is not None else None)
    steps = steps if pinned is None else steps[-1:]
    return Inputs(
        asked=asked,
        deployment=deployment,
        listed=listed,
        stamps=stamps,
        remembered=tuple(each for each in held if _is_held(each, outcome.state)),
        outcome=outcome,
        steps=steps,
        placement=placement,
        target=_target(deployment, placement, steps, is_rollback=pinned is not None),
    )


def still_rejected(
    stored: ModelDeploymentStatus, revision: str, version: int, stamps: Mapping[int, str | None]
) -> list[Rejected]:
    """What is remembered against a revision. Another one in the spec clears it, and so do other bytes at the source.

    What a person's rollback led to is remembered as long as the rollback stands. Bytes that no agent named when the
    revision was rejected have the name that they are given first.
    """
    stamp = stamps.get(version)
    pinned = stored.pinned.revision if stored.pinned is not None and stored.pinned.instead_of == revision else None
    return [
        entry.model_copy(update={"stamp": stamp}) if entry.revision == revision and entry.stamp is None else entry
        for entry in stored.rejected
        if (entry.revision == revision and (stamp is None or entry.stamp is None or stamp == entry.stamp))
        or entry.revision == pinned
    ]


def read_state(stored: ModelDeploymentStatus, kept: Iterable[str], rejected: Iterable[Rejected]) -> RolloutState:
    """What the stored status remembers. `kept`: revisions that still have a ControllerRevision or a Deployment."""
    known = set(kept)
    stable = stored.stable.revision if stored.stable and stored.stable.revision in known else None
    return RolloutState(
        stable=stable,
        canary=stored.canary.revision if stored.canary else None,
        canary_ready=stored.progress_ready,
        progress_since=read_time(stored.progress_since),
        traffic_since=read_time(stored.traffic_since),
        rejected=tuple(Rejection(entry.revision, entry.content) for entry in rejected),
        bake_until=read_time(stored.bake_until),
        previous=stored.previous.revision if stored.previous and stored.previous.revision in known else None,
        step_index=stored.step.index if stored.step else 0,
        step_since=read_time(stored.step.since) if stored.step else None,
        is_paused=stored.step.paused if stored.step else False,
        is_promote_requested=stored.step.promote_requested if stored.step else False,
        weight_percent=(stored.canary.weight_percent or 0) if stored.canary else 0,
    )


def _target(deployment: ModelDeployment, placement: Placement, steps: tuple[Step, ...], *, is_rollback: bool) -> Target:
    rollout = deployment.spec.rollout
    analysis = rollout.analysis
    return Target(
        revision=placement.revision.hash,
        content=content_hash(deployment.spec),
        replicas=deployment.spec.replicas,
        deadline_seconds=rollout.progress_deadline_seconds,
        workload=placement.workload,
        bake_seconds=rollout.bake_seconds,
        steps=steps,
        is_exact=provider_of(deployment.spec).is_exact,
        is_judged=analysis is not None and analysis.mode == "Enforce" and not is_rollback,
        holds_on_inconclusive=analysis is not None and analysis.on_inconclusive == "Hold",
        is_swap=rollout.surge == "Swap",
        is_rollback=is_rollback,
    )


def _is_held(entry: Rejected, state: RolloutState) -> bool:
    """Whether no command has forgiven it."""
    return any((each.revision, each.content) == (entry.revision, entry.content) for each in state.rejected)
