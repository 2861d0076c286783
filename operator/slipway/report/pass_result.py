"""What a pass found out, from which the status follows.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway.api import ModelDeployment, SpecError
from slipway.api.status import (
    ModelDeploymentStatus,
    Pinned,
    Rejected,
)
from slipway.decide.commands import Obeyed
from slipway.decide.discovery import listing_trouble, needs_agents_listing, of_same_place
from slipway.decide.inputs import Stock
from slipway.decide.signals import Weighed
from slipway.decide.steps import unreachable_weights, wants_router
from slipway.model.names import MODEL_LABEL, router_label
from slipway.model.revision import Json
from slipway.model.rollout import Plan, Step
from slipway.model.signals import Verdict
from slipway.model.workload import ABSENT, Trouble, carrier_of
from slipway.observe.service import Entry
from slipway.observe.snapshot import Observed
from slipway.render.desired import Rendered


@dataclass(frozen=True, slots=True)
class Judged:
    """What a pass found out, from which the status follows.

    revision, version: what the spec asks for.
    problem: why the spec can't be carried out (a spec error, a name taken by another's object); None when it can.
    plan: None exactly when there is a spec error. load: the versions that the agents of what serves were told to load.
    stamps: version → name of its bytes at the source, as far as known now.
    rolls_because: why the new revision can't arrive in place. listing: why versions can't be found.
    are_settled: every pod's agent agrees with its configuration, so the stored versions still hold.
    remembered: what is still held against revisions. obeyed: what a person's command came to. steps: of the canary.
    evidence: the accumulators to keep. entry: what the Service reaches; None: requests aren't split.
    unreachable: which weights the provider can't make. pinned: a person's rollback that stands.
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
    remembered: tuple[Rejected, ...] = ()
    obeyed: Obeyed | None = None
    steps: tuple[Step, ...] = ()
    verdict: Verdict | None = None
    evidence: Json | None = None
    entry: Entry | None = None
    unreachable: str = ""
    pinned: Pinned | None = None


def judge_unreadable(body: Json, observed: Observed, stored: ModelDeploymentStatus, error: SpecError) -> Judged:
    """With a spec that can't be carried out, what serves goes on as it is."""
    home = carrier_of(stored.stable.revision, observed.carriers) if stored.stable else None
    stable = observed.carriers.get(home or "", ABSENT)
    replicas = (body.get("spec") or {}).get("replicas")
    return Judged(
        name=body["metadata"]["name"],
        generation=int(body["metadata"].get("generation", 0)),
        replicas=stable.wanted if stored.stable else replicas if isinstance(replicas, int) else 1,
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
    stock: Stock,
    plan: Plan,
    rendered: Rendered,
    observed: Observed,
    weighed: Weighed,
    problem: Trouble | None,
    *,
    are_settled: bool,
    settled: str | None,
) -> Judged:
    """What a pass that carried a plan out found out. settled: the hash of what agrees now."""
    asked, deployment, desired = stock.asked, stock.deployment, stock.arrival.revision
    shown = plan.stable or plan.canary or ""
    home = carrier_of(shown, observed.carriers) or stock.arrival.carrier
    tells_listed = needs_agents_listing(asked) and (
        shown in of_same_place(deployment, observed) or desired.version == 0
    )
    return Judged(
        name=deployment.name,
        generation=deployment.generation,
        replicas=deployment.spec.replicas,
        revision=desired.hash,
        version=desired.version,
        problem=problem,
        plan=plan,
        load=rendered.load.get(home, ()),
        listed=stock.listed if tells_listed else (),
        are_settled=are_settled,
        settled=settled,
        stamps=stock.stamps,
        rolls_because=stock.arrival.rolls_because,
        listing=listing_trouble(asked, observed),
        remembered=stock.remembered,
        obeyed=stock.obeyed,
        steps=stock.steps,
        verdict=weighed.verdict,
        evidence=weighed.evidence if plan.canary is not None or plan.previous is not None else None,
        entry=rendered.entry,
        unreachable=unreachable_weights(deployment) or _without_router(deployment, rendered),
        pinned=stock.obeyed.pinned,
    )


def _without_router(deployment: ModelDeployment, rendered: Rendered) -> str:
    """That there is no router where one is wanted, and how to look; empty when there is."""
    if not wants_router(deployment) or rendered.entry.is_router:
        return ""
    return (
        "no router is in force yet, so requests reach pods directly; see them with: "
        f"kubectl get pods -l {MODEL_LABEL}={router_label(deployment.name)}"
    )
