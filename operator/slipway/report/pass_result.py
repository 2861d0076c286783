"""What a pass found out, from which the status follows.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipway.api import ModelDeployment, SpecError
from slipway.api.status import ModelDeploymentStatus
from slipway.decide.discovery import listing_trouble, needs_agents_listing, of_same_place
from slipway.decide.inputs import Inputs
from slipway.decide.steps import unreachable_weights, wants_router
from slipway.model.names import MODEL_LABEL, router_label
from slipway.model.revision import Json
from slipway.model.rollout import Plan
from slipway.model.signals import Signals
from slipway.model.workload import ABSENT, Trouble, workload_of
from slipway.observe.snapshot import Snapshot
from slipway.render.desired import Rendered


@dataclass(frozen=True, slots=True)
class CarriedOut:
    """A spec that can be read, and what a pass made of it.

    load: the versions that the agents of what serves were told to load. listing: why versions can't be found.
    unreachable: which weights the traffic provider can't make.
    """

    inputs: Inputs
    plan: Plan
    rendered: Rendered
    signals: Signals
    load: tuple[int, ...]
    listing: Trouble | None = None
    unreachable: str = ""

    @property
    def evidence(self) -> Json | None:
        """The accumulators to keep; None once nothing is judged any more."""
        state = self.plan.state
        return self.signals.accumulators if state.canary is not None or state.previous is not None else None


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass found out, from which the status follows.

    problem: why the spec can't be carried out (a spec error, a name taken by another's object); None when it can.
    are_settled: every pod's agent agrees with its configuration, so the stored versions still hold. settled: the hash
    of what agrees now. carried_out: None exactly when there is a spec error.
    """

    name: str
    generation: int
    replicas: int
    problem: Trouble | None
    listed: tuple[int, ...]
    are_settled: bool
    settled: str | None
    carried_out: CarriedOut | None = None

    @property
    def plan(self) -> Plan | None:
        """None exactly when there is a spec error."""
        return self.carried_out.plan if self.carried_out is not None else None

    @property
    def revision(self) -> str | None:
        """The one that the spec asks for; None with a spec error."""
        return self.carried_out.inputs.placement.revision.hash if self.carried_out is not None else None

    @property
    def version(self) -> int:
        """The one that the spec asks for; 0 while none is found, and with a spec error."""
        return self.carried_out.inputs.placement.revision.version if self.carried_out is not None else 0

    @property
    def listing(self) -> Trouble | None:
        """Why versions can't be found."""
        return self.carried_out.listing if self.carried_out is not None else None


def judge_unreadable(body: Json, snapshot: Snapshot, stored: ModelDeploymentStatus, error: SpecError) -> PassResult:
    """With a spec that can't be carried out, what serves goes on as it is."""
    home = workload_of(stored.stable.revision, snapshot.workloads) if stored.stable else None
    stable = snapshot.workloads.get(home or "", ABSENT)
    replicas = (body.get("spec") or {}).get("replicas")
    return PassResult(
        name=body["metadata"]["name"],
        generation=int(body["metadata"].get("generation", 0)),
        replicas=stable.replicas if stored.stable else replicas if isinstance(replicas, int) else 1,
        problem=Trouble(error.reason, error.message),
        listed=tuple(stored.listed),
        are_settled=True,
        settled=stored.settled,
    )


def sum_up(
    inputs: Inputs,
    plan: Plan,
    rendered: Rendered,
    snapshot: Snapshot,
    signals: Signals,
    *,
    problem: Trouble | None,
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
        problem=problem,
        listed=inputs.listed if tells_listed else (),
        are_settled=are_settled,
        settled=settled,
        carried_out=CarriedOut(
            inputs,
            plan,
            rendered,
            signals,
            load=rendered.load.get(home, ()),
            listing=listing_trouble(asked, snapshot),
            unreachable=unreachable_weights(deployment)
            or _without_router(deployment, rendered)
            or _by_path(deployment, plan, rendered),
        ),
    )


def _without_router(deployment: ModelDeployment, rendered: Rendered) -> str:
    """That there is no router where one is wanted, and how to look; empty when there is."""
    if not wants_router(deployment) or rendered.service_target.is_router:
        return ""
    return (
        "no router is in force yet, so requests reach pods directly; see them with: "
        f"kubectl get pods -l {MODEL_LABEL}={router_label(deployment.name)}"
    )


def _by_path(deployment: ModelDeployment, plan: Plan, rendered: Rendered) -> str:
    """That requests can't follow the weights, since what takes over answers on other paths; empty where they can."""
    apart = sorted(name for name in rendered.apart if plan.replicas.get(name) and name in plan.assignments)
    if not apart:
        return ""
    what = f"revision {plan.assignments[apart[0]].revision} answers on other paths than revision {plan.state.stable}"
    if wants_router(deployment):
        return f"{what}: each request goes to the one that answers its path, whatever the weight"
    return (
        f"{what}, and pods of both get all requests: those that a pod doesn't answer fail. "
        "Write spec.traffic.provider: Router"
    )
