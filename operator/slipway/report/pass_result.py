"""What a pass found out, from which the status follows.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway.api import ModelDeployment, SpecError
from slipway.api.status import (
    ModelDeploymentStatus,
)
from slipway.decide.commands import CommandOutcome
from slipway.decide.discovery import listing_trouble, needs_agents_listing, of_same_place
from slipway.decide.inputs import Inputs
from slipway.decide.signals import Weighed
from slipway.decide.steps import unreachable_weights, wants_router
from slipway.model.names import MODEL_LABEL, router_label
from slipway.model.revision import Json
from slipway.model.rollout import Plan, Step
from slipway.model.signals import Verdict
from slipway.model.workload import ABSENT, Trouble, workload_of
from slipway.observe.service import ServiceTarget
from slipway.observe.snapshot import Snapshot
from slipway.render.desired import Rendered


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass found out, from which the status follows.

    revision, version: what the spec asks for.
    problem: why the spec can't be carried out (a spec error, a name taken by another's object); None when it can.
    plan: None exactly when there is a spec error. load: the versions that the agents of what serves were told to load.
    stamps: version → name of its bytes at the source, as far as known now.
    rolls_because: why the new revision can't arrive in place. listing: why versions can't be found.
    are_settled: every pod's agent agrees with its configuration, so the stored versions still hold.
    outcome: what a person's command came to. steps: of the canary.
    evidence: the accumulators to keep. service_target: what the Service reaches; None: requests aren't split.
    unreachable: which weights the provider can't make.
    """

    name: str
    generation: int
    replicas: int
    revision: str | None
    version: int
    problem: Trouble | None
    plan: Plan | None
    load: tuple[int, ...]
    listed: tuple[int, ...]
    are_settled: bool
    settled: str | None
    stamps: Mapping[int, str | None] = field(default_factory=dict)
    rolls_because: str | None = None
    listing: Trouble | None = None
    outcome: CommandOutcome | None = None
    steps: tuple[Step, ...] = ()
    verdict: Verdict | None = None
    evidence: Json | None = None
    service_target: ServiceTarget | None = None
    unreachable: str = ""


def judge_unreadable(body: Json, snapshot: Snapshot, stored: ModelDeploymentStatus, error: SpecError) -> PassResult:
    """With a spec that can't be carried out, what serves goes on as it is."""
    home = workload_of(stored.stable.revision, snapshot.workloads) if stored.stable else None
    stable = snapshot.workloads.get(home or "", ABSENT)
    replicas = (body.get("spec") or {}).get("replicas")
    return PassResult(
        name=body["metadata"]["name"],
        generation=int(body["metadata"].get("generation", 0)),
        replicas=stable.replicas if stored.stable else replicas if isinstance(replicas, int) else 1,
        revision=None,
        version=0,
        problem=Trouble(error.reason, error.message),
        plan=None,
        load=(),
        listed=tuple(stored.listed),
        are_settled=True,
        settled=stored.settled,
    )


def sum_up(
    inputs: Inputs,
    plan: Plan,
    rendered: Rendered,
    snapshot: Snapshot,
    weighed: Weighed,
    problem: Trouble | None,
    *,
    are_settled: bool,
    settled: str | None,
) -> PassResult:
    """What a pass that carried a plan out found out. settled: the hash of what agrees now."""
    asked, deployment, desired = inputs.asked, inputs.deployment, inputs.placement.revision
    shown = plan.state.stable or plan.state.canary or ""
    home = workload_of(shown, snapshot.workloads) or inputs.placement.workload
    tells_listed = needs_agents_listing(asked) and (
        shown in of_same_place(deployment, snapshot) or desired.version == 0
    )
    return PassResult(
        name=deployment.name,
        generation=deployment.generation,
        replicas=deployment.spec.replicas,
        revision=desired.hash,
        version=desired.version,
        problem=problem,
        plan=plan,
        load=rendered.load.get(home, ()),
        listed=inputs.listed if tells_listed else (),
        are_settled=are_settled,
        settled=settled,
        stamps=inputs.stamps,
        rolls_because=inputs.placement.rolls_because,
        listing=listing_trouble(asked, snapshot),
        outcome=inputs.outcome,
        steps=inputs.steps,
        verdict=weighed.verdict,
        evidence=weighed.evidence if plan.state.canary is not None or plan.state.previous is not None else None,
        service_target=rendered.service_target,
        unreachable=unreachable_weights(deployment) or _without_router(deployment, rendered),
    )


def _without_router(deployment: ModelDeployment, rendered: Rendered) -> str:
    """That there is no router where one is wanted, and how to look; empty when there is."""
    if not wants_router(deployment) or rendered.service_target.is_router:
        return ""
    return (
        "no router is in force yet, so requests reach pods directly; see them with: "
        f"kubectl get pods -l {MODEL_LABEL}={router_label(deployment.name)}"
    )
