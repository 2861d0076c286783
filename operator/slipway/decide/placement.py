"""How the revision that the spec asks for gets to its pods: in place, or in pods of its own.

Invariant: a revision that is kept is what it was when it was made; nothing here depends on today's defaults.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slipway.api import ModelDeployment
from slipway.api.status import ModelDeploymentStatus
from slipway.decide.steps import wants_split
from slipway.model.revision import (
    Json,
    Revision,
    carried_template,
    differs_in_version_only,
    hash_of,
    served_version,
    user_choice,
    ways_of_fetching,
)
from slipway.model.workload import CarrierPods, carrier_of
from slipway.observe.snapshot import Observed
from slipway.runtimes import RUNTIMES

NOT_ENOUGH_MEMORY = "NotEnoughMemory"
"""An agent's reason: the version does not fit beside those that serve."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """The revision and its carrier.

    carrier: the one that carries it or is to. rolls_because: it can't arrive in place although it would by the spec.
    """

    revision: Revision
    carrier: str
    rolls_because: str | None = None


def arrive(
    deployment: ModelDeployment,
    observed: Observed,
    stored: ModelDeploymentStatus,
    instead: str | None = None,
) -> Arrival:
    """The revision that the spec asks for, the kept one or a new one at the end of the history, and its carrier.

    instead: a kept revision that a person wants in the place of the spec's.
    """
    name = instead or hash_of(user_choice(deployment.spec))
    kept = observed.revisions.get(name)
    number = 1 + max((revision.number for revision in observed.revisions.values()), default=0)
    asked = kept or new_revision(deployment, number)
    carriers = observed.carriers
    stable = stored.stable.revision if stored.stable else None
    if name == stable and (home := carrier_of(name, carriers)):
        return Arrival(asked, home)
    canary = stored.canary.revision if stored.canary else None
    why = _why_it_rolls(asked, observed, stored)
    homes = {carrier for carrier in carriers if stable and carrier == carrier_of(stable, carriers)}
    carrying = [
        carrier for carrier, here in carriers.items() if here.revision == name and not (why and carrier in homes)
    ]
    if carrying:
        return Arrival(asked, max(carrying, key=lambda carrier: (carrier in homes, carriers[carrier].ready)), why)
    for holder in dict.fromkeys((canary, stable, *_waiting(observed))):
        carrier = carrier_of(holder, carriers) if holder else None
        former = observed.revisions.get(holder or "")
        if carrier is None or former is None or (why and carrier in homes):
            continue
        if _may_take_over(deployment, asked, kept, former):
            if kept is None:
                asked = new_revision(deployment, number, former)
            return Arrival(asked, carrier)
    return Arrival(asked, _free_name(name, carriers), why)


def new_revision(deployment: ModelDeployment, number: int, former: Revision | None = None) -> Revision:
    """The revision that the spec asks for now; its pod template is yet to be rendered.

    former: the revision whose carrier it takes over in place; its template stays then, to the letter.
    """
    choice = user_choice(deployment.spec)
    return Revision(
        hash=hash_of(choice),
        number=number,
        version=served_version(deployment.spec),
        choice=choice,
        fetching=ways_of_fetching(deployment.spec),
        template=former.template if former is not None else {},
    )


def _waiting(observed: Observed) -> list[str]:
    """Revisions whose pods wait to be told a version."""
    return [
        here.revision
        for here in observed.carriers.values()
        if here.revision in observed.revisions and observed.revisions[here.revision].version == 0
    ]


def _may_take_over(deployment: ModelDeployment, asked: Revision, kept: Revision | None, former: Revision) -> bool:
    """Whether `former`'s pods can go over to `asked` with nothing but other orders."""
    spec = deployment.spec
    if not differs_in_version_only(asked, former):
        return False
    if spec.storage is not None and spec.storage.image_volume:  # the version is a part of the pods
        return False
    if kept is not None and not _is_same_template(kept.template, former.template):
        return False
    if former.version == 0:
        return True
    gates = spec.rollout.gates
    if wants_split(deployment) or (spec.rollout.strategy is None and gates is not None and gates.golden is not None):
        return False  # what must be proven before it gets a request needs pods that get none
    return spec.rollout.strategy != "RollingUpdate" and RUNTIMES[spec.runtime.name].loads_hot


def _is_same_template(one: Json, other: Json) -> bool:
    """Whether two templates differ in nothing but the carriers that are written in them."""
    return carried_template(one, "", "") == carried_template(other, "", "")


def _why_it_rolls(asked: Revision, observed: Observed, stored: ModelDeploymentStatus) -> str | None:
    """Why the stable pods can't take the revision up: an agent found too little memory, now or in this rollout."""
    if stored.canary is not None and stored.canary.revision == asked.hash and stored.canary.rolls_because:
        return stored.canary.rolls_because
    for pod in observed.pods:
        if pod.is_ending or pod.report is None or observed.revision_of_pod(pod) != asked.hash:
            continue
        report = pod.report.version(asked.version)
        if report is not None and report.reason == NOT_ENOUGH_MEMORY and pod.report.serving is not None:
            return f"{report.reason}: {report.message}"
    return None


def _free_name(revision: str, carriers: Mapping[str, CarrierPods]) -> str:
    """The revision's own name, or another where a carrier of that name carries something else by now."""
    name, count = revision, 0
    while name in carriers and carriers[name].revision != revision:
        count += 1
        name = hash_of([revision, count])
    return name
